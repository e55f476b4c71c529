/*
 * State files: "outrigger-agent <name> <version>\n", then the contents.
 */
#include "agent/state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"

static int write_all(int fd, const void *data, size_t len)
{
	const uint8_t *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

static int header_format(const char *name, unsigned version, char header[static 128])
{
	return snprintf(header, 128, "outrigger-agent %.80s %u\n", name, version);
}

static int write_file(const char *path, const char *name, unsigned version, const void *data, size_t len, mode_t mode)
{
	CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
	char header[128];
	int n = header_format(name, version, header);
	int r;

	if (fd < 0)
		return -errno;
	r = write_all(fd, header, (size_t)n);
	if (r == 0)
		r = write_all(fd, data, len);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	return r;
}

int state_save(const char *dir, const char *name, unsigned version, const void *data, size_t len, mode_t mode)
{
	char path[PATH_MAX], temporary[PATH_MAX];
	int r;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path) ||
	    (size_t)snprintf(temporary, sizeof(temporary), "%s/%s.new", dir, name) >= sizeof(temporary))
		return -ENAMETOOLONG;
	r = write_file(temporary, name, version, data, len, mode);
	if (r == 0 && rename(temporary, path) < 0)
		r = -errno;
	if (r < 0)
		unlink(temporary);
	return r;
}

void state_note(bool *unsaved, const char *name, const char *without, int r)
{
	if (r < 0 && !*unsaved)
		log_error("a state file cannot be written, which is tried again", log_str("file", name), log_str("without_it", without), log_errno(r));
	else if (r >= 0 && *unsaved)
		log_info("a state file is written again", log_str("file", name));
	*unsaved = r < 0;
}

static int read_file(const char *path, char **ret_data, size_t *ret_len)
{
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	CLEANUP_FREE char *data = NULL;
	struct stat st;
	size_t len = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size > STATE_MAX_LEN)
		return -EFBIG;
	data = malloc((size_t)st.st_size + 1);
	if (!data)
		return -ENOMEM;
	while (len < (size_t)st.st_size) {
		ssize_t n = read(fd, data + len, (size_t)st.st_size - len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		len += (size_t)n;
	}
	data[len] = 0;
	*ret_data = steal_ptr(&data);
	*ret_len = len;
	return 0;
}

/* @found: what stands behind the file's name in its first line. */
static int refuse(const char *path, const char *found, unsigned version)
{
	char text[16];

	snprintf(text, sizeof(text), "%.*s", (int)strcspn(found, "\n"), found);
	log_warn("a state file is of another version and is not used: the controller tells its contents again, or go back to the program that wrote it",
		 log_str("file", path), log_str("its_version", text), log_int("known_version", version));
	return -EPROTONOSUPPORT;
}

int state_load(const char *dir, const char *name, unsigned version, void **ret_data, size_t *ret_len)
{
	char path[PATH_MAX], header[128], kind[100];
	CLEANUP_FREE char *data = NULL;
	size_t len = 0;
	int n, r;

	if ((size_t)snprintf(path, sizeof(path), "%s/%s", dir, name) >= sizeof(path))
		return -ENAMETOOLONG;
	r = read_file(path, &data, &len);
	if (r < 0)
		return r;
	n = header_format(name, version, header);
	if (len < (size_t)n || memcmp(data, header, (size_t)n)) {
		snprintf(kind, sizeof(kind), "outrigger-agent %.80s ", name);
		return strncmp(data, kind, strlen(kind)) ? -EBADMSG : refuse(path, data + strlen(kind), version);
	}
	len -= (size_t)n;
	memmove(data, data + n, len + 1);
	*ret_data = steal_ptr(&data);
	*ret_len = len;
	return 0;
}

/*
 * The file of the last configuration.
 */
#include "proxy/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { STATE_MAX = 256 * 1024 * 1024 };

static int fail(struct diag *d, const char *what, const char *path)
{
	int r = -errno;

	diag_set(d, "%s %s: %s", what, path, strerror(-r));
	return r;
}

static int read_all(const char *path, struct bytes *out, struct diag *d)
{
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? 0 : fail(d, "cannot read", path);
	if (fstat(fd, &st) < 0)
		return fail(d, "cannot read", path);
	if (!S_ISREG(st.st_mode) || st.st_size > STATE_MAX)
		return diag_set(d, "%s is not a file of ours", path);
	while (out->len < (size_t)st.st_size) {
		size_t want = (size_t)st.st_size - out->len;
		uint8_t *to = bytes_reserve(out, want);
		ssize_t n = to ? read(fd, to, want) : -1;

		if (!to)
			return -ENOMEM;
		if (n < 0)
			return fail(d, "cannot read", path);
		if (!n)
			break;
		bytes_commit(out, (size_t)n);
	}
	return 0;
}

int state_file_open(struct state_file *f, const char *dir, const char *group, struct knowledge *k, struct diag *reterr_diag)
{
	struct bytes in;
	char *path;
	int r;

	if (!*dir) {
		state_file_close(f);
		return 0;
	}
	if (asprintf(&path, "%s/%s.mesh", dir, group) < 0)
		return -ENOMEM;
	if (f->path && !strcmp(f->path, path)) {
		free(path);
		return 0;
	}
	free(f->path);
	f->path = path;
	bytes_init(&in, STATE_MAX);
	r = read_all(path, &in, reterr_diag);
	if (r == 0 && in.len)
		r = knowledge_load(k, in.data, in.len, reterr_diag);
	bytes_deinit(&in);
	f->generation = knowledge_generation(k);
	return r;
}

static int write_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len);

		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

static int replace(const char *path, const struct bytes *content, struct diag *d)
{
	CLEANUP_FREE char *tmp = NULL;
	int r;

	if (asprintf(&tmp, "%s.new", path) < 0) {
		tmp = NULL;
		return -ENOMEM;
	}

	CLEANUP_FD int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return fail(d, "cannot write", tmp);
	r = write_all(fd, content->data, content->len);
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	if (r < 0) {
		diag_set(d, "cannot write %s: %s", tmp, strerror(-r));
		unlink(tmp);
		return r;
	}
	return rename(tmp, path) < 0 ? fail(d, "cannot rename to", path) : 0;
}

int state_file_save(struct state_file *f, const struct knowledge *k, struct diag *reterr_diag)
{
	struct bytes out;
	int r;

	if (!f->path || f->generation == knowledge_generation(k))
		return 0;
	bytes_init(&out, STATE_MAX);
	r = knowledge_save(k, &out);
	if (r == 0)
		r = replace(f->path, &out, reterr_diag);
	else
		diag_set(reterr_diag, "the configuration cannot be kept: %s", strerror(-r));
	bytes_deinit(&out);
	f->generation = knowledge_generation(k);	/* tried, at least: the next change tries again */
	return r;
}

void state_file_close(struct state_file *f)
{
	free(f->path);
	*f = (struct state_file){};
}

/*
 * Folders, and files that are replaced as a whole.
 */
#include "ctl/envoy_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static const char *const memory_places[] = { "/dev/shm", "/run", "/tmp" };

int envoy_dir_open(struct envoy_dir *d, const char *path, struct diag *reterr_diag)
{
	char *real;
	int r;

	*d = (struct envoy_dir){ .fd = -1 };
	if (mkdir(path, 0700) < 0 && errno != EEXIST) {
		r = -errno;
		diag_at(reterr_diag, path, 0, "cannot make the folder: %s", strerror(-r));
		return r;
	}
	real = realpath(path, NULL);		/* Envoy may run elsewhere */
	r = real ? 0 : -errno;
	if (r == 0 && strlen(real) >= sizeof(d->path))
		r = -ENAMETOOLONG;
	if (r == 0) {
		memcpy(d->path, real, strlen(real) + 1);
		d->fd = open(real, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		r = d->fd < 0 ? -errno : 0;
	}
	if (r < 0)
		diag_at(reterr_diag, path, 0, "cannot open the folder: %s", strerror(-r));
	free(real);
	return r;
}

int envoy_dir_open_memory(struct envoy_dir *d)
{
	*d = (struct envoy_dir){ .fd = -1 };
	for (size_t i = 0; i < ELEMENTS(memory_places); i++) {
		struct statfs fs;

		if (statfs(memory_places[i], &fs) < 0 || fs.f_type != TMPFS_MAGIC)
			continue;
		snprintf(d->path, sizeof(d->path), "%s/outrigger-envoy-XXXXXX", memory_places[i]);
		if (!mkdtemp(d->path))
			continue;
		d->temporary = true;
		d->fd = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (d->fd >= 0)
			return 0;
		rmdir(d->path);
	}
	*d = (struct envoy_dir){ .fd = -1 };
	return -ENOTSUP;
}

static void remove_files(int fd)
{
	DIR *dir = fdopendir(dup(fd));
	const struct dirent *e;

	if (!dir)
		return;
	rewinddir(dir);
	while ((e = readdir(dir)))
		if (e->d_type == DT_REG)
			unlinkat(fd, e->d_name, 0);
	closedir(dir);
}

void envoy_dir_close(struct envoy_dir *d)
{
	if (d->fd >= 0 && d->temporary) {
		remove_files(d->fd);
		rmdir(d->path);
	}
	d->fd = close_fd(d->fd);
}

static int write_text(int dir_fd, const char *name, const char *text)
{
	CLEANUP_FD int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	size_t left = strlen(text);

	if (fd < 0)
		return -errno;
	while (left) {
		ssize_t n = write(fd, text, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		left -= (size_t)n;
	}
	return 0;
}

int envoy_dir_write(struct envoy_dir *d, const char *name, const char *text, struct diag *reterr_diag)
{
	char fresh[64];
	int r;

	snprintf(fresh, sizeof(fresh), ".%s.new", name);
	r = write_text(d->fd, fresh, text);
	if (r == 0 && renameat(d->fd, fresh, d->fd, name) < 0)
		r = -errno;
	if (r < 0) {
		unlinkat(d->fd, fresh, 0);
		diag_at(reterr_diag, d->path, 0, "cannot write %s: %s", name, strerror(-r));
	}
	return r;
}

int envoy_dir_write_json(struct envoy_dir *d, const char *name, json_t *json, struct diag *reterr_diag)
{
	char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
	int r = text ? envoy_dir_write(d, name, text, reterr_diag) : -ENOMEM;

	if (!text)
		diag_set(reterr_diag, "out of memory");
	else
		explicit_bzero(text, strlen(text));
	free(text);
	json_decref(json);
	return r;
}

void envoy_dir_remove(struct envoy_dir *d, const char *name)
{
	if (d->fd >= 0)
		unlinkat(d->fd, name, 0);
}

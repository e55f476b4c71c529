/*
 * The folders of isolation groups.
 *
 * The monitor has neither the right to give files away nor to pass by their
 * modes, and needs none: what the child makes while it is root and has the
 * group's gid is root's and the group's. Removing files from a folder takes
 * the folder only.
 */
#include "agent/monitor_folders.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"

enum { MODE = 0775 };	/* others: the worker, and who else gets past the folder above */

static int path_of(const char *dir, const char *group, char path[static PATH_MAX])
{
	return (size_t)snprintf(path, PATH_MAX, "%s/%s", dir, group) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* Files only: a proxy has no reason to make a folder in it. */
static int clear(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;

	if (!d)
		return -errno;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			(void)unlinkat(dirfd(d), e->d_name, 0);
	closedir(d);
	return rmdir(path) < 0 ? -errno : 0;
}

/* Of another user of the group's, who may have filled it with what root without rights cannot remove. */
static int put_away(const char *dir, const char *path)
{
	char aside[PATH_MAX];

	if (clear(path) == 0)
		return 0;
	if ((size_t)snprintf(aside, sizeof(aside), "%s/.old-%llu", dir, (unsigned long long)clock_mono_ns()) >= sizeof(aside))
		return -ENAMETOOLONG;
	return rename(path, aside) < 0 ? -errno : 0;
}

/* Names of processes that ended while no monitor was there to see it. What begins with no pid, or one that is in use, is left. */
static void sweep(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;

	if (!d)
		return;
	while ((e = readdir(d))) {
		char *end;
		long pid = strtol(e->d_name, &end, 10);

		if (*end == '.' && pid > 1 && pid <= INT_MAX && kill((pid_t)pid, 0) < 0 && errno == ESRCH)
			(void)unlinkat(dirfd(d), e->d_name, 0);
	}
	closedir(d);
}

int monitor_folder_make(const char *dir, const char *group, gid_t gid)
{
	char path[PATH_MAX];
	struct stat st;
	int r;

	if (!*dir)
		return 0;
	r = path_of(dir, group, path);
	if (r == 0 && lstat(path, &st) == 0) {
		if (S_ISDIR(st.st_mode) && st.st_uid == 0 && st.st_gid == gid && (st.st_mode & 07777) == MODE) {
			sweep(path);
			return 0;
		}
		r = put_away(dir, path);
	}
	if (r < 0)
		return r;
	return mkdir(path, 0700) < 0 || chmod(path, MODE) < 0 ? -errno : 0;
}

void monitor_folder_remove(const char *dir, const char *group)
{
	char path[PATH_MAX];

	if (*dir && path_of(dir, group, path) == 0)
		(void)clear(path);
}

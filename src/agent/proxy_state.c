/*
 * Opening and removing the files of last configurations.
 */
#include "agent/proxy_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int path_of(const char *dir, const char *group, size_t i, char path[static PATH_MAX])
{
	return (size_t)snprintf(path, PATH_MAX, "%s/%s.%zu", dir, group, i) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

int proxy_state_open(const char *dir, const char *group, int ret_fds[static PROXY_STATE_FILES])
{
	int fds[PROXY_STATE_FILES];
	char path[PATH_MAX];

	for (size_t n = 0; n < PROXY_STATE_FILES; n++) {
		int r = path_of(dir, group, n, path);

		if (r == 0) {
			fds[n] = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
			r = fds[n] < 0 ? -errno : 0;
		}
		if (r < 0) {
			while (n)
				close_fd(fds[--n]);
			return r;
		}
	}
	memcpy(ret_fds, fds, sizeof(fds));
	return 0;
}

void proxy_state_remove(const char *dir, const char *group)
{
	char path[PATH_MAX];

	for (size_t i = 0; *dir && i < PROXY_STATE_FILES; i++)
		if (path_of(dir, group, i, path) == 0)
			(void)unlink(path);
}

void proxy_state_sweep(const char *dir, bool (*lives)(const char *group, void *data), void *data)
{
	DIR *d = *dir ? opendir(dir) : NULL;
	struct dirent *e;

	while (d && (e = readdir(d))) {
		size_t n = strlen(e->d_name);
		char group[NAME_MAX + 1];

		if (n < 3 || e->d_name[n - 2] != '.' || e->d_name[n - 1] < '0' || e->d_name[n - 1] >= '0' + PROXY_STATE_FILES)
			continue;
		snprintf(group, sizeof(group), "%.*s", (int)n - 2, e->d_name);
		if (!lives(group, data))
			(void)unlinkat(dirfd(d), e->d_name, 0);
	}
	if (d)
		closedir(d);
}

/*
 * Opening a log for others.
 */
#include "agent/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

int log_file_open(const char *path)
{
	CLEANUP_FD int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY, 0640);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
		return -EINVAL;
	if (st.st_nlink != 1)
		return -EMLINK;
	return steal_fd(&fd);
}

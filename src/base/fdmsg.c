/*
 * SOCK_SEQPACKET messages with SCM_RIGHTS.
 */
#include "base/fdmsg.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

int fdmsg_pair(int ret_fds[2])
{
	int size = 2 * FDMSG_MAX_LEN;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	for (int i = 0; i < 2; i++)	/* the default will do for small messages */
		if (setsockopt(fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
			(void)!setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	ret_fds[0] = fds[0];
	ret_fds[1] = fds[1];
	return 0;
}

int fdmsg_send(int sock, const void *data, size_t len, const int *fds, size_t n_fds)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * FDMSG_MAX_FDS)];
	} control = {};
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (n_fds > FDMSG_MAX_FDS || len > FDMSG_MAX_LEN)
		return -EMSGSIZE;
	if (n_fds) {
		msg.msg_control = &control;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);

		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	if (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
		return -errno;
	return 0;
}

static void take_fds(struct msghdr *msg, int *ret_fds, size_t max_fds, size_t *ret_n_fds)
{
	*ret_n_fds = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;

		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (*ret_n_fds < max_fds)
				ret_fds[(*ret_n_fds)++] = fd;
			else
				close_fd(fd);
		}
	}
}

ssize_t fdmsg_recv(int sock, void *data, size_t size, int *ret_fds, size_t max_fds, size_t *ret_n_fds)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * FDMSG_MAX_FDS)];
	} control = {};
	struct iovec iov = { .iov_base = data, .iov_len = size };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

	ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	if (n < 0)
		return -errno;
	take_fds(&msg, ret_fds, max_fds, ret_n_fds);
	if (n == 0 || msg.msg_flags & MSG_TRUNC) {	/* a message of nothing looks like the end, which nobody takes descriptors of */
		while (*ret_n_fds)
			close_fd(ret_fds[--*ret_n_fds]);
		return msg.msg_flags & MSG_TRUNC ? -EMSGSIZE : 0;
	}
	return n;
}

/*
 * TCP sockets of connections.
 */
#include "proxy/sock.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

void sock_init(struct sock *s)
{
	*s = (struct sock){ .fd = -1 };
}

static void drop_out(struct sock *s)
{
	if (!s->out)
		return;
	bytes_deinit(s->out);
	free(s->out);
	s->out = NULL;
}

static uint32_t wanted(const struct sock *s)
{
	return (s->reading && !s->connecting ? (uint32_t)EPOLLIN : 0u) | (s->out || s->connecting ? (uint32_t)EPOLLOUT : 0u);
}

int sock_add(struct sock *s, struct loop *l, int fd, bool connecting, watch_fn *fn)
{
	s->loop = l;
	s->fd = fd;
	s->connecting = connecting;
	return watch_add(l, &s->watch, fd, wanted(s), false, fn);
}

size_t sock_close(struct sock *s, bool rst)
{
	size_t dropped = sock_waiting(s);

	watch_remove(&s->watch);
	if (s->fd >= 0 && rst) {
		struct linger l = { .l_onoff = 1 };

		setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	}
	s->fd = close_fd(s->fd);
	drop_out(s);
	return dropped;
}

static void sock_rewatch(struct sock *s)
{
	/* Either fails only for want of kernel memory: then at the next try, sock_tick() at the latest. */
	if (s->watch.loop)
		(void)!watch_modify(&s->watch, wanted(s));
	else if (s->fd >= 0 && s->loop && wanted(s))
		(void)!watch_add(s->loop, &s->watch, s->fd, wanted(s), false, s->watch.fn);
}

void sock_tick(struct sock *s)
{
	if (!s->watch.loop)
		sock_rewatch(s);
}

void sock_unwatch(struct sock *s)
{
	watch_remove(&s->watch);
}

void sock_read(struct sock *s, bool on)
{
	s->reading = on && !s->eof;
	sock_rewatch(s);
}

int sock_connected(struct sock *s)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	if (error)
		return -error;
	s->connecting = false;
	return 0;
}

static ssize_t send_iov(int fd, const struct iovec *iov, size_t n)
{
	struct msghdr msg = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n };
	ssize_t r;

	do
		r = n == 1 ? send(fd, iov->iov_base, iov->iov_len, MSG_NOSIGNAL | MSG_DONTWAIT) :
			     sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return errno == EAGAIN ? 0 : -errno;
	return r;
}

/* All but the first @skip bytes; all of it or, when that fails, nothing. */
static int keep(struct sock *s, const struct iovec *iov, size_t n_iov, size_t skip)
{
	size_t before = sock_waiting(s);
	int r = 0;

	if (!s->out) {
		s->out = malloc(sizeof(*s->out));
		if (!s->out)
			return -ENOMEM;
		bytes_init(s->out, SOCK_OUT_MAX);
	}
	for (size_t i = 0; i < n_iov && r == 0; i++) {
		size_t part = MIN(skip, iov[i].iov_len);

		skip -= part;
		r = bytes_append(s->out, (uint8_t *)iov[i].iov_base + part, iov[i].iov_len - part);
	}
	if (r < 0)
		s->out->len = before;
	if (!s->out->len)
		drop_out(s);
	return r;
}

int sock_write(struct sock *s, const struct iovec *iov, size_t n_iov, size_t *ret_sent)
{
	size_t total = 0;
	int r;

	*ret_sent = 0;
	for (size_t i = 0; i < n_iov; i++)
		total += iov[i].iov_len;
	if (!s->out && !s->connecting && total) {
		ssize_t n = send_iov(s->fd, iov, n_iov);

		if (n < 0)
			return (int)n;
		*ret_sent = (size_t)n;
	}
	if (*ret_sent == total)
		return 0;
	r = keep(s, iov, n_iov, *ret_sent);
	if (s->out)
		sock_rewatch(s);
	return r;
}

int sock_flush(struct sock *s, size_t *ret_sent)
{
	*ret_sent = 0;
	if (s->out && !s->connecting) {
		struct iovec iov = { s->out->data, s->out->len };
		ssize_t n = send_iov(s->fd, &iov, 1);

		if (n < 0)
			return (int)n;
		*ret_sent = (size_t)n;
		bytes_consume(s->out, (size_t)n);
		if (!s->out->len)
			drop_out(s);
	}
	if (s->end_wanted)
		sock_end(s);
	sock_rewatch(s);
	return 0;
}

void sock_end(struct sock *s)
{
	s->end_wanted = true;
	if (s->out || s->connecting || s->ended || s->fd < 0)
		return;
	s->ended = true;
	shutdown(s->fd, SHUT_WR);
}

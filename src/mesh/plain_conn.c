/*
 * A socket on a loop.
 *
 * The socket is level-triggered and asked for EPOLLOUT only while something
 * waits. A connection that is freed inside its own callback stays until the
 * callback has returned.
 */
#include "mesh/plain_conn.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/bytes.h"
#include "base/tcp.h"

enum { READ_SIZE = 64 * 1024, READS_PER_TURN = 8 };

struct plain_conn {
	struct loop *loop;
	struct watch watch;
	struct timer timer;		/* of the opening */
	struct defer begin;		/* opened(), for a socket that was connected from the start */
	int fd;
	bool open;
	bool shut;			/* plain_conn_shutdown() was called */
	bool shut_done;
	bool closed;
	bool busy;			/* inside a callback */
	bool dead;			/* freed inside a callback */
	struct bytes out;
	const struct plain_conn_ops *ops;
	void *data;
};

static void destroy(struct plain_conn *c)
{
	watch_remove(&c->watch);
	timer_cancel(&c->timer);
	defer_cancel(&c->begin);
	c->fd = close_fd(c->fd);
	bytes_deinit(&c->out);
	free(c);
}

struct plain_conn *plain_conn_free(struct plain_conn *c)
{
	if (!c)
		return NULL;
	c->closed = c->dead = true;
	if (!c->busy)
		destroy(c);
	return NULL;
}

static void end(struct plain_conn *c, int r, const char *text)
{
	if (c->closed)
		return;
	c->closed = true;
	watch_remove(&c->watch);
	timer_cancel(&c->timer);
	c->ops->closed(c, c->data, r, text);
}

static void update_events(struct plain_conn *c)
{
	uint32_t events = EPOLLIN | (c->out.len || !c->open ? EPOLLOUT : 0);

	if (!c->closed && watch_modify(&c->watch, events) < 0)
		end(c, -EIO, "cannot watch the socket");
}

/* Sends what the kernel takes. */
static int send_out(struct plain_conn *c)
{
	while (c->out.len) {
		ssize_t n = send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		bytes_consume(&c->out, (size_t)n);
	}
	if (c->shut && !c->shut_done) {
		shutdown(c->fd, SHUT_WR);
		c->shut_done = true;
	}
	return 0;
}

static void become_open(struct plain_conn *c)
{
	c->open = true;
	timer_cancel(&c->timer);
	c->ops->opened(c, c->data);
}

static void on_writable(struct plain_conn *c)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (!c->open) {
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len);
		if (error) {
			end(c, -error, strerror(error));
			return;
		}
		become_open(c);
	}
	if (c->closed || !c->out.len)
		return;
	int r = send_out(c);
	if (r < 0)
		end(c, r, strerror(-r));
	else if (!c->out.len && c->ops->drained)
		c->ops->drained(c, c->data);
}

static void on_readable(struct plain_conn *c)
{
	static _Thread_local uint8_t buffer[READ_SIZE];

	for (int i = 0; i < READS_PER_TURN && !c->closed; i++) {
		ssize_t n = recv(c->fd, buffer, sizeof(buffer), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN)
				end(c, -errno, strerror(errno));
			return;
		}
		if (!n) {
			end(c, 0, "closed by the peer");
			return;
		}
		c->ops->received(c, c->data, buffer, (size_t)n);
	}
}

static int on_event(struct watch *w, uint32_t events)
{
	struct plain_conn *c = container_of(w, struct plain_conn, watch);

	c->busy = true;
	if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
		on_writable(c);
	if (!c->closed && c->open && (events & (EPOLLIN | EPOLLERR | EPOLLHUP)))
		on_readable(c);
	update_events(c);
	c->busy = false;
	if (c->dead)
		destroy(c);
	return 0;
}

static int on_begin(struct defer *d)
{
	struct plain_conn *c = container_of(d, struct plain_conn, begin);

	c->busy = true;
	if (!c->closed && !c->open)
		become_open(c);
	update_events(c);
	c->busy = false;
	if (c->dead)
		destroy(c);
	return 0;
}

static int on_timeout(struct timer *t)
{
	struct plain_conn *c = container_of(t, struct plain_conn, timer);

	c->busy = true;
	end(c, -ETIMEDOUT, "connecting took too long");
	c->busy = false;
	if (c->dead)
		destroy(c);
	return 0;
}

int plain_conn_new(struct loop *loop, int fd, bool connecting, uint32_t open_timeout_ms, const struct plain_conn_ops *ops, void *data,
		   struct plain_conn **ret_conn)
{
	struct plain_conn *c = calloc(1, sizeof(*c));
	int one = 1;
	int r;

	if (!c) {
		close_fd(fd);
		return -ENOMEM;
	}
	c->loop = loop;
	c->fd = fd;
	c->ops = ops;
	c->data = data;
	bytes_init(&c->out, PLAIN_CONN_MAX_QUEUED);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));	/* harmless where it is not TCP */
	tcp_retry_often(fd);
	r = watch_add(loop, &c->watch, fd, EPOLLIN | (connecting ? EPOLLOUT : 0), false, on_event);
	if (r == 0 && connecting)
		r = timer_arm(loop, &c->timer, open_timeout_ms, on_timeout);
	if (r < 0) {
		destroy(c);
		return r;
	}
	if (!connecting)
		loop_defer(loop, &c->begin, on_begin);
	*ret_conn = c;
	return 0;
}

int plain_conn_dial(struct loop *loop, const struct ip_port *addr, uint32_t open_timeout_ms, const struct plain_conn_ops *ops, void *data,
		    struct plain_conn **ret_conn)
{
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(addr, 0, &sa);
	CLEANUP_FD int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS))
		return -errno;
	return plain_conn_new(loop, steal_fd(&fd), true, open_timeout_ms, ops, data, ret_conn);
}

int plain_conn_write(struct plain_conn *c, const void *bytes, size_t len)
{
	if (c->closed || c->shut)
		return -EPIPE;
	int r = bytes_append(&c->out, bytes, len);
	if (r < 0)
		return r;
	if (!c->open)
		return 0;
	r = send_out(c);
	if (r == -EPIPE || r == -ECONNRESET)
		r = 0;		/* the loop finds out and says closed() */
	return r < 0 ? r : watch_modify(&c->watch, EPOLLIN | EPOLLOUT);
}

void plain_conn_shutdown(struct plain_conn *c)
{
	if (c->closed || c->shut)
		return;
	c->shut = true;
	if (c->open && !c->out.len && send_out(c) < 0)
		return;		/* the loop finds out */
}

size_t plain_conn_queued(const struct plain_conn *c)
{
	return c->out.len;
}

struct ip_port plain_conn_peer(const struct plain_conn *c)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct ip_port addr = {};

	if (getpeername(c->fd, (struct sockaddr *)&sa, &len) < 0 || ip_port_from_sockaddr(&sa, &addr) < 0)
		return (struct ip_port){};
	return addr;
}

/*
 * TLS on a socket on a loop.
 *
 * Plaintext is encrypted when it is written and waits as ciphertext, so that
 * there is one queue. Callbacks may free the connection: it is then struck out
 * of the loop at once and its memory goes at the end of the turn.
 */
#include "mesh/tls_conn.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/tcp.h"

enum {
	DEFAULT_MAX_QUEUED = 4 * 1024 * 1024,
	DEFAULT_OPEN_TIMEOUT_MS = 10000,
	READ_SIZE = 32 * 1024,
	SEAL_SIZE = 16 * 1024,		/* plaintext at a time */
	SEAL_SLACK = 256,		/* what a tls_seal() may need over its plaintext */
	READS_A_TURN = 8,		/* then others get their turn */
	MAX_IDS = 64,
};

struct tls_conn {
	struct loop *loop;
	int fd;
	struct watch watch;
	struct timer open_timer;
	struct defer free_defer;
	struct tls_session *session;
	struct bytes out;		/* ciphertext that waits */
	const struct tls_conn_ops *ops;
	void *data;
	struct ip_port peer;
	struct tls_expect expect;	/* copies */
	char *strings;			/* what it points to */
	const char **ids;
	bool connecting;
	bool opened;
	bool paused;
	bool shut;			/* no more writes: FIN once @out is empty */
	bool fin_sent;
	bool closed;			/* closed() was called */
	bool dead;			/* tls_conn_free() was called */
};

static int on_events(struct watch *w, uint32_t events);

/* --- a copy of whom we expect --- */

static char *copy_text(char **at, const char *text)
{
	char *to = *at;

	if (!text)
		return NULL;
	*at = stpcpy(to, text) + 1;
	return to;
}

static size_t text_size(const char *text)
{
	return text ? strlen(text) + 1 : 0;
}

static int copy_expect(struct tls_conn *c, const struct tls_expect *e)
{
	size_t size = 1;
	char *at;

	if (!e)
		return 0;
	if (e->n_ids > MAX_IDS)
		return -EINVAL;
	size += text_size(e->server_name) + text_size(e->trust_domain);
	for (size_t i = 0; i < e->n_ids; i++)
		size += text_size(e->ids[i]);
	c->strings = at = malloc(size);
	c->ids = calloc(e->n_ids + 1, sizeof(*c->ids));
	if (!c->strings || !c->ids)
		return -ENOMEM;
	for (size_t i = 0; i < e->n_ids; i++)
		c->ids[i] = copy_text(&at, e->ids[i]);
	c->expect = (struct tls_expect){
		.server_name = copy_text(&at, e->server_name),
		.trust_domain = copy_text(&at, e->trust_domain),
		.ids = c->ids,
		.n_ids = e->n_ids,
	};
	return 0;
}

/* --- the end --- */

static int really_free(struct defer *d)
{
	struct tls_conn *c = container_of(d, struct tls_conn, free_defer);

	tls_session_free(c->session);
	bytes_deinit(&c->out);
	free(c->strings);
	free(c->ids);
	free(c);
	return 0;
}

static void cut(struct tls_conn *c)
{
	watch_remove(&c->watch);
	timer_cancel(&c->open_timer);
	c->fd = close_fd(c->fd);
}

struct tls_conn *tls_conn_free(struct tls_conn *c)
{
	if (!c || c->dead)
		return NULL;
	c->dead = true;
	cut(c);
	loop_defer(c->loop, &c->free_defer, really_free);
	return NULL;
}

static void end(struct tls_conn *c, int r, const char *text)
{
	if (c->closed || c->dead)
		return;
	c->closed = true;
	cut(c);
	c->ops->closed(c, c->data, r, text);
}

static void end_errno(struct tls_conn *c, int r)
{
	end(c, r, r == -ETIMEDOUT ? (c->connecting ? "connecting took too long" : "the TLS handshake took too long") : strerror(-r));
}

static int on_open_timeout(struct timer *t)
{
	end_errno(container_of(t, struct tls_conn, open_timer), -ETIMEDOUT);
	return 0;
}

/* --- out --- */

static uint32_t wanted_events(const struct tls_conn *c)
{
	return (c->paused && c->opened ? 0u : (uint32_t)EPOLLIN) | (c->out.len || c->connecting ? (uint32_t)EPOLLOUT : 0u);
}

static int take_pending(struct tls_conn *c)
{
	size_t n = tls_pending(c->session);

	if (!n)
		return 0;

	uint8_t *to = bytes_reserve(&c->out, n);
	if (!to)
		return -ENOBUFS;
	bytes_commit(&c->out, tls_take(c->session, to, n));
	return 0;
}

/* Sends what waits. Negative: the socket is broken. */
static int flush(struct tls_conn *c)
{
	int r = take_pending(c);

	if (r < 0)
		return r;
	while (c->out.len) {
		ssize_t n = send(c->fd, c->out.data, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return -errno;
		bytes_consume(&c->out, (size_t)n);
	}
	if (!c->out.len && c->shut && !c->fin_sent) {
		c->fin_sent = true;
		shutdown(c->fd, SHUT_WR);
	}
	return watch_modify(&c->watch, wanted_events(c));
}

int tls_conn_write(struct tls_conn *c, const void *bytes, size_t len)
{
	const uint8_t *data = bytes;
	int r;

	if (c->closed || c->dead || c->shut || !c->opened)
		return -EPIPE;
	if (tls_seal_size(c->session, len) + len / SEAL_SIZE * SEAL_SLACK > c->out.max - c->out.len)
		return -ENOBUFS;
	while (len) {
		size_t n = MIN(len, (size_t)SEAL_SIZE), n_out;
		struct iovec iov = { (void *)(uintptr_t)data, n };
		size_t size = tls_seal_size(c->session, n);
		uint8_t *to = bytes_reserve(&c->out, size);

		r = to ? tls_seal(c->session, &iov, 1, to, size, &n_out) : -ENOMEM;
		if (r < 0) {		/* half a message would be there for ever: give up the connection */
			shutdown(c->fd, SHUT_RDWR);
			return r;
		}
		bytes_commit(&c->out, n_out);
		data += n;
		len -= n;
	}
	/* Goes out at once if it can: an error will be seen by the loop's next turn, too. */
	r = flush(c);
	return r == -EPIPE || r == -ECONNRESET ? 0 : r;
}

void tls_conn_shutdown(struct tls_conn *c)
{
	if (c->closed || c->dead || c->shut)
		return;
	c->shut = true;
	if (tls_shutdown(c->session) < 0 || flush(c) < 0)
		shutdown(c->fd, SHUT_RDWR);	/* the loop notices */
}

size_t tls_conn_queued(const struct tls_conn *c)
{
	return c->out.len;
}

void tls_conn_pause(struct tls_conn *c, bool paused)
{
	c->paused = paused;
	if (!c->closed && !c->dead)
		(void)!watch_modify(&c->watch, wanted_events(c));
}

/* --- in --- */

static void deliver(struct tls_conn *c, const struct tls_in *in)
{
	if (!c->opened && tls_is_open(c->session)) {
		c->opened = true;
		timer_cancel(&c->open_timer);
		c->ops->opened(c, c->data);
	}
	if (in->out_len && !c->dead && !c->closed)
		c->ops->received(c, c->data, in->out, in->out_len);
}

/* Returns what tls_feed() said. */
static int feed(struct tls_conn *c, const uint8_t *data, size_t len)
{
	uint8_t plain[TLS_PLAINTEXT_MAX];
	struct tls_in in = { .data = data, .len = len, .out = plain, .out_size = sizeof(plain) };
	int r;

	do {
		r = tls_feed(c->session, &in);
		deliver(c, &in);
		explicit_bzero(plain, in.out_len);	/* the stack keeps it for long */
	} while (r == 0 && (in.len || in.out_len) && !c->dead && !c->closed);
	return r;
}

static void end_of_stream(struct tls_conn *c)
{
	if (!c->opened)
		end(c, -ECONNRESET, "the peer closed the connection during the TLS handshake");
	else
		end(c, -ECONNRESET, "the peer closed the connection without close_notify");
}

static void end_tls(struct tls_conn *c, int r)
{
	char text[TLS_ERROR_LEN];

	if (r == TLS_E_CLOSED)
		(void)!tls_shutdown(c->session);	/* an end for an end, section 6.1 */
	if (flush(c) < 0)	/* the alert; what cannot be sent now never will be */
		shutdown(c->fd, SHUT_WR);
	snprintf(text, sizeof(text), "%s", tls_error(c->session));
	end(c, r == TLS_E_CLOSED ? 0 : r, r == TLS_E_CLOSED ? "closed by the peer" : text);
}

static void on_readable(struct tls_conn *c)
{
	uint8_t buf[READ_SIZE];

	for (int i = 0; i < READS_A_TURN && !c->dead && !c->closed && !(c->paused && c->opened); i++) {
		ssize_t n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			end_errno(c, -errno);
			return;
		}
		if (n == 0) {
			end_of_stream(c);
			return;
		}

		int r = feed(c, buf, (size_t)n);
		if (c->dead || c->closed)
			return;
		if (r != 0) {
			end_tls(c, r);
			return;
		}
		if ((size_t)n < sizeof(buf))
			break;
	}
}

static void on_writable(struct tls_conn *c)
{
	bool waited = c->out.len > 0;
	int r = flush(c);

	if (r < 0)
		end_errno(c, r);
	else if (waited && !c->out.len && c->opened && c->ops->drained)
		c->ops->drained(c, c->data);
}

static bool on_connected(struct tls_conn *c)
{
	socklen_t len = sizeof(int);
	int error = 0;

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		error = errno;
	if (error) {
		end_errno(c, -error);
		return false;
	}
	c->connecting = false;
	return true;
}

static int on_events(struct watch *w, uint32_t events)
{
	struct tls_conn *c = container_of(w, struct tls_conn, watch);

	if (c->connecting && !on_connected(c))
		return 0;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
		on_readable(c);
	if (c->dead || c->closed)
		return 0;
	if ((events & EPOLLOUT) || tls_pending(c->session))
		on_writable(c);
	return 0;
}

/* --- the beginning --- */

static int start(struct tls_conn *c, struct tls_ctx *ctx, const struct tls_expect *expect, uint32_t timeout_ms)
{
	int one = 1;
	int r;

	r = copy_expect(c, expect);
	if (r == 0)
		r = tls_session_new(ctx, expect ? &c->expect : NULL, &c->session);
	if (r < 0)
		return r;
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	tcp_retry_often(c->fd);
	r = watch_add(c->loop, &c->watch, c->fd, EPOLLIN | EPOLLOUT, false, on_events);
	if (r == 0)
		r = timer_arm(c->loop, &c->open_timer, timeout_ms, on_open_timeout);
	return r;
}

static int conn_new(struct loop *loop, int fd, bool connecting, const struct ip_port *peer, struct tls_ctx *ctx,
		    const struct tls_expect *expect, const struct tls_conn_options *options, const struct tls_conn_ops *ops,
		    void *data, struct tls_conn **ret_conn)
{
	struct tls_conn *c = calloc(1, sizeof(*c));
	int r;

	if (!c) {
		close_fd(fd);
		return -ENOMEM;
	}
	c->loop = loop;
	c->fd = fd;
	c->ops = ops;
	c->data = data;
	c->connecting = connecting;
	c->peer = *peer;
	list_init(&c->free_defer.link);
	bytes_init(&c->out, options && options->max_queued ? options->max_queued : DEFAULT_MAX_QUEUED);
	r = start(c, ctx, expect, options && options->open_timeout_ms ? options->open_timeout_ms : DEFAULT_OPEN_TIMEOUT_MS);
	if (r < 0) {
		cut(c);
		really_free(&c->free_defer);
		return r;
	}
	*ret_conn = c;
	return 0;
}

int tls_conn_new(struct loop *loop, int fd, struct tls_ctx *ctx, const struct tls_expect *expect,
		 const struct tls_conn_options *options, const struct tls_conn_ops *ops, void *data, struct tls_conn **ret_conn)
{
	struct sockaddr_storage sa = {};
	socklen_t len = sizeof(sa);
	struct ip_port peer = {};

	if (getpeername(fd, (struct sockaddr *)&sa, &len) == 0)
		(void)!ip_port_from_sockaddr(&sa, &peer);	/* a unix socket has none */
	return conn_new(loop, fd, false, &peer, ctx, expect, options, ops, data, ret_conn);
}

int tls_conn_dial(struct loop *loop, const struct ip_port *addr, struct tls_ctx *ctx, const struct tls_expect *expect,
		  const struct tls_conn_options *options, const struct tls_conn_ops *ops, void *data, struct tls_conn **ret_conn)
{
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(addr, 0, &sa);
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS) {
		int r = -errno;

		close_fd(fd);
		return r;
	}
	return conn_new(loop, fd, true, addr, ctx, expect, options, ops, data, ret_conn);
}

int tls_conn_connecting(struct loop *loop, int fd, const struct ip_port *addr, struct tls_ctx *ctx, const struct tls_expect *expect,
			const struct tls_conn_options *options, const struct tls_conn_ops *ops, void *data, struct tls_conn **ret_conn)
{
	return conn_new(loop, fd, true, addr, ctx, expect, options, ops, data, ret_conn);
}

const struct tls_session *tls_conn_session(const struct tls_conn *c)
{
	return c->session;
}

bool tls_conn_connected(const struct tls_conn *c)
{
	return !c->connecting;
}

struct ip_port tls_conn_peer(const struct tls_conn *c)
{
	return c->peer;
}

/*
 * One HTTP/2 connection of gRPC, client or server: the way of bytes between
 * link and session, the end, keep-alive, GOAWAY.
 */
#include "mesh/grpc_conn.h"

#include <errno.h>
#include <string.h>

enum {
	FLUSH_SIZE = 64 * 1024,		/* frames gathered for one write */
	FLUSH_ROOM = 20 * 1024,		/* no frame of ours is longer */
	LINK_QUEUED_MAX = 256 * 1024,	/* beyond, output stays in the calls' queues, where it is bounded */
};

static const uint8_t PING_DRAIN[8] = { 'd', 'r', 'a', 'i', 'n' };

void grpc_conn_enter(struct grpc_conn *c)
{
	c->entered++;
}

static void bury(struct grpc_conn *c)
{
	list_for_each_safe(l, &c->graveyard)
		grpc_call_free(list_entry(l, struct grpc_call, link));
}

void grpc_conn_leave(struct grpc_conn *c)
{
	if (--c->entered || !c->zombie)
		return;
	bury(c);
	nghttp2_session_del(c->session);
	grpc_link_free(c->link);
	c->ops->destroy(c, c->owner);
}

void grpc_conn_end(struct grpc_conn *c, int r, const char *text)
{
	struct grpc_call *call;

	if (c->ended)
		return;
	c->going_away = true;
	while (!c->zombie && (call = list_first(&c->calls, struct grpc_call, link))) {
		struct grpc_status status = grpc_status_of(c->conf.server ? GRPC_CANCELLED : GRPC_UNAVAILABLE, text);

		call->stream_gone = true;
		grpc_call_close(call, (c->conf.server ? call->send_done : call->has_status) ? &call->status : &status);
	}
	if (c->zombie)
		return;
	c->ended = true;
	timer_cancel(&c->keepalive);
	c->ops->closed(c, c->owner, r, text);
}

static defer_fn on_work;

/* --- output --- */

/* Gathers the session's frames. Returns the length, or < 0. */
static ssize_t gather(struct grpc_conn *c, uint8_t buffer[static FLUSH_SIZE])
{
	size_t len = 0;

	while (FLUSH_SIZE - len >= FLUSH_ROOM && !c->zombie) {
		const uint8_t *data;
		ssize_t n = nghttp2_session_mem_send(c->session, &data);

		if (n < 0)
			return n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
		if (!n)
			break;
		if ((size_t)n > FLUSH_SIZE - len)
			return -EMSGSIZE;
		memcpy(buffer + len, data, (size_t)n);
		len += (size_t)n;
	}
	return (ssize_t)len;
}

static ssize_t write_out(struct grpc_conn *c, uint8_t *buffer, size_t len)
{
	int r = grpc_link_write(c->link, buffer, len);

	explicit_bzero(buffer, len);		/* tokens go this way */
	return r ?: (ssize_t)len;
}

static void flush(struct grpc_conn *c)
{
	static _Thread_local uint8_t buffer[FLUSH_SIZE];

	while (c->open && !c->ended && !c->shut && grpc_link_queued(c->link) < LINK_QUEUED_MAX) {
		ssize_t len = gather(c, buffer);

		if (len > 0)
			len = write_out(c, buffer, (size_t)len);
		if (len < 0)
			grpc_conn_end(c, (int)len, len == -ENOMEM ? "out of memory" : "connection lost");
		if (len <= 0)
			return;
	}
}

void grpc_conn_kick(struct grpc_conn *c)
{
	if (!c->zombie)
		loop_defer(c->loop, &c->work, on_work);
}

/* --- keep-alive --- */

static int on_keepalive(struct timer *t)
{
	struct grpc_conn *c = container_of(t, struct grpc_conn, keepalive);
	uint64_t silence = loop_now_ms(c->loop) - c->last_recv_ms;
	uint64_t wait = c->conf.keepalive_ms;

	grpc_conn_enter(c);
	if (c->ping_out || c->shut) {
		grpc_conn_end(c, -ETIMEDOUT, c->shut ? "the peer does not close" : "the peer does not answer");
	} else if (silence >= wait && (c->conf.server || c->n_calls)) {
		if (nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, NULL) == 0)
			c->ping_out = true;
		wait = c->conf.keepalive_timeout_ms;
		grpc_conn_kick(c);
	} else if (silence < wait) {
		wait -= silence;
	}
	if (!c->ended && timer_arm(c->loop, &c->keepalive, wait, on_keepalive) < 0)
		grpc_conn_end(c, -ENOMEM, "out of memory");
	grpc_conn_leave(c);
	return 0;
}

/* --- the deferred work --- */

/* After GOAWAY, or a protocol error that has been told to the peer. */
static void close_when_done(struct grpc_conn *c)
{
	bool idle = c->going_away && !c->n_calls && (!c->conf.server || c->goaway_sent);

	if (c->ended || c->shut || !c->open || nghttp2_session_want_write(c->session))
		return;
	if (!idle && nghttp2_session_want_read(c->session))
		return;
	if (c->conf.server && c->settings_seen) {	/* the client closes first: it may still be reading */
		c->shut = true;
		grpc_link_shutdown(c->link);
		if (timer_arm(c->loop, &c->keepalive, c->conf.keepalive_timeout_ms, on_keepalive) < 0)
			grpc_conn_end(c, -ENOMEM, "out of memory");
		return;
	}
	if (c->settings_seen)
		grpc_conn_end(c, 0, "closed by the server");
	else
		grpc_conn_end(c, -EPROTO, "the peer does not speak HTTP/2");
}

static struct grpc_call *find_call(struct grpc_conn *c, bool (*match)(const struct grpc_call *call))
{
	list_for_each(l, &c->calls) {
		struct grpc_call *call = list_entry(l, struct grpc_call, link);

		if (match(call))
			return call;
	}
	return NULL;
}

static bool is_resumed(const struct grpc_call *call)
{
	return call->resumed;
}

static bool has_room_again(const struct grpc_call *call)
{
	return call->want_writable && call->out.len <= call->conn->conf.max_queued / 2;
}

static int on_work(struct defer *d)
{
	struct grpc_conn *c = container_of(d, struct grpc_conn, work);
	struct grpc_call *call;

	grpc_conn_enter(c);
	while (!c->zombie && (call = find_call(c, is_resumed))) {
		call->resumed = false;
		grpc_call_deliver(call);
	}
	if (!c->zombie)
		flush(c);
	while (!c->zombie && (call = find_call(c, has_room_again))) {
		call->want_writable = false;
		if (call->ops && call->ops->writable)
			call->ops->writable(call, call->data);
	}
	if (!c->zombie) {
		close_when_done(c);
		if (!c->zombie)
			bury(c);
	}
	grpc_conn_leave(c);
	return 0;
}

/* --- the link --- */

static void on_opened(void *data)
{
	struct grpc_conn *c = data;
	const struct tls_session *tls = grpc_link_session(c->link);
	const char *alpn = tls ? tls_alpn(tls) : NULL;

	grpc_conn_enter(c);
	c->open = c->was_open = true;
	c->last_recv_ms = loop_now_ms(c->loop);
	if (alpn && strcmp(alpn, "h2") != 0)
		grpc_conn_end(c, -EPROTO, "the peer does not speak HTTP/2");
	else if (timer_arm(c->loop, &c->keepalive, c->conf.keepalive_ms, on_keepalive) < 0)
		grpc_conn_end(c, -ENOMEM, "out of memory");
	else
		c->ops->opened(c, c->owner);
	grpc_conn_kick(c);
	grpc_conn_leave(c);
}

static void on_received(void *data, const uint8_t *bytes, size_t len)
{
	struct grpc_conn *c = data;

	if (c->ended || c->shut)
		return;
	grpc_conn_enter(c);
	c->last_recv_ms = loop_now_ms(c->loop);
	c->ping_out = false;

	ssize_t n = nghttp2_session_mem_recv(c->session, bytes, len);
	if (n < 0 && !c->zombie)
		grpc_conn_end(c, n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO, nghttp2_strerror((int)n));
	grpc_conn_kick(c);
	grpc_conn_leave(c);
}

static void on_drained(void *data)
{
	grpc_conn_kick(data);
}

static void on_closed(void *data, int r, const char *text)
{
	struct grpc_conn *c = data;

	if (!c->ended && !c->was_open && c->ops->may_retry && c->ops->may_retry(c, c->owner))
		return;
	grpc_conn_enter(c);
	c->open = false;
	if (r == 0 && !c->settings_seen && !c->conf.server)
		grpc_conn_end(c, -EPROTO, "the peer does not speak HTTP/2");
	else
		grpc_conn_end(c, r, text);
	grpc_conn_leave(c);
}

const struct grpc_link_ops grpc_conn_link_ops = { on_opened, on_received, on_drained, on_closed };

/* --- life --- */

void grpc_conn_drain(struct grpc_conn *c)
{
	if (c->ended || c->going_away)
		return;
	c->going_away = true;
	/* RFC 9113, section 6.8: first a notice, the real number once what was under way has arrived. */
	nghttp2_submit_shutdown_notice(c->session);
	nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, PING_DRAIN);
	grpc_conn_kick(c);
}

static int submit_settings(struct grpc_conn *c)
{
	nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, c->conf.window },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)c->conf.max_header_list },
		c->conf.server ? (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, c->conf.max_streams } :
				 (nghttp2_settings_entry){ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 },
	};
	int32_t window = (int32_t)MIN((uint64_t)c->conf.window * 4, 16u << 20);

	if (nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, ELEMENTS(settings)) < 0 ||
	    nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, window) < 0)
		return -ENOMEM;
	return 0;
}

int grpc_conn_init(struct grpc_conn *c, struct loop *loop, const struct grpc_conn_config *conf, const struct grpc_conn_ops *ops, void *owner)
{
	*c = (struct grpc_conn){ .loop = loop, .conf = *conf, .ops = ops, .owner = owner, .known = !conf->server };
	list_init(&c->calls);
	list_init(&c->graveyard);
	int r = grpc_stream_session_new(c, &c->session);
	if (r < 0)
		return r;
	r = submit_settings(c);
	if (r < 0) {
		nghttp2_session_del(c->session);
		return r;
	}
	return 0;
}

void grpc_conn_deinit(struct grpc_conn *c)
{
	grpc_conn_enter(c);
	c->ended = c->zombie = true;
	timer_cancel(&c->keepalive);
	defer_cancel(&c->work);
	list_for_each_safe(l, &c->calls) {
		struct grpc_call *call = list_entry(l, struct grpc_call, link);

		call->gone = true;
		timer_cancel(&call->deadline);
		list_unlink(&call->link);
		list_append(&c->graveyard, &call->link);
	}
	c->n_calls = 0;
	grpc_conn_leave(c);
}

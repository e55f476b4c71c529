/*
 * Observer of ZooKeeper connections: the instances that a guest's sessions keep
 * there, and what it asks for.
 *
 * A request counts when its reply, paired by xid, has no error. An ephemeral
 * node is an instance from the moment that its path or data say where it can be
 * reached, until it is deleted or its session ends: by closeSession, by the
 * server's word, or by silence longer than the session's timeout.
 */
#include "discover/zookeeper.h"

#include <stdlib.h>
#include <string.h>

#include "discover/zk_observer.h"

bool zk_copy_path(struct jute_str s, char to[static ZK_OBSERVER_MAX_PATH])
{
	if (!s.len || s.len >= ZK_OBSERVER_MAX_PATH || s.p[0] != '/' || memchr(s.p, '\0', s.len))
		return false;
	memcpy(to, s.p, s.len);
	to[s.len] = '\0';
	return true;
}

static void on_reply(struct zk_observer *s, const struct jute_request *r, struct jute_reply *reply)
{
	struct jute_str path = {};

	switch (r->op) {
	case JUTE_CREATE:
	case JUTE_CREATE2:
	case JUTE_CREATE_CONTAINER:
	case JUTE_CREATE_TTL:
		path = jute_read_str(&reply->body);
		if (jute_flags_ephemeral(r->flags) && r->op != JUTE_CREATE)
			zk_learn_session(s, jute_read_stat(&reply->body).ephemeral_owner);
		zk_on_created(s, r, path);
		break;
	case JUTE_SET_DATA:
		zk_on_data_set(s, r, jute_read_stat(&reply->body).ephemeral_owner);
		break;
	case JUTE_DELETE:
		zk_on_deleted(s, r);
		break;
	case JUTE_MULTI:
		zk_on_multi(s, r, reply);
		break;
	case JUTE_GET_DATA:
		zk_on_data(s, r, reply);
		break;
	case JUTE_GET_CHILDREN:
	case JUTE_GET_CHILDREN2:
		zk_on_children(s, r, reply);
		break;
	case JUTE_CLOSE:
		zk_session_gone(s->guest, s->session, s->ctx);
		break;
	default:
		break;
	}
}

/* WatcherEvent: type, state, path. Another client may delete what this one made. */
static void on_event(struct zk_observer *s, struct jute_reply *reply)
{
	int32_t type = (int32_t)wire_u32(&reply->body);
	char path[ZK_OBSERVER_MAX_PATH];
	struct zk_node *n;

	wire_u32(&reply->body);
	if (type != JUTE_EVENT_DELETED || !zk_copy_path(jute_read_str(&reply->body), path))
		return;
	n = zk_guest_find_node(s->guest, path);
	if (n)
		zk_node_gone(s->guest, n, s->ctx);
}

static bool is_kept(int32_t op)
{
	return jute_op_creates(op) || op == JUTE_DELETE || op == JUTE_SET_DATA || op == JUTE_MULTI || op == JUTE_GET_DATA ||
	       op == JUTE_GET_CHILDREN || op == JUTE_GET_CHILDREN2 || op == JUTE_CLOSE;
}

static bool on_connect(struct zk_observer *s, const uint8_t *frame, size_t len)
{
	struct jute_connect c;

	if (!jute_connect_request(frame, len, &c))
		return false;
	s->asked_session = c.session;
	s->connecting = true;
	return true;
}

static bool on_request_frame(const uint8_t *frame, size_t len, bool whole, void *data)
{
	struct zk_observer *s = data;
	bool first = !s->begun;
	struct jute_request r;
	char path[ZK_OBSERVER_MAX_PATH];

	s->begun = true;
	if (first && on_connect(s, frame, len))
		return true;
	if (!whole || !jute_request_decode(frame, len, &r)) {
		struct wire w = wire_init(frame, len);
		int32_t xid = (int32_t)wire_u32(&w), op = (int32_t)wire_u32(&w);

		if (!w.bad)
			zk_queue_add(&s->queue, xid, op, NULL, 0);
		return !w.bad;
	}
	if (r.xid == JUTE_XID_PING || r.xid == JUTE_XID_AUTH || r.xid == JUTE_XID_SET_WATCHES)
		return true;
	zk_queue_add(&s->queue, r.xid, r.op, frame, is_kept(r.op) ? len : 0);
	if ((r.op == JUTE_GET_CHILDREN || r.op == JUTE_GET_CHILDREN2) && zk_copy_path(r.path, path))
		zk_on_children_asked(s, path, r.watch);
	return true;
}

/* The answer to connect: the session's number and timeout, or that it has expired. */
static void on_connected(struct zk_observer *s, const uint8_t *frame, size_t len)
{
	struct zk_session *session;
	struct jute_connect c;

	s->connecting = false;
	if (!jute_connect_response(frame, len, &c))
		return;
	if (s->asked_session && c.session != s->asked_session)
		zk_session_gone(s->guest, s->asked_session, s->ctx);
	if (!c.session || !c.timeout_ms)
		return;
	session = zk_guest_session(s->guest, c.session);
	s->session = c.session;
	if (session) {
		session->timeout_ms = c.timeout_ms;
		session->last_ns = s->ctx->time_ns;
	}
}

static bool on_reply_frame(const uint8_t *frame, size_t len, bool whole, void *data)
{
	struct zk_observer *s = data;
	struct zk_pending *p;
	struct jute_reply reply;
	struct jute_request r;

	if (s->connecting) {
		on_connected(s, frame, len);
		return true;
	}
	if (!jute_reply_decode(frame, len, &reply))
		return false;
	if (reply.xid == JUTE_XID_EVENT)
		on_event(s, &reply);
	if (reply.xid == JUTE_XID_EVENT || reply.xid == JUTE_XID_PING || reply.xid == JUTE_XID_AUTH || reply.xid == JUTE_XID_SET_WATCHES)
		return true;
	p = zk_queue_take(&s->queue, reply.xid);
	if (p && whole && reply.err == JUTE_OK && p->len && jute_request_decode(p->frame, p->len, &r))
		on_reply(s, &r, &reply);
	free(p);
	return true;
}

static void *guest_new(void)
{
	return zk_guest_new();
}

static void guest_free(void *guest)
{
	zk_guest_free(guest);
}

static void stream_free(void *stream)
{
	struct zk_observer *s = stream;

	if (!s)
		return;
	zk_framer_deinit(&s->to);
	zk_framer_deinit(&s->from);
	zk_queue_deinit(&s->queue);
	zk_asked_deinit(&s->asked);
	zk_guest_free(s->own);
	free(s);
}

static void *stream_new(void *guest, const struct ip_port *client, const struct ip_port *server)
{
	struct zk_observer *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->client = *client;
	s->server = *server;
	zk_framer_init(&s->to, false);
	zk_framer_init(&s->from, true);
	zk_queue_init(&s->queue);
	zk_asked_init(&s->asked);
	s->own = guest ? NULL : zk_guest_new();
	s->guest = guest ? guest : s->own;
	if (!s->guest) {
		stream_free(s);
		return NULL;
	}
	return s;
}

static bool stream_data(void *stream, enum discover_dir dir, const uint8_t *data, size_t len, const struct discover_ctx *ctx)
{
	struct zk_observer *s = stream;
	struct zk_session *session;

	s->ctx = ctx;
	s->answered |= dir == DISCOVER_FROM_REGISTRY;
	if (dir == DISCOVER_FROM_REGISTRY)
		return zk_framer_feed(&s->from, data, len, on_reply_frame, s);
	session = s->session ? zk_guest_find_session(s->guest, s->session) : NULL;
	if (session)
		session->last_ns = ctx->time_ns;
	return zk_framer_feed(&s->to, data, len, on_request_frame, s);
}

static bool stream_gap(void *stream, enum discover_dir dir, size_t len, const struct discover_ctx *ctx)
{
	struct zk_observer *s = stream;

	(void)ctx;
	if (dir == DISCOVER_TO_REGISTRY)
		s->begun = true;
	else
		s->connecting = false;
	zk_framer_gap(dir == DISCOVER_TO_REGISTRY ? &s->to : &s->from, len);
	return true;
}

/*
 * No server is there to hear of the guest, and none to count its silence: a
 * server that starts again begins anew with the timeouts of its sessions.
 */
static void on_refused(struct zk_guest *g, const struct discover_ctx *ctx)
{
	map_for_each(l, &g->sessions)
		list_entry(l, struct zk_session, link)->last_ns = ctx->time_ns;
}

/* A client that closes its session need not wait for the answer. */
static void stream_end(void *stream, enum discover_dir dir, const struct discover_ctx *ctx)
{
	struct zk_observer *s = stream;

	if (dir == DISCOVER_FROM_REGISTRY && !s->answered)
		on_refused(s->guest, ctx);
	if (dir == DISCOVER_FROM_REGISTRY && zk_queue_has_op(&s->queue, JUTE_CLOSE))
		zk_session_gone(s->guest, s->session, ctx);
}

static void tick(void *guest, const struct discover_ctx *ctx)
{
	struct zk_guest *g = guest;

	map_for_each(l, &g->sessions) {
		struct zk_session *session = list_entry(l, struct zk_session, link);

		if (ctx->time_ns > session->last_ns && (ctx->time_ns - session->last_ns) / 1000000 > session->timeout_ms)
			zk_session_gone(g, session->id, ctx);
	}
}

static size_t stream_held(const void *stream)
{
	const struct zk_observer *s = stream;

	return s->to.buf.len + s->from.buf.len + s->queue.bytes + s->queue.n * sizeof(struct zk_pending);
}

const struct discover_protocol discover_zookeeper = {
	.name = "zookeeper",
	.tcp_ports = { 2181 },
	.guest_new = guest_new,
	.guest_free = guest_free,
	.stream_new = stream_new,
	.stream_free = stream_free,
	.stream_data = stream_data,
	.stream_held = stream_held,
	.stream_gap = stream_gap,
	.stream_end = stream_end,
	.tick = tick,
};

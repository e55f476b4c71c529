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

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "discover/obs_build.h"
#include "discover/zk_asked.h"
#include "discover/zk_guest.h"
#include "discover/zk_stream.h"
#include "proto/jute.h"
#include "proto/zk_instance.h"

enum { MAX_PATH = 16 * 1024, MAX_CHILDREN = 4096 };

struct stream {
	struct zk_guest *guest;
	struct zk_guest *own;		/* the same, when there is no guest to share it */
	struct zk_framer to;
	struct zk_framer from;
	struct zk_queue queue;
	struct zk_asked asked;
	struct ip_port client;
	struct ip_port server;
	uint64_t session;		/* 0: not known yet */
	uint64_t asked_session;		/* of the connect request: the one to be resumed */
	bool begun;			/* the client's first bytes were seen */
	bool answered;			/* and something of the server */
	bool connecting;		/* a connect request waits for its response */
	const struct discover_ctx *ctx;	/* of the call at hand */
};

/* A zero-terminated copy; false for what no path is. */
static bool copy_path(struct jute_str s, char to[static MAX_PATH])
{
	if (!s.len || s.len >= MAX_PATH || s.p[0] != '/' || memchr(s.p, '\0', s.len))
		return false;
	memcpy(to, s.p, s.len);
	to[s.len] = '\0';
	return true;
}

static uint64_t instance_hash(const struct zk_instance *i)
{
	struct bytes b;
	uint64_t hash;
	bool ok;

	bytes_init(&b, 256 * 1024);
	ok = bytes_appendf(&b, "%s\n%s\n%s\n%u\n%s\n%d\n", i->service, i->id, i->address, i->port, i->scheme, (int)i->health) == 0;
	for (size_t n = 0; n < i->n_meta && ok; n++)
		ok = bytes_appendf(&b, "%s\n%s\n", i->keys[n], i->values[n]) == 0;
	hash = map_hash(b.data ? b.data : (const uint8_t *)"", b.len);
	bytes_deinit(&b);
	return hash;
}

static void set_place(struct observation *o, struct obs_build *b, const struct zk_instance *i)
{
	if (i->address[0] && ip_parse(i->address, &o->address) < 0)
		o->host = obs_build_text(b, i->address);
	o->port = i->port;
}

static void emit_instance(struct stream *s, enum observation_kind kind, const struct zk_instance *i, uint32_t ttl_s)
{
	static const enum observation_health health[] = {
		[ZK_HEALTH_UNKNOWN] = OBS_HEALTH_UNKNOWN, [ZK_HEALTH_UP] = OBS_HEALTH_PASSING, [ZK_HEALTH_DOWN] = OBS_HEALTH_CRITICAL,
	};
	struct obs_build b;

	obs_build_init(&b, kind, "zookeeper", &s->server);
	b.o.service = obs_build_text(&b, i->service);
	b.o.instance = obs_build_text(&b, i->id);
	set_place(&b.o, &b, i);
	if (kind == OBS_REGISTER && !i->address[0])
		b.o.address = s->client.ip;
	b.o.transport = "tcp";
	b.o.app_protocol = obs_build_text(&b, i->scheme);
	b.o.ttl_s = ttl_s;
	b.o.health = health[i->health];
	for (size_t n = 0; n < i->n_meta; n++)
		obs_build_meta(&b, i->keys[n], i->values[n]);
	obs_build_emit(&b, s->ctx);
}

static void emit_discover(struct stream *s, const char *service)
{
	struct obs_build b;

	obs_build_init(&b, OBS_DISCOVER, "zookeeper", &s->server);
	b.o.service = obs_build_text(&b, service);
	if (b.o.service)
		obs_build_emit(&b, s->ctx);
}

/* Tells that a node's instance is gone, if it was told that it is there. */
static void emit_gone(const struct zk_node *n, const struct discover_ctx *ctx)
{
	struct obs_build b;

	if (!n->told)
		return;
	obs_build_init(&b, OBS_DEREGISTER, "zookeeper", &n->registry);
	b.o.service = obs_build_text(&b, n->service);
	b.o.instance = obs_build_text(&b, n->instance);
	b.o.host = obs_build_text(&b, n->host);
	b.o.app_protocol = obs_build_text(&b, n->app_protocol);
	b.o.address = n->address;
	b.o.port = n->port;
	b.o.transport = "tcp";
	obs_build_emit(&b, ctx);
}

static void node_gone(struct zk_guest *g, struct zk_node *n, const struct discover_ctx *ctx)
{
	emit_gone(n, ctx);
	zk_guest_remove_node(g, n);
}

static void session_gone(struct zk_guest *g, uint64_t id, const struct discover_ctx *ctx)
{
	struct zk_session *session = zk_guest_find_session(g, id);

	if (!id)
		return;
	list_for_each_safe(l, &g->in_order) {
		struct zk_node *n = list_entry(l, struct zk_node, in_order);

		if (n->session == id)
			node_gone(g, n, ctx);
	}
	if (session)
		zk_guest_remove_session(g, session);
}

/*
 * The session of this connection. One whose beginning was missed gets a number
 * of its own until a reply tells the right one.
 */
static uint64_t own_session(struct stream *s)
{
	struct zk_session *session;

	if (!s->session) {
		s->session = map_hash(&s->client, sizeof(s->client)) ^ (uint64_t)(uintptr_t)s;
		s->session |= 1;
		session = zk_guest_session(s->guest, s->session);
		if (session)
			session->last_ns = s->ctx->time_ns;
	}
	return s->session;
}

/* A stat names the session for sure. */
static void learn_session(struct stream *s, uint64_t id)
{
	struct zk_session *session = id ? zk_guest_session(s->guest, id) : NULL;

	if (!session || s->session)
		return;
	s->session = id;
	session->last_ns = s->ctx->time_ns;
}

static char *keep(const char *text)
{
	return text[0] ? strdup(text) : NULL;
}

static void keep_instance(struct stream *s, struct zk_node *n, const struct zk_instance *i, uint64_t hash)
{
	free(n->service);
	free(n->instance);
	free(n->host);
	free(n->app_protocol);
	n->service = keep(i->service);
	n->instance = keep(i->id);
	n->app_protocol = keep(i->scheme);
	n->host = NULL;
	n->address = i->address[0] ? (struct ip){} : s->client.ip;
	if (i->address[0] && ip_parse(i->address, &n->address) < 0)
		n->host = keep(i->address);
	n->port = i->port;
	n->registry = s->server;
	n->hash = hash;
	n->told = true;
}

/* A new service or id in place of the old one is another instance. */
static bool renamed(const struct zk_node *n, const struct zk_instance *i)
{
	return n->told && ((n->service && strcmp(n->service, i->service) != 0) || (n->instance && strcmp(n->instance, i->id) != 0));
}

/*
 * Dubbo's consumers write themselves down and then watch the providers: one
 * question, whichever of the two comes first.
 */
static void on_consumer(struct stream *s, const char *path, const char *service)
{
	char consumers[MAX_PATH], above[MAX_PATH], providers[MAX_PATH];
	struct zk_dir *d;

	zk_path_dir(path, consumers, sizeof(consumers));
	zk_path_dir(consumers, above, sizeof(above));
	if (snprintf(providers, sizeof(providers), "%s/providers", above) >= (int)sizeof(providers))
		return;
	d = zk_asked_dir(&s->asked, providers);
	if (d && d->announced)
		return;
	emit_discover(s, service);
	if (d) {
		d->announced = d->watched = true;
		d->round++;
	}
}

/* A node of this guest has this data now. */
static void node_written(struct stream *s, const char *path, uint64_t session, struct jute_str data, uint64_t ttl_ms)
{
	struct zk_node *n = zk_guest_find_node(s->guest, path);
	struct zk_instance i;
	char service[ZK_INSTANCE_MAX_NAME];
	uint64_t hash;

	if (zk_instance_read_consumer(path, service)) {
		on_consumer(s, path, service);
		return;
	}
	if (!zk_instance_read(path, data.p, data.len, &i))
		return;
	hash = instance_hash(&i);
	if ((session || ttl_ms || i.lasting) && (n || (n = zk_guest_node(s->guest, path)))) {
		if (renamed(n, &i))
			emit_gone(n, s->ctx);
		if (!n->told || n->hash != hash)
			emit_instance(s, OBS_REGISTER, &i, (uint32_t)MIN(ttl_ms / 1000, (uint64_t)UINT32_MAX));
		n->session = session;
		keep_instance(s, n, &i, hash);
	}
	zk_instance_deinit(&i);
}

/* Who takes part in a lock asks for the others that do: no question for a service. */
static void note_recipe(struct stream *s, const char *path)
{
	char dir[MAX_PATH];
	struct zk_dir *d;

	if (!zk_path_is_recipe(path))
		return;
	zk_path_dir(path, dir, sizeof(dir));
	d = zk_asked_dir(&s->asked, dir);
	if (d)
		d->recipe = true;
}

static void on_created(struct stream *s, const struct jute_request *r, struct jute_str reply_path)
{
	bool ephemeral = jute_flags_ephemeral(r->flags);
	char path[MAX_PATH];
	struct zk_node *n;

	/* The reply knows the sequence number. */
	if (!copy_path(reply_path.len ? reply_path : r->path, path))
		return;
	note_recipe(s, path);
	n = zk_guest_find_node(s->guest, path);
	if (n)				/* its end was missed */
		node_gone(s->guest, n, s->ctx);
	if (ephemeral) {
		n = zk_guest_node(s->guest, path);
		if (n)
			n->session = own_session(s);
	}
	node_written(s, path, ephemeral ? own_session(s) : 0, r->data, r->op == JUTE_CREATE_TTL ? r->ttl_ms : 0);
}

static void on_data_set(struct stream *s, const struct jute_request *r, uint64_t owner)
{
	char path[MAX_PATH];
	struct zk_node *n;

	if (!copy_path(r->path, path))
		return;
	n = zk_guest_find_node(s->guest, path);
	if (!n && !owner) {
		node_written(s, path, 0, r->data, 0);
		return;
	}
	node_written(s, path, n ? n->session : owner, r->data, 0);
}

static void on_deleted(struct stream *s, const struct jute_request *r)
{
	char path[MAX_PATH];
	struct zk_node *n = copy_path(r->path, path) ? zk_guest_find_node(s->guest, path) : NULL;

	if (n)
		node_gone(s->guest, n, s->ctx);
}

static void on_multi(struct stream *s, const struct jute_request *multi, struct jute_reply *reply)
{
	struct wire ops = multi->ops;
	struct jute_request r;
	struct jute_str path;
	int32_t op;

	while (jute_multi_request_next(&ops, &r) && jute_multi_reply_next(&reply->body, &op, &path)) {
		if (op == JUTE_ERROR)
			continue;
		if (jute_op_creates(r.op))
			on_created(s, &r, path);
		else if (r.op == JUTE_SET_DATA)
			on_data_set(s, &r, 0);
		else if (r.op == JUTE_DELETE)
			on_deleted(s, &r);
	}
}

/* A question for the children of @dir. What is no service by its path is told when an instance turns up in it. */
static void on_children_asked(struct stream *s, const char *dir, bool watch)
{
	struct zk_dir *d = zk_dir_is_dubbo_other(dir) ? NULL : zk_asked_dir(&s->asked, dir);
	char service[ZK_INSTANCE_MAX_NAME];
	bool goes_on;

	if (!d || d->recipe)
		return;
	goes_on = d->round && d->watched && watch;
	d->watched = watch;
	if (goes_on)
		return;
	d->round++;
	d->announced = zk_dir_is_service(dir);
	if (d->announced) {
		zk_dir_service(dir, service);
		emit_discover(s, service);
	}
}

static void answered(struct stream *s, const char *path, const struct zk_instance *i)
{
	char dir[MAX_PATH];
	struct zk_dir *d;

	zk_path_dir(path, dir, sizeof(dir));
	d = zk_asked_dir(&s->asked, dir);
	if (!d)
		return;
	if (!d->announced)
		emit_discover(s, i->service);
	d->announced = true;
	if (zk_asked_news(&s->asked, path, instance_hash(i), d->round))
		emit_instance(s, OBS_ANSWER, i, 0);
}

/* Is this the guest looking at what it wrote itself, and not at a service? */
static bool reads_own(struct stream *s, const char *path)
{
	char dir[MAX_PATH];

	zk_path_dir(path, dir, sizeof(dir));
	return zk_guest_find_node(s->guest, path) && !zk_asked_find_dir(&s->asked, dir);
}

static void on_data(struct stream *s, const struct jute_request *r, struct jute_reply *reply)
{
	struct jute_str data = jute_read_str(&reply->body);
	struct jute_stat stat = jute_read_stat(&reply->body);
	struct zk_instance i;
	char path[MAX_PATH];

	if (reply->body.bad || !copy_path(r->path, path) || reads_own(s, path) || !zk_instance_read(path, data.p, data.len, &i))
		return;
	if (stat.ephemeral_owner || i.lasting)
		answered(s, path, &i);
	zk_instance_deinit(&i);
}

/* Names that say it all: no one reads the data of those. */
static bool told_by_name(const char *dir, const struct zk_instance *i)
{
	return i->scheme[0] || strncmp(dir, "/services/", 10) != 0;
}

static void on_children(struct stream *s, const struct jute_request *r, struct jute_reply *reply)
{
	uint32_t n = MIN(jute_read_count(&reply->body), (uint32_t)MAX_CHILDREN);
	char dir[MAX_PATH], path[MAX_PATH];

	if (!copy_path(r->path, dir) || zk_dir_is_dubbo_other(dir))
		return;
	while (n--) {
		struct jute_str child = jute_read_str(&reply->body);
		struct zk_instance i;

		if (reply->body.bad)
			return;
		if (snprintf(path, sizeof(path), "%s/%.*s", dir, (int)child.len, child.p ? child.p : "") >= (int)sizeof(path))
			continue;
		if (!zk_instance_read_name(path, &i))
			continue;
		if (told_by_name(dir, &i))
			answered(s, path, &i);
		zk_instance_deinit(&i);
	}
}

static void on_reply(struct stream *s, const struct jute_request *r, struct jute_reply *reply)
{
	struct jute_str path = {};

	switch (r->op) {
	case JUTE_CREATE:
	case JUTE_CREATE2:
	case JUTE_CREATE_CONTAINER:
	case JUTE_CREATE_TTL:
		path = jute_read_str(&reply->body);
		if (jute_flags_ephemeral(r->flags) && r->op != JUTE_CREATE)
			learn_session(s, jute_read_stat(&reply->body).ephemeral_owner);
		on_created(s, r, path);
		break;
	case JUTE_SET_DATA:
		on_data_set(s, r, jute_read_stat(&reply->body).ephemeral_owner);
		break;
	case JUTE_DELETE:
		on_deleted(s, r);
		break;
	case JUTE_MULTI:
		on_multi(s, r, reply);
		break;
	case JUTE_GET_DATA:
		on_data(s, r, reply);
		break;
	case JUTE_GET_CHILDREN:
	case JUTE_GET_CHILDREN2:
		on_children(s, r, reply);
		break;
	case JUTE_CLOSE:
		session_gone(s->guest, s->session, s->ctx);
		break;
	default:
		break;
	}
}

/* WatcherEvent: type, state, path. Another client may delete what this one made. */
static void on_event(struct stream *s, struct jute_reply *reply)
{
	int32_t type = (int32_t)wire_u32(&reply->body);
	char path[MAX_PATH];
	struct zk_node *n;

	wire_u32(&reply->body);
	if (type != JUTE_EVENT_DELETED || !copy_path(jute_read_str(&reply->body), path))
		return;
	n = zk_guest_find_node(s->guest, path);
	if (n)
		node_gone(s->guest, n, s->ctx);
}

static bool is_kept(int32_t op)
{
	return jute_op_creates(op) || op == JUTE_DELETE || op == JUTE_SET_DATA || op == JUTE_MULTI || op == JUTE_GET_DATA ||
	       op == JUTE_GET_CHILDREN || op == JUTE_GET_CHILDREN2 || op == JUTE_CLOSE;
}

static bool on_connect(struct stream *s, const uint8_t *frame, size_t len)
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
	struct stream *s = data;
	bool first = !s->begun;
	struct jute_request r;
	char path[MAX_PATH];

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
	if ((r.op == JUTE_GET_CHILDREN || r.op == JUTE_GET_CHILDREN2) && copy_path(r.path, path))
		on_children_asked(s, path, r.watch);
	return true;
}

/* The answer to connect: the session's number and timeout, or that it has expired. */
static void on_connected(struct stream *s, const uint8_t *frame, size_t len)
{
	struct zk_session *session;
	struct jute_connect c;

	s->connecting = false;
	if (!jute_connect_response(frame, len, &c))
		return;
	if (s->asked_session && c.session != s->asked_session)
		session_gone(s->guest, s->asked_session, s->ctx);
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
	struct stream *s = data;
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
	struct stream *s = stream;

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
	struct stream *s = calloc(1, sizeof(*s));

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
	struct stream *s = stream;
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
	struct stream *s = stream;

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
	struct stream *s = stream;

	if (dir == DISCOVER_FROM_REGISTRY && !s->answered)
		on_refused(s->guest, ctx);
	if (dir == DISCOVER_FROM_REGISTRY && zk_queue_has_op(&s->queue, JUTE_CLOSE))
		session_gone(s->guest, s->session, ctx);
}

static void tick(void *guest, const struct discover_ctx *ctx)
{
	struct zk_guest *g = guest;

	map_for_each(l, &g->sessions) {
		struct zk_session *session = list_entry(l, struct zk_session, link);

		if (ctx->time_ns > session->last_ns && (ctx->time_ns - session->last_ns) / 1000000 > session->timeout_ms)
			session_gone(g, session->id, ctx);
	}
}

const struct discover_protocol discover_zookeeper = {
	.name = "zookeeper",
	.tcp_ports = { 2181 },
	.guest_new = guest_new,
	.guest_free = guest_free,
	.stream_new = stream_new,
	.stream_free = stream_free,
	.stream_data = stream_data,
	.stream_gap = stream_gap,
	.stream_end = stream_end,
	.tick = tick,
};

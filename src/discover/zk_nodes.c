/*
 * The nodes that a guest's sessions keep at ZooKeeper, and the instances that
 * they are.
 */
#include "discover/zk_observer.h"

#include <stdlib.h>
#include <string.h>

#include "discover/obs_build.h"

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

void zk_node_gone(struct zk_guest *g, struct zk_node *n, const struct discover_ctx *ctx)
{
	emit_gone(n, ctx);
	zk_guest_remove_node(g, n);
}

void zk_session_gone(struct zk_guest *g, uint64_t id, const struct discover_ctx *ctx)
{
	struct zk_session *session = zk_guest_find_session(g, id);

	if (!id)
		return;
	list_for_each_safe(l, &g->in_order) {
		struct zk_node *n = list_entry(l, struct zk_node, in_order);

		if (n->session == id)
			zk_node_gone(g, n, ctx);
	}
	if (session)
		zk_guest_remove_session(g, session);
}

/*
 * The session of this connection. One whose beginning was missed gets a number
 * of its own until a reply tells the right one.
 */
static uint64_t own_session(struct zk_observer *s)
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

void zk_learn_session(struct zk_observer *s, uint64_t id)
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

static void keep_instance(struct zk_observer *s, struct zk_node *n, const struct zk_instance *i, uint64_t hash)
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

/* A node of this guest has this data now. */
static void node_written(struct zk_observer *s, const char *path, uint64_t session, struct jute_str data, uint64_t ttl_ms)
{
	struct zk_node *n = zk_guest_find_node(s->guest, path);
	struct zk_instance i;
	char service[ZK_INSTANCE_MAX_NAME];
	uint64_t hash;

	if (zk_instance_read_consumer(path, service)) {
		zk_on_consumer(s, path, service);
		return;
	}
	if (!zk_instance_read(path, data.p, data.len, &i))
		return;
	hash = zk_instance_hash(&i);
	if ((session || ttl_ms || i.lasting) && (n || (n = zk_guest_node(s->guest, path)))) {
		if (renamed(n, &i))
			emit_gone(n, s->ctx);
		if (!n->told || n->hash != hash)
			zk_emit_instance(s, OBS_REGISTER, &i, (uint32_t)MIN(ttl_ms / 1000, (uint64_t)UINT32_MAX));
		n->session = session;
		keep_instance(s, n, &i, hash);
	}
	zk_instance_deinit(&i);
}

void zk_on_created(struct zk_observer *s, const struct jute_request *r, struct jute_str reply_path)
{
	bool ephemeral = jute_flags_ephemeral(r->flags);
	char path[ZK_OBSERVER_MAX_PATH];
	struct zk_node *n;

	/* The reply knows the sequence number. */
	if (!zk_copy_path(reply_path.len ? reply_path : r->path, path))
		return;
	zk_note_recipe(s, path);
	n = zk_guest_find_node(s->guest, path);
	if (n)				/* its end was missed */
		zk_node_gone(s->guest, n, s->ctx);
	if (ephemeral) {
		n = zk_guest_node(s->guest, path);
		if (n)
			n->session = own_session(s);
	}
	node_written(s, path, ephemeral ? own_session(s) : 0, r->data, r->op == JUTE_CREATE_TTL ? r->ttl_ms : 0);
}

void zk_on_data_set(struct zk_observer *s, const struct jute_request *r, uint64_t owner)
{
	char path[ZK_OBSERVER_MAX_PATH];
	struct zk_node *n;

	if (!zk_copy_path(r->path, path))
		return;
	n = zk_guest_find_node(s->guest, path);
	if (!n && !owner) {
		node_written(s, path, 0, r->data, 0);
		return;
	}
	node_written(s, path, n ? n->session : owner, r->data, 0);
}

void zk_on_deleted(struct zk_observer *s, const struct jute_request *r)
{
	char path[ZK_OBSERVER_MAX_PATH];
	struct zk_node *n = zk_copy_path(r->path, path) ? zk_guest_find_node(s->guest, path) : NULL;

	if (n)
		zk_node_gone(s->guest, n, s->ctx);
}

void zk_on_multi(struct zk_observer *s, const struct jute_request *multi, struct jute_reply *reply)
{
	struct wire ops = multi->ops;
	struct jute_request r;
	struct jute_str path;
	int32_t op;

	while (jute_multi_request_next(&ops, &r) && jute_multi_reply_next(&reply->body, &op, &path)) {
		if (op == JUTE_ERROR)
			continue;
		if (jute_op_creates(r.op))
			zk_on_created(s, &r, path);
		else if (r.op == JUTE_SET_DATA)
			zk_on_data_set(s, &r, 0);
		else if (r.op == JUTE_DELETE)
			zk_on_deleted(s, &r);
	}
}

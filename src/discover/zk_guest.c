/*
 * Sessions and nodes of a guest at ZooKeeper: see zk_guest.h.
 */
#include "discover/zk_guest.h"

#include <stdlib.h>
#include <string.h>

struct zk_guest *zk_guest_new(void)
{
	struct zk_guest *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	map_init(&g->sessions);
	map_init(&g->nodes);
	list_init(&g->in_order);
	return g;
}

static void node_free(struct zk_node *n)
{
	free(n->path);
	free(n->service);
	free(n->instance);
	free(n->host);
	free(n->app_protocol);
	free(n);
}

struct zk_guest *zk_guest_free(struct zk_guest *g)
{
	if (!g)
		return NULL;
	map_for_each(l, &g->sessions)
		free(list_entry(l, struct zk_session, link));
	map_for_each(l, &g->nodes)
		node_free(list_entry(l, struct zk_node, link));
	map_deinit(&g->sessions);
	map_deinit(&g->nodes);
	free(g);
	return NULL;
}

struct zk_session *zk_guest_find_session(const struct zk_guest *g, uint64_t id)
{
	struct map_link *l = map_find(&g->sessions, &id, sizeof(id));

	return l ? list_entry(l, struct zk_session, link) : NULL;
}

struct zk_session *zk_guest_session(struct zk_guest *g, uint64_t id)
{
	struct zk_session *s = zk_guest_find_session(g, id);

	if (s || g->sessions.n >= ZK_GUEST_MAX_SESSIONS)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	s->id = id;
	s->timeout_ms = ZK_DEFAULT_TIMEOUT_MS;
	if (map_add(&g->sessions, &s->link, &s->id, sizeof(s->id)) < 0) {
		free(s);
		return NULL;
	}
	return s;
}

void zk_guest_remove_session(struct zk_guest *g, struct zk_session *s)
{
	map_remove(&g->sessions, &s->link);
	free(s);
}

struct zk_node *zk_guest_find_node(const struct zk_guest *g, const char *path)
{
	struct map_link *l = map_find_str(&g->nodes, path);

	return l ? list_entry(l, struct zk_node, link) : NULL;
}

struct zk_node *zk_guest_node(struct zk_guest *g, const char *path)
{
	struct zk_node *n = zk_guest_find_node(g, path);

	if (n || g->nodes.n >= ZK_GUEST_MAX_NODES)
		return n;
	n = calloc(1, sizeof(*n));
	if (!n)
		return NULL;
	n->path = strdup(path);
	if (!n->path || map_add(&g->nodes, &n->link, n->path, strlen(n->path)) < 0) {
		node_free(n);
		return NULL;
	}
	list_append(&g->in_order, &n->in_order);
	return n;
}

void zk_guest_remove_node(struct zk_guest *g, struct zk_node *n)
{
	map_remove(&g->nodes, &n->link);
	list_unlink(&n->in_order);
	node_free(n);
}

/*
 * A guest's registrations at Consul: see consul_guest.h.
 */
#include "discover/consul_guest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct check {
	struct map_link link;
	char *id;
	char *instance;
};

struct consul_guest *consul_guest_new(void)
{
	struct consul_guest *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	map_init(&g->instances);
	list_init(&g->in_order);
	map_init(&g->checks);
	map_init(&g->watches);
	return g;
}

static void known_free(struct consul_known *k)
{
	free(k->key);
	free(k->node);
	free(k->id);
	free(k->service);
	free(k->host);
	free(k);
}

static void check_free(struct check *c)
{
	free(c->id);
	free(c->instance);
	free(c);
}

static void watch_free(struct consul_watch *w)
{
	free(w->key);
	free(w->seen);
	free(w);
}

struct consul_guest *consul_guest_free(struct consul_guest *g)
{
	if (!g)
		return NULL;
	map_for_each(l, &g->instances)
		known_free(list_entry(l, struct consul_known, link));
	map_for_each(l, &g->checks)
		check_free(list_entry(l, struct check, link));
	map_for_each(l, &g->watches)
		watch_free(list_entry(l, struct consul_watch, link));
	map_deinit(&g->instances);
	map_deinit(&g->checks);
	map_deinit(&g->watches);
	free(g);
	return NULL;
}

static char *make_key(const char *node, const char *id)
{
	char *key;

	return asprintf(&key, "%s\n%s", node, id) < 0 ? NULL : key;
}

static struct consul_known *lookup(const struct consul_guest *g, const char *node, const char *id)
{
	CLEANUP_FREE char *key = make_key(node, id);
	struct map_link *l = key ? map_find_str(&g->instances, key) : NULL;

	return l ? list_entry(l, struct consul_known, link) : NULL;
}

struct consul_known *consul_guest_find(const struct consul_guest *g, const char *node, const char *id)
{
	struct consul_known *k = lookup(g, node, id);

	if (k)
		return k;
	if (*node)		/* what an agent registered, named with the agent's node */
		return lookup(g, "", id);
	list_for_each(l, &g->in_order) {
		k = list_entry(l, struct consul_known, in_order);
		if (strcmp(k->id, id) == 0)
			return k;
	}
	return NULL;
}

static bool set_text(char **to, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return false;
	free(*to);
	*to = copy;
	return true;
}

struct consul_known *consul_guest_add(struct consul_guest *g, const char *node, const char *id, const char *service)
{
	struct consul_known *k = lookup(g, node, id);

	if (k)
		return set_text(&k->service, service) ? k : NULL;
	if (g->instances.n >= CONSUL_GUEST_MAX_INSTANCES)
		return NULL;
	k = calloc(1, sizeof(*k));
	if (!k)
		return NULL;
	k->key = make_key(node, id);
	k->node = strdup(node);
	k->id = strdup(id);
	k->service = strdup(service);
	if (!k->key || !k->node || !k->id || !k->service || map_add(&g->instances, &k->link, k->key, strlen(k->key)) < 0) {
		known_free(k);
		return NULL;
	}
	list_append(&g->in_order, &k->in_order);
	return k;
}

void consul_guest_remove(struct consul_guest *g, struct consul_known *k)
{
	map_for_each(l, &g->checks) {
		struct check *c = list_entry(l, struct check, link);

		if (strcmp(c->instance, k->id) == 0) {
			map_remove(&g->checks, l);
			check_free(c);
		}
	}
	map_remove(&g->instances, &k->link);
	list_unlink(&k->in_order);
	known_free(k);
}

bool consul_guest_add_check(struct consul_guest *g, const char *check_id, const char *instance_id)
{
	struct map_link *l = map_find_str(&g->checks, check_id);

	if (l)
		return set_text(&list_entry(l, struct check, link)->instance, instance_id);
	if (g->checks.n >= CONSUL_GUEST_MAX_CHECKS)
		return false;

	struct check *c = calloc(1, sizeof(*c));
	if (!c)
		return false;
	c->id = strdup(check_id);
	c->instance = strdup(instance_id);
	if (!c->id || !c->instance || map_add(&g->checks, &c->link, c->id, strlen(c->id)) < 0) {
		check_free(c);
		return false;
	}
	return true;
}

void consul_guest_remove_check(struct consul_guest *g, const char *check_id)
{
	struct map_link *l = map_find_str(&g->checks, check_id);

	if (!l)
		return;
	map_remove(&g->checks, l);
	check_free(list_entry(l, struct check, link));
}

const char *consul_guest_check_instance(const struct consul_guest *g, const char *check_id, char *buf, size_t size)
{
	static const char prefix[] = "service:";
	struct map_link *l = map_find_str(&g->checks, check_id);

	if (l)
		return list_entry(l, struct check, link)->instance;
	if (strncmp(check_id, prefix, sizeof(prefix) - 1) != 0)
		return NULL;
	if ((size_t)snprintf(buf, size, "%s", check_id + sizeof(prefix) - 1) >= size || !*buf)
		return NULL;
	if (consul_guest_find(g, "", buf))
		return buf;

	/* "service:<id>:<n>", unless the number is a part of the id (registrator's host:name:port) that is unknown. */
	char *colon = strrchr(buf, ':');
	if (!colon || colon == buf || !colon[1] || colon[1 + strspn(colon + 1, "0123456789")])
		return buf;
	*colon = '\0';
	if (consul_guest_find(g, "", buf) || strlen(colon + 1) <= 2)
		return buf;
	*colon = ':';
	return buf;
}

struct consul_watch *consul_guest_find_watch(const struct consul_guest *g, const char *key)
{
	struct map_link *l = map_find_str(&g->watches, key);

	return l ? list_entry(l, struct consul_watch, link) : NULL;
}

struct consul_watch *consul_guest_watch(struct consul_guest *g, const char *key, bool *ret_known)
{
	struct consul_watch *w = consul_guest_find_watch(g, key);

	if (w) {
		*ret_known = true;
		return w;
	}
	if (g->watches.n >= CONSUL_GUEST_MAX_WATCHES)
		return NULL;
	w = calloc(1, sizeof(*w));
	if (!w)
		return NULL;
	w->key = strdup(key);
	if (!w->key || map_add(&g->watches, &w->link, w->key, strlen(w->key)) < 0) {
		watch_free(w);
		return NULL;
	}
	*ret_known = false;
	return w;
}

bool consul_watch_saw(const struct consul_watch *w, uint64_t hash)
{
	for (size_t i = 0; i < w->n_seen; i++)
		if (w->seen[i] == hash)
			return true;
	return false;
}

void consul_watch_set(struct consul_watch *w, uint64_t *hashes, size_t n)
{
	free(w->seen);
	w->seen = hashes;
	w->n_seen = n;
}

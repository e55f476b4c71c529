/*
 * The cache between the registry and the discovery streams.
 */
#include "control/resources.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

/* Everybody who has one alias or one parent. */
struct group {
	struct map_link link;
	struct list aliases;	/* resource_ref.link */
	struct list children;
	char name[];
};

struct resource_ref {
	struct list link;
	struct group *group;
	struct resource *resource;
};

void resources_init(struct resources *r)
{
	*r = (struct resources){};
	list_init(&r->changes);
}

void resources_listen(struct resources *r, void (*changed)(void *data), void *data)
{
	r->changed = changed;
	r->data = data;
}

static void group_put_back(struct resources *r, enum resource_type type, struct group *g)
{
	if (!list_empty(&g->aliases) || !list_empty(&g->children))
		return;
	map_remove(&r->groups[type], &g->link);
	free(g);
}

static struct group *group_get(struct resources *r, enum resource_type type, const char *name)
{
	struct map_link *l = map_find_str(&r->groups[type], name);
	size_t size = strlen(name) + 1;
	struct group *g;

	if (l)
		return container_of(l, struct group, link);
	g = malloc(sizeof(*g) + size);
	if (!g)
		return NULL;
	memcpy(g->name, name, size);
	list_init(&g->aliases);
	list_init(&g->children);
	if (map_add(&r->groups[type], &g->link, g->name, size - 1) < 0) {
		free(g);
		return NULL;
	}
	return g;
}

static void refs_free(struct resources *r, enum resource_type type, struct resource_ref *refs, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		list_unlink(&refs[i].link);
		group_put_back(r, type, refs[i].group);
	}
	free(refs);
}

static int refs_new(struct resources *r, struct resource *res, const struct resource_content *c, struct resource_ref **ret_refs)
{
	size_t n = c->n_aliases + c->n_parents;
	struct resource_ref *refs = calloc(n ? n : 1, sizeof(*refs));

	if (!refs)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		bool alias = i < c->n_aliases;
		struct group *g = group_get(r, res->type, alias ? c->aliases[i] : c->parents[i - c->n_aliases]);

		if (!g) {
			refs_free(r, res->type, refs, i);
			return -ENOMEM;
		}
		refs[i].group = g;
		refs[i].resource = res;
		list_append(alias ? &g->aliases : &g->children, &refs[i].link);
	}
	*ret_refs = refs;
	return 0;
}

static void resource_free(struct resources *r, struct resource *res)
{
	refs_free(r, res->type, res->refs, res->n_refs);
	list_unlink(&res->changed);
	map_remove(&r->by_name[res->type], &res->link);
	free(res->bytes);
	free(res->name);
	free(res);
}

void resources_deinit(struct resources *r)
{
	for (int t = 0; t < _RESOURCE_TYPE_N; t++) {
		map_for_each(l, &r->by_name[t])
			resource_free(r, container_of(l, struct resource, link));
		map_deinit(&r->by_name[t]);
		map_deinit(&r->groups[t]);
	}
}

static void note_change(struct resources *r, struct resource *res)
{
	bool first = list_empty(&r->changes);

	if (list_empty(&res->changed))
		list_append(&r->changes, &res->changed);
	if (first && r->changed)
		r->changed(r->data);
}

static struct resource *find_any(const struct resources *r, enum resource_type type, const char *name)
{
	struct map_link *l = map_find_str(&r->by_name[type], name);

	return l ? container_of(l, struct resource, link) : NULL;
}

struct resource *resources_find(const struct resources *r, enum resource_type type, const char *name)
{
	struct resource *res = find_any(r, type, name);

	return res && !res->removed ? res : NULL;
}

struct resource *resources_find_same(const struct resources *r, enum resource_type type, const struct map_link *key)
{
	struct map_link *l = map_find_same(&r->by_name[type], key);
	struct resource *res = l ? container_of(l, struct resource, link) : NULL;

	return res && !res->removed ? res : NULL;
}

static struct resource *resource_new(struct resources *r, enum resource_type type, const char *name)
{
	struct resource *res = calloc(1, sizeof(*res));

	if (!res)
		return NULL;
	res->type = type;
	list_init(&res->changed);
	res->name = strdup(name);
	if (!res->name || map_add(&r->by_name[type], &res->link, res->name, strlen(res->name)) < 0) {
		free(res->name);
		free(res);
		return NULL;
	}
	return res;
}

static bool same_refs(const struct resource *res, const struct resource_content *c)
{
	if (res->n_aliases != c->n_aliases || res->n_refs != c->n_aliases + c->n_parents)
		return false;
	for (size_t i = 0; i < res->n_refs; i++)
		if (strcmp(res->refs[i].group->name, i < c->n_aliases ? c->aliases[i] : c->parents[i - c->n_aliases]) != 0)
			return false;
	return true;
}

static void make_version(const void *bytes, size_t len, char version[static RESOURCE_VERSION_LEN])
{
	uint8_t hash[SHA256_DIGEST_LENGTH];

	SHA256(bytes, len, hash);
	for (size_t i = 0; i < (RESOURCE_VERSION_LEN - 1) / 2; i++)
		snprintf(version + 2 * i, 3, "%02x", hash[i]);
}

int resources_put(struct resources *r, enum resource_type type, const char *name, const struct resource_content *c)
{
	struct resource *res = find_any(r, type, name);
	bool is_new = !res;
	struct resource_ref *refs;

	if (res && !res->removed && res->len == c->len && !memcmp(res->bytes, c->bytes, c->len) && same_refs(res, c))
		return 0;
	if (!res)
		res = resource_new(r, type, name);
	uint8_t *bytes = malloc(c->len ? c->len : 1);
	if (!res || !bytes || refs_new(r, res, c, &refs) < 0) {
		free(bytes);
		if (res && is_new)
			resource_free(r, res);
		return -ENOMEM;
	}
	refs_free(r, type, res->refs, res->n_refs);
	res->refs = refs;
	res->n_aliases = c->n_aliases;
	res->n_refs = c->n_aliases + c->n_parents;
	free(res->bytes);
	if (c->len)
		memcpy(bytes, c->bytes, c->len);
	res->bytes = bytes;
	res->len = c->len;
	res->removed = false;
	make_version(bytes, c->len, res->version);
	note_change(r, res);
	return 0;
}

void resources_remove(struct resources *r, enum resource_type type, const char *name)
{
	struct resource *res = resources_find(r, type, name);

	if (!res)
		return;
	res->removed = true;
	note_change(r, res);
}

void resources_settle(struct resources *r)
{
	list_for_each_safe(l, &r->changes) {
		struct resource *res = list_entry(l, struct resource, changed);

		list_unlink(l);
		if (res->removed)
			resource_free(r, res);
	}
	r->completed = false;
}

void resources_set_complete(struct resources *r, bool complete)
{
	if (complete != r->incomplete)
		return;
	r->incomplete = !complete;
	r->completed = complete;
	if (complete && r->changed)
		r->changed(r->data);
}

const char *resource_alias(const struct resource *res, size_t i)
{
	return res->refs[i].group->name;
}

const struct map_link *resource_ref_link(const struct resource *res, size_t i)
{
	return &res->refs[i].group->link;
}

const char *resource_parent(const struct resource *res, size_t i)
{
	return res->refs[res->n_aliases + i].group->name;
}

static int each(const struct list *head, int (*fn)(struct resource *res, void *data), void *data)
{
	for (struct list *l = head->next, *next; l != head; l = next) {
		struct resource *res = list_entry(l, struct resource_ref, link)->resource;
		int r;

		next = l->next;
		r = res->removed ? 0 : fn(res, data);
		if (r)
			return r;
	}
	return 0;
}

int resources_each_alias(const struct resources *r, enum resource_type type, const char *name,
			 int (*fn)(struct resource *res, void *data), void *data)
{
	struct map_link *l = map_find_str(&r->groups[type], name);

	return l ? each(&container_of(l, struct group, link)->aliases, fn, data) : 0;
}

int resources_each_child(const struct resources *r, enum resource_type type, const char *name,
			 int (*fn)(struct resource *res, void *data), void *data)
{
	struct map_link *l = map_find_str(&r->groups[type], name);

	return l ? each(&container_of(l, struct group, link)->children, fn, data) : 0;
}

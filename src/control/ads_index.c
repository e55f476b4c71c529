/*
 * Discovery streams by what they are interested in.
 */
#include "control/ads_index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct topic {				/* a name in which somebody is interested */
	struct map_link link;
	struct list interests;
	char name[];
};

void ads_index_init(struct ads_index *x)
{
	*x = (struct ads_index){};
	for (int t = 0; t < _RESOURCE_TYPE_N; t++)
		list_init(&x->all[t]);
}

void ads_index_deinit(struct ads_index *x)
{
	for (int t = 0; t < _RESOURCE_TYPE_N; t++)
		map_deinit(&x->topics[t]);
	map_deinit(&x->own);
}

static struct topic *topic_of(struct map_link *l)
{
	return l ? container_of(l, struct topic, link) : NULL;
}

static struct topic *topic_new(struct map *in, const char *name)
{
	size_t size = strlen(name) + 1;
	struct topic *t = malloc(sizeof(*t) + size);

	if (!t)
		return NULL;
	list_init(&t->interests);
	memcpy(t->name, name, size);
	if (map_add(in, &t->link, t->name, size - 1) == 0)
		return t;
	free(t);
	return NULL;
}

int ads_interest_add(struct map *in, const char *name, struct ads_interest *i, struct ads_stream *stream)
{
	struct topic *t = topic_of(map_find_str(in, name));

	if (!t)
		t = topic_new(in, name);
	if (!t)
		return -ENOMEM;
	i->stream = stream;
	list_append(&t->interests, &i->link);
	return 0;
}

void ads_interest_drop(struct map *in, const char *name, struct ads_interest *i)
{
	struct topic *t = i->stream ? topic_of(map_find_str(in, name)) : NULL;

	if (!t)
		return;
	list_unlink(&i->link);
	i->stream = NULL;
	if (!list_empty(&t->interests))
		return;
	map_remove(in, &t->link);
	free(t);
}

typedef void each_fn(struct ads_stream *s, enum resource_type type);

static void each(const struct list *interests, enum resource_type type, each_fn *fn)
{
	list_for_each(l, interests)
		fn(list_entry(l, struct ads_interest, link)->stream, type);
}

static void each_of(const struct map *in, const struct map_link *name, enum resource_type type, each_fn *fn)
{
	const struct topic *t = topic_of(map_find_same(in, name));

	if (t)
		each(&t->interests, type, fn);
}

void ads_index_each(const struct ads_index *x, const struct resources *r, const struct resource *res, each_fn *fn)
{
	const struct map *topics = &x->topics[res->type];

	each(&x->all[res->type], res->type, fn);
	each_of(topics, &res->link, res->type, fn);
	for (size_t i = 0; i < res->n_refs; i++) {
		const struct map_link *ref = resource_ref_link(res, i);
		const struct resource *parent = i < res->n_aliases ? NULL : resources_find_same(r, res->type, ref);

		each_of(topics, ref, res->type, fn);
		each_of(&x->own, ref, res->type, fn);
		for (size_t k = 0; parent && k < parent->n_aliases; k++) {
			each_of(topics, resource_ref_link(parent, k), res->type, fn);
			each_of(&x->own, resource_ref_link(parent, k), res->type, fn);
		}
	}
}

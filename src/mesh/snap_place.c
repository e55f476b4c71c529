/*
 * What workloads share beside their kind, and of which there are few: places
 * (network, cluster, locality, node) and gateways.
 *
 * Both are found by a key of bytes in which all their parts stand one after
 * another; the strings of the result point into that key.
 */
#include <errno.h>
#include <string.h>

#include "mesh/snap_state.h"

struct box {
	struct map_link link;
	uint32_t refs;
	union {
		struct snap_place place;
		struct snap_ways ways;
	};
	char key[];
};

static int key_text(struct bytes *key, const char *s)
{
	return bytes_append(key, s ? s : "", s ? strlen(s) + 1 : 1);
}

static int key_texts(struct bytes *key, const char *const *texts, size_t n)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < n; i++)
		r = key_text(key, texts[i]);
	return r;
}

static void take_texts(const char *at, const char **const *texts, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		*texts[i] = at;
		at += strlen(at) + 1;
	}
}

/* The box with the key, with a reference; *ret_new: it was made, and is empty. */
static int box_get(struct map *m, const struct bytes *key, struct box **ret_box, bool *ret_new)
{
	struct map_link *l = map_find(m, key->data, key->len);
	struct box *b = l ? container_of(l, struct box, link) : NULL;
	int r;

	*ret_new = !b;
	if (!b) {
		b = calloc(1, sizeof(*b) + key->len);
		if (!b)
			return -ENOMEM;
		memcpy(b->key, key->data, key->len);
		r = map_add(m, &b->link, b->key, key->len);
		if (r < 0) {
			free(b);
			return r;
		}
	}
	b->refs++;
	*ret_box = b;
	return 0;
}

static void box_put(struct map *m, struct box *b)
{
	if (--b->refs)
		return;
	map_remove(m, &b->link);
	free(b);
}

static bool is_text(const char *a, const char *b)
{
	return !strcmp(a ? a : "", b ? b : "");
}

/* --- places --- */

enum { PLACE_TEXTS = 6 };

static struct box *box_of_place(const struct snap_place *place)
{
	return container_of((struct snap_place *)(uintptr_t)place, struct box, place);
}

static bool is_place(const struct snap_place *p, const char *const texts[PLACE_TEXTS])
{
	return is_text(p->network, texts[0]) && is_text(p->cluster, texts[1]) && is_text(p->region, texts[2]) &&
	       is_text(p->zone, texts[3]) && is_text(p->subzone, texts[4]) && is_text(p->node, texts[5]);
}

int snap_place_get(struct snap_store *st, const struct workload *w, const struct snap_place *likely, const struct snap_place **ret_place)
{
	const char *texts[PLACE_TEXTS] = {
		w->network, w->cluster_id, w->locality.region, w->locality.zone, w->locality.subzone, w->node,
	};
	bool is_new;
	struct box *b;
	int r;

	if (likely && is_place(likely, texts)) {
		box_of_place(likely)->refs++;
		*ret_place = likely;
		return 0;
	}
	st->key.len = 0;
	r = key_texts(&st->key, texts, PLACE_TEXTS);
	if (r == 0)
		r = box_get(&st->places, &st->key, &b, &is_new);
	if (r < 0)
		return r;
	if (is_new) {
		struct snap_place *p = &b->place;
		const char **to[PLACE_TEXTS] = { &p->network, &p->cluster, &p->region, &p->zone, &p->subzone, &p->node };

		take_texts(b->key, to, PLACE_TEXTS);
	}
	*ret_place = &b->place;
	return 0;
}

void snap_place_put(struct snap_store *st, const struct snap_place *place)
{
	box_put(&st->places, box_of_place(place));
}

/* --- gateways --- */

enum { WAYS = 2, WAYS_TEXTS = WAYS * 3 };

struct ways_head {			/* of the key; without padding */
	struct ip ips[WAYS];
	uint16_t ports[WAYS];
};

_Static_assert(sizeof(struct ways_head) == WAYS * 18, "keys are compared byte by byte");

static struct box *box_of_ways(const struct snap_ways *ways)
{
	return container_of((struct snap_ways *)(uintptr_t)ways, struct box, ways);
}

static bool is_gateway(const struct model_gateway *a, const struct model_gateway *b)
{
	return a->hbone_port == b->hbone_port && ip_equal(&a->ip, &b->ip) && is_text(a->network, b->network) &&
	       is_text(a->namespace, b->namespace) && is_text(a->hostname, b->hostname);
}

bool snap_ways_are(const struct snap_ways *ways, const struct workload *w)
{
	if (!ways)
		return !model_gateway_is_set(&w->waypoint) && !model_gateway_is_set(&w->network_gateway);
	return is_gateway(&ways->waypoint, &w->waypoint) && is_gateway(&ways->network_gateway, &w->network_gateway);
}

static void gateway_fill(struct model_gateway *g, const struct ways_head *head, unsigned i)
{
	g->ip = head->ips[i];
	g->hbone_port = head->ports[i];
	if (!*g->hostname)
		g->namespace = g->hostname = NULL;
}

static void ways_fill(struct snap_ways *ways, const char *key)
{
	struct model_gateway *way = &ways->waypoint, *net = &ways->network_gateway;
	const char **to[WAYS_TEXTS] = { &way->network, &way->namespace, &way->hostname, &net->network, &net->namespace, &net->hostname };
	struct ways_head head;

	memcpy(&head, key, sizeof(head));
	take_texts(key + sizeof(head), to, WAYS_TEXTS);
	gateway_fill(way, &head, 0);
	gateway_fill(net, &head, 1);
}

int snap_ways_get(struct snap_store *st, const struct model_gateway *way, const struct model_gateway *net, const struct snap_ways **ret_ways)
{
	static const struct model_gateway none;

	if (!net)
		net = &none;

	const struct ways_head head = { { way->ip, net->ip }, { way->hbone_port, net->hbone_port } };
	const char *texts[WAYS_TEXTS] = { way->network, way->namespace, way->hostname, net->network, net->namespace, net->hostname };
	bool is_new;
	struct box *b;
	int r;

	if (!model_gateway_is_set(way) && !model_gateway_is_set(net)) {
		*ret_ways = NULL;
		return 0;
	}
	st->key.len = 0;
	r = bytes_append(&st->key, &head, sizeof(head));
	if (r == 0)
		r = key_texts(&st->key, texts, WAYS_TEXTS);
	if (r == 0)
		r = box_get(&st->ways, &st->key, &b, &is_new);
	if (r < 0)
		return r;
	if (is_new)
		ways_fill(&b->ways, b->key);
	*ret_ways = &b->ways;
	return 0;
}

void snap_ways_put(struct snap_store *st, const struct snap_ways *ways)
{
	if (ways)
		box_put(&st->ways, box_of_ways(ways));
}

/*
 * What equal workloads share: kinds (identity, names, services, policies) and
 * places (network, cluster, locality, node). A thousand replicas have one of
 * each, which is what makes an endpoint small.
 *
 * Both are found by a key of bytes in which all their parts stand one after
 * another; the strings of the result point into that key.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "mesh/snap_state.h"

enum { KEY_MAX = 4 * 1024 * 1024 };

struct box {
	struct map_link link;
	uint32_t refs;
	union {
		struct snap_kind kind;
		struct snap_place place;
	};
	/* then the members, ports and policy pointers of a kind, then the key */
};

/* --- the key --- */

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

static const char *next_text(const char **at)
{
	const char *s = *at;

	*at += strlen(s) + 1;
	return s;
}

static void *box_find(struct map *m, const struct bytes *key)
{
	struct map_link *l = map_find(m, key->data, key->len);

	if (!l)
		return NULL;

	struct box *b = container_of(l, struct box, link);
	b->refs++;
	return b;
}

static int box_add(struct map *m, struct box *b, char *place_of_key, const struct bytes *key)
{
	memcpy(place_of_key, key->data, key->len);
	b->refs = 1;
	int r = map_add(m, &b->link, place_of_key, key->len);
	if (r < 0)
		free(b);
	return r;
}

static void box_put(struct map *m, struct box *b)
{
	if (--b->refs)
		return;
	map_remove(m, &b->link);
	free(b);
}

/* --- kinds --- */

enum { KIND_TEXTS = 7 };

static int kind_key_members(struct snap_store *st, const struct workload *w, struct bytes *key, size_t *ret_n_ports)
{
	size_t n_ports = 0;
	int r = 0;

	for (size_t i = 0; r == 0 && i < w->n_services; i++) {
		const struct workload_service *s = &w->services[i];
		uint32_t head[2] = { 0, (uint32_t)s->n_ports };

		r = snap_service_mention(st, s->key, &head[0]);
		if (r == 0)
			r = bytes_append(key, head, sizeof(head));
		for (size_t k = 0; r == 0 && k < s->n_ports; k++) {
			const struct port_map *p = &s->ports[k];
			struct snap_port port = {};

			port.port = p->service_port;
			port.target_port = p->target_port ? p->target_port : p->service_port;
			port.app_protocol = p->app_protocol;
			r = bytes_append(key, &port, sizeof(port));
		}
		n_ports += s->n_ports;
	}
	*ret_n_ports = n_ports;
	return r;
}

static int kind_key(struct snap_store *st, const struct workload *w, struct bytes *key, size_t *ret_n_ports)
{
	char identity[2048];
	size_t len = workload_identity(w, identity, sizeof(identity));
	const char *name = w->workload_name && *w->workload_name ? w->workload_name : w->name;
	const char *canonical = w->canonical_name && *w->canonical_name ? w->canonical_name : name;
	const char *revision = w->canonical_revision && *w->canonical_revision ? w->canonical_revision : "latest";
	const uint32_t counts[2] = { (uint32_t)w->n_services, (uint32_t)w->n_policies };

	if (len >= sizeof(identity))
		return -EINVAL;

	const char *texts[KIND_TEXTS] = {
		identity, w->trust_domain, w->namespace, w->service_account, name, canonical, revision,
	};
	int r = bytes_append(key, counts, sizeof(counts));
	if (r == 0)
		r = kind_key_members(st, w, key, ret_n_ports);
	if (r == 0)
		r = key_texts(key, texts, KIND_TEXTS);
	if (r == 0)
		r = key_texts(key, w->policies, w->n_policies);
	return r;
}

/* Lays the kind out in @b over the key's bytes at @at. */
static void kind_fill(struct box *b, struct snap_member *members, struct snap_port *ports, const char **policies,
		      const char *at, const uint32_t counts[2])
{
	struct snap_kind *k = &b->kind;
	const char **texts[KIND_TEXTS] = {
		&k->identity, &k->trust_domain, &k->namespace, &k->service_account,
		&k->workload_name, &k->canonical_name, &k->canonical_revision,
	};

	at += 2 * sizeof(uint32_t);
	for (uint32_t i = 0; i < counts[0]; i++) {
		memcpy(&members[i].service_id, at, sizeof(uint32_t));
		memcpy(&members[i].n_ports, at + sizeof(uint32_t), sizeof(uint32_t));
		at += 2 * sizeof(uint32_t);
		memcpy(ports, at, members[i].n_ports * sizeof(*ports));
		members[i].ports = ports;
		at += members[i].n_ports * sizeof(*ports);
		ports += members[i].n_ports;
	}
	for (size_t i = 0; i < KIND_TEXTS; i++)
		*texts[i] = next_text(&at);
	for (uint32_t i = 0; i < counts[1]; i++)
		policies[i] = next_text(&at);
	k->members = members;
	k->n_members = counts[0];
	k->policies = policies;
	k->n_policies = counts[1];
}

static int kind_make(struct snap_store *st, const struct workload *w, const struct bytes *key, size_t n_ports,
		     struct box **ret_box)
{
	const uint32_t counts[2] = { (uint32_t)w->n_services, (uint32_t)w->n_policies };
	size_t n_members = counts[0] * sizeof(struct snap_member);
	size_t n_policies = counts[1] * sizeof(char *);
	struct box *b = calloc(1, sizeof(*b) + n_members + n_policies + n_ports * sizeof(struct snap_port) + key->len);

	if (!b)
		return -ENOMEM;

	struct snap_member *members = (struct snap_member *)(b + 1);
	const char **policies = (const char **)((char *)members + n_members);
	struct snap_port *ports = (struct snap_port *)((char *)policies + n_policies);
	char *place_of_key = (char *)(ports + n_ports);
	int r = box_add(&st->kinds, b, place_of_key, key);
	if (r < 0)
		return r;
	kind_fill(b, members, ports, policies, place_of_key, counts);
	*ret_box = b;
	return 0;
}

int snap_kind_get(struct snap_store *st, const struct workload *w, const struct snap_kind **ret_kind)
{
	struct bytes key;
	size_t n_ports = 0;
	struct box *b = NULL;

	bytes_init(&key, KEY_MAX);
	int r = kind_key(st, w, &key, &n_ports);
	if (r == 0) {
		b = box_find(&st->kinds, &key);
		if (!b)
			r = kind_make(st, w, &key, n_ports, &b);
	}
	bytes_deinit(&key);
	if (r < 0)
		return r;
	*ret_kind = &b->kind;
	return 0;
}

void snap_kind_put(struct snap_store *st, const struct snap_kind *kind)
{
	box_put(&st->kinds, container_of((struct snap_kind *)(uintptr_t)kind, struct box, kind));
}

/* --- places --- */

enum { PLACE_TEXTS = 6 };

static int place_make(struct snap_store *st, const struct bytes *key, struct box **ret_box)
{
	struct box *b = calloc(1, sizeof(*b) + key->len);

	if (!b)
		return -ENOMEM;

	struct snap_place *p = &b->place;
	const char **texts[PLACE_TEXTS] = { &p->network, &p->cluster, &p->region, &p->zone, &p->subzone, &p->node };
	const char *at = (const char *)(b + 1);
	int r = box_add(&st->places, b, (char *)(b + 1), key);
	if (r < 0)
		return r;
	for (size_t i = 0; i < PLACE_TEXTS; i++)
		*texts[i] = next_text(&at);
	*ret_box = b;
	return 0;
}

int snap_place_get(struct snap_store *st, const struct workload *w, const struct snap_place **ret_place)
{
	const char *texts[PLACE_TEXTS] = {
		w->network, w->cluster_id, w->locality.region, w->locality.zone, w->locality.subzone, w->node,
	};
	struct bytes key;
	struct box *b = NULL;

	bytes_init(&key, KEY_MAX);
	int r = key_texts(&key, texts, PLACE_TEXTS);
	if (r == 0) {
		b = box_find(&st->places, &key);
		if (!b)
			r = place_make(st, &key, &b);
	}
	bytes_deinit(&key);
	if (r < 0)
		return r;
	*ret_place = &b->place;
	return 0;
}

void snap_place_put(struct snap_store *st, const struct snap_place *place)
{
	box_put(&st->places, container_of((struct snap_place *)(uintptr_t)place, struct box, place));
}

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

enum { KIND_GATEWAYS = 2, KIND_TEXTS = 7 + KIND_GATEWAYS * 3 };

struct kind_head {			/* of the key; without padding */
	uint32_t n_members, n_policies;
	struct ip gateways[KIND_GATEWAYS];
	uint16_t gateway_ports[KIND_GATEWAYS];
};

_Static_assert(sizeof(struct kind_head) == 8 + KIND_GATEWAYS * 18, "keys are compared byte by byte");

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

/* "spiffe://td/ns/<namespace>/sa/<service account>", put together by hand: printf() would cost more than all the rest. */
static int key_identity(struct bytes *key, const struct workload *w)
{
	const char *parts[] = { "spiffe://", w->trust_domain, "/ns/", w->namespace, "/sa/", w->service_account };
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTS(parts); i++)
		r = bytes_append(key, parts[i], strlen(parts[i]));
	return r < 0 ? r : bytes_append(key, "", 1);
}

/* The names of a kind that a workload may leave out. */
struct kind_names {
	const char *workload, *canonical, *revision;
};

static struct kind_names kind_names(const struct workload *w)
{
	const char *name = w->workload_name && *w->workload_name ? w->workload_name : w->name;

	return (struct kind_names){
		.workload = name,
		.canonical = w->canonical_name && *w->canonical_name ? w->canonical_name : name,
		.revision = w->canonical_revision && *w->canonical_revision ? w->canonical_revision : "latest",
	};
}

static int kind_key(struct snap_store *st, const struct workload *w, struct bytes *key, size_t *ret_n_ports)
{
	const struct kind_names names = kind_names(w);
	const struct model_gateway *way = &w->waypoint, *net = &w->network_gateway;
	const struct kind_head head = {
		.n_members = (uint32_t)w->n_services, .n_policies = (uint32_t)w->n_policies,
		.gateways = { way->ip, net->ip }, .gateway_ports = { way->hbone_port, net->hbone_port },
	};
	const char *texts[KIND_TEXTS - 1] = {
		w->trust_domain, w->namespace, w->service_account, names.workload, names.canonical, names.revision,
		way->network, way->namespace, way->hostname, net->network, net->namespace, net->hostname,
	};
	int r = bytes_append(key, &head, sizeof(head));

	if (r == 0)
		r = kind_key_members(st, w, key, ret_n_ports);
	if (r == 0)
		r = key_identity(key, w);
	if (r == 0)
		r = key_texts(key, texts, ELEMENTS(texts));
	if (r == 0)
		r = key_texts(key, w->policies, w->n_policies);
	return r;
}

static void gateway_fill(struct model_gateway *g, const struct kind_head *head, unsigned i)
{
	g->ip = head->gateways[i];
	g->hbone_port = head->gateway_ports[i];
	if (!*g->hostname)
		g->namespace = g->hostname = NULL;
}

/* Lays the kind out in @b over the key's bytes at @at. */
static void kind_fill(struct box *b, struct snap_member *members, struct snap_port *ports, const char **policies, const char *at)
{
	struct snap_kind *k = &b->kind;
	struct model_gateway *way = &k->waypoint, *net = &k->network_gateway;
	const char **texts[KIND_TEXTS] = {
		&k->identity, &k->trust_domain, &k->namespace, &k->service_account,
		&k->workload_name, &k->canonical_name, &k->canonical_revision,
		&way->network, &way->namespace, &way->hostname, &net->network, &net->namespace, &net->hostname,
	};
	struct kind_head head;

	memcpy(&head, at, sizeof(head));
	at += sizeof(head);
	for (uint32_t i = 0; i < head.n_members; i++) {
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
	for (uint32_t i = 0; i < head.n_policies; i++)
		policies[i] = next_text(&at);
	gateway_fill(way, &head, 0);
	gateway_fill(net, &head, 1);
	k->members = members;
	k->n_members = head.n_members;
	k->policies = policies;
	k->n_policies = head.n_policies;
}

static int kind_make(struct snap_store *st, const struct workload *w, const struct bytes *key, size_t n_ports,
		     struct box **ret_box)
{
	size_t n_members = w->n_services * sizeof(struct snap_member);
	size_t n_policies = w->n_policies * sizeof(char *);
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
	kind_fill(b, members, ports, policies, place_of_key);
	*ret_box = b;
	return 0;
}

static struct box *box_of_kind(const struct snap_kind *kind)
{
	return container_of((struct snap_kind *)(uintptr_t)kind, struct box, kind);
}

static bool is_member(struct snap_store *st, const struct snap_member *m, const struct workload_service *s)
{
	const struct snap_service *service = snap_service_by_id(&st->now, m->service_id);

	if (!service || strcmp(service->def->key, s->key) || m->n_ports != s->n_ports)
		return false;
	for (uint32_t i = 0; i < m->n_ports; i++) {
		const struct port_map *p = &s->ports[i];

		if (m->ports[i].port != p->service_port || m->ports[i].app_protocol != p->app_protocol ||
		    m->ports[i].target_port != (p->target_port ? p->target_port : p->service_port))
			return false;
	}
	return true;
}

static bool is_text(const char *a, const char *b)
{
	return !strcmp(a ? a : "", b ? b : "");
}

static bool is_gateway(const struct model_gateway *a, const struct model_gateway *b)
{
	return a->hbone_port == b->hbone_port && ip_equal(&a->ip, &b->ip) && is_text(a->network, b->network) &&
	       is_text(a->namespace, b->namespace) && is_text(a->hostname, b->hostname);
}

/* What a change of a workload leaves as it was, nearly always. */
static bool is_kind(struct snap_store *st, const struct snap_kind *k, const struct workload *w)
{
	const struct kind_names names = kind_names(w);

	if (k->n_members != w->n_services || k->n_policies != w->n_policies ||
	    strcmp(k->trust_domain, w->trust_domain) || strcmp(k->namespace, w->namespace) ||
	    strcmp(k->service_account, w->service_account) || strcmp(k->workload_name, names.workload) ||
	    strcmp(k->canonical_name, names.canonical) || strcmp(k->canonical_revision, names.revision) ||
	    !is_gateway(&k->waypoint, &w->waypoint) || !is_gateway(&k->network_gateway, &w->network_gateway))
		return false;
	for (uint32_t i = 0; i < k->n_members; i++)
		if (!is_member(st, &k->members[i], &w->services[i]))
			return false;
	for (uint32_t i = 0; i < k->n_policies; i++)
		if (strcmp(k->policies[i], w->policies[i]))
			return false;
	return true;
}

int snap_kind_get(struct snap_store *st, const struct workload *w, const struct snap_kind *likely, const struct snap_kind **ret_kind)
{
	size_t n_ports = 0;
	struct box *b = NULL;

	if (likely && is_kind(st, likely, w)) {
		box_of_kind(likely)->refs++;
		*ret_kind = likely;
		return 0;
	}
	st->key.len = 0;
	int r = kind_key(st, w, &st->key, &n_ports);
	if (r == 0) {
		b = box_find(&st->kinds, &st->key);
		if (!b)
			r = kind_make(st, w, &st->key, n_ports, &b);
	}
	if (r == 0)
		*ret_kind = &b->kind;
	return r;
}

void snap_kind_put(struct snap_store *st, const struct snap_kind *kind)
{
	box_put(&st->kinds, box_of_kind(kind));
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
	struct box *b = NULL;

	if (likely && is_place(likely, texts)) {
		box_of_place(likely)->refs++;
		*ret_place = likely;
		return 0;
	}
	st->key.len = 0;
	int r = key_texts(&st->key, texts, PLACE_TEXTS);
	if (r == 0) {
		b = box_find(&st->places, &st->key);
		if (!b)
			r = place_make(st, &st->key, &b);
	}
	if (r == 0)
		*ret_place = &b->place;
	return r;
}

void snap_place_put(struct snap_store *st, const struct snap_place *place)
{
	box_put(&st->places, box_of_place(place));
}

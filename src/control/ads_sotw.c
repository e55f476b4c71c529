/*
 * State-of-the-world discovery: each answer says all that is wanted. Of
 * endpoints only what changed is sent, since Envoy takes each by itself.
 *
 * Source: Envoy's xds_protocol.rst, "State of the world".
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "control/ads_stream.h"
#include "control/pool.h"
#include "mesh/pb.h"

typedef Envoy__Service__Discovery__V3__DiscoveryRequest request;
typedef Envoy__Service__Discovery__V3__DiscoveryResponse response;

static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

struct world {
	struct pool pool;
	Google__Protobuf__Any **resources;
	size_t n, max;
};

static void world_put(struct world *w, enum resource_type type, uint8_t *bytes, size_t len)
{
	Google__Protobuf__Any *any = pool_alloc(&w->pool, 1, sizeof(*any));

	if (w->pool.failed || w->n == w->max)
		return;
	google__protobuf__any__init(any);
	any->type_url = word(ads_type_urls[type]);
	any->value.data = bytes;
	any->value.len = len;
	w->resources[w->n++] = any;
}

static void note_held(struct ads_stream *s, enum resource_type type, const char *name, const char *version)
{
	struct ads_type *t = &s->types[type];
	struct ads_name *n = ads_name_get(s, type, name);

	if (!n)
		return;
	t->n_held += !n->held;
	n->held = true;
	snprintf(n->version, sizeof(n->version), "%s", version);
}

/* Endpoints that are asked for and that nobody has: named, and empty. */
static void put_empty(struct world *w, struct ads_stream *s, enum resource_type type, const char *name)
{
	size_t len = strlen(name);
	uint8_t *bytes = pool_alloc(&w->pool, 1, len + 4);
	size_t at = 0;

	if (w->pool.failed || len >= 1 << 14)
		return;
	bytes[at++] = 1 << 3 | 2;		/* cluster_name */
	if (len >= 128)
		bytes[at++] = (uint8_t)(len | 0x80);
	bytes[at++] = (uint8_t)(len >= 128 ? len >> 7 : len);
	memcpy(bytes + at, name, len);
	world_put(w, type, bytes, at + len);
	note_held(s, type, name, "0");
}

static void send_world(struct ads_stream *s, enum resource_type type, struct world *w, struct ads_push *push)
{
	struct ads_type *t = &s->types[type];
	response answer = ENVOY__SERVICE__DISCOVERY__V3__DISCOVERY_RESPONSE__INIT;
	char nonce[24];
	int r = -ENOMEM;

	snprintf(nonce, sizeof(nonce), "%llu", (unsigned long long)++s->nonce);
	answer.type_url = word(ads_type_urls[type]);
	answer.nonce = nonce;
	answer.version_info = nonce;
	answer.resources = w->resources;
	answer.n_resources = w->n;
	if (!w->pool.failed)
		r = grpc_call_send_pb(s->call, &answer.base);
	if (r == 0)
		r = ads_pending_add(t, s->nonce, push);
	s->ads->counters.n_answers++;
	s->ads->counters.n_resources += w->n;
	if (r < 0)
		grpc_call_finish(s->call, GRPC_RESOURCE_EXHAUSTED, "%s", r == -ENOBUFS ? "too slow" : strerror(-r));
}

static void send_all(struct ads_stream *s, enum resource_type type, struct ads_push *push)
{
	struct resources *r = s->ads->resources;
	struct ads_type *t = &s->types[type];
	struct world w = { .max = r->by_name[type].n + t->names.n };

	w.resources = pool_alloc(&w.pool, w.max, sizeof(*w.resources));
	map_for_each(l, &r->by_name[type]) {
		const struct resource *res = container_of(l, struct resource, link);

		if (res->removed || !ads_wants(s, res))
			continue;
		world_put(&w, type, res->bytes, res->len);
		note_held(s, type, res->name, res->version);
	}
	map_for_each(l, &t->names) {
		struct ads_name *n = container_of(l, struct ads_name, link);

		if (type == RESOURCE_ENDPOINTS && n->wanted && !r->incomplete && !resources_find(r, type, n->name))
			put_empty(&w, s, type, n->name);
	}
	send_world(s, type, &w, push);
	pool_free(&w.pool);
}

/* Only those of the changes that are wanted. */
static void send_changed_endpoints(struct ads_stream *s, struct ads_push *push)
{
	struct ads_type *t = &s->types[RESOURCE_ENDPOINTS];
	struct world w = {};

	list_for_each(l, &s->ads->resources->changes)
		w.max++;
	w.resources = pool_alloc(&w.pool, w.max, sizeof(*w.resources));
	list_for_each(l, &s->ads->resources->changes) {
		const struct resource *res = list_entry(l, struct resource, changed);
		const struct ads_name *n = res->type == RESOURCE_ENDPOINTS ? ads_name_of(t, &res->link) : NULL;

		if (res->type != RESOURCE_ENDPOINTS || !((n && n->wanted) || t->wildcard))
			continue;
		if (res->removed) {
			put_empty(&w, s, RESOURCE_ENDPOINTS, res->name);
		} else if (!n || strcmp(n->version, res->version) != 0) {
			world_put(&w, RESOURCE_ENDPOINTS, res->bytes, res->len);
			note_held(s, RESOURCE_ENDPOINTS, res->name, res->version);
		}
	}
	if (w.n || w.pool.failed)
		send_world(s, RESOURCE_ENDPOINTS, &w, push);
	pool_free(&w.pool);
}

static bool touches(const struct ads_stream *s, enum resource_type type)
{
	list_for_each(l, &s->ads->resources->changes) {
		const struct resource *res = list_entry(l, struct resource, changed);
		const struct ads_name *n = res->type == type ? ads_name_of(&s->types[type], &res->link) : NULL;

		if (res->type == type && ((n && n->held) || (!res->removed && ads_wants(s, res))))
			return true;
	}
	return false;
}

void ads_sotw_changes(struct ads_stream *s, enum resource_type type, struct ads_push *push)
{
	if (type == RESOURCE_ENDPOINTS && s->ads->resources->completed)
		send_all(s, type, push);	/* also that of some names there is none */
	else if (type == RESOURCE_ENDPOINTS)
		send_changed_endpoints(s, push);
	else if (touches(s, type))
		send_all(s, type, push);
}

/* --- requests --- */

/* The names of this request are all that are wanted. Returns whether they differ from before. */
static bool take_names(struct ads_stream *s, enum resource_type type, const request *q, bool first)
{
	struct ads_type *t = &s->types[type];
	bool changed = first;
	size_t n_wanted = 0;

	if (first)
		ads_set_wildcard(s, type, !q->n_resource_names);
	map_for_each(l, &t->names)
		n_wanted += container_of(l, struct ads_name, link)->wanted;
	for (size_t i = 0; i < q->n_resource_names; i++) {
		const struct ads_name *n = ads_name_find(t, q->resource_names[i]);

		if (!strcmp(q->resource_names[i], "*"))
			changed |= !t->wildcard;
		else
			changed |= !n || !n->wanted;
	}
	changed |= n_wanted != q->n_resource_names && !t->wildcard;
	if (!changed)
		return false;
	if (!first)
		ads_set_wildcard(s, type, false);
	ads_names_clear(s, type);
	for (size_t i = 0; i < q->n_resource_names && i < ADS_MAX_NAMES; i++) {
		struct ads_name *n;

		if (!strcmp(q->resource_names[i], "*")) {
			ads_set_wildcard(s, type, true);
			continue;
		}
		n = ads_name_get(s, type, q->resource_names[i]);
		if (n)
			n->wanted = true;
	}
	return true;
}

static void on_request(struct ads_stream *s, const request *q)
{
	const struct ads_head head = { .type_url = q->type_url, .nonce = q->response_nonce, .node = q->node, .error = q->error_detail };
	enum resource_type type = RESOURCE_ADDRESS;
	bool first = false;

	if (ads_request_begin(s, &head, &type, &first) && take_names(s, type, q, first))
		send_all(s, type, NULL);
}

void ads_sotw_request(struct ads_stream *s, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *message;

	if (pb_unpack(&envoy__service__discovery__v3__discovery_request__descriptor, bytes, len, 0, &message) < 0) {
		grpc_call_finish(s->call, GRPC_INVALID_ARGUMENT, "not a DiscoveryRequest");
		return;
	}
	on_request(s, (const request *)message);
	pb_free(message);
}

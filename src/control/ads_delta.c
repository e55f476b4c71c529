/*
 * Delta discovery: what a client holds is remembered by name and version; it is
 * sent what is new, and told what is gone.
 *
 * Source: Envoy's xds_protocol.rst, "Incremental xDS".
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "control/ads_stream.h"
#include "control/pool.h"
#include "mesh/pb.h"

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryRequest delta_request;
typedef Envoy__Service__Discovery__V3__DeltaDiscoveryResponse delta_response;

/* An answer under construction. Sent in several when it grows large. */
struct answer {
	struct ads_stream *s;
	enum resource_type type;
	struct ads_push *push;
	struct pool pool;
	Envoy__Service__Discovery__V3__Resource **resources;
	size_t n_resources;
	size_t room_resources;
	char **removed;
	size_t n_removed;
	size_t room_removed;
	size_t n_bytes;
	bool sent_any;
	bool again;		/* the client comes back: it keeps what has not changed */
	int failed;		/* negative errno */
};

/* The version of "no endpoints". */
static const char version_empty[] = "0";

static struct ads_type *type_of(const struct answer *a)
{
	return &a->s->types[a->type];
}

static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

static void answer_init(struct answer *a, struct ads_stream *s, enum resource_type type, struct ads_push *push)
{
	*a = (struct answer){ .s = s, .type = type, .push = push };
}

/* @list of @n with room for one more; NULL: no memory. Most answers are one resource, so it begins small. */
static void *answer_grow(struct answer *a, void *list, size_t n, size_t *room)
{
	size_t size = *room ? 2 * *room : 8;
	void *more;

	if (n < *room)
		return list;
	more = pool_alloc(&a->pool, size, sizeof(void *));
	if (a->pool.failed)
		return NULL;
	if (n)
		memcpy(more, list, n * sizeof(void *));
	*room = size;
	return more;
}

static void answer_send(struct answer *a)
{
	struct ads_stream *s = a->s;
	delta_response response = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_RESPONSE__INIT;
	Envoy__Config__Core__V3__ControlPlane who = ENVOY__CONFIG__CORE__V3__CONTROL_PLANE__INIT;
	char nonce[24];
	int r;

	if (!a->failed && a->pool.failed)
		a->failed = -ENOMEM;
	if (a->failed)
		return;
	who.identifier = word("outrigger-controller");
	response.control_plane = &who;
	response.type_url = word(ads_type_urls[a->type]);
	snprintf(nonce, sizeof(nonce), "%llu", (unsigned long long)++s->nonce);
	response.nonce = nonce;
	response.resources = a->resources;
	response.n_resources = a->n_resources;
	response.removed_resources = a->removed;
	response.n_removed_resources = a->n_removed;
	r = grpc_call_send_pb(s->call, &response.base);
	if (r == 0)
		r = ads_pending_add(type_of(a), s->nonce, a->push);
	a->failed = r;
	a->sent_any = true;
	s->ads->counters.n_answers++;
	s->ads->counters.n_resources += a->n_resources;
	s->ads->counters.n_removed += a->n_removed;
}

static void answer_next(struct answer *a)
{
	struct ads_stream *s = a->s;
	enum resource_type type = a->type;
	struct ads_push *push = a->push;
	bool again = a->again;
	int failed;

	answer_send(a);
	failed = a->failed;
	pool_free(&a->pool);
	answer_init(a, s, type, push);
	a->sent_any = true;
	a->again = again;
	a->failed = failed;
}

static void answer_end(struct answer *a, bool even_if_empty)
{
	if (a->n_resources || a->n_removed || (even_if_empty && !a->sent_any))
		answer_send(a);
	if (a->failed && a->s->call)	/* it comes back and says what it has */
		grpc_call_finish(a->s->call, GRPC_RESOURCE_EXHAUSTED, "%s", a->failed == -ENOBUFS ? "too slow" : strerror(-a->failed));
	pool_free(&a->pool);
}

/* What is in the pool goes when a full answer is sent. */
static void answer_room(struct answer *a)
{
	if (a->n_resources == ADS_ANSWER_RESOURCES || a->n_bytes > ADS_ANSWER_BYTES)
		answer_next(a);
}

/*
 * The client is told of a resource, and from now on holds it. Should the answer
 * not get out, the stream ends. @name and @version are borrowed until it is.
 */
static Envoy__Service__Discovery__V3__Resource *answer_add(struct answer *a, const char *name, const char *version, uint8_t *bytes, size_t len)
{
	struct {
		Envoy__Service__Discovery__V3__Resource resource;
		Google__Protobuf__Any any;
	} *m;
	struct ads_name *n;

	answer_room(a);
	m = pool_alloc(&a->pool, 1, sizeof(*m));
	n = ads_name_get(a->s, a->type, name);
	a->resources = answer_grow(a, a->resources, a->n_resources, &a->room_resources);
	if (!n || a->pool.failed)
		a->failed = a->failed ? a->failed : -ENOMEM;
	if (a->failed)
		return NULL;
	envoy__service__discovery__v3__resource__init(&m->resource);
	google__protobuf__any__init(&m->any);
	m->resource.name = word(name);
	m->resource.version = word(version);
	m->resource.resource = &m->any;
	m->any.type_url = word(ads_type_urls[a->type]);
	m->any.value.data = bytes;
	m->any.value.len = len;
	a->resources[a->n_resources++] = &m->resource;
	a->n_bytes += len;
	type_of(a)->n_held += !n->held;
	n->held = true;
	memcpy(n->version, version, strlen(version) + 1);	/* one of ours: it fits */
	return &m->resource;
}

static void answer_put(struct answer *a, const struct resource *res)
{
	Envoy__Service__Discovery__V3__Resource *m = answer_add(a, res->name, res->version, res->bytes, res->len);

	if (!m)
		return;
	m->aliases = pool_alloc(&a->pool, res->n_aliases, sizeof(*m->aliases));
	for (size_t i = 0; i < res->n_aliases && !a->pool.failed; i++)
		m->aliases[m->n_aliases++] = word(resource_alias(res, i));
}

/*
 * Envoy takes no notice when endpoints are removed, and waits for those that
 * it asked for. So "none" is a resource, too: a ClusterLoadAssignment with its
 * name (field 1) and nothing in it.
 */
static void answer_no_endpoints(struct answer *a, const char *name)
{
	size_t len = strlen(name);
	uint8_t *bytes;
	size_t at = 0;

	answer_room(a);
	bytes = pool_alloc(&a->pool, 1, len + 4);
	if (a->pool.failed || len >= 1 << 14)
		return;
	bytes[at++] = 1 << 3 | 2;
	if (len >= 128)
		bytes[at++] = (uint8_t)(len | 0x80);
	bytes[at++] = (uint8_t)(len >= 128 ? len >> 7 : len);
	memcpy(bytes + at, name, len);
	answer_add(a, name, version_empty, bytes, at + len);
}

static void answer_remove(struct answer *a, const char *name)
{
	if (a->n_removed == ADS_ANSWER_RESOURCES)
		answer_next(a);
	a->removed = answer_grow(a, a->removed, a->n_removed, &a->room_removed);
	if (!a->failed && !a->pool.failed)
		a->removed[a->n_removed++] = pool_printf(&a->pool, "%s", name);
}

/* --- what goes into an answer --- */

/* Unless the client has just that version. */
static void put_if_new(struct answer *a, const struct resource *res)
{
	const struct ads_name *n = ads_name_of(type_of(a), &res->link);

	if (!n || !n->held || strcmp(n->version, res->version) != 0)
		answer_put(a, res);
}

static int put_child(struct resource *res, void *data)
{
	put_if_new(data, res);
	return 0;
}

static void put_with_children(struct answer *a, const struct resource *res)
{
	if (a->again)
		put_if_new(a, res);
	else
		answer_put(a, res);
	resources_each_child(a->s->ads->resources, a->type, res->name, put_child, a);
}

struct alias_walk {
	struct answer *a;
	size_t n;
};

static int put_alias(struct resource *res, void *data)
{
	struct alias_walk *w = data;

	w->n++;
	put_with_children(w->a, res);
	return 0;
}

/* What there is under a name that was asked for; also when the client has it already. */
static void put_name(struct answer *a, const char *name)
{
	struct resources *r = a->s->ads->resources;
	const struct resource *res = resources_find(r, a->type, name);
	struct alias_walk walk = { .a = a };

	const struct ads_name *held = ads_name_find(type_of(a), name);

	if (res) {
		put_with_children(a, res);
		return;
	}
	if (r->incomplete && held && held->held)
		return;			/* it may be there yet */
	if (a->type == RESOURCE_ENDPOINTS) {
		answer_no_endpoints(a, name);
		return;
	}
	resources_each_alias(r, a->type, name, put_alias, &walk);
	answer_remove(a, name);		/* there is none of this name: it came under its own one, or not at all */
}

/* Its own workloads: nobody asks for them, but a proxy has to know what it is. */
static void put_own(struct answer *a)
{
	struct ads_stream *s = a->s;

	if (s->own_alias[0])
		resources_each_alias(s->ads->resources, a->type, s->own_alias, put_child, a);
	if (s->own_node[0])
		resources_each_child(s->ads->resources, a->type, s->own_node, put_child, a);
}

/* A resource that the client holds does not exist any more. */
static void take_away(struct answer *a, struct ads_name *n)
{
	struct ads_type *t = type_of(a);

	if (a->type == RESOURCE_ENDPOINTS) {
		if (strcmp(n->version, version_empty) != 0)
			answer_no_endpoints(a, n->name);
		return;
	}
	answer_remove(a, n->name);
	n->held = false;
	t->n_held--;
	ads_name_forget(a->s, a->type, n);
}

static void remove_gone(struct answer *a)
{
	struct ads_type *t = type_of(a);

	if (a->s->ads->resources->incomplete)
		return;
	map_for_each(l, &t->names) {
		struct ads_name *n = container_of(l, struct ads_name, link);

		if (n->held && !resources_find(a->s->ads->resources, a->type, n->name))
			take_away(a, n);
	}
}

static void put_all_wanted(struct answer *a)
{
	struct resources *r = a->s->ads->resources;
	struct ads_type *t = type_of(a);

	map_for_each(l, &r->by_name[a->type]) {
		const struct resource *res = container_of(l, struct resource, link);
		const struct ads_name *n = ads_name_of(t, &res->link);

		if (!res->removed && ((n && n->held) || ads_wants(a->s, res)))
			put_if_new(a, res);
	}
}

/* Those that were there before their parent, or before the alias by which it is asked for, are wanted from now on. */
static void put_changed(struct answer *a, const struct resource *res)
{
	put_if_new(a, res);
	if (!type_of(a)->wildcard && ads_wants_itself(a->s, res))
		resources_each_child(a->s->ads->resources, a->type, res->name, put_child, a);
}

void ads_delta_changes(struct ads_stream *s, enum resource_type type, struct ads_push *push)
{
	struct ads_type *t = &s->types[type];
	struct answer a;

	answer_init(&a, s, type, push);
	if (s->ads->resources->completed)
		remove_gone(&a);
	list_for_each(l, &s->ads->resources->changes) {
		const struct resource *res = list_entry(l, struct resource, changed);
		struct ads_name *n = res->type == type ? ads_name_of(t, &res->link) : NULL;

		if (res->type != type)
			continue;
		if (!res->removed && ((n && n->held) || ads_wants(s, res))) {
			put_changed(&a, res);
		} else if (res->removed && n && n->held) {
			take_away(&a, n);
		}
	}
	answer_end(&a, false);
}

/* --- requests --- */

static void unsubscribe(struct ads_stream *s, enum resource_type type, const delta_request *q)
{
	struct ads_type *t = &s->types[type];

	for (size_t i = 0; i < q->n_resource_names_unsubscribe; i++) {
		const char *name = q->resource_names_unsubscribe[i];
		struct ads_name *n = ads_name_find(t, name);

		if (!strcmp(name, "*"))
			ads_set_wildcard(s, type, false);
		if (!n)
			continue;
		t->n_held -= n->held;
		n->wanted = n->held = false;	/* the client drops it */
		ads_name_forget(s, type, n);
	}
}

static bool subscribe(struct ads_stream *s, enum resource_type type, const delta_request *q)
{
	struct ads_type *t = &s->types[type];

	for (size_t i = 0; i < q->n_resource_names_subscribe; i++) {
		const char *name = q->resource_names_subscribe[i];
		struct ads_name *n;

		if (!strcmp(name, "*")) {
			ads_set_wildcard(s, type, true);
			continue;
		}
		n = t->names.n < ADS_MAX_NAMES + ADS_MAX_NAMES * (size_t)t->wildcard ? ads_name_get(s, type, name) : NULL;
		if (!n) {
			grpc_call_finish(s->call, GRPC_RESOURCE_EXHAUSTED, "more than %d names, or one that is too long", ADS_MAX_NAMES);
			return false;
		}
		n->wanted = true;
	}
	return true;
}

/* The client comes back with what it still has. */
static void take_initial_versions(struct ads_stream *s, enum resource_type type, const delta_request *q)
{
	struct ads_type *t = &s->types[type];

	for (size_t i = 0; i < q->n_initial_resource_versions; i++) {
		struct ads_name *n = ads_name_get(s, type, q->initial_resource_versions[i]->key);

		if (!n)
			continue;
		t->n_held += !n->held;
		n->held = true;
		snprintf(n->version, sizeof(n->version), "%s", q->initial_resource_versions[i]->value);
	}
}

/*
 * What is not wanted by its name any more may be wanted by another, or with its
 * parent; the client has dropped it all the same. Envoy's xds_protocol.rst,
 * "Unsubscribing from Resources", says so of "*".
 */
static void put_still_wanted(struct answer *a, const delta_request *q)
{
	for (size_t i = 0; i < q->n_resource_names_unsubscribe; i++) {
		const struct resource *res = resources_find(a->s->ads->resources, a->type, q->resource_names_unsubscribe[i]);

		if (res && ads_wants(a->s, res))
			put_if_new(a, res);
	}
}

static void answer_request(struct ads_stream *s, enum resource_type type, const delta_request *q, bool first)
{
	struct ads_type *t = &s->types[type];
	bool all = t->wildcard;		/* newly so, or for the first time */
	struct answer a;

	answer_init(&a, s, type, NULL);
	a.again = q->n_initial_resource_versions > 0;
	if (first) {
		remove_gone(&a);
		put_own(&a);
	}
	for (size_t i = 0; i < q->n_resource_names_subscribe; i++)
		if (strcmp(q->resource_names_subscribe[i], "*") != 0)
			put_name(&a, q->resource_names_subscribe[i]);
	if (first || all)
		put_all_wanted(&a);
	put_still_wanted(&a, q);
	answer_end(&a, first);
}

static void on_request(struct ads_stream *s, const delta_request *q)
{
	const struct ads_head head = { .type_url = q->type_url, .nonce = q->response_nonce, .node = q->node, .error = q->error_detail };
	enum resource_type type = RESOURCE_ADDRESS;
	bool first = false;

	if (!ads_request_begin(s, &head, &type, &first))
		return;
	if (first) {
		ads_set_wildcard(s, type, !q->n_resource_names_subscribe);
		take_initial_versions(s, type, q);
	}
	if (!subscribe(s, type, q))
		return;
	unsubscribe(s, type, q);
	if (first || q->n_resource_names_subscribe || q->n_resource_names_unsubscribe)
		answer_request(s, type, q, first);
}

void ads_delta_request(struct ads_stream *s, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *message;

	if (pb_unpack(&envoy__service__discovery__v3__delta_discovery_request__descriptor, bytes, len, 0, &message) < 0) {
		grpc_call_finish(s->call, GRPC_INVALID_ARGUMENT, "not a DeltaDiscoveryRequest");
		return;
	}
	on_request(s, (const delta_request *)message);
	pb_free(message);
}

/*
 * Delta ADS, the client's state machine.
 */
#include "mesh/xds.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/map.h"
#include "mesh/pb.h"

/* Stands in for a subscription where there would be none but unsubscriptions. No workload has this address. */
static char nobody[] = "/0.0.0.0";

enum { TYPES_MAX = 8, ACKS_MAX = 64, REASON_MAX = 2048, CODE_INVALID_ARGUMENT = 3 };

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryRequest request_t;
typedef Envoy__Service__Discovery__V3__DeltaDiscoveryResponse response_t;
typedef Envoy__Service__Discovery__V3__Resource resource_t;

/* A subscription. */
struct name {
	struct map_link link;
	struct list pending;		/* in one of type_state's, or in none */
	bool wanted;			/* else it waits to be unsubscribed */
	bool answered;
	bool again;			/* it is in type_state.to_ask_again */
	char text[];
};

/* A resource that we have; ten thousand of them a stream are not rare. */
struct held {
	struct map_link link;		/* by the name, which the version stands behind */
	uint16_t at_version;
	uint16_t max_version;		/* bytes there is room for, as a rule all that ever come */
	char text[];
};

/* An answer of the server that has not been acknowledged. */
struct ack {
	struct list link;
	char *reason;			/* refused; NULL: taken */
	char nonce[];
};

struct type_state {
	struct map names;
	struct map held;
	struct list to_subscribe;
	struct list to_unsubscribe;
	struct list to_ask_again;
	bool with_nobody;		/* which the next subscription takes back */
	struct list acks;
	size_t n_acks;
	bool begun;			/* the first request of this stream is out */
	bool synced;
};

struct xds {
	const struct xds_type *types;
	size_t n_types;
	void *data;
	struct type_state state[TYPES_MAX];
	struct xds_counters counters;

	/* of the stream */
	const Envoy__Config__Core__V3__Node *node;	/* until it is sent */
	xds_send_fn *send;				/* NULL: no stream */
	void *send_data;
	bool muted;
};

/* --- names and resources --- */

static struct name *find_name(const struct type_state *s, const char *text)
{
	struct map_link *l = map_find_str(&s->names, text);

	return l ? container_of(l, struct name, link) : NULL;
}

static void drop_name(struct type_state *s, struct name *n)
{
	list_unlink(&n->pending);
	map_remove(&s->names, &n->link);
	free(n);
}

static struct held *find_held(const struct type_state *s, const char *name)
{
	struct map_link *l = map_find_str(&s->held, name);

	return l ? container_of(l, struct held, link) : NULL;
}

static void drop_held(struct type_state *s, struct held *h)
{
	map_remove(&s->held, &h->link);
	free(h);
}

static char *held_version(struct held *h)
{
	return h->text + h->at_version;
}

static int add_held(struct type_state *s, const char *name, const char *version)
{
	size_t n_name = strlen(name), n_version = strlen(version);
	struct held *h = malloc(sizeof(*h) + n_name + n_version + 2);

	if (!h)
		return -ENOMEM;
	memcpy(h->text, name, n_name + 1);
	memcpy(h->text + n_name + 1, version, n_version + 1);
	h->at_version = (uint16_t)(n_name + 1);
	h->max_version = (uint16_t)n_version;

	int r = map_add(&s->held, &h->link, h->text, n_name);
	if (r < 0)
		free(h);
	return r;
}

/* @name is not too long. */
static int hold(struct type_state *s, const char *name, const char *version)
{
	struct held *h = find_held(s, name);
	size_t len = strlen(version);

	if (len > XDS_NAME_MAX || (!h && s->held.n >= XDS_RESOURCES_MAX))
		return -E2BIG;
	if (h && len <= h->max_version) {
		memcpy(held_version(h), version, len + 1);
		return 0;
	}
	if (!h)
		return add_held(s, name, version);
	map_remove(&s->held, &h->link);

	int r = add_held(s, name, version);
	if (r < 0)
		(void)!map_add(&s->held, &h->link, h->text, h->at_version - 1u);	/* its place is still there */
	else
		free(h);
	return r;
}

/* --- life --- */

int xds_new(const struct xds_type *types, size_t n_types, void *data, struct xds **ret_xds)
{
	struct xds *x = n_types <= TYPES_MAX ? calloc(1, sizeof(*x)) : NULL;

	if (!x)
		return n_types <= TYPES_MAX ? -ENOMEM : -EINVAL;
	x->types = types;
	x->n_types = n_types;
	x->data = data;
	for (size_t i = 0; i < n_types; i++) {
		map_init(&x->state[i].names);
		map_init(&x->state[i].held);
		list_init(&x->state[i].to_subscribe);
		list_init(&x->state[i].to_unsubscribe);
		list_init(&x->state[i].to_ask_again);
		list_init(&x->state[i].acks);
	}
	*ret_xds = x;
	return 0;
}

static void drop_ack(struct type_state *s, struct ack *a)
{
	list_unlink(&a->link);
	s->n_acks--;
	free(a->reason);
	free(a);
}

static void drop_acks(struct type_state *s)
{
	list_for_each_safe(l, &s->acks)
		drop_ack(s, list_entry(l, struct ack, link));
}

struct xds *xds_free(struct xds *x)
{
	if (!x)
		return NULL;
	for (size_t i = 0; i < x->n_types; i++) {
		struct type_state *s = &x->state[i];

		drop_acks(s);
		map_for_each(l, &s->names)
			drop_name(s, container_of(l, struct name, link));
		map_for_each(l, &s->held)
			drop_held(s, container_of(l, struct held, link));
		map_deinit(&s->names);
		map_deinit(&s->held);
	}
	free(x);
	return NULL;
}

void xds_mute(struct xds *x)
{
	x->muted = true;
}

/* --- subscriptions --- */

static int add_name(struct type_state *s, const char *text, size_t len)
{
	struct name *n;
	int r;

	if (s->names.n >= XDS_NAMES_MAX)
		return -E2BIG;
	n = malloc(sizeof(*n) + len + 1);
	if (!n)
		return -ENOMEM;
	*n = (struct name){ .wanted = true };
	list_init(&n->pending);
	memcpy(n->text, text, len + 1);
	r = map_add(&s->names, &n->link, n->text, len);
	if (r < 0) {
		free(n);
		return r;
	}
	list_append(&s->to_subscribe, &n->pending);
	return 0;
}

int xds_subscribe(struct xds *x, size_t type, const char *name)
{
	struct type_state *s = &x->state[type];
	size_t len = strnlen(name, XDS_NAME_MAX + 1);
	struct name *n;

	if (!len || len > XDS_NAME_MAX || !x->types[type].on_demand || !strcmp(name, "*"))
		return -EINVAL;
	n = find_name(s, name);
	if (!n)
		return add_name(s, name, len);
	if (!n->wanted) {		/* the server has never heard that we did not want it */
		n->wanted = true;
		list_unlink(&n->pending);
		if (n->answered)	/* who begins to want it has not heard that, and would wait for ever */
			xds_ask_again(x, type, name);
	}
	return 0;
}

void xds_unsubscribe(struct xds *x, size_t type, const char *name)
{
	struct type_state *s = &x->state[type];
	struct name *n = find_name(s, name);

	if (!n || !n->wanted)
		return;
	if (n->again) {
		n->again = false;
		list_unlink(&n->pending);
	}
	if (!list_empty(&n->pending) || !s->begun) {	/* nor that we did */
		drop_name(s, n);
		return;
	}
	n->wanted = false;
	list_append(&s->to_unsubscribe, &n->pending);
}

void xds_ask_again(struct xds *x, size_t type, const char *name)
{
	struct type_state *s = &x->state[type];
	struct name *n = find_name(s, name);

	if (!n || !n->wanted || !s->begun || !list_empty(&n->pending))
		return;			/* it is asked for anyway */
	n->again = true;
	list_append(&s->to_ask_again, &n->pending);
}

bool xds_subscribed(const struct xds *x, size_t type, const char *name)
{
	const struct name *n = find_name(&x->state[type], name);

	return n && n->wanted;
}

bool xds_answered(const struct xds *x, size_t type, const char *name)
{
	const struct name *n = find_name(&x->state[type], name);

	return n && n->wanted && n->answered;
}

bool xds_synced(const struct xds *x, size_t type)
{
	return x->state[type].synced;
}

size_t xds_n_resources(const struct xds *x, size_t type)
{
	return x->state[type].held.n;
}

struct xds_counters xds_counters(const struct xds *x)
{
	return x->counters;
}

/* --- requests --- */

static int send_request(struct xds *x, size_t type, request_t *request)
{
	int r;

	request->type_url = (char *)(uintptr_t)x->types[type].url;
	request->node = (Envoy__Config__Core__V3__Node *)(uintptr_t)x->node;
	r = x->send(x->send_data, request);
	if (r == 0)
		x->node = NULL;		/* once a stream */
	return r;
}

struct versions {
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest__InitialResourceVersionsEntry *entries;
	Envoy__Service__Discovery__V3__DeltaDiscoveryRequest__InitialResourceVersionsEntry **pointers;
	size_t n;
};

static int list_versions(const struct type_state *s, struct versions *v)
{
	static const Envoy__Service__Discovery__V3__DeltaDiscoveryRequest__InitialResourceVersionsEntry empty =
		ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INITIAL_RESOURCE_VERSIONS_ENTRY__INIT;

	if (!s->held.n)
		return 0;
	v->entries = calloc(s->held.n, sizeof(*v->entries));
	v->pointers = calloc(s->held.n, sizeof(*v->pointers));
	if (!v->entries || !v->pointers)
		return -ENOMEM;
	map_for_each(l, &s->held) {
		struct held *h = container_of(l, struct held, link);

		v->entries[v->n] = empty;
		v->entries[v->n].key = h->text;
		v->entries[v->n].value = held_version(h);
		v->pointers[v->n] = &v->entries[v->n];
		v->n++;
	}
	return 0;
}

/* All that we want, behind @extra places for others. */
static int list_names(const struct type_state *s, size_t extra, char ***ret_names, size_t *ret_n)
{
	char **names = calloc(s->names.n + extra + 1, sizeof(*names));
	size_t n = extra;

	if (!names)
		return -ENOMEM;
	map_for_each(l, &s->names)
		names[n++] = container_of(l, struct name, link)->text;
	*ret_names = names;
	*ret_n = n;
	return 0;
}

/*
 * The first of a stream. No name at all would mean "everything"; who wants to
 * begin with nothing subscribes "*" and unsubscribes it again in one request
 * (as ztunnel does, and istiod expects).
 */
static int send_first(struct xds *x, size_t type)
{
	struct type_state *s = &x->state[type];
	request_t request = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
	char *star[] = { (char[]){ "*" } };
	CLEANUP_FREE char **names = NULL;
	struct versions versions = {};
	int r = list_names(s, 1, &names, &request.n_resource_names_subscribe);

	if (r == 0)
		r = list_versions(s, &versions);
	if (r == 0) {
		names[0] = star[0];
		request.resource_names_subscribe = names;
		request.resource_names_unsubscribe = star;
		request.n_resource_names_unsubscribe = x->types[type].on_demand;
		request.initial_resource_versions = versions.pointers;
		request.n_initial_resource_versions = versions.n;
		r = send_request(x, type, &request);
	}
	free(versions.entries);
	free(versions.pointers);
	if (r < 0)
		return r;
	s->begun = true;
	list_for_each_safe(l, &s->to_subscribe)
		list_unlink(l);
	return 0;
}

static int send_acks(struct xds *x, size_t type)
{
	struct type_state *s = &x->state[type];
	struct ack *a;

	while ((a = list_first(&s->acks, struct ack, link))) {
		request_t request = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
		Google__Rpc__Status error = GOOGLE__RPC__STATUS__INIT;

		request.response_nonce = a->nonce;
		if (a->reason) {
			error.code = CODE_INVALID_ARGUMENT;
			error.message = a->reason;
			request.error_detail = &error;
		}
		int r = send_request(x, type, &request);
		if (r < 0)
			return r;
		drop_ack(s, a);
	}
	return 0;
}

static size_t take_pending(const struct list *pending, char **names)
{
	size_t n = 0;

	list_for_each(l, pending)
		names[n++] = list_entry(l, struct name, pending)->text;
	return n;
}

/* First they are given up; then they are as new ones. */
static int send_asked_again(struct xds *x, size_t type)
{
	struct type_state *s = &x->state[type];
	request_t request = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
	CLEANUP_FREE char **names = NULL;
	char *other[] = { nobody };
	int r;

	if (list_empty(&s->to_ask_again))
		return 0;
	names = calloc(s->names.n, sizeof(*names));
	if (!names)
		return -ENOMEM;
	request.resource_names_subscribe = other;
	request.n_resource_names_subscribe = 1;
	request.resource_names_unsubscribe = names;
	request.n_resource_names_unsubscribe = take_pending(&s->to_ask_again, names);
	r = send_request(x, type, &request);
	if (r < 0)
		return r;
	s->with_nobody = true;
	list_for_each_safe(l, &s->to_ask_again) {
		list_entry(l, struct name, pending)->again = false;
		list_unlink(l);
		list_append(&s->to_subscribe, l);
	}
	return 0;
}

static int send_changes(struct xds *x, size_t type)
{
	struct type_state *s = &x->state[type];
	request_t request = ENVOY__SERVICE__DISCOVERY__V3__DELTA_DISCOVERY_REQUEST__INIT;
	CLEANUP_FREE char **names = NULL;
	int r;

	if (list_empty(&s->to_subscribe))
		return 0;		/* never only unsubscribe: see the header */
	names = calloc(s->names.n + 1, sizeof(*names));
	if (!names)
		return -ENOMEM;
	request.resource_names_subscribe = names;
	request.n_resource_names_subscribe = take_pending(&s->to_subscribe, names);
	request.resource_names_unsubscribe = names + request.n_resource_names_subscribe;
	request.n_resource_names_unsubscribe = take_pending(&s->to_unsubscribe, request.resource_names_unsubscribe);
	if (s->with_nobody)
		request.resource_names_unsubscribe[request.n_resource_names_unsubscribe++] = nobody;
	r = send_request(x, type, &request);
	if (r < 0)
		return r;
	s->with_nobody = false;
	list_for_each_safe(l, &s->to_subscribe)
		list_unlink(l);
	list_for_each_safe(l, &s->to_unsubscribe)
		drop_name(s, list_entry(l, struct name, pending));
	return 0;
}

int xds_flush(struct xds *x)
{
	int r = 0;

	for (size_t i = 0; i < x->n_types && r == 0 && x->send; i++) {
		if (!x->state[i].begun)
			r = send_first(x, i);
		if (r == 0)
			r = send_acks(x, i);
		if (r == 0)
			r = send_asked_again(x, i);
		if (r == 0)
			r = send_changes(x, i);
	}
	return r == -ENOBUFS ? 0 : r;
}

int xds_begin(struct xds *x, const Envoy__Config__Core__V3__Node *node, xds_send_fn *send, void *send_data)
{
	int r;

	xds_end(x);
	x->node = node;
	x->send = send;
	x->send_data = send_data;
	x->counters.streams++;
	r = xds_flush(x);
	if (r == 0 && x->node && x->n_types)
		r = -ENOBUFS;		/* a fresh stream takes a first request */
	if (r < 0)
		xds_end(x);
	return r;
}

void xds_end(struct xds *x)
{
	x->send = NULL;
	x->node = NULL;
	for (size_t i = 0; i < x->n_types; i++) {
		struct type_state *s = &x->state[i];

		drop_acks(s);
		s->begun = s->synced = s->with_nobody = false;
		list_for_each_safe(l, &s->to_ask_again) {	/* the next stream asks for everything */
			list_entry(l, struct name, pending)->again = false;
			list_unlink(l);
		}
		list_for_each_safe(l, &s->to_unsubscribe)	/* the next stream just does not ask for them */
			drop_name(s, list_entry(l, struct name, pending));
	}
}

/* --- answers --- */

struct reasons {
	char text[REASON_MAX];
	size_t len;
};

static void refuse(struct xds *x, struct reasons *reasons, const char *name, const char *why)
{
	int n = snprintf(reasons->text + reasons->len, sizeof(reasons->text) - reasons->len, "%s%.200s: %s", reasons->len ? "; " : "", name, why);

	x->counters.refused++;
	if (n > 0)
		reasons->len = MIN(reasons->len + (size_t)n, sizeof(reasons->text) - 1);
}

static void mark_answered(struct type_state *s, const char *name)
{
	struct name *n = find_name(s, name);

	if (n)
		n->answered = true;
}

static const char *malformed(const struct xds_type *type, const resource_t *r)
{
	if (!r->name[0] || strlen(r->name) > XDS_NAME_MAX)
		return "a resource without a name, or with one that is too long";
	if (!r->resource)
		return "an empty resource";
	if (strcmp(r->resource->type_url, type->url) != 0)
		return "a resource of another type";
	return NULL;
}

/* With the version of what we did not take it would never come again. */
static void forget_version(struct held *h)
{
	if (h)
		*held_version(h) = 0;
}

static void take_resource(struct xds *x, size_t type, const resource_t *r, struct reasons *reasons)
{
	const char *why = malformed(&x->types[type], r);
	bool is_new = !find_held(&x->state[type], r->name);
	struct diag diag = {};
	int result;

	if (why) {
		refuse(x, reasons, r->name, why);
		return;
	}
	struct xds_resource resource = { r->name, r->version, r->resource->value.data, r->resource->value.len };
	result = hold(&x->state[type], r->name, r->version);
	if (result == 0)
		result = x->types[type].put(x->data, &resource, &diag);
	if (result == 0) {
		x->counters.resources++;
		mark_answered(&x->state[type], r->name);
		return;
	}
	struct held *h = find_held(&x->state[type], r->name);
	if (h && is_new)
		drop_held(&x->state[type], h);
	else
		forget_version(h);
	refuse(x, reasons, r->name, diag.msg[0] ? diag.msg : result < 0 ? strerror(-result) : "refused");
}

static void take_removed(struct xds *x, size_t type, const char *name)
{
	struct type_state *s = &x->state[type];
	struct held *h = find_held(s, name);
	bool known = h || find_name(s, name);

	if (h)
		drop_held(s, h);
	mark_answered(s, name);
	x->counters.removed++;
	if (known)
		x->types[type].gone(x->data, name);
}

static int queue_ack(struct type_state *s, const char *nonce, const struct reasons *reasons)
{
	size_t len = strlen(nonce);
	struct ack *a;

	if (s->n_acks == ACKS_MAX)
		return -EBADMSG;	/* it talks, but does not listen */
	a = malloc(sizeof(*a) + len + 1);
	if (!a)
		return -ENOMEM;
	a->reason = reasons->len ? strdup(reasons->text) : NULL;
	if (reasons->len && !a->reason) {
		free(a);
		return -ENOMEM;
	}
	memcpy(a->nonce, nonce, len + 1);
	list_append(&s->acks, &a->link);
	s->n_acks++;
	return 0;
}

static void answer_done(struct xds *x, size_t type, const response_t *answer, struct reasons *reasons)
{
	int r = x->types[type].done ? x->types[type].done(x->data) : 0;

	if (r < 0)
		refuse(x, reasons, "all of it", strerror(-r));
	for (size_t i = 0; r < 0 && i < answer->n_resources; i++)
		forget_version(find_held(&x->state[type], answer->resources[i]->name));
}

static int take_answer(struct xds *x, size_t type, const response_t *answer)
{
	struct reasons reasons = { .len = 0 };

	if (x->types[type].begin && !x->muted)
		x->types[type].begin(x->data);
	for (size_t i = 0; i < answer->n_resources && !x->muted; i++)
		take_resource(x, type, answer->resources[i], &reasons);
	for (size_t i = 0; i < answer->n_removed_resources && !x->muted; i++)
		take_removed(x, type, answer->removed_resources[i]);
	if (x->muted)
		return 0;
	x->counters.answers++;
	x->state[type].synced = true;
	answer_done(x, type, answer, &reasons);
	return x->muted ? 0 : queue_ack(&x->state[type], answer->nonce, &reasons);
}

int xds_receive(struct xds *x, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *message;
	response_t *answer;
	int r = pb_unpack(&envoy__service__discovery__v3__delta_discovery_response__descriptor, bytes, len, 0, &message);

	if (r < 0)
		return r == -ENOMEM ? r : -EBADMSG;
	answer = (response_t *)(void *)message;
	for (size_t i = 0; i < x->n_types && r == 0; i++)	/* another type was not asked for: not ours to answer */
		if (!strcmp(x->types[i].url, answer->type_url) && x->state[i].begun) {
			r = take_answer(x, i, answer);
			break;
		}
	pb_free(message);
	return r;
}

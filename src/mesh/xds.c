/*
 * Delta ADS, the client's state machine: what it asks for.
 */
#include "mesh/xds_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Stands in for a subscription where there would be none but unsubscriptions. No workload has this address. */
static char nobody[] = "/0.0.0.0";

enum { CODE_INVALID_ARGUMENT = 3 };

typedef Envoy__Service__Discovery__V3__DeltaDiscoveryRequest request_t;

/* --- life --- */

int xds_new(const struct xds_type *types, size_t n_types, void *data, struct xds **ret_xds)
{
	struct xds *x = n_types <= XDS_TYPES_MAX ? calloc(1, sizeof(*x)) : NULL;

	if (!x)
		return n_types <= XDS_TYPES_MAX ? -ENOMEM : -EINVAL;
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

struct xds *xds_free(struct xds *x)
{
	if (!x)
		return NULL;
	for (size_t i = 0; i < x->n_types; i++) {
		struct xds_state *s = &x->state[i];

		xds_acks_drop(s);
		map_for_each(l, &s->names)
			xds_name_drop(s, container_of(l, struct xds_name, link));
		map_for_each(l, &s->held)
			xds_held_drop(s, container_of(l, struct xds_held, link));
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

int xds_subscribe(struct xds *x, size_t type, const char *name)
{
	struct xds_state *s = &x->state[type];
	size_t len = strnlen(name, XDS_NAME_MAX + 1);
	struct xds_name *n;

	if (!len || len > XDS_NAME_MAX || !x->types[type].on_demand || !strcmp(name, "*"))
		return -EINVAL;
	n = xds_name_find(s, name);
	if (!n)
		return xds_name_add(s, name, len);
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
	struct xds_state *s = &x->state[type];
	struct xds_name *n = xds_name_find(s, name);

	if (!n || !n->wanted)
		return;
	if (n->again) {
		n->again = false;
		list_unlink(&n->pending);
	}
	if (!list_empty(&n->pending) || !s->begun) {	/* nor that we did */
		xds_name_drop(s, n);
		return;
	}
	n->wanted = false;
	list_append(&s->to_unsubscribe, &n->pending);
}

void xds_ask_again(struct xds *x, size_t type, const char *name)
{
	struct xds_state *s = &x->state[type];
	struct xds_name *n = xds_name_find(s, name);

	if (!n || !n->wanted || !s->begun || !list_empty(&n->pending))
		return;			/* it is asked for anyway */
	n->again = true;
	list_append(&s->to_ask_again, &n->pending);
}

bool xds_subscribed(const struct xds *x, size_t type, const char *name)
{
	const struct xds_name *n = xds_name_find(&x->state[type], name);

	return n && n->wanted;
}

bool xds_answered(const struct xds *x, size_t type, const char *name)
{
	const struct xds_name *n = xds_name_find(&x->state[type], name);

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

static int list_versions(const struct xds_state *s, struct versions *v)
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
		struct xds_held *h = container_of(l, struct xds_held, link);

		v->entries[v->n] = empty;
		v->entries[v->n].key = h->text;
		v->entries[v->n].value = xds_held_version(h);
		v->pointers[v->n] = &v->entries[v->n];
		v->n++;
	}
	return 0;
}

/* All that we want, behind @extra places for others. */
static int list_names(const struct xds_state *s, size_t extra, char ***ret_names, size_t *ret_n)
{
	char **names = calloc(s->names.n + extra + 1, sizeof(*names));
	size_t n = extra;

	if (!names)
		return -ENOMEM;
	map_for_each(l, &s->names)
		names[n++] = container_of(l, struct xds_name, link)->text;
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
	struct xds_state *s = &x->state[type];
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
	struct xds_state *s = &x->state[type];
	struct xds_ack *a;

	while ((a = list_first(&s->acks, struct xds_ack, link))) {
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
		xds_ack_drop(s, a);
	}
	return 0;
}

static size_t take_pending(const struct list *pending, char **names)
{
	size_t n = 0;

	list_for_each(l, pending)
		names[n++] = list_entry(l, struct xds_name, pending)->text;
	return n;
}

/* First they are given up; then they are as new ones. */
static int send_asked_again(struct xds *x, size_t type)
{
	struct xds_state *s = &x->state[type];
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
		list_entry(l, struct xds_name, pending)->again = false;
		list_unlink(l);
		list_append(&s->to_subscribe, l);
	}
	return 0;
}

static int send_changes(struct xds *x, size_t type)
{
	struct xds_state *s = &x->state[type];
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
		xds_name_drop(s, list_entry(l, struct xds_name, pending));
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
		struct xds_state *s = &x->state[i];

		xds_acks_drop(s);
		s->begun = s->synced = s->with_nobody = false;
		list_for_each_safe(l, &s->to_ask_again) {	/* the next stream asks for everything */
			list_entry(l, struct xds_name, pending)->again = false;
			list_unlink(l);
		}
		list_for_each_safe(l, &s->to_unsubscribe)	/* the next stream just does not ask for them */
			xds_name_drop(s, list_entry(l, struct xds_name, pending));
	}
}

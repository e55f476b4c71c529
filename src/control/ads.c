/*
 * Discovery streams: life, identity, names, acknowledgements, and the push of
 * changes at the end of a turn.
 */
#include "control/ads.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/ads_stream.h"

const char *const ads_type_urls[_RESOURCE_TYPE_N] = {
	[RESOURCE_ADDRESS] = "type.googleapis.com/istio.workload.Address",
	[RESOURCE_AUTHORIZATION] = "type.googleapis.com/istio.security.Authorization",
	[RESOURCE_ENDPOINTS] = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	[RESOURCE_REVOCATIONS] = REVOCATION_TYPE,
};

/* -1: none of ours */
static int type_find(const char *url)
{
	for (int t = 0; t < _RESOURCE_TYPE_N; t++)
		if (!strcmp(url, ads_type_urls[t]))
			return t;
	return -1;
}

/* --- names --- */

struct ads_name *ads_name_find(const struct ads_type *t, const char *name)
{
	struct map_link *l = map_find_str(&t->names, name);

	return l ? container_of(l, struct ads_name, link) : NULL;
}

struct ads_name *ads_name_of(const struct ads_type *t, const struct map_link *key)
{
	struct map_link *l = map_find_same(&t->names, key);

	return l ? container_of(l, struct ads_name, link) : NULL;
}

static void name_free(struct ads_stream *s, enum resource_type type, struct ads_name *n)
{
	ads_interest_drop(&s->ads->index.topics[type], n->name, &n->interest);
	free(n);
}

struct ads_name *ads_name_get(struct ads_stream *s, enum resource_type type, const char *name)
{
	struct ads_type *t = &s->types[type];
	struct ads_name *n = ads_name_find(t, name);
	size_t size = strlen(name) + 1;

	if (n)
		return n;
	if (size > ADS_MAX_NAME)
		return NULL;
	n = calloc(1, sizeof(*n) + size);
	if (!n)
		return NULL;
	memcpy(n->name, name, size);
	if (ads_interest_add(&s->ads->index.topics[type], name, &n->interest, s) < 0 ||
	    map_add(&t->names, &n->link, n->name, size - 1) < 0) {
		name_free(s, type, n);
		return NULL;
	}
	return n;
}

void ads_name_forget(struct ads_stream *s, enum resource_type type, struct ads_name *n)
{
	if (n->wanted || n->held)
		return;
	map_remove(&s->types[type].names, &n->link);
	name_free(s, type, n);
}

void ads_names_clear(struct ads_stream *s, enum resource_type type)
{
	struct ads_type *t = &s->types[type];

	map_for_each(l, &t->names)
		name_free(s, type, container_of(l, struct ads_name, link));
	map_deinit(&t->names);
	map_init(&t->names);
	t->n_held = 0;
}

void ads_set_wildcard(struct ads_stream *s, enum resource_type type, bool wildcard)
{
	struct ads_type *t = &s->types[type];

	list_unlink(&t->all.link);
	if (wildcard)
		list_append(&s->ads->index.all[type], &t->all.link);
	t->wildcard = wildcard;
}

static bool wanted_name(const struct ads_type *t, const struct map_link *key)
{
	const struct ads_name *n = ads_name_of(t, key);

	return n && n->wanted;
}

bool ads_wants_itself(const struct ads_stream *s, const struct resource *res)
{
	const struct ads_type *t = &s->types[res->type];

	if (wanted_name(t, &res->link))
		return true;
	for (size_t i = 0; i < res->n_aliases; i++)
		if (wanted_name(t, resource_ref_link(res, i)) || !strcmp(resource_alias(res, i), s->own_alias))
			return true;
	return false;
}

bool ads_wants(const struct ads_stream *s, const struct resource *res)
{
	if (s->types[res->type].wildcard || ads_wants_itself(s, res))
		return true;
	for (size_t i = res->n_aliases; i < res->n_refs; i++) {
		const struct map_link *link = resource_ref_link(res, i);
		const struct resource *parent = resources_find_same(s->ads->resources, res->type, link);

		if (!strcmp(resource_parent(res, i - res->n_aliases), s->own_node) || (parent && ads_wants_itself(s, parent)))
			return true;
	}
	return false;
}

/* --- acknowledgements --- */

static void ads_push_unref(struct ads_push *p)
{
	if (!p || --p->n_refs)
		return;
	for (size_t i = 0; i < p->n_uids; i++) {
		if (p->ads)
			p->ads->ops->settled(p->ads->data, p->uids[i]);
		free(p->uids[i]);
	}
	free(p->uids);
	free(p);
}

int ads_pending_add(struct ads_type *t, uint64_t nonce, struct ads_push *push)
{
	struct ads_pending *p = malloc(sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->nonce = nonce;
	p->push = push;
	if (push)
		push->n_refs++;
	list_append(&t->pending, &p->link);
	return 0;
}

static void pending_free(struct ads_pending *p)
{
	list_unlink(&p->link);
	ads_push_unref(p->push);
	free(p);
}

void ads_pending_done(struct ads_type *t, const char *nonce)
{
	char *end;
	uint64_t n = strtoull(nonce, &end, 10);

	if (!*nonce || *end)
		return;
	list_for_each_safe(l, &t->pending) {
		struct ads_pending *p = list_entry(l, struct ads_pending, link);

		if (p->nonce > n)
			break;
		pending_free(p);
	}
}

static void ads_pending_clear(struct ads_type *t)
{
	list_for_each_safe(l, &t->pending)
		pending_free(list_entry(l, struct ads_pending, link));
}

static void note_nack(struct ads_stream *s, const char *type, const Google__Rpc__Status *error)
{
	s->ads->counters.n_nacks++;
	snprintf(s->last_nack, sizeof(s->last_nack), "%s", error->message);
	LOG_LIMITED(LOG_L_WARN, "a client has refused what it was sent", log_str("identity", s->identity), log_str("type", type),
		    log_str("reason", s->last_nack));
}

/* --- identity --- */

static const char *node_field(const Envoy__Config__Core__V3__Node *node, const char *name)
{
	for (size_t i = 0; node->metadata && i < node->metadata->n_fields; i++) {
		const Google__Protobuf__Struct__FieldsEntry *f = node->metadata->fields[i];

		if (!strcmp(f->key, name) && f->value && f->value->kind_case == GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE)
			return f->value->string_value;
	}
	return "";
}

/* Node ids are "<type>~<ip>~<name>.<namespace>~<namespace>.svc.<domain>". */
static void learn_own_address(struct ads_stream *s)
{
	const char *at = strchr(s->node, '~');
	const char *end = at ? strchr(at + 1, '~') : NULL;
	char text[IP_TEXT_LEN];
	struct ip ip;

	if (!end || end - at - 1 >= IP_TEXT_LEN)
		return;
	snprintf(text, sizeof(text), "%.*s", (int)(end - at - 1), at + 1);
	if (!ip_parse(text, &ip) && !ip_is_none(&ip))
		snprintf(s->own_alias, sizeof(s->own_alias), "%.30s/%s", s->ads->network, ip_format(&ip, text));
}

/* What it is told unasked: -ENOMEM. */
static int note_own(struct ads_stream *s)
{
	struct map *own = &s->ads->index.own;
	int r = s->own_alias[0] ? ads_interest_add(own, s->own_alias, &s->own[0], s) : 0;

	return r == 0 && s->own_node[0] ? ads_interest_add(own, s->own_node, &s->own[1], s) : r;
}

/* Takes identity and node of the first request; ends the call where they do not fit. */
static bool identify(struct ads_stream *s, const Envoy__Config__Core__V3__Node *node)
{
	const char *ns = node_field(node, "NAMESPACE");
	const char *account = node_field(node, "SERVICE_ACCOUNT");
	const char *name = node_field(node, "NODE_NAME");

	if ((*ns && strcmp(ns, s->id.ns) != 0) || (*account && strcmp(account, s->id.service_account) != 0)) {
		s->ads->counters.n_refused++;
		LOG_LIMITED(LOG_L_WARN, "a node's metadata does not fit its identity", log_str("identity", s->identity));
		grpc_call_finish(s->call, GRPC_PERMISSION_DENIED, "the node says namespace '%.60s', account '%.60s', but it is %.200s", ns,
				 account, s->identity);
		return false;
	}
	s->has_node = true;
	snprintf(s->node, sizeof(s->node), "%s", node->id);
	if (*name)
		snprintf(s->own_node, sizeof(s->own_node), "node:%.500s", name);
	learn_own_address(s);
	if (note_own(s) < 0) {
		grpc_call_finish(s->call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return false;
	}
	log_debug("discovery stream", log_str("identity", s->identity), log_str("node", s->node));
	return true;
}

/* --- requests --- */

bool ads_request_begin(struct ads_stream *s, const struct ads_head *head, enum resource_type *ret_type, bool *ret_first)
{
	int type = type_find(head->type_url);
	struct ads_type *t;

	if (!s->has_node && !head->node)
		grpc_call_finish(s->call, GRPC_INVALID_ARGUMENT, "the first request has no node");
	if (!s->has_node && (!head->node || !identify(s, head->node)))
		return false;
	if (type < 0)
		return false;		/* nothing of that type is served here */
	t = &s->types[type];
	if (head->error)
		note_nack(s, head->type_url, head->error);
	ads_pending_done(t, head->nonce);
	*ret_type = (enum resource_type)type;
	*ret_first = !t->started;
	t->started = true;
	return true;
}

/* --- streams --- */

static void stream_free(struct ads_stream *s)
{
	for (int t = 0; t < _RESOURCE_TYPE_N; t++) {
		ads_pending_clear(&s->types[t]);
		ads_names_clear(s, (enum resource_type)t);
		list_unlink(&s->types[t].all.link);
	}
	ads_interest_drop(&s->ads->index.own, s->own_alias, &s->own[0]);
	ads_interest_drop(&s->ads->index.own, s->own_node, &s->own[1]);
	list_unlink(&s->touched);
	list_unlink(&s->link);
	defer_cancel(&s->dead);
	s->ads->n_streams--;
	free(s);
}

static int on_dead(struct defer *d)
{
	stream_free(container_of(d, struct ads_stream, dead));
	return 0;
}

static void on_message(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	struct ads_stream *s = data;

	(void)call;
	s->ads->counters.n_requests++;
	if (s->delta)
		ads_delta_request(s, bytes, len);
	else
		ads_sotw_request(s, bytes, len);
}

static void on_half_closed(struct grpc_call *call, void *data)
{
	(void)data;
	grpc_call_finish(call, GRPC_OK, NULL);
}

static void on_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	struct ads_stream *s = data;

	(void)call;
	log_debug("discovery stream ended", log_str("identity", s->identity), log_str("node", s->node), log_str("status", grpc_code_name(status->code)));
	s->call = NULL;
	loop_defer(s->ads->loop, &s->dead, on_dead);
}

void ads_stream_init(struct ads_stream *s, struct ads *a, struct grpc_call *call, bool delta)
{
	*s = (struct ads_stream){ .ads = a, .call = call, .delta = delta, .opened_ms = clock_mono_ms() };
	list_init(&s->touched);
	for (int t = 0; t < _RESOURCE_TYPE_N; t++) {
		map_init(&s->types[t].names);
		list_init(&s->types[t].pending);
		list_init(&s->types[t].all.link);
		s->types[t].all.stream = s;
	}
	list_append(&a->streams, &s->link);
	a->n_streams++;
}

static void open_stream(struct ads *a, struct grpc_call *call, bool delta)
{
	static const struct grpc_call_ops ops = {
		.message = on_message, .half_closed = on_half_closed, .closed = on_closed,
	};
	struct diag diag = {};
	struct authn_caller caller;
	enum grpc_code code = authn_call(a->authn, call, &caller, &diag);
	struct ads_stream *s;

	if (code != GRPC_OK) {
		a->counters.n_refused++;
		LOG_LIMITED(LOG_L_WARN, "a discovery stream was refused", log_str("reason", diag.msg));
		grpc_call_finish(call, code, "%s", diag.msg);
		return;
	}
	s = malloc(sizeof(*s));
	if (!s) {
		grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	ads_stream_init(s, a, call, delta);
	s->id = caller.id;
	s->through_nic = caller.through_nic;
	s->origin = caller.origin;
	identity_format(&s->id, s->identity);
	grpc_call_set_ops(call, &ops, s);
}

void ads_open_delta(struct ads *a, struct grpc_call *call)
{
	open_stream(a, call, true);
}

void ads_open_sotw(struct ads *a, struct grpc_call *call)
{
	open_stream(a, call, false);
}

void ads_revoke(struct ads *a, const struct revocation_origin *origin)
{
	list_for_each_safe(l, &a->streams) {
		struct ads_stream *s = list_entry(l, struct ads_stream, link);

		if (s->call && s->through_nic && !memcmp(s->origin.b, origin->b, sizeof(origin->b)))
			grpc_call_finish(s->call, GRPC_PERMISSION_DENIED, "the NIC was revoked");
	}
}

/* --- pushing --- */

static struct ads_push *new_push(struct ads *a)
{
	struct ads_push *p = calloc(1, sizeof(*p));
	size_t n = 0;

	list_for_each(l, &a->resources->changes)
		n++;
	if (!p)
		return NULL;
	p->ads = a;
	p->n_refs = 1;
	p->uids = calloc(n ? n : 1, sizeof(*p->uids));
	list_for_each(l, &a->resources->changes) {
		const struct resource *res = list_entry(l, struct resource, changed);

		if (!p->uids || res->type != RESOURCE_ADDRESS || res->removed)
			continue;
		p->uids[p->n_uids] = strdup(res->name);
		p->n_uids += p->uids[p->n_uids] != NULL;
	}
	return p;
}

static void touch(struct ads_stream *s, enum resource_type type)
{
	s->types[type].touched = true;
	if (list_empty(&s->touched))
		list_append(&s->ads->touched, &s->touched);
}

/* Something may be known not to exist now: that concerns whoever asked for it. */
static void touch_all(struct ads *a)
{
	list_for_each(l, &a->streams)
		for (int t = 0; t < _RESOURCE_TYPE_N; t++)
			touch(list_entry(l, struct ads_stream, link), (enum resource_type)t);
}

static void tell(struct ads_stream *s, struct ads_push *push)
{
	for (int t = 0; t < _RESOURCE_TYPE_N; t++) {
		bool touched = s->types[t].touched;

		s->types[t].touched = false;
		if (!touched || !s->call || !s->types[t].started)
			continue;
		if (s->delta)
			ads_delta_changes(s, (enum resource_type)t, push);
		else
			ads_sotw_changes(s, (enum resource_type)t, push);
	}
}

static int on_flush(struct defer *d)
{
	struct ads *a = container_of(d, struct ads, flush);
	struct ads_push *push = new_push(a);	/* NULL, without memory: times are not measured, that is all */

	list_for_each(l, &a->resources->changes)
		ads_index_each(&a->index, a->resources, list_entry(l, struct resource, changed), touch);
	if (a->resources->completed)
		touch_all(a);
	list_for_each_safe(l, &a->touched) {
		list_unlink(l);
		tell(list_entry(l, struct ads_stream, touched), push);
	}
	resources_settle(a->resources);
	ads_push_unref(push);
	return 0;
}

static void on_changed(void *data)
{
	struct ads *a = data;

	loop_defer(a->loop, &a->flush, on_flush);
}

int ads_new(struct loop *loop, struct resources *resources, struct authn *authn, const char *network,
	    const struct ads_ops *ops, void *data, struct ads **ret_ads)
{
	struct ads *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->loop = loop;
	a->resources = resources;
	a->authn = authn;
	a->network = strdup(network);
	a->ops = ops;
	a->data = data;
	list_init(&a->streams);
	list_init(&a->touched);
	ads_index_init(&a->index);
	if (!a->network) {
		free(a);
		return -ENOMEM;
	}
	resources_listen(resources, on_changed, a);
	if (!list_empty(&resources->changes))
		on_changed(a);
	*ret_ads = a;
	return 0;
}

struct ads *ads_free(struct ads *a)
{
	if (!a)
		return NULL;
	resources_listen(a->resources, NULL, NULL);
	defer_cancel(&a->flush);
	list_for_each_safe(l, &a->streams) {
		struct ads_stream *s = list_entry(l, struct ads_stream, link);

		for (int t = 0; t < _RESOURCE_TYPE_N; t++)
			list_for_each(k, &s->types[t].pending)
				if (list_entry(k, struct ads_pending, link)->push)
					list_entry(k, struct ads_pending, link)->push->ads = NULL;
		if (s->call)
			grpc_call_cancel(s->call);
		stream_free(s);
	}
	ads_index_deinit(&a->index);
	free(a->network);
	free(a);
	return NULL;
}

struct ads_counters ads_counters(const struct ads *a)
{
	return a->counters;
}

size_t ads_n_streams(const struct ads *a)
{
	return a->n_streams;
}

void ads_each_stream(const struct ads *a, void (*fn)(const struct ads_stream_info *info, void *data), void *data)
{
	list_for_each(l, &a->streams) {
		const struct ads_stream *s = list_entry(l, struct ads_stream, link);

		if (!s->call)
			continue;
		const struct ads_stream_info info = {
			.identity = s->identity, .node = s->node, .peer = grpc_call_peer_addr(s->call), .delta = s->delta,
			.n_held = s->types[RESOURCE_ADDRESS].n_held, .opened_ms = s->opened_ms, .last_nack = s->last_nack,
		};
		fn(&info, data);
	}
}

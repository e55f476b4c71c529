/*
 * Observer of Consul's HTTP API: what a guest registers, renews, withdraws and
 * asks for, and what it is answered.
 *
 * Writes count when the paired answer is a 2xx; a query counts when it is
 * asked. Sidecars and gateways (Kind) are the mesh's own furniture and are no
 * services here. Tokens are never read.
 */
#include "discover/consul.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "discover/consul_guest.h"
#include "discover/http_flow.h"
#include "discover/obs_build.h"
#include "proto/consul.h"
#include "proto/json_body.h"

enum { MAX_CHECKS_READ = 256 };	/* of one answer that lists checks: each is compared with each */

struct stream {
	struct consul_guest *guest;
	struct consul_guest *own;	/* the same, when there is no guest to share it */
	struct http_flow *flow;
	struct ip_port client;
	struct ip_port server;
};

/* One request on its way through the functions below. */
struct call {
	struct stream *s;
	const struct discover_ctx *ctx;
	const struct http_exchange *x;
	enum consul_call call;
	char arg[CONSUL_MAX_ARG];
	json_t *body;			/* of the request, or NULL */
};

static enum observation_health health_of(enum consul_status s)
{
	static const enum observation_health map[] = {
		[CONSUL_STATUS_UNKNOWN] = OBS_HEALTH_UNKNOWN, [CONSUL_STATUS_PASSING] = OBS_HEALTH_PASSING,
		[CONSUL_STATUS_WARNING] = OBS_HEALTH_WARNING, [CONSUL_STATUS_CRITICAL] = OBS_HEALTH_CRITICAL,
	};

	return map[s];
}

static bool is_infrastructure(const char *kind)
{
	return kind && strcmp(kind, "typical") != 0;
}

static json_t *unconst(const json_t *o)
{
	return (json_t *)(uintptr_t)o;
}

/* Meta as it is; the tags as one more, comma-separated. */
static void add_metadata(struct obs_build *b, const struct consul_instance *i)
{
	char tags[OBS_MAX_STR + 1] = "";
	size_t at = 0;
	const char *key;
	json_t *value;

	if (i->meta)
		json_object_foreach(unconst(i->meta), key, value)
			if (json_is_string(value))
				obs_build_meta(b, key, json_string_value(value));
	for (size_t n = 0; n < json_array_size(i->tags); n++) {
		const char *tag = json_string_value(json_array_get(i->tags, n));

		if (!tag || at + strlen(tag) + 2 > sizeof(tags))
			continue;
		at += (size_t)snprintf(tags + at, sizeof(tags) - at, "%s%s", at ? "," : "", tag);
	}
	if (at)
		obs_build_meta(b, "tags", obs_build_copy(b, tags));
}

static const char *meta_value(const struct observation *o, const char *key)
{
	for (size_t i = 0; i < o->n_metadata; i++)
		if (strcmp(o->metadata[i].key, key) == 0)
			return o->metadata[i].value;
	return NULL;
}

/* An address, or the name of a host in its place. */
static void set_address(struct obs_build *b, const char *text)
{
	if (text && ip_parse(text, &b->o.address) < 0)
		b->o.host = obs_build_text(b, text);
}

static void emit_instance(struct stream *s, enum observation_kind kind, const struct consul_instance *i, const char *service,
			  const struct discover_ctx *ctx)
{
	struct obs_build b;

	obs_build_init(&b, kind, "consul", &s->server);
	b.o.service = obs_build_text(&b, service);
	b.o.instance = obs_build_text(&b, i->id);
	set_address(&b, i->address);
	b.o.port = i->port;
	b.o.transport = i->udp ? "udp" : "tcp";
	b.o.ttl_s = i->ttl_s;
	b.o.health = health_of(i->status);
	add_metadata(&b, i);
	b.o.app_protocol = meta_value(&b.o, "protocol");
	obs_build_emit(&b, ctx);
}

/* Of an instance known by id only; @k may be NULL. */
static void emit_known(struct stream *s, enum observation_kind kind, const char *id, const struct consul_known *k,
		       enum consul_status status, const struct discover_ctx *ctx)
{
	struct obs_build b;

	if (k && k->infrastructure)
		return;
	obs_build_init(&b, kind, "consul", &s->server);
	b.o.instance = obs_build_text(&b, id);
	b.o.health = health_of(status);
	if (k) {
		b.o.service = obs_build_text(&b, k->service);
		b.o.address = k->address;
		b.o.host = obs_build_text(&b, k->host);
		b.o.port = k->port;
		b.o.ttl_s = k->ttl_s;
		b.o.transport = "tcp";
	}
	obs_build_emit(&b, ctx);
}

/* Writes down what a registration said, for the requests that will only name it. */
static void remember(struct stream *s, const struct consul_instance *i)
{
	struct consul_known *k = consul_guest_add(s->guest, i->node ? i->node : "", i->id, i->service);

	if (!k)
		return;
	free(k->host);
	k->host = NULL;
	k->address = (struct ip){};
	if (i->address && ip_parse(i->address, &k->address) < 0)
		k->host = strdup(i->address);
	k->port = i->port;
	k->ttl_s = i->ttl_s;
	k->infrastructure = is_infrastructure(i->kind);
}

static void remember_check(struct stream *s, const json_t *check, const char *instance)
{
	const char *id = consul_check_id(check);

	if (id && instance)
		consul_guest_add_check(s->guest, id, instance);
}

static void remember_checks(struct stream *s, const json_t *o, const char *instance)
{
	const json_t *list = json_body_get(o, "Checks");

	remember_check(s, json_body_get(o, "Check"), instance);
	for (size_t n = 0; n < json_array_size(list); n++)
		remember_check(s, json_array_get(list, n), instance);
}

static void registered(struct call *c, struct consul_instance *i)
{
	remember(c->s, i);
	if (!is_infrastructure(i->kind))
		emit_instance(c->s, OBS_REGISTER, i, i->service, c->ctx);
}

static void deregistered(struct call *c, const char *node, const char *id)
{
	struct consul_known *k = consul_guest_find(c->s->guest, node, id);

	emit_known(c->s, OBS_DEREGISTER, id, k, CONSUL_STATUS_UNKNOWN, c->ctx);
	if (k)
		consul_guest_remove(c->s->guest, k);
}

static void on_agent_register(struct call *c)
{
	struct consul_instance i;
	char own[IP_TEXT_LEN];

	if (!consul_instance_agent(c->body, &i))
		return;
	/* The server would take its agent's node address: without an agent on the guest that is as near as it gets. */
	if (!i.address)
		i.address = ip_format(&c->s->client.ip, own);
	registered(c, &i);
	remember_checks(c->s, c->body, i.id);
}

static void on_agent_deregister(struct call *c)
{
	deregistered(c, "", c->arg);
}

static void renewed(struct call *c, const char *node, const char *id, enum consul_status status)
{
	emit_known(c->s, OBS_RENEW, id, consul_guest_find(c->s->guest, node, id), status, c->ctx);
}

static void on_maintenance(struct call *c)
{
	char enable[8] = "";

	consul_query_get(c->x->query, "enable", enable, sizeof(enable));
	renewed(c, "", c->arg, strcmp(enable, "true") == 0 || strcmp(enable, "1") == 0 ? CONSUL_STATUS_CRITICAL : CONSUL_STATUS_PASSING);
}

static void on_check_register(struct call *c)
{
	const char *of = json_body_str(c->body, "ServiceID");

	remember_check(c->s, c->body, of ? of : json_body_str(c->body, "service_id"));
}

static void on_check_deregister(struct call *c)
{
	consul_guest_remove_check(c->s->guest, c->arg);
}

static void on_check_status(struct call *c)
{
	char buf[CONSUL_MAX_ARG];
	const char *id = consul_guest_check_instance(c->s->guest, c->arg, buf, sizeof(buf));
	enum consul_status status = CONSUL_STATUS_UNKNOWN;

	if (c->call == CONSUL_CHECK_PASS)
		status = CONSUL_STATUS_PASSING;
	else if (c->call == CONSUL_CHECK_WARN)
		status = CONSUL_STATUS_WARNING;
	else if (c->call == CONSUL_CHECK_FAIL)
		status = CONSUL_STATUS_CRITICAL;
	else
		status = consul_status_parse(json_body_str(c->body, "Status"));
	if (id)
		renewed(c, "", id, status);
}

/* The checks of a catalog write that come without their service: how consul-esm reports health. */
static void on_catalog_check(struct call *c, const char *node, const json_t *check)
{
	const char *id = json_body_str(check, "ServiceID");

	if (id)
		renewed(c, node, id, consul_status_parse(json_body_str(check, "Status")));
}

static void on_catalog_register(struct call *c)
{
	const char *node = json_body_str(c->body, "Node");
	const json_t *list = json_body_get(c->body, "Checks");
	struct consul_instance i;

	if (consul_instance_catalog(c->body, &i)) {
		registered(c, &i);
		remember_checks(c->s, c->body, i.id);
		return;
	}
	on_catalog_check(c, node ? node : "", json_body_get(c->body, "Check"));
	for (size_t n = 0; n < json_array_size(list); n++)
		on_catalog_check(c, node ? node : "", json_array_get(list, n));
}

static void deregister_node(struct call *c, const char *node)
{
	list_for_each_safe(l, &c->s->guest->in_order) {
		struct consul_known *k = list_entry(l, struct consul_known, in_order);

		if (strcmp(k->node, node) == 0) {
			emit_known(c->s, OBS_DEREGISTER, k->id, k, CONSUL_STATUS_UNKNOWN, c->ctx);
			consul_guest_remove(c->s->guest, k);
		}
	}
}

static void on_catalog_deregister(struct call *c)
{
	const char *node = json_body_str(c->body, "Node");
	const char *id = json_body_str(c->body, "ServiceID");
	const char *check = json_body_str(c->body, "CheckID");

	if (id)
		deregistered(c, node ? node : "", id);
	else if (check)
		consul_guest_remove_check(c->s->guest, check);
	else if (node)
		deregister_node(c, node);
}

static bool verb_sets(const json_t *op)
{
	const char *verb = json_body_str(op, "Verb");

	return verb && (strcmp(verb, "set") == 0 || strcmp(verb, "cas") == 0);
}

static bool verb_deletes(const json_t *op)
{
	const char *verb = json_body_str(op, "Verb");

	return verb && strncmp(verb, "delete", 6) == 0;
}

/* The address that this transaction, or an earlier one, gave to a node. */
static const char *txn_node_address(const json_t *ops, const char *node)
{
	for (size_t n = 0; node && n < json_array_size(ops); n++) {
		const json_t *o = json_body_get(json_body_get(json_array_get(ops, n), "Node"), "Node");
		const char *name = json_body_str(o, "Node");

		if (name && strcmp(name, node) == 0)
			return json_body_str(o, "Address");
	}
	return NULL;
}

static void on_txn_service(struct call *c, const json_t *op)
{
	struct consul_instance i;

	if (!consul_instance_agent(json_body_get(op, "Service"), &i))
		return;
	i.node = json_body_str(op, "Node");
	if (!i.address)
		i.address = txn_node_address(c->body, i.node);
	if (verb_sets(op))
		registered(c, &i);
	else if (verb_deletes(op))
		deregistered(c, i.node ? i.node : "", i.id);
}

static void on_txn_op(struct call *c, const json_t *o)
{
	const json_t *service = json_body_get(o, "Service");
	const json_t *check = json_body_get(o, "Check");
	const json_t *node = json_body_get(o, "Node");
	const char *name = json_body_str(json_body_get(node, "Node"), "Node");

	if (service)
		on_txn_service(c, service);
	if (verb_sets(check)) {
		const char *of = json_body_str(json_body_get(check, "Check"), "Node");

		on_catalog_check(c, of ? of : "", json_body_get(check, "Check"));
	}
	if (name && verb_deletes(node))
		deregister_node(c, name);
}

static void on_txn(struct call *c)
{
	for (size_t n = 0; n < json_array_size(c->body); n++)
		on_txn_op(c, json_array_get(c->body, n));
}

static void (*const writes[])(struct call *c) = {
	[CONSUL_AGENT_REGISTER] = on_agent_register,
	[CONSUL_AGENT_DEREGISTER] = on_agent_deregister,
	[CONSUL_AGENT_MAINTENANCE] = on_maintenance,
	[CONSUL_CHECK_REGISTER] = on_check_register,
	[CONSUL_CHECK_DEREGISTER] = on_check_deregister,
	[CONSUL_CHECK_PASS] = on_check_status,
	[CONSUL_CHECK_WARN] = on_check_status,
	[CONSUL_CHECK_FAIL] = on_check_status,
	[CONSUL_CHECK_UPDATE] = on_check_status,
	[CONSUL_CATALOG_REGISTER] = on_catalog_register,
	[CONSUL_CATALOG_DEREGISTER] = on_catalog_deregister,
	[CONSUL_TXN] = on_txn,
};

/* The service that a query asks for; NULL when it asks for all, or names none. */
static const char *asked_service(const struct call *c)
{
	bool named = c->call == CONSUL_GET_HEALTH_SERVICE || c->call == CONSUL_GET_CATALOG_SERVICE ||
		     c->call == CONSUL_GET_AGENT_HEALTH || c->call == CONSUL_GET_CHECKS || c->call == CONSUL_GET_QUERY;

	if (c->call == CONSUL_GET_AGENT_SERVICE) {
		const struct consul_known *k = consul_guest_find(c->s->guest, "", c->arg);

		return k ? k->service : NULL;
	}
	return named ? c->arg : NULL;
}

/* A blocking query that goes on from an earlier answer. */
static bool is_continued(const char *query)
{
	char index[32] = "", hash[64] = "";

	consul_query_get(query, "index", index, sizeof(index));
	consul_query_get(query, "hash", hash, sizeof(hash));
	return *hash || (*index && strcmp(index, "0") != 0 && *index != '-');
}

/* At this registry, this path: the same question. */
static char *watch_key(const struct call *c)
{
	char server[IP_PORT_TEXT_LEN];
	char *key;

	return asprintf(&key, "%s %s", ip_port_format(&c->s->server, server), c->x->path) < 0 ? NULL : key;
}

/*
 * One discover a question. The guest's blocking query that is asked again with
 * the index of the last answer is one question, also over another connection.
 */
static void on_query(struct call *c)
{
	CLEANUP_FREE char *key = watch_key(c);
	struct consul_watch *w;
	bool known = false;
	struct obs_build b;

	w = key ? consul_guest_watch(c->s->guest, key, &known) : NULL;
	if (w && known && is_continued(c->x->query))
		return;
	if (w)
		consul_watch_set(w, NULL, 0);
	obs_build_init(&b, OBS_DISCOVER, "consul", &c->s->server);
	b.o.service = obs_build_text(&b, asked_service(c));
	obs_build_emit(&b, c->ctx);
}

/* The instances of one answer, those that this watch has seen left out. */
struct answers {
	struct call *c;
	struct consul_watch *watch;
	uint64_t *hashes;
	size_t n;
};

static uint64_t instance_hash(const struct consul_instance *i, const char *service)
{
	CLEANUP_FREE char *meta = i->meta ? json_dumps(i->meta, JSON_COMPACT) : NULL;
	CLEANUP_FREE char *tags = i->tags ? json_dumps(i->tags, JSON_COMPACT) : NULL;
	CLEANUP_FREE char *text = NULL;

	if (asprintf(&text, "%s\n%s\n%s\n%s\n%u\n%d\n%s\n%s", service ? service : "", i->node ? i->node : "", i->id,
		     i->address ? i->address : "", i->port, (int)i->status, meta ? meta : "", tags ? tags : "") < 0)
		return 0;
	return map_hash(text, strlen(text));
}

static void answer(struct answers *a, const struct consul_instance *i, const char *service)
{
	uint64_t hash = instance_hash(i, service);

	if (!a->watch || !consul_watch_saw(a->watch, hash))
		emit_instance(a->c->s, OBS_ANSWER, i, service, a->c->ctx);
	if (a->hashes && a->n < CONSUL_GUEST_MAX_SEEN)
		a->hashes[a->n++] = hash;
}

/* Service mesh proxies answer for the service that they stand before. */
static const char *service_of(const struct call *c, const json_t *service, const struct consul_instance *i)
{
	const char *behind = json_body_str(json_body_get(service, "Proxy"), "DestinationServiceName");

	if (!is_infrastructure(i->kind))
		return i->service;
	return behind ? behind : c->call == CONSUL_GET_HEALTH_SERVICE || c->call == CONSUL_GET_CATALOG_SERVICE ? c->arg : i->service;
}

static void answer_health(struct answers *a, const json_t *list)
{
	struct consul_instance i;

	for (size_t n = 0; n < json_array_size(list); n++) {
		const json_t *o = json_array_get(list, n);

		if (consul_instance_health(o, &i))
			answer(a, &i, service_of(a->c, json_body_get(o, "Service"), &i));
	}
}

static void answer_flat(struct answers *a, const json_t *list)
{
	struct consul_instance i;

	for (size_t n = 0; n < json_array_size(list); n++) {
		const json_t *o = json_array_get(list, n);

		if (consul_instance_flat(o, &i))
			answer(a, &i, service_of(a->c, o, &i));
	}
}

/* The agent says "" for the address of its own node. */
static void answer_agent_service(struct answers *a, const json_t *o)
{
	struct consul_instance i;
	const struct consul_known *k;
	char own[IP_TEXT_LEN];

	if (!consul_instance_agent(o, &i) || is_infrastructure(i.kind))
		return;
	k = consul_guest_find(a->c->s->guest, "", i.id);
	if (!i.address && k)
		i.address = ip_is_none(&k->address) ? k->host : ip_format(&k->address, own);
	answer(a, &i, i.service);
}

static void answer_agent_services(struct answers *a, const json_t *o)
{
	const char *key;
	json_t *value;

	json_object_foreach(unconst(o), key, value)
		answer_agent_service(a, value);
}

static bool is_same_instance(const struct consul_instance *a, const struct consul_instance *b)
{
	return !strcmp(a->id, b->id) && !strcmp(a->node ? a->node : "", b->node ? b->node : "");
}

/* Takes over the worst status of the other checks of @i, which is the check at @at. False: one of them stands before it. */
static bool take_worst(const json_t *list, size_t n_checks, size_t at, struct consul_instance *i)
{
	struct consul_instance other;

	for (size_t n = 0; n < n_checks; n++) {
		if (n == at || !consul_instance_flat(json_array_get(list, n), &other) || !is_same_instance(&other, i))
			continue;
		if (n < at)
			return false;
		i->status = MAX(i->status, other.status);
	}
	return true;
}

/* Lists of checks: several of one instance are one answer, with the worst of them. */
static void answer_checks(struct answers *a, const json_t *list)
{
	size_t n_checks = MIN(json_array_size(list), (size_t)MAX_CHECKS_READ);
	struct consul_instance i;

	for (size_t n = 0; n < n_checks; n++) {
		if (!consul_instance_flat(json_array_get(list, n), &i))
			continue;
		i.udp = false;
		if (take_worst(list, n_checks, n, &i))
			answer(a, &i, i.service);
	}
}

static void on_answer(struct call *c)
{
	json_t *o = json_body_parse(c->x->response_body, c->x->n_response_body);
	CLEANUP_FREE char *key = watch_key(c);
	struct answers a = { .c = c, .watch = key ? consul_guest_find_watch(c->s->guest, key) : NULL };

	if (a.watch)
		a.hashes = calloc(CONSUL_GUEST_MAX_SEEN, sizeof(*a.hashes));
	if (c->call == CONSUL_GET_HEALTH_SERVICE || c->call == CONSUL_GET_AGENT_HEALTH)
		answer_health(&a, o);
	else if (c->call == CONSUL_GET_QUERY)
		answer_health(&a, json_body_get(o, "Nodes"));
	else if (c->call == CONSUL_GET_CATALOG_SERVICE)
		answer_flat(&a, o);
	else if (c->call == CONSUL_GET_CHECKS || c->call == CONSUL_GET_STATE)
		answer_checks(&a, o);
	else if (c->call == CONSUL_GET_AGENT_SERVICES)
		answer_agent_services(&a, o);
	else if (c->call == CONSUL_GET_AGENT_SERVICE)
		answer_agent_service(&a, o);
	if (a.watch && a.hashes) {
		uint64_t *fit = a.n ? realloc(a.hashes, a.n * sizeof(*fit)) : NULL;

		if (!a.n)
			free(a.hashes);
		consul_watch_set(a.watch, fit, fit ? a.n : 0);
	}
	json_decref(o);
}

static bool wants(const char *method, const char *path, void *data)
{
	char arg[CONSUL_MAX_ARG];

	(void)data;
	return consul_call_parse(method, path, arg) != CONSUL_OTHER;
}

static void begin(struct call *c, struct stream *s, const struct http_exchange *x, const struct discover_ctx *ctx)
{
	c->s = s;
	c->ctx = ctx;
	c->x = x;
	c->body = NULL;
	c->call = consul_call_parse(x->method, x->path, c->arg);
}

static void on_request(const struct http_exchange *x, const struct discover_ctx *ctx, void *data)
{
	struct call c;

	begin(&c, data, x, ctx);
	if (consul_call_is_query(c.call))
		on_query(&c);
}

static void on_exchange(const struct http_exchange *x, const struct discover_ctx *ctx, void *data)
{
	struct call c;

	if (x->status < 200 || x->status > 299)
		return;
	begin(&c, data, x, ctx);
	if (consul_call_is_query(c.call)) {
		on_answer(&c);
	} else if (c.call < ELEMENTS(writes) && writes[c.call]) {
		c.body = json_body_parse(x->request_body, x->n_request_body);
		writes[c.call](&c);
		json_decref(c.body);
	}
}

static const struct http_flow_events events = { .wants = wants, .on_request = on_request, .on_exchange = on_exchange };

static void *guest_new(void)
{
	return consul_guest_new();
}

static void guest_free(void *guest)
{
	consul_guest_free(guest);
}

static void stream_free(void *stream)
{
	struct stream *s = stream;

	if (!s)
		return;
	http_flow_free(s->flow);
	consul_guest_free(s->own);
	free(s);
}

static void *stream_new(void *guest, const struct ip_port *client, const struct ip_port *server)
{
	struct stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->client = *client;
	s->server = *server;
	s->own = guest ? NULL : consul_guest_new();
	s->guest = guest ? guest : s->own;
	s->flow = http_flow_new(&events, s);
	if (!s->flow || !s->guest) {
		stream_free(s);
		return NULL;
	}
	return s;
}

static bool stream_data(void *stream, enum discover_dir dir, const uint8_t *data, size_t len, const struct discover_ctx *ctx)
{
	struct stream *s = stream;

	return http_flow_data(s->flow, dir, data, len, ctx);
}

static bool stream_gap(void *stream, enum discover_dir dir, size_t len, const struct discover_ctx *ctx)
{
	struct stream *s = stream;

	return http_flow_gap(s->flow, dir, len, ctx);
}

static void stream_end(void *stream, enum discover_dir dir, const struct discover_ctx *ctx)
{
	struct stream *s = stream;

	http_flow_close(s->flow, dir, ctx);
}

const struct discover_protocol discover_consul = {
	.name = "consul",
	.tcp_ports = { 8500 },
	.guest_new = guest_new,
	.guest_free = guest_free,
	.stream_new = stream_new,
	.stream_free = stream_free,
	.stream_data = stream_data,
	.stream_gap = stream_gap,
	.stream_end = stream_end,
};

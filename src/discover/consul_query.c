/*
 * What a guest asks Consul for, and what it is answered.
 */
#include "discover/consul_request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "discover/obs_build.h"
#include "proto/json_body.h"

enum { MAX_CHECKS_READ = 256 };	/* of one answer that lists checks: each is compared with each */

/* The service that a query asks for; NULL when it asks for all, or names none. */
static const char *asked_service(const struct consul_request *c)
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
static char *watch_key(const struct consul_request *c)
{
	char server[IP_PORT_TEXT_LEN];
	char *key;

	return asprintf(&key, "%s %s", ip_port_format(&c->s->server, server), c->x->path) < 0 ? NULL : key;
}

/*
 * One discover a question. The guest's blocking query that is asked again with
 * the index of the last answer is one question, also over another connection.
 */
void consul_on_query(struct consul_request *c)
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
	struct consul_request *c;
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
		consul_emit_instance(a->c->s, OBS_ANSWER, i, service, a->c->ctx);
	if (a->hashes && a->n < CONSUL_GUEST_MAX_SEEN)
		a->hashes[a->n++] = hash;
}

/* Service mesh proxies answer for the service that they stand before. */
static const char *service_of(const struct consul_request *c, const json_t *service, const struct consul_instance *i)
{
	const char *behind = json_body_str(json_body_get(service, "Proxy"), "DestinationServiceName");

	if (!consul_is_infrastructure(i->kind))
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

	if (!consul_instance_agent(o, &i) || consul_is_infrastructure(i.kind))
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

	json_object_foreach((json_t *)(uintptr_t)o, key, value)
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

void consul_on_answer(struct consul_request *c)
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

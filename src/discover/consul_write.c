/*
 * What a guest writes at Consul: instances that are registered, renewed and
 * withdrawn, by the agent's API, the catalog's and transactions.
 */
#include "discover/consul_request.h"

#include <stdlib.h>
#include <string.h>

#include "proto/json_body.h"

/* Writes down what a registration said, for the requests that will only name it. */
static void remember(struct consul_stream *s, const struct consul_instance *i)
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
	k->infrastructure = consul_is_infrastructure(i->kind);
}

static void remember_check(struct consul_stream *s, const json_t *check, const char *instance)
{
	const char *id = consul_check_id(check);

	if (id && instance)
		consul_guest_add_check(s->guest, id, instance);
}

static void remember_checks(struct consul_stream *s, const json_t *o, const char *instance)
{
	const json_t *list = json_body_get(o, "Checks");

	remember_check(s, json_body_get(o, "Check"), instance);
	for (size_t n = 0; n < json_array_size(list); n++)
		remember_check(s, json_array_get(list, n), instance);
}

static void registered(struct consul_request *c, struct consul_instance *i)
{
	remember(c->s, i);
	if (!consul_is_infrastructure(i->kind))
		consul_emit_instance(c->s, OBS_REGISTER, i, i->service, c->ctx);
}

static void deregistered(struct consul_request *c, const char *node, const char *id)
{
	struct consul_known *k = consul_guest_find(c->s->guest, node, id);

	consul_emit_known(c->s, OBS_DEREGISTER, id, k, CONSUL_STATUS_UNKNOWN, c->ctx);
	if (k)
		consul_guest_remove(c->s->guest, k);
}

static void on_agent_register(struct consul_request *c)
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

static void on_agent_deregister(struct consul_request *c)
{
	deregistered(c, "", c->arg);
}

static void renewed(struct consul_request *c, const char *node, const char *id, enum consul_status status)
{
	consul_emit_known(c->s, OBS_RENEW, id, consul_guest_find(c->s->guest, node, id), status, c->ctx);
}

static void on_maintenance(struct consul_request *c)
{
	char enable[8] = "";

	consul_query_get(c->x->query, "enable", enable, sizeof(enable));
	renewed(c, "", c->arg, strcmp(enable, "true") == 0 || strcmp(enable, "1") == 0 ? CONSUL_STATUS_CRITICAL : CONSUL_STATUS_PASSING);
}

static void on_check_register(struct consul_request *c)
{
	const char *of = json_body_str(c->body, "ServiceID");

	remember_check(c->s, c->body, of ? of : json_body_str(c->body, "service_id"));
}

static void on_check_deregister(struct consul_request *c)
{
	consul_guest_remove_check(c->s->guest, c->arg);
}

static void on_check_status(struct consul_request *c)
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
static void on_catalog_check(struct consul_request *c, const char *node, const json_t *check)
{
	const char *id = json_body_str(check, "ServiceID");

	if (id)
		renewed(c, node, id, consul_status_parse(json_body_str(check, "Status")));
}

static void on_catalog_register(struct consul_request *c)
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

static void deregister_node(struct consul_request *c, const char *node)
{
	list_for_each_safe(l, &c->s->guest->in_order) {
		struct consul_known *k = list_entry(l, struct consul_known, in_order);

		if (strcmp(k->node, node) == 0) {
			consul_emit_known(c->s, OBS_DEREGISTER, k->id, k, CONSUL_STATUS_UNKNOWN, c->ctx);
			consul_guest_remove(c->s->guest, k);
		}
	}
}

static void on_catalog_deregister(struct consul_request *c)
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

static void on_txn_service(struct consul_request *c, const json_t *op)
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

static void on_txn_op(struct consul_request *c, const json_t *o)
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

static void on_txn(struct consul_request *c)
{
	for (size_t n = 0; n < json_array_size(c->body); n++)
		on_txn_op(c, json_array_get(c->body, n));
}

static void (*const writes[])(struct consul_request *c) = {
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

void consul_on_write(struct consul_request *c)
{
	if (c->call < ELEMENTS(writes) && writes[c->call])
		writes[c->call](c);
}

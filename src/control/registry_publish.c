/*
 * The registry's model to resources: workloads, services, policies.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "control/pool.h"
#include "mesh/names.h"
#include "control/registry.h"

enum { MAX_RESOURCE = 4 << 20 };

/* "network/ip": the other name of whatever has that address. */
static char *alias_of(struct pool *p, const struct registry *reg, const struct ip *ip)
{
	char text[IP_TEXT_LEN];

	return pool_printf(p, "%s/%s", reg->config->mesh.network, ip_format(ip, text));
}

static size_t list_length(const struct list *head)
{
	size_t n = 0;

	list_for_each(l, head)
		n++;
	return n;
}

/* Puts what was encoded, unless the pool it was built in has failed. */
static int put(struct registry *reg, enum resource_type type, const char *name, int encoded, const struct pool *p,
	       const struct resource_content *content)
{
	if (encoded < 0)
		return encoded;
	return p->failed ? -ENOMEM : resources_put(reg->resources, type, name, content);
}

/* --- workloads --- */

static const char *label(const struct reg_workload *w, const char *key)
{
	if (!strcmp(key, "service_account"))
		return w->service_account;
	if (!strcmp(key, "workload"))
		return w->name;
	for (size_t i = 0; w->labels && i < w->labels->n; i++)
		if (!strcmp(w->labels->v[i].key, key))
			return w->labels->v[i].value;
	return "";
}

static bool selects(const struct config_authorization *a, const struct reg_workload *w)
{
	if (!a->selector.n || strcmp(a->namespace, w->namespace) != 0)
		return false;
	for (size_t i = 0; i < a->selector.n; i++)
		if (strcmp(label(w, a->selector.v[i].key), a->selector.v[i].value) != 0)
			return false;
	return true;
}

static void add_policies(struct pool *p, const struct registry *reg, const struct reg_workload *w, struct workload *out)
{
	const char **names = pool_alloc(p, reg->config->authorization.n, sizeof(*names));
	size_t n = 0;

	if (p->failed)
		return;
	config_for_each(const struct config_authorization, a, &reg->config->authorization)
		if (selects(a, w))
			names[n++] = pool_printf(p, "%s/%s", a->namespace, a->name);
	out->policies = names;
	out->n_policies = n;
}

static void add_services(struct pool *p, const struct reg_workload *w, struct workload *out, struct resource_content *content)
{
	size_t n = list_length(&w->members);
	struct workload_service *services = pool_alloc(p, n, sizeof(*services));
	const char **parents = pool_alloc(p, n + 1, sizeof(*parents));
	bool all = reg_workload_unhealthy(w);	/* then the workload's status says it; else what is unhealthy is left out */
	size_t i = 0;

	if (p->failed)
		return;
	list_for_each(l, &w->members) {
		const struct reg_member *m = list_entry(l, struct reg_member, in_workload);

		if (m->unhealthy && !all)
			continue;
		services[i] = (struct workload_service){ m->service->key, m->ports, m->n_ports };
		parents[i++] = m->service->key;
	}
	out->services = services;
	out->n_services = i;
	out->unhealthy = all;
	if (*w->node)
		parents[i++] = pool_printf(p, "node:%s", w->node);
	content->parents = parents;
	content->n_parents = i;
}

static const char *label_of(const void *of, const char *key)
{
	return label(of, key);
}

/* A VM without such a label is called as its service is, which says more than its own name. */
const char *reg_canonical_name(const struct reg_workload *w)
{
	const char *dflt = w->workload_name ? w->workload_name : w->name;

	if (!w->kube && !list_empty(&w->members))
		dflt = list_first(&w->members, struct reg_member, in_workload)->service->name;
	return names_canonical_name(label_of, w) ?: dflt;
}

const char *reg_canonical_revision(const struct reg_workload *w)
{
	return names_canonical_revision(label_of, w) ?: "latest";
}

int reg_publish_workload(struct registry *reg, const struct reg_workload *w)
{
	struct pool p = {};
	struct bytes bytes;
	struct ip *ips = pool_alloc(&p, w->n_addresses, sizeof(*ips));
	const char **aliases = pool_alloc(&p, w->n_addresses, sizeof(*aliases));
	struct resource_content content = { .aliases = aliases, .n_aliases = w->host_network ? 0 : w->n_addresses };
	struct workload out = {
		.uid = w->uid, .name = w->name, .namespace = w->namespace, .network = reg->config->mesh.network,
		.trust_domain = reg->config->trust_domain, .service_account = w->service_account, .hostname = "", .node = w->node,
		.canonical_name = reg_canonical_name(w), .canonical_revision = reg_canonical_revision(w),
		.workload_name = w->workload_name ? w->workload_name : w->name,
		.cluster_id = reg->config->mesh.cluster_id, .locality = { "", "", "" }, .addresses = ips, .n_addresses = w->n_addresses,
		.tunnel = w->tunnel, .host_network = w->host_network, .type = w->type, .capacity = w->weight,
	};
	int r;

	for (size_t i = 0; i < w->n_addresses && !p.failed; i++) {
		ips[i] = w->addresses[i].ip;
		aliases[i] = alias_of(&p, reg, &ips[i]);
	}
	add_services(&p, w, &out, &content);
	add_policies(&p, reg, w, &out);
	bytes_init(&bytes, MAX_RESOURCE);
	r = p.failed ? -ENOMEM : workload_encode(&out, &bytes);
	content.bytes = bytes.data;
	content.len = bytes.len;
	r = put(reg, RESOURCE_ADDRESS, w->uid, r, &p, &content);
	bytes_deinit(&bytes);
	pool_free(&p);
	return r;
}

/* --- services --- */

/* The ports of a service that nobody declared are those of its members. */
static void collect_ports(struct reg_service *s)
{
	s->n_ports = 0;
	list_for_each(l, &s->members) {
		const struct reg_member *m = list_entry(l, struct reg_member, in_service);

		for (size_t i = 0; i < m->n_ports; i++) {
			size_t at = 0;

			while (at < s->n_ports && s->ports[at].service_port < m->ports[i].service_port)
				at++;
			if ((at < s->n_ports && s->ports[at].service_port == m->ports[i].service_port) || s->n_ports == REG_MAX_PORTS)
				continue;
			memmove(&s->ports[at + 1], &s->ports[at], (s->n_ports - at) * sizeof(*s->ports));
			s->ports[at] = m->ports[i];
			s->n_ports++;
		}
	}
}

static bool publishes_port(const struct port_map *ports, size_t n, uint16_t port)
{
	for (size_t i = 0; i < n; i++)
		if (ports[i].service_port == port)
			return true;
	return false;
}

const char *reg_cluster_name(const struct reg_service *s, uint16_t port, char name[static REG_CLUSTER_LEN])
{
	snprintf(name, REG_CLUSTER_LEN, "outbound|%u||%s", port, s->hostname);
	return name;
}

static int publish_all_endpoints(struct registry *reg, struct reg_service *s)
{
	char name[REG_CLUSTER_LEN];
	int r = 0;

	for (size_t i = 0; i < s->n_published; i++)
		if (!publishes_port(s->ports, s->n_ports, s->published[i].service_port))
			resources_remove(reg->resources, RESOURCE_ENDPOINTS, reg_cluster_name(s, s->published[i].service_port, name));
	for (size_t i = 0; r == 0 && i < s->n_ports; i++)
		r = reg_publish_endpoints(reg, s, s->ports[i].service_port);
	memcpy(s->published, s->ports, sizeof(s->ports));
	s->n_published = s->n_ports;
	return r;
}

int reg_publish_service(struct registry *reg, struct reg_service *s)
{
	struct pool p = {};
	struct bytes bytes;
	struct service_address *addresses = pool_alloc(&p, s->n_addresses, sizeof(*addresses));
	const char **aliases = pool_alloc(&p, s->n_addresses, sizeof(*aliases));
	struct resource_content content = { .aliases = aliases, .n_aliases = s->n_addresses };
	char *namespace = pool_printf(&p, "%.*s", (int)s->n_namespace, s->key);
	int r;

	if (!s->declared)
		collect_ports(s);
	struct service out = {
		.name = s->name, .namespace = namespace, .hostname = s->hostname, .addresses = addresses, .n_addresses = s->n_addresses,
		.ports = s->ports, .n_ports = s->n_ports,
	};
	for (size_t i = 0; i < s->n_addresses && !p.failed; i++) {
		addresses[i] = (struct service_address){ reg->config->mesh.network, s->addresses[i], 128 };
		aliases[i] = alias_of(&p, reg, &s->addresses[i]);
	}
	bytes_init(&bytes, MAX_RESOURCE);
	r = p.failed ? -ENOMEM : service_encode(&out, &bytes);
	content.bytes = bytes.data;
	content.len = bytes.len;
	r = put(reg, RESOURCE_ADDRESS, s->key, r, &p, &content);
	bytes_deinit(&bytes);
	pool_free(&p);
	return r < 0 ? r : publish_all_endpoints(reg, s);
}

void reg_withdraw_service(struct registry *reg, struct reg_service *s)
{
	char name[REG_CLUSTER_LEN];

	resources_remove(reg->resources, RESOURCE_ADDRESS, s->key);
	for (size_t i = 0; i < s->n_published; i++)
		resources_remove(reg->resources, RESOURCE_ENDPOINTS, reg_cluster_name(s, s->published[i].service_port, name));
}

/* --- authorization policies --- */

static struct text_match text_match_of(struct pool *p, const char *text)
{
	size_t len = strlen(text);

	if (!strcmp(text, "*"))
		return (struct text_match){ TEXT_PRESENCE, "" };
	if (text[0] == '*')
		return (struct text_match){ TEXT_SUFFIX, text + 1 };
	if (text[len - 1] == '*')
		return (struct text_match){ TEXT_PREFIX, pool_printf(p, "%.*s", (int)len - 1, text) };
	return (struct text_match){ TEXT_EXACT, text };
}

static struct text_matches texts_of(struct pool *p, const struct conf_strings *s)
{
	struct text_match *list = pool_alloc(p, s->n, sizeof(*list));

	for (size_t i = 0; i < s->n && !p->failed; i++)
		list[i] = text_match_of(p, s->v[i]);
	return (struct text_matches){ list, p->failed ? 0 : s->n };
}

static struct account_matches accounts_of(struct pool *p, const struct conf_strings *s, const char *namespace)
{
	struct account_match *list = pool_alloc(p, s->n, sizeof(*list));

	for (size_t i = 0; i < s->n && !p->failed; i++) {
		const char *slash = strchr(s->v[i], '/');

		list[i].namespace = slash ? pool_printf(p, "%.*s", (int)(slash - s->v[i]), s->v[i]) : namespace;
		list[i].service_account = slash ? slash + 1 : s->v[i];
	}
	return (struct account_matches){ list, p->failed ? 0 : s->n };
}

static struct policy_clause from_clause(struct pool *p, const struct config_rule *rule, const char *namespace)
{
	struct policy_match *matches = pool_alloc(p, rule->from.n, sizeof(*matches));
	size_t n = 0;

	config_for_each(const struct config_from, f, &rule->from) {
		if (p->failed)
			break;
		matches[n++] = (struct policy_match){
			.principals = texts_of(p, &f->principals), .not_principals = texts_of(p, &f->not_principals),
			.namespaces = texts_of(p, &f->namespaces), .not_namespaces = texts_of(p, &f->not_namespaces),
			.accounts = accounts_of(p, &f->service_accounts, namespace),
			.not_accounts = accounts_of(p, &f->not_service_accounts, namespace),
			.source_ips = { f->ip_blocks.v, f->ip_blocks.n }, .not_source_ips = { f->not_ip_blocks.v, f->not_ip_blocks.n },
		};
	}
	return (struct policy_clause){ .matches = matches, .n_matches = n };
}

static struct policy_clause to_clause(struct pool *p, const struct config_rule *rule)
{
	struct policy_match *matches = pool_alloc(p, rule->to.n, sizeof(*matches));
	size_t n = 0;

	config_for_each(const struct config_to, t, &rule->to) {
		if (p->failed)
			break;
		matches[n++] = (struct policy_match){
			.destination_ports = { t->ports.v, t->ports.n }, .not_destination_ports = { t->not_ports.v, t->not_ports.n },
		};
	}
	return (struct policy_clause){ .matches = matches, .n_matches = n };
}

/* A rule that names neither clients nor ports matches every connection: one clause with one empty match. */
static struct policy_rule rule_of(struct pool *p, const struct config_rule *rule, const char *namespace)
{
	struct policy_clause *clauses = pool_alloc(p, 2, sizeof(*clauses));
	size_t n = 0;

	if (p->failed)
		return (struct policy_rule){};
	if (rule->from.n)
		clauses[n++] = from_clause(p, rule, namespace);
	if (rule->to.n)
		clauses[n++] = to_clause(p, rule);
	if (!n)
		clauses[n++] = (struct policy_clause){ .matches = pool_alloc(p, 1, sizeof(struct policy_match)), .n_matches = 1 };
	return (struct policy_rule){ .clauses = clauses, .n_clauses = n };
}

static const char *policy_key(struct pool *p, const struct config_authorization *a)
{
	return pool_printf(p, "%s/%s", a->namespace ? a->namespace : REG_ROOT_NAMESPACE, a->name);
}

static int publish_policy(struct registry *reg, const struct config_authorization *a)
{
	struct pool p = {};
	struct bytes bytes;
	struct policy_rule *rules = pool_alloc(&p, a->rules.n, sizeof(*rules));
	const char *key = policy_key(&p, a);
	struct policy out = {
		.name = a->name, .namespace = a->namespace ? a->namespace : REG_ROOT_NAMESPACE,
		.scope = a->selector.n ? POLICY_WORKLOAD : a->namespace ? POLICY_NAMESPACE : POLICY_GLOBAL,
		.action = a->action == ACTION_DENY ? POLICY_DENY : POLICY_ALLOW, .rules = rules,
	};
	int r;

	config_for_each(const struct config_rule, rule, &a->rules)
		if (!p.failed)
			rules[out.n_rules++] = rule_of(&p, rule, out.namespace);
	bytes_init(&bytes, MAX_RESOURCE);
	r = p.failed ? -ENOMEM : policy_encode(&out, &bytes);
	const struct resource_content content = { .bytes = bytes.data, .len = bytes.len };
	r = put(reg, RESOURCE_AUTHORIZATION, key, r, &p, &content);
	bytes_deinit(&bytes);
	pool_free(&p);
	return r;
}

static bool policy_exists(const struct config *c, const char *key)
{
	struct pool p = {};
	bool found = false;

	config_for_each(const struct config_authorization, a, &c->authorization)
		found |= !strcmp(policy_key(&p, a), key);
	pool_free(&p);
	return found;
}

int reg_publish_policies(struct registry *reg)
{
	config_for_each(const struct config_authorization, a, &reg->config->authorization) {
		int r = publish_policy(reg, a);

		if (r < 0)
			return r;
	}
	map_for_each(l, &reg->resources->by_name[RESOURCE_AUTHORIZATION]) {
		const struct resource *res = container_of(l, struct resource, link);

		if (!policy_exists(reg->config, res->name))
			resources_remove(reg->resources, RESOURCE_AUTHORIZATION, res->name);
	}
	return 0;
}

/*
 * REST: what shows something. The keys are those that the commands print.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "control/onboard.h"
#include "control/rest.h"

static json_t *ms_or_null(int64_t ms)
{
	return ms < 0 ? json_null() : json_integer(ms);
}

static json_t *text_or_null(const char *text)
{
	return text && *text ? json_string(text) : json_null();
}

/* Adds the members of @from, which it takes. */
static json_t *merge(json_t *to, json_t *from)
{
	if (from)
		json_object_update(to, from);
	json_decref(from);
	return to;
}

static json_t *addresses_json(const struct ip *ips, size_t n)
{
	json_t *list = json_array();
	char text[IP_TEXT_LEN];

	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, json_string(ip_format(&ips[i], text)));
	return list;
}

/* --- status --- */

static size_t n_connected(const struct registry *reg)
{
	size_t n = 0;

	map_for_each(l, &reg->nics)
		n += container_of(l, struct reg_nic, link)->connected;
	return n;
}

static size_t n_vms(const struct registry *reg)
{
	size_t n = 0;

	map_for_each(l, &reg->workloads)
		n += container_of(l, struct reg_workload, link)->guest != NULL;
	return n;
}

static void count_nic(const struct store_nic *n, void *data)
{
	(void)n;
	++*(size_t *)data;
}

void rest_get_status(struct httpd_request *req)
{
	const struct server *s = req->data;
	const struct registry *reg = s->registry;
	char error[DIAG_TEXT_LEN];
	size_t n_enrolled = 0;
	bool store_ok = store_nic_each(s->store, count_nic, &n_enrolled) == 0 && !reg->last_store_error;

	httpd_reply_json(req, 200, json_pack(
		"{s:s, s:s, s:s, s:I, s:I, s:{s:s, s:I, s:s, s:s, s:I}, s:{s:b, s:s}, s:{s:I, s:I}, s:{s:I, s:I}, s:I, s:{s:I, s:I, s:I}, s:I, s:I}",
		"program", "outrigger-controller", "version", OUTRIGGER_VERSION, "trust_domain", s->config->trust_domain,
		"started_at", (json_int_t)s->started_at, "uptime_s", (json_int_t)(clock_wall_s() - s->started_at),
		"config", "file", s->config_path, "loaded_at", (json_int_t)s->config_loaded_at,
		"error", s->config_error.msg[0] ? diag_format(&s->config_error, error) : "", "restart_needed_for", s->restart_needed,
		"refused", (json_int_t)s->n_refusals,
		"store", "ok", store_ok, "error", store_ok ? "" : store_error(s->store),
		"ca", "not_after", (json_int_t)authority_not_after(s->authority), "issued", (json_int_t)authority_n_issued(s->authority),
		"nics", "enrolled", (json_int_t)n_enrolled, "connected", (json_int_t)n_connected(reg),
		"guests", (json_int_t)reg->guests.n,
		"workloads", "all", (json_int_t)reg->workloads.n, "vms", (json_int_t)n_vms(reg), "services", (json_int_t)reg->services.n,
		"streams", (json_int_t)ads_n_streams(s->ads), "server_certificate_not_after", (json_int_t)s->server_not_after));
}

/* --- NICs --- */

struct nic_walk {
	const struct server *s;
	json_t *list;
};

static void add_nic(const struct store_nic *n, void *data)
{
	struct nic_walk *w = data;
	const struct reg_nic *nic = registry_nic(w->s->registry, n->id);
	struct session_info session = provisioner_session(w->s->provisioner, n->id);
	char peer[IP_PORT_TEXT_LEN];
	const char *state = n->revoked_at ? "revoked" : session.connected ? nic && nic->synced ? "connected" : "synchronizing" : "away";
	json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:I, s:I, s:s}",
		"id", n->id, "state", state, "host", nic ? nic->hostname : n->hostname, "software", nic && nic->software[0] ? nic->software : n->software,
		"enrolled_at", (json_int_t)n->enrolled_at, "renewed_at", (json_int_t)n->renewed_at, "certificate_not_after", (json_int_t)n->not_after,
		"revoked_at", (json_int_t)n->revoked_at, "revoke_reason", n->revoke_reason,
		"peer", session.connected ? ip_port_format(&session.peer, peer) : "", "guests", (json_int_t)(nic ? nic->n_guests : 0),
		"policy_version", (json_int_t)session.policy_version, "policy_refused", session.policy_refused);

	if (row && nic)
		merge(row, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "connections", (json_int_t)nic->connections, "bytes", (json_int_t)nic->bytes,
				     "cpu_ns", (json_int_t)nic->cpu_ns, "proxies", (json_int_t)nic->n_proxies, "reports", (json_int_t)nic->n_reports,
				     "reports_refused", (json_int_t)nic->n_refused));
	json_array_append_new(w->list, row);
}

void rest_get_nics(struct httpd_request *req)
{
	struct nic_walk w = { req->data, json_array() };

	if (store_nic_each(w.s->store, add_nic, &w) < 0) {
		json_decref(w.list);
		httpd_reply_error(req, 503, "the store cannot be read: %s", store_error(w.s->store));
		return;
	}
	httpd_reply_json(req, 200, json_pack("{s:o}", "nics", w.list));
}

/* --- guests --- */

static const char *proxy_state(const struct reg_guest *g)
{
	return g->proxy ? g->proxy->state : NULL;
}

static json_t *service_names(const struct reg_guest *g)
{
	json_t *list = json_array();

	list_for_each(l, &g->claims)
		json_array_append_new(list, json_string(list_entry(l, struct reg_claim, link)->pb->service));
	return list;
}

/* As the NIC's agent says it. */
static json_t *node_json(const struct server *s, const struct reg_guest *g, const struct kube_node_index *index)
{
	bool may = index && (!g->policy || g->policy->kubernetes_node);
	json_t *networks = json_array(), *json;
	struct kube_node node = {};
	char text[IP_TEXT_LEN];

	if (may && kube_things_node(kube_source_things(cluster_source(s->cluster)), index, g->ips, g->n_ips, &node) < 0)
		node = (struct kube_node){};
	for (size_t i = 0; i < node.n_prefixes; i++) {
		const struct ip_prefix *p = &node.prefixes[i];

		json_array_append_new(networks, json_sprintf("%s/%d", ip_format(&p->ip, text), ip_is_v4(&p->ip) ? p->len - 96 : p->len));
	}
	json = json_pack("{s:o, s:o, s:o, s:o}", "kubernetes_node", text_or_null(node.name), "provider_id", text_or_null(node.provider_id),
			 "pods", node.name ? json_integer((json_int_t)node.n_pods) : json_null(), "pod_networks", networks);
	kube_node_deinit(&node);
	return json;
}

static json_t *guest_json(const struct reg_guest *g)
{
	const struct reg_verdict *client = reg_guest_verdict(g, "", "");
	json_t *row = json_pack("{s:s, s:s, s:s, s:i, s:s, s:o, s:s, s:s, s:s}", "id", g->pb->guest_id, "nic", g->nic->id, "port", g->pb->port,
				"vlan", (int)g->pb->vlan, "mac", g->pb->mac, "addresses", addresses_json(g->ips, g->n_ips), "name", g->pb->name,
				"policy", g->policy ? g->policy->name : "", "mode", config_mode_name(g->policy ? g->policy->mode : MODE_SHADOW));

	return merge(row, json_pack("{s:s, s:s, s:o, s:o, s:b, s:o, s:o, s:b}", "namespace", g->policy && g->policy->namespace ? g->policy->namespace : "",
				    "service_account", g->policy && g->policy->service_account ? g->policy->service_account : "",
				    "services", service_names(g), "proxy", text_or_null(proxy_state(g)), "in_mesh", g->workload != NULL,
				    "why_not", text_or_null(g->why_not), "verdict", text_or_null(client ? client->pb->verdict : NULL),
				    "nic_connected", g->nic->connected));
}

void rest_get_guests(struct httpd_request *req)
{
	const struct server *s = req->data;
	struct kube_node_index index;
	bool has = s->cluster && kube_things_index(kube_source_things(cluster_source(s->cluster)), &index) == 0;
	json_t *list = json_array();

	map_for_each(l, &s->registry->guests) {
		const struct reg_guest *g = container_of(l, struct reg_guest, link);

		json_array_append_new(list, merge(guest_json(g), node_json(s, g, has ? &index : NULL)));
	}
	if (has)
		kube_node_index_deinit(&index);
	httpd_reply_json(req, 200, json_pack("{s:o}", "guests", list));
}

/* --- services: a row a claim --- */

static json_t *evidence_json(const struct reg_verdict *v)
{
	json_t *list = json_array();

	for (size_t i = 0; v && i < v->pb->n_evidence; i++) {
		const Outrigger__V1__Evidence *e = v->pb->evidence[i];

		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I}", "method", e->method, "finding", e->finding, "detail", e->detail,
						      "at_ms", (json_int_t)e->at_ms));
	}
	return list;
}

static json_t *identity_of(const struct server *s, const struct reg_guest *g)
{
	if (g->proxy && g->proxy->identity[0])
		return json_string(g->proxy->identity);
	if (!onboard_joins(g->policy))
		return json_null();
	return json_sprintf("spiffe://%s/ns/%s/sa/%s", s->config->trust_domain, g->policy->namespace, g->policy->service_account);
}

/* The proxy stands for the guest: a claim that is not a VM service has none. */
static bool claim_has_proxy(const struct reg_guest *g, const struct reg_verdict *v)
{
	return g->proxy && v && !strcmp(v->pb->verdict, "vm");
}

static json_t *health_since(const struct reg_claim *c)
{
	int64_t ago_ms = clock_wall_ms() - c->pb->health_since_ms;	/* the NIC's clock and ours */

	return c->pb->health_since_ms ? json_integer((json_int_t)(MAX(ago_ms, 0) / 1000)) : json_null();
}

static json_t *claim_json(const struct server *s, const struct reg_guest *g, const struct reg_claim *c)
{
	const struct reg_verdict *v = reg_guest_verdict(g, c->pb->service, c->pb->instance);
	bool proxied = claim_has_proxy(g, v);
	json_t *row = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:s, s:s, s:s, s:s}", "service", c->pb->service, "namespace",
				g->policy && g->policy->namespace ? g->policy->namespace : "", "instance", c->pb->instance, "address", c->pb->address,
				"port", (int)c->pb->port, "transport", c->pb->transport, "protocol", c->pb->app_protocol, "source", c->pb->source,
				"registry", c->pb->registry, "health", c->pb->health);

	merge(row, json_pack("{s:s, s:o, s:o}", "kind", v ? v->pb->verdict : "unknown", "health_reason", text_or_null(c->pb->health_reason), "health_since_s", health_since(c)));

	merge(row, json_pack("{s:s, s:s, s:s, s:o, s:b, s:s, s:s, s:b, s:o}", "guest", g->pb->guest_id, "nic", g->nic->id,
			     "verdict", v ? v->pb->verdict : "unknown", "evidence", evidence_json(v),
			     "admitted", c->pb->admitted && onboard_allows_service(g->policy, c->pb->service), "refusal", c->pb->refusal,
			     "mode", config_mode_name(g->policy ? g->policy->mode : MODE_SHADOW), "in_mesh", c->joined_ms != 0,
			     "why_not", text_or_null(c->why_not)));
	return merge(row, json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "proxy", text_or_null(proxied ? proxy_state(g) : NULL),
				    "identity", proxied ? identity_of(s, g) : json_null(),
				    "found_ms", proxied ? json_integer((json_int_t)g->proxy->found_ms) : ms_or_null(c->found_ms),
				    "decided_ms", g->proxy ? json_integer((json_int_t)g->proxy->decided_ms) : json_null(),
				    "ready_ms", proxied && g->proxy->ready_ms ? json_integer((json_int_t)g->proxy->ready_ms) : json_null(),
				    "in_mesh_ms", ms_or_null(c->joined_ms ? c->in_mesh_ms : -1), "first_seen_ms", (json_int_t)c->pb->first_seen_ms));
}

typedef json_t *claim_fn(const struct server *s, const struct reg_guest *g, const struct reg_claim *c);

static json_t *claims_json(const struct server *s, const char *service, claim_fn *fn)
{
	json_t *list = json_array();

	map_for_each(l, &s->registry->guests) {
		const struct reg_guest *g = container_of(l, struct reg_guest, link);

		list_for_each(k, &g->claims) {
			const struct reg_claim *c = list_entry(k, struct reg_claim, link);

			if (!service || !strcmp(service, c->pb->service))
				json_array_append_new(list, fn(s, g, c));
		}
	}
	return list;
}

void rest_get_services(struct httpd_request *req)
{
	CLEANUP_FREE char *name = httpd_query(req, "name");

	json_t *list = claims_json(req->data, name, claim_json);

	rest_add_kube(req->data, name, list);
	httpd_reply_json(req, 200, json_pack("{s:o}", "services", list));
}

/* --- workloads --- */

static json_t *endpoints_json(const struct reg_service *s)
{
	json_t *list = json_array();
	char text[IP_PORT_TEXT_LEN];

	list_for_each(l, &s->members) {
		const struct reg_member *m = list_entry(l, struct reg_member, in_service);

		for (size_t i = 0; i < m->n_ports && m->workload->n_addresses; i++) {
			const struct ip_port at = { m->workload->addresses[0].ip, m->ports[i].target_port };

			json_array_append_new(list, json_pack("{s:s, s:s, s:i}", "workload", m->workload->uid, "address", ip_port_format(&at, text),
							      "service_port", m->ports[i].service_port));
		}
	}
	return list;
}

static json_t *workload_json(const struct reg_workload *w)
{
	json_t *services = json_array(), *addresses = json_array();
	char text[IP_TEXT_LEN];

	list_for_each(l, &w->members)
		json_array_append_new(services, json_string(list_entry(l, struct reg_member, in_workload)->service->key));
	for (size_t i = 0; i < w->n_addresses; i++)
		json_array_append_new(addresses, json_string(ip_format(&w->addresses[i].ip, text)));
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:o, s:s, s:s, s:b, s:o}", "uid", w->uid, "name", w->name, "namespace", w->namespace,
			 "service_account", w->service_account, "node", w->node, "workload_name", w->workload_name ? w->workload_name : w->name,
			 "canonical_name", reg_canonical_name(w), "canonical_revision", reg_canonical_revision(w), "addresses", addresses, "tunnel",
			 w->tunnel == TUNNEL_HBONE ? "hbone" : "none", "source", w->guest ? "agent" : w->kube ? "kubernetes" : "config",
			 "healthy", !reg_workload_unhealthy(w), "services", services);
}

void rest_get_workloads(struct httpd_request *req)
{
	const struct server *s = req->data;
	json_t *workloads = json_array(), *services = json_array();

	map_for_each(l, &s->registry->workloads)
		json_array_append_new(workloads, workload_json(container_of(l, struct reg_workload, link)));
	map_for_each(l, &s->registry->services) {
		const struct reg_service *v = container_of(l, struct reg_service, link);
		json_t *ports = json_array();

		for (size_t i = 0; i < v->n_ports; i++)
			json_array_append_new(ports, json_pack("{s:i, s:i}", "port", v->ports[i].service_port, "target_port", v->ports[i].target_port));
		json_array_append_new(services, json_pack("{s:s, s:s, s:o, s:o, s:b, s:s, s:o}", "name", v->name, "hostname", v->hostname,
							  "addresses", addresses_json(v->addresses, v->n_addresses), "ports", ports,
							  "declared", v->declared, "source",
							  v->kube ? "kubernetes" : v->declared ? "config" : "agent", "endpoints", endpoints_json(v)));
	}
	httpd_reply_json(req, 200, json_pack("{s:o, s:o}", "workloads", workloads, "services", services));
}

/* --- proxies --- */

void rest_get_proxies(struct httpd_request *req)
{
	const struct server *s = req->data;
	json_t *list = json_array();

	map_for_each(l, &s->registry->guests) {
		const struct reg_guest *g = container_of(l, struct reg_guest, link);

		if (!g->proxy)
			continue;
		json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:o, s:I, s:I, s:I}", "guest", g->pb->guest_id, "nic", g->nic->id,
						      "state", g->proxy->state, "detail", g->proxy->detail, "process", g->proxy->process,
						      "identity", identity_of(s, g), "services", service_names(g), "found_ms", (json_int_t)g->proxy->found_ms,
						      "decided_ms", (json_int_t)g->proxy->decided_ms, "ready_ms", (json_int_t)g->proxy->ready_ms));
	}
	httpd_reply_json(req, 200, json_pack("{s:o}", "proxies", list));
}

/* --- policies --- */

static json_t *strings_json(const struct conf_strings *strings)
{
	json_t *list = json_array();

	for (size_t i = 0; i < strings->n; i++)
		json_array_append_new(list, json_string(strings->v[i]));
	return list;
}

static size_t n_matched(const struct registry *reg, const struct config_onboarding *p)
{
	size_t n = 0;

	map_for_each(l, &reg->guests)
		n += container_of(l, struct reg_guest, link)->policy == p;
	return n;
}

void rest_get_policies(struct httpd_request *req)
{
	const struct server *s = req->data;
	json_t *onboarding = json_array(), *authorization = json_array();

	config_for_each(const struct config_onboarding, p, &s->config->onboarding)
		json_array_append_new(onboarding, json_pack("{s:s, s:s, s:s, s:s, s:o, s:b, s:i, s:I}", "name", p->name, "mode", config_mode_name(p->mode),
							    "namespace", p->namespace ? p->namespace : "", "service_account", p->service_account,
							    "services", strings_json(&p->services), "client", p->client, "line", (int)p->line,
							    "guests", (json_int_t)n_matched(s->registry, p)));
	config_for_each(const struct config_authorization, a, &s->config->authorization)
		json_array_append_new(authorization, json_pack("{s:s, s:s, s:s, s:i, s:i}", "name", a->name, "namespace", a->namespace ? a->namespace : "",
							       "action", a->action == ACTION_DENY ? "deny" : "allow", "rules", (int)a->rules.n,
							       "line", (int)a->line));
	httpd_reply_json(req, 200, json_pack("{s:o, s:o}", "onboarding", onboarding, "authorization", authorization));
}

/* --- streams, certificates --- */

static void add_stream(const struct ads_stream_info *info, void *data)
{
	char peer[IP_PORT_TEXT_LEN];

	json_array_append_new(data, json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:s}", "identity", info->identity, "node", info->node,
					      "peer", ip_port_format(&info->peer, peer), "kind", info->delta ? "delta" : "state of the world",
					      "held", (json_int_t)info->n_held, "age_ms", (json_int_t)(clock_mono_ms() - info->opened_ms),
					      "last_refusal", info->last_nack));
}

void rest_get_streams(struct httpd_request *req)
{
	const struct server *s = req->data;
	json_t *list = json_array();

	ads_each_stream(s->ads, add_stream, list);
	httpd_reply_json(req, 200, json_pack("{s:o}", "streams", list));
}

static void add_certificate(const struct store_cert *c, void *data)
{
	json_array_append_new(data, json_pack("{s:s, s:s, s:I, s:I}", "serial", c->serial, "subject", c->subject, "issued_at", (json_int_t)c->issued_at,
					      "not_after", (json_int_t)c->not_after));
}

void rest_get_certificates(struct httpd_request *req)
{
	const struct server *s = req->data;
	CLEANUP_FREE char *max = httpd_query(req, "max");
	unsigned long n = max ? strtoul(max, NULL, 10) : 100;
	json_t *list = json_array();

	if (store_cert_each(s->store, MIN(n, 10000ul), add_certificate, list) < 0) {
		json_decref(list);
		httpd_reply_error(req, 503, "the store cannot be read: %s", store_error(s->store));
		return;
	}
	httpd_reply_json(req, 200, json_pack("{s:o}", "certificates", list));
}

/* --- explain --- */

static void add_step(json_t *chain, int64_t at_ms, const char *step, json_t *text)
{
	json_array_append_new(chain, json_pack("{s:o, s:s, s:o}", "at_ms", ms_or_null(at_ms), "step", step, "text", text));
}

/* Evidence has the NIC's wall clock, as the first packet has. */
static int64_t since_first(const struct reg_claim *c, uint64_t at_ms)
{
	return c->pb->first_seen_ms && at_ms >= c->pb->first_seen_ms ? (int64_t)(at_ms - c->pb->first_seen_ms) : -1;
}

static void explain_policy(json_t *chain, const struct reg_guest *g, const struct reg_claim *c)
{
	if (!g->policy)
		add_step(chain, -1, "policy", json_string("no onboarding policy matches the guest: it is only watched (shadow)"));
	else
		add_step(chain, -1, "policy", json_sprintf("policy '%s' (line %u of the configuration): mode %s, namespace %s, account %s; the name is %s",
							   g->policy->name, g->policy->line, config_mode_name(g->policy->mode),
							   g->policy->namespace ? g->policy->namespace : "-", g->policy->service_account,
							   onboard_allows_service(g->policy, c->pb->service) ? "allowed" : "not allowed"));
	if (!c->pb->admitted)
		add_step(chain, -1, "refused", json_sprintf("by the NIC: %s", c->pb->refusal));
}

static void explain_verdict(json_t *chain, const struct reg_guest *g, const struct reg_claim *c, const struct reg_verdict *v)
{
	for (size_t i = 0; v && i < v->pb->n_evidence; i++) {
		const Outrigger__V1__Evidence *e = v->pb->evidence[i];

		add_step(chain, since_first(c, e->at_ms), e->method, json_sprintf("%s: %s", e->finding, e->detail));
	}
	add_step(chain, g->proxy ? (int64_t)g->proxy->decided_ms : -1, "verdict", json_string(v ? v->pb->verdict : "none yet"));
}

static void explain_mesh(json_t *chain, const struct reg_guest *g, const struct reg_claim *c)
{
	if (c->joined_ms)
		add_step(chain, c->in_mesh_ms, "mesh", json_string(c->in_mesh_ms >= 0 ? "every subscriber knows it" : "in the mesh, not acknowledged by all yet"));
	else
		add_step(chain, -1, "mesh", json_sprintf("not in the mesh: %s", c->why_not ? c->why_not : g->why_not ? g->why_not : "not looked at yet"));
}

static json_t *explain_chain(const struct reg_guest *g, const struct reg_claim *c, const struct reg_verdict *v)
{
	json_t *chain = json_array();

	add_step(chain, g->proxy ? (int64_t)g->proxy->found_ms : -1, "found",
		 json_sprintf("guest %s (%s) registered '%s' as %s:%u by %s%s%s", g->pb->guest_id, g->pb->name, c->pb->service, c->pb->address,
			      c->pb->port, c->pb->source, c->pb->registry[0] ? " at " : "", c->pb->registry));
	explain_verdict(chain, g, c, v);
	explain_policy(chain, g, c);
	if (claim_has_proxy(g, v))
		add_step(chain, g->proxy->ready_ms ? (int64_t)g->proxy->ready_ms : -1, "proxy",
			 json_sprintf("%s in process %s%s%s", g->proxy->state, g->proxy->process, g->proxy->detail[0] ? ": " : "", g->proxy->detail));
	if (c->pb->health[0])
		add_step(chain, since_first(c, (uint64_t)MAX(c->pb->health_since_ms, 0)), "health",
			 json_sprintf("%s%s%s%s", c->pb->health, c->pb->health_reason[0] ? ": " : "", c->pb->health_reason,
				      c->unhealthy && c->joined_ms ? "; clients leave it out" : ""));
	explain_mesh(chain, g, c);
	return chain;
}

static json_t *explain_json(const struct server *s, const struct reg_guest *g, const struct reg_claim *c)
{
	const struct reg_verdict *v = reg_guest_verdict(g, c->pb->service, c->pb->instance);

	return json_pack("{s:s, s:s, s:s, s:s, s:o, s:o, s:o}", "instance", c->pb->instance, "guest", g->pb->guest_id,
			 "verdict", v ? v->pb->verdict : "unknown", "mode", config_mode_name(g->policy ? g->policy->mode : MODE_SHADOW),
			 "proxy", text_or_null(proxy_state(g)), "identity", identity_of(s, g), "chain", explain_chain(g, c, v));
}

void rest_get_explain(struct httpd_request *req)
{
	const char *service = httpd_param(req, "service");
	json_t *list = claims_json(req->data, service, explain_json);

	if (!json_array_size(list)) {
		json_decref(list);
		httpd_reply_error(req, 404, "no VM has claimed to offer '%.200s'", service);
		return;
	}
	httpd_reply_json(req, 200, json_pack("{s:s, s:o}", "service", service, "instances", list));
}

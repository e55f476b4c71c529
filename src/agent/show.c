/*
 * The agent's state as JSON. A key is always there; null when it is not known.
 */
#include <stdio.h>
#include <string.h>

#include "agent/admin.h"
#include "agent/member.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "api/counters.h"

static json_t *text(const char *s)
{
	return s && s[0] ? json_string(s) : json_null();
}

static json_t *address(const struct ip *ip)
{
	char t[IP_TEXT_LEN];

	return json_string(ip_format(ip, t));
}

static json_t *address_port(const struct ip_port *at)
{
	char t[IP_PORT_TEXT_LEN];

	return ip_is_none(&at->ip) ? json_null() : json_string(ip_port_format(at, t));
}

static json_t *since_s(int64_t wall_ms)
{
	int64_t ago_ms = clock_wall_ms() - wall_ms;

	return wall_ms ? json_integer((json_int_t)(MAX(ago_ms, 0) / 1000)) : json_null();
}

/* Milliseconds with a decimal or two: what is fast is in there. */
static json_t *between_ms(uint64_t from_ns, uint64_t to_ns)
{
	if (!from_ns || !to_ns)
		return json_null();
	return json_real(to_ns > from_ns ? (double)((to_ns - from_ns) / 10000) / 100 : 0);
}

static json_t *proxy_state(const struct worker *w, const struct member *m)
{
	const struct proxy_vm *vm = supervisor_find(&w->supervisor, m->guest->id);

	if (!vm)
		return json_null();
	if (vm->state == VM_SERVING)
		return json_string(supervisor_said_name(vm->said));
	return json_string(vm->state == VM_PREPARING ? supervisor_said_name(vm->said) : vm_state_name(vm->state));
}

/* --- status --- */

static uint64_t n_lost(const struct worker *w)
{
	struct monitor_counters c;

	return monitor_counters_get(w->monitor, 0, &c) == 0 ? c.v[STEER_C_RING_FULL] : 0;
}

static size_t n_claims(const struct worker *w)
{
	size_t n = 0;

	list_for_each(l, &w->catalog.by_guest)
		n += list_entry(l, struct catalog_guest, link)->n_claims;
	return n;
}

static size_t n_serving(const struct worker *w)
{
	size_t n = 0;

	map_for_each(l, &w->supervisor.vms)
		n += container_of(l, struct proxy_vm, by_id)->state == VM_SERVING;
	return n;
}

json_t *show_status(const struct worker *w)
{
	struct capture_stats capture;
	struct session_info session;
	uint64_t now = clock_mono_ms();

	capture_get_stats(w->capture, &capture);
	session_get_info(w->session, &session);
	return json_pack("{s:s, s:s, s:I, s:o, s:{s:o, s:s, s:o, s:I}, s:I, s:I, s:{s:I, s:I}, s:{s:I, s:I}, s:o}",
		"nic_id", w->conf->nic,
		"version", OUTRIGGER_VERSION,
		"uptime_s", (json_int_t)((now - w->started_ms) / 1000),
		"trust_domain", text(w->trust_domain[0] ? w->trust_domain : session.trust_domain),
		"controller",
			"address", text(w->conf->controller.address),
			"state", session_state_name(session.state),
			"detail", text(session.detail),
			"since_s", (json_int_t)((now - session.since_ms) / 1000),
		"guests", (json_int_t)w->guests.by_id.n,
		"services", (json_int_t)n_claims(w),
		"proxies", "total", (json_int_t)w->supervisor.vms.n, "ready", (json_int_t)n_serving(w),
		"capture", "records", (json_int_t)capture.records, "lost", (json_int_t)n_lost(w),
		"policy_version", w->policies ? json_integer((json_int_t)w->policies->version) : json_null());
}

/* --- guests --- */

static json_t *services_of(const struct guest *g)
{
	const struct catalog_guest *cg = catalog_of(g);
	json_t *list = json_array();

	if (cg)
		list_for_each(l, &cg->claims)
			json_array_append_new(list, json_string(list_entry(l, struct claim, link)->service));
	return list;
}

static void show_node(const struct node *node, json_t *json)
{
	json_t *networks = json_array();
	char ip[IP_TEXT_LEN];

	for (size_t i = 0; node && i < node->n_networks; i++) {
		const struct ip_prefix *p = &node->networks[i];

		json_array_append_new(networks, json_sprintf("%s/%d", ip_format(&p->ip, ip), ip_is_v4(&p->ip) ? p->len - 96 : p->len));
	}
	json_object_set_new(json, "kubernetes_node", text(node ? node->name : NULL));
	json_object_set_new(json, "provider_id", text(node ? node->provider_id : NULL));
	json_object_set_new(json, "pods", node ? json_integer((json_int_t)node->n_pods) : json_null());
	json_object_set_new(json, "pod_networks", networks);
}

static json_t *show_guest(const struct worker *w, const struct guest *g)
{
	const struct member *m = member_of(g);
	char mac[GUEST_MAC_TEXT_LEN], group[POLICY_GROUP_LEN];
	json_t *addresses = json_array(), *json;

	for (size_t i = 0; i < g->n_addresses; i++)
		json_array_append_new(addresses, address(&g->addresses[i]->ip));
	json = json_pack("{s:s, s:s, s:i, s:s, s:o, s:o, s:o, s:s, s:o, s:o, s:o, s:I}",
		"id", g->id,
		"port", g->link.port,
		"vlan", (int)g->link.vlan,
		"mac", guest_mac_format(g->link.mac, mac),
		"addresses", addresses,
		"name", text(g->name),
		"policy", text(m->policy->name),
		"mode", policy_mode_name(m->policy->mode),
		"isolation_group", policy_joins(m->policy) ? text(policy_group(m->policy, g, group)) : json_null(),
		"services", services_of(g),
		"proxy", proxy_state(w, m),
		"seen_s", (json_int_t)((clock_mono_ms() - g->last_seen_ms) / 1000));
	if (json)
		show_node(member_node(m), json);
	return json;
}

json_t *show_guests(const struct worker *w)
{
	json_t *list = json_array();

	map_for_each(l, &w->guests.by_id) {
		const struct guest *g = container_of(l, struct guest, by_id);

		if (member_of(g))
			json_array_append_new(list, show_guest(w, g));
	}
	return json_pack("{s:o}", "guests", list);
}

/* --- services --- */

static json_t *show_evidence(const struct verdict_case *v)
{
	json_t *list = json_array();

	for (size_t i = 0; i < _VERDICT_METHOD_N; i++) {
		const struct verdict_evidence *e = &v->evidence[i];

		if (e->given)
			json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "method", verdict_method_name((enum verdict_method)i),
							      "finding", verdict_name(e->finding), "detail", e->detail));
	}
	return list;
}

static json_t *show_claim(const struct worker *w, const struct member *m, const struct claim *c)
{
	const struct judge *j = c->user;
	const struct claim_source *s = &c->sources[0];
	uint64_t until = claim_until_ms(c), now = clock_mono_ms();
	char why[400];
	const char *refusal = member_refusal(m, c, why);
	json_t *json = json_pack("{s:s, s:o, s:o, s:i, s:s, s:o, s:s, s:s, s:o, s:o, s:s, s:b, s:o, s:o, s:o}",
		"service", c->service,
		"instance", text(j->instance),
		"address", address(&c->address),
		"port", (int)c->port,
		"transport", c->udp ? "udp" : "tcp",
		"app_protocol", text(c->app_protocol),
		"guest", m->guest->id,
		"source", s->protocol,
		"registry", address_port(&s->registry),
		"health", text(standing_name(j->standing.state)),
		"verdict", verdict_name(j->verdict.verdict),
		"admitted", !refusal,
		"refusal", text(refusal),
		"expires_in_s", until == UINT64_MAX ? json_null() : json_integer((json_int_t)((until - MIN(now, until)) / 1000)),
		"proxy", j->close ? proxy_state(w, m) : json_null());

	if (!json)
		return NULL;
	json_object_set_new(json, "kind", json_string(verdict_name(j->verdict.verdict)));
	json_object_set_new(json, "health_reason", text(j->standing.reason));
	json_object_set_new(json, "health_since_s", since_s(j->standing.since_ms));
	json_object_set_new(json, "found_ms", between_ms(c->packet_ns, c->claimed_ns));
	json_object_set_new(json, "decided_ms", between_ms(c->packet_ns, c->decided_ns));
	json_object_set_new(json, "ready_ms", between_ms(c->packet_ns, j->ready_ns));
	json_object_set_new(json, "in_mesh_ms", between_ms(c->packet_ns, j->mesh_ns));
	json_object_set_new(json, "evidence", show_evidence(&j->verdict));
	return json;
}

json_t *show_services(const struct worker *w)
{
	json_t *list = json_array();

	list_for_each(lg, &w->catalog.by_guest) {
		const struct catalog_guest *g = list_entry(lg, struct catalog_guest, link);
		const struct member *m = member_of(g->guest);

		list_for_each(l, &g->claims) {
			const struct claim *c = list_entry(l, struct claim, link);

			if (m && c->user)
				json_array_append_new(list, show_claim(w, m, c));
		}
	}
	return json_pack("{s:o}", "services", list);
}

/* --- proxies --- */

static json_t *show_proxy(const struct proxy_vm *vm)
{
	json_t *services = json_array();
	int64_t left = vm->cert_not_after - clock_wall_s();

	for (size_t i = 0; i < vm->put->n_ports; i++)
		json_array_append_new(services, json_string(vm->put->ports[i]->service));
	return json_pack("{s:s, s:s, s:i, s:s, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I}",
		"guest", vm->id,
		"process", vm->process->group,
		"pid", (int)vm->process->pid,
		"state", vm->state == VM_SERVING || vm->state == VM_PREPARING ? supervisor_said_name(vm->said) : vm_state_name(vm->state),
		"detail", text(vm->detail),
		"identity", text(vm->identity),
		"cert_expires_in_s", vm->cert_not_after ? json_integer((json_int_t)left) : json_null(),
		"services", services,
		"connections", (json_int_t)vm->load.connections_open,
		"bytes_sent", (json_int_t)vm->load.bytes_sent,
		"bytes_received", (json_int_t)vm->load.bytes_received,
		"buffered_bytes", (json_int_t)vm->load.buffered_bytes);
}

json_t *show_proxies(const struct worker *w)
{
	json_t *list = json_array();

	map_for_each(l, &w->supervisor.vms) {
		const struct proxy_vm *vm = container_of(l, struct proxy_vm, by_id);

		if (vm->put)
			json_array_append_new(list, show_proxy(vm));
	}
	return json_pack("{s:o}", "proxies", list);
}

static json_t *show_process(const struct worker *w, const struct process *p)
{
	size_t n = 0;

	list_for_each(l, &p->vms)
		n++;
	return json_pack("{s:s, s:i, s:s, s:o, s:b, s:i, s:I, s:o, s:I, s:I}",
		"group", p->group,
		"pid", (int)p->pid,
		"state", p->prev ? "getting ready" : p->retired ? "draining" : process_state_name(p->state),
		"software", text(p->software),
		"outdated", p->state == PROCESS_RUNNING && supervisor_outdated(&w->supervisor, p),
		"guests", (int)n,
		"connections", (json_int_t)p->connections,
		"upgrade", text(p->upgrade),
		"cpu_ms", (json_int_t)(p->cpu_ns / 1000000),
		"rss_bytes", (json_int_t)p->rss_bytes);
}

json_t *show_processes(const struct worker *w)
{
	json_t *list = json_array();

	list_for_each(l, &w->supervisor.processes) {
		const struct process *p = list_entry(l, struct process, link);

		if (p->state != PROCESS_IDLE)
			json_array_append_new(list, show_process(w, p));
	}
	return json_pack("{s:o}", "processes", list);
}

/*
 * /v1/explain: the chain from a packet to a proxy, each step with the time
 * since the first packet and what was seen or decided.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/admin.h"
#include "agent/member.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "mesh/names.h"

struct chain {
	json_t *links;
	uint64_t from_ns;
};

/* @at_ns 0: the time is not known. */
static void add(struct chain *c, uint64_t at_ns, const char *step, const char *fmt, ...) PRINTF_LIKE(4, 5);

static void add(struct chain *c, uint64_t at_ns, const char *step, const char *fmt, ...)
{
	char said[1600], text[1600];
	json_t *at = json_null();
	va_list args;

	va_start(args, fmt);
	vsnprintf(said, sizeof(said), fmt, args);
	va_end(args);
	utf8_clean(said, strlen(said), text, sizeof(text));	/* JSON takes no half of a character */
	if (at_ns && c->from_ns)
		at = json_real(at_ns > c->from_ns ? (double)((at_ns - c->from_ns) / 10000) / 100 : 0);
	json_array_append_new(c->links, json_pack("{s:o, s:s, s:s}", "at_ms", at, "step", step, "text", text));
}

/* Evidence has a wall clock, the chain the monotonic one. */
static uint64_t mono_of(int64_t wall_ms)
{
	int64_t ago_ms = clock_wall_ms() - wall_ms;
	uint64_t now = clock_mono_ns();

	return ago_ms < 0 || (uint64_t)ago_ms * 1000000 > now ? 0 : now - (uint64_t)ago_ms * 1000000;
}

static void add_sources(struct chain *c, const struct claim *claim)
{
	char registry[IP_PORT_TEXT_LEN], ttl[64];

	for (size_t i = 0; i < claim->n_sources; i++) {
		const struct claim_source *s = &claim->sources[i];

		ttl[0] = '\0';
		if (s->ttl_s)
			snprintf(ttl, sizeof(ttl), ", good for %u s", s->ttl_s);
		add(c, s->first_ns, "packet", "packet %llu: %s registration%s%s%s%s%s; last seen %llu times, in packet %llu",
		    (unsigned long long)s->first_frame, s->protocol, s->instance ? " of instance " : "", s->instance ? s->instance : "",
		    ip_is_none(&s->registry.ip) ? ", multicast" : ", acknowledged by ",
		    ip_is_none(&s->registry.ip) ? "" : ip_port_format(&s->registry, registry), ttl, (unsigned long long)s->n_seen,
		    (unsigned long long)s->last_frame);
	}
}

static void add_claim(struct chain *c, const struct claim *claim)
{
	struct ip_port at = { .ip = claim->address, .port = claim->port };
	char where[IP_PORT_TEXT_LEN];

	add(c, claim->claimed_ns, "claim", "\"%s\" is offered at %s (%s)", claim->service, ip_port_format(&at, where), claim->udp ? "udp" : "tcp");
}

static void add_health(struct chain *c, const struct standing *s)
{
	if (s->state != STANDING_UNKNOWN)
		add(c, mono_of(s->since_ms), "health", "%s%s%s", standing_name(s->state), s->reason[0] ? ": " : "", s->reason);
}

static void add_hint(struct chain *c, const struct worker *w, const struct claim *claim)
{
	struct ip_port at = { .ip = claim->address, .port = claim->port };
	const struct hint *h = catalog_hint(&w->catalog, &at);
	char registry[IP_PORT_TEXT_LEN];

	if (h)
		add(c, h->last_ns, "registry", "%s %s said in packet %llu that \"%s\" is there", h->protocol, ip_port_format(&h->registry, registry),
		    (unsigned long long)h->frame, h->service);
}

static void add_verdict(struct chain *c, const struct verdict_case *v, uint64_t decided_ns)
{
	static const char *const steps[] = {
		[VERDICT_BY_PORT] = "port", [VERDICT_BY_CONTAINERS] = "containers", [VERDICT_BY_REGISTRY] = "registry", [VERDICT_BY_PROBE] = "probe",
	};

	for (size_t i = 0; i < _VERDICT_METHOD_N; i++)
		if (v->evidence[i].given)
			add(c, mono_of(v->evidence[i].at_wall_ms), steps[i], "%s: %s", verdict_name(v->evidence[i].finding), v->evidence[i].detail);
	add(c, decided_ns, "verdict", "%s", verdict_name(v->verdict));
}

static void add_node(struct chain *c, const struct node *n)
{
	if (n)
		add(c, 0, "node", "the VM is the Kubernetes node %s, with %u pods: what they register is a container's", n->name, n->n_pods);
}

static void add_policy(struct chain *c, const struct member *m, const char *refusal)
{
	const struct policy *p = m->policy;

	if (!p->name[0])
		add(c, 0, "policy", "none matches this guest: shadow, it is only shown");
	else
		add(c, 0, "policy", "\"%s\": mode %s, as %s/%s, names: %s%s%s", p->name, policy_mode_name(p->mode), p->namespace ? p->namespace : "-",
		    p->service_account ? p->service_account : "-", policy_dns_name(p->dns), refusal ? "; not admitted: " : "",
		    refusal ? refusal : "");
}

static void add_proxy(struct chain *c, const struct worker *w, const struct member *m, uint64_t ready_ns, uint64_t mesh_ns)
{
	const struct proxy_vm *vm = supervisor_find(&w->supervisor, m->guest->id);

	if (!m->joined && m->why_not[0]) {
		add(c, 0, "proxy", "none: %s", m->why_not);
		return;
	}
	if (m->token_ns)
		add(c, m->token_ns, "token", "the controller has given the workload's token");
	else if (m->token_refused[0])
		add(c, 0, "token", "refused: %s", m->token_refused);
	if (!vm)
		return;
	add(c, m->wished_ns, "proxy", "is hosted by process %s (pid %d, %s)", vm->process->group, (int)vm->process->pid,
	    process_state_name(vm->process->state));
	add(c, ready_ns, "proxy", "%s, says %s%s%s; %zu flows' patterns are diverted to it", vm_state_name(vm->state), supervisor_said_name(vm->said),
	    vm->detail[0] ? ": " : "", vm->detail, vm->set.n);
	if (mesh_ns)
		add(c, mesh_ns, "mesh", "the controller was told: peers reach it as %s", vm->identity);
}

static const char *label_of(const void *of, const char *key)
{
	const struct policy *p = of;

	for (size_t i = 0; i < p->n_labels; i++)
		if (!strcmp(p->labels[i].key, key))
			return p->labels[i].value;
	return NULL;
}

/* As the mesh controller calls it: by Istio's rule; without a label ours by the service, Istio's by the workload. */
static json_t *canonical_name(const struct member *m, const struct claim *claim)
{
	const char *name = names_canonical_name(label_of, m->policy);
	char workload[NAMES_WORKLOAD_LEN];

	if (!m->policy->namespace)
		return json_null();	/* it may not join */
	if (!name && claim && !m->policy->workload_group)
		name = claim->service;
	return json_string(name ?: names_vm_workload(m->guest->name, m->guest->id, workload));
}

/* In Istio's mesh they are those of the Services and ServiceEntries that select the workload: the cluster knows them. */
static json_t *dns_names(const struct member *m, const struct claim *claim)
{
	char host[NAMES_HOST_LEN];

	if (!claim || !m->policy->namespace || m->policy->workload_group || names_service_host(claim->service, m->policy->namespace, host) < 0)
		return json_null();
	return json_pack("[s]", host);
}

/* @claim: NULL when it offers nothing. */
static json_t *instance(const struct worker *w, const struct member *m, const struct claim *claim, const char *name, const struct verdict_case *v,
			json_t *chain)
{
	const struct proxy_vm *vm = supervisor_find(&w->supervisor, m->guest->id);

	return json_pack("{s:o, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o}",
		"instance", name && name[0] ? json_string(name) : json_null(),
		"guest", m->guest->id,
		"verdict", verdict_name(v->verdict),
		"mode", policy_mode_name(m->policy->mode),
		"proxy", vm ? json_string(supervisor_said_name(vm->said)) : json_null(),
		"identity", vm && vm->identity[0] ? json_string(vm->identity) : json_null(),
		"canonical_name", canonical_name(m, claim),
		"dns_names", dns_names(m, claim),
		"chain", chain);
}

static json_t *explain_claim(const struct worker *w, const struct member *m, const struct claim *claim)
{
	const struct judge *j = claim->user;
	struct chain c = { .links = json_array(), .from_ns = claim->packet_ns };
	char why[400];

	add_sources(&c, claim);
	add_claim(&c, claim);
	add_hint(&c, w, claim);
	add_node(&c, member_node(m));
	add_verdict(&c, &j->verdict, claim->decided_ns);
	add_policy(&c, m, member_refusal(m, claim, why));
	add_proxy(&c, w, m, j->ready_ns, j->mesh_ns);
	add_health(&c, &j->standing);
	return instance(w, m, claim, j->instance, &j->verdict, c.links);
}

static json_t *explain_lookup(const struct worker *w, const struct member *m, const struct lookup *l)
{
	struct chain c = { .links = json_array(), .from_ns = l->first_ns };
	char registry[IP_PORT_TEXT_LEN];

	add(&c, l->first_ns, "packet", "packet %llu: the guest asked %s for \"%s\" by %s, %llu times", (unsigned long long)l->last_frame,
	    ip_is_none(&l->registry.ip) ? "its neighbours" : ip_port_format(&l->registry, registry), l->service, l->protocol, (unsigned long long)l->n);
	add_node(&c, member_node(m));
	add_verdict(&c, &m->verdict, m->decided_ns);
	add_policy(&c, m, NULL);
	add_proxy(&c, w, m, m->ready_ns, m->mesh_ns);
	return instance(w, m, NULL, "(client)", &m->verdict, c.links);
}

static json_t *explain_refusal(const struct worker *w, const struct member *m, const struct refusal *r)
{
	struct chain c = { .links = json_array(), .from_ns = r->last_ns };
	static const struct verdict_case none;
	char at[IP_PORT_TEXT_LEN];

	add(&c, r->last_ns, "packet", "packet %llu: %s registration of %s, %llu times", (unsigned long long)r->frame, r->protocol,
	    ip_port_format(&r->at, at), (unsigned long long)r->n);
	add(&c, 0, "claim", "refused: %s", r->why);
	return instance(w, m, NULL, "(refused)", &none, c.links);
}

static void explain_guest(const struct worker *w, const struct catalog_guest *g, const char *service, json_t *list)
{
	const struct member *m = member_of(g->guest);

	if (!m)
		return;
	list_for_each(l, &g->claims) {
		const struct claim *c = list_entry(l, struct claim, link);

		if (c->user && !strcmp(c->service, service))
			json_array_append_new(list, explain_claim(w, m, c));
	}
	for (size_t i = 0; i < g->n_lookups; i++)
		if (!strcmp(g->lookups[i].service, service))
			json_array_append_new(list, explain_lookup(w, m, &g->lookups[i]));
	for (size_t i = 0; i < g->n_refusals; i++)
		if (g->refusals[i].service && !strcmp(g->refusals[i].service, service))
			json_array_append_new(list, explain_refusal(w, m, &g->refusals[i]));
}

json_t *show_explain(const struct worker *w, const char *service, bool *ret_unknown)
{
	json_t *list = json_array();

	list_for_each(l, &w->catalog.by_guest)
		explain_guest(w, list_entry(l, struct catalog_guest, link), service, list);
	*ret_unknown = json_array_size(list) == 0;
	if (*ret_unknown) {
		json_decref(list);
		return NULL;
	}
	return json_pack("{s:s, s:o}", "service", service, "instances", list);
}

/*
 * What becomes of a guest: policy, verdict, proxy.
 */
#include "agent/member.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/standing.h"
#include "agent/reports.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "base/log.h"
#include "mesh/names.h"

enum {
	HBONE_PORT = 15008,
	TOKEN_LOST_MS = 2000,		/* a request without an answer is repeated then */
	DECISIONS_PER_S = 20,		/* on one guest, */
	DECISIONS_BURST_MS = 2500,	/* and fifty at once: a VM that starts makes a dozen */
	NODE_LABELS_LEN = 32768,
};

/* --- admission --- */

const char *member_refusal(const struct member *m, const struct claim *c, char text[static 400])
{
	char host[NAMES_HOST_LEN];

	if (c->udp)
		return "UDP is not carried by the mesh";
	if (c->behind)
		return "the address is not the guest's own";
	if (!m->policy->name[0])
		return "no onboarding policy matches this guest";
	if (!policy_allows_service(m->policy, c->service)) {
		snprintf(text, 400, "policy \"%.64s\" does not let this guest claim \"%.253s\"", m->policy->name, c->service);
		return text;
	}
	if (m->policy->namespace && names_service_host(c->service, m->policy->namespace, host) < 0)
		return "the name makes no host name";
	return NULL;
}

static bool serves(const struct member *m, const struct claim *c)
{
	const struct judge *j = c->user;
	char text[400];

	return j && j->verdict.verdict == VERDICT_VM && !member_refusal(m, c, text);
}

/* --- the wish --- */

/* Everything that a VmPut points at, so that it needs no memory of its own. */
struct wish {
	struct supervisor_wish wish;
	struct divert_wish diverts;
	Outrigger__Ipc__VmPut put;
	Outrigger__Ipc__Limits limits;

	char workload[NAMES_WORKLOAD_LEN];
	char uid[NAMES_UID_LEN];
	char texts[GUEST_MAX_ADDRESSES][IP_TEXT_LEN];
	char *addresses[GUEST_MAX_ADDRESSES];
	struct ip ips[GUEST_MAX_ADDRESSES];
	Outrigger__Ipc__VmPut__LabelsEntry labels[POLICY_MAX_LIST];
	Outrigger__Ipc__VmPut__LabelsEntry *label_list[POLICY_MAX_LIST];
	Outrigger__Ipc__ServicePort ports[MEMBER_MAX_SERVICES];
	Outrigger__Ipc__ServicePort *port_list[MEMBER_MAX_SERVICES];
	char hosts[MEMBER_MAX_SERVICES][NAMES_HOST_LEN];
	uint16_t numbers[MEMBER_MAX_SERVICES];
	Outrigger__Ipc__HealthTarget targets[MEMBER_MAX_SERVICES];
	Outrigger__Ipc__HealthTarget *target_list[MEMBER_MAX_SERVICES];
	char target_texts[MEMBER_MAX_SERVICES][IP_TEXT_LEN];
	Outrigger__Ipc__VmPut__NodeMetadataEntry metadata[3];
	Outrigger__Ipc__VmPut__NodeMetadataEntry *metadata_list[3];
	char node_labels[NODE_LABELS_LEN];
	char proxy_config[96];
};

static void wish_addresses(struct wish *w, const struct guest *g)
{
	for (size_t i = 0; i < g->n_addresses; i++) {
		const struct ip *ip = &g->addresses[i]->ip;
		size_t n = w->put.n_addresses;

		if (ip_is_link_local(ip))
			continue;
		w->ips[n] = *ip;
		ip_format(ip, w->texts[n]);
		w->addresses[n] = w->texts[n];
		w->put.n_addresses++;
	}
	w->put.addresses = w->addresses;
	w->diverts.addresses = w->ips;
	w->diverts.n_addresses = w->put.n_addresses;
}

static void wish_labels(struct wish *w, const struct policy *p)
{
	for (size_t i = 0; i < p->n_labels; i++) {
		outrigger__ipc__vm_put__labels_entry__init(&w->labels[i]);
		w->labels[i].key = p->labels[i].key;
		w->labels[i].value = p->labels[i].value;
		w->label_list[i] = &w->labels[i];
	}
	w->put.labels = w->label_list;
	w->put.n_labels = p->n_labels;
}

static void wish_metadata(struct wish *w, const char *key, char *value)
{
	size_t n = w->put.n_node_metadata++;

	outrigger__ipc__vm_put__node_metadata_entry__init(&w->metadata[n]);
	w->metadata[n].key = (char *)(uintptr_t)key;
	w->metadata[n].value = value;
	w->metadata_list[n] = &w->metadata[n];
	w->put.node_metadata = w->metadata_list;
}

/*
 * Istio registers a VM by its proxy's node metadata. The label says whose entry
 * it is: the controller removes those whose VM is gone (control/entries.h).
 */
static int wish_registration(struct wish *w, const struct member *m)
{
	const struct policy *p = m->policy;
	json_t *labels;
	size_t n;

	if (!p->workload_group)
		return 0;
	labels = json_pack("{s:s}", ISTIO_NIC_LABEL, m->worker->conf->nic);
	for (size_t i = 0; labels && i < p->n_labels; i++)
		json_object_set_new(labels, p->labels[i].key, json_string(p->labels[i].value));
	n = labels ? json_dumpb(labels, w->node_labels, sizeof(w->node_labels) - 1, JSON_COMPACT) : 0;
	json_decref(labels);
	if (!n || n > sizeof(w->node_labels) - 1)
		return n ? -E2BIG : -ENOMEM;
	wish_metadata(w, "AUTO_REGISTER_GROUP", p->workload_group);
	wish_metadata(w, "LABELS", w->node_labels);
	if (p->health) {	/* istiod takes reports of health only from who has said that it probes */
		snprintf(w->proxy_config, sizeof(w->proxy_config), "{\"readinessProbe\":{\"periodSeconds\":%u}}", MAX(p->health->interval_ms / 1000, 1u));
		wish_metadata(w, "PROXY_CONFIG", w->proxy_config);
	}
	return 0;
}

static void wish_port(struct wish *w, const struct member *m, struct claim *c)
{
	static char tcp[] = "tcp";
	size_t n = w->put.n_ports;
	Outrigger__Ipc__ServicePort *p = &w->ports[n];

	for (size_t i = 0; i < n; i++)	/* IPv4 and IPv6 of the same */
		if (!strcmp(w->ports[i].service, c->service) && w->ports[i].port == c->port)
			return;
	if (n == MEMBER_MAX_SERVICES || names_service_host(c->service, m->policy->namespace, w->hosts[n]) < 0)
		return;
	outrigger__ipc__service_port__init(p);
	p->service = c->service;
	p->namespace_ = m->policy->namespace;
	p->hostname = w->hosts[n];
	p->port = p->target_port = c->port;
	p->protocol = c->app_protocol ? c->app_protocol : tcp;
	w->port_list[n] = p;
	w->numbers[n] = c->port;
	w->put.n_ports++;
}

/* At the address that it is registered with: that is where it is called. */
static void wish_target(struct wish *w, const struct policy *p, const struct claim *c)
{
	size_t n = w->put.n_health_targets;

	if (!p->health || n == ELEMENTS(w->targets))
		return;
	outrigger__ipc__health_target__init(&w->targets[n]);
	ip_format(&c->address, w->target_texts[n]);
	w->targets[n].address = w->target_texts[n];
	w->targets[n].port = p->health->port ? p->health->port : c->port;
	w->target_list[n] = &w->targets[n];
	w->put.health_targets = w->target_list;
	w->put.n_health_targets++;
}

static size_t wish_ports(struct wish *w, const struct member *m)
{
	const struct catalog_guest *g = catalog_of(m->guest);

	if (g)
		list_for_each(l, &g->claims) {
			struct claim *c = list_entry(l, struct claim, link);

			if (!serves(m, c))
				continue;
			wish_port(w, m, c);
			wish_target(w, m->policy, c);
		}
	w->put.ports = w->port_list;
	w->diverts.ports = w->numbers;
	w->diverts.n_ports = w->put.n_ports;
	return w->put.n_ports;
}

/* Who it is in the mesh: by the controller's rule, or by Istio's. */
static int wish_uid(struct wish *w, const struct member *m)
{
	const struct policy *p = m->policy;

	w->put.uid = w->uid;
	if (p->workload_group && w->put.n_addresses)
		return names_istio_uid(m->worker->cluster_id, p->namespace, p->workload_group, w->put.addresses[0], m->worker->network,
				       w->uid);
	return names_vm_uid(m->guest->id, w->uid);
}

static const Outrigger__Ipc__DnsMode dns_modes[_POLICY_DNS_N] = {
	[POLICY_DNS_OBSERVE] = OUTRIGGER__IPC__DNS_MODE__DNS_OBSERVE,
	[POLICY_DNS_FILL] = OUTRIGGER__IPC__DNS_MODE__DNS_FILL,
	[POLICY_DNS_ANSWER] = OUTRIGGER__IPC__DNS_MODE__DNS_ANSWER,
};

static int wish_fill(struct wish *w, struct member *m)
{
	const struct policy *p = m->policy;
	const struct config_proxy *conf = &m->worker->conf->proxy;

	outrigger__ipc__vm_put__init(&w->put);
	outrigger__ipc__limits__init(&w->limits);
	names_vm_workload(m->guest->name, m->guest->id, w->workload);
	w->put.vm_id = m->guest->id;
	w->put.namespace_ = p->namespace;
	w->put.service_account = p->service_account;
	w->put.workload_name = w->workload;
	w->put.mode = p->mode == POLICY_STRICT ? OUTRIGGER__IPC__MODE__MODE_STRICT : OUTRIGGER__IPC__MODE__MODE_PERMISSIVE;
	w->put.tee_ports = m->worker->tee_ports;
	w->put.n_tee_ports = m->worker->n_tee_ports;
	w->limits.connections = conf->connections;
	w->limits.buffered_bytes = conf->buffered_bytes;
	w->limits.connection_rate = conf->connection_rate;
	w->limits.teed_bytes = m->worker->conf->limits.sniffed_bytes;
	w->put.limits = &w->limits;
	w->put.health = p->health;
	w->put.dns = dns_modes[p->dns];
	w->put.dns_domains = p->dns_domains;
	w->put.n_dns_domains = p->n_dns_domains;
	wish_addresses(w, m->guest);
	if (wish_uid(w, m) < 0)
		return -EINVAL;
	wish_labels(w, p);
	wish_ports(w, m);

	w->diverts.vm = m->place->slot;
	w->diverts.hbone_port = HBONE_PORT;
	w->diverts.exclude = p->outbound_exclude;
	w->diverts.n_exclude = p->n_outbound_exclude;
	w->diverts.fail_closed = p->fail_closed;
	w->diverts.dns = p->dns != POLICY_DNS_OBSERVE;
	w->diverts.dns_answers = p->dns == POLICY_DNS_FILL;
	policy_group(p, m->guest, m->group);
	if (wish_registration(w, m) < 0)
		return -E2BIG;
	w->wish = (struct supervisor_wish){
		.slot = m->place->slot, .group = m->group, .put = &w->put, .diverts = &w->diverts, .fail_closed = p->fail_closed,
	};
	return 0;
}

/* --- joining and leaving --- */

static void leave(struct member *m, uint32_t drain_ms)
{
	if (!m->joined)
		return;
	m->joined = false;
	m->token_until = 0;		/* it goes with the proxy */
	log_info("guest leaves the mesh", log_str("guest", m->guest->id), log_str("why", m->why_not));
	supervisor_unwant(&m->worker->supervisor, m->guest->id, drain_ms);
	if (m->place && m->place->guest_id && !strcmp(m->place->guest_id, m->guest->id))
		m->place->guest_id = NULL;
}

static void join(struct member *m)
{
	struct wish *w = calloc(1, sizeof(*w));
	bool first = !m->joined;
	int r = w ? wish_fill(w, m) : -ENOMEM;

	if (r == 0) {
		m->place->guest_id = m->guest->id;
		r = supervisor_want(&m->worker->supervisor, &w->wish);
	}
	free(w);
	if (r < 0) {
		log_error("guest could not be given a proxy", log_str("guest", m->guest->id), log_errno(r));
		snprintf(m->why_not, sizeof(m->why_not), "no proxy: %s", strerror(-r));
		return;
	}
	m->joined = true;
	m->why_not[0] = 0;
	if (first) {
		m->wished_ns = clock_mono_ns();
		log_info("guest joins the mesh", log_str("guest", m->guest->id), log_str("policy", m->policy->name), log_str("process", m->group));
	}
	member_ask_token(m);
}

void member_ask_token(struct member *m)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__TokenRequest request = OUTRIGGER__V1__TOKEN_REQUEST__INIT;
	uint64_t now = clock_mono_ms();

	if (m->token_until > clock_wall_s() || (m->token_asked_ms && now - m->token_asked_ms < MAX(m->token_wait_ms, (uint32_t)TOKEN_LOST_MS)))
		return;
	request.guest_id = m->guest->id;
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_TOKEN_REQUEST;
	report.token_request = &request;
	if (!session_say(m->worker->session, &report))
		return;
	m->token_asked_ms = now;
	m->token_wait_ms = 0;
}

/* --- deciding --- */

static size_t n_served(const struct member *m, const struct catalog_guest *g)
{
	size_t n = 0;

	if (g)
		list_for_each(l, &g->claims)
			n += serves(m, list_entry(l, struct claim, link));
	return n;
}

static bool has_routable_address(const struct guest *g)
{
	struct ip v4 = guest_primary_ip(g, false), v6 = guest_primary_ip(g, true);

	return !ip_is_none(&v4) || !ip_is_none(&v6);
}

/* Why it is not to be in the mesh, or NULL. */
static const char *obstacle(const struct member *m)
{
	const struct catalog_guest *g = catalog_of(m->guest);

	if (m->worker->revoked)
		return "the controller has revoked this NIC";
	if (!m->policy->name[0])
		return "no onboarding policy matches";
	if (!policy_joins(m->policy))
		return m->policy->mode == POLICY_OFF ? "the policy's mode is off" : "the policy's mode is shadow";
	if (!m->place || !m->place->up)
		return "its port is down";
	if (m->place->guest_id && strcmp(m->place->guest_id, m->guest->id))
		return "another guest of this port has the proxy";
	if (!has_routable_address(m->guest))
		return "it has no address but link-local ones";
	if (n_served(m, g))
		return NULL;
	if (!m->policy->client)
		return "it offers nothing that it may, and the policy takes no mere clients";
	if (!m->client_elsewhere && (!g || (!g->n_lookups && !g->n_observations[OBS_DISCOVER])))
		return "it has offered nothing that it may, and asked for nothing";
	if (m->verdict.verdict != VERDICT_VM)
		return "the verdict on it is not (yet) that it is a VM";
	return NULL;
}

static void sync_addresses(struct member *m)
{
	const struct guest *g = m->guest;

	if (!m->place)
		return;
	for (size_t i = m->n_known; i-- > 0;)
		if (!guest_owns(g, &m->known[i])) {
			places_address(&m->worker->places, m->place, g->link.mac, &m->known[i], false);
			m->known[i] = m->known[--m->n_known];
		}
	for (size_t i = 0; i < g->n_addresses; i++) {
		bool is_known = false;

		for (size_t j = 0; j < m->n_known; j++)
			is_known |= ip_equal(&m->known[j], &g->addresses[i]->ip);
		if (is_known || m->n_known == ELEMENTS(m->known))
			continue;
		places_address(&m->worker->places, m->place, g->link.mac, &g->addresses[i]->ip, true);
		m->known[m->n_known++] = g->addresses[i]->ip;
	}
}

const struct node *member_node(const struct member *m)
{
	return nodes_find(m->worker->nodes, m->guest->id);
}

/* Pods are behind a node whether it is in the mesh or not. */
static void sync_behind(struct member *m)
{
	const struct node *node = member_node(m);

	if (m->place && (node || m->behind.n))
		places_behind(&m->worker->places, m->place, &m->behind, node ? node->networks : NULL, node ? node->n_networks : 0);
}

static void review_claims(struct member *m)
{
	const struct catalog_guest *g = catalog_of(m->guest);

	if (!g)
		return;
	list_for_each(l, &g->claims) {
		struct claim *c = list_entry(l, struct claim, link);
		struct judge *j = c->user;

		if (!j)
			continue;
		judge_review(j);
		judge_watch(j, m->joined && serves(m, c));
		standing_review(m, c);
		if (c->decided_ns && !m->decided_ns)
			m->decided_ns = c->decided_ns;
	}
}

static void report_all(struct member *m)
{
	const struct catalog_guest *g = catalog_of(m->guest);

	if (g)
		list_for_each(l, &g->claims) {
			struct claim *c = list_entry(l, struct claim, link);

			report_claim(m, c);
			report_verdict(m, c);
		}
	report_verdict(m, NULL);
	report_proxy(m, m->joined ? supervisor_find(&m->worker->supervisor, m->guest->id) : NULL);
}

static const struct pace_rate decision_rate = { .per_s = DECISIONS_PER_S, .burst_ms = DECISIONS_BURST_MS };

static int decide(struct defer *d)
{
	struct member *m = container_of(d, struct member, decide);
	struct worker *w = m->worker;
	const char *why;

	pace_take(&m->decisions, decision_rate, 1, clock_mono_ms());
	m->policy = policy_match(w->policies, w->conf->nic, m->guest);
	sync_addresses(m);
	sync_behind(m);
	verdict_of_guest(&m->verdict, m->guest, w->containers, clock_wall_ms());
	review_claims(m);
	report_guest(m);		/* before its token is asked for */
	why = obstacle(m);
	if (why) {
		snprintf(m->why_not, sizeof(m->why_not), "%s", why);
		leave(m, w->conf->proxy.drain_ms);
	} else {
		if (!m->decided_ns)
			m->decided_ns = clock_mono_ns();
		join(m);
	}
	review_claims(m);		/* what joined is watched closely */
	report_all(m);
	return 0;
}

static int on_decide_later(struct timer *t)
{
	struct member *m = container_of(t, struct member, decide_later);

	loop_defer(m->worker->loop, &m->decide, decide);
	return 0;
}

void member_touch(struct member *m)
{
	uint64_t wait_ms;

	if (m->decide_later.loop)
		return;
	wait_ms = pace_wait_ms(&m->decisions, decision_rate, clock_mono_ms());
	if (wait_ms)
		m->budgets.over[GUEST_B_DECISIONS]++;
	/* Without memory for a timer it is not put off. */
	if (!wait_ms || timer_arm(m->worker->loop, &m->decide_later, wait_ms, on_decide_later) < 0)
		loop_defer(m->worker->loop, &m->decide, decide);
}

/* --- life --- */

int member_new(struct worker *w, struct guest *g)
{
	struct member *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->worker = w;
	m->guest = g;
	m->place = places_by_link(&w->places, &g->link);
	m->policy = policy_match(w->policies, w->conf->nic, g);
	m->engine_id = w->next_engine_id += 2;
	list_init(&m->decide.link);
	list_init(&m->tees);
	g->user = m;
	log_info("guest", log_str("guest", g->id), log_str("name", g->name), log_str("policy", m->policy->name),
		 log_str("mode", policy_mode_name(m->policy->mode)));
	/* At once: its first packets should find it known to the monitor. */
	sync_addresses(m);
	sync_behind(m);
	member_touch(m);
	return 0;
}

void member_end(struct member *m, const char *reason)
{
	struct worker *w = m->worker;

	snprintf(m->why_not, sizeof(m->why_not), "%s", reason);
	/* It is not there any more: what its connections still hold is of no use. */
	leave(m, 0);
	supervisor_vanished(&w->supervisor, m->guest->id);
	report_proxy(m, NULL);
	report_guest_gone(m, reason);
	for (size_t i = 0; m->place && i < m->n_known; i++)
		places_address(&w->places, m->place, m->guest->link.mac, &m->known[i], false);
	if (m->place && m->behind.n)
		places_behind(&w->places, m->place, &m->behind, NULL, 0);
	diverts_deinit(&m->behind);
	feed_forget(w, m->guest);
	defer_cancel(&m->decide);
	timer_cancel(&m->decide_later);
	m->guest->user = NULL;
	free(m);
}

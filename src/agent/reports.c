/*
 * Reports to the controller.
 */
#include "agent/reports.h"

#include <stdio.h>
#include <string.h>

#include "agent/worker.h"
#include "base/clock.h"
#include "base/log.h"

/* protobuf-c's structs have no const; nothing writes to what they borrow. */
static char *text(const char *s)
{
	return (char *)(uintptr_t)(s ? s : "");
}

static uint64_t ms_between(uint64_t from_ns, uint64_t to_ns)
{
	return from_ns && to_ns > from_ns ? (to_ns - from_ns + 500000) / 1000000 : 0;
}

static void claim_key(const struct member *m, const struct claim *c, char key[static MIRROR_KEY_LEN])
{
	char address[IP_TEXT_LEN];

	snprintf(key, MIRROR_KEY_LEN, "%s|%s|%s|%u|%d", m->guest->id, c->service, ip_format(&c->address, address), c->port, c->udp);
}

/* --- guests --- */

void report_guest(struct member *m)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Guest g = OUTRIGGER__V1__GUEST__INIT;
	char mac[GUEST_MAC_TEXT_LEN], group[POLICY_GROUP_LEN], texts[GUEST_MAX_ADDRESSES][IP_TEXT_LEN];
	char *addresses[GUEST_MAX_ADDRESSES];

	g.guest_id = m->guest->id;
	g.port = m->guest->link.port;
	g.vlan = m->guest->link.vlan;
	g.mac = text(guest_mac_format(m->guest->link.mac, mac));
	for (size_t i = 0; i < m->guest->n_addresses; i++)
		addresses[i] = text(ip_format(&m->guest->addresses[i]->ip, texts[i]));
	g.addresses = addresses;
	g.n_addresses = m->guest->n_addresses;
	g.name = m->guest->name;
	g.policy = m->policy->name;
	g.mode = text(policy_mode_name(m->policy->mode));
	if (policy_joins(m->policy))
		g.isolation_group = text(policy_group(m->policy, m->guest, group));
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_GUEST;
	report.guest = &g;
	session_put(m->worker->session, MIRROR_GUEST, m->guest->id, &report);
}

void report_guest_gone(struct member *m, const char *reason)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__GuestGone gone = OUTRIGGER__V1__GUEST_GONE__INIT;

	gone.guest_id = m->guest->id;
	gone.reason = text(reason);
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_GUEST_GONE;
	report.guest_gone = &gone;
	session_drop(m->worker->session, MIRROR_VERDICT, m->guest->id, NULL);
	session_drop(m->worker->session, MIRROR_PROXY, m->guest->id, NULL);
	session_drop(m->worker->session, MIRROR_GUEST, m->guest->id, &report);
}

/* --- claims --- */

void report_claim(struct member *m, struct claim *c)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Claim p = OUTRIGGER__V1__CLAIM__INIT;
	Outrigger__V1__Claim__MetadataEntry entries[CATALOG_MAX_METADATA], *list[CATALOG_MAX_METADATA];
	const struct claim_source *s = &c->sources[0];
	struct judge *j = c->user;
	char key[MIRROR_KEY_LEN], why[400], address[IP_TEXT_LEN], registry[IP_PORT_TEXT_LEN];
	const char *refusal = member_refusal(m, c, why);

	if (m->policy->mode == POLICY_OFF || !j || !c->n_sources)
		return;
	p.guest_id = m->guest->id;
	p.service = c->service;
	p.instance = j->instance;
	p.address = text(ip_format(&c->address, address));
	p.port = c->port;
	p.transport = text(c->udp ? "udp" : "tcp");
	p.app_protocol = text(c->app_protocol);
	p.source = text(s->protocol);
	if (!ip_is_none(&s->registry.ip))
		p.registry = text(ip_port_format(&s->registry, registry));
	p.health = text(standing_name(j->standing.state));
	p.health_reason = j->standing.reason;
	p.health_since_ms = j->standing.since_ms;
	p.ttl_s = s->ttl_s;
	for (size_t i = 0; i < c->n_metadata; i++) {
		outrigger__v1__claim__metadata_entry__init(&entries[i]);
		entries[i].key = c->metadata[i].key;
		entries[i].value = c->metadata[i].value;
		list[i] = &entries[i];
	}
	p.metadata = list;
	p.n_metadata = c->n_metadata;
	p.admitted = !refusal;
	p.refusal = text(refusal);
	p.first_seen_ms = (uint64_t)c->first_seen_wall_ms;
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_CLAIM;
	report.claim = &p;
	claim_key(m, c, key);
	session_put(m->worker->session, MIRROR_CLAIM, key, &report);
}

void report_claim_gone(struct member *m, struct claim *c, const char *reason)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__ClaimGone gone = OUTRIGGER__V1__CLAIM_GONE__INIT;
	struct judge *j = c->user;
	char key[MIRROR_KEY_LEN];

	gone.guest_id = m->guest->id;
	gone.service = c->service;
	gone.instance = j ? j->instance : text("");
	gone.port = c->port;
	gone.reason = text(reason);
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_CLAIM_GONE;
	report.claim_gone = &gone;
	claim_key(m, c, key);
	session_drop(m->worker->session, MIRROR_VERDICT, key, NULL);
	/* A guest that is gone takes them along: the controller is told of it with what it offered until then. */
	session_drop(m->worker->session, MIRROR_CLAIM, key, m->ends ? NULL : &report);
}

/* --- verdicts --- */

void report_verdict(struct member *m, struct claim *c)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Verdict p = OUTRIGGER__V1__VERDICT__INIT;
	Outrigger__V1__Evidence evidence[_VERDICT_METHOD_N], *list[_VERDICT_METHOD_N];
	struct judge *j = c ? c->user : NULL;
	const struct verdict_case *v = j ? &j->verdict : &m->verdict;
	char key[MIRROR_KEY_LEN];

	if (m->policy->mode == POLICY_OFF || (c && !j))
		return;
	p.guest_id = m->guest->id;
	if (j) {
		p.service = c->service;
		p.instance = j->instance;
	}
	p.verdict = text(verdict_name(v->verdict));
	for (size_t i = 0; i < _VERDICT_METHOD_N; i++) {
		const struct verdict_evidence *e = &v->evidence[i];
		Outrigger__V1__Evidence *out = &evidence[p.n_evidence];

		if (!e->given)
			continue;
		outrigger__v1__evidence__init(out);
		out->method = text(verdict_method_name((enum verdict_method)i));
		out->finding = text(verdict_name(e->finding));
		out->detail = text(e->detail);
		out->at_ms = (uint64_t)e->at_wall_ms;
		list[p.n_evidence++] = out;
	}
	p.evidence = list;
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_VERDICT;
	report.verdict = &p;
	if (c)
		claim_key(m, c, key);
	else
		snprintf(key, sizeof(key), "%s", m->guest->id);
	session_put(m->worker->session, MIRROR_VERDICT, key, &report);
}

/* --- proxies --- */

static void note_mesh(struct member *m)
{
	const struct catalog_guest *g = catalog_of(m->guest);
	struct session_info info;
	uint64_t now = clock_mono_ns();

	session_get_info(m->worker->session, &info);
	if (!m->ready_ns)
		m->ready_ns = now;
	if (info.state == SESSION_OPEN && !m->mesh_ns)
		m->mesh_ns = now;
	if (g)
		list_for_each(l, &g->claims) {
			const struct claim *c = list_entry(l, struct claim, link);
			struct judge *j = c->user;

			if (!j || !j->close)
				continue;
			if (!j->ready_ns)
				j->ready_ns = now;
			if (!j->mesh_ns && info.state == SESSION_OPEN)
				j->mesh_ns = now;
		}
}

void report_proxy(struct member *m, const struct proxy_vm *vm)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__ProxyStatus p = OUTRIGGER__V1__PROXY_STATUS__INIT;
	char process[POLICY_GROUP_LEN + 16];

	p.guest_id = m->guest->id;
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_PROXY;
	report.proxy = &p;
	if (!vm) {
		p.state = text("stopped");
		p.detail = m->why_not;
		session_drop(m->worker->session, MIRROR_PROXY, m->guest->id, &report);
		return;
	}
	if (vm->state == VM_SERVING)
		note_mesh(m);
	p.state = text(vm->state == VM_BROKEN ? "failed" : vm->state == VM_LEAVING ? "draining" : supervisor_said_name(vm->said));
	p.detail = text(vm->detail);
	p.identity = text(vm->identity);
	snprintf(process, sizeof(process), "%s/%d", vm->process->group, (int)vm->process->pid);
	p.process = process;
	p.found_ms = ms_between(m->packet_ns, m->found_ns);
	p.decided_ms = ms_between(m->packet_ns, m->decided_ns);
	p.ready_ms = ms_between(m->packet_ns, m->ready_ns);
	session_put(m->worker->session, MIRROR_PROXY, m->guest->id, &report);
}

void report_load(struct worker *w)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__NicLoad load = OUTRIGGER__V1__NIC_LOAD__INIT;

	map_for_each(l, &w->supervisor.vms) {
		const struct proxy_vm *vm = container_of(l, struct proxy_vm, by_id);

		load.connections += vm->load.connections_open;
		load.bytes += vm->load.bytes_sent + vm->load.bytes_received;
		load.proxies++;
	}
	list_for_each(l, &w->supervisor.processes)
		load.cpu_ns += list_entry(l, struct process, link)->cpu_ns;
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_LOAD;
	report.load = &load;
	session_say(w->session, &report);
}

void report_policy_ack(struct worker *w, uint64_t version, const char *refused)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__PolicyAck ack = OUTRIGGER__V1__POLICY_ACK__INIT;

	ack.version = version;
	ack.refused = text(refused);
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_POLICY_ACK;
	report.policy_ack = &ack;
	session_say(w->session, &report);
}

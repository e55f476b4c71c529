/*
 * /v1/check: what is wrong with this installation, with a hint for each.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/admin.h"
#include "agent/member.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "api/counters.h"

struct checkup {
	json_t *list;
	bool ok;		/* nothing fatal */
};

static void add(struct checkup *c, const char *section, const char *what, bool ok, bool fatal, const char *hint, const char *fmt, ...) PRINTF_LIKE(7, 8);

static void add(struct checkup *c, const char *section, const char *what, bool ok, bool fatal, const char *hint, const char *fmt, ...)
{
	char found[400];
	va_list args;

	va_start(args, fmt);
	vsnprintf(found, sizeof(found), fmt, args);
	va_end(args);
	if (!ok && fatal)
		c->ok = false;
	json_array_append_new(c->list, json_pack("{s:s, s:s, s:b, s:b, s:o, s:o}", "section", section, "what", what, "ok", ok, "fatal", fatal,
						 "found", ok || !found[0] ? json_null() : json_string(found),
						 "hint", ok || !hint ? json_null() : json_string(hint)));
}

static void check_steering(struct checkup *c, struct worker *w)
{
	static struct monitor_check checks[MONITOR_MAX_CHECKS];
	size_t n;
	int r = monitor_checks(w->monitor, checks, &n);

	add(c, "steering", "the monitor answers", r == 0, true, "look for its last words in the agent's log", "%s", r < 0 ? strerror(-r) : "");
	for (size_t i = 0; r == 0 && i < n; i++)
		add(c, "steering", checks[i].what, checks[i].ok, checks[i].fatal,
		    "the agent sets it when it starts; something has changed it since", "%s", checks[i].found);
}

static void check_ports(struct checkup *c, struct worker *w)
{
	char what[96];
	size_t n = 0;

	list_for_each(l, &w->places.places) {
		const struct place *p = list_entry(l, struct place, link);

		n++;
		snprintf(what, sizeof(what), "BPF is attached to port %s, VLAN %u", p->port, p->vlan);
		add(c, "ports", what, p->attached, true, "the agent's log says why not", "it is not");
	}
	add(c, "ports", "there is a port of a VM", n > 0, false, "\"ports\" in agent.yaml names the devices", "no device matches");
}

/* What such a guest says of its addresses is believed, unless another one here has it. */
static bool may_have_any(const struct guest *g)
{
	const struct member *m = member_of(g);

	return m && m->policy && m->policy->mode >= POLICY_PERMISSIVE && !m->policy->n_addresses && !(g->rule && g->rule->n_prefixes);
}

static void check_guests(struct checkup *c, const struct worker *w)
{
	const struct guest *first = NULL;
	size_t n = 0;

	map_for_each(l, &w->guests.by_id) {
		const struct guest *g = container_of(l, struct guest, by_id);

		if (!may_have_any(g))
			continue;
		n++;
		first = first ? first : g;
	}
	add(c, "guests", "which addresses a VM of the mesh may have is written down", !n, false,
	    "\"may_have\" of a rule of \"guests\" in agent.yaml, or \"addresses\" in the policy's \"match\" in controller.yaml",
	    "%zu may have any that no other guest here has, among them %s (policy %s)", n, first ? first->id : "",
	    first ? member_of(first)->policy->name : "");
}

static void check_controller(struct checkup *c, const struct worker *w)
{
	char text[DIAG_TEXT_LEN];
	struct session_info s;
	int64_t left;

	add(c, "agent", "the configuration file is taken", !w->conf_error.msg[0], true, "mend it, and reload; the last good one stays in force",
	    "%s", diag_format(&w->conf_error, text));
	session_get_info(w->session, &s);
	add(c, "controller", "a controller is configured", w->conf->controller.address, false,
	    "without one nobody joins a mesh: \"controller\" in agent.yaml", "no");
	if (!w->conf->controller.address)
		return;
	left = s.cert_not_after - clock_wall_s();
	add(c, "controller", "this NIC is enrolled", s.cert_not_after && left > 0, true,
	    s.cert_not_after ? "it asks for another one by itself; where the controller gives none (ca.nic_grace), give it a join token: \"join_token_file\" in agent.yaml" :
			       "give it a join token: \"join_token_file\" in agent.yaml",
	    "%s", s.cert_not_after ? "its certificate has expired" : "it has no certificate");
	add(c, "controller", "the controller is reached", s.state == SESSION_OPEN, true,
	    "is its address right, does it run, do both clocks agree? What was last told stays in force meanwhile", "%s: %s",
	    session_state_name(s.state), s.detail);
	add(c, "controller", "its policies are taken", !w->policy_refused[0], true, "mend them at the controller; the last good ones stay in force",
	    "%s", w->policy_refused);
	add(c, "controller", "it has told the containers' addresses", w->containers, false,
	    "without them the verdict waits for probe or registry", "not yet");
}

static void check_clock(struct checkup *c)
{
	/* A clock before this program was made refuses every certificate. */
	add(c, "clock", "the clock is plausible", clock_wall_s() > 1700000000, true, "set it: certificates are checked against it", "%lld",
	    (long long)clock_wall_s());
}

/* A resolver that asks by other ways than UDP port 53 is not heard, and nothing is filled for it. */
static void check_names(struct checkup *c, const struct worker *w, const struct proxy_vm *vm)
{
	struct monitor_counters n = {};
	char what[256];

	if (vm->put->dns == OUTRIGGER__IPC__DNS_MODE__DNS_OBSERVE || vm->state != VM_SERVING || monitor_counters_get(w->monitor, vm->slot, &n) < 0)
		return;
	snprintf(what, sizeof(what), "the names that %s asks for come to its proxy", vm->id);
	add(c, "names", what, n.v[STEER_C_DNS_QUERIES] > 0, false,
	    "does its resolver use DNS over TLS or HTTPS, TCP only, a server on a link-local address, or one in \"outbound_exclude\"?",
	    "it has not asked for any by UDP port 53");
	snprintf(what, sizeof(what), "no query of %s has gone around its proxy", vm->id);
	add(c, "names", what, !n.v[STEER_C_DNS_STUCK] && !n.v[STEER_C_DNS_BUDGET], false,
	    "a proxy that hangs is left alone, and so is what is over the budget: the guest's own server answers",
	    "%llu since the proxy did nothing, %llu over the budget", (unsigned long long)n.v[STEER_C_DNS_STUCK],
	    (unsigned long long)n.v[STEER_C_DNS_BUDGET]);
}

static void check_proxies(struct checkup *c, const struct worker *w)
{
	char what[256];

	map_for_each(l, &w->supervisor.vms) {
		const struct proxy_vm *vm = container_of(l, struct proxy_vm, by_id);
		struct guest *g = guest_by_id(&w->guests, vm->id);
		const struct member *m = g ? member_of(g) : NULL;

		if (!vm->wanted)
			continue;
		snprintf(what, sizeof(what), "the proxy of %s serves", vm->id);
		add(c, "proxies", what, vm->state == VM_SERVING, true, "outrigger explain of one of its services has the chain", "%s (%s) %s%s%s",
		    vm_state_name(vm->state), supervisor_said_name(vm->said), vm->detail, m && m->token_refused[0] ? "; token refused: " : "",
		    m ? m->token_refused : "");
		check_names(c, w, vm);
	}
	list_for_each(l, &w->supervisor.processes) {
		const struct process *p = list_entry(l, struct process, link);

		if (list_empty(&p->vms))
			continue;
		snprintf(what, sizeof(what), "proxy process %s runs", p->group);
		add(c, "proxies", what, p->state == PROCESS_RUNNING, true, "its log says why it ended", "%s, started %u times",
		    process_state_name(p->state), p->n_starts);
	}
}

static void check_discovery(struct checkup *c, struct worker *w)
{
	struct monitor_counters n;
	uint64_t lost = monitor_counters_get(w->monitor, 0, &n) == 0 ? n.v[STEER_C_RING_FULL] : 0;

	add(c, "discovery", "no captured record was lost", !lost, false, "a larger \"ring_bytes\" in agent.yaml, or fewer ports to sniff",
	    "%llu were", (unsigned long long)lost);
	add(c, "discovery", "no claim was refused for want of room", !w->n_claims_full, false, "a guest claims more than it may: see the log",
	    "%llu were", (unsigned long long)w->n_claims_full);
	add(c, "discovery", "no guest was refused for want of room", !w->guests.n_full, false, "\"limits\" in agent.yaml",
	    "%llu sightings were", (unsigned long long)w->guests.n_full);
}

json_t *show_check(struct worker *w)
{
	struct checkup c = { .list = json_array(), .ok = true };

	check_steering(&c, w);
	check_ports(&c, w);
	check_guests(&c, w);
	check_clock(&c);
	check_controller(&c, w);
	check_proxies(&c, w);
	check_discovery(&c, w);
	return json_pack("{s:b, s:o}", "ok", c.ok, "checks", c.list);
}

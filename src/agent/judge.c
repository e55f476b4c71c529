/*
 * Methods that have to be asked: the probe and the registry.
 */
#include "agent/judge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/backoff.h"
#include "base/clock.h"

enum {
	FAR_MIN_MS = 1000, FAR_MAX_MS = 60000,	/* between probes of what is not in the mesh */
	ASK_AFTER_MS = 20,			/* the registry has just said yes: let it finish */
};

static void arm(struct judge *j);

static bool review(struct judge *j)
{
	const struct node *node = nodes_find(*j->court->nodes, j->claim->owner->guest->id);
	bool verdict = verdict_of_claim(&j->verdict, j->claim, *j->court->containers, node, clock_wall_ms());

	if (j->verdict.verdict != VERDICT_UNKNOWN && !j->claim->decided_ns)
		j->claim->decided_ns = clock_mono_ns();
	return verdict;
}

bool judge_review(struct judge *j)
{
	return review(j);
}

/* A finding of a method that was asked. Most probes find what the last one found, and that is nothing to decide on. */
static void note(struct judge *j, bool verdict)
{
	if (j->n_told == j->verdict.n_news)
		return;
	j->n_told = j->verdict.n_news;
	if (j->verdict.verdict != VERDICT_UNKNOWN && !j->claim->decided_ns)
		j->claim->decided_ns = clock_mono_ns();
	j->court->changed(j->claim, verdict, j->court->data);
}

/* --- the probe --- */

static void note_answer(struct judge *j, enum probe_result result, const struct monitor_probe_answer *where)
{
	const struct guest *g = j->claim->owner->guest;
	const char *what = result == PROBE_CONNECTED ? "SYN-ACK" : "RST";
	uint32_t slot = j->court->slot_of(g, j->court->data);
	char target[IP_PORT_TEXT_LEN], mac[GUEST_MAC_TEXT_LEN];
	struct ip_port at = { .ip = j->claim->address, .port = j->claim->port };
	bool verdict;

	ip_port_format(&at, target);
	if (!where) {
		verdict = verdict_note(&j->verdict, VERDICT_BY_PROBE, VERDICT_UNKNOWN, clock_wall_ms(),
				       "%s of %s came by no port of this NIC", what, target);
	} else if (where->vm == slot && where->vlan == g->link.vlan && !memcmp(where->mac, g->link.mac, 6)) {
		verdict = verdict_note(&j->verdict, VERDICT_BY_PROBE, VERDICT_VM, clock_wall_ms(), "%s of %s came out of VM port %s, VLAN %u, from %s",
				       what, target, g->link.port, where->vlan, guest_mac_format(where->mac, mac));
	} else if (where->vm == slot && where->vlan == g->link.vlan) {
		verdict = verdict_note(&j->verdict, VERDICT_BY_PROBE, VERDICT_CONTAINER, clock_wall_ms(),
				       "%s of %s came out of port %s, but from %s, which is not the VM's MAC: something behind it",
				       what, target, g->link.port, guest_mac_format(where->mac, mac));
	} else {
		verdict = verdict_note(&j->verdict, VERDICT_BY_PROBE, VERDICT_UNKNOWN, clock_wall_ms(),
				       "%s of %s came by interface %u, VLAN %u, from %s: not the VM's port", what, target, where->ifindex, where->vlan,
				       guest_mac_format(where->mac, mac));
	}
	note(j, verdict);
}

/*
 * Silence is news only from one who spoke before: a firewall in the guest may
 * well drop what comes from a strange address. So is a refusal only from one
 * who accepted before: services register before they listen.
 */
static bool is_miss(const struct judge *j, enum probe_result result)
{
	return (result == PROBE_SILENT && j->has_answered) || (result == PROBE_REFUSED && j->has_accepted);
}

static void count(struct judge *j, enum probe_result result)
{
	const struct judge_court *court = j->court;
	uint64_t now = clock_mono_ms();

	if (result == PROBE_FAILED)
		return;
	if (is_miss(j, result)) {
		if (++j->n_misses == court->misses)
			catalog_probed(court->catalog, j->claim, false, now);
		return;
	}
	if (result == PROBE_SILENT)
		return;
	j->n_misses = 0;
	j->has_answered = true;
	j->has_accepted |= result == PROBE_CONNECTED;
	court->answered(j->claim->owner->guest, court->data);
	catalog_probed(court->catalog, j->claim, true, now);
}

static void on_probe(struct probe *p, enum probe_result result, const struct monitor_probe_answer *where)
{
	struct judge *j = container_of(p, struct judge, probe);

	count(j, result);
	arm(j);
	if (result == PROBE_CONNECTED || result == PROBE_REFUSED) {
		note_answer(j, result, where);
	} else if (!j->has_answered) {
		/* A guest without a default route cannot answer a strange address, a NIC without an address has only that. */
		j->other_source = !j->other_source;
		note(j, verdict_note(&j->verdict, VERDICT_BY_PROBE, VERDICT_UNKNOWN, clock_wall_ms(), "no answer within %u ms", j->court->timeout_ms));
	}
}

/* By routes only where the configuration, or the cluster, says who is there: a guest says so of any address. */
static enum probe_way way_of(const struct judge *j)
{
	if (j->court->own_address || j->claim->behind)
		return PROBE_BY_ROUTES;
	return j->other_source ? PROBE_FROM_OWN : PROBE_FROM_SPARE;
}

static void send_probe(struct judge *j)
{
	const struct judge_court *court = j->court;
	struct ip_port at = { .ip = j->claim->address, .port = j->claim->port };
	int r;

	j->n_probes++;
	j->probe_ns = clock_mono_ns();
	r = probe_start(&j->probe, court->loop, court->monitor, &at, way_of(j), court->timeout_ms, on_probe);
	if (r < 0) {
		note(j, verdict_note(&j->verdict, VERDICT_BY_PROBE, VERDICT_UNKNOWN, clock_wall_ms(), "no probe could be sent: %s", strerror(-r)));
		arm(j);
	}
}

static int on_timer(struct timer *t)
{
	send_probe(container_of(t, struct judge, timer));
	return 0;
}

/* Jittered, so that the probes of many services do not go out together. */
static void arm(struct judge *j)
{
	unsigned doublings = MIN(j->n_probes, 10u);
	uint64_t delay = j->court->interval_ms;

	if (j->n_probes == 1 && !j->has_answered)
		delay = 0;		/* from the other source, see on_probe() */
	else if (!j->close)
		delay = MIN((uint64_t)FAR_MIN_MS << doublings, (uint64_t)FAR_MAX_MS);
	/* Without memory for a timer the service is just not probed any more. */
	if (timer_arm(j->court->loop, &j->timer, backoff_jitter(delay, 10), on_timer) < 0)
		j->n_misses = 0;
}

void judge_was_there(struct judge *j)
{
	if (j->has_accepted)
		return;
	j->has_accepted = true;
	j->n_misses = j->court->misses - 1;
}

void judge_watch(struct judge *j, bool close)
{
	bool sooner = close && !j->close;

	j->close = close;
	if (sooner && j->court->probe && !j->claim->udp && !j->probe.running)
		arm(j);
}

/*
 * Nothing is connected to just because a guest has sent a packet in its name:
 * what is behind a guest is probed where the cluster says so. All else of that
 * kind is a container's by its port already.
 */
static bool may_be_probed(const struct judge *j)
{
	const struct claim *c = j->claim;

	if (!j->court->probe || c->udp)
		return false;
	return !c->behind || node_has_behind(nodes_find(*j->court->nodes, c->owner->guest->id), &c->address);
}

/* --- the registry --- */

/* Our own question to the registry that the registration went to, or to the one that the configuration names. */
static bool registry_of(const struct judge *j, const struct claim_source *s, struct ip_port *ret_at)
{
	const struct judge_court *court = j->court;

	for (size_t i = 0; i < court->n_registries; i++)
		if (!strcmp(court->registries[i].protocol, s->protocol)) {
			*ret_at = court->registries[i].address;
			return true;
		}
	/* Not wherever a guest says: neither to itself, nor to this machine's loopback, nor to what a cloud tells only its machines. */
	if (ip_is_none(&s->registry.ip) || ip_is_loopback(&s->registry.ip) || ip_is_multicast(&s->registry.ip) || ip_is_link_local(&s->registry.ip) ||
	    guest_by_ip(court->catalog->guests, &s->registry.ip))
		return false;
	*ret_at = s->registry;
	return true;
}

static const struct registry_entry *entry_of(const struct judge *j, const struct registry_answer *a)
{
	for (size_t i = 0; i < a->n_entries; i++) {
		const struct registry_entry *e = &a->entries[i];

		if ((ip_is_none(&e->address) || ip_equal(&e->address, &j->claim->address)) && (!e->port || e->port == j->claim->port))
			return e;
	}
	return NULL;
}

static void on_registry(const struct registry_answer *a, void *data)
{
	struct judge *j = data;
	const struct registry_entry *e = entry_of(j, a);
	enum verdict finding = VERDICT_UNKNOWN;
	const char *more = "";

	j->lookup = NULL;
	if (a->result == REGISTRY_FOUND && e) {
		finding = e->sign ? VERDICT_CONTAINER : VERDICT_VM;
		more = e->sign ? e->sign : "no sign of a container";
	} else if (a->result == REGISTRY_FOUND) {
		more = "but at another address";
	}
	note(j, verdict_note(&j->verdict, VERDICT_BY_REGISTRY, finding, clock_wall_ms(), "%.140s%s%.70s", a->evidence, more[0] ? "; " : "", more));
}

static void ask_registry(struct judge *j)
{
	for (size_t i = 0; i < j->claim->n_sources && !j->lookup; i++) {
		const struct claim_source *s = &j->claim->sources[i];
		struct registry_query q = { .protocol = s->protocol, .service = j->claim->service, .instance = s->instance };

		if (!registry_of(j, s, &q.registry))
			continue;
		/* -ENOTSUP: that protocol has no registry to ask. Without memory the other methods have to do. */
		if (registry_lookup_start(j->court->loop, &q, on_registry, j, &j->lookup) < 0)
			j->lookup = NULL;
	}
}

static int on_ask(struct timer *t)
{
	ask_registry(container_of(t, struct judge, ask));
	return 0;
}

/* --- life --- */

int judge_new(const struct judge_court *court, struct claim *claim, struct judge **ret_judge)
{
	struct judge *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->court = court;
	j->claim = claim;
	j->instance = strdup(claim->n_sources && claim->sources[0].instance ? claim->sources[0].instance : "");
	if (!j->instance) {
		free(j);
		return -ENOMEM;
	}
	review(j);
	/* Not now: the claim may be decided without, and then its proxy comes first. */
	int r = timer_arm(court->loop, &j->ask, ASK_AFTER_MS, on_ask);
	if (r == 0 && may_be_probed(j))
		r = timer_arm(court->loop, &j->timer, 0, on_timer);
	if (r < 0) {
		judge_free(j);
		return r;
	}
	*ret_judge = j;
	return 0;
}

struct judge *judge_free(struct judge *j)
{
	if (!j)
		return NULL;
	probe_cancel(&j->probe);
	timer_cancel(&j->timer);
	timer_cancel(&j->ask);
	registry_lookup_cancel(j->lookup);
	free(j->instance);
	free(j);
	return NULL;
}

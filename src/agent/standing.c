/*
 * The health of a claim, from several mouths.
 */
#include "agent/standing.h"

#include <stdio.h>
#include <string.h>

#include "agent/member.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "base/log.h"

static const char *const state_names[] = {
	[STANDING_UNKNOWN] = NULL, [STANDING_PASSING] = "passing", [STANDING_WARNING] = "warning", [STANDING_WAITING] = "waiting",
	[STANDING_CRITICAL] = "critical",
};
_Static_assert(ELEMENTS(state_names) == _STANDING_N, "every state has a name");

const char *standing_name(enum standing_state state)
{
	return state_names[state];
}

static void worsen(struct standing *h, enum standing_state state, int64_t since_ms)
{
	h->state = state;
	h->since_ms = since_ms;
}

/* --- what the registries say, and silence --- */

static void by_registry(const struct claim *c, struct standing *h)
{
	static const enum standing_state states[] = {
		[OBS_HEALTH_UNKNOWN] = STANDING_UNKNOWN, [OBS_HEALTH_PASSING] = STANDING_PASSING,
		[OBS_HEALTH_WARNING] = STANDING_WARNING, [OBS_HEALTH_CRITICAL] = STANDING_CRITICAL,
	};

	worsen(h, states[claim_health(c)], 0);
	if (c->silent) {
		snprintf(h->reason, sizeof(h->reason), "it does not answer any more");
		return;
	}
	for (size_t i = 0; h->state >= STANDING_WARNING && i < c->n_sources; i++)
		if (states[c->sources[i].health] == h->state) {
			snprintf(h->reason, sizeof(h->reason), "it is registered as %s (%s)", state_names[h->state], c->sources[i].protocol);
			return;
		}
}

/* --- what the checks say --- */

static const Outrigger__Ipc__PortHealth *found_at(const struct proxy_vm *vm, const struct ip *address, uint32_t port)
{
	char text[IP_TEXT_LEN];

	ip_format(address, text);
	for (size_t i = 0; vm && vm->health && i < vm->health->n_ports; i++) {
		const Outrigger__Ipc__PortHealth *p = vm->health->ports[i];

		if (p->port == port && (!p->address[0] || !strcmp(p->address, text)))
			return p;
	}
	return NULL;
}

/* Another proxy process has taken over, and knows nothing yet: what the last one saw counts until it does. */
static bool keep_last(const struct standing *last, struct standing *h)
{
	if (!last->checked)
		return false;
	if (h->state < last->state)
		*h = *last;
	h->checked = true;
	return true;
}

static void by_checks(const struct member *m, const struct claim *c, struct standing *h)
{
	const Outrigger__Health__Check *check = m->policy->health;
	const struct judge *j = c->user;
	const Outrigger__Ipc__PortHealth *p;

	if (!check || !j->close)
		return;		/* what is not in the mesh is not checked */
	p = found_at(supervisor_find(&m->worker->supervisor, m->guest->id), &c->address, check->port ? check->port : c->port);
	if ((!p || !strcmp(p->state, "waiting")) && keep_last(&j->standing, h))
		return;
	h->checked = p && strcmp(p->state, "waiting");
	if (!p) {
		if (h->state < STANDING_WAITING) {
			worsen(h, STANDING_WAITING, 0);
			snprintf(h->reason, sizeof(h->reason), "no check has been made yet");
		}
	} else if (!strcmp(p->state, "healthy")) {
		if (h->state < STANDING_PASSING)
			worsen(h, STANDING_PASSING, p->since_ms);
	} else {
		enum standing_state state = strcmp(p->state, "waiting") ? STANDING_CRITICAL : STANDING_WAITING;

		if (h->state >= state)
			return;
		worsen(h, state, p->since_ms);
		snprintf(h->reason, sizeof(h->reason), "%s check of port %u: %.160s", check->kind, p->port, p->reason);
	}
}

void standing_review(const struct member *m, struct claim *c)
{
	struct judge *j = c->user;
	struct standing now = {};

	by_registry(c, &now);
	by_checks(m, c, &now);
	if (now.state == j->standing.state) {
		if (!now.since_ms)
			now.since_ms = j->standing.since_ms;
	} else if (!now.since_ms) {
		now.since_ms = clock_wall_ms();
	}
	if (now.state != j->standing.state)
		log_info("health", log_str("service", c->service), log_int("port", c->port), log_str("guest", m->guest->id),
			 log_str("state", state_names[now.state] ? state_names[now.state] : "unknown"), log_str("reason", now.reason));
	j->standing = now;
}

/*
 * Checks that succeed and fail, and what that makes of a service.
 */
#include "mesh/health.h"

#include <stdio.h>

static const char *const state_names[] = {
	[HEALTH_WAITING] = "waiting", [HEALTH_UP] = "healthy", [HEALTH_DOWN] = "unhealthy",
};
_Static_assert(ELEMENTS(state_names) == _HEALTH_STATE_N, "every state has a name");

const char *health_state_name(enum health_state state)
{
	return state_names[state];
}

void health_init(struct health *h, int64_t now_ms)
{
	*h = (struct health){ .since_ms = now_ms };
	snprintf(h->reason, sizeof(h->reason), "no check has ended yet");
}

static void enter(struct health *h, enum health_state state, const char *why, int64_t now_ms)
{
	h->state = state;
	h->since_ms = now_ms;
	snprintf(h->reason, sizeof(h->reason), "%s", why);
}

bool health_note(struct health *h, const struct health_rule *rule, bool ok, const char *why, int64_t now_ms)
{
	bool first = !h->n_run;

	h->n_run = h->last == ok && !first ? h->n_run + (h->n_run < UINT32_MAX) : 1;
	h->last = ok;
	if (ok && h->state != HEALTH_UP && h->n_run >= rule->successes) {
		enter(h, HEALTH_UP, "", now_ms);
		return true;
	}
	if (!ok && h->state != HEALTH_DOWN && h->n_run >= rule->failures) {
		enter(h, HEALTH_DOWN, why, now_ms);
		return true;
	}
	if (!ok && h->state == HEALTH_WAITING && h->n_run == 1) {
		snprintf(h->reason, sizeof(h->reason), "%s", why);	/* who looks at it wants to know */
		return true;
	}
	return false;
}

uint32_t health_next_ms(const struct health *h, const struct health_rule *rule)
{
	return h->state == HEALTH_WAITING ? MIN(rule->interval_ms, (uint32_t)HEALTH_WAITING_MS) : rule->interval_ms;
}

#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * From the results of single checks to whether something is healthy, without
 * flapping: it takes so many results of one kind in a row.
 *
 * What has never been healthy waits: it is not healthy either, but is looked at
 * more often, since services register before they listen.
 */
enum health_state { HEALTH_WAITING, HEALTH_UP, HEALTH_DOWN, _HEALTH_STATE_N };

enum { HEALTH_REASON_LEN = 160, HEALTH_WAITING_MS = 500 };

struct health_rule {
	uint32_t initial_delay_ms;
	uint32_t interval_ms;
	uint32_t timeout_ms;		/* of one check */
	uint32_t successes;		/* in a row, to be healthy; at least 1 */
	uint32_t failures;		/* in a row, to be unhealthy; at least 1 */
};

struct health {
	enum health_state state;
	uint32_t n_run;			/* results like the last one, in a row */
	bool last;
	int64_t since_ms;		/* wall clock, of the state */
	char reason[HEALTH_REASON_LEN];	/* not healthy: the failure that made it so */
};

void health_init(struct health *h, int64_t now_ms);
/* A check has ended, @why says how it failed. True: there is news in @state or @reason. */
bool health_note(struct health *h, const struct health_rule *rule, bool ok, const char *why, int64_t now_ms);
/* Until the next check, from the end of the last one. */
uint32_t health_next_ms(const struct health *h, const struct health_rule *rule);

const char *health_state_name(enum health_state state);	/* "waiting", "healthy", "unhealthy" */

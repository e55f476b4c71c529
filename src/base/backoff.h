#pragma once
#include <stdint.h>

/*
 * Delays between attempts: doubled each time up to a maximum, and jittered, so
 * that those who lost the same peer together do not come back together.
 */
enum { BACKOFF_SETTLED_MS = 3000 };	/* what lasted so long was good */

struct backoff {
	uint32_t min_ms;
	uint32_t max_ms;
	uint32_t step_ms;	/* of the next attempt; 0: at the start */
};

/* The next delay: between half the step and the whole. */
uint32_t backoff_next(struct backoff *b);
void backoff_reset(struct backoff *b);		/* it worked */
/*
 * What was attempted has worked, and has ended after @lasted_ms. Only what lasted
 * is a success: a peer that accepts and ends at once would be asked without a pause.
 */
void backoff_ended(struct backoff *b, uint64_t lasted_ms);
/* @ms, more or less by at most @percent. */
uint64_t backoff_jitter(uint64_t ms, unsigned percent);

#pragma once
#include <stdint.h>

/*
 * Delays between attempts: doubled each time up to a maximum, and jittered, so
 * that those who lost the same peer together do not come back together.
 */
struct backoff {
	uint32_t min_ms;
	uint32_t max_ms;
	uint32_t step_ms;	/* of the next attempt; 0: at the start */
};

/* The next delay: between half the step and the whole. */
uint32_t backoff_next(struct backoff *b);
void backoff_reset(struct backoff *b);		/* it worked */
/* @ms, more or less by at most @percent. */
uint64_t backoff_jitter(uint64_t ms, unsigned percent);

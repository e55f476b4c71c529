/*
 * Delays between attempts.
 */
#include "base/backoff.h"

#include <sys/random.h>

#include "base/clock.h"
#include "base/defs.h"

static uint64_t random_u64(void)
{
	uint64_t v;

	/* Before the kernel's pool is ready the clock has to do: only collisions are at stake. */
	if (getrandom(&v, sizeof(v), GRND_NONBLOCK) != (ssize_t)sizeof(v))
		v = clock_mono_ns() * 0x9e3779b97f4a7c15u;
	return v;
}

uint32_t backoff_next(struct backoff *b)
{
	uint32_t step = MIN(b->step_ms ? b->step_ms : b->min_ms, b->max_ms);

	b->step_ms = step > b->max_ms / 2 ? b->max_ms : step * 2;
	return step - (uint32_t)(random_u64() % (step / 2 + 1));
}

void backoff_reset(struct backoff *b)
{
	b->step_ms = 0;
}

void backoff_ended(struct backoff *b, uint64_t lasted_ms)
{
	if (lasted_ms >= BACKOFF_SETTLED_MS)
		backoff_reset(b);
}

uint64_t backoff_jitter(uint64_t ms, unsigned percent)
{
	uint64_t span = ms / 100 * percent;

	return ms - span + random_u64() % (2 * span + 1);
}

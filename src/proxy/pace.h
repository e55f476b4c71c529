#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * So many a second, and for a moment as many as come in PACE_BURST_MS at that
 * rate: the generic cell rate algorithm (ITU-T I.371, annex A).
 *
 * Any thread. Two that ask at the same time may both have the last one.
 */
enum { PACE_BURST_MS = 100 };

struct pace {			/* starts zeroed */
	uint64_t due_us;	/* atomic: when the next one comes, if all come at the rate */
};

/* May one more come at @now_ms? @rate: a second; 0: without limit. */
static inline bool pace_left(const struct pace *p, uint32_t rate, uint64_t now_ms)
{
	return !rate || __atomic_load_n(&p->due_us, __ATOMIC_RELAXED) <= (now_ms + PACE_BURST_MS) * 1000;
}

/* It has come. */
static inline void pace_take(struct pace *p, uint32_t rate, uint64_t now_ms)
{
	uint64_t before = __atomic_load_n(&p->due_us, __ATOMIC_RELAXED), due;

	if (!rate)
		return;
	do
		due = MAX(before, now_ms * 1000) + 1000000 / rate;
	while (!__atomic_compare_exchange_n(&p->due_us, &before, due, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

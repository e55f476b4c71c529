#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * So many a second, and so many more at once after a rest: the generic cell
 * rate algorithm (ITU-T I.371, annex A).
 *
 * Any thread. Two that ask at the same time may both have the last one.
 */
struct pace_rate {
	uint64_t per_s;		/* 0: without limit */
	uint64_t burst_ms;	/* what comes in this time at that rate may come at once */
};

struct pace {			/* starts zeroed */
	uint64_t due_ns;	/* atomic: when the next one comes, if all come at the rate */
};

/* How long until one more may come, asked at @now_ms; 0: now. */
static inline uint64_t pace_wait_ms(const struct pace *p, struct pace_rate rate, uint64_t now_ms)
{
	uint64_t due_ns = __atomic_load_n(&p->due_ns, __ATOMIC_RELAXED), until_ns = (now_ms + rate.burst_ms) * 1000000;

	return !rate.per_s || due_ns <= until_ns ? 0 : (due_ns - until_ns + 999999) / 1000000;
}

/* May one more come at @now_ms? */
static inline bool pace_left(const struct pace *p, struct pace_rate rate, uint64_t now_ms)
{
	return !pace_wait_ms(p, rate, now_ms);
}

/* @n (up to 2^32) have come. */
static inline void pace_take(struct pace *p, struct pace_rate rate, uint64_t n, uint64_t now_ms)
{
	uint64_t before = __atomic_load_n(&p->due_ns, __ATOMIC_RELAXED), due;

	if (!rate.per_s)
		return;
	do
		due = MAX(before, now_ms * 1000000) + n * 1000000000 / rate.per_s;
	while (!__atomic_compare_exchange_n(&p->due_ns, &before, due, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
}

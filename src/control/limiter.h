#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include "base/ip.h"

/*
 * How often somebody may ask: a token bucket a name, in a table that does not
 * grow. Two names may share a bucket: then the one that comes starts anew. Who
 * is limited cannot choose its neighbour, since the hash is keyed.
 */
enum { LIMITER_SLOTS = 1024 };

struct limiter {
	uint32_t burst;			/* so many at once */
	uint32_t per_hour;		/* and so many again in an hour */
	uint64_t n_refused;
	struct limiter_slot {
		uint64_t name;		/* hash */
		uint64_t last_ms;
		double tokens;
	} slots[LIMITER_SLOTS];
};

/* From now on, also for buckets that are there. */
void limiter_set(struct limiter *l, uint32_t burst, uint32_t per_hour);
/* Takes one. False: none is left for @ret_wait_ms; at least 1. */
bool limiter_take(struct limiter *l, const void *name, size_t len, uint64_t now_ms, uint32_t *ret_wait_ms);
/* The same by address. Who has one of IPv6 has 2^64: its /64 is the name. */
bool limiter_take_ip(struct limiter *l, const struct ip *ip, uint64_t now_ms, uint32_t *ret_wait_ms);
/* As that one, and takes nothing: for what is counted only when it turns out bad. */
bool limiter_has_ip(struct limiter *l, const struct ip *ip, uint64_t now_ms, uint32_t *ret_wait_ms);

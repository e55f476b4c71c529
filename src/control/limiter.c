/*
 * Token buckets by name.
 */
#include "control/limiter.h"

#include "base/defs.h"
#include "base/map.h"

enum { HOUR_MS = 3600000, V6_NAME_LEN = 8 };

void limiter_set(struct limiter *l, uint32_t burst, uint32_t per_hour)
{
	l->burst = MAX(burst, 1u);
	l->per_hour = MAX(per_hour, 1u);
}

static struct limiter_slot *slot_of(struct limiter *l, const void *name, size_t len, uint64_t now_ms)
{
	uint64_t hash = map_hash(name, len);
	struct limiter_slot *slot = &l->slots[hash % LIMITER_SLOTS];

	if (slot->name != hash || !slot->last_ms)
		*slot = (struct limiter_slot){ .name = hash, .last_ms = now_ms, .tokens = l->burst };
	slot->tokens = MIN(slot->tokens + (double)(now_ms - slot->last_ms) * l->per_hour / HOUR_MS, (double)l->burst);
	slot->last_ms = now_ms;
	return slot;
}

static bool has_one(struct limiter *l, const struct limiter_slot *slot, uint32_t *ret_wait_ms)
{
	if (slot->tokens >= 1)
		return true;
	l->n_refused++;
	*ret_wait_ms = (uint32_t)((1 - slot->tokens) * HOUR_MS / l->per_hour) + 1;
	return false;
}

bool limiter_take(struct limiter *l, const void *name, size_t len, uint64_t now_ms, uint32_t *ret_wait_ms)
{
	struct limiter_slot *slot = slot_of(l, name, len, now_ms);
	bool has = has_one(l, slot, ret_wait_ms);

	slot->tokens -= has;
	return has;
}

static size_t name_len(const struct ip *ip)
{
	return ip_is_v4(ip) ? sizeof(ip->b) : (size_t)V6_NAME_LEN;
}

bool limiter_has_ip(struct limiter *l, const struct ip *ip, uint64_t now_ms, uint32_t *ret_wait_ms)
{
	return has_one(l, slot_of(l, ip->b, name_len(ip), now_ms), ret_wait_ms);
}

bool limiter_take_ip(struct limiter *l, const struct ip *ip, uint64_t now_ms, uint32_t *ret_wait_ms)
{
	return limiter_take(l, ip->b, name_len(ip), now_ms, ret_wait_ms);
}

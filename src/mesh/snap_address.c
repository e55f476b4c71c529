/*
 * Addresses in the objects of a snapshot: 4 or 16 bytes each, one after the
 * other. In front of each but the first is a mark: its family, and how far
 * behind the object's start it is. So what an index leads to can be the address,
 * and its key need not be kept.
 */
#include <string.h>

#include "mesh/snap_state.h"

#define MARK_V6		(UINT32_C(1) << 31)

enum { V4 = 4, V6 = 16 };

static size_t size_of(bool v6)
{
	return v6 ? V6 : V4;
}

static struct ip ip_at(const uint8_t *at, bool v6)
{
	return v6 ? ip_from_v6(at) : ip_from_v4(at);
}

/* An entry of an index that is not the object itself. */
static const uint8_t *mark_of(const void *entry)
{
	return (uintptr_t)entry & 1 ? (const uint8_t *)entry - 1 : NULL;
}

static uint32_t read_mark(const uint8_t *at)
{
	uint32_t mark;

	memcpy(&mark, at, sizeof(mark));
	return mark;
}

bool snap_address_next(struct snap_addresses *a, struct ip *ret_ip)
{
	bool v6 = a->is_v6;

	if (!a->left)
		return false;
	a->entry = a->is_first ? (const void *)a->object : a->at + 1;
	if (!a->is_first) {
		v6 = read_mark(a->at) & MARK_V6;
		a->at += sizeof(uint32_t);
	}
	*ret_ip = ip_at(a->at, v6);
	a->at += size_of(v6);
	a->is_first = false;
	a->left--;
	return true;
}

const void *snap_address_owner(const void *entry)
{
	const uint8_t *mark = mark_of(entry);

	return mark ? mark - (read_mark(mark) & ~MARK_V6) : entry;
}

size_t snap_address_size(const struct ip *ip, bool is_first)
{
	return size_of(!ip_is_v4(ip)) + (is_first ? 0 : sizeof(uint32_t));
}

uint8_t *snap_address_put(void *object, uint8_t *at, const struct ip *ip, bool is_first)
{
	bool v6 = !ip_is_v4(ip);
	uint32_t mark = (uint32_t)(at - (uint8_t *)object) | (v6 ? MARK_V6 : 0);

	if (!is_first) {
		memcpy(at, &mark, sizeof(mark));
		at += sizeof(mark);
	}
	memcpy(at, ip->b + V6 - size_of(v6), size_of(v6));
	return at + size_of(v6);
}

bool snap_addresses_have(struct snap_addresses a, const struct ip *ip, const void **ret_entry)
{
	struct ip here;

	while (snap_address_next(&a, &here)) {
		if (!ip_equal(&here, ip))
			continue;
		if (ret_entry)
			*ret_entry = a.entry;
		return true;
	}
	return false;
}

/* --- keys --- */

/* @first: where the first address of the object is. */
static uint64_t key_of_address(const void *entry, struct snap_addresses first)
{
	const uint8_t *mark = mark_of(entry);
	struct ip ip = {};

	if (mark)
		ip = ip_at(mark + sizeof(uint32_t), read_mark(mark) & MARK_V6);
	else
		(void)snap_address_next(&first, &ip);
	return snap_hash_ip(&ip);
}

uint64_t snap_key_of_workload_address(const void *entry)
{
	return key_of_address(entry, snap_workload_addresses(snap_address_owner(entry)));
}

uint64_t snap_key_of_def_address(const void *entry)
{
	return key_of_address(entry, snap_def_addresses(snap_address_owner(entry)));
}

uint64_t snap_key_of_workload(const void *entry)
{
	char uid[SNAP_UID_LEN];

	return snap_hash_text(snap_workload_uid(entry, uid));
}

uint64_t snap_key_of_service(const void *entry)
{
	return ((const struct snap_service *)entry)->id;
}

uint64_t snap_key_of_def(const void *entry)
{
	return snap_hash_text(snap_def_key(entry));
}

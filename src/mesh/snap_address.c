/*
 * Addresses in the objects of a snapshot: 4 or 16 bytes each, one after the
 * other. In front of each but the first is a mark: its family, and how far
 * behind the object's start it is. So what an index leads to can be the address,
 * and its key need not be kept. An entry of an index is the slab_ref() of the
 * object or of the mark, which is aligned for that, and a bit that says which.
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

static size_t align_mark(size_t at)
{
	return (at + SLAB_GRAIN - 1) / SLAB_GRAIN * SLAB_GRAIN;
}

/* NULL: the entry is the object itself. */
static const uint8_t *mark_of(uint32_t entry)
{
	return entry & 1 ? slab_at(entry >> 1) : NULL;
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
	if (!a->is_first) {
		a->mark = a->object + align_mark((size_t)(a->at - a->object));
		v6 = read_mark(a->mark) & MARK_V6;
		a->at = a->mark + sizeof(uint32_t);
	}
	*ret_ip = ip_at(a->at, v6);
	a->at += size_of(v6);
	a->is_first = false;
	a->left--;
	return true;
}

const void *snap_address_owner(uint32_t entry)
{
	const uint8_t *mark = mark_of(entry);

	return mark ? mark - (read_mark(mark) & ~MARK_V6) : slab_at(entry >> 1);
}

uint32_t snap_address_entry(const struct snap_addresses *a)
{
	uint32_t ref = slab_ref(a->object);

	return a->mark ? (ref + (uint32_t)(a->mark - a->object) / SLAB_GRAIN) << 1 | 1 : ref << 1;
}

size_t snap_address_end(size_t at, const struct ip *ip, bool is_first)
{
	return (is_first ? at : align_mark(at) + sizeof(uint32_t)) + size_of(!ip_is_v4(ip));
}

uint8_t *snap_address_put(void *object, uint8_t *at, const struct ip *ip, bool is_first)
{
	bool v6 = !ip_is_v4(ip);

	if (!is_first) {
		size_t distance = align_mark((size_t)(at - (uint8_t *)object));
		uint32_t mark = (uint32_t)distance | (v6 ? MARK_V6 : 0);

		at = (uint8_t *)object + distance;
		memcpy(at, &mark, sizeof(mark));
		at += sizeof(mark);
	}
	memcpy(at, ip->b + V6 - size_of(v6), size_of(v6));
	return at + size_of(v6);
}

bool snap_addresses_have(struct snap_addresses a, const struct ip *ip, uint32_t *ret_entry)
{
	struct ip here;

	while (snap_address_next(&a, &here)) {
		if (!ip_equal(&here, ip))
			continue;
		if (ret_entry)
			*ret_entry = snap_address_entry(&a);
		return true;
	}
	return false;
}

const char *snap_workload_rest(const struct snap_workload *w)
{
	struct snap_addresses a = snap_workload_addresses(w);
	struct ip ip;

	if (w->n_addresses == 1)		/* as nearly always */
		return (const char *)w->tail + size_of(w->is_v6);
	while (snap_address_next(&a, &ip))
		;
	return (const char *)a.at;
}

/* --- keys --- */

/* @first: where the first address of the object is. */
static uint64_t key_of_address(uint32_t entry, struct snap_addresses first)
{
	const uint8_t *mark = mark_of(entry);
	struct ip ip = {};

	if (mark)
		ip = ip_at(mark + sizeof(uint32_t), read_mark(mark) & MARK_V6);
	else
		(void)snap_address_next(&first, &ip);
	return snap_hash_ip(&ip);
}

uint64_t snap_key_of_workload_address(uint32_t entry)
{
	return key_of_address(entry, snap_workload_addresses(snap_address_owner(entry)));
}

uint64_t snap_key_of_def_address(uint32_t entry)
{
	return key_of_address(entry, snap_def_addresses(snap_address_owner(entry)));
}

uint64_t snap_key_of_workload(uint32_t value)
{
	char uid[SNAP_UID_LEN];

	return snap_hash_text(snap_workload_uid(slab_at(value), uid));
}

uint64_t snap_key_of_service(uint32_t value)
{
	const struct snap_service *s = slab_at(value);

	return s->id;
}

uint64_t snap_key_of_def(uint32_t value)
{
	return snap_hash_text(snap_def_key(slab_at(value)));
}

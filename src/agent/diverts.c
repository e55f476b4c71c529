/*
 * Divert entries of one VM.
 *
 * There are no entries that say "not this": an exclusion is cut out of the
 * prefixes that are diverted, which leaves one prefix for each bit of its
 * length.
 */
#include "agent/diverts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DNS_PORT = 53 };

/* All of IPv4; global unicast and unique local addresses of IPv6 (RFC 4291, RFC 4193). */
static const struct ip_prefix everywhere[] = {
	{ { { [10] = 0xff, [11] = 0xff } }, 96 },
	{ { { [0] = 0x20 } }, 3 },
	{ { { [0] = 0xfc } }, 7 },
};

static int push(struct diverts *d, const struct monitor_divert *one)
{
	if (d->n == DIVERTS_MAX)
		return -E2BIG;
	if (!(d->n & (d->n - 1))) {	/* 0 and the powers of two */
		struct monitor_divert *v = realloc(d->v, (d->n ? 2 * d->n : 1) * sizeof(*v));

		if (!v)
			return -ENOMEM;
		d->v = v;
	}
	d->v[d->n++] = *one;
	return 0;
}

static bool covers(const struct ip_prefix *outer, const struct ip_prefix *inner)
{
	return outer->len <= inner->len && ip_in_prefix(&inner->ip, outer);
}

/* @p without every exclusion: itself, or its halves without. */
static int push_without(struct diverts *d, const struct divert_wish *w, struct ip_prefix p, struct monitor_divert *entry)
{
	bool touched = false;

	for (size_t i = 0; i < w->n_exclude; i++) {
		if (covers(&w->exclude[i], &p))
			return 0;
		touched |= covers(&p, &w->exclude[i]);
	}
	if (!touched) {
		entry->dst = p;
		return push(d, entry);
	}

	struct ip_prefix half = { .ip = p.ip, .len = (uint8_t)(p.len + 1) };
	int r = push_without(d, w, half, entry);

	half.ip.b[p.len / 8] |= (uint8_t)(0x80 >> p.len % 8);
	return r < 0 ? r : push_without(d, w, half, entry);
}

static int push_inbound(struct diverts *d, const struct divert_wish *w, const struct ip *ip, struct monitor_divert *entry)
{
	int r;

	entry->direction = MONITOR_INBOUND;
	entry->dst = (struct ip_prefix){ .ip = *ip, .len = 128 };
	entry->port = w->hbone_port;
	entry->flags |= MONITOR_DIVERT_SAME_NIC;	/* tunnels of other VMs' proxies on this NIC */
	r = push(d, entry);
	entry->flags &= (uint16_t)~MONITOR_DIVERT_SAME_NIC;
	for (size_t i = 0; r == 0 && i < w->n_ports; i++) {
		entry->port = w->ports[i];
		r = push(d, entry);
	}
	return r;
}

/* Of one VM, so that is not compared. */
static int compare(const void *pa, const void *pb)
{
	const struct monitor_divert *a = pa, *b = pb;
	int r = memcmp(&a->dst, &b->dst, sizeof(a->dst));

	if (r)
		return r;
	if (a->direction != b->direction)
		return a->direction < b->direction ? -1 : 1;
	if (a->port != b->port)
		return a->port < b->port ? -1 : 1;
	return (a->flags > b->flags) - (a->flags < b->flags);
}

static void sort(struct diverts *d)
{
	size_t n = 0;

	if (d->n)
		qsort(d->v, d->n, sizeof(*d->v), compare);
	for (size_t i = 0; i < d->n; i++)	/* two services on one port are one entry */
		if (!n || compare(&d->v[n - 1], &d->v[i]))
			d->v[n++] = d->v[i];
	d->n = n;
}

int diverts_make(const struct divert_wish *w, struct diverts *ret_diverts)
{
	struct monitor_divert entry = {
		.vm = w->vm, .direction = MONITOR_OUTBOUND, .flags = w->fail_closed ? MONITOR_DIVERT_FAIL_CLOSED : 0,
	};
	struct diverts d = {};
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTS(everywhere); i++)
		r = push_without(&d, w, everywhere[i], &entry);
	struct monitor_divert names = {
		.vm = w->vm, .direction = MONITOR_DNS, .port = DNS_PORT, .flags = w->dns_answers ? MONITOR_DIVERT_DNS_ANSWERS : 0,
	};
	for (size_t i = 0; r == 0 && w->dns && i < ELEMENTS(everywhere); i++)
		r = push_without(&d, w, everywhere[i], &names);
	for (size_t i = 0; r == 0 && i < w->n_addresses; i++)
		if (!ip_is_link_local(&w->addresses[i]))
			r = push_inbound(&d, w, &w->addresses[i], &entry);
	if (r < 0) {
		diverts_deinit(&d);
		return r;
	}
	sort(&d);
	*ret_diverts = d;
	return 0;
}

int diverts_behind(uint32_t vm, const struct ip_prefix *prefixes, size_t n, struct diverts *ret_diverts)
{
	struct diverts d = {};

	for (size_t i = 0; i < n; i++) {
		const struct monitor_divert one = { .vm = vm, .direction = MONITOR_BEHIND, .dst = prefixes[i] };
		int r = push(&d, &one);

		if (r < 0) {
			diverts_deinit(&d);
			return r;
		}
	}
	sort(&d);
	*ret_diverts = d;
	return 0;
}

void diverts_deinit(struct diverts *d)
{
	free(d->v);
	*d = (struct diverts){};
}

static bool has(const struct diverts *d, const struct monitor_divert *one)
{
	return d->n && bsearch(one, d->v, d->n, sizeof(*d->v), compare);
}

/* The same place with other flags: adding it anew was enough. */
static bool has_place(const struct diverts *d, const struct monitor_divert *one)
{
	struct monitor_divert key = *one;

	for (unsigned flags = 0; flags < 8; flags++) {
		key.flags = (uint16_t)flags;
		if (has(d, &key))
			return true;
	}
	return false;
}

int diverts_change(const struct diverts *from, const struct diverts *to,
		   int (*add)(void *data, const struct monitor_divert *d),
		   int (*remove)(void *data, const struct monitor_divert *d), void *data)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < to->n; i++)
		if (!has(from, &to->v[i]))
			r = add(data, &to->v[i]);
	for (size_t i = 0; r == 0 && i < from->n; i++)
		if (!has_place(to, &from->v[i]))
			r = remove(data, &from->v[i]);
	return r;
}

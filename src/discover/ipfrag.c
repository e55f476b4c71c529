/*
 * Reassembly of IP datagrams: see ipfrag.h.
 */
#include "discover/ipfrag.h"

#include <stdlib.h>
#include <string.h>
#include "base/defs.h"

enum { UNIT = 8, MAX_DATAGRAM = 65535, MAX_UNITS = (MAX_DATAGRAM + UNIT - 1) / UNIT };	/* offsets count in units */

struct datagram {
	struct list link;
	struct ip src;
	struct ip dst;
	uint32_t id;
	uint8_t ip_proto;
	uint64_t time_ns;	/* of its first fragment */
	size_t size;		/* of @data */
	size_t total;		/* 0: the end is not known yet */
	size_t n_units;		/* that are here */
	uint8_t have[MAX_UNITS / 8 + 1];
	uint8_t *data;
};

void ipfrag_init(struct ipfrag *f)
{
	*f = (struct ipfrag){};
	list_init(&f->datagrams);
}

static size_t size_of(const struct datagram *d)
{
	return sizeof(*d) + d->size;
}

static void drop(struct ipfrag *f, struct datagram *d)
{
	f->bytes -= size_of(d);
	f->n--;
	list_unlink(&d->link);
	free(d->data);
	free(d);
}

void ipfrag_deinit(struct ipfrag *f)
{
	list_for_each_safe(l, &f->datagrams)
		drop(f, list_entry(l, struct datagram, link));
	free(f->whole);
	f->whole = NULL;
}

static void expire(struct ipfrag *f, uint64_t now_ns)
{
	list_for_each_safe(l, &f->datagrams) {
		struct datagram *d = list_entry(l, struct datagram, link);

		if (now_ns > d->time_ns && now_ns - d->time_ns > IPFRAG_PATIENCE_MS * 1000000ull)
			drop(f, d);
	}
}

static struct datagram *find(struct ipfrag *f, const struct packet *p)
{
	list_for_each(l, &f->datagrams) {
		struct datagram *d = list_entry(l, struct datagram, link);

		if (d->id == p->fragment_id && d->ip_proto == p->ip_proto && ip_equal(&d->src, &p->src) && ip_equal(&d->dst, &p->dst))
			return d;
	}
	return NULL;
}

/* Makes room for @size more bytes; @keep stays. */
static bool make_room(struct ipfrag *f, size_t size, const struct datagram *keep)
{
	list_for_each_safe(l, &f->datagrams) {
		if (f->bytes + size <= IPFRAG_MAX_BYTES && f->n < IPFRAG_MAX_DATAGRAMS + !!keep)
			break;
		if (list_entry(l, struct datagram, link) != keep)
			drop(f, list_entry(l, struct datagram, link));
	}
	return f->bytes + size <= IPFRAG_MAX_BYTES;
}

static struct datagram *datagram_new(struct ipfrag *f, const struct packet *p, uint64_t time_ns)
{
	struct datagram *d;

	if (!make_room(f, sizeof(*d), NULL))
		return NULL;
	d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	d->src = p->src;
	d->dst = p->dst;
	d->id = p->fragment_id;
	d->ip_proto = p->ip_proto;
	d->time_ns = time_ns;
	list_append(&f->datagrams, &d->link);
	f->n++;
	f->bytes += size_of(d);
	return d;
}

static bool grow(struct ipfrag *f, struct datagram *d, size_t size)
{
	uint8_t *data;

	if (size <= d->size)
		return true;
	data = make_room(f, size - d->size, d) ? realloc(d->data, size) : NULL;
	if (!data)
		return false;
	f->bytes += size - d->size;
	d->data = data;
	d->size = size;
	return true;
}

static bool has_unit(const struct datagram *d, size_t unit)
{
	return d->have[unit / 8] & 1u << unit % 8;
}

/* false: it contradicts what is there already, or there is no memory. */
static bool put(struct ipfrag *f, struct datagram *d, const struct packet *p)
{
	size_t end = p->fragment_offset + p->len;

	if (end > MAX_DATAGRAM || (d->total && end > d->total) || (!p->more_fragments && d->total && end != d->total))
		return false;
	if (!p->more_fragments && d->size > end)
		return false;
	if (!grow(f, d, end))
		return false;
	if (!p->more_fragments)
		d->total = end;
	for (size_t at = p->fragment_offset; at < end; at += UNIT) {
		size_t unit = at / UNIT, len = MIN(end - at, (size_t)UNIT);
		const uint8_t *from = p->payload + (at - p->fragment_offset);

		if (has_unit(d, unit) && memcmp(d->data + at, from, len) != 0)
			return false;
		d->n_units += !has_unit(d, unit);
		d->have[unit / 8] |= (uint8_t)(1u << unit % 8);
		memcpy(d->data + at, from, len);
	}
	return true;
}

static bool is_whole(const struct datagram *d)
{
	return d->total && d->n_units == (d->total + UNIT - 1) / UNIT;
}

bool ipfrag_add(struct ipfrag *f, const struct packet *p, uint64_t time_ns, struct packet *ret_whole)
{
	struct packet whole;
	struct datagram *d;
	size_t total;

	expire(f, time_ns);
	if (!p->len || (p->more_fragments && p->wire_len % UNIT))
		return false;
	d = find(f, p);
	if (!d)
		d = datagram_new(f, p, time_ns);
	if (!d)
		return false;
	if (p->wire_len > p->len || !put(f, d, p)) {	/* what the capture left out does not come again */
		drop(f, d);
		return false;
	}
	if (!is_whole(d))
		return false;
	free(f->whole);
	f->whole = d->data;
	total = d->total;
	d->data = NULL;
	drop(f, d);
	whole = *p;
	if (packet_transport(f->whole, total, &whole) || (whole.kind != PACKET_UDP && whole.kind != PACKET_TCP))
		return false;
	*ret_whole = whole;
	return true;
}

/*
 * pcap and pcapng.
 */
#include "proto/pcapfile.h"

#include <byteswap.h>
#include <string.h>
#include "proto/packet.h"

enum {
	MAGIC_US = 0xa1b2c3d4, MAGIC_NS = 0xa1b23c4d,
	BLOCK_SECTION = 0x0a0d0d0a, BLOCK_INTERFACE = 1, BLOCK_PACKET = 2, BLOCK_SIMPLE = 3, BLOCK_ENHANCED = 6,
	BYTE_ORDER_MAGIC = 0x1a2b3c4d,
	OPTION_END = 0, OPTION_TSRESOL = 9, OPTION_TSOFFSET = 14,
	PCAP_HEADER_LEN = 24, PCAP_RECORD_LEN = 16, BLOCK_MIN_LEN = 12,
};

/* A part of the file, with the byte order of the section. */
struct part {
	const uint8_t *pos;
	size_t left;
	bool swapped;
	bool bad;
};

static const uint8_t *take(struct part *p, size_t size)
{
	const uint8_t *at = p->pos;

	if (p->bad || p->left < size) {
		p->bad = true;
		return NULL;
	}
	p->pos += size;
	p->left -= size;
	return at;
}

static uint32_t take_u32(struct part *p)
{
	const uint8_t *at = take(p, 4);
	uint32_t v = 0;

	if (at)
		memcpy(&v, at, 4);
	return p->swapped ? bswap_32(v) : v;
}

static uint16_t take_u16(struct part *p)
{
	const uint8_t *at = take(p, 2);
	uint16_t v = 0;

	if (at)
		memcpy(&v, at, 2);
	return p->swapped ? bswap_16(v) : v;
}

/* https://www.tcpdump.org/linktypes.html */
static int link_of(struct pcapfile *p, uint32_t type, uint8_t *ret_link)
{
	static const struct { uint32_t type; uint8_t link; } rows[] = {
		{ 0, PACKET_LINK_NULL }, { 108, PACKET_LINK_NULL },
		{ 1, PACKET_LINK_ETHERNET }, { 113, PACKET_LINK_COOKED }, { 276, PACKET_LINK_COOKED2 },
		{ 12, PACKET_LINK_IP }, { 14, PACKET_LINK_IP }, { 101, PACKET_LINK_IP },
		{ 228, PACKET_LINK_IP }, { 229, PACKET_LINK_IP },
	};

	for (size_t i = 0; i < ELEMENTS(rows); i++)
		if (rows[i].type == type) {
			*ret_link = rows[i].link;
			return 0;
		}
	p->bad_link = type;
	return PCAPFILE_E_LINK;
}

static uint64_t to_ns(const struct pcapfile_interface *i, uint64_t stamp)
{
	uint64_t s = stamp / i->units_per_s;
	uint64_t rest = stamp % i->units_per_s;

	return (s + (uint64_t)i->offset_s) * 1000000000u + (uint64_t)((unsigned __int128)rest * 1000000000u / i->units_per_s);
}

/* ---- pcap ---- */

static int open_classic(struct pcapfile *p, uint32_t magic)
{
	struct part h = { .pos = p->data, .left = p->size, .swapped = p->swapped };

	take(&h, 16);	/* magic, version, time zone, accuracy */
	p->interfaces[0] = (struct pcapfile_interface){
		.units_per_s = magic == MAGIC_NS ? 1000000000 : 1000000, .snap_len = take_u32(&h),
	};
	p->interfaces[0].link_type = take_u32(&h) & 0xffff;	/* the upper bits say how long a frame check sequence is */
	if (h.bad)
		return PCAPFILE_E_TRUNCATED;
	p->n_interfaces = 1;
	p->at = PCAP_HEADER_LEN;
	return 0;
}

static int next_classic(struct pcapfile *p, struct pcapfile_frame *ret_frame)
{
	const struct pcapfile_interface *i = &p->interfaces[0];
	struct part r = { .pos = p->data + p->at, .left = p->size - p->at, .swapped = p->swapped };
	struct pcapfile_frame f = {};
	uint64_t seconds, fraction;

	if (!r.left)
		return PCAPFILE_E_END;
	p->frame_offset = p->at;
	seconds = take_u32(&r);
	fraction = take_u32(&r);
	f.len = take_u32(&r);
	f.wire_len = take_u32(&r);
	if (r.bad)
		return PCAPFILE_E_TRUNCATED;
	if (f.len > PCAPFILE_MAX_FRAME)
		return PCAPFILE_E_MALFORMED;
	f.data = take(&r, f.len);
	if (!f.data)
		return PCAPFILE_E_TRUNCATED;
	f.wire_len = MAX(f.wire_len, f.len);
	f.number = ++p->n_frames;
	f.time_ns = seconds * 1000000000u + fraction * (1000000000u / i->units_per_s);
	p->at += PCAP_RECORD_LEN + f.len;
	*ret_frame = f;
	return link_of(p, i->link_type, &ret_frame->link);
}

/* ---- pcapng ---- */

static size_t padded(size_t len)
{
	return (len + 3) & ~(size_t)3;
}

/* Section 4.1: the byte order may change with each section. */
static int begin_section(struct pcapfile *p, struct part *body)
{
	p->n_interfaces = 0;
	take(body, 4);		/* byte order magic, looked at already */
	return take_u16(body) == 1 ? 0 : PCAPFILE_E_MALFORMED;
}

/* if_tsresol: a power of ten, or of two with the top bit set. */
static uint64_t resolution(uint8_t code)
{
	uint64_t units = 1;
	uint8_t exponent = code & 0x7f;

	if (code & 0x80)
		return exponent < 63 ? 1ull << exponent : 0;
	for (uint8_t i = 0; i < exponent; i++) {
		if (units > UINT64_MAX / 10 / 10)
			return 0;
		units *= 10;
	}
	return units;
}

static void read_options(struct part *body, struct pcapfile_interface *i)
{
	while (body->left >= 4) {
		uint16_t code = take_u16(body);
		uint16_t len = take_u16(body);
		struct part value = { .left = len, .swapped = body->swapped };

		value.pos = take(body, padded(len));
		if (!value.pos || code == OPTION_END)
			return;
		if (code == OPTION_TSRESOL && len >= 1)
			i->units_per_s = resolution(*value.pos);
		if (code == OPTION_TSOFFSET && len >= 8) {
			uint32_t words[2] = { take_u32(&value), take_u32(&value) };
			bool high_first = (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__) != body->swapped;

			i->offset_s = (int64_t)((uint64_t)words[!high_first] << 32 | words[high_first]);
		}
	}
}

/* Section 4.2 */
static int add_interface(struct pcapfile *p, struct part *body)
{
	struct pcapfile_interface i = { .units_per_s = 1000000 };

	i.link_type = take_u16(body);
	take(body, 2);
	i.snap_len = take_u32(body);
	if (body->bad || p->n_interfaces == PCAPFILE_MAX_INTERFACES)
		return PCAPFILE_E_MALFORMED;
	read_options(body, &i);
	if (!i.units_per_s)
		return PCAPFILE_E_MALFORMED;
	p->interfaces[p->n_interfaces++] = i;
	return 0;
}

static int finish_frame(struct pcapfile *p, struct part *body, uint32_t interface, struct pcapfile_frame *f)
{
	if (body->bad || interface >= p->n_interfaces || f->len > PCAPFILE_MAX_FRAME)
		return PCAPFILE_E_MALFORMED;
	f->data = take(body, f->len);
	if (!f->data)
		return PCAPFILE_E_MALFORMED;
	f->wire_len = MAX(f->wire_len, f->len);
	f->number = ++p->n_frames;
	return link_of(p, p->interfaces[interface].link_type, &f->link);
}

/* Section 4.3; and appendix A for the old form, whose interface has 16 bits. */
static int read_packet(struct pcapfile *p, struct part *body, bool old, struct pcapfile_frame *f)
{
	uint32_t interface = old ? take_u16(body) : take_u32(body);
	uint64_t stamp;

	if (old)
		take_u16(body);		/* drops */
	stamp = (uint64_t)take_u32(body) << 32;
	stamp |= take_u32(body);
	f->len = take_u32(body);
	f->wire_len = take_u32(body);
	if (interface < p->n_interfaces)
		f->time_ns = to_ns(&p->interfaces[interface], stamp);
	return finish_frame(p, body, interface, f);
}

/* Section 4.4: the captured length is what the snap length leaves of it. */
static int read_simple(struct pcapfile *p, struct part *body, struct pcapfile_frame *f)
{
	f->wire_len = take_u32(body);
	f->len = f->wire_len;
	if (p->n_interfaces && p->interfaces[0].snap_len)
		f->len = MIN(f->len, (size_t)p->interfaces[0].snap_len);
	return finish_frame(p, body, 0, f);
}

/* The block at hand, and what is in it; steps over it. */
static int take_block(struct pcapfile *p, uint32_t *ret_type, struct part *ret_body)
{
	struct part b = { .pos = p->data + p->at, .left = p->size - p->at, .swapped = p->swapped };
	uint32_t type = take_u32(&b);
	uint32_t magic, len;

	if (!b.bad && type == BLOCK_SECTION && b.left >= 8) {	/* reads the same in both orders */
		memcpy(&magic, b.pos + 4, 4);
		if (magic != BYTE_ORDER_MAGIC && magic != bswap_32(BYTE_ORDER_MAGIC))
			return PCAPFILE_E_MALFORMED;
		p->swapped = b.swapped = magic != BYTE_ORDER_MAGIC;
	}
	len = take_u32(&b);
	if (b.bad)
		return PCAPFILE_E_TRUNCATED;
	if (len < BLOCK_MIN_LEN || len % 4)
		return PCAPFILE_E_MALFORMED;
	if (len > p->size - p->at)
		return PCAPFILE_E_TRUNCATED;
	b.left = len - BLOCK_MIN_LEN;
	p->at += len;
	*ret_type = type;
	*ret_body = b;
	return 0;
}

static int next_ng(struct pcapfile *p, struct pcapfile_frame *ret_frame)
{
	while (p->at < p->size) {
		struct pcapfile_frame f = {};
		struct part body;
		uint32_t type;
		int r;

		p->frame_offset = p->at;
		r = take_block(p, &type, &body);
		if (r)
			return r;
		if (type == BLOCK_ENHANCED || type == BLOCK_PACKET || type == BLOCK_SIMPLE) {
			r = type == BLOCK_SIMPLE ? read_simple(p, &body, &f) : read_packet(p, &body, type == BLOCK_PACKET, &f);
			if (!r)
				*ret_frame = f;
			return r;
		}
		if (type == BLOCK_SECTION)
			r = begin_section(p, &body);
		else if (type == BLOCK_INTERFACE)
			r = add_interface(p, &body);
		if (r)
			return r;
	}
	return PCAPFILE_E_END;
}

int pcapfile_open(struct pcapfile *p, const void *data, size_t size)
{
	uint32_t magic = 0;

	*p = (struct pcapfile){ .data = data, .size = size };
	if (size < sizeof(magic))
		return size ? PCAPFILE_E_TRUNCATED : PCAPFILE_E_UNKNOWN;
	memcpy(&magic, data, sizeof(magic));
	if (magic == BLOCK_SECTION) {
		p->is_ng = true;
		return 0;
	}
	p->swapped = magic == bswap_32(MAGIC_US) || magic == bswap_32(MAGIC_NS);
	if (p->swapped)
		magic = bswap_32(magic);
	if (magic != MAGIC_US && magic != MAGIC_NS)
		return PCAPFILE_E_UNKNOWN;
	return open_classic(p, magic);
}

int pcapfile_next(struct pcapfile *p, struct pcapfile_frame *ret_frame)
{
	int r = p->is_ng ? next_ng(p, ret_frame) : next_classic(p, ret_frame);

	if (r == PCAPFILE_E_TRUNCATED || r == PCAPFILE_E_MALFORMED)
		p->at = p->size;
	return r;
}

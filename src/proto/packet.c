/*
 * Frames to addresses, ports and payload.
 */
#include "proto/packet.h"

#include <string.h>
#include "base/wire.h"

enum {
	ETHER_IPV4 = 0x0800, ETHER_ARP = 0x0806, ETHER_VLAN = 0x8100, ETHER_IPV6 = 0x86dd,
	ETHER_QINQ = 0x88a8, ETHER_QINQ_OLD = 0x9100,
	PROTO_HOP_BY_HOP = 0, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ROUTING = 43, PROTO_FRAGMENT = 44,
	PROTO_AH = 51, PROTO_DSTOPTS = 60,
	MAX_EXTENSIONS = 8,
};

struct decoding {
	struct wire w;		/* what was captured */
	size_t cut;		/* bytes at the end that the capture left out */
	struct packet p;
};

/*
 * Bounds the rest to @size bytes, as a length field says: drops padding, and
 * tells bytes that are missing in the capture from bytes that never were.
 */
static bool bound(struct decoding *d, size_t size)
{
	size_t have = wire_left(&d->w);

	if (size > have + d->cut)
		return false;
	if (size <= have) {
		d->w.end = d->w.pos + size;
		d->cut = 0;
	} else {
		d->cut = size - have;
	}
	return true;
}

static void take_payload(struct decoding *d)
{
	d->p.len = wire_left(&d->w);
	d->p.wire_len = d->p.len + d->cut;
	d->p.payload = wire_take(&d->w, d->p.len);
}

/* RFC 768 */
static bool decode_udp(struct decoding *d)
{
	uint16_t size;

	d->p.src_port = wire_u16(&d->w);
	d->p.dst_port = wire_u16(&d->w);
	size = wire_u16(&d->w);
	wire_u16(&d->w);	/* checksum */
	if (d->w.bad || (size && size < 8))
		return false;
	/* 0: a jumbogram or a super-frame that is still to be cut: all there is */
	if (size && !bound(d, size - 8u))
		return false;
	take_payload(d);
	d->p.kind = PACKET_UDP;
	return true;
}

/* RFC 9293, section 3.1 */
static bool decode_tcp(struct decoding *d)
{
	uint8_t offset;

	d->p.src_port = wire_u16(&d->w);
	d->p.dst_port = wire_u16(&d->w);
	d->p.tcp_seq = wire_u32(&d->w);
	d->p.tcp_ack = wire_u32(&d->w);
	offset = wire_u8(&d->w) >> 4;
	d->p.tcp_flags = wire_u8(&d->w);
	wire_take(&d->w, 6);	/* window, checksum, urgent pointer */
	if (offset < 5)
		return false;
	wire_take(&d->w, (offset - 5u) * 4);
	if (d->w.bad)
		return false;
	take_payload(d);
	d->p.kind = PACKET_TCP;
	return true;
}

static bool decode_transport(struct decoding *d)
{
	if (d->p.ip_proto == PROTO_UDP)
		return decode_udp(d);
	if (d->p.ip_proto == PROTO_TCP)
		return decode_tcp(d);
	return true;
}

static void take_fragment(struct decoding *d, uint32_t id, size_t offset, bool more)
{
	d->p.kind = PACKET_FRAGMENT;
	d->p.fragment_id = id;
	d->p.fragment_offset = offset;
	d->p.more_fragments = more;
	take_payload(d);
}

/* RFC 791, section 3.1 */
static bool decode_ipv4(struct decoding *d)
{
	uint8_t version = wire_u8(&d->w);
	uint16_t total, id, fragment;
	const uint8_t *src, *dst;
	size_t header = (version & 15u) * 4;

	wire_u8(&d->w);		/* type of service */
	total = wire_u16(&d->w);
	id = wire_u16(&d->w);
	fragment = wire_u16(&d->w);
	d->p.hop_limit = wire_u8(&d->w);
	d->p.ip_proto = wire_u8(&d->w);
	wire_u16(&d->w);	/* checksum */
	src = wire_take(&d->w, 4);
	dst = wire_take(&d->w, 4);
	if (header < 20 || version >> 4 != 4)
		return false;
	wire_take(&d->w, header - 20);	/* options */
	if (d->w.bad || (total && total < header))
		return false;
	d->p.src = ip_from_v4(src);
	d->p.dst = ip_from_v4(dst);
	/* 0: a super-frame over 64 KiB */
	if (total && !bound(d, total - header))
		return false;
	if (fragment & 0x3fff) {	/* "more fragments", or an offset */
		take_fragment(d, id, (fragment & 0x1fffu) * 8, fragment & 0x2000);
		return true;
	}
	return decode_transport(d);
}

/* One extension header; false: malformed. RFC 8200, section 4; RFC 4302 */
static bool skip_extension(struct decoding *d, uint8_t proto)
{
	uint16_t fragment;
	uint32_t id;
	uint8_t size;

	d->p.ip_proto = wire_u8(&d->w);
	size = wire_u8(&d->w);
	if (proto == PROTO_FRAGMENT) {
		fragment = wire_u16(&d->w);
		id = wire_u32(&d->w);
		if (fragment & 0xfff9 && !d->w.bad)
			take_fragment(d, id, fragment & 0xfff8u, fragment & 1);
	} else {
		wire_take(&d->w, proto == PROTO_AH ? (size + 2u) * 4 - 2 : (size + 1u) * 8 - 2);
	}
	return !d->w.bad;
}

static bool is_extension(uint8_t proto)
{
	return proto == PROTO_HOP_BY_HOP || proto == PROTO_ROUTING || proto == PROTO_FRAGMENT ||
	       proto == PROTO_AH || proto == PROTO_DSTOPTS;
}

/* RFC 8200, section 3 */
static bool decode_ipv6(struct decoding *d)
{
	uint32_t version = wire_u32(&d->w);
	uint16_t size = wire_u16(&d->w);
	const uint8_t *src, *dst;

	d->p.ip_proto = wire_u8(&d->w);
	d->p.hop_limit = wire_u8(&d->w);
	src = wire_take(&d->w, 16);
	dst = wire_take(&d->w, 16);
	if (d->w.bad || version >> 28 != 6)
		return false;
	d->p.src = ip_from_v6(src);
	d->p.dst = ip_from_v6(dst);
	/* 0: a jumbogram, or a super-frame over 64 KiB */
	if (size && !bound(d, size))
		return false;
	for (unsigned i = 0; is_extension(d->p.ip_proto); i++) {
		if (i == MAX_EXTENSIONS || !skip_extension(d, d->p.ip_proto))
			return false;
		if (d->p.kind == PACKET_FRAGMENT)
			return true;
	}
	return decode_transport(d);
}

/* RFC 826, for Ethernet and IPv4 only */
static bool decode_arp(struct decoding *d)
{
	uint16_t hardware = wire_u16(&d->w);
	uint16_t protocol = wire_u16(&d->w);
	uint16_t sizes = wire_u16(&d->w);
	const uint8_t *sender, *target;

	wire_u16(&d->w);	/* operation */
	wire_take(&d->w, 6);
	sender = wire_take(&d->w, 4);
	wire_take(&d->w, 6);
	target = wire_take(&d->w, 4);
	if (hardware != 1 || protocol != ETHER_IPV4 || sizes != 0x0604)
		return true;	/* another kind of ARP is no error, and of no use */
	if (d->w.bad)
		return false;
	d->p.src = ip_from_v4(sender);
	d->p.dst = ip_from_v4(target);
	d->p.kind = PACKET_ARP;
	return true;
}

/* IEEE 802.1Q and 802.1ad: tags, then what they hold */
static bool decode_ether_type(struct decoding *d, uint16_t type)
{
	while (type == ETHER_VLAN || type == ETHER_QINQ || type == ETHER_QINQ_OLD) {
		uint16_t tag = wire_u16(&d->w);

		if (d->p.n_vlans == PACKET_MAX_VLANS)
			return true;
		d->p.vlans[d->p.n_vlans++] = tag & 0xfff;
		type = wire_u16(&d->w);
	}
	if (d->w.bad)
		return false;
	d->p.ether_type = type;
	switch (type) {
	case ETHER_IPV4:
		return decode_ipv4(d);
	case ETHER_IPV6:
		return decode_ipv6(d);
	case ETHER_ARP:
		return decode_arp(d);
	default:
		return true;
	}
}

static void take_mac(struct decoding *d, const uint8_t *mac)
{
	static const uint8_t none[6];

	if (!mac || !memcmp(mac, none, 6))
		return;
	memcpy(d->p.src_mac, mac, 6);
	d->p.has_mac = true;
}

static bool decode_ethernet(struct decoding *d)
{
	wire_take(&d->w, 6);
	take_mac(d, wire_take(&d->w, 6));
	return decode_ether_type(d, wire_u16(&d->w));
}

/* https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html */
static bool decode_cooked(struct decoding *d)
{
	uint16_t mac_len;
	const uint8_t *mac;

	wire_u32(&d->w);	/* packet type, ARPHRD_ type */
	mac_len = wire_u16(&d->w);
	mac = wire_take(&d->w, 8);
	take_mac(d, mac_len == 6 ? mac : NULL);
	return decode_ether_type(d, wire_u16(&d->w));
}

/* https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html */
static bool decode_cooked2(struct decoding *d)
{
	uint16_t type = wire_u16(&d->w);
	uint8_t mac_len;
	const uint8_t *mac;

	wire_take(&d->w, 2 + 4 + 2 + 1);	/* reserved, interface, ARPHRD_ type, packet type */
	mac_len = wire_u8(&d->w);
	mac = wire_take(&d->w, 8);
	take_mac(d, mac_len == 6 ? mac : NULL);
	return decode_ether_type(d, type);
}

static bool decode_raw(struct decoding *d)
{
	if (!wire_more(&d->w))
		return false;
	return decode_ether_type(d, *d->w.pos >> 4 == 6 ? ETHER_IPV6 : ETHER_IPV4);
}

static bool decode_null(struct decoding *d)
{
	wire_u32(&d->w);
	return decode_raw(d);
}

static bool (*const decoders[])(struct decoding *d) = {
	[PACKET_LINK_ETHERNET] = decode_ethernet,
	[PACKET_LINK_COOKED] = decode_cooked,
	[PACKET_LINK_COOKED2] = decode_cooked2,
	[PACKET_LINK_IP] = decode_raw,
	[PACKET_LINK_NULL] = decode_null,
};
_Static_assert(ELEMENTS(decoders) == _PACKET_LINK_N, "every link type has a decoder");

int packet_decode(enum packet_link link, const void *data, size_t len, size_t wire_len, struct packet *ret_packet)
{
	struct decoding d = { .w = wire_init(data, len), .cut = wire_len > len ? wire_len - len : 0 };

	if (!decoders[link](&d))
		return PACKET_E_MALFORMED;
	*ret_packet = d.p;
	return 0;
}

int packet_transport(const void *data, size_t len, struct packet *p)
{
	struct decoding d = { .w = wire_init(data, len), .p = *p };

	d.p.kind = PACKET_OTHER;
	d.p.payload = NULL;
	d.p.len = d.p.wire_len = 0;
	if (!decode_transport(&d))
		return PACKET_E_MALFORMED;
	*p = d.p;
	return 0;
}

/*
 * ARP, neighbour discovery and DHCP, as far as they say who has an address.
 */
#include "agent/sighting.h"

#include <string.h>

#include "base/wire.h"

enum {
	ETHER_IPV4 = 0x0800, ETHER_ARP = 0x0806, ETHER_IPV6 = 0x86dd, ETHER_VLAN = 0x8100, ETHER_QINQ = 0x88a8,
	PROTO_UDP = 17, PROTO_ICMPV6 = 58,
	ND_ROUTER_SOLICITATION = 133, ND_NEIGHBOUR_SOLICITATION = 135, ND_NEIGHBOUR_ADVERTISEMENT = 136,
	DHCP_COOKIE = 0x63825363, DHCP_REPLY = 2, DHCP_ACK = 5, DHCP_OPT_END = 255, DHCP_OPT_LEASE = 51, DHCP_OPT_TYPE = 53,
};

/* RFC 826; RFC 5227 for the probes, whose sender address is zero. */
static bool decode_arp(struct wire *w, const uint8_t *src_mac, struct guest_sighting *s)
{
	uint16_t hardware = wire_u16(w), protocol = wire_u16(w);
	uint8_t n_hardware = wire_u8(w), n_protocol = wire_u8(w);

	wire_u16(w);			/* request or reply: both say who the sender is */
	const uint8_t *sender_mac = wire_take(w, 6);
	const uint8_t *sender_ip = wire_take(w, 4);

	if (!sender_mac || !sender_ip || hardware != 1 || protocol != ETHER_IPV4 || n_hardware != 6 || n_protocol != 4)
		return false;
	if (memcmp(sender_mac, src_mac, 6))
		return false;		/* speaks for somebody else */
	s->ip = ip_from_v4(sender_ip);
	s->source = GUEST_BY_ARP;
	return !ip_is_none(&s->ip);
}

/* RFC 4861, sections 4.1, 4.3, 4.4, 7.1: a hop limit of 255 says that no router has forwarded it. */
static bool decode_nd(struct wire *w, struct guest_sighting *s)
{
	wire_u32(w);			/* version, class, label */
	struct wire payload = { .bad = true };
	uint16_t len = wire_u16(w);
	uint8_t next = wire_u8(w), hop_limit = wire_u8(w);
	const uint8_t *src = wire_take(w, 16);

	wire_take(w, 16);
	payload = wire_sub(w, len);
	uint8_t type = wire_u8(&payload);
	wire_take(&payload, 7);		/* code, checksum, flags */
	if (!src || next != PROTO_ICMPV6 || hop_limit != 255 || payload.bad)
		return false;

	s->source = GUEST_BY_ND;
	s->ip = ip_from_v6(src);
	if (type == ND_NEIGHBOUR_ADVERTISEMENT) {
		const uint8_t *target = wire_take(&payload, 16);

		if (!target)
			return false;
		s->ip = ip_from_v6(target);
	} else if (type != ND_NEIGHBOUR_SOLICITATION && type != ND_ROUTER_SOLICITATION) {
		return false;
	}
	return !ip_is_none(&s->ip);	/* duplicate address detection asks from "::" */
}

static bool decode_dhcp_options(struct wire *w, struct guest_sighting *s)
{
	bool ack = false;

	while (wire_more(w)) {
		uint8_t option = wire_u8(w);

		if (option == 0)
			continue;
		if (option == DHCP_OPT_END)
			break;
		struct wire value = wire_sub(w, wire_u8(w));
		if (option == DHCP_OPT_TYPE)
			ack = wire_u8(&value) == DHCP_ACK;
		else if (option == DHCP_OPT_LEASE)
			s->lifetime_ms = (uint64_t)wire_u32(&value) * 1000;
		if (value.bad)
			return false;
	}
	return ack && !w->bad;
}

/* RFC 2131, section 2 */
static bool decode_dhcp(struct wire *w, struct guest_sighting *s)
{
	uint8_t op = wire_u8(w), hardware = wire_u8(w), n_hardware = wire_u8(w);

	wire_take(w, 1 + 4 + 2 + 2 + 4);	/* hops, xid, secs, flags, ciaddr */
	const uint8_t *yours = wire_take(w, 4);
	wire_take(w, 4 + 4);			/* siaddr, giaddr */
	const uint8_t *mac = wire_take(w, 6);
	wire_take(w, 10 + 64 + 128);		/* rest of chaddr, sname, file */
	uint32_t cookie = wire_u32(w);

	if (!yours || !mac || w->bad || op != DHCP_REPLY || hardware != 1 || n_hardware != 6 || cookie != DHCP_COOKIE)
		return false;
	memcpy(s->link.mac, mac, 6);
	s->ip = ip_from_v4(yours);
	s->source = GUEST_BY_DHCP;
	return decode_dhcp_options(w, s) && !ip_is_none(&s->ip);
}

static bool decode_dhcp_packet(struct wire *w, struct guest_sighting *s)
{
	uint8_t version = wire_u8(w);

	wire_u8(w);
	uint16_t total = wire_u16(w);
	wire_take(w, 2);
	uint16_t fragment = wire_u16(w);
	wire_u8(w);
	uint8_t proto = wire_u8(w);
	wire_take(w, 2 + 4 + 4);
	size_t header = (size_t)(version & 15) * 4;

	if (w->bad || version >> 4 != 4 || header < 20 || total < header || proto != PROTO_UDP || (fragment & 0x3fff))
		return false;
	wire_take(w, header - 20);
	uint16_t src_port = wire_u16(w), dst_port = wire_u16(w);
	wire_take(w, 4);
	return src_port == 67 && dst_port == 68 && decode_dhcp(w, s);
}

int sighting_decode(const uint8_t *frame, size_t len, bool from_vm, struct guest_sighting *ret_sighting)
{
	struct guest_sighting s = {};
	struct wire w = wire_init(frame, len);
	const uint8_t *dst = wire_take(&w, 6), *src = wire_take(&w, 6);
	uint16_t type = wire_u16(&w);
	bool ok = false;

	while (type == ETHER_VLAN || type == ETHER_QINQ) {
		wire_u16(&w);
		type = wire_u16(&w);
	}
	if (!dst || !src || w.bad)
		return SIGHTING_E_NOTHING;
	memcpy(s.link.mac, from_vm ? src : dst, 6);
	if (from_vm && type == ETHER_ARP)
		ok = decode_arp(&w, src, &s);
	else if (from_vm && type == ETHER_IPV6)
		ok = decode_nd(&w, &s);
	else if (!from_vm && type == ETHER_IPV4)
		ok = decode_dhcp_packet(&w, &s);
	if (!ok)
		return SIGHTING_E_NOTHING;
	*ret_sighting = s;
	return 0;
}

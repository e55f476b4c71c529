#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"

/*
 * What is in a frame: link layer, VLAN tags, ARP, IPv4, IPv6, UDP, TCP.
 *
 * A pure decoder: the struct holds values and slices of the caller's bytes.
 * Checksums are not looked at: a NIC fills them in after the sniffer has seen
 * the frame. Lengths are those of the headers where the frame is longer
 * (Ethernet padding), and those of the frame where the capture was cut short.
 */
enum packet_link {
	PACKET_LINK_ETHERNET,
	PACKET_LINK_COOKED,	/* Linux "any", version 1 */
	PACKET_LINK_COOKED2,	/* version 2 */
	PACKET_LINK_IP,		/* no link layer; the version nibble tells the family */
	PACKET_LINK_NULL,	/* BSD loopback: four bytes of family in either byte order */
	_PACKET_LINK_N
};

enum {
	_PACKET_E_SUCCESS,

	PACKET_E_MALFORMED,	/* a header is cut short or contradicts itself */
};

enum packet_kind {
	PACKET_OTHER,		/* neither of the below: the fields up to the addresses may be set */
	PACKET_ARP,
	PACKET_FRAGMENT,	/* of an IP datagram: ports are not known, the payload is the fragment */
	PACKET_UDP,
	PACKET_TCP,
};

enum { PACKET_TCP_FIN = 0x01, PACKET_TCP_SYN = 0x02, PACKET_TCP_RST = 0x04, PACKET_TCP_ACK = 0x10 };

enum { PACKET_MAX_VLANS = 2 };

struct packet {
	enum packet_kind kind;
	bool has_mac;			/* @src_mac: of Ethernet or cooked headers that have one */
	uint8_t src_mac[6];
	uint16_t vlans[PACKET_MAX_VLANS];	/* ids, outer first */
	uint8_t n_vlans;
	uint16_t ether_type;		/* after the tags; 0x0800 and 0x86dd for raw IP too */

	struct ip src;			/* ARP: the sender */
	struct ip dst;			/* ARP: the target */
	uint8_t hop_limit;		/* TTL of IPv4 */
	uint8_t ip_proto;

	uint32_t fragment_id;		/* PACKET_FRAGMENT: with addresses and protocol, which datagram it is of */
	size_t fragment_offset;		/* bytes */
	bool more_fragments;

	uint16_t src_port;
	uint16_t dst_port;
	uint32_t tcp_seq;
	uint32_t tcp_ack;
	uint8_t tcp_flags;
	const uint8_t *payload;		/* of UDP or TCP; of a fragment, what follows its headers */
	size_t len;			/* bytes of @payload */
	size_t wire_len;		/* bytes that it had on the wire: more than @len where the capture is cut short */
};

/* 0 or PACKET_E_MALFORMED. @wire_len: length of the frame on the wire, >= @len. */
MUST_CHECK int packet_decode(enum packet_link link, const void *data, size_t len, size_t wire_len, struct packet *ret_packet);
/* What fragments held together: UDP or TCP of @p->ip_proto. Sets kind, ports and payload; the same outcomes. */
MUST_CHECK int packet_transport(const void *data, size_t len, struct packet *p);

#include "lib/unit.h"

#include <string.h>
#include "proto/packet.h"

/* Ethernet, a QinQ pair of tags, IPv4 with 4 bytes of options, UDP, "hello", 3 bytes of padding */
static const uint8_t udp4[] = {
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xa8, 0, 5, 0x81, 0, 0x20, 7, 8, 0,
	0x46, 0, 0, 37, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 1, 1, 0,
	0x14, 0xe9, 0, 53, 0, 13, 0, 0, 'h', 'e', 'l', 'l', 'o', 0, 0, 0,
};
enum { UDP4_IP = 22, UDP4_UDP = 46, UDP4_PADDING = 3 };

/* IPv6, hop-by-hop and destination options, TCP with 4 bytes of options, "x" */
static const uint8_t tcp6[] = {
	0x60, 0, 0, 0, 0, 41, 0, 255,
	0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
	60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0,
	0xc0, 0, 0x1f, 0x90, 1, 2, 3, 4, 5, 6, 7, 8, 0x60, 0x18, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 'x',
};

static void udp_behind_two_tags_and_ip_options(void **state)
{
	struct packet p;

	(void)state;
	assert_int_equal(packet_decode(PACKET_LINK_ETHERNET, udp4, sizeof(udp4), sizeof(udp4), &p), 0);
	assert_int_equal(p.kind, PACKET_UDP);
	assert_true(p.has_mac);
	assert_int_equal(p.src_mac[5], 1);
	assert_int_equal(p.n_vlans, 2);
	assert_int_equal(p.vlans[0], 5);
	assert_int_equal(p.vlans[1], 7);
	assert_int_equal(p.src_port, 5353);
	assert_int_equal(p.dst_port, 53);
	assert_true(ip_is_v4(&p.src));
	assert_int_equal(p.src.b[15], 1);
	assert_int_equal(p.len, 5);
	assert_int_equal(p.wire_len, 5);
	assert_memory_equal(p.payload, "hello", 5);
}

static void tcp_behind_extension_headers(void **state)
{
	struct packet p;

	(void)state;
	assert_int_equal(packet_decode(PACKET_LINK_IP, tcp6, sizeof(tcp6), sizeof(tcp6), &p), 0);
	assert_int_equal(p.kind, PACKET_TCP);
	assert_false(ip_is_v4(&p.src));
	assert_int_equal(p.hop_limit, 255);
	assert_int_equal(p.tcp_seq, 0x01020304);
	assert_int_equal(p.tcp_ack, 0x05060708);
	assert_int_equal(p.tcp_flags, 0x18);
	assert_int_equal(p.len, 1);
	assert_int_equal(p.payload[0], 'x');
}

static void every_truncation_is_malformed(void **state)
{
	struct packet p;

	(void)state;
	for (size_t i = 0; i < sizeof(udp4) - UDP4_PADDING; i++)
		assert_int_equal(packet_decode(PACKET_LINK_ETHERNET, udp4, i, i, &p), PACKET_E_MALFORMED);
	for (size_t i = 0; i < sizeof(tcp6); i++)
		assert_int_equal(packet_decode(PACKET_LINK_IP, tcp6, i, i, &p), PACKET_E_MALFORMED);
}

static void a_capture_that_is_cut_short_says_how_much_is_missing(void **state)
{
	struct packet p;

	(void)state;
	for (size_t cut = 0; cut <= 5; cut++) {
		size_t len = sizeof(udp4) - UDP4_PADDING - cut;

		assert_int_equal(packet_decode(PACKET_LINK_ETHERNET, udp4, len, sizeof(udp4), &p), 0);
		assert_int_equal(p.len, 5 - cut);
		assert_int_equal(p.wire_len, 5);
	}
}

static void wrong_lengths_are_malformed(void **state)
{
	static const struct { size_t at; uint8_t value; } rows[] = {
		{ UDP4_IP, 0x44 }, { UDP4_IP, 0x4f }, { UDP4_IP, 0x56 },
		{ UDP4_IP + 2, 1 }, { UDP4_IP + 3, 23 }, { UDP4_IP + 3, 31 },
		{ UDP4_UDP + 4, 1 }, { UDP4_UDP + 5, 7 }, { UDP4_UDP + 5, 14 },
	};
	struct packet p;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		uint8_t copy[sizeof(udp4)];

		memcpy(copy, udp4, sizeof(udp4));
		copy[rows[i].at] = rows[i].value;
		assert_int_equal(packet_decode(PACKET_LINK_ETHERNET, copy, sizeof(copy), sizeof(copy), &p), PACKET_E_MALFORMED);
	}
	for (size_t i = 0; i < 2; i++) {
		uint8_t copy[sizeof(tcp6)];

		memcpy(copy, tcp6, sizeof(tcp6));
		copy[i ? 56 + 12 : 41] = i ? 0x40 : 9;	/* data offset; size of the hop-by-hop options */
		assert_int_equal(packet_decode(PACKET_LINK_IP, copy, sizeof(copy), sizeof(copy), &p), PACKET_E_MALFORMED);
	}
}

static void fragments_have_no_ports(void **state)
{
	uint8_t copy[sizeof(udp4)];
	struct packet p;

	(void)state;
	memcpy(copy, udp4, sizeof(udp4));
	copy[UDP4_IP + 6] = 0x20;	/* more fragments */
	assert_int_equal(packet_decode(PACKET_LINK_ETHERNET, copy, sizeof(copy), sizeof(copy), &p), 0);
	assert_int_equal(p.kind, PACKET_FRAGMENT);
	assert_true(p.more_fragments);
	assert_int_equal(p.fragment_offset, 0);
	copy[UDP4_IP + 4] = 0x12;
	copy[UDP4_IP + 5] = 0x34;
	copy[UDP4_IP + 6] = 0;
	copy[UDP4_IP + 7] = 1;		/* offset */
	assert_int_equal(packet_decode(PACKET_LINK_ETHERNET, copy, sizeof(copy), sizeof(copy), &p), 0);
	assert_int_equal(p.kind, PACKET_FRAGMENT);
	assert_false(p.more_fragments);
	assert_int_equal(p.fragment_id, 0x1234);
	assert_int_equal(p.fragment_offset, 8);
	assert_ptr_equal(p.payload, copy + UDP4_IP + 24);	/* after four bytes of options */
	assert_int_equal(p.dst_port, 0);
}

static void every_link_type_leads_to_the_same_packet(void **state)
{
	static const struct { enum packet_link link; size_t n_header; uint8_t header[24]; } rows[] = {
		{ PACKET_LINK_COOKED, 16, { 0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0 } },
		{ PACKET_LINK_COOKED2, 20, { 8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 0, 6, 2, 0, 0, 0, 0, 1, 0, 0 } },
		{ PACKET_LINK_IP, 0, {} },
		{ PACKET_LINK_NULL, 4, { 2, 0, 0, 0 } },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		uint8_t frame[128];
		size_t len = rows[i].n_header + sizeof(udp4) - UDP4_IP;
		struct packet p;

		memcpy(frame, rows[i].header, rows[i].n_header);
		memcpy(frame + rows[i].n_header, udp4 + UDP4_IP, sizeof(udp4) - UDP4_IP);
		assert_int_equal(packet_decode(rows[i].link, frame, len, len, &p), 0);
		assert_int_equal(p.kind, PACKET_UDP);
		assert_int_equal(p.len, 5);
		assert_int_equal(p.has_mac, rows[i].n_header >= 16);
	}
}

static void arp_tells_the_sender(void **state)
{
	static const uint8_t arp[] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1,
	};
	struct packet p;

	(void)state;
	assert_int_equal(packet_decode(PACKET_LINK_ETHERNET, arp, sizeof(arp), sizeof(arp), &p), 0);
	assert_int_equal(p.kind, PACKET_ARP);
	assert_int_equal(p.src.b[15], 9);
	assert_int_equal(p.dst.b[15], 1);
	for (size_t i = 0; i < sizeof(arp); i++)
		assert_int_not_equal(packet_decode(PACKET_LINK_ETHERNET, arp, i, i, &p) == 0 && p.kind == PACKET_ARP, 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(udp_behind_two_tags_and_ip_options),
		cmocka_unit_test(tcp_behind_extension_headers),
		cmocka_unit_test(every_truncation_is_malformed),
		cmocka_unit_test(a_capture_that_is_cut_short_says_how_much_is_missing),
		cmocka_unit_test(wrong_lengths_are_malformed),
		cmocka_unit_test(fragments_have_no_ports),
		cmocka_unit_test(every_link_type_leads_to_the_same_packet),
		cmocka_unit_test(arp_tells_the_sender),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

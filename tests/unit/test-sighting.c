/*
 * Frames that say who has which address: good ones, each truncation, lies.
 */
#include "lib/unit.h"

#include <string.h>

#include "agent/sighting.h"

static const uint8_t arp[] = {
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1, 0x08, 0x06,
	0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 1, 10, 0, 0, 7, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1,
};
enum { ARP_SENDER_MAC = 22, ARP_SENDER_IP = 28, ARP_NEEDED = 32 };

static const uint8_t advertisement[] = {
	0x33, 0x33, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 1, 0x86, 0xdd,
	0x60, 0, 0, 0, 0, 24, 58, 255,
	0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
	0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
	136, 0, 0, 0, 0x20, 0, 0, 0,
	0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
};
enum { ND_HOP_LIMIT = 21, ND_SRC = 22, ND_TYPE = 54 };

static void text(const struct guest_sighting *s, char *out)
{
	ip_format(&s->ip, out);
}

static void arp_names_its_sender(void **state)
{
	char t[IP_TEXT_LEN];
	struct guest_sighting s;

	(void)state;
	assert_int_equal(sighting_decode(arp, sizeof(arp), true, &s), 0);
	text(&s, t);
	assert_string_equal(t, "10.0.0.7");
	assert_memory_equal(s.link.mac, arp + 6, 6);
	assert_int_equal(s.source, GUEST_BY_ARP);
	assert_int_equal(sighting_decode(arp, sizeof(arp), false, &s), SIGHTING_E_NOTHING);
	for (size_t i = 0; i < ARP_NEEDED; i++)
		assert_int_equal(sighting_decode(arp, i, true, &s), SIGHTING_E_NOTHING);
}

static void arp_for_somebody_else_and_probes_teach_nothing(void **state)
{
	struct guest_sighting s;
	uint8_t frame[sizeof(arp)];

	(void)state;
	memcpy(frame, arp, sizeof(arp));
	frame[ARP_SENDER_MAC + 5] = 9;
	assert_int_equal(sighting_decode(frame, sizeof(frame), true, &s), SIGHTING_E_NOTHING);
	memcpy(frame, arp, sizeof(arp));
	memset(frame + ARP_SENDER_IP, 0, 4);
	assert_int_equal(sighting_decode(frame, sizeof(frame), true, &s), SIGHTING_E_NOTHING);
	for (size_t i = 14; i < 20; i++) {	/* types and lengths */
		memcpy(frame, arp, sizeof(arp));
		frame[i] ^= 0x11;
		assert_int_equal(sighting_decode(frame, sizeof(frame), true, &s), SIGHTING_E_NOTHING);
	}
}

static void a_tagged_frame_is_read_behind_its_tag(void **state)
{
	uint8_t frame[sizeof(arp) + 4];
	struct guest_sighting s;

	(void)state;
	memcpy(frame, arp, 12);
	memcpy(frame + 12, "\x81\x00\x00\x0a", 4);
	memcpy(frame + 16, arp + 12, sizeof(arp) - 12);
	assert_int_equal(sighting_decode(frame, sizeof(frame), true, &s), 0);
}

static void neighbour_discovery_names_target_or_sender(void **state)
{
	uint8_t frame[sizeof(advertisement)];
	char t[IP_TEXT_LEN];
	struct guest_sighting s;

	(void)state;
	assert_int_equal(sighting_decode(advertisement, sizeof(advertisement), true, &s), 0);
	text(&s, t);
	assert_string_equal(t, "fd00::7");
	for (size_t i = 0; i < sizeof(advertisement); i++)
		assert_int_equal(sighting_decode(advertisement, i, true, &s), SIGHTING_E_NOTHING);

	memcpy(frame, advertisement, sizeof(frame));
	frame[ND_TYPE] = 135;
	assert_int_equal(sighting_decode(frame, sizeof(frame), true, &s), 0);
	text(&s, t);
	assert_string_equal(t, "fe80::1");
	memset(frame + ND_SRC, 0, 16);		/* duplicate address detection */
	assert_int_equal(sighting_decode(frame, sizeof(frame), true, &s), SIGHTING_E_NOTHING);
	memcpy(frame, advertisement, sizeof(frame));
	frame[ND_HOP_LIMIT] = 64;		/* came over a router */
	assert_int_equal(sighting_decode(frame, sizeof(frame), true, &s), SIGHTING_E_NOTHING);
	frame[ND_HOP_LIMIT] = 255;
	frame[ND_TYPE] = 134;			/* a router's */
	assert_int_equal(sighting_decode(frame, sizeof(frame), true, &s), SIGHTING_E_NOTHING);
}

static size_t make_ack(uint8_t *f, uint8_t type)
{
	static const uint8_t ether_ip[] = {
		0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 0xfe, 0x08, 0x00,
		0x45, 0, 1, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 9,
		0, 67, 0, 68, 1, 0, 0, 0,
	};
	size_t n = sizeof(ether_ip);

	memcpy(f, ether_ip, n);
	memset(f + n, 0, 236);
	f[n] = 2;
	f[n + 1] = 1;
	f[n + 2] = 6;
	memcpy(f + n + 16, "\x0a\x00\x00\x09", 4);
	memcpy(f + n + 28, "\x52\x54\x00\x00\x00\x01", 6);
	n += 236;
	memcpy(f + n, "\x63\x82\x53\x63", 4);
	n += 4;
	memcpy(f + n, "\x35\x01\x05\x00\x33\x04\x00\x00\x0e\x10\xff", 11);
	f[n + 2] = type;
	return n + 11;
}

static void a_dhcp_server_gives_an_address_for_a_while(void **state)
{
	uint8_t frame[512];
	size_t n = make_ack(frame, 5);
	char t[IP_TEXT_LEN];
	struct guest_sighting s;

	(void)state;
	assert_int_equal(sighting_decode(frame, n, false, &s), 0);
	text(&s, t);
	assert_string_equal(t, "10.0.0.9");
	assert_int_equal(s.source, GUEST_BY_DHCP);
	assert_int_equal(s.lifetime_ms, 3600000);
	/* A guest that plays the server says nothing of itself. */
	assert_int_equal(sighting_decode(frame, n, true, &s), SIGHTING_E_NOTHING);
	for (size_t i = 0; i < n - 9; i++)
		assert_int_equal(sighting_decode(frame, i, false, &s), SIGHTING_E_NOTHING);
	n = make_ack(frame, 2);			/* an offer is not yet a lease */
	assert_int_equal(sighting_decode(frame, n, false, &s), SIGHTING_E_NOTHING);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(arp_names_its_sender),
		cmocka_unit_test(arp_for_somebody_else_and_probes_teach_nothing),
		cmocka_unit_test(a_tagged_frame_is_read_behind_its_tag),
		cmocka_unit_test(neighbour_discovery_names_target_or_sender),
		cmocka_unit_test(a_dhcp_server_gives_an_address_for_a_while),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

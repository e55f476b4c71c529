#include "lib/unit.h"

#include <string.h>
#include "base/defs.h"
#include "proto/packet.h"
#include "proto/pcapfile.h"

/* Little-endian, nanoseconds, Ethernet; one frame of 4 bytes out of 6. */
static const uint8_t classic[] = {
	0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0,
	7, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0, 'a', 'b', 'c', 'd',
};

/* Big-endian pcapng: section, interface (milliseconds, 2 s later, snap length 3), enhanced, a block that nobody knows, simple. */
static const uint8_t ng[] = {
	/* 0 */ 0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 28, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 28,
	/* 28 */ 0, 0, 0, 1, 0, 0, 0, 44, 0, 101, 0, 0, 0, 0, 0, 3, 0, 9, 0, 1, 3, 0, 0, 0, 0, 14, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 44,
	/* 72 */ 0, 0, 0, 6, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x13, 0x88, 0, 0, 0, 3, 0, 0, 0, 9, 'x', 'y', 'z', 0, 0, 0, 0, 36,
	/* 108 */ 0, 0, 0, 99, 0, 0, 0, 12, 0, 0, 0, 12,
	/* 120 */ 0, 0, 0, 3, 0, 0, 0, 20, 0, 0, 0, 8, 'u', 'v', 'w', 0, 0, 0, 0, 20,
};

static void both_byte_orders_and_kinds_are_read(void **state)
{
	struct pcapfile p;
	struct pcapfile_frame f;

	(void)state;
	assert_int_equal(pcapfile_open(&p, classic, sizeof(classic)), 0);
	assert_int_equal(pcapfile_next(&p, &f), 0);
	assert_int_equal(f.len, 4);
	assert_int_equal(f.wire_len, 6);
	assert_memory_equal(f.data, "abcd", 4);
	assert_true(f.time_ns == 7000000009);
	assert_int_equal(f.link, PACKET_LINK_ETHERNET);
	assert_int_equal(pcapfile_next(&p, &f), PCAPFILE_E_END);

	assert_int_equal(pcapfile_open(&p, ng, sizeof(ng)), 0);
	assert_int_equal(pcapfile_next(&p, &f), 0);
	assert_int_equal(f.number, 1);
	assert_memory_equal(f.data, "xyz", 3);
	assert_int_equal(f.wire_len, 9);
	assert_true(f.time_ns == 7000000000);
	assert_int_equal(f.link, PACKET_LINK_IP);
	assert_int_equal(pcapfile_next(&p, &f), 0);
	assert_int_equal(f.number, 2);
	assert_int_equal(f.len, 3);
	assert_int_equal(f.wire_len, 8);
	assert_memory_equal(f.data, "uvw", 3);
	assert_int_equal(pcapfile_next(&p, &f), PCAPFILE_E_END);
}

/* The outcome of the whole file. */
static int outcome(const uint8_t *data, size_t size)
{
	struct pcapfile p;
	struct pcapfile_frame f;
	int r = pcapfile_open(&p, data, size);

	while (r == 0)
		r = pcapfile_next(&p, &f);
	return r;
}

static void every_truncation_is_told(void **state)
{
	(void)state;
	assert_int_equal(outcome(NULL, 0), PCAPFILE_E_UNKNOWN);
	for (size_t i = 1; i < sizeof(classic); i++)
		assert_int_equal(outcome(classic, i), i == 24 ? PCAPFILE_E_END : PCAPFILE_E_TRUNCATED);
	for (size_t i = 1; i < sizeof(ng); i++) {
		bool between = i == 28 || i == 72 || i == 108 || i == 120;

		assert_int_equal(outcome(ng, i), between ? PCAPFILE_E_END : PCAPFILE_E_TRUNCATED);
	}
}

static void wrong_lengths_and_references_are_malformed(void **state)
{
	static const struct { size_t at; uint8_t value; int outcome; } rows[] = {
		{ 7, 8, PCAPFILE_E_MALFORMED }, { 7, 27, PCAPFILE_E_MALFORMED }, { 7, 16, PCAPFILE_E_MALFORMED },
		{ 8, 0, PCAPFILE_E_MALFORMED },			/* byte order magic */
		{ 13, 2, PCAPFILE_E_MALFORMED },		/* version */
		{ 37, 147, PCAPFILE_E_LINK },
		{ 48, 0x7f, PCAPFILE_E_MALFORMED },		/* a resolution of 10^-127 s */
		{ 83, 1, PCAPFILE_E_MALFORMED },		/* interface */
		{ 95, 200, PCAPFILE_E_MALFORMED }, { 79, 255, PCAPFILE_E_MALFORMED }, { 76, 9, PCAPFILE_E_TRUNCATED },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		uint8_t copy[sizeof(ng)];

		memcpy(copy, ng, sizeof(ng));
		copy[rows[i].at] = rows[i].value;
		assert_int_equal(outcome(copy, sizeof(copy)), rows[i].outcome);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_byte_orders_and_kinds_are_read),
		cmocka_unit_test(every_truncation_is_told),
		cmocka_unit_test(wrong_lengths_and_references_are_malformed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

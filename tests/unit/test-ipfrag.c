#include "lib/unit.h"

#include <string.h>
#include "base/defs.h"
#include "discover/ipfrag.h"

enum { DATA = 100, SECOND = 1000 };

/* A UDP datagram from port 53, with DATA bytes that count up. */
static uint8_t datagram[8 + DATA];

static void fill(void)
{
	static const uint8_t udp[8] = { 0, 53, 0x9c, 0x40, 0, 8 + DATA };

	memcpy(datagram, udp, sizeof(udp));
	for (size_t i = 0; i < DATA; i++)
		datagram[8 + i] = (uint8_t)i;
}

static struct packet fragment(uint32_t id, size_t from, size_t to)
{
	static const uint8_t src[4] = { 10, 0, 0, 2 }, dst[4] = { 10, 0, 0, 1 };

	return (struct packet){
		.kind = PACKET_FRAGMENT, .src = ip_from_v4(src), .dst = ip_from_v4(dst), .ip_proto = 17, .fragment_id = id,
		.fragment_offset = from, .more_fragments = to < sizeof(datagram), .payload = datagram + from, .len = to - from, .wire_len = to - from,
	};
}

static bool add(struct ipfrag *f, struct packet p, uint64_t ms)
{
	struct packet whole;

	if (!ipfrag_add(f, &p, ms * 1000000, &whole))
		return false;
	assert_int_equal(whole.kind, PACKET_UDP);
	assert_int_equal(whole.src_port, 53);
	assert_int_equal(whole.len, DATA);
	assert_int_equal(whole.wire_len, DATA);
	assert_memory_equal(whole.payload, datagram + 8, DATA);
	return true;
}

static void fragments_come_in_any_order_and_again(void **state)
{
	static const struct { size_t from, to; } parts[] = { { 0, 40 }, { 40, 80 }, { 80, sizeof(datagram) } };
	static const unsigned orders[][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 }, { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };
	struct ipfrag f;

	(void)state;
	ipfrag_init(&f);
	for (uint32_t n = 0; n < ELEMENTS(orders); n++)
		for (unsigned i = 0; i < 3; i++) {
			unsigned part = orders[n][i];
			bool whole = add(&f, fragment(n, parts[part].from, parts[part].to), 1);

			assert_int_equal(whole, i == 2);
			if (!whole)	/* a copy adds nothing */
				assert_false(add(&f, fragment(n, parts[part].from, parts[part].to), 1));
		}
	assert_int_equal(f.n, 0);
	assert_int_equal(f.bytes, 0);
	ipfrag_deinit(&f);
}

static void others_are_not_mixed_in(void **state)
{
	struct packet other;
	struct ipfrag f;

	(void)state;
	ipfrag_init(&f);
	assert_false(add(&f, fragment(1, 0, 40), 1));
	assert_false(add(&f, fragment(2, 40, sizeof(datagram)), 1));
	other = fragment(1, 40, sizeof(datagram));
	other.src.b[15] = 9;
	assert_false(add(&f, other, 1));
	other = fragment(1, 40, sizeof(datagram));
	other.ip_proto = 6;
	assert_false(add(&f, other, 1));
	assert_int_equal(f.n, 4);
	assert_true(add(&f, fragment(1, 40, sizeof(datagram)), 1));
	ipfrag_deinit(&f);
}

static void what_contradicts_itself_is_dropped_whole(void **state)
{
	static const uint8_t lies[40] = { 1, 2, 3 };
	struct packet p;
	struct ipfrag f;

	(void)state;
	ipfrag_init(&f);
	assert_false(add(&f, fragment(1, 0, 40), 1));
	p = fragment(1, 32, 72);		/* overlaps with other bytes: RFC 5722 */
	p.payload = lies;
	assert_false(add(&f, p, 1));
	assert_int_equal(f.n, 0);
	assert_false(add(&f, fragment(1, 40, sizeof(datagram)), 1));

	assert_false(add(&f, fragment(2, 40, sizeof(datagram)), 1));
	p = fragment(2, 80, sizeof(datagram));	/* a second end */
	p.len = p.wire_len = 8;
	assert_false(add(&f, p, 1));
	p = fragment(3, 0, 40);
	p.wire_len = 80;			/* the capture cut it */
	assert_false(add(&f, p, 1));
	p = fragment(4, 0, 20);			/* only the last may end within a unit */
	p.more_fragments = true;
	assert_false(add(&f, p, 1));
	p = fragment(5, 0, 40);
	p.fragment_offset = 65528;		/* the ping of death */
	assert_false(add(&f, p, 1));
	assert_int_equal(f.n, 1);
	ipfrag_deinit(&f);
}

static void nothing_waits_for_ever_and_nothing_grows_beyond_its_limit(void **state)
{
	static uint8_t large[1400];
	struct ipfrag f;

	(void)state;
	ipfrag_init(&f);
	assert_false(add(&f, fragment(1, 0, 40), 1 * SECOND));
	assert_false(add(&f, fragment(2, 0, 40), 20 * SECOND));
	assert_false(add(&f, fragment(1, 40, sizeof(datagram)), 32 * SECOND));
	assert_true(add(&f, fragment(2, 40, sizeof(datagram)), 32 * SECOND));
	for (uint32_t id = 10; id < 10000; id++) {
		struct packet p = fragment(id, 0, 40);

		p.payload = large;
		p.len = p.wire_len = sizeof(large);
		p.fragment_offset = (id * 1400) % 64000 / 8 * 8;
		assert_false(add(&f, p, 33 * SECOND));
		assert_true(f.n <= IPFRAG_MAX_DATAGRAMS);
		assert_true(f.bytes <= IPFRAG_MAX_BYTES);
	}
	assert_false(add(&f, fragment(10, 0, 40), 33 * SECOND));
	assert_true(add(&f, fragment(10, 40, sizeof(datagram)), 33 * SECOND));
	ipfrag_deinit(&f);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(fragments_come_in_any_order_and_again),
		cmocka_unit_test(others_are_not_mixed_in),
		cmocka_unit_test(what_contradicts_itself_is_dropped_whole),
		cmocka_unit_test(nothing_waits_for_ever_and_nothing_grows_beyond_its_limit),
	};

	fill();
	return cmocka_run_group_tests(tests, NULL, NULL);
}

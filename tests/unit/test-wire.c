#include "lib/unit.h"

#include "base/wire.h"

static const uint8_t bytes[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18 };

static void integers_are_big_endian(void **state)
{
	struct wire w = wire_init(bytes, sizeof(bytes));

	(void)state;
	assert_int_equal(wire_u8(&w), 0x01);
	assert_int_equal(wire_u16(&w), 0x0203);
	assert_int_equal(wire_u24(&w), 0x040506);
	assert_int_equal(wire_u32(&w), 0x0708090a);
	assert_true(wire_u64(&w) == 0x0b0c0d0e0f101112);
	assert_true(wire_complete(&w));
}

static void a_read_past_the_end_is_zero_and_sticks(void **state)
{
	(void)state;
	for (size_t i = 0; i < 8; i++) {
		struct wire w = wire_init(bytes, i);

		assert_true(wire_u64(&w) == 0);
		assert_true(w.bad);
		assert_int_equal(wire_u8(&w), 0);
		assert_false(wire_more(&w));
		assert_false(wire_complete(&w));
		assert_int_equal(wire_left(&w), 0);
	}
}

static void a_sub_cursor_keeps_to_its_part(void **state)
{
	struct wire w = wire_init(bytes, sizeof(bytes));
	struct wire sub = wire_sub(&w, 2);

	(void)state;
	assert_int_equal(wire_u16(&sub), 0x0102);
	assert_true(wire_complete(&sub));
	assert_int_equal(wire_u8(&sub), 0);
	assert_true(sub.bad);
	assert_false(w.bad);
	assert_int_equal(wire_u8(&w), 3);
	sub = wire_sub(&w, 1000);
	assert_true(sub.bad);
	assert_true(w.bad);
}

static void nothing_is_complete(void **state)
{
	struct wire w = wire_init(NULL, 0);

	(void)state;
	assert_true(wire_complete(&w));
	assert_int_equal(wire_u8(&w), 0);
	assert_true(w.bad);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(integers_are_big_endian),
		cmocka_unit_test(a_read_past_the_end_is_zero_and_sticks),
		cmocka_unit_test(a_sub_cursor_keeps_to_its_part),
		cmocka_unit_test(nothing_is_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

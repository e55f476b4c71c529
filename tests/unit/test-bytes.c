#include "lib/unit.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"

static void what_goes_in_comes_out_in_order(void **state)
{
	struct bytes b;
	uint8_t next_in = 0, next_out = 0;

	(void)state;
	bytes_init(&b, 10000);
	for (int round = 0; round < 2000; round++) {
		for (int i = 0; i < round % 7; i++)
			assert_int_equal(bytes_append(&b, &(uint8_t){ next_in++ }, 1), 0);
		for (int i = 0; i < round % 5 && b.len; i++) {
			assert_int_equal(b.data[0], next_out++);
			bytes_consume(&b, 1);
		}
	}
	bytes_deinit(&b);
}

static void the_maximum_holds(void **state)
{
	struct bytes b;

	(void)state;
	bytes_init(&b, 10);
	assert_int_equal(bytes_append(&b, "0123456789", 10), 0);
	assert_int_equal(bytes_append(&b, "x", 1), -ENOBUFS);
	assert_int_equal(b.len, 10);
	bytes_consume(&b, 4);
	assert_int_equal(bytes_append(&b, "abcd", 4), 0);
	assert_memory_equal(b.data, "456789abcd", 10);
	assert_null(bytes_reserve(&b, 1));
	bytes_deinit(&b);
}

static void an_empty_buffer_owns_nothing(void **state)
{
	struct bytes b;

	(void)state;
	bytes_init(&b, 100);
	assert_int_equal(bytes_append_str(&b, "hello"), 0);
	bytes_consume(&b, 5);
	assert_null(b.base);
	assert_int_equal(b.len, 0);
	assert_int_equal(bytes_appendf(&b, "%d-%s", 7, "x"), 0);
	assert_int_equal(b.len, 3);
	assert_memory_equal(b.data, "7-x", 3);
	bytes_deinit(&b);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_goes_in_comes_out_in_order),
		cmocka_unit_test(the_maximum_holds),
		cmocka_unit_test(an_empty_buffer_owns_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "base/backoff.h"

#include "lib/unit.h"

static const struct backoff fresh = { .min_ms = 100, .max_ms = 10000 };

static void delays_double_up_to_a_maximum(void **state)
{
	struct backoff b = fresh;

	(void)state;
	for (uint32_t step = 100; step < 10000; step *= 2)
		assert_in_range(backoff_next(&b), step / 2, step);
	for (int i = 0; i < 3; i++)
		assert_in_range(backoff_next(&b), 5000, 10000);
	backoff_reset(&b);
	assert_in_range(backoff_next(&b), 50, 100);
}

/* A peer that accepts and ends at once is asked ever more seldom. */
static void only_what_lasted_is_a_success(void **state)
{
	struct backoff b = fresh;

	(void)state;
	for (int i = 0; i < 8; i++) {
		backoff_next(&b);
		backoff_ended(&b, 10);
	}
	assert_in_range(backoff_next(&b), 5000, 10000);
	backoff_ended(&b, BACKOFF_SETTLED_MS - 1);
	assert_in_range(backoff_next(&b), 5000, 10000);
	backoff_ended(&b, BACKOFF_SETTLED_MS);
	assert_in_range(backoff_next(&b), 50, 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(delays_double_up_to_a_maximum),
		cmocka_unit_test(only_what_lasted_is_a_success),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

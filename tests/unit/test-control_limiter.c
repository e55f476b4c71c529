#include "lib/unit.h"

#include <string.h>

#include "control/limiter.h"

static struct limiter l;

static int setup(void **state)
{
	(void)state;
	l = (struct limiter){ .burst = 3, .per_hour = 3600 };
	return 0;
}

static bool take(const char *name, uint64_t now_ms)
{
	uint32_t wait = 0;
	bool ok = limiter_take(&l, name, strlen(name), now_ms, &wait);

	assert_true(ok ? !wait : wait >= 1 && wait <= 1001);
	return ok;
}

static void a_burst_and_then_one_at_a_time(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++)
		assert_true(take("a", 1000));
	assert_false(take("a", 1000));
	assert_true(take("b", 1000));		/* another's is another's */
	assert_false(take("a", 1900));
	assert_true(take("a", 2001));
	assert_false(take("a", 2001));
	assert_int_equal(l.n_refused, 3);
}

/* What is only looked at is not taken, and is told of like what is. */
static void who_looks_takes_nothing(void **state)
{
	struct ip ip;
	uint32_t wait = 0;

	(void)state;
	assert_int_equal(ip_parse("192.0.2.1", &ip), 0);
	for (int i = 0; i < 10; i++)
		assert_true(limiter_has_ip(&l, &ip, 1000, &wait));
	for (int i = 0; i < 3; i++)
		assert_true(limiter_take_ip(&l, &ip, 1000, &wait));
	assert_false(limiter_has_ip(&l, &ip, 1000, &wait));
	assert_in_range(wait, 1, 1001);
	assert_int_equal(l.n_refused, 1);
	assert_true(limiter_has_ip(&l, &ip, 1000 + wait, &wait));
	assert_true(limiter_take_ip(&l, &ip, 2001, &wait));
	assert_false(limiter_take_ip(&l, &ip, 2001, &wait));
}

static void who_waits_as_told_is_served(void **state)
{
	uint32_t wait;

	(void)state;
	while (limiter_take(&l, "a", 1, 5, &wait))
		;
	assert_true(limiter_take(&l, "a", 1, 5 + wait, &wait));
}

static void nobody_saves_more_than_the_burst(void **state)
{
	int n = 0;

	(void)state;
	assert_true(take("a", 1));
	while (take("a", 1000000000))
		n++;
	assert_int_equal(n, 3);
}

static bool take_ip(const char *text)
{
	uint32_t wait;
	struct ip ip;

	assert_int_equal(ip_parse(text, &ip), 0);
	return limiter_take_ip(&l, &ip, 1000, &wait);
}

/* Who has one of its addresses has 2^64 of them. */
static void a_network_of_ipv6_is_one_address(void **state)
{
	(void)state;
	assert_true(take_ip("2001:db8::1"));
	assert_true(take_ip("2001:db8::2"));
	assert_true(take_ip("2001:db8::1:0:0:3"));
	assert_false(take_ip("2001:db8::4"));
	assert_true(take_ip("2001:db8:0:1::4"));
	for (int i = 0; i < 3; i++)
		assert_true(take_ip("10.0.0.1"));
	assert_false(take_ip("10.0.0.1"));
	assert_true(take_ip("10.0.0.2"));
}

static void another_rate_counts_at_once(void **state)
{
	uint32_t wait;

	(void)state;
	while (limiter_take(&l, "a", 1, 5, &wait))
		;
	limiter_set(&l, 6, 3600000);
	assert_true(limiter_take(&l, "a", 1, 6, &wait));
	limiter_set(&l, 0, 0);
	assert_true(limiter_take(&l, "b", 1, 6, &wait));
	assert_false(limiter_take(&l, "b", 1, 6, &wait));
	assert_true(wait > 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_burst_and_then_one_at_a_time, setup),
		cmocka_unit_test_setup(who_looks_takes_nothing, setup),
		cmocka_unit_test_setup(who_waits_as_told_is_served, setup),
		cmocka_unit_test_setup(nobody_saves_more_than_the_burst, setup),
		cmocka_unit_test_setup(a_network_of_ipv6_is_one_address, setup),
		cmocka_unit_test_setup(another_rate_counts_at_once, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

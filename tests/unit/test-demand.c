#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proxy/demand.h"

/* The world around a demand: which names are subscribed, what is absent, what the mesh knows. */
static struct {
	char subscribed[8][DEMAND_NAME_LEN];
	size_t n_subscribed;
	unsigned n_unsubscribed;
	unsigned n_again;
	struct ip absent[8];
	size_t n_absent;
	struct ip known[8];
	size_t n_known;
	int refuse;
} world;

static int subscribe(void *data, const char *name)
{
	(void)data;
	if (world.refuse)
		return world.refuse;
	snprintf(world.subscribed[world.n_subscribed++ % 8], DEMAND_NAME_LEN, "%s", name);
	return 0;
}

static void unsubscribe(void *data, const char *name)
{
	(void)data;
	(void)name;
	world.n_unsubscribed++;
}

static void ask_again(void *data, const char *name)
{
	(void)data;
	(void)name;
	world.n_again++;
}

static void set_absent(void *data, const struct ip *ip, bool absent)
{
	(void)data;
	for (size_t i = 0; i < world.n_absent; i++)
		if (ip_equal(&world.absent[i], ip)) {
			assert_false(absent);
			world.absent[i] = world.absent[--world.n_absent];
			return;
		}
	assert_true(absent);
	world.absent[world.n_absent++] = *ip;
}

static bool known(void *data, const struct ip *ip)
{
	(void)data;
	for (size_t i = 0; i < world.n_known; i++)
		if (ip_equal(&world.known[i], ip))
			return true;
	return false;
}

static const struct demand_ops ops = { subscribe, unsubscribe, ask_again, set_absent, known };
static const struct ip a = { .b = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1 } };
static const struct ip b = { .b = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = 2 } };

static int setup(void **state)
{
	static struct demand d;

	memset(&world, 0, sizeof(world));
	demand_init(&d, "", &ops, NULL);
	*state = &d;
	return 0;
}

static int teardown(void **state)
{
	demand_deinit(*state);
	assert_int_equal(world.n_absent, 0);	/* nothing of it stays behind */
	return 0;
}

static void asking_twice_subscribes_once(void **state)
{
	struct demand *d = *state;

	assert_int_equal(demand_want(d, &a, 0), 0);
	assert_int_equal(demand_want(d, &a, 5), 0);
	assert_int_equal(world.n_subscribed, 1);
	assert_string_equal(world.subscribed[0], "/10.0.0.1");
}

static void an_answer_without_a_resource_means_absent(void **state)
{
	struct demand *d = *state;

	assert_int_equal(demand_want(d, &a, 0), 0);
	demand_review(d, 1);
	assert_int_equal(world.n_absent, 0);	/* not answered yet */
	demand_answered(d, "/10.0.0.1");
	demand_review(d, 2);
	assert_int_equal(world.n_absent, 1);
}

static void an_alias_that_came_under_its_own_name_is_not_absent(void **state)
{
	struct demand *d = *state;

	assert_int_equal(demand_want(d, &a, 0), 0);
	world.known[world.n_known++] = a;	/* put() came first */
	demand_answered(d, "/10.0.0.1");
	demand_review(d, 1);
	assert_int_equal(world.n_absent, 0);
}

static void what_appears_later_is_withdrawn_and_what_goes_is_absent_again(void **state)
{
	struct demand *d = *state;

	assert_int_equal(demand_want(d, &a, 0), 0);
	demand_answered(d, "/10.0.0.1");
	demand_review(d, 1);
	assert_int_equal(world.n_absent, 1);
	world.known[world.n_known++] = a;
	demand_review(d, 2);
	assert_int_equal(world.n_absent, 0);
	world.n_known = 0;
	demand_review(d, 3);
	assert_int_equal(world.n_absent, 1);
}

static void idle_absent_ones_are_forgotten_and_used_ones_kept(void **state)
{
	struct demand *d = *state;

	assert_int_equal(demand_want(d, &a, 0), 0);
	assert_int_equal(demand_want(d, &b, 0), 0);
	demand_answered(d, "/10.0.0.1");
	demand_answered(d, "/10.0.0.2");
	demand_review(d, 0);
	assert_true(demand_used(d, &b, 900));
	assert_false(demand_used(d, &(struct ip){ .b = { 0x20, 1 } }, 900));	/* nobody has asked for it */
	demand_sweep(d, 1000, 500);
	assert_int_equal(world.n_unsubscribed, 1);
	assert_int_equal(world.n_absent, 1);
	assert_int_equal(demand_want(d, &a, 1001), 0);
	assert_int_equal(world.n_subscribed, 3);
}

static void an_absent_one_that_is_dialled_on_is_asked_again_ever_more_rarely(void **state)
{
	struct demand *d = *state;
	uint64_t now_ms = 0;

	assert_int_equal(demand_want(d, &a, 0), 0);
	demand_answered(d, "/10.0.0.1");
	demand_review(d, 0);
	for (; now_ms < 2 * DEMAND_AGAIN_MIN_MS; now_ms += 100)		/* nobody dials it */
		demand_sweep(d, now_ms, 100000);
	assert_int_equal(world.n_again, 0);
	for (; now_ms < 10 * DEMAND_AGAIN_MAX_MS; now_ms += 100) {
		assert_true(demand_used(d, &a, now_ms));
		demand_sweep(d, now_ms, 100000);
	}
	assert_in_range(world.n_again, 9, 30);
	unsigned so_far = world.n_again;
	world.known[world.n_known++] = a;	/* it came, and went: soon again */
	demand_review(d, now_ms);
	world.n_known = 0;
	demand_review(d, now_ms);
	assert_true(demand_used(d, &a, now_ms + DEMAND_AGAIN_MIN_MS));
	demand_sweep(d, now_ms + DEMAND_AGAIN_MIN_MS, 100000);
	assert_int_equal(world.n_again, so_far + 1);
}

static void what_is_known_or_not_answered_stays(void **state)
{
	struct demand *d = *state;

	assert_int_equal(demand_want(d, &a, 0), 0);
	assert_int_equal(demand_want(d, &b, 0), 0);
	world.known[world.n_known++] = a;
	demand_review(d, 0);
	demand_sweep(d, 1000000, 1);
	assert_int_equal(world.n_unsubscribed, 0);
}

static void a_guest_that_scans_is_bounded(void **state)
{
	struct demand *d = *state;

	for (unsigned i = 0; i < DEMAND_MAX; i++) {
		struct ip ip = ip_from_v4((uint8_t[]){ 11, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i });

		assert_int_equal(demand_want(d, &ip, 0), 0);
	}
	assert_int_equal(demand_want(d, &a, 0), -E2BIG);
	assert_int_equal(d->refused, 1);
}

static void a_refused_subscription_leaves_nothing(void **state)
{
	struct demand *d = *state;

	world.refuse = -ENOTCONN;
	assert_int_equal(demand_want(d, &a, 0), -ENOTCONN);
	world.refuse = 0;
	assert_int_equal(demand_want(d, &a, 0), 0);
	assert_int_equal(world.n_subscribed, 1);
}

static void names_are_network_and_address(void **state)
{
	struct demand d;
	struct ip ip;

	(void)state;
	demand_init(&d, "net", &ops, NULL);
	assert_true(demand_parse(&d, "net/10.0.0.1", &ip));
	assert_true(ip_equal(&ip, &a));
	assert_false(demand_parse(&d, "/10.0.0.1", &ip));
	assert_false(demand_parse(&d, "net/host", &ip));
	assert_false(demand_parse(&d, "vm/a", &ip));
	assert_true(demand_parse(&d, "net/2001:db8::1", &ip));
	demand_deinit(&d);
}

#define WITH_DEMAND(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		WITH_DEMAND(asking_twice_subscribes_once),
		WITH_DEMAND(an_answer_without_a_resource_means_absent),
		WITH_DEMAND(an_alias_that_came_under_its_own_name_is_not_absent),
		WITH_DEMAND(what_appears_later_is_withdrawn_and_what_goes_is_absent_again),
		WITH_DEMAND(idle_absent_ones_are_forgotten_and_used_ones_kept),
		WITH_DEMAND(an_absent_one_that_is_dialled_on_is_asked_again_ever_more_rarely),
		WITH_DEMAND(what_is_known_or_not_answered_stays),
		WITH_DEMAND(a_guest_that_scans_is_bounded),
		WITH_DEMAND(a_refused_subscription_leaves_nothing),
		cmocka_unit_test(names_are_network_and_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

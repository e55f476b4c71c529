#include "lib/unit.h"

#include "mesh/health.h"

static const struct health_rule rule = { .interval_ms = 10000, .timeout_ms = 1000, .successes = 2, .failures = 3 };

/* Plays results, one a second: "+" succeeds, "-" fails. Returns how many of them were news. */
static unsigned play(struct health *h, const char *results, int64_t *now_ms)
{
	unsigned news = 0;

	for (; *results; results++) {
		*now_ms += 1000;
		news += health_note(h, &rule, *results == '+', "refused", *now_ms);
	}
	return news;
}

static void it_takes_successes_in_a_row_to_be_healthy(void **state)
{
	struct health h;
	int64_t now = 5;

	(void)state;
	health_init(&h, now);
	assert_int_equal(h.state, HEALTH_WAITING);
	assert_int_equal(play(&h, "+", &now), 0);
	assert_int_equal(h.state, HEALTH_WAITING);
	assert_int_equal(play(&h, "-+", &now), 1);	/* the reason is news */
	assert_string_equal(h.reason, "refused");
	assert_int_equal(h.state, HEALTH_WAITING);
	assert_int_equal(play(&h, "+", &now), 1);
	assert_int_equal(h.state, HEALTH_UP);
	assert_int_equal(h.since_ms, now);
	assert_string_equal(h.reason, "");
}

static void it_takes_failures_in_a_row_to_be_unhealthy(void **state)
{
	struct health h;
	int64_t now = 0, since;

	(void)state;
	health_init(&h, now);
	assert_int_equal(play(&h, "++", &now), 1);
	since = now;
	assert_int_equal(play(&h, "--+--+--", &now), 0);
	assert_int_equal(h.state, HEALTH_UP);
	assert_int_equal(h.since_ms, since);
	assert_int_equal(play(&h, "-", &now), 1);
	assert_int_equal(h.state, HEALTH_DOWN);
	assert_int_equal(h.since_ms, now);
	assert_string_equal(h.reason, "refused");
	assert_int_equal(play(&h, "--------", &now), 0);
}

static void what_flaps_is_news_once(void **state)
{
	struct health h;
	int64_t now = 0;

	(void)state;
	health_init(&h, now);
	assert_int_equal(play(&h, "---", &now), 2);	/* why it waits, and that it is unhealthy */
	assert_int_equal(h.state, HEALTH_DOWN);
	assert_int_equal(play(&h, "+-+-+-+-+-", &now), 0);
	assert_int_equal(play(&h, "++", &now), 1);
	assert_int_equal(play(&h, "-+-+-+-+", &now), 0);
	assert_int_equal(h.state, HEALTH_UP);
}

static void what_waits_is_looked_at_more_often(void **state)
{
	const struct health_rule quick = { .interval_ms = 100, .successes = 1, .failures = 1 };
	struct health h;
	int64_t now = 0;

	(void)state;
	health_init(&h, now);
	assert_int_equal(health_next_ms(&h, &rule), HEALTH_WAITING_MS);
	assert_int_equal(health_next_ms(&h, &quick), 100);
	play(&h, "++", &now);
	assert_int_equal(health_next_ms(&h, &rule), 10000);
	play(&h, "---", &now);
	assert_int_equal(health_next_ms(&h, &rule), 10000);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_takes_successes_in_a_row_to_be_healthy),
		cmocka_unit_test(it_takes_failures_in_a_row_to_be_unhealthy),
		cmocka_unit_test(what_flaps_is_news_once),
		cmocka_unit_test(what_waits_is_looked_at_more_often),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

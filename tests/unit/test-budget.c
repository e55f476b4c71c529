/*
 * Budgets of VMs: shares of a turn, messages, descriptors.
 */
#include "lib/unit.h"

#include <string.h>

#include "base/pace.h"
#include "proxy/budget.h"
#include "proxy/share.h"

enum { N = 3 };

static struct share_turn turn;
static struct share of[N];

static int setup(void **state)
{
	(void)state;
	share_init(&turn);
	for (int i = 0; i < N; i++)
		of[i] = (struct share){};
	return 0;
}

/* As many units as it may have in this turn, at most @max. */
static uint32_t take(struct share *s, uint32_t max)
{
	uint32_t n = 0;

	while (n < max && share_left(&turn, s)) {
		share_use(&turn, s, 1);
		n++;
	}
	return n;
}

static void one_alone_may_take_much(void **state)
{
	(void)state;
	assert_int_equal(take(&of[0], 100000), SHARE_ALONE);
	assert_false(share_contended(&turn));
	share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), SHARE_ALONE);
}

static void two_have_their_shares(void **state)
{
	(void)state;
	assert_true(share_left(&turn, &of[0]));
	assert_true(share_left(&turn, &of[1]));
	assert_true(share_contended(&turn));
	assert_int_equal(take(&of[0], 100000), SHARE);
	assert_int_equal(take(&of[1], 100000), SHARE);
	share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), SHARE);
}

static void a_neighbour_that_comes_late_ends_it(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++) {
		assert_int_equal(take(&of[0], 3 * SHARE), 3 * SHARE);
		share_next_turn(&turn);
	}
	assert_true(share_left(&turn, &of[1]));
	assert_int_equal(take(&of[0], 100000), 0);	/* what it has just had counts */
	share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), 0);
	share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), SHARE);
}

static void who_was_there_a_window_ago_still_counts(void **state)
{
	(void)state;
	take(&of[0], 1);
	take(&of[1], 1);
	share_next_window(&turn);
	share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), SHARE);
	share_next_window(&turn);	/* only one came in the last one */
	share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), SHARE_ALONE);
}

static void many_have_a_share_each(void **state)
{
	enum { MANY = 1000 };
	struct share many[MANY] = {};

	(void)state;
	for (int i = 0; i < MANY; i++)
		assert_true(share_left(&turn, &many[i]));
	for (int i = 0; i < MANY; i++)
		assert_int_equal(take(&many[i], 100000), SHARE);
}

static void bytes_are_work_too(void **state)
{
	(void)state;
	take(&of[1], 1);
	assert_true(share_left(&turn, &of[0]));
	share_use_bytes(&turn, &of[0], SHARE_BYTES - 1);
	assert_int_equal(of[0].used, 0);
	share_use_bytes(&turn, &of[0], (size_t)SHARE_BYTES * SHARE * 2);
	assert_false(share_left(&turn, &of[0]));
	share_next_turn(&turn);
	share_next_turn(&turn);
	assert_true(share_left(&turn, &of[0]));
}

static uint32_t accept_all(struct share *s)
{
	uint32_t n;

	for (n = 0; share_left(&turn, s); n++)
		share_use_connection(&turn, s, SHARE_ACCEPT);
	return n;
}

static void few_connections_begin_in_a_turn_among_neighbours(void **state)
{
	uint32_t alone = accept_all(&of[0]);

	(void)state;
	assert_int_equal(alone, SHARE_ALONE / (SHARE_ACCEPT / SHARE_TOGETHER));
	take(&of[1], 1);
	for (int i = 0; i <= SHARE_DEBT; i++)
		share_next_turn(&turn);
	assert_int_equal(accept_all(&of[0]), SHARE / SHARE_ACCEPT);
}

static void what_was_taken_too_much_is_owed(void **state)
{
	uint32_t quota = SHARE;

	(void)state;
	take(&of[1], 1);
	assert_true(share_left(&turn, &of[0]));
	share_use(&turn, &of[0], 3 * quota);		/* at one event */
	assert_false(share_left(&turn, &of[0]));
	share_next_turn(&turn);
	assert_false(share_left(&turn, &of[0]));
	share_next_turn(&turn);
	assert_false(share_left(&turn, &of[0]));
	share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), quota);

	share_use(&turn, &of[0], UINT32_MAX / 2);	/* and no debt is for ever */
	for (int i = 0; i < SHARE_DEBT; i++) {
		share_next_turn(&turn);
		assert_false(share_left(&turn, &of[0]));
	}
	share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), quota);

	share_use(&turn, &of[0], 100 * quota);
	for (int i = 0; i <= SHARE_DEBT; i++)	/* it did not even ask meanwhile */
		share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), quota);
}

static void a_read_that_was_too_much_work_makes_the_next_one_smaller(void **state)
{
	enum { MOST = 256 * 1024 };
	uint32_t max = MOST;

	(void)state;
	max = share_read_max(max, SHARE, true, MOST);
	assert_int_equal(max, MOST);
	max = share_read_max(max, SHARE + 1, true, MOST);
	assert_int_equal(max, MOST / 2);
	assert_int_equal(share_read_max(max, SHARE, false, MOST), max);		/* nothing more was there: who knows */
	assert_int_equal(share_read_max(max, SHARE, true, MOST), MOST);
	for (int i = 0; i < 40; i++)
		max = share_read_max(max, UINT32_MAX, true, MOST);
	assert_int_equal(max, SHARE_READ_LEAST);
}

static void numbers_of_turns_may_wrap(void **state)
{
	(void)state;
	turn.turn = UINT32_MAX;
	take(&of[1], 1);
	take(&of[0], 100000);
	share_next_turn(&turn);
	share_next_turn(&turn);
	assert_int_equal(take(&of[0], 100000), SHARE);
}

/* --- rates --- */

/* As many as may come at @now_ms, at most @max. */
static int come(struct pace *p, uint32_t rate, uint64_t now_ms, int max)
{
	const struct pace_rate r = { .per_s = rate, .burst_ms = 100 };
	int n = 0;

	while (n < max && pace_left(p, r, now_ms)) {
		pace_take(p, r, 1, now_ms);
		n++;
	}
	return n;
}

static void a_rate_has_a_burst_and_no_end(void **state)
{
	struct pace p = {};

	(void)state;
	assert_int_equal(come(&p, 100, 5000, 1000), 11);	/* one is due, and those of 100 ms */
	assert_int_equal(come(&p, 100, 5009, 1000), 0);
	assert_int_equal(come(&p, 100, 5010, 1000), 1);
	assert_int_equal(come(&p, 100, 5060, 1000), 5);
	assert_int_equal(come(&p, 100, 3600000, 1000), 11);	/* an hour of rest is no credit */
	assert_int_equal(come(&p, 0, 3600000, 1000), 1000);
	assert_int_equal(come(&p, UINT32_MAX, 3700000, 1000), 1000);
	assert_int_equal(come(&p, 1, 3800000, 1000), 1);
	assert_int_equal(come(&p, 1, 3800899, 1000), 0);
	assert_int_equal(come(&p, 1, 3800900, 1000), 1);
}

static void what_comes_is_counted_in_any_unit(void **state)
{
	const struct pace_rate mib = { .per_s = 1 << 20, .burst_ms = 1000 };
	struct pace p = {};

	(void)state;
	pace_take(&p, mib, 2 << 20, 5000);		/* at once: more than may come, which is known only afterwards */
	assert_int_equal(pace_wait_ms(&p, mib, 5000), 1000);
	assert_false(pace_left(&p, mib, 5999));
	assert_true(pace_left(&p, mib, 6000));
	pace_take(&p, mib, 1 << 19, 6000);
	assert_int_equal(pace_wait_ms(&p, mib, 6100), 400);
	assert_int_equal(pace_wait_ms(&p, (struct pace_rate){}, 6100), 0);
}

/* --- messages --- */

static void a_budget_is_spoken_of_once_in_a_while(void **state)
{
	struct budget_watch w = {};

	(void)state;
	assert_int_equal(budget_watch_due(&w, VM_B_CONNECTIONS, 0, 1), 0);
	assert_int_equal(budget_watch_due(&w, VM_B_CONNECTIONS, 3, 2), 3);
	assert_int_equal(budget_watch_due(&w, VM_B_CONNECTIONS, 9, 3), 0);
	assert_int_equal(budget_watch_due(&w, VM_B_BUFFERS, 1, 3), 1);		/* each on its own */
	assert_int_equal(budget_watch_due(&w, VM_B_CONNECTIONS, 9, 2 + BUDGET_QUIET_MS), 6);
	assert_int_equal(budget_watch_due(&w, VM_B_CONNECTIONS, 9, 2 + 3 * BUDGET_QUIET_MS), 0);
}

static void counters_that_begin_anew_are_understood(void **state)
{
	struct budget_watch w = {};

	(void)state;
	assert_int_equal(budget_watch_due(&w, VM_B_TUNNELS, 50, 1), 50);
	assert_int_equal(budget_watch_due(&w, VM_B_TUNNELS, 2, 1 + BUDGET_QUIET_MS), 2);
}

static void a_busy_vm_is_not_worth_a_message(void **state)
{
	struct budget_watch w = {};

	(void)state;
	assert_int_equal(budget_watch_due(&w, VM_B_TURN, 100, 1), 0);
	assert_int_equal(budget_watch_due(&w, VM_B_TURN, 50000, 2), 0);
	assert_int_equal(budget_watch_due(&w, VM_B_TURN, 50000, 1 + BUDGET_QUIET_MS), 49900);
}

static void every_budget_has_a_name(void **state)
{
	(void)state;
	for (int b = 0; b < _VM_BUDGET_N; b++)
		assert_true(strlen(vm_budget_name((enum vm_budget)b)) > 0);
}

/* --- descriptors --- */

static void one_peer_has_half_of_the_descriptors_at_most(void **state)
{
	(void)state;
	assert_int_equal(budget_connections(524288), 131072 + 131072 / 7);
	assert_int_equal(budget_connections(1024), 256 + 256 / 7);
	assert_int_equal(budget_connections(8), 16);
	assert_int_equal(budget_connections(UINT64_MAX), UINT32_MAX);
	assert_true(budget_idle_descriptors(1, 32) < budget_idle_descriptors(2, 32));
}

/* Few descriptors are for connections, not for sockets that lie ready. */
static void spare_sockets_leave_descriptors_to_connections(void **state)
{
	(void)state;
	assert_int_equal(budget_spare_sockets(524288, 2), 32);
	assert_int_equal(budget_spare_sockets(0, 2), 4);
	for (unsigned workers = 1; workers <= 16; workers++) {
		uint64_t least = budget_least_descriptors(workers);

		assert_true(least < 64 * (workers + 1) + 64);
		for (uint64_t limit = least; limit < 4096; limit++) {
			uint64_t idle = budget_idle_descriptors(workers, budget_spare_sockets(limit, workers));

			assert_true(idle + 32 <= limit);
		}
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, setup)
	static const struct CMUnitTest tests[] = {
		T(one_alone_may_take_much),
		T(two_have_their_shares),
		T(a_neighbour_that_comes_late_ends_it),
		T(who_was_there_a_window_ago_still_counts),
		T(many_have_a_share_each),
		T(bytes_are_work_too),
		T(few_connections_begin_in_a_turn_among_neighbours),
		T(what_was_taken_too_much_is_owed),
		T(a_read_that_was_too_much_work_makes_the_next_one_smaller),
		T(numbers_of_turns_may_wrap),
		T(a_rate_has_a_burst_and_no_end), T(what_comes_is_counted_in_any_unit),
		T(a_budget_is_spoken_of_once_in_a_while),
		T(counters_that_begin_anew_are_understood),
		T(a_busy_vm_is_not_worth_a_message),
		T(every_budget_has_a_name),
		T(one_peer_has_half_of_the_descriptors_at_most),
		T(spare_sockets_leave_descriptors_to_connections),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

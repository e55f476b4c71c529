#include "lib/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/balance.h"

struct rig {
	struct snap_store *store;
	struct snapshot *snapshot;
	struct balance *balance;
	struct snap_route route;
	struct balance_ask ask;
};

struct ep {
	const char *uid;
	uint32_t capacity;
	bool unhealthy;
	const char *zone;
	const char *node;
	const char *network;
};

static void put(struct snap_store *st, const struct ep *e, unsigned i)
{
	struct ip ip = ip_from_v4((uint8_t[]){ 10, 0, 0, (uint8_t)(i + 1) });
	struct port_map port = { 80, 8080, APP_TCP };
	struct workload_service service = { "shop/web", &port, 1 };
	struct workload w = {
		.uid = e->uid, .name = e->uid, .namespace = "shop", .network = e->network ? e->network : "", .trust_domain = "td", .service_account = "web",
		.addresses = &ip, .n_addresses = 1, .unhealthy = e->unhealthy, .capacity = e->capacity,
		.services = &service, .n_services = 1, .locality = { "r", e->zone, "" }, .node = e->node,
	};

	assert_int_equal(snap_store_put_workload(st, &w), 0);
}

static void refresh(struct rig *r)
{
	struct ip_port dst = { ip_from_v4((uint8_t[]){ 10, 96, 0, 1 }), 80 };

	snapshot_unref(r->snapshot);
	assert_int_equal(snap_store_publish(r->store, &r->snapshot), 0);
	assert_int_equal(snapshot_route(r->snapshot, &dst, &r->route), 0);
	r->ask.snapshot = r->snapshot;
	r->ask.route = &r->route;
}

static void rig_init(struct rig *r, enum balance_method method, const struct ep *eps, size_t n, const struct service *like)
{
	struct service_address vip = { "", ip_from_v4((uint8_t[]){ 10, 96, 0, 1 }), 128 };
	struct port_map port = { 80, 8080, APP_TCP };
	struct service s = like ? *like : (struct service){};

	*r = (struct rig){};
	s.name = s.hostname = "web";
	s.namespace = "shop";
	s.addresses = &vip;
	s.n_addresses = 1;
	s.ports = &port;
	s.n_ports = 1;
	assert_int_equal(snap_store_new("", &r->store), 0);
	assert_int_equal(balance_new(method, 42, &r->balance), 0);
	assert_int_equal(snap_store_put_service(r->store, &s), 0);
	for (unsigned i = 0; i < n; i++)
		put(r->store, &eps[i], i);
	refresh(r);
	r->ask.now_ms = 1000000;
}

static void rig_deinit(struct rig *r)
{
	balance_free(r->balance);
	snapshot_unref(r->snapshot);
	snap_store_free(r->store);
}

static const char *pick(struct rig *r)
{
	static char uids[4][SNAP_UID_LEN];	/* of the last four */
	static unsigned turn;
	char *uid = uids[turn++ % ELEMENTS(uids)];
	struct snap_endpoint e;

	return balance_pick(r->balance, &r->ask, &e) ? "" : snap_workload_uid(e.workload, uid);
}

/* How often each of "a", "b", "c", ... is picked. */
static void count(struct rig *r, unsigned n, unsigned counts[static 26])
{
	memset(counts, 0, 26 * sizeof(*counts));
	for (unsigned i = 0; i < n; i++) {
		const char *uid = pick(r);

		assert_int_not_equal(*uid, 0);
		counts[*uid - 'a']++;
	}
}

static const struct ep three[] = { { "a", 1 }, { "b", 1 }, { "c", 1 } };

static void round_robin_takes_turns(void **state)
{
	struct rig r;
	unsigned counts[26];

	(void)state;
	rig_init(&r, BALANCE_ROUND_ROBIN, three, 3, NULL);
	count(&r, 30, counts);
	for (int i = 0; i < 3; i++)
		assert_int_equal(counts[i], 10);

	const char *first = pick(&r), *second = pick(&r), *third = pick(&r);
	assert_string_not_equal(first, second);
	assert_string_not_equal(second, third);
	assert_string_equal(first, pick(&r));
	rig_deinit(&r);
}

static void round_robin_keeps_to_the_weights(void **state)
{
	const struct ep eps[] = { { "a", 1 }, { "b", 2 }, { "c", 5 }, { "d", 0 } };
	struct rig r;
	unsigned counts[26];

	(void)state;
	rig_init(&r, BALANCE_ROUND_ROBIN, eps, 4, NULL);
	count(&r, 80, counts);
	assert_int_equal(counts[0], 10);
	assert_int_equal(counts[1], 20);
	assert_int_equal(counts[2], 50);
	assert_int_equal(counts[3], 0);
	rig_deinit(&r);
}

static void least_request_spreads_and_prefers_the_idle(void **state)
{
	struct ep eps[20];
	char names[20][2];
	struct rig r;
	unsigned counts[26];

	(void)state;
	for (int i = 0; i < 20; i++) {
		names[i][0] = (char)('a' + i);
		names[i][1] = 0;
		eps[i] = (struct ep){ names[i], 1 };
	}
	rig_init(&r, BALANCE_LEAST_REQUEST, eps, 20, NULL);
	count(&r, 2000, counts);
	for (int i = 0; i < 20; i++)
		assert_in_range(counts[i], 50, 150);

	/* Open ones count: after 2000 connections no endpoint is far from 100 (random picks alone would be). */
	for (int i = 0; i < 2000; i++) {
		struct snap_endpoint e;

		assert_int_equal(balance_pick(r.balance, &r.ask, &e), 0);
		assert_int_equal(balance_opened(r.balance, e.workload->id), 0);
	}
	for (uint32_t i = 0; i < 20; i++)
		assert_in_range(balance_n_open(r.balance, snap_service_endpoint(r.route.service, i)->id), 95, 105);
	rig_deinit(&r);
}

/* Of two, four draws are often the same one, and all are looked at: none has the first place there. */
static void least_request_favours_none_of_two(void **state)
{
	const struct ep eps[] = { { "a", 1 }, { "b", 1 } };
	struct rig r;
	unsigned counts[26];

	(void)state;
	rig_init(&r, BALANCE_LEAST_REQUEST, eps, 2, NULL);
	count(&r, 10000, counts);
	assert_in_range(counts[0], 4800, 5200);
	rig_deinit(&r);
}

static void least_request_is_fair_by_weight(void **state)
{
	const struct ep eps[] = { { "a", 1 }, { "b", 3 } };
	struct rig r;
	unsigned counts[26] = {};

	(void)state;
	rig_init(&r, BALANCE_LEAST_REQUEST, eps, 2, NULL);
	for (int i = 0; i < 400; i++) {
		struct snap_endpoint e;

		assert_int_equal(balance_pick(r.balance, &r.ask, &e), 0);
		assert_int_equal(balance_opened(r.balance, e.workload->id), 0);
		counts[*snap_workload_uid(e.workload, (char[SNAP_UID_LEN]){ 0 }) - 'a']++;
	}
	assert_in_range(counts[0], 95, 105);
	rig_deinit(&r);
}

/* Of three only "b" may be picked; when it is as in @now, none is: @why. */
static void only_b_until(struct rig *r, const struct ep *now, int why)
{
	struct snap_endpoint e;
	unsigned counts[26];

	count(r, 20, counts);
	assert_int_equal(counts[1], 20);
	put(r->store, now, 1);
	refresh(r);
	assert_int_equal(balance_pick(r->balance, &r->ask, &e), why);
}

static void the_unhealthy_are_left_alone(void **state)
{
	const struct ep eps[] = { { "a", 1, true }, { "b", 1 }, { "c", 1, true } };
	const struct service any = { .allow_unhealthy = true };
	unsigned counts[26];
	struct rig r;

	(void)state;
	for (int method = 0; method < 2; method++) {
		rig_init(&r, (enum balance_method)method, eps, 3, NULL);
		only_b_until(&r, &(struct ep){ "b", 1, true }, BALANCE_E_UNHEALTHY);
		rig_deinit(&r);

		rig_init(&r, (enum balance_method)method, eps, 3, &any);
		count(&r, 60, counts);
		assert_true(counts[0] && counts[1] && counts[2]);
		rig_deinit(&r);
	}
}

static void what_is_on_another_network_is_not_dialled(void **state)
{
	const struct ep eps[] = { { "a", 1, .network = "far" }, { "b", 1 }, { "c", 1, .network = "far" } };
	struct snap_endpoint e;
	struct rig r;

	(void)state;
	for (int method = 0; method < 2; method++) {
		rig_init(&r, (enum balance_method)method, eps, 3, NULL);
		only_b_until(&r, &(struct ep){ "b", 1, .network = "far" }, BALANCE_E_ELSEWHERE);
		put(r.store, &(struct ep){ "b", 1, true }, 1);
		refresh(&r);
		assert_int_equal(balance_pick(r.balance, &r.ask, &e), BALANCE_E_UNHEALTHY);
		rig_deinit(&r);
	}
}

static void what_was_tried_is_not_picked_again(void **state)
{
	struct snap_endpoint e;
	uint32_t tried[BALANCE_TRIED_MAX];
	struct rig r;

	(void)state;
	for (int method = 0; method < 2; method++) {
		rig_init(&r, (enum balance_method)method, three, 3, NULL);
		r.ask.tried = tried;
		for (int i = 0; i < 3; i++) {
			assert_int_equal(balance_pick(r.balance, &r.ask, &e), 0);
			for (size_t k = 0; k < r.ask.n_tried; k++)
				assert_int_not_equal(tried[k], e.workload->id);
			tried[r.ask.n_tried++] = e.workload->id;
		}
		assert_int_equal(balance_pick(r.balance, &r.ask, &e), BALANCE_E_TRIED);
		rig_deinit(&r);
	}
}

static void a_failed_one_rests_longer_each_time(void **state)
{
	const struct ep two[] = { { "a", 1 }, { "b", 1 } };
	struct rig r;
	unsigned counts[26];

	(void)state;
	rig_init(&r, BALANCE_LEAST_REQUEST, two, 2, NULL);
	uint32_t a = snapshot_workload(r.snapshot, "a")->id;
	uint32_t b = snapshot_workload(r.snapshot, "b")->id;

	balance_failed(r.balance, a, r.ask.now_ms);
	balance_failed(r.balance, a, r.ask.now_ms + 1);		/* of the same moment: no further failure */
	count(&r, 20, counts);
	assert_int_equal(counts[0], 0);
	r.ask.now_ms += 1000;
	assert_false(balance_is_out(r.balance, a, r.ask.now_ms));
	balance_failed(r.balance, a, r.ask.now_ms);
	assert_true(balance_is_out(r.balance, a, r.ask.now_ms + 1999));
	assert_false(balance_is_out(r.balance, a, r.ask.now_ms + 2000));

	/* When all rest, the one that is soonest to come back is taken. */
	balance_failed(r.balance, b, r.ask.now_ms);
	count(&r, 5, counts);
	assert_int_equal(counts[1], 5);

	for (int i = 0; i < 20; i++) {
		r.ask.now_ms += 30000;
		balance_failed(r.balance, a, r.ask.now_ms);
	}
	assert_true(balance_is_out(r.balance, a, r.ask.now_ms + 29999));
	assert_false(balance_is_out(r.balance, a, r.ask.now_ms + 30000));
	balance_succeeded(r.balance, a);
	assert_false(balance_is_out(r.balance, a, r.ask.now_ms));
	rig_deinit(&r);
}

static void only_what_is_not_idle_is_remembered(void **state)
{
	struct balance *b;
	unsigned seed = 5;
	static unsigned open[500];

	(void)state;
	assert_int_equal(balance_new(BALANCE_LEAST_REQUEST, 1, &b), 0);
	for (int i = 0; i < 20000; i++) {
		unsigned id = 1 + (unsigned)rand_r(&seed) % 499;

		if (open[id] && rand_r(&seed) % 2) {
			balance_closed(b, id);
			open[id]--;
		} else {
			assert_int_equal(balance_opened(b, id), 0);
			open[id]++;
		}
	}
	for (unsigned id = 1; id < 500; id++) {
		assert_int_equal(balance_n_open(b, id), open[id]);
		for (; open[id]; open[id]--)
			balance_closed(b, id);
	}
	assert_int_equal(balance_n_remembered(b), 0);
	balance_closed(b, 7);		/* once too often is harmless */
	balance_free(b);
}

static void locality_is_preferred_or_demanded(void **state)
{
	const struct ep eps[] = { { "a", 1, false, "z1", "n1" }, { "b", 1, false, "z1", "n2" }, { "c", 1, false, "z2", "n3" } };
	struct service s = { .lb_mode = LB_FAILOVER, .lb_preference = { LB_ZONE, LB_NODE }, .n_lb_preference = 2 };
	struct snap_endpoint e;
	unsigned counts[26];
	struct rig r;

	(void)state;
	rig_init(&r, BALANCE_LEAST_REQUEST, eps, 3, &s);
	r.ask.source = snapshot_workload(r.snapshot, "a");
	count(&r, 20, counts);
	assert_int_equal(counts[0], 20);		/* same zone and node */
	put(r.store, &(struct ep){ "a", 1, true, "z1", "n1" }, 0);
	refresh(&r);
	r.ask.source = snapshot_workload(r.snapshot, "a");
	count(&r, 20, counts);
	assert_int_equal(counts[1], 20);		/* same zone */
	put(r.store, &(struct ep){ "b", 1, true, "z1", "n2" }, 1);
	refresh(&r);
	r.ask.source = snapshot_workload(r.snapshot, "a");
	count(&r, 20, counts);
	assert_int_equal(counts[2], 20);		/* anybody */
	rig_deinit(&r);

	s.lb_mode = LB_STRICT;
	rig_init(&r, BALANCE_ROUND_ROBIN, eps, 3, &s);
	r.ask.source = snapshot_workload(r.snapshot, "c");
	count(&r, 20, counts);
	assert_int_equal(counts[2], 20);
	put(r.store, &(struct ep){ "c", 1, true, "z2", "n3" }, 2);
	refresh(&r);
	r.ask.source = snapshot_workload(r.snapshot, "c");
	assert_int_equal(balance_pick(r.balance, &r.ask, &e), BALANCE_E_UNHEALTHY);
	rig_deinit(&r);
}

static void a_port_that_nobody_serves_has_no_endpoint(void **state)
{
	struct snap_endpoint e;
	struct rig r;

	(void)state;
	rig_init(&r, BALANCE_LEAST_REQUEST, NULL, 0, NULL);
	assert_int_equal(balance_pick(r.balance, &r.ask, &e), BALANCE_E_NONE);
	rig_deinit(&r);

	rig_init(&r, BALANCE_LEAST_REQUEST, three, 3, NULL);
	const struct snap_port other = { 81, 81, APP_TCP };
	r.route.port = &other;
	assert_int_equal(balance_pick(r.balance, &r.ask, &e), BALANCE_E_NONE);
	rig_deinit(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_robin_takes_turns),
		cmocka_unit_test(round_robin_keeps_to_the_weights),
		cmocka_unit_test(least_request_spreads_and_prefers_the_idle),
		cmocka_unit_test(least_request_favours_none_of_two),
		cmocka_unit_test(least_request_is_fair_by_weight),
		cmocka_unit_test(the_unhealthy_are_left_alone),
		cmocka_unit_test(what_is_on_another_network_is_not_dialled),
		cmocka_unit_test(what_was_tried_is_not_picked_again),
		cmocka_unit_test(a_failed_one_rests_longer_each_time),
		cmocka_unit_test(only_what_is_not_idle_is_remembered),
		cmocka_unit_test(locality_is_preferred_or_demanded),
		cmocka_unit_test(a_port_that_nobody_serves_has_no_endpoint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

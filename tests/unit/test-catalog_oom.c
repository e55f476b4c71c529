/*
 * Guests and the catalog while allocations fail: no crash, no leak (ASan
 * flavour), and a claim is there whole or not at all.
 */
#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/catalog.h"
#include "lib/alloc.h"

enum { SECOND = 1000 };

struct world {
	struct guest_table guests;
	struct catalog catalog;
	unsigned n_claimed, n_gone;
};

static void on_guest_changed(struct guest *g, void *data)
{
	catalog_guest_changed(&((struct world *)data)->catalog, g, 0);
}

static void on_guest_gone(struct guest *g, const char *reason, void *data)
{
	catalog_guest_gone(&((struct world *)data)->catalog, g, reason);
}

static void on_claimed(struct claim *c, void *data)
{
	if (strcmp(c->service, "orders"))
		fail_msg("a claim of \"%s\"", c->service);
	((struct world *)data)->n_claimed++;
}

static void on_changed(struct claim *c, void *data)
{
	(void)c;
	(void)data;
}

static void on_gone(struct claim *c, const char *reason, void *data)
{
	(void)c;
	(void)reason;
	((struct world *)data)->n_gone++;
}

static void on_lookup(struct catalog_guest *g, const struct lookup *l, void *data)
{
	(void)g;
	(void)l;
	(void)data;
}

static struct ip ip(const char *text)
{
	struct ip a;

	assert_int_equal(ip_parse(text, &a), 0);
	return a;
}

static int see(struct world *w, struct guest *g, enum observation_kind kind, const char *protocol, const char *instance, const char *address)
{
	static const struct observation_meta meta[] = { { "zone", "a" }, { "version", "2" } };
	struct observation o = {
		.kind = kind, .protocol = protocol, .service = "orders", .instance = instance, .address = ip(address), .port = 8080,
		.transport = "tcp", .app_protocol = "http", .ttl_s = 30, .metadata = meta, .n_metadata = 2, .guest = ip("10.0.0.1"),
		.frame = 1, .time_ns = 1000,
	};

	return catalog_observe(&w->catalog, g, &o, 1000000);
}

/* Two registries know the instance, it is looked up, renewed, withdrawn at one, and its guest leaves. */
static int live(struct world *w)
{
	struct guest_limits limits = { .per_nic = 100, .per_port = 10, .address_ms = 3600 * SECOND };
	struct guest_events gev = { .changed = on_guest_changed, .gone = on_guest_gone, .data = w };
	struct catalog_events cev = { .claimed = on_claimed, .changed = on_changed, .gone = on_gone, .looked_up = on_lookup, .data = w };
	struct guest_sighting s = { .link = { .port = "tap0", .mac = { 2, 0, 0, 0, 0, 1 } }, .source = GUEST_BY_ARP, .ip = ip("10.0.0.1") };
	static const struct { enum observation_kind kind; const char *protocol, *instance, *address; } life[] = {
		{ OBS_REGISTER, "zookeeper", "n-1" }, { OBS_REGISTER, "consul", "c-1" }, { OBS_DISCOVER, "dns", NULL }, { OBS_ANSWER, "dns", NULL },
		{ OBS_RENEW, "consul", "c-1" }, { OBS_REGISTER, "zookeeper", "n-2" }, { OBS_DEREGISTER, "zookeeper", "n-1" },
		{ OBS_REGISTER, "consul", "c-2", "10.0.0.7" },
	};
	struct guest *g;
	int r;

	*w = (struct world){};
	guest_table_init(&w->guests, "nic", NULL, 0, &limits, &gev);
	catalog_init(&w->catalog, &w->guests, &cev);
	r = guest_learn(&w->guests, &s, 0, &g);
	if (r == 0) {
		for (size_t i = 0; i < ELEMENTS(life); i++) {
			int e = see(w, g, life[i].kind, life[i].protocol, life[i].instance, life[i].address ?: "10.0.0.1");

			r = e < 0 ? e : r;
		}
		s.ip = ip("10.0.0.7");		/* and is seen with an address that it has told of */
		int e = guest_learn(&w->guests, &s, SECOND, &g);
		r = e < 0 ? e : r;
		catalog_expire(&w->catalog, 10 * SECOND);
	}
	catalog_deinit(&w->catalog);
	guest_table_deinit(&w->guests);
	return r;
}

static void every_allocation_may_fail(void **state)
{
	struct world w;
	size_t total;

	(void)state;
	alloc_fail_at(SIZE_MAX);
	assert_int_equal(live(&w), 0);
	total = alloc_fail_stop();
	assert_true(total > 5 && w.n_claimed > 0);
	unsigned n_claimed = w.n_claimed;
	for (size_t n = 1; n <= total; n++)
		for (int once = 0; once < 2; once++) {
			(once ? alloc_fail_once_at : alloc_fail_at)(n);
			int r = live(&w);
			alloc_fail_stop();
			assert_true(r == 0 || r == -ENOMEM);
			assert_true(w.n_claimed <= n_claimed);
			assert_true(w.n_gone <= w.n_claimed);
		}
}

/* Its client may never say it again. */
static void what_found_no_memory_is_tried_again(void **state)
{
	struct guest_limits limits = { .per_nic = 100, .per_port = 10, .address_ms = 3600 * SECOND };
	struct guest_sighting s = { .link = { .port = "tap0", .mac = { 2, 0, 0, 0, 0, 1 } }, .source = GUEST_BY_ARP, .ip = ip("10.0.0.1") };
	unsigned n_short = 0;

	(void)state;
	for (size_t n = 1;; n++) {
		struct world w = {};
		struct guest_events gev = { .changed = on_guest_changed, .gone = on_guest_gone, .data = &w };
		struct catalog_events cev = { .claimed = on_claimed, .changed = on_changed, .gone = on_gone, .looked_up = on_lookup, .data = &w };
		struct guest *g;

		guest_table_init(&w.guests, "nic", NULL, 0, &limits, &gev);
		catalog_init(&w.catalog, &w.guests, &cev);
		assert_int_equal(guest_learn(&w.guests, &s, 0, &g), 0);
		alloc_fail_once_at(n);
		int r = see(&w, g, OBS_REGISTER, "zookeeper", "n-1", "10.0.0.1");
		size_t needed = alloc_fail_stop();
		if (r == CATALOG_E_SHORT) {
			n_short++;
			assert_int_equal(w.n_claimed, 0);
			catalog_retry(&w.catalog, 2000000);
			assert_int_equal(w.n_claimed, 1);
			assert_int_equal(catalog_of(g)->n_waiting, 0);
		}
		catalog_deinit(&w.catalog);
		guest_table_deinit(&w.guests);
		if (needed < n)
			break;
	}
	assert_true(n_short > 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(every_allocation_may_fail), cmocka_unit_test(what_found_no_memory_is_tried_again) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}

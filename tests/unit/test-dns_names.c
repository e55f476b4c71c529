#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proxy/dns_names.h"

/* What the mesh has, and what it was asked. */
static struct {
	char has[DNS_NAMES_KEY_LEN];
	unsigned n_subscribed, n_unsubscribed, n_again;
	int refuse;
} world;

static int subscribe(void *data, const char *key)
{
	(void)data;
	(void)key;
	world.n_subscribed++;
	return world.refuse;
}

static void unsubscribe(void *data, const char *key)
{
	(void)data;
	(void)key;
	world.n_unsubscribed++;
}

static void ask_again(void *data, const char *key)
{
	(void)data;
	(void)key;
	world.n_again++;
}

static const struct snap_service *service(void *data, const char *key)
{
	static const struct snap_service s;

	(void)data;
	return strcmp(key, world.has) ? NULL : &s;
}

static const struct dns_names_ops ops = { .subscribe = subscribe, .unsubscribe = unsubscribe, .ask_again = ask_again, .service = service };

static const char *key_of(const char *name, char *const *domains, size_t n)
{
	static char key[DNS_NAMES_KEY_LEN];
	struct dns_name wire;

	assert_true(dns_name_parse(name, &wire));
	return dns_names_key(&wire, "shop", domains, n, key) ? key : "";
}

static void names_have_their_keys_by_domain(void **state)
{
	static char one[] = "example.com", two[] = "billing/pay.example", three[] = "svc.corp.local";
	static char *const domains[] = { one, two, three };
	static const struct { const char *name, *usual, *own; } rows[] = {
		{ "web.demo.svc.cluster.local", "demo/web.demo.svc.cluster.local", "" },
		{ "WEB.Demo.SVC.cluster.LOCAL", "demo/web.demo.svc.cluster.local", "" },
		{ "web.demo.svc", "demo/web.demo.svc.cluster.local", "demo/web.demo.svc.corp.local" },
		{ "web.demo.svc.corp.local", "", "demo/web.demo.svc.corp.local" },
		{ "pod-0.web.demo.svc.cluster.local", "", "" },
		{ "demo.svc.cluster.local", "", "" },
		{ "svc.cluster.local", "", "" },
		{ "web.demo", "", "" },
		{ "web", "", "" },
		{ "orders.shop.mesh.internal", "shop/orders.shop.mesh.internal", "" },
		{ "com.acme.orders.shop.mesh.internal", "shop/com.acme.orders.shop.mesh.internal", "" },
		{ "shop.mesh.internal", "", "" },
		{ "mesh.internal", "", "" },
		{ "amesh.internal", "", "" },
		{ "a.bmesh.internal", "", "" },
		{ "api.example.com", "", "shop/api.example.com" },
		{ "example.com", "", "shop/example.com" },
		{ "badexample.com", "", "" },
		{ "x.pay.example", "", "billing/x.pay.example" },
		{ "www.example.org", "", "" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		assert_string_equal(key_of(rows[i].name, NULL, 0), rows[i].usual);
		assert_string_equal(key_of(rows[i].name, domains, ELEMENTS(domains)), rows[i].own);
	}
}

static void names_that_no_host_has_are_none_of_ours(void **state)
{
	struct dns_name odd = { .len = 20, .wire = { 3, 'a', '.', 'b', 4, 's', 'h', 'o', 'p', 4, 'm', 'e', 's', 'h', 4, 'i', 'n', 't', 'e', 0 } };
	char key[DNS_NAMES_KEY_LEN];

	(void)state;
	assert_false(dns_names_key(&odd, "shop", NULL, 0, key));
	assert_string_equal(key_of("sp ace.shop.mesh.internal", NULL, 0), "");
	assert_string_equal(key_of("a/b.shop.mesh.internal", NULL, 0), "");
}

static int setup(void **state)
{
	static struct dns_names n;

	memset(&world, 0, sizeof(world));
	dns_names_init(&n, &ops, NULL);
	*state = &n;
	return 0;
}

static int teardown(void **state)
{
	dns_names_deinit(*state);
	return 0;
}

static void a_name_is_asked_for_once_and_then_known(void **state)
{
	struct dns_names *n = *state;
	const struct snap_service *s;

	assert_int_equal(dns_names_find(n, "a/x", 0, &s), DNS_FOUND_LATER);
	assert_int_equal(dns_names_find(n, "a/x", 1, &s), DNS_FOUND_LATER);
	assert_int_equal(world.n_subscribed, 1);
	dns_names_told(n, "a/y");
	assert_null(dns_names_next_told(n));
	dns_names_told(n, "a/x");
	dns_names_told(n, "a/x");
	assert_int_equal(dns_names_find(n, "a/x", 1, &s), DNS_FOUND_LATER);	/* it is not published yet */
	snprintf(world.has, sizeof(world.has), "a/x");
	assert_string_equal(dns_names_next_told(n), "a/x");
	assert_null(dns_names_next_told(n));
	assert_int_equal(dns_names_find(n, "a/x", 2, &s), DNS_FOUND);
	assert_int_equal(world.n_subscribed, 1);
	dns_names_sweep(n, 1000000, 1000);	/* what exists stays */
	assert_int_equal(world.n_unsubscribed, 0);
}

static void what_is_absent_is_asked_for_again_with_growing_delays(void **state)
{
	struct dns_names *n = *state;
	const struct snap_service *s;

	assert_int_equal(dns_names_find(n, "a/x", 0, &s), DNS_FOUND_LATER);
	dns_names_told(n, "a/x");
	assert_string_equal(dns_names_next_told(n), "a/x");
	for (uint64_t ms = 0; ms < 20000; ms += 10)
		assert_int_equal(dns_names_find(n, "a/x", ms, &s), DNS_FOUND_NOTHING);
	assert_true(world.n_again >= 2 && world.n_again <= 20);
	dns_names_sweep(n, 20500, 1000);
	assert_int_equal(world.n_unsubscribed, 0);
	dns_names_sweep(n, 30000, 1000);
	assert_int_equal(world.n_unsubscribed, 1);
	assert_int_equal(n->wants.n, 0);
}

static void there_are_not_more_names_than_may_be(void **state)
{
	struct dns_names *n = *state;
	const struct snap_service *s;
	char key[32];

	for (unsigned i = 0; i < DNS_NAMES_MAX + 3; i++) {
		snprintf(key, sizeof(key), "a/%u", i);
		assert_int_equal(dns_names_find(n, key, 0, &s), i < DNS_NAMES_MAX ? DNS_FOUND_LATER : DNS_FOUND_NOTHING);
	}
	assert_int_equal(n->refused, 3);
	assert_int_equal(world.n_subscribed, DNS_NAMES_MAX);
}

static void without_a_stream_there_is_nothing(void **state)
{
	struct dns_names *n = *state;
	const struct snap_service *s;

	world.refuse = -ENOTCONN;
	assert_int_equal(dns_names_find(n, "a/x", 0, &s), DNS_FOUND_NOTHING);
	snprintf(world.has, sizeof(world.has), "a/x");		/* but what is known is known */
	assert_int_equal(dns_names_find(n, "a/x", 0, &s), DNS_FOUND);
	assert_int_equal(n->wants.n, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_have_their_keys_by_domain),
		cmocka_unit_test(names_that_no_host_has_are_none_of_ours),
		cmocka_unit_test_setup_teardown(a_name_is_asked_for_once_and_then_known, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_absent_is_asked_for_again_with_growing_delays, setup, teardown),
		cmocka_unit_test_setup_teardown(there_are_not_more_names_than_may_be, setup, teardown),
		cmocka_unit_test_setup_teardown(without_a_stream_there_is_nothing, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "lib/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh/authz.h"

/* --- policies written short --- */

#define TEXTS(...)	{ (const struct text_match[]){ __VA_ARGS__ }, sizeof((const struct text_match[]){ __VA_ARGS__ }) / sizeof(struct text_match) }
#define EXACT(t)	{ TEXT_EXACT, t }
#define PREFIX(t)	{ TEXT_PREFIX, t }
#define SUFFIX(t)	{ TEXT_SUFFIX, t }
#define PRESENT		{ TEXT_PRESENCE, "" }
#define PORTS(...)	{ (const uint32_t[]){ __VA_ARGS__ }, sizeof((const uint32_t[]){ __VA_ARGS__ }) / 4 }
#define ACCOUNTS(...)	{ (const struct account_match[]){ __VA_ARGS__ }, 1 }

#define CLIENT "spiffe://td/ns/shop/sa/web"

static struct authz_conn conn_of(const char *principal, const char *source, const char *destination)
{
	struct authz_conn c = { .principal = principal };

	assert_int_equal(ip_port_parse(source, &c.source), 0);
	assert_int_equal(ip_port_parse(destination, &c.destination), 0);
	return c;
}

static bool one(enum policy_action action, struct policy_match m, const char *principal)
{
	const struct policy_clause clause = { &m, 1, false };
	const struct policy_rule rule = { &clause, 1, false };
	const struct policy p = { .name = "p", .namespace = "n", .action = action, .rules = &rule, .n_rules = 1 };
	struct authz_conn c = conn_of(principal, "10.1.2.3:4000", "10.9.9.9:8080");

	return authz_policy_matches(&p, &c);
}

static void matches_compare_identities(void **state)
{
	const struct { struct policy_match m; bool with, without; } table[] = {
		/* condition, with the client's identity, without any */
		{ { .principals = TEXTS(EXACT("td/ns/shop/sa/web")) }, true, false },
		{ { .principals = TEXTS(EXACT("spiffe://td/ns/shop/sa/web")) }, false, false },
		{ { .principals = TEXTS(EXACT("td/ns/shop/sa/we")) }, false, false },
		{ { .principals = TEXTS(EXACT("x"), EXACT("td/ns/shop/sa/web")) }, true, false },
		{ { .principals = TEXTS(PREFIX("td/ns/shop/")) }, true, false },
		{ { .principals = TEXTS(PREFIX("")) }, true, false },
		{ { .principals = TEXTS(SUFFIX("/sa/web")) }, true, false },
		{ { .principals = TEXTS(SUFFIX("/sa/webb")) }, false, false },
		{ { .principals = TEXTS(PRESENT) }, true, false },
		{ { .not_principals = TEXTS(PRESENT) }, false, true },
		{ { .not_principals = TEXTS(EXACT("td/ns/shop/sa/web")) }, false, true },
		{ { .namespaces = TEXTS(EXACT("shop")) }, true, false },
		{ { .namespaces = TEXTS(EXACT("sho")) }, false, false },
		{ { .namespaces = TEXTS(PREFIX("sh")) }, true, false },
		{ { .namespaces = TEXTS(SUFFIX("op")) }, true, false },
		{ { .namespaces = TEXTS(PRESENT) }, true, false },
		{ { .not_namespaces = TEXTS(EXACT("shop")) }, false, true },
		{ { .not_namespaces = TEXTS(EXACT("other")) }, true, true },
		{ { .accounts = ACCOUNTS({ "shop", "web" }) }, true, false },
		{ { .accounts = ACCOUNTS({ "shop", "webb" }) }, false, false },
		{ { .accounts = ACCOUNTS({ "sho", "web" }) }, false, false },
		{ { .not_accounts = ACCOUNTS({ "shop", "web" }) }, false, true },
		/* all of a match must hold */
		{ { .namespaces = TEXTS(EXACT("shop")), .accounts = ACCOUNTS({ "shop", "other" }) }, false, false },
		{ { .namespaces = TEXTS(EXACT("shop")), .destination_ports = PORTS(8080) }, true, false },
		{ { .namespaces = TEXTS(EXACT("shop")), .destination_ports = PORTS(8081) }, false, false },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(table); i++) {
		for (int action = 0; action < _POLICY_ACTION_N; action++) {
			assert_int_equal(one((enum policy_action)action, table[i].m, CLIENT), table[i].with);
			assert_int_equal(one((enum policy_action)action, table[i].m, NULL), table[i].without);
		}
	}
}

static void matches_compare_addresses_and_ports(void **state)
{
	struct ip_prefix near, far, all;

	(void)state;
	assert_int_equal(ip_prefix_parse("10.1.0.0/16", &near), 0);
	assert_int_equal(ip_prefix_parse("10.9.0.0/16", &far), 0);
	assert_int_equal(ip_prefix_parse("0.0.0.0/0", &all), 0);

	const struct { struct policy_match m; bool want; } table[] = {
		{ { .source_ips = { &near, 1 } }, true },
		{ { .source_ips = { &far, 1 } }, false },
		{ { .source_ips = { &all, 1 } }, true },
		{ { .not_source_ips = { &near, 1 } }, false },
		{ { .not_source_ips = { &far, 1 } }, true },
		{ { .destination_ips = { &far, 1 } }, true },
		{ { .destination_ips = { &near, 1 } }, false },
		{ { .not_destination_ips = { &far, 1 } }, false },
		{ { .not_destination_ips = { &near, 1 } }, true },
		{ { .destination_ports = PORTS(80, 8080) }, true },
		{ { .destination_ports = PORTS(80) }, false },
		{ { .not_destination_ports = PORTS(80) }, true },
		{ { .not_destination_ports = PORTS(8080) }, false },
	};
	for (size_t i = 0; i < ELEMENTS(table); i++)
		assert_int_equal(one(POLICY_ALLOW, table[i].m, CLIENT), table[i].want);
}

static void what_is_not_understood_never_allows_and_always_may_deny(void **state)
{
	const struct policy_match strange = { .strange = true, .namespaces = TEXTS(EXACT("shop")) };
	const struct policy_match strange_elsewhere = { .strange = true, .namespaces = TEXTS(EXACT("other")) };
	const struct policy_match empty = {};

	(void)state;
	assert_false(one(POLICY_ALLOW, strange, CLIENT));
	assert_true(one(POLICY_DENY, strange, CLIENT));
	assert_false(one(POLICY_DENY, strange_elsewhere, CLIENT));
	assert_false(one(POLICY_ALLOW, empty, CLIENT));
	assert_true(one(POLICY_DENY, empty, CLIENT));

	const struct policy_clause clause = { NULL, 0, true };
	const struct policy_rule rules[] = { { &clause, 1, false }, { NULL, 0, true } };
	struct authz_conn c = conn_of(CLIENT, "1.1.1.1:1", "2.2.2.2:2");
	for (size_t i = 0; i < ELEMENTS(rules); i++) {
		struct policy p = { .rules = &rules[i], .n_rules = 1, .action = POLICY_ALLOW };

		assert_false(authz_policy_matches(&p, &c));
		p.action = POLICY_DENY;
		assert_true(authz_policy_matches(&p, &c));
	}
}

static void rules_are_ored_clauses_anded_matches_ored(void **state)
{
	const struct policy_match yes = { .namespaces = TEXTS(EXACT("shop")) };
	const struct policy_match no = { .namespaces = TEXTS(EXACT("other")) };
	struct authz_conn c = conn_of(CLIENT, "1.1.1.1:1", "2.2.2.2:2");

	(void)state;
	for (unsigned bits = 0; bits < 16; bits++) {		/* two clauses of two matches */
		const struct policy_match m[4] = { bits & 1 ? yes : no, bits & 2 ? yes : no, bits & 4 ? yes : no, bits & 8 ? yes : no };
		const struct policy_clause clauses[2] = { { m, 2, false }, { m + 2, 2, false } };
		const struct policy_rule rules[2] = { { clauses, 2, false }, { clauses, 1, false } };
		struct policy p = { .rules = rules, .n_rules = 1 };

		assert_int_equal(authz_policy_matches(&p, &c), (bits & 3) && (bits & 12));
		p.n_rules = 2;
		assert_int_equal(authz_policy_matches(&p, &c), (bits & 3) != 0);
	}

	const struct policy_rule anything = { NULL, 0, false };
	struct policy p = { .rules = &anything, .n_rules = 1 };
	assert_true(authz_policy_matches(&p, &c));	/* a rule without conditions holds always */
	p.n_rules = 0;
	assert_false(authz_policy_matches(&p, &c));	/* a policy without rules never */
}

/* --- the whole, over a snapshot --- */

struct rig {
	struct snap_store *store;
	struct snapshot *snapshot;
};

static void rig_publish(struct rig *r)
{
	snapshot_unref(r->snapshot);
	assert_int_equal(snap_store_publish(r->store, &r->snapshot), 0);
}

static struct rig rig_new(const char *const *policies, size_t n_policies)
{
	struct rig r = {};
	struct ip ip;

	assert_int_equal(ip_parse("10.9.9.9", &ip), 0);
	const struct workload w = {
		.uid = "w", .name = "w", .namespace = "prod", .network = "", .trust_domain = "td", .service_account = "api",
		.addresses = &ip, .n_addresses = 1, .capacity = 1, .policies = policies, .n_policies = n_policies,
	};
	assert_int_equal(snap_store_new("", &r.store), 0);
	assert_int_equal(snap_store_set_policies_known(r.store, true), 0);
	assert_int_equal(snap_store_put_workload(r.store, &w), 0);
	rig_publish(&r);
	return r;
}

static void rig_free(struct rig *r)
{
	snapshot_unref(r->snapshot);
	snap_store_free(r->store);
}

static const struct policy_match from_shop = { .namespaces = TEXTS(EXACT("shop")) };
static const struct policy_match from_nobody = { .not_principals = TEXTS(PRESENT) };
static const struct policy_match from_mars = { .namespaces = TEXTS(EXACT("mars")) };
static const struct policy_clause clauses[] = { { &from_shop, 1, false }, { &from_nobody, 1, false }, { &from_mars, 1, false } };
static const struct policy_rule rules[] = { { &clauses[0], 1, false }, { &clauses[1], 1, false }, { &clauses[2], 1, false } };
enum { SHOP, NOBODY, MARS };

static void put(struct rig *r, const char *name, const char *namespace, enum policy_scope scope, enum policy_action action, int rule)
{
	struct policy p = { .name = name, .namespace = namespace, .scope = scope, .action = action, .rules = &rules[rule], .n_rules = 1 };

	assert_int_equal(snap_store_put_policy(r->store, &p), 0);
	rig_publish(r);
}

static struct authz_verdict ask(const struct rig *r, const char *principal)
{
	struct authz_conn c = conn_of(principal, "10.1.2.3:4000", "10.9.9.9:8080");

	return authz_check(r->snapshot, snapshot_workload(r->snapshot, "w"), &c);
}

static void without_policies_all_are_let_in(void **state)
{
	struct rig r = rig_new(NULL, 0);

	(void)state;
	assert_int_equal(ask(&r, CLIENT).outcome, AUTHZ_ALLOWED);
	assert_int_equal(ask(&r, NULL).outcome, AUTHZ_ALLOWED);
	assert_int_equal(ask(&r, NULL).reason, AUTHZ_R_NO_POLICY);
	rig_free(&r);
}

static void a_deny_wins_over_an_allow_in_every_scope(void **state)
{
	const char *const named[] = { "prod/sel" };

	(void)state;
	for (int scope = 0; scope < _POLICY_SCOPE_N; scope++) {
		struct rig r = rig_new(named, scope == POLICY_WORKLOAD);

		put(&r, "ok", "prod", POLICY_NAMESPACE, POLICY_ALLOW, SHOP);
		if (scope != POLICY_WORKLOAD)
			assert_int_equal(ask(&r, CLIENT).outcome, AUTHZ_ALLOWED);
		put(&r, "sel", "prod", (enum policy_scope)scope, POLICY_DENY, SHOP);

		struct authz_verdict v = ask(&r, CLIENT);
		char text[AUTHZ_TEXT_LEN];
		assert_int_equal(v.outcome, AUTHZ_DENIED);
		assert_int_equal(v.reason, AUTHZ_R_DENY);
		assert_string_equal(authz_text(&v, text), "explicitly denied by prod/sel");
		rig_free(&r);
	}
}

static void an_allow_shuts_out_whom_it_does_not_name(void **state)
{
	struct rig r = rig_new(NULL, 0);

	(void)state;
	put(&r, "ok", "prod", POLICY_NAMESPACE, POLICY_ALLOW, SHOP);
	assert_int_equal(ask(&r, CLIENT).reason, AUTHZ_R_ALLOW);
	assert_int_equal(ask(&r, NULL).reason, AUTHZ_R_NO_ALLOW);
	assert_int_equal(ask(&r, "spiffe://td/ns/mars/sa/x").outcome, AUTHZ_DENIED);
	put(&r, "mars", "prod", POLICY_NAMESPACE, POLICY_ALLOW, MARS);
	assert_int_equal(ask(&r, "spiffe://td/ns/mars/sa/x").outcome, AUTHZ_ALLOWED);
	assert_int_equal(snap_store_remove_policy(r.store, "prod/ok"), 0);
	rig_publish(&r);
	assert_int_equal(ask(&r, CLIENT).outcome, AUTHZ_DENIED);
	rig_free(&r);
}

static void policies_of_other_namespaces_and_of_other_workloads_do_not_count(void **state)
{
	struct rig r = rig_new(NULL, 0);

	(void)state;
	put(&r, "a", "elsewhere", POLICY_NAMESPACE, POLICY_DENY, SHOP);
	put(&r, "b", "prod", POLICY_WORKLOAD, POLICY_DENY, SHOP);
	assert_int_equal(ask(&r, CLIENT).outcome, AUTHZ_ALLOWED);
	rig_free(&r);
}

static void strict_mutual_tls_is_a_deny_of_who_has_no_identity(void **state)
{
	struct rig r = rig_new(NULL, 0);

	(void)state;
	put(&r, "istio_converted_static_strict", "prod", POLICY_NAMESPACE, POLICY_DENY, NOBODY);
	assert_int_equal(ask(&r, NULL).outcome, AUTHZ_DENIED);
	assert_int_equal(ask(&r, CLIENT).outcome, AUTHZ_ALLOWED);
	rig_free(&r);
}

static void a_policy_that_is_named_but_missing_denies(void **state)
{
	const char *const named[] = { "prod/there", "prod/gone" };
	struct rig r = rig_new(named, 2);
	char text[AUTHZ_TEXT_LEN];

	(void)state;
	put(&r, "there", "prod", POLICY_WORKLOAD, POLICY_ALLOW, SHOP);

	struct authz_verdict v = ask(&r, CLIENT);
	assert_int_equal(v.reason, AUTHZ_R_MISSING);
	assert_string_equal(authz_text(&v, text), "denied, because this policy is not there: prod/gone");
	put(&r, "gone", "prod", POLICY_WORKLOAD, POLICY_DENY, MARS);
	assert_int_equal(ask(&r, CLIENT).outcome, AUTHZ_ALLOWED);
	rig_free(&r);
}

static void a_policy_that_is_not_understood_denies_its_scope(void **state)
{
	struct rig r = rig_new(NULL, 0);
	struct policy p = { .name = "odd", .namespace = "prod", .scope = POLICY_NAMESPACE, .strange = "why" };

	(void)state;
	assert_int_equal(snap_store_put_policy(r.store, &p), 0);
	rig_publish(&r);
	assert_int_equal(ask(&r, CLIENT).reason, AUTHZ_R_STRANGE);
	rig_free(&r);
}

static void a_dry_run_decides_nothing_but_says_so(void **state)
{
	struct rig r = rig_new(NULL, 0);
	struct policy p = { .name = "try", .namespace = "prod", .scope = POLICY_NAMESPACE, .action = POLICY_DENY,
			    .rules = &rules[SHOP], .n_rules = 1, .dry_run = true };

	(void)state;
	assert_int_equal(snap_store_put_policy(r.store, &p), 0);
	rig_publish(&r);
	assert_int_equal(ask(&r, CLIENT).outcome, AUTHZ_ALLOWED);
	assert_string_equal(ask(&r, CLIENT).dry_run, "try");
	assert_null(ask(&r, NULL).dry_run);
	rig_free(&r);
}

static void before_the_mesh_has_spoken_nothing_is_decided(void **state)
{
	struct rig r = rig_new(NULL, 0);
	struct authz_conn c = conn_of(CLIENT, "10.1.2.3:4000", "10.9.9.9:8080");

	(void)state;
	assert_int_equal(authz_check(r.snapshot, NULL, &c).outcome, AUTHZ_UNDECIDED);

	uint64_t serial = snapshot_policy_serial(r.snapshot);
	assert_int_equal(snap_store_set_policies_known(r.store, false), 0);
	rig_publish(&r);
	assert_int_equal(ask(&r, CLIENT).reason, AUTHZ_R_NOT_READY);
	assert_int_not_equal(snapshot_policy_serial(r.snapshot), serial);
	rig_free(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(matches_compare_identities),
		cmocka_unit_test(matches_compare_addresses_and_ports),
		cmocka_unit_test(what_is_not_understood_never_allows_and_always_may_deny),
		cmocka_unit_test(rules_are_ored_clauses_anded_matches_ored),
		cmocka_unit_test(without_policies_all_are_let_in),
		cmocka_unit_test(a_deny_wins_over_an_allow_in_every_scope),
		cmocka_unit_test(an_allow_shuts_out_whom_it_does_not_name),
		cmocka_unit_test(policies_of_other_namespaces_and_of_other_workloads_do_not_count),
		cmocka_unit_test(strict_mutual_tls_is_a_deny_of_who_has_no_identity),
		cmocka_unit_test(a_policy_that_is_named_but_missing_denies),
		cmocka_unit_test(a_policy_that_is_not_understood_denies_its_scope),
		cmocka_unit_test(a_dry_run_decides_nothing_but_says_so),
		cmocka_unit_test(before_the_mesh_has_spoken_nothing_is_decided),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

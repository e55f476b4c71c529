/*
 * Onboarding policies: taken whole or refused whole, the first that matches.
 */
#include "lib/unit.h"

#include <stdio.h>
#include <string.h>

#include "agent/policy.h"

#define TEXT(s)	((char *)(uintptr_t)(s))	/* protobuf-c has no const; nothing writes to them */

struct given {
	Outrigger__V1__Policy p[4];
	Outrigger__V1__Policy *v[4];
	Outrigger__V1__PolicySet set;
	char *services[2];
	char *addresses[2];
};

static Outrigger__V1__Policy *add(struct given *g, const char *name, const char *mode)
{
	Outrigger__V1__Policy *p = &g->p[g->set.n_policies];

	outrigger__v1__policy__init(p);
	p->name = TEXT(name);
	p->mode = TEXT(mode);
	p->namespace_ = TEXT("shop");
	p->service_account = TEXT("orders");
	g->v[g->set.n_policies++] = p;
	return p;
}

static void given_init(struct given *g)
{
	memset(g, 0, sizeof(*g));
	outrigger__v1__policy_set__init(&g->set);
	g->set.policies = g->v;
	g->set.version = 7;
}

static struct policy_set *take(struct given *g, struct diag *d)
{
	struct policy_set *s = NULL;

	*d = (struct diag){};
	int r = policy_set_decode(&g->set, &s, d);
	assert_int_equal(r == 0, s != NULL);
	return s;
}

static struct guest_address addresses[4];

static struct guest guest(const char *port, const char *name, const char *const *texts, size_t n)
{
	struct guest g = { .link = { .mac = { 0x52, 0x54, 0, 0xab, 0, 1 } } };

	snprintf(g.link.port, sizeof(g.link.port), "%s", port);
	snprintf(g.name, sizeof(g.name), "%s", name);
	snprintf(g.id, sizeof(g.id), "nic-a/%s/52:54:00:ab:00:01", port);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(ip_parse(texts[i], &addresses[i].ip), 0);
		g.addresses[g.n_addresses++] = &addresses[i];
	}
	return g;
}

static void without_a_policy_a_guest_is_a_shadow(void **state)
{
	struct guest g = guest("tap0", "", NULL, 0);
	const struct policy *p = policy_match(NULL, "nic-a", &g);

	(void)state;
	assert_int_equal(p->mode, POLICY_SHADOW);
	assert_false(policy_joins(p));
	assert_false(policy_allows_service(p, "orders"));
	assert_false(p->client);
}

static void the_first_that_matches_counts(void **state)
{
	struct policy_set *s;
	struct given g;
	struct diag d;

	(void)state;
	given_init(&g);
	add(&g, "other-nic", "strict")->nic = TEXT("nic-b*");
	add(&g, "by-name", "strict")->guest_name = TEXT("ord*");
	add(&g, "by-mac", "permissive")->mac = TEXT("52:54:00:AB:*");
	add(&g, "rest", "off");
	s = take(&g, &d);
	struct guest named = guest("tap0", "orders", NULL, 0), unnamed = guest("tap0", "", NULL, 0), stranger = unnamed;
	stranger.link.mac[3] = 0;
	assert_string_equal(policy_match(s, "nic-a", &named)->name, "by-name");
	assert_string_equal(policy_match(s, "nic-a", &unnamed)->name, "by-mac");
	assert_string_equal(policy_match(s, "nic-a", &stranger)->name, "rest");
	assert_string_equal(policy_match(s, "nic-b7", &named)->name, "other-nic");
	policy_set_free(s);
}

static void addresses_must_all_be_inside(void **state)
{
	static const char *const in[] = { "10.1.2.3", "fe80::1", "fd00::1" }, *const out[] = { "10.1.2.3", "10.2.0.1" };
	struct policy_set *s;
	struct given g;
	struct diag d;

	(void)state;
	given_init(&g);
	g.addresses[0] = TEXT("10.1.0.0/16");
	Outrigger__V1__Policy *p = add(&g, "net", "strict");
	p->addresses = g.addresses;
	p->n_addresses = 1;
	s = take(&g, &d);
	struct guest a = guest("tap0", "", in, 3);	/* IPv6 is of a family that the policy does not speak of */
	assert_string_equal(policy_match(s, "n", &a)->name, "net");
	struct guest b = guest("tap0", "", out, 2);
	assert_string_equal(policy_match(s, "n", &b)->name, "");
	struct guest c = guest("tap0", "", NULL, 0);
	assert_string_equal(policy_match(s, "n", &c)->name, "");
	policy_set_free(s);
}

static void only_named_services_may_be_claimed(void **state)
{
	struct policy_set *s;
	struct given g;
	struct diag d;

	(void)state;
	given_init(&g);
	g.services[0] = TEXT("orders");
	g.services[1] = TEXT("shop-*");
	Outrigger__V1__Policy *p = add(&g, "p", "strict");
	p->services = g.services;
	p->n_services = 2;
	s = take(&g, &d);
	assert_true(policy_allows_service(&s->v[0], "orders"));
	assert_true(policy_allows_service(&s->v[0], "shop-cart"));
	assert_false(policy_allows_service(&s->v[0], "orders2"));
	assert_false(policy_allows_service(&s->v[0], "billing"));
	policy_set_free(s);
}

static void strict_fails_closed_unless_told_otherwise(void **state)
{
	struct policy_set *s;
	struct given g;
	struct diag d;

	(void)state;
	given_init(&g);
	add(&g, "a", "strict");
	add(&g, "b", "permissive");
	add(&g, "c", "strict")->on_failure = TEXT("open");
	s = take(&g, &d);
	assert_true(s->v[0].fail_closed);
	assert_false(s->v[1].fail_closed);
	assert_false(s->v[2].fail_closed);
	assert_int_equal(s->version, 7);
	policy_set_free(s);
}

static void one_bad_policy_refuses_all(void **state)
{
	static char *const bad_prefix[] = { TEXT("10.0.0.0/99") }, *const bad_domain[] = { TEXT("shop/a/b") };
	struct given g;
	struct diag d;

	(void)state;
	for (int i = 0; i < 10; i++) {
		static const char *const says[] = { "mode", "isolation", "on_failure", "namespace", "service_account", "addresses", "vlan", "name", "dns", "dns_domains" };
		given_init(&g);
		add(&g, "good", "shadow");
		Outrigger__V1__Policy *p = add(&g, "the-bad-one", i == 0 ? "paranoid" : "strict");
		if (i == 1)
			p->isolation = TEXT("none");
		if (i == 2)
			p->on_failure = TEXT("maybe");
		if (i == 3)
			p->namespace_ = TEXT("../etc");
		if (i == 4)
			p->service_account = TEXT("");
		if (i == 5) {
			p->addresses = (char **)(uintptr_t)bad_prefix;
			p->n_addresses = 1;
		}
		if (i == 6)
			p->vlan = 4095;
		if (i == 7)
			p->name = TEXT("");
		if (i == 8)
			p->dns = TEXT("lie");
		if (i == 9) {
			p->dns_domains = (char **)(uintptr_t)bad_domain;
			p->n_dns_domains = 1;
		}
		assert_null(take(&g, &d));
		assert_non_null(strstr(d.msg, says[i]));
		if (i != 7)
			assert_non_null(strstr(d.msg, "the-bad-one"));
	}
}

static void a_group_is_a_namespace_a_vm_or_the_nic(void **state)
{
	char group[POLICY_GROUP_LEN], other[POLICY_GROUP_LEN];
	struct guest a = guest("tap0", "", NULL, 0), b = guest("tap1", "", NULL, 0);
	struct policy_set *s;
	struct given g;
	struct diag d;

	(void)state;
	given_init(&g);
	add(&g, "ns", "strict");
	add(&g, "vm", "strict")->isolation = TEXT("vm");
	add(&g, "nic", "strict")->isolation = TEXT("nic");
	s = take(&g, &d);
	assert_string_equal(policy_group(&s->v[0], &a, group), policy_group(&s->v[0], &b, other));
	assert_non_null(strstr(group, "shop"));
	assert_string_not_equal(policy_group(&s->v[1], &a, group), policy_group(&s->v[1], &b, other));
	assert_string_equal(policy_group(&s->v[2], &a, group), "nic");
	policy_set_free(s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_policy_a_guest_is_a_shadow),
		cmocka_unit_test(the_first_that_matches_counts),
		cmocka_unit_test(addresses_must_all_be_inside),
		cmocka_unit_test(only_named_services_may_be_claimed),
		cmocka_unit_test(strict_fails_closed_unless_told_otherwise),
		cmocka_unit_test(one_bad_policy_refuses_all),
		cmocka_unit_test(a_group_is_a_namespace_a_vm_or_the_nic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Guests: conversations of sightings over a simulated clock.
 */
#include "lib/unit.h"

#include <stdio.h>
#include <string.h>

#include "agent/guest.h"

enum { MINUTE = 60000, LIFE = 10 * MINUTE };

struct seen {
	unsigned n_changed;
	unsigned n_gone;
	char last_gone[GUEST_ID_LEN];
	char reason[32];
};

static void on_changed(struct guest *g, void *data)
{
	struct seen *s = data;

	(void)g;
	s->n_changed++;
}

static void on_gone(struct guest *g, const char *reason, void *data)
{
	struct seen *s = data;

	s->n_gone++;
	snprintf(s->last_gone, sizeof(s->last_gone), "%s", g->id);
	snprintf(s->reason, sizeof(s->reason), "%s", reason);
}

static struct ip ip(const char *text)
{
	struct ip a;

	assert_int_equal(ip_parse(text, &a), 0);
	return a;
}

static void table_init(struct guest_table *t, struct seen *s, const struct guest_rule *rules, size_t n_rules)
{
	struct guest_events ev = { .changed = on_changed, .gone = on_gone, .data = s };
	struct guest_limits limits = { .per_nic = 8, .per_port = 3, .address_ms = LIFE };

	*s = (struct seen){};
	guest_table_init(t, "nic-a", rules, n_rules, &limits, &ev);
}

static struct guest_sighting sight(const char *port, uint16_t vlan, uint8_t mac, const char *address, enum guest_source source)
{
	struct guest_sighting s = { .link = { .vlan = vlan, .mac = { 2, 0, 0, 0, 0, mac } }, .source = source };

	snprintf(s.link.port, sizeof(s.link.port), "%s", port);
	s.ip = ip(address);
	return s;
}

static int learn(struct guest_table *t, const char *port, uint16_t vlan, uint8_t mac, const char *address, enum guest_source source,
		 uint64_t now, struct guest **ret)
{
	struct guest_sighting s = sight(port, vlan, mac, address, source);

	return guest_learn(t, &s, now, ret);
}

static void a_guest_is_a_mac_on_a_port(void **state)
{
	struct guest_table t;
	struct guest *g, *h;
	struct seen s;

	(void)state;
	table_init(&t, &s, NULL, 0);
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, 0, &g), 0);
	assert_string_equal(g->id, "nic-a/tap0/02:00:00:00:00:01");
	assert_int_equal(learn(&t, "tap0", 7, 1, "10.0.0.2", GUEST_BY_ARP, 0, &h), 0);
	assert_string_equal(h->id, "nic-a/tap0.7/02:00:00:00:00:01");
	assert_int_equal(learn(&t, "tap0", 0, 1, "fd00::1", GUEST_BY_ND, 0, &h), 0);
	assert_ptr_equal(g, h);
	assert_int_equal(g->n_addresses, 2);
	struct ip a = ip("fd00::1");
	assert_ptr_equal(guest_by_ip(&t, &a), g);
	assert_int_equal(s.n_changed, 3);
	guest_table_deinit(&t);
}

static void who_has_moved_is_not_heard_for_a_moment(void **state)
{
	struct guest_table t;
	struct guest *g;
	struct seen s;

	(void)state;
	table_init(&t, &s, NULL, 0);
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, 0, &g), 0);
	guest_moved(&t, g, "moved", 100);
	assert_int_equal(s.n_gone, 1);
	assert_string_equal(s.reason, "moved");
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, 99, &g), GUEST_E_REFUSED);
	assert_null(g);
	assert_int_equal(learn(&t, "tap1", 0, 1, "10.0.0.1", GUEST_BY_ARP, 99, &g), 0);	/* elsewhere it is */
	guest_moved(&t, g, "moved", 200);
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, 100, &g), 0);	/* it is back */
	guest_port_down(&t, "tap0", "down");
	assert_int_equal(learn(&t, "tap1", 0, 1, "10.0.0.1", GUEST_BY_ARP, 199, &g), GUEST_E_REFUSED);
	guest_port_down(&t, "tap1", "down");
	assert_int_equal(learn(&t, "tap1", 0, 1, "10.0.0.1", GUEST_BY_ARP, 199, &g), 0);	/* the port came up anew */
	/* The oldest of too many makes room. */
	guest_moved(&t, g, "moved", 1000);
	for (uint8_t i = 0; i < GUEST_MAX_AWAY; i++) {
		assert_int_equal(learn(&t, "tap2", 0, (uint8_t)(10 + i), "10.0.0.2", GUEST_BY_ARP, 200, &g), 0);
		guest_moved(&t, g, "moved", 1000);
	}
	assert_int_equal(learn(&t, "tap1", 0, 1, "10.0.0.1", GUEST_BY_ARP, 201, &g), 0);
	guest_table_deinit(&t);
}

static void the_first_owner_keeps_an_address(void **state)
{
	struct guest_table t;
	struct guest *g, *h;
	struct seen s;

	(void)state;
	table_init(&t, &s, NULL, 0);
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, 0, &g), 0);
	assert_int_equal(learn(&t, "tap1", 0, 2, "10.0.0.1", GUEST_BY_DHCP, LIFE - 1, &h), GUEST_E_CONFLICT);
	assert_int_equal(h->n_conflicts, 1);
	struct ip a = ip("10.0.0.1");
	assert_ptr_equal(guest_by_ip(&t, &a), g);
	/* A sign of life of the owner counts from then on. */
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, LIFE - 1, &g), 0);
	assert_int_equal(learn(&t, "tap1", 0, 2, "10.0.0.1", GUEST_BY_ARP, LIFE + 5, &h), GUEST_E_CONFLICT);
	/* Silent for a lifetime: another may have it. */
	assert_int_equal(learn(&t, "tap1", 0, 2, "10.0.0.1", GUEST_BY_ARP, 2 * LIFE, &h), 0);
	assert_ptr_equal(guest_by_ip(&t, &a), h);
	assert_int_equal(g->n_addresses, 0);
	guest_table_deinit(&t);
}

static void an_address_moves_with_its_port_down(void **state)
{
	struct guest_table t;
	struct guest *g;
	struct seen s;

	(void)state;
	table_init(&t, &s, NULL, 0);
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, 0, &g), 0);
	guest_port_down(&t, "tap0", "port down");
	assert_int_equal(s.n_gone, 1);
	assert_string_equal(s.reason, "port down");
	assert_int_equal(learn(&t, "tap1", 0, 1, "10.0.0.1", GUEST_BY_ARP, 1, &g), 0);
	assert_string_equal(g->link.port, "tap1");
	guest_table_deinit(&t);
}

static void what_a_guest_may_not_have_is_refused(void **state)
{
	struct ip_prefix net;
	struct guest_rule rule = { .port = "tap*", .vlan = -1, .name = "orders", .prefixes = &net, .n_prefixes = 1 };
	static const char *const never[] = { "0.0.0.0", "127.0.0.1", "224.0.0.251", "255.255.255.255", "::1", "ff02::1", "::" };
	struct guest_table t;
	struct guest *g;
	struct seen s;

	(void)state;
	assert_int_equal(ip_prefix_parse("10.0.0.0/24", &net), 0);
	table_init(&t, &s, &rule, 1);
	for (size_t i = 0; i < ELEMENTS(never); i++)
		assert_int_equal(learn(&t, "eth9", 0, 9, never[i], GUEST_BY_ARP, 0, &g), GUEST_E_REFUSED);
	assert_null(g);
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.1.1", GUEST_BY_ARP, 0, &g), GUEST_E_REFUSED);
	assert_null(g);		/* and makes no guest */
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, 0, &g), 0);
	assert_string_equal(g->name, "orders");
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.1.1", GUEST_BY_ARP, 0, &g), GUEST_E_REFUSED);
	assert_int_equal(g->n_refused, 1);
	/* Neighbour discovery does not work without link-local ones. */
	assert_int_equal(learn(&t, "tap0", 0, 1, "fe80::1", GUEST_BY_ND, 0, &g), 0);
	guest_table_deinit(&t);
}

static void a_multicast_mac_is_no_guest(void **state)
{
	struct guest_table t;
	struct guest *g;
	struct seen s;

	(void)state;
	table_init(&t, &s, NULL, 0);
	struct guest_sighting x = sight("tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP);
	x.link.mac[0] = 1;
	assert_int_equal(guest_learn(&t, &x, 0, &g), GUEST_E_REFUSED);
	memset(x.link.mac, 0, 6);
	assert_int_equal(guest_learn(&t, &x, 0, &g), GUEST_E_REFUSED);
	guest_table_deinit(&t);
}

static void the_source_of_packets_is_only_a_guess(void **state)
{
	struct guest_table t;
	struct guest *g;
	struct seen s;

	(void)state;
	table_init(&t, &s, NULL, 0);
	/* A node's pod speaks first ... */
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.244.0.5", GUEST_BY_TRAFFIC, 0, &g), 0);
	/* ... and a second one: the guest knows no better, but one guess is enough. */
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.244.0.6", GUEST_BY_TRAFFIC, 0, &g), GUEST_E_IGNORED);
	/* Then the node says who it is. */
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, 1, &g), 0);
	assert_int_equal(g->n_addresses, 1);
	struct ip pod = ip("10.244.0.5");
	assert_false(guest_owns(g, &pod));
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.244.0.5", GUEST_BY_TRAFFIC, 2, &g), GUEST_E_IGNORED);
	/* A guess that ARP confirms is none any more. */
	assert_int_equal(learn(&t, "tap1", 0, 2, "10.0.0.2", GUEST_BY_TRAFFIC, 2, &g), 0);
	assert_int_equal(learn(&t, "tap1", 0, 2, "10.0.0.2", GUEST_BY_ARP, 3, &g), 0);
	assert_int_equal(g->addresses[0]->source, GUEST_BY_ARP);
	guest_table_deinit(&t);
}

static void what_is_silent_expires(void **state)
{
	struct guest_table t;
	struct guest *g;
	struct seen s;

	(void)state;
	table_init(&t, &s, NULL, 0);
	assert_int_equal(learn(&t, "tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP, 0, &g), 0);
	struct guest_sighting lease = sight("tap0", 0, 1, "10.0.0.9", GUEST_BY_DHCP);
	lease.lifetime_ms = 3 * LIFE;
	assert_int_equal(guest_learn(&t, &lease, 0, &g), 0);
	guest_expire(&t, LIFE);
	assert_int_equal(g->n_addresses, 1);
	assert_int_equal(s.n_gone, 0);
	guest_touch(&t, g, 3 * LIFE - 1);
	guest_expire(&t, 3 * LIFE);
	assert_int_equal(s.n_gone, 0);
	guest_expire(&t, 4 * LIFE);
	assert_int_equal(s.n_gone, 1);
	assert_string_equal(s.reason, "gone");
	assert_int_equal(t.by_id.n, 0);
	assert_int_equal(t.by_ip.n, 0);
	guest_table_deinit(&t);
}

static void a_flood_is_bounded(void **state)
{
	struct guest_table t;
	struct guest *g;
	struct seen s;
	char text[32];

	(void)state;
	table_init(&t, &s, NULL, 0);
	for (uint8_t i = 1; i < 100; i++) {
		snprintf(text, sizeof(text), "10.0.1.%u", i);
		int r = learn(&t, "tap0", 0, i, text, GUEST_BY_ARP, i, &g);
		assert_int_equal(r, i <= 3 ? 0 : GUEST_E_FULL);
	}
	for (uint8_t i = 1; i < 100; i++) {
		snprintf(text, sizeof(text), "10.0.2.%u", i);
		int r = learn(&t, "tap1", 0, 1, text, GUEST_BY_ARP, i, &g);
		assert_int_equal(r, i <= GUEST_MAX_ADDRESSES ? 0 : GUEST_E_FULL);
	}
	assert_int_equal(t.by_id.n, 4);
	assert_int_equal(t.by_ip.n, 3 + GUEST_MAX_ADDRESSES);
	guest_table_deinit(&t);
}

static void configured_guests_need_not_say_a_word(void **state)
{
	struct ip address = ip("10.0.0.1");
	struct guest_rule rule = { .port = "tap0", .vlan = -1, .mac = { 2, 0, 0, 0, 0, 1 }, .name = "db",
				   .addresses = &address, .n_addresses = 1 };
	struct guest_table t;
	struct guest *g;
	struct seen s;

	(void)state;
	table_init(&t, &s, &rule, 1);
	assert_int_equal(guest_port_up(&t, "tap1", 0), 0);
	assert_int_equal(t.by_id.n, 0);
	assert_int_equal(guest_port_up(&t, "tap0", 0), 0);
	g = guest_by_ip(&t, &address);
	assert_non_null(g);
	assert_string_equal(g->name, "db");
	guest_expire(&t, 1000ull * LIFE);
	assert_ptr_equal(guest_by_ip(&t, &address), g);
	struct ip first = guest_primary_ip(g, false);
	assert_true(ip_equal(&first, &address));
	guest_table_deinit(&t);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_guest_is_a_mac_on_a_port),
		cmocka_unit_test(who_has_moved_is_not_heard_for_a_moment),
		cmocka_unit_test(the_first_owner_keeps_an_address),
		cmocka_unit_test(an_address_moves_with_its_port_down),
		cmocka_unit_test(what_a_guest_may_not_have_is_refused),
		cmocka_unit_test(a_multicast_mac_is_no_guest),
		cmocka_unit_test(the_source_of_packets_is_only_a_guess),
		cmocka_unit_test(what_is_silent_expires),
		cmocka_unit_test(a_flood_is_bounded),
		cmocka_unit_test(configured_guests_need_not_say_a_word),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

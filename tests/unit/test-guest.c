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

static struct guest_table t;
static struct seen seen;

static void table_init(const struct guest_rule *rules, size_t n_rules)
{
	struct guest_events ev = { .changed = on_changed, .gone = on_gone, .data = &seen };
	struct guest_limits limits = { .per_nic = 8, .per_port = 3, .address_ms = LIFE };

	seen = (struct seen){};
	guest_table_init(&t, "nic-a", rules, n_rules, &limits, &ev);
}

static int setup(void **state)
{
	(void)state;
	table_init(NULL, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	guest_table_deinit(&t);
	return 0;
}

static struct guest_sighting sight(const char *port, uint16_t vlan, uint8_t mac, const char *address, enum guest_source source)
{
	struct guest_sighting s = { .link = { .vlan = vlan, .mac = { 2, 0, 0, 0, 0, mac } }, .source = source };

	snprintf(s.link.port, sizeof(s.link.port), "%s", port);
	s.ip = ip(address);
	return s;
}

static int learn(const char *port, uint8_t mac, const char *address, enum guest_source source, uint64_t now, struct guest **ret)
{
	struct guest_sighting s = sight(port, 0, mac, address, source);

	return guest_learn(&t, &s, now, ret);
}

/* The guest that has said by ARP who it is. */
static struct guest *hear(const char *port, uint8_t mac, const char *address, uint64_t now)
{
	struct guest *g = NULL;

	assert_int_equal(learn(port, mac, address, GUEST_BY_ARP, now, &g), 0);
	return g;
}

static void a_guest_is_a_mac_on_a_port(void **state)
{
	struct guest *g, *h;

	(void)state;
	g = hear("tap0", 1, "10.0.0.1", 0);
	assert_string_equal(g->id, "nic-a/tap0/02:00:00:00:00:01");
	struct guest_sighting tagged = sight("tap0", 7, 1, "10.0.0.2", GUEST_BY_ARP);
	assert_int_equal(guest_learn(&t, &tagged, 0, &h), 0);
	assert_string_equal(h->id, "nic-a/tap0.7/02:00:00:00:00:01");
	assert_int_equal(learn("tap0", 1, "fd00::1", GUEST_BY_ND, 0, &h), 0);
	assert_ptr_equal(g, h);
	assert_int_equal(g->n_addresses, 2);
	struct ip a = ip("fd00::1");
	assert_ptr_equal(guest_by_ip(&t, &a), g);
	assert_int_equal(seen.n_changed, 3);
}

static void who_has_moved_is_not_heard_for_a_moment(void **state)
{
	struct guest *g;

	(void)state;
	g = hear("tap0", 1, "10.0.0.1", 0);
	guest_moved(&t, g, "moved", 100);
	assert_int_equal(seen.n_gone, 1);
	assert_string_equal(seen.reason, "moved");
	assert_int_equal(learn("tap0", 1, "10.0.0.1", GUEST_BY_ARP, 99, &g), GUEST_E_REFUSED);
	assert_null(g);
	g = hear("tap1", 1, "10.0.0.1", 99);	/* elsewhere it is */
	guest_moved(&t, g, "moved", 200);
	hear("tap0", 1, "10.0.0.1", 100);	/* it is back */
	guest_port_down(&t, "tap0", "down");
	assert_int_equal(learn("tap1", 1, "10.0.0.1", GUEST_BY_ARP, 199, &g), GUEST_E_REFUSED);
	guest_port_down(&t, "tap1", "down");
	g = hear("tap1", 1, "10.0.0.1", 199);	/* the port came up anew */
	/* The oldest of too many makes room. */
	guest_moved(&t, g, "moved", 1000);
	for (uint8_t i = 0; i < GUEST_MAX_AWAY; i++) {
		g = hear("tap2", (uint8_t)(10 + i), "10.0.0.2", 200);
		guest_moved(&t, g, "moved", 1000);
	}
	hear("tap1", 1, "10.0.0.1", 201);
}

static void the_first_owner_keeps_an_address(void **state)
{
	struct guest *g, *h;

	(void)state;
	g = hear("tap0", 1, "10.0.0.1", 0);
	assert_int_equal(learn("tap1", 2, "10.0.0.1", GUEST_BY_DHCP, LIFE - 1, &h), GUEST_E_CONFLICT);
	assert_int_equal(h->n_conflicts, 1);
	struct ip a = ip("10.0.0.1");
	assert_ptr_equal(guest_by_ip(&t, &a), g);
	/* A sign of life of the owner counts from then on. */
	hear("tap0", 1, "10.0.0.1", LIFE - 1);
	assert_int_equal(learn("tap1", 2, "10.0.0.1", GUEST_BY_ARP, LIFE + 5, &h), GUEST_E_CONFLICT);
	/* Silent for a lifetime: another may have it. */
	h = hear("tap1", 2, "10.0.0.1", 2 * LIFE);
	assert_ptr_equal(guest_by_ip(&t, &a), h);
	assert_int_equal(g->n_addresses, 0);
}

static void an_address_moves_with_its_port_down(void **state)
{
	struct guest *g;

	(void)state;
	hear("tap0", 1, "10.0.0.1", 0);
	guest_port_down(&t, "tap0", "port down");
	assert_int_equal(seen.n_gone, 1);
	assert_string_equal(seen.reason, "port down");
	g = hear("tap1", 1, "10.0.0.1", 1);
	assert_string_equal(g->link.port, "tap1");
}

static void what_a_guest_may_not_have_is_refused(void **state)
{
	struct ip_prefix net;
	struct guest_rule rule = { .port = "tap*", .vlan = -1, .name = "orders", .prefixes = &net, .n_prefixes = 1 };
	static const char *const never[] = { "0.0.0.0", "127.0.0.1", "224.0.0.251", "255.255.255.255", "::1", "ff02::1", "::" };
	struct guest *g;

	(void)state;
	assert_int_equal(ip_prefix_parse("10.0.0.0/24", &net), 0);
	guest_table_deinit(&t);
	table_init(&rule, 1);
	for (size_t i = 0; i < ELEMENTS(never); i++)
		assert_int_equal(learn("eth9", 9, never[i], GUEST_BY_ARP, 0, &g), GUEST_E_REFUSED);
	assert_null(g);
	assert_int_equal(learn("tap0", 1, "10.0.1.1", GUEST_BY_ARP, 0, &g), GUEST_E_REFUSED);
	assert_null(g);		/* and makes no guest */
	g = hear("tap0", 1, "10.0.0.1", 0);
	assert_string_equal(g->name, "orders");
	assert_int_equal(learn("tap0", 1, "10.0.1.1", GUEST_BY_ARP, 0, &g), GUEST_E_REFUSED);
	assert_int_equal(g->n_refused, 1);
	/* Neighbour discovery does not work without link-local ones. */
	assert_int_equal(learn("tap0", 1, "fe80::1", GUEST_BY_ND, 0, &g), 0);
}

static void a_multicast_mac_is_no_guest(void **state)
{
	struct guest *g;

	(void)state;
	struct guest_sighting x = sight("tap0", 0, 1, "10.0.0.1", GUEST_BY_ARP);
	x.link.mac[0] = 1;
	assert_int_equal(guest_learn(&t, &x, 0, &g), GUEST_E_REFUSED);
	memset(x.link.mac, 0, 6);
	assert_int_equal(guest_learn(&t, &x, 0, &g), GUEST_E_REFUSED);
}

static void the_source_of_packets_is_only_a_guess(void **state)
{
	struct guest *g;

	(void)state;
	/* A node's pod speaks first ... */
	assert_int_equal(learn("tap0", 1, "10.244.0.5", GUEST_BY_TRAFFIC, 0, &g), 0);
	/* ... and a second one: the guest knows no better, but one guess is enough. */
	assert_int_equal(learn("tap0", 1, "10.244.0.6", GUEST_BY_TRAFFIC, 0, &g), GUEST_E_IGNORED);
	/* Then the node says who it is. */
	g = hear("tap0", 1, "10.0.0.1", 1);
	assert_int_equal(g->n_addresses, 1);
	struct ip pod = ip("10.244.0.5");
	assert_false(guest_owns(g, &pod));
	assert_int_equal(learn("tap0", 1, "10.244.0.5", GUEST_BY_TRAFFIC, 2, &g), GUEST_E_IGNORED);
	/* A guess that ARP confirms is none any more. */
	assert_int_equal(learn("tap1", 2, "10.0.0.2", GUEST_BY_TRAFFIC, 2, &g), 0);
	g = hear("tap1", 2, "10.0.0.2", 3);
	assert_int_equal(g->addresses[0]->source, GUEST_BY_ARP);
}

static void what_is_silent_expires(void **state)
{
	struct guest *g;

	(void)state;
	g = hear("tap0", 1, "10.0.0.1", 0);
	struct guest_sighting lease = sight("tap0", 0, 1, "10.0.0.9", GUEST_BY_DHCP);
	lease.lifetime_ms = 3 * LIFE;
	assert_int_equal(guest_learn(&t, &lease, 0, &g), 0);
	guest_expire(&t, LIFE);
	assert_int_equal(g->n_addresses, 1);
	assert_int_equal(seen.n_gone, 0);
	guest_touch(&t, g, 3 * LIFE - 1);
	guest_expire(&t, 3 * LIFE);
	assert_int_equal(seen.n_gone, 0);
	guest_expire(&t, 4 * LIFE);
	assert_int_equal(seen.n_gone, 1);
	assert_string_equal(seen.reason, "gone");
	assert_int_equal(t.by_id.n, 0);
	assert_int_equal(t.by_ip.n, 0);
}

static void a_flood_is_bounded(void **state)
{
	struct guest *g;
	char text[32];

	(void)state;
	for (uint8_t i = 1; i < 100; i++) {
		snprintf(text, sizeof(text), "10.0.1.%u", i);
		int r = learn("tap0", i, text, GUEST_BY_ARP, i, &g);
		assert_int_equal(r, i <= 3 ? 0 : GUEST_E_FULL);
	}
	for (uint8_t i = 1; i < 100; i++) {
		snprintf(text, sizeof(text), "10.0.2.%u", i);
		int r = learn("tap1", 1, text, GUEST_BY_ARP, i, &g);
		assert_int_equal(r, i <= GUEST_MAX_ADDRESSES ? 0 : GUEST_E_FULL);
	}
	assert_int_equal(t.by_id.n, 4);
	assert_int_equal(t.by_ip.n, 3 + GUEST_MAX_ADDRESSES);
}

static void configured_guests_need_not_say_a_word(void **state)
{
	struct ip address = ip("10.0.0.1");
	struct guest_rule rule = { .port = "tap0", .vlan = -1, .mac = { 2, 0, 0, 0, 0, 1 }, .name = "db",
				   .addresses = &address, .n_addresses = 1 };
	struct guest *g;

	(void)state;
	guest_table_deinit(&t);
	table_init(&rule, 1);
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
}

static void the_nics_own_addresses_are_no_guests(void **state)
{
	struct ip ours[] = { ip("10.0.0.1"), ip("fe80::1") };
	struct guest *g;

	(void)state;
	assert_int_equal(guest_table_ours(&t, ours, 2), 0);
	assert_int_equal(learn("tap0", 1, "10.0.0.1", GUEST_BY_ARP, 1, &g), GUEST_E_REFUSED);
	assert_int_equal(learn("tap0", 1, "10.0.0.1", GUEST_BY_CONFIG, 1, &g), GUEST_E_REFUSED);
	assert_int_equal(learn("tap0", 1, "fe80::1", GUEST_BY_ND, 1, &g), 0);	/* of another link */
	assert_int_equal(learn("tap0", 1, "10.0.0.2", GUEST_BY_ARP, 1, &g), 0);

	/* and the NIC gets one that a guest has had */
	seen.n_changed = 0;
	ours[0] = ip("10.0.0.2");
	assert_int_equal(guest_table_ours(&t, ours, 2), 0);
	assert_int_equal(seen.n_changed, 1);
	assert_null(guest_by_ip(&t, &ours[0]));
	assert_int_equal(learn("tap0", 1, "10.0.0.1", GUEST_BY_ARP, 1, &g), 0);
}

#define WITH_TABLE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		WITH_TABLE(a_guest_is_a_mac_on_a_port),
		WITH_TABLE(who_has_moved_is_not_heard_for_a_moment),
		WITH_TABLE(the_first_owner_keeps_an_address),
		WITH_TABLE(an_address_moves_with_its_port_down),
		WITH_TABLE(what_a_guest_may_not_have_is_refused),
		WITH_TABLE(the_nics_own_addresses_are_no_guests),
		WITH_TABLE(a_multicast_mac_is_no_guest),
		WITH_TABLE(the_source_of_packets_is_only_a_guess),
		WITH_TABLE(what_is_silent_expires),
		WITH_TABLE(a_flood_is_bounded),
		WITH_TABLE(configured_guests_need_not_say_a_word),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

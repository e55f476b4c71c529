#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/registrybed.h"

#include "control/onboard.h"
#include "control/registry.h"
#include "lib/registry_yaml.h"

static const char yaml[] =
	REGISTRY_YAML
	"- {name: fixed, namespace: shop, addresses: [10.1.0.1, 10.0.0.99], services: [b]}\n";

static int setup(void **state)
{
	struct registry_bed *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	registry_bed_init(f, yaml);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	registry_bed_deinit(*state);
	free(*state);
	return 0;
}

static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

/* @address, and @second unless it is NULL. */
static int guest_at_two(struct reg_nic *nic, const char *id, const char *name, const char *mac, const char *address, const char *second)
{
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Guest g = OUTRIGGER__V1__GUEST__INIT;
	char *addresses[] = { word(address), word(second) };

	g.guest_id = word(id);
	g.name = word(name);
	g.mac = word(mac);
	g.addresses = addresses;
	g.n_addresses = second ? 2 : 1;
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_GUEST;
	r.guest = &g;
	return registry_bed_report(nic, &r, NULL);
}

static int guest(struct reg_nic *nic, const char *id, const char *name, const char *mac, const char *address)
{
	return guest_at_two(nic, id, name, mac, address, NULL);
}

static int claim(struct reg_nic *nic, const char *id, const char *service, const char *instance, uint32_t port, const char *protocol)
{
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Claim c = OUTRIGGER__V1__CLAIM__INIT;

	c.guest_id = word(id);
	c.service = word(service);
	c.instance = word(instance);
	c.port = port;
	c.app_protocol = word(protocol);
	c.admitted = true;
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_CLAIM;
	r.claim = &c;
	return registry_bed_report(nic, &r, NULL);
}

static int verdict(struct reg_nic *nic, const char *id, const char *service, const char *instance, const char *text)
{
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Verdict v = OUTRIGGER__V1__VERDICT__INIT;

	v.guest_id = word(id);
	v.service = word(service);
	v.instance = word(instance);
	v.verdict = word(text);
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_VERDICT;
	r.verdict = &v;
	return registry_bed_report(nic, &r, NULL);
}

static int proxy(struct reg_nic *nic, const char *id, const char *state)
{
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__ProxyStatus p = OUTRIGGER__V1__PROXY_STATUS__INIT;

	p.guest_id = word(id);
	p.state = word(state);
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_PROXY;
	r.proxy = &p;
	return registry_bed_report(nic, &r, NULL);
}

static int synced(struct reg_nic *nic)
{
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Synced s = OUTRIGGER__V1__SYNCED__INIT;

	r.msg_case = OUTRIGGER__V1__REPORT__MSG_SYNCED;
	r.synced = &s;
	return registry_bed_report(nic, &r, NULL);
}

#define G1	"nic-a/p1/52:54:00:00:00:01"
#define U1	"vm/" G1

static void vm(struct registry_bed *f, const char *id, const char *mac, const char *address, const char *service, uint32_t port)
{
	assert_int_equal(guest(f->nic, id, "x", mac, address), 0);
	assert_int_equal(claim(f->nic, id, service, "i", port, "http"), 0);
	assert_int_equal(verdict(f->nic, id, service, "i", "vm"), 0);
	assert_int_equal(proxy(f->nic, id, "ready"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
}

static bool published(struct registry_bed *f, const char *name)
{
	return resources_find(&f->resources, RESOURCE_ADDRESS, name) != NULL;
}

/* Every part that is missing keeps it out, whatever the order in which they come. */
static void all_parts_are_needed_in_any_order(void **state)
{
	struct registry_bed *f = *state;

	for (unsigned order = 0; order < 6; order++) {
		static const uint8_t orders[6][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 }, { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };

		assert_int_equal(guest(f->nic, G1, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
		for (int i = 0; i < 3; i++) {
			assert_int_equal(loop_turn(f->loop, 0), 0);
			assert_false(published(f, U1));
			if (orders[order][i] == 0)
				assert_int_equal(claim(f->nic, G1, "a", "i", 8080, ""), 0);
			else if (orders[order][i] == 1)
				assert_int_equal(verdict(f->nic, G1, "a", "i", "vm"), 0);
			else
				assert_int_equal(proxy(f->nic, G1, "ready"), 0);
		}
		assert_int_equal(loop_turn(f->loop, 0), 0);
		assert_true(published(f, U1));
		registry_guest_remove(registry_guest(f->reg, G1));
		assert_int_equal(loop_turn(f->loop, 0), 0);
		assert_false(published(f, U1));
	}
}

static void the_first_policy_that_matches_counts(void **state)
{
	struct registry_bed *f = *state;
	const struct config_onboarding *p;

	assert_int_equal(guest(f->nic, G1, "off-1", "52:54:00:00:00:01", "10.0.0.1"), 0);
	p = onboard_match(f->config, "nic-a", registry_guest(f->reg, G1)->pb);
	assert_string_equal(p->name, "off");
	assert_false(onboard_joins(p));
	assert_int_equal(guest(f->nic, G1, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	p = onboard_match(f->config, "nic-a", registry_guest(f->reg, G1)->pb);
	assert_string_equal(p->name, "vms");
	assert_true(onboard_allows_service(p, "a"));
	assert_false(onboard_allows_service(p, "c"));
	assert_null(onboard_match(f->config, "other", registry_guest(f->reg, G1)->pb));
	assert_int_equal(guest(f->nic, G1, "x", "52:54:00:00:00:01", "10.0.1.1"), 0);	/* outside of its prefixes */
	assert_null(onboard_match(f->config, "nic-a", registry_guest(f->reg, G1)->pb));
	assert_false(onboard_joins(NULL));
	assert_false(onboard_allows_service(NULL, "a"));
}

static void a_client_joins_without_a_service(void **state)
{
	struct registry_bed *f = *state;

	assert_int_equal(guest(f->nic, G1, "client-1", "52:54:00:00:00:01", "10.7.0.1"), 0);
	assert_int_equal(proxy(f->nic, G1, "ready"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_false(published(f, U1));
	assert_int_equal(verdict(f->nic, G1, "", "", "vm"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_true(published(f, U1));
}

static void ports_of_a_declared_service_are_mapped(void **state)
{
	struct registry_bed *f = *state;
	struct port_map map;

	vm(f, G1, "52:54:00:00:00:01", "10.0.0.1", "b", 8080);
	const struct reg_service *s = reg_service_find(f->reg, "shop/b.shop.mesh.internal");
	assert_non_null(s);
	assert_true(reg_service_map_port(s, 8080, APP_HTTP11, &map));
	assert_int_equal(map.service_port, 80);
	assert_int_equal(map.target_port, 8080);
	assert_true(reg_service_map_port(s, 90, APP_UNKNOWN, &map));
	assert_int_equal(map.service_port, 90);
	assert_false(reg_service_map_port(s, 7, APP_UNKNOWN, &map));
	const struct reg_workload *w = registry_guest(f->reg, G1)->workload;
	assert_non_null(w);
	const struct reg_member *m = list_first(&w->members, struct reg_member, in_workload);
	assert_true(m && m->n_ports == 1 && m->ports[0].service_port == 80);
}

static void ports_of_an_undeclared_service_are_those_of_its_members(void **state)
{
	struct registry_bed *f = *state;
	char name[REG_CLUSTER_LEN];

	vm(f, G1, "52:54:00:00:00:01", "10.0.0.1", "a", 8080);
	vm(f, "nic-a/p2/52:54:00:00:00:02", "52:54:00:00:00:02", "10.0.0.2", "a", 9090);
	const struct reg_service *s = reg_service_find(f->reg, "shop/a.shop.mesh.internal");
	assert_int_equal(s->n_ports, 2);
	assert_non_null(resources_find(&f->resources, RESOURCE_ENDPOINTS, reg_cluster_name(s, 8080, name)));
	assert_non_null(resources_find(&f->resources, RESOURCE_ENDPOINTS, reg_cluster_name(s, 9090, name)));
	registry_guest_remove(registry_guest(f->reg, G1));
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(s->n_ports, 1);
	assert_null(resources_find(&f->resources, RESOURCE_ENDPOINTS, reg_cluster_name(s, 8080, name)));
}

static void the_newest_of_two_reports_of_one_machine_wins(void **state)
{
	struct registry_bed *f = *state;
	struct reg_nic *other, *first = f->nic;

	vm(f, G1, "52:54:00:00:00:01", "10.0.0.1", "a", 8080);
	assert_int_equal(registry_nic_connect(f->reg, "nic-b", &other), 0);
	f->nic = other;
	vm(f, "nic-b/p1/52:54:00:00:00:01", "52:54:00:00:00:01", "10.0.0.1", "a", 8080);
	assert_false(published(f, U1));
	assert_true(published(f, "vm/nic-b/p1/52:54:00:00:00:01"));
	assert_int_equal(proxy(first, G1, "ready"), 0);		/* the old one does not take it back */
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_false(published(f, U1));
	registry_nic_forget(f->reg, "nic-b");
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_true(published(f, U1));				/* but serves again when the other is gone */
	f->nic = first;
}

/*
 * One machine twice, the newer one with an address besides that is another's: it
 * does not take from itself what it cannot keep, again and again. Whether it
 * would depends on the order of a map, so there are several of them.
 */
static void who_may_not_join_takes_nothing_from_whom_it_was(void **state)
{
	struct registry_bed *f = *state;
	char was[32], is[32], uid[40], mac[20], address[20];

	for (int i = 0; i < 8; i++) {
		snprintf(was, sizeof(was), "nic-a/p%d/a", i);
		snprintf(is, sizeof(is), "nic-a/q%d/a", i);
		snprintf(mac, sizeof(mac), "52:54:00:00:00:1%d", i);
		snprintf(address, sizeof(address), "10.0.0.1%d", i);
		vm(f, was, mac, address, "a", 8080);
		vm(f, is, mac, address, "a", 8080);
		assert_int_equal(guest_at_two(f->nic, is, "x", mac, address, "10.0.0.99"), 0);
	}
	assert_int_equal(loop_turn(f->loop, 0), 0);
	for (int i = 0; i < 8; i++) {
		snprintf(uid, sizeof(uid), "vm/nic-a/p%d/a", i);
		assert_true(published(f, uid));
		snprintf(uid, sizeof(uid), "vm/nic-a/q%d/a", i);
		assert_false(published(f, uid));
	}
}

struct moves {
	unsigned n_offers, n_moved;
	char from[64], to[64];
};

static void on_offer(const struct reg_guest *from, const struct reg_guest *to, void *data)
{
	struct moves *m = data;

	m->n_offers++;
	snprintf(m->from, sizeof(m->from), "%s", from->pb->guest_id);
	snprintf(m->to, sizeof(m->to), "%s", to->pb->guest_id);
}

static void on_moved(const struct reg_guest *from, const struct reg_guest *to, void *data)
{
	struct moves *m = data;

	m->n_moved++;
	snprintf(m->from, sizeof(m->from), "%s", from->pb->guest_id);
	snprintf(m->to, sizeof(m->to), "%s", to->pb->guest_id);
}

#define G1B	"nic-b/p1/52:54:00:00:00:01"

static void a_machine_that_turns_up_elsewhere_is_offered_what_it_had(void **state)
{
	struct registry_bed *f = *state;
	struct reg_nic *other, *first = f->nic;
	struct moves m = {};

	f->reg->moves = (struct registry_moves){ on_offer, on_moved, &m };
	vm(f, G1, "52:54:00:00:00:01", "10.0.0.1", "a", 8080);
	assert_int_equal(registry_nic_connect(f->reg, "nic-b", &other), 0);
	/* Not to another machine that says the same address, and not without one. */
	assert_int_equal(guest(other, "nic-b/p1/52:54:00:00:00:09", "x", "52:54:00:00:00:09", "10.0.0.1"), 0);
	assert_int_equal(guest(other, G1B, "x", "52:54:00:00:00:01", "10.0.0.7"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(m.n_offers, 0);
	assert_int_equal(guest(other, G1B, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(guest(other, G1B, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(m.n_offers, 1);
	assert_string_equal(m.from, G1);
	assert_string_equal(m.to, G1B);
	assert_int_equal(m.n_moved, 0);				/* it serves on, until the other one could */
	assert_true(published(f, U1));
	f->nic = other;
	vm(f, G1B, "52:54:00:00:00:01", "10.0.0.1", "a", 8080);
	assert_false(published(f, U1));
	assert_int_equal(m.n_moved, 1);
	assert_string_equal(m.from, G1);
	/* The NIC that it has left was away, says so again, and is told again. */
	assert_int_equal(registry_nic_connect(f->reg, "nic-a", &first), 0);
	assert_int_equal(guest(first, G1, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	assert_int_equal(proxy(first, G1, "ready"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(m.n_moved, 2);
	assert_string_equal(m.from, G1);
	assert_string_equal(m.to, G1B);
	assert_int_equal(m.n_offers, 1);
	f->reg->moves = (struct registry_moves){};
	f->nic = first;
}

static int gone(struct reg_nic *nic, const char *id)
{
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__GuestGone g = OUTRIGGER__V1__GUEST_GONE__INIT;

	g.guest_id = word(id);
	g.reason = word("port down");
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_GUEST_GONE;
	r.guest_gone = &g;
	return registry_bed_report(nic, &r, NULL);
}

#define MAC1	"52:54:00:00:00:01"

static void a_machine_that_has_left_is_offered_what_it_had_once(void **state)
{
	struct registry_bed *f = *state;
	struct reg_nic *other;
	struct moves m = {};

	f->reg->moves = (struct registry_moves){ on_offer, on_moved, &m };
	assert_int_equal(registry_nic_connect(f->reg, "nic-b", &other), 0);
	vm(f, G1, MAC1, "10.0.0.1", "a", 8080);
	assert_int_equal(gone(f->nic, G1), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_false(published(f, U1));				/* the mesh knows nothing of it */
	assert_null(registry_guest(f->reg, G1));
	assert_int_equal(f->nic->n_guests, 0);
	assert_int_equal(f->reg->n_departed, 1);
	/* Another machine, another address, another policy: nothing. */
	assert_int_equal(guest(other, "nic-b/p1/52:54:00:00:00:09", "x", "52:54:00:00:00:09", "10.0.0.1"), 0);
	assert_int_equal(guest(other, G1B, "x", MAC1, "10.0.0.7"), 0);
	assert_int_equal(guest(other, "nic-b/p2/" MAC1, "client-x", MAC1, "10.9.0.1"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(m.n_offers, 0);
	assert_int_equal(guest(other, G1B, "x", MAC1, "10.0.0.1"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(m.n_offers, 1);
	assert_string_equal(m.from, G1);
	assert_string_equal(m.to, G1B);
	assert_false(published(f, "vm/" G1B));			/* that takes what it takes of everybody */
	assert_int_equal(f->reg->n_departed, 0);
	/* Gone again before it has offered anything, there is nothing to remember. */
	assert_int_equal(gone(other, G1B), 0);
	assert_int_equal(guest(f->nic, G1, "x", MAC1, "10.0.0.1"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(m.n_offers, 1);
	assert_int_equal(f->reg->n_departed, 0);
	f->reg->moves = (struct registry_moves){};
}

static struct reg_guest *longest_gone(const struct registry *reg)
{
	assert_false(list_empty(&reg->departed));
	return list_entry(reg->departed.next, struct reg_guest, in_nic);
}

static void who_has_left_is_not_remembered_for_ever(void **state)
{
	struct registry_bed *f = *state;
	struct reg_nic *other;
	struct moves m = {};
	char id[64], mac[32], address[32];

	f->reg->moves = (struct registry_moves){ on_offer, on_moved, &m };
	/* Not twice; with what it offered last. */
	for (int i = 0; i < 3; i++) {
		vm(f, G1, MAC1, "10.0.0.1", "a", (uint32_t)(8080 + i));
		f->reg->moves.offer = NULL;		/* as if nobody had been there to be told */
		assert_int_equal(gone(f->nic, G1), 0);
		assert_int_equal(f->reg->n_departed, 1);
	}
	f->reg->moves.offer = on_offer;
	/* Not for long. */
	longest_gone(f->reg)->departed_ms -= REG_DEPARTED_MS;
	assert_int_equal(guest(f->nic, G1, "x", MAC1, "10.0.0.1"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(m.n_offers, 0);
	reg_departed_sweep(f->reg, NULL, false);
	assert_int_equal(f->reg->n_departed, 0);
	/* Not of one that is elsewhere already. */
	vm(f, G1, MAC1, "10.0.0.1", "a", 8080);
	assert_int_equal(registry_nic_connect(f->reg, "nic-b", &other), 0);
	assert_int_equal(guest(other, G1B, "x", MAC1, "10.0.0.1"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(m.n_offers, 1);
	assert_int_equal(gone(f->nic, G1), 0);
	assert_int_equal(f->reg->n_departed, 0);
	/* Not more than there may be: the longest gone is forgotten. */
	for (int i = 0; i < REG_MAX_DEPARTED + 1; i++) {
		snprintf(mac, sizeof(mac), "52:54:00:01:%02x:%02x", i / 250, i % 250);
		snprintf(id, sizeof(id), "nic-a/q/%s", mac);
		snprintf(address, sizeof(address), "10.0.0.%d", 2 + i % 250);
		vm(f, id, mac, address, "a", 8080);
		assert_int_equal(gone(f->nic, id), 0);
	}
	assert_int_equal(f->reg->n_departed, REG_MAX_DEPARTED);
	assert_string_equal(longest_gone(f->reg)->pb->mac, "52:54:00:01:00:01");
	/* Nothing of a NIC that is not trusted any more. */
	registry_nic_forget(f->reg, "nic-a");
	assert_int_equal(f->reg->n_departed, 0);
	f->reg->moves = (struct registry_moves){};
}

/* A NIC that makes up guests without end pushes out its own. */
static void who_has_left_one_nic_is_not_forgotten_for_another(void **state)
{
	struct registry_bed *f = *state;
	struct reg_nic *first = f->nic, *other;
	char id[64], mac[32], address[32];

	assert_int_equal(registry_nic_connect(f->reg, "nic-b", &other), 0);
	vm(f, G1, MAC1, "10.0.0.1", "a", 8080);
	assert_int_equal(gone(f->nic, G1), 0);
	for (int i = 0; i < 2 * REG_MAX_DEPARTED; i++) {
		snprintf(mac, sizeof(mac), "52:54:00:00:%02x:%02x", 1 + i / 256, i % 256);
		snprintf(id, sizeof(id), "nic-b/p1/%s", mac);
		snprintf(address, sizeof(address), "10.0.0.%d", 2 + i % 250);
		f->nic = other;
		vm(f, id, mac, address, "a", 8080);
		f->nic = first;
		assert_int_equal(gone(other, id), 0);
	}
	assert_int_equal(f->reg->n_departed, REG_MAX_DEPARTED);
	assert_int_equal(first->n_departed, 1);
	assert_string_equal(longest_gone(f->reg)->pb->guest_id, G1);
	reg_departed_sweep(f->reg, other, true);
	assert_int_equal(other->n_departed, 0);
	assert_int_equal(f->reg->n_departed, 1);
}

static void what_is_not_said_again_is_dropped(void **state)
{
	struct registry_bed *f = *state;
	struct reg_nic *again;

	vm(f, G1, "52:54:00:00:00:01", "10.0.0.1", "a", 8080);
	vm(f, "nic-a/p2/52:54:00:00:00:02", "52:54:00:00:00:02", "10.0.0.2", "a", 8080);
	assert_int_equal(registry_nic_connect(f->reg, "nic-a", &again), 0);
	assert_ptr_equal(again, f->nic);
	assert_int_equal(guest(f->nic, G1, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	assert_int_equal(claim(f->nic, G1, "a", "i", 8080, ""), 0);
	assert_int_equal(verdict(f->nic, G1, "a", "i", "vm"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_true(published(f, U1));				/* in the meantime nothing is missing */
	assert_int_equal(synced(f->nic), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
	assert_int_equal(f->nic->n_guests, 1);
	assert_false(published(f, U1));				/* its proxy was not said again */
	assert_null(registry_guest(f->reg, "nic-a/p2/52:54:00:00:00:02"));
}

static void limits_hold(void **state)
{
	struct registry_bed *f = *state;
	char text[64];

	assert_int_equal(guest(f->nic, G1, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	for (unsigned i = 0; i < REG_MAX_CLAIMS; i++) {
		snprintf(text, sizeof(text), "i%u", i);
		assert_int_equal(claim(f->nic, G1, "a", text, 8080, ""), 0);
	}
	assert_int_equal(claim(f->nic, G1, "a", "more", 8080, ""), -EINVAL);
	assert_int_equal(claim(f->nic, G1, "a", "i0", 8080, "http"), 0);	/* one that is there may change */
	for (unsigned i = 1; i < REG_MAX_GUESTS; i++) {
		snprintf(text, sizeof(text), "nic-a/p%u/x", i);
		assert_int_equal(guest(f->nic, text, "x", "", "10.0.0.1"), 0);
	}
	assert_int_equal(guest(f->nic, "nic-a/more/x", "x", "", "10.0.0.1"), -EINVAL);
	assert_int_equal(guest(f->nic, G1, "y", "52:54:00:00:00:01", "10.0.0.1"), 0);
	assert_int_equal(guest(f->nic, "nic-b/p/x", "x", "", "10.0.0.1"), -EINVAL);
	assert_int_equal(guest(f->nic, "nic-ab/p/x", "x", "", "10.0.0.1"), -EINVAL);
	assert_int_equal(guest(f->nic, "nic-a/p/x", "x", "", "224.0.0.1"), -EINVAL);
}

static void a_configuration_is_applied_as_a_diff(void **state)
{
	struct registry_bed *f = *state;
	struct config *old = f->config;

	vm(f, G1, "52:54:00:00:00:01", "10.0.0.1", "a", 8080);
	resources_settle(&f->resources);
	f->config = registry_bed_config(yaml);				/* the same again: nothing changes */
	assert_int_equal(registry_apply(f->reg, f->config), 0);
	config_free(old);
	assert_true(list_empty(&f->resources.changes));
	assert_true(published(f, U1));

	old = f->config;
	f->config = registry_bed_config("trust_domain: t.mesh\n"
			  "workloads:\n- {name: thief, namespace: shop, addresses: [10.0.0.1]}\n");
	assert_int_equal(registry_apply(f->reg, f->config), 0);
	config_free(old);
	assert_false(published(f, U1));				/* no policy, and its address is somebody else's */
	assert_false(published(f, "config/shop/fixed"));
	assert_false(published(f, "shop/b.shop.mesh.internal"));
	assert_true(published(f, "config/shop/thief"));
}

/* --- resources --- */

static int count(struct resource *res, void *data)
{
	(void)res;
	++*(int *)data;
	return 0;
}

static void resources_are_found_by_name_alias_and_parent(void **state)
{
	static const char *const alias[] = { "/10.0.0.1" }, *const parents[] = { "p1", "p2" };
	struct resources r;
	int n = 0;

	(void)state;
	resources_init(&r);
	assert_int_equal(resources_put(&r, RESOURCE_ADDRESS, "a", &(struct resource_content){ "x", 1, alias, 1, parents, 2 }), 0);
	assert_int_equal(resources_put(&r, RESOURCE_ADDRESS, "b", &(struct resource_content){ "y", 1, NULL, 0, parents, 1 }), 0);
	assert_null(resources_find(&r, RESOURCE_ENDPOINTS, "a"));
	assert_int_equal(resources_each_alias(&r, RESOURCE_ADDRESS, "/10.0.0.1", count, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(resources_each_child(&r, RESOURCE_ADDRESS, "p1", count, &n), 0);
	assert_int_equal(n, 3);
	resources_settle(&r);

	char version[RESOURCE_VERSION_LEN];
	memcpy(version, resources_find(&r, RESOURCE_ADDRESS, "a")->version, sizeof(version));
	assert_int_equal(resources_put(&r, RESOURCE_ADDRESS, "a", &(struct resource_content){ "x", 1, alias, 1, parents, 2 }), 0);
	assert_true(list_empty(&r.changes));			/* the same again */
	resources_remove(&r, RESOURCE_ADDRESS, "a");
	assert_null(resources_find(&r, RESOURCE_ADDRESS, "a"));
	assert_int_equal(resources_put(&r, RESOURCE_ADDRESS, "a", &(struct resource_content){ "x", 1, NULL, 0, NULL, 0 }), 0);
	assert_string_equal(resources_find(&r, RESOURCE_ADDRESS, "a")->version, version);	/* of the content */
	n = 0;
	assert_int_equal(resources_each_alias(&r, RESOURCE_ADDRESS, "/10.0.0.1", count, &n), 0);
	assert_int_equal(n, 0);
	resources_remove(&r, RESOURCE_ADDRESS, "b");
	resources_settle(&r);
	assert_int_equal(r.groups[RESOURCE_ADDRESS].n, 0);
	assert_int_equal(r.by_name[RESOURCE_ADDRESS].n, 1);
	resources_deinit(&r);
}

/* A ztunnel refuses an answer with a string that is not UTF-8, whole; JSON leaves out the row. */
static void texts_that_are_none_are_refused(void **state)
{
	struct registry_bed *f = *state;
	Outrigger__V1__Evidence e = OUTRIGGER__V1__EVIDENCE__INIT, *list[] = { &e };
	Outrigger__V1__Verdict v = OUTRIGGER__V1__VERDICT__INIT;
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	const struct reg_verdict *kept;

	assert_true(guest(f->nic, G1 "\xff", "x", "52:54:00:00:00:01", "10.0.0.1") < 0);
	assert_true(guest(f->nic, G1, "x\xc3", "52:54:00:00:00:01", "10.0.0.1") < 0);
	assert_true(guest(f->nic, G1 "\xc2\x9b", "x", "52:54:00:00:00:01", "10.0.0.1") < 0);
	assert_int_equal(guest(f->nic, G1, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	assert_true(claim(f->nic, G1, "a\xe2\x80", "i", 80, "http") < 0);
	assert_true(claim(f->nic, G1, "a", "\xed\xa0\x80", 80, "http") < 0);
	assert_true(claim(f->nic, G1, "a", "i\x1b[2J", 80, "http") < 0);
	assert_int_equal(claim(f->nic, G1, "a", "caf\xc3\xa9", 80, "http"), 0);

	/* A sentence may end in the middle of a character. */
	v.guest_id = word(G1);
	v.service = word("a");
	v.instance = word("i");
	v.verdict = word("vm");
	e.detail = word("caf\xc3");
	v.evidence = list;
	v.n_evidence = 1;
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_VERDICT;
	r.verdict = &v;
	assert_int_equal(registry_bed_report(f->nic, &r, NULL), 0);
	kept = reg_guest_verdict(registry_guest(f->reg, G1), "a", "i");
	assert_string_equal(kept->pb->evidence[0]->detail, "caf?");
}

static void a_nic_is_remembered_up_to_a_bound(void **state)
{
	enum { VALUES = 60, VALUE = 2000 };
	static char values[VALUES][8], filler[VALUE + 1];
	Outrigger__V1__Claim__MetadataEntry entries[VALUES], *list[VALUES];
	struct registry_bed *f = *state;
	Outrigger__V1__Claim c = OUTRIGGER__V1__CLAIM__INIT;
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	char id[64], service[16];
	struct diag d = {};
	int n = 0, result = 0;

	memset(filler, 'x', VALUE);
	for (int i = 0; i < VALUES; i++) {
		snprintf(values[i], sizeof(values[i]), "k%d", i);
		outrigger__v1__claim__metadata_entry__init(&entries[i]);
		entries[i].key = values[i];
		entries[i].value = filler;
		list[i] = &entries[i];
	}
	c.guest_id = id;
	c.service = service;
	c.metadata = list;
	c.n_metadata = VALUES;
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_CLAIM;
	r.claim = &c;
	for (int g = 0; result == 0; g++) {
		snprintf(id, sizeof(id), "nic-a/p%d/x", g);
		result = guest(f->nic, id, "x", "52:54:00:00:00:01", "10.0.0.1");
		for (int i = 0; result == 0 && i < REG_MAX_CLAIMS; i++, n++) {
			snprintf(service, sizeof(service), "s%d", i);
			result = registry_bed_report(f->nic, &r, &d);
		}
	}
	assert_non_null(strstr(d.msg, "has told more than"));
	assert_true((size_t)n * VALUES * VALUE <= REG_MAX_TOLD);
	assert_true((size_t)(n + 1) * VALUES * (VALUE + 256) > REG_MAX_TOLD);
	registry_nic_forget(f->reg, "nic-a");
	assert_int_equal(f->nic->told, 0);
	vm(f, G1, "52:54:00:00:00:01", "10.0.0.1", "a", 80);
	assert_true(published(f, U1));
	assert_int_equal(proxy(f->nic, G1, "failed"), 0);	/* what is said anew takes the place of what was said */
	registry_nic_forget(f->reg, "nic-a");
	assert_int_equal(f->nic->told, 0);
}

#define WILD(limit) \
	"trust_domain: t.mesh\nvirtual_addresses: 10.99.0.0/24\n" limit \
	"onboarding:\n" \
	"- {name: vms, match: {nic: nic-*}, mode: strict, namespace: shop, service_account: vm, services: ['*']}\n"

static void offer_services(struct registry_bed *f, struct reg_nic *nic, const char *id, const char *prefix, int n)
{
	char name[32];

	for (int i = 0; i < n; i++) {
		snprintf(name, sizeof(name), "%s%d", prefix, i);
		assert_int_equal(claim(nic, id, name, "i", 8080, ""), 0);
		assert_int_equal(verdict(nic, id, name, "i", "vm"), 0);
	}
	assert_int_equal(proxy(nic, id, "ready"), 0);
	assert_int_equal(loop_turn(f->loop, 0), 0);
}

/* Those of a guest's claims that are a service's in the mesh; each other one says what is in its way and where that is set. */
static int n_joined(struct registry_bed *f, const char *id)
{
	struct reg_guest *g = registry_guest(f->reg, id);
	int n = 0;

	list_for_each(l, &g->claims) {
		const struct reg_claim *c = list_entry(l, struct reg_claim, link);

		n += !c->why_not;
		if (c->why_not)
			assert_non_null(strstr(c->why_not, "limits.services_per_nic"));
	}
	return n;
}

static void reconfigure(struct registry_bed *f, const char *text)
{
	struct config *c = registry_bed_config(text);

	assert_int_equal(registry_apply(f->reg, c), 0);
	config_free(f->config);
	f->config = c;
}

static void remove_service(struct registry_bed *f, const char *key)
{
	struct reg_service *s = reg_service_find(f->reg, key);

	assert_non_null(s);
	reg_service_remove(f->reg, s);	/* as when it has been empty for long */
	assert_int_equal(loop_turn(f->loop, 0), 0);
}

static void one_nic_does_not_use_up_the_services_of_all(void **state)
{
	struct registry_bed f = {};
	struct reg_nic *other;

	(void)state;
	registry_bed_init(&f, WILD("limits: { services_per_nic: 3 }\n"));
	assert_int_equal(registry_nic_connect(f.reg, "nic-b", &other), 0);
	assert_int_equal(guest(f.nic, G1, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	assert_int_equal(guest(other, "nic-b/p1/y", "y", "52:54:00:00:00:02", "10.0.0.2"), 0);
	offer_services(&f, f.nic, G1, "mine", 8);
	assert_int_equal(n_joined(&f, G1), 3);
	assert_int_equal(f.reg->services.n, 3);
	assert_true(f.reg->n_over_share >= 5);

	offer_services(&f, other, "nic-b/p1/y", "other", 3);
	offer_services(&f, other, "nic-b/p1/y", "mine", 3);		/* one that is there is anybody's */
	assert_int_equal(n_joined(&f, "nic-b/p1/y"), 6);
	offer_services(&f, f.nic, G1, "other", 3);
	assert_int_equal(n_joined(&f, G1), 6);

	/* One that goes makes room, and so does the setting. */
	registry_guest_remove(registry_guest(f.reg, "nic-b/p1/y"));
	assert_int_equal(claim(f.nic, G1, "mine0", "i", 8080, ""), 0);
	remove_service(&f, "shop/mine0.shop.mesh.internal");
	assert_int_equal(n_joined(&f, G1), 6);			/* itself, or one that waited: three are its own */
	reconfigure(&f, WILD("limits: { services_per_nic: 7 }\n"));
	assert_int_equal(n_joined(&f, G1), 10);
	reconfigure(&f, WILD(""));				/* a tenth of the addresses */
	assert_int_equal(reg_founder_share(f.reg), 25);
	assert_int_equal(n_joined(&f, G1), 11);
	registry_bed_deinit(&f);
}

/* Names that come and go: what they have had is there for others. */
static void addresses_of_services_that_went_are_had_again(void **state)
{
	struct registry_bed f = {};

	(void)state;
	registry_bed_init(&f, WILD("limits: { services_per_nic: 200 }\n"));
	assert_int_equal(guest(f.nic, G1, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	for (int round = 0; round < 4; round++) {
		char prefix[16], key[64];

		snprintf(prefix, sizeof(prefix), "r%d-", round);
		offer_services(&f, f.nic, G1, prefix, 100);
		for (int i = 0; i < 100; i++) {
			const struct reg_service *s;

			snprintf(key, sizeof(key), "shop/r%d-%d.shop.mesh.internal", round, i);
			s = reg_service_find(f.reg, key);
			assert_non_null(s);
			assert_int_equal(s->n_addresses, 1);
		}
		registry_guest_remove(registry_guest(f.reg, G1));
		assert_int_equal(loop_turn(f.loop, 0), 0);
		for (int i = 0; i < 100; i++) {
			snprintf(key, sizeof(key), "shop/r%d-%d.shop.mesh.internal", round, i);
			remove_service(&f, key);
		}
		assert_int_equal(f.reg->founders.n, 0);
		assert_int_equal(guest(f.nic, G1, "x", "52:54:00:00:00:01", "10.0.0.1"), 0);
	}
	assert_true(f.reg->vips.by_key.n <= vips_size(&f.reg->vips));
	registry_bed_deinit(&f);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_parts_are_needed_in_any_order, setup, teardown),
		cmocka_unit_test_setup_teardown(the_first_policy_that_matches_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(a_client_joins_without_a_service, setup, teardown),
		cmocka_unit_test_setup_teardown(ports_of_a_declared_service_are_mapped, setup, teardown),
		cmocka_unit_test_setup_teardown(ports_of_an_undeclared_service_are_those_of_its_members, setup, teardown),
		cmocka_unit_test_setup_teardown(the_newest_of_two_reports_of_one_machine_wins, setup, teardown),
		cmocka_unit_test_setup_teardown(who_may_not_join_takes_nothing_from_whom_it_was, setup, teardown),
		cmocka_unit_test_setup_teardown(a_machine_that_turns_up_elsewhere_is_offered_what_it_had, setup, teardown),
		cmocka_unit_test_setup_teardown(a_machine_that_has_left_is_offered_what_it_had_once, setup, teardown),
		cmocka_unit_test_setup_teardown(who_has_left_is_not_remembered_for_ever, setup, teardown),
		cmocka_unit_test_setup_teardown(who_has_left_one_nic_is_not_forgotten_for_another, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_not_said_again_is_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(limits_hold, setup, teardown),
		cmocka_unit_test_setup_teardown(texts_that_are_none_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(a_nic_is_remembered_up_to_a_bound, setup, teardown),
		cmocka_unit_test_setup_teardown(a_configuration_is_applied_as_a_diff, setup, teardown),
		cmocka_unit_test(resources_are_found_by_name_alias_and_parent),
		cmocka_unit_test(one_nic_does_not_use_up_the_services_of_all),
		cmocka_unit_test(addresses_of_services_that_went_are_had_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

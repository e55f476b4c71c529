/*
 * The catalog: conversations of observations over a simulated clock.
 */
#include "lib/unit.h"

#include <stdio.h>
#include <string.h>

#include "agent/catalog.h"

enum { SECOND = 1000 };

struct world {
	struct guest_table guests;
	struct catalog catalog;
	struct guest *a, *b;		/* 10.0.0.1 on tap0, 10.0.0.2 on tap1 */
	unsigned n_claimed, n_changed, n_gone, n_lookups;
	char reason[32];
	char service[64];
};

static void on_guest_changed(struct guest *g, void *data)
{
	struct world *w = data;

	catalog_guest_changed(&w->catalog, g, 10000000000ULL);
}

static void on_guest_gone(struct guest *g, const char *reason, void *data)
{
	struct world *w = data;

	catalog_guest_gone(&w->catalog, g, reason);
}

static void on_claimed(struct claim *c, void *data)
{
	struct world *w = data;

	snprintf(w->service, sizeof(w->service), "%s", c->service);
	w->n_claimed++;
}

static void on_changed(struct claim *c, void *data)
{
	(void)c;
	((struct world *)data)->n_changed++;
}

static void on_gone(struct claim *c, const char *reason, void *data)
{
	struct world *w = data;

	(void)c;
	snprintf(w->reason, sizeof(w->reason), "%s", reason);
	w->n_gone++;
}

static void on_lookup(struct catalog_guest *g, const struct lookup *l, void *data)
{
	(void)g;
	(void)l;
	((struct world *)data)->n_lookups++;
}

static struct ip ip(const char *text)
{
	struct ip a;

	assert_int_equal(ip_parse(text, &a), 0);
	return a;
}

static struct guest *guest(struct world *w, const char *port, uint8_t mac, const char *address)
{
	struct guest_sighting s = { .link = { .mac = { 2, 0, 0, 0, 0, mac } }, .source = GUEST_BY_ARP, .ip = ip(address) };
	struct guest *g;

	snprintf(s.link.port, sizeof(s.link.port), "%s", port);
	assert_int_equal(guest_learn(&w->guests, &s, 0, &g), 0);
	return g;
}

static void world_init(struct world *w)
{
	struct guest_limits limits = { .per_nic = 100, .per_port = 10, .address_ms = 3600 * SECOND };
	struct guest_events gev = { .changed = on_guest_changed, .gone = on_guest_gone, .data = w };
	struct catalog_events cev = { .claimed = on_claimed, .changed = on_changed, .gone = on_gone, .looked_up = on_lookup, .data = w };

	*w = (struct world){};
	guest_table_init(&w->guests, "nic", NULL, 0, &limits, &gev);
	catalog_init(&w->catalog, &w->guests, &cev);
	w->a = guest(w, "tap0", 1, "10.0.0.1");
	w->b = guest(w, "tap1", 2, "10.0.0.2");
}

static void world_deinit(struct world *w)
{
	catalog_deinit(&w->catalog);
	guest_table_deinit(&w->guests);
	assert_int_equal(w->catalog.hints.n, 0);
}

static struct observation obs(enum observation_kind kind, const char *protocol, const char *service, const char *instance, uint16_t port)
{
	static uint64_t frame;

	frame++;
	return (struct observation){ .kind = kind, .protocol = protocol, .service = service, .instance = instance, .port = port,
				     .guest = ip("10.0.0.1"), .frame = frame, .time_ns = frame * 1000 };
}

static int see(struct world *w, const struct observation *o, uint64_t now_ms)
{
	return catalog_observe(&w->catalog, w->a, o, now_ms * 1000000);
}

static struct claim *only_claim(struct world *w)
{
	struct catalog_guest *g = catalog_of(w->a);

	assert_int_equal(g->n_claims, 1);
	return list_entry(g->claims.next, struct claim, link);
}

static void a_registration_is_a_claim_until_it_is_withdrawn(void **state)
{
	struct observation o = obs(OBS_REGISTER, "zookeeper", "orders", "n-1", 8080);
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(see(&w, &o, 0), 0);
	assert_int_equal(w.n_claimed, 1);
	struct ip own = ip("10.0.0.1");
	assert_true(ip_equal(&only_claim(&w)->address, &own));	/* left out: the guest's own */
	assert_int_equal(catalog_expire(&w.catalog, 1000000 * SECOND), UINT64_MAX);
	assert_int_equal(see(&w, &o, 5), 0);			/* again: no news */
	assert_int_equal(w.n_claimed + w.n_changed, 1);

	o = obs(OBS_DEREGISTER, "zookeeper", NULL, "n-2", 0);
	assert_int_equal(see(&w, &o, 6), CATALOG_E_IGNORED);
	o = obs(OBS_DEREGISTER, "zookeeper", NULL, "n-1", 0);	/* says no more than its id */
	assert_int_equal(see(&w, &o, 6), 0);
	assert_int_equal(w.n_gone, 1);
	assert_string_equal(w.reason, "deregistered");
	world_deinit(&w);
}

static void a_lease_ends_when_it_is_not_renewed(void **state)
{
	struct observation o = obs(OBS_REGISTER, "consul", "orders", "o-1", 8080);
	struct world w;

	(void)state;
	world_init(&w);
	o.ttl_s = 10;
	assert_int_equal(see(&w, &o, 0), 0);
	uint64_t end = catalog_expire(&w.catalog, 9 * SECOND);
	assert_in_range(end, 10 * SECOND, 14 * SECOND);
	struct observation renew = obs(OBS_RENEW, "consul", NULL, "o-1", 0);
	assert_int_equal(see(&w, &renew, 9 * SECOND), 0);
	assert_int_equal(catalog_expire(&w.catalog, end), end + 9 * SECOND);
	assert_int_equal(w.n_gone, 0);
	catalog_expire(&w.catalog, end + 9 * SECOND);
	assert_int_equal(w.n_gone, 1);
	assert_string_equal(w.reason, "expired");
	world_deinit(&w);
}

static void a_renewal_that_says_everything_is_a_registration(void **state)
{
	struct observation o = obs(OBS_RENEW, "consul", "orders", "o-1", 8080);
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(see(&w, &o, 0), 0);
	assert_int_equal(w.n_claimed, 1);
	o = obs(OBS_RENEW, "consul", NULL, "o-2", 0);
	assert_int_equal(see(&w, &o, 0), CATALOG_E_IGNORED);
	world_deinit(&w);
}

static void two_protocols_make_one_claim(void **state)
{
	struct observation zk = obs(OBS_REGISTER, "zookeeper", "orders", "n-1", 8080);
	struct observation mdns = obs(OBS_REGISTER, "mdns", "orders", "orders._http._tcp.local", 8080);
	struct world w;

	(void)state;
	world_init(&w);
	mdns.ttl_s = 120;
	assert_int_equal(see(&w, &zk, 0), 0);
	assert_int_equal(see(&w, &mdns, 0), 0);
	assert_int_equal(w.n_claimed, 1);
	assert_int_equal(w.n_changed, 1);
	assert_int_equal(only_claim(&w)->n_sources, 2);
	/* It lives as long as one of them does. */
	zk.kind = OBS_DEREGISTER;
	assert_int_equal(see(&w, &zk, SECOND), 0);
	assert_int_equal(w.n_gone, 0);
	assert_string_equal(only_claim(&w)->sources[0].protocol, "mdns");
	catalog_expire(&w.catalog, 200 * SECOND);
	assert_int_equal(w.n_gone, 1);
	world_deinit(&w);
}

static void an_instance_that_moves_to_another_port_leaves_the_old_one(void **state)
{
	struct observation o = obs(OBS_REGISTER, "consul", "orders", "o-1", 8080);
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(see(&w, &o, 0), 0);
	o.port = 9090;
	assert_int_equal(see(&w, &o, 0), 0);
	assert_int_equal(only_claim(&w)->port, 9090);
	assert_int_equal(w.n_gone, 1);
	world_deinit(&w);
}

/* A second address, told of before anybody has seen it. */
static void a_registration_waits_for_its_address(void **state)
{
	struct observation o = obs(OBS_REGISTER, "consul", "billing", "b-1", 8080), later = o, short_lived = o, gone = o;
	static const struct observation_meta meta[] = { { "zone", "a" } };
	struct world w;

	(void)state;
	world_init(&w);
	o.address = ip("fd00::7");
	o.metadata = meta;
	o.n_metadata = 1;
	assert_int_equal(see(&w, &o, 0), CATALOG_E_UNPROVEN);
	later.address = ip("fd00::8");
	later.instance = "b-2";
	assert_int_equal(see(&w, &later, 0), CATALOG_E_UNPROVEN);
	short_lived.address = ip("fd00::7");
	short_lived.instance = "b-3";
	short_lived.port = 8081;
	short_lived.ttl_s = 5;
	assert_int_equal(see(&w, &short_lived, 0), CATALOG_E_UNPROVEN);
	gone.address = ip("fd00::7");
	gone.instance = "b-4";
	gone.port = 8082;
	assert_int_equal(see(&w, &gone, 0), CATALOG_E_UNPROVEN);
	gone.kind = OBS_DEREGISTER;
	assert_int_equal(see(&w, &gone, 0), CATALOG_E_IGNORED);
	assert_int_equal(w.n_claimed, 0);

	guest(&w, "tap1", 2, "fd00::8");		/* is somebody else's, as it turns out */
	assert_int_equal(w.n_claimed, 0);
	guest(&w, "tap0", 1, "fd00::7");
	struct claim *c = only_claim(&w);
	assert_string_equal(c->service, "billing");
	assert_string_equal(c->sources[0].instance, "b-1");
	assert_string_equal(c->metadata[0].value, "a");
	assert_int_equal(catalog_of(w.a)->n_waiting, 1);

	/* Who registers without end makes room for itself only. */
	later.address = ip("fd00::9");
	for (uint16_t port = 1; port <= 3 * CATALOG_MAX_WAITING; port++) {
		char instance[8];

		snprintf(instance, sizeof(instance), "n-%u", port);
		later.port = port;
		later.instance = instance;
		assert_int_equal(see(&w, &later, 0), CATALOG_E_UNPROVEN);
	}
	assert_int_equal(catalog_of(w.a)->n_waiting, CATALOG_MAX_WAITING);
	assert_int_equal(catalog_of(w.a)->waiting[0].o.port, 2 * CATALOG_MAX_WAITING + 1);	/* the last ones */
	world_deinit(&w);
}

static void nobody_claims_for_others(void **state)
{
	struct observation o = obs(OBS_REGISTER, "consul", "billing", "b-1", 8080);
	struct ip_port at = { .port = 8080 };
	struct world w;

	(void)state;
	world_init(&w);
	o.address = ip("10.0.0.2");
	assert_int_equal(see(&w, &o, 0), CATALOG_E_REFUSED);
	o.address = ip("192.0.2.7");
	assert_int_equal(see(&w, &o, 0), CATALOG_E_UNPROVEN);
	assert_int_equal(see(&w, &o, 0), CATALOG_E_REFUSED);	/* it is known to wait */
	o.address = ip("fe80::1");
	guest(&w, "tap0", 1, "fe80::1");
	assert_int_equal(see(&w, &o, 0), CATALOG_E_REFUSED);
	assert_int_equal(w.n_claimed, 0);

	const struct catalog_guest *g = catalog_of(w.a);
	assert_int_equal(g->n_refused, 4);
	assert_int_equal(g->n_refusals, 3);		/* the repeated one is one line */
	assert_string_equal(g->refusals[0].why, "the address is another guest's");
	assert_int_equal(g->refusals[1].n, 2);
	at.ip = ip("192.0.2.7");
	assert_true(catalog_hint(&w.catalog, &at)->registered);
	world_deinit(&w);
}

static void what_runs_behind_a_guest_is_marked(void **state)
{
	struct observation o = obs(OBS_REGISTER, "consul", "cart", "c-1", 8080);
	struct world w;

	(void)state;
	world_init(&w);
	o.guest = o.address = ip("10.244.0.5");
	assert_int_equal(see(&w, &o, 0), 0);
	assert_true(only_claim(&w)->behind);
	/* News of the guest do not end it; an address that becomes its own clears it. */
	guest(&w, "tap0", 1, "10.0.0.3");
	assert_true(only_claim(&w)->behind);
	guest(&w, "tap0", 1, "10.244.0.5");
	assert_false(only_claim(&w)->behind);
	world_deinit(&w);
}

/* The agent connects to what is claimed, and a guest can send from any address. */
static void nothing_behind_a_guest_has_an_address_of_this_machine(void **state)
{
	static const char *const none[] = { "127.0.0.1", "::1", "169.254.169.254", "224.0.0.5", "10.99.0.1" };
	struct observation o = obs(OBS_REGISTER, "consul", "cart", "c-1", 8080);
	struct ip ours = ip("10.99.0.1");
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(guest_table_ours(&w.guests, &ours, 1), 0);
	for (size_t i = 0; i < ELEMENTS(none); i++) {
		o.guest = o.address = ip(none[i]);
		assert_int_equal(see(&w, &o, 0), CATALOG_E_REFUSED);
	}
	assert_int_equal(catalog_of(w.a)->n_claims, 0);
	world_deinit(&w);
}

static void useless_claims_are_refused(void **state)
{
	char long_name[CATALOG_MAX_SERVICE_LEN + 2];
	struct world w;

	(void)state;
	world_init(&w);
	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = 0;
	struct observation portless = obs(OBS_REGISTER, "consul", "orders", "o-1", 0);
	struct observation nameless = obs(OBS_REGISTER, "consul", NULL, "o-1", 80);
	struct observation too_long = obs(OBS_REGISTER, "consul", long_name, "o-1", 80);
	assert_int_equal(see(&w, &portless, 0), CATALOG_E_REFUSED);
	assert_int_equal(see(&w, &nameless, 0), CATALOG_E_REFUSED);
	assert_int_equal(see(&w, &too_long, 0), CATALOG_E_REFUSED);
	world_deinit(&w);
}

static void claims_end_with_their_guest_or_its_address(void **state)
{
	struct observation o = obs(OBS_REGISTER, "consul", "orders", "o-1", 8080);
	struct world w;

	(void)state;
	world_init(&w);
	assert_int_equal(see(&w, &o, 0), 0);
	guest_expire(&w.guests, 3600 * SECOND);
	assert_int_equal(w.n_gone, 1);
	assert_true(list_empty(&w.catalog.by_guest));
	w.a = guest(&w, "tap0", 1, "10.0.0.1");
	assert_int_equal(see(&w, &o, 0), 0);
	guest_port_down(&w.guests, "tap0", "port down");
	assert_int_equal(w.n_gone, 2);
	assert_string_equal(w.reason, "port down");
	world_deinit(&w);
}

static void health_is_the_worst_that_is_said_and_silence_is_critical(void **state)
{
	struct observation o = obs(OBS_REGISTER, "consul", "orders", "o-1", 8080);
	struct world w;

	(void)state;
	world_init(&w);
	o.health = OBS_HEALTH_PASSING;
	assert_int_equal(see(&w, &o, 0), 0);
	assert_int_equal(claim_health(only_claim(&w)), OBS_HEALTH_PASSING);
	o = obs(OBS_RENEW, "consul", NULL, "o-1", 0);
	o.health = OBS_HEALTH_WARNING;
	assert_int_equal(see(&w, &o, 0), 0);
	assert_int_equal(w.n_changed, 1);
	catalog_probed(&w.catalog, only_claim(&w), false, 1);
	catalog_probed(&w.catalog, only_claim(&w), false, 2);
	assert_int_equal(w.n_changed, 2);
	assert_int_equal(claim_health(only_claim(&w)), OBS_HEALTH_CRITICAL);
	catalog_probed(&w.catalog, only_claim(&w), true, 3);
	assert_int_equal(claim_health(only_claim(&w)), OBS_HEALTH_WARNING);
	world_deinit(&w);
}

static void an_answering_service_outlives_the_memory_of_its_peers(void **state)
{
	struct observation o = obs(OBS_REGISTER, "mdns", "orders", "i", 8080);
	struct observation lease = obs(OBS_REGISTER, "consul", "orders", "i", 8080);
	struct world w;

	(void)state;
	world_init(&w);
	o.ttl_s = lease.ttl_s = 100;
	assert_int_equal(see(&w, &o, 0), 0);
	assert_int_equal(see(&w, &lease, 0), 0);
	catalog_probed(&w.catalog, only_claim(&w), true, 90 * SECOND);
	catalog_expire(&w.catalog, 150 * SECOND);
	assert_int_equal(only_claim(&w)->n_sources, 1);		/* the lease is over, the record is not */
	assert_string_equal(only_claim(&w)->sources[0].protocol, "mdns");
	world_deinit(&w);
}

static void lookups_and_hints_are_kept_in_bounds(void **state)
{
	char name[32];
	struct world w;

	(void)state;
	world_init(&w);
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "svc-%u", i);
		struct observation ask = obs(OBS_DISCOVER, "dns", name, NULL, 0);
		struct observation answer = obs(OBS_ANSWER, "dns", name, NULL, (uint16_t)(i + 1));
		answer.address = ip("10.9.0.1");
		assert_int_equal(see(&w, &ask, i), 0);
		assert_int_equal(see(&w, &ask, i), 0);
		assert_int_equal(see(&w, &answer, i), 0);
	}
	const struct catalog_guest *g = catalog_of(w.a);
	assert_int_equal(w.n_lookups, 1000);
	assert_int_equal(g->n_lookups, CATALOG_MAX_LOOKUPS);
	assert_int_equal(g->n_hints, CATALOG_MAX_HINTS);
	assert_int_equal(w.catalog.hints.n, CATALOG_MAX_HINTS);
	struct ip_port last = { .ip = ip("10.9.0.1"), .port = 1000 }, first = { .ip = last.ip, .port = 1 };
	assert_string_equal(catalog_hint(&w.catalog, &last)->service, "svc-999");
	assert_null(catalog_hint(&w.catalog, &first));
	world_deinit(&w);
}

static void a_flood_of_claims_hurts_its_guest_only(void **state)
{
	char name[32];
	struct world w;

	(void)state;
	world_init(&w);
	for (unsigned i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "svc-%u", i);
		struct observation o = obs(OBS_REGISTER, "consul", name, name, 80);
		assert_int_equal(see(&w, &o, 0), i < CATALOG_MAX_CLAIMS ? 0 : CATALOG_E_FULL);
	}
	assert_int_equal(catalog_of(w.a)->n_full, 1000 - CATALOG_MAX_CLAIMS);
	struct observation o = obs(OBS_REGISTER, "consul", "billing", "b", 80);
	o.guest = ip("10.0.0.2");
	assert_int_equal(catalog_observe(&w.catalog, w.b, &o, 0), 0);
	world_deinit(&w);
}

static int register_one(struct world *w, unsigned i, uint16_t port, uint64_t now_ms)
{
	char name[32];

	snprintf(name, sizeof(name), "svc-%u", i);
	struct observation o = obs(OBS_REGISTER, "zookeeper", name, name, port);
	return see(w, &o, now_ms);
}

static int deregister_one(struct world *w, unsigned i, uint64_t now_ms)
{
	char name[32];

	snprintf(name, sizeof(name), "svc-%u", i);
	struct observation o = obs(OBS_DEREGISTER, "zookeeper", NULL, name, 0);
	return see(w, &o, now_ms);
}

/* Whatever the guest registers and withdraws, as fast as it can; what it says last becomes true. */
static void new_claims_have_a_rate_and_the_last_ones_wait(void **state)
{
	enum { AT_ONCE = CATALOG_CLAIMS_BURST + 1, ALL = AT_ONCE + 3 * CATALOG_MAX_WAITING };	/* one is always due */
	struct world w;

	(void)state;
	world_init(&w);
	w.catalog.claims_per_s = 10;
	for (unsigned i = 0; i < AT_ONCE; i++) {
		assert_int_equal(register_one(&w, i, 80, 1000), 0);
		assert_int_equal(deregister_one(&w, i, 1000), 0);
	}
	for (unsigned i = AT_ONCE; i < ALL; i++)
		assert_int_equal(register_one(&w, i, 80, 1000), CATALOG_E_PACED);
	const struct catalog_guest *g = catalog_of(w.a);
	assert_int_equal(g->n_paced, ALL - AT_ONCE);
	assert_int_equal(g->n_waiting, CATALOG_MAX_WAITING);
	assert_int_equal(g->n_claims, 0);

	assert_int_equal(register_one(&w, ALL - 1, 81, 1000), CATALOG_E_PACED);		/* it is elsewhere meanwhile */
	assert_int_equal(deregister_one(&w, ALL - 2, 1000), CATALOG_E_IGNORED);		/* and that one nowhere */
	assert_int_equal(g->n_waiting, CATALOG_MAX_WAITING - 1);
	catalog_retry(&w.catalog, 1000 * 1000000ull);
	assert_int_equal(g->n_claims, 0);			/* not yet; and what waits is not counted again */
	assert_int_equal(g->n_paced, ALL - AT_ONCE + 1);
	catalog_retry(&w.catalog, 1300 * 1000000ull);
	assert_int_equal(g->n_claims, 3);
	catalog_retry(&w.catalog, 5000 * 1000000ull);
	assert_int_equal(g->n_claims, CATALOG_MAX_WAITING - 1);
	assert_int_equal(g->n_waiting, 0);
	list_for_each(l, &g->claims) {
		const struct claim *c = list_entry(l, struct claim, link);

		_Static_assert(ALL == 153, "the names below");
		assert_string_not_equal(c->service, "svc-151");
		assert_int_equal(c->port, strcmp(c->service, "svc-152") ? 80 : 81);
	}

	/* What is there is renewed without end, and costs nothing. */
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(register_one(&w, ALL - 1, 81, 5000), 0);
	struct observation o = obs(OBS_REGISTER, "consul", "billing", "b", 80);
	o.guest = ip("10.0.0.2");
	assert_int_equal(catalog_observe(&w.catalog, w.b, &o, 1000000), 0);	/* others have a rate of their own */
	world_deinit(&w);
}

/* A registration that is older than what is known must not win by having waited. */
static void what_waits_gives_way_to_what_is_said_later(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	w.catalog.claims_per_s = 10;
	for (unsigned i = 0; i <= CATALOG_CLAIMS_BURST; i++) {
		assert_int_equal(register_one(&w, i, 80, 1000), 0);
		assert_int_equal(deregister_one(&w, i, 1000), 0);
	}
	assert_int_equal(register_one(&w, 1, 80, 1000), CATALOG_E_PACED);
	assert_int_equal(register_one(&w, 1, 81, 1200), 0);
	catalog_retry(&w.catalog, 9000 * 1000000ull);
	assert_int_equal(only_claim(&w)->port, 81);
	world_deinit(&w);
}

/* What waited for its turn waits for its address when the guest has lost that meanwhile. */
static void what_waits_outlives_its_address(void **state)
{
	enum { LIFE = 3600 * SECOND };
	struct observation o = obs(OBS_REGISTER, "zookeeper", "late", "late", 80);
	struct world w;

	(void)state;
	world_init(&w);
	w.catalog.claims_per_s = 10;
	assert_ptr_equal(guest(&w, "tap0", 1, "10.0.0.7"), w.a);
	for (unsigned i = 0; i <= CATALOG_CLAIMS_BURST; i++) {
		assert_int_equal(register_one(&w, i, 80, 1000), 0);
		assert_int_equal(deregister_one(&w, i, 1000), 0);
	}
	o.address = ip("10.0.0.7");
	assert_int_equal(see(&w, &o, 1000), CATALOG_E_PACED);

	struct guest_sighting alive = { .link = { .port = "tap0", .mac = { 2, 0, 0, 0, 0, 1 } }, .source = GUEST_BY_ARP, .ip = ip("10.0.0.1") };
	struct guest *g;

	assert_int_equal(guest_learn(&w.guests, &alive, LIFE, &g), 0);
	guest_expire(&w.guests, LIFE + SECOND);
	assert_false(guest_owns(w.a, &o.address));
	catalog_retry(&w.catalog, 9000 * 1000000ull);
	assert_int_equal(catalog_of(w.a)->n_claims, 0);
	alive.ip = o.address;
	assert_int_equal(guest_learn(&w.guests, &alive, LIFE + 2 * SECOND, &g), 0);
	catalog_retry(&w.catalog, 20000 * 1000000ull);
	assert_string_equal(only_claim(&w)->service, "late");
	world_deinit(&w);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_registration_is_a_claim_until_it_is_withdrawn),
		cmocka_unit_test(a_lease_ends_when_it_is_not_renewed),
		cmocka_unit_test(a_renewal_that_says_everything_is_a_registration),
		cmocka_unit_test(two_protocols_make_one_claim),
		cmocka_unit_test(an_instance_that_moves_to_another_port_leaves_the_old_one),
		cmocka_unit_test(a_registration_waits_for_its_address),
		cmocka_unit_test(nobody_claims_for_others),
		cmocka_unit_test(what_runs_behind_a_guest_is_marked),
		cmocka_unit_test(nothing_behind_a_guest_has_an_address_of_this_machine),
		cmocka_unit_test(useless_claims_are_refused),
		cmocka_unit_test(claims_end_with_their_guest_or_its_address),
		cmocka_unit_test(health_is_the_worst_that_is_said_and_silence_is_critical),
		cmocka_unit_test(an_answering_service_outlives_the_memory_of_its_peers),
		cmocka_unit_test(lookups_and_hints_are_kept_in_bounds),
		cmocka_unit_test(a_flood_of_claims_hurts_its_guest_only),
		cmocka_unit_test(new_claims_have_a_rate_and_the_last_ones_wait),
		cmocka_unit_test(what_waits_gives_way_to_what_is_said_later),
		cmocka_unit_test(what_waits_outlives_its_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

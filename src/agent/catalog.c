/*
 * Claims and their sources. The lists of one guest are short (see the limits),
 * so they are searched straight through.
 */
#include "agent/catalog_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "discover/protocol.h"

_Static_assert(sizeof(struct ip_port) == 18, "is a map's key: no holes");

/* A lease is renewed over a network, by a busy machine: a little late is not dead. */
enum { LEASE_GRACE_MIN_MS = 1000, LEASE_GRACE_MAX_MS = 15000 };

void catalog_init(struct catalog *c, struct guest_table *guests, const struct catalog_events *events)
{
	*c = (struct catalog){ .guests = guests, .events = *events };
	list_init(&c->by_guest);
	map_init(&c->hints);
}

/* --- of one guest --- */

static void source_clear(struct claim_source *s)
{
	free(s->instance);
	*s = (struct claim_source){};
}

static void metadata_clear(struct claim *c)
{
	for (size_t i = 0; i < c->n_metadata; i++) {
		free(c->metadata[i].key);
		free(c->metadata[i].value);
	}
	c->n_metadata = 0;
}

static void claim_free(struct claim *c)
{
	while (c->n_sources)
		source_clear(&c->sources[--c->n_sources]);
	metadata_clear(c);
	list_unlink(&c->link);
	c->owner->n_claims--;
	free(c->app_protocol);
	free(c->service);
	free(c);
}

static void claim_end(struct catalog *c, struct claim *claim, const char *reason)
{
	c->events.gone(claim, reason, c->events.data);
	claim_free(claim);
}

static void guest_free(struct catalog *c, struct catalog_guest *g)
{
	list_for_each_safe(l, &g->claims)
		claim_free(list_entry(l, struct claim, link));
	hearsay_clear(c, g);
	waiting_clear(g);
	g->guest->catalog = NULL;
	list_unlink(&g->link);
	free(g);
}

void catalog_deinit(struct catalog *c)
{
	list_for_each_safe(l, &c->by_guest)
		guest_free(c, list_entry(l, struct catalog_guest, link));
	map_deinit(&c->hints);
}

struct catalog_guest *catalog_of(const struct guest *g)
{
	return g->catalog;
}

static struct catalog_guest *guest_get(struct catalog *c, struct guest *g)
{
	struct catalog_guest *cg = g->catalog;

	if (cg)
		return cg;
	cg = calloc(1, sizeof(*cg));
	if (!cg)
		return NULL;
	cg->guest = g;
	g->catalog = cg;
	list_init(&cg->claims);
	list_init(&cg->hints);
	list_append(&c->by_guest, &cg->link);
	return cg;
}

bool catalog_same_text(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

/* strdup() that lets NULL be NULL. */
static int copy_text(const char *text, char **ret_copy)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		return -ENOMEM;
	*ret_copy = copy;
	return 0;
}

/* --- sources --- */

/*
 * Who announces to his peers says with the TTL how long they may remember it.
 * Who has a registry has promised it to renew in time: too late is dead.
 */
static bool ttl_is_cache(const char *protocol)
{
	const struct discover_protocol *p = discover_protocol_by_name(protocol);

	return p && p->is_peer_to_peer;
}

static uint64_t source_end(const struct claim_source *s, uint64_t now_ms)
{
	uint64_t ttl_ms = (uint64_t)s->ttl_s * 1000;
	uint64_t grace = MIN(MAX(ttl_ms / 4, (uint64_t)LEASE_GRACE_MIN_MS), (uint64_t)LEASE_GRACE_MAX_MS);

	return s->ttl_s ? now_ms + ttl_ms + grace : UINT64_MAX;
}

static void source_seen(struct claim_source *s, const struct observation *o, uint64_t now_ms)
{
	if (o->ttl_s)
		s->ttl_s = o->ttl_s;
	if (o->health != OBS_HEALTH_UNKNOWN)
		s->health = o->health;
	s->registry = o->registry;
	s->until_ms = source_end(s, now_ms);
	s->last_frame = o->frame;
	s->last_ns = o->time_ns;
	s->n_seen++;
}

static struct claim_source *source_find(struct claim *c, const struct observation *o)
{
	for (size_t i = 0; i < c->n_sources; i++)
		if (catalog_same_text(c->sources[i].protocol, o->protocol) && catalog_same_text(c->sources[i].instance, o->instance))
			return &c->sources[i];
	return NULL;
}

static void source_drop(struct claim *c, size_t i)
{
	source_clear(&c->sources[i]);
	memmove(&c->sources[i], &c->sources[i + 1], (c->n_sources - i - 1) * sizeof(c->sources[0]));
	c->n_sources--;
}

/* A fifth source takes the place of the stalest. */
static int source_add(struct claim *c, const struct observation *o, uint64_t now_ms)
{
	struct claim_source s = { .protocol = o->protocol, .first_frame = o->frame, .first_ns = o->time_ns };
	size_t stalest = 0;
	int r;

	r = copy_text(o->instance, &s.instance);
	if (r < 0)
		return r;
	if (c->n_sources == CATALOG_MAX_SOURCES) {
		for (size_t i = 1; i < c->n_sources; i++)
			if (c->sources[i].last_ns < c->sources[stalest].last_ns)
				stalest = i;
		source_drop(c, stalest);
	}
	source_seen(&s, o, now_ms);
	c->sources[c->n_sources++] = s;
	return 0;
}

/* Does @o, which may say little, speak of source @s of claim @c? What it does not say does not count against it. */
static bool speaks_of(const struct observation *o, const struct claim *c, const struct claim_source *s)
{
	if (!catalog_same_text(s->protocol, o->protocol) || (!o->service && !o->instance))
		return false;
	if (o->instance && s->instance && strcmp(o->instance, s->instance))
		return false;
	if (o->service && strcmp(o->service, c->service))
		return false;
	if (o->port && o->port != c->port)
		return false;
	return ip_is_none(&o->address) || ip_equal(&o->address, &c->address);
}

enum speak { SPEAK_WITHDRAW, SPEAK_RENEW };

/* Returns how many sources @o spoke of. */
static size_t speak(struct catalog *c, struct catalog_guest *g, const struct observation *o, enum speak what, uint64_t now_ms)
{
	size_t n = 0;

	list_for_each_safe(l, &g->claims) {
		struct claim *claim = list_entry(l, struct claim, link);
		enum observation_health health = claim_health(claim);
		size_t before = claim->n_sources;

		for (size_t i = claim->n_sources; i-- > 0;) {
			if (!speaks_of(o, claim, &claim->sources[i]))
				continue;
			n++;
			if (what == SPEAK_WITHDRAW)
				source_drop(claim, i);
			else
				source_seen(&claim->sources[i], o, now_ms);
		}
		if (!claim->n_sources)
			claim_end(c, claim, "deregistered");
		else if (claim->n_sources != before || claim_health(claim) != health)
			c->events.changed(claim, c->events.data);
	}
	return n;
}

/* The same instance, registered anew at another place: it is not at the old one any more. */
static void withdraw_elsewhere(struct catalog *c, struct catalog_guest *g, const struct observation *o, const struct claim *here)
{
	if (!o->instance)
		return;
	list_for_each_safe(l, &g->claims) {
		struct claim *claim = list_entry(l, struct claim, link);
		struct claim_source *s = claim == here ? NULL : source_find(claim, o);

		if (!s || strcmp(claim->service, o->service) || ip_is_v4(&claim->address) != ip_is_v4(&here->address))
			continue;
		source_drop(claim, (size_t)(s - claim->sources));
		if (!claim->n_sources)
			claim_end(c, claim, "deregistered");
		else
			c->events.changed(claim, c->events.data);
	}
}

/* --- claims --- */

static bool is_udp(const struct observation *o)
{
	return o->transport && !strcmp(o->transport, "udp");
}

static struct claim *claim_find(const struct catalog_guest *g, const struct observation *o, const struct ip *address)
{
	list_for_each(l, &g->claims) {
		struct claim *c = list_entry(l, struct claim, link);

		if (c->port == o->port && c->udp == is_udp(o) && ip_equal(&c->address, address) && !strcmp(c->service, o->service))
			return c;
	}
	return NULL;
}

static int metadata_set(struct claim *c, const struct observation *o, bool *ret_changed)
{
	size_t n = MIN(o->n_metadata, (size_t)CATALOG_MAX_METADATA);
	bool same = n == c->n_metadata;

	for (size_t i = 0; same && i < n; i++)
		same = catalog_same_text(c->metadata[i].key, o->metadata[i].key) && catalog_same_text(c->metadata[i].value, o->metadata[i].value);
	*ret_changed = !same;
	if (same)
		return 0;
	metadata_clear(c);
	for (size_t i = 0; i < n; i++) {
		struct claim_meta m = {};

		if (copy_text(o->metadata[i].key, &m.key) < 0 || copy_text(o->metadata[i].value ? o->metadata[i].value : "", &m.value) < 0) {
			free(m.key);
			return -ENOMEM;
		}
		c->metadata[c->n_metadata++] = m;
	}
	return 0;
}

static struct pace_rate rate_of_claims(const struct catalog *c)
{
	return (struct pace_rate){ .per_s = c->claims_per_s, .burst_ms = c->claims_per_s ? CATALOG_CLAIMS_BURST * 1000 / c->claims_per_s : 0 };
}

static int claim_new(struct catalog_guest *g, const struct observation *o, const struct ip *address, struct pace_rate rate, uint64_t now_ns,
		     struct claim **ret_claim)
{
	struct claim *c;
	bool changed;

	if (g->n_claims == CATALOG_MAX_CLAIMS) {
		g->n_full++;
		return CATALOG_E_FULL;
	}
	if (!pace_left(&g->pace, rate, now_ns / 1000000))
		return CATALOG_E_PACED;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	*c = (struct claim){
		.owner = g, .address = *address, .port = o->port, .udp = is_udp(o),
		.packet_ns = o->time_ns, .claimed_ns = now_ns,
	};
	list_append(&g->claims, &c->link);
	g->n_claims++;
	if (copy_text(o->service, &c->service) < 0 || copy_text(o->app_protocol, &c->app_protocol) < 0 ||
	    metadata_set(c, o, &changed) < 0 || source_add(c, o, now_ns / 1000000) < 0) {
		claim_free(c);
		return -ENOMEM;
	}
	pace_take(&g->pace, rate, 1, now_ns / 1000000);
	*ret_claim = c;
	return 0;
}

static int claim_update(struct catalog *c, struct claim *claim, const struct observation *o, uint64_t now_ms)
{
	enum observation_health health = claim_health(claim);
	struct claim_source *s = source_find(claim, o);
	bool changed = false;
	int r = 0;

	if (s)
		source_seen(s, o, now_ms);
	else
		r = source_add(claim, o, now_ms);
	if (r < 0)
		return r;
	if (o->n_metadata)
		r = metadata_set(claim, o, &changed);
	if (!claim->app_protocol && o->app_protocol) {
		claim->app_protocol = strdup(o->app_protocol);
		changed = true;
	}
	if (!s || changed || claim_health(claim) != health)
		c->events.changed(claim, c->events.data);
	return r;
}

/*
 * Whose is the address? The guest's own; or, when the exchange itself came from
 * it, that of something that runs behind the guest (a pod); or somebody else's.
 */
static const char *not_his(const struct catalog *c, const struct guest *g, const struct observation *o, const struct ip *address,
			   bool *ret_behind, bool *ret_nobodys)
{
	const struct guest *owner = guest_by_ip(c->guests, address);

	*ret_behind = *ret_nobodys = false;
	if (guest_owns(g, address))
		return ip_is_link_local(address) ? "a link-local address is no place for a service" : NULL;
	if (owner)
		return "the address is another guest's";
	if (!ip_equal(address, &o->guest)) {
		*ret_nobodys = !ip_is_loopback(address) && !ip_is_multicast(address) && !guest_table_is_ours(c->guests, address);
		return "not an address that this guest has been seen with";
	}
	/* It can send from any address; there are some that nothing behind it has. */
	if (ip_is_loopback(address) || ip_is_multicast(address) || ip_is_link_local(address) || guest_table_is_ours(c->guests, address))
		return "not an address that anything behind a guest has";
	*ret_behind = true;
	return NULL;
}

int catalog_register(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns)
{
	struct ip address = ip_is_none(&o->address) ? o->guest : o->address;
	struct ip_port at = { .ip = address, .port = o->port };
	struct claim *claim;
	const char *why;
	bool behind, nobodys;
	int r;

	if (!o->service || !o->service[0] || strlen(o->service) > CATALOG_MAX_SERVICE_LEN)
		return hearsay_refuse(g, o, &at, "no usable service name");
	if (!o->port)
		return hearsay_refuse(g, o, &at, "names no port");
	why = not_his(c, g->guest, o, &address, &behind, &nobodys);
	if (why) {
		if (hearsay_worth(o))
			hearsay_hint(c, g, o, true);
		r = hearsay_refuse(g, o, &at, why);
		return nobodys ? CATALOG_E_UNPROVEN : r;
	}
	claim = claim_find(g, o, &address);
	if (claim) {
		r = claim_update(c, claim, o, now_ns / 1000000);
		if (r < 0)
			return r;
	} else {
		r = claim_new(g, o, &address, rate_of_claims(c), now_ns, &claim);
		if (r)
			return r;
		claim->behind = behind;
		c->events.claimed(claim, c->events.data);
	}
	withdraw_elsewhere(c, g, o, claim);
	return 0;
}

static int on_register(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns)
{
	bool known = g->n_waiting && o->service && waiting_replace(g, o);
	int r = catalog_register(c, g, o, now_ns);

	switch (r) {
	case CATALOG_E_UNPROVEN:
		return waiting_keep(g, o, true, now_ns) == 0 && !known ? r : CATALOG_E_REFUSED;
	case CATALOG_E_PACED:
		g->n_paced++;
		return waiting_keep(g, o, false, now_ns) < 0 ? -ENOMEM : r;
	case -ENOMEM:
		return waiting_keep(g, o, false, now_ns) < 0 ? -ENOMEM : CATALOG_E_SHORT;
	}
	return r;
}

static int on_renew(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns)
{
	if (speak(c, g, o, SPEAK_RENEW, now_ns / 1000000))
		return 0;
	/* We came late: a renewal that says everything is as good as a registration. */
	return o->service && o->port ? on_register(c, g, o, now_ns) : CATALOG_E_IGNORED;
}

static int on_deregister(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns)
{
	waiting_withdraw(g, o);
	return speak(c, g, o, SPEAK_WITHDRAW, now_ns / 1000000) ? 0 : CATALOG_E_IGNORED;
}

static int on_answer(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns)
{
	(void)now_ns;
	if (!hearsay_worth(o))
		return CATALOG_E_IGNORED;
	hearsay_hint(c, g, o, false);
	return 0;
}

static int (*const on_kind[])(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns) = {
	[OBS_REGISTER] = on_register,
	[OBS_RENEW] = on_renew,
	[OBS_DEREGISTER] = on_deregister,
	[OBS_DISCOVER] = hearsay_lookup,
	[OBS_ANSWER] = on_answer,
};
_Static_assert(ELEMENTS(on_kind) == _OBS_KIND_N, "every kind has a handler");

int catalog_observe(struct catalog *c, struct guest *g, const struct observation *o, uint64_t now_ns)
{
	struct catalog_guest *cg = guest_get(c, g);

	if (!cg)
		return -ENOMEM;
	cg->n_observations[o->kind]++;
	return on_kind[o->kind](c, cg, o, now_ns);
}

/* --- what else ends or keeps a claim --- */

void catalog_guest_changed(struct catalog *c, struct guest *g, uint64_t now_ns)
{
	struct catalog_guest *cg = g->catalog;

	if (!cg)
		return;
	list_for_each_safe(l, &cg->claims) {
		struct claim *claim = list_entry(l, struct claim, link);

		if (guest_owns(g, &claim->address))
			claim->behind = false;
		else if (!claim->behind)
			claim_end(c, claim, "moved");
	}
	waiting_settle(c, cg, now_ns);
}

void catalog_retry(struct catalog *c, uint64_t now_ns)
{
	list_for_each(l, &c->by_guest)
		waiting_settle(c, list_entry(l, struct catalog_guest, link), now_ns);
}

void catalog_guest_gone(struct catalog *c, struct guest *g, const char *reason)
{
	struct catalog_guest *cg = g->catalog;

	if (!cg)
		return;
	list_for_each_safe(l, &cg->claims)
		claim_end(c, list_entry(l, struct claim, link), reason);
	guest_free(c, cg);
}

void catalog_probed(struct catalog *c, struct claim *claim, bool answered, uint64_t now_ms)
{
	for (size_t i = 0; answered && i < claim->n_sources; i++)
		if (ttl_is_cache(claim->sources[i].protocol))
			claim->sources[i].until_ms = MAX(claim->sources[i].until_ms, source_end(&claim->sources[i], now_ms));
	if (claim->silent == !answered)
		return;
	claim->silent = !answered;
	c->events.changed(claim, c->events.data);
}

static uint64_t expire_claim(struct catalog *c, struct claim *claim, uint64_t now_ms)
{
	size_t before = claim->n_sources;
	uint64_t next = UINT64_MAX;

	for (size_t i = claim->n_sources; i-- > 0;) {
		if (claim->sources[i].until_ms <= now_ms)
			source_drop(claim, i);
		else
			next = MIN(next, claim->sources[i].until_ms);
	}
	if (!claim->n_sources)
		claim_end(c, claim, "expired");
	else if (claim->n_sources != before)
		c->events.changed(claim, c->events.data);
	return next;
}

uint64_t catalog_expire(struct catalog *c, uint64_t now_ms)
{
	uint64_t next = UINT64_MAX;

	list_for_each(lg, &c->by_guest) {
		struct catalog_guest *g = list_entry(lg, struct catalog_guest, link);

		list_for_each_safe(l, &g->claims) {
			uint64_t end = expire_claim(c, list_entry(l, struct claim, link), now_ms);

			next = MIN(next, end);
		}
	}
	return next;
}

/* --- reading --- */

enum observation_health claim_health(const struct claim *c)
{
	enum observation_health worst = OBS_HEALTH_UNKNOWN;

	for (size_t i = 0; i < c->n_sources; i++)
		worst = MAX(worst, c->sources[i].health);
	return c->silent ? OBS_HEALTH_CRITICAL : worst;
}

uint64_t claim_until_ms(const struct claim *c)
{
	uint64_t until = 0;

	for (size_t i = 0; i < c->n_sources; i++)
		until = MAX(until, c->sources[i].until_ms);
	return until;
}

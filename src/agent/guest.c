/*
 * Guests and their addresses. A guest is found by its id, an address by its 16
 * bytes: one NIC namespace is one address space.
 */
#include "agent/guest.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/glob.h"

static const char *const source_names[] = {
	[GUEST_BY_TRAFFIC] = "traffic",
	[GUEST_BY_ND] = "nd",
	[GUEST_BY_ARP] = "arp",
	[GUEST_BY_DHCP] = "dhcp",
	[GUEST_BY_CONFIG] = "config",
};
_Static_assert(ELEMENTS(source_names) == _GUEST_SOURCE_N, "every source has a name");

const char *guest_source_name(enum guest_source source)
{
	return source_names[source];
}

const char *guest_mac_format(const uint8_t mac[6], char text[static GUEST_MAC_TEXT_LEN])
{
	snprintf(text, GUEST_MAC_TEXT_LEN, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
	return text;
}

static void id_format(const char *nic, const struct guest_link *link, char id[static GUEST_ID_LEN])
{
	char mac[GUEST_MAC_TEXT_LEN];

	guest_mac_format(link->mac, mac);
	if (link->vlan)
		snprintf(id, GUEST_ID_LEN, "%.80s/%.15s.%u/%s", nic, link->port, link->vlan, mac);
	else
		snprintf(id, GUEST_ID_LEN, "%.80s/%.15s/%s", nic, link->port, mac);
}

void guest_table_init(struct guest_table *t, const char *nic, const struct guest_rule *rules, size_t n_rules,
		      const struct guest_limits *limits, const struct guest_events *events)
{
	*t = (struct guest_table){
		.nic = nic,
		.rules = rules,
		.n_rules = n_rules,
		.limits = *limits,
		.events = *events,
	};
	map_init(&t->by_id);
	map_init(&t->by_ip);
}

static void address_free(struct guest_table *t, struct guest *g, size_t i)
{
	struct guest_address *a = g->addresses[i];

	map_remove(&t->by_ip, &a->by_ip);
	memmove(&g->addresses[i], &g->addresses[i + 1], (g->n_addresses - i - 1) * sizeof(g->addresses[0]));
	g->n_addresses--;
	free(a);
}

static void guest_drop(struct guest_table *t, struct guest *g)
{
	while (g->n_addresses)
		address_free(t, g, g->n_addresses - 1);
	map_remove(&t->by_id, &g->by_id);
	free(g);
}

static void guest_end(struct guest_table *t, struct guest *g, const char *reason)
{
	t->events.gone(g, reason, t->events.data);
	guest_drop(t, g);
}

void guest_table_deinit(struct guest_table *t)
{
	map_for_each(l, &t->by_id)
		guest_drop(t, container_of(l, struct guest, by_id));
	map_deinit(&t->by_id);
	map_deinit(&t->by_ip);
	free(t->ours);
	t->ours = NULL;
	t->n_ours = 0;
}

/* --- finding --- */

struct guest *guest_by_id(const struct guest_table *t, const char *id)
{
	struct map_link *l = map_find_str(&t->by_id, id);

	return l ? container_of(l, struct guest, by_id) : NULL;
}

struct guest *guest_by_link(const struct guest_table *t, const struct guest_link *link)
{
	char id[GUEST_ID_LEN];

	id_format(t->nic, link, id);
	return guest_by_id(t, id);
}

static struct guest_address *address_find(const struct guest_table *t, const struct ip *ip)
{
	struct map_link *l = map_find(&t->by_ip, ip, sizeof(*ip));

	return l ? container_of(l, struct guest_address, by_ip) : NULL;
}

struct guest *guest_by_ip(const struct guest_table *t, const struct ip *ip)
{
	struct guest_address *a = address_find(t, ip);

	return a ? a->guest : NULL;
}

bool guest_owns(const struct guest *g, const struct ip *ip)
{
	for (size_t i = 0; i < g->n_addresses; i++)
		if (ip_equal(&g->addresses[i]->ip, ip))
			return true;
	return false;
}

struct ip guest_primary_ip(const struct guest *g, bool v6)
{
	for (size_t i = 0; i < g->n_addresses; i++) {
		const struct ip *ip = &g->addresses[i]->ip;

		if (ip_is_v4(ip) != v6 && !ip_is_link_local(ip))
			return *ip;
	}
	return (struct ip){};
}

/* --- learning --- */

static bool rule_matches(const struct guest_rule *r, const struct guest_link *link)
{
	static const uint8_t any[6];

	if (r->port && !glob_match(r->port, link->port))
		return false;
	if (r->vlan >= 0 && r->vlan != link->vlan)
		return false;
	return !memcmp(r->mac, any, 6) || !memcmp(r->mac, link->mac, 6);
}

static const struct guest_rule *rule_find(const struct guest_table *t, const struct guest_link *link)
{
	for (size_t i = 0; i < t->n_rules; i++)
		if (rule_matches(&t->rules[i], link))
			return &t->rules[i];
	return NULL;
}

bool guest_table_is_ours(const struct guest_table *t, const struct ip *ip)
{
	for (size_t i = 0; i < t->n_ours; i++)
		if (ip_equal(&t->ours[i], ip))
			return true;
	return false;
}

static bool may_have(const struct guest_table *t, const struct guest_rule *rule, const struct ip *ip)
{
	if (ip_is_none(ip) || ip_is_multicast(ip) || ip_is_loopback(ip))
		return false;
	if (ip_is_v4(ip) && ip->b[12] >= 240)	/* RFC 1112, section 4; and broadcast */
		return false;
	if (!ip_is_link_local(ip) && guest_table_is_ours(t, ip))
		return false;
	if (!rule || !rule->n_prefixes || ip_is_link_local(ip))
		return true;
	for (size_t i = 0; i < rule->n_prefixes; i++)
		if (ip_in_prefix(ip, &rule->prefixes[i]))
			return true;
	return false;
}

static bool mac_is_unicast(const uint8_t mac[6])
{
	static const uint8_t none[6];

	return !(mac[0] & 1) && memcmp(mac, none, 6);
}

static uint32_t count_on_port(const struct guest_table *t, const char *port)
{
	uint32_t n = 0;

	map_for_each(l, &t->by_id)
		if (!strcmp(container_of(l, struct guest, by_id)->link.port, port))
			n++;
	return n;
}

static int guest_new(struct guest_table *t, const struct guest_link *link, uint64_t now_ms, struct guest **ret_guest)
{
	struct guest *g;
	int r;

	if (!mac_is_unicast(link->mac))
		return GUEST_E_REFUSED;
	if (t->by_id.n >= t->limits.per_nic || count_on_port(t, link->port) >= t->limits.per_port) {
		t->n_full++;
		return GUEST_E_FULL;
	}
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->link = *link;
	id_format(t->nic, link, g->id);
	g->rule = rule_find(t, link);
	if (g->rule && g->rule->name)
		snprintf(g->name, sizeof(g->name), "%s", g->rule->name);
	g->first_seen_ms = g->last_seen_ms = now_ms;
	r = map_add(&t->by_id, &g->by_id, g->id, strlen(g->id));
	if (r < 0) {
		free(g);
		return r;
	}
	*ret_guest = g;
	return 0;
}

static uint64_t lifetime_end(const struct guest_table *t, const struct guest_sighting *s, uint64_t now_ms)
{
	if (s->source == GUEST_BY_CONFIG)
		return UINT64_MAX;
	return now_ms + (s->lifetime_ms ? s->lifetime_ms : t->limits.address_ms);
}

/* A link-local address is of little use: the one that was silent longest makes room. */
static bool make_room(struct guest_table *t, struct guest *g)
{
	size_t oldest = g->n_addresses;

	if (g->n_addresses < GUEST_MAX_ADDRESSES)
		return true;
	for (size_t i = 0; i < g->n_addresses; i++)
		if (ip_is_link_local(&g->addresses[i]->ip) &&
		    (oldest == g->n_addresses || g->addresses[i]->seen_ms < g->addresses[oldest]->seen_ms))
			oldest = i;
	if (oldest == g->n_addresses)
		return false;
	address_free(t, g, oldest);
	return true;
}

static int address_add(struct guest_table *t, struct guest *g, const struct guest_sighting *s, uint64_t now_ms)
{
	struct guest_address *a;
	int r;

	if (!make_room(t, g)) {
		t->n_full++;
		return GUEST_E_FULL;
	}
	a = malloc(sizeof(*a));
	if (!a)
		return -ENOMEM;
	*a = (struct guest_address){
		.guest = g,
		.ip = s->ip,
		.source = s->source,
		.seen_ms = now_ms,
		.until_ms = lifetime_end(t, s, now_ms),
	};
	r = map_add(&t->by_ip, &a->by_ip, &a->ip, sizeof(a->ip));
	if (r < 0) {
		free(a);
		return r;
	}
	g->addresses[g->n_addresses++] = a;
	return 0;
}

/*
 * The source of a packet is the weakest of signs: a guest that routes (a
 * Kubernetes node, a VPN server) sends what others say. So it counts only until
 * the guest has said of itself, in that family, who it is.
 */
static bool knows_better(const struct guest *g, const struct ip *ip)
{
	for (size_t i = 0; i < g->n_addresses; i++) {
		const struct guest_address *a = g->addresses[i];

		if (ip_is_v4(&a->ip) == ip_is_v4(ip) && !ip_is_link_local(&a->ip))
			return true;
	}
	return false;
}

static void forget_guesses(struct guest_table *t, struct guest *g, const struct ip *ip)
{
	for (size_t i = g->n_addresses; i-- > 0;) {
		struct guest_address *a = g->addresses[i];

		if (a->source == GUEST_BY_TRAFFIC && ip_is_v4(&a->ip) == ip_is_v4(ip) && !ip_equal(&a->ip, ip))
			address_free(t, g, i);
	}
}

static void address_renew(struct guest_table *t, struct guest_address *a, const struct guest_sighting *s, uint64_t now_ms)
{
	uint64_t until = lifetime_end(t, s, now_ms);

	a->seen_ms = now_ms;
	if (until > a->until_ms)
		a->until_ms = until;
	if (s->source > a->source) {
		a->source = s->source;
		if (!ip_is_link_local(&a->ip))
			forget_guesses(t, a->guest, &a->ip);
	}
}

static void guest_release(struct guest_table *t, struct guest_address *a)
{
	struct guest *g = a->guest;

	for (size_t i = 0; i < g->n_addresses; i++)
		if (g->addresses[i] == a) {
			address_free(t, g, i);
			break;
		}
	t->events.changed(g, t->events.data);
}

/* An address that is new for @g. The guest exists already. */
static int learn_address(struct guest_table *t, struct guest *g, const struct guest_sighting *s, uint64_t now_ms)
{
	struct guest_address *other = address_find(t, &s->ip);

	if (!may_have(t, g->rule, &s->ip)) {
		g->n_refused++;
		return GUEST_E_REFUSED;
	}
	if (other && now_ms < other->until_ms && s->source != GUEST_BY_CONFIG) {
		g->n_conflicts++;
		return GUEST_E_CONFLICT;
	}
	if (s->source == GUEST_BY_TRAFFIC && (ip_is_link_local(&s->ip) || knows_better(g, &s->ip)))
		return GUEST_E_IGNORED;
	if (other)
		guest_release(t, other);

	int r = address_add(t, g, s, now_ms);
	if (r == 0 && s->source > GUEST_BY_TRAFFIC && !ip_is_link_local(&s->ip))
		forget_guesses(t, g, &s->ip);
	return r;
}

static bool is_away(const struct guest_table *t, const struct guest_link *link, uint64_t now_ms)
{
	for (size_t i = 0; i < GUEST_MAX_AWAY; i++) {
		const struct guest_link *l = &t->away[i].link;

		if (now_ms < t->away[i].until_ms && l->vlan == link->vlan && !memcmp(l->mac, link->mac, sizeof(l->mac)) && !strcmp(l->port, link->port))
			return true;
	}
	return false;
}

void guest_moved(struct guest_table *t, struct guest *g, const char *reason, uint64_t until_ms)
{
	t->away[t->next_away++ % GUEST_MAX_AWAY] = (struct guest_away){ .link = g->link, .until_ms = until_ms };
	guest_end(t, g, reason);
}

int guest_learn(struct guest_table *t, const struct guest_sighting *s, uint64_t now_ms, struct guest **ret_guest)
{
	struct guest_address *a = address_find(t, &s->ip);
	struct guest *g = guest_by_link(t, &s->link);
	bool is_new = !g;
	int r;

	*ret_guest = g;
	if (a && a->guest == g) {
		g->last_seen_ms = now_ms;
		bool better = s->source > a->source;

		address_renew(t, a, s, now_ms);
		if (better)
			t->events.changed(g, t->events.data);
		return 0;
	}
	if (is_new) {
		/* Nothing it may not have makes a guest: a flood of such is not remembered. */
		if (!may_have(t, rule_find(t, &s->link), &s->ip) || is_away(t, &s->link, now_ms))
			return GUEST_E_REFUSED;
		r = guest_new(t, &s->link, now_ms, &g);
		if (r)
			return r;
	}
	g->last_seen_ms = now_ms;
	r = learn_address(t, g, s, now_ms);
	if (r < 0 && is_new) {
		guest_drop(t, g);
		return r;
	}
	*ret_guest = g;
	if (r == 0 || is_new)
		t->events.changed(g, t->events.data);
	return r;
}

/* --- ports --- */

static bool take_rule(struct guest_table *t, struct guest *g)
{
	const struct guest_rule *rule = rule_find(t, &g->link);
	char name[GUEST_NAME_LEN];
	bool changed;

	g->rule = rule;
	snprintf(name, sizeof(name), "%s", rule && rule->name ? rule->name : "");
	changed = strcmp(name, g->name) != 0;
	memcpy(g->name, name, sizeof(name));
	for (size_t i = g->n_addresses; i-- > 0;)
		if (!may_have(t, rule, &g->addresses[i]->ip)) {
			address_free(t, g, i);
			changed = true;
		}
	return changed;
}

static void take_rules(struct guest_table *t)
{
	map_for_each(l, &t->by_id) {
		struct guest *g = container_of(l, struct guest, by_id);

		if (take_rule(t, g))
			t->events.changed(g, t->events.data);
	}
}

int guest_table_ours(struct guest_table *t, const struct ip *ips, size_t n)
{
	struct ip *ours = calloc(n ? n : 1, sizeof(*ours));

	if (!ours)
		return -ENOMEM;
	if (n)
		memcpy(ours, ips, n * sizeof(*ours));
	free(t->ours);
	t->ours = ours;
	t->n_ours = n;
	take_rules(t);
	return 0;
}

void guest_table_change(struct guest_table *t, const struct guest_rule *rules, size_t n_rules, const struct guest_limits *limits)
{
	t->rules = rules;
	t->n_rules = n_rules;
	t->limits = *limits;
	take_rules(t);
}

int guest_port_up(struct guest_table *t, const char *port, uint64_t now_ms)
{
	static const uint8_t any[6];

	for (size_t i = 0; i < t->n_rules; i++) {
		const struct guest_rule *rule = &t->rules[i];
		struct guest_sighting s = { .source = GUEST_BY_CONFIG };
		struct guest *g;

		if (!rule->port || !memcmp(rule->mac, any, 6) || !glob_match(rule->port, port))
			continue;
		snprintf(s.link.port, sizeof(s.link.port), "%s", port);
		s.link.vlan = rule->vlan > 0 ? (uint16_t)rule->vlan : 0;
		memcpy(s.link.mac, rule->mac, 6);
		for (size_t j = 0; j < rule->n_addresses; j++) {
			s.ip = rule->addresses[j];
			int r = guest_learn(t, &s, now_ms, &g);
			if (r < 0)
				return r;
			if (r == GUEST_E_FULL)
				return r;
		}
	}
	return 0;
}

void guest_port_down(struct guest_table *t, const char *port, const char *reason)
{
	map_for_each(l, &t->by_id) {
		struct guest *g = container_of(l, struct guest, by_id);

		if (!strcmp(g->link.port, port))
			guest_end(t, g, reason);
	}
	for (size_t i = 0; i < GUEST_MAX_AWAY; i++)
		if (!strcmp(t->away[i].link.port, port))
			t->away[i].until_ms = 0;
}

/* --- time --- */

void guest_touch(struct guest_table *t, struct guest *g, uint64_t now_ms)
{
	g->last_seen_ms = now_ms;
	for (size_t i = 0; i < g->n_addresses; i++) {
		struct guest_address *a = g->addresses[i];

		if (a->until_ms < now_ms + t->limits.address_ms)
			a->until_ms = now_ms + t->limits.address_ms;
	}
}

static bool expire_addresses(struct guest_table *t, struct guest *g, uint64_t now_ms)
{
	bool changed = false;

	for (size_t i = g->n_addresses; i-- > 0;)
		if (g->addresses[i]->until_ms <= now_ms) {
			address_free(t, g, i);
			changed = true;
		}
	return changed;
}

void guest_expire(struct guest_table *t, uint64_t now_ms)
{
	map_for_each(l, &t->by_id) {
		struct guest *g = container_of(l, struct guest, by_id);
		bool changed = expire_addresses(t, g, now_ms);

		if (!g->n_addresses && g->last_seen_ms + t->limits.address_ms <= now_ms)
			guest_end(t, g, "gone");
		else if (changed)
			t->events.changed(g, t->events.data);
	}
}

/*
 * From a guest to a workload of the mesh, or the reason why not.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/onboard.h"
#include "control/registry.h"
#include "mesh/names.h"

static bool proxy_serves(const struct reg_guest *g)
{
	return g->proxy && (!strcmp(g->proxy->state, "ready") || !strcmp(g->proxy->state, "degraded"));
}

/* Why the guest as a whole is not in the mesh; NULL: nothing is in its way. */
static const char *guest_obstacle(const struct reg_guest *g)
{
	if (!g->policy)
		return "no onboarding policy matches the guest";
	if (g->policy->mode == MODE_OFF)
		return "its policy's mode is off";
	if (g->policy->mode == MODE_SHADOW)
		return "its policy's mode is shadow";
	if (!g->n_ips)
		return "the guest has no address yet";
	if (!proxy_serves(g))
		return "its proxy is not ready";
	return NULL;
}

static bool health_is_bad(const char *health)
{
	static const char *const bad[] = { "critical", "waiting", "failing", "down", "out_of_service", "maintenance", "unhealthy" };

	for (size_t i = 0; i < ELEMENTS(bad); i++)
		if (!strcasecmp(health, bad[i]))
			return true;
	return false;
}

static const char *claim_obstacle(const struct reg_guest *g, const struct reg_claim *c)
{
	const struct reg_verdict *v = reg_guest_verdict(g, c->pb->service, c->pb->instance);
	struct ip ip;

	if (!c->pb->admitted)
		return "the NIC has refused the claim";
	if (!onboard_allows_service(g->policy, c->pb->service))
		return "the policy does not let the guest claim this name";
	if (c->pb->address[0] && (ip_parse(c->pb->address, &ip) < 0 || !reg_guest_has_ip(g, &ip)))
		return "the claimed address is not the guest's own";
	if (!c->pb->port)
		return "the claim has no port";
	if (!v || !strcmp(v->pb->verdict, "unknown"))
		return "there is no verdict yet";
	if (strcmp(v->pb->verdict, "vm") != 0)
		return "it was judged a container";
	return NULL;
}

static enum app_protocol protocol_of(const char *text)
{
	static const struct { const char *name; enum app_protocol protocol; } names[] = {
		{ "http", APP_HTTP11 }, { "https", APP_TLS }, { "http2", APP_HTTP2 }, { "h2c", APP_HTTP2 }, { "grpc", APP_GRPC },
		{ "tcp", APP_TCP }, { "tls", APP_TLS },
	};

	for (size_t i = 0; i < ELEMENTS(names); i++)
		if (!strcasecmp(names[i].name, text))
			return names[i].protocol;
	return APP_UNKNOWN;
}

/* --- who has the addresses --- */

bool reg_same_machine(const struct reg_guest *a, const struct reg_guest *b)
{
	return a->pb->mac[0] && !strcasecmp(a->pb->mac, b->pb->mac) && !strcmp(a->policy->namespace, b->policy->namespace) &&
	       !strcmp(a->policy->service_account, b->policy->service_account);
}

/* The address of an admitted claim is the one to dial: it goes first. */
static bool is_claimed(const struct reg_guest *g, const struct ip *ip)
{
	list_for_each(l, &g->claims) {
		const struct reg_claim *c = list_entry(l, struct reg_claim, link);
		struct ip claimed;

		if (c->pb->admitted && !ip_parse(c->pb->address, &claimed) && ip_equal(&claimed, ip))
			return true;
	}
	return false;
}

/* Those by which peers can reach it: a link-local address means something else on every link. */
static size_t mesh_addresses(const struct reg_guest *g, struct ip ret_ips[static REG_MAX_ADDRESSES])
{
	size_t n = 0;

	for (int claimed = 1; claimed >= 0; claimed--)
		for (size_t i = 0; i < g->n_ips; i++)
			if (!ip_is_link_local(&g->ips[i]) && is_claimed(g, &g->ips[i]) == claimed)
				ret_ips[n++] = g->ips[i];
	return n;
}

static void tell_moved(struct registry *reg, struct reg_guest *from, const struct reg_guest *to)
{
	if (!reg->moves.moved || !from->nic->connected || from->moved_epoch == from->nic->epoch)
		return;
	from->moved_epoch = from->nic->epoch;
	reg->moves.moved(from, to, reg->moves.data);
}

/*
 * Another workload may have one of a guest's addresses: when that is the same
 * machine behind the NIC that it has left, the newer report wins; anybody else
 * keeps what is his, or every guest could take every other's traffic.
 */
static bool gives_way(const struct reg_workload *owner, const struct reg_guest *to)
{
	const struct reg_guest *other = owner->guest;

	return other && other->policy && reg_same_machine(to, other) && to->order > other->order;
}

/* Takes the addresses, of which no rival has one. */
static int claim_addresses(struct registry *reg, struct reg_guest *g, struct reg_workload *w)
{
	struct ip ips[REG_MAX_ADDRESSES];
	size_t n = mesh_addresses(g, ips);

	for (;;) {
		struct reg_workload *owner;
		int r = reg_workload_set_addresses(reg, w, ips, n, &owner);

		if (r != -EEXIST)
			return r;
		struct reg_guest *other = owner->guest;
		if (!gives_way(owner, g))
			return r;	/* rival() has looked */
		tell_moved(reg, other, g);
		snprintf(other->blocked, sizeof(other->blocked), "it has moved to NIC %.100s", g->nic->id);
		other->why_not = other->blocked;
		log_info("guest has moved", log_str("from", other->pb->guest_id), log_str("to", g->pb->guest_id));
		reg_workload_remove(reg, owner);
		list_for_each(l, &other->claims) {
			struct reg_claim *c = list_entry(l, struct reg_claim, link);

			c->why_not = other->blocked;
			c->joined_ms = 0;
		}
	}
}

static const struct reg_workload *owner_of(const struct registry *reg, const struct ip *ip)
{
	struct map_link *l = ip_is_link_local(ip) ? NULL : map_find(&reg->addresses, ip->b, sizeof(ip->b));

	return l ? container_of(l, struct reg_address, link)->workload : NULL;
}

/* The same machine as the mesh knows it behind another port, and has seen there first; NULL: there is none. */
static struct reg_guest *elsewhere(const struct registry *reg, const struct reg_guest *g)
{
	for (size_t i = 0; i < g->n_ips; i++) {
		const struct reg_workload *owner = owner_of(reg, &g->ips[i]);
		struct reg_guest *other = owner ? owner->guest : NULL;

		if (other && other != g && other->policy && reg_same_machine(g, other) && g->order > other->order)
			return other;
	}
	return NULL;
}

static void offer(struct registry *reg, struct reg_guest *g)
{
	struct reg_guest *from;

	if (g->workload || !reg->moves.offer || !g->nic->connected || g->offered_epoch == g->nic->epoch)
		return;
	from = elsewhere(reg, g);
	if (!from)
		from = reg_departed_find(reg, g);
	if (!from)
		return;
	g->offered_epoch = g->nic->epoch;
	from->handed_over = true;
	reg->moves.offer(from, g, reg->moves.data);
	if (from->departed_ms)
		reg_departed_forget(reg, from);
}

/* The workload that has one of its addresses and need not give it up; NULL: there is none. */
static const struct reg_workload *rival(const struct registry *reg, const struct reg_guest *g)
{
	for (size_t i = 0; i < g->n_ips; i++) {
		const struct reg_workload *owner = owner_of(reg, &g->ips[i]);

		if (owner && owner->guest != g && !gives_way(owner, g))
			return owner;
	}
	return NULL;
}

static void note_rival(struct registry *reg, struct reg_guest *g, const struct reg_workload *owner)
{
	bool same = owner->guest && owner->guest->policy && reg_same_machine(g, owner->guest);

	snprintf(g->blocked, sizeof(g->blocked), same ? "it has moved: it is %.100s now" : "workload %.100s has one of its addresses", owner->uid);
	if (same)
		tell_moved(reg, g, owner->guest);
}

/* --- joining and leaving --- */

static void join_service(struct registry *reg, struct reg_guest *g, struct reg_claim *c)
{
	const char *why = NULL;
	struct reg_service *s = reg_service_of_claim(reg, g, c->pb->service, &why);
	enum app_protocol protocol = protocol_of(c->pb->app_protocol);
	struct port_map port = { (uint16_t)c->pb->port, (uint16_t)c->pb->port, (uint8_t)protocol };

	if (!s)
		c->why_not = why;
	else if (s->declared && !reg_service_map_port(s, (uint16_t)c->pb->port, protocol, &port))
		c->why_not = "its port is none of the service's in the configuration";
	else if (reg_workload_join(reg, g->workload, s, port, c->unhealthy) < 0)
		c->why_not = "the service has too many ports, or memory is short";
	else
		return;
	c->joined_ms = 0;
}

static int enter(struct registry *reg, struct reg_guest *g)
{
	char uid[NAMES_UID_LEN], name[NAMES_WORKLOAD_LEN];
	struct reg_workload *w = g->workload;
	int r = names_vm_uid(g->pb->guest_id, uid);

	if (r == 0 && !w)
		r = reg_workload_new(reg, uid, &w);
	if (r < 0)
		return r;
	r = reg_workload_set(w, names_vm_workload(g->pb->name, g->pb->guest_id, name), g->policy->namespace,
			     g->policy->service_account, g->nic->id);
	if (r == 0)
		r = claim_addresses(reg, g, w);
	if (r < 0) {
		reg_workload_remove(reg, w);
		return r;
	}
	w->tunnel = TUNNEL_HBONE;
	w->weight = 1;
	w->labels = &g->policy->labels;
	w->guest = g;
	g->workload = w;
	return 0;
}

static void leave(struct registry *reg, struct reg_guest *g, const char *why)
{
	if (g->workload) {
		log_info("guest left the mesh", log_str("guest", g->pb->guest_id), log_str("reason", why));
		reg_workload_remove(reg, g->workload);
	}
	g->why_not = why;
	list_for_each(l, &g->claims) {
		struct reg_claim *c = list_entry(l, struct reg_claim, link);

		c->joined_ms = 0;
		if (!c->why_not)
			c->why_not = why;
	}
}

/* How many claims nothing is in the way of. */
static size_t judge_claims(struct reg_guest *g)
{
	size_t n = 0;

	list_for_each(l, &g->claims) {
		struct reg_claim *c = list_entry(l, struct reg_claim, link);

		c->why_not = claim_obstacle(g, c);
		n += !c->why_not;
	}
	return n;
}

/* It stays a member, so that its service and its own connections do: clients are told to leave it out. */
static void settle_health(const struct reg_guest *g, struct reg_claim *c)
{
	bool unhealthy = health_is_bad(c->pb->health);

	if (unhealthy != c->unhealthy)
		log_info("service's health", log_str("guest", g->pb->guest_id), log_str("service", c->pb->service), log_int("port", c->pb->port),
			 log_str("health", c->pb->health), log_str("reason", c->pb->health_reason));
	c->unhealthy = unhealthy;
}

bool reg_guest_is_client(const struct reg_guest *g)
{
	const struct reg_verdict *v = reg_guest_verdict(g, "", "");

	return g->policy && g->policy->client && v && !strcmp(v->pb->verdict, "vm");
}

void reg_guest_settle(struct registry *reg, struct reg_guest *g)
{
	size_t n_claims;
	bool was_in = g->workload;

	g->policy = onboard_match(reg->config, g->nic->id, g->pb);
	g->blocked[0] = 0;
	g->over_share = false;
	n_claims = judge_claims(g);

	const struct reg_workload *owner = onboard_joins(g->policy) ? rival(reg, g) : NULL;
	if (owner)
		note_rival(reg, g, owner);
	else if (onboard_joins(g->policy))
		offer(reg, g);
	const char *why_not = guest_obstacle(g);
	if (!why_not && owner)
		why_not = g->blocked;	/* before it takes from others what it would have to give back: they would take turns for ever */
	if (!why_not && !n_claims && !reg_guest_is_client(g))
		why_not = "it offers nothing that is admitted, and is not admitted as a client";
	if (why_not) {
		leave(reg, g, why_not);
		return;
	}
	if (enter(reg, g) < 0) {
		leave(reg, g, g->blocked[0] ? g->blocked : "memory is short");
		return;
	}
	g->why_not = NULL;
	if (!was_in)
		log_info("guest joined the mesh", log_str("guest", g->pb->guest_id), log_str("namespace", g->policy->namespace),
			 log_str("account", g->policy->service_account), log_int("services", (int64_t)n_claims));

	reg_workload_leave_all(reg, g->workload);
	list_for_each(l, &g->claims) {
		struct reg_claim *c = list_entry(l, struct reg_claim, link);

		if (c->why_not) {
			c->joined_ms = 0;
			continue;
		}
		if (!c->joined_ms)
			c->joined_ms = clock_mono_ms();
		settle_health(g, c);
		join_service(reg, g, c);
	}
	reg_workload_mark(reg, g->workload);
}

/* --- times --- */

/*
 * From the first packet until now. The NIC measured its own part when the
 * proxy's readiness was what the claim waited for; else its clock and ours are
 * compared, if they agree well enough.
 */
static int64_t age_of(const struct reg_guest *g, const struct reg_claim *c)
{
	enum { SANE_MS = 3600000 };
	uint64_t now = clock_mono_ms();
	uint64_t by_clock = (uint64_t)clock_wall_ms() - c->pb->first_seen_ms;	/* beyond all measure when that is to come */

	if (g->proxy && g->proxy->ready_ms && g->proxy->ready_ms <= INT32_MAX && g->proxy_received_ms >= c->received_ms)
		return (int64_t)(g->proxy->ready_ms + now - g->proxy_received_ms);
	if (c->pb->first_seen_ms && by_clock < SANE_MS)
		return (int64_t)by_clock;
	return (int64_t)(now - c->received_ms);
}

void registry_in_mesh(struct registry *reg, const char *uid)
{
	struct reg_workload *w = reg_workload_find(reg, uid);

	if (!w || !w->guest)
		return;
	list_for_each(l, &w->guest->claims) {
		struct reg_claim *c = list_entry(l, struct reg_claim, link);

		if (!c->joined_ms || c->in_mesh_ms >= 0)
			continue;
		c->in_mesh_ms = age_of(w->guest, c);
		log_info("service is in the mesh", log_str("guest", w->guest->pb->guest_id), log_str("service", c->pb->service),
			 log_int("in_mesh_ms", c->in_mesh_ms));
		reg_store_mark(reg, w->guest);
	}
}

/* --- tokens --- */

int registry_may_have_token(struct registry *reg, const char *nic, const char *guest_id,
			    const struct config_onboarding **ret_policy, struct diag *reterr_diag)
{
	const struct reg_guest *g = registry_guest(reg, guest_id);
	const struct config_onboarding *p;

	if (!g || strcmp(g->nic->id, nic) != 0 || !g->nic->connected || g->epoch != g->nic->epoch)
		return diag_set(reterr_diag, "NIC '%s' does not host guest '%.100s'", nic, guest_id);
	p = onboard_match(reg->config, nic, g->pb);
	if (!p)
		return diag_set(reterr_diag, "no onboarding policy matches guest '%.100s'", guest_id);
	if (!onboard_joins(p))
		return diag_set(reterr_diag, "policy '%s' keeps guest '%.100s' in mode %s", p->name, guest_id, config_mode_name(p->mode));
	/* With a token it could register as the other with an Istio control plane, which does not look at addresses. */
	const struct reg_workload *owner = g->policy ? rival(reg, g) : NULL;
	if (owner)
		return diag_set(reterr_diag, "guest '%.100s' has an address of workload %.150s", guest_id, owner->uid);
	*ret_policy = p;
	return 0;
}

/*
 * Reading a snapshot: lookups that allocate nothing and lock nothing.
 *
 * The tries are keyed by 64-bit hashes; who looks up compares what he finds, so
 * a collision makes an address unknown, never somebody else's.
 */
#include "mesh/snapshot.h"

#include <stdio.h>
#include <string.h>

#include "mesh/snap_state.h"

struct snap_addresses snap_workload_addresses(const struct snap_workload *w)
{
	return (struct snap_addresses){ (const uint8_t *)w, w->tail, NULL, w->n_addresses, true, w->is_v6 };
}

struct ip snap_workload_ip(const struct snap_workload *w)
{
	struct snap_addresses a = snap_workload_addresses(w);
	struct ip ip = {};

	(void)snap_address_next(&a, &ip);
	return ip;
}

const char *snap_workload_uid(const struct snap_workload *w, char uid[static SNAP_UID_LEN])
{
	const char *head = snap_kind_text(w->kind, SNAP_UID_HEAD), *rest = snap_workload_rest(w);
	size_t n = strlen(head);

	memcpy(uid, head, n);
	memcpy(uid + n, rest, strlen(rest) + 1);
	return uid;
}

bool snap_workload_is(const struct snap_workload *w, const char *uid)
{
	const char *head = snap_kind_text(w->kind, SNAP_UID_HEAD);
	size_t n = strlen(head);

	return !strncmp(uid, head, n) && !strcmp(uid + n, snap_workload_rest(w));
}

const char *snap_workload_name(const struct snap_workload *w)
{
	return (const char *)w->tail + w->name_at;
}

struct snapshot *snapshot_ref(struct snapshot *s)
{
	if (s)
		atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

struct snapshot *snapshot_unref(struct snapshot *s)
{
	if (s)
		atomic_fetch_sub_explicit(&s->refs, 1, memory_order_release);
	return NULL;
}

uint64_t snapshot_serial(const struct snapshot *s)
{
	return s->serial;
}

uint64_t snapshot_policy_serial(const struct snapshot *s)
{
	return s->state.policy_serial;
}

/* --- workloads and services --- */

const struct snap_workload *snapshot_workload(const struct snapshot *s, const char *uid)
{
	const struct snap_workload *w = slab_at(trie_get(&s->state.workloads, snap_hash_text(uid)));

	return w && snap_workload_is(w, uid) ? w : NULL;
}

static const struct snap_workload *workload_at(const struct trie *index, const struct ip *ip, uint64_t hash)
{
	const struct snap_workload *w = snap_address_owner(trie_get(index, hash));

	return w && snap_addresses_have(snap_workload_addresses(w), ip, NULL) ? w : NULL;
}

static const struct snap_workload *workload_by_hash(const struct snapshot *s, const struct ip *ip, uint64_t hash)
{
	return workload_at(&s->state.by_ip, ip, hash);
}

const struct snap_workload *snapshot_workload_by_ip(const struct snapshot *s, const struct ip *ip)
{
	return workload_by_hash(s, ip, snap_hash_ip(ip));
}

const struct snap_service *snap_service_by_id(const struct snap_state *s, uint32_t id)
{
	const struct snap_service *service = slab_at(trie_get(&s->services, id));

	return service && service->id == id ? service : NULL;
}

static const struct snap_service *service_by_id(const struct snapshot *s, uint32_t id)
{
	return snap_service_by_id(&s->state, id);
}

const struct snap_service *snapshot_service(const struct snapshot *s, const char *key)
{
	const struct snap_def *def = slab_at(trie_get(&s->state.by_key, snap_hash_text(key)));

	return def && def->defined && !strcmp(snap_def_key(def), key) ? service_by_id(s, def->service_id) : NULL;
}

static const struct snap_service *service_by_vip(const struct snapshot *s, const struct ip *ip, uint64_t hash)
{
	const struct snap_def *def = snap_address_owner(trie_get(&s->state.by_vip, hash));

	return def && snap_addresses_have(snap_def_addresses(def), ip, NULL) ? service_by_id(s, def->service_id) : NULL;
}

const struct snap_service *snapshot_service_of_ip(const struct snapshot *s, const struct ip *ip)
{
	uint64_t hash = snap_hash_ip(ip);
	const struct snap_service *found = service_by_vip(s, ip, hash);
	const struct snap_workload *w = workload_by_hash(s, ip, hash);

	for (uint32_t i = 0; !found && w && i < w->kind->n_members; i++)
		found = service_by_id(s, snap_kind_service(w->kind, i));
	return found && found->def->defined ? found : NULL;
}

const struct snap_workload *snapshot_elsewhere(const struct snapshot *s, const struct ip *ip)
{
	uint64_t hash = snap_hash_ip(ip);
	const struct snap_workload *w = workload_at(&s->state.by_far_ip, ip, hash);

	return w && !workload_by_hash(s, ip, hash) && !service_by_vip(s, ip, hash) ? w : NULL;
}

const struct snap_workload *snapshot_service_elsewhere(const struct snap_service *service)
{
	for (uint32_t i = 0; i < snap_service_size(service); i++) {
		const struct snap_workload *w = snap_service_endpoint(service, i);

		if (!w->reachable && w->n_addresses)
			return w;
	}
	return NULL;
}

uint32_t snapshot_n_workloads(const struct snapshot *s)
{
	return trie_count(&s->state.workloads);
}

uint32_t snapshot_n_services(const struct snapshot *s)
{
	return trie_count(&s->state.services);
}

const struct snap_workload *snapshot_workload_at(const struct snapshot *s, uint32_t i)
{
	return slab_at(trie_at(&s->state.workloads, i));
}

const struct snap_service *snapshot_service_at(const struct snapshot *s, uint32_t i)
{
	return slab_at(trie_at(&s->state.services, i));
}

/* --- routes --- */

static int route_service(const struct snap_service *service, const struct ip_port *dialled, struct snap_route *ret_route)
{
	const struct snap_port *ports = snap_def_ports(service->def);

	for (unsigned i = 0; i < service->def->n_ports; i++) {
		if (ports[i].port == dialled->port) {
			*ret_route = (struct snap_route){ *dialled, service, &ports[i], NULL };
			return 0;
		}
	}
	return SNAP_E_NO_PORT;
}

int snapshot_route(const struct snapshot *s, const struct ip_port *dst, struct snap_route *ret_route)
{
	uint64_t hash = snap_hash_ip(&dst->ip);
	const struct snap_service *service = service_by_vip(s, &dst->ip, hash);

	if (service)
		return route_service(service, dst, ret_route);

	const struct snap_workload *w = workload_by_hash(s, &dst->ip, hash);
	if (w) {
		*ret_route = (struct snap_route){ *dst, NULL, NULL, w };
		return 0;
	}

	const struct ip *absent = slab_at(trie_get(&s->state.absent, hash));
	return absent && ip_equal(absent, &dst->ip) ? SNAP_E_ABSENT : SNAP_E_UNKNOWN;
}

static const struct snap_def *best_host(const struct snap_hosts *hosts, const char *namespace)
{
	const struct snap_def *best = hosts->list[0];

	for (uint32_t i = 0; i < hosts->n; i++) {
		const struct snap_def *def = hosts->list[i];

		if (namespace && !strcmp(snap_def_namespace(def), namespace))
			return def;
		if (def->canonical && !best->canonical)
			best = def;
	}
	return best;
}

int snapshot_route_host(const struct snapshot *s, const char *host, size_t len, uint16_t port,
			const char *namespace, struct snap_route *ret_route)
{
	const struct snap_hosts *hosts = slab_at(trie_get(&s->state.by_host, map_hash(host, len)));
	const struct ip_port dialled = { .port = port };

	const char *hostname = hosts ? snap_def_hostname(hosts->list[0]) : NULL;

	if (!hosts || strlen(hostname) != len || memcmp(hostname, host, len))
		return SNAP_E_UNKNOWN;

	const struct snap_service *service = service_by_id(s, best_host(hosts, namespace)->service_id);
	return service ? route_service(service, &dialled, ret_route) : SNAP_E_UNKNOWN;
}

/* --- waypoints --- */

const struct model_gateway *snap_route_waypoint(const struct snap_route *route)
{
	const struct model_gateway *g = route->service ? snap_def_waypoint(route->service->def) : &snap_kind_ways(route->workload->kind)->waypoint;

	return g && model_gateway_is_set(g) ? g : NULL;
}

const struct model_gateway *snapshot_waypoint(const struct snapshot *s, const struct ip *dialled)
{
	uint64_t hash = snap_hash_ip(dialled);
	struct snap_route route = { .service = service_by_vip(s, dialled, hash) };

	if (!route.service)
		route.workload = workload_by_hash(s, dialled, hash);
	return route.service || route.workload ? snap_route_waypoint(&route) : NULL;
}

int snapshot_route_gateway(const struct snapshot *s, const struct model_gateway *g, struct snap_route *ret_route)
{
	const struct ip_port at = { g->ip, g->hbone_port ? g->hbone_port : SNAP_HBONE_PORT };
	char key[2 * MODEL_NAME_MAX + 2];
	const struct snap_service *service;

	if (!g->hostname)
		return snapshot_route(s, &at, ret_route);
	snprintf(key, sizeof(key), "%s/%s", g->namespace, g->hostname);
	service = snapshot_service(s, key);
	return service ? route_service(service, &at, ret_route) : SNAP_E_UNKNOWN;
}

/* --- endpoints --- */

uint16_t snap_target_port(const struct snap_service *s, const struct snap_workload *w, uint16_t port)
{
	for (uint32_t i = 0; i < w->kind->n_members; i++) {
		uint32_t n;
		const struct snap_port *ports = snap_kind_ports(w->kind, i, &n);

		if (snap_kind_service(w->kind, i) != s->id)
			continue;
		for (uint32_t k = 0; k < n; k++)
			if (ports[k].port == port)
				return ports[k].target_port;
		return 0;
	}
	return 0;
}

/* An address of the workload, of the family that was dialled if it has one. */
static struct ip address_for(const struct snap_workload *w, const struct ip *dialled)
{
	struct snap_addresses a = snap_workload_addresses(w);
	struct ip first = snap_workload_ip(w), ip;

	if (ip_is_none(dialled) || ip_is_v4(&first) == ip_is_v4(dialled))
		return first;
	while (snap_address_next(&a, &ip))
		if (ip_is_v4(&ip) == ip_is_v4(dialled))
			return ip;
	return first;
}

bool snap_endpoint_of(const struct snapshot *s, const struct snap_route *route, const struct snap_workload *w,
		      struct snap_endpoint *ret_endpoint)
{
	struct snap_endpoint e = { .workload = w, .service = route->service, .tunnel = (enum tunnel)w->tunnel };

	(void)s;
	if (!w->reachable)
		return false;
	if (route->service) {
		e.target.ip = address_for(w, &route->dialled.ip);
		e.target.port = snap_target_port(route->service, w, route->port->port);
	} else {
		e.target = route->dialled;
	}
	if (!e.target.port)
		return false;
	e.hbone = (struct ip_port){ e.target.ip, SNAP_HBONE_PORT };
	*ret_endpoint = e;
	return true;
}

void snap_endpoint_through(struct snap_endpoint *e, const struct ip_port *dialled)
{
	e->hbone = e->target;
	e->target = *dialled;
	e->tunnel = TUNNEL_HBONE;
	e->is_waypoint = true;
}

size_t snap_endpoint_ids(const struct snap_endpoint *e, const char *ret_ids[static SNAP_IDS_MAX])
{
	size_t n = 0;

	if (e->workload)
		ret_ids[n++] = snap_kind_text(e->workload->kind, SNAP_IDENTITY);

	const char *san = e->service ? snap_def_sans(e->service->def) : NULL;
	for (unsigned i = 0; san && i < e->service->def->n_sans && n < SNAP_IDS_MAX; i++, san = snap_text_next(san))
		ret_ids[n++] = san;
	return n;
}

/* --- policies --- */

bool snapshot_policies_known(const struct snapshot *s)
{
	return s->state.policies_known;
}

const struct policy *snapshot_policy(const struct snapshot *s, const char *key)
{
	const struct policy *p = slab_at(trie_get(&s->state.policies, snap_hash_text(key)));
	size_t len = p ? strlen(p->namespace) : 0;

	if (!p || strncmp(key, p->namespace, len) || key[len] != '/' || strcmp(key + len + 1, p->name))
		return NULL;
	return p;
}

const struct snap_policies *snapshot_policies_global(const struct snapshot *s)
{
	return s->state.global;
}

const struct snap_policies *snapshot_policies_of(const struct snapshot *s, const char *namespace)
{
	const struct snap_policies *list = slab_at(trie_get(&s->state.policies_of, snap_hash_text(namespace)));

	return list && !strcmp(list->namespace, namespace) ? list : NULL;
}

/*
 * The way back from a snapshot's workload or service to what was sent of it.
 */
#include <errno.h>
#include <string.h>

#include "mesh/snap_state.h"

static int take_addresses(const struct snap_workload *from, struct arena *arena, struct workload *w)
{
	struct ip *list = arena_alloc(arena, from->n_addresses, sizeof(*list));
	struct snap_addresses a = snap_workload_addresses(from);

	if (!list)
		return -ENOMEM;
	w->n_addresses = 0;
	while (snap_address_next(&a, &list[w->n_addresses]))
		w->n_addresses++;
	w->addresses = list;
	return 0;
}

static int take_ports(const struct snap_kind *kind, uint32_t service, struct arena *arena, struct workload_service *to)
{
	uint32_t n;
	const struct snap_port *from = snap_kind_ports(kind, service, &n);
	struct port_map *ports = arena_alloc(arena, n, sizeof(*ports));

	if (!ports)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		ports[i] = (struct port_map){ from[i].port, from[i].target_port, from[i].app_protocol };
	to->ports = ports;
	to->n_ports = n;
	return 0;
}

static int take_policies(const struct snap_kind *kind, struct arena *arena, struct workload *w)
{
	const char **list = arena_alloc(arena, kind->n_policies, sizeof(*list));
	const char *policy = snap_kind_policies(kind);

	if (!list)
		return -ENOMEM;
	for (uint32_t i = 0; i < kind->n_policies; i++, policy = snap_text_next(policy))
		list[i] = policy;
	w->policies = list;
	w->n_policies = kind->n_policies;
	return 0;
}

static int take_services(const struct snapshot *s, const struct snap_kind *kind, struct arena *arena, struct workload *w)
{
	struct workload_service *list = arena_alloc(arena, kind->n_members, sizeof(*list));
	int r = 0;

	if (!list)
		return -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < kind->n_members; i++) {
		const struct snap_service *service = snap_service_by_id(&s->state, snap_kind_service(kind, i));

		list[i].key = snap_def_key(service->def);	/* a member's service is there as long as the member */
		r = take_ports(kind, i, arena, &list[i]);
	}
	w->services = list;
	w->n_services = kind->n_members;
	return r;
}

int snapshot_workload_model(const struct snapshot *s, const struct snap_workload *w, struct arena *arena,
			    struct workload *ret_workload)
{
	const struct snap_kind *kind = w->kind;
	const struct snap_place *place = w->place;
	const struct snap_ways *ways = snap_kind_ways(kind);
	char *uid = arena_alloc(arena, 1, SNAP_UID_LEN);

	if (!uid)
		return -ENOMEM;
	snap_workload_uid(w, uid);

	struct workload out = {
		.uid = uid, .name = snap_workload_name(w), .namespace = snap_kind_text(kind, SNAP_NAMESPACE), .network = place->network,
		.trust_domain = snap_kind_text(kind, SNAP_TRUST_DOMAIN), .service_account = snap_kind_text(kind, SNAP_SERVICE_ACCOUNT), .node = place->node,
		.canonical_name = snap_kind_text(kind, SNAP_CANONICAL_NAME), .canonical_revision = snap_kind_text(kind, SNAP_CANONICAL_REVISION),
		.workload_name = snap_kind_text(kind, SNAP_WORKLOAD_NAME), .cluster_id = place->cluster,
		.locality = { place->region, place->zone, place->subzone },
		.tunnel = (enum tunnel)w->tunnel, .unhealthy = !w->healthy, .capacity = kind->weight,
		.waypoint = ways->waypoint, .network_gateway = ways->network_gateway,
	};
	int r = take_addresses(w, arena, &out);

	if (r == 0)
		r = take_services(s, kind, arena, &out);
	if (r == 0)
		r = take_policies(kind, arena, &out);
	if (r == 0)
		*ret_workload = out;
	return r;
}

static int take_vips(const struct snap_store *st, const struct snap_def *def, struct arena *arena, struct service *s)
{
	enum { WHOLE = 128 };
	struct service_address *list = arena_alloc(arena, def->n_vips, sizeof(*list));
	struct snap_addresses a = snap_def_addresses(def);
	struct ip ip;

	if (!list)
		return -ENOMEM;
	while (snap_address_next(&a, &ip))
		list[s->n_addresses++] = (struct service_address){ .network = st->network, .ip = ip, .prefix_len = WHOLE };
	s->addresses = list;
	return 0;
}

static int take_service_ports(const struct snap_def *def, struct arena *arena, struct service *s)
{
	struct port_map *list = arena_alloc(arena, def->n_ports, sizeof(*list));
	const struct snap_port *from = snap_def_ports(def);

	if (!list)
		return -ENOMEM;
	for (uint16_t i = 0; i < def->n_ports; i++)
		list[i] = (struct port_map){ from[i].port, from[i].target_port, from[i].app_protocol };
	s->ports = list;
	s->n_ports = def->n_ports;
	return 0;
}

static int take_sans(const struct snap_def *def, struct arena *arena, struct service *s)
{
	const char **list = arena_alloc(arena, def->n_sans, sizeof(*list));
	const char *san = snap_def_sans(def);

	if (!list)
		return -ENOMEM;
	for (uint16_t i = 0; i < def->n_sans; i++, san = snap_text_next(san))
		list[i] = san;
	s->sans = list;
	s->n_sans = def->n_sans;
	return 0;
}

int snap_store_service_model(const struct snap_store *st, const struct snap_def *def, struct arena *arena, struct service *ret_service)
{
	const struct model_gateway *way = snap_def_waypoint(def);
	struct service s = {
		.name = snap_def_name(def), .namespace = snap_def_namespace(def), .hostname = snap_def_hostname(def),
		.lb_mode = (enum lb_mode)def->lb_mode, .n_lb_preference = def->n_lb_preference,
		.allow_unhealthy = def->allow_unhealthy, .canonical = def->canonical,
	};
	int r = take_vips(st, def, arena, &s);

	if (way)
		s.waypoint = *way;
	memcpy(s.lb_preference, def->lb_preference, sizeof(s.lb_preference));
	if (r == 0)
		r = take_service_ports(def, arena, &s);
	if (r == 0)
		r = take_sans(def, arena, &s);
	if (r == 0)
		*ret_service = s;
	return r;
}

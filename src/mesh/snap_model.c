/*
 * The way back from a snapshot's workload to what was sent of it.
 */
#include <errno.h>

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

static int take_ports(const struct snap_member *from, struct arena *arena, struct workload_service *to)
{
	struct port_map *ports = arena_alloc(arena, from->n_ports, sizeof(*ports));

	if (!ports)
		return -ENOMEM;
	for (uint32_t i = 0; i < from->n_ports; i++)
		ports[i] = (struct port_map){ from->ports[i].port, from->ports[i].target_port, from->ports[i].app_protocol };
	to->ports = ports;
	to->n_ports = from->n_ports;
	return 0;
}

static int take_services(const struct snapshot *s, const struct snap_kind *kind, struct arena *arena, struct workload *w)
{
	struct workload_service *list = arena_alloc(arena, kind->n_members, sizeof(*list));
	int r = 0;

	if (!list)
		return -ENOMEM;
	for (uint32_t i = 0; r == 0 && i < kind->n_members; i++) {
		const struct snap_service *service = snap_service_by_id(&s->state, kind->members[i].service_id);

		list[i].key = service->def->key;	/* a member's service is there as long as the member */
		r = take_ports(&kind->members[i], arena, &list[i]);
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
	struct workload out = {
		.uid = snap_workload_uid(w), .name = snap_workload_name(w), .namespace = kind->namespace, .network = place->network,
		.trust_domain = kind->trust_domain, .service_account = kind->service_account, .node = place->node,
		.canonical_name = kind->canonical_name, .canonical_revision = kind->canonical_revision,
		.workload_name = kind->workload_name, .cluster_id = place->cluster,
		.locality = { place->region, place->zone, place->subzone },
		.tunnel = (enum tunnel)w->tunnel, .unhealthy = !w->healthy, .capacity = w->weight,
		.policies = kind->policies, .n_policies = kind->n_policies,
		.waypoint = kind->waypoint, .network_gateway = kind->network_gateway,
	};
	int r = take_addresses(w, arena, &out);

	if (r == 0)
		r = take_services(s, kind, arena, &out);
	if (r == 0)
		*ret_workload = out;
	return r;
}

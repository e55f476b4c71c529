/*
 * istio.workload.Address from a stranger: decoded, compared with what protobuf-c
 * reads from the same bytes, put into a store twice (the second time over
 * itself), looked up, encoded again.
 */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "istio/workload.pb-c.h"
#include "mesh/model.h"
#include "mesh/pb.h"
#include "mesh/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- protobuf-c is the oracle --- */

static void same_text(const char *a, const char *b)
{
	assert(!strcmp(a, b));
}

static void same_ip(const struct ip *a, const ProtobufCBinaryData *b)
{
	struct ip ip = b->len == 4 ? ip_from_v4(b->data) : b->len == 16 ? ip_from_v6(b->data) : (struct ip){};

	assert(ip_equal(a, &ip));
}

static void same_ports(const struct port_map *a, size_t n, Istio__Workload__Port *const *b, size_t n_b)
{
	assert(n == n_b);
	for (size_t i = 0; i < n; i++) {
		assert(a[i].service_port == b[i]->service_port && a[i].target_port == b[i]->target_port);
		assert(a[i].app_protocol == ((unsigned)b[i]->app_protocol < _APP_PROTOCOL_N ? (int)b[i]->app_protocol : APP_UNKNOWN));
	}
}

static void same_gateway(const struct model_gateway *a, const Istio__Workload__GatewayAddress *b)
{
	int to = b ? (int)b->destination_case : 0;

	assert(a->hbone_port == (b ? b->hbone_mtls_port : 0));
	assert(!a->hostname == (to != ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME));
	if (a->hostname) {
		same_text(a->hostname, b->hostname->hostname);
		same_text(a->namespace, b->hostname->namespace_);
	} else if (to == ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS) {
		same_text(a->network, b->address->network);
		same_ip(&a->ip, &b->address->address);
	} else {
		assert(ip_is_none(&a->ip) && !*a->network);
	}
}

static void same_workload_texts(const struct workload *a, const Istio__Workload__Workload *b)
{
	const struct { const char *a, *b; } texts[] = {
		{ a->uid, b->uid }, { a->name, b->name }, { a->namespace, b->namespace_ }, { a->network, b->network },
		{ a->hostname, b->hostname }, { a->node, b->node }, { a->canonical_name, b->canonical_name },
		{ a->canonical_revision, b->canonical_revision }, { a->workload_name, b->workload_name }, { a->cluster_id, b->cluster_id },
		{ a->trust_domain, *b->trust_domain ? b->trust_domain : "cluster.local" },
		{ a->service_account, *b->service_account ? b->service_account : "default" },
		{ a->locality.region, b->locality ? b->locality->region : "" },
		{ a->locality.zone, b->locality ? b->locality->zone : "" },
		{ a->locality.subzone, b->locality ? b->locality->subzone : "" },
	};

	for (size_t i = 0; i < ELEMENTS(texts); i++)
		same_text(texts[i].a, texts[i].b);
}

static void same_workload(const struct workload *a, const Istio__Workload__Workload *b)
{
	same_workload_texts(a, b);
	assert(a->n_addresses == b->n_addresses && a->n_services == b->n_services && a->n_policies == b->n_authorization_policies);
	for (size_t i = 0; i < a->n_addresses; i++)
		same_ip(&a->addresses[i], &b->addresses[i]);
	for (size_t i = 0; i < a->n_policies; i++)
		same_text(a->policies[i], b->authorization_policies[i]);
	for (size_t i = 0; i < a->n_services; i++) {
		const Istio__Workload__PortList *list = b->services[i]->value;

		same_text(a->services[i].key, b->services[i]->key);
		same_ports(a->services[i].ports, a->services[i].n_ports, list ? list->ports : NULL, list ? list->n_ports : 0);
	}
	same_gateway(&a->waypoint, b->waypoint);
	same_gateway(&a->network_gateway, b->network_gateway);
	assert(a->tunnel == (enum tunnel)b->tunnel_protocol && a->native_tunnel == b->native_tunnel && a->type == (uint8_t)b->workload_type);
	assert(a->unhealthy == (b->status != 0) && a->host_network == (b->network_mode == 1));
	assert(a->capacity == (b->capacity ? b->capacity->value : 1));
}

static void same_service(const struct service *a, const Istio__Workload__Service *b)
{
	const Istio__Workload__LoadBalancing *lb = b->load_balancing;

	same_text(a->name, b->name);
	same_text(a->namespace, b->namespace_);
	same_text(a->hostname, b->hostname);
	assert(a->n_addresses == b->n_addresses && a->n_sans == b->n_subject_alt_names);
	for (size_t i = 0; i < a->n_addresses; i++) {
		same_text(a->addresses[i].network, b->addresses[i]->network);
		same_ip(&a->addresses[i].ip, &b->addresses[i]->address);
	}
	for (size_t i = 0; i < a->n_sans; i++)
		same_text(a->sans[i], b->subject_alt_names[i]);
	same_ports(a->ports, a->n_ports, b->ports, b->n_ports);
	same_gateway(&a->waypoint, b->waypoint);
	assert(a->canonical == b->canonical && a->namespace_only == (b->visibility == 1));
	assert(a->n_lb_preference == (lb ? lb->n_routing_preference : 0));
	for (size_t i = 0; i < a->n_lb_preference; i++)
		assert(a->lb_preference[i] == (int)lb->routing_preference[i]);
	assert((int)a->lb_mode == (lb && (unsigned)lb->mode < _LB_MODE_N ? (int)lb->mode : 0) && a->allow_unhealthy == (lb && lb->health_policy == 1));
}

static void compare_fields(const struct address *a, const Istio__Workload__Address *b)
{
	if (a->type == ADDRESS_WORKLOAD) {
		assert(b->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD);
		same_workload(&a->workload, b->workload);
	} else {
		assert(b->type_case == ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE);
		same_service(&a->service, b->service);
	}
}

/*
 * @a: NULL where our decoder refused. In fields that we step over protobuf-c
 * may find something broken. It forgets parts of a message that comes twice, so
 * fields are compared where it would write the same length again.
 */
static void compare(const uint8_t *data, size_t size, const struct address *a)
{
	ProtobufCMessage *m;
	struct address again;
	struct diag d;
	uint8_t *bytes;
	size_t len;

	if (pb_unpack(&istio__workload__address__descriptor, data, size, 0, &m) < 0)
		return;
	if (pb_pack(m, &bytes, &len) == 0) {
		int r = address_decode(bytes, len, &again, &d);

		if (a && len == size)
			compare_fields(a, (const Istio__Workload__Address *)(const void *)m);
		if (r == 0)
			compare_fields(&again, (const Istio__Workload__Address *)(const void *)m);
		assert(len != size || (r == 0) == (a != NULL) || memchr(data, 0, size));	/* it ends a text at a zero */
		if (r == 0)
			address_deinit(&again);
		free(bytes);
	}
	pb_free(m);
}

/* --- the store --- */

static void look(const struct snapshot *s)
{
	for (uint32_t i = 0; i < snapshot_n_workloads(s); i++) {
		const struct snap_workload *w = snapshot_workload_at(s, i);

		assert(snapshot_workload(s, snap_workload_uid(w, (char[SNAP_UID_LEN]){ 0 })) == w);
		struct snap_addresses a = snap_workload_addresses(w);
		struct ip ip;

		while (w->reachable && snap_address_next(&a, &ip))
			assert(snapshot_workload_by_ip(s, &ip) == w);
	}
	for (uint32_t i = 0; i < snapshot_n_services(s); i++) {
		const struct snap_service *service = snapshot_service_at(s, i);

		assert(snapshot_service(s, snap_def_key(service->def)) == (service->def->defined ? service : NULL));
		struct snap_addresses a = snap_def_addresses(service->def);
		struct ip_port dst = {};

		while (service->def->n_ports && snap_address_next(&a, &dst.ip)) {
			struct snap_route route;

			dst.port = snap_def_ports(service->def)[0].port;

			assert(snapshot_route(s, &dst, &route) == 0 && route.service == service);
		}
	}
}

static void store(const struct address *a)
{
	struct snap_store *st;
	struct snapshot *s;

	if (snap_store_new("", &st) < 0)
		abort();
	for (int i = 0; i < 2; i++) {
		int r = a->type == ADDRESS_WORKLOAD ? snap_store_put_workload(st, &a->workload) : snap_store_put_service(st, &a->service);

		if (r < 0 || snap_store_publish(st, &s) < 0)
			abort();
		look(s);
		snapshot_unref(s);
	}
	snap_store_free(st);
}

static void encode_again(const struct address *a)
{
	struct address again;
	struct bytes out;
	struct diag d;

	bytes_init(&out, 16 << 20);
	if ((a->type == ADDRESS_WORKLOAD ? workload_encode(&a->workload, &out) : service_encode(&a->service, &out)) < 0)
		abort();
	if (address_decode(out.data, out.len, &again, &d) < 0)
		abort();
	assert(again.type == a->type);
	address_deinit(&again);
	bytes_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct address a;
	struct diag d;

	if (address_decode(data, size, &a, &d) < 0) {
		compare(data, size, NULL);
		return 0;
	}
	compare(data, size, &a);
	store(&a);
	encode_again(&a);
	address_deinit(&a);
	return 0;
}

/*
 * Endpoints for Envoy: ClusterLoadAssignments in the shape that Istio sends to
 * a sidecar that speaks HBONE.
 *
 * An endpoint with a tunnel is the internal listener "connect_originate" with
 * the real address as metadata; the transport socket match {tunnel: http} picks
 * the cluster's way into it. Without a tunnel it is a plain socket address.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/pool.h"
#include "control/registry.h"
#include "envoy/endpoint.pb-c.h"
#include "mesh/pb.h"

/* protobuf-c has no const strings; nothing writes into these. */
static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

/* {"<key>": {"<name>": "<value>"}} */
static Envoy__Config__Core__V3__Metadata__FilterMetadataEntry *metadata_entry(struct pool *p, const char *key, const char *name,
									       char *value)
{
	struct {
		Envoy__Config__Core__V3__Metadata__FilterMetadataEntry entry;
		Google__Protobuf__Struct map;
		Google__Protobuf__Struct__FieldsEntry *fields[1];
		Google__Protobuf__Struct__FieldsEntry field;
		Google__Protobuf__Value value;
	} *m = pool_alloc(p, 1, sizeof(*m));

	envoy__config__core__v3__metadata__filter_metadata_entry__init(&m->entry);
	google__protobuf__struct__init(&m->map);
	google__protobuf__struct__fields_entry__init(&m->field);
	google__protobuf__value__init(&m->value);
	m->entry.key = word(key);
	m->entry.value = &m->map;
	m->map.fields = m->fields;
	m->map.n_fields = 1;
	m->fields[0] = &m->field;
	m->field.key = word(name);
	m->field.value = &m->value;
	m->value.kind_case = GOOGLE__PROTOBUF__VALUE__KIND_STRING_VALUE;
	m->value.string_value = value;
	return &m->entry;
}

static Envoy__Config__Core__V3__Metadata *metadata_of(struct pool *p, const struct registry *reg, const struct reg_workload *w, char *target)
{
	Envoy__Config__Core__V3__Metadata *m = pool_alloc(p, 1, sizeof(*m));
	Envoy__Config__Core__V3__Metadata__FilterMetadataEntry **entries = pool_alloc(p, 4, sizeof(*entries));

	envoy__config__core__v3__metadata__init(m);
	if (p->failed)
		return m;
	m->filter_metadata = entries;
	entries[m->n_filter_metadata++] = metadata_entry(p, "istio", "workload",
		pool_printf(p, "%s;%s;%s;%s;%s", w->workload_name ? w->workload_name : w->name, w->namespace, reg_canonical_name(w), reg_canonical_revision(w),
			    reg->config->mesh.cluster_id));
	if (w->tunnel == TUNNEL_HBONE) {
		entries[m->n_filter_metadata++] = metadata_entry(p, "envoy.filters.listener.original_dst", "local", target);
		entries[m->n_filter_metadata++] = metadata_entry(p, "envoy.transport_socket_match", "tunnel", word("http"));
		/* Whom the peer's certificate must name: `outrigger envoy` has Envoy check it. Istio's sidecars pass it over. */
		entries[m->n_filter_metadata++] = metadata_entry(p, "outrigger", "identity",
			pool_printf(p, "spiffe://%s/ns/%s/sa/%s", reg->config->trust_domain, w->namespace, w->service_account));
	}
	return m;
}

static Envoy__Config__Core__V3__Address *address_of(struct pool *p, const struct reg_workload *w, uint16_t port, char *target)
{
	struct {
		Envoy__Config__Core__V3__Address address;
		Envoy__Config__Core__V3__EnvoyInternalAddress internal;
		Envoy__Config__Core__V3__SocketAddress socket;
	} *a = pool_alloc(p, 1, sizeof(*a));
	char text[IP_TEXT_LEN];

	envoy__config__core__v3__address__init(&a->address);
	if (w->tunnel == TUNNEL_HBONE) {
		envoy__config__core__v3__envoy_internal_address__init(&a->internal);
		a->internal.address_name_specifier_case = ENVOY__CONFIG__CORE__V3__ENVOY_INTERNAL_ADDRESS__ADDRESS_NAME_SPECIFIER_SERVER_LISTENER_NAME;
		a->internal.server_listener_name = word("connect_originate");
		a->internal.endpoint_id = target;
		a->address.address_case = ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_ENVOY_INTERNAL_ADDRESS;
		a->address.envoy_internal_address = &a->internal;
		return &a->address;
	}
	envoy__config__core__v3__socket_address__init(&a->socket);
	a->socket.address = pool_printf(p, "%s", ip_format(&w->addresses[0].ip, text));
	a->socket.port_specifier_case = ENVOY__CONFIG__CORE__V3__SOCKET_ADDRESS__PORT_SPECIFIER_PORT_VALUE;
	a->socket.port_value = port;
	a->address.address_case = ENVOY__CONFIG__CORE__V3__ADDRESS__ADDRESS_SOCKET_ADDRESS;
	a->address.socket_address = &a->socket;
	return &a->address;
}

static Envoy__Config__Endpoint__V3__LbEndpoint *endpoint_of(struct pool *p, const struct registry *reg, const struct reg_member *m, uint16_t port)
{
	const struct reg_workload *w = m->workload;
	struct {
		Envoy__Config__Endpoint__V3__LbEndpoint lb;
		Envoy__Config__Endpoint__V3__Endpoint endpoint;
		Google__Protobuf__UInt32Value weight;
	} *e = pool_alloc(p, 1, sizeof(*e));
	const struct ip_port at = { w->addresses[0].ip, port };
	char text[IP_PORT_TEXT_LEN];
	char *target = pool_printf(p, "%s", ip_port_format(&at, text));

	envoy__config__endpoint__v3__lb_endpoint__init(&e->lb);
	envoy__config__endpoint__v3__endpoint__init(&e->endpoint);
	google__protobuf__uint32_value__init(&e->weight);
	e->weight.value = w->weight;
	e->lb.load_balancing_weight = &e->weight;
	e->lb.health_status = m->unhealthy ? ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__UNHEALTHY : ENVOY__CONFIG__CORE__V3__HEALTH_STATUS__UNKNOWN;
	e->lb.host_identifier_case = ENVOY__CONFIG__ENDPOINT__V3__LB_ENDPOINT__HOST_IDENTIFIER_ENDPOINT;
	e->lb.endpoint = &e->endpoint;
	e->lb.metadata = metadata_of(p, reg, w, target);
	e->endpoint.address = address_of(p, w, port, target);
	return &e->lb;
}

static size_t count_endpoints(const struct reg_service *s, uint16_t port)
{
	size_t n = 0;

	list_for_each(l, &s->members) {
		const struct reg_member *m = list_entry(l, struct reg_member, in_service);

		for (size_t i = 0; i < m->n_ports; i++)
			n += m->ports[i].service_port == port && m->workload->n_addresses;
	}
	return n;
}

static size_t add_endpoints(struct pool *p, const struct registry *reg, const struct reg_service *s, uint16_t port,
			    Envoy__Config__Endpoint__V3__LbEndpoint **out)
{
	size_t n = 0;

	list_for_each(l, &s->members) {
		const struct reg_member *m = list_entry(l, struct reg_member, in_service);

		for (size_t i = 0; i < m->n_ports && !p->failed; i++)
			if (m->ports[i].service_port == port && m->workload->n_addresses)
				out[n++] = endpoint_of(p, reg, m, m->ports[i].target_port ? m->ports[i].target_port : port);
	}
	return n;
}

int reg_publish_endpoints(struct registry *reg, const struct reg_service *s, uint16_t port)
{
	struct pool p = {};
	char name[REG_CLUSTER_LEN];
	Envoy__Config__Endpoint__V3__ClusterLoadAssignment cla = ENVOY__CONFIG__ENDPOINT__V3__CLUSTER_LOAD_ASSIGNMENT__INIT;
	Envoy__Config__Endpoint__V3__LocalityLbEndpoints locality = ENVOY__CONFIG__ENDPOINT__V3__LOCALITY_LB_ENDPOINTS__INIT;
	Envoy__Config__Core__V3__Locality where = ENVOY__CONFIG__CORE__V3__LOCALITY__INIT;
	Envoy__Config__Endpoint__V3__LocalityLbEndpoints *localities[] = { &locality };
	size_t n = count_endpoints(s, port);
	CLEANUP_FREE uint8_t *bytes = NULL;
	size_t len = 0;
	int r = -ENOMEM;

	cla.cluster_name = word(reg_cluster_name(s, port, name));
	locality.locality = &where;
	locality.lb_endpoints = pool_alloc(&p, n, sizeof(*locality.lb_endpoints));
	if (!p.failed)
		locality.n_lb_endpoints = add_endpoints(&p, reg, s, port, locality.lb_endpoints);
	if (n) {
		cla.endpoints = localities;
		cla.n_endpoints = 1;
	}
	if (!p.failed)
		r = pb_pack(&cla.base, &bytes, &len);
	if (r == 0)
		r = resources_put(reg->resources, RESOURCE_ENDPOINTS, name, &(struct resource_content){ .bytes = bytes, .len = len });
	pool_free(&p);
	return r;
}

/*
 * istio.workload.Address to struct workload and struct service.
 */
#include "mesh/model.h"

#include <errno.h>
#include <istio/workload.pb-c.h>
#include <stdio.h>
#include <string.h>

#include "mesh/identity.h"
#include "mesh/model_decode.h"

/* One decoding at hand. */
struct decode {
	struct arena *arena;
	struct diag *diag;
};

static int check_enum(const char *field, int value, int end, struct diag *d)
{
	if (value < 0 || value >= end)
		return diag_set(d, "%s: unknown value %d", field, value);
	return 0;
}

static int decode_ports(struct decode *d, const char *field, Istio__Workload__Port *const *in, size_t n,
			const struct port_map **ret_ports)
{
	struct port_map *ports = arena_alloc(d->arena, n, sizeof(*ports));
	int r = model_check_list(field, n, d->diag);

	if (r < 0)
		return r;
	if (!ports)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (!in[i]->service_port || in[i]->service_port > 65535 || in[i]->target_port > 65535)
			return diag_set(d->diag, "%s: port %u to %u is out of range", field, in[i]->service_port, in[i]->target_port);
		ports[i] = (struct port_map){
			.service_port = (uint16_t)in[i]->service_port,
			.target_port = (uint16_t)in[i]->target_port,
			.app_protocol = (int)in[i]->app_protocol < (int)_APP_PROTOCOL_N && (int)in[i]->app_protocol >= 0 ? (uint8_t)in[i]->app_protocol : APP_UNKNOWN,
		};
	}
	*ret_ports = ports;
	return 0;
}

static int decode_gateway(struct decode *d, const char *field, const Istio__Workload__GatewayAddress *in,
			  struct model_gateway *ret_gateway)
{
	struct model_gateway g = { .network = "" };
	int r = 0;

	if (!in)
		goto out;
	if (in->hbone_mtls_port > 65535)
		return diag_set(d->diag, "%s: port %u is out of range", field, in->hbone_mtls_port);
	g.hbone_port = (uint16_t)in->hbone_mtls_port;
	if (in->destination_case == ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME && in->hostname) {
		g.namespace = in->hostname->namespace_;
		g.hostname = in->hostname->hostname;
		r = model_check_name(field, g.hostname, d->diag);
	} else if (in->destination_case == ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS && in->address) {
		g.network = in->address->network;
		r = model_ip(field, &in->address->address, &g.ip, d->diag);
	}
	if (r < 0)
		return r;
out:
	*ret_gateway = g;
	return 0;
}

static int decode_texts(struct decode *d, const char *field, char *const *in, size_t n, const char *const **ret_texts)
{
	const char **texts = arena_alloc(d->arena, n, sizeof(*texts));
	int r = model_check_list(field, n, d->diag);

	if (r < 0)
		return r;
	if (!texts)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		r = model_check_name(field, in[i], d->diag);
		if (r < 0)
			return r;
		texts[i] = in[i];
	}
	*ret_texts = texts;
	return 0;
}

/* --- workload --- */

static int decode_workload_addresses(struct decode *d, const Istio__Workload__Workload *in, struct workload *w)
{
	struct ip *addresses = arena_alloc(d->arena, in->n_addresses, sizeof(*addresses));
	int r = model_check_list("addresses", in->n_addresses, d->diag);

	if (r < 0)
		return r;
	if (!addresses)
		return -ENOMEM;
	for (size_t i = 0; i < in->n_addresses; i++) {
		r = model_ip("addresses", &in->addresses[i], &addresses[i], d->diag);
		if (r < 0)
			return r;
		if (ip_is_none(&addresses[i]) || ip_is_multicast(&addresses[i]))
			return diag_set(d->diag, "addresses: not the address of a host");
	}
	w->addresses = addresses;
	w->n_addresses = in->n_addresses;
	return 0;
}

static int decode_workload_services(struct decode *d, const Istio__Workload__Workload *in, struct workload *w)
{
	struct workload_service *services = arena_alloc(d->arena, in->n_services, sizeof(*services));
	int r = model_check_list("services", in->n_services, d->diag);

	if (r < 0)
		return r;
	if (!services)
		return -ENOMEM;
	for (size_t i = 0; i < in->n_services; i++) {
		const Istio__Workload__Workload__ServicesEntry *e = in->services[i];
		const char *slash = strchr(e->key, '/');

		r = model_check_name("services", e->key, d->diag);
		if (r < 0)
			return r;
		if (!slash || slash == e->key || !slash[1])
			return diag_set(d->diag, "services: \"%s\" is not namespace/hostname", e->key);
		services[i].key = e->key;
		services[i].n_ports = e->value ? e->value->n_ports : 0;
		r = decode_ports(d, e->key, e->value ? e->value->ports : NULL, services[i].n_ports, &services[i].ports);
		if (r < 0)
			return r;
	}
	w->services = services;
	w->n_services = in->n_services;
	return 0;
}

static const char *or_default(const char *text, const char *dflt)
{
	return *text ? text : dflt;
}

static void take_workload_texts(const Istio__Workload__Workload *in, struct workload *w)
{
	w->uid = in->uid;
	w->name = in->name;
	w->namespace = in->namespace_;
	w->network = in->network;
	w->trust_domain = or_default(in->trust_domain, "cluster.local");
	w->service_account = or_default(in->service_account, "default");
	w->hostname = in->hostname;
	w->node = in->node;
	w->canonical_name = in->canonical_name;
	w->canonical_revision = in->canonical_revision;
	w->workload_name = in->workload_name;
	w->cluster_id = in->cluster_id;
	w->locality = (struct model_locality){ "", "", "" };
	if (in->locality)
		w->locality = (struct model_locality){ in->locality->region, in->locality->zone, in->locality->subzone };
}

static int check_workload_texts(const struct workload *w, struct diag *d)
{
	const struct { const char *field, *text; } texts[] = {
		{ "name", w->name }, { "network", w->network }, { "hostname", w->hostname }, { "node", w->node },
		{ "canonical_name", w->canonical_name }, { "canonical_revision", w->canonical_revision },
		{ "workload_name", w->workload_name }, { "cluster_id", w->cluster_id },
		{ "locality", w->locality.region }, { "locality", w->locality.zone }, { "locality", w->locality.subzone },
	};
	struct identity id;
	int r = model_check_name("uid", w->uid, d);

	for (size_t i = 0; r == 0 && i < ELEMENTS(texts); i++)
		r = model_check_text(texts[i].field, texts[i].text, d);
	if (r < 0)
		return r;
	/* They become parts of an identity: a '/' in one of them would make it somebody else's. */
	if (identity_workload(w->trust_domain, w->namespace, w->service_account, &id) < 0)
		return diag_set(d, "trust domain, namespace and service account do not make an identity");
	return 0;
}

static int decode_workload(struct decode *d, const Istio__Workload__Workload *in, struct workload *w)
{
	int r;

	take_workload_texts(in, w);
	r = check_workload_texts(w, d->diag);
	if (r == 0)
		r = check_enum("tunnel_protocol", (int)in->tunnel_protocol, _TUNNEL_N, d->diag);
	if (r == 0)
		r = decode_workload_addresses(d, in, w);
	if (r == 0)
		r = decode_workload_services(d, in, w);
	if (r == 0)
		r = decode_texts(d, "authorization_policies", in->authorization_policies, in->n_authorization_policies, &w->policies);
	if (r == 0)
		r = decode_gateway(d, "waypoint", in->waypoint, &w->waypoint);
	if (r == 0)
		r = decode_gateway(d, "network_gateway", in->network_gateway, &w->network_gateway);
	if (r < 0)
		return r;
	w->n_policies = in->n_authorization_policies;
	w->tunnel = (enum tunnel)in->tunnel_protocol;
	w->native_tunnel = in->native_tunnel;
	w->unhealthy = in->status != ISTIO__WORKLOAD__WORKLOAD_STATUS__HEALTHY;	/* an unknown status is none to rely on */
	w->host_network = in->network_mode == ISTIO__WORKLOAD__NETWORK_MODE__HOST_NETWORK;
	w->type = (uint8_t)in->workload_type;
	w->capacity = in->capacity ? in->capacity->value : 1;
	return 0;
}

/* --- service --- */

static int decode_service_addresses(struct decode *d, const Istio__Workload__Service *in, struct service *s)
{
	struct service_address *addresses = arena_alloc(d->arena, in->n_addresses, sizeof(*addresses));
	int r = model_check_list("addresses", in->n_addresses, d->diag);

	if (r < 0)
		return r;
	if (!addresses)
		return -ENOMEM;
	for (size_t i = 0; i < in->n_addresses; i++) {
		const Istio__Workload__NetworkAddress *a = in->addresses[i];
		bool has_length = a->length_presence_case == ISTIO__WORKLOAD__NETWORK_ADDRESS__LENGTH_PRESENCE_LENGTH;
		struct ip_prefix prefix;

		r = model_check_text("addresses", a->network, d->diag);
		if (r == 0)
			r = model_prefix("addresses", &a->address, has_length ? a->length : (uint32_t)a->address.len * 8, &prefix, d->diag);
		if (r < 0)
			return r;
		addresses[i] = (struct service_address){ a->network, prefix.ip, prefix.len };
	}
	s->addresses = addresses;
	s->n_addresses = in->n_addresses;
	return 0;
}

static int decode_load_balancing(struct decode *d, const Istio__Workload__LoadBalancing *in, struct service *s)
{
	if (!in)
		return 0;
	if (in->n_routing_preference > LB_PREFERENCE_MAX)
		return diag_set(d->diag, "load_balancing: more than %d preferences", LB_PREFERENCE_MAX);
	for (size_t i = 0; i < in->n_routing_preference; i++) {
		if (check_enum("load_balancing", (int)in->routing_preference[i], _LB_SCOPE_N, d->diag) < 0)
			return -EINVAL;
		s->lb_preference[i] = (uint8_t)in->routing_preference[i];
	}
	s->n_lb_preference = (uint8_t)in->n_routing_preference;
	s->lb_mode = (int)in->mode >= 0 && (int)in->mode < (int)_LB_MODE_N ? (enum lb_mode)in->mode : LB_UNSPECIFIED;
	s->allow_unhealthy = in->health_policy == ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL;
	return 0;
}

static int decode_service(struct decode *d, const Istio__Workload__Service *in, struct service *s)
{
	int r;

	s->name = in->name;
	s->namespace = in->namespace_;
	s->hostname = in->hostname;
	r = model_check_text("name", s->name, d->diag);
	if (r == 0)
		r = model_check_name("hostname", s->hostname, d->diag);
	if (r == 0 && !identity_name_valid(s->namespace))
		r = diag_set(d->diag, "namespace: \"%.64s\" is not a name", s->namespace);
	if (r == 0)
		r = decode_service_addresses(d, in, s);
	if (r == 0)
		r = decode_ports(d, "ports", in->ports, in->n_ports, &s->ports);
	if (r == 0)
		r = decode_texts(d, "subject_alt_names", in->subject_alt_names, in->n_subject_alt_names, &s->sans);
	if (r == 0)
		r = decode_gateway(d, "waypoint", in->waypoint, &s->waypoint);
	if (r == 0)
		r = decode_load_balancing(d, in->load_balancing, s);
	if (r < 0)
		return r;
	s->n_ports = in->n_ports;
	s->n_sans = in->n_subject_alt_names;
	s->canonical = in->canonical;
	s->namespace_only = in->visibility == ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE;
	return 0;
}

/* --- address --- */

static int decode_either(struct decode *d, const Istio__Workload__Address *in, struct address *ret_address)
{
	switch (in->type_case) {
	case ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD:
		if (!in->workload)
			break;
		ret_address->type = ADDRESS_WORKLOAD;
		return decode_workload(d, in->workload, &ret_address->workload);
	case ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE:
		if (!in->service)
			break;
		ret_address->type = ADDRESS_SERVICE;
		return decode_service(d, in->service, &ret_address->service);
	default:
		break;
	}
	return diag_set(d->diag, "neither a workload nor a service");
}

int address_decode(const void *data, size_t len, struct address *ret_address, struct diag *reterr_diag)
{
	struct address a = {};
	struct model_owner *owner;
	int r = model_owner_new(&istio__workload__address__descriptor, data, len, &owner, reterr_diag);

	if (r < 0)
		return r;

	struct decode d = { .arena = owner->arena, .diag = reterr_diag };
	r = decode_either(&d, (const Istio__Workload__Address *)owner->message, &a);
	if (r < 0) {
		model_owner_free(owner);
		return r;
	}
	if (a.type == ADDRESS_WORKLOAD)
		a.workload.owner = owner;
	else
		a.service.owner = owner;
	*ret_address = a;
	return 0;
}

void address_deinit(struct address *a)
{
	model_owner_free(a->type == ADDRESS_WORKLOAD ? a->workload.owner : a->service.owner);
	*a = (struct address){};
}

size_t workload_identity(const struct workload *w, char *text, size_t size)
{
	int n = snprintf(text, size, "spiffe://%s/ns/%s/sa/%s", w->trust_domain, w->namespace, w->service_account);

	return n > 0 ? (size_t)n : 0;
}

/*
 * istio.workload.Address to struct workload and struct service.
 *
 * A mesh sends one of these for each endpoint, so they are read field by field
 * (model_fields.h), without protobuf-c's tree. The message is copied into the
 * object's arena once, where its texts stay.
 */
#include "mesh/model.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mesh/identity.h"
#include "mesh/model_fields.h"

enum { ARENA_MAX = 4 * 1024 * 1024 };

/* --- workload --- */

struct raw_workload {
	struct workload w;
	struct model_list addresses, services, policies;
	struct model_raw_gateway waypoint, network_gateway;
	uint32_t tunnel, type, status, network_mode, capacity;
	bool has_capacity;
};

static int take_workload_address(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	const ProtobufCBinaryData bytes = model_binary(&f->bytes);
	void *at;
	int r = model_list_grow(d, row, f, rest, to, sizeof(struct ip), &at);

	if (r == 0)
		r = model_ip(row->name, &bytes, at, d->diag);
	if (r < 0)
		return r;
	if (ip_is_none(at) || ip_is_multicast(at))
		return diag_set(d->diag, "%s: not the address of a host", row->name);
	return 0;
}

struct raw_member {
	const char *key;
	struct model_list ports;
};

static const struct model_row port_list_rows[] = { [1] = { model_take_port, PB_BYTES, "ports", 0 } };

static int take_port_list(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	(void)row;
	(void)rest;
	return model_take_message(d, port_list_rows, ELEMENTS(port_list_rows), f->bytes, to);
}

static const struct model_row member_rows[] = {
	[1] = { model_take_text, PB_BYTES, "services", offsetof(struct raw_member, key) },
	[2] = { take_port_list, PB_BYTES, "services", offsetof(struct raw_member, ports) },
};

static int take_member(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	struct raw_member m = { .key = "" };
	void *at;
	int r = model_list_grow(d, row, f, rest, to, sizeof(struct workload_service), &at);

	if (r == 0)
		r = model_take_message(d, member_rows, ELEMENTS(member_rows), f->bytes, &m);
	if (r == 0)
		r = model_check_named(row->name, m.key, d->diag);
	if (r < 0)
		return r;

	struct workload_service *s = at;
	const char *slash = strchr(m.key, '/');
	if (!slash || slash == m.key || !slash[1])
		return diag_set(d->diag, "services: \"%s\" is not namespace/hostname", m.key);
	s->key = m.key;
	s->n_ports = m.ports.n;
	return model_check_ports(d, m.key, &m.ports, &s->ports);
}

static const struct model_row locality_rows[] = {
	[1] = { model_take_text, PB_BYTES, "locality", offsetof(struct model_locality, region) },
	[2] = { model_take_text, PB_BYTES, "locality", offsetof(struct model_locality, zone) },
	[3] = { model_take_text, PB_BYTES, "locality", offsetof(struct model_locality, subzone) },
};

static int take_locality(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	(void)row;
	(void)rest;
	return model_take_message(d, locality_rows, ELEMENTS(locality_rows), f->bytes, to);
}

static const struct model_row wrapper_rows[] = { [1] = { model_take_u32, PB_VARINT, "value", 0 } };

/* A wrapper that is there and empty is a 0. */
static int take_capacity(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	struct raw_workload *raw = to;

	(void)row;
	(void)rest;
	raw->has_capacity = true;
	return model_take_message(d, wrapper_rows, ELEMENTS(wrapper_rows), f->bytes, &raw->capacity);
}

#define W_TEXT(field)	{ model_take_text, PB_BYTES, #field, offsetof(struct raw_workload, w.field) }

static const struct model_row workload_rows[] = {
	[1] = W_TEXT(name),
	[2] = W_TEXT(namespace),
	[3] = { take_workload_address, PB_BYTES, "addresses", offsetof(struct raw_workload, addresses) },
	[4] = W_TEXT(network),
	[5] = MODEL_U32(raw_workload, tunnel),
	[6] = W_TEXT(trust_domain),
	[7] = W_TEXT(service_account),
	[8] = { model_take_gateway, PB_BYTES, "waypoint", offsetof(struct raw_workload, waypoint) },
	[9] = W_TEXT(node),
	[10] = W_TEXT(canonical_name),
	[11] = W_TEXT(canonical_revision),
	[12] = MODEL_U32(raw_workload, type),
	[13] = W_TEXT(workload_name),
	[14] = { model_take_bool, PB_VARINT, "native_tunnel", offsetof(struct raw_workload, w.native_tunnel) },
	[16] = { model_take_texts, PB_BYTES, "authorization_policies", offsetof(struct raw_workload, policies) },
	[17] = MODEL_U32(raw_workload, status),
	[18] = W_TEXT(cluster_id),
	[19] = { model_take_gateway, PB_BYTES, "network_gateway", offsetof(struct raw_workload, network_gateway) },
	[20] = W_TEXT(uid),
	[21] = W_TEXT(hostname),
	[22] = { take_member, PB_BYTES, "services", offsetof(struct raw_workload, services) },
	[24] = { take_locality, PB_BYTES, "locality", offsetof(struct raw_workload, w.locality) },
	[25] = MODEL_U32(raw_workload, network_mode),
	[27] = { take_capacity, PB_BYTES, "capacity", 0 },
};

static int check_workload(struct model_decode *d, const struct raw_workload *raw)
{
	const struct workload *w = &raw->w;
	int r = model_check_named("uid", w->uid, d->diag);

	if (r < 0)
		return r;
	/* They become parts of an identity: a '/' in one of them would make it somebody else's. */
	if (!identity_trust_domain_valid(w->trust_domain) || !identity_name_valid(w->namespace) || !identity_name_valid(w->service_account))
		return diag_set(d->diag, "trust domain, namespace and service account do not make an identity");
	return model_check_enum("tunnel_protocol", raw->tunnel, _TUNNEL_N, d->diag);
}

static int decode_workload(struct model_decode *d, struct wire body, struct workload *ret_workload)
{
	struct raw_workload raw = { .w = {
		.uid = "", .name = "", .namespace = "", .network = "", .trust_domain = "", .service_account = "", .hostname = "", .node = "",
		.canonical_name = "", .canonical_revision = "", .workload_name = "", .cluster_id = "", .locality = { "", "", "" },
	} };
	struct workload *w = &raw.w;
	int r = model_take_message(d, workload_rows, ELEMENTS(workload_rows), body, &raw);

	if (!*w->trust_domain)
		w->trust_domain = "cluster.local";
	if (!*w->service_account)
		w->service_account = "default";
	if (r == 0)
		r = check_workload(d, &raw);
	if (r == 0)
		r = model_check_gateway(d, &raw.waypoint, &w->waypoint);
	if (r == 0)
		r = model_check_gateway(d, &raw.network_gateway, &w->network_gateway);
	if (r < 0)
		return r;
	w->addresses = raw.addresses.data;
	w->n_addresses = raw.addresses.n;
	w->services = raw.services.data;
	w->n_services = raw.services.n;
	w->policies = raw.policies.data;
	w->n_policies = raw.policies.n;
	w->tunnel = (enum tunnel)raw.tunnel;
	w->unhealthy = raw.status != 0;		/* an unknown status is none to rely on */
	w->host_network = raw.network_mode == 1;
	w->type = (uint8_t)raw.type;
	w->capacity = raw.has_capacity ? raw.capacity : 1;
	*ret_workload = *w;
	return 0;
}

/* --- service --- */

struct raw_service {
	struct service s;
	struct model_list addresses, ports, sans;
	struct model_raw_gateway waypoint, heaviest;
	uint32_t heaviest_weight;
	uint32_t lb_mode, health_policy, visibility;
};

struct raw_weighted {
	struct model_raw_gateway destination;
	uint32_t weight;
};

static const struct model_row weighted_rows[] = {
	[1] = { model_take_gateway, PB_BYTES, "weighted_waypoints", offsetof(struct raw_weighted, destination) },
	[2] = MODEL_U32(raw_weighted, weight),
};

/* All go to the one with the most weight: what matters is that none goes past the waypoints. */
static int take_weighted(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	struct raw_service *raw = to;
	struct raw_weighted in = {};
	int r = model_take_message(d, weighted_rows, ELEMENTS(weighted_rows), f->bytes, &in);

	(void)rest;
	if (r == 0 && !in.destination.name)
		return diag_set(d->diag, "%s: has no destination", row->name);
	if (r == 0 && (!raw->heaviest.name || in.weight > raw->heaviest_weight)) {
		raw->heaviest = in.destination;
		raw->heaviest_weight = in.weight;
	}
	return r;
}

static int take_service_address(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	struct model_raw_address in = {};
	struct ip_prefix prefix;
	void *at;
	int r = model_list_grow(d, row, f, rest, to, sizeof(struct service_address), &at);

	if (r == 0)
		r = model_take_address(d, f->bytes, &in);
	if (r < 0)
		return r;

	const ProtobufCBinaryData bytes = model_binary(&in.address);
	r = model_prefix(row->name, &bytes, in.has_length ? in.length : (uint32_t)bytes.len * 8, &prefix, d->diag);
	if (r == 0)
		*(struct service_address *)at = (struct service_address){ in.network, prefix.ip, prefix.len };
	return r;
}

static int add_preference(struct model_decode *d, struct service *s, uint32_t scope)
{
	if (s->n_lb_preference == LB_PREFERENCE_MAX)
		return diag_set(d->diag, "load_balancing: more than %d preferences", LB_PREFERENCE_MAX);
	s->lb_preference[s->n_lb_preference++] = (uint8_t)scope;
	return model_check_enum("load_balancing", scope, _LB_SCOPE_N, d->diag);
}

static int take_preference(struct model_decode *d, struct service *s, struct pb_field *f)
{
	int r = 0;

	if (f->type == PB_VARINT)
		return add_preference(d, s, (uint32_t)f->value);
	if (f->type != PB_BYTES)
		return model_malformed(d);
	while (r == 0 && wire_more(&f->bytes)) {	/* packed, as proto3 does it */
		uint32_t scope = (uint32_t)pb_varint(&f->bytes);

		r = f->bytes.bad ? model_malformed(d) : add_preference(d, s, scope);
	}
	return r;
}

static const struct model_row load_balancing_rows[] = { [2] = MODEL_U32(raw_service, lb_mode), [3] = MODEL_U32(raw_service, health_policy) };

static int take_load_balancing(struct model_decode *d, const struct model_row *row, const struct pb_field *f, const struct wire *rest, void *to)
{
	struct wire body = f->bytes;
	struct raw_service *raw = to;
	struct pb_field preference;
	int r = 0;

	(void)row;
	(void)rest;
	while (r == 0 && pb_next(&body, &preference))
		if (preference.number == 1)
			r = take_preference(d, &raw->s, &preference);
	return r < 0 ? r : model_take_message(d, load_balancing_rows, ELEMENTS(load_balancing_rows), f->bytes, raw);
}

#define S_TEXT(field)	{ model_take_text, PB_BYTES, #field, offsetof(struct raw_service, s.field) }

static const struct model_row service_rows[] = {
	[1] = S_TEXT(name),
	[2] = S_TEXT(namespace),
	[3] = S_TEXT(hostname),
	[4] = { take_service_address, PB_BYTES, "addresses", offsetof(struct raw_service, addresses) },
	[5] = { model_take_port, PB_BYTES, "ports", offsetof(struct raw_service, ports) },
	[6] = { model_take_texts, PB_BYTES, "subject_alt_names", offsetof(struct raw_service, sans) },
	[7] = { model_take_gateway, PB_BYTES, "waypoint", offsetof(struct raw_service, waypoint) },
	[8] = { take_load_balancing, PB_BYTES, "load_balancing", 0 },
	[11] = { model_take_bool, PB_VARINT, "canonical", offsetof(struct raw_service, s.canonical) },
	[13] = { take_weighted, PB_BYTES, "weighted_waypoints", 0 },
	[14] = MODEL_U32(raw_service, visibility),
};

static int decode_service(struct model_decode *d, struct wire body, struct service *ret_service)
{
	struct raw_service raw = { .s = { .name = "", .namespace = "", .hostname = "" } };
	struct service *s = &raw.s;
	int r = model_take_message(d, service_rows, ELEMENTS(service_rows), body, &raw);

	if (r == 0)
		r = model_check_named("hostname", s->hostname, d->diag);
	if (r == 0 && !identity_name_valid(s->namespace))
		r = diag_set(d->diag, "namespace: \"%.64s\" is not a name", s->namespace);
	if (r == 0)
		r = model_check_ports(d, "ports", &raw.ports, &s->ports);
	if (r == 0)
		r = model_check_gateway(d, raw.waypoint.name ? &raw.waypoint : &raw.heaviest, &s->waypoint);
	if (r < 0)
		return r;
	s->addresses = raw.addresses.data;
	s->n_addresses = raw.addresses.n;
	s->n_ports = raw.ports.n;
	s->sans = raw.sans.data;
	s->n_sans = raw.sans.n;
	s->lb_mode = raw.lb_mode < (uint32_t)_LB_MODE_N ? (enum lb_mode)raw.lb_mode : LB_UNSPECIFIED;
	s->allow_unhealthy = raw.health_policy == 1;
	s->namespace_only = raw.visibility == 1;
	*ret_service = *s;
	return 0;
}

/* --- address --- */

/* The last of the two that was sent: they are the members of a oneof. */
static int find_either(struct model_decode *d, struct wire message, struct pb_field *ret_field)
{
	struct pb_field f, last = {};

	while (pb_next(&message, &f)) {
		if (f.number > 2)
			continue;
		if (f.type != PB_BYTES)
			return model_malformed(d);
		last = f;
	}
	if (message.bad)
		return model_malformed(d);
	if (!last.number)
		return diag_set(d->diag, "neither a workload nor a service");
	*ret_field = last;
	return 0;
}

static int decode(struct model_decode *d, const void *data, size_t len, struct address *ret_address)
{
	uint8_t *copy = arena_alloc(d->arena, len + MODEL_ROOM, 1);
	struct pb_field f = {};
	int r;

	if (!copy)
		return -ENOMEM;
	if (len)
		memcpy(copy, data, len);
	r = find_either(d, wire_init(copy, len), &f);
	if (r < 0)
		return r;
	ret_address->type = f.number == 1 ? ADDRESS_WORKLOAD : ADDRESS_SERVICE;
	return f.number == 1 ? decode_workload(d, f.bytes, &ret_address->workload) : decode_service(d, f.bytes, &ret_address->service);
}

int address_decode(const void *data, size_t len, struct address *ret_address, struct diag *reterr_diag)
{
	struct model_decode d = { .diag = reterr_diag };
	struct address a = {};
	int r = arena_new(ARENA_MAX + len, &d.arena);

	if (r == 0)
		r = decode(&d, data, len, &a);
	if (r < 0) {
		arena_free(d.arena);
		return r;
	}
	if (a.type == ADDRESS_WORKLOAD)
		a.workload.owner = d.arena;
	else
		a.service.owner = d.arena;
	*ret_address = a;
	return 0;
}

void address_deinit(struct address *a)
{
	arena_free(a->type == ADDRESS_WORKLOAD ? a->workload.owner : a->service.owner);
	*a = (struct address){};
}

size_t workload_identity(const struct workload *w, char *text, size_t size)
{
	int n = snprintf(text, size, "spiffe://%s/ns/%s/sa/%s", w->trust_domain, w->namespace, w->service_account);

	return n > 0 ? (size_t)n : 0;
}

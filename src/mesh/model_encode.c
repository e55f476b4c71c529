/*
 * The model to protobuf: what a mesh controller sends.
 *
 * protobuf-c wants arrays of pointers to messages; they are built in an arena
 * for the length of one encoding. Memory errors on the way are kept in
 * @failed and looked at once, at the end.
 */
#include <errno.h>
#include <istio/authorization.pb-c.h>
#include <istio/workload.pb-c.h>
#include <string.h>

#include "base/arena.h"
#include "mesh/model.h"

enum { ENCODE_ARENA_MAX = 16 * 1024 * 1024 };

struct encode {
	struct arena *arena;
	bool failed;
};

static void *take(struct encode *e, size_t n, size_t size)
{
	static _Thread_local max_align_t nothing[64];	/* written to and never read, once memory has run out */
	void *p = arena_alloc(e->arena, n, size);

	e->failed |= !p;
	return p || n * size > sizeof(nothing) ? p : nothing;
}

/*
 * An array of @n pointers to @n messages of @size, each started by @init. NULL
 * for none, and when memory ran out.
 */
static void *take_messages(struct encode *e, size_t n, size_t size, void (*init)(void *message))
{
	void **list = n ? arena_alloc(e->arena, n, sizeof(*list)) : NULL;
	char *messages = list ? arena_alloc(e->arena, n, size) : NULL;

	e->failed |= n && !messages;
	for (size_t i = 0; messages && i < n; i++) {
		list[i] = messages + i * size;
		init(list[i]);
	}
	return messages ? list : NULL;
}

/* protobuf-c does not write through strings that it packs. */
static char *text(const char *s)
{
	return s ? (char *)(uintptr_t)s : (char *)(uintptr_t)protobuf_c_empty_string;
}

static ProtobufCBinaryData ip_data(const struct ip *ip)
{
	uint8_t *bytes = (uint8_t *)(uintptr_t)ip->b;

	return ip_is_v4(ip) ? (ProtobufCBinaryData){ 4, bytes + 12 } : (ProtobufCBinaryData){ 16, bytes };
}

/* The family's own form, unless the prefix is wider than it (0.0.0.0/0 has 96 bits of the 16-byte form). */
static uint32_t prefix_data(const struct ip *ip, uint8_t len, ProtobufCBinaryData *ret_data)
{
	*ret_data = ip_data(ip);
	if (ret_data->len == 4 && len < 96)
		*ret_data = (ProtobufCBinaryData){ 16, (uint8_t *)(uintptr_t)ip->b };
	return len - (128u - (uint32_t)ret_data->len * 8);
}

static int pack(const ProtobufCMessage *message, struct bytes *out)
{
	size_t len = protobuf_c_message_get_packed_size(message);

	if (len > out->max - out->len)
		return -ENOBUFS;
	if (!len)
		return 0;

	uint8_t *to = bytes_reserve(out, len);
	if (!to)
		return -ENOMEM;
	bytes_commit(out, protobuf_c_message_pack(message, to));
	return 0;
}

/* --- istio.workload.Address --- */

static void init_port(void *m) { istio__workload__port__init(m); }
static void init_network_address(void *m) { istio__workload__network_address__init(m); }
static void init_services_entry(void *m) { istio__workload__workload__services_entry__init(m); }
static void init_port_list(void *m) { istio__workload__port_list__init(m); }

static Istio__Workload__Port **encode_ports(struct encode *e, const struct port_map *ports, size_t n)
{
	Istio__Workload__Port **list = take_messages(e, n, sizeof(**list), init_port);

	for (size_t i = 0; list && i < n; i++) {
		list[i]->service_port = ports[i].service_port;
		list[i]->target_port = ports[i].target_port;
		list[i]->app_protocol = (Istio__Workload__AppProtocol)ports[i].app_protocol;
	}
	return list;
}

static Istio__Workload__GatewayAddress *encode_gateway(struct encode *e, const struct model_gateway *g)
{
	if (!model_gateway_is_set(g))
		return NULL;

	Istio__Workload__GatewayAddress *out = take(e, 1, sizeof(*out));
	istio__workload__gateway_address__init(out);
	out->hbone_mtls_port = g->hbone_port;
	if (g->hostname) {
		Istio__Workload__NamespacedHostname *h = take(e, 1, sizeof(*h));

		istio__workload__namespaced_hostname__init(h);
		h->namespace_ = text(g->namespace);
		h->hostname = text(g->hostname);
		out->destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME;
		out->hostname = h;
	} else {
		Istio__Workload__NetworkAddress *a = take(e, 1, sizeof(*a));

		istio__workload__network_address__init(a);
		a->network = text(g->network);
		a->address = ip_data(&g->ip);
		out->destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_ADDRESS;
		out->address = a;
	}
	return out;
}

static void encode_workload_services(struct encode *e, const struct workload *w, Istio__Workload__Workload *out)
{
	Istio__Workload__Workload__ServicesEntry **list = take_messages(e, w->n_services, sizeof(**list), init_services_entry);
	Istio__Workload__PortList **ports = take_messages(e, w->n_services, sizeof(**ports), init_port_list);

	for (size_t i = 0; list && ports && i < w->n_services; i++) {
		ports[i]->ports = encode_ports(e, w->services[i].ports, w->services[i].n_ports);
		ports[i]->n_ports = ports[i]->ports ? w->services[i].n_ports : 0;
		list[i]->key = text(w->services[i].key);
		list[i]->value = ports[i];
	}
	out->services = list;
	out->n_services = list && ports ? w->n_services : 0;
}

static void encode_workload_texts(const struct workload *w, Istio__Workload__Workload *out)
{
	out->uid = text(w->uid);
	out->name = text(w->name);
	out->namespace_ = text(w->namespace);
	out->hostname = text(w->hostname);
	out->network = text(w->network);
	out->trust_domain = text(w->trust_domain);
	out->service_account = text(w->service_account);
	out->node = text(w->node);
	out->canonical_name = text(w->canonical_name);
	out->canonical_revision = text(w->canonical_revision);
	out->workload_name = text(w->workload_name);
	out->cluster_id = text(w->cluster_id);
}

static void encode_workload_extras(struct encode *e, const struct workload *w, Istio__Workload__Workload *out)
{
	out->waypoint = encode_gateway(e, &w->waypoint);
	out->network_gateway = encode_gateway(e, &w->network_gateway);
	if (w->locality.region && *w->locality.region) {
		out->locality = take(e, 1, sizeof(*out->locality));
		istio__workload__locality__init(out->locality);
		out->locality->region = text(w->locality.region);
		out->locality->zone = text(w->locality.zone);
		out->locality->subzone = text(w->locality.subzone);
	}
	if (w->capacity != 1) {
		out->capacity = take(e, 1, sizeof(*out->capacity));
		google__protobuf__uint32_value__init(out->capacity);
		out->capacity->value = w->capacity;
	}
}

static void encode_workload(struct encode *e, const struct workload *w, Istio__Workload__Workload *out)
{
	ProtobufCBinaryData *addresses = w->n_addresses ? arena_alloc(e->arena, w->n_addresses, sizeof(*addresses)) : NULL;

	istio__workload__workload__init(out);
	e->failed |= w->n_addresses && !addresses;
	for (size_t i = 0; addresses && i < w->n_addresses; i++)
		addresses[i] = ip_data(&w->addresses[i]);
	out->addresses = addresses;
	out->n_addresses = addresses ? w->n_addresses : 0;
	encode_workload_texts(w, out);
	encode_workload_services(e, w, out);
	encode_workload_extras(e, w, out);
	out->authorization_policies = (char **)(uintptr_t)w->policies;
	out->n_authorization_policies = w->n_policies;
	out->tunnel_protocol = (Istio__Workload__TunnelProtocol)w->tunnel;
	out->native_tunnel = w->native_tunnel;
	out->workload_type = (Istio__Workload__WorkloadType)w->type;
	out->status = w->unhealthy ? ISTIO__WORKLOAD__WORKLOAD_STATUS__UNHEALTHY : ISTIO__WORKLOAD__WORKLOAD_STATUS__HEALTHY;
	out->network_mode = w->host_network ? ISTIO__WORKLOAD__NETWORK_MODE__HOST_NETWORK : ISTIO__WORKLOAD__NETWORK_MODE__STANDARD;
}

int workload_encode(const struct workload *w, struct bytes *out)
{
	Istio__Workload__Address address = ISTIO__WORKLOAD__ADDRESS__INIT;
	Istio__Workload__Workload workload;
	struct encode e = {};
	int r = arena_new(ENCODE_ARENA_MAX, &e.arena);

	if (r < 0)
		return r;
	encode_workload(&e, w, &workload);
	address.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_WORKLOAD;
	address.workload = &workload;
	r = e.failed ? -ENOMEM : pack(&address.base, out);
	arena_free(e.arena);
	return r;
}

static void encode_service_addresses(struct encode *e, const struct service *s, Istio__Workload__Service *out)
{
	Istio__Workload__NetworkAddress **list = take_messages(e, s->n_addresses, sizeof(**list), init_network_address);

	for (size_t i = 0; list && i < s->n_addresses; i++) {
		const struct service_address *a = &s->addresses[i];

		list[i]->network = text(a->network);
		uint32_t length = prefix_data(&a->ip, a->prefix_len, &list[i]->address);
		if (a->prefix_len < 128) {
			list[i]->length_presence_case = ISTIO__WORKLOAD__NETWORK_ADDRESS__LENGTH_PRESENCE_LENGTH;
			list[i]->length = length;
		}
	}
	out->addresses = list;
	out->n_addresses = list ? s->n_addresses : 0;
}

static void encode_load_balancing(struct encode *e, const struct service *s, Istio__Workload__Service *out)
{
	if (s->lb_mode == LB_UNSPECIFIED && !s->n_lb_preference && !s->allow_unhealthy)
		return;

	Istio__Workload__LoadBalancing *lb = take(e, 1, sizeof(*lb));
	Istio__Workload__LoadBalancing__Scope *scopes = take(e, LB_PREFERENCE_MAX, sizeof(*scopes));
	istio__workload__load_balancing__init(lb);
	for (size_t i = 0; i < s->n_lb_preference; i++)
		scopes[i] = (Istio__Workload__LoadBalancing__Scope)s->lb_preference[i];
	lb->routing_preference = scopes;
	lb->n_routing_preference = s->n_lb_preference;
	lb->mode = (Istio__Workload__LoadBalancing__Mode)s->lb_mode;
	lb->health_policy = s->allow_unhealthy ? ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ALLOW_ALL :
						 ISTIO__WORKLOAD__LOAD_BALANCING__HEALTH_POLICY__ONLY_HEALTHY;
	out->load_balancing = lb;
}

int service_encode(const struct service *s, struct bytes *out)
{
	Istio__Workload__Address address = ISTIO__WORKLOAD__ADDRESS__INIT;
	Istio__Workload__Service service = ISTIO__WORKLOAD__SERVICE__INIT;
	struct encode e = {};
	int r = arena_new(ENCODE_ARENA_MAX, &e.arena);

	if (r < 0)
		return r;
	service.name = text(s->name);
	service.namespace_ = text(s->namespace);
	service.hostname = text(s->hostname);
	service.subject_alt_names = (char **)(uintptr_t)s->sans;
	service.n_subject_alt_names = s->n_sans;
	service.ports = encode_ports(&e, s->ports, s->n_ports);
	service.n_ports = service.ports ? s->n_ports : 0;
	service.waypoint = encode_gateway(&e, &s->waypoint);
	service.canonical = s->canonical;
	service.visibility = s->namespace_only ? ISTIO__WORKLOAD__SERVICE__VISIBILITY__NAMESPACE :
						 ISTIO__WORKLOAD__SERVICE__VISIBILITY__PUBLIC;
	encode_service_addresses(&e, s, &service);
	encode_load_balancing(&e, s, &service);
	address.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	address.service = &service;
	r = e.failed ? -ENOMEM : pack(&address.base, out);
	arena_free(e.arena);
	return r;
}

/* --- istio.security.Authorization --- */

static void init_group(void *m) { istio__security__group__init(m); }
static void init_rules(void *m) { istio__security__rules__init(m); }
static void init_match(void *m) { istio__security__match__init(m); }
static void init_text(void *m) { istio__security__string_match__init(m); }
static void init_account(void *m) { istio__security__service_account_match__init(m); }
static void init_ip(void *m) { istio__security__address__init(m); }

static Istio__Security__StringMatch **encode_texts(struct encode *e, const struct text_matches *in, size_t *ret_n)
{
	Istio__Security__StringMatch **list = take_messages(e, in->n, sizeof(**list), init_text);

	for (size_t i = 0; list && i < in->n; i++) {
		Istio__Security__StringMatch *m = list[i];

		switch (in->list[i].kind) {
		case TEXT_EXACT:
			m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT;
			m->exact = text(in->list[i].text);
			break;
		case TEXT_PREFIX:
			m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX;
			m->prefix = text(in->list[i].text);
			break;
		case TEXT_SUFFIX:
			m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX;
			m->suffix = text(in->list[i].text);
			break;
		case TEXT_PRESENCE:
			m->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE;
			m->presence = take(e, 1, sizeof(*m->presence));
			google__protobuf__empty__init(m->presence);
			break;
		}
	}
	*ret_n = list ? in->n : 0;
	return list;
}

static Istio__Security__ServiceAccountMatch **encode_accounts(struct encode *e, const struct account_matches *in, size_t *ret_n)
{
	Istio__Security__ServiceAccountMatch **list = take_messages(e, in->n, sizeof(**list), init_account);

	for (size_t i = 0; list && i < in->n; i++) {
		list[i]->namespace_ = text(in->list[i].namespace);
		list[i]->serviceaccount = text(in->list[i].service_account);
	}
	*ret_n = list ? in->n : 0;
	return list;
}

static Istio__Security__Address **encode_ips(struct encode *e, const struct ip_matches *in, size_t *ret_n)
{
	Istio__Security__Address **list = take_messages(e, in->n, sizeof(**list), init_ip);

	for (size_t i = 0; list && i < in->n; i++) {
		const struct ip_prefix *p = &in->list[i];

		list[i]->length = prefix_data(&p->ip, p->len, &list[i]->address);
	}
	*ret_n = list ? in->n : 0;
	return list;
}

static void encode_match(struct encode *e, const struct policy_match *in, Istio__Security__Match *m)
{
	m->namespaces = encode_texts(e, &in->namespaces, &m->n_namespaces);
	m->not_namespaces = encode_texts(e, &in->not_namespaces, &m->n_not_namespaces);
	m->principals = encode_texts(e, &in->principals, &m->n_principals);
	m->not_principals = encode_texts(e, &in->not_principals, &m->n_not_principals);
	m->service_accounts = encode_accounts(e, &in->accounts, &m->n_service_accounts);
	m->not_service_accounts = encode_accounts(e, &in->not_accounts, &m->n_not_service_accounts);
	m->source_ips = encode_ips(e, &in->source_ips, &m->n_source_ips);
	m->not_source_ips = encode_ips(e, &in->not_source_ips, &m->n_not_source_ips);
	m->destination_ips = encode_ips(e, &in->destination_ips, &m->n_destination_ips);
	m->not_destination_ips = encode_ips(e, &in->not_destination_ips, &m->n_not_destination_ips);
	m->destination_ports = (uint32_t *)(uintptr_t)in->destination_ports.list;
	m->n_destination_ports = in->destination_ports.n;
	m->not_destination_ports = (uint32_t *)(uintptr_t)in->not_destination_ports.list;
	m->n_not_destination_ports = in->not_destination_ports.n;
}

static void encode_clause(struct encode *e, const struct policy_clause *in, Istio__Security__Rules *out)
{
	out->matches = take_messages(e, in->n_matches, sizeof(**out->matches), init_match);
	out->n_matches = out->matches ? in->n_matches : 0;
	for (size_t i = 0; i < out->n_matches; i++)
		encode_match(e, &in->matches[i], out->matches[i]);
}

static void encode_rule(struct encode *e, const struct policy_rule *in, Istio__Security__Group *out)
{
	out->rules = take_messages(e, in->n_clauses, sizeof(**out->rules), init_rules);
	out->n_rules = out->rules ? in->n_clauses : 0;
	for (size_t i = 0; i < out->n_rules; i++)
		encode_clause(e, &in->clauses[i], out->rules[i]);
}

int policy_encode(const struct policy *p, struct bytes *out)
{
	Istio__Security__Authorization policy = ISTIO__SECURITY__AUTHORIZATION__INIT;
	struct encode e = {};
	int r = arena_new(ENCODE_ARENA_MAX, &e.arena);

	if (r < 0)
		return r;
	policy.name = text(p->name);
	policy.namespace_ = text(p->namespace);
	policy.scope = (Istio__Security__Scope)p->scope;
	policy.action = p->action == POLICY_ALLOW ? ISTIO__SECURITY__ACTION__ALLOW : ISTIO__SECURITY__ACTION__DENY;
	policy.dry_run = p->dry_run;
	policy.groups = take_messages(&e, p->n_rules, sizeof(**policy.groups), init_group);
	policy.n_groups = policy.groups ? p->n_rules : 0;
	for (size_t i = 0; i < policy.n_groups; i++)
		encode_rule(&e, &p->rules[i], policy.groups[i]);
	r = e.failed ? -ENOMEM : pack(&policy.base, out);
	arena_free(e.arena);
	return r;
}

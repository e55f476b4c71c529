#include "lib/unit.h"

#include <errno.h>
#include <istio/authorization.pb-c.h>
#include <istio/workload.pb-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/alloc.h"
#include "mesh/model.h"

static struct ip ip_of(const char *text)
{
	struct ip ip;

	assert_int_equal(ip_parse(text, &ip), 0);
	return ip;
}

/* --- one of everything --- */

static struct ip addresses[2];
static const struct port_map ports[] = { { 80, 8080, APP_HTTP11 }, { 5432, 0, APP_TCP } };
static const struct workload_service memberships[] = { { "shop/web.mesh", ports, 2 }, { "shop/other.mesh", ports, 0 } };
static const char *const policy_names[] = { "shop/a", "shop/b" };

static struct workload full_workload(void)
{
	addresses[0] = ip_of("10.0.0.1");
	addresses[1] = ip_of("2001:db8::1");
	return (struct workload){
		.uid = "vm/shop/web-1", .name = "web-1", .namespace = "shop", .network = "net1", .trust_domain = "td",
		.service_account = "web", .hostname = "h", .node = "nic-1", .canonical_name = "web", .canonical_revision = "v1",
		.workload_name = "web", .cluster_id = "c", .locality = { "r", "z", "s" },
		.addresses = addresses, .n_addresses = 2, .tunnel = TUNNEL_HBONE, .native_tunnel = true, .unhealthy = true,
		.host_network = true, .type = 2, .capacity = 7,
		.waypoint = { .namespace = "shop", .hostname = "way", .hbone_port = 15008, .network = "" },
		.network_gateway = { .ip = addresses[0], .network = "net2", .hbone_port = 15009 },
		.services = memberships, .n_services = 2, .policies = policy_names, .n_policies = 2,
	};
}

static struct service_address vips[2];
static const char *const sans[] = { "spiffe://td/ns/a/sa/b" };

static struct service full_service(void)
{
	vips[0] = (struct service_address){ "net1", ip_of("10.96.0.1"), 128 };
	vips[1] = (struct service_address){ "", ip_of("10.97.0.0"), 112 };
	return (struct service){
		.name = "web", .namespace = "shop", .hostname = "web.mesh", .addresses = vips, .n_addresses = 2,
		.ports = ports, .n_ports = 2, .sans = sans, .n_sans = 1, .lb_mode = LB_FAILOVER,
		.lb_preference = { LB_ZONE, LB_NODE }, .n_lb_preference = 2, .allow_unhealthy = true, .canonical = true,
		.namespace_only = true, .waypoint = { .ip = vips[0].ip, .network = "n", .hbone_port = 1 },
	};
}

static const struct text_match texts[] = { { TEXT_EXACT, "a" }, { TEXT_PREFIX, "b" }, { TEXT_SUFFIX, "c" }, { TEXT_PRESENCE, "" } };
static const struct account_match accounts[] = { { "shop", "web" } };
static struct ip_prefix prefixes[2];
static const uint32_t port_list[] = { 80, 443 };
static struct policy_match matches[2];
static const struct policy_clause clauses[] = { { matches, 2, false }, { NULL, 0, false } };
static const struct policy_rule rules[] = { { clauses, 2, false }, { NULL, 0, false } };

static struct policy full_policy(void)
{
	assert_int_equal(ip_prefix_parse("10.0.0.0/8", &prefixes[0]), 0);
	assert_int_equal(ip_prefix_parse("2001:db8::/32", &prefixes[1]), 0);
	matches[0] = (struct policy_match){
		.namespaces = { texts, 4 }, .not_namespaces = { texts, 1 }, .principals = { texts, 2 }, .not_principals = { texts, 3 },
		.accounts = { accounts, 1 }, .not_accounts = { accounts, 1 }, .source_ips = { prefixes, 2 },
		.not_source_ips = { prefixes, 1 }, .destination_ips = { prefixes, 2 }, .not_destination_ips = { prefixes + 1, 1 },
		.destination_ports = { port_list, 2 }, .not_destination_ports = { port_list, 1 },
	};
	return (struct policy){ .name = "p", .namespace = "shop", .scope = POLICY_WORKLOAD, .action = POLICY_DENY,
				.rules = rules, .n_rules = 2, .dry_run = true };
}

/* --- there and back --- */

static void same_ports(const struct port_map *a, size_t n_a, const struct port_map *b, size_t n_b)
{
	assert_int_equal(n_a, n_b);
	for (size_t i = 0; i < n_a; i++) {
		assert_int_equal(a[i].service_port, b[i].service_port);
		assert_int_equal(a[i].target_port, b[i].target_port);
		assert_int_equal(a[i].app_protocol, b[i].app_protocol);
	}
}

static void same_gateway(const struct model_gateway *a, const struct model_gateway *b)
{
	assert_true(ip_equal(&a->ip, &b->ip));
	assert_int_equal(a->hbone_port, b->hbone_port);
	assert_int_equal(!a->hostname, !b->hostname);
	if (a->hostname) {
		assert_string_equal(a->hostname, b->hostname);
		assert_string_equal(a->namespace, b->namespace);
	}
	assert_string_equal(a->network, b->network);
}

static void a_workload_survives_the_wire(void **state)
{
	struct workload in = full_workload();
	struct address out;
	struct bytes wire;
	struct diag diag;

	(void)state;
	bytes_init(&wire, 1 << 20);
	assert_int_equal(workload_encode(&in, &wire), 0);
	assert_int_equal(address_decode(wire.data, wire.len, &out, &diag), 0);
	assert_int_equal(out.type, ADDRESS_WORKLOAD);

	const struct workload *w = &out.workload;
	const struct { const char *a, *b; } same[] = {
		{ in.uid, w->uid }, { in.name, w->name }, { in.namespace, w->namespace }, { in.network, w->network },
		{ in.trust_domain, w->trust_domain }, { in.service_account, w->service_account }, { in.hostname, w->hostname },
		{ in.node, w->node }, { in.canonical_name, w->canonical_name }, { in.canonical_revision, w->canonical_revision },
		{ in.workload_name, w->workload_name }, { in.cluster_id, w->cluster_id }, { in.locality.region, w->locality.region },
		{ in.locality.zone, w->locality.zone }, { in.locality.subzone, w->locality.subzone },
		{ in.policies[1], w->policies[1] }, { in.services[0].key, w->services[0].key },
	};
	for (size_t i = 0; i < ELEMENTS(same); i++)
		assert_string_equal(same[i].a, same[i].b);
	assert_int_equal(w->n_addresses, 2);
	assert_true(ip_equal(&w->addresses[0], &addresses[0]) && ip_equal(&w->addresses[1], &addresses[1]));
	assert_int_equal(w->tunnel, TUNNEL_HBONE);
	assert_true(w->native_tunnel && w->unhealthy && w->host_network);
	assert_int_equal(w->type, 2);
	assert_int_equal(w->capacity, 7);
	assert_int_equal(w->n_services, 2);
	assert_int_equal(w->n_policies, 2);
	same_ports(in.services[0].ports, in.services[0].n_ports, w->services[0].ports, w->services[0].n_ports);
	same_gateway(&in.waypoint, &w->waypoint);
	same_gateway(&in.network_gateway, &w->network_gateway);

	char id[128];
	assert_int_equal(workload_identity(w, id, sizeof(id)), strlen("spiffe://td/ns/shop/sa/web"));
	assert_string_equal(id, "spiffe://td/ns/shop/sa/web");
	address_deinit(&out);
	bytes_deinit(&wire);
}

static void a_service_survives_the_wire(void **state)
{
	struct service in = full_service();
	struct address out;
	struct bytes wire;
	struct diag diag;

	(void)state;
	bytes_init(&wire, 1 << 20);
	assert_int_equal(service_encode(&in, &wire), 0);
	assert_int_equal(address_decode(wire.data, wire.len, &out, &diag), 0);
	assert_int_equal(out.type, ADDRESS_SERVICE);

	const struct service *s = &out.service;
	assert_string_equal(s->name, in.name);
	assert_string_equal(s->namespace, in.namespace);
	assert_string_equal(s->hostname, in.hostname);
	assert_int_equal(s->n_addresses, 2);
	for (size_t i = 0; i < 2; i++) {
		assert_true(ip_equal(&s->addresses[i].ip, &in.addresses[i].ip));
		assert_int_equal(s->addresses[i].prefix_len, in.addresses[i].prefix_len);
		assert_string_equal(s->addresses[i].network, in.addresses[i].network);
	}
	same_ports(in.ports, in.n_ports, s->ports, s->n_ports);
	assert_int_equal(s->n_sans, 1);
	assert_string_equal(s->sans[0], sans[0]);
	assert_int_equal(s->lb_mode, LB_FAILOVER);
	assert_int_equal(s->n_lb_preference, 2);
	assert_int_equal(s->lb_preference[1], LB_NODE);
	assert_true(s->allow_unhealthy && s->canonical && s->namespace_only);
	same_gateway(&in.waypoint, &s->waypoint);
	address_deinit(&out);
	bytes_deinit(&wire);
}

static void a_policy_survives_the_wire(void **state)
{
	struct policy in = full_policy();
	struct policy p;
	struct bytes wire, again;
	struct diag diag;

	(void)state;
	bytes_init(&wire, 1 << 20);
	bytes_init(&again, 1 << 20);
	assert_int_equal(policy_encode(&in, &wire), 0);
	assert_int_equal(policy_decode(wire.data, wire.len, &p, &diag), 0);
	assert_null(p.strange);
	assert_string_equal(p.name, "p");
	assert_int_equal(p.scope, POLICY_WORKLOAD);
	assert_int_equal(p.action, POLICY_DENY);
	assert_true(p.dry_run);
	assert_int_equal(p.n_rules, 2);
	assert_int_equal(p.rules[0].n_clauses, 2);
	assert_int_equal(p.rules[0].clauses[0].n_matches, 2);

	const struct policy_match *m = &p.rules[0].clauses[0].matches[0];
	assert_false(m->strange);
	assert_int_equal(m->namespaces.n, 4);
	assert_int_equal(m->namespaces.list[2].kind, TEXT_SUFFIX);
	assert_string_equal(m->namespaces.list[2].text, "c");
	assert_int_equal(m->source_ips.list[0].len, 104);
	assert_int_equal(m->source_ips.list[1].len, 32);

	/* The rest: what is encoded again is the same bytes. */
	assert_int_equal(policy_encode(&p, &again), 0);
	assert_int_equal(wire.len, again.len);
	assert_memory_equal(wire.data, again.data, wire.len);
	policy_deinit(&p);
	bytes_deinit(&wire);
	bytes_deinit(&again);
}

static void what_is_not_sent_has_the_defaults_of_the_workload_api(void **state)
{
	/* uid "u", namespace "n" */
	static const uint8_t wire[] = { 0x0a, 7, 0xa2, 1, 1, 'u', 0x12, 1, 'n' };
	struct address a;
	struct diag diag;

	(void)state;
	assert_int_equal(address_decode(wire, sizeof(wire), &a, &diag), 0);
	assert_string_equal(a.workload.trust_domain, "cluster.local");
	assert_string_equal(a.workload.service_account, "default");
	assert_int_equal(a.workload.capacity, 1);
	assert_int_equal(a.workload.tunnel, TUNNEL_NONE);
	assert_false(a.workload.unhealthy);
	assert_string_equal(a.workload.locality.zone, "");
	address_deinit(&a);
}

/* --- what is refused, and with which words --- */

/* What istiod sends where traffic moves from one waypoint to another. */
static void of_weighted_waypoints_the_heaviest_counts(void **state)
{
	static const uint32_t weights[] = { 10, 70, 20 };
	char *const names[] = { (char[]){ "a" }, (char[]){ "b" }, (char[]){ "c" } };
	Istio__Workload__NamespacedHostname hosts[3];
	Istio__Workload__GatewayAddress gateways[3];
	Istio__Workload__WeightedWaypoint weighted[3], *list[3];
	Istio__Workload__Service service = ISTIO__WORKLOAD__SERVICE__INIT;
	Istio__Workload__Address in = ISTIO__WORKLOAD__ADDRESS__INIT;
	struct address out;
	uint8_t bytes[512];

	(void)state;
	for (int i = 0; i < 3; i++) {
		istio__workload__namespaced_hostname__init(&hosts[i]);
		istio__workload__gateway_address__init(&gateways[i]);
		istio__workload__weighted_waypoint__init(&weighted[i]);
		hosts[i].namespace_ = hosts[i].hostname = names[i];
		gateways[i].destination_case = ISTIO__WORKLOAD__GATEWAY_ADDRESS__DESTINATION_HOSTNAME;
		gateways[i].hostname = &hosts[i];
		weighted[i].destination = &gateways[i];
		weighted[i].weight = weights[i];
		list[i] = &weighted[i];
	}
	service.name = service.namespace_ = service.hostname = names[0];
	service.weighted_waypoints = list;
	service.n_weighted_waypoints = 3;
	in.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	in.service = &service;

	size_t len = istio__workload__address__pack(&in, bytes);
	assert_true(len <= sizeof(bytes));
	assert_int_equal(address_decode(bytes, len, &out, NULL), 0);
	assert_string_equal(out.service.waypoint.hostname, "b");
	address_deinit(&out);
	service.waypoint = &gateways[2];	/* a single one says where all go */
	len = istio__workload__address__pack(&in, bytes);
	assert_int_equal(address_decode(bytes, len, &out, NULL), 0);
	assert_string_equal(out.service.waypoint.hostname, "c");
	address_deinit(&out);
}

/* A newer control plane may know destinations that we do not. To take that for "no waypoint" would lead past it. */
static void a_waypoint_without_a_destination_is_refused(void **state)
{
	Istio__Workload__GatewayAddress gateway = ISTIO__WORKLOAD__GATEWAY_ADDRESS__INIT;
	Istio__Workload__WeightedWaypoint weighted = ISTIO__WORKLOAD__WEIGHTED_WAYPOINT__INIT, *list[] = { &weighted };
	Istio__Workload__Service service = ISTIO__WORKLOAD__SERVICE__INIT;
	Istio__Workload__Address in = ISTIO__WORKLOAD__ADDRESS__INIT;
	struct address out;
	struct diag diag;
	uint8_t bytes[512];

	(void)state;
	gateway.hbone_mtls_port = 15008;
	service.name = service.namespace_ = service.hostname = (char[]){ "a" };
	in.type_case = ISTIO__WORKLOAD__ADDRESS__TYPE_SERVICE;
	in.service = &service;
	service.waypoint = &gateway;
	assert_int_equal(address_decode(bytes, istio__workload__address__pack(&in, bytes), &out, &diag), -EINVAL);
	assert_string_equal(diag.msg, "waypoint: has no destination");
	service.waypoint = NULL;
	service.weighted_waypoints = list;
	service.n_weighted_waypoints = 1;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(address_decode(bytes, istio__workload__address__pack(&in, bytes), &out, &diag), -EINVAL);
		assert_string_equal(diag.msg, "weighted_waypoints: has no destination");
		weighted.destination = &gateway;
	}
}

static void refused(const struct workload *w, const struct service *s, const char *why)
{
	struct bytes wire;
	struct address a;
	struct diag diag = {};

	bytes_init(&wire, 1 << 20);
	assert_int_equal(w ? workload_encode(w, &wire) : service_encode(s, &wire), 0);
	assert_int_equal(address_decode(wire.data, wire.len, &a, &diag), -EINVAL);
	if (!strstr(diag.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", diag.msg, why);
	bytes_deinit(&wire);
}

static void a_bad_resource_is_refused_with_a_reason(void **state)
{
	static const struct workload_service bad_key[] = { { "no-slash", NULL, 0 } };
	static const struct port_map zero[] = { { 0, 1, APP_TCP } };
	static const struct workload_service bad_port[] = { { "a/b", zero, 1 } };
	const struct ip none = {}, multicast = ip_of("224.0.0.1");
	static char long_name[MODEL_NAME_MAX + 2];
	struct workload w;
	struct service s;

	(void)state;
	memset(long_name, 'x', sizeof(long_name) - 1);
	w = full_workload(); w.uid = ""; refused(&w, NULL, "uid: empty");
	w = full_workload(); w.uid = long_name; refused(&w, NULL, "uid: longer");
	w = full_workload(); w.node = "a\nb"; refused(&w, NULL, "node: has a control character");
	w = full_workload(); w.namespace = "a/sa/b"; refused(&w, NULL, "do not make an identity");
	w = full_workload(); w.service_account = "a/b"; refused(&w, NULL, "do not make an identity");
	w = full_workload(); w.trust_domain = "a/ns/x"; refused(&w, NULL, "do not make an identity");
	w = full_workload(); w.namespace = ""; refused(&w, NULL, "do not make an identity");
	w = full_workload(); w.addresses = &none; w.n_addresses = 1; refused(&w, NULL, "addresses: ");
	w = full_workload(); w.addresses = &multicast; w.n_addresses = 1; refused(&w, NULL, "addresses: ");
	w = full_workload(); w.services = bad_key; w.n_services = 1; refused(&w, NULL, "\"no-slash\" is not namespace/hostname");
	w = full_workload(); w.services = bad_port; w.n_services = 1; refused(&w, NULL, "a/b: port 0 to 1 is out of range");
	w = full_workload(); w.tunnel = (enum tunnel)9; refused(&w, NULL, "tunnel_protocol: unknown value 9");
	s = full_service(); s.hostname = ""; refused(NULL, &s, "hostname: empty");
	s = full_service(); s.namespace = "a/b"; refused(NULL, &s, "namespace: \"a/b\"");
	s = full_service(); s.ports = zero; s.n_ports = 1; refused(NULL, &s, "ports: port 0");
	s = full_service(); s.lb_preference[0] = 99; refused(NULL, &s, "load_balancing: unknown value 99");

	struct address a;
	struct diag diag = {};
	assert_int_equal(address_decode("", 0, &a, &diag), -EINVAL);
	assert_string_equal(diag.msg, "neither a workload nor a service");
	assert_int_equal(address_decode("\xff\xff", 2, &a, &diag), -EINVAL);
	assert_string_equal(diag.msg, "not a istio.workload.Address");
}

/* --- what this version does not know --- */

static void decode_pb(const Istio__Security__Authorization *pb, struct policy *ret_policy)
{
	uint8_t wire[512];
	struct diag diag;

	assert_true(protobuf_c_message_get_packed_size(&pb->base) <= sizeof(wire));
	assert_int_equal(policy_decode(wire, protobuf_c_message_pack(&pb->base, wire), ret_policy, &diag), 0);
}

static void a_policy_from_the_future_is_marked(void **state)
{
	Istio__Security__Authorization pb = ISTIO__SECURITY__AUTHORIZATION__INIT;
	Istio__Security__Group group = ISTIO__SECURITY__GROUP__INIT;
	Istio__Security__Rules clause = ISTIO__SECURITY__RULES__INIT;
	Istio__Security__Match match = ISTIO__SECURITY__MATCH__INIT;
	Istio__Security__StringMatch text = ISTIO__SECURITY__STRING_MATCH__INIT;
	Istio__Security__Group *groups[] = { &group };
	Istio__Security__Rules *clause_list[] = { &clause };
	Istio__Security__Match *match_list[] = { &match };
	Istio__Security__StringMatch *text_list[] = { &text };
	uint8_t value = 1;
	ProtobufCMessageUnknownField unknown = { 99, PROTOBUF_C_WIRE_TYPE_VARINT, 1, &value };
	struct policy p;

	(void)state;
	pb.name = (char *)(uintptr_t)"p";
	pb.n_groups = group.n_rules = clause.n_matches = 1;
	pb.groups = groups;
	group.rules = clause_list;
	clause.matches = match_list;

	pb.scope = (Istio__Security__Scope)7;
	decode_pb(&pb, &p);
	assert_non_null(strstr(p.strange, "scope"));
	assert_int_equal(p.scope, POLICY_NAMESPACE);
	policy_deinit(&p);
	pb.scope = ISTIO__SECURITY__SCOPE__GLOBAL;

	pb.action = (Istio__Security__Action)7;
	decode_pb(&pb, &p);
	assert_non_null(strstr(p.strange, "action"));
	assert_int_equal(p.action, POLICY_DENY);
	policy_deinit(&p);
	pb.action = ISTIO__SECURITY__ACTION__ALLOW;

	ProtobufCMessage *levels[] = { &pb.base, &group.base, &clause.base, &match.base };
	for (size_t i = 0; i < ELEMENTS(levels); i++) {
		levels[i]->n_unknown_fields = 1;
		levels[i]->unknown_fields = &unknown;
		decode_pb(&pb, &p);
		assert_int_equal(p.strange != NULL, i == 0);
		assert_int_equal(p.rules[0].strange, i == 1);
		assert_int_equal(p.rules[0].clauses[0].strange, i == 2);
		assert_int_equal(p.rules[0].clauses[0].matches[0].strange, i == 3);
		policy_deinit(&p);
		levels[i]->n_unknown_fields = 0;
	}

	match.n_principals = 1;		/* a comparison of no kind that we know */
	match.principals = text_list;
	decode_pb(&pb, &p);
	assert_true(p.rules[0].clauses[0].matches[0].strange);
	policy_deinit(&p);
}

/* --- every truncation, every byte changed, every allocation failed --- */

typedef int decode_fn(const uint8_t *data, size_t len);

static int decode_address(const uint8_t *data, size_t len)
{
	struct address a;
	struct diag diag;
	int r = address_decode(data, len, &a, &diag);

	if (r == 0)
		address_deinit(&a);
	return r;
}

static int decode_policy(const uint8_t *data, size_t len)
{
	struct policy p;
	struct diag diag;
	int r = policy_decode(data, len, &p, &diag);

	if (r == 0)
		policy_deinit(&p);
	return r;
}

static void torture(const struct bytes *wire, decode_fn *decode)
{
	uint8_t *copy = malloc(wire->len);

	for (size_t len = 0; len < wire->len; len++) {
		uint8_t *exact = malloc(len + 1);	/* so that a read behind the end is seen */

		memcpy(exact + 1, wire->data, len);
		int r = decode(exact + 1, len);
		assert_true(r == 0 || r == -EINVAL);
		free(exact);
	}
	memcpy(copy, wire->data, wire->len);
	for (size_t i = 0; i < wire->len; i++) {
		for (int v = 0; v < 256; v += 5) {
			copy[i] = (uint8_t)v;
			int r = decode(copy, wire->len);
			assert_true(r == 0 || r == -EINVAL);
		}
		copy[i] = wire->data[i];
	}
	free(copy);
	for (size_t n = 1; ; n++) {
		alloc_fail_at(n);
		int r = decode(wire->data, wire->len);
		if (alloc_fail_stop() < n) {
			assert_int_equal(r, 0);
			break;
		}
		assert_int_equal(r, -ENOMEM);
	}
}

static void no_bytes_of_strangers_do_harm(void **state)
{
	struct workload w = full_workload();
	struct service s = full_service();
	struct policy p = full_policy();
	struct bytes wire;

	(void)state;
	bytes_init(&wire, 1 << 20);
	assert_int_equal(workload_encode(&w, &wire), 0);
	torture(&wire, decode_address);
	bytes_clear(&wire);
	assert_int_equal(service_encode(&s, &wire), 0);
	torture(&wire, decode_address);
	bytes_clear(&wire);
	assert_int_equal(policy_encode(&p, &wire), 0);
	torture(&wire, decode_policy);
	bytes_deinit(&wire);
}

static void encoding_without_memory_or_room_says_so(void **state)
{
	struct workload w = full_workload();
	struct service s = full_service();
	struct policy p = full_policy();
	struct bytes wire;

	(void)state;
	for (int what = 0; what < 3; what++) {
		for (size_t n = 1; ; n++) {
			bytes_init(&wire, 1 << 20);
			alloc_fail_at(n);
			int r = what == 0 ? workload_encode(&w, &wire) : what == 1 ? service_encode(&s, &wire) : policy_encode(&p, &wire);
			bool enough = alloc_fail_stop() < n;
			assert_int_equal(r, enough ? 0 : -ENOMEM);
			bytes_deinit(&wire);
			if (enough)
				break;
		}
	}
	bytes_init(&wire, 10);
	assert_int_equal(workload_encode(&w, &wire), -ENOBUFS);
	bytes_deinit(&wire);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_workload_survives_the_wire),
		cmocka_unit_test(a_service_survives_the_wire),
		cmocka_unit_test(a_policy_survives_the_wire),
		cmocka_unit_test(what_is_not_sent_has_the_defaults_of_the_workload_api),
		cmocka_unit_test(of_weighted_waypoints_the_heaviest_counts),
		cmocka_unit_test(a_waypoint_without_a_destination_is_refused),
		cmocka_unit_test(a_bad_resource_is_refused_with_a_reason),
		cmocka_unit_test(a_policy_from_the_future_is_marked),
		cmocka_unit_test(no_bytes_of_strangers_do_harm),
		cmocka_unit_test(encoding_without_memory_or_room_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

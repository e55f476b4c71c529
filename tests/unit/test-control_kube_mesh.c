#include "lib/unit.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/registrybed.h"

#include "control/kube_mesh.h"
#include "control/kube_objects.h"

static const char yaml[] =
	"trust_domain: t.mesh\n"
	"mesh: {cluster_id: k1}\n"
	"kubernetes: {kubeconfig: /k, namespaces: [shop, team-*], services: ['shop/*', 'team-a/web']}\n"
	"onboarding:\n"
	"- {name: mixed, match: {guest_name: m*}, mode: strict, namespace: shop, service_account: vm, services: [cart], kubernetes_services: true}\n"
	"- {name: apart, match: {guest_name: a*}, mode: strict, namespace: shop, service_account: vm, services: [cart]}\n"
	"services:\n"
	"- {name: mine, namespace: shop, hostname: taken.shop.svc.cluster.local, addresses: [10.96.9.9], ports: [{port: 80}]}\n"
	"workloads:\n"
	"- {name: fixed, namespace: shop, addresses: [10.1.0.1]}\n";

struct fixture {
	struct registry_bed bed;
	struct kube_mesh *mesh;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	registry_bed_init(&f->bed, yaml);
	assert_int_equal(kube_mesh_new(f->bed.loop, f->bed.reg, &f->mesh), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	kube_mesh_free(f->mesh);
	registry_bed_deinit(&f->bed);
	free(f);
	return 0;
}

/* --- objects: single quotes stand for double ones --- */

__attribute__((format(printf, 1, 2))) static json_t *object(const char *format, ...)
{
	char *text;
	va_list ap;
	json_t *json;

	va_start(ap, format);
	assert_true(vasprintf(&text, format, ap) > 0);
	va_end(ap);
	for (char *c = text; *c; c++)
		if (*c == '\'')
			*c = '"';
	json = json_loads(text, 0, NULL);
	if (!json)
		fail_msg("no JSON: %s", text);
	free(text);
	return json;
}

static void put(struct fixture *f, enum kube_kind kind, json_t *json)
{
	kube_mesh_put(f->mesh, kind, json);
	json_decref(json);
}

static void gone(struct fixture *f, enum kube_kind kind, const char *name)
{
	json_t *json = object("{'metadata': {'namespace': 'shop', 'name': '%s'}}", name);

	kube_mesh_gone(f->mesh, kind, json);
	json_decref(json);
}

static void turn(struct fixture *f)
{
	for (int i = 0; i < 3; i++)
		assert_int_equal(loop_turn(f->bed.loop, 0), 0);
	resources_settle(&f->bed.resources);
}

static json_t *pod(const char *ns, const char *name, const char *ip)
{
	return object("{'metadata': {'namespace': '%s', 'name': '%s', 'labels': {'app': 'cart', 'version': 'v2', 'pod-template-hash': '5d9'},"
		      " 'annotations': {'ambient.istio.io/redirection': 'enabled'},"
		      " 'ownerReferences': [{'kind': 'ReplicaSet', 'name': 'cart-5d9', 'controller': true}]},"
		      "'spec': {'nodeName': 'n1', 'serviceAccountName': 'cart'}, 'status': {'phase': 'Running', 'podIPs': [{'ip': '%s'}]}}", ns, name, ip);
}

static json_t *cart(const char *ip)
{
	return object("{'metadata': {'namespace': 'shop', 'name': 'cart'}, 'spec': {'clusterIPs': ['%s'],"
		      "'ports': [{'name': 'http', 'port': 80, 'targetPort': 8080}, {'name': 'grpc-x', 'port': 90, 'targetPort': 'rpc', 'protocol': 'TCP'},"
		      "{'name': 'dns', 'port': 53, 'protocol': 'UDP'}]}}", ip);
}

/* @endpoints: "cart-1=y,cart-2=n" */
static json_t *slice(const char *name, const char *service, const char *endpoints)
{
	json_t *json = object("{'metadata': {'namespace': 'shop', 'name': '%s', 'labels': {'kubernetes.io/service-name': '%s'}},"
			      "'ports': [{'name': 'http', 'port': 8080}, {'name': 'grpc-x', 'port': 9090}], 'endpoints': []}", name, service);
	json_t *list = json_object_get(json, "endpoints");
	char copy[256], *save = NULL;

	snprintf(copy, sizeof(copy), "%s", endpoints);
	for (char *e = strtok_r(copy, ",", &save); e; e = strtok_r(NULL, ",", &save)) {
		char *is = strchr(e, '=');

		assert_non_null(is);
		*is = 0;
		json_array_append_new(list, object("{'addresses': ['10.0.0.1'], 'conditions': {'ready': %s}, 'targetRef': {'kind': 'Pod', 'name': '%s'}}",
						   is[1] == 'y' ? "true" : "false", e));
	}
	return json;
}

/* --- who serves --- */

static size_t n_members(const struct fixture *f, const char *key)
{
	const struct reg_service *s = reg_service_find(f->bed.reg, key);
	size_t n = 0;

	assert_non_null(s);
	list_for_each(l, &s->members)
		n++;
	return n;
}

static size_t n_member_ports(const struct fixture *f, const char *key, const char *uid)
{
	const struct reg_service *s = reg_service_find(f->bed.reg, key);

	assert_non_null(s);
	list_for_each(l, &s->members) {
		const struct reg_member *m = list_entry(l, struct reg_member, in_service);

		if (!strcmp(m->workload->uid, uid))
			return m->n_ports;
	}
	return 0;
}

/* --- what is published --- */

static bool published(const struct fixture *f, const char *name)
{
	return resources_find(&f->bed.resources, RESOURCE_ADDRESS, name) != NULL;
}

static void get(const struct fixture *f, const char *name, struct address *ret_address)
{
	const struct resource *r = resources_find(&f->bed.resources, RESOURCE_ADDRESS, name);
	struct diag d = {};

	if (!r)
		fail_msg("there is no %s", name);
	if (address_decode(r->bytes, r->len, ret_address, &d) < 0)
		fail_msg("%s: %s", name, d.msg);
}

#define CART	"shop/cart.shop.svc.cluster.local"
#define P1	"k1//Pod/shop/cart-1"
#define P2	"k1//Pod/shop/cart-2"

/* How many services it is a healthy endpoint of; -1: it is not there. */
static int serves(const struct fixture *f, const char *uid)
{
	struct address a;
	int n;

	if (!published(f, uid))
		return -1;
	get(f, uid, &a);
	n = a.workload.unhealthy ? 0 : (int)a.workload.n_services;
	address_deinit(&a);
	return n;
}

static void listed(struct fixture *f)
{
	put(f, KUBE_SERVICES, cart("10.96.0.5"));
	put(f, KUBE_SLICES, slice("cart-abc", "cart", "cart-1=y,cart-2=n"));
	put(f, KUBE_PODS, pod("shop", "cart-1", "10.44.0.1"));
	put(f, KUBE_PODS, pod("shop", "cart-2", "10.44.0.2"));
	turn(f);
}

/* --- tests --- */

static void pods_and_services_are_what_istio_would_call_them(void **state)
{
	struct fixture *f = *state;
	struct address a;

	listed(f);
	get(f, P1, &a);
	assert_string_equal(a.workload.name, "cart-1");
	assert_string_equal(a.workload.workload_name, "cart");
	assert_string_equal(a.workload.canonical_name, "cart");
	assert_string_equal(a.workload.canonical_revision, "v2");
	assert_string_equal(a.workload.cluster_id, "k1");
	assert_string_equal(a.workload.service_account, "cart");
	assert_string_equal(a.workload.trust_domain, "t.mesh");
	assert_string_equal(a.workload.node, "n1");
	assert_int_equal(a.workload.tunnel, TUNNEL_HBONE);
	assert_int_equal(a.workload.type, 0);	/* DEPLOYMENT */
	assert_int_equal(a.workload.n_services, 1);
	assert_string_equal(a.workload.services[0].key, CART);
	assert_int_equal(a.workload.services[0].n_ports, 2);
	assert_int_equal(a.workload.services[0].ports[0].service_port, 80);
	assert_int_equal(a.workload.services[0].ports[0].target_port, 8080);
	assert_int_equal(a.workload.services[0].ports[1].target_port, 9090);
	address_deinit(&a);
	get(f, P2, &a);
	assert_true(a.workload.unhealthy);
	address_deinit(&a);
	get(f, CART, &a);
	assert_string_equal(a.service.name, "cart");
	assert_int_equal(a.service.n_addresses, 1);
	assert_int_equal(a.service.n_ports, 2);		/* UDP is none of ours */
	assert_int_equal(a.service.ports[0].app_protocol, APP_HTTP11);
	assert_int_equal(a.service.ports[1].app_protocol, APP_GRPC);
	assert_int_equal(a.service.ports[1].target_port, 0);	/* by name */
	address_deinit(&a);
	assert_non_null(resources_find(&f->bed.resources, RESOURCE_ENDPOINTS, "outbound|80||cart.shop.svc.cluster.local"));
	assert_int_equal(kube_mesh_info(f->mesh).n_pods, 2);
	assert_int_equal(kube_mesh_info(f->mesh).n_services, 1);
}

/* Whatever comes first: a slice may speak of pods and a service that are not there yet. */
static void the_order_does_not_matter(void **state)
{
	static const uint8_t orders[6][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 }, { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };
	struct fixture *f = *state;

	for (size_t o = 0; o < ELEMENTS(orders); o++) {
		for (size_t i = 0; i < 3; i++) {
			assert_true(serves(f, P1) < 1);
			put(f, (enum kube_kind)orders[o][i], orders[o][i] == KUBE_PODS ? pod("shop", "cart-1", "10.44.0.1") :
			    orders[o][i] == KUBE_SERVICES ? cart("10.96.0.5") : slice("cart-abc", "cart", "cart-1=y"));
			turn(f);
		}
		assert_int_equal(serves(f, P1), 1);
		for (size_t i = 0; i < 3; i++) {
			gone(f, (enum kube_kind)orders[o][i], orders[o][i] == KUBE_SLICES ? "cart-abc" : orders[o][i] == KUBE_PODS ? "cart-1" : "cart");
			turn(f);
			assert_true(serves(f, P1) < 1);
		}
		assert_false(published(f, P1));
		assert_false(published(f, CART));
	}
}

static void endpoints_follow_their_slice(void **state)
{
	struct fixture *f = *state;

	listed(f);
	assert_int_equal(serves(f, P1), 1);
	assert_int_equal(serves(f, P2), 0);
	put(f, KUBE_SLICES, slice("cart-abc", "cart", "cart-1=n,cart-2=y"));
	turn(f);
	assert_int_equal(serves(f, P1), 0);
	assert_int_equal(serves(f, P2), 1);
	put(f, KUBE_SLICES, slice("cart-abc", "cart", "cart-2=y"));
	turn(f);
	assert_int_equal(serves(f, P1), 0);
	put(f, KUBE_SLICES, slice("cart-abc", "other", "cart-2=y"));	/* of a service that is not there */
	turn(f);
	assert_int_equal(serves(f, P2), 0);
	put(f, KUBE_SLICES, slice("cart-abc", "cart", "cart-1=y,cart-2=y"));
	turn(f);
	assert_int_equal(serves(f, P1) + serves(f, P2), 2);
}

static size_t n_changes(const struct fixture *f)
{
	size_t n = 0;

	list_for_each(l, &f->bed.resources.changes)
		n++;
	return n;
}

/* Nothing that is listed again changes anything, and only a whole list takes things out. */
static void a_list_anew_is_no_change(void **state)
{
	struct fixture *f = *state;

	listed(f);
	for (int kind = 0; kind < _KUBE_KIND_N; kind++)
		kube_mesh_begin(f->mesh, (enum kube_kind)kind);
	for (int i = 0; i < 3; i++)
		assert_int_equal(loop_turn(f->bed.loop, 0), 0);
	assert_int_equal(n_changes(f), 0);		/* the API server is away for a while */
	put(f, KUBE_SERVICES, cart("10.96.0.5"));
	put(f, KUBE_SLICES, slice("cart-abc", "cart", "cart-1=y,cart-2=n"));
	put(f, KUBE_PODS, pod("shop", "cart-1", "10.44.0.1"));
	for (int kind = 0; kind < _KUBE_KIND_N; kind++)
		kube_mesh_synced(f->mesh, (enum kube_kind)kind);
	for (int i = 0; i < 3; i++)
		assert_int_equal(loop_turn(f->bed.loop, 0), 0);
	assert_false(published(f, P2));			/* it was not in the list */
	list_for_each(l, &f->bed.resources.changes) {
		const struct resource *r = list_entry(l, struct resource, changed);

		assert_true(r->type == RESOURCE_ENDPOINTS || !strcmp(r->name, P2));
	}
}

static void what_is_not_here_yet_is_not_gone_until_all_was_listed(void **state)
{
	struct fixture *f = *state;

	assert_true(f->bed.resources.incomplete);
	kube_mesh_synced(f->mesh, KUBE_PODS);
	kube_mesh_synced(f->mesh, KUBE_SERVICES);
	assert_true(f->bed.resources.incomplete);
	kube_mesh_synced(f->mesh, KUBE_SLICES);
	assert_false(f->bed.resources.incomplete);
	assert_true(f->bed.resources.completed);
}

static void only_what_the_configuration_takes_is_in(void **state)
{
	struct fixture *f = *state;

	listed(f);
	put(f, KUBE_PODS, pod("kube-system", "cart-1", "10.44.0.9"));
	put(f, KUBE_PODS, pod("team-b", "x", "10.44.0.10"));
	put(f, KUBE_SERVICES, object("{'metadata': {'namespace': 'team-b', 'name': 'web'}, 'spec': {'ports': [{'port': 80}]}}"));
	put(f, KUBE_SERVICES, object("{'metadata': {'namespace': 'team-a', 'name': 'web'}, 'spec': {'clusterIP': 'None', 'ports': [{'port': 80}]}}"));
	put(f, KUBE_SERVICES, object("{'metadata': {'namespace': 'shop', 'name': 'taken'}, 'spec': {'clusterIP': '10.96.0.6', 'ports': [{'port': 80}]}}"));
	turn(f);
	assert_false(published(f, "k1//Pod/kube-system/cart-1"));
	assert_true(published(f, "k1//Pod/team-b/x"));
	assert_false(published(f, "team-b/web.team-b.svc.cluster.local"));
	assert_true(published(f, "team-a/web.team-a.svc.cluster.local"));	/* headless */

	struct address a;
	get(f, "shop/taken.shop.svc.cluster.local", &a);		/* the configuration's stays */
	assert_string_equal(a.service.name, "mine");
	address_deinit(&a);
	assert_int_equal(kube_mesh_info(f->mesh).n_left_out, 1);
	assert_string_equal(kube_mesh_info(f->mesh).left_out, "service shop/taken: its host name");
}

static void the_configuration_may_take_and_give_back(void **state)
{
	static const char more[] =
		"trust_domain: t.mesh\n"
		"mesh: {cluster_id: k1}\n"
		"kubernetes: {kubeconfig: /k, namespaces: [shop]}\n"
		"services:\n"
		"- {name: cart, namespace: shop, hostname: cart.shop.svc.cluster.local, ports: [{port: 81}]}\n"
		"workloads:\n"
		"- {name: fixed, namespace: shop, addresses: [10.44.0.1]}\n";
	struct fixture *f = *state;
	struct config *next = registry_bed_config(more);

	listed(f);
	assert_int_equal(registry_apply(f->bed.reg, next), 0);
	kube_mesh_apply(f->mesh);
	turn(f);
	assert_false(published(f, P1));
	assert_true(published(f, "config/shop/fixed"));
	assert_int_equal(serves(f, P2), 0);
	assert_int_equal(kube_mesh_info(f->mesh).n_left_out, 2);
	assert_int_equal(registry_apply(f->bed.reg, f->bed.config), 0);
	kube_mesh_apply(f->mesh);
	turn(f);
	assert_int_equal(serves(f, P1), 1);
	assert_int_equal(kube_mesh_info(f->mesh).n_left_out, 0);
	config_free(next);
}

static void of_two_pods_with_one_address_the_later_has_it(void **state)
{
	struct fixture *f = *state;

	listed(f);
	put(f, KUBE_PODS, pod("shop", "cart-3", "10.44.0.1"));
	turn(f);
	assert_false(published(f, P1));
	assert_true(published(f, "k1//Pod/shop/cart-3"));
	turn(f);
	gone(f, KUBE_PODS, "cart-3");
	turn(f);
	kube_mesh_retry(f->mesh);
	turn(f);
	assert_int_equal(serves(f, P1), 1);
}

static void a_nodes_own_pods_share_its_address(void **state)
{
	struct fixture *f = *state;
	struct address a;

	put(f, KUBE_SERVICES, cart("10.96.0.5"));
	put(f, KUBE_SLICES, slice("cart-abc", "cart", "cart-1=y,cart-2=y"));
	for (int i = 1; i < 3; i++)
		put(f, KUBE_PODS, object("{'metadata': {'namespace': 'shop', 'name': 'cart-%d'}, 'spec': {'hostNetwork': true}, 'status': {'podIP': '10.0.0.7'}}", i));
	turn(f);
	assert_int_equal(serves(f, P1) + serves(f, P2), 2);
	get(f, P1, &a);
	assert_true(a.workload.host_network);
	assert_string_equal(a.workload.service_account, "default");
	assert_string_equal(a.workload.canonical_revision, "latest");
	address_deinit(&a);
	put(f, KUBE_PODS, pod("shop", "cart-1", "10.0.0.7"));		/* has it for itself now */
	turn(f);
	get(f, P1, &a);
	assert_false(a.workload.host_network);
	address_deinit(&a);
}

/* --- VMs --- */

static void report(struct reg_nic *nic, const Outrigger__V1__Report *r)
{
	assert_int_equal(registry_bed_report(nic, r, NULL), 0);
}

static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

static void vm(struct fixture *f, const char *id, const char *name, const char *address)
{
	Outrigger__V1__Report r = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Guest g = OUTRIGGER__V1__GUEST__INIT;
	Outrigger__V1__Claim c = OUTRIGGER__V1__CLAIM__INIT;
	Outrigger__V1__Verdict v = OUTRIGGER__V1__VERDICT__INIT;
	Outrigger__V1__ProxyStatus p = OUTRIGGER__V1__PROXY_STATUS__INIT;
	char *addresses[] = { word(address) };

	g.guest_id = c.guest_id = v.guest_id = p.guest_id = word(id);
	g.name = word(name);
	g.mac = word("52:54:00:00:00:01");
	g.addresses = addresses;
	g.n_addresses = 1;
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_GUEST;
	r.guest = &g;
	report(f->bed.nic, &r);
	c.service = v.service = word("cart");
	c.instance = v.instance = word("i");
	c.port = 8088;
	c.app_protocol = word("http");
	c.admitted = true;
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_CLAIM;
	r.claim = &c;
	report(f->bed.nic, &r);
	v.verdict = word("vm");
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_VERDICT;
	r.verdict = &v;
	report(f->bed.nic, &r);
	p.state = word("ready");
	r.msg_case = OUTRIGGER__V1__REPORT__MSG_PROXY;
	r.proxy = &p;
	report(f->bed.nic, &r);
	turn(f);
}

#define G1	"nic-a/p1/52:54:00:00:00:01"
#define U1	"vm/" G1

static void assert_serves(const struct fixture *f, const char *uid, const char *key, uint16_t target)
{
	struct address a;

	get(f, uid, &a);
	assert_int_equal(a.workload.n_services, 1);
	assert_string_equal(a.workload.services[0].key, key);
	assert_int_equal(a.workload.services[0].ports[0].target_port, target);
	address_deinit(&a);
}

/* Before the Service, after it, and when it goes. */
/* A slice a family, and one more when a hundred endpoints were not enough. */
static void all_slices_of_a_service_count_and_a_pod_in_two_is_one_endpoint(void **state)
{
	struct fixture *f = *state;
	json_t *two = pod("shop", "cart-1", "10.44.0.1"), *v6;

	json_array_append_new(json_object_get(json_object_get(two, "status"), "podIPs"), object("{'ip': 'fd00::1'}"));
	put(f, KUBE_PODS, two);
	put(f, KUBE_PODS, pod("shop", "cart-2", "10.44.0.2"));
	put(f, KUBE_SERVICES, cart("10.96.0.1"));
	put(f, KUBE_SLICES, slice("cart-v4", "cart", "cart-1=y"));
	v6 = slice("cart-v6", "cart", "cart-1=y");
	json_object_set_new(v6, "addressType", json_string("IPv6"));
	put(f, KUBE_SLICES, v6);
	put(f, KUBE_SLICES, slice("cart-more", "cart", "cart-2=y"));
	turn(f);
	assert_int_equal(n_members(f, "shop/cart.shop.svc.cluster.local"), 2);
	assert_int_equal(n_member_ports(f, "shop/cart.shop.svc.cluster.local", "k1//Pod/shop/cart-1"), 2);	/* http, grpc-x: once each */
	gone(f, KUBE_SLICES, "cart-v6");
	turn(f);
	assert_int_equal(n_members(f, "shop/cart.shop.svc.cluster.local"), 2);
	gone(f, KUBE_SLICES, "cart-v4");
	turn(f);
	assert_int_equal(n_members(f, "shop/cart.shop.svc.cluster.local"), 1);
}

static void conditions_say_who_gets_connections(void **state)
{
	static const struct {
		const char *conditions;
		bool healthy;
	} rows[] = {
		{ "{}", true }, { "{'ready': null}", true }, { "{'ready': true, 'serving': true, 'terminating': false}", true },
		{ "{'ready': false, 'serving': false}", false }, { "{'ready': false, 'serving': true, 'terminating': true}", false },
		{ "{'ready': true, 'serving': true, 'terminating': true}", true },	/* publishNotReadyAddresses */
	};
	struct fixture *f = *state;

	put(f, KUBE_PODS, pod("shop", "cart-1", "10.44.0.1"));
	put(f, KUBE_SERVICES, cart("10.96.0.1"));
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		put(f, KUBE_SLICES, object("{'metadata': {'namespace': 'shop', 'name': 'cart-x', 'labels': {'kubernetes.io/service-name': 'cart'}}, 'ports':"
					   "[{'name': 'http', 'port': 8080}], 'endpoints': [{'addresses': ['10.44.0.1'], 'conditions': %s,"
					   "'targetRef': {'kind': 'Pod', 'name': 'cart-1'}}]}", rows[i].conditions));
		turn(f);
		assert_int_equal(reg_workload_unhealthy(reg_workload_find(f->bed.reg, "k1//Pod/shop/cart-1")), !rows[i].healthy);
	}
}

static void a_port_without_a_name_is_the_only_one(void **state)
{
	struct fixture *f = *state;

	put(f, KUBE_PODS, pod("shop", "cart-1", "10.44.0.1"));
	put(f, KUBE_SERVICES, object("{'metadata': {'namespace': 'shop', 'name': 'cart'}, 'spec': {'clusterIP': 'None', 'ports': [{'port': 80}]}}"));
	put(f, KUBE_SLICES, object("{'metadata': {'namespace': 'shop', 'name': 'cart-x', 'labels': {'kubernetes.io/service-name': 'cart'}}, 'ports':"
				   "[{'name': '', 'port': 8080}, {'name': 'other', 'port': 9090}], 'endpoints': [{'addresses': ['10.44.0.1'],"
				   "'targetRef': {'kind': 'Pod', 'name': 'cart-1'}}]}"));
	turn(f);
	assert_int_equal(n_member_ports(f, "shop/cart.shop.svc.cluster.local", "k1//Pod/shop/cart-1"), 1);
}

static void what_a_service_asks_for_in_vain_is_told(void **state)
{
	struct fixture *f = *state;
	json_t *sticky = cart("10.96.0.1");

	put(f, KUBE_SERVICES, cart("10.96.0.1"));
	assert_int_equal(kube_mesh_info(f->mesh).n_affinity, 0);
	json_object_set_new(json_object_get(sticky, "spec"), "sessionAffinity", json_string("ClientIP"));
	put(f, KUBE_SERVICES, sticky);
	assert_int_equal(kube_mesh_info(f->mesh).n_affinity, 1);
	assert_string_equal(kube_mesh_info(f->mesh).affinity, "shop/cart");
	put(f, KUBE_SERVICES, object("{'metadata': {'namespace': 'shop', 'name': 'cart'}, 'spec': {'type': 'ExternalName', 'externalName': 'x.example'}}"));
	turn(f);
	assert_int_equal(kube_mesh_info(f->mesh).n_affinity, 0);
	assert_int_equal(kube_mesh_info(f->mesh).n_services, 0);		/* it is but another name now */
	assert_null(reg_service_find(f->bed.reg, "shop/cart.shop.svc.cluster.local"));
}

static void a_vm_joins_a_service_only_by_its_policy(void **state)
{
	struct fixture *f = *state;

	vm(f, G1, "m1", "10.0.0.1");
	vm(f, "nic-a/p2/52:54:00:00:00:01", "a1", "10.0.0.2");
	assert_serves(f, U1, "shop/cart.shop.mesh.internal", 8088);
	listed(f);
	assert_serves(f, U1, CART, 8088);
	assert_serves(f, "vm/nic-a/p2/52:54:00:00:00:01", "shop/cart.shop.mesh.internal", 8088);
	gone(f, KUBE_SERVICES, "cart");
	turn(f);
	assert_serves(f, U1, "shop/cart.shop.mesh.internal", 8088);
}

static void a_pods_address_goes_before_a_guests(void **state)
{
	struct fixture *f = *state;

	vm(f, G1, "m1", "10.44.0.1");
	assert_true(published(f, U1));
	put(f, KUBE_PODS, pod("shop", "cart-1", "10.44.0.1"));
	turn(f);
	assert_false(published(f, U1));
	assert_true(published(f, P1));
	gone(f, KUBE_PODS, "cart-1");
	turn(f);
	assert_true(published(f, U1));
}

/* --- what comes off the wire --- */

static const char *const odd[] = {
	"{}", "[]", "[3]", "{'metadata': 3}", "{'metadata': {}}", "{'metadata': {'name': 'x'}}", "{'metadata': {'name': 3, 'namespace': 'shop'}}",
	"{'metadata': {'name': '', 'namespace': 'shop'}}", "{'metadata': {'name': 'UP', 'namespace': 'shop'}}",
	"{'metadata': {'name': 'a/b', 'namespace': 'shop'}}", "{'metadata': {'name': 'x', 'namespace': 'shop'}}",
	"{'metadata': {'name': 'x', 'namespace': 'shop'}, 'spec': [], 'status': 1}",
	"{'metadata': {'name': 'x', 'namespace': 'shop', 'labels': {'a': 3, 'kubernetes.io/service-name': {}}, 'annotations': [1], 'ownerReferences': {}}}",
	("{'metadata': {'name': 'x', 'namespace': 'shop', 'labels': {'kubernetes.io/service-name': 'cart'}}, 'endpoints': [3, {}, {'targetRef': {'kind': 'Pod'}},"
	 " {'targetRef': {'kind': 'Pod', 'name': 'y', 'namespace': 'other'}}, {'targetRef': {'kind': 'Node', 'name': 'y'}}], 'ports': [{'port': 0}, {'port': 70000}, 4]}"),
	"{'metadata': {'name': 'x', 'namespace': 'shop'}, 'spec': {'clusterIPs': ['None', '', 7, '224.0.0.1', '0.0.0.0'], 'ports': [{'port': -1}, {'port': '80'}]}}",
	"{'metadata': {'name': 'x', 'namespace': 'shop'}, 'spec': {'type': 'ExternalName', 'externalName': 'a.b', 'ports': [{'port': 80}]}}",
	"{'metadata': {'name': 'x', 'namespace': 'shop'}, 'status': {'podIPs': [{'ip': '999.1.1.1'}, {'ip': 'fe80::1'}, {}, 'x']}}",
	"{'metadata': {'name': 'x', 'namespace': 'shop'}, 'status': {'phase': 'Succeeded', 'podIP': '10.44.0.3'}}",
};

static void what_is_odd_is_left_out(void **state)
{
	struct fixture *f = *state;
	size_t before = f->bed.resources.by_name[RESOURCE_ADDRESS].n;

	for (size_t i = 0; i < ELEMENTS(odd); i++)
		for (int kind = 0; kind < _KUBE_KIND_N; kind++) {
			put(f, (enum kube_kind)kind, object("%s", odd[i]));
			turn(f);
		}
	assert_int_equal(f->bed.resources.by_name[RESOURCE_ADDRESS].n, before);
	assert_int_equal(kube_mesh_info(f->mesh).n_pods + kube_mesh_info(f->mesh).n_services, 0);
}

static void sizes_have_bounds(void **state)
{
	struct fixture *f = *state;
	json_t *s = slice("big", "cart", ""), *p = pod("shop", "cart-1", "10.44.0.1"), *c = cart("10.96.0.5");
	char *name = calloc(1, 20000);
	struct kube_slice *slice_out;
	struct kube_pod *pod_out;
	struct kube_service *service_out;

	(void)f;
	for (int i = 0; i < 5000; i++)
		json_array_append_new(json_object_get(s, "endpoints"), object("{'targetRef': {'kind': 'Pod', 'name': 'cart-%d'}}", i));
	assert_int_equal(kube_slice_read(s, &slice_out), 0);
	assert_int_equal(slice_out->n_endpoints, KUBE_ENDPOINTS_MAX);
	kube_slice_free(slice_out);
	for (int i = 0; i < 1000; i++) {
		char key[32];

		snprintf(key, sizeof(key), "label-%d", i);
		json_object_set_new(json_object_get(json_object_get(p, "metadata"), "labels"), key, json_string("v"));
		json_array_append_new(json_object_get(json_object_get(p, "status"), "podIPs"), object("{'ip': '10.1.%d.%d'}", i / 250, i % 250 + 1));
		json_array_append_new(json_object_get(json_object_get(c, "spec"), "ports"), object("{'name': 'p%d', 'port': %d}", i, i + 1000));
	}
	assert_int_equal(kube_pod_read(p, &pod_out), 0);
	assert_int_equal(pod_out->labels.n, KUBE_LABELS_MAX);
	assert_int_equal(pod_out->n_ips, KUBE_IPS_MAX);
	kube_pod_free(pod_out);
	assert_int_equal(kube_service_read(c, &service_out), 0);
	assert_true(service_out->n_ports <= KUBE_PORTS_MAX);
	kube_service_free(service_out);
	memset(name, 'x', 19999);
	json_object_set_new(json_object_get(p, "metadata"), "name", json_string(name));
	assert_int_equal(kube_pod_read(p, &pod_out), -EINVAL);
	free(name);
	json_decref(s);
	json_decref(p);
	json_decref(c);
}

static void workloads_are_named_by_what_made_the_pod(void **state)
{
	static const struct { const char *kind, *name, *hash, *want; int type; } cases[] = {
		{ "ReplicaSet", "cart-5d9", "5d9", "cart", 0 }, { "ReplicaSet", "cart-5d9", "", "cart-5d9", 2 }, { "ReplicaSet", "-5d9", "5d9", "-5d9", 2 },
		{ "StatefulSet", "db", "5d9", "db", 2 }, { "Job", "once", "", "once", 3 }, { "Job", "nightly-28391730", "", "nightly", 1 },
		{ "Job", "x-123", "", "x-123", 3 }, { "", "", "", "cart-1", 2 },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		json_t *json = object("{'metadata': {'namespace': 'shop', 'name': 'cart-1', 'labels': {'pod-template-hash': '%s'}, 'ownerReferences': ["
				      "{'kind': 'Other', 'name': 'o'}, {'kind': '%s', 'name': '%s', 'controller': true}]}, 'status': {'podIP': '10.0.0.1'}}",
				      cases[i].hash, cases[i].kind, cases[i].name);
		struct kube_pod *p;

		assert_int_equal(kube_pod_read(json, &p), 0);
		assert_string_equal(p->workload, cases[i].want);
		assert_int_equal(p->type, cases[i].type);
		kube_pod_free(p);
		json_decref(json);
	}
}

static void ours_goes_before_istios_mark(void **state)
{
	static const struct { const char *annotations, *labels; enum tunnel want; } cases[] = {
		{ "{}", "{}", TUNNEL_NONE }, { "{'ambient.istio.io/redirection': 'enabled'}", "{}", TUNNEL_HBONE },
		{ "{'ambient.istio.io/redirection': 'disabled'}", "{}", TUNNEL_NONE }, { "{}", "{'outrigger.dev/tunnel': 'hbone'}", TUNNEL_HBONE },
		{ "{'ambient.istio.io/redirection': 'enabled'}", "{'outrigger.dev/tunnel': 'none'}", TUNNEL_NONE },
		{ "{'outrigger.dev/tunnel': 'hbone'}", "{'outrigger.dev/tunnel': 'none'}", TUNNEL_HBONE },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		json_t *json = object("{'metadata': {'namespace': 'shop', 'name': 'cart-1', 'annotations': %s, 'labels': %s}, 'status': {'podIP': '10.0.0.1'}}",
				      cases[i].annotations, cases[i].labels);
		struct kube_pod *p;

		assert_int_equal(kube_pod_read(json, &p), 0);
		assert_int_equal(p->tunnel, cases[i].want);
		kube_pod_free(p);
		json_decref(json);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define T(fn)	cmocka_unit_test_setup_teardown(fn, setup, teardown)
		T(pods_and_services_are_what_istio_would_call_them),
		T(the_order_does_not_matter),
		T(endpoints_follow_their_slice),
		T(a_list_anew_is_no_change),
		T(what_is_not_here_yet_is_not_gone_until_all_was_listed),
		T(only_what_the_configuration_takes_is_in),
		T(the_configuration_may_take_and_give_back),
		T(of_two_pods_with_one_address_the_later_has_it),
		T(a_nodes_own_pods_share_its_address),
		T(all_slices_of_a_service_count_and_a_pod_in_two_is_one_endpoint),
		T(conditions_say_who_gets_connections),
		T(a_port_without_a_name_is_the_only_one),
		T(what_a_service_asks_for_in_vain_is_told),
		T(a_vm_joins_a_service_only_by_its_policy),
		T(a_pods_address_goes_before_a_guests),
		T(what_is_odd_is_left_out),
		T(sizes_have_bounds),
		T(workloads_are_named_by_what_made_the_pod),
		T(ours_goes_before_istios_mark),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Addresses in a cluster's objects: what is containers', which VM is a node.
 */
#include "lib/unit.h"

#include <errno.h>
#include <string.h>

#include "control/kube_things.h"

static bool put(struct kube_things *s, enum kube_kind kind, const char *text)
{
	json_t *json = json_loads(text, 0, NULL);
	bool changed;

	assert_non_null(json);
	changed = kube_things_put(s, kind, json);
	json_decref(json);
	return changed;
}

static bool gone(struct kube_things *s, enum kube_kind kind, const char *text)
{
	json_t *json = json_loads(text, 0, NULL);
	bool changed = kube_things_gone(s, kind, json);

	json_decref(json);
	return changed;
}

/* "prefix what; ..." in the order of prefixes is not fixed: is it one of them? */
static const char *container_at(const struct kube_things *s, const char *text)
{
	struct kube_container *v;
	const char *what = NULL;
	struct ip_prefix p;
	size_t n;

	assert_int_equal(ip_prefix_parse(text, &p), 0);
	assert_int_equal(kube_things_containers(s, &v, &n), 0);
	for (size_t i = 0; i < n && !what; i++)
		if (ip_equal(&v[i].prefix.ip, &p.ip) && v[i].prefix.len == p.len)
			what = v[i].what;
	free(v);
	return what;
}

static int node_of(const struct kube_things *s, const char *address, struct kube_node *ret_node)
{
	struct kube_node_index index;
	struct ip ip;
	int r;

	assert_int_equal(ip_parse(address, &ip), 0);
	assert_int_equal(kube_things_index(s, &index), 0);
	r = kube_things_node(s, &index, &ip, 1, ret_node);
	kube_node_index_deinit(&index);
	return r;
}

static const char *port_owner(const struct kube_node *n, uint16_t port, bool udp)
{
	for (size_t i = 0; i < n->n_ports; i++)
		if (n->ports[i].at.port == port && n->ports[i].at.udp == udp)
			return n->ports[i].what;
	return NULL;
}

#define NODE "{\"metadata\": {\"name\": \"v\", \"creationTimestamp\": \"2026-01-02T00:00:00Z\"}, \"spec\": {\"podCIDRs\": [\"10.244.7.0/24\", \"fd00:7::/64\"]," \
	"\"providerID\": \"kvm://7\"}, \"status\": {\"addresses\": [{\"type\": \"InternalIP\", \"address\": \"10.0.0.7\"}," \
	"{\"type\": \"InternalIP\", \"address\": \"fd00::7\"}, {\"type\": \"Hostname\", \"address\": \"10.0.0.8\"}]}}"

static void a_node_is_found_by_its_own_addresses_and_knows_its_pods(void **state)
{
	struct kube_things s;
	struct kube_node n;

	(void)state;
	kube_things_init(&s);
	assert_true(put(&s, KUBE_NODES, NODE));
	assert_false(put(&s, KUBE_NODES, NODE));
	assert_true(put(&s, KUBE_PODS, "{\"metadata\": {\"namespace\": \"shop\", \"name\": \"in\"}, \"spec\": {\"nodeName\": \"v\", \"containers\": [{\"ports\":"
				       "[{\"containerPort\": 80, \"hostPort\": 8081}, {\"containerPort\": 81}]}]}, \"status\": {\"podIPs\": [{\"ip\": \"10.244.7.5\"}]}}"));
	assert_true(put(&s, KUBE_PODS, "{\"metadata\": {\"namespace\": \"shop\", \"name\": \"out\"}, \"spec\": {\"nodeName\": \"v\"}, \"status\": {\"podIPs\": [{\"ip\": \"10.9.0.5\"}]}}"));
	assert_true(put(&s, KUBE_PODS, "{\"metadata\": {\"namespace\": \"shop\", \"name\": \"host\"}, \"spec\": {\"nodeName\": \"v\", \"hostNetwork\": true, \"containers\":"
				       "[{\"ports\": [{\"containerPort\": 9100}, {\"containerPort\": 53, \"protocol\": \"UDP\"}, {\"containerPort\": 5, \"protocol\": \"SCTP\"}]}]},"
				       "\"status\": {\"podIPs\": [{\"ip\": \"10.0.0.7\"}]}}"));
	assert_true(put(&s, KUBE_PODS, "{\"metadata\": {\"namespace\": \"shop\", \"name\": \"else\"}, \"spec\": {\"nodeName\": \"w\"}, \"status\": {\"podIPs\": [{\"ip\": \"10.9.0.6\"}]}}"));
	assert_false(put(&s, KUBE_PODS, "{\"metadata\": {\"namespace\": \"shop\", \"name\": \"ended\"}, \"spec\": {\"nodeName\": \"v\"}, \"status\": {\"phase\": \"Failed\"}}"));
	assert_true(put(&s, KUBE_SLICES, "{\"metadata\": {\"namespace\": \"shop\", \"name\": \"agents-1\", \"labels\": {\"kubernetes.io/service-name\": \"agents\"}}, \"ports\":"
					 "[{\"port\": 9200}], \"endpoints\": [{\"addresses\": [\"10.0.0.7\"], \"targetRef\": {\"kind\": \"Pod\", \"name\": \"host\"}}]}"));
	assert_true(put(&s, KUBE_SERVICES, "{\"metadata\": {\"namespace\": \"shop\", \"name\": \"web\"}, \"spec\": {\"clusterIPs\": [\"10.96.0.1\"], \"ports\":"
					   "[{\"port\": 80, \"nodePort\": 30080}]}}"));
	assert_int_equal(node_of(&s, "10.0.0.8", &n), -ENOENT);
	assert_int_equal(node_of(&s, "10.244.7.5", &n), -ENOENT);
	assert_int_equal(node_of(&s, "fd00::7", &n), 0);
	assert_string_equal(n.name, "v");
	assert_string_equal(n.provider_id, "kvm://7");
	assert_int_equal(n.n_pods, 3);
	assert_int_equal(n.n_prefixes, 3);	/* both networks, and the pod that is in neither */
	assert_string_equal(port_owner(&n, 8081, false), "pod shop/in on node v");
	assert_null(port_owner(&n, 81, false));
	assert_string_equal(port_owner(&n, 9100, false), "pod shop/host on node v");
	assert_string_equal(port_owner(&n, 53, true), "pod shop/host on node v");
	assert_null(port_owner(&n, 5, false));
	assert_string_equal(port_owner(&n, 9200, false), "endpoint of the Kubernetes service shop/agents");
	assert_string_equal(port_owner(&n, 30080, false), "address of the Kubernetes service shop/web");
	kube_node_deinit(&n);
	/* The node's own address is the VM's, though a pod of the host's network is an endpoint there. */
	assert_null(container_at(&s, "10.0.0.7"));
	assert_string_equal(container_at(&s, "10.244.7.0/24"), "pod network of node v");
	assert_string_equal(container_at(&s, "10.9.0.6"), "pod shop/else on node w");
	kube_things_deinit(&s);
}

/* A VM that was made anew under another name: what was there before is still listed for a while. */
static void of_two_nodes_with_one_address_the_younger_counts(void **state)
{
	static const char older[] =
		"{\"metadata\": {\"name\": \"a\", \"creationTimestamp\": \"2025-12-31T23:59:59Z\"},"
		"\"status\": {\"addresses\": [{\"type\": \"ExternalIP\", \"address\": \"10.0.0.7\"}]}}";
	struct kube_things s;
	struct kube_node n;

	(void)state;
	kube_things_init(&s);
	put(&s, KUBE_NODES, older);
	assert_int_equal(node_of(&s, "10.0.0.7", &n), 0);
	assert_string_equal(n.name, "a");
	assert_null(n.provider_id);
	kube_node_deinit(&n);
	put(&s, KUBE_NODES, NODE);
	assert_int_equal(node_of(&s, "10.0.0.7", &n), 0);
	assert_string_equal(n.name, "v");
	kube_node_deinit(&n);
	assert_true(gone(&s, KUBE_NODES, NODE));
	assert_false(gone(&s, KUBE_NODES, NODE));
	assert_int_equal(node_of(&s, "10.0.0.7", &n), 0);
	assert_string_equal(n.name, "a");
	kube_node_deinit(&n);
	kube_things_deinit(&s);
}

static void what_a_new_list_does_not_have_is_gone(void **state)
{
	static const char pod[] = "{\"metadata\": {\"namespace\": \"shop\", \"name\": \"%s\"}, \"status\": {\"podIPs\": [{\"ip\": \"10.9.0.5\"}]}}";
	char text[256];
	struct kube_things s;

	(void)state;
	kube_things_init(&s);
	for (int i = 0; i < 3; i++) {
		snprintf(text, sizeof(text), pod, (const char *[]){ "a", "b", "a" }[i]);
		if (i == 2)
			kube_things_begin(&s, KUBE_PODS);
		assert_int_equal(put(&s, KUBE_PODS, text), i < 2);
	}
	assert_int_equal(s.kinds[KUBE_PODS].n, 2);
	assert_true(kube_things_synced(&s, KUBE_PODS));
	assert_int_equal(s.kinds[KUBE_PODS].n, 1);
	assert_false(kube_things_synced(&s, KUBE_PODS));
	kube_things_deinit(&s);
}

static void odd_objects_leave_nothing(void **state)
{
	static const char *const odd[] = {
		"{}", "[]", "{\"metadata\": 1}", "{\"metadata\": {\"name\": \"\"}}", "{\"metadata\": {\"name\": \"a\"}, \"status\": [], \"spec\": \"x\", \"ports\": {}, \"endpoints\": 1}",
		("{\"metadata\": {\"name\": \"a\"}, \"spec\": {\"podCIDRs\": [\"10.0.0.0/40\", 1, null], \"clusterIPs\": [\"None\"], \"containers\": [1], \"ports\": [{\"nodePort\": 70000}]},"
		" \"status\": {\"podIPs\": [{\"ip\": \"x\"}, 1], \"addresses\": [{\"type\": \"InternalIP\", \"address\": \"x\"}, 3]}}"),
	};
	struct kube_things s;

	(void)state;
	kube_things_init(&s);
	for (size_t i = 0; i < ELEMENTS(odd); i++)
		for (int kind = 0; kind < _KUBE_KIND_N; kind++)
			assert_false(put(&s, (enum kube_kind)kind, odd[i]));
	for (int kind = 0; kind < _KUBE_KIND_N; kind++)
		assert_int_equal(s.kinds[kind].n, 0);
	kube_things_deinit(&s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_node_is_found_by_its_own_addresses_and_knows_its_pods),
		cmocka_unit_test(of_two_nodes_with_one_address_the_younger_counts),
		cmocka_unit_test(what_a_new_list_does_not_have_is_gone),
		cmocka_unit_test(odd_objects_leave_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Guests that are nodes: what the controller tells of them, and what is asked.
 */
#include "lib/unit.h"

#include <errno.h>
#include <string.h>

#include "agent/nodes.h"

static struct ip ip(const char *text)
{
	struct ip a;

	assert_int_equal(ip_parse(text, &a), 0);
	return a;
}

static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

struct told {
	Outrigger__V1__NodeSet set;
	Outrigger__V1__Node node, *nodes[2];
	Outrigger__V1__NodePort ports[2], *p_ports[2];
	char *networks[2];
};

static void told_init(struct told *t)
{
	*t = (struct told){ .networks = { word("10.244.7.0/24"), word("fd00:7::5") } };
	outrigger__v1__node_set__init(&t->set);
	outrigger__v1__node__init(&t->node);
	t->node.guest_id = word("nic/tap0/02:00:00:00:00:01");
	t->node.name = word("v");
	t->node.pods = 3;
	t->node.networks = t->networks;
	t->node.n_networks = 2;
	for (size_t i = 0; i < 2; i++) {
		outrigger__v1__node_port__init(&t->ports[i]);
		t->ports[i].port = 53;
		t->ports[i].transport = word(i ? "udp" : "tcp");
		t->ports[i].what = word(i ? "names" : "zones");
		t->p_ports[i] = &t->ports[i];
		t->nodes[i] = &t->node;
	}
	t->node.ports = t->p_ports;
	t->node.n_ports = 2;
	t->set.nodes = t->nodes;
	t->set.n_nodes = 1;
}

static void a_node_knows_what_is_behind_it_and_whose_its_ports_are(void **state)
{
	struct ip in = ip("10.244.7.9"), out = ip("10.244.8.9"), one = ip("fd00:7::5"), next = ip("fd00:7::6");
	const struct node *n;
	struct nodes *s;
	struct told t;
	struct diag d = {};

	(void)state;
	told_init(&t);
	assert_int_equal(nodes_decode(&t.set, &s, &d), 0);
	assert_null(nodes_find(s, "nic/tap0/02:00:00:00:00:02"));
	n = nodes_find(s, t.node.guest_id);
	assert_int_equal(n->n_pods, 3);
	assert_true(node_has_behind(n, &in) && node_has_behind(n, &one));
	assert_false(node_has_behind(n, &out) || node_has_behind(n, &next));
	assert_string_equal(node_port_owner(n, 53, false), "zones");
	assert_string_equal(node_port_owner(n, 53, true), "names");
	assert_null(node_port_owner(n, 54, false));
	nodes_free(s);
	/* Most guests are none. */
	assert_null(nodes_find(NULL, t.node.guest_id));
	assert_false(node_has_behind(NULL, &in));
	assert_null(node_port_owner(NULL, 53, false));
}

static void what_is_odd_refuses_the_set(void **state)
{
	struct nodes *s;
	struct told t;

	(void)state;
	for (int i = 0; i < 5; i++) {
		struct diag d = {};

		told_init(&t);
		if (i == 0)
			t.networks[1] = word("10.0.0.0/33");
		else if (i == 1)
			t.ports[1].port = 65536;
		else if (i == 2)
			t.ports[0].port = 0;
		else if (i == 3)
			t.set.n_nodes = 2;	/* of one guest */
		else
			t.node.n_networks = NODE_NETWORKS_MAX + 1;
		assert_int_equal(nodes_decode(&t.set, &s, &d), -EINVAL);
		assert_string_not_equal(d.msg, "");
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_node_knows_what_is_behind_it_and_whose_its_ports_are),
		cmocka_unit_test(what_is_odd_refuses_the_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

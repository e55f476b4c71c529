/*
 * What a controller tells an agent: policies, containers' addresses, nodes. Each
 * is taken whole or refused with a reason; what is taken can be asked.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/containers.h"
#include "agent/nodes.h"
#include "agent/policy.h"
#include "mesh/pb.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int r, const struct diag *d)
{
	if (r < 0 && !d->msg[0])
		abort();
}

static void take_policies(const Outrigger__V1__PolicySet *pb)
{
	struct policy_set *set = NULL;
	struct diag d = {};
	int r = policy_set_decode(pb, &set, &d);

	check(r, &d);
	if (r == 0 && (set->n != pb->n_policies || set->n > POLICY_MAX_POLICIES))
		abort();
	for (size_t i = 0; r == 0 && i < set->n; i++)
		if (!set->v[i].name || set->v[i].mode >= _POLICY_MODE_N || set->v[i].isolation >= _POLICY_ISOLATION_N || set->v[i].dns >= _POLICY_DNS_N)
			abort();
	policy_set_free(set);
}

static void take_containers(const Outrigger__V1__ContainerSet *pb)
{
	struct containers *c = NULL;
	struct ip_prefix p;
	struct diag d = {};
	int r = containers_decode(pb, &c, &d);

	check(r, &d);
	for (size_t i = 0; r == 0 && i < pb->n_addresses; i++)
		if (ip_prefix_parse(pb->addresses[i]->prefix, &p) < 0 || !containers_find(c, &p.ip))
			abort();
	containers_free(c);
}

static void take_nodes(const Outrigger__V1__NodeSet *pb)
{
	struct nodes *n = NULL;
	struct diag d = {};
	int r = nodes_decode(pb, &n, &d);

	check(r, &d);
	for (size_t i = 0; r == 0 && i < pb->n_nodes; i++) {
		const Outrigger__V1__Node *said = pb->nodes[i];
		const struct node *node = nodes_find(n, said->guest_id);
		struct ip_prefix p;

		if (!node)
			abort();
		for (size_t k = 0; k < said->n_networks; k++)
			if (ip_prefix_parse(said->networks[k], &p) < 0 || !node_has_behind(node, &p.ip))
				abort();
		for (size_t k = 0; k < said->n_ports; k++)
			if (!node_port_owner(node, (uint16_t)said->ports[k]->port, !strcmp(said->ports[k]->transport, "udp")))
				abort();
	}
	nodes_free(n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const Outrigger__V1__Directive *d;
	ProtobufCMessage *message;

	if (pb_unpack(&outrigger__v1__directive__descriptor, data, size, 0, &message) < 0)
		return 0;
	d = (const Outrigger__V1__Directive *)message;
	if (d->msg_case == OUTRIGGER__V1__DIRECTIVE__MSG_POLICIES)
		take_policies(d->policies);
	else if (d->msg_case == OUTRIGGER__V1__DIRECTIVE__MSG_CONTAINERS)
		take_containers(d->containers);
	else if (d->msg_case == OUTRIGGER__V1__DIRECTIVE__MSG_NODES)
		take_nodes(d->nodes);
	pb_free(message);
	return 0;
}

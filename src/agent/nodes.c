/*
 * Guests that are nodes of the Kubernetes cluster.
 */
#include "agent/nodes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t port_key(uint32_t port, bool udp)
{
	return port | (uint32_t)udp << 16;
}

static struct node *node_free(struct node *n)
{
	if (!n)
		return NULL;
	map_for_each(l, &n->ports) {
		struct node_port *p = container_of(l, struct node_port, by_port);

		free(p->what);
		free(p);
	}
	map_deinit(&n->ports);
	free(n->networks);
	free(n->guest_id);
	free(n->name);
	free(n->provider_id);
	free(n);
	return NULL;
}

struct nodes *nodes_free(struct nodes *n)
{
	if (!n)
		return NULL;
	map_for_each(l, &n->by_guest)
		node_free(container_of(l, struct node, by_guest));
	map_deinit(&n->by_guest);
	free(n);
	return NULL;
}

/* --- decoding --- */

static int add_port(struct node *n, const Outrigger__V1__NodePort *pb)
{
	struct node_port *p;
	int r;

	if (!pb->port || pb->port > 65535)
		return -EINVAL;
	p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->key = port_key(pb->port, !strcmp(pb->transport, "udp"));
	p->what = strdup(pb->what);
	r = p->what ? map_add(&n->ports, &p->by_port, &p->key, sizeof(p->key)) : -ENOMEM;
	if (r < 0) {
		free(p->what);
		free(p);
	}
	return r == -EEXIST ? 0 : r;	/* said twice: the first counts */
}

static int fill(struct node *n, const Outrigger__V1__Node *pb, struct diag *d)
{
	int r = 0;

	if (pb->n_networks > NODE_NETWORKS_MAX || pb->n_ports > NODE_PORTS_MAX)
		return diag_set(d, "node \"%s\": %zu networks and %zu ports: at most %d and %d", pb->name, pb->n_networks, pb->n_ports,
				NODE_NETWORKS_MAX, NODE_PORTS_MAX);
	n->guest_id = strdup(pb->guest_id);
	n->name = strdup(pb->name);
	n->provider_id = strdup(pb->provider_id);
	n->networks = calloc(pb->n_networks + 1, sizeof(*n->networks));
	if (!n->guest_id || !n->name || !n->provider_id || !n->networks)
		return -ENOMEM;
	n->n_pods = pb->pods;
	for (size_t i = 0; i < pb->n_networks; i++)
		if (ip_prefix_parse(pb->networks[i], &n->networks[n->n_networks++]) < 0)
			return diag_set(d, "node \"%s\": \"%s\" is not an address prefix", pb->name, pb->networks[i]);
	for (size_t i = 0; r == 0 && i < pb->n_ports; i++)
		r = add_port(n, pb->ports[i]);
	return r == -EINVAL ? diag_set(d, "node \"%s\": a port is none", pb->name) : r;
}

static int add(struct nodes *s, const Outrigger__V1__Node *pb, struct diag *d)
{
	struct node *n = calloc(1, sizeof(*n));
	int r = n ? fill(n, pb, d) : -ENOMEM;

	if (r == 0)
		r = map_add(&s->by_guest, &n->by_guest, n->guest_id, strlen(n->guest_id));
	if (r < 0)
		node_free(n);
	return r == -EEXIST ? diag_set(d, "guest \"%s\" is two nodes", pb->guest_id) : r;
}

int nodes_decode(const Outrigger__V1__NodeSet *pb, struct nodes **ret_nodes, struct diag *reterr_diag)
{
	struct nodes *s;
	int r = 0;

	if (pb->n_nodes > NODES_MAX)
		return diag_set(reterr_diag, "%zu nodes: at most %d", pb->n_nodes, NODES_MAX);
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	for (size_t i = 0; r == 0 && i < pb->n_nodes; i++)
		r = add(s, pb->nodes[i], reterr_diag);
	if (r < 0)
		nodes_free(s);
	else
		*ret_nodes = s;
	return r;
}

/* --- questions --- */

const struct node *nodes_find(const struct nodes *n, const char *guest_id)
{
	struct map_link *l = n ? map_find_str(&n->by_guest, guest_id) : NULL;

	return l ? container_of(l, struct node, by_guest) : NULL;
}

bool node_has_behind(const struct node *node, const struct ip *ip)
{
	for (size_t i = 0; node && i < node->n_networks; i++)
		if (ip_in_prefix(ip, &node->networks[i]))
			return true;
	return false;
}

const char *node_port_owner(const struct node *node, uint16_t port, bool udp)
{
	uint32_t key = port_key(port, udp);
	struct map_link *l = node ? map_find(&node->ports, &key, sizeof(key)) : NULL;

	return l ? container_of(l, struct node_port, by_port)->what : NULL;
}

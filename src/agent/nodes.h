#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"
#include "base/map.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * Guests that are nodes of the Kubernetes cluster, as the controller tells:
 * which addresses their pods have, and what at a guest's own addresses is a
 * pod's (of the host's network, or by a port of the host).
 */
enum { NODES_MAX = 4096, NODE_NETWORKS_MAX = 1024, NODE_PORTS_MAX = 4096 };

struct node_port {
	struct map_link by_port;	/* of node.ports */
	uint32_t key;			/* the port; UDP: and 1 << 16 */
	char *what;			/* "pod shop/cart-1 on node a" */
};

struct node {
	struct map_link by_guest;
	char *guest_id;
	char *name;
	char *provider_id;		/* "": none */
	uint32_t n_pods;
	struct ip_prefix *networks;
	size_t n_networks;
	struct map ports;
};

struct nodes {
	struct map by_guest;
};

/* -EINVAL with @reterr_diag: refused whole. -ENOMEM. */
MUST_CHECK int nodes_decode(const Outrigger__V1__NodeSet *pb, struct nodes **ret_nodes, struct diag *reterr_diag);
struct nodes *nodes_free(struct nodes *n);

/* NULL: it is none. @n may be NULL: nothing was told yet. */
const struct node *nodes_find(const struct nodes *n, const char *guest_id);
/* @node may be NULL. */
bool node_has_behind(const struct node *node, const struct ip *ip);
/* Whose it is, of what listens at the guest's own addresses. NULL: not known to be a container's. */
const char *node_port_owner(const struct node *node, uint16_t port, bool udp);

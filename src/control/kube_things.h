#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "control/kube_thing.h"

/*
 * What a cluster's objects say of addresses: which are containers', and which
 * VM is a node. Pure state: no I/O, no log.
 */
struct kube_things {
	struct map kinds[_KUBE_KIND_N];	/* kube_thing by key */
	uint64_t generations[_KUBE_KIND_N];
};

void kube_things_init(struct kube_things *s);
void kube_things_deinit(struct kube_things *s);

/* As kube_watch_ops. True: something has changed. */
void kube_things_begin(struct kube_things *s, enum kube_kind kind);
bool kube_things_put(struct kube_things *s, enum kube_kind kind, const json_t *object);
bool kube_things_gone(struct kube_things *s, enum kube_kind kind, const json_t *object);
bool kube_things_synced(struct kube_things *s, enum kube_kind kind);

struct kube_container {			/* valid until the next change */
	struct ip_prefix prefix;
	const char *what;		/* "pod shop/cart-1 on node a" */
};

/*
 * All of them, pods first; freed by the caller. An address may be there more
 * than once; a node's own is not there, though pods of its network are
 * endpoints at it. -ENOMEM.
 */
MUST_CHECK int kube_things_containers(const struct kube_things *s, struct kube_container **ret_containers, size_t *ret_n);

/* Pods whose proxy is an Envoy of Istio's: a sidecar, or a gateway. */
size_t kube_things_n_sidecars(const struct kube_things *s);

/* --- nodes --- */

enum { KUBE_NODE_PREFIXES_MAX = 1024, KUBE_NODE_PORTS_MAX = 2048 };

struct kube_node_port {			/* what listens there at the node's own addresses is a container's */
	struct kube_thing_port at;
	const char *what;
};

/* The texts are valid until the next change. */
struct kube_node {
	const char *name;
	const char *provider_id;	/* NULL: none */
	size_t n_pods;			/* that are placed there and have not ended */
	struct ip_prefix *prefixes;	/* where its pods' addresses are */
	size_t n_prefixes;
	struct kube_node_port *ports;	/* one may be there more than once */
	size_t n_ports;
};

/* Nodes by their own addresses: made once for many questions. Valid until the next change. */
struct kube_node_index {
	struct kube_node_address {
		struct ip ip;
		const struct kube_thing *node;
	} *v;
	size_t n;
};

MUST_CHECK int kube_things_index(const struct kube_things *s, struct kube_node_index *ret_index);	/* -ENOMEM */
void kube_node_index_deinit(struct kube_node_index *index);
/* The node with one of these addresses; of several the youngest: others are what is left of its predecessors. -ENOENT, -ENOMEM. */
MUST_CHECK int kube_things_node(const struct kube_things *s, const struct kube_node_index *index, const struct ip *ips, size_t n,
				struct kube_node *ret_node);
void kube_node_deinit(struct kube_node *node);

#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/map.h"

/*
 * One object of a Kubernetes cluster, for the addresses in it: a pod, a slice
 * of endpoints, a Service or a node. JSON to struct; what is odd is left out.
 *
 * Source: https://kubernetes.io/docs/reference/kubernetes-api/ (core/v1,
 * discovery.k8s.io/v1).
 */
enum kube_kind { KUBE_PODS, KUBE_SLICES, KUBE_SERVICES, KUBE_NODES, _KUBE_KIND_N };

enum {
	KUBE_THING_ADDRESSES_MAX = 1024,	/* a slice of endpoints has at most 1000 */
	KUBE_THING_PORTS_MAX = 256,
};

struct kube_thing_address {
	struct ip_prefix prefix;
	bool is_node;			/* the node's own: no container's */
};

struct kube_thing_port {		/* a pod's and a Service's: at the addresses of its node or of all nodes; a slice's: of its endpoints */
	uint16_t port;
	bool udp;
};

struct kube_thing {
	struct map_link link;		/* by key, in its kind */
	uint64_t generation;		/* of the list or change that brought it */
	struct kube_thing_address *addresses;
	size_t n_addresses;
	struct kube_thing_port *ports;
	size_t n_ports;
	char *node;			/* a pod's; NULL: not placed yet */
	char *provider_id;		/* a node's; NULL: none */
	char created[24];		/* a node's: RFC 3339, which compares as text does */
	bool sidecar;			/* a pod: its proxy speaks Istio's mutual TLS */
	char *what;			/* for people: "pod shop/cart-1 on node a" */
	char key[];			/* "namespace/name", or "name" */
};

/*
 * -ESRCH: it has nothing that counts (a pod that has ended); @ret_thing is
 * written all the same, for its key. -EINVAL: it has no name. -ENOMEM.
 */
MUST_CHECK int kube_thing_read(enum kube_kind kind, const json_t *object, struct kube_thing **ret_thing);
struct kube_thing *kube_thing_free(struct kube_thing *t);
/* In everything but generation and link. */
bool kube_thing_equal(const struct kube_thing *a, const struct kube_thing *b);

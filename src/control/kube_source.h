#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/ip.h"
#include "base/loop.h"
#include "control/kube_client.h"
#include "control/kube_watch.h"

/*
 * A Kubernetes cluster as a source: which addresses are containers', and which
 * are nodes'. Pods, endpoints, services and nodes are watched, once.
 *
 * A guest that is itself a node keeps its own addresses (and so do the pods
 * that share them, spec.hostNetwork); the pods behind it are containers.
 */
struct kube_source;

struct kube_container {			/* valid until the loop's next turn */
	struct ip_prefix prefix;
	const char *what;		/* "pod shop/cart-1 on node a" */
};

enum kube_kind { KUBE_PODS, KUBE_SLICES, KUBE_SERVICES, KUBE_NODES, _KUBE_KIND_N };

/* Who else reads what is watched: as kube_watch_ops, with the kind. */
struct kube_reader {
	void (*begin)(void *data, enum kube_kind kind);
	void (*put)(void *data, enum kube_kind kind, const json_t *object);
	void (*gone)(void *data, enum kube_kind kind, const json_t *object);
	void (*synced)(void *data, enum kube_kind kind);
};

struct kube_source_options {
	struct kube_client *client;	/* borrowed for its life */
	void (*changed)(void *data);	/* many changes are one call */
	void *data;
	const struct kube_reader *reader;	/* borrowed for its life; NULL: nobody */
	void *reader_data;
};

MUST_CHECK int kube_source_new(struct loop *loop, const struct kube_source_options *options, struct kube_source **ret_source);
struct kube_source *kube_source_free(struct kube_source *source);

/* All of them, pods first; freed by the caller. An address may be there more than once. -ENOMEM. */
MUST_CHECK int kube_source_containers(const struct kube_source *source, struct kube_container **ret_containers, size_t *ret_n);

/* Pods whose proxy is an Envoy of Istio's: a sidecar, or a gateway. */
size_t kube_source_n_sidecars(const struct kube_source *source);

size_t kube_source_n_watches(const struct kube_source *source);
struct kube_watch_info kube_source_watch(const struct kube_source *source, size_t i);

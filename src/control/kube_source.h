#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "base/loop.h"
#include "control/kube_client.h"
#include "control/kube_things.h"
#include "control/kube_watch.h"

/*
 * A Kubernetes cluster as a source: which addresses are containers', and which
 * are nodes'. Pods, endpoints, services and nodes are watched, once.
 *
 * A guest that is itself a node keeps its own addresses; the pods behind it are
 * containers, and so is what the pods that share them (spec.hostNetwork) listen at.
 */
struct kube_source;

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

/* What they say, valid until the loop's next turn. */
const struct kube_things *kube_source_things(const struct kube_source *source);
/* All kinds have been listed since the start: what is not there, is not. */
bool kube_source_is_complete(const struct kube_source *source);

size_t kube_source_n_watches(const struct kube_source *source);
struct kube_watch_info kube_source_watch(const struct kube_source *source, size_t i);

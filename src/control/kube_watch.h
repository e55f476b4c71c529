#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/loop.h"
#include "control/kube_client.h"

/*
 * All objects of one kind, kept up to date: a list in pages, then a watch from
 * its resourceVersion, for as long as it lives.
 *
 * A watch that ends is taken up where it was (bookmarks keep the version fresh);
 * when the version is too old (410 Gone), or watching from it comes to nothing
 * again and again, everything is listed again. An API server that is away, hangs,
 * or refuses us is tried again with growing delays, or after as long as it asks
 * for (Retry-After); what was known stays known meanwhile.
 */
struct kube_watch;

struct kube_watch_ops {
	/*
	 * A list begins: everything that there is will be put(), then synced() is
	 * called, and what was not put since is gone.
	 */
	void (*begin)(void *data);
	void (*put)(void *data, const json_t *object);
	void (*gone)(void *data, const json_t *object);		/* its last state */
	void (*synced)(void *data);
};

struct kube_watch_options {		/* copied, but @data; the client is borrowed for its life */
	struct kube_client *client;
	const char *path;		/* "/api/v1/pods" */
	const char *what;		/* "pods" */
	const char *selector;		/* "fieldSelector=..", percent-encoded; NULL: all */
	uint32_t page;			/* objects; 0: 100 */
	uint32_t watch_s;		/* the server ends a watch after it; 0: about 5 minutes */
	struct kube_watch_ops ops;
	void *data;
};

enum { KUBE_WATCH_TEXT_LEN = 600 };

struct kube_watch_info {
	const char *what;
	bool synced;			/* there was a whole list */
	bool watching;			/* and it is up to date, as far as one can know */
	enum kube_error error;		/* of the last attempt; KUBE_OK while all is well */
	const char *text;		/* the same for people, or "" */
	uint64_t n_lists;
	uint64_t n_watches;
	uint64_t n_events;
	uint64_t n_failures;
};

MUST_CHECK int kube_watch_new(struct loop *loop, const struct kube_watch_options *options, struct kube_watch **ret_watch);
struct kube_watch *kube_watch_free(struct kube_watch *watch);	/* not inside of its ops */
struct kube_watch_info kube_watch_info(const struct kube_watch *watch);

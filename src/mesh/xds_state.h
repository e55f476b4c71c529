#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/list.h"
#include "base/map.h"
#include "mesh/xds.h"

/*
 * What xds.c (which asks) and xds_answer.c keep of a type: the names that are
 * subscribed, the resources that are held, the answers that are to be
 * acknowledged.
 */
enum { XDS_TYPES_MAX = 8 };

/* A subscription. */
struct xds_name {
	struct map_link link;
	struct list pending;		/* in one of xds_state's, or in none */
	bool wanted;			/* else it waits to be unsubscribed */
	bool answered;
	bool again;			/* it is in xds_state.to_ask_again */
	char text[];
};

/* A resource that we have; ten thousand of them a stream are not rare. */
struct xds_held {
	struct map_link link;		/* by the name, which the version stands behind */
	uint16_t at_version;
	uint16_t max_version;		/* bytes there is room for, as a rule all that ever come */
	char text[];
};

/* An answer of the server that has not been acknowledged. */
struct xds_ack {
	struct list link;
	char *reason;			/* refused; NULL: taken */
	char nonce[];
};

struct xds_state {			/* of a type */
	struct map names;
	struct map held;
	struct list to_subscribe;
	struct list to_unsubscribe;
	struct list to_ask_again;
	bool with_nobody;		/* which the next subscription takes back */
	struct list acks;
	size_t n_acks;
	bool begun;			/* the first request of this stream is out */
	bool synced;
};

struct xds {
	const struct xds_type *types;
	size_t n_types;
	void *data;
	struct xds_state state[XDS_TYPES_MAX];
	struct xds_counters counters;

	/* of the stream */
	const Envoy__Config__Core__V3__Node *node;	/* until it is sent */
	xds_send_fn *send;				/* NULL: no stream */
	void *send_data;
	bool muted;
};

struct xds_name *xds_name_find(const struct xds_state *s, const char *text);
MUST_CHECK int xds_name_add(struct xds_state *s, const char *text, size_t len);	/* wanted, to be subscribed. -E2BIG, -ENOMEM */
void xds_name_drop(struct xds_state *s, struct xds_name *n);

struct xds_held *xds_held_find(const struct xds_state *s, const char *name);
void xds_held_drop(struct xds_state *s, struct xds_held *h);
char *xds_held_version(struct xds_held *h);
/* New, or another version of what is there. @name is at most XDS_NAME_MAX long. -E2BIG, -ENOMEM: as it was. */
MUST_CHECK int xds_hold(struct xds_state *s, const char *name, const char *version);

/* @reason: why the answer is refused; NULL: it is not. -EBADMSG: too many are waiting. -ENOMEM. */
MUST_CHECK int xds_ack_queue(struct xds_state *s, const char *nonce, const char *reason);
void xds_ack_drop(struct xds_state *s, struct xds_ack *a);
void xds_acks_drop(struct xds_state *s);

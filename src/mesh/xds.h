#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "envoy/discovery.pb-c.h"

/*
 * The client's half of delta ADS, without I/O: what is subscribed, what is
 * held, which nonce is to be answered. xds_client.h puts it on a gRPC stream.
 *
 * The state outlives streams: a new one begins with xds_begin(), which says
 * all subscriptions and all versions that are held, so that the server sends
 * what has changed and names what is gone.
 *
 * Made for istiod as well as for our own controller (all seen running):
 *  - a name that is subscribed already is not answered again: xds_answered()
 *    remembers that it was;
 *  - what is asked for by an alias ("network/ip") comes under its own name, and
 *    the alias in removed_resources: put() comes before gone() of the alias;
 *  - resources come unasked (a node's own workloads, the endpoints of a VIP);
 *  - a request that does nothing but unsubscribe is answered with everything
 *    that is still subscribed as "removed": such a request is never sent,
 *    unsubscriptions wait for the next subscription;
 *  - what was asked for by an alias and was not there is not told when it comes:
 *    xds_ask_again(). A name that one request both subscribes and unsubscribes
 *    is unsubscribed, so this takes two, and a name that nobody has.
 *
 * Source: xds_protocol.rst of Envoy, "Incremental xDS"; the delta fields of
 * envoy/service/discovery/v3/discovery.proto.
 */
struct xds;

enum {
	XDS_NAMES_MAX = 65536,		/* subscribed, of one type */
	XDS_RESOURCES_MAX = 262144,	/* held, of one type */
	XDS_NAME_MAX = 1024,		/* bytes */
	XDS_VERSION_MAX = 1024,		/* of a resource: each new stream says those that are held */
	XDS_NONCE_MAX = 1024,		/* of an answer, which is said back */
};

struct xds_resource {			/* valid for the call */
	const char *name;
	const char *version;		/* "" where the server sends none */
	const uint8_t *value;		/* of the Any: the message itself */
	size_t len;
};

/* A row a type. */
struct xds_type {
	const char *url;		/* "type.googleapis.com/istio.workload.Address" */
	bool on_demand;			/* only what is subscribed by name; else everything ("*") */
	/* An answer begins: what it puts stays where it is until done(). May be NULL. */
	void (*begin)(void *data);
	/* New or changed. < 0 or > 0: refused, @reterr_diag says why; the server hears it (NACK), the rest of the answer counts. */
	int (*put)(void *data, const struct xds_resource *resource, struct diag *reterr_diag);
	/* There is none of this name: it was removed, or it was asked for and there is none (or only under another name). */
	void (*gone)(void *data, const char *name);
	/* All of one answer has been handed over: publish it. < 0: some of it is lost; all of it counts as refused. May be NULL. */
	int (*done)(void *data);
	bool optional;			/* the server may not know the type: xds_client does not wait for an answer */
};

/* Sends one request. 0, or -ENOBUFS: xds_flush() will be called when there is room; other errors: the stream is lost. */
typedef int xds_send_fn(void *data, const Envoy__Service__Discovery__V3__DeltaDiscoveryRequest *request);

/* @types are borrowed for its life, at most 8. @data is that of the types' functions. */
MUST_CHECK int xds_new(const struct xds_type *types, size_t n_types, void *data, struct xds **ret_xds);
struct xds *xds_free(struct xds *x);		/* not inside a callback: xds_mute() there, and free it later */
void xds_mute(struct xds *x);			/* no callback any more */

/* A stream begins. The first request carries @node, which is borrowed for the call. Errors of @send, -ENOMEM. */
MUST_CHECK int xds_begin(struct xds *x, const Envoy__Config__Core__V3__Node *node, xds_send_fn *send, void *send_data);
void xds_end(struct xds *x);		/* the stream is gone */

/* Sends what is due. Errors of send but -ENOBUFS, -ENOMEM. */
MUST_CHECK int xds_flush(struct xds *x);

/* An answer of the server. Acknowledged, or refused, in the next xds_flush(). -EBADMSG: the stream should be ended. -ENOMEM. */
MUST_CHECK int xds_receive(struct xds *x, const uint8_t *bytes, size_t len);

/*
 * On-demand names, with or without a stream; sent by the next xds_flush().
 * Subscribing twice is once. -E2BIG, -ENOMEM, -EINVAL for a name that is empty or too long.
 */
MUST_CHECK int xds_subscribe(struct xds *x, size_t type, const char *name);
void xds_unsubscribe(struct xds *x, size_t type, const char *name);
/* Has a name that is subscribed answered anew, as if it had never been. Nothing for others. */
void xds_ask_again(struct xds *x, size_t type, const char *name);
bool xds_subscribed(const struct xds *x, size_t type, const char *name);
/* The server has said what there is under @name, on this stream or an earlier one. */
bool xds_answered(const struct xds *x, size_t type, const char *name);

/* The type has had an answer on this stream. */
bool xds_synced(const struct xds *x, size_t type);
size_t xds_n_resources(const struct xds *x, size_t type);

struct xds_counters {
	uint64_t streams;	/* begun: more than one a reconnection is what was refused */
	uint64_t answers;
	uint64_t resources;
	uint64_t removed;
	uint64_t refused;	/* resources */
};
struct xds_counters xds_counters(const struct xds *x);

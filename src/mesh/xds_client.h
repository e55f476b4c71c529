#pragma once
#include "base/loop.h"
#include "mesh/channel.h"
#include "mesh/xds.h"

/*
 * One identity's aggregated discovery stream: xds.h over a channel, reopened
 * with a jittered delay whenever it ends. Many of them share a channel.
 *
 * What was learnt stays in force while there is no stream.
 */
struct xds_client;

struct xds_node_field {
	const char *name;
	const char *value;		/* a text; a JSON object when it begins with '{' */
};

struct xds_client_options {		/* copied, but @types */
	struct channel *channel;	/* borrowed for its life */
	const char *node_id;		/* "ztunnel~10.0.0.5~vm-1.shop~shop.svc.cluster.local" */
	const char *node_cluster;	/* may be NULL */
	const struct xds_node_field *metadata;	/* of the node */
	size_t n_metadata;
	const char *locality;		/* "region/zone/subzone"; may be NULL */
	const char *token;		/* sent as "authorization: Bearer"; NULL: the channel's certificate speaks */
	const char *cluster_id;		/* metadata "clusterid", sent along with a token; may be NULL */
	const struct xds_type *types;	/* borrowed for its life */
	size_t n_types;
	void *data;			/* of the types' functions and of the ops */
};

struct xds_client_ops {
	/* Every type has had an answer on this stream: what is held is what the server has. May be NULL. */
	void (*synced)(struct xds_client *client, void *data);
	/* The stream ended or could not be opened; it will be tried again. May be NULL. */
	void (*lost)(struct xds_client *client, void *data, const struct grpc_status *status);
};

MUST_CHECK int xds_client_new(struct loop *loop, const struct xds_client_options *options, const struct xds_client_ops *ops,
			      struct xds_client **ret_client);
struct xds_client *xds_client_free(struct xds_client *client);	/* allowed in every callback */

/* For the next stream; one that was refused for its token is tried at once. */
MUST_CHECK int xds_client_set_token(struct xds_client *client, const char *token);

/*
 * The health of whoever the stream speaks for, in the words of Istio's agents
 * (type istio.v1.HealthInformation, without resources): said now and again on
 * every new stream. @unhealthy: why it is not healthy; NULL: it is. -ENOMEM.
 */
MUST_CHECK int xds_client_set_health(struct xds_client *client, const char *unhealthy);

/*
 * Ends the stream and opens another at once, which says only the first
 * @n_metadata of the node's fields (at most all). lost() is not called. What is
 * held and subscribed stays.
 */
void xds_client_reopen(struct xds_client *client, size_t n_metadata);

/* On-demand names: as xds_subscribe(), sent with the rest of this turn. */
MUST_CHECK int xds_client_subscribe(struct xds_client *client, size_t type, const char *name);
void xds_client_ask_again(struct xds_client *client, size_t type, const char *name);
void xds_client_unsubscribe(struct xds_client *client, size_t type, const char *name);

const struct xds *xds_client_state(const struct xds_client *client);
bool xds_client_synced(const struct xds_client *client);

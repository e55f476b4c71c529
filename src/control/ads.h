#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/loop.h"
#include "control/authn.h"
#include "control/resources.h"
#include "mesh/grpc_server.h"

/*
 * The mesh controller's discovery: aggregated streams, delta and state of the
 * world, over the resources.
 *
 * Delta, as ztunnel and our own proxy use it: wildcard or by name. A name may
 * be a resource's own, or an alias ("network/ip"): then the resource comes
 * under its own name and the alias in removed_resources, as ztunnel wants it.
 * Whoever has subscribed to a service gets its workloads, too. Whoever asks
 * for anything also gets the workloads of its own address and node, unasked.
 * What a client holds is kept up to date until it is unsubscribed.
 *
 * State of the world, as Envoy may use it: all that is wanted in each answer,
 * of endpoints only those that changed.
 */
struct ads;

#define ADS_DELTA_PATH	"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
#define ADS_SOTW_PATH	"/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"

struct ads_ops {
	/* Every subscriber that was told of @uid has acknowledged; at once where nobody was. */
	void (*settled)(void *data, const char *uid);
};

struct ads_counters {
	uint64_t n_requests, n_answers, n_resources, n_removed, n_nacks, n_refused;
};

/* All but @network are borrowed for its life. It listens to the changes of @resources. */
MUST_CHECK int ads_new(struct loop *loop, struct resources *resources, struct authn *authn, const char *network,
		       const struct ads_ops *ops, void *data, struct ads **ret_ads);
struct ads *ads_free(struct ads *a);	/* before its server is freed */

void ads_open_delta(struct ads *a, struct grpc_call *call);
void ads_open_sotw(struct ads *a, struct grpc_call *call);

/* Ends the streams of all VMs of a NIC. */
void ads_revoke(struct ads *a, const struct revocation_origin *origin);

struct ads_counters ads_counters(const struct ads *a);
size_t ads_n_streams(const struct ads *a);

struct ads_stream_info {		/* for people */
	const char *identity;
	const char *node;
	struct ip_port peer;
	bool delta;
	size_t n_held;
	uint64_t opened_ms;		/* monotonic */
	const char *last_nack;		/* "" without */
};
void ads_each_stream(const struct ads *a, void (*fn)(const struct ads_stream_info *info, void *data), void *data);

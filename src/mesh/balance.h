#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "mesh/snapshot.h"

/*
 * Which endpoint of a service takes the next connection.
 *
 * One balancer a worker. It remembers only what is not idle: connections that
 * are open, endpoints that failed lately; so its memory follows the traffic,
 * not the mesh. State is kept by the workload's id and survives new snapshots.
 *
 * Outliers: an endpoint that fails is passed over for 1 s, and twice as long
 * for each failure that follows without a success, up to 30 s. When all have
 * failed, the one whose pause ends first is tried.
 */
enum balance_method {
	BALANCE_LEAST_REQUEST,	/* the less busy, by weight, of two picked at random */
	BALANCE_ROUND_ROBIN,	/* interleaved by weight */
};

enum {
	_BALANCE_E_SUCCESS,

	BALANCE_E_NONE,		/* no endpoint serves this port */
	BALANCE_E_UNHEALTHY,	/* there are some, all said to be unhealthy */
	BALANCE_E_ELSEWHERE,	/* there are some, all on networks that are not ours */
	BALANCE_E_TRIED,	/* all that could be picked are in @tried */
};

enum { BALANCE_TRIED_MAX = 8 };

struct balance;

/* @seed: of the random picks, for tests; 0 takes one from the kernel. */
MUST_CHECK int balance_new(enum balance_method method, uint64_t seed, struct balance **ret_balance);
struct balance *balance_free(struct balance *b);

struct balance_ask {
	const struct snapshot *snapshot;
	const struct snap_route *route;		/* of a service, or of one workload (then that is it) */
	const struct snap_workload *source;	/* who asks, for locality; may be NULL */
	const uint32_t *tried;			/* ids of workloads not to pick again */
	size_t n_tried;
	uint64_t now_ms;			/* monotonic */
};

/* 0, BALANCE_E_*. Allocates nothing. */
MUST_CHECK int balance_pick(struct balance *b, const struct balance_ask *ask, struct snap_endpoint *ret_endpoint);

/*
 * Bookkeeping of a picked endpoint: opened() when the connection is begun,
 * closed() when it has ended, each once. failed(): it could not be connected;
 * succeeded(): it could. -ENOMEM of opened(): not counted; do not call closed().
 */
MUST_CHECK int balance_opened(struct balance *b, uint32_t workload_id);
void balance_closed(struct balance *b, uint32_t workload_id);
void balance_failed(struct balance *b, uint32_t workload_id, uint64_t now_ms);
void balance_succeeded(struct balance *b, uint32_t workload_id);

/* For the admin page and for tests. */
uint32_t balance_n_open(const struct balance *b, uint32_t workload_id);
bool balance_is_out(const struct balance *b, uint32_t workload_id, uint64_t now_ms);
size_t balance_n_remembered(const struct balance *b);

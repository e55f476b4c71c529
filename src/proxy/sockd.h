#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/loop.h"

/*
 * Sockets that may speak for others, for a process without privileges.
 *
 * A proxy connects to its VM from the original client's address, and in its
 * VM's name to original destinations. That takes IP_TRANSPARENT and SO_MARK,
 * which take CAP_NET_ADMIN. So, before it drops its capabilities, the proxy
 * forks a helper (sockd_start()) that keeps just these under a strict seccomp
 * filter and does one thing: it hands out sockets on which both are set. All
 * the main process does is bind() and connect(), which needs no privilege.
 *
 * Each worker thread has a pool and a socket to the helper of its own, so
 * nothing is shared. The helper ends when the last of them is closed; it needs
 * nobody but its proxy.
 */
struct sockd_pool;

enum sockd_kind {
	SOCKD_TO_VM,		/* to its own VM, from a client's address */
	SOCKD_FROM_VM,		/* in the VM's name (bind to its address AND port) to the original destination */
	_SOCKD_KIND_N,
};

enum { SOCKD_MAX_POOLS = 64, SOCKD_MAX_BATCH = 32, SOCKD_SHELVES = _SOCKD_KIND_N * 2 };

/*
 * Forks the helper, with one socket for each of @n_pools threads, in
 * @ret_socks[0 .. n_pools-1], the caller's. Call it before threads start, and
 * while the process has CAP_NET_ADMIN. @mark_base: as in the agent's
 * steering configuration.
 */
MUST_CHECK int sockd_start(uint32_t mark_base, size_t n_pools, int *ret_socks);

/*
 * On the worker's thread. Takes @sock over, also when it fails; asks for a
 * first batch at once. @batch: sockets of each kind and family that are made
 * at a time, 1 to SOCKD_MAX_BATCH; half as many more may lie ready.
 */
MUST_CHECK int sockd_pool_new(struct loop *l, int sock, unsigned batch, struct sockd_pool **ret_pool);
struct sockd_pool *sockd_pool_free(struct sockd_pool *p);

/*
 * A new TCP socket, the caller's: non-blocking, close-on-exec, transparent,
 * marked, with SO_REUSEADDR and IP_BIND_ADDRESS_NO_PORT. @family: AF_INET or
 * AF_INET6. bind() it to the foreign source, then connect().
 * -EAGAIN: the pool is empty and being filled; try again in a later turn (the
 * function of sockd_on_refill() is called then). -EPIPE: the helper is gone.
 */
MUST_CHECK int sockd_take(struct sockd_pool *p, enum sockd_kind kind, int family);
void sockd_on_refill(struct sockd_pool *p, void (*fn)(void *data), void *data);

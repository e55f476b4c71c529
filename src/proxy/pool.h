#pragma once
#include "mesh/snapshot.h"
#include "proxy/worker_internal.h"

/*
 * Tunnels that a VM's proxy has dialled, by peer: address and the identities of
 * which it must have one. Flows share them; a further one is dialled when all
 * have many streams.
 */
enum {
	POOL_MAX_TUNNELS = 8,		/* to one peer, for speed; those that were retired do not count */
	POOL_FULL_TUNNELS = 64,		/* likewise, where the peer takes no more streams on those there are: many allow 100 on each */
	POOL_SOFT_STREAMS = 256,	/* with so many on each, another tunnel is dialled */
};

struct pool_entry {
	struct map_link link;
	uint8_t key[26];		/* address, port, hash of the identities */
	struct worker_vm *v;
	struct ip_port addr;
	const char **ids;
	size_t n_ids;
	struct list tunnels;
	struct list waiting;		/* flows */
	struct list lost;		/* flows whose attempt has failed, a turn's worth at a time */
	struct defer more_defer;	/* to go on with either */
	uint64_t retry_ms;		/* not dialled before */
	uint32_t backoff_ms;
	char why[160];			/* it could not be reached */
};

/*
 * Finds a place for @f on a tunnel to @e: sends its CONNECT, or has it wait.
 * 0, -EHOSTDOWN with @why when the peer has just been unreachable, -ENOMEM.
 */
MUST_CHECK int pool_join(struct worker_vm *v, struct flow *f, const struct snap_endpoint *e, char why[static 160]);
void pool_leave(struct flow *f);			/* it waits no longer */
void pool_tunnel_open(struct pool_entry *p);		/* or takes streams again: those that wait may go */
void pool_tunnel_retired(struct pool_entry *p);		/* takes no more streams, but ends those that it has */
void pool_tunnel_gone(struct pool_entry *p, struct hbone *t, bool was_open);	/* @t->why */
bool pool_can_spare(const struct pool_entry *p, const struct hbone *t);	/* another one has room for many streams */
void pool_tunnel_silent(struct pool_entry *p, const char *why);	/* those that wait may go elsewhere */
void pool_tick(struct worker_vm *v, uint64_t now_ms);
void pool_free_all(struct worker_vm *v);

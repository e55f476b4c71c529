#pragma once
#include <pthread.h>
#include "base/list.h"
#include "base/loop.h"
#include "base/map.h"
#include "proxy/share.h"
#include "proxy/sockd.h"
#include "proxy/worker.h"

/*
 * What the files of a worker share: everything here belongs to its thread.
 */
struct flow;
struct hbone;

enum {
	WORKER_NET_SIZE = 256 * 1024,		/* one read of a tunnel */
	WORKER_READ_SIZE = 240 * 1024,		/* one read of an application's socket, for a tunnel: fits into an empty staging */
	WORKER_PUMP_SIZE = 64 * 1024,		/* likewise, for a socket: what a slow reader leaves of it waits in our memory */
	WORKER_STAGING_SIZE = 256 * 1024,	/* plaintext of a tunnel that waits for the end of the turn */
	WORKER_PLAIN_SIZE = WORKER_NET_SIZE + 64 * 1024,
	WORKER_CIPHER_SIZE = WORKER_STAGING_SIZE + 64 * 1024,
	WORKER_PEER_CACHE = 256,		/* slots of the cache of struct flow_peer; a power of two */
	WORKER_RX_PARTS = 16,
};

struct staging {
	struct list link;
	uint8_t data[WORKER_STAGING_SIZE];
};

struct peer_slot {
	uint32_t workload_id;
	uint32_t service_id;
	bool mutual_tls;
	struct flow_peer *peer;
};

struct worker {
	/* fixed for the thread's life */
	struct worker_conf conf;
	pthread_t thread;
	struct loop *loop;
	struct balance *balance;
	struct sockd_pool *sockd;	/* NULL: ordinary sockets */
	uint8_t *net;			/* bytes from sockets */
	uint8_t *plain;			/* decrypted */
	uint8_t *cipher;		/* encrypted, on its way out */

	/* changes */
	struct mailbox box;
	struct snapshot *snap;		/* may be NULL at the beginning */
	struct revocations *revoked;	/* NULL: none */
	struct map vms;			/* struct worker_vm by slot */
	struct map by_ip;		/* struct vm_address */
	struct share_turn share;
	struct list dirty;		/* tunnels that have something to send */
	struct list staging;		/* free ones */
	size_t n_staging;
	struct list late;		/* commands: configurations for which there was no memory */
	struct list parked;		/* flows that wait for a newer snapshot or configuration */
	struct list waking;		/* those for which there is news, a turn's worth at a time */
	struct defer wake_defer;
	struct list busy;		/* VMs with work that was put off */
	struct defer busy_defer;
	bool taking_up;			/* of that work just now */
	struct list starved;		/* watches that wait for memory, until the tick */
	struct list no_socket;		/* flows that wait for sockd */
	struct list connecting;		/* flows that wait for the network */
	struct list lingering;		/* linger.c */
	size_t n_lingering;
	struct peer_slot peers[WORKER_PEER_CACHE];

	/* data of one stream that came in pieces, to be sent on in one call */
	struct flow *rx_flow;
	struct iovec rx_iov[WORKER_RX_PARTS];
	size_t n_rx;
	bool rx_end;

	struct mail *reports;		/* that wait to be posted, oldest first */
	struct mail **reports_end;
	size_t n_reports;
	struct timer report_timer;
	struct timer tick_timer;	/* every second */
	uint64_t turns_at_tick;		/* load.n_turns at the last one */
	bool buffers_used;		/* since their pages were given back */
	uint64_t next_flow_id;
	uint64_t tee_outstanding;	/* atomic: bytes of tee messages that the main thread has not taken */
	struct worker_load load;	/* atomic fields */
	bool stopping;
	bool ended;			/* main thread: joined */
};

/* An address of a VM of this process. */
struct vm_address {
	struct map_link link;
	struct ip ip;
	struct worker_vm *v;
};

/* A VM, on one worker. */
struct worker_vm {
	struct map_link link;		/* by the slot in @vm */
	struct worker *w;
	struct vm *vm;
	struct vm_conf *conf;
	struct vm_counters *count;	/* this worker's */
	struct share share;
	struct list put_off;		/* watches that wait for its next turn */
	struct list of_busy;
	struct list paced;		/* @outbound, while more connections would be too many a second */
	struct timer pace_timer;
	struct watch outbound;
	struct watch inbound;
	struct vm_address *addresses;	/* those of @conf that nobody else had */
	size_t n_addresses;
	struct list flows;
	struct list from_neighbours;	/* flows of other VMs of this process to this one: struct flow.of_other */
	struct list tunnels;
	struct map shares;		/* struct peer_share: of those that we serve */
	struct map pool;		/* struct pool_entry: tunnels that we dial */
	struct timer drain_timer;
	uint32_t drain_ms;		/* once it has lingered */
	struct defer free_defer;
	struct removed_mail *last;	/* for its end, which must be told with or without memory */
	bool removed;
	bool leaves;			/* removed, or will be soon */
	uint64_t missing_since_ms;	/* open flows wait for a policy since then; 0: they do not */
};

static inline void worker_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);	/* one writer */
}

static inline void worker_over(struct worker_vm *v, enum vm_budget b)
{
	worker_add(&v->count->over_budget[b], 1);
}

/* May something be done for @v in this turn still? What waits already is before what comes. */
static inline bool worker_vm_turn(struct worker_vm *v, uint32_t units)
{
	if (!share_left(&v->w->share, &v->share) || (!list_empty(&v->put_off) && !v->w->taking_up))
		return false;
	share_use(&v->w->share, &v->share, units);
	return true;
}

/* What @events tell of @watch is for a later turn of @v. That is counted, if neighbours are the reason. */
void worker_vm_put_off(struct worker_vm *v, struct watch *watch, uint32_t events);

/* There is no memory for what @events tell of @watch: they are for the tick. That is counted. */
void worker_vm_starve(struct worker_vm *v, struct watch *watch, uint32_t events);

/* --- worker.c --- */
void worker_post(struct worker *w, struct mail *m);		/* to the main thread, with the next batch */
void worker_post_now(struct worker *w, struct mail *m);
void worker_ask(struct worker *w, struct vm *vm, const struct ip *ip);	/* main thread: what is @ip? */
/* Gives what @w has accepted to a worker that has less, which may be itself: false, and @fd stays. */
bool worker_spread(struct worker *w, struct vm *vm, bool inbound, int fd, const struct ip_port *src, const struct ip_port *dst);
struct staging *worker_staging_get(struct worker *w);		/* NULL: out of memory */
void worker_staging_put(struct worker *w, struct staging *s);

/* --- worker_vm.c --- */
/* The VM of this process that has the address, or NULL. */
struct worker_vm *worker_vm_by_ip(struct worker *w, const struct ip *ip);
int worker_vm_put(struct worker *w, struct vm_conf *c);		/* takes the reference */
/* false: it is not here. */
bool worker_vm_remove(struct worker *w, struct vm *vm, uint32_t drain_ms, uint32_t linger_ms);
/* A connection that was accepted elsewhere; @fd is taken over. */
void worker_vm_take(struct worker *w, const struct vm *vm, bool inbound, int fd, const struct ip_port *src, const struct ip_port *dst);
/* Something of it has gone: is it all, after a removal? */
void worker_vm_check(struct worker_vm *v);
void worker_vm_free_all(struct worker *w);
void worker_vm_tick(struct worker_vm *v, uint64_t now_ms);
void worker_vm_recheck(struct worker_vm *v);		/* policies have changed */
void worker_vm_recheck_peers(struct worker_vm *v);	/* certificates were revoked */

/* --- peers.c --- */
/* Who is behind an endpoint or a workload; a new reference, or NULL (out of memory, or nothing is known). */
struct flow_peer *peers_get(struct worker *w, const struct snap_workload *workload, const struct snap_service *service,
			    const char *identity, bool mutual_tls);
void peers_clear(struct worker *w);

#pragma once
#include "base/bytes.h"
#include "mesh/tls.h"
#include "proto/h2.h"
#include "proxy/peer_share.h"
#include "proxy/worker_internal.h"

/*
 * An HBONE connection: TCP, TLS, HTTP/2, on either side. What its streams
 * produce in a turn of the loop is encrypted and sent at the turn's end at one
 * go.
 */
enum {
	HBONE_STUFFED = 256 * 1024,	/* bytes that wait: its streams are not read any more */
	HBONE_OUT_MAX = 4 * 1024 * 1024,
	HBONE_OPEN_TIMEOUT_MS = 10000,
	HBONE_IDLE_MS = 300 * 1000,	/* without streams, one that we dialled is closed */
	HBONE_SPARE_MS = 10 * 1000,	/* likewise, one that a wave of connections needed: another has room. A handshake for 256 of them is little */
	HBONE_REST_MS = 1500,		/* quiet for so long: expanded keys go, and room for a record. Who asks once a second is not quiet. */
	HBONE_UNHEARD_MS = 1000,	/* nothing came for so long since something went out: does its kernel acknowledge that? */
	HBONE_LOST_IN_A_ROW = 2,	/* by so many timeouts of retransmission it does not, 600 ms at least */
	HBONE_PING_MS = 10000,		/* nothing came for so long: is the peer there? */
	HBONE_PING_TIMEOUT_MS = 20000,
};

struct hbone {
	struct worker_vm *v;
	struct pool_entry *pool;	/* one that we dialled */
	struct list of_pool;
	struct list of_vm;
	struct list of_share;
	struct peer_share *share;	/* server, once the peer is known */
	uint32_t n_shared;		/* connections that count in it */
	struct list flows;
	struct list stalled;		/* flows that wait for it to take bytes */
	struct list dirty;		/* in the worker's list */
	struct watch watch;
	struct timer open_timer;
	struct defer end_defer;
	int fd;
	bool server : 1;
	bool connecting : 1;
	bool open : 1;			/* h2 is there */
	bool broken : 1;		/* ends at the next occasion */
	bool cut : 1;			/* bytes for the peer were lost: nothing goes after them */
	bool draining : 1;
	bool faulty : 1;		/* the peer made a mistake, which it is told */
	bool counted : 1;		/* server: in the VM's tunnels */
	bool handshaking : 1;		/* and in its handshakes */
	bool unheard : 1;		/* bytes went out since any last came */
	bool silent : 1;		/* dialled: the peer's kernel does not acknowledge them, so no new streams */
	struct vm_conf *conf;		/* of when it began: the handshake borrows from it */
	struct tls_session *tls;
	struct h2 h2;
	struct staging *staging;	/* lent to @h2 */
	struct bytes out;		/* encrypted, waits for the kernel */
	size_t charged;			/* bytes of it that are in the VM's buffered_bytes */
	struct ip_port local;		/* server: the VM's address that was dialled */
	struct ip_port remote;
	struct flow_peer *stranger;	/* whoever speaks through it and is no workload that we know; NULL: not made yet */
	uint32_t n_pieces;		/* records and frames that were charged */
	uint32_t read_max;		/* bytes at once, while neighbours have something to do */
	uint64_t rx_ms;			/* when bytes last came */
	uint64_t idle_ms;		/* since when it has no streams; 0: it has */
	uint64_t ping_ms;		/* 0: none under way */
	char why[160];			/* it broke */
};

/* Dials @pool's address. NULL with @why filled in. */
struct hbone *hbone_dial(struct worker_vm *v, struct pool_entry *pool, char why[static 160]);
/* Serves an accepted connection; takes @fd over in any case. */
void hbone_accept(struct worker_vm *v, int fd, const struct ip_port *src, const struct ip_port *dst);

/* Ends it after the callbacks of this turn. */
void hbone_break(struct hbone *t, const char *why);
void hbone_drain(struct hbone *t);

void hbone_flush(struct hbone *t);		/* from the turn hook */
void hbone_tick(struct hbone *t, uint64_t now_ms);
/* Certificates were revoked: a tunnel whose peer has shown one of them ends. */
void hbone_recheck(struct hbone *t);
void hbone_flow_gone(struct hbone *t);	/* a flow has left it */
static inline bool hbone_is_stuffed(const struct hbone *t)
{
	return t->out.len + t->h2.out.len > HBONE_STUFFED;
}
static inline bool hbone_takes_streams(const struct hbone *t)
{
	return t->open && !t->broken && !t->draining && !t->silent && h2_can_open(&t->h2);
}

/* h2_ops.room: lends @h a buffer of this turn. */
bool hbone_room(struct h2 *h, size_t n);

/* --- hbone_streams.c --- */
extern const struct h2_ops hbone_stream_ops;

/* What the streams of this batch brought, to their sockets. */
void hbone_rx_flush(struct worker *w);
/* @f dies: drop what the batch holds for it. */
void hbone_rx_forget(struct worker *w, const struct flow *f);

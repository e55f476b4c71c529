#pragma once
#include "base/defs.h"
#include "mesh/balance.h"
#include "mesh/revocation.h"
#include "mesh/snapshot.h"
#include "proxy/flow_report.h"
#include "proxy/mailbox.h"
#include "proxy/vm.h"

/*
 * A worker: a thread with a loop, which owns connections and tunnels. All
 * workers serve all VMs; each accepts from the shared listeners. The kernel
 * wakes the same one whenever it is idle, so what a worker accepts goes to
 * another one that has less.
 *
 * The main thread commands, the worker reports. Everything below is called by
 * the main thread; nothing waits for the worker but worker_stop(). Reports come
 * as mail to the main thread's mailbox: the functions in struct worker_events
 * are called on the main thread from its mailbox_deliver().
 */
struct worker;

struct worker_events {
	/*
	 * A VM dialled @ip and the snapshot says SNAP_E_UNKNOWN, or authz says
	 * undecided (then @ip is the VM's own address). Once for each (vm, ip)
	 * until a new snapshot comes.
	 */
	void (*resolve)(void *data, struct vm *vm, const struct ip *ip);
	void (*report)(void *data, struct flow_report *r);	/* @r becomes the callee's: flow_report_free() */
	void (*tee)(void *data, struct flow_tee *t);		/* @t becomes the callee's: flow_tee_free() */
	/* A VM that wants names answered has opened a connection to port 53. @fd becomes the callee's. */
	void (*names)(void *data, struct vm *vm, int fd, const struct ip_port *src, const struct ip_port *dst);
	/* This worker has nothing of a removed VM any more. Comes once from each worker. */
	void (*removed)(void *data, struct vm *vm);
};

struct worker_conf {
	struct mailbox *main;		/* of the main thread; outlives the workers */
	const struct worker_events *events;
	void *events_data;
	size_t index;			/* from 0 */
	size_t n_workers;
	struct worker *const *all;	/* @n_workers of them, this one too, all there before the first VM is put; NULL: alone */
	int sockd_sock;			/* taken over; -1: ordinary sockets with the NIC's own address (tests) */
	unsigned spare_sockets;		/* sockd_pool_new() */
	uint16_t hbone_port;		/* that inbound listeners take for HBONE; 15008 */
	enum balance_method balance;
};

/* Starts the thread. -ENOMEM and errors of epoll and pthread_create(). */
MUST_CHECK int worker_new(const struct worker_conf *conf, struct worker **ret_worker);

/* Ends the thread. Of several that know each other, all are ended before the first one is stopped. */
void worker_end(struct worker *w);
/* Ends it, closes what is still open. Give it its last snapshot's reference back by this. */
struct worker *worker_stop(struct worker *w);

/* Each takes references of its own. -ENOMEM: nothing happened. */
MUST_CHECK int worker_set_snapshot(struct worker *w, struct snapshot *s);
/* Peers with these certificates are refused, tunnels with them end. NULL: none. */
MUST_CHECK int worker_set_revoked(struct worker *w, struct revocations *list);
MUST_CHECK int worker_put_vm(struct worker *w, struct vm_conf *c);	/* adds it, or replaces its configuration */
/* Serves it as before for @linger_ms; then stops accepting and sends GOAWAY; cuts what is still open @drain_ms from now. Once more with 0: at once. */
MUST_CHECK int worker_remove_vm(struct worker *w, struct vm *vm, uint32_t drain_ms, uint32_t linger_ms);

/* Takes @fd for an outbound connection of @vm that was accepted, and never for one that events->names() wants. @fd is taken over. -ENOMEM. */
MUST_CHECK int worker_take_connection(struct worker *w, struct vm *vm, int fd, const struct ip_port *src, const struct ip_port *dst);

struct worker_load {			/* read without stopping anything */
	uint64_t n_flows;		/* open now */
	uint64_t n_tunnels;
	uint64_t n_turns;		/* of the loop */
	uint64_t bytes_tls;		/* encrypted and decrypted */
	uint64_t n_coming;		/* connections and tunnels that others have accepted for it */
	uint64_t n_rests;		/* how often tunnels gave something back: they fell quiet, or ended */
};
void worker_load(const struct worker *w, struct worker_load *ret_load);

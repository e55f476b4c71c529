#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/list.h"
#include "base/loop.h"
#include "outrigger/ipc.pb-c.h"
#include "proxy/dns_names.h"

/*
 * Decides what becomes of one VM's queries: which ones the mesh answers, and
 * when. No I/O: messages come in by functions and go out by those of
 * dns_broker_ops, whether they travel in datagrams or on connections.
 *
 * Nothing is kept of a query that goes on in mode `answer`. In mode `fill` what
 * is kept is a name of the mesh's domains, its asker and the query's id, until
 * the server has answered, or has not in VM_DNS_FILL_MS.
 */
enum {
	VM_DNS_WAIT_MS = 500,		/* for the mesh to say whether it has a name; then it has not */
	VM_DNS_FILL_MS = 1000,		/* for the VM's server to answer; the mesh does where it can, then */
	VM_DNS_PENDING_MAX = 256,	/* queries that wait for either */
};

struct vm_dns_counters {
	uint64_t queries;		/* that the VM sent */
	uint64_t answered;		/* by the mesh */
	uint64_t forwarded;		/* to the VM's server */
	uint64_t filled;		/* of @answered: those that its server did not know, or did not answer */
	uint64_t malformed;		/* what came and is no query; it went on all the same */
	uint64_t over_budget;		/* not looked up: too many wait already, or there are too many names */
	uint64_t strays;		/* came by another way than the VM's port: dropped */
	uint64_t send_errors;
	uint64_t connections;		/* to servers' port 53, by TCP */
};

struct dns_conn;

/* Between whom a message travels. */
struct dns_way {
	struct ip_port client;
	struct ip server;
	struct dns_conn *conn;		/* NULL: in datagrams */
};

struct dns_broker_ops {
	void (*to_vm)(void *data, const struct dns_way *way, const void *message, size_t len);
	void (*to_server)(void *data, const struct dns_way *way, const void *message, size_t len);
};

struct dns_broker {
	/* fixed */
	struct loop *loop;
	const struct dns_broker_ops *ops;
	void *data;

	/* changes */
	struct timer timer;		/* while something is pending */
	struct dns_names names;
	const Outrigger__Ipc__VmPut *put;	/* mode, domains, namespace are read in it; borrowed; NULL: as mode `observe` */
	struct list pending;		/* oldest first */
	size_t n_pending;
	uint32_t turn;			/* endpoints are told from another one on each time */
	struct vm_dns_counters count;
};

void dns_broker_init(struct dns_broker *b, struct loop *loop, const struct dns_broker_ops *ops, void *data, const struct dns_names_ops *names,
		     void *names_data);
void dns_broker_deinit(struct dns_broker *b);	/* what waits is dropped */

/* Of the VM; of its server. Either may send something before it returns. */
void dns_broker_query(struct dns_broker *b, const struct dns_way *way, const void *message, size_t len);
void dns_broker_response(struct dns_broker *b, const struct dns_way *way, const void *message, size_t len);

void dns_broker_review(struct dns_broker *b);	/* what waits for names that dns_names_told() has heard of */

/* The server's side of a connection has ended: what waited for its answers gets the mesh's, if it has one. */
void dns_broker_server_gone(struct dns_broker *b, const struct dns_conn *conn);
bool dns_broker_waits(const struct dns_broker *b, const struct dns_conn *conn);	/* does somebody, for an answer on it? */
void dns_broker_drop(struct dns_broker *b, const struct dns_conn *conn);	/* the connection is no more */

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/loop.h"
#include "outrigger/ipc.pb-c.h"
#include "proxy/dns_names.h"

/*
 * One VM's queries for names, on the main thread: those that the mesh answers,
 * and the others, which go on to the server that the VM has asked, as they were
 * sent. The sockets are those of monitor_dns_make() (agent/monitor_client.h).
 *
 * Nothing is kept of a query that goes on in mode `answer`; its answer does not
 * come by here. In mode `fill` what is kept is a name of the mesh's domains, its
 * asker and the query's id, until the server has answered, or has not in
 * VM_DNS_FILL_MS.
 */
struct vm_dns;

enum {
	VM_DNS_WAIT_MS = 500,		/* for the mesh to say whether it has a name; then it has not */
	VM_DNS_FILL_MS = 1000,		/* for the VM's server to answer; the mesh does where it can, then */
	VM_DNS_PENDING_MAX = 256,	/* queries that wait for either */
	VM_DNS_TTL_S = 30,		/* of a service's own address, as ztunnel's */
	VM_DNS_ENDPOINT_TTL_S = 5,
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
};

/* @fds: see above; taken over, also when it fails. @ops: as dns_names_ops, @data theirs. -ENOMEM. */
MUST_CHECK int vm_dns_new(struct loop *loop, int fds[2], const struct dns_names_ops *ops, void *data, struct vm_dns **ret_dns);
struct vm_dns *vm_dns_free(struct vm_dns *d);
/* Other sockets in their place, taken over; what the old ones have got is seen to first. -ENOMEM: @d is of no use any more. */
MUST_CHECK int vm_dns_replace(struct vm_dns *d, int fds[2]);

/* Mode, domains, addresses and namespace are read in it; borrowed until the next call. */
void vm_dns_set(struct vm_dns *d, const Outrigger__Ipc__VmPut *put);
/* The mesh has said what there is under @key: as dns_names_told(). */
void vm_dns_told(struct vm_dns *d, const char *key);
void vm_dns_forget(struct vm_dns *d);	/* the names that were asked for: there is another stream */
void vm_dns_tick(struct vm_dns *d);	/* every second or so */

struct vm_dns_counters vm_dns_counters(const struct vm_dns *d);

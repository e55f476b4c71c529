#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/loop.h"
#include "outrigger/ipc.pb-c.h"
#include "proxy/dns_broker.h"
#include "proxy/dns_conn.h"

/*
 * One VM's queries for names, on the main thread: those that the mesh answers,
 * and the others, which go on to the server that the VM has asked, as they were
 * sent. Datagrams come by the sockets of monitor_dns_make()
 * (agent/monitor_client.h), connections from the workers.
 */
struct vm_dns;

struct vm_dns_ops {
	struct dns_names_ops names;
	struct dns_conns_ops conns;
};

/* @fds: see above; taken over, also when it fails. @data is of both kinds of @ops. -ENOMEM. */
MUST_CHECK int vm_dns_new(struct loop *loop, int fds[2], const struct vm_dns_ops *ops, void *data, struct vm_dns **ret_dns);
struct vm_dns *vm_dns_free(struct vm_dns *d);
/* Other sockets in their place, taken over; what the old ones have got is seen to first. -ENOMEM: @d is of no use any more. */
MUST_CHECK int vm_dns_replace(struct vm_dns *d, int fds[2]);

/* Mode, domains, addresses and namespace are read in it; borrowed until the next call. */
void vm_dns_set(struct vm_dns *d, const Outrigger__Ipc__VmPut *put);
/* A connection to port 53: as dns_conns_take(). -EBUSY also when nothing is answered. */
MUST_CHECK int vm_dns_take(struct vm_dns *d, int fd, const struct ip_port *src, const struct ip_port *dst);
/* The mesh has said what there is under @key: as dns_names_told(). */
void vm_dns_told(struct vm_dns *d, const char *key);
void vm_dns_review(struct vm_dns *d);	/* all of that is published */
void vm_dns_forget(struct vm_dns *d);	/* the names that were asked for: there is another stream */
void vm_dns_tick(struct vm_dns *d);	/* every second or so */

struct vm_dns_counters vm_dns_counters(const struct vm_dns *d);

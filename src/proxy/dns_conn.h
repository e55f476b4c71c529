#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/list.h"
#include "base/loop.h"
#include "proxy/dns_broker.h"

/*
 * Queries of one VM over TCP (RFC 7766): its connections to port 53 of any
 * address. A server is dialled when something has to go on to it, and then as
 * the VM's own connection would have been: by a worker, within all that holds
 * for the VM's traffic. What turns out to be no DNS is passed on byte by byte.
 */
enum {
	DNS_CONN_MAX = 32,		/* of one VM */
	DNS_CONN_SILENCE_MS = 1000,	/* without a query from the beginning on: the server is to speak first, perhaps */
	DNS_CONN_IDLE_MS = 60000,	/* without a server, which would end it otherwise */
	DNS_CONN_HIGH = 65536,		/* bytes that wait for one side: nothing more is read for it */
};

struct dns_conns_ops {
	/* A stream socket for what @src says to @dst, the caller's: non-blocking. Negative: there is none. */
	int (*dial)(void *data, const struct ip_port *src, const struct ip_port *dst);
};

struct dns_conns {
	struct loop *loop;
	struct dns_broker *broker;
	const struct dns_conns_ops *ops;
	void *data;
	struct list list;
	size_t n;
};

void dns_conns_init(struct dns_conns *cs, struct loop *loop, struct dns_broker *broker, const struct dns_conns_ops *ops, void *data);
void dns_conns_deinit(struct dns_conns *cs);	/* all end, at once; before the broker */

/* What @src has opened to @dst. 0: @fd is taken over. -EBUSY: there are too many, -ENOMEM: then it stays the caller's. */
MUST_CHECK int dns_conns_take(struct dns_conns *cs, int fd, const struct ip_port *src, const struct ip_port *dst);
void dns_conns_tick(struct dns_conns *cs);	/* every second or so */

/* A message for one side; it is sent, or dropped with a connection that is broken. */
void dns_conn_to_vm(struct dns_conn *c, const void *message, size_t len);
void dns_conn_to_server(struct dns_conn *c, const void *message, size_t len);

#pragma once
#include "proxy/worker_internal.h"

/*
 * New connections of the proxy: in its own name, or in others'.
 */
enum upstream_kind {
	UPSTREAM_OWN,			/* from the NIC's own address: tunnels */
	UPSTREAM_TO_VM,			/* to the own VM, from a client's address */
	UPSTREAM_FROM_VM,		/* to the original destination, in the VM's name */
};

/*
 * A socket whose connect() to @dst is under way. @src: the address to speak
 * from, where the kind asks for one. @pool NULL: ordinary sockets, from the NIC's
 * own address. -EAGAIN: no transparent socket just now; a flow is to wait in
 * w->no_socket. Other errors are of socket(), bind(),
 * connect().
 */
MUST_CHECK int upstream_open(struct sockd_pool *pool, enum upstream_kind kind, const struct ip_port *src, const struct ip_port *dst);
/* The same with the worker's pool. */
MUST_CHECK int upstream_connect(struct worker *w, enum upstream_kind kind, const struct ip_port *src, const struct ip_port *dst);

#pragma once
#include "base/ip.h"
#include "base/loop.h"

/*
 * Host names of the control plane to addresses, by the system's resolver on a
 * thread of its own: getaddrinfo() may block for seconds.
 */
struct resolve;

enum { RESOLVE_MAX = 8 };	/* addresses of an answer */

/* @r: 0 with at least one address, or -EHOSTUNREACH with the resolver's words in @text. */
typedef void resolve_fn(struct resolve *query, void *data, int r, const char *text, const struct ip_port *addrs, size_t n_addrs);

/* "host:port"; -EINVAL when it is not. -ENOMEM, -EAGAIN when there is no thread to be had. */
MUST_CHECK int resolve_start(struct loop *loop, const char *target, resolve_fn *fn, void *data, struct resolve **ret_query);
/* Ends it, before or after its answer; allowed in the callback. NULL is allowed. */
struct resolve *resolve_free(struct resolve *query);

#pragma once
#include <stddef.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/loop.h"

/*
 * The NIC's own addresses, on whatever device, by rtnetlink: read at the start,
 * and anew whenever one comes or goes. Those of loopback are left out.
 *
 * Used from the thread of its loop.
 */
struct own_addresses;

/* All that there are; @ips is the caller's only for the call. */
typedef void own_addresses_fn(const struct ip *ips, size_t n, void *data);

/* Calls @fn once before it returns, then after every change. Negative errno. */
MUST_CHECK int own_addresses_new(struct loop *l, own_addresses_fn *fn, void *data, struct own_addresses **ret_own);
struct own_addresses *own_addresses_free(struct own_addresses *o);	/* NULL is fine */

#pragma once
#include <stddef.h>
#include <stdint.h>
#include "agent/monitor_client.h"
#include "base/defs.h"
#include "base/ip.h"

/*
 * Which flows of a VM are diverted: the wish, worked out from its addresses,
 * services and exclusions, and the way from one wish to the next.
 */
enum { DIVERTS_MAX = 4096 };	/* of one VM */

struct divert_wish {
	uint32_t vm;			/* slot */
	const struct ip *addresses;	/* of the VM */
	size_t n_addresses;
	const uint16_t *ports;		/* of its services */
	size_t n_ports;
	uint16_t hbone_port;
	const struct ip_prefix *exclude;	/* destinations that are left alone */
	size_t n_exclude;
	bool fail_closed;
	bool dns;			/* queries for names, too */
	bool dns_answers;		/* and what servers answer */
};

struct diverts {
	struct monitor_divert *v;	/* sorted */
	size_t n;
};

/* -E2BIG: more than DIVERTS_MAX entries, -ENOMEM. */
MUST_CHECK int diverts_make(const struct divert_wish *w, struct diverts *ret_diverts);
/* What is behind a VM (MONITOR_BEHIND), which is no flow's and known whether the VM is in the mesh or not. The same errors. */
MUST_CHECK int diverts_behind(uint32_t vm, const struct ip_prefix *prefixes, size_t n, struct diverts *ret_diverts);
void diverts_deinit(struct diverts *d);

/*
 * Calls @add for what is in @to and not in @from, then @remove for the reverse,
 * so that no flow escapes in between. The first error ends it.
 */
MUST_CHECK int diverts_change(const struct diverts *from, const struct diverts *to,
			      int (*add)(void *data, const struct monitor_divert *d),
			      int (*remove)(void *data, const struct monitor_divert *d), void *data);

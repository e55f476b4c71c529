#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/catalog.h"
#include "base/defs.h"

/*
 * Between catalog.c, which has the claims, catalog_waiting.c, which has what
 * may become one, and catalog_hearsay.c, which has everything that is none.
 */
bool catalog_same_text(const char *a, const char *b);	/* NULL is like NULL only */

/* Does @o name a service at an address? */
bool hearsay_worth(const struct observation *o);
/* Keeps it. @registered: somebody registered it on behalf of that address. */
void hearsay_hint(struct catalog *c, struct catalog_guest *g, const struct observation *o, bool registered);
/* Keeps why @o is no claim. CATALOG_E_REFUSED. */
MUST_CHECK int hearsay_refuse(struct catalog_guest *g, const struct observation *o, const struct ip_port *at, const char *why);
/* The guest asks for a service. 0, CATALOG_E_IGNORED, -ENOMEM. */
MUST_CHECK int hearsay_lookup(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns);
void hearsay_clear(struct catalog *c, struct catalog_guest *g);

/* catalog_waiting.c: keeps a copy of a registration until it can be a claim. @for_address: until the guest has its address. -ENOMEM. */
MUST_CHECK int waiting_keep(struct catalog_guest *g, const struct observation *o, bool for_address, uint64_t now_ns);
/* A newer registration: what waits and says something else of the same is not waited for any more. True: the very same was there. */
bool waiting_replace(struct catalog_guest *g, const struct observation *o);
/* A deregistration: likewise. */
void waiting_withdraw(struct catalog_guest *g, const struct observation *o);
/* Takes those that can be claims now. */
void waiting_settle(struct catalog *c, struct catalog_guest *g, uint64_t now_ns);
void waiting_clear(struct catalog_guest *g);

/* catalog.c: what the guest registers, or what waited. As catalog_observe(), but that nothing is kept to wait. */
MUST_CHECK int catalog_register(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns);

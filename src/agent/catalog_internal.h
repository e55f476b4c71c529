#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/catalog.h"
#include "base/defs.h"

/*
 * Between catalog.c, which has the claims, catalog_unproven.c, which has what
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

/* catalog_unproven.c: keeps a copy of a registration. True: it was not there, and is now. */
bool unproven_keep(struct catalog_guest *g, const struct observation *o, uint64_t now_ns);
/* A deregistration: it is not waited for any more. */
void unproven_withdraw(struct catalog_guest *g, const struct observation *o);
/* Takes those whose address the guest has now. */
void unproven_settle(struct catalog *c, struct catalog_guest *g, uint64_t now_ns);
void unproven_clear(struct catalog_guest *g);

/* catalog.c: what the guest registers. As catalog_observe(). */
MUST_CHECK int catalog_register(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns);

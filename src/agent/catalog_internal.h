#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/catalog.h"
#include "base/defs.h"

/*
 * Between catalog.c, which has the claims, and catalog_hearsay.c, which has
 * everything that is none.
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

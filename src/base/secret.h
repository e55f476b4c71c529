#pragma once
#include <stdlib.h>
#include "base/defs.h"

/*
 * Memory that held a token or a key is overwritten before it is given back:
 * what was freed stays readable until somebody else is given it, in a swapped
 * page for longer.
 */

/* free() behind an explicit_bzero() of all of it, however long it is. NULL is allowed. */
void *secret_free(void *p);
/* The same of the old place, when there has to be a new one. */
void *secret_realloc(void *p, size_t size);

static inline void secret_cleanup(void *p)
{
	secret_free(*(void **)p);
}

#define CLEANUP_SECRET		CLEANUP(secret_cleanup)

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/defs.h"

/*
 * Memory for building one message: many small pieces, freed together. A failed
 * allocation is sticky: build on, look at @failed once, at the end. What a
 * failed pool gives out is valid memory, but shared: only good for being
 * thrown away.
 */
struct pool_block;

struct pool {
	struct pool_block *blocks;
	bool failed;
};

/* Zeroed. Never NULL; @size is at most POOL_MAX, or the pool fails. */
enum { POOL_MAX = 1 << 20 };
void *pool_alloc(struct pool *p, size_t n, size_t size);
char *pool_printf(struct pool *p, const char *fmt, ...) PRINTF_LIKE(2, 3);
void pool_free(struct pool *p);

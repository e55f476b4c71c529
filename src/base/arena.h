#pragma once
#include <stddef.h>
#include "base/defs.h"

/*
 * Memory that is freed whole: for things made of many small parts that live
 * and die together, such as a decoded message. Not thread-safe.
 */
struct arena;

/* @max: bytes in all; more fails like no memory. -ENOMEM. */
MUST_CHECK int arena_new(size_t max, struct arena **ret_arena);
struct arena *arena_free(struct arena *a);	/* NULL is allowed */

/* Zeroed, aligned for anything; @n * @size is checked. NULL: no memory. @n 0 gives a pointer that is not to be used. */
void *arena_alloc(struct arena *a, size_t n, size_t size);
char *arena_str(struct arena *a, const char *s);	/* NULL: no memory */

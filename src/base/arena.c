/*
 * Arena: chunks that double, freed together.
 */
#include "base/arena.h"

#include <errno.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { ARENA_FIRST = 512, ARENA_CHUNK_MAX = 64 * 1024 };

struct chunk {
	struct chunk *next;
	alignas(max_align_t) unsigned char data[];
};

struct arena {
	struct chunk *chunks;
	unsigned char *pos;		/* in the newest chunk */
	size_t left;
	size_t next_size;
	size_t budget;			/* bytes that may still be allocated */
	alignas(max_align_t) unsigned char first[ARENA_FIRST];	/* all that most need */
};

int arena_new(size_t max, struct arena **ret_arena)
{
	struct arena *a = malloc(sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->chunks = NULL;
	a->pos = a->first;
	a->left = sizeof(a->first);
	a->next_size = 2 * ARENA_FIRST;
	a->budget = max;
	*ret_arena = a;
	return 0;
}

struct arena *arena_free(struct arena *a)
{
	if (!a)
		return NULL;
	while (a->chunks) {
		struct chunk *next = a->chunks->next;

		free(a->chunks);
		a->chunks = next;
	}
	free(a);
	return NULL;
}

static bool grow(struct arena *a, size_t size)
{
	size_t want = MAX(size, a->next_size);
	struct chunk *c = malloc(sizeof(*c) + want);

	if (!c)
		return false;
	c->next = a->chunks;
	a->chunks = c;
	a->pos = c->data;
	a->left = want;
	a->next_size = MIN(a->next_size * 2, (size_t)ARENA_CHUNK_MAX);
	return true;
}

void *arena_alloc(struct arena *a, size_t n, size_t size)
{
	size_t bytes;

	if (__builtin_mul_overflow(n, size, &bytes) || bytes > a->budget)
		return NULL;
	bytes = (bytes + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
	if (bytes > a->left && !grow(a, bytes))
		return NULL;

	void *p = a->pos;
	a->pos += bytes;
	a->left -= bytes;
	a->budget -= MIN(bytes, a->budget);
	return memset(p, 0, bytes);	/* only now: most of an arena is never used */
}

char *arena_str(struct arena *a, const char *s)
{
	size_t size = strlen(s) + 1;
	char *to = arena_alloc(a, 1, size);

	return to ? memcpy(to, s, size) : NULL;
}

/*
 * Memory that is freed as one.
 */
#include "control/pool.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK_SIZE = 16 << 10 };

struct pool_block {
	struct pool_block *next;
	size_t used, size;
	alignas(max_align_t) unsigned char data[];
};

static void *fail(struct pool *p)
{
	static alignas(max_align_t) unsigned char waste[POOL_MAX];	/* untouched pages cost nothing */

	p->failed = true;
	return waste;
}

void *pool_alloc(struct pool *p, size_t n, size_t size)
{
	struct pool_block *b = p->blocks;
	size_t want;

	if (__builtin_mul_overflow(n, size, &want) || want > POOL_MAX)
		return fail(p);
	want = (want + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
	if (!b || b->size - b->used < want) {
		size_t room = MAX(want, (size_t)BLOCK_SIZE);

		b = malloc(sizeof(*b) + room);
		if (!b)
			return fail(p);
		b->used = 0;
		b->size = room;
		b->next = p->blocks;
		p->blocks = b;
	}
	b->used += want;
	return memset(b->data + b->used - want, 0, want);	/* a block is zeroed as far as it is used */
}

char *pool_printf(struct pool *p, const char *fmt, ...)
{
	va_list ap, again;
	int len;

	va_start(ap, fmt);
	va_copy(again, ap);
	len = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	char *text = pool_alloc(p, 1, (size_t)len + 1);
	if (!p->failed)
		vsnprintf(text, (size_t)len + 1, fmt, again);
	va_end(again);
	return p->failed ? (char *)fail(p) : text;
}

void pool_free(struct pool *p)
{
	while (p->blocks) {
		struct pool_block *next = p->blocks->next;

		free(p->blocks);
		p->blocks = next;
	}
	p->failed = false;
}

/*
 * Wiping of what is freed.
 */
#include "base/secret.h"

#include <malloc.h>
#include <string.h>

void *secret_free(void *p)
{
	if (p)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
	return NULL;
}

void *secret_realloc(void *p, size_t size)
{
	size_t old = p ? malloc_usable_size(p) : 0;
	void *q;

	if (p && size && size <= old)
		return p;
	q = malloc(size ? size : 1);
	if (!q)
		return NULL;
	if (p)
		memcpy(q, p, MIN(old, size));
	secret_free(p);
	return q;
}

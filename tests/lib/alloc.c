/*
 * The failing allocator: the linker's --wrap sends allocations here.
 */
#include "lib/alloc.h"

#include <errno.h>
#include <stdbool.h>

#include "base/slab.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);

void *__real_slab_alloc(struct slab *s, size_t size);
void *__wrap_slab_alloc(struct slab *s, size_t size);
int __real_posix_memalign(void **at, size_t alignment, size_t size);
int __wrap_posix_memalign(void **at, size_t alignment, size_t size);

static _Thread_local size_t fail_at;
static _Thread_local size_t seen;
static _Thread_local bool once;

static bool fails(void)
{
	if (!fail_at)
		return false;
	seen++;
	return once ? seen == fail_at : seen >= fail_at;
}

void *__wrap_malloc(size_t size)
{
	return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
	return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t size)
{
	return fails() ? NULL : __real_realloc(p, size);
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
	return fails() ? NULL : __real_aligned_alloc(align, size);
}

int __wrap_posix_memalign(void **at, size_t alignment, size_t size)
{
	return fails() ? ENOMEM : __real_posix_memalign(at, alignment, size);
}

void *__wrap_slab_alloc(struct slab *s, size_t size)
{
	return fails() ? NULL : __real_slab_alloc(s, size);
}

void alloc_fail_at(size_t n)
{
	fail_at = n;
	seen = 0;
	once = false;
}

void alloc_fail_once_at(size_t n)
{
	alloc_fail_at(n);
	once = true;
}

size_t alloc_fail_stop(void)
{
	fail_at = 0;
	return seen;
}

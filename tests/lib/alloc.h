#pragma once
#include <stddef.h>

/*
 * An allocator that can be told to fail. A test that links alloc.c has its
 * malloc(), calloc(), realloc(), aligned_alloc() and slab_alloc() go through it (meson: link_args of
 * `alloc_fail`).
 *
 *	for (size_t n = 1; ; n++) {
 *		alloc_fail_at(n);
 *		r = ...;
 *		if (alloc_fail_stop() < n)
 *			break;		// it needed fewer: all of them have failed once
 *		assert_int_equal(r, -ENOMEM);
 *	}
 */
void alloc_fail_at(size_t n);	/* the n-th allocation from now fails, and all after it */
void alloc_fail_once_at(size_t n);	/* only that one */
size_t alloc_fail_stop(void);	/* ends it; how many there were */

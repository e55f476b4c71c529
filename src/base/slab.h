#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/defs.h"
#include "base/list.h"

/*
 * Memory for very many small objects: no header, sizes in steps of 8 bytes, so
 * that a hundred thousand of them take hardly more than what is in them. Pages
 * of 2 KiB hold objects of one size; regions of 64 KiB that are empty go back to
 * the kernel. Who frees says the size again. Not thread-safe.
 *
 * Larger objects, and all of them in a build with a sanitizer (which then finds
 * who uses one too long), are malloc()'s.
 *
 * Each object can be told by a number of 31 bits, too, half as long as a pointer:
 * that of its region, and how far in it is. Any thread that was told of an object
 * finds it by that.
 */
enum {
	SLAB_GRAIN = 8,
	SLAB_OBJECT_MAX = 512,
	SLAB_N_CLASSES = SLAB_OBJECT_MAX / SLAB_GRAIN + 1,
	SLAB_REF_BITS = 31,
	SLAB_INNER_BITS = 14,
	SLAB_N_REGIONS = 1 << (SLAB_REF_BITS - SLAB_INNER_BITS),	/* of 64 KiB: 8 GiB in all slabs of the process */
	SLAB_REACH = SLAB_GRAIN << SLAB_INNER_BITS,		/* bytes of a large object that have a number */
};

struct slab_page;

struct slab {
	struct slab_page *pages[SLAB_N_CLASSES];	/* of each size, those with room */
	struct list regions;				/* with free pages first */
	struct list full;				/* regions without, and those that are to go */
	size_t n_pages;					/* in use */
	size_t used;					/* bytes of them that are in objects */
};

void slab_init(struct slab *s);
void slab_deinit(struct slab *s);	/* everything must have been freed */

/* Not zeroed, aligned to 8 bytes (larger than SLAB_OBJECT_MAX: for anything). NULL: no memory. */
void *slab_alloc(struct slab *s, size_t size);
/* NULL allowed. @size: as it was asked for. */
void slab_free(struct slab *s, void *object, size_t size);

/*
 * What comes from now on goes into new pages, none of which is used now. For who
 * copies all that is in a slab, and then frees the originals: the rest, whatever
 * holes there were in it, is dense then.
 */
void slab_start_over(struct slab *s);
void slab_trim(struct slab *s);		/* gives back what stays for what comes and goes */

/* Bytes of objects, but those that are malloc()'s. */
static inline size_t slab_used(const struct slab *s)
{
	return s->used;
}

/* Of an object: never 0. That of what is n * SLAB_GRAIN behind its start is n more. */
uint32_t slab_ref(const void *object);

extern uintptr_t slab_regions[SLAB_N_REGIONS];	/* where they are, for slab_at(); that of number 0 is nowhere */

/* NULL for 0. */
static inline void *slab_at(uint32_t ref)
{
	return (void *)(slab_regions[ref >> SLAB_INNER_BITS] + (size_t)(ref & (SLAB_REACH / SLAB_GRAIN - 1)) * SLAB_GRAIN);
}

size_t slab_holes(const struct slab *s);	/* bytes of pages in use that are in no object */

size_t slab_bytes(void);	/* that all slabs of the process have in memory, without what is malloc()'s; any thread */

static inline void *slab_zalloc(struct slab *s, size_t size)
{
	void *object = slab_alloc(s, size);

	return object ? memset(object, 0, size) : NULL;
}

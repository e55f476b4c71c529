/*
 * Small objects in pages of one size.
 *
 * A page is found by the address of an object, and says which of its objects
 * were given back (a list by offset through them) and which have never been used.
 */
#include "base/slab.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#ifndef __has_feature
#define __has_feature(x) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
static const size_t ours_max = 0;
#else
static const size_t ours_max = SLAB_OBJECT_MAX;
#endif

enum { PAGE_SIZE = 2048, REGION_PAGES = 32, REGION_SIZE = PAGE_SIZE * REGION_PAGES };

struct region {
	struct list link;		/* slab.regions, or slab.full */
	unsigned char *base;
	uint32_t free;			/* a bit for each page */
	uint32_t fresh;			/* of those, the ones that have never been used */
	uint32_t number;
};

struct slab_page {
	struct slab_page *prev, *next;	/* of its size, when there is room in it */
	struct region *region;
	uint16_t size;			/* of an object */
	uint8_t used;
	bool listed;			/* among those with room */
	uint16_t back;			/* offset of the first that was given back; 0: none */
	uint16_t fresh;			/* offset of the first that has never been used */
};

_Static_assert(sizeof(struct slab_page) % SLAB_GRAIN == 0, "objects are behind it");

/* An object that is malloc()'s: a region and a page of its own. */
struct large {
	_Alignas(16) struct slab_page page;
	struct region region;
};

static _Atomic size_t bytes;		/* of pages that were ever written to, until their region goes */

static bool is_ours(size_t size)
{
	return size - 1 < ours_max;
}

static unsigned class_of(size_t size)
{
	return (unsigned)((size + SLAB_GRAIN - 1) / SLAB_GRAIN);
}

void slab_init(struct slab *s)
{
	*s = (struct slab){};
	list_init(&s->regions);
	list_init(&s->full);
}

/* --- numbers of regions --- */

uintptr_t slab_regions[SLAB_N_REGIONS];

static struct {				/* number 0 is nobody's, so that there is no object 0 */
	pthread_mutex_t lock;		/* slabs of other threads take some, too */
	uint32_t last;			/* those up to this one were taken at some time */
	uint32_t free;			/* the first that was given back; 0: none */
	uint32_t next_free[SLAB_N_REGIONS];
} numbers = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* 0: there is none left. */
static uint32_t number_take(const unsigned char *base)
{
	uint32_t n;

	pthread_mutex_lock(&numbers.lock);
	n = numbers.free;
	if (n)
		numbers.free = numbers.next_free[n];
	else if (numbers.last < SLAB_N_REGIONS - 1)
		n = ++numbers.last;
	pthread_mutex_unlock(&numbers.lock);
	if (n)
		slab_regions[n] = (uintptr_t)base;
	return n;
}

static void number_give(uint32_t n)
{
	pthread_mutex_lock(&numbers.lock);
	numbers.next_free[n] = numbers.free;
	numbers.free = n;
	pthread_mutex_unlock(&numbers.lock);
}

/* --- regions --- */

static struct region *region_new(struct slab *s)
{
	struct region *r = malloc(sizeof(*r));

	if (!r)
		return NULL;
	r->base = mmap(NULL, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r->base == MAP_FAILED) {
		free(r);
		return NULL;
	}
	r->number = number_take(r->base);
	if (!r->number) {
		munmap(r->base, REGION_SIZE);
		free(r);
		return NULL;
	}
	r->free = r->fresh = UINT32_MAX;
	list_init(&r->link);
	list_append(&s->regions, &r->link);
	return r;
}

static void region_free(struct region *r)
{
	atomic_fetch_sub_explicit(&bytes, (size_t)__builtin_popcount(~r->fresh) * PAGE_SIZE, memory_order_relaxed);
	list_unlink(&r->link);
	number_give(r->number);
	munmap(r->base, REGION_SIZE);
	free(r);
}

void slab_trim(struct slab *s)
{
	list_for_each_safe(l, &s->regions) {
		struct region *r = list_entry(l, struct region, link);

		if (r->free == UINT32_MAX)
			region_free(r);
	}
}

void slab_deinit(struct slab *s)
{
	slab_trim(s);
	assert(list_empty(&s->full) && list_empty(&s->regions));
}

/* --- pages --- */

static void page_link(struct slab *s, struct slab_page *p)
{
	struct slab_page **head = &s->pages[p->size / SLAB_GRAIN];

	p->listed = true;
	p->prev = NULL;
	p->next = *head;
	if (p->next)
		p->next->prev = p;
	*head = p;
}

static void page_unlink(struct slab *s, struct slab_page *p)
{
	if (!p->listed)
		return;
	p->listed = false;
	if (p->prev)
		p->prev->next = p->next;
	else
		s->pages[p->size / SLAB_GRAIN] = p->next;
	if (p->next)
		p->next->prev = p->prev;
}

static bool page_full(const struct slab_page *p)
{
	return !p->back && p->fresh + p->size > PAGE_SIZE;
}

static __attribute__((noinline)) struct slab_page *page_new(struct slab *s, unsigned class)
{
	struct region *r = list_first(&s->regions, struct region, link);

	if (!r)
		r = region_new(s);
	if (!r)
		return NULL;

	unsigned i = (unsigned)__builtin_ctz(r->free);
	uint32_t bit = (uint32_t)1 << i;
	struct slab_page *p = (struct slab_page *)(void *)(r->base + i * PAGE_SIZE);
	if (r->fresh & bit)
		atomic_fetch_add_explicit(&bytes, PAGE_SIZE, memory_order_relaxed);
	r->fresh &= ~bit;
	r->free &= ~bit;
	if (!r->free) {
		list_unlink(&r->link);
		list_append(&s->full, &r->link);
	}
	*p = (struct slab_page){ .region = r, .size = (uint16_t)(class * SLAB_GRAIN), .fresh = sizeof(*p) };
	s->n_pages++;
	page_link(s, p);
	return p;
}

static bool has_another(const struct slab *s, const struct region *than)
{
	return !list_empty(&s->regions) && (s->regions.next != &than->link || s->regions.prev != &than->link);
}

/* Of regions that are empty one stays, for what comes and goes. */
static void page_free(struct slab *s, struct slab_page *p)
{
	struct region *r = p->region;

	s->n_pages--;
	page_unlink(s, p);
	bool was_full = !r->free;

	r->free |= (uint32_t)1 << (((unsigned char *)p - r->base) / PAGE_SIZE);
	if (r->free == UINT32_MAX && has_another(s, r)) {
		region_free(r);
	} else if (was_full || r->free == UINT32_MAX) {
		list_unlink(&r->link);
		list_append(&s->regions, &r->link);
	}
}

/* --- objects --- */

static struct slab_page *page_of(const void *object)
{
	return (struct slab_page *)((uintptr_t)object & ~(uintptr_t)(PAGE_SIZE - 1));
}

/* Not inlined: what it has on the stack would make each slab_alloc() dearer. */
static __attribute__((noinline)) void *large_alloc(size_t size)
{
	void *at;

	if (posix_memalign(&at, PAGE_SIZE, sizeof(struct large) + size))
		return NULL;

	struct large *l = at;
	l->page.region = &l->region;
	l->region.base = (unsigned char *)l;
	l->region.number = number_take(l->region.base);
	if (l->region.number)
		return l + 1;
	free(l);
	return NULL;
}

static __attribute__((noinline)) void large_free(void *object)
{
	struct large *l = object ? (struct large *)object - 1 : NULL;

	if (l)
		number_give(l->region.number);
	free(l);
}

static void *take(struct slab_page *p)
{
	unsigned char *object = (unsigned char *)p + (p->back ? p->back : p->fresh);

	if (p->back)
		memcpy(&p->back, object, sizeof(p->back));
	else
		p->fresh = (uint16_t)(p->fresh + p->size);
	p->used++;
	return object;
}

void *slab_alloc(struct slab *s, size_t size)
{
	if (!is_ours(size))
		return large_alloc(size);

	unsigned class = class_of(size);
	struct slab_page *p = s->pages[class];
	if (!p)
		p = page_new(s, class);
	if (!p)
		return NULL;

	void *object = take(p);
	s->used += p->size;
	if (page_full(p))
		page_unlink(s, p);
	return object;
}

void slab_free(struct slab *s, void *object, size_t size)
{
	if (!object || !is_ours(size)) {
		large_free(object);
		return;
	}

	struct slab_page *p = page_of(object);
	assert(p->size == class_of(size) * SLAB_GRAIN);
	if (page_full(p))
		page_link(s, p);
	memcpy(object, &p->back, sizeof(p->back));
	p->back = (uint16_t)((unsigned char *)object - (unsigned char *)p);
	s->used -= p->size;
	if (!--p->used)
		page_free(s, p);
}

uint32_t slab_ref(const void *object)
{
	const struct region *r = page_of(object)->region;

	return r->number << SLAB_INNER_BITS | (uint32_t)((const unsigned char *)object - r->base) / SLAB_GRAIN;
}

void slab_start_over(struct slab *s)
{
	for (size_t i = 0; i < ELEMENTS(s->pages); i++)
		while (s->pages[i])
			page_unlink(s, s->pages[i]);
	list_splice(&s->full, &s->regions);
}

size_t slab_holes(const struct slab *s)
{
	return s->n_pages * PAGE_SIZE - s->used;
}

size_t slab_bytes(void)
{
	return atomic_load_explicit(&bytes, memory_order_relaxed);
}

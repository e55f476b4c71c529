#pragma once
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * Hash table from byte strings to pointers, entries embedded in the objects.
 *
 * The object embeds a struct map_link and points its key at bytes that it
 * owns and that stay unchanged while it is in the map. Hashing is keyed
 * (SipHash-1-3 with a key of the process), so that a peer who chooses the keys
 * cannot choose the collisions. Not thread-safe.
 */
struct map_link {
	struct map_link *next;
	const void *key;
	uint32_t key_len;
	uint32_t hash;
};

struct map {
	struct map_link **slots;
	size_t n_slots;		/* a power of two, or 0 */
	size_t n;		/* entries */
};

void map_init(struct map *m);
void map_deinit(struct map *m);	/* frees the slots, not the entries */

/* 0, -EEXIST, -ENOMEM. */
MUST_CHECK int map_add(struct map *m, struct map_link *l, const void *key, size_t key_len);
struct map_link *map_find(const struct map *m, const void *key, size_t key_len);
struct map_link *map_find_str(const struct map *m, const char *key);

/* @hash: map_hash() of the key, which is there already. */
struct map_link *map_find_hashed(const struct map *m, const void *key, size_t key_len, uint64_t hash);

/* The entry with the key of @like, an entry of any map: its hash is there already. */
struct map_link *map_find_same(const struct map *m, const struct map_link *like);

/* @l must be in the map. */
void map_remove(struct map *m, struct map_link *l);

/*
 * Iteration: map_next(m, NULL) is the first entry, NULL ends it. The entry at
 * hand may be removed once its successor has been taken.
 */
struct map_link *map_next(const struct map *m, const struct map_link *l);

#define map_for_each(l, m) \
	for (struct map_link *l = map_next(m, NULL), *l##_next = l ? map_next(m, l) : NULL; l; \
	     l = l##_next, l##_next = l ? map_next(m, l) : NULL)

/* The keyed hash itself, for tables of another shape. */
uint64_t map_hash(const void *data, size_t len);

#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/slab.h"

/*
 * Persistent map from 64-bit keys to 32-bit values: a hash trie of 32-way nodes
 * that are shared between versions. A change copies the few nodes on its path
 * and leaves every older version as it was, so readers need no lock.
 *
 * Keys are hashes (map_hash()) or dense numbers; equal keys are equal entries.
 * Values are what tells its user of an object (slab_ref()), and never 0. A trie
 * keeps no keys: who looks one up compares what he gets with what he
 * looks for, and who adds says how the key of an entry is found. Every version
 * knows its entries by position too (trie_at), which is what balancing over a
 * service's endpoints needs.
 *
 * One writer. Changes are made inside a transaction (struct trie_tx): the nodes
 * that it makes are changed in place until it ends, then never again.
 */
struct trie_node;

struct trie {			/* a version; copied by value */
	uint32_t root;		/* slab_ref() of a node; 0: empty */
};

struct trie_nodes {
	struct trie_node **list;	/* keeps its room when it is emptied, if that is not much */
	uint32_t n;
	uint32_t room;
};

struct trie_tx {
	struct slab *slab;		/* of all nodes */
	uint32_t serial;		/* of the transaction; nodes with it are ours to change */
	struct trie_nodes dropped;	/* older nodes that the newest version does not use */
};

void trie_tx_init(struct trie_tx *tx, struct slab *slab, uint32_t serial);	/* and begins the first */
void trie_tx_deinit(struct trie_tx *tx);	/* after an abort() or commit() */
/* Frees what the transaction made of @t, which is empty then: every version as of the beginning is valid as it was. */
void trie_undo(struct trie *t, struct trie_tx *tx);
/* Ends it, after trie_undo() of each trie that it has changed, and begins the next. */
void trie_tx_abort(struct trie_tx *tx);
/*
 * Ends it, and begins the next. The nodes that were replaced are *io_dropped,
 * which was empty: for trie_nodes_free(), when nobody reads a version from
 * before any more.
 */
void trie_tx_commit(struct trie_tx *tx, struct trie_nodes *io_dropped);
void trie_nodes_free(struct trie_nodes *nodes, struct slab *slab);	/* them; it is empty then */
void trie_nodes_deinit(struct trie_nodes *nodes);			/* of an empty one: its room */

typedef uint64_t trie_key_fn(uint32_t value);

/*
 * Adds or replaces. *ret_old (may be NULL) is what was there under @key. Such
 * an entry, or one with a key that is much like it, is asked for its key by
 * @key_of. -ENOMEM: @t is as it was.
 */
MUST_CHECK int trie_put(struct trie *t, struct trie_tx *tx, trie_key_fn *key_of, uint64_t key, uint32_t value, uint32_t *ret_old);
/* Adds. -EEXIST: there is an entry with @key. -ENOMEM. Either way @t is as it was. */
MUST_CHECK int trie_add(struct trie *t, struct trie_tx *tx, trie_key_fn *key_of, uint64_t key, uint32_t value);
/* Replaces @old, which is there under @key. -ENOMEM. */
MUST_CHECK int trie_swap(struct trie *t, struct trie_tx *tx, uint64_t key, uint32_t old, uint32_t value);
/* Removes @old; nothing when it is not there. -ENOMEM. */
MUST_CHECK int trie_remove(struct trie *t, struct trie_tx *tx, uint64_t key, uint32_t old);
/* Makes each of its nodes anew, so that those of @t as it was can go all together. -ENOMEM. */
MUST_CHECK int trie_renew(struct trie *t, struct trie_tx *tx);
/* The whole of it, not the values; nobody reads it, and no transaction has changed it. */
void trie_free(struct trie *t, struct slab *slab);

/* The entry that has @key, if one has: compare it. 0: none has. */
uint32_t trie_get(const struct trie *t, uint64_t key);
uint32_t trie_count(const struct trie *t);
/* The entry at position @i < trie_count(), in an order that is the version's own; 0 behind the end. */
uint32_t trie_at(const struct trie *t, uint32_t i);

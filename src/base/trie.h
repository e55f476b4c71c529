#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/list.h"

/*
 * Persistent map from 64-bit keys to pointers: a hash trie of 32-way nodes
 * that are shared between versions. A change copies the few nodes on its path
 * and leaves every older version as it was, so readers need no lock.
 *
 * Keys are hashes (map_hash()) or dense numbers; equal keys are equal entries:
 * who hashes names compares the name in what he gets. Every version knows its
 * entries by position too (trie_at), which is what balancing over a service's
 * endpoints needs.
 *
 * One writer. Changes are made inside a transaction (struct trie_tx): the nodes
 * that it makes are changed in place until it ends, then never again.
 */
struct trie_node;

struct trie {			/* a version; copied by value */
	struct trie_node *root;
};

/* Nodes that nobody has any more, for the next transactions: a change takes about as many as it gives back. */
enum { TRIE_NODE_MAX = 32 };		/* slots */

struct trie_spare {
	struct trie_node *of_size[TRIE_NODE_MAX + 1];
	uint32_t n;
};

void trie_spare_free(struct trie_spare *spare);

struct trie_tx {
	struct trie_spare *spare;	/* or NULL */
	uint32_t serial;	/* of the transaction; nodes with it are ours to change */
	struct list made;	/* nodes that exist since the transaction began */
	struct list dropped;	/* older nodes that the newest version does not use */
};

void trie_tx_begin(struct trie_tx *tx, uint32_t serial, struct trie_spare *spare);
/* Gives up what was made; every version as of the beginning is valid as it was. */
void trie_tx_abort(struct trie_tx *tx);
/*
 * Ends it. The nodes that were replaced go to the end of @ret_dropped: for
 * trie_nodes_free(), when nobody reads a version from before any more.
 */
void trie_tx_commit(struct trie_tx *tx, struct list *ret_dropped);
void trie_nodes_free(struct list *dropped, struct trie_spare *spare);

/* Adds or replaces. *ret_old (may be NULL) is what was there. -ENOMEM: @t is as it was. */
MUST_CHECK int trie_put(struct trie *t, struct trie_tx *tx, uint64_t key, void *value, void **ret_old);
/* Removes what is there: *ret_old, or NULL. -ENOMEM. */
MUST_CHECK int trie_remove(struct trie *t, struct trie_tx *tx, uint64_t key, void **ret_old);
/* Drops the whole of it: all nodes, not the values. Cannot fail. */
void trie_clear(struct trie *t, struct trie_tx *tx);

void *trie_get(const struct trie *t, uint64_t key);
uint32_t trie_count(const struct trie *t);
/* The entry at position @i < trie_count(), in an order that is the version's own; NULL behind the end. */
void *trie_at(const struct trie *t, uint32_t i);

/*
 * Persistent hash trie.
 *
 * A node has up to 32 slots, one for each value of five bits of the key, and
 * stores only those in use, in the order of their bits: entries (bit set in
 * @leaves) and deeper nodes (bit set in @nodes). The slot of a deeper node has
 * the number of entries below it where an entry's has its key; that is how the
 * i-th entry is found.
 *
 * A change goes down from the root and first makes each node on its way the
 * transaction's own (a copy, unless it is already). Such a copy is equal to
 * what it replaces, so running out of memory half way leaves the map as it was.
 */
#include "base/trie.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum { TRIE_BITS = 5, TRIE_WAYS = TRIE_NODE_MAX, TRIE_DEPTH_MAX = 13 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SPARE_MAX = 0 };			/* so that who reads a node too long is found */
#else
enum { SPARE_MAX = 128 };
#endif

struct trie_slot {
	uint64_t key;			/* of an entry; of a node: entries below */
	void *ptr;
};

struct trie_node {
	union {
		struct list link;	/* in a list of the transaction, or of what was dropped */
		struct trie_node *next;	/* of the spare ones of its size */
	};
	uint32_t serial;		/* of the transaction that made it */
	uint32_t leaves;
	uint32_t nodes;
	uint32_t count;			/* entries below */
	uint32_t size;			/* slots there is room for */
	struct trie_slot slots[];
};

static uint32_t bit_of(uint64_t key, unsigned depth)
{
	return (uint32_t)1 << (key >> (depth * TRIE_BITS) & (TRIE_WAYS - 1));
}

/* Hacker's Delight, 5-1. The compiler's own is a call where the processor need not have the instruction. */
static uint32_t bits_of(uint32_t v)
{
	v -= v >> 1 & 0x55555555;
	v = (v & 0x33333333) + (v >> 2 & 0x33333333);
	return ((v + (v >> 4)) & 0x0f0f0f0f) * 0x01010101 >> 24;
}

static uint32_t used(const struct trie_node *n)
{
	return bits_of(n->leaves | n->nodes);
}

static uint32_t index_of(const struct trie_node *n, uint32_t bit)
{
	return bits_of((n->leaves | n->nodes) & (bit - 1));
}

/* --- memory --- */

/* Its content is of no use to anybody. */
static void node_free(struct trie_node *n, struct trie_spare *spare)
{
	if (!spare || spare->n >= SPARE_MAX) {
		free(n);
		return;
	}
	n->next = spare->of_size[n->size];
	spare->of_size[n->size] = n;
	spare->n++;
}

static struct trie_node *node_alloc(struct trie_spare *spare, uint32_t size)
{
	struct trie_node *n = spare ? spare->of_size[size] : NULL;

	if (!n)
		return malloc(sizeof(*n) + size * sizeof(struct trie_slot));
	spare->of_size[size] = n->next;
	spare->n--;
	return n;
}

void trie_spare_free(struct trie_spare *spare)
{
	for (size_t i = 0; i < ELEMENTS(spare->of_size); i++) {
		while (spare->of_size[i])
			free(node_alloc(spare, (uint32_t)i));
	}
}

/* --- nodes of a transaction --- */

static struct trie_node *node_make(struct trie_tx *tx, uint32_t size)
{
	struct trie_node *n = node_alloc(tx->spare, size);

	if (!n)
		return NULL;
	*n = (struct trie_node){ .serial = tx->serial, .size = size };
	list_append(&tx->made, &n->link);
	return n;
}

/* @n is in no version any more that is newer than the transaction's beginning. */
static void node_drop(struct trie_tx *tx, struct trie_node *n)
{
	if (n->serial == tx->serial) {
		list_unlink(&n->link);
		node_free(n, tx->spare);
		return;
	}
	list_append(&tx->dropped, &n->link);
}

static struct trie_node *node_copy(struct trie_tx *tx, const struct trie_node *from, uint32_t size)
{
	struct trie_node *n = node_make(tx, size);

	if (!n)
		return NULL;
	n->leaves = from->leaves;
	n->nodes = from->nodes;
	n->count = from->count;
	memcpy(n->slots, from->slots, used(from) * sizeof(struct trie_slot));
	return n;
}

/* Makes the node at @at the transaction's own, with room for @extra slots. */
static int node_own(struct trie_tx *tx, struct trie_node **at, uint32_t extra)
{
	struct trie_node *old = *at;
	uint32_t want = used(old) + extra;

	if (old->serial == tx->serial && old->size >= want)
		return 0;
	if (old->serial == tx->serial && extra)
		want = MIN(want + (want < 8 ? 1u : 3u), (uint32_t)TRIE_WAYS);	/* it grows: more is likely to follow */

	struct trie_node *n = node_copy(tx, old, want);
	if (!n)
		return -ENOMEM;
	node_drop(tx, old);
	*at = n;
	return 0;
}

static void slot_insert(struct trie_node *n, uint32_t bit, struct trie_slot slot)
{
	uint32_t i = index_of(n, bit);

	memmove(&n->slots[i + 1], &n->slots[i], (used(n) - i) * sizeof(struct trie_slot));
	n->slots[i] = slot;
}

static void slot_remove(struct trie_node *n, uint32_t bit)
{
	uint32_t i = index_of(n, bit);

	memmove(&n->slots[i], &n->slots[i + 1], (used(n) - i - 1) * sizeof(struct trie_slot));
	n->leaves &= ~bit;
	n->nodes &= ~bit;
}

/* --- transactions --- */

void trie_tx_begin(struct trie_tx *tx, uint32_t serial, struct trie_spare *spare)
{
	tx->spare = spare;
	tx->serial = serial;
	list_init(&tx->made);
	list_init(&tx->dropped);
}

void trie_nodes_free(struct list *dropped, struct trie_spare *spare)
{
	for (struct list *l = dropped->next, *next; l != dropped; l = next) {
		next = l->next;
		node_free(list_entry(l, struct trie_node, link), spare);
	}
	list_init(dropped);
}

void trie_tx_abort(struct trie_tx *tx)
{
	trie_nodes_free(&tx->made, tx->spare);
	list_init(&tx->dropped);	/* they are in the version before */
}

void trie_tx_commit(struct trie_tx *tx, struct list *ret_dropped)
{
	list_init(&tx->made);		/* nobody unlinks a node that is not of the transaction at hand */
	list_splice(ret_dropped, &tx->dropped);
}

/* --- reading --- */

void *trie_get(const struct trie *t, uint64_t key)
{
	const struct trie_node *n = t->root;

	for (unsigned depth = 0; n; depth++) {
		uint32_t bit = bit_of(key, depth);

		if (n->leaves & bit) {
			const struct trie_slot *slot = &n->slots[index_of(n, bit)];

			return slot->key == key ? slot->ptr : NULL;
		}
		n = n->nodes & bit ? n->slots[index_of(n, bit)].ptr : NULL;
	}
	return NULL;
}

uint32_t trie_count(const struct trie *t)
{
	return t->root ? t->root->count : 0;
}

/* The slot of @n under which position *i is, which becomes the position below it. */
static const struct trie_slot *slot_at(const struct trie_node *n, uint32_t *i, bool *ret_leaf)
{
	uint32_t left = n->leaves | n->nodes;

	for (const struct trie_slot *slot = n->slots; left; slot++) {
		uint32_t bit = left & -left;
		uint32_t below = n->leaves & bit ? 1 : (uint32_t)slot->key;

		if (*i < below) {
			*ret_leaf = n->leaves & bit;
			return slot;
		}
		*i -= below;
		left &= left - 1;
	}
	return NULL;
}

void *trie_at(const struct trie *t, uint32_t i)
{
	const struct trie_node *n = t->root;
	bool leaf = false;

	if (i >= trie_count(t))
		return NULL;
	for (;;) {
		const struct trie_slot *slot = slot_at(n, &i, &leaf);

		if (!slot || leaf)
			return slot ? slot->ptr : NULL;
		n = slot->ptr;
	}
}

/* --- changing --- */

struct path {			/* from the root down; every node on it is the transaction's own */
	struct trie_node *nodes[TRIE_DEPTH_MAX];
	struct trie_slot *slots[TRIE_DEPTH_MAX];	/* slots[i] is in nodes[i] and leads to nodes[i + 1] */
	unsigned n;
};

static void path_add(struct path *p, struct trie_node *n)
{
	p->nodes[p->n++] = n;
}

static void path_count(struct path *p, int by)
{
	for (unsigned i = 0; i < p->n; i++) {
		p->nodes[i]->count += (uint32_t)by;
		if (i + 1 < p->n)
			p->slots[i]->key += (uint64_t)by;
	}
}

/* A chain of nodes from @depth down to where the keys of @a and @b part. */
static struct trie_node *fork_make(struct trie_tx *tx, struct trie_slot a, struct trie_slot b, unsigned depth)
{
	uint32_t bit_a = bit_of(a.key, depth);
	uint32_t bit_b = bit_of(b.key, depth);
	struct trie_node *below = NULL;

	if (bit_a == bit_b) {
		below = fork_make(tx, a, b, depth + 1);		/* at most TRIE_DEPTH_MAX deep: the keys differ */
		if (!below)
			return NULL;
	}

	struct trie_node *n = node_make(tx, 2);
	if (!n) {
		while (below) {
			struct trie_node *next = below->nodes ? below->slots[0].ptr : NULL;

			node_drop(tx, below);
			below = next;
		}
		return NULL;
	}
	n->count = 2;
	if (below) {
		n->nodes = bit_a;
		n->slots[0] = (struct trie_slot){ 2, below };
	} else {
		n->leaves = bit_a | bit_b;
		n->slots[bit_a > bit_b] = a;
		n->slots[bit_a < bit_b] = b;
	}
	return n;
}

/* @n has no entry for @bit yet. */
static int put_new(struct trie_tx *tx, struct path *p, struct trie_node **at, uint32_t bit, struct trie_slot entry)
{
	int r = node_own(tx, at, 1);

	if (r < 0)
		return r;
	slot_insert(*at, bit, entry);
	(*at)->leaves |= bit;
	path_add(p, *at);
	path_count(p, 1);
	return 0;
}

static int put_over(struct trie_tx *tx, struct path *p, struct trie_node **at, uint32_t bit, struct trie_slot entry,
		    void **ret_old)
{
	int r = node_own(tx, at, 0);

	if (r < 0)
		return r;

	struct trie_node *n = *at;
	struct trie_slot *slot = &n->slots[index_of(n, bit)];
	if (slot->key == entry.key) {
		*ret_old = slot->ptr;
		slot->ptr = entry.ptr;
		return 0;
	}

	struct trie_node *fork = fork_make(tx, *slot, entry, p->n + 1);
	if (!fork)
		return -ENOMEM;
	path_add(p, n);
	path_count(p, 1);
	*slot = (struct trie_slot){ 2, fork };
	n->leaves &= ~bit;
	n->nodes |= bit;
	return 0;
}

static int put(struct trie *t, struct trie_tx *tx, struct trie_slot entry, void **ret_old)
{
	struct trie_node **at = &t->root;
	struct path p = {};

	if (!*at) {
		*at = node_make(tx, 1);
		if (!*at)
			return -ENOMEM;
	}
	for (;;) {
		uint32_t bit = bit_of(entry.key, p.n);
		struct trie_node *n = *at;

		if (n->leaves & bit)
			return put_over(tx, &p, at, bit, entry, ret_old);
		if (!(n->nodes & bit))
			return put_new(tx, &p, at, bit, entry);

		int r = node_own(tx, at, 0);
		if (r < 0)
			return r;
		n = *at;
		p.slots[p.n] = &n->slots[index_of(n, bit)];
		at = (struct trie_node **)&p.slots[p.n]->ptr;
		path_add(&p, n);
	}
}

int trie_put(struct trie *t, struct trie_tx *tx, uint64_t key, void *value, void **ret_old)
{
	void *old = NULL;
	int r;

	assert(value);
	r = put(t, tx, (struct trie_slot){ key, value }, &old);
	if (r < 0) {
		if (!trie_count(t))
			trie_clear(t, tx);
		return r;
	}
	if (ret_old)
		*ret_old = old;
	return 0;
}

/* Walks up from the node that lost an entry: one that has a single entry left, or none, goes. */
static void shrink(struct trie *t, struct trie_tx *tx, struct path *p)
{
	while (p->n > 1) {
		struct trie_node *n = p->nodes[p->n - 1];
		struct trie_node *parent = p->nodes[p->n - 2];
		struct trie_slot *slot = p->slots[p->n - 2];

		if (n->count > 1)
			return;

		uint32_t bit = 0;	/* of the slot in the parent */
		for (uint32_t left = parent->nodes; left; left &= left - 1)
			if (&parent->slots[index_of(parent, left & -left)] == slot)
				bit = left & -left;
		if (n->count == 1 && !n->leaves)
			return;		/* its entry is deeper down */
		if (n->count == 1) {
			*slot = n->slots[0];
			parent->nodes &= ~bit;
			parent->leaves |= bit;
		} else {
			slot_remove(parent, bit);
		}
		node_drop(tx, n);
		p->n--;
	}
	if (p->n == 1 && !p->nodes[0]->count) {
		node_drop(tx, p->nodes[0]);
		t->root = NULL;
	}
}

int trie_remove(struct trie *t, struct trie_tx *tx, uint64_t key, void **ret_old)
{
	struct trie_node **at = &t->root;
	struct path p = {};
	void *old = trie_get(t, key);

	for (bool leaf = !old; !leaf; ) {
		uint32_t bit = bit_of(key, p.n);

		int r = node_own(tx, at, 0);
		if (r < 0)
			return r;

		struct trie_node *n = *at;
		leaf = n->leaves & bit;
		p.slots[p.n] = &n->slots[index_of(n, bit)];
		at = (struct trie_node **)&p.slots[p.n]->ptr;
		path_add(&p, n);
		if (leaf)
			slot_remove(n, bit);
	}
	if (old) {
		path_count(&p, -1);
		shrink(t, tx, &p);
	}
	if (ret_old)
		*ret_old = old;
	return 0;
}

static void clear_node(struct trie_tx *tx, struct trie_node *n)
{
	for (uint32_t left = n->nodes; left; left &= left - 1)
		clear_node(tx, n->slots[index_of(n, left & -left)].ptr);
	node_drop(tx, n);
}

void trie_clear(struct trie *t, struct trie_tx *tx)
{
	if (t->root)
		clear_node(tx, t->root);
	t->root = NULL;
}

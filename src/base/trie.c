/*
 * Persistent hash trie.
 *
 * A node has up to 32 slots, one for each value of five bits of the key, and
 * stores only those in use, in the order of their bits: entries (bit set in
 * @leaves) and deeper nodes (bit set in @nodes). From its end downwards it has
 * the number of entries below each deeper node; that is how the i-th entry is
 * found. It has no room to spare, but what rounding leaves: a node of another
 * shape is another node.
 *
 * A change goes down from the root and first makes each node on its way the
 * transaction's own (a copy, unless it is already). Such a copy is equal to
 * what it replaces, so running out of memory half way leaves the map as it was.
 */
#include "base/trie.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum { TRIE_BITS = 5, TRIE_WAYS = 32, TRIE_DEPTH_MAX = 13, ROOM = 32, MAX_ROOM = 32, FIRST_NODES = 64, KEEP_NODES = 128 };

struct trie_node {
	uint32_t serial;		/* of the transaction that made it */
	uint32_t leaves;
	uint32_t nodes;
	uint32_t count : 27;		/* entries below */
	uint32_t room : 5;		/* its size, in steps */
	uint32_t slots[];
};

#define COUNT_MAX	((UINT32_C(1) << 27) - 1)

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

static uint32_t *slot_of(struct trie_node *n, uint32_t bit)
{
	return &n->slots[bits_of((n->leaves | n->nodes) & (bit - 1))];
}

/* The node that a slot, or a trie, leads to. */
static struct trie_node *node_at(uint32_t ref)
{
	return slab_at(ref);
}

/* --- memory --- */

enum { NODE_HEAD = offsetof(struct trie_node, slots) };

static size_t room_of(uint32_t leaves, uint32_t nodes)
{
	return (NODE_HEAD + (bits_of(leaves | nodes) + bits_of(nodes)) * sizeof(uint32_t) + ROOM - 1) / ROOM;
}

_Static_assert((NODE_HEAD + TRIE_WAYS * 2 * sizeof(uint32_t)) / ROOM < MAX_ROOM, "a node says its size in 5 bits");

/* The number of entries below deeper node @i of @n. */
static uint32_t *below(struct trie_node *n, size_t room, uint32_t i)
{
	return (uint32_t *)(void *)((char *)n + room * ROOM) - 1 - i;
}

static void node_free(struct trie_node *n, struct slab *slab)
{
	slab_free(slab, n, n->room * (size_t)ROOM);
}

static int nodes_reserve(struct trie_nodes *nodes, uint32_t more)
{
	uint32_t size = nodes->room ? nodes->room * 2 : FIRST_NODES;
	struct trie_node **list;

	if (nodes->room - nodes->n >= more)
		return 0;
	list = realloc(nodes->list, size * sizeof(struct trie_node *));
	if (!list)
		return -ENOMEM;
	nodes->list = list;
	nodes->room = size;
	return 0;
}

static void nodes_empty(struct trie_nodes *nodes)
{
	nodes->n = 0;
	if (nodes->room <= KEEP_NODES)
		return;
	free(nodes->list);
	*nodes = (struct trie_nodes){};
}

void trie_nodes_free(struct trie_nodes *nodes, struct slab *slab)
{
	for (uint32_t i = 0; i < nodes->n; i++)
		node_free(nodes->list[i], slab);
	nodes_empty(nodes);
}

void trie_nodes_deinit(struct trie_nodes *nodes)
{
	free(nodes->list);
	*nodes = (struct trie_nodes){};
}

/* --- nodes of a transaction --- */

/* A change drops at most two nodes at each depth. */
static int tx_reserve(struct trie_tx *tx)
{
	return nodes_reserve(&tx->dropped, 2 * TRIE_DEPTH_MAX);
}

/* With its room and serial; the rest is the caller's to fill. */
static struct trie_node *node_make(struct trie_tx *tx, size_t room)
{
	struct trie_node *n = slab_alloc(tx->slab, room * ROOM);

	if (!n)
		return NULL;
	n->serial = tx->serial;
	n->room = room & (MAX_ROOM - 1);
	return n;
}

/* @n is in no version any more that is newer than the transaction's beginning. */
static void node_drop(struct trie_tx *tx, struct trie_node *n)
{
	if (n->serial == tx->serial)
		node_free(n, tx->slab);
	else
		tx->dropped.list[tx->dropped.n++] = n;
}

static int node_copy(struct trie_tx *tx, struct trie_node *old, uint32_t *at)
{
	struct trie_node *n = node_make(tx, old->room);

	if (!n)
		return -ENOMEM;
	memcpy(n, old, old->room * (size_t)ROOM);
	n->serial = tx->serial;
	node_drop(tx, old);
	*at = slab_ref(n);
	return 0;
}

/* Makes the node at @at the transaction's own, as it is. */
static inline int node_own(struct trie_tx *tx, uint32_t *at)
{
	struct trie_node *old = node_at(*at);

	return old->serial == tx->serial ? 0 : node_copy(tx, old, at);
}

/* @n, and the nodes below it, of which each leads to no more than the next. */
static void chain_drop(struct trie_tx *tx, struct trie_node *n)
{
	for (struct trie_node *next; n; n = next) {
		next = n->nodes ? node_at(n->slots[0]) : NULL;
		node_drop(tx, n);
	}
}

static uint32_t place_of(uint32_t was, uint32_t is)
{
	return was == is ? bits_of(is) : bits_of(is & ((was ^ is) - 1));
}

/* The slots of @n, which had those of the bits @was, to @to for the bits @is. */
static void move_slots(struct trie_node *to, struct trie_node *n, uint32_t was, uint32_t is)
{
	uint32_t i = place_of(was, is), n_was = bits_of(was);
	bool more = is > was, less = is < was;

	if (to != n)
		memcpy(to->slots, n->slots, i * sizeof(uint32_t));
	memmove(&to->slots[i + more], &n->slots[i + less], (n_was - i - less) * sizeof(uint32_t));
}

static void move_below(struct trie_node *to, size_t to_room, struct trie_node *n, size_t n_room, uint32_t was, uint32_t is)
{
	if (!was && !is)		/* as in most */
		return;

	uint32_t i = place_of(was, is), n_was = bits_of(was);
	bool more = is > was, less = is < was;

	if (to_room != n_room || to != n)
		memcpy(below(to, to_room, i) + 1, below(n, n_room, i) + 1, i * sizeof(uint32_t));
	memmove(below(to, to_room, n_was + more - less) + 1, below(n, n_room, n_was) + 1, (n_was - i - less) * sizeof(uint32_t));
}

/* Gives the node at @at, which becomes the transaction's own, other bits: at most one more or less of each kind. New slots and counts are the caller's to fill. */
static int node_reshape(struct trie_tx *tx, uint32_t *at, uint32_t leaves, uint32_t nodes)
{
	struct trie_node *old = node_at(*at), *n = old;
	size_t old_room = old->room, n_room = room_of(leaves, nodes);
	uint32_t was_leaves = old->leaves, was_nodes = old->nodes, count = old->count;

	if (old->serial != tx->serial || n_room != old_room) {
		n = node_make(tx, n_room);
		if (!n)
			return -ENOMEM;
	}
	move_slots(n, old, was_leaves | was_nodes, leaves | nodes);
	move_below(n, n_room, old, old_room, was_nodes, nodes);
	if (n != old) {
		node_drop(tx, old);
		*at = slab_ref(n);
	}
	n->leaves = leaves;
	n->nodes = nodes;
	n->count = count & COUNT_MAX;
	return 0;
}

/* --- transactions --- */

void trie_tx_init(struct trie_tx *tx, struct slab *slab, uint32_t serial)
{
	*tx = (struct trie_tx){ .slab = slab, .serial = serial };
}

void trie_tx_deinit(struct trie_tx *tx)
{
	trie_nodes_deinit(&tx->dropped);
	*tx = (struct trie_tx){};
}

/* A node that is the transaction's own is below such ones only. */
static void undo_below(struct trie_node *n, struct trie_tx *tx)
{
	if (n->serial != tx->serial)
		return;
	for (uint32_t left = n->nodes; left; left &= left - 1)
		undo_below(node_at(*slot_of(n, left & -left)), tx);
	node_free(n, tx->slab);
}

void trie_undo(struct trie *t, struct trie_tx *tx)
{
	if (t->root)
		undo_below(node_at(t->root), tx);
	t->root = 0;
}

void trie_tx_abort(struct trie_tx *tx)
{
	nodes_empty(&tx->dropped);	/* they are in the version before */
	tx->serial++;
}

void trie_tx_commit(struct trie_tx *tx, struct trie_nodes *io_dropped)
{
	struct trie_nodes empty = *io_dropped;

	*io_dropped = tx->dropped;
	tx->dropped = empty;
	tx->serial++;
}

/* --- reading --- */

uint32_t trie_get(const struct trie *t, uint64_t key)
{
	uint32_t at = t->root;

	for (unsigned depth = 0; at; depth++) {
		struct trie_node *n = node_at(at);
		uint32_t bit = bit_of(key, depth);

		if (!((n->leaves | n->nodes) & bit))
			return 0;
		at = *slot_of(n, bit);
		if (n->leaves & bit)
			return at;
	}
	return 0;
}

uint32_t trie_count(const struct trie *t)
{
	return t->root ? node_at(t->root)->count : 0;
}

/* The slot of @n under which position *i is, which becomes the position below it. */
static const uint32_t *slot_at(struct trie_node *n, uint32_t *i, bool *ret_leaf)
{
	const uint32_t *counts = n->nodes ? below(n, n->room, 0) : NULL;
	uint32_t left = n->leaves | n->nodes;

	if (!n->nodes) {		/* as with the endpoints of most services */
		*ret_leaf = true;
		return &n->slots[*i];
	}
	for (const uint32_t *slot = n->slots; left; slot++, left &= left - 1) {
		uint32_t bit = left & -left;
		uint32_t here = n->leaves & bit ? 1 : *counts--;

		if (*i < here) {
			*ret_leaf = n->leaves & bit;
			return slot;
		}
		*i -= here;
	}
	return NULL;
}

uint32_t trie_at(const struct trie *t, uint32_t i)
{
	struct trie_node *n = node_at(t->root);
	bool leaf = false;

	if (i >= trie_count(t))
		return 0;
	for (;;) {
		const uint32_t *slot = slot_at(n, &i, &leaf);

		if (!slot || leaf)
			return slot ? *slot : 0;
		n = node_at(*slot);
	}
}

/* --- changing --- */

struct path {			/* from the root down; every node on it is the transaction's own */
	struct trie_node *nodes[TRIE_DEPTH_MAX];
	uint32_t bits[TRIE_DEPTH_MAX];		/* bits[i] is of nodes[i] and leads to nodes[i + 1] */
	unsigned n;
};

static void path_add(struct path *p, struct trie_node *n, uint32_t bit)
{
	p->nodes[p->n] = n;
	p->bits[p->n++] = bit;
}

static void path_count(struct path *p, int by)
{
	for (unsigned i = 0; i < p->n; i++) {
		struct trie_node *n = p->nodes[i];

		n->count = (n->count + (uint32_t)by) & COUNT_MAX;
		if (i + 1 < p->n)
			*below(n, n->room, bits_of(n->nodes & (p->bits[i] - 1))) += (uint32_t)by;
	}
}

/* The next node on the way to @key becomes the transaction's own. */
static inline int path_own(struct path *p, struct trie_tx *tx, uint32_t **at, uint64_t key)
{
	uint32_t bit = bit_of(key, p->n);
	int r = node_own(tx, *at);

	if (r < 0)
		return r;
	struct trie_node *n = node_at(**at);
	path_add(p, n, bit);
	*at = slot_of(n, bit);
	return 0;
}

struct entry {
	uint64_t key;
	uint32_t value;
};

/* A chain of nodes from @depth down to where the keys of @a and @b part. */
static struct trie_node *fork_make(struct trie_tx *tx, struct entry a, struct entry b, unsigned depth)
{
	uint32_t bit_a = bit_of(a.key, depth);
	uint32_t bit_b = bit_of(b.key, depth);
	struct trie_node *deeper = NULL;

	if (bit_a == bit_b) {
		deeper = fork_make(tx, a, b, depth + 1);	/* at most TRIE_DEPTH_MAX deep: the keys differ */
		if (!deeper)
			return NULL;
	}

	uint32_t leaves = deeper ? 0 : bit_a | bit_b, nodes = deeper ? bit_a : 0;
	struct trie_node *n = node_make(tx, room_of(leaves, nodes));
	if (!n) {
		chain_drop(tx, deeper);
		return NULL;
	}
	n->leaves = leaves;
	n->nodes = nodes;
	n->count = 2;
	if (deeper) {
		n->slots[0] = slab_ref(deeper);
		*below(n, n->room, 0) = 2;
	} else {
		*slot_of(n, bit_a) = a.value;
		*slot_of(n, bit_b) = b.value;
	}
	return n;
}

/* The node at @at has no entry for @bit yet. */
static int put_new(struct trie_tx *tx, struct path *p, uint32_t *at, uint32_t bit, uint32_t value)
{
	struct trie_node *n = node_at(*at);
	int r = node_reshape(tx, at, n->leaves | bit, n->nodes);

	if (r < 0)
		return r;
	n = node_at(*at);
	*slot_of(n, bit) = value;
	path_add(p, n, bit);
	path_count(p, 1);
	return 0;
}

/* It has one, which has another key. */
static int put_beside(struct trie_tx *tx, struct path *p, uint32_t *at, uint32_t bit, struct entry old, struct entry new)
{
	struct trie_node *fork = fork_make(tx, old, new, p->n + 1);

	if (!fork)
		return -ENOMEM;
	struct trie_node *n = node_at(*at);
	int r = node_reshape(tx, at, n->leaves & ~bit, n->nodes | bit);
	if (r < 0) {
		chain_drop(tx, fork);
		return r;
	}

	n = node_at(*at);
	path_add(p, n, bit);
	path_count(p, 1);
	*slot_of(n, bit) = slab_ref(fork);
	*below(n, n->room, bits_of(n->nodes & (bit - 1))) = 2;
	return 0;
}

static int put_over(struct trie_tx *tx, uint32_t *at, uint32_t bit, uint32_t value)
{
	int r = node_own(tx, at);

	if (r == 0)
		*slot_of(node_at(*at), bit) = value;
	return r;
}

/* @ret_old NULL: nothing is replaced. */
static int put(struct trie *t, struct trie_tx *tx, trie_key_fn *key_of, struct entry entry, uint32_t *ret_old)
{
	uint32_t *at = &t->root;
	struct path p = {};
	int r;

	for (;;) {
		uint32_t bit = bit_of(entry.key, p.n);
		struct trie_node *n = node_at(*at);

		if (n->leaves & bit) {
			struct entry old = { .value = *slot_of(n, bit) };

			old.key = key_of(old.value);
			if (old.key != entry.key)
				return put_beside(tx, &p, at, bit, old, entry);
			if (!ret_old)
				return -EEXIST;
			*ret_old = old.value;
			return put_over(tx, at, bit, entry.value);
		}
		if (!(n->nodes & bit))
			return put_new(tx, &p, at, bit, entry.value);
		r = path_own(&p, tx, &at, entry.key);
		if (r < 0)
			return r;
	}
}

static int put_first(struct trie *t, struct trie_tx *tx, struct entry entry)
{
	uint32_t bit = bit_of(entry.key, 0);
	struct trie_node *n = node_make(tx, room_of(bit, 0));

	if (!n)
		return -ENOMEM;
	n->leaves = bit;
	n->nodes = 0;
	n->count = 1;
	n->slots[0] = entry.value;
	t->root = slab_ref(n);
	return 0;
}

int trie_put(struct trie *t, struct trie_tx *tx, trie_key_fn *key_of, uint64_t key, uint32_t value, uint32_t *ret_old)
{
	struct entry entry = { key, value };
	uint32_t old = 0;
	int r = tx_reserve(tx);

	assert(value);
	if (r == 0)
		r = t->root ? put(t, tx, key_of, entry, &old) : put_first(t, tx, entry);
	if (r == 0 && ret_old)
		*ret_old = old;
	return r;
}

int trie_add(struct trie *t, struct trie_tx *tx, trie_key_fn *key_of, uint64_t key, uint32_t value)
{
	struct entry entry = { key, value };
	int r = tx_reserve(tx);

	assert(value);
	if (r < 0)
		return r;
	return t->root ? put(t, tx, key_of, entry, NULL) : put_first(t, tx, entry);
}

int trie_swap(struct trie *t, struct trie_tx *tx, uint64_t key, uint32_t old, uint32_t value)
{
	uint32_t *at = &t->root;
	struct path p = {};
	int r = tx_reserve(tx);

	while (r == 0 && node_at(*at)->nodes & bit_of(key, p.n))
		r = path_own(&p, tx, &at, key);
	assert(r < 0 || *slot_of(node_at(*at), bit_of(key, p.n)) == old);
	(void)old;
	return r < 0 ? r : put_over(tx, at, bit_of(key, p.n), value);
}

/* --- removing --- */

/* How deep the node is in which the last change of a removal takes place: above those of which a single entry would be left, or the one with the entry. */
struct removal {
	unsigned depth;			/* of that node */
	bool collapses;			/* what is below it becomes one entry, @survivor */
	uint32_t survivor;
};

/* False: the entry is not there. */
static bool removal_find(const struct trie *t, uint64_t key, uint32_t old, struct removal *ret_removal)
{
	struct trie_node *n = node_at(t->root);
	struct removal rm = {};
	unsigned depth = 0;
	uint32_t bit = bit_of(key, 0);

	for (; n && n->nodes & bit; bit = bit_of(key, ++depth)) {
		if (n->count > 2)
			rm.depth = depth;
		n = node_at(*slot_of(n, bit));
	}
	if (!n || !(n->leaves & bit) || *slot_of(n, bit) != old)
		return false;
	if (n->count > 2 || !depth) {
		rm.depth = depth;
	} else {
		rm.collapses = true;
		rm.survivor = *slot_of(n, n->leaves & ~bit);
	}
	*ret_removal = rm;
	return true;
}

static int remove_at(struct trie_tx *tx, struct path *p, uint32_t *at, uint32_t bit, const struct removal *rm)
{
	struct trie_node *n = node_at(*at);
	struct trie_node *below_it = rm->collapses ? node_at(*slot_of(n, bit)) : NULL;
	uint32_t leaves = rm->collapses ? n->leaves | bit : n->leaves & ~bit;
	int r = node_reshape(tx, at, leaves, n->nodes & ~bit);

	if (r < 0)
		return r;
	n = node_at(*at);
	if (rm->collapses)
		*slot_of(n, bit) = rm->survivor;
	chain_drop(tx, below_it);
	path_add(p, n, bit);
	path_count(p, -1);
	return 0;
}

int trie_remove(struct trie *t, struct trie_tx *tx, uint64_t key, uint32_t old)
{
	uint32_t *at = &t->root;
	struct path p = {};
	struct removal rm;
	int r = tx_reserve(tx);

	if (r < 0)
		return r;
	if (!removal_find(t, key, old, &rm))
		return 0;
	if (trie_count(t) == 1) {
		node_drop(tx, node_at(t->root));
		t->root = 0;
		return 0;
	}
	while (r == 0 && p.n < rm.depth)
		r = path_own(&p, tx, &at, key);
	return r < 0 ? r : remove_at(tx, &p, at, bit_of(key, p.n), &rm);
}

static int renew_below(uint32_t *at, struct trie_tx *tx)
{
	int r = nodes_reserve(&tx->dropped, 1);

	if (r == 0)
		r = node_own(tx, at);

	struct trie_node *n = node_at(*at);
	for (uint32_t left = n->nodes; r == 0 && left; left &= left - 1)
		r = renew_below(slot_of(n, left & -left), tx);
	return r;
}

int trie_renew(struct trie *t, struct trie_tx *tx)
{
	return t->root ? renew_below(&t->root, tx) : 0;
}

static void free_below(struct trie_node *n, struct slab *slab)
{
	for (uint32_t left = n->nodes; left; left &= left - 1)
		free_below(node_at(*slot_of(n, left & -left)), slab);
	node_free(n, slab);
}

void trie_free(struct trie *t, struct slab *slab)
{
	if (t->root)
		free_below(node_at(t->root), slab);
	t->root = 0;
}

#include "lib/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/trie.h"
#include "lib/alloc.h"

enum { N_KEYS = 3000 };

static struct slab slab;
static int shape_now;		/* of the keys of all that is in tries */

static uint64_t scramble(uint64_t i)
{
	i *= 0x9e3779b97f4a7c15;
	return i ^ i >> 29;
}

/* Four shapes of keys: dense, hashed, equal in the low bits, equal in the high ones. */
static uint64_t key_of(int shape, uint64_t i)
{
	switch (shape) {
	case 0:
		return i;
	case 1:
		return scramble(i);
	case 2:
		return i << 52 | 0x12345;
	default:
		return 0xfeed000000000000 | i << 3;
	}
}

/* The value of the @k-th key. */
static uint32_t value_of(unsigned k)
{
	return k + 1;
}

static uint64_t key_of_value(uint32_t value)
{
	return key_of(shape_now, value - 1);
}

static uint32_t find(const struct trie *t, uint64_t key)
{
	uint32_t v = trie_get(t, key);

	return v && key_of_value(v) == key ? v : 0;
}

static int put(struct trie *t, struct trie_tx *tx, unsigned k, uint32_t *ret_old)
{
	return trie_put(t, tx, key_of_value, key_of(shape_now, k), value_of(k), ret_old);
}

static int out(struct trie *t, struct trie_tx *tx, unsigned k)
{
	return trie_remove(t, tx, key_of(shape_now, k), value_of(k));
}

static void check(const struct trie *t, int shape, const bool *there)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < N_KEYS; i++) {
		assert_int_equal(find(t, key_of(shape, i)), there[i] ? value_of(i) : 0);
		n += there[i];
	}
	assert_int_equal(trie_count(t), n);

	bool seen[N_KEYS] = {};
	for (uint32_t i = 0; i < n; i++) {
		uint32_t v = trie_at(t, i);

		assert_int_not_equal(v, 0);
		assert_true(there[v - 1]);
		assert_false(seen[v - 1]);
		seen[v - 1] = true;
	}
	assert_int_equal(trie_at(t, n), 0);
}

static void what_was_put_is_found_and_what_was_removed_is_not(void **state)
{
	(void)state;
	for (int shape = 0; shape < 4; shape++) {
		struct trie t = {};
		struct trie_tx tx;
		bool there[N_KEYS] = {};
		unsigned seed = 7;

		shape_now = shape;
		trie_tx_init(&tx, &slab, 1);
		for (int i = 0; i < 20000; i++) {
			unsigned k = (unsigned)rand_r(&seed) % N_KEYS;
			uint32_t old;

			if (shape == 2)
				k %= 1 << 11;
			old = there[k] ? value_of(k) : 0;
			if (rand_r(&seed) % 100 < (i < 10000 ? 70 : 30))
				assert_int_equal(put(&t, &tx, k, &old), 0);
			else
				assert_int_equal(out(&t, &tx, k), 0);
			assert_int_equal(old, there[k] ? value_of(k) : 0);
			there[k] = find(&t, key_of(shape, k));
		}
		check(&t, shape, there);
		for (unsigned k = 0; k < N_KEYS; k++) {
			assert_int_equal(out(&t, &tx, k), 0);
			there[k] = false;
		}
		check(&t, shape, there);
		assert_int_equal(t.root, 0);
		trie_undo(&t, &tx);
		trie_tx_abort(&tx);
		trie_tx_deinit(&tx);
	}
}

enum { VERSIONS = 40 };

static void older_versions_stay_as_they_were(void **state)
{
	static bool there[VERSIONS][N_KEYS];
	struct trie t[VERSIONS] = {};
	struct trie_nodes dropped[VERSIONS] = {};
	struct trie_tx tx;
	unsigned seed = 3;

	(void)state;
	shape_now = 1;
	trie_tx_init(&tx, &slab, 1);
	for (int v = 1; v < VERSIONS; v++) {
		memcpy(there[v], there[v - 1], sizeof(there[v]));
		t[v] = t[v - 1];
		for (int i = 0; i < 200; i++) {
			unsigned k = (unsigned)rand_r(&seed) % N_KEYS;

			there[v][k] = rand_r(&seed) % 3;
			if (there[v][k])
				assert_int_equal(put(&t[v], &tx, k, NULL), 0);
			else
				assert_int_equal(out(&t[v], &tx, k), 0);
		}
		trie_tx_commit(&tx, &dropped[v]);
	}
	for (int v = 0; v < VERSIONS; v++)
		check(&t[v], 1, there[v]);

	/* What version v dropped belongs to v - 1 and before: freeing it leaves v and later whole. */
	for (int v = 1; v < VERSIONS; v++) {
		trie_nodes_free(&dropped[v], &slab);
		trie_nodes_deinit(&dropped[v]);
		check(&t[v], 1, there[v]);
	}
	trie_free(&t[VERSIONS - 1], &slab);
	trie_tx_deinit(&tx);
}

static void an_aborted_transaction_leaves_the_old_version(void **state)
{
	struct trie t = {};
	struct trie_tx tx;
	struct trie_nodes dropped = {};
	bool there[N_KEYS] = {};

	(void)state;
	shape_now = 1;
	trie_tx_init(&tx, &slab, 1);
	for (unsigned k = 0; k < N_KEYS; k += 2) {
		there[k] = true;
		assert_int_equal(put(&t, &tx, k, NULL), 0);
	}
	trie_tx_commit(&tx, &dropped);
	assert_int_equal(dropped.n, 0);
	trie_nodes_free(&dropped, &slab);
	trie_nodes_deinit(&dropped);

	struct trie changed = t;
	for (unsigned k = 0; k < N_KEYS; k += 3) {
		assert_int_equal(put(&changed, &tx, k, NULL), 0);
		assert_int_equal(out(&changed, &tx, k + 1), 0);
		if (there[k])
			assert_int_equal(trie_swap(&changed, &tx, key_of(1, k), value_of(k), value_of(k)), 0);
	}
	trie_undo(&changed, &tx);
	trie_tx_abort(&tx);
	check(&t, 1, there);
	trie_free(&t, &slab);
	trie_tx_deinit(&tx);
}

static void out_of_memory_changes_nothing(void **state)
{
	(void)state;
	for (int shape = 0; shape < 4; shape++) {
		struct trie t = {};
		struct trie_tx tx;
		struct trie_nodes dropped = {};
		bool there[N_KEYS] = {};

		shape_now = shape;
		trie_tx_init(&tx, &slab, 1);
		for (unsigned k = 0; k < 600; k++) {
			size_t n = 1;

			for (;; n++) {
				alloc_fail_at(n);
				int r = trie_add(&t, &tx, key_of_value, key_of(shape, k), value_of(k));
				if (alloc_fail_stop() < n) {
					assert_int_equal(r, 0);
					break;
				}
				assert_int_equal(r, -ENOMEM);
				if (k % 100 == 0)
					check(&t, shape, there);
			}
			there[k] = true;
			assert_int_equal(trie_add(&t, &tx, key_of_value, key_of(shape, k), value_of(k)), -EEXIST);
			trie_tx_commit(&tx, &dropped);
			trie_nodes_free(&dropped, &slab);
		}
		check(&t, shape, there);
		for (unsigned k = 0; k < 600; k++) {
			for (size_t n = 1; ; n++) {
				alloc_fail_at(n);
				int r = out(&t, &tx, k);
				if (alloc_fail_stop() < n) {
					assert_int_equal(r, 0);
					break;
				}
				assert_int_equal(r, -ENOMEM);
				if (k % 100 == 0)
					check(&t, shape, there);
			}
			there[k] = false;
			trie_tx_commit(&tx, &dropped);
			trie_nodes_free(&dropped, &slab);
		}
		assert_int_equal(t.root, 0);
		trie_nodes_deinit(&dropped);
		trie_tx_deinit(&tx);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_put_is_found_and_what_was_removed_is_not),
		cmocka_unit_test(older_versions_stay_as_they_were),
		cmocka_unit_test(an_aborted_transaction_leaves_the_old_version),
		cmocka_unit_test(out_of_memory_changes_nothing),
	};

	slab_init(&slab);

	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	slab_deinit(&slab);		/* says so when a node is left */
	return failed;
}

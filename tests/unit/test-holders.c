#include "lib/unit.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/alloc.h"
#include "proxy/holders.h"

enum { N_SETS = 40, N_NUMBERS = 12 };

static uint32_t number(unsigned i)
{
	return i == N_NUMBERS - 1 ? HOLDERS_MAX_NUMBER : i;
}

static void check(const struct holders *h, uint32_t set, const bool *there)
{
	bool any = false;

	for (unsigned i = 0; i < N_NUMBERS; i++) {
		assert_int_equal(holders_has(h, set, number(i)), there[i]);
		any |= there[i];
	}
	assert_int_equal(set != HOLDERS_NONE, any);
}

static void sets_have_what_was_added_and_not_removed(void **state)
{
	bool there[N_SETS][N_NUMBERS] = {};
	uint32_t sets[N_SETS] = {};
	struct holders h = {};
	unsigned seed = 5;

	(void)state;
	for (int i = 0; i < 20000; i++) {
		unsigned s = (unsigned)rand_r(&seed) % N_SETS, k = (unsigned)rand_r(&seed) % N_NUMBERS;

		switch (rand_r(&seed) % 20) {
		case 0:
			holders_clear(&h, &sets[s]);
			for (unsigned j = 0; j < N_NUMBERS; j++)
				there[s][j] = false;
			break;
		case 1 ... 9:
			holders_remove(&h, &sets[s], number(k));
			there[s][k] = false;
			break;
		default:
			assert_int_equal(holders_add(&h, &sets[s], number(k)), 0);
			there[s][k] = true;
		}
		check(&h, sets[s], there[s]);
	}
	for (unsigned s = 0; s < N_SETS; s++)
		check(&h, sets[s], there[s]);
	assert_true(h.n <= N_SETS);		/* lists that are free are used again */
	holders_deinit(&h);
}

static void without_memory_a_set_is_as_it_was(void **state)
{
	bool there[N_NUMBERS] = {};
	struct holders h = {};
	uint32_t set = HOLDERS_NONE;

	(void)state;
	for (unsigned i = 0; i < N_NUMBERS; i++) {
		for (size_t n = 1; ; n++) {
			alloc_fail_at(n);
			int r = holders_add(&h, &set, number(i));
			if (alloc_fail_stop() < n) {
				assert_int_equal(r, 0);
				break;
			}
			assert_int_equal(r, -ENOMEM);
			check(&h, set, there);
		}
		there[i] = true;
	}
	alloc_fail_at(1);			/* removing needs none */
	for (unsigned i = 0; i < N_NUMBERS; i++)
		holders_remove(&h, &set, number(i));
	assert_int_equal(alloc_fail_stop(), 0);
	assert_int_equal(set, HOLDERS_NONE);
	holders_deinit(&h);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(sets_have_what_was_added_and_not_removed),
		cmocka_unit_test(without_memory_a_set_is_as_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "lib/unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/slab.h"
#include "lib/alloc.h"

enum { N = 20000 };

struct object {
	unsigned char *at;
	size_t size;
	unsigned char mark;
};

static struct object objects[N];

static void fill(struct slab *s, struct object *o, size_t size, unsigned n)
{
	o->at = slab_alloc(s, size);
	o->size = size;
	o->mark = (unsigned char)(n * 31 + size);
	assert_non_null(o->at);
	assert_int_equal((uintptr_t)o->at % SLAB_GRAIN, 0);
	memset(o->at, o->mark, size);
}

static void drop(struct slab *s, struct object *o)
{
	for (size_t i = 0; i < o->size; i++)
		assert_int_equal(o->at[i], o->mark);
	slab_free(s, o->at, o->size);
	o->at = NULL;
}

/* Whatever comes and goes, of all sizes: nobody's bytes are another's. */
static void objects_do_not_overlap(void **state)
{
	struct slab s;
	unsigned seed = 5;

	(void)state;
	slab_init(&s);
	for (unsigned i = 0; i < 20 * N; i++) {
		struct object *o = &objects[(unsigned)rand_r(&seed) % N];

		if (o->at)
			drop(&s, o);
		else
			fill(&s, o, 1 + (unsigned)rand_r(&seed) % (SLAB_OBJECT_MAX + 40), i);
	}
	for (unsigned i = 0; i < N; i++)
		if (objects[i].at)
			drop(&s, &objects[i]);
	slab_deinit(&s);
	assert_int_equal(slab_bytes(), 0);
}

static void small_objects_take_what_is_in_them(void **state)
{
	enum { SIZE = 64 };
	struct slab s;

	(void)state;
	slab_init(&s);
	for (unsigned i = 0; i < N; i++)
		fill(&s, &objects[i], SIZE, i);
	assert_true(slab_bytes() <= N * SIZE * 105 / 100 + 4096);
	for (unsigned i = 0; i < N; i++)
		drop(&s, &objects[i]);
	assert_true(slab_bytes() <= 64 * 1024);		/* one region stays */
	slab_deinit(&s);
	assert_int_equal(slab_bytes(), 0);
}

static void what_was_given_back_is_used_again(void **state)
{
	struct slab s;
	size_t most;

	(void)state;
	slab_init(&s);
	for (unsigned i = 0; i < N; i++)
		fill(&s, &objects[i], 40, i);
	most = slab_bytes();
	for (unsigned round = 0; round < 10; round++) {
		for (unsigned i = round % 3; i < N; i += 3)
			drop(&s, &objects[i]);
		for (unsigned i = round % 3; i < N; i += 3)
			fill(&s, &objects[i], 40, i);
	}
	assert_int_equal(slab_bytes(), most);
	for (unsigned i = 0; i < N; i++)
		drop(&s, &objects[i]);
	slab_deinit(&s);
}

/* Who copies everything into new pages gets rid of the holes. */
static void starting_over_closes_the_holes(void **state)
{
	struct slab s;
	size_t dense;

	(void)state;
	slab_init(&s);
	for (unsigned i = 0; i < N; i++)
		fill(&s, &objects[i], 48, i);
	dense = slab_bytes();
	for (unsigned i = 0; i < N; i++)
		if (i % 4)
			drop(&s, &objects[i]);
	assert_int_equal(slab_bytes(), dense);
	assert_true(slab_holes(&s) * 2 >= slab_used(&s) || !dense);
	slab_start_over(&s);
	for (unsigned i = 0; i < N; i += 4) {
		struct object old = objects[i];

		fill(&s, &objects[i], 48, i);
		drop(&s, &old);
	}
	assert_true(slab_bytes() <= dense / 3);
	for (unsigned i = 0; i < N; i += 4)
		drop(&s, &objects[i]);
	assert_int_equal(slab_used(&s), 0);
	slab_deinit(&s);
	assert_int_equal(slab_bytes(), 0);
}

/* Of every size, and of a place inside, too. */
static void each_object_is_found_by_its_number(void **state)
{
	enum { SOME = 3000 };
	static uint32_t refs[SOME];
	struct slab s;

	(void)state;
	slab_init(&s);
	assert_null(slab_at(0));
	for (unsigned i = 0; i < SOME; i++) {
		fill(&s, &objects[i], 1 + i % (2 * SLAB_OBJECT_MAX), i);
		refs[i] = slab_ref(objects[i].at);
		assert_int_not_equal(refs[i], 0);
		assert_true(refs[i] < (uint32_t)1 << SLAB_REF_BITS);
	}
	for (unsigned i = 0; i < SOME; i += 2) {	/* what comes and goes leaves the others theirs */
		drop(&s, &objects[i]);
		fill(&s, &objects[i], 1 + i * 7 % (2 * SLAB_OBJECT_MAX), i);
		refs[i] = slab_ref(objects[i].at);
	}
	for (unsigned i = 0; i < SOME; i++) {
		assert_ptr_equal(slab_at(refs[i]), objects[i].at);
		if (objects[i].size > 5 * SLAB_GRAIN)
			assert_ptr_equal(slab_at(refs[i] + 5), objects[i].at + 5 * SLAB_GRAIN);
	}
	for (unsigned i = 0; i < SOME; i++)
		drop(&s, &objects[i]);

	unsigned char *last = slab_alloc(&s, SLAB_REACH);
	assert_non_null(last);
	assert_ptr_equal(slab_at(slab_ref(last) + 1000), last + (size_t)1000 * SLAB_GRAIN);
	slab_free(&s, last, SLAB_REACH);
	slab_deinit(&s);
}

static void numbers_of_regions_are_given_again(void **state)
{
	struct slab s;

	(void)state;
	slab_init(&s);
	for (unsigned i = 0; i < 2 * SLAB_N_REGIONS; i++)
		slab_free(&s, slab_zalloc(&s, SLAB_OBJECT_MAX + 1), SLAB_OBJECT_MAX + 1);
	void *p = slab_alloc(&s, SLAB_OBJECT_MAX + 1);
	assert_non_null(p);
	slab_free(&s, p, SLAB_OBJECT_MAX + 1);
	slab_deinit(&s);
}

static void what_stays_for_the_next_one_is_trimmed(void **state)
{
	struct slab s;

	(void)state;
	slab_init(&s);
	for (size_t size = 1; size <= SLAB_OBJECT_MAX; size++)
		slab_free(&s, slab_zalloc(&s, size), size);
	assert_int_equal(slab_used(&s), 0);
	slab_trim(&s);
	assert_int_equal(slab_bytes(), 0);
	assert_int_equal(slab_holes(&s), 0);
	fill(&s, &objects[0], 24, 1);
	slab_trim(&s);
	drop(&s, &objects[0]);
	slab_deinit(&s);
	assert_int_equal(slab_bytes(), 0);
}

static void without_memory_there_is_none(void **state)
{
	static const size_t sizes[] = { 8, SLAB_OBJECT_MAX, SLAB_OBJECT_MAX + 1 };
	struct slab s;

	(void)state;
	slab_init(&s);
	for (size_t i = 0; i < ELEMENTS(sizes); i++) {
		alloc_fail_at(2);		/* the first is slab_alloc() itself */
		void *p = slab_zalloc(&s, sizes[i]);
		assert_int_equal(alloc_fail_stop(), 2);
		assert_null(p);
	}
	slab_free(&s, NULL, 8);
	slab_deinit(&s);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(objects_do_not_overlap),
		cmocka_unit_test(small_objects_take_what_is_in_them),
		cmocka_unit_test(what_was_given_back_is_used_again),
		cmocka_unit_test(starting_over_closes_the_holes),
		cmocka_unit_test(each_object_is_found_by_its_number),
		cmocka_unit_test(numbers_of_regions_are_given_again),
		cmocka_unit_test(what_stays_for_the_next_one_is_trimmed),
		cmocka_unit_test(without_memory_there_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

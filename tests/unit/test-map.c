#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"

struct item {
	struct map_link link;
	char key[16];
};

static void entries_are_found_until_removed(void **state)
{
	enum { N = 1000 };
	static struct item items[N];
	struct map m;

	(void)state;
	map_init(&m);
	for (int i = 0; i < N; i++) {
		snprintf(items[i].key, sizeof(items[i].key), "key-%d", i);
		assert_int_equal(map_add(&m, &items[i].link, items[i].key, strlen(items[i].key)), 0);
	}
	assert_int_equal(m.n, N);
	for (int i = 0; i < N; i += 2)
		map_remove(&m, &items[i].link);
	for (int i = 0; i < N; i++) {
		struct map_link *l = map_find_str(&m, items[i].key);

		assert_ptr_equal(l, i % 2 ? &items[i].link : NULL);
	}
	map_deinit(&m);
}

static void a_key_is_there_once(void **state)
{
	struct item a = { .key = "x" }, b = { .key = "x" };
	struct map m;

	(void)state;
	map_init(&m);
	assert_int_equal(map_add(&m, &a.link, a.key, 1), 0);
	assert_int_equal(map_add(&m, &b.link, b.key, 1), -EEXIST);
	assert_null(map_find(&m, "xy", 2));
	map_deinit(&m);
}

static void iteration_allows_removal(void **state)
{
	static struct item items[100];
	struct map m;
	size_t n = 0;

	(void)state;
	map_init(&m);
	for (int i = 0; i < 100; i++) {
		snprintf(items[i].key, sizeof(items[i].key), "%d", i);
		assert_int_equal(map_add(&m, &items[i].link, items[i].key, strlen(items[i].key)), 0);
	}
	map_for_each(l, &m) {
		map_remove(&m, l);
		n++;
	}
	assert_int_equal(n, 100);
	assert_int_equal(m.n, 0);
	map_deinit(&m);
}

static void an_empty_map_holds_nothing(void **state)
{
	struct map m;

	(void)state;
	map_init(&m);
	assert_null(map_find_str(&m, "x"));
	assert_null(map_next(&m, NULL));
	map_deinit(&m);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries_are_found_until_removed),
		cmocka_unit_test(a_key_is_there_once),
		cmocka_unit_test(iteration_allows_removal),
		cmocka_unit_test(an_empty_map_holds_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "lib/unit.h"

#include <errno.h>

#include "base/glob.h"
#include "base/units.h"

static void durations_are_read_and_written(void **state)
{
	static const struct { const char *text; uint64_t ms; } good[] = {
		{ "0", 0 }, { "250ms", 250 }, { "10s", 10000 }, { "1h30m", 5400000 }, { "7d", 604800000 }, { "1d2h3m4s5ms", 93784005 },
	};
	static const char *const bad[] = { "", "10", "s", "1x", "1s1h", "1s1s", "-1s", "1.5s", " 1s", "1s ", "1sm" };
	char text[UNITS_TEXT_LEN];
	uint64_t ms;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(good); i++) {
		assert_int_equal(duration_parse(good[i].text, &ms), 0);
		assert_int_equal(ms, good[i].ms);
		assert_string_equal(duration_format(ms, text), good[i].text);
	}
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(duration_parse(bad[i], &ms), -EINVAL);
	assert_int_equal(duration_parse("999999999999999999999s", &ms), -ERANGE);
	assert_int_equal(duration_parse("18446744073709551615d", &ms), -ERANGE);
	duration_format(UINT64_MAX, text);
}

static void sizes_are_read_and_written(void **state)
{
	static const struct { const char *text; uint64_t bytes; } good[] = {
		{ "0", 0 }, { "512", 512 }, { "64KiB", 65536 }, { "4MiB", 4 << 20 }, { "2GiB", 2147483648 },
	};
	static const char *const bad[] = { "", "K", "1k", "1KB", "-1", "1.5M", "1 M" };
	char text[UNITS_TEXT_LEN];
	uint64_t v;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(good); i++) {
		assert_int_equal(size_parse(good[i].text, &v), 0);
		assert_int_equal(v, good[i].bytes);
		assert_string_equal(size_format(v, text), good[i].text);
	}
	assert_int_equal(size_parse("3M", &v), 0);
	assert_int_equal(v, 3 << 20);
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(size_parse(bad[i], &v), -EINVAL);
	assert_int_equal(size_parse("18446744073709551615G", &v), -ERANGE);
}

static void globs_match_as_a_shell_would(void **state)
{
	static const struct { const char *pattern, *text; bool match; } cases[] = {
		{ "", "", true }, { "", "a", false }, { "*", "", true }, { "*", "abc", true }, { "a*", "abc", true },
		{ "*c", "abc", true }, { "a*c", "abc", true }, { "a*b", "abc", false }, { "a?c", "abc", true }, { "a?", "a", false },
		{ "*a*b*", "xxaxxbxx", true }, { "*a*b*", "xxbxxaxx", false }, { "**", "x", true }, { "abc", "abc", true },
		{ "abc", "ab", false }, { "ab", "abc", false }, { "*ab", "aab", true }, { "orders-*", "orders-2", true },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++)
		assert_int_equal(glob_match(cases[i].pattern, cases[i].text), cases[i].match);
	assert_true(glob_is_pattern("a*"));
	assert_false(glob_is_pattern("abc"));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(durations_are_read_and_written),
		cmocka_unit_test(sizes_are_read_and_written),
		cmocka_unit_test(globs_match_as_a_shell_would),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

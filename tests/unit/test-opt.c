#include "lib/unit.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include "base/opt.h"

struct target {
	bool json;
	bool verbose;
	const char *name;
	unsigned count;
	unsigned n_calls;
};

static int on_call(void *target, const char *value, struct diag *reterr_diag)
{
	struct target *t = target;

	if (!strcmp(value, "bad"))
		return diag_set(reterr_diag, "'%s' is bad", value);
	t->n_calls++;
	return 0;
}

static const struct opt opts[] = {
	{ 'j', "json", OPT_FLAG, offsetof(struct target, json), .help = "as JSON" },
	{ 'v', "verbose", OPT_FLAG, offsetof(struct target, verbose), .help = "more" },
	{ 'n', "name", OPT_STR, offsetof(struct target, name), .value = "NAME", .help = "who" },
	{ 0, "count", OPT_UINT, offsetof(struct target, count), .min = 1, .max = 9, .value = "N", .help = "how many" },
	{ 'c', "call", OPT_CALL, .value = "WORD", .help = "calls", .call = on_call },
};

static const struct opt_spec spec = {
	.usage = "test [OPTION]... FILE", .summary = "Tests.", .opts = opts, .n_opts = ELEMENTS(opts),
	.min_args = 0, .max_args = 2,
};

static int parse(const char *line, struct target *t, unsigned *n_args, struct diag *d, char *argv[static 16])
{
	static char copy[256];
	int argc = 0;

	snprintf(copy, sizeof(copy), "test %s", line);
	for (char *word = strtok(copy, " "); word; word = strtok(NULL, " "))
		argv[argc++] = word;
	*t = (struct target){};
	*d = (struct diag){};
	*n_args = 99;
	return opt_parse(&spec, argc, argv, t, n_args, d);
}

static void options_and_words_may_be_mixed(void **state)
{
	struct target t;
	struct diag d;
	unsigned n;
	char *argv[16];

	(void)state;
	assert_int_equal(parse("one -jv --name=x --count 3 two -c a --call=b", &t, &n, &d, argv), 0);
	assert_true(t.json && t.verbose);
	assert_string_equal(t.name, "x");
	assert_int_equal(t.count, 3);
	assert_int_equal(t.n_calls, 2);
	assert_int_equal(n, 2);
	assert_string_equal(argv[1], "one");
	assert_string_equal(argv[2], "two");
}

static void a_value_may_stick_to_its_letter(void **state)
{
	struct target t;
	struct diag d;
	unsigned n;
	char *argv[16];

	(void)state;
	assert_int_equal(parse("-jnbob -- -x", &t, &n, &d, argv), 0);
	assert_string_equal(t.name, "bob");
	assert_int_equal(n, 1);
	assert_string_equal(argv[1], "-x");
}

static void what_is_wrong_is_quoted(void **state)
{
	static const struct { const char *line, *msg; } rows[] = {
		{ "--nonsense", "no such option: '--nonsense'" },
		{ "--", "" },
		{ "-jx", "no such option: '-x' in '-jx'" },
		{ "--name", "--name needs a value" },
		{ "-n", "-n needs a value" },
		{ "--json=yes", "--json takes no value: '--json=yes'" },
		{ "--count 0", "--count: 0 is not within 1 to 9" },
		{ "--count 10", "--count: 10 is not within 1 to 9" },
		{ "--count -1", "--count: '-1' is not a number" },
		{ "--count 1x", "--count: '1x' is not a number" },
		{ "--count 99999999999999999999", "--count: 99999999999999999999 is not within 1 to 9" },
		{ "--call bad", "--call: 'bad' is bad" },
		{ "a b c", "too many arguments: 'c'" },
	};
	struct target t;
	struct diag d;
	unsigned n;
	char *argv[16];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		int r = parse(rows[i].line, &t, &n, &d, argv);

		assert_int_equal(r, rows[i].msg[0] ? -EINVAL : 0);
		assert_string_equal(d.msg, rows[i].msg);
	}
}

static void help_lists_every_row(void **state)
{
	char text[2048] = {};
	FILE *f = fmemopen(text, sizeof(text) - 1, "w");
	struct target t;
	struct diag d;
	unsigned n;
	char *argv[16];

	(void)state;
	assert_int_equal(parse("-j --help", &t, &n, &d, argv), OPT_E_HELP);
	opt_help(&spec, f);
	fclose(f);
	assert_non_null(strstr(text, "Usage: test [OPTION]... FILE\n\nTests.\n"));
	assert_non_null(strstr(text, "  -n, --name=NAME             who\n"));
	assert_non_null(strstr(text, "      --count=N               how many\n"));
	assert_non_null(strstr(text, "  -h, --help "));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_and_words_may_be_mixed),
		cmocka_unit_test(a_value_may_stick_to_its_letter),
		cmocka_unit_test(what_is_wrong_is_quoted),
		cmocka_unit_test(help_lists_every_row),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

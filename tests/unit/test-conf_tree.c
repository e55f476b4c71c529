#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/conf_tree.h"

static const char sample[] =
	"# a comment\n"
	"base: &b {x: 1, y: [a, 'b']}\n"
	"copy: *b\n"
	"none: ~\n"
	"word: 'null'\n"
	"text: |\n"
	"  two\n"
	"  lines\n";

static void a_document_becomes_a_tree_with_lines(void **state)
{
	struct conf_node *root;
	struct diag d;

	(void)state;
	assert_int_equal(conf_tree_parse("f", sample, strlen(sample), &root, &d), 0);
	const struct conf_node *copy = conf_node_get(root, "copy");
	assert_int_equal(copy->line, 3);
	assert_int_equal(copy->kind, CONF_NODE_MAP);
	assert_string_equal(conf_node_get(copy, "x")->text, "1");
	const struct conf_node *y = conf_node_get(copy, "y");
	assert_string_equal(y->children->text, "a");
	assert_false(y->children->quoted);
	assert_true(y->children->next->quoted);
	assert_null(y->children->next->next);
	assert_true(conf_node_is_null(conf_node_get(root, "none")));
	assert_false(conf_node_is_null(conf_node_get(root, "word")));
	assert_string_equal(conf_node_get(root, "text")->text, "two\nlines\n");
	assert_null(conf_node_get(root, "absent"));
	conf_tree_free(root);
}

static void an_empty_document_is_an_empty_map(void **state)
{
	static const char *const texts[] = { "", "\n# nothing\n", "---\n", "~" };
	struct conf_node *root;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(texts); i++) {
		assert_int_equal(conf_tree_parse("f", texts[i], strlen(texts[i]), &root, NULL), 0);
		assert_int_equal(root->kind, CONF_NODE_MAP);
		assert_null(root->children);
		conf_tree_free(root);
	}
}

static void bad_documents_are_refused_with_their_line(void **state)
{
	static const struct {
		const char *text;
		unsigned line;
		const char *part;
	} cases[] = {
		{ "a: 1\nb: 2\na: 3\n", 3, "'a' is there twice, first in line 1" },
		{ "a: *x\n", 1, "there is no anchor 'x' above" },
		{ "a: &x {b: *x}\n", 1, "'x' contains itself" },
		{ "a: 1\n--- \nb: 2\n", 3, "a second document" },
		{ "a: 1\n? [b]\n: 2\n", 2, "the key of a map must be a plain word" },
		{ "a: !!python/object:os.system ls\n", 1, "" },
		{ "a: !own x\n", 1, "tags are not supported" },
		{ "a: 1\nb: [1, 2\nc: 3\n", 3, "" },
		{ "a:\n\t- 1\n", 2, "" },
		{ "a: \"\\0\"\n", 1, "a zero byte in a value" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		struct conf_node *root = NULL;
		struct diag d = {};
		int r = conf_tree_parse("f", cases[i].text, strlen(cases[i].text), &root, &d);

		if (r == 0) {		/* a standard tag with an odd name is only a name */
			conf_tree_free(root);
			assert_int_equal(cases[i].part[0], 0);
			continue;
		}
		assert_int_equal(r, -EINVAL);
		assert_int_equal(d.line, cases[i].line);
		assert_non_null(strstr(d.msg, cases[i].part));
	}
}

static void depth_is_bounded(void **state)
{
	char text[200];
	struct conf_node *root;
	struct diag d = {};

	(void)state;
	memset(text, '[', 100);
	memset(text + 100, ']', 100);
	assert_int_equal(conf_tree_parse("f", text, sizeof(text), &root, &d), -EINVAL);
	assert_string_equal(d.msg, "nested deeper than 32 levels");
}

static void a_billion_laughs_are_not_laughed(void **state)
{
	char text[4096] = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
	struct conf_node *root;
	struct diag d = {};

	(void)state;
	for (int i = 1; i < 10; i++) {
		size_t len = strlen(text);
		snprintf(text + len, sizeof(text) - len, "a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i, i,
			 i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
	}
	assert_int_equal(conf_tree_parse("f", text, strlen(text), &root, &d), -EINVAL);
	assert_string_equal(d.msg, "more than 500000 values");
}

static void every_truncation_is_a_tree_or_a_refusal(void **state)
{
	(void)state;
	for (size_t i = 0; i <= strlen(sample); i++) {
		struct conf_node *root = NULL;
		struct diag d = {};
		char *copy = malloc(i ? i : 1);

		memcpy(copy, sample, i);	/* so that a sanitizer sees a read behind the end */
		int r = conf_tree_parse("f", copy, i, &root, &d);
		assert_true(r == 0 || (r == -EINVAL && d.msg[0] && d.line));
		conf_tree_free(root);
		free(copy);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_document_becomes_a_tree_with_lines),
		cmocka_unit_test(an_empty_document_is_an_empty_map),
		cmocka_unit_test(bad_documents_are_refused_with_their_line),
		cmocka_unit_test(depth_is_bounded),
		cmocka_unit_test(a_billion_laughs_are_not_laughed),
		cmocka_unit_test(every_truncation_is_a_tree_or_a_refusal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "lib/unit.h"

#include <string.h>
#include "base/defs.h"
#include "base/utf8.h"

static void what_cannot_be_shown_is_escaped(void **state)
{
	static const struct { const char *in, *out; } rows[] = {
		{ "plain", "plain" }, { "", "" }, { "tab\there", "tab\\009here" }, { "\x7f", "\\127" },
		{ "Bill\xc3\xa9", "Bill\xc3\xa9" }, { "\xe2\x82\xac", "\xe2\x82\xac" }, { "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80" },
		{ "\xc0\xaf", "\\192\\175" }, { "\xc2\x85", "\\194\\133" }, { "\xe0\x80\xaf", "\\224\\128\\175" },
		{ "\xed\xa0\x80", "\\237\\160\\128" }, { "\xe2\x80\xa8", "\\226\\128\\168" }, { "\xf0\x80\x80\xaf", "\\240\\128\\128\\175" },
		{ "\xf4\x90\x80\x80", "\\244\\144\\128\\128" }, { "\xf5\x80\x80\x80", "\\245\\128\\128\\128" },
		{ "\xc3", "\\195" }, { "\xe2\x82", "\\226\\130" }, { "\xf0\x9f\x98", "\\240\\159\\152" }, { "\x80", "\\128" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		char text[64];

		assert_int_equal(utf8_clean(rows[i].in, strlen(rows[i].in), text, sizeof(text)), strlen(rows[i].out));
		assert_string_equal(text, rows[i].out);
		assert_int_equal(utf8_is_clean(rows[i].in, strlen(rows[i].in)), !strcmp(rows[i].in, rows[i].out));
		assert_true(utf8_is_clean(text, strlen(text)));
	}
}

static void text_is_cut_between_characters(void **state)
{
	static const char euros[] = "\xe2\x82\xac\xe2\x82\xac";
	char text[8];

	(void)state;
	for (size_t size = 1; size <= sizeof(text); size++) {
		size_t len = utf8_clean(euros, 6, text, size);

		assert_int_equal(len, (size - 1) / 3 * 3);
		assert_int_equal(strlen(text), len);
	}
	assert_int_equal(utf8_clean("\n", 1, text, 4), 0);
	assert_int_equal(utf8_clean("\n", 1, text, 5), 4);
}

static void json_commands_no_terminal(void **state)
{
	static const char *const rows[][2] = {
		{ "", "" }, { "{\"a\": 1}\n", "{\"a\": 1}\n" }, { "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"", "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"" },
		{ "\"\x7f\"", "\"\\u007f\"" }, { "\"a\xc2\x9b" "31m\xc2\xa0\"", "\"a\\u009b31m\xc2\xa0\"" }, { "\"\xc2\x80\xc2\x9f\"", "\"\\u0080\\u009f\"" },
		{ "\"\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa\"", "\"\\u2028\\u2029\xe2\x80\xaa\"" }, { "\xc2", "\xc2" }, { "\xe2\x80", "\xe2\x80" },
	};

	(void)state;
	assert_null(utf8_json(NULL));
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		char *text = utf8_json(strdup(rows[i][0]));

		assert_string_equal(text, rows[i][1]);
		free(text);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_cannot_be_shown_is_escaped),
		cmocka_unit_test(text_is_cut_between_characters),
		cmocka_unit_test(json_commands_no_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

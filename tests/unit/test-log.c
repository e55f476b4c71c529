#include "base/log.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/unit.h"

/* What one call writes to standard error. */
static void written(const char *value, char *line, size_t size)
{
	int fds[2], err = dup(STDERR_FILENO);
	ssize_t n;

	assert_true(err >= 0);
	assert_int_equal(pipe(fds), 0);
	assert_true(dup2(fds[1], STDERR_FILENO) >= 0);
	log_info("said", log_str("by", value));
	assert_true(dup2(err, STDERR_FILENO) >= 0);
	close(err);
	close(fds[1]);
	n = read(fds[0], line, size - 1);
	assert_true(n > 0);
	line[n] = '\0';
	close(fds[0]);
}

/* A reader's terminal obeys U+009B as it obeys ESC [, and a journal ends at what is not UTF-8. */
static void a_peer_cannot_command_a_terminal(void **state)
{
	static const struct { const char *value, *plain, *json; } rows[] = {
		{ "caf\xc3\xa9", " by=caf\xc3\xa9\n", ",\"by\":\"caf\xc3\xa9\"}\n" },
		{ "a\x08" "b", " by=\"a\\u0008b\"\n", ",\"by\":\"a\\u0008b\"}\n" },
		{ "a\x7f", " by=\"a\\u007f\"\n", ",\"by\":\"a\\u007f\"}\n" },
		{ "a\xc2\x9b" "2J", " by=\"a\\u00c2\\u009b2J\"\n", ",\"by\":\"a\\u00c2\\u009b2J\"}\n" },
		{ "a\xff\n", " by=\"a\\u00ff\\u000a\"\n", ",\"by\":\"a\\u00ff\\u000a\"}\n" },
		{ "a \"b\" \\", " by=\"a \\\"b\\\" \\\\\"\n", ",\"by\":\"a \\\"b\\\" \\\\\"}\n" },
		{ "", " by=\"\"\n", ",\"by\":\"\"}\n" },
	};
	char line[512];

	(void)state;
	for (int json = 0; json < 2; json++) {
		log_setup("test", LOG_L_INFO, json);
		for (size_t i = 0; i < ELEMENTS(rows); i++) {
			const char *want = json ? rows[i].json : rows[i].plain;

			written(rows[i].value, line, sizeof(line));
			assert_true(strlen(line) > strlen(want));
			assert_string_equal(line + strlen(line) - strlen(want), want);
		}
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_peer_cannot_command_a_terminal),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

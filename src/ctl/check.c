/*
 * outrigger check: what is wrong with an installation.
 */
#include <stdio.h>
#include <string.h>

#include "ctl/commands.h"
#include "ctl/show.h"

static void print_check(const json_t *check, const char **section)
{
	const char *in = json_string_value(json_object_get(check, "section"));
	bool ok = json_is_true(json_object_get(check, "ok"));
	bool fatal = json_is_true(json_object_get(check, "fatal"));
	char what[TABLE_CELL_LEN], text[512];

	if (in && (!*section || strcmp(in, *section))) {
		printf("%s%s\n", *section ? "\n" : "", in);
		*section = in;
	}
	table_text(json_object_get(check, "what"), what, sizeof(what));
	printf("  %s %s\n", ok ? "√" : fatal ? "×" : "‼", what);
	if (ok)
		return;
	table_text(json_object_get(check, "found"), text, sizeof(text));
	if (strcmp(text, "-"))
		printf("      found: %s\n", text);
	table_text(json_object_get(check, "hint"), text, sizeof(text));
	if (strcmp(text, "-"))
		printf("      hint:  %s\n", text);
}

static int run(int argc, char **argv)
{
	static const struct show_spec spec = {
		.usage = "outrigger check [OPTION]...",
		.summary = "Finds what is wrong with an installation.",
		.details = "√ is fine, ‼ is a warning, × does not work. Exit code 1 when anything does not work.",
	};
	const char *section = NULL;
	struct show s;
	int r = show_options(&spec, argc, argv, &s);

	if (r >= 0)
		return r;

	json_t *json = show_get(&s, argv[0], "/v1/check");
	if (!json)
		return COMMAND_FAILED;
	r = json_is_true(json_object_get(json, "ok")) ? COMMAND_OK : COMMAND_FAILED;
	if (s.target.json) {
		show_json(json);
	} else {
		size_t i;
		json_t *check;

		json_array_foreach(json_object_get(json, "checks"), i, check)
			print_check(check, &section);
		printf("\n%s\n", r == COMMAND_OK ? "Everything that must work does." : "Something does not work: see ×.");
	}
	json_decref(json);
	return r;
}

const struct command command_check = { "check", "what is wrong with an installation", run };

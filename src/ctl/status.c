/*
 * outrigger status: one screen about this NIC, or about the mesh.
 */
#include <stdint.h>
#include <stdio.h>

#include "ctl/commands.h"
#include "ctl/show.h"

/* Objects become "key.key: value" lines, so that both programs' status reads well without a second list of keys. */
static void print_members(const json_t *object, const char *prefix)
{
	char text[TABLE_CELL_LEN], name[96];
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value) {
		snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? " " : "", key);
		for (char *c = name; *c; c++)
			if (*c == '_')
				*c = ' ';
		if (json_is_object(value)) {
			print_members(value, name);
			continue;
		}
		table_text(value, text, sizeof(text));
		printf("%-28s%s\n", name, text);
	}
}

static int run(int argc, char **argv)
{
	static const struct show_spec spec = {
		.usage = "outrigger status [OPTION]...",
		.summary = "Shows how this NIC's agent, or the controller, is doing.",
	};
	struct show s;
	int r = show_options(&spec, argc, argv, &s);

	if (r >= 0)
		return r;

	json_t *json = show_get(&s, argv[0], "/v1/status");
	if (!json)
		return COMMAND_FAILED;
	r = COMMAND_OK;
	if (s.target.json)
		r = show_json(json);
	else
		print_members(json, "");
	json_decref(json);
	return r;
}

const struct command command_status = { "status", "how the agent, or the controller, is doing", run };

/*
 * outrigger roots: the mesh's trust roots, which agents are given.
 */
#include <stdio.h>

#include "base/opt.h"
#include "ctl/commands.h"
#include "ctl/show.h"

static int run(int argc, char **argv)
{
	static const struct show_spec spec = {
		.usage = "outrigger roots [OPTION]...",
		.summary = "Prints the mesh's trust roots (PEM), as the controller has them.",
		.details = "Agents and sidecars need them in a file to know their controller by.",
	};
	struct show s;
	int r = show_options(&spec, argc, argv, &s);

	if (r >= 0)
		return r;
	s.from_controller = true;

	json_t *json = show_get(&s, argv[0], "/v1/roots");
	if (!json)
		return COMMAND_FAILED;
	const char *pem = json_string_value(json_object_get(json, "roots_pem"));
	r = pem ? COMMAND_OK : COMMAND_FAILED;
	if (s.target.json)
		r = show_json(json);
	else
		fputs(pem ? pem : "", stdout);
	json_decref(json);
	return r;
}

const struct command command_roots = { "roots", "the mesh's trust roots", run };

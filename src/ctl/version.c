/*
 * outrigger version
 */
#include <stdio.h>
#include "base/opt.h"
#include "ctl/command.h"
#include "ctl/commands.h"

static int run(int argc, char **argv)
{
	static const struct opt_spec spec = {
		.usage = "outrigger version", .summary = "Prints the version.",
	};
	unsigned n_args;
	int r = command_options(&spec, argc, argv, NULL, &n_args);

	if (r >= 0)
		return r;
	printf("outrigger %s\n", OUTRIGGER_VERSION);
	return COMMAND_OK;
}

const struct command command_version = { "version", "print the version", run };

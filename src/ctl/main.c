/*
 * outrigger, the command: finds the row of the word that it was called with.
 */
#include <stdio.h>
#include <string.h>
#include "base/defs.h"
#include "base/opt.h"
#include "ctl/command.h"
#include "ctl/commands.h"

/* Sorted by name; the list of --help. */
static const struct command *const commands[] = {
	&command_check,
	&command_decode,
	&command_demo,
	&command_envoy,
	&command_explain,
	&command_guests,
	&command_proxies,
	&command_roots,
	&command_services,
	&command_status,
	&command_token,
	&command_version,
};

int command_options(const struct opt_spec *spec, int argc, char **argv, void *target, unsigned *ret_n_args)
{
	struct diag diag = {};
	char text[DIAG_TEXT_LEN];
	int r = opt_parse(spec, argc, argv, target, ret_n_args, &diag);

	if (r == OPT_E_HELP) {
		opt_help(spec, stdout);
		return COMMAND_OK;
	}
	if (r < 0) {
		fprintf(stderr, "outrigger %s: %s\n", argv[0], diag_format(&diag, text));
		return COMMAND_USAGE;
	}
	return -1;
}

static void print_help(FILE *to)
{
	fprintf(to, "Usage: outrigger COMMAND [OPTION]...\n\nA service mesh for virtual machines, from outside of them.\n\nCommands:\n");
	for (size_t i = 0; i < ELEMENTS(commands); i++)
		fprintf(to, "  %-14s%s\n", commands[i]->name, commands[i]->summary);
	fprintf(to, "\n'outrigger COMMAND --help' tells more. Exit codes: 0 done, 1 failed, 2 wrong usage.\n");
}

int main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : NULL;

	if (!word) {
		print_help(stderr);
		return COMMAND_USAGE;
	}
	if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help")) {
		print_help(stdout);
		return COMMAND_OK;
	}
	if (!strcmp(word, "--version"))
		word = "version";
	for (size_t i = 0; i < ELEMENTS(commands); i++)
		if (!strcmp(commands[i]->name, word))
			return commands[i]->run(argc - 1, argv + 1);
	fprintf(stderr, "outrigger: no such command: '%s'; 'outrigger --help' lists them\n", word);
	return COMMAND_USAGE;
}

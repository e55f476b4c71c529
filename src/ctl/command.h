#pragma once

/*
 * A command of `outrigger`: one file, one row in main.c.
 */
struct command {
	const char *name;
	const char *summary;	/* for the list of commands: a phrase without a full stop */
	int (*run)(int argc, char **argv);	/* @argv[0] is the command's name; returns the exit code */
};

enum {
	COMMAND_OK,
	COMMAND_FAILED = 1,	/* it did not work, and why was said on standard error */
	COMMAND_USAGE = 2,	/* the command line is wrong */
};

struct opt_spec;

/*
 * opt_parse() for a command: prints --help or what is wrong. Returns -1 to go
 * on, else the exit code to leave with.
 */
int command_options(const struct opt_spec *spec, int argc, char **argv, void *target, unsigned *ret_n_args);

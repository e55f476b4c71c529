#pragma once
#include <stdbool.h>
#include "ctl/envoy_bootstrap.h"

/*
 * What `outrigger envoy` is told by its user.
 */
struct envoy_options {			/* texts are @argv's */
	struct envoy_config config;	/* as far as it is given: defaults are found later */
	const char *roots_file;
	const char *token_file;
	const char *token_env;
	const char *dir_path;
	const char *program;
	bool bootstrap_only;
	char **args;			/* for Envoy */
	unsigned n_args;
};

/* As command_options(): -1 to go on, else the exit code to leave with; what is wrong is on standard error then. */
int envoy_options_parse(int argc, char **argv, struct envoy_options *ret_options);

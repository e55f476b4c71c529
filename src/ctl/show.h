#pragma once
#include <jansson.h>
#include "ctl/client.h"
#include "ctl/command.h"
#include "ctl/table.h"

/*
 * What status, guests, services, proxies, explain and check have in common:
 * options, whom to ask, and printing what came.
 */
struct show {
	struct client_target target;
	bool from_controller;	/* --controller was given: the whole mesh, not one NIC */
	const char *argument;	/* the word behind the options, or NULL */
	const char *second;	/* the one behind it */
};

struct show_spec {
	const char *usage;
	const char *summary;
	const char *details;	/* or NULL */
	unsigned min_args, max_args;
};

/* Parses the options; as command_options(): -1 to go on, else the exit code. */
int show_options(const struct show_spec *spec, int argc, char **argv, struct show *ret_show);

/* GET @path from the one that was asked for; NULL after the error was printed. */
json_t *show_get(const struct show *s, const char *command, const char *path);

/* Prints JSON as it is. Returns the exit code. */
int show_json(const json_t *json);

/* Asks for @path and prints the array @key as a table, or all as JSON. Returns the exit code. */
int show_rows(const struct show *s, const char *command, const char *path, const char *key, const struct table_column *columns);

/* A whole command: a table out of the array @key. */
int show_table(const struct show_spec *spec, int argc, char **argv, const char *path, const char *key, const struct table_column *columns);

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include "base/defs.h"
#include "base/diag.h"

/*
 * Command line options as a table: parsed into a struct, --help printed from
 * the same rows. "--name VALUE", "--name=VALUE", "-n VALUE", "-nVALUE", flags
 * bundled ("-jv"), "--" ends the options; words that are no options may stand
 * anywhere between them.
 */
enum opt_type {
	OPT_FLAG,	/* bool, becomes true */
	OPT_STR,	/* const char *, points into argv */
	OPT_UINT,	/* unsigned, within @min and @max */
	OPT_CALL,	/* @call with the value; may be repeated */
};

struct opt {
	char letter;		/* 0: none */
	const char *name;	/* without dashes; NULL: none */
	enum opt_type type;
	size_t offset;		/* of the member in the target struct */
	unsigned min, max;	/* OPT_UINT; @max 0: no limit */
	const char *value;	/* what --help calls the value; NULL for OPT_FLAG */
	const char *help;
	/* 0, or a negative errno after diag_set(), whose message is put behind the option's name. */
	int (*call)(void *target, const char *value, struct diag *reterr_diag);
};

struct opt_spec {
	const char *usage;	/* "outrigger decode [OPTION]... FILE" */
	const char *summary;	/* one sentence */
	const char *details;	/* more lines for --help, or NULL */
	const struct opt *opts;
	size_t n_opts;
	unsigned min_args, max_args;	/* words that are no options; @max_args UINT_MAX: any number */
};

enum {
	_OPT_E_SUCCESS,

	OPT_E_HELP,	/* --help or -h was among them: print opt_help() and leave with 0 */
};

/*
 * @argv[0] is skipped. The words that are no options are moved to the front:
 * argv[1 .. ret_n_args]. 0, OPT_E_HELP, or -EINVAL with a @reterr_diag that
 * names the offending word.
 */
MUST_CHECK int opt_parse(const struct opt_spec *spec, int argc, char **argv, void *target,
			 unsigned *ret_n_args, struct diag *reterr_diag);
void opt_help(const struct opt_spec *spec, FILE *to);

/* A whole decimal number within the limits, or -EINVAL and a diag that quotes @text. @max 0: no limit. */
MUST_CHECK int opt_uint(const char *text, unsigned min, unsigned max, unsigned *ret_value, struct diag *reterr_diag);

/*
 * The parser behind every program's command line. getopt_long() would do for
 * the parsing, but its messages cannot be caught and its help is another table.
 */
#include "base/opt.h"

#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

struct parse {
	const struct opt_spec *spec;
	int argc;
	char **argv;
	int next;		/* the word to look at */
	void *target;
	bool help;
	struct diag *diag;
};

int opt_uint(const char *text, unsigned min, unsigned max, unsigned *ret_value, struct diag *reterr_diag)
{
	char *end;
	unsigned long v;
	unsigned limit = max ? max : UINT_MAX;

	errno = 0;
	v = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end)
		return diag_set(reterr_diag, "'%s' is not a number", text);
	if (errno || v < min || v > limit)
		return diag_set(reterr_diag, "%s is not within %u to %u", text, min, limit);
	*ret_value = (unsigned)v;
	return 0;
}

/* Puts the option in front of what was wrong with its value. */
static int explain(struct parse *p, const char *word, const struct diag *why)
{
	return diag_set(p->diag, "%s: %s", word, why->msg);
}

static int set(struct parse *p, const struct opt *o, const char *word, const char *value)
{
	void *member = (char *)p->target + o->offset;
	struct diag why = {};
	int r = 0;

	switch (o->type) {
	case OPT_FLAG:
		*(bool *)member = true;
		break;
	case OPT_STR:
		*(const char **)member = value;
		break;
	case OPT_UINT:
		r = opt_uint(value, o->min, o->max, member, &why);
		break;
	case OPT_CALL:
		r = o->call(p->target, value, &why);
		break;
	}
	return r < 0 ? explain(p, word, &why) : 0;
}

static int take_value(struct parse *p, const char *word, const char **ret_value)
{
	if (p->next >= p->argc)
		return diag_set(p->diag, "%s needs a value", word);
	*ret_value = p->argv[p->next++];
	return 0;
}

static int parse_long(struct parse *p, const char *word)
{
	const char *equals = strchr(word, '=');
	size_t len = equals ? (size_t)(equals - word) : strlen(word);

	if (len == 6 && !strncmp(word, "--help", 6)) {
		p->help = true;
		return 0;
	}
	for (size_t i = 0; i < p->spec->n_opts; i++) {
		const struct opt *o = &p->spec->opts[i];
		const char *value = equals ? equals + 1 : NULL;
		int r;

		if (!o->name || strlen(o->name) != len - 2 || strncmp(o->name, word + 2, len - 2))
			continue;
		if (o->type == OPT_FLAG && value)
			return diag_set(p->diag, "--%s takes no value: '%s'", o->name, word);
		if (o->type != OPT_FLAG && !value) {
			r = take_value(p, word, &value);
			if (r < 0)
				return r;
		}
		return set(p, o, word, value);
	}
	return diag_set(p->diag, "no such option: '%s'", word);
}

static int parse_short(struct parse *p, const char *word)
{
	for (const char *c = word + 1; *c; c++) {
		const struct opt *o = NULL;
		const char *value = NULL;
		int r;

		if (*c == 'h') {
			p->help = true;
			continue;
		}
		for (size_t i = 0; i < p->spec->n_opts && !o; i++)
			if (p->spec->opts[i].letter == *c)
				o = &p->spec->opts[i];
		if (!o)
			return diag_set(p->diag, "no such option: '-%c' in '%s'", *c, word);
		if (o->type != OPT_FLAG) {
			if (c[1])
				value = c + 1;
			else if ((r = take_value(p, word, &value)) < 0)
				return r;
		}
		r = set(p, o, word, value);
		if (r < 0 || value)
			return r;
	}
	return 0;
}

static int check_args(const struct parse *p, unsigned n_args)
{
	if (n_args < p->spec->min_args)
		return diag_set(p->diag, "too few arguments; usage: %s", p->spec->usage);
	if (n_args > p->spec->max_args)
		return diag_set(p->diag, "too many arguments: '%s'", p->argv[p->spec->max_args + 1]);
	return 0;
}

int opt_parse(const struct opt_spec *spec, int argc, char **argv, void *target,
	      unsigned *ret_n_args, struct diag *reterr_diag)
{
	struct parse p = { .spec = spec, .argc = argc, .argv = argv, .next = 1, .target = target, .diag = reterr_diag };
	bool only_args = false;
	unsigned n_args = 0;
	int r = 0;

	while (p.next < argc && r == 0) {
		char *word = argv[p.next++];

		if (only_args || word[0] != '-' || !word[1])
			argv[++n_args] = word;
		else if (!strcmp(word, "--"))
			only_args = true;
		else
			r = word[1] == '-' ? parse_long(&p, word) : parse_short(&p, word);
	}
	if (r < 0)
		return r;
	if (p.help)
		return OPT_E_HELP;
	r = check_args(&p, n_args);
	if (r < 0)
		return r;
	*ret_n_args = n_args;
	return 0;
}

enum { HELP_COLUMN = 30 };

static void help_row(const struct opt *o, FILE *to)
{
	char left[128];
	char letter[8] = "    ";

	if (o->letter)
		snprintf(letter, sizeof(letter), "-%c%s", o->letter, o->name ? ", " : "");
	snprintf(left, sizeof(left), "  %s%s%s%s%s", letter, o->name ? "--" : "", o->name ? o->name : "",
		 o->value ? (o->name ? "=" : " ") : "", o->value ? o->value : "");
	if (strlen(left) < HELP_COLUMN)
		fprintf(to, "%-*s%s\n", HELP_COLUMN, left, o->help);
	else
		fprintf(to, "%s\n%*s%s\n", left, HELP_COLUMN, "", o->help);
}

void opt_help(const struct opt_spec *spec, FILE *to)
{
	static const struct opt help = { .letter = 'h', .name = "help", .help = "show this and leave" };

	fprintf(to, "Usage: %s\n\n%s\n\nOptions:\n", spec->usage, spec->summary);
	for (size_t i = 0; i < spec->n_opts; i++)
		help_row(&spec->opts[i], to);
	help_row(&help, to);
	if (spec->details)
		fprintf(to, "\n%s\n", spec->details);
}

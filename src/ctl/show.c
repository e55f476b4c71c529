/*
 * The frame of the commands that show something.
 */
#include "ctl/show.h"

#include <stdio.h>
#include <string.h>

#include "base/opt.h"
#include "base/utf8.h"

static int use_controller(void *target, const char *value, struct diag *reterr_diag)
{
	struct show *s = target;

	(void)reterr_diag;
	s->target.controller = *value ? value : client_controller();
	s->from_controller = true;
	return 0;
}

static const struct opt options[] = {
	{ 'j', "json", OPT_FLAG, offsetof(struct show, target.json), .help = "print JSON" },
	{ 'a', "agent", OPT_STR, offsetof(struct show, target.agent), .value = "SOCKET", .help = "the agent's admin socket (default: $OUTRIGGER_AGENT, /run/outrigger/agent.sock)" },
	{ 'c', "controller", OPT_CALL, .value = "WHERE", .call = use_controller,
	  .help = "ask the controller about the whole mesh: unix:PATH, http://..., https://..., or '' for $OUTRIGGER_CONTROLLER or its usual socket" },
	{ 0, "token", OPT_STR, offsetof(struct show, target.token), .value = "TOKEN", .help = "bearer token for a controller over TCP" },
	{ 0, "ca", OPT_STR, offsetof(struct show, target.ca_file), .value = "FILE", .help = "trust roots (PEM) of an https controller" },
};

int show_options(const struct show_spec *spec, int argc, char **argv, struct show *ret_show)
{
	const struct opt_spec opts = {
		.usage = spec->usage, .summary = spec->summary, .details = spec->details,
		.opts = options, .n_opts = ELEMENTS(options), .min_args = spec->min_args, .max_args = spec->max_args,
	};
	unsigned n_args = 0;

	*ret_show = (struct show){ .target = { .agent = client_agent(), .controller = client_controller() } };

	int r = command_options(&opts, argc, argv, ret_show, &n_args);
	if (r < 0 && n_args)
		ret_show->argument = argv[1];
	if (r < 0 && n_args > 1)
		ret_show->second = argv[2];
	return r;
}

json_t *show_get(const struct show *s, const char *command, const char *path)
{
	const char *to = s->from_controller ? s->target.controller : s->target.agent;
	char text[DIAG_TEXT_LEN];
	struct diag diag = {};
	json_t *json = NULL;

	if (client_call(&s->target, to, "GET", path, NULL, &json, &diag) < 0) {
		fprintf(stderr, "outrigger %s: %s\n", command, diag_format(&diag, text));
		if (!s->from_controller && s->target.agent == client_agent())
			fprintf(stderr, "Is outrigger-agent running here? --agent names another socket, --controller asks the controller.\n");
		return NULL;
	}
	return json;
}

int show_json(const json_t *json)
{
	CLEANUP_FREE char *text = utf8_json(json_dumps(json, JSON_INDENT(2) | JSON_ENCODE_ANY));

	if (!text)
		return COMMAND_FAILED;
	puts(text);
	return fflush(stdout) || ferror(stdout) ? COMMAND_FAILED : COMMAND_OK;
}

int show_rows(const struct show *s, const char *command, const char *path, const char *key, const struct table_column *columns)
{
	json_t *json = show_get(s, command, path);
	const json_t *array = json_object_get(json, key);
	int r = COMMAND_OK;

	if (!json)
		return COMMAND_FAILED;
	if (s->target.json)
		r = show_json(json);
	else if (json_array_size(array))
		table_print(stdout, array, columns);
	else
		printf("No %s.\n", key);
	json_decref(json);
	return r;
}

int show_table(const struct show_spec *spec, int argc, char **argv, const char *path, const char *key, const struct table_column *columns)
{
	struct show s;
	int r = show_options(spec, argc, argv, &s);

	return r >= 0 ? r : show_rows(&s, argv[0], path, key, columns);
}

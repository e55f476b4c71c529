/*
 * outrigger token: join tokens for NICs, workload tokens for containers.
 */
#include <curl/curl.h>
#include <stdio.h>
#include <string.h>

#include "base/opt.h"
#include "ctl/commands.h"
#include "ctl/show.h"

struct options {
	struct client_target target;
	const char *nic;
	const char *workload;
	const char *note;
	unsigned ttl_s;
};

static int call(const struct options *o, const char *method, const char *path, json_t *body, json_t **ret_json)
{
	char text[DIAG_TEXT_LEN];
	struct diag diag = {};
	int r = client_call(&o->target, o->target.controller, method, path, body, ret_json, &diag);

	json_decref(body);
	if (r < 0)
		fprintf(stderr, "outrigger token: %s\n", diag_format(&diag, text));
	return r;
}

static int create_token(const struct options *o, const char *id)
{
	json_t *body = json_object(), *answer = NULL;

	(void)id;
	if (!o->nic == !o->workload) {
		json_decref(body);
		fprintf(stderr, "outrigger token: create needs --nic NAME (for an agent) or --workload NAMESPACE/ACCOUNT (for a container)\n");
		return COMMAND_USAGE;
	}
	json_object_set_new(body, o->nic ? "nic" : "workload", json_string(o->nic ? o->nic : o->workload));
	if (o->ttl_s)
		json_object_set_new(body, "ttl_s", json_integer(o->ttl_s));
	if (o->note)
		json_object_set_new(body, "note", json_string(o->note));
	if (call(o, "POST", "/v1/tokens", body, &answer) < 0)
		return COMMAND_FAILED;
	if (o->target.json)
		show_json(answer);
	else
		printf("%s\n", json_string_value(json_object_get(answer, "token")));
	json_decref(answer);
	return COMMAND_OK;
}

static int list_tokens(const struct options *o, const char *id)
{
	static const struct table_column columns[] = {
		{ "ID", "id" }, { "STATE", "state" }, { "NIC", "nic" }, { "USED BY", "used_by" }, { "NOTE", "note" }, {},
	};
	json_t *answer = NULL;

	(void)id;
	if (call(o, "GET", "/v1/tokens", NULL, &answer) < 0)
		return COMMAND_FAILED;
	if (o->target.json)
		show_json(answer);
	else
		table_print(stdout, json_object_get(answer, "tokens"), columns);
	json_decref(answer);
	return COMMAND_OK;
}

static int revoke_token(const struct options *o, const char *id)
{
	json_t *answer = NULL;
	char path[512];

	if (!id) {
		fprintf(stderr, "outrigger token: revoke needs the token's id; 'outrigger token list' shows it\n");
		return COMMAND_USAGE;
	}
	char *escaped = curl_easy_escape(NULL, id, 0);
	snprintf(path, sizeof(path), "/v1/tokens/%s", escaped ? escaped : "");
	curl_free(escaped);
	if (call(o, "DELETE", path, NULL, &answer) < 0)
		return COMMAND_FAILED;
	json_decref(answer);
	printf("revoked %s\n", id);
	return COMMAND_OK;
}

static int run(int argc, char **argv)
{
	static const struct opt opts[] = {
		{ 'n', "nic", OPT_STR, offsetof(struct options, nic), .value = "NAME", .help = "create: a join token for the agent of this NIC, good for one use" },
		{ 'w', "workload", OPT_STR, offsetof(struct options, workload), .value = "NAMESPACE/ACCOUNT",
		  .help = "create: a token with which a container's sidecar gets its certificate" },
		{ 0, "ttl", OPT_UINT, offsetof(struct options, ttl_s), .min = 1, .max = 31536000, .value = "SECONDS", .help = "create: how long it is good (default: an hour)" },
		{ 0, "note", OPT_STR, offsetof(struct options, note), .value = "TEXT", .help = "create: for whom, for the list" },
		{ 'j', "json", OPT_FLAG, offsetof(struct options, target.json), .help = "print JSON" },
		{ 'c', "controller", OPT_STR, offsetof(struct options, target.controller), .value = "WHERE",
		  .help = "unix:PATH, http://... or https://... (default: $OUTRIGGER_CONTROLLER, unix:/run/outrigger/controller.sock)" },
		{ 0, "token", OPT_STR, offsetof(struct options, target.token), .value = "TOKEN", .help = "bearer token for a controller over TCP" },
		{ 0, "ca", OPT_STR, offsetof(struct options, target.ca_file), .value = "FILE", .help = "trust roots (PEM) of an https controller" },
	};
	static const struct opt_spec spec = {
		.usage = "outrigger token [OPTION]... create|list|revoke [ID]",
		.summary = "Makes, lists and revokes the tokens with which NICs join.",
		.opts = opts, .n_opts = ELEMENTS(opts), .min_args = 1, .max_args = 2,
	};
	static const struct {
		const char *word;
		int (*run)(const struct options *o, const char *id);
	} verbs[] = { { "create", create_token }, { "list", list_tokens }, { "revoke", revoke_token } };
	struct options o = { .target = { .controller = client_controller() } };
	unsigned n_args = 0;
	int r = command_options(&spec, argc, argv, &o, &n_args);

	if (r >= 0)
		return r;
	for (size_t i = 0; i < ELEMENTS(verbs); i++)
		if (!strcmp(argv[1], verbs[i].word))
			return verbs[i].run(&o, n_args > 1 ? argv[2] : NULL);
	fprintf(stderr, "outrigger token: '%s' is none of create, list, revoke\n", argv[1]);
	return COMMAND_USAGE;
}

const struct command command_token = { "token", "tokens with which NICs and containers join", run };

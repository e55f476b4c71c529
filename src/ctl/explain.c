/*
 * outrigger explain: the chain from a packet to a proxy, with its evidence.
 */
#include <curl/curl.h>
#include <stdio.h>

#include "ctl/commands.h"
#include "ctl/show.h"

static void print_chain(const json_t *chain)
{
	char at[TABLE_CELL_LEN], step[TABLE_CELL_LEN], text[1024];
	size_t i;
	json_t *link;

	json_array_foreach(chain, i, link) {
		table_ms(json_object_get(link, "at_ms"), at, sizeof(at));
		table_text(json_object_get(link, "step"), step, sizeof(step));
		table_text(json_object_get(link, "text"), text, sizeof(text));
		printf("  %10s  %-10s  %s\n", at, step, text);
	}
}

static void print_instance(const json_t *instance)
{
	static const char *const heads[] = { "instance", "guest", "verdict", "mode", "proxy", "identity" };
	char text[TABLE_CELL_LEN];
	json_t *name;
	size_t i;

	for (i = 0; i < ELEMENTS(heads); i++) {
		table_text(json_object_get(instance, heads[i]), text, sizeof(text));
		printf("%s%s %s", i ? "  " : "", heads[i], text);
	}
	table_text(json_object_get(instance, "canonical_name"), text, sizeof(text));
	printf("\n  canonical name %s", text);
	json_array_foreach(json_object_get(instance, "dns_names"), i, name) {
		table_text(name, text, sizeof(text));
		printf("%s %s", i ? "," : "  reachable as", text);
	}
	printf("\n");
	print_chain(json_object_get(instance, "chain"));
}

static int run(int argc, char **argv)
{
	static const struct show_spec spec = {
		.usage = "outrigger explain [OPTION]... SERVICE",
		.summary = "Says how a service was found and why it was, or was not, given a proxy.",
		.details = "Each line is a step, with the time since the first registration packet.",
		.min_args = 1, .max_args = 1,
	};
	struct show s;
	int r = show_options(&spec, argc, argv, &s);

	if (r >= 0)
		return r;

	char path[2048];
	char *escaped = curl_easy_escape(NULL, s.argument, 0);
	snprintf(path, sizeof(path), "/v1/explain/%s", escaped ? escaped : "");
	curl_free(escaped);

	json_t *json = show_get(&s, argv[0], path);
	if (!json)
		return COMMAND_FAILED;
	r = COMMAND_OK;
	if (s.target.json) {
		r = show_json(json);
	} else {
		size_t i;
		json_t *instance;

		json_array_foreach(json_object_get(json, "instances"), i, instance)
			print_instance(instance);
	}
	json_decref(json);
	return r;
}

const struct command command_explain = { "explain", "how a service was found, and what was decided why", run };

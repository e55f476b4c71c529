/*
 * outrigger proxies: the service proxies of the VMs, and their processes.
 */
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "ctl/commands.h"
#include "ctl/show.h"

enum { WAIT_S = 60 };

static int list_proxies(const struct show *s, const char *group)
{
	static const struct table_column columns[] = {
		{ "GUEST", "guest" }, { "PROCESS", "process" }, { "PID", "pid" }, { "STATE", "state" }, { "IDENTITY", "identity" },
		{ "SERVICES", "services" }, { "CONNECTIONS", "connections" }, { "SENT", "bytes_sent", table_bytes },
		{ "RECEIVED", "bytes_received", table_bytes }, { "DETAIL", "detail" }, {},
	};

	(void)group;
	return show_rows(s, "proxies", "/v1/proxies", "proxies", columns);
}

static int list_processes(const struct show *s, const char *group)
{
	static const struct table_column columns[] = {
		{ "PROCESS", "group" }, { "PID", "pid" }, { "STATE", "state" }, { "SOFTWARE", "software" }, { "OUTDATED", "outdated" },
		{ "GUESTS", "guests" }, { "CONNECTIONS", "connections" }, { "RSS", "rss_bytes", table_bytes }, { "UPGRADE", "upgrade" }, {},
	};

	(void)group;
	return show_rows(s, "proxies", "/v1/processes", "processes", columns);
}

/* --- upgrade --- */

static int call(const struct show *s, const char *method, const char *path, json_t **ret_json)
{
	char text[DIAG_TEXT_LEN];
	struct diag diag = {};
	int r = client_call(&s->target, s->target.agent, method, path, NULL, ret_json, &diag);

	if (r < 0)
		fprintf(stderr, "outrigger proxies: %s\n", diag_format(&diag, text));
	return r;
}

static const char *text_of(const json_t *process, const char *key)
{
	const char *text = json_string_value(json_object_get(process, key));

	return text ? text : "";
}

/* The one that has its VMs: not one that drains or gets ready. */
static json_t *find(json_t *answer, const char *group)
{
	json_t *process;
	size_t i;

	json_array_foreach(json_object_get(answer, "processes"), i, process)
		if (!strcmp(text_of(process, "group"), group) && strcmp(text_of(process, "state"), "draining") &&
		    strcmp(text_of(process, "state"), "getting ready"))
			return process;
	return NULL;
}

static int wait_for(const struct show *s, const char *group)
{
	char said[256] = "running";
	json_t *answer, *process;
	json_int_t pid = 0;

	for (int i = 0; i < 10 * WAIT_S && !strcmp(said, "running"); i++) {
		poll(NULL, 0, 100);
		if (call(s, "GET", "/v1/processes", &answer) < 0)
			return COMMAND_FAILED;
		process = find(answer, group);
		pid = json_integer_value(json_object_get(process, "pid"));
		snprintf(said, sizeof(said), "%s", process ? text_of(process, "upgrade") : "the process is gone");
		json_decref(answer);
	}
	if (strcmp(said, "done")) {
		fprintf(stderr, "outrigger proxies: %s: %s\n", group, said);
		return COMMAND_FAILED;
	}
	printf("%s: process %lld has taken over\n", group, (long long)pid);
	return COMMAND_OK;
}

static int upgrade_one(const struct show *s, const char *group)
{
	json_t *answer = NULL;
	char path[256];

	snprintf(path, sizeof(path), "/v1/processes/%.200s/upgrade", group);
	if (call(s, "POST", path, &answer) < 0)
		return COMMAND_FAILED;
	json_decref(answer);
	return wait_for(s, group);
}

/* One after the other, so that there is memory for one more process, not for as many again. */
static int upgrade(const struct show *s, const char *group)
{
	json_t *answer, *process;
	int r = COMMAND_OK, e;
	size_t i;

	if (group)
		return upgrade_one(s, group);
	if (call(s, "GET", "/v1/processes", &answer) < 0)
		return COMMAND_FAILED;
	json_array_foreach(json_object_get(answer, "processes"), i, process) {
		if (process != find(answer, text_of(process, "group")))
			continue;
		e = upgrade_one(s, text_of(process, "group"));
		r = e ? e : r;
	}
	json_decref(answer);
	return r;
}

static int run(int argc, char **argv)
{
	static const struct show_spec spec = {
		.usage = "outrigger proxies [OPTION]... [processes|upgrade [PROCESS]]",
		.summary = "Lists the service proxies: one a VM, many in one process.",
		.details = "'processes' lists the processes. 'upgrade' replaces one, or all, by the installed program; VMs do not notice.",
		.max_args = 2,
	};
	static const struct {
		const char *word;
		int (*run)(const struct show *s, const char *group);
	} verbs[] = { { "processes", list_processes }, { "upgrade", upgrade } };
	struct show s;
	int r = show_options(&spec, argc, argv, &s);

	if (r >= 0)
		return r;
	if (!s.argument)
		return list_proxies(&s, NULL);
	for (size_t i = 0; i < ELEMENTS(verbs); i++)
		if (!strcmp(s.argument, verbs[i].word))
			return verbs[i].run(&s, s.second);
	fprintf(stderr, "outrigger proxies: '%s' is neither processes nor upgrade\n", s.argument);
	return COMMAND_USAGE;
}

const struct command command_proxies = { "proxies", "the service proxies of the VMs", run };

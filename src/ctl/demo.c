/*
 * outrigger demo: boots real VMs on one machine and shows the main job.
 *
 * The demo itself is a program of its own (demo/run.py), because it plays the
 * hosts, not the mesh. It needs a source tree; this command finds it from
 * the build tree in there.
 */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/defs.h"
#include "base/opt.h"
#include "ctl/commands.h"

static int folder_of_program(char path[static PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);

	if (n < 0)
		return -errno;
	path[n] = '\0';
	char *slash = strrchr(path, '/');
	if (slash)
		*slash = '\0';
	return 0;
}

static int find_script(char script[static PATH_MAX])
{
	static const char *const places[] = { "../../../demo/run.py", "../../../../demo/run.py" };
	char folder[PATH_MAX];

	if (folder_of_program(folder) < 0)
		return -errno;
	for (size_t i = 0; i < ELEMENTS(places); i++) {
		if (snprintf(script, PATH_MAX, "%s/%s", folder, places[i]) < PATH_MAX && !access(script, R_OK))
			return 0;
	}
	return -ENOENT;
}

struct options {
	bool keep;
	bool stop;
	const char *dir;
};

static int play(const char *script, const struct options *o)
{
	const char *words[8] = { "/usr/bin/python3", script };
	size_t n = 2;

	if (o->keep)
		words[n++] = "--keep";
	if (o->stop)
		words[n++] = "--stop";
	if (o->dir) {
		words[n++] = "--dir";
		words[n++] = o->dir;
	}
	fflush(stdout);
	execv(words[0], (char *const *)(uintptr_t)words);
	fprintf(stderr, "outrigger demo: %s: %s\n", words[0], strerror(errno));
	return COMMAND_FAILED;
}

static int run(int argc, char **argv)
{
	static const struct opt opts[] = {
		{ 'k', "keep", OPT_FLAG, offsetof(struct options, keep), .help = "leave everything running, and say how to look around" },
		{ 's', "stop", OPT_FLAG, offsetof(struct options, stop), .help = "end a demo that was left running" },
		{ 'd', "dir", OPT_STR, offsetof(struct options, dir), .value = "FOLDER",
		  .help = "where built programs, guests and the report are (default: the build tree)" },
	};
	static const struct opt_spec spec = {
		.usage = "outrigger demo [OPTION]...",
		.summary = "Boots real VMs on this machine and shows the main job.",
		.details = "Needs root. Everything runs in network namespaces named og-*; all is removed at the end.",
		.opts = opts, .n_opts = ELEMENTS(opts),
	};
	struct options o = {};
	char script[PATH_MAX];
	unsigned n_args;
	int r = command_options(&spec, argc, argv, &o, &n_args);

	if (r >= 0)
		return r;
	if (find_script(script) < 0) {
		fprintf(stderr, "outrigger demo: no demo/run.py: the demo runs from a source tree (make demo)\n");
		return COMMAND_FAILED;
	}
	return play(script, &o);
}

const struct command command_demo = { "demo", "boot real VMs on this machine and show the main job", run };

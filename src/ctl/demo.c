/*
 * outrigger demo: boots real VMs on one machine and shows the main job.
 *
 * The demo itself is a program of its own (demo/run.py), because it plays the
 * hosts, not the mesh. This command finds it: beside the build tree that it
 * was built in, or where it was installed.
 */
#include <errno.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/defs.h"
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
	static const char *const places[] = { "../../../demo/run.py", "../share/outrigger/demo/run.py" };
	char folder[PATH_MAX];

	if (folder_of_program(folder) < 0)
		return -errno;
	for (size_t i = 0; i < ELEMENTS(places); i++) {
		if (snprintf(script, PATH_MAX, "%s/%s", folder, places[i]) < PATH_MAX && !access(script, R_OK))
			return 0;
	}
	return -ENOENT;
}

static int run(int argc, char **argv)
{
	enum { MAX_WORDS = 16 };
	const char *words[MAX_WORDS + 3] = { "/usr/bin/python3" };
	char script[PATH_MAX];
	size_t n = 1;

	if (argc > MAX_WORDS) {
		fprintf(stderr, "outrigger demo: too many words\n");
		return COMMAND_USAGE;
	}
	if (find_script(script) < 0) {
		fprintf(stderr, "outrigger demo: demo/run.py is neither beside this build tree nor installed\n");
		return COMMAND_FAILED;
	}
	words[n++] = script;
	for (int i = 1; i < argc; i++)
		words[n++] = argv[i];
	fflush(stdout);
	execv(words[0], (char *const *)(uintptr_t)words);
	fprintf(stderr, "outrigger demo: %s: %s\n", words[0], strerror(errno));
	return COMMAND_FAILED;
}

const struct command command_demo = { "demo", "boot real VMs on this machine and show the main job", run };

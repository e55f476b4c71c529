/*
 * Runs a fuzz target over files instead of under libFuzzer: corpora and past
 * crashes as an ordinary test, with any compiler.
 *
 * replay-NAME DIRECTORY...: every file in them, and every file cut short after
 * each of its first bytes.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/defs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_FILE = 1 << 20, MAX_CUTS = 600 };

/* A copy of the exact size, so that a sanitizer sees a read past its end. */
static void run(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static int replay_file(const char *path)
{
	static uint8_t data[MAX_FILE];
	FILE *f = fopen(path, "rb");
	size_t size;

	if (!f) {
		perror(path);
		return 1;
	}
	size = fread(data, 1, sizeof(data), f);
	fclose(f);
	run(data, size);
	for (size_t cut = 0; cut < size && cut < MAX_CUTS; cut++)
		run(data, cut);
	return 0;
}

static int replay_directory(const char *path, unsigned *n_files)
{
	DIR *dir = opendir(path);
	int failed = 0;

	if (!dir) {
		perror(path);
		return 1;
	}
	for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
		char file[4096];

		if (e->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, e->d_name);
		failed |= replay_file(file);
		++*n_files;
	}
	closedir(dir);
	return failed;
}

int main(int argc, char **argv)
{
	unsigned n_files = 0;
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= replay_directory(argv[i], &n_files);
	printf("%u files\n", n_files);
	return failed || !n_files;
}

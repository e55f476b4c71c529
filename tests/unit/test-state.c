/*
 * The agent's state files: what another version wrote is refused, not guessed.
 */
#include "lib/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/state.h"

struct folder {
	char dir[32];
	char path[48];
};

static int setup(void **state)
{
	struct folder *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/test-state-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/thing", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct folder *f = *state;

	unlink(f->path);
	rmdir(f->dir);
	free(f);
	return 0;
}

static int load(const struct folder *f, unsigned version)
{
	void *data = NULL;
	size_t len = 0;
	int r = state_load(f->dir, "thing", version, &data, &len);

	if (r == 0) {
		assert_int_equal(len, 5);
		assert_string_equal(data, "hello");
	}
	free(data);
	return r;
}

static void what_was_saved_is_loaded(void **state)
{
	struct folder *f = *state;
	struct stat st;

	assert_int_equal(load(f, 1), -ENOENT);
	assert_int_equal(state_save(f->dir, "thing", 1, "hello", 5, 0600), 0);
	assert_int_equal(load(f, 1), 0);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

/* An upgrade, and the way back. */
static void another_version_is_refused_both_ways(void **state)
{
	struct folder *f = *state;

	assert_int_equal(state_save(f->dir, "thing", 1, "hello", 5, 0600), 0);
	assert_int_equal(load(f, 2), -EPROTONOSUPPORT);
	assert_int_equal(load(f, 1), 0);		/* and is left alone */
	assert_int_equal(state_save(f->dir, "thing", 12, "hello", 5, 0600), 0);
	assert_int_equal(load(f, 1), -EPROTONOSUPPORT);
	assert_int_equal(load(f, 12), 0);
}

static void what_is_no_state_file_is_refused(void **state)
{
	static const char *const texts[] = { "", "hello", "outrigger-agent other 1\nhello", "outrigger-agent thing", "outrigger-agent thin" };
	struct folder *f = *state;

	for (size_t i = 0; i < ELEMENTS(texts); i++) {
		int fd = open(f->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

		assert_int_equal(write(fd, texts[i], strlen(texts[i])), strlen(texts[i]));
		close(fd);
		assert_int_equal(load(f, 1), -EBADMSG);
	}
}

#define WITH_FOLDER(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		WITH_FOLDER(what_was_saved_is_loaded),
		WITH_FOLDER(another_version_is_refused_both_ways),
		WITH_FOLDER(what_is_no_state_file_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

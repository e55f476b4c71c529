/*
 * LD_PRELOAD for programs under valgrind and with sanitizers.
 *
 * Valgrind knows no seccomp(): libseccomp is told what Debian 12's kernel can
 * do instead of asking, and the filter is built as ever but not loaded. And
 * the agent starts proxies with an environment of its own: what this and the
 * sanitizers are told by is added to it, so that no script has to stand in
 * the program's place.
 */
#include <seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { API_LEVEL = 6, MAX_ENV = 4096 };

static void __attribute__((constructor)) tell(void)
{
	seccomp_api_set(API_LEVEL);
}

int seccomp_load(scmp_filter_ctx ctx)
{
	(void)ctx;
	return 0;
}

/* The word of @env that has the name that @word begins with. */
static char *find(char *const *env, const char *word)
{
	size_t n = strcspn(word, "=") + 1;

	for (; *env; env++)
		if (!strncmp(*env, word, n))
			return *env;
	return NULL;
}

/* On the stack: the caller may be the child of a fork. */
int execve(const char *path, char *const argv[], char *const env[])
{
	static const char *const kept[] = { "LD_PRELOAD=", "ASAN_OPTIONS=", "LSAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS=" };
	char *words[MAX_ENV];
	size_t n = 0;

	for (; env && env[n] && n < MAX_ENV - 6; n++)
		words[n] = env[n];
	words[n] = NULL;
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		char *word = find(environ, kept[i]);

		if (word && !find(words, kept[i])) {
			words[n++] = word;
			words[n] = NULL;
		}
	}
	return (int)syscall(SYS_execve, path, argv, words);
}

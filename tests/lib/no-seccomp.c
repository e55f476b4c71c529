/*
 * LD_PRELOAD for programs under valgrind and with sanitizers.
 *
 * Valgrind knows no seccomp(): libseccomp is told what Debian 12's kernel can
 * do instead of asking, and the filter is built as ever but not loaded. And
 * the agent starts proxies with an environment of its own: what this and the
 * sanitizers are told by is added to it, so that no script has to stand in
 * the program's place.
 *
 * And under a sanitizer, whose own memory hides the program's, it keeps the
 * number of bytes that are allocated in $HEAP_FOLDER/<pid> (8 bytes, as they
 * are), with what its forked children allocate, for who looks for growth. What
 * was allocated before it began is not in it, and may be freed later: only
 * differences say something.
 */
#include <fcntl.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { API_LEVEL = 6, MAX_ENV = 4096 };

/* compiler-rt/include/sanitizer/allocator_interface.h; without a sanitizer they are not there. */
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *p, size_t size), void (*on_free)(const volatile void *p))
	__attribute__((weak));
size_t __sanitizer_get_allocated_size(const volatile void *p) __attribute__((weak));

static int64_t *heap;

static void on_malloc(const volatile void *p, size_t size)
{
	if (p)
		__atomic_add_fetch(heap, (int64_t)size, __ATOMIC_RELAXED);
}

static void on_free(const volatile void *p)
{
	if (p)
		__atomic_sub_fetch(heap, (int64_t)__sanitizer_get_allocated_size(p), __ATOMIC_RELAXED);
}

static void count_heap(void)
{
	const char *folder = getenv("HEAP_FOLDER");
	char path[256];
	void *page;
	int fd;

	if (!folder || !__sanitizer_install_malloc_and_free_hooks || !__sanitizer_get_allocated_size)
		return;
	snprintf(path, sizeof(path), "%s/%d", folder, (int)getpid());
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		return;
	if (ftruncate(fd, sizeof(*heap)) == 0) {
		page = mmap(NULL, sizeof(*heap), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (page != MAP_FAILED) {
			heap = page;
			__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
		}
	}
	close(fd);
}

static void __attribute__((constructor)) tell(void)
{
	seccomp_api_set(API_LEVEL);
	count_heap();
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
	static const char *const kept[] = { "LD_PRELOAD=", "ASAN_OPTIONS=", "LSAN_OPTIONS=", "UBSAN_OPTIONS=", "TSAN_OPTIONS=", "HEAP_FOLDER=" };
	char *words[MAX_ENV];
	size_t n = 0;

	for (; env && env[n] && n < MAX_ENV - 7; n++)
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

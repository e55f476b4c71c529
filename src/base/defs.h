#pragma once
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

/*
 * The few words of the house dialect: attributes, element counts, ownership.
 */

#define MUST_CHECK		__attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a)	__attribute__((format(printf, f, a)))
#define CLEANUP(f)		__attribute__((cleanup(f)))

#define ELEMENTS(a)		(sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)		({ __typeof__(a) min_a = (a); __typeof__(b) min_b = (b); min_a < min_b ? min_a : min_b; })
#define MAX(a, b)		({ __typeof__(a) max_a = (a); __typeof__(b) max_b = (b); max_a > max_b ? max_a : max_b; })

#define container_of(ptr, type, member) \
	((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/* Moves ownership out of a variable: the variable is left empty. */
#define steal_ptr(p)		({ __typeof__(*(p)) steal_tmp = *(p); *(p) = NULL; steal_tmp; })

static inline int steal_fd(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}

/* Closes @fd when it is one, and returns the value that means "none". */
static inline int close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
	return -1;
}

static inline void cleanup_fd(int *fd)
{
	close_fd(*fd);
}

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

#define CLEANUP_FD		CLEANUP(cleanup_fd)
#define CLEANUP_FREE		CLEANUP(cleanup_free)

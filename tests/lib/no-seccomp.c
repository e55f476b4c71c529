/*
 * LD_PRELOAD for programs under valgrind, which knows no seccomp(): libseccomp
 * is told what Debian 12's kernel can do instead of asking, and the filter is
 * built as ever but not loaded. Counting instructions is all that this is for.
 */
#include <seccomp.h>

enum { API_LEVEL = 6 };

static void __attribute__((constructor)) tell(void)
{
	seccomp_api_set(API_LEVEL);
}

int seccomp_load(scmp_filter_ctx ctx)
{
	(void)ctx;
	return 0;
}

#pragma once
#include <stdarg.h>
#include "base/defs.h"

/*
 * What was wrong and where, for the people who wrote a file, a command line or
 * a request. Passed as the last argument, @reterr_diag; written when the call
 * fails for a reason that they can mend.
 */
struct diag {
	char file[256];		/* empty when there is none */
	unsigned line;		/* 0 when there is none; from 1 */
	char msg[512];
};

/* Each returns -EINVAL, so that `return diag_at(...)` reads well. NULL @d is allowed. */
int diag_set(struct diag *d, const char *fmt, ...) PRINTF_LIKE(2, 3);
int diag_at(struct diag *d, const char *file, unsigned line, const char *fmt, ...) PRINTF_LIKE(4, 5);

enum { DIAG_TEXT_LEN = 800 };
/* "file:line: message" */
const char *diag_format(const struct diag *d, char text[static DIAG_TEXT_LEN]);

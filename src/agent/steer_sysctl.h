#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "agent/steer_conf.h"
#include "base/defs.h"

/*
 * The kernel settings that steering needs, with what they were before.
 */
enum { STEER_MAX_SYSCTLS = 16 };

struct steer_sysctl {
	char name[96];		/* below /proc/sys, with slashes */
	long want;
	long before;
	bool changed;
	bool fatal;		/* nothing is diverted with another value */
};

struct steer_sysctls {
	struct steer_sysctl list[STEER_MAX_SYSCTLS];
	size_t n;
};

/* Fills in the list for @conf. */
void steer_sysctls_init(struct steer_sysctls *s, const struct steer_conf *conf);
/* Sets what is not as wanted; a setting that this kernel does not have is skipped. */
MUST_CHECK int steer_sysctls_apply(struct steer_sysctls *s);
/* Puts back what apply() changed, where nobody has changed it since. */
void steer_sysctls_restore(struct steer_sysctls *s);
/* -ENOENT when this kernel does not have it. */
MUST_CHECK int steer_sysctl_read(const struct steer_sysctl *s, long *ret_value);

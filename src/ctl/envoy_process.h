#pragma once
#include <sys/types.h>
#include "base/defs.h"

/*
 * The Envoy that `outrigger envoy` runs: a child that dies with us.
 */
enum { ENVOY_ARGS_MAX = 64 };

/*
 * Starts @program (searched in PATH) on the bootstrap with the user's own
 * arguments behind ours. -ENOENT and the like when it cannot be run.
 */
MUST_CHECK int envoy_process_start(const char *program, const char *bootstrap_path, char *const *args, unsigned n_args, pid_t *ret_pid);

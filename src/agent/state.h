#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/defs.h"

/*
 * Small files in the agent's state directory: what a restart needs. Each is
 * written whole to a temporary name and renamed, so that a full disk or a crash
 * leaves the old one. The first line says what it is and in which version.
 */
enum { STATE_MAX_LEN = 64 << 20, STATE_RETRY_MS = 5000 };

/* @version is of the contents. Errors of open, write (-ENOSPC), rename. */
MUST_CHECK int state_save(const char *dir, const char *name, unsigned version, const void *data, size_t len, mode_t mode);
/*
 * What became of state_save(): said when it begins to fail and when it works
 * again. @unsaved is the caller's, who tries again while it is set, every
 * STATE_RETRY_MS. @without: what a restart is then.
 */
void state_note(bool *unsaved, const char *name, const char *without, int r);
/* -ENOENT; -EPROTONOSUPPORT: of another version; -EBADMSG: not such a file. @ret_data is the caller's and ends with a zero that does not count. */
MUST_CHECK int state_load(const char *dir, const char *name, unsigned version, void **ret_data, size_t *ret_len);

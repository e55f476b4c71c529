#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/defs.h"

/*
 * Small files in the agent's state directory: what a restart needs. Each is
 * written whole to a temporary name and renamed, so that a full disk or a crash
 * leaves the old one. The first line says what it is and in which version.
 */
enum { STATE_MAX_LEN = 64 << 20 };

/* @version is of the contents. Errors of open, write (-ENOSPC), rename. */
MUST_CHECK int state_save(const char *dir, const char *name, unsigned version, const void *data, size_t len, mode_t mode);
/* -ENOENT; -EPROTONOSUPPORT: of another version; -EBADMSG: not such a file. @ret_data is the caller's and ends with a zero that does not count. */
MUST_CHECK int state_load(const char *dir, const char *name, unsigned version, void **ret_data, size_t *ret_len);

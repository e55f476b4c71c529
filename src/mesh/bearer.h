#pragma once
#include "base/defs.h"

/*
 * A token as callers show it: the value of "authorization" (RFC 6750, section
 * 2.1). For secret_free(). -EINVAL: longer than any token is, -ENOMEM.
 */
MUST_CHECK int bearer_from_token(const char *token, char **ret_text);

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/bytes.h"

/*
 * Content-Encoding gzip and deflate of bodies from the network (RFC 1950, 1951,
 * 1952), with a limit on what comes out: a few kilobytes can hold gigabytes.
 */
enum {
	_INFLATE_E_SUCCESS,

	INFLATE_E_MALFORMED,	/* not the coding, or cut off */
	INFLATE_E_TOO_LARGE,	/* more than @out may hold, or more than INFLATE_MAX_RATIO times the input */
};

enum {
	INFLATE_MAX_RATIO = 200,
	INFLATE_RATIO_FROM = 64 * 1024,	/* bytes of output from which the ratio is looked at */
};

/* Appends to @out, which has its maximum. On failure what @out holds is of no use. 0, INFLATE_E_*, -ENOMEM. */
MUST_CHECK int inflate_body(const void *data, size_t len, struct bytes *out);

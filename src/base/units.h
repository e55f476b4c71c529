#pragma once
#include <stdint.h>
#include "base/defs.h"

/*
 * Numbers with a unit, as people write them in files and on command lines.
 * Whole numbers only; a unit is required except for 0. -EINVAL, and -ERANGE when
 * it does not fit.
 */
MUST_CHECK int duration_parse(const char *text, uint64_t *ret_ms);	/* "250ms", "10s", "5m", "24h", "7d", "1h30m" */
MUST_CHECK int size_parse(const char *text, uint64_t *ret_bytes);	/* "512" (bytes), "64KiB", "4MiB", "2GiB"; K, M, G are the same */

enum { UNITS_TEXT_LEN = 32 };
/* The shortest exact form: "1h30m", "4MiB". */
const char *duration_format(uint64_t ms, char text[static UNITS_TEXT_LEN]);
const char *size_format(uint64_t bytes, char text[static UNITS_TEXT_LEN]);

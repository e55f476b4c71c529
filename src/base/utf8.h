#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * Text from the network made fit to be shown: valid UTF-8 (RFC 3629) without
 * control characters. Everything else becomes \DDD, its byte in decimal, as DNS
 * presents such bytes (RFC 1035, section 5.1).
 */

/* Bytes of the printable character at @p: 1 to 4, or 0 when there is none. */
size_t utf8_printable(const uint8_t *p, size_t n);

bool utf8_is_clean(const void *data, size_t n);

/*
 * Writes @data to @text, zero-terminated, bad bytes as \DDD; cut at the end of a
 * character when it does not fit. @size >= 1. Returns the length of @text.
 */
size_t utf8_clean(const void *data, size_t n, char *text, size_t size);

/*
 * JSON may hold what commands a terminal or ends a line, as it is: DEL, U+0080
 * to U+009F, U+2028 and U+2029. Takes @json, valid JSON on the heap, and returns
 * it with these as \\uXXXX, the same to who parses it. NULL: out of memory, and
 * @json is freed; NULL of NULL.
 */
char *utf8_json(char *json);

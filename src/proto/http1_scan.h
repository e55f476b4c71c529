#pragma once
#include "proto/http1.h"

/*
 * What http1.c reads out of complete lines: start lines, header fields, chunk
 * sizes. Stateless, so that each rule can be tested by itself.
 */

/* Can @text become a start line? Looks at what is there of it. */
bool http1_scan_start_plausible(enum http1_kind kind, const char *text, size_t len);

/* A whole head, empty line included; folded lines are joined in place. 0 or HTTP1_E_*. */
MUST_CHECK int http1_scan_head(enum http1_kind kind, bool strict, char *text, size_t len, struct http1_head *ret_head);

/* A line "1a;ext=x\r\n". */
bool http1_scan_chunk_size(const char *line, size_t len, uint64_t *ret_size);

/* Where in @line, which may begin with the end of a lost body, a start line begins. */
bool http1_scan_find_start(enum http1_kind kind, const char *line, size_t len, size_t *ret_at);

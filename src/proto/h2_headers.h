#pragma once
#include <nghttp2/nghttp2.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * Header blocks: HPACK (RFC 7541, by libnghttp2) and the rules for the fields
 * in them (RFC 9113, sections 8.2, 8.3, 8.5).
 */
enum {
	H2_HEADERS_MAX = 64,		/* regular fields of a message; more are refused */
	H2_HEADERS_TEXT_MAX = 16384,	/* bytes of all names and values, with their zeros */
	H2_HEADERS_LIST_MAX = 16384,	/* what we advertise as MAX_HEADER_LIST_SIZE */
};

enum h2_headers_kind { H2_HEADERS_REQUEST, H2_HEADERS_RESPONSE, H2_HEADERS_TRAILERS };

enum {
	_H2_HEADERS_E_SUCCESS,

	H2_HEADERS_E_COMPRESSION,	/* HPACK itself is broken: the connection is lost */
	H2_HEADERS_E_MALFORMED,		/* against the rules: the stream is lost */
	H2_HEADERS_E_TOO_LARGE,		/* over our limits: the stream is lost */
};

struct h2_header {			/* both strings end with a zero, too */
	const char *name;
	const char *value;
	uint32_t n_name;
	uint32_t n_value;
	bool once;			/* to be sent: differs each time, not worth a place in the dynamic table */
};

struct h2_message {			/* big: on a stack, for the length of a call */
	const char *method;		/* NULL where there is none */
	const char *scheme;
	const char *path;
	const char *authority;
	const char *protocol;
	unsigned status;		/* 0 where there is none */
	int64_t content_length;		/* -1 where there is none */
	struct h2_header list[H2_HEADERS_MAX];	/* the regular ones */
	size_t n;
	size_t n_text;
	char text[H2_HEADERS_TEXT_MAX];
};

/*
 * Decodes a whole header block. Whatever comes back but a compression error,
 * @inflater has seen it all. Outcomes as above, -ENOMEM. @ret_message is
 * written in any case.
 */
MUST_CHECK int h2_headers_decode(nghttp2_hd_inflater *inflater, const uint8_t *block, size_t len, enum h2_headers_kind kind,
				 struct h2_message *ret_message);

/* The value of a regular field, or NULL. */
const char *h2_message_get(const struct h2_message *m, const char *name);

/* -EINVAL: more than H2_HEADERS_MAX; -E2BIG: does not fit; -ENOMEM. */
MUST_CHECK int h2_headers_encode(nghttp2_hd_deflater *deflater, const struct h2_header *list, size_t n,
				 uint8_t *out, size_t size, size_t *ret_len);

/* A field to be sent. */
static inline struct h2_header h2_header(const char *name, const char *value)
{
	return (struct h2_header){ name, value, (uint32_t)__builtin_strlen(name), (uint32_t)__builtin_strlen(value), false };
}

static inline struct h2_header h2_header_once(const char *name, const char *value)
{
	struct h2_header h = h2_header(name, value);

	h.once = true;
	return h;
}

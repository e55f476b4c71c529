#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/defs.h"

/*
 * HTTP/1.x messages of one direction of a connection (RFC 9112), incrementally.
 *
 * Feed bytes to http1_parse() and look at the event it stopped at: a head, a
 * piece of body (a slice of the caller's bytes), the end of the message, or
 * that all was used. It does no I/O, never looks back at bytes it has used and
 * keeps nothing but the head of the message at hand, which has a maximum.
 *
 * The sniffer reads what real peers send (bare LF, folded lines, empty lines
 * between messages); @strict is for our own servers, and refuses what makes two
 * readers disagree on where a message ends (RFC 9112, sections 5.1, 5.2, 6.3).
 */
enum {
	_HTTP1_E_SUCCESS,

	HTTP1_E_MALFORMED,	/* not HTTP/1, or broken: only http1_resync() leads on */
	HTTP1_E_TOO_LARGE,	/* head, chunk line or trailers over the maximum: the same */
};

enum {
	HTTP1_MAX_HEAD = 64 * 1024,
	HTTP1_MAX_HEADERS = 128,
	HTTP1_MAX_CHUNK_LINE = 4096,
};

enum http1_kind { HTTP1_REQUEST, HTTP1_RESPONSE };

enum http1_event_type {
	HTTP1_NEED_MORE,	/* all input used, nothing to tell */
	HTTP1_HEAD,		/* @head is there; also for interim 1xx answers */
	HTTP1_BODY,		/* @data, @len */
	HTTP1_END,		/* the message is over; the next one may begin */
	HTTP1_TUNNEL,		/* @data, @len: bytes of another protocol after an upgrade or CONNECT */
};

/* Slices of the parser's head: valid until the next call that is given input. */
struct http1_str {
	const char *p;
	size_t len;
};

struct http1_head {
	struct http1_str method;	/* request */
	struct http1_str target;	/* request, as sent */
	uint16_t status;		/* response */
	uint8_t minor;			/* of HTTP/1.x */
	bool keep_alive;		/* by version and Connection */
	bool chunked;
	bool has_length;
	uint64_t length;		/* Content-Length */
	bool upgrade;			/* Connection: upgrade and an Upgrade header */
	bool expect_continue;
	struct http1_str fields;	/* the header lines, for http1_header_next() */
};

struct http1_event {
	enum http1_event_type type;
	const uint8_t *data;
	size_t len;
};

struct http1 {
	enum http1_kind kind;
	bool strict;
	enum {
		HTTP1_S_START, HTTP1_S_HEAD, HTTP1_S_LENGTH, HTTP1_S_CLOSE, HTTP1_S_CHUNK_SIZE, HTTP1_S_CHUNK_DATA,
		HTTP1_S_CHUNK_END, HTTP1_S_TRAILER, HTTP1_S_END, HTTP1_S_TUNNEL, HTTP1_S_RESYNC, HTTP1_S_FAILED,
	} state;
	struct bytes buf;		/* the head, a chunk line, or the line looked at in a resync */
	uint64_t left;			/* bytes of body or chunk to come */
	size_t line_len;		/* bytes of the line at hand, without its end */
	uint32_t side_bytes;		/* of this chunk line or these trailers */
	struct http1_head head;		/* of the message at hand */
};

void http1_init(struct http1 *p, enum http1_kind kind, bool strict);
void http1_deinit(struct http1 *p);

/*
 * Uses up to @len bytes and stops at the first event. 0, HTTP1_E_*, -ENOMEM.
 * @ret_used bytes are not to be given again.
 */
MUST_CHECK int http1_parse(struct http1 *p, const void *data, size_t len, size_t *ret_used, struct http1_event *ret_event);

/*
 * After HTTP1_HEAD of a response, what only the request tells: it answers HEAD
 * (or is a 304 of it) and has no body; or it accepts a CONNECT.
 */
void http1_no_body(struct http1 *p);

/*
 * The direction has ended. True if that ends a message properly (between two,
 * or a body that goes on until the close: then @ret_event is HTTP1_END).
 */
bool http1_finish(struct http1 *p, struct http1_event *ret_event);

/*
 * @len bytes are lost. True if they were inside a body whose end is still
 * known: the message goes on, with a hole. False: http1_resync() was done.
 */
bool http1_gap(struct http1 *p, uint64_t len);
/* Look for the next start line; input that is none is dropped without an event. */
void http1_resync(struct http1 *p);

static inline bool http1_in_message(const struct http1 *p)
{
	return p->state != HTTP1_S_START && p->state != HTTP1_S_RESYNC && p->state != HTTP1_S_FAILED;
}

/* Header lines in order; start with @pos = 0. Values are trimmed. False at the end. */
bool http1_header_next(const struct http1_head *h, size_t *pos, struct http1_str *ret_name, struct http1_str *ret_value);
/* The first header of that name, whatever the case of its letters. */
bool http1_header(const struct http1_head *h, const char *name, struct http1_str *ret_value);
/* Is @token in the comma-separated list of any header @name? Parameters after ';' do not count. */
bool http1_header_has_token(const struct http1_head *h, const char *name, const char *token);

bool http1_str_is(struct http1_str s, const char *text);	/* exact */
bool http1_str_is_nocase(struct http1_str s, const char *text);

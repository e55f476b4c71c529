#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * A growable byte buffer with a maximum, consumed from the front.
 *
 * @max is fixed when it is initialised: an append that would go over it fails
 * with -ENOBUFS and changes nothing. Memory is given back when the buffer is
 * emptied, so an idle buffer costs its struct only.
 */
struct bytes {
	uint8_t *data;		/* first byte that is not consumed */
	size_t len;		/* bytes not consumed */
	size_t max;		/* limit of @len */
	uint8_t *base;		/* start of the allocation, or NULL */
	size_t size;		/* bytes allocated */
	bool secret;		/* set by the owner: memory is wiped before it is given back */
};

void bytes_init(struct bytes *b, size_t max);
void bytes_deinit(struct bytes *b);

/* 0, -ENOBUFS over the maximum, -ENOMEM. */
MUST_CHECK int bytes_append(struct bytes *b, const void *data, size_t len);
MUST_CHECK int bytes_append_str(struct bytes *b, const char *s);
MUST_CHECK int bytes_appendf(struct bytes *b, const char *fmt, ...) PRINTF_LIKE(2, 3);

/*
 * Room for @len more bytes at the end, to be filled by the caller and then
 * accounted for with bytes_commit(). NULL as bytes_append() fails.
 */
uint8_t *bytes_reserve(struct bytes *b, size_t len);
void bytes_commit(struct bytes *b, size_t len);

/* Drops @len bytes from the front; the memory goes when none are left. */
void bytes_consume(struct bytes *b, size_t len);
void bytes_clear(struct bytes *b);
void bytes_empty(struct bytes *b);	/* what is in it goes, its memory stays for what comes next */

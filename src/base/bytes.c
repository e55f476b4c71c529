/*
 * Growable byte buffer: bounded, and empty means no memory.
 */
#include "base/bytes.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/secret.h"

enum { BYTES_FIRST_SIZE = 256 };

void bytes_init(struct bytes *b, size_t max)
{
	*b = (struct bytes){ .max = max };
}

static void give_back(struct bytes *b)
{
	if (b->secret)
		secret_free(b->base);
	else
		free(b->base);
}

void bytes_deinit(struct bytes *b)
{
	give_back(b);
	*b = (struct bytes){ .max = b->max, .secret = b->secret };
}

static size_t offset_of_data(const struct bytes *b)
{
	return b->base ? (size_t)(b->data - b->base) : 0;
}

static bool grow(struct bytes *b, size_t len)
{
	size_t offset = offset_of_data(b);
	size_t want = b->len + len;
	size_t size = b->size ? b->size : BYTES_FIRST_SIZE;

	if (want <= b->size) {			/* enough, once the front is closed up */
		memmove(b->base, b->data, b->len);
		b->data = b->base;
		return true;
	}
	while (size < want)
		size *= 2;

	uint8_t *base = malloc(size);
	if (!base)
		return false;
	if (b->len)
		memcpy(base, b->base + offset, b->len);
	give_back(b);
	b->base = b->data = base;
	b->size = size;
	return true;
}

uint8_t *bytes_reserve(struct bytes *b, size_t len)
{
	if (len > b->max - b->len)
		return NULL;
	if (b->size - offset_of_data(b) - b->len < len && !grow(b, len))
		return NULL;
	return b->data ? b->data + b->len : NULL;
}

void bytes_commit(struct bytes *b, size_t len)
{
	b->len += len;
}

int bytes_append(struct bytes *b, const void *data, size_t len)
{
	if (!len)
		return 0;
	if (len > b->max - b->len)
		return -ENOBUFS;

	uint8_t *to = bytes_reserve(b, len);
	if (!to)
		return -ENOMEM;
	memcpy(to, data, len);
	bytes_commit(b, len);
	return 0;
}

int bytes_append_str(struct bytes *b, const char *s)
{
	return bytes_append(b, s, strlen(s));
}

int bytes_appendf(struct bytes *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return -EINVAL;
	if ((size_t)n >= b->max - b->len)
		return -ENOBUFS;

	char *to = (char *)bytes_reserve(b, (size_t)n + 1);	/* vsnprintf ends it with a zero */
	if (!to)
		return -ENOMEM;
	va_start(ap, fmt);
	vsnprintf(to, (size_t)n + 1, fmt, ap);
	va_end(ap);
	bytes_commit(b, (size_t)n);
	return 0;
}

void bytes_consume(struct bytes *b, size_t len)
{
	if (len >= b->len) {
		bytes_clear(b);
		return;
	}
	b->data += len;
	b->len -= len;
}

void bytes_empty(struct bytes *b)
{
	b->data = b->base;
	b->len = 0;
}

void bytes_clear(struct bytes *b)
{
	bytes_deinit(b);
}

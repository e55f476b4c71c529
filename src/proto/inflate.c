/*
 * gzip and deflate decoding over zlib: see inflate.h.
 */
#include "proto/inflate.h"

#include <errno.h>
#include <limits.h>
#define ZLIB_CONST
#include <zlib.h>

enum { WINDOW_AUTO = 15 + 32, WINDOW_RAW = -15, PIECE = 16 * 1024 };

static int pump(z_stream *z, size_t n_in, struct bytes *out)
{
	int r = Z_OK;

	while (r != Z_STREAM_END) {
		size_t room = MIN(out->max - out->len, (size_t)PIECE);
		uint8_t *to = room ? bytes_reserve(out, room) : NULL;

		if (!room)
			return INFLATE_E_TOO_LARGE;
		if (!to)
			return -ENOMEM;
		z->next_out = to;
		z->avail_out = (uInt)room;
		r = inflate(z, Z_NO_FLUSH);
		bytes_commit(out, room - z->avail_out);
		if (r == Z_MEM_ERROR)
			return -ENOMEM;
		if (r != Z_OK && r != Z_STREAM_END)
			return INFLATE_E_MALFORMED;
		if (z->total_out > INFLATE_RATIO_FROM && z->total_out / INFLATE_MAX_RATIO > n_in)
			return INFLATE_E_TOO_LARGE;
	}
	return 0;
}

static int run(const void *data, size_t len, int window, struct bytes *out)
{
	z_stream z = { .next_in = data, .avail_in = (uInt)len };

	if (inflateInit2(&z, window) != Z_OK)
		return -ENOMEM;
	int r = pump(&z, len, out);
	inflateEnd(&z);
	return r;
}

int inflate_body(const void *data, size_t len, struct bytes *out)
{
	size_t had = out->len;
	int r;

	if (len == 0 || len > UINT_MAX)
		return INFLATE_E_MALFORMED;
	r = run(data, len, WINDOW_AUTO, out);
	/* RFC 9110, section 8.4.1.2: some send "deflate" without the zlib wrapper. */
	if (r == INFLATE_E_MALFORMED && out->len == had)
		r = run(data, len, WINDOW_RAW, out);
	return r;
}

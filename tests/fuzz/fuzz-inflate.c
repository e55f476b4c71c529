/*
 * Compressed bodies, as they come and as zlib would make them of the input:
 * what is taken is what zlib says, within the limits.
 */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "proto/inflate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX = 256 * 1024 };

static void as_it_comes(const uint8_t *data, size_t size)
{
	static uint8_t plain[MAX];
	uLongf n = sizeof(plain);
	uLong used = size;
	struct bytes out;
	int r, z;

	bytes_init(&out, MAX);
	r = inflate_body(data, size, &out);
	if (out.len > MAX || (r == 0 && out.len > INFLATE_RATIO_FROM && out.len / INFLATE_MAX_RATIO > size))
		abort();
	z = uncompress2(plain, &n, data, &used);
	if (z == Z_OK && r == 0 && (n != out.len || memcmp(plain, out.data, n) != 0))
		abort();
	if (z == Z_OK && r != 0 && !(r == INFLATE_E_TOO_LARGE && n > INFLATE_RATIO_FROM))
		abort();
	bytes_deinit(&out);
}

/* @window as in deflateInit2(): zlib, gzip and raw. */
static void there_and_back(const uint8_t *data, size_t size, int window)
{
	static uint8_t packed[MAX];
	z_stream z = { .next_in = (Bytef *)(uintptr_t)data, .avail_in = (uInt)size, .next_out = packed, .avail_out = sizeof(packed) };
	struct bytes out;

	if (deflateInit2(&z, 1, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY) != Z_OK || deflate(&z, Z_FINISH) != Z_STREAM_END)
		abort();
	deflateEnd(&z);
	bytes_init(&out, MAX);
	if (inflate_body(packed, z.total_out, &out) != 0 || out.len != size || (size && memcmp(out.data, data, size) != 0))
		abort();
	bytes_deinit(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	as_it_comes(data, size);
	if (size <= 16 * 1024) {
		there_and_back(data, size, 15);
		there_and_back(data, size, 31);
		if (size)
			there_and_back(data, size, -15);
	}
	return 0;
}

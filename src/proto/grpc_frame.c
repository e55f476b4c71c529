/*
 * gRPC's own few bytes.
 */
#include "proto/grpc_frame.h"

#include <errno.h>

#include "base/wire.h"

/* Length-Prefixed-Message -> Compressed-Flag Message-Length Message */
int grpc_frame_decode(const void *data, size_t n_data, size_t max_message, struct grpc_frame *ret_frame)
{
	struct wire w = wire_init(n_data ? data : "", n_data);
	uint8_t compressed = wire_u8(&w);
	uint32_t len = wire_u32(&w);

	if (n_data && compressed > 1)
		return GRPC_FRAME_E_MALFORMED;
	if (w.bad)
		return GRPC_FRAME_E_MORE;
	if (compressed)
		return GRPC_FRAME_E_COMPRESSED;
	if (len > max_message)
		return GRPC_FRAME_E_TOO_LARGE;

	const uint8_t *message = wire_take(&w, len);
	if (w.bad)
		return GRPC_FRAME_E_MORE;
	*ret_frame = (struct grpc_frame){ message, len, GRPC_FRAME_HEADER_LEN + (size_t)len };
	return 0;
}

void grpc_frame_header(uint32_t len, uint8_t header[static GRPC_FRAME_HEADER_LEN])
{
	header[0] = 0;
	header[1] = (uint8_t)(len >> 24);
	header[2] = (uint8_t)(len >> 16);
	header[3] = (uint8_t)(len >> 8);
	header[4] = (uint8_t)len;
}

/* Percent-Byte-Unencoded: 0x20 to 0x7e but '%'. */
void grpc_message_encode(const char *text, char *out, size_t size)
{
	static const char hex[] = "0123456789ABCDEF";
	size_t n = 0;

	for (; *text; text++) {
		uint8_t c = (uint8_t)*text;
		bool plain = c >= 0x20 && c <= 0x7e && c != '%';

		if (n + (plain ? 1 : 3) >= size)
			break;
		if (plain) {
			out[n++] = (char)c;
			continue;
		}
		out[n++] = '%';
		out[n++] = hex[c >> 4];
		out[n++] = hex[c & 15];
	}
	out[n] = 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return -1;
}

void grpc_message_decode(const char *text, size_t len, char *out, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n + 1 < size; i++) {
		int high = text[i] == '%' && len - i > 2 ? hex_digit(text[i + 1]) : -1;
		int low = high >= 0 ? hex_digit(text[i + 2]) : -1;

		if (low >= 0) {
			out[n++] = (char)(high << 4 | low);
			i += 2;
		} else {
			out[n++] = text[i];
		}
		if (!out[n - 1])
			out[n - 1] = ' ';	/* the text ends where it ends */
	}
	out[n] = 0;
}

/* Timeout -> TimeoutValue{1,8 digits} TimeoutUnit */
int grpc_timeout_decode(const char *text, size_t len, uint32_t *ret_ms)
{
	static const struct { char unit; uint64_t ns; } units[] = {
		{ 'H', 3600000000000 }, { 'M', 60000000000 }, { 'S', 1000000000 }, { 'm', 1000000 }, { 'u', 1000 }, { 'n', 1 },
	};
	uint64_t v = 0;

	if (len < 2 || len > 9)
		return -EINVAL;
	for (size_t i = 0; i < len - 1; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EINVAL;
		v = v * 10 + (uint64_t)(text[i] - '0');
	}
	for (size_t i = 0; i < ELEMENTS(units); i++) {
		if (units[i].unit != text[len - 1])
			continue;
		uint64_t ms = units[i].ns >= 1000000 ? v * (units[i].ns / 1000000) : (v * units[i].ns + 999999) / 1000000;
		*ret_ms = ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
		return 0;
	}
	return -EINVAL;
}

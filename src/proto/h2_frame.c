/*
 * HTTP/2 frame headers and names.
 */
#include "proto/h2_frame.h"

#include "base/defs.h"

static const char *const code_names[] = {
	[H2_NO_ERROR] = "NO_ERROR",
	[H2_PROTOCOL_ERROR] = "PROTOCOL_ERROR",
	[H2_INTERNAL_ERROR] = "INTERNAL_ERROR",
	[H2_FLOW_CONTROL_ERROR] = "FLOW_CONTROL_ERROR",
	[H2_SETTINGS_TIMEOUT] = "SETTINGS_TIMEOUT",
	[H2_STREAM_CLOSED] = "STREAM_CLOSED",
	[H2_FRAME_SIZE_ERROR] = "FRAME_SIZE_ERROR",
	[H2_REFUSED_STREAM] = "REFUSED_STREAM",
	[H2_CANCEL] = "CANCEL",
	[H2_COMPRESSION_ERROR] = "COMPRESSION_ERROR",
	[H2_CONNECT_ERROR] = "CONNECT_ERROR",
	[H2_ENHANCE_YOUR_CALM] = "ENHANCE_YOUR_CALM",
	[H2_INADEQUATE_SECURITY] = "INADEQUATE_SECURITY",
	[H2_HTTP_1_1_REQUIRED] = "HTTP_1_1_REQUIRED",
};
_Static_assert(ELEMENTS(code_names) == _H2_CODE_N, "every code has a name");

const char *h2_code_name(uint32_t code)
{
	return code < _H2_CODE_N ? code_names[code] : "unknown error";
}

uint32_t h2_read_u32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

void h2_write_u32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

/* Section 4.1 */
struct h2_frame h2_frame_read(const uint8_t header[static H2_HEADER_LEN])
{
	return (struct h2_frame){
		.len = (uint32_t)header[0] << 16 | (uint32_t)header[1] << 8 | header[2],
		.type = header[3],
		.flags = header[4],
		.stream = h2_read_u32(header + 5) & H2_STREAM_ID_MAX,	/* the reserved bit is ignored */
	};
}

void h2_frame_write(uint8_t header[static H2_HEADER_LEN], const struct h2_frame *f)
{
	header[0] = (uint8_t)(f->len >> 16);
	header[1] = (uint8_t)(f->len >> 8);
	header[2] = (uint8_t)f->len;
	header[3] = f->type;
	header[4] = f->flags;
	h2_write_u32(header + 5, f->stream);
}

#pragma once
#include <stddef.h>
#include <stdint.h>

/*
 * HTTP/2 frames as they are on the wire (RFC 9113, sections 4, 6, 7).
 */
enum {
	H2_HEADER_LEN = 9,
	H2_PREFACE_LEN = 24,
	H2_FRAME_SIZE_MIN = 16384,		/* what everybody takes */
	H2_FRAME_SIZE_MAX = (1 << 24) - 1,
	H2_WINDOW_DEFAULT = 65535,
	H2_WINDOW_MAX = 0x7fffffff,
	H2_STREAM_ID_MAX = 0x7fffffff,
};

#define H2_PREFACE "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

enum h2_type {
	H2_DATA, H2_HEADERS, H2_PRIORITY, H2_RST_STREAM, H2_SETTINGS, H2_PUSH_PROMISE, H2_PING, H2_GOAWAY,
	H2_WINDOW_UPDATE, H2_CONTINUATION, _H2_TYPE_N
};

enum {
	H2_FLAG_END_STREAM = 0x1,
	H2_FLAG_ACK = 0x1,
	H2_FLAG_END_HEADERS = 0x4,
	H2_FLAG_PADDED = 0x8,
	H2_FLAG_PRIORITY = 0x20,
};

enum h2_setting {
	H2_SET_HEADER_TABLE_SIZE = 1,
	H2_SET_ENABLE_PUSH = 2,
	H2_SET_MAX_CONCURRENT_STREAMS = 3,
	H2_SET_INITIAL_WINDOW_SIZE = 4,
	H2_SET_MAX_FRAME_SIZE = 5,
	H2_SET_MAX_HEADER_LIST_SIZE = 6,
};

enum h2_code {				/* section 7 */
	H2_NO_ERROR, H2_PROTOCOL_ERROR, H2_INTERNAL_ERROR, H2_FLOW_CONTROL_ERROR, H2_SETTINGS_TIMEOUT, H2_STREAM_CLOSED,
	H2_FRAME_SIZE_ERROR, H2_REFUSED_STREAM, H2_CANCEL, H2_COMPRESSION_ERROR, H2_CONNECT_ERROR, H2_ENHANCE_YOUR_CALM,
	H2_INADEQUATE_SECURITY, H2_HTTP_1_1_REQUIRED, _H2_CODE_N
};

const char *h2_code_name(uint32_t code);	/* "REFUSED_STREAM"; "unknown error" */

struct h2_frame {
	uint32_t len;
	uint8_t type;
	uint8_t flags;
	uint32_t stream;
};

struct h2_frame h2_frame_read(const uint8_t header[static H2_HEADER_LEN]);
void h2_frame_write(uint8_t header[static H2_HEADER_LEN], const struct h2_frame *f);

uint32_t h2_read_u32(const uint8_t *p);
void h2_write_u32(uint8_t *p, uint32_t v);

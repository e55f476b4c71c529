#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * What gRPC adds to HTTP/2: the frame around a message, percent-encoded status
 * messages, timeouts. Source: PROTOCOL-HTTP2.md of the gRPC project.
 */
enum {
	_GRPC_FRAME_E_SUCCESS,

	GRPC_FRAME_E_MORE,		/* the frame is not all there yet */
	GRPC_FRAME_E_COMPRESSED,	/* compressed, which we never offer */
	GRPC_FRAME_E_TOO_LARGE,
	GRPC_FRAME_E_MALFORMED,
};

enum { GRPC_FRAME_HEADER_LEN = 5 };

struct grpc_frame {
	const uint8_t *message;		/* in the caller's bytes */
	size_t len;
	size_t size;			/* of the whole frame: what to step over */
};

/* The first frame in @data. Too large is said as soon as the header is there. */
MUST_CHECK int grpc_frame_decode(const void *data, size_t n_data, size_t max_message, struct grpc_frame *ret_frame);
void grpc_frame_header(uint32_t len, uint8_t header[static GRPC_FRAME_HEADER_LEN]);

/* "grpc-message": writes at most @size bytes with the zero, cutting off between characters. */
void grpc_message_encode(const char *text, char *out, size_t size);
/* Never fails: what is not percent-encoded well is taken as it stands. */
void grpc_message_decode(const char *text, size_t len, char *out, size_t size);

/* "grpc-timeout": "100m" is 100 ms. Rounded up; more than 49 days is 49 days. -EINVAL. */
MUST_CHECK int grpc_timeout_decode(const char *text, size_t len, uint32_t *ret_ms);

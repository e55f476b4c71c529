#pragma once
#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include "base/bytes.h"
#include "base/defs.h"

/*
 * Decoding protobuf of strangers. protobuf-c follows nesting without a limit
 * and makes a struct of hundreds of bytes of a message of two, so its decoder
 * is called only behind these checks.
 */
enum {
	PB_DEPTH_MAX = 32,	/* nested messages */
};

/*
 * @max_bytes bounds the memory of the result (0: 64 KiB + 32 times @len). The
 * result is freed with pb_free(). -EBADMSG: not such a message, -E2BIG: too
 * deep or too large, -ENOMEM.
 */
MUST_CHECK int pb_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t len, size_t max_bytes,
			 ProtobufCMessage **ret_message);
/* Forgets what our own definitions do not know, at every depth: protobuf-c keeps it, at many times its size. For what is kept. */
void pb_drop_unknown(ProtobufCMessage *message);
/* Bytes that a decoded message holds, with what malloc() adds to each piece: it can be 30 times what came. Without fields that nobody knows. */
size_t pb_memory(const ProtobufCMessage *message);
void *pb_copy(const ProtobufCMessage *message);	/* a deep copy; NULL: no memory */
bool pb_equal(const ProtobufCMessage *a, const ProtobufCMessage *b);	/* by their bytes; without memory they are not */
void pb_free(void *message);		/* NULL is allowed */

/* Encodes into fresh memory. -ENOMEM. */
MUST_CHECK int pb_append(const ProtobufCMessage *message, struct bytes *out);	/* and -ENOBUFS */
MUST_CHECK int pb_pack(const ProtobufCMessage *message, uint8_t **ret_data, size_t *ret_len);

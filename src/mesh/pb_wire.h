#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/wire.h"

/*
 * Protobuf read where it lies: one field after the other, without a tree of
 * messages. For what arrives by the ten thousand; pb.h is for the rest.
 *
 * The cursor is a struct wire over one message. A field that does not fit, has
 * no number, or is a group (which nobody has sent for ten years) sets its @bad.
 *
 * Source: protobuf.dev, "Encoding".
 */
enum pb_type { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5 };

struct pb_field {
	uint32_t number;
	enum pb_type type;
	uint64_t value;			/* of a PB_VARINT */
	struct wire bytes;		/* of a PB_BYTES: text, bytes, a message, packed numbers */
};

/* The next field; false at the end, and when the message is malformed (@w->bad). */
bool pb_next(struct wire *w, struct pb_field *ret_field);

/* The next number of a packed list; 0 and @w->bad where there is none. */
uint64_t pb_varint(struct wire *w);

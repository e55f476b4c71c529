/*
 * The guard in front of protobuf-c's decoder: a walk along the descriptors for
 * the depth, an allocator with a budget for the size.
 */
#include "mesh/pb.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/wire.h"

enum { PB_VARINT = 0, PB_FIXED64 = 1, PB_BYTES = 2, PB_FIXED32 = 5, PB_NUMBER_MAX = (1 << 29) - 1 };

/* Protocol buffers encoding: base 128, least significant group first, at most 10 bytes. */
static uint64_t take_varint(struct wire *w)
{
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70; shift += 7) {
		uint8_t b = wire_u8(w);

		v |= shift < 64 ? (uint64_t)(b & 0x7f) << shift : 0;
		if (!(b & 0x80))
			return v;
	}
	w->bad = true;
	return 0;
}

static int check(const ProtobufCMessageDescriptor *type, struct wire *w, unsigned depth);

static int check_bytes(const ProtobufCMessageDescriptor *type, uint64_t number, struct wire *w, unsigned depth)
{
	uint64_t len = take_varint(w);

	if (w->bad || len > wire_left(w))
		return -EBADMSG;
	struct wire body = wire_sub(w, (size_t)len);
	const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field(type, (unsigned)number);
	if (!field || field->type != PROTOBUF_C_TYPE_MESSAGE)
		return 0;
	return check(field->descriptor, &body, depth + 1);
}

static int check(const ProtobufCMessageDescriptor *type, struct wire *w, unsigned depth)
{
	if (depth > PB_DEPTH_MAX)
		return -E2BIG;
	while (wire_more(w)) {
		uint64_t key = take_varint(w);
		int r = 0;

		if (!(key >> 3) || key >> 3 > PB_NUMBER_MAX)
			return -EBADMSG;
		switch (key & 7) {
		case PB_VARINT:
			take_varint(w);
			break;
		case PB_FIXED64:
			wire_take(w, 8);
			break;
		case PB_FIXED32:
			wire_take(w, 4);
			break;
		case PB_BYTES:
			r = check_bytes(type, key >> 3, w, depth);
			break;
		default:	/* groups are of the past */
			return -EBADMSG;
		}
		if (r < 0)
			return r;
	}
	return w->bad ? -EBADMSG : 0;
}

struct budget {
	size_t left;
	bool exceeded;
	bool no_memory;
};

static void *budget_alloc(void *data, size_t size)
{
	struct budget *b = data;
	void *p;

	if (size > b->left) {
		b->exceeded = true;
		return NULL;
	}
	b->left -= size;
	p = malloc(size ? size : 1);
	if (!p)
		b->no_memory = true;
	return p;
}

static void budget_free(void *data, void *p)
{
	(void)data;
	free(p);
}

int pb_unpack(const ProtobufCMessageDescriptor *type, const void *data, size_t len, size_t max_bytes, ProtobufCMessage **ret_message)
{
	struct budget budget = { .left = max_bytes ? max_bytes : 64 * 1024 + 32 * len };
	ProtobufCAllocator allocator = { budget_alloc, budget_free, &budget };
	struct wire w = wire_init(len ? data : "", len);
	int r = check(type, &w, 0);

	if (r < 0)
		return r;
	ProtobufCMessage *m = protobuf_c_message_unpack(type, &allocator, len, data);
	if (!m)
		return budget.exceeded ? -E2BIG : budget.no_memory ? -ENOMEM : -EBADMSG;
	*ret_message = m;
	return 0;
}

void pb_free(void *message)
{
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);	/* the budget's memory is malloc()'s */
}

int pb_pack(const ProtobufCMessage *message, uint8_t **ret_data, size_t *ret_len)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *data = malloc(len ? len : 1);

	if (!data)
		return -ENOMEM;
	*ret_len = protobuf_c_message_pack(message, data);
	*ret_data = data;
	return 0;
}

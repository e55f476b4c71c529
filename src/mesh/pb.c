/*
 * The guard in front of protobuf-c's decoder: a walk along the descriptors for
 * the depth, an allocator with a budget for the size.
 */
#include "mesh/pb.h"

#include <errno.h>
#include <string.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/secret.h"
#include "mesh/pb_wire.h"

static int check(const ProtobufCMessageDescriptor *type, struct wire *w, unsigned depth)
{
	struct pb_field f;

	if (depth > PB_DEPTH_MAX)
		return -E2BIG;
	while (pb_next(w, &f)) {
		const ProtobufCFieldDescriptor *field = f.type == PB_BYTES ? protobuf_c_message_descriptor_get_field(type, f.number) : NULL;
		int r = 0;

		if (field && field->type == PROTOBUF_C_TYPE_MESSAGE)
			r = check(field->descriptor, &f.bytes, depth + 1);
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
	secret_free(p);		/* tokens come in messages */
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

/* The messages of a field: one, or none, or as many as it is repeated. */
static ProtobufCMessage **messages_of(ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, size_t *ret_n)
{
	char *base = (char *)m;
	void *quantifier = base + f->quantifier_offset, *member = base + f->offset;

	if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		memcpy(ret_n, quantifier, sizeof(*ret_n));
		return *(ProtobufCMessage ***)member;
	}
	*ret_n = *(ProtobufCMessage **)member && (!(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) || *(uint32_t *)quantifier == f->id);
	return member;
}

void pb_drop_unknown(ProtobufCMessage *m)
{
	for (unsigned i = 0; i < m->n_unknown_fields; i++)
		secret_free(m->unknown_fields[i].data);
	if (m->n_unknown_fields)
		secret_free(m->unknown_fields);
	m->n_unknown_fields = 0;
	m->unknown_fields = NULL;
	for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		size_t n;

		if (f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		ProtobufCMessage **v = messages_of(m, f, &n);
		for (size_t j = 0; j < n; j++)
			pb_drop_unknown(v[j]);
	}
}

void *pb_copy(const ProtobufCMessage *message)
{
	CLEANUP_SECRET uint8_t *data = NULL;
	ProtobufCMessage *copy;
	size_t len;

	if (pb_pack(message, &data, &len) < 0)
		return NULL;
	return pb_unpack(message->descriptor, data, len, 0, &copy) < 0 ? NULL : copy;
}

bool pb_equal(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	CLEANUP_SECRET uint8_t *one = NULL;
	CLEANUP_SECRET uint8_t *two = NULL;
	size_t n_one, n_two;

	return pb_pack(a, &one, &n_one) == 0 && pb_pack(b, &two, &n_two) == 0 && n_one == n_two && !memcmp(one, two, n_one);
}

void pb_free(void *message)
{
	ProtobufCAllocator allocator = { .free = budget_free };		/* the budget's memory is malloc()'s */

	if (message)
		protobuf_c_message_free_unpacked(message, &allocator);
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

int pb_append(const ProtobufCMessage *message, struct bytes *out)
{
	size_t len = protobuf_c_message_get_packed_size(message);
	uint8_t *to = bytes_reserve(out, len);

	if (!to)
		return len > out->max - out->len ? -ENOBUFS : -ENOMEM;
	bytes_commit(out, protobuf_c_message_pack(message, to));
	return 0;
}

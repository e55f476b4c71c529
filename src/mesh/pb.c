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

/* As glibc's malloc() rounds. */
static size_t piece(size_t size)
{
	return MAX((size + sizeof(size_t) + 15) & ~(size_t)15, (size_t)32);
}

static size_t element_size(const ProtobufCFieldDescriptor *f)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
		return sizeof(void *);
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_SFIXED64:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_FIXED64:
	case PROTOBUF_C_TYPE_DOUBLE:
		return sizeof(uint64_t);
	default:
		return sizeof(uint32_t);
	}
}

static size_t element_memory(const ProtobufCFieldDescriptor *f, const void *element)
{
	const ProtobufCBinaryData *bytes = element;
	const char *text;

	switch (f->type) {
	case PROTOBUF_C_TYPE_BYTES:
		return bytes->data ? piece(bytes->len) : 0;
	case PROTOBUF_C_TYPE_STRING:
		memcpy(&text, element, sizeof(text));
		return text && text != f->default_value && text != protobuf_c_empty_string ? piece(strlen(text) + 1) : 0;
	case PROTOBUF_C_TYPE_MESSAGE:
		return *(ProtobufCMessage *const *)element ? pb_memory(*(ProtobufCMessage *const *)element) : 0;
	default:
		return 0;
	}
}

static size_t field_memory(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	const char *base = (const char *)m, *member = base + f->offset;
	size_t n = 1, size = element_size(f), sum = 0;

	if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		memcpy(&n, base + f->quantifier_offset, sizeof(n));
		member = *(char *const *)member;
		sum = n ? piece(n * size) : 0;
	} else if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF && *(const uint32_t *)(base + f->quantifier_offset) != f->id) {
		return 0;
	}
	for (size_t i = 0; i < n; i++)
		sum += element_memory(f, member + i * size);
	return sum;
}

size_t pb_memory(const ProtobufCMessage *m)
{
	size_t sum = piece(m->descriptor->sizeof_message);

	for (unsigned i = 0; i < m->descriptor->n_fields; i++)
		sum += field_memory(m, &m->descriptor->fields[i]);
	return sum;
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

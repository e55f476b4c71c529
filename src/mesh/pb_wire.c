/*
 * The fields of a protobuf message, one at a time.
 */
#include "mesh/pb_wire.h"

enum { PB_NUMBER_MAX = (1 << 29) - 1 };

static uint64_t bad(struct wire *w)
{
	w->bad = true;
	return 0;
}

/* Base 128, least significant group first, at most 10 bytes. */
static uint64_t long_varint(struct wire *w)
{
	const uint8_t *p = w->pos;
	uint64_t v = 0;

	for (unsigned shift = 0; shift < 70 && p < w->end; shift += 7) {
		uint8_t b = *p++;

		v |= shift < 64 ? (uint64_t)(b & 0x7f) << shift : 0;
		if (!(b & 0x80)) {
			w->pos = p;
			return v;
		}
	}
	return bad(w);
}

static inline uint64_t varint(struct wire *w)
{
	if (w->pos < w->end && *w->pos < 0x80)		/* nearly all are */
		return *w->pos++;
	return long_varint(w);
}

uint64_t pb_varint(struct wire *w)
{
	return w->bad ? 0 : varint(w);
}

static void skip(struct wire *w, size_t size)
{
	if ((size_t)(w->end - w->pos) < size)
		bad(w);
	else
		w->pos += size;
}

static void take_bytes(struct wire *w, struct pb_field *f)
{
	uint64_t len = varint(w);

	if (w->bad || len > (size_t)(w->end - w->pos)) {
		bad(w);
		return;
	}
	f->bytes = (struct wire){ .pos = w->pos, .end = w->pos + len };
	w->pos += len;
}

bool pb_next(struct wire *w, struct pb_field *ret_field)
{
	if (w->bad || w->pos == w->end)
		return false;

	uint64_t key = varint(w);
	if (!(key >> 3) || key >> 3 > PB_NUMBER_MAX) {
		bad(w);
		return false;
	}
	ret_field->number = (uint32_t)(key >> 3);
	ret_field->type = (enum pb_type)(key & 7);
	switch (ret_field->type) {
	case PB_VARINT:
		ret_field->value = varint(w);
		break;
	case PB_BYTES:
		take_bytes(w, ret_field);
		break;
	case PB_FIXED64:
		skip(w, 8);
		break;
	case PB_FIXED32:
		skip(w, 4);
		break;
	default:
		bad(w);
	}
	return !w->bad;
}

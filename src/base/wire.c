/*
 * Bounded reads of network bytes: the base of every decoder.
 */
#include "base/wire.h"

static uint64_t take_be(struct wire *w, size_t size)
{
	const uint8_t *p = wire_take(w, size);
	uint64_t v = 0;

	for (size_t i = 0; p && i < size; i++)
		v = v << 8 | p[i];
	return v;
}

uint32_t wire_u24(struct wire *w)
{
	return (uint32_t)take_be(w, 3);
}

uint32_t wire_u32(struct wire *w)
{
	return (uint32_t)take_be(w, 4);
}

uint64_t wire_u64(struct wire *w)
{
	return take_be(w, 8);
}

struct wire wire_sub(struct wire *w, size_t size)
{
	const uint8_t *p = wire_take(w, size);

	if (w->bad)
		return (struct wire){ .bad = true };
	return wire_init(p, size);
}

bool wire_more(const struct wire *w)
{
	return !w->bad && w->pos < w->end;
}

bool wire_complete(const struct wire *w)
{
	return !w->bad && w->pos == w->end;
}

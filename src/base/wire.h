#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Read cursor over bytes from the network.
 *
 * Every read checks its bounds. The first read that fails sets @bad, and from
 * then on reads return zero. So a decoder reads its fields straight down and
 * looks once, at the end, whether any of it was missing. Integers are in
 * network byte order.
 */
struct wire {
	const uint8_t *pos;
	const uint8_t *end;
	bool bad;
};

static inline struct wire wire_init(const void *data, size_t size)
{
	const uint8_t *p = data;

	if (!p)
		return (struct wire){ .bad = size != 0 };
	return (struct wire){ .pos = p, .end = p + size };
}

/* The next @size bytes in place, or NULL (and @bad) where there are fewer. */
static inline const uint8_t *wire_take(struct wire *w, size_t size)
{
	const uint8_t *p = w->pos;

	if (w->bad || (size_t)(w->end - w->pos) < size) {
		w->bad = true;
		return NULL;
	}
	w->pos = p ? p + size : NULL;
	return p;
}

static inline uint8_t wire_u8(struct wire *w)
{
	const uint8_t *p = wire_take(w, 1);

	return p ? p[0] : 0;
}

static inline uint16_t wire_u16(struct wire *w)
{
	const uint8_t *p = wire_take(w, 2);

	return p ? (uint16_t)(p[0] << 8 | p[1]) : 0;
}

uint32_t wire_u24(struct wire *w);
uint32_t wire_u32(struct wire *w);
uint64_t wire_u64(struct wire *w);

/* A cursor over the next @size bytes, which @w steps over. */
struct wire wire_sub(struct wire *w, size_t size);

/* Bytes not read yet; 0 once bad. */
static inline size_t wire_left(const struct wire *w)
{
	return w->bad ? 0 : (size_t)(w->end - w->pos);
}

bool wire_more(const struct wire *w);		/* nothing failed, bytes are left */
bool wire_complete(const struct wire *w);	/* nothing failed, no bytes are left */

/*
 * Sets of numbers in 32 bits.
 */
#include "proxy/holders.h"

#include <errno.h>
#include <stdlib.h>

#define SEVERAL		(UINT32_C(1) << 31)	/* the other bits are an index of lists[], else a number and 1 */

enum { FIRST_ROOM = 16 };

struct holders_list {
	uint32_t *numbers;		/* at least two; NULL: this list is free */
	uint32_t n;
	uint32_t room;			/* of a free one: the next free one's index and 1 */
};

static struct holders_list *list_of(const struct holders *h, uint32_t set)
{
	return &h->lists[set & ~SEVERAL];
}

static uint32_t one(uint32_t number)
{
	return number + 1;
}

void holders_deinit(struct holders *h)
{
	for (uint32_t i = 0; i < h->n; i++)
		free(h->lists[i].numbers);
	free(h->lists);
	*h = (struct holders){};
}

bool holders_has(const struct holders *h, uint32_t set, uint32_t number)
{
	if (!(set & SEVERAL))
		return set == one(number);
	for (uint32_t i = 0; i < list_of(h, set)->n; i++)
		if (list_of(h, set)->numbers[i] == number)
			return true;
	return false;
}

/* There is a free list afterwards. */
static int need_free(struct holders *h)
{
	uint32_t room = h->room ? h->room * 2 : FIRST_ROOM;
	struct holders_list *lists;

	if (h->free)
		return 0;
	if (h->n == h->room) {
		lists = realloc(h->lists, room * sizeof(*lists));
		if (!lists)
			return -ENOMEM;
		h->lists = lists;
		h->room = room;
	}
	h->lists[h->n] = (struct holders_list){};
	h->free = ++h->n;
	return 0;
}

static int make_list(struct holders *h, uint32_t *set, uint32_t number)
{
	enum { ROOM = 2 };
	uint32_t *numbers;

	if (need_free(h) < 0)
		return -ENOMEM;
	numbers = malloc(ROOM * sizeof(*numbers));
	if (!numbers)
		return -ENOMEM;
	numbers[0] = *set - 1;
	numbers[1] = number;
	*set = (h->free - 1) | SEVERAL;
	h->free = list_of(h, *set)->room;
	*list_of(h, *set) = (struct holders_list){ numbers, ROOM, ROOM };
	return 0;
}

static int list_add(struct holders_list *l, uint32_t number)
{
	if (l->n == l->room) {
		uint32_t *numbers = realloc(l->numbers, 2 * l->room * sizeof(*numbers));

		if (!numbers)
			return -ENOMEM;
		l->numbers = numbers;
		l->room *= 2;
	}
	l->numbers[l->n++] = number;
	return 0;
}

int holders_add(struct holders *h, uint32_t *set, uint32_t number)
{
	if (holders_has(h, *set, number))
		return 0;
	if (!*set) {
		*set = one(number);
		return 0;
	}
	return *set & SEVERAL ? list_add(list_of(h, *set), number) : make_list(h, set, number);
}

void holders_clear(struct holders *h, uint32_t *set)
{
	if (*set & SEVERAL) {
		free(list_of(h, *set)->numbers);
		*list_of(h, *set) = (struct holders_list){ .room = h->free };
		h->free = (*set & ~SEVERAL) + 1;
	}
	*set = HOLDERS_NONE;
}

void holders_remove(struct holders *h, uint32_t *set, uint32_t number)
{
	struct holders_list *l = *set & SEVERAL ? list_of(h, *set) : NULL;

	if (!l) {
		if (*set == one(number))
			*set = HOLDERS_NONE;
		return;
	}
	for (uint32_t i = 0; i < l->n; i++)
		if (l->numbers[i] == number)
			l->numbers[i--] = l->numbers[--l->n];
	if (l->n == 1) {
		uint32_t last = l->numbers[0];

		holders_clear(h, set);
		*set = one(last);
	}
}

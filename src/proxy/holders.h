#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * Who holds a resource, in 32 bits: a set of VMs' numbers. A set of one, as
 * nearly all are, is that number; of larger ones the 32 bits are the index of a
 * list, which is this module's. So ten thousand endpoints of a VM need nothing
 * but the bits.
 *
 * A set belongs to whoever has its bits: they are copied when nobody uses the
 * copy's origin any more, and cleared (holders_clear()) before they are given up.
 */
enum {
	HOLDERS_MAX_NUMBER = INT32_MAX - 1,
	HOLDERS_NONE = 0,		/* the empty set: all bits clear */
};

struct holders_list;

struct holders {
	struct holders_list *lists;	/* of sets of several */
	uint32_t n;
	uint32_t room;
	uint32_t free;			/* the first free one's index and 1; 0: none */
};

void holders_deinit(struct holders *h);	/* all sets with it; a zeroed one is initialised */

/* @number: at most HOLDERS_MAX_NUMBER. What is there already is not added twice. -ENOMEM: as it was. */
MUST_CHECK int holders_add(struct holders *h, uint32_t *set, uint32_t number);
void holders_remove(struct holders *h, uint32_t *set, uint32_t number);	/* needs no memory */
void holders_clear(struct holders *h, uint32_t *set);
bool holders_has(const struct holders *h, uint32_t set, uint32_t number);

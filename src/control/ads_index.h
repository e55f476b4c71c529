#pragma once
#include "base/list.h"
#include "base/map.h"
#include "control/resources.h"

/*
 * Who may want a resource: discovery streams by the names that they asked for
 * or have, so that a change costs those that do not want it nothing.
 *
 * It leads to a few too many (a name that is held, but not wanted any more, an
 * alias that is no longer one): ads_wants() has the last word.
 */
struct ads_stream;

struct ads_interest {			/* of a stream in a name: embedded in what says so */
	struct list link;
	struct ads_stream *stream;
};

struct ads_index {
	struct map topics[_RESOURCE_TYPE_N];	/* by name */
	struct map own;				/* what a stream is told unasked: by alias or parent */
	struct list all[_RESOURCE_TYPE_N];	/* interests in whatever there is */
};

void ads_index_init(struct ads_index *x);
void ads_index_deinit(struct ads_index *x);	/* all interests have been dropped */

/* @in: one of the maps. -ENOMEM. @i is in no list before. */
MUST_CHECK int ads_interest_add(struct map *in, const char *name, struct ads_interest *i, struct ads_stream *stream);
/* By the same name; nothing when it was not added. */
void ads_interest_drop(struct map *in, const char *name, struct ads_interest *i);

/* Calls fn() for all who may want @res, for some more than once. */
void ads_index_each(const struct ads_index *x, const struct resources *r, const struct resource *res,
		    void (*fn)(struct ads_stream *s, enum resource_type type));

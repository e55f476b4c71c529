#pragma once
#include "base/conf.h"
#include "base/conf_tree.h"

/*
 * Inside of conf: what each type of item does with its field. A type is a row
 * of conf_types[] in conf_types.c.
 */
struct conf_context {
	const char *file;
	struct diag *diag;
	bool lax;		/* required items may be missing */
};

struct conf_type_ops {
	const char *name;	/* in the manual */
	/* Fills the zeroed @field. After an error release() is called for it. */
	int (*parse)(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field);
	void (*release)(const struct conf_item *item, void *field);	/* NULL: nothing to free */
	bool (*equal)(const struct conf_item *item, const void *a, const void *b);
};

extern const struct conf_type_ops conf_types[];

/* The engine in conf.c, for the types that contain tables. @obj is overwritten; empty after an error. */
MUST_CHECK int conf_fill(const struct conf_context *c, const struct conf_table *t, const struct conf_node *map, void *obj);
bool conf_equal(const struct conf_table *t, const void *a, const void *b);

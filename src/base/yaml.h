#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/defs.h"
#include "base/diag.h"

/*
 * YAML as a tree in which every node knows its line, so that whoever reads it
 * can say where something is wrong.
 *
 * Everything is bounded before it is built: bytes, depth, nodes (aliases are
 * copied and count each time). A key that occurs twice in a map, a key that is
 * not a scalar, a second document and a tag other than the standard ones are
 * refused.
 */
enum {
	YAML_MAX_BYTES = 8 << 20,
	YAML_MAX_DEPTH = 32,
	YAML_MAX_NODES = 500000,
};

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAP };

struct yaml_node {
	enum yaml_kind kind;
	unsigned line;			/* from 1 */
	bool quoted;			/* a scalar in quotes: a string, whatever it looks like */
	char *key;			/* in a map, else NULL */
	char *text;			/* of a scalar, else NULL */
	struct yaml_node *children;	/* of a list or a map, in the file's order */
	struct yaml_node *next;		/* sibling */
};

/* An empty document is an empty map. @file is for @reterr_diag only. -EINVAL with @reterr_diag, -ENOMEM. */
MUST_CHECK int yaml_parse(const char *file, const char *text, size_t len, struct yaml_node **ret_root, struct diag *reterr_diag);
struct yaml_node *yaml_free(struct yaml_node *root);

/* The scalar is written as nothing, ~ or null, without quotes. */
bool yaml_is_null(const struct yaml_node *n);
/* The child of a map, or NULL. */
const struct yaml_node *yaml_get(const struct yaml_node *map, const char *key);

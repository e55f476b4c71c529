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
	CONF_TREE_MAX_BYTES = 8 << 20,
	CONF_TREE_MAX_DEPTH = 32,
	CONF_TREE_MAX_NODES = 500000,
};

enum conf_node_kind { CONF_NODE_SCALAR, CONF_NODE_LIST, CONF_NODE_MAP };

struct conf_node {
	enum conf_node_kind kind;
	unsigned line;			/* from 1 */
	bool quoted;			/* a scalar in quotes: a string, whatever it looks like */
	char *key;			/* in a map, else NULL */
	char *text;			/* of a scalar, else NULL */
	struct conf_node *children;	/* of a list or a map, in the file's order */
	struct conf_node *next;		/* sibling */
};

/* An empty document is an empty map. @file is for @reterr_diag only. -EINVAL with @reterr_diag, -ENOMEM. */
MUST_CHECK int conf_tree_parse(const char *file, const char *text, size_t len, struct conf_node **ret_root, struct diag *reterr_diag);
struct conf_node *conf_tree_free(struct conf_node *root);

/* The scalar is written as nothing, ~ or null, without quotes. */
bool conf_node_is_null(const struct conf_node *n);
/* The child of a map, or NULL. */
const struct conf_node *conf_node_get(const struct conf_node *map, const char *key);

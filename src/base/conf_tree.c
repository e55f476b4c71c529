/*
 * libyaml's events to a tree, with bounds.
 *
 * The tree is built with a stack of open collections, so depth costs no C stack.
 * An alias is a copy of what its anchor marks; copies count as nodes, which is
 * what stops a "billion laughs".
 */
#include "base/conf_tree.h"

#include <errno.h>
#include <string.h>
#include <yaml.h>

enum { MAX_ANCHORS = 256 };

struct level {
	struct conf_node *node;
	struct conf_node **tail;	/* where the next child goes */
	char *key;			/* of a map: read, its value not yet */
};

struct anchor {
	char *name;
	const struct conf_node *node;
};

struct builder {
	const char *file;
	struct diag *diag;
	struct conf_node *root;
	struct level levels[CONF_TREE_MAX_DEPTH];
	size_t depth;
	struct anchor anchors[MAX_ANCHORS];
	size_t n_anchors;
	size_t n_nodes;
	unsigned line;		/* of the event at hand */
};

static struct conf_node *free_one(struct conf_node *n)
{
	free(n->key);
	free(n->text);
	free(n);
	return NULL;
}

struct conf_node *conf_tree_free(struct conf_node *root)
{
	while (root) {				/* children are moved in front of the siblings: no recursion */
		struct conf_node *next = root->next;

		if (root->children) {
			struct conf_node *last = root->children;

			while (last->next)
				last = last->next;
			last->next = next;
			next = root->children;
		}
		free_one(root);
		root = next;
	}
	return NULL;
}

static int refuse(struct builder *b, const char *what)
{
	return diag_at(b->diag, b->file, b->line, "%s", what);
}

static const struct conf_node *find_anchor(const struct builder *b, const char *name)
{
	for (size_t i = b->n_anchors; i-- > 0;)		/* the last one of a name counts */
		if (!strcmp(b->anchors[i].name, name))
			return b->anchors[i].node;
	return NULL;
}

static int add_anchor(struct builder *b, const yaml_char_t *name, const struct conf_node *node)
{
	if (!name)
		return 0;
	if (b->n_anchors == MAX_ANCHORS)
		return refuse(b, "more than 256 anchors");
	char *copy = strdup((const char *)name);
	if (!copy)
		return -ENOMEM;
	b->anchors[b->n_anchors++] = (struct anchor){ copy, node };
	return 0;
}

static int new_node(struct builder *b, enum conf_node_kind kind, struct conf_node **ret_node)
{
	if (++b->n_nodes > CONF_TREE_MAX_NODES)
		return refuse(b, "more than 500000 values");
	struct conf_node *n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->kind = kind;
	n->line = b->line;
	*ret_node = n;
	return 0;
}

static int set_key(struct builder *b, struct level *l, const char *text)
{
	for (const struct conf_node *n = l->node->children; n; n = n->next)
		if (!strcmp(n->key, text))
			return diag_at(b->diag, b->file, b->line, "'%s' is there twice, first in line %u", text, n->line);
	l->key = strdup(text);
	return l->key ? 0 : -ENOMEM;
}

/* Takes @n in any case. */
static int attach(struct builder *b, struct conf_node *n)
{
	if (!b->depth) {
		if (b->root) {
			conf_tree_free(n);
			return refuse(b, "a second document");
		}
		b->root = n;
		return 0;
	}

	struct level *l = &b->levels[b->depth - 1];
	if (l->node->kind == CONF_NODE_MAP) {
		if (!l->key) {
			conf_tree_free(n);
			return refuse(b, "the key of a map must be a plain word");
		}
		n->key = steal_ptr(&l->key);
	}
	*l->tail = n;
	l->tail = &n->next;
	return 0;
}

static bool has_foreign_tag(const yaml_char_t *tag)
{
	return tag && strncmp((const char *)tag, "tag:yaml.org,2002:", strlen("tag:yaml.org,2002:")) != 0;
}

static int on_scalar(struct builder *b, const yaml_event_t *e)
{
	struct level *l = b->depth ? &b->levels[b->depth - 1] : NULL;
	const char *text = (const char *)e->data.scalar.value;
	struct conf_node *n;
	int r;

	if (has_foreign_tag(e->data.scalar.tag))
		return refuse(b, "tags are not supported");
	if (strlen(text) != e->data.scalar.length)
		return refuse(b, "a zero byte in a value");
	if (l && l->node->kind == CONF_NODE_MAP && !l->key)
		return set_key(b, l, text);

	r = new_node(b, CONF_NODE_SCALAR, &n);
	if (r < 0)
		return r;
	n->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
	n->text = strdup(text);
	if (!n->text) {
		free_one(n);
		return -ENOMEM;
	}
	r = attach(b, n);
	return r < 0 ? r : add_anchor(b, e->data.scalar.anchor, n);
}

static int on_open(struct builder *b, enum conf_node_kind kind, const yaml_char_t *tag, const yaml_char_t *anchor)
{
	struct conf_node *n;
	int r;

	if (has_foreign_tag(tag))
		return refuse(b, "tags are not supported");
	if (b->depth == CONF_TREE_MAX_DEPTH)
		return refuse(b, "nested deeper than 32 levels");
	r = new_node(b, kind, &n);
	if (r < 0)
		return r;
	r = attach(b, n);
	if (r < 0)
		return r;
	b->levels[b->depth++] = (struct level){ .node = n, .tail = &n->children };
	return add_anchor(b, anchor, n);
}

static void on_close(struct builder *b)
{
	free(b->levels[--b->depth].key);	/* libyaml never ends a map behind a key */
}

static int copy_tree(struct builder *b, const struct conf_node *from, size_t depth, struct conf_node **ret_copy)
{
	struct conf_node *n, **tail;
	int r;

	if (depth >= CONF_TREE_MAX_DEPTH)
		return refuse(b, "nested deeper than 32 levels");
	r = new_node(b, from->kind, &n);
	if (r < 0)
		return r;
	n->quoted = from->quoted;
	if ((from->text && !(n->text = strdup(from->text))) || (from->key && !(n->key = strdup(from->key)))) {
		conf_tree_free(n);
		return -ENOMEM;
	}
	tail = &n->children;
	for (const struct conf_node *c = from->children; c; c = c->next, tail = &(*tail)->next) {
		r = copy_tree(b, c, depth + 1, tail);
		if (r < 0) {
			conf_tree_free(n);
			return r;
		}
	}
	*ret_copy = n;
	return 0;
}

static int on_alias(struct builder *b, const yaml_event_t *e)
{
	const char *name = (const char *)e->data.alias.anchor;
	const struct conf_node *from = find_anchor(b, name);
	struct conf_node *n;

	if (!from)
		return diag_at(b->diag, b->file, b->line, "there is no anchor '%s' above", name);
	for (size_t i = 0; i < b->depth; i++)
		if (b->levels[i].node == from)
			return diag_at(b->diag, b->file, b->line, "'%s' contains itself", name);

	int r = copy_tree(b, from, b->depth, &n);
	if (r < 0)
		return r;
	free(n->key);
	n->key = NULL;
	return attach(b, n);
}

static int on_event(struct builder *b, const yaml_event_t *e)
{
	b->line = (unsigned)e->start_mark.line + 1;
	switch (e->type) {
	case YAML_SCALAR_EVENT:
		return on_scalar(b, e);
	case YAML_SEQUENCE_START_EVENT:
		return on_open(b, CONF_NODE_LIST, e->data.sequence_start.tag, e->data.sequence_start.anchor);
	case YAML_MAPPING_START_EVENT:
		return on_open(b, CONF_NODE_MAP, e->data.mapping_start.tag, e->data.mapping_start.anchor);
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		on_close(b);
		return 0;
	case YAML_ALIAS_EVENT:
		return on_alias(b, e);
	default:
		return 0;
	}
}

static int run(struct builder *b, yaml_parser_t *parser)
{
	bool end = false;

	while (!end) {
		yaml_event_t e;

		if (!yaml_parser_parse(parser, &e)) {
			if (parser->error == YAML_MEMORY_ERROR)
				return -ENOMEM;
			b->line = (unsigned)(parser->problem_mark.line ? parser->problem_mark.line : parser->context_mark.line) + 1;
			return diag_at(b->diag, b->file, b->line, "%s%s%s", parser->context ? parser->context : "",
				       parser->context ? ": " : "", parser->problem ? parser->problem : "not YAML");
		}
		end = e.type == YAML_STREAM_END_EVENT;
		int r = on_event(b, &e);
		yaml_event_delete(&e);
		if (r < 0)
			return r;
	}
	return 0;
}

static void builder_deinit(struct builder *b)
{
	while (b->depth)
		on_close(b);
	for (size_t i = 0; i < b->n_anchors; i++)
		free(b->anchors[i].name);
	b->root = conf_tree_free(b->root);
}

int conf_tree_parse(const char *file, const char *text, size_t len, struct conf_node **ret_root, struct diag *reterr_diag)
{
	CLEANUP_FREE struct builder *b = NULL;
	yaml_parser_t parser;
	int r;

	if (len > CONF_TREE_MAX_BYTES)
		return diag_at(reterr_diag, file, 0, "larger than 8 MiB");
	b = calloc(1, sizeof(*b));
	if (!b || !yaml_parser_initialize(&parser))
		return -ENOMEM;
	b->file = file;
	b->diag = reterr_diag;
	yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
	r = run(b, &parser);
	yaml_parser_delete(&parser);

	if (r == 0 && (!b->root || conf_node_is_null(b->root))) {
		b->root = conf_tree_free(b->root);
		b->line = 1;
		r = new_node(b, CONF_NODE_MAP, &b->root);
	}
	if (r == 0)
		*ret_root = steal_ptr(&b->root);
	builder_deinit(b);
	return r;
}

bool conf_node_is_null(const struct conf_node *n)
{
	return n->kind == CONF_NODE_SCALAR && !n->quoted &&
	       (!*n->text || !strcmp(n->text, "~") || !strcmp(n->text, "null"));
}

const struct conf_node *conf_node_get(const struct conf_node *map, const char *key)
{
	if (map->kind != CONF_NODE_MAP)
		return NULL;
	for (const struct conf_node *n = map->children; n; n = n->next)
		if (!strcmp(n->key, key))
			return n;
	return NULL;
}

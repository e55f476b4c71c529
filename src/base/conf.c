/*
 * The engine: a tree of YAML and a table to a struct.
 */
#include "base/conf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/conf_types.h"
#include "base/conf_tree.h"

enum { NAME_MAX_LEN = 63 };

static void *field_of(const struct conf_item *item, void *obj)
{
	return (char *)obj + item->offset;
}

static const void *const_field_of(const struct conf_item *item, const void *obj)
{
	return (const char *)obj + item->offset;
}

/* How many letters must change to make @a of @b (Levenshtein). */
static size_t distance(const char *a, const char *b)
{
	size_t row[NAME_MAX_LEN + 1];
	size_t len_b = strlen(b);

	if (strlen(a) > NAME_MAX_LEN || len_b > NAME_MAX_LEN)
		return SIZE_MAX;
	for (size_t j = 0; j <= len_b; j++)
		row[j] = j;
	for (size_t i = 0; a[i]; i++) {
		size_t diagonal = row[0]++;

		for (size_t j = 0; j < len_b; j++) {
			size_t above = row[j + 1];
			size_t edit = MIN(above, row[j]) + 1;

			row[j + 1] = MIN(edit, diagonal + (a[i] != b[j]));
			diagonal = above;
		}
	}
	return row[len_b];
}

static const char *nearest_name(const struct conf_table *t, const char *name)
{
	const char *best = NULL;
	size_t best_distance = MAX(strlen(name) / 3, (size_t)2) + 1;

	for (size_t i = 0; i < t->n_items; i++) {
		const struct conf_item *item = &t->items[i];

		if (!item->name || item->type == CONF_REMOVED)
			continue;
		size_t d = distance(name, item->name);
		if (d < best_distance) {
			best_distance = d;
			best = item->name;
		}
	}
	return best;
}

static const struct conf_item *find_item(const struct conf_table *t, const char *name)
{
	for (size_t i = 0; i < t->n_items; i++)
		if (t->items[i].name && !strcmp(t->items[i].name, name))
			return &t->items[i];
	return NULL;
}

static int check_names(const struct conf_context *c, const struct conf_table *t, const struct conf_node *map)
{
	if (map->kind != CONF_NODE_MAP)
		return diag_at(c->diag, c->file, map->line, "%s: a map of 'name: value' is wanted here", t->name);
	for (const struct conf_node *n = map->children; n; n = n->next) {
		const struct conf_item *item = find_item(t, n->key);

		if (item && item->type == CONF_REMOVED)
			return diag_at(c->diag, c->file, n->line, "'%s' does not exist any more: %s", n->key, item->doc);
		if (item)
			continue;

		const char *near = nearest_name(t, n->key);
		return diag_at(c->diag, c->file, n->line, "%s has no '%s'%s%s%s", t->name, n->key,
			       near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
	}
	return 0;
}

static int fill_absent(const struct conf_context *c, const struct conf_item *item, const struct conf_node *map, void *field)
{
	char dflt[CONF_PATH_LEN];

	if (item->type == CONF_SUB) {
		struct conf_node empty = { .kind = CONF_NODE_MAP, .line = map->line };

		return conf_fill(c, item->sub, &empty, field);
	}
	if (item->required && !c->lax)
		return diag_at(c->diag, c->file, map->line, "'%s' is missing", item->name);
	if (!item->dflt)
		return 0;

	snprintf(dflt, sizeof(dflt), "%s", item->dflt);
	struct conf_node n = { .kind = CONF_NODE_SCALAR, .line = map->line, .text = dflt };
	return conf_types[item->type].parse(c, item, &n, field);
}

static int fill_item(const struct conf_context *c, const struct conf_item *item, const struct conf_node *map, void *field)
{
	const struct conf_node *n;

	switch (item->type) {
	case CONF_KEY:
		*(char **)field = map->key ? strdup(map->key) : NULL;
		return map->key && !*(char **)field ? -ENOMEM : 0;
	case CONF_LINE:
		*(unsigned *)field = map->line;
		return 0;
	case CONF_REMOVED:
		return 0;
	default:
		n = conf_node_get(map, item->name);
		if (!n || conf_node_is_null(n))
			return fill_absent(c, item, map, field);
		return conf_types[item->type].parse(c, item, n, field);
	}
}

int conf_fill(const struct conf_context *c, const struct conf_table *t, const struct conf_node *map, void *obj)
{
	memset(obj, 0, t->size);
	int r = check_names(c, t, map);
	for (size_t i = 0; i < t->n_items && r == 0; i++)
		r = fill_item(c, &t->items[i], map, field_of(&t->items[i], obj));
	if (r == 0 && t->check && !c->lax)
		r = t->check(obj, c->file, map->line, c->diag);
	if (r < 0)
		conf_free(t, obj);
	return r;
}

int conf_parse(const struct conf_table *t, const char *file, const char *text, size_t len,
	       void *ret_obj, struct diag *reterr_diag)
{
	struct conf_context c = { .file = file, .diag = reterr_diag };
	struct conf_node *root;
	int r;

	r = conf_tree_parse(file, text, len, &root, reterr_diag);
	if (r < 0)
		return r;

	CLEANUP_FREE void *obj = calloc(1, t->size);	/* so that @ret_obj is written on success only */
	if (!obj) {
		conf_tree_free(root);
		return -ENOMEM;
	}
	r = conf_fill(&c, t, root, obj);
	if (r == 0)
		memcpy(ret_obj, obj, t->size);
	conf_tree_free(root);
	return r;
}

static int read_file(const char *path, char **ret_text, size_t *ret_len, struct diag *reterr_diag)
{
	CLEANUP_FREE char *text = NULL;
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	size_t len = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		return diag_at(reterr_diag, path, 0, "%m");
	if (!S_ISREG(st.st_mode))
		return diag_at(reterr_diag, path, 0, "not a regular file");
	if (st.st_size > CONF_TREE_MAX_BYTES)
		return diag_at(reterr_diag, path, 0, "larger than 8 MiB");
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return -ENOMEM;
	while (len < (size_t)st.st_size) {
		ssize_t n = read(fd, text + len, (size_t)st.st_size - len);

		if (n < 0 && errno != EINTR)
			return diag_at(reterr_diag, path, 0, "%m");
		if (n == 0)
			break;
		len += n > 0 ? (size_t)n : 0;
	}
	*ret_text = steal_ptr(&text);
	*ret_len = len;
	return 0;
}

int conf_load(const struct conf_table *t, const char *path, void *ret_obj, struct diag *reterr_diag)
{
	CLEANUP_FREE char *text = NULL;
	size_t len = 0;
	int r = read_file(path, &text, &len, reterr_diag);

	return r < 0 ? r : conf_parse(t, path, text, len, ret_obj, reterr_diag);
}

int conf_defaults(const struct conf_table *t, void *ret_obj)
{
	struct conf_context c = { .file = "defaults", .lax = true };
	struct conf_node empty = { .kind = CONF_NODE_MAP };

	return conf_fill(&c, t, &empty, ret_obj);
}

void conf_free(const struct conf_table *t, void *obj)
{
	for (size_t i = 0; i < t->n_items; i++)
		if (conf_types[t->items[i].type].release)
			conf_types[t->items[i].type].release(&t->items[i], field_of(&t->items[i], obj));
	memset(obj, 0, t->size);
}

bool conf_equal(const struct conf_table *t, const void *a, const void *b)
{
	for (size_t i = 0; i < t->n_items; i++) {
		const struct conf_item *item = &t->items[i];

		if (!conf_types[item->type].equal(item, const_field_of(item, a), const_field_of(item, b)))
			return false;
	}
	return true;
}

bool conf_differs(const struct conf_table *t, const void *a, const void *b, enum conf_reload reload,
		  char ret_path[static CONF_PATH_LEN])
{
	for (size_t i = 0; i < t->n_items; i++) {
		const struct conf_item *item = &t->items[i];
		const void *fa = const_field_of(item, a), *fb = const_field_of(item, b);

		if (item->type == CONF_SUB) {
			char rest[CONF_PATH_LEN];

			if (!conf_differs(item->sub, fa, fb, reload, rest))
				continue;
			snprintf(ret_path, CONF_PATH_LEN, "%.60s.%.60s", item->name, rest);
			return true;
		}
		if (item->name && item->reload == reload && !conf_types[item->type].equal(item, fa, fb)) {
			snprintf(ret_path, CONF_PATH_LEN, "%s", item->name);
			return true;
		}
	}
	return false;
}

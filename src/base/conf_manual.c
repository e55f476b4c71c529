/*
 * The reference manual of a configuration table, so that it cannot differ from
 * what the program does.
 */
#include <stdio.h>
#include <string.h>

#include "base/conf.h"
#include "base/conf_types.h"
#include "base/units.h"

static bool holds_table(const struct conf_item *item)
{
	return item->type == CONF_SUB || item->type == CONF_LIST || item->type == CONF_MAP;
}

static int print_type(const struct conf_item *item, struct bytes *out)
{
	int r = bytes_append_str(out, conf_types[item->type].name);

	for (size_t i = 0; r == 0 && item->type == CONF_ENUM && item->names[i]; i++)
		r = bytes_appendf(out, "%s `%s`", i ? "," : "", item->names[i]);
	if (r == 0 && holds_table(item) && item->type != CONF_SUB)
		r = bytes_appendf(out, " [%s](#%s)", item->sub->name, item->sub->name);
	return r;
}

static int print_range(const struct conf_item *item, struct bytes *out)
{
	char low[UNITS_TEXT_LEN], high[UNITS_TEXT_LEN];

	if (!item->min && !item->max)
		return 0;
	switch (item->type) {
	case CONF_UINT:
	case CONF_UINTS:
		return bytes_appendf(out, ", %llu to %llu", (unsigned long long)item->min,
				     (unsigned long long)(item->max ? item->max : UINT32_MAX));
	case CONF_DURATION:
		return bytes_appendf(out, ", %s to %s", duration_format(item->min, low),
				     duration_format(item->max ? item->max : UINT32_MAX, high));
	case CONF_SIZE:
		return bytes_appendf(out, ", %s to %s", size_format(item->min, low),
				     item->max ? size_format(item->max, high) : "any");
	default:
		return 0;
	}
}

static int print_default(const struct conf_item *item, struct bytes *out)
{
	if (item->required)
		return bytes_append_str(out, "required");
	return item->dflt && *item->dflt ? bytes_appendf(out, "`%s`", item->dflt) : 0;
}

static int print_item(const struct conf_item *item, bool reloads, struct bytes *out)
{
	int r = bytes_appendf(out, "| `%s` | ", item->name);

	if (r == 0)
		r = print_type(item, out);
	if (r == 0)
		r = print_range(item, out);
	if (r == 0)
		r = bytes_append_str(out, " | ");
	if (r == 0)
		r = print_default(item, out);
	if (r == 0 && reloads)
		r = bytes_append_str(out, item->reload == CONF_RESTART ? " | restart" : " | live");
	if (r == 0)
		r = bytes_appendf(out, " | %s |\n", item->doc ? item->doc : "");
	return r;
}

/* A program that reads its file once has nothing to say about changes. */
static bool is_reloaded(const struct conf_table *t)
{
	for (size_t i = 0; i < t->n_items; i++)
		if (t->items[i].reload == CONF_RESTART || (holds_table(&t->items[i]) && is_reloaded(t->items[i].sub)))
			return true;
	return false;
}

enum { MAX_TABLES = 64 };

/* Tables that were printed: one that is used in several places is printed once. */
struct printed {
	bool reloads;		/* the column "change" is wanted */
	const struct conf_table *tables[MAX_TABLES];
	size_t n;
};

static bool is_new(struct printed *p, const struct conf_table *t)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->tables[i] == t)
			return false;
	if (p->n < MAX_TABLES)
		p->tables[p->n++] = t;
	return true;
}

static int print_table(const struct conf_table *t, const char *title, unsigned level, struct printed *printed, struct bytes *out)
{
	int r = bytes_appendf(out, "%.*s %s\n\n", (int)level, "######", title);

	if (r == 0 && t->doc)
		r = bytes_appendf(out, "%s\n\n", t->doc);
	if (r == 0)
		r = bytes_append_str(out, printed->reloads ? "| name | type | default | change | meaning |\n|---|---|---|---|---|\n"
						: "| name | type | default | meaning |\n|---|---|---|---|\n");
	for (size_t i = 0; r == 0 && i < t->n_items; i++)
		if (t->items[i].name && t->items[i].type != CONF_REMOVED)
			r = print_item(&t->items[i], printed->reloads, out);
	if (r == 0)
		r = bytes_append_str(out, "\n");

	for (size_t i = 0; r == 0 && i < t->n_items; i++) {
		const struct conf_item *item = &t->items[i];

		if (item->name && holds_table(item) && is_new(printed, item->sub))
			r = print_table(item->sub, item->type == CONF_SUB ? item->name : item->sub->name, MIN(level + 1, 6u), printed, out);
	}
	return r;
}

int conf_manual(const struct conf_table *t, struct bytes *out)
{
	struct printed printed = { .reloads = is_reloaded(t) };
	int r = bytes_append_str(out, "<!-- Printed from the program's own table: do not edit. -->\n");

	return r < 0 ? r : print_table(t, t->name, 1, &printed, out);
}

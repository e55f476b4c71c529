/*
 * Aligned columns out of JSON.
 */
#include "ctl/table.h"

#include <stdbool.h>
#include <string.h>

#include "base/defs.h"
#include "base/utf8.h"

static const json_t *table_at(const json_t *object, const char *path)
{
	char part[64];

	while (object && *path) {
		size_t n = strcspn(path, ".");

		if (n >= sizeof(part))
			return NULL;
		memcpy(part, path, n);
		part[n] = '\0';
		object = json_object_get(object, part);
		path += n + (path[n] == '.');
	}
	return object;
}

static void join(const json_t *array, char *text, size_t n_text)
{
	size_t len = 0, i;
	json_t *item;

	text[0] = '\0';
	json_array_foreach(array, i, item) {
		char cell[TABLE_CELL_LEN];

		table_text(item, cell, sizeof(cell));
		if (len + strlen(cell) + 3 > n_text)
			break;
		len += (size_t)snprintf(text + len, n_text - len, "%s%s", i ? "," : "", cell);
	}
	if (!len)
		snprintf(text, n_text, "-");
}

/* A terminal must not obey what a guest has named itself. */
static void tame(const char *s, char *text, size_t n_text)
{
	utf8_clean(s, strlen(s), text, n_text);
}

void table_text(const json_t *value, char *text, size_t n_text)
{
	if (json_is_array(value)) {
		join(value, text, n_text);
		return;
	}
	if (json_is_string(value))
		tame(*json_string_value(value) ? json_string_value(value) : "-", text, n_text);
	else if (json_is_integer(value))
		snprintf(text, n_text, "%lld", (long long)json_integer_value(value));
	else if (json_is_real(value))
		snprintf(text, n_text, "%.1f", json_real_value(value));
	else if (json_is_boolean(value))
		snprintf(text, n_text, "%s", json_is_true(value) ? "yes" : "no");
	else
		snprintf(text, n_text, "-");
}

void table_ms(const json_t *value, char *text, size_t n_text)
{
	double ms = json_number_value(value);

	if (!json_is_number(value))
		snprintf(text, n_text, "-");
	else if (ms < 10000)
		snprintf(text, n_text, ms < 10 ? "%.1f ms" : "%.0f ms", ms);
	else
		snprintf(text, n_text, "%.1f s", ms / 1000);
}

void table_bytes(const json_t *value, char *text, size_t n_text)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double n = json_number_value(value);
	size_t unit = 0;

	for (; n >= 1024 && unit + 1 < ELEMENTS(units); unit++)
		n /= 1024;
	if (json_is_number(value))
		snprintf(text, n_text, unit ? "%.1f %s" : "%.0f %s", n, units[unit]);
	else
		snprintf(text, n_text, "-");
}

void table_yes_no(const json_t *value, char *text, size_t n_text)
{
	snprintf(text, n_text, "%s", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
}

static void cell(const json_t *row, const struct table_column *c, char text[static TABLE_CELL_LEN])
{
	const json_t *value = table_at(row, c->path);

	if (c->format)
		c->format(value, text, TABLE_CELL_LEN);
	else
		table_text(value, text, TABLE_CELL_LEN);
}

static int columns_of(const char *text)
{
	int n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;	/* UTF-8 continuation bytes take no place */
	return n;
}

static void put_cell(FILE *to, const char *text, int width, bool last)
{
	fputs(text, to);
	for (int n = columns_of(text); !last && n < width + 2; n++)
		putc(' ', to);
}

void table_print(FILE *to, const json_t *array, const struct table_column *columns)
{
	int widths[TABLE_MAX_COLUMNS];
	char text[TABLE_CELL_LEN];
	size_t n = 0, i;
	json_t *row;

	for (; columns[n].title && n < TABLE_MAX_COLUMNS; n++) {
		widths[n] = columns_of(columns[n].title);
		json_array_foreach(array, i, row) {
			cell(row, &columns[n], text);
			widths[n] = MAX(widths[n], columns_of(text));
		}
	}
	for (size_t c = 0; c < n; c++)
		put_cell(to, columns[c].title, widths[c], c + 1 == n);
	putc('\n', to);
	json_array_foreach(array, i, row) {
		for (size_t c = 0; c < n; c++) {
			cell(row, &columns[c], text);
			put_cell(to, text, widths[c], c + 1 == n);
		}
		putc('\n', to);
	}
}

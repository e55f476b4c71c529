#pragma once
#include <jansson.h>
#include <stdio.h>

/*
 * JSON arrays of objects as aligned columns, for people.
 */
struct table_column {
	const char *title;	/* NULL ends the list */
	const char *path;	/* of the value in an object: "a", "a.b" */
	/* Turns the value into text; NULL: strings and numbers as they are, arrays joined with commas, null as "-". */
	void (*format)(const json_t *value, char *text, size_t n_text);
};

enum { TABLE_MAX_COLUMNS = 16, TABLE_CELL_LEN = 128 };

void table_print(FILE *to, const json_t *array, const struct table_column *columns);
/* The plain form of a value, as in a cell. */
void table_text(const json_t *value, char *text, size_t n_text);
/* Formats: milliseconds as "12 ms", "3.4 s"; bytes as "1.2 MiB"; booleans as yes and no. */
void table_ms(const json_t *value, char *text, size_t n_text);
void table_bytes(const json_t *value, char *text, size_t n_text);
void table_yes_no(const json_t *value, char *text, size_t n_text);

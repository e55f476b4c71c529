#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"

/*
 * Configuration as tables: each item says its name, type, place in a struct,
 * bounds, default, reload class and documentation. One table fills the struct
 * from YAML, checks it, frees it, compares two of them and prints the manual.
 *
 *	struct door { char *name; uint32_t timeout_ms; };
 *
 *	static const struct conf_item door_items[] = {
 *		{ "name",    CONF_STRING,   offsetof(struct door, name), .required = true,
 *		  .doc = "What people call it." },
 *		{ "timeout", CONF_DURATION, offsetof(struct door, timeout_ms), .dflt = "10s", .min = 100, .max = 60000,
 *		  .doc = "How long it stays open." },
 *	};
 *	static const struct conf_table door_table = CONF_TABLE_INIT("door", struct door, door_items);
 *
 * An unknown key is refused with file, line and the nearest known name. Nothing
 * is half filled: a call that fails leaves nothing behind.
 */
struct conf_table;

enum conf_type {
	CONF_BOOL,	/* bool */
	CONF_UINT,	/* uint32_t */
	CONF_DURATION,	/* uint32_t, milliseconds; @min and @max too */
	CONF_SIZE,	/* uint64_t, bytes */
	CONF_STRING,	/* char *, NULL when not given and without a default */
	CONF_ENUM,	/* int, index in @names */
	CONF_IP,	/* struct ip */
	CONF_IP_PORT,	/* struct ip_port; "1.2.3.4:80", "[::1]:80" */
	CONF_PREFIX,	/* struct ip_prefix */
	CONF_MAC,	/* struct conf_mac */
	CONF_STRINGS,	/* struct conf_strings: a list, or one scalar */
	CONF_PREFIXES,	/* struct conf_prefixes: a list, or one scalar */
	CONF_UINTS,	/* struct conf_uints: a list, or one scalar; @min and @max of each */
	CONF_LABELS,	/* struct conf_labels: a map of scalars */
	CONF_SUB,	/* a struct of @sub, embedded */
	CONF_LIST,	/* struct conf_list: a list of @sub */
	CONF_MAP,	/* struct conf_list: a map whose keys go to the items' CONF_KEY */
	CONF_KEY,	/* char *: the key under which this item stands in a CONF_MAP; has no name */
	CONF_LINE,	/* unsigned: the line where the item begins; has no name */
	CONF_REMOVED,	/* nothing: the name is refused, @doc says what to use instead */
};

struct conf_mac {
	uint8_t b[6];
	bool set;
};

struct conf_strings {
	char **v;
	size_t n;
};

struct conf_prefixes {
	struct ip_prefix *v;
	size_t n;
};

struct conf_uints {
	uint32_t *v;
	size_t n;
};

struct conf_label {
	char *key;
	char *value;
};

struct conf_labels {
	struct conf_label *v;
	size_t n;
};

struct conf_list {
	void *v;		/* array of @sub's structs */
	size_t n;
};

enum conf_reload {
	CONF_LIVE,		/* a change takes effect at once */
	CONF_RESTART,		/* ... when the program starts again */
};

/*
 * Checks one value beyond its type. @text is what was written (scalars: also
 * each of a list). Returns NULL or what is wrong with it, as in "<name>: <that>".
 */
typedef const char *conf_check_fn(const char *text);

struct conf_item {
	const char *name;	/* in the file: lower case with underscores */
	enum conf_type type;
	size_t offset;
	uint64_t min, max;	/* numbers, and how many in a list; @max 0: as far as the type goes (lists: CONF_MAX_LIST) */
	const char *dflt;	/* as it would be written; NULL: zero, empty */
	const char *const *names;	/* CONF_ENUM, NULL ends it */
	const struct conf_table *sub;
	bool required;
	enum conf_reload reload;
	conf_check_fn *check;
	const char *doc;
};

struct conf_table {
	const char *name;
	size_t size;		/* of the struct */
	const struct conf_item *items;
	size_t n_items;
	/* Checks a whole struct; returns diag_at(d, file, line, ...) or 0. */
	int (*check)(const void *obj, const char *file, unsigned line, struct diag *reterr_diag);
	const char *doc;	/* first paragraph in the manual */
};

#define CONF_TABLE_INIT(name_, type_, items_, ...) \
	{ .name = name_, .size = sizeof(type_), .items = items_, .n_items = ELEMENTS(items_), __VA_ARGS__ }

enum { CONF_MAX_LIST = 100000, CONF_MAX_STRING = 65536 };

/*
 * Fills @ret_obj, which the caller frees with conf_free(). conf_load() reads a
 * file. -EINVAL with @reterr_diag (also for a file that cannot be read), -ENOMEM.
 */
MUST_CHECK int conf_parse(const struct conf_table *t, const char *file, const char *text, size_t len,
			  void *ret_obj, struct diag *reterr_diag);
MUST_CHECK int conf_load(const struct conf_table *t, const char *path, void *ret_obj, struct diag *reterr_diag);
/* As if from an empty file, but required items may be missing. */
MUST_CHECK int conf_defaults(const struct conf_table *t, void *ret_obj);
/* Frees what @obj points at and zeroes it. */
void conf_free(const struct conf_table *t, void *obj);

enum { CONF_PATH_LEN = 128 };
/* Whether they differ in an item of that class; @ret_path is the first such ("a.b"). Lines do not count. */
bool conf_differs(const struct conf_table *t, const void *a, const void *b, enum conf_reload reload,
		  char ret_path[static CONF_PATH_LEN]);

/*
 * The reference manual, Markdown. -ENOMEM, -ENOBUFS. It tells of changes only
 * where an item is CONF_RESTART: other programs read their file once.
 */
MUST_CHECK int conf_manual(const struct conf_table *t, struct bytes *out);

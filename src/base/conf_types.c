/*
 * The types of configuration items: one row each at the end of this file.
 */
#include "base/conf_types.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"

static int complain(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, const char *what)
{
	if (n->text)
		return diag_at(c->diag, c->file, n->line, "%s: '%.80s' %s", item->name, n->text, what);
	return diag_at(c->diag, c->file, n->line, "%s: %s", item->name, what);
}

static int want_scalar(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n)
{
	const char *wrong;

	if (n->kind != CONF_NODE_SCALAR)
		return diag_at(c->diag, c->file, n->line, "%s: one value is wanted here, not a %s", item->name,
			       n->kind == CONF_NODE_LIST ? "list" : "map");
	wrong = item->check ? item->check(n->text) : NULL;
	return wrong ? complain(c, item, n, wrong) : 0;
}

/* --- single values --- */

static int parse_bool(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	if (strcmp(n->text, "true") != 0 && strcmp(n->text, "false") != 0)
		return complain(c, item, n, "is not true or false");
	*(bool *)field = n->text[0] == 't';
	return 0;
}

typedef const char *format_fn(uint64_t value, char text[static UNITS_TEXT_LEN]);

static const char *format_uint(uint64_t value, char text[static UNITS_TEXT_LEN])
{
	snprintf(text, UNITS_TEXT_LEN, "%" PRIu64, value);
	return text;
}

static int check_range(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, uint64_t v,
		       uint64_t type_max, format_fn *format)
{
	uint64_t max = item->max ? item->max : type_max;
	char low[UNITS_TEXT_LEN], high[UNITS_TEXT_LEN];

	if (v >= item->min && v <= max)
		return 0;
	return diag_at(c->diag, c->file, n->line, "%s: %s is out of range, %s to %s are allowed", item->name, n->text,
		       format(item->min, low), format(max, high));
}

static int parse_digits(const char *text, uint64_t *ret_value)
{
	uint64_t v = 0;

	if (!*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*text - '0'), &v))
			v = UINT64_MAX;		/* out of every range */
	}
	*ret_value = v;
	return 0;
}

static int parse_uint(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	uint64_t v;
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	if (parse_digits(n->text, &v) < 0)
		return complain(c, item, n, "is not a whole number");
	r = check_range(c, item, n, v, UINT32_MAX, format_uint);
	if (r == 0)
		*(uint32_t *)field = (uint32_t)v;
	return r;
}

static int parse_duration(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	uint64_t v;
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	r = duration_parse(n->text, &v);
	if (r == -EINVAL)
		return complain(c, item, n, "is not a duration, such as 250ms, 10s or 1h30m");
	r = check_range(c, item, n, r < 0 ? UINT64_MAX : v, UINT32_MAX, duration_format);
	if (r == 0)
		*(uint32_t *)field = (uint32_t)v;
	return r;
}

static int parse_size(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	uint64_t v;
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	r = size_parse(n->text, &v);
	if (r == -EINVAL)
		return complain(c, item, n, "is not a size, such as 512, 64KiB or 4MiB");
	r = check_range(c, item, n, r < 0 ? UINT64_MAX : v, INT64_MAX, size_format);
	if (r == 0)
		*(uint64_t *)field = v;
	return r;
}

static int parse_string(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	if (strlen(n->text) > CONF_MAX_STRING)
		return diag_at(c->diag, c->file, n->line, "%s: longer than %d bytes", item->name, CONF_MAX_STRING);
	*(char **)field = strdup(n->text);
	return *(char **)field ? 0 : -ENOMEM;
}

static int parse_enum(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	char known[256] = "";
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	for (int i = 0; item->names[i]; i++) {
		if (!strcmp(item->names[i], n->text)) {
			*(int *)field = i;
			return 0;
		}
		size_t len = strlen(known);
		snprintf(known + len, sizeof(known) - len, "%s%s", i ? ", " : "", item->names[i]);
	}
	return diag_at(c->diag, c->file, n->line, "%s: '%.80s' is not one of %s", item->name, n->text, known);
}

static int parse_ip(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	return ip_parse(n->text, field) < 0 ? complain(c, item, n, "is not an IP address") : 0;
}

static int parse_ip_port(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	return ip_port_parse(n->text, field) < 0 ? complain(c, item, n, "is not an address with a port, such as 10.0.0.1:80 or [::1]:80") : 0;
}

static int parse_prefix(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	return ip_prefix_parse(n->text, field) < 0 ? complain(c, item, n, "is not an address or a prefix, such as 10.0.0.0/8") : 0;
}

static int parse_mac(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	struct conf_mac *mac = field;
	int end = 0;
	int r = want_scalar(c, item, n);

	if (r < 0)
		return r;
	if (strlen(n->text) != 17 ||
	    sscanf(n->text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac->b[0], &mac->b[1], &mac->b[2], &mac->b[3], &mac->b[4],
		   &mac->b[5], &end) != 6 || end != 17)
		return complain(c, item, n, "is not a MAC address, such as 52:54:00:12:34:56");
	mac->set = true;
	return 0;
}

/* --- lists of single values --- */

static size_t count_children(const struct conf_node *n)
{
	size_t count = 0;

	for (const struct conf_node *c = n->children; c; c = c->next)
		count++;
	return count;
}

static int check_count(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, size_t count)
{
	size_t max = item->type != CONF_UINTS && item->max ? item->max : CONF_MAX_LIST;

	if (count > max)
		return diag_at(c->diag, c->file, n->line, "%s: %zu entries, at most %zu are allowed", item->name, count, max);
	if (item->type != CONF_UINTS && count < item->min)
		return diag_at(c->diag, c->file, n->line, "%s: %zu entries, at least %zu are needed", item->name, count, (size_t)item->min);
	return 0;
}

typedef int parse_fn(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field);

/* A list, or one scalar that is a list of itself. The array is the owner's from the start, so that release() frees it. */
static int parse_array(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n,
		       parse_fn *parse, size_t size, void **array, size_t *n_array)
{
	size_t count = n->kind == CONF_NODE_LIST ? count_children(n) : 1;
	int r;

	if (n->kind == CONF_NODE_MAP)
		return diag_at(c->diag, c->file, n->line, "%s: a list is wanted here, not a map", item->name);
	r = check_count(c, item, n, count);
	if (r < 0 || !count)
		return r;
	*array = calloc(count, size);
	if (!*array)
		return -ENOMEM;
	for (const struct conf_node *e = n->kind == CONF_NODE_LIST ? n->children : n; e; e = e->next) {
		r = parse(c, item, e, (char *)*array + *n_array * size);
		if (r < 0)
			return r;
		(*n_array)++;
		if (n->kind != CONF_NODE_LIST)
			break;
	}
	return 0;
}

static int parse_strings(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	struct conf_strings *s = field;
	void *array = NULL;
	int r = parse_array(c, item, n, parse_string, sizeof(*s->v), &array, &s->n);

	s->v = array;
	return r;
}

static void release_strings(const struct conf_item *item, void *field)
{
	struct conf_strings *s = field;

	(void)item;
	for (size_t i = 0; i < s->n; i++)
		free(s->v[i]);
	free(s->v);
}

static int parse_prefixes(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	struct conf_prefixes *p = field;
	void *array = NULL;
	int r = parse_array(c, item, n, parse_prefix, sizeof(*p->v), &array, &p->n);

	p->v = array;
	return r;
}

static int parse_uints(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	struct conf_uints *u = field;
	void *array = NULL;
	int r = parse_array(c, item, n, parse_uint, sizeof(*u->v), &array, &u->n);

	u->v = array;
	return r;
}

static int parse_labels(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	struct conf_labels *l = field;
	int r;

	if (n->kind != CONF_NODE_MAP)
		return diag_at(c->diag, c->file, n->line, "%s: a map of 'name: value' is wanted here", item->name);
	r = check_count(c, item, n, count_children(n));
	if (r < 0 || !n->children)
		return r;
	l->v = calloc(count_children(n), sizeof(*l->v));
	if (!l->v)
		return -ENOMEM;
	for (const struct conf_node *e = n->children; e; e = e->next) {
		struct conf_label *label = &l->v[l->n++];

		r = parse_string(c, item, e, &label->value);
		if (r < 0)
			return r;
		label->key = strdup(e->key);
		if (!label->key)
			return -ENOMEM;
	}
	return 0;
}

static void release_labels(const struct conf_item *item, void *field)
{
	struct conf_labels *l = field;

	(void)item;
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].key);
		free(l->v[i].value);
	}
	free(l->v);
}

static void release_string(const struct conf_item *item, void *field)
{
	(void)item;
	free(*(char **)field);
}

static void release_array(const struct conf_item *item, void *field)	/* of anything flat */
{
	(void)item;
	free(((struct conf_list *)field)->v);
}

/* --- tables --- */

static int parse_sub(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	return conf_fill(c, item->sub, n, field);
}

static void release_sub(const struct conf_item *item, void *field)
{
	conf_free(item->sub, field);
}

static int parse_tables(const struct conf_context *c, const struct conf_item *item, const struct conf_node *n, void *field)
{
	enum conf_node_kind wanted = item->type == CONF_MAP ? CONF_NODE_MAP : CONF_NODE_LIST;
	struct conf_list *list = field;
	size_t count = count_children(n);
	int r;

	if (n->kind != wanted)
		return diag_at(c->diag, c->file, n->line, "%s: a %s is wanted here", item->name, wanted == CONF_NODE_MAP ? "map" : "list");
	r = check_count(c, item, n, count);
	if (r < 0 || !count)
		return r;
	list->v = calloc(count, item->sub->size);
	if (!list->v)
		return -ENOMEM;
	for (const struct conf_node *e = n->children; e; e = e->next) {
		const struct conf_node empty = { .kind = CONF_NODE_MAP, .line = e->line, .key = e->key };

		r = conf_fill(c, item->sub, conf_node_is_null(e) ? &empty : e, (char *)list->v + list->n * item->sub->size);
		if (r < 0)
			return r;
		list->n++;
	}
	return 0;
}

static void release_tables(const struct conf_item *item, void *field)
{
	struct conf_list *list = field;

	for (size_t i = 0; i < list->n; i++)
		conf_free(item->sub, (char *)list->v + i * item->sub->size);
	free(list->v);
}

/* --- comparisons --- */

#define EQUAL_BYTES(fn, type)								\
	static bool fn(const struct conf_item *item, const void *a, const void *b)	\
	{										\
		(void)item;								\
		return !memcmp(a, b, sizeof(type));					\
	}

EQUAL_BYTES(equal_bool, bool)
EQUAL_BYTES(equal_uint, uint32_t)
EQUAL_BYTES(equal_size, uint64_t)
EQUAL_BYTES(equal_int, int)
EQUAL_BYTES(equal_ip, struct ip)
EQUAL_BYTES(equal_mac, struct conf_mac)

static bool same_text(const char *a, const char *b)
{
	return !a || !b ? a == b : !strcmp(a, b);
}

static bool equal_string(const struct conf_item *item, const void *a, const void *b)
{
	(void)item;
	return same_text(*(char *const *)a, *(char *const *)b);
}

static bool equal_ip_port(const struct conf_item *item, const void *a, const void *b)
{
	const struct ip_port *x = a, *y = b;

	(void)item;
	return x->port == y->port && ip_equal(&x->ip, &y->ip);
}

static bool equal_prefix(const struct conf_item *item, const void *a, const void *b)
{
	const struct ip_prefix *x = a, *y = b;

	(void)item;
	return x->len == y->len && ip_equal(&x->ip, &y->ip);
}

static bool equal_strings(const struct conf_item *item, const void *a, const void *b)
{
	const struct conf_strings *x = a, *y = b;

	(void)item;
	for (size_t i = 0; x->n == y->n && i < x->n; i++)
		if (strcmp(x->v[i], y->v[i]) != 0)
			return false;
	return x->n == y->n;
}

static bool equal_prefixes(const struct conf_item *item, const void *a, const void *b)
{
	const struct conf_prefixes *x = a, *y = b;

	for (size_t i = 0; x->n == y->n && i < x->n; i++)
		if (!equal_prefix(item, &x->v[i], &y->v[i]))
			return false;
	return x->n == y->n;
}

static bool equal_uints(const struct conf_item *item, const void *a, const void *b)
{
	const struct conf_uints *x = a, *y = b;

	(void)item;
	return x->n == y->n && (!x->n || !memcmp(x->v, y->v, x->n * sizeof(*x->v)));
}

static bool equal_labels(const struct conf_item *item, const void *a, const void *b)
{
	const struct conf_labels *x = a, *y = b;

	(void)item;
	for (size_t i = 0; x->n == y->n && i < x->n; i++)
		if (!same_text(x->v[i].key, y->v[i].key) || !same_text(x->v[i].value, y->v[i].value))
			return false;
	return x->n == y->n;
}

static bool equal_sub(const struct conf_item *item, const void *a, const void *b)
{
	return conf_equal(item->sub, a, b);
}

static bool equal_tables(const struct conf_item *item, const void *a, const void *b)
{
	const struct conf_list *x = a, *y = b;

	for (size_t i = 0; x->n == y->n && i < x->n; i++)
		if (!conf_equal(item->sub, (const char *)x->v + i * item->sub->size, (const char *)y->v + i * item->sub->size))
			return false;
	return x->n == y->n;
}

static bool equal_always(const struct conf_item *item, const void *a, const void *b)
{
	(void)item;
	(void)a;
	(void)b;
	return true;
}

const struct conf_type_ops conf_types[] = {
	[CONF_BOOL]     = { "boolean",           parse_bool,     NULL,            equal_bool },
	[CONF_UINT]     = { "number",            parse_uint,     NULL,            equal_uint },
	[CONF_DURATION] = { "duration",          parse_duration, NULL,            equal_uint },
	[CONF_SIZE]     = { "size",              parse_size,     NULL,            equal_size },
	[CONF_STRING]   = { "string",            parse_string,   release_string,  equal_string },
	[CONF_ENUM]     = { "one of",            parse_enum,     NULL,            equal_int },
	[CONF_IP]       = { "IP address",        parse_ip,       NULL,            equal_ip },
	[CONF_IP_PORT]  = { "address:port",      parse_ip_port,  NULL,            equal_ip_port },
	[CONF_PREFIX]   = { "prefix",            parse_prefix,   NULL,            equal_prefix },
	[CONF_MAC]      = { "MAC address",       parse_mac,      NULL,            equal_mac },
	[CONF_STRINGS]  = { "list of strings",   parse_strings,  release_strings, equal_strings },
	[CONF_PREFIXES] = { "list of prefixes",  parse_prefixes, release_array,   equal_prefixes },
	[CONF_UINTS]    = { "list of numbers",   parse_uints,    release_array,   equal_uints },
	[CONF_LABELS]   = { "map of strings",    parse_labels,   release_labels,  equal_labels },
	[CONF_SUB]      = { "section",           parse_sub,      release_sub,     equal_sub },
	[CONF_LIST]     = { "list of",           parse_tables,   release_tables,  equal_tables },
	[CONF_MAP]      = { "map of names to",   parse_tables,   release_tables,  equal_tables },
	[CONF_KEY]      = { "key",               NULL,           release_string,  equal_string },
	[CONF_LINE]     = { "line",              NULL,           NULL,            equal_always },
	[CONF_REMOVED]  = { "removed",           NULL,           NULL,            equal_always },
};
_Static_assert(offsetof(struct conf_list, v) == offsetof(struct conf_prefixes, v), "release_array() frees them alike");
_Static_assert(offsetof(struct conf_list, v) == offsetof(struct conf_uints, v), "release_array() frees them alike");

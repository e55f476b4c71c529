/*
 * Durations and sizes as text.
 */
#include "base/units.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit duration_units[] = {	/* largest first: duration_format() */
	{ "d", 86400000 },
	{ "h", 3600000 },
	{ "m", 60000 },
	{ "s", 1000 },
	{ "ms", 1 },
};

static const struct unit size_units[] = {
	{ "GiB", 1 << 30 },
	{ "MiB", 1 << 20 },
	{ "KiB", 1 << 10 },
	{ "G", 1 << 30 },
	{ "M", 1 << 20 },
	{ "K", 1 << 10 },
	{ "B", 1 },
	{ "", 1 },
};
enum { N_SIZE_UNITS_SHOWN = 3 };

static int parse_digits(const char **text, uint64_t *ret_value)
{
	const char *p = *text;
	uint64_t v = 0;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return -ERANGE;
	*text = p;
	*ret_value = v;
	return 0;
}

static const struct unit *find_unit(const struct unit *units, size_t n, const char *name, size_t len)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(units[i].name) == len && !memcmp(units[i].name, name, len))
			return &units[i];
	return NULL;
}

int duration_parse(const char *text, uint64_t *ret_ms)
{
	uint64_t total = 0, last = UINT64_MAX;

	if (!strcmp(text, "0")) {
		*ret_ms = 0;
		return 0;
	}
	do {
		uint64_t v;
		int r = parse_digits(&text, &v);

		if (r < 0)
			return r;
		size_t len = strspn(text, "dhms");
		const struct unit *u = find_unit(duration_units, ELEMENTS(duration_units), text, len);
		if (!u || u->factor >= last)	/* "1s1h" is a slip */
			return -EINVAL;
		if (__builtin_mul_overflow(v, u->factor, &v) || __builtin_add_overflow(total, v, &total))
			return -ERANGE;
		last = u->factor;
		text += len;
	} while (*text);
	*ret_ms = total;
	return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
	uint64_t v;
	int r = parse_digits(&text, &v);

	if (r < 0)
		return r;
	const struct unit *u = find_unit(size_units, ELEMENTS(size_units), text, strlen(text));
	if (!u)
		return -EINVAL;
	if (__builtin_mul_overflow(v, u->factor, &v))
		return -ERANGE;
	*ret_bytes = v;
	return 0;
}

const char *duration_format(uint64_t ms, char text[static UNITS_TEXT_LEN])
{
	size_t len = 0;

	snprintf(text, UNITS_TEXT_LEN, "0");
	for (size_t i = 0; i < ELEMENTS(duration_units) && len < UNITS_TEXT_LEN; i++) {
		uint64_t n = ms / duration_units[i].factor;

		if (!n)
			continue;
		len += (size_t)snprintf(text + len, UNITS_TEXT_LEN - len, "%llu%s", (unsigned long long)n, duration_units[i].name);
		ms -= n * duration_units[i].factor;
	}
	return text;
}

const char *size_format(uint64_t bytes, char text[static UNITS_TEXT_LEN])
{
	for (size_t i = 0; i < N_SIZE_UNITS_SHOWN; i++)
		if (bytes && bytes % size_units[i].factor == 0) {
			snprintf(text, UNITS_TEXT_LEN, "%llu%s", (unsigned long long)(bytes / size_units[i].factor), size_units[i].name);
			return text;
		}
	snprintf(text, UNITS_TEXT_LEN, "%llu", (unsigned long long)bytes);
	return text;
}

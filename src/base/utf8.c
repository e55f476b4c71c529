/*
 * UTF-8, checked strictly: no overlong forms, no surrogates, no control characters.
 */
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_tail(uint8_t b)
{
	return (b & 0xc0) == 0x80;
}

/* U+0080 to U+009F are control characters too. */
static size_t two(const uint8_t *p)
{
	return p[0] >= 0xc2 && is_tail(p[1]) && !(p[0] == 0xc2 && p[1] < 0xa0) ? 2 : 0;
}

/* Overlong below U+0800; surrogates; U+2028 and U+2029 end lines. */
static size_t three(const uint8_t *p)
{
	if (!is_tail(p[1]) || !is_tail(p[2]))
		return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f))
		return 0;
	return p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9) ? 0 : 3;
}

/* Overlong below U+10000; nothing above U+10FFFF. */
static size_t four(const uint8_t *p)
{
	if (!is_tail(p[1]) || !is_tail(p[2]) || !is_tail(p[3]))
		return 0;
	return (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f) || p[0] > 0xf4 ? 0 : 4;
}

size_t utf8_printable(const uint8_t *p, size_t n)
{
	if (!n)
		return 0;
	if (p[0] < 0x80)
		return p[0] >= 0x20 && p[0] != 0x7f;
	if (p[0] < 0xe0)
		return n >= 2 && p[0] >= 0xc0 ? two(p) : 0;
	if (p[0] < 0xf0)
		return n >= 3 ? three(p) : 0;
	return n >= 4 ? four(p) : 0;
}

bool utf8_is_clean(const void *data, size_t n)
{
	const uint8_t *p = data;

	while (n) {
		size_t len = utf8_printable(p, n);

		if (!len)
			return false;
		p += len;
		n -= len;
	}
	return true;
}

size_t utf8_clean(const void *data, size_t n, char *text, size_t size)
{
	const uint8_t *p = data;
	size_t at = 0;

	while (n) {
		size_t len = utf8_printable(p, n);

		if (size - at <= (len ? len : 4))
			break;
		if (len) {
			memcpy(text + at, p, len);
			at += len;
		} else {
			at += (size_t)snprintf(text + at, size - at, "\\%03u", *p);
			len = 1;
		}
		p += len;
		n -= len;
	}
	text[at] = 0;
	return at;
}

/* A character that JSON lets through and people must not see; 0: it is none. Its length. */
static uint16_t json_control(const uint8_t *p, size_t *ret_len)
{
	*ret_len = 1;
	if (p[0] == 0x7f)
		return 0x7f;
	*ret_len = 2;
	if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
		return p[1];
	*ret_len = 3;
	if (p[0] == 0xe2 && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9))
		return (uint16_t)(0x2000 | (p[2] & 0x3f));
	*ret_len = 1;
	return 0;
}

char *utf8_json(char *json)
{
	enum { ESCAPE_LEN = 6 };
	size_t n = 0, at = 0, len;
	const uint8_t *p = (const uint8_t *)json;
	char *text;

	if (!json)
		return NULL;
	for (; *p; p += len)		/* the zero at the end makes a character that is cut short none */
		n += json_control(p, &len) != 0;
	if (!n)
		return json;
	text = malloc((size_t)(p - (const uint8_t *)json) + n * ESCAPE_LEN + 1);
	for (p = (const uint8_t *)json; text && *p; p += len) {
		uint16_t c = json_control(p, &len);

		if (c)
			at += (size_t)snprintf(text + at, ESCAPE_LEN + 1, "\\u%04x", c);
		else
			text[at++] = (char)*p;
	}
	if (text)
		text[at] = 0;
	free(json);
	return text;
}

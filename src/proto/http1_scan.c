/*
 * Lines of HTTP/1.x: see http1_scan.h.
 */
#include "proto/http1_scan.h"

#include <string.h>

/* RFC 9110, section 5.6.2 */
static bool is_tchar(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

bool http1_scan_start_plausible(enum http1_kind kind, const char *text, size_t len)
{
	static const char version[] = "HTTP/1.";
	enum { MAX_METHOD = 32 };

	if (kind == HTTP1_RESPONSE) {
		size_t n = len < sizeof(version) - 1 ? len : sizeof(version) - 1;

		return memcmp(text, version, n) == 0;
	}
	for (size_t i = 0; i < len && i <= MAX_METHOD; i++) {
		if (text[i] == ' ')
			return i > 0;
		if (!is_tchar(text[i]))
			return false;
	}
	return len <= MAX_METHOD;
}

/* "HTTP/1.x" at the start of @s. */
static bool version_at(const char *s, size_t len, uint8_t *ret_minor)
{
	if (len < 8 || memcmp(s, "HTTP/1.", 7) != 0 || !is_digit(s[7]))
		return false;
	*ret_minor = (uint8_t)(s[7] - '0');
	return true;
}

/* RFC 9112, section 3 */
static bool request_line(const char *line, size_t len, struct http1_head *h)
{
	const char *sp = memchr(line, ' ', len);
	const char *end = line + len;
	const char *last = end;

	while (last > line && last[-1] != ' ')
		last--;
	if (!sp || last - 1 <= sp || end - last != 8 || !version_at(last, 8, &h->minor))
		return false;
	h->method = (struct http1_str){ line, (size_t)(sp - line) };
	h->target = (struct http1_str){ sp + 1, (size_t)(last - 1 - (sp + 1)) };
	if (!h->method.len || !h->target.len)
		return false;
	for (size_t i = 0; i < h->method.len; i++)
		if (!is_tchar(h->method.p[i]))
			return false;
	for (size_t i = 0; i < h->target.len; i++)
		if ((unsigned char)h->target.p[i] <= ' ' || h->target.p[i] == 0x7f)
			return false;
	return true;
}

/* RFC 9112, section 4; the reason and the space before it may be missing. */
static bool status_line(const char *line, size_t len, struct http1_head *h)
{
	if (len < 12 || !version_at(line, len, &h->minor) || line[8] != ' ')
		return false;
	if (!is_digit(line[9]) || !is_digit(line[10]) || !is_digit(line[11]) || (len > 12 && line[12] != ' '))
		return false;
	h->status = (uint16_t)((line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0'));
	return h->status >= 100;
}

/* Length of the line at @text without its end, and with it. */
static size_t line_at(const char *text, size_t len, size_t *ret_with_end)
{
	const char *nl = memchr(text, '\n', len);
	size_t n = nl ? (size_t)(nl - text) : len;

	*ret_with_end = nl ? n + 1 : n;
	return n && text[n - 1] == '\r' ? n - 1 : n;
}

/* RFC 9112, section 5.2: a line that begins with a blank continues the one before. */
static bool unfold(char *text, size_t len)
{
	bool any = false;

	for (size_t i = 1; i < len; i++) {
		if (text[i - 1] != '\n' || (text[i] != ' ' && text[i] != '\t'))
			continue;
		any = true;
		text[i - 1] = ' ';
		if (i >= 2 && text[i - 2] == '\r')
			text[i - 2] = ' ';
	}
	return any;
}

/* RFC 9110, section 8.6: several equal values are one, anything else is an attack or a bug. */
static bool content_length(struct http1_str v, struct http1_head *h)
{
	size_t i = 0;

	while (i < v.len) {
		uint64_t n = 0;
		size_t digits = 0;

		for (; i < v.len && is_digit(v.p[i]); i++, digits++) {
			if (n > (UINT64_MAX - 9) / 10)
				return false;
			n = n * 10 + (uint64_t)(v.p[i] - '0');
		}
		if (!digits || (h->has_length && h->length != n))
			return false;
		h->length = n;
		h->has_length = true;
		while (i < v.len && (v.p[i] == ' ' || v.p[i] == ','))
			i++;
	}
	return h->has_length;
}

static int framing(enum http1_kind kind, bool strict, struct http1_head *h)
{
	struct http1_str n, v;
	size_t pos = 0;
	bool coded = false;

	while (http1_header_next(h, &pos, &n, &v)) {
		if (http1_str_is_nocase(n, "content-length") && !content_length(v, h))
			return HTTP1_E_MALFORMED;
		if (http1_str_is_nocase(n, "transfer-encoding") && !http1_str_is_nocase(v, "identity"))
			coded = true;
	}
	h->chunked = coded && http1_header_has_token(h, "transfer-encoding", "chunked");
	if (coded && h->has_length && strict)
		return HTTP1_E_MALFORMED;	/* RFC 9112, section 6.3, item 3 */
	if (coded && !h->chunked && kind == HTTP1_REQUEST)
		return HTTP1_E_MALFORMED;	/* item 4: its end cannot be known */
	if (coded) {
		h->has_length = false;		/* item 3: the coding wins */
		h->length = 0;
	}
	h->keep_alive = h->minor ? !http1_header_has_token(h, "connection", "close")
				 : http1_header_has_token(h, "connection", "keep-alive");
	h->upgrade = http1_header_has_token(h, "connection", "upgrade") && http1_header(h, "upgrade", &v);
	h->expect_continue = http1_header_has_token(h, "expect", "100-continue");
	return 0;
}

/* Field names are tokens, directly followed by the colon. A sniffer lets both pass. */
static int check_fields(bool strict, const struct http1_head *h)
{
	size_t n_fields = 0;

	for (size_t at = 0, step; at < h->fields.len; at += step) {
		const char *line = h->fields.p + at;
		size_t len = line_at(line, h->fields.len - at, &step);
		size_t i = 0;

		if (!len)
			continue;
		if (++n_fields > HTTP1_MAX_HEADERS)
			return HTTP1_E_TOO_LARGE;
		if (!strict)
			continue;
		while (i < len && is_tchar(line[i]))
			i++;
		if (!i || i == len || line[i] != ':' || memchr(line, '\0', len) || memchr(line, '\r', len))
			return HTTP1_E_MALFORMED;
	}
	return 0;
}

int http1_scan_head(enum http1_kind kind, bool strict, char *text, size_t len, struct http1_head *ret_head)
{
	struct http1_head h = {};
	size_t step;
	size_t n = line_at(text, len, &step);
	int r;

	if (kind == HTTP1_REQUEST ? !request_line(text, n, &h) : !status_line(text, n, &h))
		return HTTP1_E_MALFORMED;
	if (unfold(text + n, len - n) && strict)
		return HTTP1_E_MALFORMED;
	h.fields = (struct http1_str){ text + step, len - step };
	r = check_fields(strict, &h);
	if (r)
		return r;
	r = framing(kind, strict, &h);
	if (r)
		return r;
	*ret_head = h;
	return 0;
}

bool http1_scan_chunk_size(const char *line, size_t len, uint64_t *ret_size)
{
	uint64_t n = 0;
	size_t i = 0, digits = 0;

	for (; i < len; i++, digits++) {
		char c = line[i];
		unsigned v;

		if (is_digit(c))
			v = (unsigned)(c - '0');
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			v = (unsigned)((c | 0x20) - 'a') + 10;
		else
			break;
		if (digits == 15)
			return false;
		n = n << 4 | v;
	}
	while (i < len && (line[i] == ' ' || line[i] == '\t'))
		i++;
	if (!digits || i == len || (line[i] != ';' && line[i] != '\r' && line[i] != '\n'))
		return false;
	*ret_size = n;
	return true;
}

static bool find_status_line(const char *line, size_t len, size_t *ret_at)
{
	struct http1_head h;

	for (size_t i = len; i-- > 0; )
		if (line[i] == 'H' && status_line(line + i, len - i, &h)) {
			*ret_at = i;
			return true;
		}
	return false;
}

/* Index of the last blank before @end, or 0. */
static size_t last_blank(const char *line, size_t end)
{
	while (end && line[--end] != ' ')
		;
	return end;
}

/* The method may stand directly behind the last byte of a body: only known ones are looked for. */
static bool find_request_line(const char *line, size_t len, size_t *ret_at)
{
	static const char *const methods[] = { "GET", "PUT", "POST", "HEAD", "DELETE", "OPTIONS", "PATCH", "CONNECT" };
	struct http1_head h;
	size_t end = last_blank(line, last_blank(line, len));	/* the blank before the target */

	if (!end)
		return false;
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
		size_t n = strlen(methods[i]);

		if (end < n || memcmp(line + end - n, methods[i], n) != 0)
			continue;
		if (!request_line(line + end - n, len - (end - n), &h))
			continue;
		*ret_at = end - n;
		return true;
	}
	return false;
}

bool http1_scan_find_start(enum http1_kind kind, const char *line, size_t len, size_t *ret_at)
{
	size_t step;
	size_t n = line_at(line, len, &step);

	return kind == HTTP1_REQUEST ? find_request_line(line, n, ret_at) : find_status_line(line, n, ret_at);
}

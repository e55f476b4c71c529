/*
 * HTTP/1.x message parser: see http1.h.
 *
 * The head is collected up to its empty line, folded lines are joined in place,
 * and then it is read once for its framing. Bodies are never copied.
 */
#include "proto/http1.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "proto/http1_scan.h"

void http1_init(struct http1 *p, enum http1_kind kind, bool strict)
{
	*p = (struct http1){ .kind = kind, .strict = strict };
	bytes_init(&p->buf, HTTP1_MAX_HEAD);
}

void http1_deinit(struct http1 *p)
{
	bytes_deinit(&p->buf);
}

static int fail(struct http1 *p, int error)
{
	p->state = HTTP1_S_FAILED;
	bytes_clear(&p->buf);
	return error;
}

static int append(struct http1 *p, const void *data, size_t len)
{
	int r = bytes_append(&p->buf, data, len);

	return r == -ENOBUFS ? fail(p, HTTP1_E_TOO_LARGE) : r;
}

/* RFC 9112, section 6.3, but for what only the request of a response knows. */
static void begin_body(struct http1 *p)
{
	const struct http1_head *h = &p->head;
	bool response = p->kind == HTTP1_RESPONSE;

	if (response && h->status == 101)
		p->state = HTTP1_S_TUNNEL;
	else if (response && (h->status < 200 || h->status == 204 || h->status == 304))
		p->state = HTTP1_S_END;
	else if (h->chunked)
		p->state = HTTP1_S_CHUNK_SIZE;
	else if (h->has_length)
		p->state = h->length ? HTTP1_S_LENGTH : HTTP1_S_END;
	else
		p->state = response ? HTTP1_S_CLOSE : HTTP1_S_END;
	p->left = h->length;
	p->side_bytes = 0;
	p->line_len = 0;
}

static int on_head_complete(struct http1 *p, struct http1_event *ev)
{
	int r = http1_scan_head(p->kind, p->strict, (char *)p->buf.data, p->buf.len, &p->head);

	if (r)
		return fail(p, r);
	begin_body(p);
	ev->type = HTTP1_HEAD;
	return 0;
}

/* The start of a message: tell another protocol from HTTP by its first bytes, not after 64 KiB of them. */
static bool start_plausible(const struct http1 *p)
{
	return http1_scan_start_plausible(p->kind, (const char *)p->buf.data, p->buf.len);
}

static int parse_head(struct http1 *p, const uint8_t *data, size_t len, size_t *used, struct http1_event *ev)
{
	size_t i = 0;
	bool done = false;

	if (p->state == HTTP1_S_START) {
		while (i < len && (data[i] == '\r' || data[i] == '\n'))
			i++;		/* RFC 9112, section 2.2 */
		*used = i;
		if (i == len)
			return 0;
		bytes_clear(&p->buf);
		p->head = (struct http1_head){};
		p->state = HTTP1_S_HEAD;
		p->line_len = 0;
	}

	size_t from = i;
	while (i < len && !done) {
		uint8_t c = data[i++];

		if (c == '\n') {
			done = p->line_len == 0;
			p->line_len = 0;
		} else if (c != '\r') {
			p->line_len++;
		}
	}
	*used = i;
	int r = append(p, data + from, i - from);
	if (r)
		return r;
	if (!start_plausible(p))
		return fail(p, HTTP1_E_MALFORMED);
	return done ? on_head_complete(p, ev) : 0;
}

static int parse_counted(struct http1 *p, const uint8_t *data, size_t len, size_t *used, struct http1_event *ev)
{
	size_t n = len < p->left ? len : (size_t)p->left;

	*ev = (struct http1_event){ HTTP1_BODY, data, n };
	*used = n;
	p->left -= n;
	if (p->left == 0) {
		p->state = p->state == HTTP1_S_LENGTH ? HTTP1_S_END : HTTP1_S_CHUNK_END;
		p->line_len = 0;
	}
	return 0;
}

/* One line of chunk framing into the buffer. *ret_line when its end is there. */
static int collect_line(struct http1 *p, const uint8_t *data, size_t len, size_t *used, bool *ret_line)
{
	const uint8_t *nl = memchr(data, '\n', len);
	size_t n = nl ? (size_t)(nl - data) + 1 : len;

	p->side_bytes += (uint32_t)n;
	if (p->buf.len + n > HTTP1_MAX_CHUNK_LINE || p->side_bytes > HTTP1_MAX_HEAD)
		return fail(p, HTTP1_E_TOO_LARGE);
	int r = append(p, data, n);
	if (r)
		return r;
	*used = n;
	*ret_line = nl;
	return 0;
}

/* RFC 9112, section 7.1: chunk-size [ chunk-ext ] CRLF */
static int parse_chunk_size(struct http1 *p, const uint8_t *data, size_t len, size_t *used)
{
	bool line = false;
	int r;

	if (p->line_len == 0) {			/* the head is in the buffer until the body begins */
		bytes_clear(&p->buf);
		p->line_len = 1;
		p->side_bytes = 0;
	}
	r = collect_line(p, data, len, used, &line);
	if (r || !line)
		return r;
	if (!http1_scan_chunk_size((const char *)p->buf.data, p->buf.len, &p->left))
		return fail(p, HTTP1_E_MALFORMED);
	bytes_clear(&p->buf);
	p->line_len = 0;
	p->side_bytes = 0;
	p->state = p->left ? HTTP1_S_CHUNK_DATA : HTTP1_S_TRAILER;
	return 0;
}

/* The CRLF after a chunk's data. */
static int parse_chunk_end(struct http1 *p, const uint8_t *data, size_t *used)
{
	*used = 1;
	if (*data == '\r' && p->line_len == 0) {
		p->line_len = 1;
		return 0;
	}
	if (*data != '\n')
		return fail(p, HTTP1_E_MALFORMED);
	p->state = HTTP1_S_CHUNK_SIZE;
	p->line_len = 0;
	return 0;
}

static int parse_trailer(struct http1 *p, const uint8_t *data, size_t len, size_t *used)
{
	bool line = false;
	int r = collect_line(p, data, len, used, &line);

	if (r || !line)
		return r;
	if (p->buf.len == 1 || (p->buf.len == 2 && p->buf.data[0] == '\r'))
		p->state = HTTP1_S_END;
	bytes_clear(&p->buf);
	return 0;
}

/* Drops input up to something that reads as a start line, and goes on from there. */
static int parse_resync(struct http1 *p, const uint8_t *data, size_t len, size_t *used)
{
	const uint8_t *nl = memchr(data, '\n', len);
	size_t n = nl ? (size_t)(nl - data) + 1 : len;
	size_t at;

	*used = n;
	if (p->buf.len + n > HTTP1_MAX_CHUNK_LINE) {
		size_t over = p->buf.len + n - HTTP1_MAX_CHUNK_LINE;

		if (over >= p->buf.len)
			bytes_clear(&p->buf);
		else
			bytes_consume(&p->buf, over);
		if (n > HTTP1_MAX_CHUNK_LINE) {
			data += n - HTTP1_MAX_CHUNK_LINE;
			n = HTTP1_MAX_CHUNK_LINE;
		}
	}
	int r = append(p, data, n);
	if (r || !nl)
		return r;
	if (!http1_scan_find_start(p->kind, (const char *)p->buf.data, p->buf.len, &at)) {
		bytes_clear(&p->buf);
		return 0;
	}
	if (at)
		bytes_consume(&p->buf, at);
	p->head = (struct http1_head){};
	p->state = HTTP1_S_HEAD;
	p->line_len = 0;
	return 0;
}

static int step(struct http1 *p, const uint8_t *data, size_t len, size_t *used, struct http1_event *ev)
{
	switch (p->state) {
	case HTTP1_S_START:
	case HTTP1_S_HEAD:
		return parse_head(p, data, len, used, ev);
	case HTTP1_S_LENGTH:
	case HTTP1_S_CHUNK_DATA:
		return parse_counted(p, data, len, used, ev);
	case HTTP1_S_CHUNK_SIZE:
		return parse_chunk_size(p, data, len, used);
	case HTTP1_S_CHUNK_END:
		return parse_chunk_end(p, data, used);
	case HTTP1_S_TRAILER:
		return parse_trailer(p, data, len, used);
	case HTTP1_S_CLOSE:
	case HTTP1_S_TUNNEL:
		*ev = (struct http1_event){ p->state == HTTP1_S_CLOSE ? HTTP1_BODY : HTTP1_TUNNEL, data, len };
		*used = len;
		return 0;
	case HTTP1_S_RESYNC:
		return parse_resync(p, data, len, used);
	case HTTP1_S_END:
	case HTTP1_S_FAILED:
		break;
	}
	return HTTP1_E_MALFORMED;
}

int http1_parse(struct http1 *p, const void *data, size_t len, size_t *ret_used, struct http1_event *ret_event)
{
	const uint8_t *in = data;
	struct http1_event ev = {};
	size_t at = 0;

	while (ev.type == HTTP1_NEED_MORE) {
		size_t used = 0;

		if (p->state == HTTP1_S_END) {	/* needs no input to be told */
			p->state = HTTP1_S_START;
			bytes_clear(&p->buf);
			ev.type = HTTP1_END;
			break;
		}
		if (at == len)
			break;
		int r = step(p, in + at, len - at, &used, &ev);
		at += used;
		if (r) {
			*ret_used = at;
			return r;
		}
	}
	*ret_used = at;
	*ret_event = ev;
	return 0;
}

void http1_no_body(struct http1 *p)
{
	if (http1_in_message(p) && p->state != HTTP1_S_TUNNEL)
		p->state = HTTP1_S_END;
}

bool http1_finish(struct http1 *p, struct http1_event *ret_event)
{
	*ret_event = (struct http1_event){};
	if (p->state == HTTP1_S_CLOSE || p->state == HTTP1_S_END) {
		p->state = HTTP1_S_START;
		ret_event->type = HTTP1_END;
		return true;
	}
	return p->state == HTTP1_S_START || p->state == HTTP1_S_TUNNEL;
}

bool http1_gap(struct http1 *p, uint64_t len)
{
	if (p->state == HTTP1_S_CLOSE || p->state == HTTP1_S_TUNNEL)
		return true;
	if ((p->state == HTTP1_S_LENGTH || p->state == HTTP1_S_CHUNK_DATA) && len <= p->left) {
		p->left -= len;
		if (p->left == 0) {
			p->state = p->state == HTTP1_S_LENGTH ? HTTP1_S_END : HTTP1_S_CHUNK_END;
			p->line_len = 0;
		}
		return true;
	}
	http1_resync(p);
	return false;
}

void http1_resync(struct http1 *p)
{
	bytes_clear(&p->buf);
	p->state = HTTP1_S_RESYNC;
	p->line_len = 0;
}

static struct http1_str trim(struct http1_str s)
{
	while (s.len && (*s.p == ' ' || *s.p == '\t')) {
		s.p++;
		s.len--;
	}
	while (s.len && (s.p[s.len - 1] == ' ' || s.p[s.len - 1] == '\t' || s.p[s.len - 1] == '\r'))
		s.len--;
	return s;
}

bool http1_header_next(const struct http1_head *h, size_t *pos, struct http1_str *ret_name, struct http1_str *ret_value)
{
	while (*pos < h->fields.len) {
		const char *line = h->fields.p + *pos;
		size_t left = h->fields.len - *pos;
		const char *nl = memchr(line, '\n', left);
		size_t len = nl ? (size_t)(nl - line) : left;
		const char *colon = memchr(line, ':', len);

		*pos += nl ? len + 1 : left;
		if (!colon)
			continue;
		*ret_name = trim((struct http1_str){ line, (size_t)(colon - line) });
		*ret_value = trim((struct http1_str){ colon + 1, len - (size_t)(colon - line) - 1 });
		return true;
	}
	return false;
}

bool http1_header(const struct http1_head *h, const char *name, struct http1_str *ret_value)
{
	struct http1_str n, v;
	size_t pos = 0;

	while (http1_header_next(h, &pos, &n, &v))
		if (http1_str_is_nocase(n, name)) {
			*ret_value = v;
			return true;
		}
	return false;
}

static bool list_has(struct http1_str list, const char *token)
{
	while (list.len) {
		const char *comma = memchr(list.p, ',', list.len);
		struct http1_str item = { list.p, comma ? (size_t)(comma - list.p) : list.len };
		const char *param = memchr(item.p, ';', item.len);
		size_t used = comma ? item.len + 1 : item.len;

		if (param)
			item.len = (size_t)(param - item.p);
		if (http1_str_is_nocase(trim(item), token))
			return true;
		list.p += used;
		list.len -= used;
	}
	return false;
}

bool http1_header_has_token(const struct http1_head *h, const char *name, const char *token)
{
	struct http1_str n, v;
	size_t pos = 0;

	while (http1_header_next(h, &pos, &n, &v))
		if (http1_str_is_nocase(n, name) && list_has(v, token))
			return true;
	return false;
}

bool http1_str_is(struct http1_str s, const char *text)
{
	return s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

bool http1_str_is_nocase(struct http1_str s, const char *text)
{
	return s.len == strlen(text) && strncasecmp(s.p, text, s.len) == 0;
}

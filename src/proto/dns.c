/*
 * DNS messages: sections, records, names.
 */
#include "proto/dns.h"

#include <string.h>
#include "base/utf8.h"

enum { POINTER = 0xc0, TOP_BIT = 0x8000 };

/*
 * RFC 1035, section 4.1.4. A pointer must point before the labels that it
 * ends, so that following them comes to an end: each goes further back.
 */
static bool decode_name(const struct dns_message *m, struct wire *w, struct dns_name *ret_name)
{
	struct wire at = *w;
	size_t limit = (size_t)(w->pos - m->data);
	bool jumped = false;
	struct dns_name n = {};
	size_t len = 0;

	for (;;) {
		uint8_t size = wire_u8(&at);

		if (at.bad)
			return false;
		if ((size & POINTER) == POINTER) {
			size_t target = (size_t)(size & ~POINTER) << 8 | wire_u8(&at);

			if (at.bad || target >= limit)
				return false;
			if (!jumped)
				*w = at;
			jumped = true;
			limit = target;
			at = wire_init(m->data + target, m->size - target);
			continue;
		}
		const uint8_t *label = wire_take(&at, size);

		if (size > DNS_LABEL_MAX || !label || len + 1 + size + (size ? 1u : 0u) > DNS_NAME_MAX)
			return false;
		n.wire[len++] = size;
		memcpy(n.wire + len, label, size);
		len += size;
		if (!size)
			break;
	}
	if (!jumped)
		*w = at;
	n.len = (uint8_t)len;
	*ret_name = n;
	return true;
}

bool dns_open(struct dns_message *m, const void *data, size_t size)
{
	struct wire w = wire_init(data, size);
	struct dns_header h = { .id = wire_u16(&w) };
	uint16_t flags = wire_u16(&w);

	h.response = flags & 0x8000;
	h.opcode = flags >> 11 & 15;
	h.authoritative = flags & 0x0400;
	h.truncated = flags & 0x0200;
	h.rcode = flags & 15;
	for (unsigned i = 0; i < _DNS_SECTION_N; i++)
		h.counts[i] = wire_u16(&w);
	if (w.bad)
		return false;
	*m = (struct dns_message){ .header = h, .data = data, .size = size };
	dns_rewind(m);
	return true;
}

void dns_rewind(struct dns_message *m)
{
	m->at = wire_init(m->data + DNS_HEADER_LEN, m->size - DNS_HEADER_LEN);
	m->section = DNS_QUESTION;
	m->left = m->header.counts[DNS_QUESTION];
	m->bad = false;
}

static bool decode_record(struct dns_message *m, struct dns_record *r)
{
	if (!decode_name(m, &m->at, &r->name))
		return false;
	r->type = wire_u16(&m->at);
	r->class_ = wire_u16(&m->at);
	/* OPT has a payload size there, RFC 6891, section 6.1.2 */
	if (r->type != DNS_TYPE_OPT) {
		r->top_bit = r->class_ & TOP_BIT;
		r->class_ &= (uint16_t)~TOP_BIT;
	}
	if (r->section != DNS_QUESTION) {
		r->ttl_s = wire_u32(&m->at);
		if (r->ttl_s >> 31)
			r->ttl_s = 0;
		r->rdata = wire_sub(&m->at, wire_u16(&m->at));
	}
	return !m->at.bad;
}

bool dns_next(struct dns_message *m, struct dns_record *ret_record)
{
	struct dns_record r = {};

	while (!m->left) {
		if (m->section + 1 == _DNS_SECTION_N)
			return false;
		m->left = m->header.counts[++m->section];
	}
	if (m->bad)
		return false;
	r.section = m->section;
	if (!decode_record(m, &r)) {
		m->bad = true;
		return false;
	}
	m->left--;
	*ret_record = r;
	return true;
}

bool dns_check(struct dns_message *m)
{
	struct dns_record r;
	bool good;

	while (dns_next(m, &r))
		;
	good = !m->bad;
	dns_rewind(m);
	return good;
}

/* ---- record data ---- */

bool dns_address(const struct dns_record *r, struct ip *ret_ip)
{
	size_t len = wire_left(&r->rdata);

	if (r->type == DNS_TYPE_A && len == 4)
		*ret_ip = ip_from_v4(r->rdata.pos);
	else if (r->type == DNS_TYPE_AAAA && len == 16)
		*ret_ip = ip_from_v6(r->rdata.pos);
	else
		return false;
	return true;
}

/* A name in record data ends there, though its pointers lead anywhere before. */
static bool rdata_name(const struct dns_message *m, struct wire *rdata, struct dns_name *ret_name)
{
	return !rdata->bad && decode_name(m, rdata, ret_name) && !rdata->bad;
}

bool dns_target(const struct dns_message *m, const struct dns_record *r, struct dns_name *ret_name)
{
	struct wire w = r->rdata;

	return rdata_name(m, &w, ret_name) && wire_complete(&w);
}

bool dns_srv(const struct dns_message *m, const struct dns_record *r, struct dns_srv *ret_srv)
{
	struct wire w = r->rdata;
	struct dns_srv s = { .priority = wire_u16(&w), .weight = 0 };

	s.weight = wire_u16(&w);
	s.port = wire_u16(&w);
	if (!rdata_name(m, &w, &s.target) || !wire_complete(&w))
		return false;
	*ret_srv = s;
	return true;
}

bool dns_txt_next(struct wire *rdata, const uint8_t **ret_data, size_t *ret_len)
{
	uint8_t len;
	const uint8_t *data;

	if (!wire_more(rdata))
		return false;
	len = wire_u8(rdata);
	data = wire_take(rdata, len);
	if (rdata->bad)
		return false;
	*ret_data = data;
	*ret_len = len;
	return true;
}

enum { SVCB_ALPN = 1, SVCB_PORT = 3, SVCB_IPV4HINT = 4, SVCB_IPV6HINT = 6 };

static void svcb_hints(struct dns_svcb *s, struct wire *value, size_t size)
{
	while (wire_left(value) >= size && s->n_hints < DNS_SVCB_MAX_HINTS) {
		const uint8_t *a = wire_take(value, size);

		s->hints[s->n_hints++] = size == 4 ? ip_from_v4(a) : ip_from_v6(a);
	}
}

/* RFC 9460, sections 7.1 and 7.2, 7.3 */
static void svcb_param(struct dns_svcb *s, uint16_t key, struct wire value)
{
	struct wire first;

	switch (key) {
	case SVCB_ALPN:
		first = wire_sub(&value, wire_u8(&value));
		if (!first.bad && utf8_is_clean(first.pos, wire_left(&first)))
			utf8_clean(first.pos, wire_left(&first), s->alpn, sizeof(s->alpn));
		break;
	case SVCB_PORT:
		s->port = wire_u16(&value);
		break;
	case SVCB_IPV4HINT:
		svcb_hints(s, &value, 4);
		break;
	case SVCB_IPV6HINT:
		svcb_hints(s, &value, 16);
		break;
	default:
		break;
	}
}

/* RFC 9460, section 2.2 */
bool dns_svcb(const struct dns_message *m, const struct dns_record *r, struct dns_svcb *ret_svcb)
{
	struct wire w = r->rdata;
	struct dns_svcb s = { .priority = wire_u16(&w) };

	if (!rdata_name(m, &w, &s.target))
		return false;
	while (wire_more(&w)) {
		uint16_t key = wire_u16(&w);

		svcb_param(&s, key, wire_sub(&w, wire_u16(&w)));
	}
	if (!wire_complete(&w))
		return false;
	*ret_svcb = s;
	return true;
}

/* ---- names ---- */

static uint8_t lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c + 'a' - 'A') : c;
}

/* Lengths of labels are below 'A', so lowering them with the rest is harmless. */
_Static_assert(DNS_LABEL_MAX < 'A', "a length is no letter");

static bool same(const uint8_t *a, const uint8_t *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (lower(a[i]) != lower(b[i]))
			return false;
	return true;
}

bool dns_name_equal(const struct dns_name *a, const struct dns_name *b)
{
	return a->len == b->len && same(a->wire, b->wire, a->len);
}

bool dns_name_is_root(const struct dns_name *n)
{
	return n->len == 1;
}

const uint8_t *dns_name_label(const struct dns_name *n, unsigned i, uint8_t *ret_len)
{
	size_t at = 0;

	while (at < n->len && n->wire[at] && i--)
		at += 1u + n->wire[at];
	if (at >= n->len || !n->wire[at])
		return NULL;
	*ret_len = n->wire[at];
	return n->wire + at + 1;
}

unsigned dns_name_labels(const struct dns_name *n)
{
	unsigned labels = 0;

	for (size_t at = 0; at < n->len && n->wire[at]; at += 1u + n->wire[at])
		labels++;
	return labels;
}

void dns_name_tail(const struct dns_name *n, unsigned n_labels, struct dns_name *ret_tail)
{
	struct dns_name tail = {};
	size_t at = 0;

	while (at < n->len && n->wire[at] && n_labels--)
		at += 1u + n->wire[at];
	tail.len = (uint8_t)(n->len - at);
	memcpy(tail.wire, n->wire + at, tail.len);
	*ret_tail = tail;
}

unsigned dns_name_common_head(const struct dns_name *a, const struct dns_name *b)
{
	unsigned i = 0;

	for (;; i++) {
		uint8_t a_len, b_len;
		const uint8_t *x = dns_name_label(a, i, &a_len);
		const uint8_t *y = dns_name_label(b, i, &b_len);

		if (!x || !y || a_len != b_len || !same(x, y, a_len))
			return i;
	}
}

bool dns_name_parse(const char *text, struct dns_name *ret_name)
{
	struct dns_name n = {};
	size_t at = 0;

	while (*text) {
		size_t len = strcspn(text, ".");

		if (!len || len > DNS_LABEL_MAX || at + 1 + len + 1 > DNS_NAME_MAX)
			return false;
		n.wire[at++] = (uint8_t)len;
		memcpy(n.wire + at, text, len);
		at += len;
		text += len;
		text += *text == '.';
	}
	n.wire[at++] = 0;
	n.len = (uint8_t)at;
	*ret_name = n;
	return true;
}

bool dns_name_ends_with(const struct dns_name *n, const char *suffix)
{
	struct dns_name s, tail;
	unsigned have = dns_name_labels(n), want;

	if (!dns_name_parse(suffix, &s))
		return false;
	want = dns_name_labels(&s);
	if (have < want)
		return false;
	dns_name_tail(n, have - want, &tail);
	return dns_name_equal(&tail, &s);
}

void dns_name_lower(struct dns_name *n)
{
	for (size_t i = 0; i < n->len; i++)
		n->wire[i] = lower(n->wire[i]);
}

/* One label of a full name; @text has room for four times its bytes. */
static size_t label_escaped(const uint8_t *label, size_t len, char *text)
{
	size_t at = 0;

	for (size_t i = 0; i < len;) {
		size_t n = utf8_printable(label + i, len - i);

		if (label[i] == '.' || label[i] == '\\')
			text[at++] = '\\';
		at += utf8_clean(label + i, n ? n : 1, text + at, 5);
		i += n ? n : 1;
	}
	return at;
}

/* The longest name, 255 bytes with 4 for each, fits. */
_Static_assert(DNS_NAME_MAX * 4 < DNS_NAME_TEXT_LEN, "every name has its text");

const char *dns_name_head_text(const struct dns_name *n, unsigned n_labels, char text[static DNS_NAME_TEXT_LEN])
{
	size_t at = 0;

	for (unsigned i = 0; i < n_labels; i++) {
		uint8_t len;
		const uint8_t *label = dns_name_label(n, i, &len);

		if (!label)
			break;
		if (at)
			text[at++] = '.';
		at += label_escaped(label, len, text + at);
	}
	if (!at)
		text[at++] = '.';
	text[at] = 0;
	return text;
}

const char *dns_name_text(const struct dns_name *n, char text[static DNS_NAME_TEXT_LEN])
{
	return dns_name_head_text(n, DNS_NAME_MAX, text);
}

const char *dns_label_text(const uint8_t *label, size_t len, char text[static DNS_LABEL_TEXT_LEN])
{
	utf8_clean(label, len, text, DNS_LABEL_TEXT_LEN);
	return text;
}

static bool is_label(const struct dns_name *n, unsigned i, const char *text)
{
	uint8_t len;
	const uint8_t *label = dns_name_label(n, i, &len);

	return label && len == strlen(text) && same(label, (const uint8_t *)text, len);
}

static bool is_service(const struct dns_name *n, unsigned i)
{
	uint8_t len;
	const uint8_t *label = dns_name_label(n, i, &len);

	return label && len > 1 && label[0] == '_' && (is_label(n, i + 1, "_tcp") || is_label(n, i + 1, "_udp"));
}

bool dns_name_service(const struct dns_name *n, unsigned *ret_at)
{
	unsigned labels = dns_name_labels(n);

	for (unsigned at = 0; at + 1 < labels; at++)
		if (is_service(n, at)) {
			*ret_at = at;
			return at == 0 || !is_label(n, at - 1, "_sub");
		}
	return false;
}

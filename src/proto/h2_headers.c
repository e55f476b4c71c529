/*
 * Header blocks of HTTP/2.
 */
#include "proto/h2_headers.h"

#include <errno.h>
#include <string.h>

enum {
	MAX_FIELDS = 4096,		/* a block of 64 KiB can name a table entry 64 Ki times */
};

struct decoding {
	struct h2_message *m;
	enum h2_headers_kind kind;
	int outcome;
	bool regular_seen;
	unsigned n_fields;
};

static void malformed(struct decoding *d)
{
	if (d->outcome == 0)
		d->outcome = H2_HEADERS_E_MALFORMED;
}

/* A copy with a zero behind it, or NULL (and the outcome) when there is no room. */
static const char *keep(struct decoding *d, const uint8_t *data, size_t len)
{
	struct h2_message *m = d->m;
	char *to = m->text + m->n_text;

	if (len + 1 > sizeof(m->text) - m->n_text) {
		if (d->outcome == 0)
			d->outcome = H2_HEADERS_E_TOO_LARGE;
		return NULL;
	}
	memcpy(to, data, len);
	to[len] = 0;
	m->n_text += len + 1;
	return to;
}

static bool is_named(const nghttp2_nv *nv, const char *name)
{
	return nv->namelen == strlen(name) && !memcmp(nv->name, name, nv->namelen);
}

static void set_once(struct decoding *d, const char **field, const nghttp2_nv *nv)
{
	if (*field)
		malformed(d);
	else
		*field = keep(d, nv->value, nv->valuelen);
}

static void set_status(struct decoding *d, const nghttp2_nv *nv)
{
	unsigned v = 0;

	for (size_t i = 0; i < nv->valuelen && nv->value[i] >= '0' && nv->value[i] <= '9'; i++)
		v = v * 10 + (unsigned)(nv->value[i] - '0');
	if (nv->valuelen != 3 || v < 100 || v > 999 || d->m->status)
		malformed(d);
	else
		d->m->status = v;
}

/* Section 8.3 */
static void on_pseudo(struct decoding *d, const nghttp2_nv *nv)
{
	struct h2_message *m = d->m;

	if (d->regular_seen || d->kind == H2_HEADERS_TRAILERS) {
		malformed(d);
	} else if (d->kind == H2_HEADERS_RESPONSE) {
		if (is_named(nv, ":status"))
			set_status(d, nv);
		else
			malformed(d);
	} else if (is_named(nv, ":method")) {
		set_once(d, &m->method, nv);
	} else if (is_named(nv, ":authority")) {
		set_once(d, &m->authority, nv);
	} else if (is_named(nv, ":scheme")) {
		set_once(d, &m->scheme, nv);
	} else if (is_named(nv, ":path")) {
		set_once(d, &m->path, nv);
	} else if (is_named(nv, ":protocol")) {
		set_once(d, &m->protocol, nv);
	} else {
		malformed(d);
	}
}

static void set_content_length(struct decoding *d, const nghttp2_nv *nv)
{
	int64_t v = 0;

	if (!nv->valuelen || nv->valuelen > 18 || d->m->content_length >= 0)
		malformed(d);
	for (size_t i = 0; i < nv->valuelen && d->outcome == 0; i++) {
		if (nv->value[i] < '0' || nv->value[i] > '9')
			malformed(d);
		v = v * 10 + (nv->value[i] - '0');
	}
	d->m->content_length = v;
}

/* Section 8.2.2 */
static bool is_of_the_connection(const nghttp2_nv *nv)
{
	static const char *const names[] = { "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade" };

	for (size_t i = 0; i < ELEMENTS(names); i++)
		if (is_named(nv, names[i]))
			return true;
	return is_named(nv, "te") && !(nv->valuelen == 8 && !memcmp(nv->value, "trailers", 8));
}

static void on_regular(struct decoding *d, const nghttp2_nv *nv)
{
	struct h2_message *m = d->m;

	d->regular_seen = true;
	if (!nghttp2_check_header_name(nv->name, nv->namelen) || is_of_the_connection(nv)) {
		malformed(d);
		return;
	}
	if (is_named(nv, "content-length"))
		set_content_length(d, nv);
	if (m->n == H2_HEADERS_MAX) {
		d->outcome = d->outcome ? d->outcome : H2_HEADERS_E_TOO_LARGE;
		return;
	}

	const char *name = keep(d, nv->name, nv->namelen);
	const char *value = name ? keep(d, nv->value, nv->valuelen) : NULL;
	if (value)
		m->list[m->n++] = (struct h2_header){ name, value, (uint32_t)nv->namelen, (uint32_t)nv->valuelen, false };
}

static void on_field(struct decoding *d, const nghttp2_nv *nv)
{
	d->n_fields++;
	if (d->outcome)
		return;		/* lost already: only HPACK's state matters */
	if (!nv->namelen || !nghttp2_check_header_value_rfc9113(nv->value, nv->valuelen))
		malformed(d);
	else if (nv->name[0] == ':')
		on_pseudo(d, nv);
	else
		on_regular(d, nv);
}

/* Sections 8.3.1 and 8.5: what must be there. */
static void check_whole(struct decoding *d)
{
	const struct h2_message *m = d->m;

	if (d->outcome)
		return;
	if (d->kind == H2_HEADERS_RESPONSE && !m->status)
		malformed(d);
	if (d->kind != H2_HEADERS_REQUEST)
		return;
	if (!m->method)
		malformed(d);
	else if (!strcmp(m->method, "CONNECT") && !m->protocol) {
		if (m->scheme || m->path || !m->authority || !m->authority[0])
			malformed(d);
	} else if (!m->scheme || !m->path || !m->path[0])
		malformed(d);
}

int h2_headers_decode(nghttp2_hd_inflater *inflater, const uint8_t *block, size_t len, enum h2_headers_kind kind,
		      struct h2_message *ret_message)
{
	struct decoding d = { .m = ret_message, .kind = kind };

	ret_message->method = ret_message->scheme = ret_message->path = NULL;
	ret_message->authority = ret_message->protocol = NULL;
	ret_message->status = 0;
	ret_message->content_length = -1;
	ret_message->n = ret_message->n_text = 0;

	for (;;) {
		nghttp2_nv nv;
		int flags = 0;
		ssize_t n = nghttp2_hd_inflate_hd2(inflater, &nv, &flags, block, len, 1);

		if (n == NGHTTP2_ERR_NOMEM)
			return -ENOMEM;
		if (n < 0 || d.n_fields > MAX_FIELDS)
			return H2_HEADERS_E_COMPRESSION;
		block += n;
		len -= (size_t)n;
		if (flags & NGHTTP2_HD_INFLATE_EMIT)
			on_field(&d, &nv);
		if (flags & NGHTTP2_HD_INFLATE_FINAL)
			break;
		if (!(flags & NGHTTP2_HD_INFLATE_EMIT) && !len)
			return H2_HEADERS_E_COMPRESSION;	/* the block ends inside a field */
	}
	nghttp2_hd_inflate_end_headers(inflater);
	check_whole(&d);
	return d.outcome;
}

const char *h2_message_get(const struct h2_message *m, const char *name)
{
	for (size_t i = 0; i < m->n; i++)
		if (!strcmp(m->list[i].name, name))
			return m->list[i].value;
	return NULL;
}

int h2_headers_encode(nghttp2_hd_deflater *deflater, const struct h2_header *list, size_t n,
		      uint8_t *out, size_t size, size_t *ret_len)
{
	nghttp2_nv nv[H2_HEADERS_MAX];

	if (n > H2_HEADERS_MAX)
		return -EINVAL;
	for (size_t i = 0; i < n; i++)
		nv[i] = (nghttp2_nv){
			.name = (uint8_t *)(uintptr_t)list[i].name,
			.value = (uint8_t *)(uintptr_t)list[i].value,
			.namelen = list[i].n_name,
			.valuelen = list[i].n_value,
			.flags = list[i].once ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE,
		};
	if (nghttp2_hd_deflate_bound(deflater, nv, n) > size)
		return -E2BIG;

	ssize_t r = nghttp2_hd_deflate_hd(deflater, out, size, nv, n);
	if (r < 0)
		return -ENOMEM;
	*ret_len = (size_t)r;
	return 0;
}

/*
 * Pairs the requests and responses of a sniffed connection: see http_flow.h.
 *
 * A request is queued when its head is complete, so that an answer that
 * overtakes the body (100-continue, early errors) finds it. After bytes were
 * lost the queue cannot be trusted: from then on the connection is taken to be
 * without pipelining, and a new request says that older ones have been answered.
 */
#include "discover/http_flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/inflate.h"

enum {
	MAX_HELD = 4 * 1024 * 1024,	/* bytes of heads and bodies of one connection */
	MAX_NO_HTTP = 256 * 1024,	/* bytes without a single message: it is none */
};

struct body {
	struct bytes raw;
	struct bytes plain;
	bool lost;		/* too long, a hole, no memory */
};

struct exchange {
	struct list link;
	struct http1_head request;	/* slices of @head */
	char *head;
	char *method;
	char *path;
	char *query;
	bool wanted;
	bool request_done;
	bool response_done;
	struct http1_head response;	/* slices of @response_head */
	char *response_head;
	struct body in;
	struct body out;
};

struct http_flow {
	const struct http_flow_events *events;
	void *data;
	struct http1 request;
	struct http1 response;
	struct list pending;		/* oldest first */
	size_t n_pending;
	struct exchange *receiving;	/* request whose body is coming in; it is in @pending */
	struct exchange *answering;	/* whose response is coming in: the first of @pending, or NULL */
	bool interim;			/* the response at hand is a 1xx */
	bool serial;			/* no pipelining from here on: bytes were lost */
	uint8_t first[4];		/* of the client */
	size_t n_first;
	size_t n_seen;			/* bytes up to the first message */
	bool any;			/* there was a message */
	enum http_flow_end end;
};

static struct exchange *exchange_free(struct exchange *x)
{
	if (!x)
		return NULL;
	free(x->head);
	free(x->response_head);
	free(x->method);
	free(x->path);
	free(x->query);
	bytes_deinit(&x->in.raw);
	bytes_deinit(&x->in.plain);
	bytes_deinit(&x->out.raw);
	bytes_deinit(&x->out.plain);
	free(x);
	return NULL;
}

/* A copy of @h's field lines that @h then points to. They may hold zeros. */
static bool keep_head(struct http1_head *h, char **ret_copy)
{
	char *copy = malloc(h->fields.len + 1);

	if (!copy)
		return false;
	memcpy(copy, h->fields.p, h->fields.len);
	h->fields.p = copy;
	h->method = h->target = (struct http1_str){};
	*ret_copy = copy;
	return true;
}

/* RFC 9112, section 3.2: origin form, or absolute form as proxies get it. */
static bool split_target(struct exchange *x, struct http1_str t)
{
	const char *scheme = memmem(t.p, t.len, "://", 3);

	if (t.p[0] != '/' && scheme) {
		const char *path = memchr(scheme + 3, '/', t.len - (size_t)(scheme + 3 - t.p));

		t.len = path ? t.len - (size_t)(path - t.p) : 0;
		t.p = path ? path : "";
	}
	const char *q = t.len ? memchr(t.p, '?', t.len) : NULL;

	x->path = strndup(t.p, q ? (size_t)(q - t.p) : t.len);
	x->query = q ? strndup(q + 1, t.len - (size_t)(q + 1 - t.p)) : strdup("");
	return x->path && x->query;
}

static struct exchange *exchange_new(const struct http1_head *h)
{
	struct exchange *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	list_init(&x->link);
	bytes_init(&x->in.raw, HTTP_FLOW_MAX_BODY);
	bytes_init(&x->in.plain, HTTP_FLOW_MAX_DECODED);
	bytes_init(&x->out.raw, HTTP_FLOW_MAX_BODY);
	bytes_init(&x->out.plain, HTTP_FLOW_MAX_DECODED);
	x->request = *h;
	x->method = strndup(h->method.p, h->method.len);
	if (!x->method || !split_target(x, h->target) || !keep_head(&x->request, &x->head))
		return exchange_free(x);
	return x;
}

static void drop(struct http_flow *f, struct exchange *x)
{
	if (f->receiving == x)
		f->receiving = NULL;
	if (f->answering == x)
		f->answering = NULL;
	list_unlink(&x->link);
	f->n_pending--;
	exchange_free(x);
}

static void drop_all(struct http_flow *f)
{
	list_for_each_safe(l, &f->pending)
		drop(f, list_entry(l, struct exchange, link));
}

struct http_flow *http_flow_new(const struct http_flow_events *events, void *data)
{
	struct http_flow *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->events = events;
	f->data = data;
	list_init(&f->pending);
	http1_init(&f->request, HTTP1_REQUEST, false);
	http1_init(&f->response, HTTP1_RESPONSE, false);
	return f;
}

struct http_flow *http_flow_free(struct http_flow *f)
{
	if (!f)
		return NULL;
	drop_all(f);
	http1_deinit(&f->request);
	http1_deinit(&f->response);
	free(f);
	return NULL;
}

enum http_flow_end http_flow_end(const struct http_flow *f)
{
	return f->end;
}

static size_t held(const struct http_flow *f)
{
	size_t n = 0;

	list_for_each(l, &f->pending) {
		const struct exchange *x = list_entry(l, struct exchange, link);

		n += sizeof(*x) + x->in.raw.len + x->out.raw.len + x->request.fields.len + (x->response_head ? x->response.fields.len : 0);
	}
	return n;
}

size_t http_flow_held(const struct http_flow *f)
{
	return held(f) + f->request.buf.len + f->response.buf.len;
}

static void body_lost(struct body *b)
{
	bytes_clear(&b->raw);
	b->lost = true;
}

static void body_add(struct http_flow *f, struct exchange *x, struct body *b, const uint8_t *data, size_t len)
{
	if (!x->wanted || b->lost)
		return;
	if (held(f) + len > MAX_HELD || bytes_append(&b->raw, data, len) < 0)
		body_lost(b);
}

/* The decoded body; nothing when there is none to be had. */
static const uint8_t *body_text(const struct http1_head *h, struct body *b, const struct discover_ctx *ctx, size_t *ret_len)
{
	struct http1_str coding;

	*ret_len = 0;
	if (b->lost || !b->raw.len)
		return NULL;
	if (!http1_header(h, "content-encoding", &coding) || http1_str_is_nocase(coding, "identity") || !coding.len) {
		*ret_len = b->raw.len;
		return b->raw.data;
	}
	if (!http1_str_is_nocase(coding, "gzip") && !http1_str_is_nocase(coding, "x-gzip") &&
	    !http1_str_is_nocase(coding, "deflate"))
		return NULL;
	int r = discover_may_decode(ctx) ? inflate_body(b->raw.data, b->raw.len, &b->plain) : -EDQUOT;

	discover_note_decoded(ctx, b->plain.len);
	if (r) {
		bytes_clear(&b->plain);
		body_lost(b);
		return NULL;
	}
	*ret_len = b->plain.len;
	return b->plain.data;
}

static void fill(struct exchange *x, struct http_exchange *ret_x)
{
	*ret_x = (struct http_exchange){ .method = x->method, .path = x->path, .query = x->query, .request = &x->request };
}

static void deliver(struct http_flow *f, struct exchange *x, const struct discover_ctx *ctx)
{
	struct http_exchange out;

	fill(x, &out);
	/* Only now: what is decoded is a thousand times what was sent, and an answer may never come. */
	out.request_body = body_text(&x->request, &x->in, ctx, &out.n_request_body);
	out.status = x->response.status;
	out.response = &x->response;
	out.response_body = body_text(&x->response, &x->out, ctx, &out.n_response_body);
	f->events->on_exchange(&out, ctx, f->data);
}

/* Hands over what is complete at the head of the queue. */
static void deliver_ready(struct http_flow *f, const struct discover_ctx *ctx)
{
	struct exchange *x;

	while ((x = list_first(&f->pending, struct exchange, link)) && x->response_done && x->request_done) {
		if (x->wanted)
			deliver(f, x, ctx);
		drop(f, x);
	}
}

static bool on_request_head(struct http_flow *f)
{
	struct exchange *x;

	if (f->serial)
		drop_all(f);
	if (f->n_pending == HTTP_FLOW_MAX_PENDING) {	/* answers do not come by here */
		drop(f, list_first(&f->pending, struct exchange, link));
		f->serial = true;
	}
	x = exchange_new(&f->request.head);
	if (!x)
		return false;
	x->wanted = !f->events->wants || f->events->wants(x->method, x->path, f->data);
	list_append(&f->pending, &x->link);
	f->n_pending++;
	f->receiving = x;
	return true;
}

static void on_request_end(struct http_flow *f, const struct discover_ctx *ctx)
{
	struct exchange *x = f->receiving;
	struct http_exchange out;

	f->receiving = NULL;
	if (!x)
		return;
	x->request_done = true;
	if (x->wanted && f->events->on_request) {
		fill(x, &out);
		f->events->on_request(&out, ctx, f->data);
	}
	deliver_ready(f, ctx);
}

/* The request that the next answer belongs to. */
static struct exchange *first_unanswered(struct http_flow *f)
{
	list_for_each(l, &f->pending) {
		struct exchange *x = list_entry(l, struct exchange, link);

		if (!x->response_done)
			return x;
	}
	return NULL;
}

static bool on_response_head(struct http_flow *f)
{
	const struct http1_head *h = &f->response.head;
	struct exchange *x = first_unanswered(f);
	struct http1_str to;

	if (h->status == 101) {
		bool h2 = http1_header(h, "upgrade", &to) && http1_str_is_nocase(to, "h2c");

		f->end = h2 ? HTTP_FLOW_H2 : HTTP_FLOW_UPGRADED;
		return false;
	}
	f->interim = h->status < 200;
	f->answering = f->interim ? NULL : x;
	if (!x || f->interim)
		return true;
	if (strcmp(x->method, "HEAD") == 0)
		http1_no_body(&f->response);
	if (strcmp(x->method, "CONNECT") == 0 && h->status < 300) {
		f->end = HTTP_FLOW_UPGRADED;
		return false;
	}
	x->response = *h;
	return keep_head(&x->response, &x->response_head);
}

static void on_response_end(struct http_flow *f, const struct discover_ctx *ctx)
{
	struct exchange *x = f->answering;

	f->answering = NULL;
	if (!x || f->interim)
		return;
	x->response_done = true;
	deliver_ready(f, ctx);
}

static bool on_event(struct http_flow *f, enum discover_dir dir, const struct http1_event *ev, const struct discover_ctx *ctx)
{
	bool request = dir == DISCOVER_TO_REGISTRY;

	switch (ev->type) {
	case HTTP1_HEAD:
		return request ? on_request_head(f) : on_response_head(f);
	case HTTP1_BODY:
		if (request && f->receiving)
			body_add(f, f->receiving, &f->receiving->in, ev->data, ev->len);
		if (!request && f->answering)
			body_add(f, f->answering, &f->answering->out, ev->data, ev->len);
		return true;
	case HTTP1_END:
		if (request)
			on_request_end(f, ctx);
		else
			on_response_end(f, ctx);
		return true;
	case HTTP1_TUNNEL:
		f->end = HTTP_FLOW_UPGRADED;
		return false;
	case HTTP1_NEED_MORE:
		break;
	}
	return true;
}

/* What a connection is, by its client's first bytes. */
static void first_look(struct http_flow *f, const uint8_t *data, size_t len)
{
	enum { TLS_HANDSHAKE = 0x16 };

	while (f->n_first < sizeof(f->first) && len--)
		f->first[f->n_first++] = *data++;
	if (f->n_first && f->first[0] == TLS_HANDSHAKE)
		f->end = HTTP_FLOW_TLS;
	if (f->n_first == sizeof(f->first) && memcmp(f->first, "PRI ", 4) == 0)	/* RFC 9113, section 3.4 */
		f->end = HTTP_FLOW_H2;
}

static bool worth_reading(struct http_flow *f, enum discover_dir dir, const uint8_t *data, size_t len)
{
	if (dir == DISCOVER_TO_REGISTRY && f->end == HTTP_FLOW_OPEN)
		first_look(f, data, len);
	if (!f->any)
		f->n_seen += len;
	if (f->end == HTTP_FLOW_OPEN && f->n_seen > MAX_NO_HTTP)
		f->end = HTTP_FLOW_NOT_HTTP;
	return f->end == HTTP_FLOW_OPEN;
}

/* What is broken is skipped, up to the next start line. */
static void on_broken(struct http_flow *f, struct http1 *p)
{
	http1_resync(p);
	f->serial = true;
	drop_all(f);
}

bool http_flow_data(struct http_flow *f, enum discover_dir dir, const uint8_t *data, size_t len, const struct discover_ctx *ctx)
{
	struct http1 *p = dir == DISCOVER_TO_REGISTRY ? &f->request : &f->response;
	bool broken = false;

	if (!worth_reading(f, dir, data, len))
		return false;
	for (;;) {
		struct http1_event ev = {};
		size_t used = 0;
		int r = http1_parse(p, data, len, &used, &ev);

		if (r < 0)
			return false;
		if (r > 0) {
			on_broken(f, p);
			if (broken)
				return true;
			broken = true;		/* look through these bytes again, once */
			continue;
		}
		if (ev.type == HTTP1_NEED_MORE)
			return true;
		f->any = true;
		if (!on_event(f, dir, &ev, ctx))
			return false;
		data += used;
		len -= used;
	}
}

bool http_flow_gap(struct http_flow *f, enum discover_dir dir, size_t len, const struct discover_ctx *ctx)
{
	bool request = dir == DISCOVER_TO_REGISTRY;
	struct exchange *x = request ? f->receiving : f->answering;

	(void)ctx;
	if (f->end != HTTP_FLOW_OPEN)
		return false;
	if (request)
		f->n_first = sizeof(f->first);
	if (http1_gap(request ? &f->request : &f->response, len)) {
		if (x)
			body_lost(request ? &x->in : &x->out);
		return true;
	}
	f->serial = true;
	if (x)
		drop(f, x);
	if (!request && len)	/* whose answers were among the lost ones? The next one must not be taken for theirs */
		drop_all(f);
	return true;
}

void http_flow_close(struct http_flow *f, enum discover_dir dir, const struct discover_ctx *ctx)
{
	struct http1_event ev;

	if (f->end != HTTP_FLOW_OPEN)
		return;
	if (http1_finish(dir == DISCOVER_TO_REGISTRY ? &f->request : &f->response, &ev) && ev.type == HTTP1_END)
		on_event(f, dir, &ev, ctx);
}

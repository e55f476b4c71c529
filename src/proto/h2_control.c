/*
 * The frames of HTTP/2 that change the connection or open streams: SETTINGS,
 * GOAWAY, HEADERS with its CONTINUATION.
 */
#include "proto/h2_internal.h"

#include <errno.h>

enum {
	MAX_CONTINUATIONS = 16,		/* of one block; 64 KiB would do in four */
	MAX_SETTINGS = 32,		/* in a frame: six are defined, and each may be work for every stream */
	DEFLATE_TABLE_MAX = 4096,	/* more than that a peer may want, but not get */
};

/* --- SETTINGS, section 6.5 --- */

/* All streams' windows move by the difference, also below zero (section 6.9.2). */
static int set_initial_window(struct h2 *h, uint32_t value)
{
	int64_t delta = (int64_t)value - h->peer_window;

	h->peer_window = value;
	for (uint32_t i = 0; i < h->n_slots; i++)
		for (struct h2_stream *s = h->slots[i]; s; s = s->next) {
			if (s->send_window + delta > H2_WINDOW_MAX)
				return h2_fail(h, H2_FLOW_CONTROL_ERROR, "a stream window over the maximum");
			s->send_window = (int32_t)(s->send_window + delta);
		}
	return 0;
}

/* @window: the initial one of the frame so far. */
static int set_one(struct h2 *h, uint16_t id, uint32_t value, uint32_t *window)
{
	switch (id) {
	case H2_SET_HEADER_TABLE_SIZE:
		if (nghttp2_hd_deflate_change_table_size(h->deflater, MIN(value, (uint32_t)DEFLATE_TABLE_MAX)) != 0)
			return -ENOMEM;
		return 0;
	case H2_SET_ENABLE_PUSH:
		if (value > 1 || (!h->server && value))
			return h2_fail(h, H2_PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1");
		return 0;
	case H2_SET_MAX_CONCURRENT_STREAMS:
		h->peer_max_streams = value;
		return 0;
	case H2_SET_INITIAL_WINDOW_SIZE:
		if (value > H2_WINDOW_MAX)
			return h2_fail(h, H2_FLOW_CONTROL_ERROR, "an initial window over the maximum");
		*window = value;
		return 0;
	case H2_SET_MAX_FRAME_SIZE:
		if (value < H2_FRAME_SIZE_MIN || value > H2_FRAME_SIZE_MAX)
			return h2_fail(h, H2_PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range");
		h->peer_frame_size = value;
		return 0;
	default:
		return 0;		/* unknown ones are ignored */
	}
}

/* Streams whose window a new setting has opened. */
static void wake_blocked(struct h2 *h)
{
	struct list ready;

	list_init(&ready);
	list_for_each_safe(l, &h->blocked)
		if (list_entry(l, struct h2_stream, blocked)->send_window > 0 && h->send_window > 0) {
			list_unlink(l);
			list_append(&ready, l);
		}
	while (!list_empty(&ready)) {
		struct h2_stream *s = list_entry(ready.next, struct h2_stream, blocked);

		list_unlink(&s->blocked);
		h->ops->writable(h, s);
	}
}

int h2_on_settings(struct h2 *h, const uint8_t *p, size_t len)
{
	bool ack = h->frame.flags & H2_FLAG_ACK;
	uint32_t window = h->peer_window;
	int r = 0;

	if (h->frame.stream)
		return h2_fail(h, H2_PROTOCOL_ERROR, "SETTINGS on a stream");
	if (len % 6 || (ack && len))
		return h2_fail(h, H2_FRAME_SIZE_ERROR, "SETTINGS of the wrong length");
	if (len / 6 > MAX_SETTINGS)
		return h2_fail(h, H2_ENHANCE_YOUR_CALM, "too many SETTINGS in a frame");
	if (!h->settings_seen && ack)
		return h2_fail(h, H2_PROTOCOL_ERROR, "the first frame acknowledges SETTINGS instead of being one");
	if (ack)
		return 0;
	if (!h->settings_seen)
		h->peer_max_streams = UINT32_MAX;	/* no limit, unless they name one */
	h->settings_seen = true;
	for (size_t i = 0; i < len && r == 0; i += 6)
		r = set_one(h, (uint16_t)(p[i] << 8 | p[i + 1]), h2_read_u32(p + i + 2), &window);
	if (r == 0 && window != h->peer_window)
		r = set_initial_window(h, window);	/* once: it goes through all streams */
	if (r != 0)
		return r;
	h2_put_frame(h, H2_SETTINGS, H2_FLAG_ACK, 0, 0);
	wake_blocked(h);
	return 0;
}

/* --- GOAWAY, section 6.8 --- */

int h2_on_goaway(struct h2 *h, const uint8_t *p, size_t len)
{
	uint32_t last = h2_read_u32(p) & H2_STREAM_ID_MAX, code = h2_read_u32(p + 4);

	(void)len;
	if (h->frame.stream)
		return h2_fail(h, H2_PROTOCOL_ERROR, "GOAWAY on a stream");
	h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
	h->goaway_seen = true;
	if (!h->server)
		for (uint32_t i = 0; i < h->n_slots; i++)
			for (struct h2_stream *s = h->slots[i], *next; s; s = next) {
				next = s->next;
				if (s->id <= last)
					continue;
				h2_detach(h, s);
				h->ops->reset(h, s, H2_REFUSED_STREAM);
				next = h->slots[i];	/* the callback may have changed the chain */
			}
	if (h->ops->goaway)
		h->ops->goaway(h, code);
	return 0;
}

/* --- HEADERS, sections 6.2 and 6.10 --- */

static int on_request(struct h2 *h, uint32_t id, const struct h2_message *m, int outcome, bool end)
{
	if (!(id & 1))
		return h2_fail(h, H2_PROTOCOL_ERROR, "a client's stream with an even number");
	h->last_id = id;
	if (id > h->goaway_id)
		return 0;		/* after our final GOAWAY: the client knows */
	if (outcome) {
		h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
		h2_refuse(h, id, outcome == H2_HEADERS_E_TOO_LARGE ? H2_ENHANCE_YOUR_CALM : H2_PROTOCOL_ERROR);
		return 0;
	}
	if (end && m->content_length > 0) {
		h2_lose(h, NULL, id, H2_PROTOCOL_ERROR);	/* section 8.1.1 */
		return 0;
	}
	if (h->n_streams >= h->settings.max_streams) {
		h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
		h2_refuse(h, id, H2_REFUSED_STREAM);
		return 0;
	}
	h->incoming_id = id;
	h->incoming_end = end;
	h->ops->request(h, m, end);
	if (h->incoming_id)
		h2_refuse(h, id, H2_REFUSED_STREAM);
	h->incoming_id = 0;
	return 0;
}

static void on_response(struct h2 *h, struct h2_stream *s, const struct h2_message *m, bool end)
{
	if (m->status < 200) {		/* an interim response, section 8.1 */
		h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
		if (end || m->status == 101)	/* section 8.6: there is nothing to switch to */
			h2_lose(h, s, s->id, H2_PROTOCOL_ERROR);
		return;
	}
	s->headers_seen = true;
	if (end) {
		s->remote_end = true;
		if (s->local_end)
			h2_detach(h, s);
	}
	h->ops->response(h, s, m, end);
}

/* Trailers end their direction; what they say does not concern a tunnel. */
static void on_trailers(struct h2 *h, struct h2_stream *s, int outcome, bool end)
{
	if (outcome || !end) {
		h2_lose(h, s, s->id, H2_PROTOCOL_ERROR);
		return;
	}
	s->remote_end = true;
	if (s->local_end)
		h2_detach(h, s);
	h->ops->data(h, s, NULL, 0, true);
}

static bool is_trailers(const struct h2 *h, const struct h2_stream *s)
{
	return s && (h->server || s->headers_seen);
}

static int on_block(struct h2 *h, uint32_t id, uint8_t flags, const uint8_t *block, size_t len)
{
	struct h2_stream *s = h2_find(h, id);
	bool end = flags & H2_FLAG_END_STREAM;
	enum h2_headers_kind kind = is_trailers(h, s) ? H2_HEADERS_TRAILERS : h->server ? H2_HEADERS_REQUEST : H2_HEADERS_RESPONSE;
	struct h2_message m;
	int r;

	r = h2_headers_decode(h->inflater, block, len, kind, &m);
	if (r < 0)
		return r;
	if (r == H2_HEADERS_E_COMPRESSION)
		return h2_fail(h, H2_COMPRESSION_ERROR, "a header block that does not decode");
	if (s && s->remote_end) {
		h2_lose(h, s, id, H2_STREAM_CLOSED);
		return 0;
	}
	if (is_trailers(h, s)) {
		on_trailers(h, s, r, end);
		return 0;
	}
	if (s) {
		if (r)
			h2_lose(h, s, id, H2_PROTOCOL_ERROR);
		else
			on_response(h, s, &m, end);
		return 0;
	}
	if (h->server && id > h->last_id)
		return on_request(h, id, &m, r, end);
	if (!h2_is_idle(h, id)) {
		if (h2_is_late(h))
			return 0;
		if (!h->server) {	/* one that ended, and now gets a response or trailers */
			h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
			return 0;
		}
	}
	return h2_fail(h, h->server && (id & 1) ? H2_STREAM_CLOSED : H2_PROTOCOL_ERROR, "HEADERS on a stream that cannot have any");
}

/* A part of a block that is not the whole of it. */
static int add_to_block(struct h2 *h, const uint8_t *p, size_t len)
{
	int r = bytes_append(&h->block, p, len);

	return r == -ENOBUFS ? h2_fail(h, H2_ENHANCE_YOUR_CALM, "a header block without end") : r;
}

int h2_on_headers(struct h2 *h, const uint8_t *p, size_t len)
{
	const struct h2_frame f = h->frame;
	size_t padding = 0, skip = 0;

	if (!f.stream)
		return h2_fail(h, H2_PROTOCOL_ERROR, "HEADERS on stream 0");
	if (f.flags & H2_FLAG_PADDED) {
		if (!len)
			return h2_fail(h, H2_FRAME_SIZE_ERROR, "padded HEADERS without a padding length");
		padding = p[0];
		skip = 1;
	}
	if (f.flags & H2_FLAG_PRIORITY)
		skip += 5;
	if (skip + padding > len)
		return h2_fail(h, skip > len ? H2_FRAME_SIZE_ERROR : H2_PROTOCOL_ERROR, "padding longer than its frame");
	if ((f.flags & H2_FLAG_PRIORITY) && (h2_read_u32(p + skip - 5) & H2_STREAM_ID_MAX) == f.stream)
		return h2_fail(h, H2_PROTOCOL_ERROR, "a stream that depends on itself");
	p += skip;
	len -= skip + padding;
	if (f.flags & H2_FLAG_END_HEADERS)
		return on_block(h, f.stream, f.flags, p, len);
	h->block_stream = f.stream;
	h->block_flags = f.flags;
	h->n_continuations = 0;
	return add_to_block(h, p, len);
}

int h2_on_continuation(struct h2 *h, const uint8_t *p, size_t len)
{
	int r;

	if (++h->n_continuations > MAX_CONTINUATIONS)
		return h2_fail(h, H2_ENHANCE_YOUR_CALM, "a header block without end");
	r = add_to_block(h, p, len);
	if (r != 0 || !(h->frame.flags & H2_FLAG_END_HEADERS))
		return r;
	r = on_block(h, h->block_stream, h->block_flags, h->block.data, h->block.len);
	bytes_clear(&h->block);
	h->block_stream = 0;
	return r;
}

/*
 * Input of an HTTP/2 connection: finds the frames, checks what holds for their
 * kind, and hands DATA on as it comes. All other frames are small and are seen
 * whole; when one lies in the input as a piece it is read there, else it is put
 * together in @part.
 */
#include "proto/h2_internal.h"

#include <errno.h>
#include <string.h>

enum {
	STATE_PREFACE,			/* server only */
	STATE_HEADER,
	STATE_DATA,			/* payload of DATA */
	STATE_SKIP,			/* payload that nobody wants */
	STATE_WHOLE,			/* payload that has to be whole */
};

enum {
	WHOLE_MAX = 64 * 1024,		/* bytes of a frame that has to be whole */
};

/* --- DATA, section 6.1 --- */

static int begin_data(struct h2 *h)
{
	const struct h2_frame *f = &h->frame;
	struct h2_stream *s = h2_find(h, f->stream);

	if (!f->stream)
		return h2_fail(h, H2_PROTOCOL_ERROR, "DATA on stream 0");
	if (h2_is_idle(h, f->stream))
		return h2_fail(h, H2_PROTOCOL_ERROR, "DATA on an idle stream");
	h->recv_window -= f->len;
	if (h->recv_window < 0)
		return h2_fail(h, H2_FLOW_CONTROL_ERROR, "more data than the connection's window allows");
	h->left = f->len;
	h->padding = 0;
	h->state = STATE_DATA;
	if (!f->len && !(f->flags & H2_FLAG_END_STREAM))
		h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
	if (s && !s->remote_end && !h->server && !s->headers_seen) {	/* section 8.1: of what, and for whom? */
		h2_lose(h, s, s->id, H2_PROTOCOL_ERROR);
		return 0;
	}
	if (s && !s->remote_end) {
		s->recv_window -= (int32_t)f->len;
		if (s->recv_window >= 0)
			return 0;
		h2_lose(h, s, s->id, H2_FLOW_CONTROL_ERROR);
		return 0;
	}
	if (s) {
		h2_lose(h, s, s->id, H2_STREAM_CLOSED);
	} else if (!h2_is_late(h)) {
		h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
		h2_put_rst(h, f->stream, H2_STREAM_CLOSED);
	}
	return 0;
}

/* Credit for bytes that nobody will see. */
static void drop(struct h2 *h, size_t len)
{
	h2_consume(h, h2_find(h, h->frame.stream), len);
}

/* The length byte of padding. */
static int data_padding(struct h2 *h, uint8_t padding)
{
	h->frame.flags &= (uint8_t)~H2_FLAG_PADDED;
	h->left--;
	if (padding > h->left)
		return h2_fail(h, H2_PROTOCOL_ERROR, "padding longer than its frame");
	h->padding = padding;
	if (padding == h->left && !(h->frame.flags & H2_FLAG_END_STREAM))
		h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);	/* nothing but padding */
	drop(h, 1);
	return 0;
}

static void deliver(struct h2 *h, struct h2_stream *s, const uint8_t *data, size_t len, bool end)
{
	if (end) {
		s->remote_end = true;
		if (s->local_end)
			h2_detach(h, s);
	}
	h->bytes_in += len;
	h->ops->data(h, s, data, len, end);
}

/* As much of a DATA frame's payload as there is. Returns the bytes used, negative as h2_recv(). */
static ssize_t on_data(struct h2 *h, const uint8_t *data, size_t len)
{
	size_t n = MIN(len, (size_t)h->left), used = 0;
	int r;

	if (h->frame.flags & H2_FLAG_PADDED) {
		if (!h->left)
			return -h2_fail(h, H2_FRAME_SIZE_ERROR, "padded DATA without a padding length");
		if (!len)
			return 0;
		r = data_padding(h, data[0]);
		if (r != 0)
			return -r;
		used = 1;
		n = MIN(len - 1, (size_t)h->left);
	}

	size_t n_content = MIN(n, (size_t)(h->left - h->padding));
	struct h2_stream *s = h2_find(h, h->frame.stream);
	bool end = (h->frame.flags & H2_FLAG_END_STREAM) && h->left - n_content == h->padding;

	h->left -= (uint32_t)n;
	h->padding = MIN(h->padding, h->left);
	if (!h->left)
		h->state = STATE_HEADER;
	if (s && !s->remote_end) {
		if (n > n_content)
			h2_consume(h, s, n - n_content);
		if (n_content || end)
			deliver(h, s, data + used, n_content, end);
	} else {
		drop(h, n);
	}
	return (ssize_t)(used + n);
}

/* --- small frames --- */

/* Section 6.9 */
static int on_window_update(struct h2 *h, const uint8_t *p)
{
	uint32_t n = h2_read_u32(p) & H2_WINDOW_MAX, id = h->frame.stream;
	struct h2_stream *s;

	if (h->update_credit)
		h->update_credit--;
	else
		h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
	if (!id) {
		if (!n)
			return h2_fail(h, H2_PROTOCOL_ERROR, "WINDOW_UPDATE of 0");
		bool was_shut = h->send_window <= 0;

		h->send_window += n;
		if (h->send_window > H2_WINDOW_MAX)
			return h2_fail(h, H2_FLOW_CONTROL_ERROR, "a connection window over the maximum");
		if (!was_shut)			/* who waits does so for his own: there may be a thousand */
			return 0;

		struct list ready;			/* callbacks may block streams anew */
		list_init(&ready);
		list_splice(&ready, &h->blocked);
		while (!list_empty(&ready)) {
			s = list_entry(ready.next, struct h2_stream, blocked);
			list_unlink(&s->blocked);
			if (s->send_window > 0 && h->send_window > 0 && !h->failed)
				h->ops->writable(h, s);
			else
				list_append(&h->blocked, &s->blocked);
		}
		return 0;
	}
	s = h2_find(h, id);
	if (!s) {
		if (h2_is_idle(h, id))
			return h2_fail(h, H2_PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream");
		return 0;
	}
	if (!n || (int64_t)s->send_window + n > H2_WINDOW_MAX) {
		h2_lose(h, s, id, n ? H2_FLOW_CONTROL_ERROR : H2_PROTOCOL_ERROR);
		return 0;
	}
	s->send_window += (int32_t)n;
	if (!list_empty(&s->blocked) && s->send_window > 0 && h->send_window > 0) {
		list_unlink(&s->blocked);
		h->ops->writable(h, s);
	}
	return 0;
}

/* Section 6.4 */
static int on_rst_stream(struct h2 *h, const uint8_t *p)
{
	struct h2_stream *s = h2_find(h, h->frame.stream);
	uint32_t id = h->frame.stream;

	if (h2_is_idle(h, id))
		return h2_fail(h, H2_PROTOCOL_ERROR, "RST_STREAM on an idle stream");
	if (!s)
		return 0;
	if (h->server && !s->answered)		/* opened and dropped before there could be an answer */
		h2_nuisance(h, &h->n_rapid_resets, H2_MAX_RESETS);
	h2_detach(h, s);
	h->ops->reset(h, s, h2_read_u32(p));
	return 0;
}

/* Section 6.7 */
static int on_ping(struct h2 *h, const uint8_t *p)
{
	if (h->frame.stream)
		return h2_fail(h, H2_PROTOCOL_ERROR, "PING on a stream");
	if (h->frame.flags & H2_FLAG_ACK) {
		if (!h->ping_out)
			return 0;
		h->ping_out = false;
		if (h->server && h->draining && !h->goaway_sent)
			h2_goaway(h, H2_NO_ERROR);
		if (h->ops->pong)
			h->ops->pong(h);
		return 0;
	}
	h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);

	uint8_t *out = h2_put_frame(h, H2_PING, H2_FLAG_ACK, 0, 8);
	if (out)
		memcpy(out, p, 8);
	return 0;
}

/* RFC 7540, section 5.3.1; ignored but for what is plainly wrong. */
static int on_priority(struct h2 *h, const uint8_t *p)
{
	uint32_t id = h->frame.stream;
	struct h2_stream *s = h2_find(h, id);

	if (!id)
		return h2_fail(h, H2_PROTOCOL_ERROR, "PRIORITY on stream 0");
	h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
	if ((h2_read_u32(p) & H2_STREAM_ID_MAX) != id)
		return 0;
	h2_lose(h, s, id, H2_PROTOCOL_ERROR);
	return 0;
}

/* --- frames as a whole --- */

/* Lengths that are fixed, sections 6.3 to 6.9. */
static int check_length(struct h2 *h)
{
	static const struct {
		uint8_t type;
		uint32_t len;
	} fixed[] = { { H2_PRIORITY, 5 }, { H2_RST_STREAM, 4 }, { H2_PING, 8 }, { H2_WINDOW_UPDATE, 4 } };

	for (size_t i = 0; i < ELEMENTS(fixed); i++)
		if (fixed[i].type == h->frame.type && fixed[i].len != h->frame.len)
			return h2_fail(h, H2_FRAME_SIZE_ERROR, "a frame of the wrong length");
	if (h->frame.type == H2_GOAWAY && h->frame.len < 8)
		return h2_fail(h, H2_FRAME_SIZE_ERROR, "a GOAWAY that is too short");
	return 0;
}

static int begin_frame(struct h2 *h, const uint8_t *header)
{
	struct h2_frame *f = &h->frame;

	*f = h2_frame_read(header);
	h->n_frames++;
	if (f->len > h->settings.max_frame_size)
		return h2_fail(h, H2_FRAME_SIZE_ERROR, "a frame longer than we allow");
	if (!h->settings_seen && f->type != H2_SETTINGS)
		return h2_fail(h, H2_PROTOCOL_ERROR, "the first frame is not SETTINGS");
	if (h->block_stream ? f->type != H2_CONTINUATION || f->stream != h->block_stream : f->type == H2_CONTINUATION)
		return h2_fail(h, H2_PROTOCOL_ERROR, "a header block is not continued, or a continuation has none");
	if (f->type == H2_PUSH_PROMISE)
		return h2_fail(h, H2_PROTOCOL_ERROR, "PUSH_PROMISE, which we did not allow");
	if (f->type == H2_DATA)
		return begin_data(h);
	h->left = f->len;
	if (f->type >= _H2_TYPE_N) {		/* section 4.1: unknown types are ignored */
		h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
		h->state = STATE_SKIP;
		return 0;
	}
	if (f->len > WHOLE_MAX)
		return h2_fail(h, H2_ENHANCE_YOUR_CALM, "a control frame without measure");
	h->state = STATE_WHOLE;
	return check_length(h);
}

static int on_whole(struct h2 *h, const uint8_t *p, size_t len)
{
	switch (h->frame.type) {
	case H2_HEADERS:
		return h2_on_headers(h, p, len);
	case H2_CONTINUATION:
		return h2_on_continuation(h, p, len);
	case H2_SETTINGS:
		h2_nuisance(h, &h->n_nuisances, H2_MAX_NUISANCES);
		return h2_on_settings(h, p, len);
	case H2_WINDOW_UPDATE:
		return on_window_update(h, p);
	case H2_RST_STREAM:
		return on_rst_stream(h, p);
	case H2_PING:
		return on_ping(h, p);
	case H2_GOAWAY:
		return h2_on_goaway(h, p, len);
	default:
		return on_priority(h, p);
	}
}

/* Moves bytes of the input to the end of what is @at bytes long already, of @want. */
static size_t piece(const uint8_t **data, size_t *len, size_t want, size_t at, const uint8_t **ret_from)
{
	size_t n = MIN(want - at, *len);

	*ret_from = *data;
	*data += n;
	*len -= n;
	return n;
}

/*
 * The next @want bytes in one piece: in the input, or put together in @small or @part.
 * NULL: not all there yet; the input is then used up.
 */
static const uint8_t *gather(struct h2 *h, const uint8_t **data, size_t *len, size_t want, int *ret_r)
{
	*ret_r = 0;
	const uint8_t *from;
	size_t n;

	if (!h->part.len && !h->n_small && *len >= want) {
		(void)piece(data, len, want, 0, &from);
		return from;
	}
	if (want <= sizeof(h->small)) {
		n = piece(data, len, want, h->n_small, &from);
		memcpy(h->small + h->n_small, from, n);
		h->n_small += (uint32_t)n;
		return h->n_small == want ? h->small : NULL;
	}
	n = piece(data, len, want, h->part.len, &from);
	*ret_r = bytes_append(&h->part, from, n);
	return *ret_r == 0 && h->part.len == want ? h->part.data : NULL;
}

/* What was put together has been dealt with. */
static void gathered(struct h2 *h)
{
	h->n_small = 0;
	if (h->part.base)
		bytes_clear(&h->part);
}

static int on_preface(struct h2 *h, const uint8_t **data, size_t *len)
{
	int r;
	size_t n = MIN(*len, H2_PREFACE_LEN - h->n_small);

	if (memcmp(*data, &H2_PREFACE[h->n_small], n) != 0)	/* section 3.4 */
		return h2_fail(h, H2_PROTOCOL_ERROR, "not the HTTP/2 preface");
	if (gather(h, data, len, H2_PREFACE_LEN, &r)) {
		gathered(h);
		h->state = STATE_HEADER;
	}
	return r;
}

/* One step of the input. Uses at least a byte, or finishes a frame without payload. */
static int step(struct h2 *h, const uint8_t **data, size_t *len)
{
	const uint8_t *p;
	ssize_t n;
	int r;

	switch (h->state) {
	case STATE_PREFACE:
		return on_preface(h, data, len);
	case STATE_HEADER:
		p = gather(h, data, len, H2_HEADER_LEN, &r);
		if (!p)
			return r;
		r = begin_frame(h, p);
		gathered(h);
		return r;
	case STATE_DATA:
		n = on_data(h, *data, *len);
		if (n < 0)
			return (int)-n;
		*data += n;
		*len -= (size_t)n;
		return 0;
	case STATE_SKIP:
		n = (ssize_t)MIN(*len, (size_t)h->left);
		*data += n;
		*len -= (size_t)n;
		h->left -= (uint32_t)n;
		if (!h->left)
			h->state = STATE_HEADER;
		return 0;
	default:
		p = gather(h, data, len, h->left, &r);
		if (!p && h->left)
			return r;
		h->state = STATE_HEADER;
		r = on_whole(h, p, h->left);
		gathered(h);
		return r;
	}
}

/* A frame without payload has to be dealt with although no bytes are left. */
static bool is_due(const struct h2 *h)
{
	return h->state != STATE_HEADER && h->state != STATE_PREFACE && !h->left;
}

int h2_recv(struct h2 *h, const uint8_t *data, size_t len, uint64_t now_ms)
{
	int r = 0;

	h->now_ms = now_ms;
	if (!h->server && h->state == STATE_PREFACE)
		h->state = STATE_HEADER;
	while (!h->failed && r == 0 && (len || is_due(h)))
		r = step(h, &data, &len);
	if (r < 0) {
		h->failed = true;
		h->error_code = H2_INTERNAL_ERROR;
		h->error = "out of memory";
		return r;
	}
	return h->failed ? H2_E_FAILED : r;
}

/*
 * The HTTP/2 connection: life, streams, and what we send.
 */
#include "proto/h2_internal.h"

#include <errno.h>
#include <string.h>

#include "base/map.h"

enum {
	FIRST_SLOTS = 16,
	BLOCK_MAX = 64 * 1024,		/* bytes of an incoming header block */
	OUT_BLOCK_MAX = H2_FRAME_SIZE_MIN,	/* of one that we send: a single frame */
	CALM_MS = 10000,		/* nuisances are counted over so long */

	/* WINDOW_UPDATEs that are fair: some for each stream and frame, and one of either kind for each KiB. */
	UPDATES_PER_FRAME = 4,
	BYTES_PER_UPDATE = 512,
	UPDATE_CREDIT_MAX = 64 * 1024,

	/* Frames that may be on their way when we reset a stream: a window full of not too small ones, and headers. */
	LATE_FRAMES = 4,
	LATE_BYTES = 1024,
	LATE_CREDIT_MAX = 1024 * 1024,
};

const struct h2_settings h2_settings_default = {
	.max_streams = 1024,
	.stream_window = 1024 * 1024,
	.connection_window = 16 * 1024 * 1024,
	.max_frame_size = 256 * 1024,
};

/* --- life --- */

static void put_setting(uint8_t **p, uint16_t id, uint32_t value)
{
	(*p)[0] = (uint8_t)(id >> 8);
	(*p)[1] = (uint8_t)id;
	h2_write_u32(*p + 2, value);
	*p += 6;
}

static void h2_put_window_update(struct h2 *h, uint32_t id, uint32_t n)
{
	uint8_t *p = h2_put_frame(h, H2_WINDOW_UPDATE, 0, id, 4);

	if (p)
		h2_write_u32(p, n);
}

/* Section 3.4: the client's preface; both start with SETTINGS. */
static int put_start(struct h2 *h)
{
	enum { N_SETTINGS = 5 };
	const struct h2_settings *s = &h->settings;

	if (!h->server) {
		if (h->out.size - h->out.len < H2_PREFACE_LEN && !h->ops->room(h, H2_PREFACE_LEN))
			return -ENOMEM;
		memcpy(h->out.data + h->out.len, H2_PREFACE, H2_PREFACE_LEN);
		h->out.len += H2_PREFACE_LEN;
	}

	uint8_t *p = h2_put_frame(h, H2_SETTINGS, 0, 0, N_SETTINGS * 6);
	if (!p)
		return -ENOMEM;
	if (h->server)
		put_setting(&p, H2_SET_MAX_CONCURRENT_STREAMS, s->max_streams);
	else
		put_setting(&p, H2_SET_ENABLE_PUSH, 0);
	put_setting(&p, H2_SET_INITIAL_WINDOW_SIZE, s->stream_window);
	put_setting(&p, H2_SET_MAX_FRAME_SIZE, s->max_frame_size);
	put_setting(&p, H2_SET_MAX_HEADER_LIST_SIZE, H2_HEADERS_LIST_MAX);
	put_setting(&p, H2_SET_HEADER_TABLE_SIZE, 4096);
	if (s->connection_window > H2_WINDOW_DEFAULT)
		h2_put_window_update(h, 0, s->connection_window - H2_WINDOW_DEFAULT);
	return h->failed ? -ENOMEM : 0;
}

int h2_init(struct h2 *h, bool server, const struct h2_settings *settings, const struct h2_ops *ops)
{
	int r;

	*h = (struct h2){
		.ops = ops,
		.server = server,
		.settings = settings ? *settings : h2_settings_default,
		.spread = (uint32_t)map_hash(&h, sizeof(h)) | 1,
		.out = h->out,
		.send_window = H2_WINDOW_DEFAULT,
		.next_id = 1,
		.goaway_id = H2_STREAM_ID_MAX,
		.peer_max_streams = server ? 0 : 1,	/* until SETTINGS say more */
		.peer_window = H2_WINDOW_DEFAULT,
		.peer_frame_size = H2_FRAME_SIZE_MIN,
	};
	h->recv_window = MAX(h->settings.connection_window, (uint32_t)H2_WINDOW_DEFAULT);
	list_init(&h->blocked);
	bytes_init(&h->part, BLOCK_MAX + H2_HEADER_LEN);
	bytes_init(&h->block, BLOCK_MAX);
	if (nghttp2_hd_inflate_new(&h->inflater) != 0 || nghttp2_hd_deflate_new(&h->deflater, 4096) != 0)
		r = -ENOMEM;
	else
		r = put_start(h);
	if (r < 0)
		h2_deinit(h);
	return r;
}

void h2_deinit(struct h2 *h)
{
	for (uint32_t i = 0; i < h->n_slots; i++)
		while (h->slots[i])
			h2_detach(h, h->slots[i]);
	free(h->slots);
	h->slots = NULL;
	h->n_slots = 0;
	if (h->inflater)
		nghttp2_hd_inflate_del(h->inflater);
	if (h->deflater)
		nghttp2_hd_deflate_del(h->deflater);
	h->inflater = NULL;
	h->deflater = NULL;
	bytes_deinit(&h->part);
	bytes_deinit(&h->block);
	h->failed = true;
}

/* --- errors --- */

int h2_fail(struct h2 *h, uint32_t code, const char *why)
{
	if (h->failed)
		return H2_E_FAILED;
	h->error = why;
	h->error_code = code;
	h2_goaway(h, code);
	h->failed = true;
	return H2_E_FAILED;
}

void h2_nuisance(struct h2 *h, uint32_t *counter, uint32_t limit)
{
	if (h->now_ms >= h->calm_until_ms) {
		h->calm_until_ms = h->now_ms + CALM_MS;
		h->n_nuisances = h->n_rapid_resets = 0;
	}
	if (++*counter > limit)
		h2_fail(h, H2_ENHANCE_YOUR_CALM, "too many frames that do nothing");
}

static void allow_updates(struct h2 *h, size_t len)
{
	h->update_credit = (uint32_t)MIN(h->update_credit + UPDATES_PER_FRAME + len / BYTES_PER_UPDATE, (size_t)UPDATE_CREDIT_MAX);
}

/* --- the table of streams --- */

/* A client may choose ids that leave gaps, but not ones that are in one slot: it does not know @spread. */
static struct h2_stream **slot_of(const struct h2 *h, uint32_t id)
{
	uint32_t x = (id >> 1) * h->spread;

	x = (x ^ x >> 16) * UINT32_C(0x9e3779b1);
	return &h->slots[x >> (__builtin_clz(h->n_slots) + 1)];
}

struct h2_stream *h2_find(const struct h2 *h, uint32_t id)
{
	struct h2_stream *s = h->n_slots ? *slot_of(h, id) : NULL;

	while (s && s->id != id)
		s = s->next;
	return s;
}

static int grow(struct h2 *h)
{
	uint32_t n = h->n_slots ? h->n_slots * 2 : FIRST_SLOTS, n_old = h->n_slots;
	struct h2_stream **slots = calloc(n, sizeof(*slots)), **old = h->slots;

	if (!slots)
		return -ENOMEM;
	h->slots = slots;
	h->n_slots = n;
	for (uint32_t i = 0; i < n_old; i++)
		for (struct h2_stream *s = old[i], *next; s; s = next) {
			next = s->next;
			s->next = *slot_of(h, s->id);
			*slot_of(h, s->id) = s;
		}
	free(old);
	return 0;
}

static int h2_attach(struct h2 *h, struct h2_stream *s, uint32_t id)
{
	if (h->n_streams == h->n_slots && grow(h) < 0)
		return -ENOMEM;
	*s = (struct h2_stream){
		.id = id,
		.send_window = (int32_t)h->peer_window,
		.recv_window = (int32_t)h->settings.stream_window,
	};
	list_init(&s->blocked);
	s->next = *slot_of(h, id);
	*slot_of(h, id) = s;
	h->n_streams++;
	allow_updates(h, 0);
	return 0;
}

void h2_detach(struct h2 *h, struct h2_stream *s)
{
	struct h2_stream **at = slot_of(h, s->id);

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	h->n_streams--;
	list_unlink(&s->blocked);
	s->next = NULL;
	s->id = 0;
}

bool h2_is_idle(const struct h2 *h, uint32_t id)
{
	return !(id & 1) || (h->server ? id > h->last_id : id >= h->next_id);
}

bool h2_is_late(struct h2 *h)
{
	if (!h->late_credit)
		return false;
	h->late_credit--;
	return true;
}

static void maybe_detach(struct h2 *h, struct h2_stream *s)
{
	if (s->local_end && s->remote_end)
		h2_detach(h, s);
}

/* --- control frames --- */

uint8_t *h2_put_frame(struct h2 *h, uint8_t type, uint8_t flags, uint32_t stream, uint32_t len)
{
	size_t n = H2_HEADER_LEN + (size_t)len;

	if (h->failed)
		return NULL;
	if (h->out.size - h->out.len < n && !h->ops->room(h, n)) {
		h->failed = true;
		h->error_code = H2_INTERNAL_ERROR;
		h->error = "no room to send";
		return NULL;
	}

	uint8_t *p = h->out.data + h->out.len;
	h2_frame_write(p, &(struct h2_frame){ .len = len, .type = type, .flags = flags, .stream = stream });
	h->out.len += n;
	return p + H2_HEADER_LEN;
}

void h2_put_rst(struct h2 *h, uint32_t id, uint32_t code)
{
	uint8_t *p = h2_put_frame(h, H2_RST_STREAM, 0, id, 4);

	if (p)
		h2_write_u32(p, code);
}

void h2_refuse(struct h2 *h, uint32_t id, uint32_t code)
{
	h2_put_rst(h, id, code);
	h->late_credit = MIN(h->late_credit + LATE_FRAMES + h->settings.stream_window / LATE_BYTES, (uint32_t)LATE_CREDIT_MAX);
}

void h2_lose(struct h2 *h, struct h2_stream *s, uint32_t id, uint32_t code)
{
	h2_refuse(h, id, code);
	if (s) {
		h2_detach(h, s);
		h->losing = true;
		h->ops->reset(h, s, code);
		h->losing = false;
	}
	h2_nuisance(h, &h->n_rapid_resets, H2_MAX_RESETS);
}

static const uint8_t ping_payload[8] = "outrigge";

void h2_ping(struct h2 *h)
{
	if (h->ping_out)
		return;

	uint8_t *p = h2_put_frame(h, H2_PING, 0, 0, sizeof(ping_payload));
	if (!p)
		return;
	memcpy(p, ping_payload, sizeof(ping_payload));
	h->ping_out = true;
}

static void put_goaway(struct h2 *h, uint32_t last_id, uint32_t code)
{
	uint8_t *p = h2_put_frame(h, H2_GOAWAY, 0, 0, 8);

	if (!p)
		return;
	h2_write_u32(p, last_id);
	h2_write_u32(p + 4, code);
}

void h2_goaway(struct h2 *h, uint32_t code)
{
	if (h->goaway_sent && code == H2_NO_ERROR)
		return;
	h->goaway_sent = true;
	h->goaway_id = h->last_id;
	put_goaway(h, h->last_id, code);
}

/* Section 6.8: a first GOAWAY with the highest id, so that no request on its way is lost. */
void h2_shutdown(struct h2 *h)
{
	if (h->draining)
		return;
	h->draining = true;
	if (!h->server)
		return;
	put_goaway(h, H2_STREAM_ID_MAX, H2_NO_ERROR);
	h->ping_out = false;
	h2_ping(h);		/* its answer comes after all that was sent before the GOAWAY was seen */
}

/* --- header blocks --- */

static int put_headers(struct h2 *h, uint32_t id, const struct h2_header *headers, size_t n, bool end)
{
	uint8_t *p = h2_put_frame(h, H2_HEADERS, (uint8_t)(H2_FLAG_END_HEADERS | (end ? H2_FLAG_END_STREAM : 0)), id, OUT_BLOCK_MAX);
	size_t len;
	int r;

	if (!p)
		return -ENOMEM;
	h->out.len -= OUT_BLOCK_MAX;
	r = h2_headers_encode(h->deflater, headers, n, p, OUT_BLOCK_MAX, &len);
	if (r < 0) {
		h->out.len -= H2_HEADER_LEN;
		if (r == -ENOMEM)	/* HPACK's state is in doubt */
			h2_fail(h, H2_INTERNAL_ERROR, "out of memory");
		return r;
	}
	p[-H2_HEADER_LEN] = (uint8_t)(len >> 16);
	p[-H2_HEADER_LEN + 1] = (uint8_t)(len >> 8);
	p[-H2_HEADER_LEN + 2] = (uint8_t)len;
	h->out.len += len;
	return 0;
}

bool h2_can_open(const struct h2 *h)
{
	return !h->failed && !h->draining && !h->goaway_seen && h->n_streams < h->peer_max_streams && h->next_id <= H2_STREAM_ID_MAX;
}

int h2_open(struct h2 *h, struct h2_stream *s, const struct h2_header *headers, size_t n, bool end)
{
	int r;

	if (!h2_can_open(h))
		return -EAGAIN;
	r = h2_attach(h, s, h->next_id);
	if (r < 0)
		return r;
	r = put_headers(h, s->id, headers, n, end);
	if (r < 0) {
		h2_detach(h, s);
		return r;
	}
	h->next_id += 2;
	s->local_end = end;
	return 0;
}

int h2_accept(struct h2 *h, struct h2_stream *s)
{
	int r;

	if (!h->incoming_id)
		return -EINVAL;
	r = h2_attach(h, s, h->incoming_id);
	if (r < 0)
		return r;
	s->remote_end = h->incoming_end;
	h->incoming_id = 0;
	return 0;
}

int h2_respond(struct h2 *h, struct h2_stream *s, unsigned status, const struct h2_header *headers, size_t n, bool end)
{
	char digits[4] = { (char)('0' + status / 100 % 10), (char)('0' + status / 10 % 10), (char)('0' + status % 10), 0 };
	struct h2_header list[H2_HEADERS_MAX];
	int r;

	if (!s->id || s->local_end || n >= H2_HEADERS_MAX)
		return -EINVAL;
	list[0] = h2_header(":status", digits);
	if (n)
		memcpy(&list[1], headers, n * sizeof(*headers));
	r = put_headers(h, s->id, list, n + 1, end);
	if (r < 0)
		return r;
	s->answered = true;
	s->local_end = end;
	maybe_detach(h, s);
	return 0;
}

void h2_reset(struct h2 *h, struct h2_stream *s, uint32_t code)
{
	if (!s->id)
		return;
	h2_refuse(h, s->id, code);
	h2_detach(h, s);
}

/* --- data --- */

size_t h2_data_begin(struct h2 *h, struct h2_stream *s, size_t want, struct iovec ret_iov[static H2_PARTS], size_t *ret_n)
{
	int64_t window = MIN((int64_t)s->send_window, h->send_window);
	size_t room = 0, n = 0, at;

	*ret_n = 0;
	if (!s->id || s->local_end || h->failed)
		return 0;
	if (window <= 0) {
		if (list_empty(&s->blocked))
			list_append(&h->blocked, &s->blocked);
		return 0;
	}
	want = MIN(want, (size_t)window);
	want = MIN(want, (size_t)h->peer_frame_size * H2_PARTS);

	size_t need = want + H2_HEADER_LEN * ((want + h->peer_frame_size - 1) / h->peer_frame_size);
	if (h->out.size - h->out.len < need && !h->ops->room(h, need)) {
		h->failed = true;
		h->error_code = H2_INTERNAL_ERROR;
		h->error = "no room to send";
		return 0;
	}
	for (at = h->out.len; room < want; n++) {
		size_t part = MIN(want - room, (size_t)h->peer_frame_size);

		ret_iov[n] = (struct iovec){ h->out.data + at + H2_HEADER_LEN, part };
		at += H2_HEADER_LEN + part;
		room += part;
	}
	*ret_n = n;
	return room;
}

void h2_data_end(struct h2 *h, struct h2_stream *s, size_t len, bool end)
{
	struct h2_frame f = { .type = H2_DATA, .stream = s->id };

	if (!s->id || s->local_end || (!len && !end))
		return;
	if (!len) {
		h2_end(h, s);
		return;
	}
	s->send_window -= (int32_t)len;
	h->send_window -= (int64_t)len;
	h->bytes_out += len;
	allow_updates(h, len);
	while (len) {
		f.len = (uint32_t)MIN(len, (size_t)h->peer_frame_size);
		len -= f.len;
		f.flags = end && !len ? H2_FLAG_END_STREAM : 0;
		h2_frame_write(h->out.data + h->out.len, &f);
		h->out.len += H2_HEADER_LEN + f.len;
	}
	if (end) {
		s->local_end = true;
		maybe_detach(h, s);
	}
}

void h2_end(struct h2 *h, struct h2_stream *s)
{
	if (!s->id || s->local_end)
		return;
	h2_put_frame(h, H2_DATA, H2_FLAG_END_STREAM, s->id, 0);
	s->local_end = true;
	maybe_detach(h, s);
}

/* Credit goes back in pieces of a quarter of the window: few updates, and the peer never runs dry. */
void h2_consume(struct h2 *h, struct h2_stream *s, size_t len)
{
	h->taken += (uint32_t)len;
	if (h->taken >= h->settings.connection_window / 4) {
		h2_put_window_update(h, 0, h->taken);
		h->recv_window += h->taken;
		h->taken = 0;
	}
	if (!s || !s->id || s->remote_end)
		return;
	s->taken += (uint32_t)len;
	if (s->taken >= h->settings.stream_window / 4) {
		h2_put_window_update(h, s->id, s->taken);
		s->recv_window += (int32_t)s->taken;
		s->taken = 0;
	}
}

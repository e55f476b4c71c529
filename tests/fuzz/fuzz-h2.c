/*
 * An HTTP/2 connection whose peer says anything. The first byte: server or
 * client, and in how large pieces the bytes come. The owner of the connection
 * answers, sends, consumes and resets, as its streams' numbers have it; the
 * first byte of a piece of DATA may have it do something else from within.
 */
#include <stdlib.h>
#include <string.h>

#include "proto/h2.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_STREAMS = 16, OUT_SIZE = 1024 * 1024 };

static struct h2 h;
static struct h2_stream streams[MAX_STREAMS];
static size_t n_streams;
static uint8_t out[OUT_SIZE];
static size_t n_held;			/* bytes given to us that have not been consumed */

static bool on_room(struct h2 *c, size_t n)
{
	c->out = (struct h2_out){ out, 0, OUT_SIZE };	/* what was there is thrown away: sent */
	return n <= OUT_SIZE;
}

static void send_some(struct h2 *c, struct h2_stream *s)
{
	struct iovec iov[H2_PARTS];
	size_t n_iov, room = h2_data_begin(c, s, 1000, iov, &n_iov), total = 0;

	for (size_t i = 0; i < n_iov; i++) {
		memset(iov[i].iov_base, 'x', iov[i].iov_len);
		total += iov[i].iov_len;
	}
	if (total != room || room > 1000)
		abort();
	h2_data_end(c, s, room, false);
}

static void open_another(struct h2 *c)
{
	struct h2_header list[] = { h2_header(":method", "CONNECT"), h2_header(":authority", "10.0.0.1:80") };

	if (!c->server && n_streams < MAX_STREAMS && h2_open(c, &streams[n_streams], list, 2, false) == 0)
		n_streams++;
}

/* What owners do while they are called: to this stream, to others, to the connection. */
static void do_something(struct h2 *c, struct h2_stream *s, uint8_t what)
{
	struct h2_stream *other = &streams[what >> 4];

	switch (what & 15) {
	case 1:
		h2_reset(c, s, H2_CANCEL);
		break;
	case 2:
		h2_reset(c, other, H2_CONNECT_ERROR);
		break;
	case 3:
		h2_end(c, other);
		break;
	case 4:
		while (h2_is_open(other) && c->send_window > 0 && other->send_window > 0 && !other->local_end && !c->failed)
			send_some(c, other);	/* until a window is shut */
		send_some(c, other);
		break;
	case 5:
		h2_ping(c);
		break;
	case 6:
		h2_shutdown(c);
		break;
	case 7:
		h2_goaway(c, H2_NO_ERROR);
		break;
	case 8:
		open_another(c);
		break;
	case 9:
		h2_consume(c, other, n_held);
		n_held = 0;
		break;
	case 10:
		(void)!h2_respond(c, other, 200, NULL, 0, what & 16);
		break;
	default:
		break;
	}
}

static void on_request(struct h2 *c, const struct h2_message *m, bool end)
{
	size_t i = n_streams;

	(void)end;
	if (!m->method || m->n > H2_HEADERS_MAX || m->n_text > H2_HEADERS_TEXT_MAX)
		abort();
	if (i == MAX_STREAMS)
		return;
	n_streams++;
	if (h2_accept(c, &streams[i]) < 0)
		return;
	if (i % 4 == 3)
		h2_reset(c, &streams[i], H2_CANCEL);
	else if (h2_respond(c, &streams[i], i % 4 == 2 ? 503 : 200, NULL, 0, i % 4 == 2) == 0)
		send_some(c, &streams[i]);
}

static void on_response(struct h2 *c, struct h2_stream *s, const struct h2_message *m, bool end)
{
	(void)end;
	if (m->status < 200)
		abort();
	send_some(c, s);
	if (m->status != 200 && h2_is_open(s)) {		/* the next attempt, with the same stream */
		struct h2_header list[] = { h2_header(":method", "CONNECT"), h2_header(":authority", "10.0.0.2:80") };

		h2_reset(c, s, H2_CONNECT_ERROR);
		if (h2_open(c, s, list, 2, false) == 0 && !h2_is_open(s))
			abort();
	}
}

static void on_data(struct h2 *c, struct h2_stream *s, const uint8_t *data, size_t len, bool end)
{
	volatile uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + data[i]);
	n_held += len;
	if (s - streams != 1) {			/* one that is slow */
		h2_consume(c, s, len);
		n_held -= len;
	}
	if (end)
		h2_end(c, s);
	if (len)
		do_something(c, s, data[0]);
}

static void on_reset(struct h2 *c, struct h2_stream *s, uint32_t code)
{
	(void)code;
	if (s->id || !list_empty(&s->blocked))
		abort();
	open_another(c);
}

static void on_writable(struct h2 *c, struct h2_stream *s)
{
	send_some(c, s);
}

static void on_goaway(struct h2 *c, uint32_t code)
{
	(void)code;
	open_another(c);
}

static const struct h2_ops ops = {
	.room = on_room, .request = on_request, .response = on_response, .data = on_data, .reset = on_reset, .writable = on_writable, .goaway = on_goaway,
};

static void open_streams(void)
{
	struct h2_header list[] = { h2_header(":method", "CONNECT"), h2_header(":authority", "10.0.0.1:80") };

	h.peer_max_streams = 8;
	for (; n_streams < 4; n_streams++)
		if (h2_open(&h, &streams[n_streams], list, 2, false) < 0)
			abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t pieces[] = { 1, 7, 100, 100000 };
	size_t piece;
	uint64_t now = 1000;
	bool server;

	if (!size)
		return 0;
	server = data[0] & 1;
	piece = pieces[data[0] >> 1 & 3];
	memset(streams, 0, sizeof(streams));
	n_streams = n_held = 0;
	memset(&h, 0, sizeof(h));
	if (h2_init(&h, server, NULL, &ops) < 0)
		abort();
	if (server && h2_recv(&h, (const uint8_t *)H2_PREFACE, H2_PREFACE_LEN, now) != 0)
		abort();
	if (!server)
		open_streams();
	for (size_t at = 1; at < size; at += piece, now += 10)
		if (h2_recv(&h, data + at, MIN(piece, size - at), now) != 0) {
			if (!h.failed || !h.error)
				abort();
			break;
		}
	if (h2_n_streams(&h) > MAX_STREAMS || h.recv_window > h2_settings_default.connection_window)
		abort();
	h2_deinit(&h);
	return 0;
}

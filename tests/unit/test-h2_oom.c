/*
 * HTTP/2 when memory ends: each allocation of a conversation fails once. The
 * connection may be lost, but says so, and nothing else happens.
 */
#include "lib/unit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/alloc.h"
#include "proto/h2.h"

enum { OUT_SIZE = 256 * 1024, N_STREAMS = 40 };

struct end {
	struct h2 h;
	uint8_t out[OUT_SIZE];
	struct h2_stream streams[N_STREAMS];
	size_t n_streams;
};

static struct end server, client;
static uint8_t wire[OUT_SIZE];

static bool on_room(struct h2 *h, size_t n)
{
	struct end *e = container_of(h, struct end, h);

	if (!h->out.data)
		h->out = (struct h2_out){ e->out, 0, OUT_SIZE };
	return h->out.size - h->out.len >= n;
}

static void on_request(struct h2 *h, const struct h2_message *m, bool end)
{
	struct end *e = container_of(h, struct end, h);

	(void)m;
	(void)end;
	if (e->n_streams < N_STREAMS && h2_accept(h, &e->streams[e->n_streams]) == 0) {
		struct h2_stream *s = &e->streams[e->n_streams++];

		if (h2_respond(h, s, 200, NULL, 0, false) < 0)
			h2_reset(h, s, H2_INTERNAL_ERROR);
	}
}

static void on_response(struct h2 *h, struct h2_stream *s, const struct h2_message *m, bool end)
{
	(void)h;
	(void)s;
	(void)m;
	(void)end;
}

static void on_data(struct h2 *h, struct h2_stream *s, const uint8_t *data, size_t len, bool end)
{
	(void)data;
	(void)end;
	h2_consume(h, s, len);
}

static void on_reset(struct h2 *h, struct h2_stream *s, uint32_t code)
{
	(void)h;
	(void)code;
	assert_int_equal(s->id, 0);
}

static const struct h2_ops ops = {
	.room = on_room, .request = on_request, .response = on_response, .data = on_data, .reset = on_reset,
};

/* What @from has written, in pieces. 0, or what h2_recv() said. */
static int carry(struct end *from, struct end *to, size_t chunk)
{
	size_t n = from->h.out.len;
	int r = 0;

	memcpy(wire, from->h.out.data, n);
	from->h.out.len = 0;
	for (size_t at = 0; at < n && r == 0; at += chunk)
		r = h2_recv(&to->h, wire + at, MIN(chunk, n - at), 1000);
	return r;
}

static int converse(void)
{
	struct h2_header list[] = { h2_header(":method", "CONNECT"), h2_header(":authority", "10.0.0.1:80") };
	int r;

	memset(&server, 0, sizeof(server));
	memset(&client, 0, sizeof(client));
	r = h2_init(&server.h, true, NULL, &ops);
	if (r == 0)
		r = h2_init(&client.h, false, NULL, &ops);
	for (int round = 0; r == 0 && round < 3; round++) {
		r = carry(&client, &server, 11);
		if (r == 0)
			r = carry(&server, &client, 1000);
		for (size_t i = 0; r == 0 && i < N_STREAMS / 3 && h2_can_open(&client.h); i++) {
			struct iovec iov[H2_PARTS];
			size_t n;

			r = h2_open(&client.h, &client.streams[client.n_streams], list, 2, false);
			if (r == 0 && h2_data_begin(&client.h, &client.streams[client.n_streams++], 5, iov, &n))
				h2_data_end(&client.h, &client.streams[client.n_streams - 1], 5, i % 2);
		}
	}
	h2_deinit(&server.h);
	h2_deinit(&client.h);
	return r;
}

static void every_allocation_may_fail(void **state)
{
	size_t total;

	(void)state;
	alloc_fail_at(SIZE_MAX);
	assert_int_equal(converse(), 0);
	total = alloc_fail_stop();
	assert_true(total > 5);
	for (size_t n = 1; n <= total; n++) {
		int r;

		alloc_fail_once_at(n);
		r = converse();
		alloc_fail_stop();
		assert_true(r == 0 || r == -ENOMEM || r == H2_E_FAILED);
		alloc_fail_at(n);
		r = converse();
		alloc_fail_stop();
		assert_true(r == 0 || r == -ENOMEM || r == H2_E_FAILED);
	}
	assert_int_equal(converse(), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_allocation_may_fail),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

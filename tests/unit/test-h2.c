#include "lib/unit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/h2.h"

enum { OUT_SIZE = 4 * 1024 * 1024, MAX_STREAMS = 64 };

/* One end with an owner that notes what it is told. */
struct end {
	struct h2 h;
	uint8_t out[OUT_SIZE];
	struct h2_stream streams[MAX_STREAMS];
	size_t n_streams;
	char log[8192];			/* "request CONNECT 10.0.0.1:80\n", "data 1 hello\n", ... */
	bool consume;			/* at once */
	bool quiet;			/* data is counted, not logged */
	uint64_t n_data;
	uint8_t next_byte;		/* of a stream of counting bytes, when quiet */
	bool refuse;
	unsigned n_writable;
};

static struct end *a;			/* the end under test */
static struct end *b;			/* its peer, where the test has one */

static struct end *end_of(struct h2 *h)
{
	return container_of(h, struct end, h);
}

static void note(struct h2 *h, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void note(struct h2 *h, const char *fmt, ...)
{
	struct end *e = end_of(h);
	size_t n = strlen(e->log);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(e->log + n, sizeof(e->log) - n, fmt, ap);
	va_end(ap);
}

static int number_of(struct h2 *h, const struct h2_stream *s)
{
	return (int)(s - end_of(h)->streams);
}

static bool on_room(struct h2 *h, size_t n)
{
	struct end *e = end_of(h);

	if (!h->out.data)
		h->out = (struct h2_out){ e->out, 0, OUT_SIZE };
	return h->out.size - h->out.len >= n;
}

static void on_request(struct h2 *h, const struct h2_message *m, bool end)
{
	struct end *e = end_of(h);

	note(h, "request %s %s%s\n", m->method, m->authority ? m->authority : "-", end ? " end" : "");
	if (!e->refuse && e->n_streams < MAX_STREAMS)
		assert_int_equal(h2_accept(h, &e->streams[e->n_streams++]), 0);
}

static void on_response(struct h2 *h, struct h2_stream *s, const struct h2_message *m, bool end)
{
	note(h, "response %d %u%s\n", number_of(h, s), m->status, end ? " end" : "");
}

static void on_data(struct h2 *h, struct h2_stream *s, const uint8_t *data, size_t len, bool end)
{
	struct end *e = end_of(h);

	e->n_data += len;
	if (e->quiet)
		for (size_t i = 0; i < len; i++)
			assert_int_equal(data[i], e->next_byte++);
	else
		note(h, "data %d %.*s%s\n", number_of(h, s), (int)len, (const char *)data, end ? " end" : "");
	if (e->consume)
		h2_consume(h, s, len);
}

static void on_reset(struct h2 *h, struct h2_stream *s, uint32_t code)
{
	assert_int_equal(s->id, 0);
	note(h, "reset %d %s\n", number_of(h, s), h2_code_name(code));
}

static void on_writable(struct h2 *h, struct h2_stream *s)
{
	(void)s;
	end_of(h)->n_writable++;
}

static void on_goaway(struct h2 *h, uint32_t code)
{
	note(h, "goaway %s\n", h2_code_name(code));
}

static void on_pong(struct h2 *h)
{
	note(h, "pong\n");
}

static const struct h2_ops ops = {
	.room = on_room,
	.request = on_request,
	.response = on_response,
	.data = on_data,
	.reset = on_reset,
	.writable = on_writable,
	.goaway = on_goaway,
	.pong = on_pong,
};

static struct end *new_end(bool server, const struct h2_settings *settings)
{
	struct end *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	e->consume = true;
	assert_int_equal(h2_init(&e->h, server, settings, &ops), 0);
	return e;
}

static struct end *free_end(struct end *e)
{
	if (e)
		h2_deinit(&e->h);
	free(e);
	return NULL;
}

static int teardown(void **state)
{
	(void)state;
	a = free_end(a);
	b = free_end(b);
	return 0;
}

/* --- bytes that a test writes by hand --- */

static uint8_t script[4 * 1024 * 1024];
static size_t n_script;

static void raw(const void *data, size_t len)
{
	memcpy(script + n_script, data, len);
	n_script += len;
}

static void frame(uint8_t type, uint8_t flags, uint32_t stream, const void *payload, size_t len)
{
	uint8_t header[H2_HEADER_LEN];

	h2_frame_write(header, &(struct h2_frame){ .len = (uint32_t)len, .type = type, .flags = flags, .stream = stream });
	raw(header, sizeof(header));
	raw(payload, len);
}

#define FRAME(type, flags, stream, text) frame(type, flags, stream, text, sizeof(text) - 1)

static nghttp2_hd_deflater *deflater;

/* A request header with these fields: "name\0value\0...\0" */
static size_t block(const char *fields, uint8_t *out)
{
	struct h2_header list[H2_HEADERS_MAX];
	size_t n = 0, len;

	while (*fields) {
		const char *value = fields + strlen(fields) + 1;

		list[n++] = h2_header(fields, value);
		fields = value + strlen(value) + 1;
	}
	assert_int_equal(h2_headers_encode(deflater, list, n, out, 65536, &len), 0);
	return len;
}

static void headers(uint8_t flags, uint32_t stream, const char *fields)
{
	static uint8_t out[65536];

	frame(H2_HEADERS, flags | H2_FLAG_END_HEADERS, stream, out, block(fields, out));
}

#define CONNECT ":method\0CONNECT\0:authority\0" "10.0.0.1:80\0"

static void start_server(void)
{
	teardown(NULL);
	if (deflater)
		nghttp2_hd_deflate_del(deflater);
	assert_int_equal(nghttp2_hd_deflate_new(&deflater, 4096), 0);
	n_script = 0;
	a = new_end(true, NULL);
	a->h.out.len = 0;
	raw(H2_PREFACE, H2_PREFACE_LEN);
	frame(H2_SETTINGS, 0, 0, "", 0);
}

/* Plays the script in pieces of @chunk bytes (0: whole). What h2_recv() said last. */
static int play(size_t chunk)
{
	int r = 0;

	for (size_t at = 0; at < n_script && r == 0;) {
		size_t n = chunk && chunk < n_script - at ? chunk : n_script - at;

		r = h2_recv(&a->h, script + at, n, 1000);
		at += n;
	}
	n_script = 0;
	return r;
}

/* Looks for a frame in what @a has sent; returns its payload or NULL. */
static const uint8_t *sent(uint8_t type, uint32_t stream, struct h2_frame *ret_frame)
{
	size_t at = 0;

	while (at + H2_HEADER_LEN <= a->h.out.len) {
		struct h2_frame f = h2_frame_read(a->h.out.data + at);

		if (f.type == type && f.stream == stream) {
			*ret_frame = f;
			return a->h.out.data + at + H2_HEADER_LEN;
		}
		at += H2_HEADER_LEN + f.len;
	}
	return NULL;
}

static void expect_failure(uint32_t code)
{
	struct h2_frame f;
	const uint8_t *p;

	assert_int_equal(play(0), H2_E_FAILED);
	assert_string_equal(h2_code_name(a->h.error_code), h2_code_name(code));
	assert_non_null(a->h.error);
	p = sent(H2_GOAWAY, 0, &f);
	assert_non_null(p);
	assert_string_equal(h2_code_name(h2_read_u32(p + 4)), h2_code_name(code));
	assert_int_equal(h2_recv(&a->h, (const uint8_t *)"x", 1, 1000), H2_E_FAILED);
}

static void expect_rst(uint32_t stream, uint32_t code)
{
	struct h2_frame f;
	const uint8_t *p;

	assert_int_equal(play(0), 0);
	p = sent(H2_RST_STREAM, stream, &f);
	assert_non_null(p);
	assert_string_equal(h2_code_name(h2_read_u32(p)), h2_code_name(code));
}

/* --- a server and what it is told --- */

static void a_tunnel_opens_carries_and_ends(void **state)
{
	struct h2_frame f;

	(void)state;
	for (size_t chunk = 0; chunk < 40; chunk++) {
		start_server();
		a->quiet = chunk != 0;		/* pieces would be logged one by one */
		headers(0, 1, CONNECT);
		FRAME(H2_DATA, 0, 1, "\0\1\2\3\4");
		FRAME(H2_DATA, H2_FLAG_PADDED, 1, "\3\5\6\7xxx");
		FRAME(99, 0xff, 77, "what nobody knows");
		FRAME(H2_PRIORITY, 0, 3, "\0\0\0\1\5");
		FRAME(H2_DATA, H2_FLAG_PADDED | H2_FLAG_END_STREAM, 1, "\2\10xx");
		assert_int_equal(play(chunk), 0);
		if (chunk)
			assert_int_equal(a->n_data, 9);
		else
			assert_memory_equal(a->log, "request CONNECT 10.0.0.1:80\ndata 0 ", 35);
		assert_true(a->streams[0].remote_end);
		assert_int_equal(h2_respond(&a->h, &a->streams[0], 200, NULL, 0, false), 0);
		assert_non_null(sent(H2_HEADERS, 1, &f));
		h2_end(&a->h, &a->streams[0]);
		assert_false(h2_is_open(&a->streams[0]));
		assert_int_equal(h2_n_streams(&a->h), 0);
	}
}

static void settings_are_acknowledged_and_pings_answered(void **state)
{
	struct h2_frame f;
	const uint8_t *p;

	(void)state;
	start_server();
	FRAME(H2_PING, 0, 0, "12345678");
	assert_int_equal(play(0), 0);
	assert_non_null(sent(H2_SETTINGS, 0, &f));
	assert_int_equal(f.flags, H2_FLAG_ACK);
	p = sent(H2_PING, 0, &f);
	assert_non_null(p);
	assert_int_equal(f.flags, H2_FLAG_ACK);
	assert_memory_equal(p, "12345678", 8);
}

static void what_breaks_the_connection(void **state)
{
	static const struct {
		uint8_t type, flags;
		uint32_t stream;
		const char *payload;
		size_t len;
		uint32_t code;
	} table[] = {
		{ H2_DATA, 0, 0, "x", 1, H2_PROTOCOL_ERROR },
		{ H2_DATA, 0, 3, "x", 1, H2_PROTOCOL_ERROR },			/* idle */
		{ H2_DATA, 0, 2, "x", 1, H2_PROTOCOL_ERROR },
		{ H2_DATA, H2_FLAG_PADDED, 1, "\2x", 2, H2_PROTOCOL_ERROR },
		{ H2_DATA, H2_FLAG_PADDED, 1, "", 0, H2_FRAME_SIZE_ERROR },
		{ H2_HEADERS, H2_FLAG_END_HEADERS, 0, "\x82", 1, H2_PROTOCOL_ERROR },
		{ H2_HEADERS, H2_FLAG_END_HEADERS, 2, "\x82", 1, H2_PROTOCOL_ERROR },
		{ H2_HEADERS, H2_FLAG_END_HEADERS, 3, "\xff\xff\xff\xff\xff", 5, H2_COMPRESSION_ERROR },
		{ H2_HEADERS, H2_FLAG_END_HEADERS, 3, "\x82\x3f", 2, H2_COMPRESSION_ERROR },
		{ H2_HEADERS, H2_FLAG_END_HEADERS | H2_FLAG_PADDED, 3, "\5\x82", 2, H2_PROTOCOL_ERROR },
		{ H2_HEADERS, H2_FLAG_END_HEADERS | H2_FLAG_PRIORITY, 3, "\0\0\0\3\0\x82", 6, H2_PROTOCOL_ERROR },
		{ H2_HEADERS, H2_FLAG_END_HEADERS | H2_FLAG_PRIORITY, 3, "\0\0", 2, H2_FRAME_SIZE_ERROR },
		{ H2_PRIORITY, 0, 0, "\0\0\0\1\1", 5, H2_PROTOCOL_ERROR },
		{ H2_PRIORITY, 0, 1, "\0\0\0\1", 4, H2_FRAME_SIZE_ERROR },
		{ H2_RST_STREAM, 0, 0, "\0\0\0\0", 4, H2_PROTOCOL_ERROR },
		{ H2_RST_STREAM, 0, 9, "\0\0\0\0", 4, H2_PROTOCOL_ERROR },
		{ H2_RST_STREAM, 0, 1, "\0\0\0", 3, H2_FRAME_SIZE_ERROR },
		{ H2_SETTINGS, 0, 1, "", 0, H2_PROTOCOL_ERROR },
		{ H2_SETTINGS, 0, 0, "\0\1\0\0\0", 5, H2_FRAME_SIZE_ERROR },
		{ H2_SETTINGS, H2_FLAG_ACK, 0, "\0\1\0\0\0\0", 6, H2_FRAME_SIZE_ERROR },
		{ H2_SETTINGS, 0, 0, "\0\2\0\0\0\2", 6, H2_PROTOCOL_ERROR },
		{ H2_SETTINGS, 0, 0, "\0\4\x80\0\0\0", 6, H2_FLOW_CONTROL_ERROR },
		{ H2_SETTINGS, 0, 0, "\0\5\0\0\x3f\xff", 6, H2_PROTOCOL_ERROR },
		{ H2_SETTINGS, 0, 0, "\0\5\1\0\0\0", 6, H2_PROTOCOL_ERROR },
		{ H2_PUSH_PROMISE, H2_FLAG_END_HEADERS, 1, "\0\0\0\2\x82", 5, H2_PROTOCOL_ERROR },
		{ H2_PING, 0, 1, "12345678", 8, H2_PROTOCOL_ERROR },
		{ H2_PING, 0, 0, "1234567", 7, H2_FRAME_SIZE_ERROR },
		{ H2_GOAWAY, 0, 1, "\0\0\0\0\0\0\0\0", 8, H2_PROTOCOL_ERROR },
		{ H2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0", 7, H2_FRAME_SIZE_ERROR },
		{ H2_WINDOW_UPDATE, 0, 0, "\0\0\0\0", 4, H2_PROTOCOL_ERROR },
		{ H2_WINDOW_UPDATE, 0, 0, "\x7f\xff\xff\xff", 4, H2_FLOW_CONTROL_ERROR },
		{ H2_WINDOW_UPDATE, 0, 0, "\0\0\0", 3, H2_FRAME_SIZE_ERROR },
		{ H2_WINDOW_UPDATE, 0, 5, "\0\0\0\1", 4, H2_PROTOCOL_ERROR },
		{ H2_CONTINUATION, H2_FLAG_END_HEADERS, 1, "", 0, H2_PROTOCOL_ERROR },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(table); i++) {
		start_server();
		headers(0, 1, CONNECT);
		frame(table[i].type, table[i].flags, table[i].stream, table[i].payload, table[i].len);
		expect_failure(table[i].code);
	}
}

static void a_frame_over_our_maximum_is_refused_by_its_header(void **state)
{
	(void)state;
	start_server();
	assert_int_equal(play(0), 0);
	raw("\4\0\1\0\0\0\0\0\1", 9);		/* 256 KiB and a byte */
	expect_failure(H2_FRAME_SIZE_ERROR);
}

static void the_preface_has_to_come_first(void **state)
{
	(void)state;
	start_server();
	n_script = 0;
	raw("PRI * HTTP/1.1\r\n", 16);
	assert_int_equal(play(3), H2_E_FAILED);

	start_server();
	n_script = 0;
	raw(H2_PREFACE, H2_PREFACE_LEN);
	FRAME(H2_PING, 0, 0, "12345678");
	expect_failure(H2_PROTOCOL_ERROR);

	start_server();
	n_script = 0;
	raw(H2_PREFACE, H2_PREFACE_LEN);
	FRAME(H2_SETTINGS, H2_FLAG_ACK, 0, "");
	expect_failure(H2_PROTOCOL_ERROR);
}

static void what_breaks_only_the_stream(void **state)
{
	static const struct {
		const char *fields;
	} malformed[] = {
		{ ":method\0CONNECT\0" },					/* no authority */
		{ ":authority\0x:1\0" },					/* no method */
		{ ":method\0CONNECT\0:authority\0x:1\0:path\0/\0" },
		{ ":method\0GET\0:scheme\0https\0:authority\0x\0" },		/* no path */
		{ ":method\0GET\0:scheme\0https\0:path\0\0" },
		{ ":method\0CONNECT\0:authority\0x:1\0:status\0" "200\0" },
		{ ":method\0CONNECT\0:authority\0x:1\0:what\0ever\0" },
		{ ":method\0CONNECT\0:method\0CONNECT\0:authority\0x:1\0" },
		{ "accept\0x\0:method\0CONNECT\0:authority\0x:1\0" },		/* pseudo field last */
		{ CONNECT "Upper\0x\0" },
		{ CONNECT "connection\0close\0" },
		{ CONNECT "transfer-encoding\0chunked\0" },
		{ CONNECT "te\0gzip\0" },
		{ CONNECT "bad\0line\rbreak\0" },
		{ CONNECT "content-length\0nine\0" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(malformed); i++) {
		start_server();
		headers(0, 1, malformed[i].fields);
		expect_rst(1, H2_PROTOCOL_ERROR);
		assert_string_equal(a->log, "");
		headers(0, 3, CONNECT "te\0trailers\0");			/* and the connection lives */
		assert_int_equal(play(0), 0);
		assert_string_equal(a->log, "request CONNECT 10.0.0.1:80\n");
	}

	start_server();
	headers(H2_FLAG_END_STREAM, 1, CONNECT);
	FRAME(H2_DATA, 0, 1, "late");
	expect_rst(1, H2_STREAM_CLOSED);
	assert_string_equal(a->log, "request CONNECT 10.0.0.1:80 end\nreset 0 STREAM_CLOSED\n");

	start_server();
	headers(0, 1, CONNECT);
	FRAME(H2_WINDOW_UPDATE, 0, 1, "\0\0\0\0");
	expect_rst(1, H2_PROTOCOL_ERROR);

	start_server();
	headers(0, 1, CONNECT);
	FRAME(H2_WINDOW_UPDATE, 0, 1, "\x7f\xff\xff\xff");
	expect_rst(1, H2_FLOW_CONTROL_ERROR);

	start_server();
	headers(0, 1, CONNECT);
	headers(0, 1, "x\0y\0");		/* trailers that do not end it */
	expect_rst(1, H2_PROTOCOL_ERROR);
}

static void streams_end_by_trailers_too(void **state)
{
	(void)state;
	start_server();
	headers(0, 1, CONNECT);
	FRAME(H2_DATA, 0, 1, "x");
	headers(H2_FLAG_END_STREAM, 1, "checksum\0" "1\0");
	assert_int_equal(play(0), 0);
	assert_string_equal(a->log, "request CONNECT 10.0.0.1:80\ndata 0 x\ndata 0  end\n");
}

static void a_header_block_may_be_continued(void **state)
{
	uint8_t out[1024];

	(void)state;
	for (size_t chunk = 0; chunk < 12; chunk++) {
		size_t n;

		start_server();
		n = block(CONNECT "baggage\0some words\0", out);
		frame(H2_HEADERS, 0, 1, out, 1);
		frame(H2_CONTINUATION, 0, 1, out + 1, 0);
		frame(H2_CONTINUATION, 0, 1, out + 1, 4);
		frame(H2_CONTINUATION, H2_FLAG_END_HEADERS, 1, out + 5, n - 5);
		assert_int_equal(play(chunk), 0);
		assert_string_equal(a->log, "request CONNECT 10.0.0.1:80\n");

		start_server();
		n = block(CONNECT, out);
		frame(H2_HEADERS, 0, 1, out, n);
		FRAME(H2_PING, 0, 0, "12345678");
		expect_failure(H2_PROTOCOL_ERROR);

		start_server();
		n = block(CONNECT, out);
		frame(H2_HEADERS, 0, 1, out, n);
		frame(H2_CONTINUATION, H2_FLAG_END_HEADERS, 3, out, 0);
		expect_failure(H2_PROTOCOL_ERROR);
	}
}

static void streams_over_the_limit_are_refused(void **state)
{
	struct h2_settings few = h2_settings_default;

	(void)state;
	start_server();
	few.max_streams = 2;
	a->h.settings = few;
	headers(0, 1, CONNECT);
	headers(0, 3, CONNECT);
	headers(0, 5, CONNECT);
	expect_rst(5, H2_REFUSED_STREAM);
	assert_int_equal(h2_n_streams(&a->h), 2);
	FRAME(H2_RST_STREAM, 0, 1, "\0\0\0\10");
	headers(0, 7, CONNECT);
	assert_int_equal(play(0), 0);
	assert_int_equal(h2_n_streams(&a->h), 2);
	assert_non_null(strstr(a->log, "reset 0 CANCEL\n"));

	start_server();
	a->refuse = true;
	headers(0, 1, CONNECT);
	expect_rst(1, H2_REFUSED_STREAM);
}

static void headers_on_a_closed_stream_break_the_connection(void **state)
{
	(void)state;
	start_server();
	headers(H2_FLAG_END_STREAM, 3, CONNECT);
	assert_int_equal(play(0), 0);
	assert_int_equal(h2_respond(&a->h, &a->streams[0], 200, NULL, 0, true), 0);
	headers(0, 3, CONNECT);
	expect_failure(H2_STREAM_CLOSED);

	start_server();
	headers(0, 3, CONNECT);
	assert_int_equal(play(0), 0);
	h2_reset(&a->h, &a->streams[0], H2_CANCEL);
	headers(H2_FLAG_END_STREAM, 3, "late\0trailers\0");	/* was on its way */
	FRAME(H2_DATA, 0, 3, "too");
	FRAME(H2_WINDOW_UPDATE, 0, 3, "\0\0\0\1");
	FRAME(H2_RST_STREAM, 0, 3, "\0\0\0\0");
	assert_int_equal(play(0), 0);
}

/* --- floods --- */

static void floods_are_cut(void **state)
{
	static const struct {
		uint8_t type, flags;
		uint32_t stream;
		const char *payload;
		size_t len;
	} table[] = {
		{ H2_PING, 0, 0, "12345678", 8 },
		{ H2_SETTINGS, 0, 0, "", 0 },
		{ H2_DATA, 0, 1, "", 0 },
		{ H2_PRIORITY, 0, 1, "\0\0\0\3\1", 5 },
		{ 77, 0, 1, "", 0 },
		{ H2_GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8 },
		{ H2_DATA, H2_FLAG_PADDED, 1, "\3\0\0\0", 4 },
		{ H2_WINDOW_UPDATE, 0, 0, "\0\0\0\1", 4 },
		{ H2_WINDOW_UPDATE, 0, 1, "\0\0\0\1", 4 },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(table); i++) {
		start_server();
		headers(0, 1, CONNECT);
		for (int n = 0; n < 1900; n++)
			frame(table[i].type, table[i].flags, table[i].stream, table[i].payload, table[i].len);
		assert_int_equal(play(0), 0);
		for (int n = 0; n < 200; n++)
			frame(table[i].type, table[i].flags, table[i].stream, table[i].payload, table[i].len);
		expect_failure(H2_ENHANCE_YOUR_CALM);
	}
}

/* Each of them may change the window of every stream. */
static void many_settings_in_a_frame_are_cut(void **state)
{
	static uint8_t settings[33 * 6];

	(void)state;
	for (size_t i = 0; i < sizeof(settings); i += 6)
		memcpy(settings + i, "\0\4\0\1\0\0", 6);
	start_server();
	headers(0, 1, CONNECT);
	frame(H2_SETTINGS, 0, 0, settings, sizeof(settings) - 6);
	assert_int_equal(play(0), 0);
	assert_int_equal(a->streams[0].send_window, 65536);
	frame(H2_SETTINGS, 0, 0, settings, sizeof(settings));
	expect_failure(H2_ENHANCE_YOUR_CALM);
}

static size_t longest_chain(const struct h2 *h)
{
	size_t longest = 0;

	for (uint32_t i = 0; i < h->n_slots; i++) {
		size_t n = 0;

		for (const struct h2_stream *s = h->slots[i]; s; s = s->next)
			n++;
		longest = MAX(longest, n);
	}
	return longest;
}

/* Each frame would have to look through all of them. */
static void a_client_cannot_choose_ids_that_are_all_in_one_place(void **state)
{
	static const uint32_t strides[] = { 2, 32, 128, 2048, 1 << 20 };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(strides); i++) {
		start_server();
		for (uint32_t n = 0; n < MAX_STREAMS; n++)
			headers(0, 1 + n * strides[i], CONNECT);
		FRAME(H2_DATA, 0, 1 + 63 * strides[i], "found");
		assert_int_equal(play(0), 0);
		assert_non_null(strstr(a->log, "data 63 found\n"));
		assert_int_equal(h2_n_streams(&a->h), MAX_STREAMS);
		assert_in_range(longest_chain(&a->h), 1, 14);
	}
}

static void a_block_without_end_is_cut(void **state)
{
	static uint8_t junk[16384];

	(void)state;
	start_server();
	FRAME(H2_HEADERS, 0, 1, "");
	for (int i = 0; i < 20; i++)
		FRAME(H2_CONTINUATION, 0, 1, "");
	expect_failure(H2_ENHANCE_YOUR_CALM);

	start_server();
	FRAME(H2_HEADERS, 0, 1, "");
	for (int i = 0; i < 5; i++)
		frame(H2_CONTINUATION, 0, 1, junk, sizeof(junk));
	expect_failure(H2_ENHANCE_YOUR_CALM);
}

static void rapid_resets_are_cut(void **state)
{
	uint32_t id = 1;

	(void)state;
	start_server();
	for (int i = 0; i < 1100; i++, id += 2) {
		headers(0, id, CONNECT);
		FRAME(H2_RST_STREAM, 0, 0, "");
		n_script -= H2_HEADER_LEN;
		frame(H2_RST_STREAM, 0, id, "\0\0\0\10", 4);
	}
	for (size_t at = 0; at < n_script;) {		/* the owner's few streams are used again and again */
		size_t n = MIN(n_script - at, (size_t)500);

		a->n_streams = 0;
		a->log[0] = 0;
		if (h2_recv(&a->h, script + at, n, 1000) != 0)
			break;
		at += n;
	}
	assert_int_equal(a->h.error_code, H2_ENHANCE_YOUR_CALM);
}

/* CVE-2025-8671: it is we who reset, but the peer's doing. */
static void making_us_reset_is_cut_too(void **state)
{
	static const struct {
		uint8_t type;
		const char *payload;
		size_t len;
	} table[] = {
		{ H2_WINDOW_UPDATE, "\0\0\0\0", 4 },
		{ H2_WINDOW_UPDATE, "\x7f\xff\xff\xff", 4 },
		{ H2_HEADERS, "", 0 },			/* trailers that do not end the stream */
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(table); i++) {
		uint32_t id = 1;
		int n = 0;

		start_server();
		for (; n < 1100; n++, id += 2) {
			headers(0, id, CONNECT);
			frame(table[i].type, H2_FLAG_END_HEADERS, id, table[i].payload, table[i].len);
			a->n_streams = 0;
			a->log[0] = 0;
			a->h.out.len = 0;
			if (play(0) != 0)
				break;
		}
		assert_int_equal(n, 1000);
		assert_int_equal(a->h.error_code, H2_ENHANCE_YOUR_CALM);
	}
}

/* Each DATA frame of ours may be answered by several. */
static void window_updates_for_what_was_sent_are_no_flood(void **state)
{
	struct iovec iov[H2_PARTS];
	size_t n_iov;

	(void)state;
	start_server();
	headers(0, 1, CONNECT);
	assert_int_equal(play(0), 0);
	for (int n = 0; n < 5000; n++) {
		assert_int_equal(h2_data_begin(&a->h, &a->streams[0], 100, iov, &n_iov), 100);
		memset(iov[0].iov_base, 'x', 100);
		h2_data_end(&a->h, &a->streams[0], 100, false);
		a->h.out.len = 0;
		FRAME(H2_WINDOW_UPDATE, 0, 0, "\0\0\0\144");
		FRAME(H2_WINDOW_UPDATE, 0, 1, "\0\0\0\144");
		assert_int_equal(play(0), 0);
	}
}

/* Many downloads are given up at once: what was on its way harms nobody else in the tunnel. */
static void what_is_late_after_many_resets_is_no_flood(void **state)
{
	enum { N = 60, FRAMES = 64 };
	static uint8_t chunk[1024];
	struct h2_header list[] = { h2_header(":method", "CONNECT"), h2_header(":authority", "10.0.0.1:80") };

	(void)state;
	start_server();
	a = free_end(a);
	a = new_end(false, NULL);
	n_script = 0;
	FRAME(H2_SETTINGS, 0, 0, "");
	assert_int_equal(play(0), 0);
	for (int i = 0; i < N; i++)
		assert_int_equal(h2_open(&a->h, &a->streams[i], list, 2, false), 0);
	for (int i = 0; i < N; i++)
		h2_reset(&a->h, &a->streams[i], H2_CANCEL);
	a->h.out.len = 0;
	for (uint32_t i = 0; i < N; i++) {
		headers(0, 2 * i + 1, ":status\0" "200\0");
		for (int n = 0; n < FRAMES; n++)
			frame(H2_DATA, n == FRAMES - 1 ? H2_FLAG_END_STREAM : 0, 2 * i + 1, chunk, sizeof(chunk));
	}
	assert_int_equal(play(0), 0);
	assert_null(sent(H2_RST_STREAM, 1, &(struct h2_frame){}));	/* nor are they answered */
	assert_int_equal(h2_open(&a->h, &a->streams[0], list, 2, false), 0);
}

static void a_header_list_that_is_too_large_is_refused_alone(void **state)
{
	static char fields[H2_HEADERS_TEXT_MAX + 100] = CONNECT "big";

	(void)state;
	start_server();
	memset(fields + sizeof(CONNECT "big"), 'x', sizeof(fields) - sizeof(CONNECT "big") - 2);
	headers(0, 1, fields);
	expect_rst(1, H2_ENHANCE_YOUR_CALM);
	headers(0, 3, CONNECT);
	assert_int_equal(play(0), 0);
	assert_string_equal(a->log, "request CONNECT 10.0.0.1:80\n");
}

/* --- two ends of ours --- */

/* Carries what both have written, in pieces. */
static void exchange(size_t chunk)
{
	static uint8_t wire[OUT_SIZE];

	while (a->h.out.len || b->h.out.len)
		for (int side = 0; side < 2; side++) {
			struct end *from = side ? a : b, *to = side ? b : a;
			size_t n = from->h.out.len;

			memcpy(wire, from->h.out.data, n);
			from->h.out.len = 0;
			for (size_t at = 0; at < n; at += chunk ? chunk : n) {
				size_t part = chunk ? MIN(chunk, n - at) : n;

				assert_int_equal(h2_recv(&to->h, wire + at, part, 1000), 0);
			}
		}
}

static void start_pair(const struct h2_settings *of_a, const struct h2_settings *of_b)
{
	teardown(NULL);
	a = new_end(true, of_a);
	b = new_end(false, of_b);
	exchange(0);
}

static void open_stream(void)
{
	struct h2_header list[] = { h2_header(":method", "CONNECT"), h2_header(":authority", "10.1.1.1:9"),
				    h2_header_once("forwarded", "for=\"10.0.0.1:1234\"") };

	assert_true(h2_can_open(&b->h));
	assert_int_equal(h2_open(&b->h, &b->streams[b->n_streams++], list, ELEMENTS(list), false), 0);
}

/* Sends counting bytes until the window is shut or @len are gone. */
static size_t send_counting(struct end *e, struct h2_stream *s, size_t len, bool end, uint8_t *next)
{
	size_t total = 0;

	while (total < len) {
		struct iovec iov[H2_PARTS];
		size_t n_iov, room = h2_data_begin(&e->h, s, len - total, iov, &n_iov), n = 0;

		if (!room)
			break;
		for (size_t i = 0; i < n_iov; i++)
			for (size_t k = 0; k < iov[i].iov_len; k++, n++)
				((uint8_t *)iov[i].iov_base)[k] = (*next)++;
		assert_int_equal(n, room);
		total += room;
		h2_data_end(&e->h, s, room, end && total == len);
	}
	return total;
}

static void bytes_flow_both_ways_in_any_pieces(void **state)
{
	static const size_t chunks[] = { 0, 1, 7, 9, 1000, 16393 };
	struct h2_settings small = h2_settings_default;

	(void)state;
	small.max_frame_size = H2_FRAME_SIZE_MIN;
	for (size_t i = 0; i < ELEMENTS(chunks); i++) {
		uint8_t next_up = 0, next_down = 0;
		size_t len = chunks[i] == 1 ? 20000 : 300000;

		start_pair(&small, i % 2 ? &small : NULL);
		a->quiet = b->quiet = true;
		open_stream();
		exchange(chunks[i]);
		assert_int_equal(h2_respond(&a->h, &a->streams[0], 200, NULL, 0, false), 0);
		assert_int_equal(send_counting(b, &b->streams[0], len, true, &next_up), len);
		assert_int_equal(send_counting(a, &a->streams[0], len, false, &next_down), len);
		exchange(chunks[i]);
		assert_int_equal(a->n_data, len);
		assert_int_equal(b->n_data, len);
		assert_string_equal(b->log, "response 0 200\n");
		assert_true(a->streams[0].remote_end);
		h2_end(&a->h, &a->streams[0]);
		exchange(chunks[i]);
		assert_false(h2_is_open(&a->streams[0]));
		assert_false(h2_is_open(&b->streams[0]));
		assert_int_equal(h2_n_streams(&a->h) + h2_n_streams(&b->h), 0);
	}
}

static void the_window_stops_a_sender_until_bytes_are_consumed(void **state)
{
	uint8_t next = 0;
	size_t sent_bytes;

	(void)state;
	start_pair(NULL, NULL);
	a->quiet = true;
	a->consume = false;
	open_stream();
	exchange(0);
	sent_bytes = send_counting(b, &b->streams[0], 2 * 1024 * 1024, false, &next);
	assert_int_equal(sent_bytes, h2_settings_default.stream_window);
	exchange(0);
	assert_int_equal(a->n_data, sent_bytes);
	assert_int_equal(b->n_writable, 0);
	h2_consume(&a->h, &a->streams[0], 1000);	/* too little to be worth telling */
	exchange(0);
	assert_int_equal(b->n_writable, 0);
	h2_consume(&a->h, &a->streams[0], 300000);
	exchange(0);
	assert_int_equal(b->n_writable, 1);
	assert_int_equal(send_counting(b, &b->streams[0], 2 * 1024 * 1024, false, &next), 301000);
}

static void the_connection_window_stops_all_streams(void **state)
{
	struct h2_settings s = h2_settings_default;
	uint8_t next = 0;
	size_t total = 0;

	(void)state;
	s.connection_window = 100000;
	s.stream_window = 80000;
	start_pair(&s, NULL);
	a->consume = false;
	open_stream();
	open_stream();
	exchange(0);
	total += send_counting(b, &b->streams[0], 90000, false, &next);
	total += send_counting(b, &b->streams[1], 90000, false, &next);
	assert_int_equal(total, 100000);
	exchange(0);
	h2_consume(&a->h, NULL, 50000);			/* a stream that is gone */
	exchange(0);
	assert_int_equal(b->n_writable, 1);		/* the other one waits for its own window */
	assert_int_equal(send_counting(b, &b->streams[1], 90000, false, &next), 50000);
}

static void a_smaller_initial_window_may_make_windows_negative(void **state)
{
	uint8_t next = 0;
	struct iovec iov[H2_PARTS];
	size_t n;

	(void)state;
	start_pair(NULL, NULL);
	a->consume = false;
	open_stream();
	exchange(0);
	send_counting(b, &b->streams[0], 50000, false, &next);
	static const uint8_t settings[] = { 0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0x27, 0x10 };	/* 10000 */
	assert_int_equal(h2_recv(&b->h, settings, sizeof(settings), 1000), 0);
	assert_int_equal(b->streams[0].send_window, 10000 - 50000);
	assert_int_equal(h2_data_begin(&b->h, &b->streams[0], 1, iov, &n), 0);
}

static void more_than_the_window_is_an_error(void **state)
{
	static uint8_t payload[200000];

	(void)state;
	start_server();
	a->consume = false;
	headers(0, 1, CONNECT);
	assert_int_equal(play(0), 0);
	a->streams[0].recv_window = 1000;
	frame(H2_DATA, 0, 1, payload, 1001);
	expect_rst(1, H2_FLOW_CONTROL_ERROR);
	assert_non_null(strstr(a->log, "reset 0 FLOW_CONTROL_ERROR"));

	start_server();
	a->h.recv_window = 100000;
	a->consume = false;
	headers(0, 1, CONNECT);
	frame(H2_DATA, 0, 1, payload, 100001);
	expect_failure(H2_FLOW_CONTROL_ERROR);
}

static void credit_comes_back_for_bytes_that_nobody_sees(void **state)
{
	static uint8_t payload[200000];

	(void)state;
	start_server();
	headers(0, 1, CONNECT);
	assert_int_equal(play(0), 0);
	h2_reset(&a->h, &a->streams[0], H2_CANCEL);
	for (int i = 0; i < 200; i++) {		/* 40 MB through a window of 16 MiB */
		frame(H2_DATA, 0, 1, payload, sizeof(payload));
		assert_int_equal(play(0), 0);
	}
}

static void draining_lets_in_what_was_on_its_way(void **state)
{
	(void)state;
	start_pair(NULL, NULL);
	open_stream();
	exchange(0);
	h2_shutdown(&a->h);
	open_stream();				/* crosses the GOAWAY */
	exchange(0);
	assert_string_equal(a->log, "request CONNECT 10.1.1.1:9\nrequest CONNECT 10.1.1.1:9\npong\n");
	assert_true(a->h.goaway_sent);
	assert_string_equal(b->log, "goaway NO_ERROR\ngoaway NO_ERROR\n");
	assert_false(h2_can_open(&b->h));
	assert_int_equal(h2_n_streams(&b->h), 2);
}

static void streams_that_a_goaway_leaves_out_are_reset(void **state)
{
	static const uint8_t goaway[] = { 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0 };

	(void)state;
	start_pair(NULL, NULL);
	for (int i = 0; i < 40; i++)
		open_stream();
	assert_int_equal(h2_recv(&b->h, goaway, sizeof(goaway), 1000), 0);
	assert_int_equal(h2_n_streams(&b->h), 2);
	assert_true(h2_is_open(&b->streams[0]) && h2_is_open(&b->streams[1]));
	assert_false(h2_is_open(&b->streams[2]));
}

static void a_client_keeps_the_servers_limit(void **state)
{
	struct h2_settings s = h2_settings_default;

	(void)state;
	s.max_streams = 3;
	start_pair(&s, NULL);
	for (int i = 0; i < 3; i++)
		open_stream();
	assert_false(h2_can_open(&b->h));
	h2_reset(&b->h, &b->streams[0], H2_CANCEL);
	assert_true(h2_can_open(&b->h));
	exchange(0);
	assert_non_null(strstr(a->log, "reset 0 CANCEL"));
}

static void a_client_checks_responses(void **state)
{
	static const struct {
		const char *fields;
		const char *log;
	} table[] = {
		{ ":status\0" "103\0", "" },
		{ ":status\0" "200\0x\0y\0", "response 0 200\n" },
		{ ":status\0" "20\0", "reset 0 PROTOCOL_ERROR\n" },
		{ ":method\0GET\0", "reset 0 PROTOCOL_ERROR\n" },
		{ "x\0y\0", "reset 0 PROTOCOL_ERROR\n" },
		{ ":status\0" "101\0", "reset 0 PROTOCOL_ERROR\n" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(table); i++) {
		start_server();			/* for the deflater */
		a = free_end(a);
		a = new_end(false, NULL);
		n_script = 0;
		frame(H2_SETTINGS, 0, 0, "", 0);
		struct h2_header list[] = { h2_header(":method", "CONNECT"), h2_header(":authority", "x:1") };
		assert_int_equal(h2_open(&a->h, &a->streams[0], list, 2, false), 0);
		headers(0, 1, table[i].fields);
		assert_int_equal(play(0), 0);
		assert_string_equal(a->log, table[i].log);
	}
	a->h.out.len = 0;		/* the preface is no frame */
	headers(0, 2, ":status\0" "200\0");
	expect_failure(H2_PROTOCOL_ERROR);
}

/* Nothing of it is handed on, and what follows is dropped. */
static void data_in_front_of_a_response_ends_its_stream(void **state)
{
	static const uint8_t flags[] = { 0, H2_FLAG_END_STREAM };
	struct h2_header list[] = { h2_header(":method", "CONNECT"), h2_header(":authority", "x:1") };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(flags); i++) {
		start_server();			/* for the deflater */
		a = free_end(a);
		a = new_end(false, NULL);
		n_script = 0;
		frame(H2_SETTINGS, 0, 0, "", 0);
		assert_int_equal(h2_open(&a->h, &a->streams[0], list, 2, false), 0);
		headers(0, 1, ":status\0" "103\0");
		frame(H2_DATA, flags[i], 1, "early", 5);
		headers(0, 1, ":status\0" "200\0");
		frame(H2_DATA, H2_FLAG_END_STREAM, 1, "late", 4);
		assert_int_equal(play(0), 0);
		assert_string_equal(a->log, "reset 0 PROTOCOL_ERROR\n");
		assert_int_equal(h2_n_streams(&a->h), 0);
	}
}

static void interim_responses_without_end_are_cut(void **state)
{
	struct h2_header list[] = { h2_header(":method", "CONNECT"), h2_header(":authority", "x:1") };

	(void)state;
	start_server();				/* for the deflater */
	a = free_end(a);
	a = new_end(false, NULL);
	n_script = 0;
	frame(H2_SETTINGS, 0, 0, "", 0);
	assert_int_equal(h2_open(&a->h, &a->streams[0], list, 2, false), 0);
	a->h.out.len = 0;
	for (int n = 0; n < 1900; n++)
		headers(0, 1, ":status\0" "103\0");
	assert_int_equal(play(0), 0);
	a->h.out.len = 0;
	for (int n = 0; n < 200; n++)
		headers(0, 1, ":status\0" "103\0");
	expect_failure(H2_ENHANCE_YOUR_CALM);
}

/* Each look at every stream is for the last window that a frame sets. */
static void the_last_window_of_a_frame_counts(void **state)
{
	static const uint8_t settings[] = { 0, 4, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff, 0, 4, 0, 0, 0, 31 };

	(void)state;
	start_server();
	headers(0, 1, CONNECT);
	frame(H2_WINDOW_UPDATE, 0, 1, "\0\0\0\1", 4);
	frame(H2_SETTINGS, 0, 0, (const char *)settings, sizeof(settings));
	assert_int_equal(play(0), 0);
	assert_int_equal(a->h.peer_window, 31);
	assert_int_equal(a->streams[0].send_window, 32);
}

static void a_ping_is_answered_once(void **state)
{
	(void)state;
	start_pair(NULL, NULL);
	h2_ping(&b->h);
	h2_ping(&b->h);
	exchange(0);
	assert_string_equal(b->log, "pong\n");
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, teardown)
	static const struct CMUnitTest tests[] = {
		T(a_tunnel_opens_carries_and_ends),
		T(settings_are_acknowledged_and_pings_answered),
		T(what_breaks_the_connection),
		T(a_frame_over_our_maximum_is_refused_by_its_header),
		T(the_preface_has_to_come_first),
		T(what_breaks_only_the_stream),
		T(streams_end_by_trailers_too),
		T(a_header_block_may_be_continued),
		T(streams_over_the_limit_are_refused),
		T(headers_on_a_closed_stream_break_the_connection),
		T(floods_are_cut),
		T(many_settings_in_a_frame_are_cut),
		T(a_client_cannot_choose_ids_that_are_all_in_one_place),
		T(a_block_without_end_is_cut),
		T(rapid_resets_are_cut),
		T(making_us_reset_is_cut_too),
		T(window_updates_for_what_was_sent_are_no_flood),
		T(what_is_late_after_many_resets_is_no_flood),
		T(a_header_list_that_is_too_large_is_refused_alone),
		T(bytes_flow_both_ways_in_any_pieces),
		T(the_window_stops_a_sender_until_bytes_are_consumed),
		T(the_connection_window_stops_all_streams),
		T(a_smaller_initial_window_may_make_windows_negative),
		T(more_than_the_window_is_an_error),
		T(credit_comes_back_for_bytes_that_nobody_sees),
		T(draining_lets_in_what_was_on_its_way),
		T(streams_that_a_goaway_leaves_out_are_reset),
		T(a_client_keeps_the_servers_limit),
		T(a_client_checks_responses),
		T(data_in_front_of_a_response_ends_its_stream),
		T(interim_responses_without_end_are_cut),
		T(the_last_window_of_a_frame_counts),
		T(a_ping_is_answered_once),
	};
	int r = cmocka_run_group_tests(tests, NULL, NULL);

	if (deflater)
		nghttp2_hd_deflate_del(deflater);
	_Static_assert(sizeof(struct h2_stream) <= 64, "a stream is small");
	return r;
}

#include "lib/unit.h"

#include <stdio.h>
#include <string.h>

#include "proto/http1.h"

/* Events as text: "H:GET /x;B:abc;E;" */
struct run {
	struct http1 p;
	char text[4096];
	bool head_answer;	/* responses answer HEAD */
	int error;
};

static void note(struct run *r, const struct http1_event *ev)
{
	size_t at = strlen(r->text);
	const struct http1_head *h = &r->p.head;
	bool joined = ev->type == HTTP1_BODY && at && r->text[at - 1] == '~';

	if (ev->type == HTTP1_HEAD && r->p.kind == HTTP1_REQUEST)
		snprintf(r->text + at, sizeof(r->text) - at, "H:%.*s %.*s;", (int)h->method.len, h->method.p, (int)h->target.len, h->target.p);
	else if (ev->type == HTTP1_HEAD)
		snprintf(r->text + at, sizeof(r->text) - at, "H:%u;", h->status);
	else if (ev->type == HTTP1_BODY)	/* pieces are joined, so that it does not matter how it was fed */
		snprintf(r->text + (joined ? at - 1 : at), sizeof(r->text) - at, "%.*s~", (int)ev->len, (const char *)ev->data);
	else if (ev->type == HTTP1_TUNNEL)
		snprintf(r->text + at, sizeof(r->text) - at, "T%.*s", (int)ev->len, (const char *)ev->data);
	else if (ev->type == HTTP1_END)
		snprintf(r->text + at, sizeof(r->text) - at, "E;");
}

static void feed(struct run *r, const char *s, size_t len)
{
	struct http1_event ev;

	while (!r->error) {
		size_t used;

		r->error = http1_parse(&r->p, s, len, &used, &ev);
		if (r->error || ev.type == HTTP1_NEED_MORE)
			return;
		note(r, &ev);
		if (ev.type == HTTP1_HEAD && r->head_answer)
			http1_no_body(&r->p);
		s += used;
		len -= used;
	}
}

/* Whole, in single bytes, and split in two at every place: always the same. */
static void expect_mode(enum http1_kind kind, bool strict, bool head_answer, const char *in, int error, const char *out)
{
	size_t len = strlen(in);

	for (size_t split = 0; split <= len + 1; split++) {
		struct run r = { .head_answer = head_answer };

		http1_init(&r.p, kind, strict);
		if (split <= len) {
			feed(&r, in, split);
			feed(&r, in + split, len - split);
		} else {
			for (size_t i = 0; i < len; i++)
				feed(&r, in + i, 1);
		}
		assert_string_equal(r.text, out);
		assert_int_equal(r.error, error);
		http1_deinit(&r.p);
	}
}

static void expect(enum http1_kind kind, const char *in, const char *out)
{
	expect_mode(kind, false, false, in, 0, out);
}

static void requests_are_framed(void **state)
{
	(void)state;
	expect(HTTP1_REQUEST, "GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n", "H:GET /a?b;E;");
	expect(HTTP1_REQUEST, "PUT / HTTP/1.1\r\nContent-Length:3\r\n\r\nabcGET /2 HTTP/1.0\n\n", "H:PUT /;abc~E;H:GET /2;E;");
	expect(HTTP1_REQUEST, "\r\n\r\nPUT / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", "H:PUT /;E;");
	expect(HTTP1_REQUEST, "PUT / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nab", "H:PUT /;ab~E;");
}

static void chunks_are_joined(void **state)
{
	(void)state;
	expect(HTTP1_REQUEST, "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
	       "H:PUT /;abc0123456789~E;");
	expect(HTTP1_RESPONSE, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n1 \r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\nHTTP/1.1 204 \r\n\r\n",
	       "H:200;x~E;H:204;E;");
	expect_mode(HTTP1_REQUEST, false, false, "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", HTTP1_E_MALFORMED, "H:PUT /;");
	expect_mode(HTTP1_REQUEST, false, false, "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", HTTP1_E_MALFORMED, "H:PUT /;a~");
	expect_mode(HTTP1_REQUEST, false, false, "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
		    HTTP1_E_MALFORMED, "H:PUT /;");
}

static void responses_are_framed(void **state)
{
	(void)state;
	expect(HTTP1_RESPONSE, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "H:100;E;H:200;hi~E;");
	expect(HTTP1_RESPONSE, "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\nHTTP/1.0 200\r\n\r\nto the end", "H:304;E;H:200;to the end~");
	expect_mode(HTTP1_RESPONSE, false, true, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 0, "H:200;E;H:200;E;");
	expect_mode(HTTP1_RESPONSE, false, false, "HTTP/2 200\r\n\r\n", HTTP1_E_MALFORMED, "");
}

static void a_body_until_close_ends_with_it(void **state)
{
	struct run r = {};
	struct http1_event ev;

	(void)state;
	http1_init(&r.p, HTTP1_RESPONSE, false);
	feed(&r, "HTTP/1.0 200 OK\r\n\r\nabc", 22);
	assert_true(http1_finish(&r.p, &ev));
	assert_int_equal(ev.type, HTTP1_END);
	feed(&r, "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nab", 40);
	assert_false(http1_finish(&r.p, &ev));
	http1_deinit(&r.p);
}

static void an_upgrade_ends_http(void **state)
{
	(void)state;
	expect(HTTP1_RESPONSE, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", "H:101;");
}

static void header_fields_are_read_as_peers_write_them(void **state)
{
	static const char in[] = "GET / HTTP/1.1\r\nA:1\r\nFold: x,\r\n  y\r\nB : 2 \r\nEmpty:\r\nConnection: keep-alive , Upgrade\r\nUpgrade: h2c\r\n\r\n";
	struct run r = {};
	struct http1_str v;

	(void)state;
	http1_init(&r.p, HTTP1_REQUEST, false);
	feed(&r, in, sizeof(in) - 3);	/* not its last bytes: the head stays */
	feed(&r, "\r", 1);
	struct http1_event ev;
	size_t used;
	assert_int_equal(http1_parse(&r.p, "\n", 1, &used, &ev), 0);
	assert_int_equal(ev.type, HTTP1_HEAD);
	assert_true(http1_header(&r.p.head, "a", &v) && http1_str_is(v, "1"));
	assert_true(http1_header(&r.p.head, "b", &v) && http1_str_is(v, "2"));
	assert_true(http1_header(&r.p.head, "EMPTY", &v) && v.len == 0);
	assert_true(http1_header(&r.p.head, "fold", &v));
	assert_true(http1_header_has_token(&r.p.head, "fold", "y"));
	assert_false(http1_header(&r.p.head, "none", &v));
	assert_true(r.p.head.upgrade);
	assert_true(r.p.head.keep_alive);
	http1_deinit(&r.p);
}

static void what_readers_could_disagree_on_is_refused_when_strict(void **state)
{
	static const char *const bad[] = {
		"PUT / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
		"PUT / HTTP/1.1\r\nA : b\r\n\r\n",
		"PUT / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
		"PUT / HTTP/1.1\r\nnocolon\r\n\r\n",
	};
	static const char *const always[] = {
		"PUT / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: -3\r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length:\r\n\r\n",
		"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
		"PUT  HTTP/1.1\r\n\r\n", "PUT /\r\n\r\n", " / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n", "\x16\x03\x01",
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		expect_mode(HTTP1_REQUEST, true, false, bad[i], HTTP1_E_MALFORMED, "");
	for (size_t i = 0; i < ELEMENTS(always); i++)
		expect_mode(HTTP1_REQUEST, false, false, always[i], HTTP1_E_MALFORMED, "");
}

static void a_head_has_a_maximum(void **state)
{
	struct run r = {};
	char line[1024];

	(void)state;
	http1_init(&r.p, HTTP1_REQUEST, false);
	feed(&r, "GET / HTTP/1.1\r\n", 16);
	memset(line, 'a', sizeof(line));
	for (size_t i = 0; i < HTTP1_MAX_HEAD / sizeof(line) + 1; i++)
		feed(&r, line, sizeof(line));
	assert_int_equal(r.error, HTTP1_E_TOO_LARGE);
	assert_int_equal(r.p.buf.size, 0);
	http1_deinit(&r.p);
}

static void headers_have_a_maximum(void **state)
{
	struct run r = {};

	(void)state;
	http1_init(&r.p, HTTP1_REQUEST, false);
	feed(&r, "GET / HTTP/1.1\r\n", 16);
	for (size_t i = 0; i <= HTTP1_MAX_HEADERS; i++)
		feed(&r, "a:b\r\n", 5);
	feed(&r, "\r\n", 2);
	assert_int_equal(r.error, HTTP1_E_TOO_LARGE);
	http1_deinit(&r.p);
}

static void reading_goes_on_at_the_next_start_line(void **state)
{
	static const char *const in[] = {
		"ost of a body}PUT /x HTTP/1.1\r\nContent-Length: 1\r\n\r\nz",
		"line\r\nHost: y\r\n\r\nPUT /x HTTP/1.1\r\nContent-Length: 1\r\n\r\nz",
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(in); i++)
		for (size_t split = 0; split < strlen(in[i]); split++) {
			struct run r = {};

			http1_init(&r.p, HTTP1_REQUEST, false);
			http1_resync(&r.p);
			feed(&r, in[i], split);
			feed(&r, in[i] + split, strlen(in[i]) - split);
			assert_string_equal(r.text, "H:PUT /x;z~E;");
			http1_deinit(&r.p);
		}
	struct run r = {};
	http1_init(&r.p, HTTP1_RESPONSE, false);
	http1_resync(&r.p);
	feed(&r, "0\r\n\r\n", 5);
	feed(&r, "[]HTTP/1.1 204 No\r\n\r\n", 21);
	assert_string_equal(r.text, "H:204;E;");
	http1_deinit(&r.p);
}

static void a_gap_inside_a_body_keeps_the_framing(void **state)
{
	struct run r = {};

	(void)state;
	http1_init(&r.p, HTTP1_REQUEST, false);
	feed(&r, "PUT / HTTP/1.1\r\nContent-Length: 10\r\n\r\nab", 40);
	assert_true(http1_gap(&r.p, 6));
	feed(&r, "yzGET / HTTP/1.1\r\n\r\n", 20);
	assert_string_equal(r.text, "H:PUT /;abyz~E;H:GET /;E;");
	feed(&r, "PUT / HTTP/1.1\r\nContent-Length: 10\r\n\r\nab", 40);
	assert_false(http1_gap(&r.p, 9));
	http1_deinit(&r.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_are_framed),
		cmocka_unit_test(chunks_are_joined),
		cmocka_unit_test(responses_are_framed),
		cmocka_unit_test(a_body_until_close_ends_with_it),
		cmocka_unit_test(an_upgrade_ends_http),
		cmocka_unit_test(header_fields_are_read_as_peers_write_them),
		cmocka_unit_test(what_readers_could_disagree_on_is_refused_when_strict),
		cmocka_unit_test(a_head_has_a_maximum),
		cmocka_unit_test(headers_have_a_maximum),
		cmocka_unit_test(reading_goes_on_at_the_next_start_line),
		cmocka_unit_test(a_gap_inside_a_body_keeps_the_framing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

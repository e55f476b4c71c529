#include "lib/unit.h"

#include <zlib.h>

#include "discover/consul.h"
#include "lib/observe.h"

#define OK "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

static void request(struct observe *o, const char *method, const char *path, const char *body)
{
	char text[8192];

	snprintf(text, sizeof(text), "%s /v1/%s HTTP/1.1\r\nHost: c\r\nX-Consul-Token: secret\r\nContent-Length: %zu\r\n\r\n%s", method, path,
		 strlen(body), body);
	assert_true(observe_client(o, text));
}

static void respond(struct observe *o, int status, const char *body)
{
	char text[8192];

	snprintf(text, sizeof(text), "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n%s", status, strlen(body), body);
	assert_true(observe_server(o, text));
}

static void call(struct observe *o, const char *method, const char *path, const char *body, int status, const char *answer)
{
	request(o, method, path, body);
	respond(o, status, answer);
}

struct step {
	const char *method;
	const char *path;
	const char *body;
	int status;
	const char *answer;
	const char *seen;
};

/* The conversation in one piece per message, and in single bytes. */
static void play(const struct step *steps, size_t n)
{
	for (size_t piece = 0; piece < 2; piece++) {
		struct observe o;

		observe_init(&o, &discover_consul, piece);
		for (size_t i = 0; i < n; i++) {
			call(&o, steps[i].method, steps[i].path, steps[i].body, steps[i].status, steps[i].answer);
			assert_string_equal(observe_text(&o), steps[i].seen);
		}
		observe_deinit(&o);
	}
}

static void a_service_lives_from_register_to_deregister(void **state)
{
	static const struct step steps[] = {
		{ "PUT", "agent/service/register", "{\"Name\":\"orders\",\"ID\":\"orders-1\",\"Address\":\"10.1.1.1\",\"Port\":8080,"
		  "\"Tags\":[\"a\",\"b\"],\"Meta\":{\"v\":\"1\"},\"Check\":{\"TTL\":\"1m30s\"}}", 200, "",
		  "register orders/orders-1 10.1.1.1:8080 ttl=90 v=1 tags=a,b\n" },
		{ "PUT", "agent/check/pass/service:orders-1", "", 200, "", "renew orders/orders-1 10.1.1.1:8080 passing ttl=90\n" },
		{ "PUT", "agent/check/fail/service%3Aorders-1%3A1?note=x", "", 200, "", "renew orders/orders-1 10.1.1.1:8080 critical ttl=90\n" },
		{ "PUT", "agent/check/update/service:orders-1", "{\"Status\":\"warning\"}", 200, "", "renew orders/orders-1 10.1.1.1:8080 warning ttl=90\n" },
		{ "PUT", "agent/check/register", "{\"Name\":\"mem\",\"ServiceID\":\"orders-1\",\"TTL\":\"5s\"}", 200, "", "" },
		{ "GET", "agent/check/pass/mem", "", 200, "", "renew orders/orders-1 10.1.1.1:8080 passing ttl=90\n" },
		{ "PUT", "agent/check/pass/node-disk", "", 200, "", "" },
		{ "PUT", "agent/check/deregister/mem", "", 200, "", "" },
		{ "PUT", "agent/check/pass/mem", "", 404, "", "" },
		{ "PUT", "agent/service/maintenance/orders-1?enable=true&reason=r", "", 200, "", "renew orders/orders-1 10.1.1.1:8080 critical ttl=90\n" },
		{ "GET", "agent/service/deregister/orders-1", "", 405, "", "" },
		{ "PUT", "agent/service/deregister/orders-1", "", 200, "", "deregister orders/orders-1 10.1.1.1:8080 ttl=90\n" },
	};

	(void)state;
	play(steps, ELEMENTS(steps));
}

static void a_refused_request_is_not_a_registration(void **state)
{
	static const struct step steps[] = {
		{ "PUT", "agent/service/register", "{\"Name\":\"x\",\"Port\":1}", 403, "Permission denied", "" },
		{ "PUT", "agent/service/register", "{\"Name\":\"x\",\"Port\":1}", 307, "", "" },
		{ "PUT", "agent/service/register", "{\"Name\":", 200, "", "" },
		{ "PUT", "agent/service/register", "{}", 200, "", "" },
		{ "PUT", "kv/orders", "{\"Name\":\"x\",\"Port\":1}", 200, "true", "" },
	};

	(void)state;
	play(steps, ELEMENTS(steps));
}

static void keys_are_read_whatever_their_case_and_what_is_left_out_is_the_guests(void **state)
{
	static const struct step steps[] = {
		{ "PUT", "agent/service/register", "{\"name\":\"inv\",\"port\":7001,\"check\":{\"ttl\":\"10s\",\"status\":\"passing\"}}", 200, "",
		  "register inv/inv 10.0.0.9:7001 passing ttl=10\n" },
		{ "PUT", "agent/service/register", "{\"Name\":\"web\",\"Address\":\"vm-3.example\",\"Port\":80}", 200, "", "register web/web vm-3.example:80\n" },
		{ "PUT", "agent/service/register", "{\"Name\":\"six\",\"Address\":\"fd00::1\",\"Port\":80,\"Meta\":{\"a\\u0001b\":\"x\\ny\"}}", 200, "",
		  "register six/six fd00::1:80 a\\001b=x\\010y\n" },
	};

	(void)state;
	play(steps, ELEMENTS(steps));
}

static void sidecars_and_gateways_are_no_services(void **state)
{
	static const struct step steps[] = {
		{ "PUT", "agent/service/register", "{\"Name\":\"web-sidecar-proxy\",\"Kind\":\"connect-proxy\",\"Port\":21000}", 200, "", "" },
		{ "PUT", "agent/service/deregister/web-sidecar-proxy", "", 200, "", "" },
		{ "GET", "health/connect/web", "", 200,
		  "[{\"Node\":{\"Node\":\"n\",\"Address\":\"10.2.0.1\"},\"Service\":{\"Kind\":\"connect-proxy\",\"ID\":\"p1\",\"Service\":\"web-sidecar-proxy\","
		  "\"Address\":\"\",\"Port\":21000,\"Proxy\":{\"DestinationServiceName\":\"web\"}}}]",
		  "discover web/- -:0\nanswer web/p1 10.2.0.1:21000\n" },
	};

	(void)state;
	play(steps, ELEMENTS(steps));
}

static void the_catalog_speaks_for_other_nodes(void **state)
{
	static const struct step steps[] = {
		{ "PUT", "catalog/register", "{\"node\":\"ext\",\"address\":\"10.3.0.1\",\"service\":{\"Service\":\"legacy\",\"ID\":\"l1\",\"Port\":1521},"
		  "\"check\":{\"Status\":\"passing\",\"ServiceID\":\"l1\"}}", 200, "true", "register legacy/l1 10.3.0.1:1521 passing\n" },
		{ "PUT", "catalog/register", "{\"Node\":\"ext\",\"Address\":\"10.3.0.1\",\"Check\":{\"CheckID\":\"c\",\"ServiceID\":\"l1\",\"Status\":\"critical\"}}",
		  200, "true", "renew legacy/l1 10.3.0.1:1521 critical\n" },
		{ "PUT", "catalog/deregister", "{\"Node\":\"ext\",\"CheckID\":\"c\"}", 200, "true", "" },
		{ "PUT", "catalog/deregister", "{\"Node\":\"ext\",\"ServiceID\":\"l1\"}", 200, "true", "deregister legacy/l1 10.3.0.1:1521\n" },
		{ "PUT", "txn", "[{\"Node\":{\"Verb\":\"set\",\"Node\":{\"Node\":\"m\",\"Address\":\"10.3.0.2\"}}},"
		  "{\"Service\":{\"Verb\":\"set\",\"Node\":\"m\",\"Service\":{\"ID\":\"a\",\"Service\":\"as\",\"Port\":1}}},"
		  "{\"Service\":{\"Verb\":\"cas\",\"Node\":\"m\",\"Service\":{\"ID\":\"b\",\"Service\":\"bs\",\"Address\":\"10.3.0.3\",\"Port\":2}}},"
		  "{\"Service\":{\"Verb\":\"get\",\"Node\":\"m\",\"Service\":{\"ID\":\"c\",\"Service\":\"cs\"}}}]", 200, "{}",
		  "register as/a 10.3.0.2:1\nregister bs/b 10.3.0.3:2\n" },
		{ "PUT", "txn", "[{\"Service\":{\"Verb\":\"delete\",\"Node\":\"m\",\"Service\":{\"ID\":\"a\"}}}]", 409, "{}", "" },
		{ "PUT", "txn", "[{\"Service\":{\"Verb\":\"delete\",\"Node\":\"m\",\"Service\":{\"ID\":\"a\"}}}]", 200, "{}", "deregister as/a 10.3.0.2:1\n" },
		{ "PUT", "catalog/deregister", "{\"Node\":\"m\"}", 200, "true", "deregister bs/b 10.3.0.3:2\n" },
	};

	(void)state;
	play(steps, ELEMENTS(steps));
}

#define ENTRY(id, port) "{\"Node\":{\"Node\":\"n\",\"Address\":\"10.2.0.1\"},\"Service\":{\"ID\":\"" id "\",\"Service\":\"web\",\"Port\":" port \
	"},\"Checks\":[{\"CheckID\":\"x\",\"Status\":\"passing\"},{\"CheckID\":\"y\",\"ServiceID\":\"" id "\",\"Status\":\"warning\"}]}"

static void queries_are_discovery_and_their_answers_name_instances(void **state)
{
	static const struct step steps[] = {
		{ "GET", "health/service/web?passing=1", "", 200, "[" ENTRY("w1", "80") "]", "discover web/- -:0\nanswer web/w1 10.2.0.1:80 warning\n" },
		{ "GET", "catalog/service/web", "", 200, "[{\"Node\":\"n\",\"Address\":\"10.2.0.1\",\"ServiceID\":\"w1\",\"ServiceName\":\"web\",\"ServiceAddress\":\"\","
		  "\"ServicePort\":80,\"ServiceTags\":[\"t\"]}]", "discover web/- -:0\nanswer web/w1 10.2.0.1:80 tags=t\n" },
		{ "GET", "catalog/services", "", 200, "{\"web\":[]}", "discover -/- -:0\n" },
		{ "GET", "agent/services", "", 200, "{\"w1\":{\"ID\":\"w1\",\"Service\":\"web\",\"Port\":80,\"Address\":\"10.2.0.1\"}}",
		  "discover -/- -:0\nanswer web/w1 10.2.0.1:80\n" },
		{ "GET", "query/my-query/execute", "", 200, "{\"Service\":\"web\",\"Nodes\":[" ENTRY("w1", "80") "]}",
		  "discover my-query/- -:0\nanswer web/w1 10.2.0.1:80 warning\n" },
		{ "GET", "health/state/any", "", 200, "[{\"Node\":\"n\",\"CheckID\":\"a\",\"ServiceID\":\"w1\",\"ServiceName\":\"web\",\"Status\":\"passing\"},"
		  "{\"Node\":\"n\",\"CheckID\":\"b\",\"ServiceID\":\"w1\",\"ServiceName\":\"web\",\"Status\":\"critical\"},"
		  "{\"Node\":\"n\",\"CheckID\":\"serfHealth\",\"ServiceID\":\"\",\"Status\":\"passing\"}]",
		  "discover -/- -:0\nanswer web/w1 -:0 critical\n" },
		{ "GET", "health/service/none", "", 200, "[]", "discover none/- -:0\n" },
	};

	(void)state;
	play(steps, ELEMENTS(steps));
}

static void a_watch_is_one_question_and_tells_what_changed(void **state)
{
	static const struct step steps[] = {
		{ "GET", "health/service/web", "", 200, "[" ENTRY("w1", "80") "]", "discover web/- -:0\nanswer web/w1 10.2.0.1:80 warning\n" },
		{ "GET", "health/service/web?index=7&wait=5m", "", 200, "[" ENTRY("w1", "80") "," ENTRY("w2", "80") "]", "answer web/w2 10.2.0.1:80 warning\n" },
		{ "GET", "health/service/web?index=8&wait=5m", "", 200, "[" ENTRY("w1", "80") "," ENTRY("w2", "80") "]", "" },
		{ "GET", "health/service/web?index=9&wait=5m", "", 200, "[" ENTRY("w1", "81") "," ENTRY("w2", "80") "]", "answer web/w1 10.2.0.1:81 warning\n" },
		{ "GET", "health/service/db?index=9&wait=5m", "", 200, "[]", "discover db/- -:0\n" },
		{ "GET", "health/service/web", "", 200, "[" ENTRY("w2", "80") "]", "discover web/- -:0\nanswer web/w2 10.2.0.1:80 warning\n" },
	};

	(void)state;
	play(steps, ELEMENTS(steps));
}

static void a_late_start_knows_ids_only(void **state)
{
	static const struct step steps[] = {
		{ "PUT", "agent/check/pass/service:web-1", "", 200, "", "renew -/web-1 -:0 passing\n" },
		{ "PUT", "agent/check/pass/custom", "", 200, "", "" },
		{ "PUT", "agent/service/deregister/web-1", "", 200, "", "deregister -/web-1 -:0\n" },
	};

	(void)state;
	play(steps, ELEMENTS(steps));
}

static void pipelined_chunked_and_interim_messages_are_paired(void **state)
{
	struct observe o;

	(void)state;
	observe_init(&o, &discover_consul, 0);
	observe_client(&o, "PUT /v1/agent/service/register HTTP/1.1\r\nExpect: 100-continue\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
		       "HTTP2-Settings: AAEAAEAAAAIAAAAB\r\nTransfer-Encoding: chunked\r\n\r\n");
	observe_server(&o, "HTTP/1.1 100 Continue\r\n\r\n");
	observe_client(&o, "5\r\n{\"nam\r\n1a\r\ne\":\"a\",\"port\":1,\"id\":\"a1\"}\r\n0\r\n\r\n"
		       "PUT /v1/agent/service/register HTTP/1.1\r\nContent-Length: 21\r\n\r\n{\"Name\":\"b\",\"Port\":2}"
		       "HEAD /v1/health/service/x HTTP/1.1\r\n\r\n"
		       "PUT /v1/agent/service/register HTTP/1.1\r\nContent-Length: 21\r\n\r\n{\"Name\":\"c\",\"Port\":3}");
	assert_string_equal(observe_text(&o), "");
	observe_server(&o, OK);
	assert_string_equal(observe_text(&o), "register a/a1 10.0.0.9:1\n");
	observe_server(&o, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n" OK);
	assert_string_equal(observe_text(&o), "register c/c 10.0.0.9:3\n");
	observe_deinit(&o);
}

static size_t gzip(const char *text, uint8_t *out, size_t size)
{
	z_stream z = {};

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
	z.next_in = (Bytef *)(uintptr_t)text;
	z.avail_in = (uInt)strlen(text);
	z.next_out = out;
	z.avail_out = (uInt)size;
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return size - z.avail_out;
}

static void gzip_is_undone_both_ways(void **state)
{
	uint8_t body[512];
	char head[256];

	(void)state;
	for (size_t piece = 0; piece < 2; piece++) {
		struct observe o;
		size_t n = gzip("{\"Name\":\"z\",\"Port\":9}", body, sizeof(body));

		observe_init(&o, &discover_consul, piece);
		snprintf(head, sizeof(head), "PUT /v1/agent/service/register HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: %zu\r\n\r\n", n);
		observe_client(&o, head);
		observe_feed(&o, DISCOVER_TO_REGISTRY, body, n);
		observe_server(&o, OK);
		observe_client(&o, "GET /v1/health/service/web HTTP/1.1\r\n\r\n");
		n = gzip("[" ENTRY("w1", "80") "]", body, sizeof(body));
		snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %zu\r\n\r\n", n);
		observe_server(&o, head);
		observe_feed(&o, DISCOVER_FROM_REGISTRY, body, n);
		assert_string_equal(observe_text(&o), "register z/z 10.0.0.9:9\ndiscover web/- -:0\nanswer web/w1 10.2.0.1:80 warning\n");
		observe_deinit(&o);
	}
}

static void blind_connections_are_given_up(void **state)
{
	static const char *const first[] = { "\x16\x03\x01\x02", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" };
	struct observe o;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(first); i++) {
		observe_init(&o, &discover_consul, i);
		assert_false(observe_client(&o, first[i]));
		observe_deinit(&o);
	}
	observe_init(&o, &discover_consul, 0);
	request(&o, "PUT", "agent/service/register", "{\"Name\":\"x\",\"Port\":1}");
	assert_false(observe_server(&o, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"));
	assert_string_equal(observe_text(&o), "");
	observe_deinit(&o);
}

static void lost_bytes_cost_the_exchange_they_were_in(void **state)
{
	struct observe o;
	struct discover_ctx ctx;

	(void)state;
	observe_init(&o, &discover_consul, 0);
	observe_client(&o, "PUT /v1/agent/service/register HTTP/1.1\r\nContent-Length: 21\r\n\r\n{\"Name\":");
	ctx = observe_ctx(&o);
	assert_true(discover_consul.stream_gap(o.stream, DISCOVER_TO_REGISTRY, 13, &ctx));
	observe_server(&o, OK);
	assert_string_equal(observe_text(&o), "");
	call(&o, "PUT", "agent/service/register", "{\"Name\":\"b\",\"Port\":2}", 200, "");
	assert_string_equal(observe_text(&o), "register b/b 10.0.0.9:2\n");

	/* A whole request is lost: its answer must not be taken for the next one's. */
	ctx = observe_ctx(&o);
	assert_true(discover_consul.stream_gap(o.stream, DISCOVER_TO_REGISTRY, 100, &ctx));
	respond(&o, 200, "");
	call(&o, "PUT", "agent/service/register", "{\"Name\":\"c\",\"Port\":2}", 403, "");
	call(&o, "PUT", "agent/service/register", "{\"Name\":\"d\",\"Port\":2}", 200, "");
	assert_string_equal(observe_text(&o), "register d/d 10.0.0.9:2\n");

	/* An answer is lost. */
	request(&o, "PUT", "agent/service/register", "{\"Name\":\"e\",\"Port\":2}");
	ctx = observe_ctx(&o);
	assert_true(discover_consul.stream_gap(o.stream, DISCOVER_FROM_REGISTRY, 38, &ctx));
	call(&o, "PUT", "agent/service/register", "{\"Name\":\"f\",\"Port\":2}", 200, "");
	assert_string_equal(observe_text(&o), "register f/f 10.0.0.9:2\n");

	/* An answer and the request after it are lost: the next answer is the other one's. */
	request(&o, "PUT", "agent/service/register", "{\"Name\":\"g\",\"Port\":2}");
	ctx = observe_ctx(&o);
	assert_true(discover_consul.stream_gap(o.stream, DISCOVER_FROM_REGISTRY, 38, &ctx));
	assert_true(discover_consul.stream_gap(o.stream, DISCOVER_TO_REGISTRY, 100, &ctx));
	respond(&o, 200, "");
	assert_string_equal(observe_text(&o), "");
	observe_deinit(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_service_lives_from_register_to_deregister),
		cmocka_unit_test(a_refused_request_is_not_a_registration),
		cmocka_unit_test(keys_are_read_whatever_their_case_and_what_is_left_out_is_the_guests),
		cmocka_unit_test(sidecars_and_gateways_are_no_services),
		cmocka_unit_test(the_catalog_speaks_for_other_nodes),
		cmocka_unit_test(queries_are_discovery_and_their_answers_name_instances),
		cmocka_unit_test(a_watch_is_one_question_and_tells_what_changed),
		cmocka_unit_test(a_late_start_knows_ids_only),
		cmocka_unit_test(pipelined_chunked_and_interim_messages_are_paired),
		cmocka_unit_test(gzip_is_undone_both_ways),
		cmocka_unit_test(blind_connections_are_given_up),
		cmocka_unit_test(lost_bytes_cost_the_exchange_they_were_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "lib/unit.h"

#include <errno.h>
#include <jansson.h>

#include "control/kube_groups.h"
#include "mesh/pb.h"

static Outrigger__Health__Check *read_good(const char *text)
{
	json_t *json = json_loads(text, 0, NULL);
	Outrigger__Health__Check *check;
	struct diag d = {};

	assert_non_null(json);
	assert_int_equal(kube_groups_read_probe(json, &check, &d), 0);
	json_decref(json);
	return check;
}

static void probes_become_checks_with_istios_defaults(void **state)
{
	Outrigger__Health__Check *c;

	(void)state;
	c = read_good("{\"tcpSocket\": {\"port\": 5432}}");
	assert_string_equal(c->kind, "tcp");
	assert_int_equal(c->port, 5432);
	assert_int_equal(c->interval_ms, 10000);
	assert_int_equal(c->timeout_ms, 1000);
	assert_int_equal(c->successes, 1);
	assert_int_equal(c->failures, 1);
	pb_free(c);

	c = read_good("{\"httpGet\": {\"path\": \"/h\", \"port\": 80, \"host\": \"a\", \"scheme\": \"HTTP\", \"httpHeaders\": [{\"name\": \"X\", \"value\": \"y\"}]},"
		      "\"initialDelaySeconds\": 3, \"periodSeconds\": 5, \"timeoutSeconds\": 2, \"successThreshold\": 4, \"failureThreshold\": 6}");
	assert_string_equal(c->kind, "http");
	assert_string_equal(c->path, "/h");
	assert_string_equal(c->host, "a");
	assert_int_equal(c->n_headers, 1);
	assert_string_equal(c->headers[0]->value, "y");
	assert_int_equal(c->initial_delay_ms, 3000);
	assert_int_equal(c->interval_ms, 5000);
	assert_int_equal(c->timeout_ms, 2000);
	assert_int_equal(c->successes, 4);
	assert_int_equal(c->failures, 6);
	pb_free(c);

	c = read_good("{\"httpGet\": {\"port\": 443, \"scheme\": \"HTTPS\"}}");
	assert_string_equal(c->kind, "https");
	assert_int_equal(c->port, 443);
	pb_free(c);

	c = read_good("{\"grpc\": {\"port\": 50051, \"service\": \"s\"}}");
	assert_string_equal(c->kind, "grpc");
	assert_string_equal(c->service, "s");
	pb_free(c);
}

static void what_cannot_be_made_from_outside_is_refused_with_a_reason(void **state)
{
	static const char *const bad[] = {
		"{}", "[]", "{\"exec\": {\"command\": [\"x\"]}}", "{\"httpGet\": {\"scheme\": \"HTTPS\"}}", "{\"tcpSocket\": {}}",
		"{\"tcpSocket\": {\"port\": -1}}", "{\"tcpSocket\": {\"port\": 65536}}", "{\"httpGet\": {\"port\": 80, \"path\": \"/a b\"}}",
		"{\"httpGet\": {\"port\": 80, \"httpHeaders\": [{\"name\": \"X\\r\\nY\", \"value\": \"\"}]}}", "{\"httpGet\": {\"port\": 80, \"httpHeaders\": [3]}}",
		"{\"tcpSocket\": {\"port\": 80}, \"periodSeconds\": 9000000000}",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *json = json_loads(bad[i], 0, NULL);
		Outrigger__Health__Check *check = NULL;
		struct diag d = {};

		assert_non_null(json);
		assert_int_equal(kube_groups_read_probe(json, &check, &d), -EINVAL);
		assert_true(d.msg[0]);
		assert_null(check);
		json_decref(json);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(probes_become_checks_with_istios_defaults),
		cmocka_unit_test(what_cannot_be_made_from_outside_is_refused_with_a_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

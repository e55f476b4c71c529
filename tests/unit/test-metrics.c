#include "lib/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy/access_log.h"
#include "proxy/metrics.h"

static const struct metrics_self self = {
	.workload = "web", .namespace = "shop", .identity = "spiffe://td/ns/shop/sa/web", .canonical_name = "web",
	.canonical_revision = "v1", .app = "", .version = "v1", .cluster = "", .service_host = "web.shop", .service_name = "web",
	.service_namespace = "shop",
};

static struct flow_peer peer = {
	.n_refs = 1000, .identity = "spiffe://td/ns/shop/sa/api", .uid = "vm/api", .workload_name = "api", .namespace = "shop",
	.service_account = "api", .canonical_name = "api", .canonical_revision = "", .cluster = "", .service_key = "shop/api",
	.service_name = "api", .service_namespace = "shop", .service_host = "api.shop", .mutual_tls = true,
};

static struct flow_report report(struct vm *vm, uint64_t id, enum flow_event ev)
{
	struct flow_report r = { .id = id, .event = ev, .direction = FLOW_OUTBOUND, .vm = vm, .peer = &peer, .hbone = true, .duration_ms = 13 };

	assert_int_equal(ip_port_parse("10.0.0.1:4000", &r.source), 0);
	assert_int_equal(ip_port_parse("10.96.0.1:80", &r.destination), 0);
	assert_int_equal(ip_port_parse("10.0.0.2:8080", &r.upstream), 0);
	return r;
}

static char *written(const struct metrics *m)
{
	struct bytes out;

	bytes_init(&out, METRICS_TEXT_MAX);
	assert_int_equal(metrics_write(m, &out), 0);
	char *text = strndup((const char *)out.data, out.len);
	bytes_deinit(&out);
	return text;
}

/* The value of the one line that begins with @name and has @label in it; -1 when there is none. */
static long value(const struct metrics *m, const char *name, const char *label)
{
	CLEANUP_FREE char *text = written(m);
	long v = -1;

	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (!strncmp(line, name, strlen(name)) && strstr(line, label)) {
			assert_int_equal(v, -1);
			v = strtol(strrchr(line, ' ') + 1, NULL, 10);
		}
	return v;
}

struct rig {
	struct metrics *m;
	struct vm *vm;
};

static int setup(void **state)
{
	struct rig *r = calloc(1, sizeof(*r));

	assert_int_equal(metrics_new(&r->m), 0);
	assert_int_equal(vm_new(1, "vm-1", -1, -1, 1, &r->vm), 0);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	metrics_free(r->m);
	vm_unref(r->vm);
	free(r);
	return 0;
}

static void bytes_are_counted_as_they_come_and_once(void **state)
{
	struct rig *g = *state;
	struct flow_report r = report(g->vm, 1, FLOW_OPENED);

	metrics_report(g->m, &r, &self);
	assert_int_equal(metrics_n_open(g->m), 1);
	r.event = FLOW_PROGRESS;
	r.bytes_sent = 10;
	r.bytes_received = 100;
	metrics_report(g->m, &r, &self);
	assert_int_equal(value(g->m, "istio_tcp_sent_bytes_total", "source"), 100);	/* as the server sees it */
	assert_int_equal(value(g->m, "istio_tcp_received_bytes_total", "source"), 10);
	r.event = FLOW_CLOSED;
	r.bytes_sent = 15;
	r.bytes_received = 150;
	metrics_report(g->m, &r, &self);
	assert_int_equal(value(g->m, "istio_tcp_sent_bytes_total", "source"), 150);
	assert_int_equal(value(g->m, "istio_tcp_received_bytes_total", "source"), 15);
	assert_int_equal(value(g->m, "istio_tcp_connections_opened_total", "source"), 1);
	assert_int_equal(value(g->m, "istio_tcp_connections_closed_total", "source"), 1);
	assert_int_equal(metrics_n_open(g->m), 0);
}

static void labels_are_istios(void **state)
{
	struct rig *g = *state;
	struct flow_report r = report(g->vm, 1, FLOW_OPENED);

	metrics_report(g->m, &r, &self);
	assert_int_equal(value(g->m, "istio_tcp_connections_opened_total",
		"{reporter=\"source\",source_workload=\"web\",source_workload_namespace=\"shop\",source_principal=\"spiffe://td/ns/shop/sa/web\","
		"source_app=\"unknown\",source_version=\"v1\",source_canonical_service=\"web\",source_canonical_revision=\"v1\","
		"source_cluster=\"unknown\",destination_workload=\"api\",destination_workload_namespace=\"shop\","
		"destination_principal=\"spiffe://td/ns/shop/sa/api\",destination_app=\"api\",destination_version=\"unknown\","
		"destination_service=\"api.shop\",destination_service_name=\"api\",destination_service_namespace=\"shop\","
		"destination_canonical_service=\"api\",destination_canonical_revision=\"latest\",destination_cluster=\"unknown\","
		"request_protocol=\"tcp\",response_flags=\"-\",connection_security_policy=\"mutual_tls\"}"), 1);
	r.id = 2;
	r.direction = FLOW_INBOUND;
	r.peer = NULL;
	metrics_report(g->m, &r, &self);
	assert_int_equal(value(g->m, "istio_tcp_connections_opened_total", "connection_security_policy=\"none\""), 1);
	assert_int_equal(value(g->m, "istio_tcp_connections_opened_total", "destination_service=\"web.shop\""), 1);
}

static void a_failure_has_its_flag(void **state)
{
	struct rig *g = *state;
	struct flow_report r = report(g->vm, 1, FLOW_CLOSED);

	r.result = FLOW_R_DENIED;
	metrics_report(g->m, &r, &self);
	assert_int_equal(value(g->m, "istio_tcp_connections_failed_total", "response_flags=\"DENY\""), 1);
	assert_int_equal(value(g->m, "istio_tcp_connections_closed_total", "response_flags=\"DENY\""), -1);
}

static void a_hostile_name_does_not_break_a_line(void **state)
{
	struct rig *g = *state;
	struct flow_report r = report(g->vm, 1, FLOW_OPENED);
	struct flow_peer odd = peer;

	odd.workload_name = "a\"b\\c\nd";
	r.peer = &odd;
	metrics_report(g->m, &r, &self);
	assert_int_equal(value(g->m, "istio_tcp_connections_opened_total", "destination_workload=\"a\\\"b\\\\c\\nd\""), 1);
	r.event = FLOW_CLOSED;
	metrics_report(g->m, &r, &self);
}

static void the_number_of_series_is_bounded(void **state)
{
	struct rig *g = *state;

	for (unsigned i = 0; i < METRICS_SERIES_MAX + 50; i++) {
		struct flow_report r = report(g->vm, i, FLOW_OPENED);
		struct flow_peer many = peer;
		char name[16];

		snprintf(name, sizeof(name), "w%u", i);
		many.workload_name = name;
		r.peer = &many;
		metrics_report(g->m, &r, &self);
		r.event = FLOW_CLOSED;
		metrics_report(g->m, &r, &self);
	}
	assert_true(value(g->m, "istio_tcp_connections_opened_total", "destination_workload=\"_other\"") >= 50);
	assert_int_equal(value(g->m, "outrigger_proxy_series", ""), METRICS_SERIES_MAX);
}

/* The addresses of the connection @id, "source destination upstream", or "" when it is not open. */
static void ends_of(const struct metrics *m, json_int_t id, char text[static 256])
{
	json_t *list = metrics_connections(m, SIZE_MAX, 0);
	size_t i;
	json_t *o;

	*text = 0;
	assert_non_null(list);
	assert_int_equal(json_array_size(list), metrics_n_open(m));
	json_array_foreach(list, i, o)
		if (json_integer_value(json_object_get(o, "id")) == id)
			snprintf(text, 256, "%s %s %s", json_string_value(json_object_get(o, "source")),
				 json_string_value(json_object_get(o, "destination")), json_string_value(json_object_get(o, "upstream")));
	json_decref(list);
}

/* As a worker numbers them: its own number in the low byte. The table grows with them, and shrinks. */
static void open_connections_are_found_by_number_and_listed_with_their_addresses(void **state)
{
	enum { N = 3000 };
	struct rig *g = *state;
	struct flow_report r = report(g->vm, 0, FLOW_OPENED);
	struct ip_port v6;
	char text[256];

	assert_int_equal(ip_port_parse("[2001:db8::1]:443", &v6), 0);
	for (uint64_t i = 0; i < N; i++) {
		r.id = i / 3 << 8 | i % 3;
		r.upstream = i == 7 ? v6 : r.source;
		r.source.port = (uint16_t)i;
		metrics_report(g->m, &r, &self);
	}
	assert_int_equal(metrics_n_open(g->m), N);
	ends_of(g->m, 2999 / 3 << 8 | 2999 % 3, text);
	assert_string_equal(text, "10.0.0.1:2999 10.96.0.1:80 10.0.0.1:2998");
	ends_of(g->m, 7 / 3 << 8 | 7 % 3, text);
	assert_string_equal(text, "10.0.0.1:7 10.96.0.1:80 [2001:db8::1]:443");

	r.event = FLOW_CLOSED;
	for (uint64_t i = 0; i < N; i++) {
		if (i == 7)
			continue;
		r.id = i / 3 << 8 | i % 3;
		metrics_report(g->m, &r, &self);
		metrics_report(g->m, &r, &self);	/* it is not there any more: counted as one that nobody saw opening */
	}
	assert_int_equal(metrics_n_open(g->m), 1);
	ends_of(g->m, 7 / 3 << 8 | 7 % 3, text);
	assert_string_equal(text, "10.0.0.1:7 10.96.0.1:80 [2001:db8::1]:443");
	ends_of(g->m, 0, text);
	assert_string_equal(text, "");
}

static void a_line_of_the_access_log_has_ztunnels_keys(void **state)
{
	struct rig *g = *state;
	const struct access_log_self us = { .workload = "web", .namespace = "shop", .identity = self.identity,
		.canonical_name = "web", .canonical_revision = "v2", .service = "" };
	char path[] = "/tmp/test-metrics-XXXXXX";
	char line[4096] = "";
	struct access_log *a;
	struct loop *loop;
	struct diag d;

	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(loop_new(&loop), 0);
	for (int json = 0; json < 2; json++) {
		struct flow_report r = report(g->vm, 7, FLOW_CLOSED);

		r.bytes_sent = 5;
		r.bytes_received = 6;
		assert_int_equal(ftruncate(fd, 0), 0);
		assert_int_equal(access_log_new(loop, path, json, &a, &d), 0);
		access_log_write(a, &r, &us);
		r.result = FLOW_R_CONNECT;
		r.why = "said \"no\"\n";
		access_log_write(a, &r, &us);
		assert_int_equal(loop_turn(loop, 0), 0);
		a = access_log_free(a);

		ssize_t n = pread(fd, line, sizeof(line) - 1, 0);
		assert_true(n > 0);
		line[n] = 0;
		if (json) {
			char *second = strchr(line, '\n') + 1;
			json_t *o = json_loads(second, JSON_DISABLE_EOF_CHECK, NULL);

			assert_non_null(o);
			assert_string_equal(json_string_value(json_object_get(o, "dst.hbone_addr")), "10.0.0.2:15008");
			assert_string_equal(json_string_value(json_object_get(o, "error")), "said \"no\"\n");
			assert_int_equal(json_integer_value(json_object_get(o, "bytes_recv")), 5);
			json_decref(o);
		} else {
			assert_non_null(strstr(line, " access connection complete src.addr=10.0.0.1:4000 src.workload=web src.namespace=shop "
					       "src.canonical_service=web src.canonical_revision=v2 src.identity=spiffe://td/ns/shop/sa/web dst.addr=10.0.0.2:8080 dst.hbone_addr=10.0.0.2:15008 "
					       "dst.service=api.shop dst.workload=api dst.namespace=shop dst.canonical_service=api dst.identity=spiffe://td/ns/shop/sa/api "
					       "direction=outbound vm=vm-1 connection_id=7 bytes_sent=6 bytes_recv=5 duration=13ms\n"));
			assert_non_null(strstr(line, "error=\"said \\\"no\\\"\\u000a\" result=connect"));
		}
	}
	loop_free(loop);
	close(fd);
	unlink(path);
}

/* Two writers, one pipe that is read in odd pieces: each line is one of theirs, whole. */
static void lines_of_two_writers_to_one_pipe_stay_whole(void **state)
{
	struct rig *g = *state;
	const struct access_log_self us = { .workload = "web", .namespace = "shop", .identity = "", .canonical_name = "web",
		.canonical_revision = "", .service = "" };
	struct flow_report r = report(g->vm, 7, FLOW_CLOSED);
	CLEANUP_FREE char *text = calloc(1, 8 << 20);
	struct access_log *a[2];
	struct loop *loop;
	size_t len = 0, n_lines = 0;
	struct diag d;
	int fds[2];

	assert_non_null(text);
	assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
	assert_int_equal(loop_new(&loop), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(access_log_new(loop, "", true, &a[i], &d), 0);
		access_log_change(a[i], fcntl(fds[1], F_DUPFD_CLOEXEC, 3));
	}
	for (int i = 0; i < 1000; i++) {
		r.id = (uint64_t)1 << (i % 60);		/* lines of several lengths */
		access_log_write(a[0], &r, &us);
		access_log_write(a[1], &r, &us);
	}
	for (int i = 0; i < 100000 && n_lines < 2000; i++) {
		assert_int_equal(loop_turn(loop, 0), 0);
		ssize_t n = read(fds[0], text + len, 3001);

		for (ssize_t k = 0; k < n; k++)
			n_lines += text[len + (size_t)k] == '\n';
		len += n > 0 ? (size_t)n : 0;
	}
	assert_int_equal(n_lines, 2000);
	for (char *line = text; *line; line = strchr(line, '\n') + 1) {
		json_t *o = json_loads(line, JSON_DISABLE_EOF_CHECK, NULL);

		assert_non_null(o);
		json_decref(o);
	}
	assert_int_equal(access_log_dropped(a[0]) + access_log_dropped(a[1]), 0);
	access_log_free(a[0]);
	access_log_free(a[1]);
	loop_free(loop);
	close(fds[0]);
	close(fds[1]);
}

static void a_slow_reader_loses_lines_and_nothing_waits(void **state)
{
	struct rig *g = *state;
	const struct access_log_self us = { .workload = "web", .namespace = "shop", .identity = "", .canonical_name = "web",
		.canonical_revision = "", .service = "" };
	struct flow_report r = report(g->vm, 7, FLOW_CLOSED);
	char path[64];
	struct access_log *a;
	struct loop *loop;
	struct diag d;
	int fds[2];

	assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[1]);
	assert_int_equal(loop_new(&loop), 0);
	assert_int_equal(access_log_new(loop, path, false, &a, &d), 0);
	for (int i = 0; i < 6000; i++) {
		access_log_write(a, &r, &us);
		if (i % 100 == 0)
			assert_int_equal(loop_turn(loop, 0), 0);
	}
	assert_true(access_log_dropped(a) > 0);
	assert_int_equal(access_log_new(loop, "/no/such/folder/x", false, &a, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "/no/such/folder/x"));
	access_log_free(a);
	loop_free(loop);
	close(fds[0]);
	close(fds[1]);
}

#define RIGGED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		RIGGED(bytes_are_counted_as_they_come_and_once),
		RIGGED(labels_are_istios),
		RIGGED(a_failure_has_its_flag),
		RIGGED(a_hostile_name_does_not_break_a_line),
		RIGGED(the_number_of_series_is_bounded),
		RIGGED(open_connections_are_found_by_number_and_listed_with_their_addresses),
		RIGGED(a_line_of_the_access_log_has_ztunnels_keys),
		RIGGED(lines_of_two_writers_to_one_pipe_stay_whole),
		RIGGED(a_slow_reader_loses_lines_and_nothing_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

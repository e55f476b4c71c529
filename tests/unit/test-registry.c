#include "lib/unit.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "agent/registry.h"
#include "base/wire.h"
#include "lib/zk_frames.h"

/* A server of one connection in a process of its own. */
struct server {
	pid_t pid;
	struct ip_port at;
};

typedef void serve_fn(int fd);

static struct server serve(serve_fn *fn)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct server s = {};

	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	s.at = (struct ip_port){ ip_from_v4(&sa.sin_addr), ntohs(sa.sin_port) };
	s.pid = fork();
	if (s.pid == 0) {
		fn(accept(fd, NULL, NULL));
		_exit(0);
	}
	close(fd);
	return s;
}

static void gone(struct server *s)
{
	kill(s->pid, SIGKILL);
	waitpid(s->pid, NULL, 0);
}

struct outcome {
	struct loop *loop;
	bool given;
	enum registry_result result;
	char evidence[REGISTRY_TEXT_LEN];
	char entries[1024];
};

static void on_answer(const struct registry_answer *a, void *data)
{
	struct outcome *o = data;

	assert_false(o->given);
	o->given = true;
	o->result = a->result;
	snprintf(o->evidence, sizeof(o->evidence), "%s", a->evidence);
	for (size_t i = 0; i < a->n_entries; i++) {
		const struct registry_entry *e = &a->entries[i];
		char ip[IP_TEXT_LEN] = "-";
		size_t at = strlen(o->entries);

		if (!ip_is_none(&e->address))
			ip_format(&e->address, ip);
		snprintf(o->entries + at, sizeof(o->entries) - at, "%s %s:%u%s;", e->instance, e->host ? e->host : ip, e->port, e->sign ? " sign" : "");
	}
	loop_stop(o->loop);
}

static struct outcome ask(const char *protocol, struct ip_port at, const char *service, const char *instance, uint32_t timeout_ms)
{
	struct registry_query q = { .protocol = protocol, .registry = at, .service = service, .instance = instance, .timeout_ms = timeout_ms };
	struct registry_lookup *l;
	struct outcome o = {};

	assert_int_equal(loop_new(&o.loop), 0);
	assert_int_equal(registry_lookup_start(o.loop, &q, on_answer, &o, &l), 0);
	assert_false(o.given);
	assert_int_equal(loop_run(o.loop), 0);
	assert_true(o.given);
	o.loop = loop_free(o.loop);
	return o;
}

static void never_answer(int fd)
{
	(void)fd;
	pause();
}

static void reset(int fd)
{
	struct linger l = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

static void talk_nonsense(int fd)
{
	static const char text[] = "\x7f\x7f\x7f\x7fnonsense\r\n\r\n";

	(void)!write(fd, text, sizeof(text) - 1);
	pause();
}

static void servers_that_do_not_answer_are_unreachable(void **state)
{
	static const char *const protocols[] = { "consul", "zookeeper" };
	static serve_fn *const servers[] = { never_answer, reset, talk_nonsense };

	(void)state;
	for (size_t p = 0; p < ELEMENTS(protocols); p++) {
		for (size_t i = 0; i < ELEMENTS(servers); i++) {
			struct server s = serve(servers[i]);
			struct outcome o = ask(protocols[p], s.at, "orders", NULL, servers[i] == never_answer ? 200 : 20000);

			assert_int_equal(o.result, REGISTRY_UNREACHABLE);
			assert_non_null(strstr(o.evidence, "127.0.0.1:"));
			gone(&s);
		}
		struct server s = serve(never_answer);	/* a port where nobody listens any more */
		gone(&s);
		struct outcome o = ask(protocols[p], s.at, "orders", NULL, 20000);
		assert_int_equal(o.result, REGISTRY_UNREACHABLE);
		assert_non_null(strstr(o.evidence, "onnect"));
	}
}

static void http(int fd, int status, const char *body)
{
	char in[2048], out[4096];
	ssize_t n = read(fd, in, sizeof(in) - 1);
	int len;

	in[n > 0 ? n : 0] = '\0';
	if (strncmp(in, "GET /v1/health/service/or%20ders HTTP/1.1\r\n", 43) != 0)
		status = 500;
	len = snprintf(out, sizeof(out), "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n%s", status, strlen(body), body);
	(void)!write(fd, out, (size_t)len);
	pause();
}

#define NODE(node) "{\"Node\":{\"Node\":\"" node "\",\"Address\":\"10.0.0.5\"},"

static void consul_two(int fd)
{
	http(fd, 200, "[" NODE("vm") "\"Service\":{\"ID\":\"o-1\",\"Service\":\"or ders\",\"Address\":\"\",\"Port\":80}},"
	     NODE("vm") "\"Service\":{\"ID\":\"o-2\",\"Service\":\"or ders\",\"Address\":\"vm.example\",\"Port\":81,\"Meta\":{\"external-source\":\"nomad\"}}}]");
}

static void consul_commands_the_terminal(int fd)
{
	http(fd, 200, "[" NODE("vm") "\"Service\":{\"ID\":\"o\\u001b[2J\",\"Service\":\"or ders\",\"Address\":\"\\u009b5m\",\"Port\":80}}]");
}

static void consul_empty(int fd)
{
	http(fd, 200, "[]");
}

static void consul_forbids(int fd)
{
	http(fd, 403, "Permission denied");
}

static void consul_is_something_else(int fd)
{
	http(fd, 200, "<html>");
}

static void what_consul_says_is_told(void **state)
{
	static const struct { serve_fn *fn; const char *instance; enum registry_result result; const char *entries, *evidence; } cases[] = {
		{ consul_two, NULL, REGISTRY_FOUND, "o-1 10.0.0.5:80;o-2 vm.example:81 sign;", "external-source=nomad" },
		{ consul_two, "o-1", REGISTRY_FOUND, "o-1 10.0.0.5:80;", "10.0.0.5:80" },
		{ consul_two, "o-3", REGISTRY_NOT_FOUND, "", "o-3" },
		{ consul_commands_the_terminal, NULL, REGISTRY_FOUND, "o\x1b[2J \xc2\x9b" "5m:80;", "o\\027[2J, at \\194\\1555m" },
		{ consul_empty, "o-1", REGISTRY_NOT_FOUND, "", "or ders" },
		{ consul_forbids, "o-1", REGISTRY_REFUSED, "", "403" },
		{ consul_is_something_else, "o-1", REGISTRY_UNREACHABLE, "", "no Consul" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		struct server s = serve(cases[i].fn);
		struct outcome o = ask("consul", s.at, "or ders", cases[i].instance, 20000);

		assert_string_equal(o.entries, cases[i].entries);
		assert_int_equal(o.result, cases[i].result);
		assert_non_null(strstr(o.evidence, cases[i].evidence));
		gone(&s);
	}
}

/* A tree: what is below a path, or a node's data. */
static const struct { const char *path; const char *children; const char *data; } tree[] = {
	{ "/", "zookeeper\0far\0services\0", NULL },
	{ "/services", "orders\0", NULL },
	{ "/services/orders", "o1\0o2\0lock\0", NULL },
	{ "/services/orders/o1", "", "{\"name\":\"orders\",\"id\":\"id-1\",\"address\":\"10.0.0.6\",\"port\":80,\"serviceType\":\"DYNAMIC\"}" },
	{ "/services/orders/o2", "", "10.0.0.7:81" },
	{ "/services/orders/lock", "", "x" },
	{ "/far", "away\0", NULL },
	{ "/far/away", "deep\0", NULL },
	{ "/far/away/deep", "d1\0", NULL },
	{ "/far/away/deep/d1", "", "{\"host\":\"h.example\",\"port\":82,\"metadata\":{\"pod-name\":\"p\"}}" },
	{ "/dubbo/org.x.Demo/providers", "dubbo%3A%2F%2F10.0.0.8%3A20880%2Forg.x.Demo\0", NULL },
};

static struct frame answer_read(uint32_t xid, uint32_t op, const char *path)
{
	for (size_t i = 0; i < ELEMENTS(tree); i++) {
		struct frame f = frame_reply(xid, 0);
		uint32_t n = 0;

		if (strcmp(tree[i].path, path) != 0)
			continue;
		if (op == 4)
			return frame_reply_data(xid, tree[i].data ? tree[i].data : "", 1);
		for (const char *c = tree[i].children; *c; c += strlen(c) + 1)
			n++;
		frame_u(&f, n, 4);
		for (const char *c = tree[i].children; *c; c += strlen(c) + 1)
			frame_str(&f, c);
		return f;
	}
	return frame_reply(xid, -101);
}

static void zookeeper(int fd)
{
	uint8_t in[4096];
	bool connected = false;

	while (recv(fd, in, 4, MSG_WAITALL) == 4) {
		struct wire head = wire_init(in, 4);
		size_t len = wire_u32(&head);
		char path[1024] = "";
		struct frame f;

		if (len > sizeof(in) || recv(fd, in, len, MSG_WAITALL) != (ssize_t)len)
			return;
		struct wire w = wire_init(in, len);
		uint32_t xid = wire_u32(&w), op = wire_u32(&w), n = connected ? wire_u32(&w) : 0;
		const uint8_t *p = wire_take(&w, n);

		snprintf(path, sizeof(path), "%.*s", p ? (int)n : 0, p ? (const char *)p : "");
		f = !connected ? frame_connected(7, 4000) : op == (uint32_t)-11 ? frame_reply(xid, 0) : answer_read(xid, op, path);
		connected = true;
		for (size_t i = 0; i < f.len; i++)	/* a byte a packet, or nearly so */
			(void)!send(fd, f.data + i, 1, MSG_NOSIGNAL);
	}
}

static void what_zookeeper_holds_is_told(void **state)
{
	static const struct { const char *service, *instance; enum registry_result result; const char *entries; } cases[] = {
		{ "orders", "id-1", REGISTRY_FOUND, "id-1 10.0.0.6:80;" },
		{ "orders", "o2", REGISTRY_FOUND, "o2 10.0.0.7:81;" },
		{ "orders", "o9", REGISTRY_NOT_FOUND, "" },
		{ "deep", NULL, REGISTRY_FOUND, "d1 h.example:82 sign;" },
		{ "org.x.Demo", "10.0.0.8:20880", REGISTRY_FOUND, "10.0.0.8:20880 10.0.0.8:20880;" },
		{ "nowhere", NULL, REGISTRY_NOT_FOUND, "" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		struct server s = serve(zookeeper);
		struct outcome o = ask("zookeeper", s.at, cases[i].service, cases[i].instance, 20000);

		assert_string_equal(o.entries, cases[i].entries);
		assert_int_equal(o.result, cases[i].result);
		gone(&s);
	}
}

static void a_lookup_can_be_cancelled(void **state)
{
	struct server s = serve(never_answer);
	struct registry_query q = { .protocol = "consul", .registry = s.at, .service = "x" };
	struct outcome o = {};
	struct registry_lookup *l;

	(void)state;
	assert_int_equal(loop_new(&o.loop), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(registry_lookup_start(o.loop, &q, on_answer, &o, &l), 0);
		assert_int_equal(loop_turn(o.loop, 10), 0);
		assert_null(registry_lookup_cancel(l));
		q.protocol = "zookeeper";
	}
	q.protocol = "mdns";
	assert_int_equal(registry_lookup_start(o.loop, &q, on_answer, &o, &l), -ENOTSUP);
	assert_false(o.given);
	loop_free(o.loop);
	gone(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(servers_that_do_not_answer_are_unreachable),
		cmocka_unit_test(what_consul_says_is_told),
		cmocka_unit_test(what_zookeeper_holds_is_told),
		cmocka_unit_test(a_lookup_can_be_cancelled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

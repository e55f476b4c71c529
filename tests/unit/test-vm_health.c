#include "lib/unit.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "lib/pki.h"
#include "mesh/health_check.h"
#include "mesh/tls_conn.h"
#include "proxy/vm_health.h"

#define TEXT(s)	((char *)(uintptr_t)(s))	/* protobuf-c has no const; nothing writes to them */

/* A VM on 127.0.0.1: what its server answers is @says; NULL: nothing. It closes right after. */
static struct {
	struct loop *loop;
	struct watch listener;
	struct watch conns[64];
	size_t n_conns;
	const char *says;
	size_t n_says;			/* 0: a text */
	bool hangs;			/* takes connections, and that is all */
	struct tls_ctx *tls;		/* it speaks TLS */
	struct tls_conn *secure[64];
	size_t n_secure;
	char heard[4096];
	uint16_t port;
	struct vm_health *health;
	unsigned n_changed;
} vm;

static int on_request(struct watch *w, uint32_t events)
{
	size_t len = vm.says ? (vm.n_says ? vm.n_says : strlen(vm.says)) : 0;
	ssize_t n = recv(w->fd, vm.heard, sizeof(vm.heard) - 1, 0);
	int fd = w->fd;

	(void)events;
	vm.heard[n > 0 ? n : 0] = '\0';
	if (len)
		assert_int_not_equal(send(fd, vm.says, len, MSG_NOSIGNAL), 0);
	watch_remove(w);
	close(fd);
	return 0;
}

static void on_secure_request(struct tls_conn *c, void *data, const uint8_t *bytes, size_t len)
{
	(void)data;
	assert_true(len < sizeof(vm.heard));
	memcpy(vm.heard, bytes, len);
	vm.heard[len] = '\0';
	assert_int_equal(tls_conn_write(c, vm.says, strlen(vm.says)), 0);
}

static void on_secure_closed(struct tls_conn *c, void *data, int r, const char *text)
{
	struct tls_conn **slot = data;

	(void)c;
	(void)r;
	(void)text;
	*slot = tls_conn_free(*slot);
}

static void on_secure_opened(struct tls_conn *c, void *data)
{
	(void)c;
	(void)data;
}

static void accept_secure(int fd)
{
	static const struct tls_conn_ops ops = { .opened = on_secure_opened, .received = on_secure_request, .closed = on_secure_closed };
	struct tls_conn **slot = &vm.secure[vm.n_secure++ % ELEMENTS(vm.secure)];

	assert_null(*slot);
	assert_int_equal(tls_conn_new(vm.loop, fd, vm.tls, NULL, NULL, &ops, slot, slot), 0);
}

static int on_accept(struct watch *w, uint32_t events)
{
	int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)events;
	assert_true(fd >= 0);
	if (vm.tls) {
		accept_secure(fd);
		return 0;
	}
	assert_true(vm.n_conns < ELEMENTS(vm.conns));
	struct watch *c = &vm.conns[vm.n_conns++];
	if (vm.hangs)
		c->fd = fd;
	else
		assert_int_equal(watch_add(vm.loop, c, fd, EPOLLIN, false, on_request), 0);
	return 0;
}

static void listen_again(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(vm.port) };
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	vm.port = ntohs(sa.sin_port);
	assert_int_equal(watch_add(vm.loop, &vm.listener, fd, EPOLLIN, false, on_accept), 0);
}

static void deaf(void)
{
	int fd = vm.listener.fd;

	watch_remove(&vm.listener);
	close(fd);
}

static void hang_up_all(void)
{
	for (size_t i = 0; i < vm.n_conns; i++) {
		int fd = vm.conns[i].fd;

		if (vm.conns[i].loop || vm.hangs) {
			watch_remove(&vm.conns[i]);
			close(fd);
		}
		vm.conns[i] = (struct watch){};
	}
	vm.n_conns = 0;
}

static void on_changed(void *data)
{
	(void)data;
	vm.n_changed++;
}

static void set(Outrigger__Health__Check *check)
{
	Outrigger__Ipc__VmPut put = OUTRIGGER__IPC__VM_PUT__INIT;
	Outrigger__Ipc__ServicePort port = OUTRIGGER__IPC__SERVICE_PORT__INIT, *ports[] = { &port };
	char *addresses[] = { TEXT("127.0.0.1") };

	port.port = port.target_port = vm.port;
	put.addresses = addresses;
	put.n_addresses = 1;
	put.ports = ports;
	put.n_ports = 1;
	put.health = check;
	assert_int_equal(vm_health_set(vm.health, &put), 0);
}

static void start(const char *kind)
{
	Outrigger__Health__Check check = OUTRIGGER__HEALTH__CHECK__INIT;

	check.kind = TEXT(kind);
	check.path = TEXT("ready?x=1");
	check.interval_ms = 5;
	check.timeout_ms = 200;
	check.failures = 2;
	memset(&vm, 0, sizeof(vm));
	assert_int_equal(loop_new(&vm.loop), 0);
	listen_again();
	assert_int_equal(vm_health_new(vm.loop, NULL, on_changed, NULL, &vm.health), 0);
	set(&check);
}

static void stop(void)
{
	vm.health = vm_health_free(vm.health);
	for (size_t i = 0; i < ELEMENTS(vm.secure); i++)
		vm.secure[i] = tls_conn_free(vm.secure[i]);
	tls_ctx_unref(vm.tls);
	deaf();
	hang_up_all();
	assert_int_equal(loop_turn(vm.loop, 0), 0);	/* what is freed later */
	loop_free(vm.loop);
}

static const char *until(enum health_state state)
{
	static char reason[VM_HEALTH_REASON_LEN];
	uint64_t end = clock_mono_ms() + 60000;

	while (vm_health_sum(vm.health, reason) != state && clock_mono_ms() < end) {
		if (vm.n_conns > ELEMENTS(vm.conns) / 2)
			hang_up_all();
		assert_int_equal(loop_turn(vm.loop, 100), 0);
	}
	assert_int_equal(vm_health_sum(vm.health, reason), state);
	return reason;
}

static void an_accepted_connection_is_healthy_and_a_refused_one_is_not(void **state)
{
	(void)state;
	start("tcp");
	until(HEALTH_UP);
	deaf();
	assert_non_null(strstr(until(HEALTH_DOWN), "refused"));
	listen_again();
	until(HEALTH_UP);
	stop();
}

static void an_http_status_decides(void **state)
{
	static const struct { const char *says, *reason; } bad[] = {
		{ "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "HTTP status 500" },
		{ "HTTP/1.1 404 No\r\n\r\n", "HTTP status 404" },
		{ "HTTP/1.1 100 Go on\r\n\r\n", "without an answer" },
		{ "SSH-2.0-server\r\n", "not HTTP/1" },
		{ NULL, "without an answer" },
	};

	(void)state;
	start("http");
	vm.says = "HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 302 There\r\nLocation: /\r\n\r\n";
	until(HEALTH_UP);
	assert_non_null(strstr(vm.heard, "GET /ready?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"));
	for (size_t i = 0; i < ELEMENTS(bad); i++) {
		vm.says = bad[i].says;
		assert_non_null(strstr(until(HEALTH_DOWN), bad[i].reason));
		vm.says = "HTTP/1.0 200 OK\r\n\r\nwell";
		until(HEALTH_UP);
	}
	stop();
}

/* As kubelets do: a server whose certificate nobody knows, or is of yesterday, is as well as its answer. */
static void an_https_status_decides_whatever_the_certificate(void **state)
{
	Outrigger__Health__Check check = OUTRIGGER__HEALTH__CHECK__INIT;
	struct pki *pki = pki_new();
	const struct pki_want old = { .san = "DNS:somebody.example", .from_s = -7200, .until_s = -3600 };
	const struct pki_leaf *leaf = pki_issue(pki, &old);
	const struct tls_config config = { .role = TLS_SERVER, .verify = TLS_VERIFY_NONE, .cert_pem = leaf->cert_pem, .key_pem = leaf->key_pem, .allow_tls12 = true };
	struct diag d = {};

	(void)state;
	start("https");
	vm.says = "SSH-2.0-server\r\n";
	until(HEALTH_DOWN);		/* it speaks no TLS */
	hang_up_all();
	assert_int_equal(tls_ctx_new(&config, &vm.tls, &d), 0);
	vm.says = "HTTP/1.1 204 Well\r\n\r\n";
	until(HEALTH_UP);
	assert_non_null(strstr(vm.heard, "GET /ready?x=1 HTTP/1.1\r\nHost: 127.0.0.1:"));
	vm.says = "HTTP/1.1 500 Oh\r\n\r\n";
	assert_non_null(strstr(until(HEALTH_DOWN), "HTTP status 500"));
	check.kind = TEXT("https");
	check.host = TEXT("web.example");	/* is asked for by SNI, and in the request */
	check.interval_ms = 5;
	vm.says = "HTTP/1.1 200 Well\r\n\r\n";
	set(&check);
	until(HEALTH_UP);
	assert_non_null(strstr(vm.heard, "Host: web.example\r\n"));
	stop();
	pki_free(pki);
}

/* A claim is called at its own address: that is where it is asked. */
static void each_address_is_checked_by_itself(void **state)
{
	Outrigger__Health__Check check = OUTRIGGER__HEALTH__CHECK__INIT;
	Outrigger__Ipc__VmPut put = OUTRIGGER__IPC__VM_PUT__INIT;
	Outrigger__Ipc__HealthTarget here = OUTRIGGER__IPC__HEALTH_TARGET__INIT, there = OUTRIGGER__IPC__HEALTH_TARGET__INIT;
	Outrigger__Ipc__HealthTarget *targets[] = { &there, &here, &here };
	char *addresses[] = { TEXT("127.0.0.2"), TEXT("127.0.0.1") };

	(void)state;
	start("tcp");
	check.kind = TEXT("tcp");
	check.interval_ms = 5;
	check.failures = 1;
	here.address = addresses[1];
	there.address = addresses[0];
	here.port = there.port = vm.port;
	put.addresses = addresses;
	put.n_addresses = 2;
	put.health = &check;
	put.health_targets = targets;
	put.n_health_targets = 3;
	assert_int_equal(vm_health_set(vm.health, &put), 0);
	assert_int_equal(vm_health_n_ports(vm.health), 2);
	until(HEALTH_DOWN);		/* nobody listens at 127.0.0.2 */
	for (size_t i = 0; i < 2; i++) {
		const struct vm_health_port p = vm_health_port(vm.health, i);
		char text[IP_TEXT_LEN];
		bool first = !strcmp(ip_format(&p.at.ip, text), "127.0.0.2");

		while (p.health->state != (first ? HEALTH_DOWN : HEALTH_UP)) {
			hang_up_all();
			assert_int_equal(loop_turn(vm.loop, 100), 0);
		}
	}
	put.health_targets = &targets[1];	/* nothing is registered there any more */
	put.n_health_targets = 1;
	assert_int_equal(vm_health_set(vm.health, &put), 0);
	assert_int_equal(vm_health_n_ports(vm.health), 1);
	until(HEALTH_UP);
	stop();
}

static void an_answer_without_an_end_has_a_maximum(void **state)
{
	static char large[HEALTH_REASON_LEN + 200000];

	(void)state;
	start("http");
	memset(large, 'x', sizeof(large));
	memcpy(large, "HTTP/1.1 200 OK\r\nX: ", 20);
	vm.says = large;
	vm.n_says = sizeof(large);
	until(HEALTH_DOWN);
	stop();
}

static void who_takes_a_connection_and_hangs_is_unhealthy(void **state)
{
	static const char *const kinds[] = { "http", "https", "grpc" };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(kinds); i++) {
		start(kinds[i]);
		vm.hangs = true;
		assert_non_null(strstr(until(HEALTH_DOWN), "200 ms"));
		stop();
	}
}

static void what_does_not_speak_grpc_is_unhealthy(void **state)
{
	(void)state;
	start("grpc");
	vm.says = "HTTP/1.1 400 Bad Request\r\n\r\n";
	until(HEALTH_DOWN);
	vm.says = NULL;
	until(HEALTH_DOWN);
	stop();
}

static void a_port_that_is_not_offered_any_more_is_forgotten(void **state)
{
	char reason[VM_HEALTH_REASON_LEN];

	(void)state;
	start("tcp");
	until(HEALTH_UP);
	assert_int_equal(vm_health_n_ports(vm.health), 1);
	vm.n_changed = 0;
	set(NULL);
	assert_int_equal(vm.n_changed, 1);
	assert_int_equal(vm_health_n_ports(vm.health), 0);
	assert_int_equal(vm_health_sum(vm.health, reason), HEALTH_UP);
	stop();
}

static void another_check_keeps_the_state_until_it_has_spoken(void **state)
{
	Outrigger__Health__Check check = OUTRIGGER__HEALTH__CHECK__INIT;
	char reason[VM_HEALTH_REASON_LEN];

	(void)state;
	start("tcp");
	until(HEALTH_UP);
	check.kind = TEXT("http");
	check.interval_ms = 5;
	check.failures = 1;
	vm.says = "HTTP/1.1 503 No\r\n\r\n";
	set(&check);
	assert_int_equal(vm_health_sum(vm.health, reason), HEALTH_UP);
	assert_non_null(strstr(until(HEALTH_DOWN), "503"));
	stop();
}

static void a_check_that_would_leave_its_line_is_refused(void **state)
{
	Outrigger__Health__Check good = OUTRIGGER__HEALTH__CHECK__INIT, bad;
	Outrigger__Health__Header header = OUTRIGGER__HEALTH__HEADER__INIT, *headers[] = { &header };
	struct diag d = {};

	(void)state;
	good.kind = TEXT("http");
	good.path = TEXT("/ready?a=b%20c");
	header.name = TEXT("X-Y");
	header.value = TEXT("a b");
	good.headers = headers;
	good.n_headers = 1;
	assert_int_equal(health_check_valid(&good, &d), 0);
	bad = good, bad.kind = TEXT("exec");
	assert_int_equal(health_check_valid(&bad, &d), -EINVAL);
	bad = good, bad.path = TEXT("/ HTTP/1.1\r\nX: y");
	assert_int_equal(health_check_valid(&bad, &d), -EINVAL);
	bad = good, bad.path = TEXT("/a b");
	assert_int_equal(health_check_valid(&bad, &d), -EINVAL);
	bad = good, bad.host = TEXT("a\nb");
	assert_int_equal(health_check_valid(&bad, &d), -EINVAL);
	bad = good, bad.port = 65536;
	assert_int_equal(health_check_valid(&bad, &d), -EINVAL);
	header.value = TEXT("a\r\nb: c");
	assert_int_equal(health_check_valid(&good, &d), -EINVAL);
	header.value = TEXT("");
	header.name = TEXT("X Y");
	assert_int_equal(health_check_valid(&good, &d), -EINVAL);
	header.name = TEXT("");
	assert_int_equal(health_check_valid(&good, &d), -EINVAL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_accepted_connection_is_healthy_and_a_refused_one_is_not),
		cmocka_unit_test(an_http_status_decides),
		cmocka_unit_test(an_https_status_decides_whatever_the_certificate),
		cmocka_unit_test(each_address_is_checked_by_itself),
		cmocka_unit_test(an_answer_without_an_end_has_a_maximum),
		cmocka_unit_test(who_takes_a_connection_and_hangs_is_unhealthy),
		cmocka_unit_test(what_does_not_speak_grpc_is_unhealthy),
		cmocka_unit_test(a_port_that_is_not_offered_any_more_is_forgotten),
		cmocka_unit_test(another_check_keeps_the_state_until_it_has_spoken),
		cmocka_unit_test(a_check_that_would_leave_its_line_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

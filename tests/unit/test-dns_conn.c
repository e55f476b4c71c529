#include "lib/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/dns_mesh.h"
#include "proxy/dns_conn.h"

#define TEXT(s)	((char *)(uintptr_t)(s))	/* protobuf-c has no const; nothing writes to them */

static const char name[] = "web.demo.svc.cluster.local", outside[] = "www.example.org";

static struct {
	struct loop *loop;
	struct dns_mesh mesh;
	struct dns_broker broker;
	struct dns_conns conns;
	Outrigger__Ipc__VmPut put;
	int client;			/* the VM's end */
	int server;			/* the server's; -1: has not been dialled */
	bool nobody;			/* is to be dialled */
	unsigned n_dialled;
} rig;

static void to_vm(void *data, const struct dns_way *way, const void *message, size_t len)
{
	(void)data;
	dns_conn_to_vm(way->conn, message, len);
}

static void to_server(void *data, const struct dns_way *way, const void *message, size_t len)
{
	(void)data;
	dns_conn_to_server(way->conn, message, len);
}

static const struct dns_broker_ops broker_ops = { .to_vm = to_vm, .to_server = to_server };

static int dial(void *data, const struct ip_port *src, const struct ip_port *dst)
{
	int fds[2];

	(void)data;
	assert_true(src->port == 4000 && dst->port == 53);
	if (rig.nobody)
		return -ECONNREFUSED;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	rig.n_dialled++;
	rig.server = fds[1];
	return fds[0];
}

static const struct dns_conns_ops conns_ops = { .dial = dial };

static int open_one(void)
{
	const struct ip_port src = { dns_mesh_ip("10.66.0.12"), 4000 }, dst = { dns_mesh_ip("10.66.0.1"), 53 };
	int fds[2], r;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	r = dns_conns_take(&rig.conns, fds[0], &src, &dst);
	if (r == 0)
		return fds[1];
	close(fds[0]);
	close(fds[1]);
	return r;
}

static int set_up(void **state)
{
	(void)state;
	memset(&rig, 0, sizeof(rig));
	rig.server = -1;
	outrigger__ipc__vm_put__init(&rig.put);
	rig.put.namespace_ = TEXT("demo");
	rig.put.dns = OUTRIGGER__IPC__DNS_MODE__DNS_ANSWER;
	assert_int_equal(dns_mesh_init(&rig.mesh), 0);
	assert_int_equal(loop_new(&rig.loop), 0);
	dns_broker_init(&rig.broker, rig.loop, &broker_ops, NULL, &dns_mesh_ops, &rig.mesh);
	rig.broker.put = &rig.put;
	dns_conns_init(&rig.conns, rig.loop, &rig.broker, &conns_ops, NULL);
	rig.client = open_one();
	assert_true(rig.client >= 0);
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	dns_conns_deinit(&rig.conns);
	dns_broker_deinit(&rig.broker);
	loop_free(rig.loop);
	dns_mesh_deinit(&rig.mesh);
	close_fd(rig.client);
	close_fd(rig.server);
	return 0;
}

static void turn(void)
{
	assert_true(loop_turn(rig.loop, 20) >= 0);
}

static size_t frame(uint8_t to[static 514], const char *host, uint16_t id, int rcode)
{
	size_t len = dns_message_make(to + 2, host, DNS_TYPE_A, id, rcode);

	to[0] = (uint8_t)(len >> 8);
	to[1] = (uint8_t)len;
	return len + 2;
}

static void say(int fd, const char *host, uint16_t id, int rcode)
{
	uint8_t f[514];
	size_t len = frame(f, host, id, rcode);

	assert_int_equal(send(fd, f, len, MSG_NOSIGNAL), len);
}

/* Exactly so many bytes, however they come. */
static void hear(int fd, void *to, size_t len)
{
	for (size_t have = 0; have < len;) {
		ssize_t n = recv(fd, (uint8_t *)to + have, len - have, 0);

		assert_true(n > 0 || (n < 0 && errno == EAGAIN));
		if (n > 0)
			have += (size_t)n;
		else
			turn();
	}
}

/* The id of the next message; 0: the end. */
static uint16_t next_id(int fd)
{
	uint8_t head[2], message[65535], one;

	while (recv(fd, &one, 1, MSG_PEEK) < 0 && errno == EAGAIN)
		turn();
	if (recv(fd, &one, 1, MSG_PEEK) == 0)
		return 0;
	hear(fd, head, sizeof(head));
	hear(fd, message, (size_t)(head[0] << 8 | head[1]));
	return (uint16_t)(message[0] << 8 | message[1]);
}

static void hear_end(int fd)
{
	uint8_t byte;
	ssize_t n;

	while ((n = recv(fd, &byte, 1, 0)) < 0 && errno == EAGAIN)
		turn();
	assert_true(n == 0 || (n < 0 && errno == ECONNRESET));
	while (rig.conns.n)
		turn();
}

/* --- tests --- */

static void a_server_is_dialled_for_what_the_mesh_does_not_know(void **state)
{
	uint8_t f[514];
	size_t len = frame(f, name, 1, -1);

	(void)state;
	for (size_t i = 0; i < len; i++) {
		assert_int_equal(send(rig.client, f + i, 1, 0), 1);
		turn();
	}
	assert_int_equal(next_id(rig.client), 1);
	assert_int_equal(rig.n_dialled, 0);
	say(rig.client, outside, 2, -1);
	say(rig.client, name, 3, -1);
	say(rig.client, outside, 4, -1);
	assert_int_equal(next_id(rig.client), 3);
	assert_int_equal(rig.n_dialled, 1);
	assert_int_equal(next_id(rig.server), 2);
	assert_int_equal(next_id(rig.server), 4);
	say(rig.server, outside, 4, 0);
	say(rig.server, outside, 2, 0);
	assert_int_equal(next_id(rig.client), 4);
	assert_int_equal(next_id(rig.client), 2);
	shutdown(rig.client, SHUT_WR);
	assert_int_equal(next_id(rig.server), 0);
	rig.server = close_fd(rig.server);
	hear_end(rig.client);
}

static void an_end_comes_after_the_answers(void **state)
{
	(void)state;
	say(rig.client, name, 1, -1);
	say(rig.client, name, 2, -1);
	shutdown(rig.client, SHUT_WR);
	assert_int_equal(next_id(rig.client), 1);
	assert_int_equal(next_id(rig.client), 2);
	hear_end(rig.client);
	assert_int_equal(rig.n_dialled, 0);
}

static void a_server_that_goes_leaves_the_names_of_the_mesh(void **state)
{
	(void)state;
	rig.put.dns = OUTRIGGER__IPC__DNS_MODE__DNS_FILL;
	say(rig.client, name, 1, -1);
	say(rig.client, outside, 2, -1);
	while (rig.server < 0)
		turn();
	rig.server = close_fd(rig.server);	/* with bytes that it has not read: a reset */
	assert_int_equal(next_id(rig.client), 1);
	hear_end(rig.client);
	rig.client = close_fd(rig.client);
	rig.client = open_one();
	rig.nobody = true;
	say(rig.client, outside, 2, -1);
	hear_end(rig.client);
}

static void other_protocols_are_passed_on(void **state)
{
	static const char *const openings[] = { "SSH-2.0-OpenSSH_9.2p1\r\n", "\0\1x", "" /* waits for the server */ };
	char heard[64];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(openings); i++) {
		size_t len = i == 1 ? 3 : strlen(openings[i]);

		assert_int_equal(send(rig.client, openings[i], len, 0), len);
		while (rig.server < 0)
			turn();
		hear(rig.server, heard, len);
		assert_memory_equal(heard, openings[i], len);
		assert_int_equal(send(rig.server, "hello", 5, 0), 5);
		hear(rig.client, heard, 5);
		assert_memory_equal(heard, "hello", 5);
		say(rig.client, name, 1, -1);			/* is no query any more */
		assert_int_equal(next_id(rig.server), 1);
		shutdown(rig.server, SHUT_WR);
		assert_int_equal(next_id(rig.client), 0);
		assert_int_equal(send(rig.client, "bye", 3, 0), 3);
		hear(rig.server, heard, 3);
		rig.client = close_fd(rig.client);
		hear_end(rig.server);
		rig.server = close_fd(rig.server);
		rig.client = open_one();
	}
}

/* What the VM does not read is not answered for ever. */
static void a_slow_reader_is_not_read(void **state)
{
	uint8_t f[514];
	size_t len = frame(f, name, 1, -1);
	unsigned n = 0, quiet = 0;

	(void)state;
	while (quiet < 10) {
		ssize_t r = send(rig.client, f, len, MSG_NOSIGNAL);

		assert_true(r == (ssize_t)len || (r < 0 && errno == EAGAIN));
		n += r > 0;
		if (r > 0 && n % 16)
			continue;
		quiet = r > 0 ? 0 : quiet + 1;
		turn();
	}
	assert_true(rig.broker.count.queries < n);
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(next_id(rig.client), 1);
}

static void there_are_not_too_many(void **state)
{
	int fds[DNS_CONN_MAX];

	(void)state;
	for (int i = 1; i < DNS_CONN_MAX; i++)
		assert_true((fds[i] = open_one()) >= 0);
	assert_int_equal(open_one(), -EBUSY);
	for (int i = 1; i < DNS_CONN_MAX; i++)
		close(fds[i]);
	while (rig.conns.n > 1)
		turn();
	say(rig.client, name, 1, -1);
	assert_int_equal(next_id(rig.client), 1);
}

/* Cut at every byte, from either side, and nonsense of either side: it ends, or goes on, and nothing is left behind. */
static void cuts_and_nonsense_are_survived(void **state)
{
	static const uint8_t nonsense[3000] = { [0] = 0, [1] = 20, [5] = 1, [22] = 0xff, [23] = 0xff, [24] = 3 };
	uint8_t f[514];
	size_t len = frame(f, outside, 1, -1);

	(void)state;
	for (size_t cut = 0; cut <= len; cut++) {
		assert_int_equal(send(rig.client, f, cut, 0), cut);
		turn();
		if (rig.server >= 0) {
			assert_int_equal(send(rig.server, f, cut / 2, 0), cut / 2);
			assert_int_equal(send(rig.server, nonsense, sizeof(nonsense), 0), sizeof(nonsense));
			turn();
			rig.server = close_fd(rig.server);
		}
		rig.client = close_fd(rig.client);
		while (rig.conns.n)
			turn();
		rig.client = open_one();
	}
	assert_int_equal(send(rig.client, nonsense, sizeof(nonsense), 0), sizeof(nonsense));
	while (rig.server < 0)
		turn();
	assert_int_equal(rig.broker.n_pending, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_server_is_dialled_for_what_the_mesh_does_not_know, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_end_comes_after_the_answers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_server_that_goes_leaves_the_names_of_the_mesh, set_up, tear_down),
		cmocka_unit_test_setup_teardown(other_protocols_are_passed_on, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_slow_reader_is_not_read, set_up, tear_down),
		cmocka_unit_test_setup_teardown(there_are_not_too_many, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cuts_and_nonsense_are_survived, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Workers with real sockets on loopback. A is the worker of the VM "client",
 * B that of the VM "server" with two endpoints of a service; what A dials goes
 * to B through tunnels. No transparent sockets: addresses are of 127/8, some of
 * this process only, and the listeners stand where the VMs are said to be.
 */
#include "lib/unit.h"
#include "lib/alloc.h"
#include "lib/pki.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "proxy/hbone.h"
#include "proxy/pool.h"

#define CLIENT_ID "spiffe://td/ns/shop/sa/client"
#define SERVER_ID "spiffe://td/ns/shop/sa/server"

enum { CLIENT = 1, SERVER = 2, SERVER_2 = 3, PLAIN = 4, NOBODY = 5, VIP = 10, STRANGER = 20, APP_PORT = 9000, WAIT_MS = 20000 };

static struct pki *pki;
static const struct pki_leaf *client_leaf, *server_leaf, *other_leaf;

/* --- the rig --- */

struct side {
	struct worker *w;
	struct vm *vm[6];
	struct vm_conf *conf[6];
	size_t n;
};

static struct {
	struct loop *loop;
	struct mailbox box;
	struct side a, b;
	struct snap_store *store;
	struct snapshot *snap;
	uint16_t out_port;		/* of A's outbound listener, at every address */
	int app, app_2;			/* listeners of the applications in the VMs */
	struct flow_report *reports[512];
	size_t n_reports;
	struct ip asked[8];
	size_t n_asked;
	size_t n_removed;
	uint8_t tee[4096];
	size_t n_tee;
	uint64_t tee_lost;
} rig;

static struct ip ip_at(int n)
{
	pid_t pid = getpid();
	uint8_t b[4] = { 127, (uint8_t)(pid >> 8 & 0x7f), (uint8_t)pid, (uint8_t)n };

	return ip_from_v4(b);
}

static struct ip_port at(int n, uint16_t port)
{
	return (struct ip_port){ ip_at(n), port };
}

static void on_resolve(void *data, struct vm *vm, const struct ip *ip)
{
	(void)data;
	(void)vm;
	if (rig.n_asked < ELEMENTS(rig.asked))
		rig.asked[rig.n_asked++] = *ip;
}

static void on_report(void *data, struct flow_report *r)
{
	(void)data;
	if (rig.n_reports < ELEMENTS(rig.reports))
		rig.reports[rig.n_reports++] = r;
	else
		flow_report_free(r);
}

static void on_tee(void *data, struct flow_tee *t)
{
	(void)data;
	if (rig.n_tee + t->len <= sizeof(rig.tee)) {
		memcpy(rig.tee + rig.n_tee, t->data, t->len);
		rig.n_tee += t->len;
	}
	rig.tee_lost += t->lost;
	flow_tee_free(t);
}

static void on_removed(void *data, struct vm *vm)
{
	(void)data;
	(void)vm;
	rig.n_removed++;
}

static const struct worker_events events = { .resolve = on_resolve, .report = on_report, .tee = on_tee, .removed = on_removed };

static void on_wake(void *data)
{
	(void)data;
	mailbox_deliver(&rig.box, NULL);
}

/* Runs the main thread's loop until @done says so. */
static void wait_until(bool (*done)(void *arg), void *arg)
{
	uint64_t end = clock_mono_ms() + WAIT_MS;

	while (!done(arg)) {
		assert_true(clock_mono_ms() < end);
		assert_int_equal(loop_turn(rig.loop, 20), 0);
	}
}

static int listen_at(const struct ip_port *addr)
{
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(addr, AF_INET, &sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(listen(fd, 1024), 0);
	return fd;
}

static struct tls_ctx *ctx_of(enum tls_role role, const struct pki_leaf *leaf)
{
	static const char *const h2[] = { "h2", NULL };
	struct tls_config c = {
		.role = role, .cert_pem = leaf->cert_pem, .key_pem = leaf->key_pem, .roots_pem = pki_root_pem(pki), .alpn = h2,
	};
	struct tls_ctx *ctx;

	assert_int_equal(tls_ctx_new(&c, &ctx, NULL), 0);
	return ctx;
}

/* A configuration of @vm, given to its worker. */
static struct vm_conf *configure(struct side *s, size_t i, const struct pki_leaf *leaf, int address, const char *uid,
				 void (*change)(struct vm_conf *c))
{
	struct vm_conf *c;

	assert_int_equal(vm_conf_new(s->vm[i], &c), 0);
	c->uid = strdup(uid);
	c->namespace = strdup("shop");
	c->trust_domain = strdup("td");
	c->client = leaf ? ctx_of(TLS_CLIENT, leaf) : NULL;
	c->server = leaf ? ctx_of(TLS_SERVER, leaf) : NULL;
	c->addresses[c->n_addresses++] = ip_at(address);
	c->plain_mesh = VM_PLAIN_ALLOW;
	if (change)
		change(c);
	assert_int_equal(worker_put_vm(s->w, c), 0);
	vm_conf_unref(s->conf[i]);
	s->conf[i] = c;
	return c;
}

static void add_vm(struct side *s, const char *id, int outbound, int inbound)
{
	assert_int_equal(vm_new((uint32_t)s->n + (s == &rig.b ? 100 : 0), id, outbound, inbound, 1, &s->vm[s->n]), 0);
	s->n++;
}

static void start_worker(struct side *s)
{
	struct worker_conf c = {
		.main = &rig.box, .events = &events, .index = 0, .n_workers = 1, .sockd_sock = -1, .hbone_port = SNAP_HBONE_PORT,
	};

	assert_int_equal(worker_new(&c, &s->w), 0);
}

/* --- the mesh --- */

static void put_workload(const char *uid, int address, const char *account, enum tunnel tunnel, const char *service, const char *policy)
{
	struct ip ip = ip_at(address);
	struct port_map port = { rig.out_port, APP_PORT, APP_TCP };
	struct workload_service member = { service, &port, 1 };
	struct workload w = {
		.uid = uid, .name = uid, .namespace = "shop", .network = "", .trust_domain = "td", .service_account = account,
		.workload_name = uid, .canonical_name = uid, .addresses = &ip, .n_addresses = 1, .tunnel = tunnel, .capacity = 1,
		.services = &member, .n_services = service ? 1 : 0, .policies = &policy, .n_policies = policy ? 1 : 0,
	};

	assert_int_equal(snap_store_put_workload(rig.store, &w), 0);
}

/* @waypoint: the service that is in front of it, or NULL. */
static void put_service_behind(const char *name, int vip, uint16_t at_port, const char *waypoint)
{
	struct service_address address = { "", ip_at(vip), 128 };
	struct port_map port = { at_port, APP_PORT, APP_TCP };
	struct service s = {
		.name = name, .namespace = "shop", .hostname = name, .addresses = &address, .n_addresses = 1, .ports = &port, .n_ports = 1,
		.waypoint = { .namespace = waypoint ? "shop" : NULL, .hostname = waypoint },
	};

	assert_int_equal(snap_store_put_service(rig.store, &s), 0);
}

static void put_service(const char *name, int vip)
{
	put_service_behind(name, vip, rig.out_port, NULL);
}

/* The one endpoint of the service @service that is a waypoint. */
static void put_waypoint(const char *uid, int address, const char *service)
{
	struct ip ip = ip_at(address);
	struct port_map port = { SNAP_HBONE_PORT, SNAP_HBONE_PORT, APP_TCP };
	struct workload_service member = { service, &port, 1 };
	struct workload w = {
		.uid = uid, .name = uid, .namespace = "shop", .network = "", .trust_domain = "td", .service_account = "server",
		.workload_name = uid, .canonical_name = uid, .addresses = &ip, .n_addresses = 1, .capacity = 1, .services = &member, .n_services = 1,
	};

	assert_int_equal(snap_store_put_workload(rig.store, &w), 0);
}

static void put_deny(const char *name, const char *account)
{
	struct account_match who = { "shop", account };
	struct policy_match match = { .accounts = { &who, 1 } };
	struct policy_clause clause = { .matches = &match, .n_matches = 1 };
	struct policy_rule rule = { .clauses = &clause, .n_clauses = 1 };
	struct policy p = {
		.name = name, .namespace = "shop", .scope = POLICY_NAMESPACE, .action = POLICY_DENY, .rules = &rule, .n_rules = 1,
	};

	struct bytes b;
	struct policy owned;

	bytes_init(&b, 65536);
	assert_int_equal(policy_encode(&p, &b), 0);	/* the store wants one with its own memory */
	assert_int_equal(policy_decode(b.data, b.len, &owned, NULL), 0);
	assert_int_equal(snap_store_put_policy(rig.store, &owned), 0);
	bytes_deinit(&b);
}

static void publish(void)
{
	snapshot_unref(rig.snap);
	assert_int_equal(snap_store_publish(rig.store, &rig.snap), 0);
	if (rig.a.w)
		assert_int_equal(worker_set_snapshot(rig.a.w, rig.snap), 0);
	if (rig.b.w)
		assert_int_equal(worker_set_snapshot(rig.b.w, rig.snap), 0);
}

static int setup(void **state)
{
	struct sockaddr_in sa = {};
	socklen_t len = sizeof(sa);
	int out;

	(void)state;
	memset(&rig, 0, sizeof(rig));
	assert_int_equal(loop_new(&rig.loop), 0);
	mailbox_init(&rig.box, rig.loop);
	loop_on_wake(rig.loop, on_wake, NULL);
	assert_int_equal(snap_store_new("", &rig.store), 0);
	assert_int_equal(snap_store_set_policies_known(rig.store, true), 0);

	struct ip any = ip_from_v4((uint8_t[4]){ 0, 0, 0, 0 });
	out = listen_at(&(struct ip_port){ any, 0 });
	assert_int_equal(getsockname(out, (struct sockaddr *)&sa, &len), 0);
	rig.out_port = ntohs(sa.sin_port);
	rig.app = listen_at(&(struct ip_port){ ip_at(SERVER), APP_PORT });
	rig.app_2 = listen_at(&(struct ip_port){ ip_at(SERVER_2), APP_PORT });

	start_worker(&rig.a);
	start_worker(&rig.b);
	add_vm(&rig.a, "client", out, -1);
	add_vm(&rig.b, "server", -1, listen_at(&(struct ip_port){ ip_at(SERVER), SNAP_HBONE_PORT }));
	configure(&rig.a, 0, client_leaf, CLIENT, "client", NULL);
	configure(&rig.b, 0, server_leaf, SERVER, "server", NULL);

	put_service("web", VIP);
	put_workload("client", CLIENT, "client", TUNNEL_HBONE, NULL, NULL);
	put_workload("server", SERVER, "server", TUNNEL_HBONE, "shop/web", NULL);
	publish();
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	struct side *sides[] = { &rig.a, &rig.b };

	for (size_t s = 0; s < 2; s++) {
		worker_stop(sides[s]->w);
		for (size_t i = 0; i < sides[s]->n; i++) {
			assert_int_equal(sides[s]->vm[i]->n_connections, 0);
			assert_int_equal(sides[s]->vm[i]->buffered_bytes, 0);
			assert_int_equal(sides[s]->vm[i]->n_tunnels, 0);
			assert_int_equal(sides[s]->vm[i]->n_handshakes, 0);
			vm_conf_unref(sides[s]->conf[i]);
			vm_unref(sides[s]->vm[i]);
		}
	}
	mailbox_deliver(&rig.box, NULL);
	for (size_t i = 0; i < rig.n_reports; i++)
		flow_report_free(rig.reports[i]);
	snapshot_unref(rig.snap);
	assert_int_equal(snap_store_reclaim(rig.store), 0);
	snap_store_free(rig.store);
	close(rig.app);
	close(rig.app_2);
	loop_free(rig.loop);
	return 0;
}

/* --- what applications do --- */

static void set_timeouts(int fd)
{
	struct timeval tv = { .tv_sec = WAIT_MS / 1000 };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

static int dial(int n)
{
	struct ip_port addr = at(n, rig.out_port);
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(&addr, AF_INET, &sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	set_timeouts(fd);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
	return fd;
}

static int take(int listener)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };
	int fd;

	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	set_timeouts(fd);
	return fd;
}

static void say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void hear(int fd, const char *text)
{
	char got[256];
	size_t n = 0, want = strlen(text);

	while (n < want) {
		ssize_t r = recv(fd, got + n, want - n, 0);

		assert_true(r > 0);
		n += (size_t)r;
	}
	assert_memory_equal(got, text, want);
}

static void hear_end(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), 0);
}

static void hear_reset(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
}

/* One that is accepted, as all are, and then refused. */
static void dial_in_vain(int n)
{
	int fd = dial(n);

	hear_reset(fd);
	close(fd);
}

static void reset(int fd)
{
	struct linger l = { .l_onoff = 1 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

/* --- reports --- */

struct wanted {
	enum flow_event event;
	enum flow_direction direction;
	const struct flow_report *found;
};

static bool is_there(void *arg)
{
	struct wanted *w = arg;

	for (size_t i = 0; i < rig.n_reports && !w->found; i++)
		if (rig.reports[i]->event == w->event && rig.reports[i]->direction == w->direction)
			w->found = rig.reports[i];
	return w->found;
}

static const struct flow_report *report_of(enum flow_event event, enum flow_direction direction)
{
	struct wanted w = { event, direction, NULL };

	wait_until(is_there, &w);
	return w.found;
}

static void forget_reports(void)
{
	for (size_t i = 0; i < rig.n_reports; i++)
		flow_report_free(rig.reports[i]);
	rig.n_reports = 0;
}

static struct vm_counters counters_of(const struct vm *vm)
{
	struct vm_counters c;

	vm_count(vm, &c);
	return c;
}

/* --- tests --- */

static void a_connection_goes_through_a_tunnel_and_ends_half_by_half(void **state)
{
	const struct flow_report *r;
	int c = dial(VIP), s = take(rig.app);

	(void)state;
	say(c, "hello");
	hear(s, "hello");
	say(s, "world!");
	hear(c, "world!");
	shutdown(c, SHUT_WR);
	hear_end(s);
	say(s, "still here");
	hear(c, "still here");
	close(s);
	hear_end(c);
	close(c);

	r = report_of(FLOW_OPENED, FLOW_OUTBOUND);
	assert_true(r->hbone);
	assert_string_equal(r->peer->identity, SERVER_ID);
	assert_string_equal(r->peer->service_host, "web");
	assert_string_equal(r->peer->workload_name, "server");
	r = report_of(FLOW_CLOSED, FLOW_OUTBOUND);
	assert_int_equal(r->result, FLOW_OK);
	assert_int_equal(r->bytes_sent, 5);
	assert_int_equal(r->bytes_received, 16);
	assert_int_equal(r->status, 200);
	r = report_of(FLOW_CLOSED, FLOW_INBOUND);
	assert_int_equal(r->result, FLOW_OK);
	assert_int_equal(r->bytes_sent, 5);
	assert_int_equal(r->bytes_received, 16);
	assert_string_equal(r->peer->identity, CLIENT_ID);
	assert_true(r->peer->mutual_tls);
	assert_int_equal(r->destination.port, APP_PORT);
}

static void many_connections_share_a_tunnel(void **state)
{
	enum { N = 200 };
	int c[N], s[N];

	(void)state;
	for (int i = 0; i < N; i++)
		c[i] = dial(VIP);
	for (int i = 0; i < N; i++)
		s[i] = take(rig.app);
	for (int i = 0; i < N; i++)
		say(c[i], "x");
	for (int i = 0; i < N; i++)
		hear(s[i], "x");
	assert_int_equal(counters_of(rig.a.vm[0]).tunnels_opened[FLOW_OUTBOUND], 1);
	assert_int_equal(counters_of(rig.b.vm[0]).opened[FLOW_INBOUND], N);
	for (int i = 0; i < N; i++) {
		close(c[i]);
		hear_end(s[i]);
		close(s[i]);
	}
}

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 7 + (i >> 8) + (i >> 16));
}

/* As much of [*at, end) as @fd takes without waiting. */
static void send_some(int fd, size_t *at_byte, size_t end)
{
	uint8_t buf[65536];

	while (*at_byte < end) {
		size_t n = MIN(sizeof(buf), end - *at_byte);
		ssize_t r;

		for (size_t i = 0; i < n; i++)
			buf[i] = byte_at(*at_byte + i);
		r = send(fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (r < 0) {
			assert_int_equal(errno, EAGAIN);
			return;
		}
		*at_byte += (size_t)r;
	}
}

static void recv_some(int fd, size_t *at_byte)
{
	uint8_t buf[65536];
	ssize_t r;

	while ((r = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		for (ssize_t i = 0; i < r; i++)
			assert_int_equal(buf[i], byte_at((*at_byte)++));
}

static void bulk_goes_both_ways_at_once(void **state)
{
	enum { LEN = 12 * 1024 * 1024 };
	size_t out[2] = {}, in[2] = {};
	int fd[2];

	(void)state;
	fd[0] = dial(VIP);
	fd[1] = take(rig.app);
	while (in[0] < LEN || in[1] < LEN) {
		struct pollfd p[2] = { { fd[0], POLLIN | (out[0] < LEN ? POLLOUT : 0), 0 }, { fd[1], POLLIN | (out[1] < LEN ? POLLOUT : 0), 0 } };

		assert_true(poll(p, 2, WAIT_MS) > 0);
		for (int i = 0; i < 2; i++) {
			if (p[i].revents & POLLOUT)
				send_some(fd[i], &out[i], LEN);
			if (p[i].revents & POLLIN)
				recv_some(fd[i], &in[i]);
		}
	}
	assert_int_equal(in[0], LEN);
	assert_int_equal(in[1], LEN);
	close(fd[0]);
	hear_end(fd[1]);
	close(fd[1]);
}

static void a_slow_reader_stops_the_writer_and_nobody_else(void **state)
{
	enum { LEN = 48 * 1024 * 1024, WINDOW = 4 * 1024 * 1024 };
	size_t out = 0, in = 0, before;
	int c = dial(VIP), s = take(rig.app), c2, s2;

	(void)state;
	do {				/* until nothing moves any more */
		struct pollfd p = { c, POLLOUT, 0 };

		before = out;
		if (poll(&p, 1, 300) > 0)
			send_some(c, &out, LEN);
	} while (out != before);
	assert_true(out < LEN);
	assert_true(__atomic_load_n(&rig.a.vm[0]->buffered_bytes, __ATOMIC_RELAXED) <= WINDOW);
	assert_true(__atomic_load_n(&rig.b.vm[0]->buffered_bytes, __ATOMIC_RELAXED) <= WINDOW);

	c2 = dial(VIP);
	s2 = take(rig.app);
	say(c2, "quick");
	hear(s2, "quick");
	close(c2);
	close(s2);

	while (in < LEN) {
		struct pollfd p[2] = { { c, out < LEN ? POLLOUT : 0, 0 }, { s, POLLIN, 0 } };

		assert_true(poll(p, 2, WAIT_MS) > 0);
		if (p[0].revents & POLLOUT)
			send_some(c, &out, LEN);
		if (p[1].revents & POLLIN)
			recv_some(s, &in);
	}
	close(c);
	hear_end(s);
	close(s);
}

static void a_reset_on_one_side_is_a_reset_on_the_other(void **state)
{
	int c = dial(VIP), s = take(rig.app);

	(void)state;
	say(c, "a");
	hear(s, "a");
	reset(c);
	hear_reset(s);
	close(s);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_OUTBOUND)->result, FLOW_R_RESET);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_INBOUND)->result, FLOW_R_RESET);

	c = dial(VIP);
	s = take(rig.app);
	say(s, "b");
	hear(c, "b");
	reset(s);
	hear_reset(c);
	close(c);
}

static void a_policy_refuses(void **state)
{
	const struct flow_report *r;

	(void)state;
	put_deny("no-clients", "client");
	publish();
	dial_in_vain(VIP);
	r = report_of(FLOW_CLOSED, FLOW_OUTBOUND);
	assert_int_equal(r->result, FLOW_R_DENIED);
	assert_int_equal(r->status, 401);
	r = report_of(FLOW_CLOSED, FLOW_INBOUND);
	assert_int_equal(r->result, FLOW_R_DENIED);
	assert_int_equal(r->status, 401);
	assert_non_null(strstr(r->why, "shop/no-clients"));
	assert_string_equal(r->peer->identity, CLIENT_ID);
}

static void a_new_policy_cuts_open_connections(void **state)
{
	int c = dial(VIP), s = take(rig.app);

	(void)state;
	say(c, "a");
	hear(s, "a");
	put_deny("no-clients", "client");
	publish();
	hear_reset(s);
	hear_reset(c);
	close(c);
	close(s);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_INBOUND)->result, FLOW_R_POLICY_CHANGED);
}

static void policies_that_are_not_known_yet_are_waited_for(void **state)
{
	int c, s;

	(void)state;
	assert_int_equal(snap_store_set_policies_known(rig.store, false), 0);
	publish();
	c = dial(VIP);
	say(c, "a");
	while (!rig.n_asked)
		assert_int_equal(loop_turn(rig.loop, 20), 0);
	assert_int_equal(snap_store_set_policies_known(rig.store, true), 0);
	publish();
	s = take(rig.app);
	hear(s, "a");
	close(c);
	close(s);
}

static void the_next_endpoint_is_tried(void **state)
{
	(void)state;
	put_workload("nobody", NOBODY, "server", TUNNEL_HBONE, "shop/web", NULL);
	publish();
	for (int i = 0; i < 6; i++) {
		int c = dial(VIP), s = take(rig.app);

		say(c, "a");
		hear(s, "a");
		close(c);
		hear_end(s);
		close(s);
	}
}

static void an_endpoint_whose_application_is_gone_is_passed_over(void **state)
{
	(void)state;
	add_vm(&rig.b, "server-2", -1, listen_at(&(struct ip_port){ ip_at(SERVER_2), SNAP_HBONE_PORT }));
	configure(&rig.b, 1, server_leaf, SERVER_2, "server-2", NULL);
	put_workload("server-2", SERVER_2, "server", TUNNEL_HBONE, "shop/web", NULL);
	publish();
	close(rig.app_2);		/* its proxy is there, and answers 503 */
	rig.app_2 = -1;
	for (int i = 0; i < 8; i++) {
		int c = dial(VIP), s = take(rig.app);

		close(c);
		hear_end(s);
		close(s);
	}
	assert_true(counters_of(rig.a.vm[0]).failed[FLOW_OUTBOUND] == 0);
}

/* A program that is not there yet refuses. However often it did, it is asked soon again: its first clients do not pay for those before. */
static void a_peer_that_starts_late_is_soon_spoken_to(void **state)
{
	int c, s;

	(void)state;
	put_service("late", VIP + 1);
	put_workload("server-2", SERVER_2, "server", TUNNEL_HBONE, "shop/late", NULL);
	publish();
	while (counters_of(rig.a.vm[0]).tunnels_failed[FLOW_OUTBOUND] < 6) {
		dial_in_vain(VIP + 1);
		usleep(5000);
	}
	add_vm(&rig.b, "server-2", -1, listen_at(&(struct ip_port){ ip_at(SERVER_2), SNAP_HBONE_PORT }));
	configure(&rig.b, 1, server_leaf, SERVER_2, "server-2", NULL);
	usleep(200 * 1000);
	c = dial(VIP + 1);
	s = take(rig.app_2);
	say(c, "a");
	hear(s, "a");
	close(c);
	close(s);
}

static void patient(struct vm_conf *c)
{
	c->limits.connect_timeout_ms = 3600 * 1000;
}

/* A port at which SYNs are lost, as at a server without power: its queue is full. Returns how many descriptors @ret_fds has. */
static size_t be_silent(int n, int ret_fds[static 8])
{
	struct ip_port addr = { ip_at(n), SNAP_HBONE_PORT };
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(&addr, AF_INET, &sa);
	size_t i = 0;

	ret_fds[i++] = listen_at(&addr);
	assert_int_equal(listen(ret_fds[0], 0), 0);
	for (struct pollfd p = { .events = POLLOUT }; i < 8; ) {
		p.fd = ret_fds[i++] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		assert_true(connect(p.fd, (struct sockaddr *)&sa, len) == 0 || errno == EINPROGRESS);
		if (poll(&p, 1, 200) == 0)
			return i;
	}
	fail_msg("a queue that is never full");
	return 0;
}

static bool is_waited_for(void *arg)
{
	return __atomic_load_n(&((struct vm *)arg)->n_connections, __ATOMIC_RELAXED) == 1;
}

static void who_waits_for_a_silent_peer_goes_to_another_one(void **state)
{
	int quiet[8], c, s;
	size_t n = be_silent(NOBODY, quiet);

	(void)state;
	configure(&rig.a, 0, client_leaf, CLIENT, "client", patient);
	put_service("half", VIP + 1);
	put_workload("nobody", NOBODY, "server", TUNNEL_HBONE, "shop/half", NULL);
	publish();
	c = dial(VIP + 1);
	wait_until(is_waited_for, rig.a.vm[0]);
	put_workload("server-2", SERVER_2, "server", TUNNEL_HBONE, "shop/half", NULL);
	add_vm(&rig.b, "server-2", -1, listen_at(&(struct ip_port){ ip_at(SERVER_2), SNAP_HBONE_PORT }));
	configure(&rig.b, 1, server_leaf, SERVER_2, "server-2", NULL);
	publish();
	s = take(rig.app_2);
	say(c, "a");
	hear(s, "a");
	assert_int_equal(counters_of(rig.a.vm[0]).retries, 1);
	assert_int_equal(counters_of(rig.a.vm[0]).tunnels_failed[FLOW_OUTBOUND], 0);	/* it is asked still */
	close(c);
	close(s);
	while (n)
		close(quiet[--n]);
}

static void a_peer_with_another_identity_is_not_spoken_to(void **state)
{
	const struct flow_report *r;

	(void)state;
	configure(&rig.b, 0, other_leaf, SERVER, "server", NULL);
	dial_in_vain(VIP);
	r = report_of(FLOW_CLOSED, FLOW_OUTBOUND);
	assert_int_equal(r->result, FLOW_R_CONNECT);
	assert_non_null(strstr(r->why, "peer presented spiffe://td/ns/evil/sa/x"));
	assert_int_equal(counters_of(rig.a.vm[0]).tls_refused, 1);
}

static void a_destination_is_resolved_first(void **state)
{
	struct ip vip = ip_at(STRANGER);
	int c, s;

	(void)state;
	c = dial(STRANGER);
	while (!rig.n_asked)
		assert_int_equal(loop_turn(rig.loop, 20), 0);
	assert_true(ip_equal(&rig.asked[0], &vip));
	put_service("late", STRANGER);
	put_workload("server", SERVER, "server", TUNNEL_HBONE, "shop/late", NULL);
	publish();
	s = take(rig.app);
	say(c, "a");
	hear(s, "a");
	close(c);
	close(s);
}

static void what_the_mesh_does_not_know_is_refused_where_it_must_be(void **state)
{
	(void)state;
	struct ip ip = ip_at(STRANGER);
	assert_int_equal(snap_store_put_absent(rig.store, &ip), 0);
	publish();
	dial_in_vain(STRANGER);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_OUTBOUND)->result, FLOW_R_PLAINTEXT);
	assert_int_equal(counters_of(rig.a.vm[0]).refused[FLOW_OUTBOUND], 1);
}

static void short_resolve(struct vm_conf *c)
{
	c->limits.resolve_timeout_ms = 50;
}

static void a_destination_that_is_never_resolved_is_refused(void **state)
{
	(void)state;
	configure(&rig.a, 0, client_leaf, CLIENT, "client", short_resolve);
	dial_in_vain(STRANGER);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_OUTBOUND)->result, FLOW_R_PLAINTEXT);
}

/* B stands in for the waypoint: what it is asked for is for others, so it refuses, and says so. */
static void a_service_is_reached_through_its_waypoint_only(void **state)
{
	const struct flow_report *r;

	(void)state;
	put_service_behind("web", VIP, rig.out_port, "way");
	put_service_behind("way", STRANGER, SNAP_HBONE_PORT, NULL);
	put_waypoint("way-1", SERVER, "shop/way");
	publish();
	dial_in_vain(VIP);
	r = report_of(FLOW_CLOSED, FLOW_INBOUND);
	assert_int_equal(r->result, FLOW_R_BAD_REQUEST);
	assert_non_null(strstr(r->why, "the authority names another address"));
	r = report_of(FLOW_CLOSED, FLOW_OUTBOUND);
	assert_int_equal(r->result, FLOW_R_CONNECT);
	assert_int_equal(r->upstream.port, rig.out_port);	/* what was dialled, not what it stands for */
	assert_string_equal(r->peer->workload_name, "way-1");
	assert_string_equal(r->peer->service_key, "shop/web");
	assert_int_equal(r->peer->mutual_tls, true);
}

static void short_and_lenient(struct vm_conf *c)
{
	c->limits.resolve_timeout_ms = 50;
	c->plain_unresolved = c->plain_absent = c->plain_mesh = VM_PLAIN_ALLOW;
}

static void nothing_goes_past_a_waypoint_that_is_not_there(void **state)
{
	struct ip vip = ip_at(VIP);

	(void)state;
	configure(&rig.a, 0, client_leaf, CLIENT, "client", short_and_lenient);
	put_service_behind("web", VIP, rig.out_port, "way");
	publish();
	dial_in_vain(VIP);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_OUTBOUND)->result, FLOW_R_NO_ENDPOINT);
	assert_int_equal(rig.n_asked, 1);
	assert_true(ip_equal(&rig.asked[0], &vip));
	put_service_behind("way", STRANGER, SNAP_HBONE_PORT, NULL);	/* and nobody behind it */
	publish();
	forget_reports();
	dial_in_vain(VIP);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_OUTBOUND)->result, FLOW_R_NO_ENDPOINT);
}

static void a_waypoint_that_is_resolved_late_is_waited_for(void **state)
{
	int c;

	(void)state;
	put_service_behind("web", VIP, rig.out_port, "way");
	publish();
	c = dial(VIP);
	while (!rig.n_asked)
		assert_int_equal(loop_turn(rig.loop, 20), 0);
	put_service_behind("way", STRANGER, SNAP_HBONE_PORT, NULL);
	put_waypoint("way-1", SERVER, "shop/way");
	publish();
	hear_reset(c);
	close(c);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_INBOUND)->result, FLOW_R_BAD_REQUEST);
}

static void without_a_certificate_a_tunnel_waits_for_one(void **state)
{
	int c, s;

	(void)state;
	configure(&rig.a, 0, NULL, CLIENT, "client", NULL);
	c = dial(VIP);
	say(c, "a");
	configure(&rig.a, 0, client_leaf, CLIENT, "client", NULL);
	s = take(rig.app);
	hear(s, "a");
	close(c);
	close(s);
}

static void a_new_certificate_is_used_and_nothing_is_cut(void **state)
{
	int c = dial(VIP), s = take(rig.app), c2, s2;

	(void)state;
	configure(&rig.a, 0, client_leaf, CLIENT, "client", NULL);
	c2 = dial(VIP);
	s2 = take(rig.app);
	say(c, "old");
	hear(s, "old");
	say(c2, "new");
	hear(s2, "new");
	assert_int_equal(counters_of(rig.a.vm[0]).tunnels_opened[FLOW_OUTBOUND], 2);
	close(c);
	close(s);
	close(c2);
	close(s2);
}

/* Each new certificate leaves a tunnel behind, for as long as a connection needs it: those are not among the ones that a peer may have. */
static void tunnels_that_were_retired_are_in_nobody_s_way(void **state)
{
	enum { RENEWALS = POOL_FULL_TUNNELS + 1 };
	int c[RENEWALS], s[RENEWALS];

	(void)state;
	for (int i = 0; i < RENEWALS; i++) {
		configure(&rig.a, 0, client_leaf, CLIENT, "client", NULL);
		c[i] = dial(VIP);
		s[i] = take(rig.app);
		say(c[i], "a");
		hear(s[i], "a");
	}
	assert_int_equal(counters_of(rig.a.vm[0]).tunnels_opened[FLOW_OUTBOUND], RENEWALS);
	for (int i = 0; i < RENEWALS; i++) {
		say(s[i], "b");
		hear(c[i], "b");
		close(c[i]);
		close(s[i]);
	}
}

/* Its handshake is waited for: who waits for it gets a tunnel with the new certificate. */
static void a_new_certificate_while_a_tunnel_is_opened_fails_nobody(void **state)
{
	int peer = listen_at(&(struct ip_port){ ip_at(NOBODY), SNAP_HBONE_PORT }), c, old, new;
	char b;

	(void)state;
	put_service("mute", STRANGER);
	put_workload("mute", NOBODY, "server", TUNNEL_HBONE, "shop/mute", NULL);
	publish();
	c = dial(STRANGER);
	old = take(peer);
	assert_int_equal(recv(old, &b, 1, 0), 1);	/* a ClientHello, which nobody answers */
	configure(&rig.a, 0, client_leaf, CLIENT, "client", NULL);
	new = take(peer);
	assert_int_equal(recv(new, &b, 1, 0), 1);
	assert_int_equal(recv(c, &b, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	close(c);
	close(old);
	close(new);
	close(peer);
}

/* --- a peer whose every frame is the test's --- */

static struct {
	struct tls_session *tls;
	struct h2 h;
	struct h2_stream stream;
	uint8_t out[65536];
	int fd;
	bool open;
} peer;

static bool peer_room(struct h2 *h, size_t n)
{
	if (!h->out.data)
		h->out = (struct h2_out){ peer.out, 0, sizeof(peer.out) };
	return h->out.size - h->out.len >= n;
}

/* Takes the first request, and wants no other. */
static void peer_request(struct h2 *h, const struct h2_message *m, bool end)
{
	(void)m;
	(void)end;
	assert_int_equal(h2_accept(h, &peer.stream), 0);
	assert_int_equal(h2_respond(h, &peer.stream, 200, NULL, 0, false), 0);
	h2_shutdown(h);
}

static void peer_data(struct h2 *h, struct h2_stream *s, const uint8_t *data, size_t len, bool end)
{
	(void)data;
	(void)end;
	h2_consume(h, s, len);
}

static void peer_reset(struct h2 *h, struct h2_stream *s, uint32_t code)
{
	(void)h;
	(void)s;
	(void)code;
}

static const struct h2_ops peer_ops = { .room = peer_room, .request = peer_request, .data = peer_data, .reset = peer_reset };

static void peer_send(const uint8_t *data, size_t len)
{
	assert_int_equal(send(peer.fd, data, len, MSG_NOSIGNAL), (ssize_t)len);
}

static void peer_reads(void)
{
	static uint8_t net[65536], plain[2 * 65536];
	ssize_t n = recv(peer.fd, net, sizeof(net), 0);
	struct tls_in in = { .data = net, .len = (size_t)n, .out = plain, .out_size = sizeof(plain) };
	size_t len;

	assert_true(n > 0);
	do
		assert_int_equal(tls_feed(peer.tls, &in), 0);
	while (in.len);
	while ((len = tls_take(peer.tls, net, sizeof(net))))
		peer_send(net, len);
	if (tls_is_open(peer.tls) && !peer.open) {
		peer.open = true;
		assert_int_equal(h2_init(&peer.h, true, NULL, &peer_ops), 0);
	}
	if (in.out_len)
		assert_int_equal(h2_recv(&peer.h, plain, in.out_len, 0), 0);
}

/* Until it has had a request: its SETTINGS, its answer and a GOAWAY come together. */
static void peer_serves(int listener, struct tls_ctx *ctx)
{
	static uint8_t sealed[2 * 65536];
	struct iovec iov;
	size_t n;

	memset(&peer, 0, sizeof(peer));
	peer.fd = take(listener);
	assert_int_equal(tls_session_new(ctx, NULL, &peer.tls), 0);
	while (!h2_is_open(&peer.stream))
		peer_reads();
	iov = (struct iovec){ peer.h.out.data, peer.h.out.len };
	assert_int_equal(tls_seal(peer.tls, &iov, 1, sealed, sizeof(sealed), &n), 0);
	peer_send(sealed, n);
}

static void peer_goes(void)
{
	h2_deinit(&peer.h);
	tls_session_free(peer.tls);
	close(peer.fd);
}

/* A tunnel has one stream until SETTINGS have come. Who waits for them does not wait for that stream's end. */
static void a_tunnel_that_takes_no_more_is_not_waited_for(void **state)
{
	int listener = listen_at(&(struct ip_port){ ip_at(NOBODY), SNAP_HBONE_PORT }), c, c2, next;
	struct tls_ctx *ctx = ctx_of(TLS_SERVER, server_leaf);
	char b;

	(void)state;
	put_service("goes", STRANGER);
	put_workload("goes", NOBODY, "server", TUNNEL_HBONE, "shop/goes", NULL);
	publish();
	c = dial(STRANGER);
	c2 = dial(STRANGER);
	peer_serves(listener, ctx);
	next = take(listener);
	assert_int_equal(recv(next, &b, 1, 0), 1);	/* a ClientHello */
	assert_int_equal(recv(c, &b, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	close(c);
	close(c2);
	close(next);
	peer_goes();
	tls_ctx_unref(ctx);
	close(listener);
}

static void a_workload_without_hbone_is_reached_plainly(void **state)
{
	int c, s;

	(void)state;
	put_service("plain", STRANGER);
	put_workload("server", SERVER, "server", TUNNEL_NONE, "shop/plain", NULL);
	publish();
	c = dial(STRANGER);
	s = take(rig.app);
	say(c, "a");
	hear(s, "a");
	shutdown(c, SHUT_WR);
	hear_end(s);
	say(s, "b");
	hear(c, "b");
	close(s);
	hear_end(c);
	close(c);
	const struct flow_report *r = report_of(FLOW_CLOSED, FLOW_OUTBOUND);
	assert_int_equal(r->result, FLOW_OK);
	assert_false(r->hbone);
	assert_false(r->peer->mutual_tls);
}

static void tee_it(struct vm_conf *c)
{
	c->tee_ports[c->n_tee_ports++] = rig.out_port;
}

static bool tee_is_whole(void *arg)
{
	(void)arg;
	return rig.n_tee == 6;
}

static void streams_to_registries_are_copied(void **state)
{
	int c, s;

	(void)state;
	configure(&rig.a, 0, client_leaf, CLIENT, "client", tee_it);
	c = dial(VIP);
	s = take(rig.app);
	say(c, "abc");
	hear(s, "abc");
	say(s, "def");
	hear(c, "def");
	wait_until(tee_is_whole, NULL);
	assert_memory_equal(rig.tee, "abcdef", 6);
	close(c);
	close(s);
}

static void tee_little(struct vm_conf *c)
{
	tee_it(c);
	c->limits.teed_bytes = 1;	/* one piece, and then nothing for minutes */
}

static bool tee_has_a_hole(void *arg)
{
	return rig.tee_lost > *(uint64_t *)arg;
}

/* The stream goes on whatever is copied; what is not is counted, and told with the next piece. */
static void a_vm_has_a_share_of_what_is_copied(void **state)
{
	int c, s;

	(void)state;
	rig.n_tee = 0;
	configure(&rig.a, 0, client_leaf, CLIENT, "client", tee_little);
	c = dial(VIP);
	s = take(rig.app);
	say(c, "abcdef");
	hear(s, "abcdef");
	wait_until(tee_is_whole, NULL);
	uint64_t before = counters_of(rig.a.vm[0]).over_budget[VM_B_TEED], lost = rig.tee_lost;
	say(c, "ghi");
	hear(s, "ghi");
	say(c, "jkl");
	hear(s, "jkl");
	assert_int_equal(counters_of(rig.a.vm[0]).over_budget[VM_B_TEED] - before, 2);
	close(c);			/* an end is told in any case, and what is missing before it */
	hear_end(s);
	wait_until(tee_has_a_hole, &lost);
	assert_int_equal(rig.n_tee, 6);
	assert_int_equal(rig.tee_lost - lost, 6);
	close(s);
}

static void strict_vms_refuse_plaintext(void **state)
{
	struct ip_port addr = at(PLAIN, APP_PORT);
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(&addr, AF_INET, &sa);
	int c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	add_vm(&rig.b, "plain", -1, listen_at(&addr));
	configure(&rig.b, 1, server_leaf, PLAIN, "plain", NULL);
	set_timeouts(c);
	if (connect(c, (struct sockaddr *)&sa, len) == 0)
		hear_reset(c);
	else
		assert_int_equal(errno, ECONNRESET);	/* which came before connect() had returned */
	close(c);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_INBOUND)->result, FLOW_R_PLAINTEXT);
}

static void neighbours_reach_each_other_without_a_wire(void **state)
{
	const struct flow_report *r;
	int c, s;

	(void)state;
	add_vm(&rig.a, "server-2", -1, -1);
	configure(&rig.a, 1, server_leaf, SERVER_2, "server-2", NULL);
	put_service("near", STRANGER);
	put_workload("server-2", SERVER_2, "server", TUNNEL_HBONE, "shop/near", NULL);
	publish();
	c = dial(STRANGER);
	s = take(rig.app_2);
	say(c, "a");
	hear(s, "a");
	close(c);
	hear_end(s);
	close(s);
	r = report_of(FLOW_CLOSED, FLOW_OUTBOUND);
	assert_int_equal(r->result, FLOW_OK);
	assert_int_equal(counters_of(rig.a.vm[0]).tunnels_opened[FLOW_OUTBOUND], 0);
	forget_reports();

	c = dial(STRANGER);
	s = take(rig.app_2);
	say(c, "a");
	hear(s, "a");
	put_deny("no-clients", "client");	/* and only as long as both may */
	publish();
	hear_reset(c);
	hear_reset(s);
	close(c);
	close(s);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_INBOUND)->result, FLOW_R_POLICY_CHANGED);
	forget_reports();

	dial_in_vain(STRANGER);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_OUTBOUND)->result, FLOW_R_DENIED);
	r = report_of(FLOW_CLOSED, FLOW_INBOUND);
	assert_int_equal(r->result, FLOW_R_DENIED);
	assert_string_equal(r->why, report_of(FLOW_CLOSED, FLOW_OUTBOUND)->why);
	assert_int_equal(counters_of(rig.a.vm[1]).refused[FLOW_INBOUND], 2);
}

static void make_neighbours(void (*change)(struct vm_conf *c))
{
	add_vm(&rig.a, "server-2", -1, -1);
	configure(&rig.a, 1, server_leaf, SERVER_2, "server-2", change);
	put_service("near", STRANGER);
	put_workload("server-2", SERVER_2, "server", TUNNEL_HBONE, "shop/near", NULL);
	publish();
}

static void a_neighbour_is_told_of_what_reaches_it(void **state)
{
	const struct flow_report *out, *in;
	struct vm_counters n;
	int c, s;

	(void)state;
	make_neighbours(NULL);
	c = dial(STRANGER);
	s = take(rig.app_2);
	say(c, "hello");
	hear(s, "hello");
	say(s, "you");
	hear(c, "you");
	assert_int_equal(__atomic_load_n(&rig.a.vm[1]->n_connections, __ATOMIC_RELAXED), 1);
	close(c);
	hear_end(s);
	close(s);
	in = report_of(FLOW_OPENED, FLOW_INBOUND);
	assert_ptr_equal(in->vm, rig.a.vm[1]);
	assert_string_equal(in->peer->identity, CLIENT_ID);
	assert_string_equal(in->peer->workload_name, "client");
	in = report_of(FLOW_CLOSED, FLOW_INBOUND);
	out = report_of(FLOW_CLOSED, FLOW_OUTBOUND);
	assert_ptr_equal(out->vm, rig.a.vm[0]);
	assert_ptr_equal(in->vm, rig.a.vm[1]);
	assert_string_equal(out->peer->identity, SERVER_ID);
	assert_true(in->id != out->id);
	assert_int_equal(in->bytes_sent, 5);
	assert_int_equal(in->bytes_received, 3);
	assert_int_equal(in->destination.port, APP_PORT);
	n = counters_of(rig.a.vm[1]);
	assert_int_equal(n.opened[FLOW_INBOUND], 1);
	assert_int_equal(n.closed[FLOW_INBOUND], 1);
	assert_int_equal(n.bytes_sent[FLOW_INBOUND], 5);
	assert_int_equal(n.bytes_received[FLOW_INBOUND], 3);
	assert_int_equal(rig.a.vm[1]->n_connections, 0);
}

static void few_connections(struct vm_conf *c);

static void a_neighbour_is_not_given_more_than_it_may_have(void **state)
{
	int c[3], s[2];

	(void)state;
	make_neighbours(few_connections);
	for (int i = 0; i < 2; i++) {
		c[i] = dial(STRANGER);
		s[i] = take(rig.app_2);
	}
	c[2] = dial(STRANGER);
	hear_reset(c[2]);
	assert_int_equal(counters_of(rig.a.vm[1]).over_budget[VM_B_CONNECTIONS], 1);
	assert_int_equal(counters_of(rig.a.vm[0]).over_budget[VM_B_CONNECTIONS], 0);
	for (int i = 0; i < 3; i++)
		close(c[i]);
	for (int i = 0; i < 2; i++)
		close(s[i]);
}

static void sixteen_connections(struct vm_conf *c)
{
	c->limits.connections = 16;
}

static void a_neighbour_with_many_connections_leaves_some(void **state)
{
	enum { MAY = 14 };
	int c[MAY + 1], s[MAY];

	(void)state;
	make_neighbours(sixteen_connections);
	for (int i = 0; i < MAY; i++) {
		c[i] = dial(STRANGER);
		s[i] = take(rig.app_2);
	}
	c[MAY] = dial(STRANGER);
	hear_reset(c[MAY]);
	assert_int_equal(counters_of(rig.a.vm[1]).over_budget[VM_B_CONNECTIONS], 1);
	for (int i = 0; i < MAY; i++) {
		close(c[i]);
		close(s[i]);
	}
	close(c[MAY]);
}

static void a_neighbour_that_goes_takes_what_reaches_it_along(void **state)
{
	size_t one = 1;
	int c, s;

	(void)state;
	make_neighbours(NULL);
	c = dial(STRANGER);
	s = take(rig.app_2);
	assert_int_equal(worker_remove_vm(rig.a.w, rig.a.vm[1], 1, 0), 0);
	hear_reset(c);
	hear_reset(s);
	close(c);
	close(s);
	while (rig.n_removed < one)
		assert_int_equal(loop_turn(rig.loop, 20), 0);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_INBOUND)->result, FLOW_R_DRAIN);
}

struct pause {
	struct mail mail;
	sem_t begun, over;
};

static void on_pause(struct mail *m, void *receiver)
{
	struct pause *p = container_of(m, struct pause, mail);

	(void)receiver;
	sem_post(&p->begun);
	sem_wait(&p->over);
}

/* The worker does nothing until resume(): what is sent meanwhile it finds all at once. */
static void pause_worker(struct worker *w, struct pause *p)
{
	*p = (struct pause){ .mail.fn = on_pause };
	sem_init(&p->begun, 0, 0);
	sem_init(&p->over, 0, 0);
	mailbox_post(&w->box, &p->mail);
	sem_wait(&p->begun);
}

static void knock(const struct ip_port *addr)
{
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(addr, AF_INET, &sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
	close(fd);
}

static void a_busy_vm_leaves_room_for_its_neighbours(void **state)
{
	enum { N = 100 };
	struct ip_port other = at(CLIENT + 100, APP_PORT + 1);
	uint64_t end = clock_mono_ms() + WAIT_MS;
	int c[N], s[N];

	(void)state;
	add_vm(&rig.a, "client-2", listen_at(&other), -1);
	configure(&rig.a, 1, client_leaf, CLIENT + 100, "client-2", NULL);
	assert_int_equal(snap_store_put_absent(rig.store, &other.ip), 0);	/* who knocks there is refused at once */
	publish();
	for (int i = 0; i < N; i++) {
		c[i] = dial(VIP);
		s[i] = take(rig.app);
	}
	do {				/* again if the neighbour was too long ago, on a slow machine */
		struct pause p;

		assert_true(clock_mono_ms() < end);
		knock(&other);
		forget_reports();
		report_of(FLOW_CLOSED, FLOW_OUTBOUND);		/* it was something to do for the neighbour */
		pause_worker(rig.a.w, &p);
		for (int i = 0; i < N; i++)
			say(c[i], "x");
		sem_post(&p.over);
		for (int i = 0; i < N; i++)
			hear(s[i], "x");
	} while (!counters_of(rig.a.vm[0]).over_budget[VM_B_TURN]);
	assert_int_equal(counters_of(rig.a.vm[1]).over_budget[VM_B_TURN], 0);
	for (int i = 0; i < N; i++) {
		close(c[i]);
		close(s[i]);
	}
}

/* More VMs than a turn is long enough for, each with more than its share of one: all of them get on, and so does who has little. */
static void many_busy_vms_take_turns(void **state)
{
	enum { VMS = 5, KNOCKS = 40 };
	struct ip_port door[VMS];
	struct pause p;
	bool busy = false;

	(void)state;
	for (int i = 0; i < VMS; i++) {
		char name[16];

		snprintf(name, sizeof(name), "busy-%d", i);
		door[i] = at(CLIENT + 100 + i, APP_PORT + 1);
		add_vm(&rig.a, name, listen_at(&door[i]), -1);
		configure(&rig.a, 1 + (size_t)i, client_leaf, CLIENT + 100 + i, name, NULL);
		assert_int_equal(snap_store_put_absent(rig.store, &door[i].ip), 0);
	}
	publish();
	pause_worker(rig.a.w, &p);
	for (int n = 0; n < KNOCKS; n++)
		for (int i = 0; i < VMS; i++)
			knock(&door[i]);
	int c = dial(VIP);
	sem_post(&p.over);
	int s = take(rig.app);
	say(c, "x");
	hear(s, "x");
	for (int i = 1; i <= VMS; i++) {
		uint64_t end = clock_mono_ms() + WAIT_MS;

		while (counters_of(rig.a.vm[i]).refused[FLOW_OUTBOUND] < KNOCKS) {
			assert_true(clock_mono_ms() < end);
			assert_int_equal(loop_turn(rig.loop, 20), 0);
		}
		busy |= counters_of(rig.a.vm[i]).over_budget[VM_B_TURN];
	}
	assert_true(busy);
	close(c);
	close(s);
}

/* Peers that do not say who they are may have so many places, and only of the VM that they dial. */
static void few_handshakes(struct vm_conf *c)
{
	c->limits.handshakes = 3;
}

static void strangers_at_the_door_are_limited(void **state)
{
	enum { N = 20 };
	struct ip_port addr = at(SERVER, SNAP_HBONE_PORT);
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(&addr, AF_INET, &sa);
	int fd[N], c, s;

	(void)state;
	configure(&rig.b, 0, server_leaf, SERVER, "server", few_handshakes);
	c = dial(VIP);			/* its tunnel is open already */
	s = take(rig.app);
	for (int i = 0; i < N; i++) {
		fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(fd[i], (struct sockaddr *)&sa, len), 0);
	}
	while (counters_of(rig.b.vm[0]).over_budget[VM_B_HANDSHAKES] < N - 3)
		assert_int_equal(loop_turn(rig.loop, 20), 0);
	assert_int_equal(counters_of(rig.b.vm[0]).over_budget[VM_B_HANDSHAKES], N - 3);
	say(c, "a");
	hear(s, "a");
	close(c);
	close(s);
	for (int i = 0; i < N; i++)
		close(fd[i]);
	for (int i = 0; i < 500 && __atomic_load_n(&rig.b.vm[0]->n_handshakes, __ATOMIC_RELAXED); i++)
		assert_int_equal(loop_turn(rig.loop, 20), 0);
	assert_int_equal(__atomic_load_n(&rig.b.vm[0]->n_handshakes, __ATOMIC_RELAXED), 0);
}

static void few_connections(struct vm_conf *c)
{
	c->limits.connections = 2;
}

static void one_more_try(int fd, const void *data, size_t len)
{
	assert_int_equal(send(fd, data, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* Sends what @t has to say and reads once. False: the end. */
static bool exchange(int fd, struct tls_session *t)
{
	uint8_t wire[16384], plain[TLS_PLAINTEXT_MAX + 16384];
	size_t n = tls_take(t, wire, sizeof(wire));
	struct tls_in in = { .data = wire, .out = plain, .out_size = sizeof(plain) };
	ssize_t r;
	int end;

	if (n)
		one_more_try(fd, wire, n);
	r = recv(fd, wire, sizeof(wire), 0);
	if (r <= 0)
		return false;
	in.len = (size_t)r;
	end = tls_feed(t, &in);
	assert_true(end == 0 || end == TLS_E_CLOSED);
	return end == 0;
}

/* HEADERS of a CONNECT to the server (RFC 7541: literals that are not indexed). */
static size_t connect_frame(uint8_t *to, unsigned stream)
{
	struct ip_port addr = at(SERVER, APP_PORT);
	char authority[IP_PORT_TEXT_LEN];
	size_t len = strlen(ip_port_format(&addr, authority));
	const uint8_t head[] = { 0, 0, (uint8_t)(9 + 2 + len), 1, 4, 0, 0, 0, (uint8_t)stream, 2, 7, 'C', 'O', 'N', 'N', 'E', 'C', 'T', 1, (uint8_t)len };

	memcpy(to, head, sizeof(head));
	memcpy(to + sizeof(head), authority, len);
	return sizeof(head) + len;
}

/* A peer of the mesh that has opened a tunnel to the server, and begun so many streams; -1: it was not let in. */
static int tunnel_with(const struct pki_leaf *leaf, unsigned n_streams)
{
	uint8_t start[1024] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
	struct ip_port addr = at(SERVER, SNAP_HBONE_PORT);
	struct tls_ctx *ctx = ctx_of(TLS_CLIENT, leaf);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct iovec iov = { start, 24 + 9 };	/* the preface, SETTINGS */
	struct sockaddr_storage sa;
	socklen_t len = ip_port_to_sockaddr(&addr, AF_INET, &sa);
	struct tls_session *t;
	uint8_t wire[2048];
	bool open = true;
	size_t n;

	for (unsigned i = 0; i < n_streams; i++)
		iov.iov_len += connect_frame(start + iov.iov_len, 2 * i + 1);
	set_timeouts(fd);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(tls_session_new(ctx, NULL, &t), 0);
	while (open && !tls_is_open(t))
		open = exchange(fd, t);
	if (open) {
		assert_int_equal(tls_seal(t, &iov, 1, wire, sizeof(wire), &n), 0);
		one_more_try(fd, wire, n);
		open = exchange(fd, t);		/* its SETTINGS */
	}
	tls_session_free(t);
	tls_ctx_unref(ctx);
	if (!open)
		close(fd);
	return open ? fd : -1;
}

static int idle_tunnel(void)
{
	return tunnel_with(client_leaf, 0);
}

static void four_tunnels(struct vm_conf *c)
{
	c->limits.tunnels = 4;
}

static void drain_to_end(int fd)
{
	char buf[4096];

	while (recv(fd, buf, sizeof(buf), 0) > 0)
		;
	close(fd);
}

static void who_holds_tunnels_for_nothing_keeps_nobody_out(void **state)
{
	enum { N = 4, MORE = 8 };
	int idle[N + MORE], c, s;

	(void)state;
	configure(&rig.b, 0, server_leaf, SERVER, "server", four_tunnels);
	for (int i = 0; i < N; i++) {
		idle[i] = idle_tunnel();
		assert_true(idle[i] >= 0);
	}
	c = dial(VIP);			/* one more than there may be: the first of those goes */
	s = take(rig.app);
	drain_to_end(idle[0]);
	for (int i = N; i < N + MORE; i++) {
		idle[i] = idle_tunnel();
		assert_true(idle[i] >= 0);
		drain_to_end(idle[i - N + 1]);
		say(c, "a");		/* what is used stays */
		hear(s, "a");
	}
	assert_int_equal(counters_of(rig.b.vm[0]).over_budget[VM_B_TUNNELS], 1 + MORE);
	for (int i = MORE + 1; i < N + MORE; i++)
		close(idle[i]);
	close(c);
	close(s);
}

static void one_tunnel(struct vm_conf *c)
{
	c->limits.tunnels = 1;
}

static void tunnels_that_are_used_stay(void **state)
{
	int c, s;

	(void)state;
	configure(&rig.b, 0, server_leaf, SERVER, "server", one_tunnel);
	c = dial(VIP);
	s = take(rig.app);
	assert_int_equal(idle_tunnel(), -1);
	say(c, "a");
	hear(s, "a");
	close(c);
	hear_end(s);
	close(s);
	assert_int_equal(counters_of(rig.b.vm[0]).over_budget[VM_B_TUNNELS], 1);
}

/* One identity with a stream on each of its tunnels has them all, until others come: then it has as many as they. */
static void one_identity_does_not_hold_all_tunnels(void **state)
{
	int flood[4], streams[5], fresh[2], first, second;

	(void)state;
	configure(&rig.b, 0, server_leaf, SERVER, "server", four_tunnels);
	for (int i = 0; i < 4; i++) {
		flood[i] = tunnel_with(client_leaf, i == 1 ? 1 : 2);
		assert_true(flood[i] >= 0);
		streams[i] = take(rig.app);
		fresh[0] = i == 1 ? -1 : take(rig.app);
		close_fd(fresh[0]);
	}
	assert_int_equal(tunnel_with(client_leaf, 1), -1);	/* it has its share: all */
	first = tunnel_with(server_leaf, 1);
	assert_true(first >= 0);
	fresh[0] = take(rig.app);
	drain_to_end(flood[1]);					/* with the fewest streams */
	second = tunnel_with(server_leaf, 1);
	assert_true(second >= 0);
	fresh[1] = take(rig.app);
	assert_int_equal(tunnel_with(server_leaf, 1), -1);	/* two and two */
	assert_int_equal(tunnel_with(client_leaf, 1), -1);
	say(fresh[0], "a");
	say(fresh[1], "a");
	assert_int_equal(counters_of(rig.b.vm[0]).over_budget[VM_B_TUNNELS], 5);
	for (int i = 0; i < 4; i++)
		close(streams[i]);
	close(flood[0]);
	close(flood[2]);
	close(flood[3]);
	close(first);
	close(second);
	close(fresh[0]);
	close(fresh[1]);
}

static bool only_one_is_left(void *arg)
{
	(void)arg;
	return __atomic_load_n(&rig.b.vm[0]->n_connections, __ATOMIC_RELAXED) == 1;
}

/* Who wants more than there are has all but the last eighth. */
static void one_identity_does_not_hold_all_connections(void **state)
{
	enum { N = 20, MAY = 14 };
	int flood, other, more, c[MAY], s;

	(void)state;
	configure(&rig.b, 0, server_leaf, SERVER, "server", sixteen_connections);
	flood = tunnel_with(client_leaf, N);
	for (int i = 0; i < MAY; i++)
		c[i] = take(rig.app);
	other = tunnel_with(server_leaf, 1);
	s = take(rig.app);
	say(s, "a");
	assert_int_equal(__atomic_load_n(&rig.b.vm[0]->n_connections, __ATOMIC_RELAXED), MAY + 1);
	assert_int_equal(counters_of(rig.b.vm[0]).over_budget[VM_B_CONNECTIONS], N - MAY);

	/* What it gives back it may have again. */
	close(flood);
	for (int i = 0; i < MAY; i++)
		close(c[i]);
	wait_until(only_one_is_left, NULL);
	more = tunnel_with(client_leaf, 1);
	c[0] = take(rig.app);
	say(c[0], "a");
	close(c[0]);
	close(more);
	close(s);
	close(other);
}

static void budgets_hold(void **state)
{
	int c[3];

	(void)state;
	configure(&rig.a, 0, client_leaf, CLIENT, "client", few_connections);
	c[0] = dial(VIP);
	c[1] = dial(VIP);
	close(take(rig.app));
	close(take(rig.app));
	c[2] = dial(VIP);
	char b;
	assert_true(recv(c[2], &b, 1, 0) <= 0);
	assert_int_equal(counters_of(rig.a.vm[0]).over_budget[VM_B_CONNECTIONS], 1);
	for (int i = 0; i < 3; i++)
		close(c[i]);
}

static void few_a_second(struct vm_conf *c)
{
	c->limits.connection_rate = 20;
}

static void connections_beyond_the_rate_wait_and_are_served(void **state)
{
	enum { N = 8 };			/* three at once, the others one by one */
	int c[N];

	(void)state;
	configure(&rig.a, 0, client_leaf, CLIENT, "client", few_a_second);
	for (int i = 0; i < N; i++)
		c[i] = dial(VIP);
	for (int i = 0; i < N; i++)
		close(take(rig.app));
	assert_true(counters_of(rig.a.vm[0]).over_budget[VM_B_RATE] > 0);
	assert_int_equal(counters_of(rig.a.vm[0]).refused[FLOW_OUTBOUND], 0);
	for (int i = 0; i < N; i++)
		close(c[i]);
}

/* --- without memory --- */

struct failure {
	struct mail mail;
	size_t n;			/* this allocation fails; 0: none any more */
	size_t seen;
	sem_t done;
};

static void on_failure(struct mail *m, void *receiver)
{
	struct failure *f = container_of(m, struct failure, mail);

	(void)receiver;
	f->seen = alloc_fail_stop();
	if (f->n)
		alloc_fail_once_at(f->n);
	sem_post(&f->done);
}

/* Returns how many allocations there were in the worker's thread since the last call. */
static size_t fail_at(struct worker *w, size_t n)
{
	struct failure f = { .mail.fn = on_failure, .n = n };

	sem_init(&f.done, 0, 0);
	mailbox_post(&w->box, &f.mail);
	sem_wait(&f.done);
	sem_destroy(&f.done);
	return f.seen;
}

/* The connection at the application that begins with @token, or -1 when @c has ended. Others are of attempts that were given up before they got here. */
static int take_from(int c, char token)
{
	struct pollfd p[2] = { { c, POLLIN, 0 }, { rig.app, POLLIN, 0 } };
	char got;

	for (;;) {
		assert_true(poll(p, 2, WAIT_MS) > 0);		/* whatever it is, it is told */
		if (!p[1].revents)
			return -1;
		int s = take(rig.app);

		if (recv(s, &got, 1, 0) == 1 && got == token)
			return s;
		close(s);
	}
}

/* One connection with a byte each way; false: it was refused or cut. */
static bool goes_through(void)
{
	static char token;
	char got;
	int c = dial(VIP), s = -1;
	bool ok = send(c, &(char){ ++token }, 1, MSG_NOSIGNAL) == 1;

	if (ok)
		s = take_from(c, token);
	ok = s >= 0 && send(s, "b", 1, MSG_NOSIGNAL) == 1 && recv(c, &got, 1, 0) == 1;
	close(c);
	if (s >= 0)
		close(s);
	mailbox_deliver(&rig.box, NULL);
	forget_reports();
	return ok;
}

/* The listener may have been left by one that was cut before it was taken. */
static void drop_waiting(void)
{
	struct pollfd p = { rig.app, POLLIN, 0 };

	while (poll(&p, 1, 0) > 0)
		close(take(rig.app));
}

/* Each allocation of a new tunnel and a connection through it fails once, in @side's worker. */
static void starve(struct side *side)
{
	size_t refused = 0, n;

	for (n = 1; n < 5000; n += n < 40 ? 1 : 113) {	/* most are libcrypto's, in a handshake */
		uint64_t start = clock_mono_ms();
		bool ok;

		configure(&rig.a, 0, client_leaf, CLIENT, "client", NULL);	/* tunnels of before take nothing new */
		(void)fail_at(side->w, n);
		ok = goes_through();
		refused += !ok;
		if (fail_at(side->w, 0) < n && ok)
			break;			/* fewer will do; one that did not get that far does not count */
		drop_waiting();
		while (!goes_through()) {	/* and then all is as it was */
			assert_true(clock_mono_ms() < start + 3 * WAIT_MS);	/* timeouts of the attempt among them */
			assert_int_equal(loop_turn(rig.loop, 10), 0);	/* a peer that failed is left alone for a moment */
			drop_waiting();
		}
		if (clock_mono_ms() > start + 2000)
			print_message("allocation %zu: %llu ms until all was as before\n", n, (unsigned long long)(clock_mono_ms() - start));
	}
	print_message("%zu allocations, %zu of them lost a connection\n", n - 1, refused);
	assert_true(n > 5 && n < 5000);
	assert_true(refused > 0);
}

static void the_client_s_worker_may_want_memory_at_any_time(void **state)
{
	(void)state;
	starve(&rig.a);
}

static void the_server_s_worker_may_want_memory_at_any_time(void **state)
{
	(void)state;
	starve(&rig.b);
}

/* In the worker's thread: as after a long rest. From then on no memory, if the allocation @n says so, until it is told otherwise. */
static void on_rest(struct mail *m, void *receiver)
{
	struct failure *f = container_of(m, struct failure, mail);
	struct worker *w = receiver;

	map_for_each(l, &w->vms)
		list_for_each(x, &container_of(l, struct worker_vm, link)->tunnels)
			tls_rest(list_entry(x, struct hbone, of_vm)->tls);
	if (f->n)
		alloc_fail_at(f->n);
	sem_post(&f->done);
}

static void rest_and_fail_at(struct worker *w, size_t n)
{
	struct failure f = { .mail.fn = on_rest, .n = n };

	sem_init(&f.done, 0, 0);
	mailbox_post(&w->box, &f.mail);
	sem_wait(&f.done);
	sem_destroy(&f.done);
}

struct hunger {
	const struct vm *vm;
	uint64_t before;
};

static bool is_starved(void *arg)
{
	const struct hunger *h = arg;

	return counters_of(h->vm).over_budget[VM_B_MEMORY] > h->before;
}

/* What they gave back while they rested they cannot have again just now: they send all the same, and what comes waits. */
static void tunnels_that_rested_wake_without_memory(void **state)
{
	enum { N = 20 };
	int c[N], s[N];

	(void)state;
	for (int i = 0; i < N; i++) {
		c[i] = dial(VIP);
		s[i] = take(rig.app);
		say(c[i], "before");
		hear(s[i], "before");
		say(s[i], "back");
		hear(c[i], "back");
	}
	for (int round = 0; round < 3; round++) {
		struct side *without = round == 1 ? &rig.a : &rig.b, *with = round == 1 ? &rig.b : &rig.a;

		struct hunger hunger = { without->vm[0], counters_of(without->vm[0]).over_budget[VM_B_MEMORY] };

		rest_and_fail_at(with->w, round == 2);
		rest_and_fail_at(without->w, 1);
		for (int i = 0; i < N; i++) {
			say(c[i], "request");
			say(s[i], "event");
		}
		wait_until(is_starved, &hunger);
		(void)fail_at(with->w, 0);
		(void)fail_at(without->w, 0);
		for (int i = 0; i < N; i++) {
			hear(s[i], "request");
			hear(c[i], "event");
		}
	}
	assert_int_equal(counters_of(rig.a.vm[0]).tunnels_opened[FLOW_OUTBOUND], 1);
	for (int i = 0; i < N; i++) {
		close(c[i]);
		hear_end(s[i]);
		close(s[i]);
	}
}

/* In the worker's thread: nothing has been in its tunnels for @n ms. */
static void on_age(struct mail *m, void *receiver)
{
	struct failure *f = container_of(m, struct failure, mail);
	struct worker *w = receiver;

	map_for_each(l, &w->vms)
		list_for_each_safe(x, &container_of(l, struct worker_vm, link)->tunnels) {
			struct hbone *t = list_entry(x, struct hbone, of_vm);

			if (t->idle_ms)
				hbone_tick(t, t->idle_ms + f->n);
		}
	sem_post(&f->done);
}

static void age(struct worker *w, size_t ms)
{
	struct failure f = { .mail.fn = on_age, .n = ms };

	sem_init(&f.done, 0, 0);
	mailbox_post(&w->box, &f.mail);
	sem_wait(&f.done);
	sem_destroy(&f.done);
}

static bool has_tunnels(void *arg)
{
	struct worker_load a, b;

	worker_load(rig.a.w, &a);
	worker_load(rig.b.w, &b);
	return a.n_tunnels == *(uint64_t *)arg && b.n_tunnels == *(uint64_t *)arg;
}

/* What a wave of connections needed goes soon after it, but for one, which carries what comes next. */
static void tunnels_of_a_wave_end_soon_after_it(void **state)
{
	enum { N = POOL_SOFT_STREAMS + 20 };
	uint64_t two = 2, one = 1, none = 0;
	int c[N], s[N];

	(void)state;
	for (int i = 0; i < N; i++) {
		c[i] = dial(VIP);
		s[i] = take(rig.app);
	}
	wait_until(has_tunnels, &two);
	age(rig.a.w, HBONE_SPARE_MS + 1);
	assert_true(has_tunnels(&two));		/* both are in use, or one has just come */
	for (int i = 0; i < N; i++) {
		close(c[i]);
		hear_end(s[i]);
		close(s[i]);
	}
	age(rig.a.w, HBONE_SPARE_MS);
	assert_true(has_tunnels(&two));
	for (uint64_t end = clock_mono_ms() + WAIT_MS; !has_tunnels(&one);) {
		assert_true(clock_mono_ms() < end);
		age(rig.a.w, HBONE_SPARE_MS + 1);	/* once both are without streams */
		assert_int_equal(loop_turn(rig.loop, 20), 0);
	}
	age(rig.a.w, HBONE_SPARE_MS + 1);
	assert_true(has_tunnels(&one));
	c[0] = dial(VIP);
	s[0] = take(rig.app);
	say(c[0], "again");
	hear(s[0], "again");
	close(c[0]);
	hear_end(s[0]);
	close(s[0]);
	assert_int_equal(counters_of(rig.a.vm[0]).tunnels_opened[FLOW_OUTBOUND], 2);
	for (uint64_t end = clock_mono_ms() + WAIT_MS; !has_tunnels(&none);) {
		assert_true(clock_mono_ms() < end);
		age(rig.a.w, HBONE_IDLE_MS + 1);
		assert_int_equal(loop_turn(rig.loop, 20), 0);
	}
}

static bool is_removed(void *arg)
{
	return rig.n_removed >= *(size_t *)arg;
}

struct glance {
	struct mail mail;
	const struct vm *vm;
	const struct vm_conf *conf;
	sem_t done;
};

/* In the worker's thread. */
static void on_glance(struct mail *m, void *receiver)
{
	struct glance *g = container_of(m, struct glance, mail);
	struct worker *w = receiver;
	struct map_link *l = map_find(&w->vms, &g->vm->slot, sizeof(g->vm->slot));

	g->conf = l ? container_of(l, struct worker_vm, link)->conf : NULL;
	sem_post(&g->done);
}

/* The configuration by which side A's worker serves @arg; NULL: it does not. */
static const struct vm_conf *in_force(const struct vm *vm)
{
	struct glance g = { .mail.fn = on_glance, .vm = vm };

	sem_init(&g.done, 0, 0);
	mailbox_post(&rig.a.w->box, &g.mail);
	sem_wait(&g.done);
	sem_destroy(&g.done);
	return g.conf;
}

static bool is_in_force(void *arg)
{
	const struct vm_conf *c = arg;

	return in_force(c->vm) == c;
}

/* Nobody says it again. */
static void a_configuration_that_finds_no_memory_is_in_force_later(void **state)
{
	size_t one = 1;
	struct vm *vm;

	(void)state;
	assert_int_equal(vm_new(50, "late", -1, -1, 1, &vm), 0);
	for (int i = 0; i < 2; i++) {	/* one of a VM that is new, one that changes it */
		struct vm_conf *c;

		assert_int_equal(vm_conf_new(vm, &c), 0);
		c->uid = strdup("late");
		(void)fail_at(rig.a.w, 1);
		assert_int_equal(worker_put_vm(rig.a.w, c), 0);
		assert_true(in_force(vm) != c);
		(void)fail_at(rig.a.w, 0);
		wait_until(is_in_force, c);
		vm_conf_unref(c);
	}
	/* And one that is superseded, or goes, before there is memory is nothing any more. */
	for (int i = 0; i < 2; i++) {
		struct vm_conf *c;

		assert_int_equal(vm_conf_new(vm, &c), 0);
		c->uid = strdup(i ? "newest" : "stale");
		(void)fail_at(rig.a.w, i ? 0 : 1);
		assert_int_equal(worker_put_vm(rig.a.w, c), 0);
		if (i)
			assert_string_equal(in_force(vm)->uid, "newest");
		vm_conf_unref(c);
	}
	assert_int_equal(worker_remove_vm(rig.a.w, vm, 0, 0), 0);
	wait_until(is_removed, &one);
	assert_null(in_force(vm));
	vm_unref(vm);
}

/* And when a VM comes, changes and goes: it is served or it is not, and nothing is left of it. */
static void a_vm_may_come_and_go_without_memory(void **state)
{
	size_t n;

	(void)state;
	for (n = 1; n < 200; n++) {
		struct vm_conf *c;
		struct vm *vm;

		assert_int_equal(vm_new(50, "short-lived", -1, -1, 1, &vm), 0);
		(void)fail_at(rig.a.w, n);
		for (int i = 0; i < 2; i++) {
			assert_int_equal(vm_conf_new(vm, &c), 0);
			c->uid = strdup("short-lived");
			c->addresses[c->n_addresses++] = ip_at(STRANGER + i);
			assert_int_equal(worker_put_vm(rig.a.w, c), 0);
			vm_conf_unref(c);
		}
		size_t before = rig.n_removed;
		bool whole = fail_at(rig.a.w, 0) < n;

		assert_int_equal(worker_remove_vm(rig.a.w, vm, 0, 0), 0);
		(void)fail_at(rig.a.w, 0);	/* it has heard that */
		before++;
		wait_until(is_removed, &before);
		vm_unref(vm);
		if (whole)
			break;
	}
	assert_true(n > 2 && n < 200);
	assert_true(goes_through());
}

static void a_vm_that_goes_lets_its_connections_end(void **state)
{
	size_t one = 1, two = 2;
	int c = dial(VIP), s = take(rig.app);

	(void)state;
	assert_int_equal(worker_remove_vm(rig.b.w, rig.b.vm[0], WAIT_MS, 0), 0);
	say(c, "last words");
	hear(s, "last words");
	close(c);
	hear_end(s);
	close(s);
	wait_until(is_removed, &one);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_INBOUND)->result, FLOW_OK);

	c = dial(VIP);			/* and nobody is there any more */
	hear_reset(c);
	close(c);
	assert_int_equal(worker_remove_vm(rig.a.w, rig.a.vm[0], 0, 0), 0);
	wait_until(is_removed, &two);
}

static void a_vm_that_lingers_is_served_meanwhile(void **state)
{
	size_t one = 1;

	(void)state;
	assert_int_equal(worker_remove_vm(rig.b.w, rig.b.vm[0], WAIT_MS, WAIT_MS / 2), 0);
	int c = dial(VIP), s = take(rig.app);
	say(c, "first words");
	hear(s, "first words");
	assert_int_equal(rig.n_removed, 0);
	assert_int_equal(worker_remove_vm(rig.b.w, rig.b.vm[0], WAIT_MS, 0), 0);	/* sooner than was said */
	close(c);
	hear_end(s);
	close(s);
	wait_until(is_removed, &one);
}

static void what_does_not_end_in_time_is_cut(void **state)
{
	size_t one = 1;
	int c = dial(VIP), s = take(rig.app);

	(void)state;
	assert_int_equal(worker_remove_vm(rig.b.w, rig.b.vm[0], 50, 0), 0);
	hear_reset(s);
	hear_reset(c);
	close(c);
	close(s);
	wait_until(is_removed, &one);
	assert_int_equal(report_of(FLOW_CLOSED, FLOW_INBOUND)->result, FLOW_R_DRAIN);
}

static int make_pki(void **state)
{
	(void)state;
	assert_int_equal(pki_take_malloc(), 1);
	pki = pki_new();
	client_leaf = pki_issue_san(pki, "URI:" CLIENT_ID);
	server_leaf = pki_issue_san(pki, "URI:" SERVER_ID);
	other_leaf = pki_issue_san(pki, "URI:spiffe://td/ns/evil/sa/x");
	return 0;
}

static int drop_pki(void **state)
{
	(void)state;
	pki_free(pki);
	return 0;
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	static const struct CMUnitTest tests[] = {
		T(a_connection_goes_through_a_tunnel_and_ends_half_by_half),
		T(many_connections_share_a_tunnel),
		T(bulk_goes_both_ways_at_once),
		T(a_slow_reader_stops_the_writer_and_nobody_else),
		T(a_reset_on_one_side_is_a_reset_on_the_other),
		T(a_policy_refuses),
		T(a_new_policy_cuts_open_connections),
		T(policies_that_are_not_known_yet_are_waited_for),
		T(the_next_endpoint_is_tried),
		T(an_endpoint_whose_application_is_gone_is_passed_over),
		T(a_peer_that_starts_late_is_soon_spoken_to),
		T(who_waits_for_a_silent_peer_goes_to_another_one),
		T(a_peer_with_another_identity_is_not_spoken_to),
		T(a_destination_is_resolved_first),
		T(what_the_mesh_does_not_know_is_refused_where_it_must_be),
		T(a_destination_that_is_never_resolved_is_refused),
		T(a_service_is_reached_through_its_waypoint_only),
		T(nothing_goes_past_a_waypoint_that_is_not_there),
		T(a_waypoint_that_is_resolved_late_is_waited_for),
		T(without_a_certificate_a_tunnel_waits_for_one),
		T(a_new_certificate_is_used_and_nothing_is_cut),
		T(tunnels_that_were_retired_are_in_nobody_s_way),
		T(a_new_certificate_while_a_tunnel_is_opened_fails_nobody),
		T(a_tunnel_that_takes_no_more_is_not_waited_for),
		T(a_workload_without_hbone_is_reached_plainly),
		T(streams_to_registries_are_copied),
		T(a_vm_has_a_share_of_what_is_copied),
		T(strict_vms_refuse_plaintext),
		T(neighbours_reach_each_other_without_a_wire),
		T(a_neighbour_is_told_of_what_reaches_it),
		T(a_neighbour_is_not_given_more_than_it_may_have),
		T(a_neighbour_with_many_connections_leaves_some),
		T(a_neighbour_that_goes_takes_what_reaches_it_along),
		T(a_busy_vm_leaves_room_for_its_neighbours),
		T(many_busy_vms_take_turns),
		T(strangers_at_the_door_are_limited),
		T(who_holds_tunnels_for_nothing_keeps_nobody_out),
		T(tunnels_that_are_used_stay),
		T(one_identity_does_not_hold_all_tunnels),
		T(one_identity_does_not_hold_all_connections),
		T(budgets_hold),
		T(connections_beyond_the_rate_wait_and_are_served),
		T(the_client_s_worker_may_want_memory_at_any_time),
		T(the_server_s_worker_may_want_memory_at_any_time),
		T(tunnels_that_rested_wake_without_memory),
		T(tunnels_of_a_wave_end_soon_after_it),
		T(a_vm_may_come_and_go_without_memory),
		T(a_configuration_that_finds_no_memory_is_in_force_later),
		T(a_vm_that_goes_lets_its_connections_end),
		T(a_vm_that_lingers_is_served_meanwhile),
		T(what_does_not_end_in_time_is_cut),
	};

	return cmocka_run_group_tests(tests, make_pki, drop_pki);
}

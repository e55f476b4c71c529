/*
 * The supervisor: conversations with proxies that are the other ends of its
 * sockets, over a system that only takes notes.
 */
#include "lib/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "agent/proxy_state.h"
#include "agent/supervisor.h"
#include "base/clock.h"
#include "base/fdmsg.h"
#include "mesh/pb.h"

#define TEXT(s)	((char *)(uintptr_t)(s))	/* protobuf-c has no const; nothing writes to them */

struct world {
	struct loop *loop;
	struct supervisor s;
	int proxy;			/* the last process's end, -1: none */
	unsigned n_spawned, n_killed, n_listeners, n_dns, n_diverts;	/* n_diverts: set now */
	int spawn_error, access_log_error;
	unsigned n_access_logs;
	Outrigger__Ipc__DnsMode dns;	/* that want() asks for */
	unsigned n_settled, n_gone, n_token_wanted, n_failed, n_tee, n_health;
	enum vm_state last;
};

static int spawn(void *data, const struct monitor_spawn *s, uint32_t *ret_proxy, pid_t *ret_pid)
{
	struct world *w = data;

	if (w->spawn_error)
		return w->spawn_error;
	assert_int_equal(s->n_fds, 1);
	close_fd(w->proxy);
	w->proxy = fcntl(s->fds[0], F_DUPFD_CLOEXEC, 3);
	*ret_proxy = ++w->n_spawned;
	*ret_pid = 1000 + (pid_t)w->n_spawned;
	return 0;
}

static int kill_proxy(void *data, uint32_t proxy)
{
	(void)proxy;
	((struct world *)data)->n_killed++;
	return 0;
}

static int listeners_make(void *data, uint32_t vm, int ret_fds[2])
{
	(void)vm;
	((struct world *)data)->n_listeners++;
	for (int i = 0; i < 2; i++)
		ret_fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return 0;
}

static int access_log_open(void *data, const char *path)
{
	struct world *w = data;

	assert_string_equal(path, "/log");
	if (w->access_log_error)
		return w->access_log_error;
	w->n_access_logs++;
	return memfd_create("log", MFD_CLOEXEC);
}

static int dns_make(void *data, uint32_t vm, int ret_fds[2])
{
	(void)vm;
	((struct world *)data)->n_dns++;
	for (int i = 0; i < 2; i++)
		ret_fds[i] = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return 0;
}

static int divert_add(void *data, const struct monitor_divert *d)
{
	(void)d;
	((struct world *)data)->n_diverts++;
	return 0;
}

static int divert_remove(void *data, const struct monitor_divert *d)
{
	(void)d;
	((struct world *)data)->n_diverts--;
	return 0;
}

static int diverts_settle(void *data, uint32_t vm)
{
	(void)vm;
	((struct world *)data)->n_settled++;
	return 0;
}

static void on_changed(struct proxy_vm *vm, void *data)
{
	((struct world *)data)->last = vm->state;
}

static void on_gone(struct proxy_vm *vm, void *data)
{
	(void)vm;
	((struct world *)data)->n_gone++;
}

static void on_health(struct proxy_vm *vm, void *data)
{
	(void)vm;
	((struct world *)data)->n_health++;
}

static void on_token_wanted(struct proxy_vm *vm, const char *reason, void *data)
{
	(void)vm;
	(void)reason;
	((struct world *)data)->n_token_wanted++;
}

static void on_tee(struct proxy_vm *vm, const Outrigger__Ipc__Tee *tee, void *data)
{
	(void)vm;
	(void)tee;
	((struct world *)data)->n_tee++;
}

static void on_failed(const char *what, const char *subject, int r, void *data)
{
	(void)what;
	(void)subject;
	(void)r;
	((struct world *)data)->n_failed++;
}

static void set_mesh(struct world *w)
{
	Outrigger__Ipc__Setup setup = OUTRIGGER__IPC__SETUP__INIT;

	setup.trust_domain = TEXT("mesh.example");
	assert_int_equal(supervisor_set_mesh(&w->s, &setup), 0);
}

static void world_init(struct world *w)
{
	struct supervisor_conf conf = { .run_dir = "/run/x", .state_dir = "", .log_level = "info", .drain_ms = 50, .linger_ms = 30, .upgrade_drain_ms = 40 };
	struct supervisor_system system = { spawn, kill_proxy, listeners_make, access_log_open, dns_make, divert_add, divert_remove, diverts_settle, w };
	struct supervisor_ops ops = { on_changed, on_gone, on_health, on_token_wanted, on_tee, on_failed, w };

	*w = (struct world){ .proxy = -1 };
	assert_int_equal(loop_new(&w->loop), 0);
	assert_int_equal(supervisor_init(&w->s, w->loop, &conf, &system, &ops), 0);
	set_mesh(w);
}

static void world_deinit(struct world *w)
{
	supervisor_deinit(&w->s);
	loop_free(w->loop);
	close_fd(w->proxy);
}

static void turn(struct world *w)
{
	for (int i = 0; i < 3; i++)
		assert_int_equal(loop_turn(w->loop, 0), 0);
}

/* Until @*counter has reached @n: what happens by timers. */
static void turn_until(struct world *w, const unsigned *counter, unsigned n)
{
	uint64_t end = clock_mono_ms() + 5000;

	while (*counter < n && clock_mono_ms() < end)
		assert_int_equal(loop_turn(w->loop, 20), 0);
	assert_int_equal(*counter, n);
}

static void want(struct world *w, const char *id, const char *group, uint16_t port, bool fail_closed)
{
	struct ip address = { .b = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1 } };
	struct divert_wish diverts = { .vm = 1, .addresses = &address, .n_addresses = 1, .ports = &port, .n_ports = 1, .hbone_port = 15008,
				       .fail_closed = fail_closed };
	Outrigger__Ipc__VmPut put = OUTRIGGER__IPC__VM_PUT__INIT;
	Outrigger__Ipc__ServicePort service = OUTRIGGER__IPC__SERVICE_PORT__INIT, *services[] = { &service };

	put.vm_id = TEXT(id);
	service.port = port;
	put.ports = services;
	put.n_ports = 1;
	put.dns = w->dns;
	assert_int_equal(supervisor_want(&w->s, &(struct supervisor_wish){ .slot = 1, .group = group, .put = &put, .diverts = &diverts,
									 .fail_closed = fail_closed }), 0);
	turn(w);
}

/* What the proxy gets next: its kind; the message itself for some. */
static Outrigger__Ipc__ToProxy *next(struct world *w, size_t *ret_n_fds)
{
	static uint8_t data[FDMSG_MAX_LEN];
	ProtobufCMessage *m;
	int fds[4];
	ssize_t n = fdmsg_recv(w->proxy, data, sizeof(data), fds, 4, ret_n_fds);

	if (n == -EAGAIN)
		return NULL;
	assert_true(n > 0);
	for (size_t i = 0; i < *ret_n_fds; i++)
		close_fd(fds[i]);
	assert_int_equal(pb_unpack(&outrigger__ipc__to_proxy__descriptor, data, (size_t)n, 0, &m), 0);
	return (Outrigger__Ipc__ToProxy *)(void *)m;
}

static void expect_fds(struct world *w, Outrigger__Ipc__ToProxy__MsgCase kind, size_t n_fds)
{
	size_t n;
	Outrigger__Ipc__ToProxy *m = next(w, &n);

	assert_non_null(m);
	assert_int_equal(m->msg_case, kind);
	assert_int_equal(n, n_fds);
	pb_free(m);
}

#define expect(w, kind)		expect_fds(w, OUTRIGGER__IPC__TO_PROXY__MSG_##kind, 0)

static void expect_nothing(struct world *w)
{
	size_t n;

	assert_null(next(w, &n));
}

static void say(struct world *w, const Outrigger__Ipc__ToAgent *m)
{
	CLEANUP_FREE uint8_t *data = NULL;
	size_t len;

	assert_int_equal(pb_pack(&m->base, &data, &len), 0);
	assert_int_equal(fdmsg_send(w->proxy, data, len, NULL, 0), 0);
	turn(w);
}

static void say_hello(struct world *w, uint32_t version, const char *has)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__Hello hello = OUTRIGGER__IPC__HELLO__INIT;
	char *ids[] = { TEXT(has) };

	hello.version = version;
	hello.pid = 100 + (uint32_t)w->n_spawned;
	hello.vm_ids = ids;
	hello.n_vm_ids = has != NULL;
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_HELLO;
	m.hello = &hello;
	say(w, &m);
}

static void say_status(struct world *w, const char *id, Outrigger__Ipc__VmState state)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__VmStatus status = OUTRIGGER__IPC__VM_STATUS__INIT;

	status.vm_id = TEXT(id);
	status.state = state;
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_VM_STATUS;
	m.vm_status = &status;
	say(w, &m);
}

#define STATE(name)	OUTRIGGER__IPC__VM_STATE__VM_##name

/* One VM, up to the point where it serves. */
static void serve(struct world *w, const char *id, bool fail_closed)
{
	want(w, id, "ns-shop", 80, fail_closed);
	expect(w, HELLO);
	say_hello(w, 1, NULL);
	expect(w, SETUP);
	expect_fds(w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 2);
	say_status(w, id, STATE(CERTIFICATE));
	assert_int_equal(w->n_diverts, 0);
	say_status(w, id, STATE(READY));
	assert_int_equal(w->last, VM_SERVING);
	assert_true(w->n_diverts > 0);
}

static void flows_are_diverted_only_when_the_proxy_is_ready(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	assert_int_equal(w.n_spawned, 1);
	assert_int_equal(w.n_listeners, 1);
	expect_nothing(&w);
	world_deinit(&w);
}

static void sockets_for_queries_come_when_the_policy_wants_them(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	assert_int_equal(w.n_dns, 0);
	w.dns = OUTRIGGER__IPC__DNS_MODE__DNS_FILL;
	want(&w, "a", "ns-shop", 80, false);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 0);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_DNS, 2);
	want(&w, "a", "ns-shop", 81, false);		/* once */
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 0);
	expect_nothing(&w);
	assert_int_equal(w.n_dns, 1);
	world_deinit(&w);
}

static void without_a_mesh_nothing_is_started(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	pb_free(w.s.setup);
	w.s.setup = NULL;
	want(&w, "a", "g", 80, false);
	assert_int_equal(w.n_spawned, 0);
	set_mesh(&w);
	assert_int_equal(w.n_spawned, 1);
	world_deinit(&w);
}

static void a_group_is_one_process_and_another_group_another(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	want(&w, "b", "ns-shop", 81, false);
	assert_int_equal(w.n_spawned, 1);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 2);
	want(&w, "c", "ns-other", 82, false);
	assert_int_equal(w.n_spawned, 2);
	world_deinit(&w);
}

static void a_later_service_joins_and_the_same_wish_is_no_news(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	want(&w, "a", "ns-shop", 80, false);
	expect_nothing(&w);
	want(&w, "a", "ns-shop", 8080, false);
	expect(&w, VM_PUT);		/* without listeners: it has them */
	assert_int_equal(w.n_listeners, 1);
	world_deinit(&w);
}

static void a_dead_process_is_back_with_all_its_vms(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	uint64_t died = clock_mono_ms();
	w.proxy = close_fd(w.proxy);
	turn(&w);
	assert_int_equal(w.n_diverts, 0);	/* open: flows go their old way meanwhile */
	assert_int_equal(w.last, VM_WAITING);
	turn_until(&w, &w.n_spawned, 2);
	assert_in_range(clock_mono_ms() - died, 0, 1000);
	turn(&w);
	expect(&w, HELLO);
	say_hello(&w, 1, NULL);
	expect(&w, SETUP);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 2);
	say_status(&w, "a", STATE(READY));
	assert_true(w.n_diverts > 0);
	world_deinit(&w);
}

static void what_fails_closed_stays_diverted(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", true);
	unsigned n = w.n_diverts;
	say_status(&w, "a", STATE(FAILED));
	assert_int_equal(w.last, VM_BROKEN);
	assert_int_equal(w.n_diverts, n);
	say_status(&w, "a", STATE(DEGRADED));
	assert_int_equal(w.last, VM_SERVING);
	w.proxy = close_fd(w.proxy);
	turn(&w);
	assert_int_equal(w.n_diverts, n);
	world_deinit(&w);
}

static void a_process_that_cannot_start_is_tried_again(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	w.spawn_error = -ENOENT;
	want(&w, "a", "g", 80, false);
	assert_int_equal(w.n_failed, 1);
	turn_until(&w, &w.n_failed, 3);
	w.spawn_error = 0;
	turn_until(&w, &w.n_spawned, 1);
	world_deinit(&w);
}

static void a_vm_that_leaves_is_drained(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", true);
	supervisor_unwant(&w.s, "a", 400);
	turn(&w);
	assert_int_not_equal(w.n_diverts, 0);	/* its peers do not know yet */
	expect(&w, VM_REMOVE);
	uint64_t lingers_until = clock_mono_ms() + 5000;
	while (w.n_diverts && clock_mono_ms() < lingers_until)
		assert_int_equal(loop_turn(w.loop, 10), 0);
	assert_int_equal(w.n_diverts, 0);
	assert_int_equal(w.n_gone, 0);
	say_status(&w, "a", STATE(DRAINING));
	say_status(&w, "a", STATE(STOPPED));
	assert_int_equal(w.n_gone, 1);
	assert_null(supervisor_find(&w.s, "a"));
	/* The process goes some time after its last VM. */
	uint64_t end = clock_mono_ms() + 5000;
	size_t n;
	Outrigger__Ipc__ToProxy *m = NULL;
	while (!m && clock_mono_ms() < end) {
		assert_int_equal(loop_turn(w.loop, 10), 0);
		m = next(&w, &n);
	}
	assert_non_null(m);
	assert_int_equal(m ? m->msg_case : 0, OUTRIGGER__IPC__TO_PROXY__MSG_SHUTDOWN);
	pb_free(m);
	w.proxy = close_fd(w.proxy);
	turn(&w);
	assert_int_equal(w.n_spawned, 1);
	world_deinit(&w);
}

static void a_proxy_that_does_not_let_go_is_not_waited_for(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	supervisor_unwant(&w.s, "a", 10);
	turn_until(&w, &w.n_gone, 1);
	world_deinit(&w);
}

/* How many of the group's files are there. */
static unsigned n_kept(const char *dir, const char *group)
{
	unsigned n = 0;
	char path[128];

	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s.%d", dir, group, i);
		n += access(path, F_OK) == 0;
	}
	return n;
}

static void what_was_kept_for_a_group_goes_with_its_last_vm(void **state)
{
	char dir[] = "/tmp/test-supervisor-XXXXXX";
	struct world w;
	int fds[2];

	(void)state;
	assert_non_null(mkdtemp(dir));
	world_init(&w);
	w.s.conf.state_dir = dir;
	/* A predecessor's, of a group that nobody has seen since. */
	assert_int_equal(proxy_state_open(dir, "vm-x.y", fds), 0);
	close(fds[0]);
	close(fds[1]);
	want(&w, "a", "ns-shop", 80, false);
	expect(&w, HELLO);
	say_hello(&w, 1, NULL);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_SETUP, 2);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 2);
	assert_int_equal(n_kept(dir, "ns-shop"), 2);
	/* One that died is wanted again. */
	supervisor_exited(&w.s, &(struct monitor_exit){ .proxy = 1 });
	assert_int_equal(n_kept(dir, "ns-shop"), 2);
	w.s.sweep_at_ms = 0;
	supervisor_tick(&w.s);
	assert_int_equal(n_kept(dir, "ns-shop"), 2);
	assert_int_equal(n_kept(dir, "vm-x.y"), 0);
	supervisor_unwant(&w.s, "a", 10);
	supervisor_exited(&w.s, &(struct monitor_exit){ .proxy = 2 });
	for (int i = 0; i < 300 && n_kept(dir, "ns-shop"); i++)
		assert_int_equal(loop_turn(w.loop, 100), 0);
	assert_int_equal(n_kept(dir, "ns-shop"), 0);
	assert_int_equal(rmdir(dir), 0);
	world_deinit(&w);
}

static void a_vm_that_comes_back_while_it_leaves_is_put_anew(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	supervisor_unwant(&w.s, "a", 40);
	expect(&w, VM_REMOVE);
	want(&w, "a", "ns-shop", 80, false);
	expect_nothing(&w);
	say_status(&w, "a", STATE(STOPPED));
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 2);
	say_status(&w, "a", STATE(READY));
	assert_int_equal(w.last, VM_SERVING);
	assert_int_equal(w.n_gone, 0);
	world_deinit(&w);
}

static void another_group_is_another_process(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	want(&w, "a", "ns-other", 80, false);
	expect(&w, VM_REMOVE);
	assert_int_equal(w.n_spawned, 1);
	say_status(&w, "a", STATE(STOPPED));
	assert_int_equal(w.n_spawned, 2);
	expect(&w, HELLO);
	say_hello(&w, 1, NULL);
	expect(&w, SETUP);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 2);
	assert_string_equal(supervisor_find(&w.s, "a")->process->group, "ns-other");
	world_deinit(&w);
}

static void tokens_go_with_the_put_or_after_it(void **state)
{
	Outrigger__Ipc__ToProxy *m;
	struct world w;
	size_t n;

	(void)state;
	world_init(&w);
	want(&w, "a", "g", 80, false);
	assert_int_equal(supervisor_token(&w.s, "a", "one", NULL), 0);
	expect(&w, HELLO);
	say_hello(&w, 1, NULL);
	expect(&w, SETUP);
	m = next(&w, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT);
	assert_string_equal(m->vm_put->token, "one");
	pb_free(m);
	assert_int_equal(supervisor_token(&w.s, "a", "two", NULL), 0);
	m = next(&w, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_VM_TOKEN);
	assert_string_equal(m->vm_token->token, "two");
	pb_free(m);
	assert_int_equal(supervisor_token(&w.s, "a", NULL, "not yours"), 0);
	m = next(&w, &n);
	assert_string_equal(m->vm_token->refused, "not yours");
	assert_string_equal(m->vm_token->token, "");
	pb_free(m);
	assert_int_equal(supervisor_token(&w.s, "nobody", "x", NULL), 0);
	world_deinit(&w);
}

static void an_unknown_version_is_refused(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	want(&w, "a", "g", 80, false);
	expect(&w, HELLO);
	say_hello(&w, 9, NULL);
	assert_true(w.n_failed > 0);
	assert_int_equal(w.n_killed, 1);
	assert_int_equal(w.n_listeners, 0);
	world_deinit(&w);
}

/* A process that serves "a" already. */
static void adopt(struct world *w, bool draining)
{
	int fds[2];

	assert_int_equal(fdmsg_pair(fds), 0);
	w->proxy = fds[1];
	assert_int_equal(supervisor_adopt(&w->s, "ns-shop", fds[0], 77, draining), 0);
	expect(w, HELLO);
	say_hello(w, 1, "a");
}

static void a_successor_adopts_what_serves(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	adopt(&w, false);
	expect(&w, SETUP);
	want(&w, "a", "ns-shop", 80, false);
	expect(&w, VM_PUT);			/* no listeners: it has its own */
	assert_int_equal(w.n_listeners, 0);
	assert_int_equal(w.n_spawned, 0);
	assert_int_equal(w.n_settled, 0);
	say_status(&w, "a", STATE(READY));
	assert_int_equal(w.last, VM_SERVING);
	assert_int_equal(w.n_settled, 1);	/* of its own entries none was away for a moment */
	want(&w, "b", "ns-shop", 81, false);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 2);
	world_deinit(&w);
}

static void say_load(struct world *w, const char *id, uint64_t connections)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__Load load = OUTRIGGER__IPC__LOAD__INIT;
	Outrigger__Ipc__VmLoad vm = OUTRIGGER__IPC__VM_LOAD__INIT, *vms[] = { &vm };

	vm.vm_id = TEXT(id);
	vm.connections_open = connections;
	load.vms = vms;
	load.n_vms = 1;
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_LOAD;
	m.load = &load;
	say(w, &m);
}

static void who_drains_is_known_to_the_next_agent_and_hosts_nobody(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	adopt(&w, true);
	expect_nothing(&w);			/* no setup, which would give it names to be adopted by */
	supervisor_tick(&w.s);
	expect(&w, LOAD_REQUEST);
	say_load(&w, "a", 3);
	struct process *p = list_entry(w.s.processes.next, struct process, link);
	assert_true(p->retired && p->state == PROCESS_STOPPING);
	assert_int_equal(p->connections, 3);
	supervisor_vanished(&w.s, "a");		/* nor does it go on speaking for one that is gone */
	expect(&w, VM_REMOVE);
	say_load(&w, "gone", 1);
	expect_nothing(&w);			/* it may be found again yet */
	p->started_ms -= 60000;
	say_load(&w, "gone", 1);		/* it went while there was no agent */
	expect(&w, VM_REMOVE);
	say_load(&w, "gone", 0);
	p->started_ms += 60000;
	say_load(&w, "a", 3);
	expect_nothing(&w);
	int old = w.proxy;
	w.proxy = -1;
	want(&w, "a", "ns-shop", 80, false);
	assert_int_equal(w.n_spawned, 1);	/* the VM gets another one */
	assert_int_equal(p->connections, 3);
	close(old);
	turn(&w);
	supervisor_tick(&w.s);
	list_for_each(l, &w.s.processes)
		assert_false(list_entry(l, struct process, link)->retired);
	world_deinit(&w);
}

static void what_the_proxy_finds_of_the_vms_health_is_kept(void **state)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__VmHealth health = OUTRIGGER__IPC__VM_HEALTH__INIT;
	Outrigger__Ipc__PortHealth port = OUTRIGGER__IPC__PORT_HEALTH__INIT, *ports[] = { &port };
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	health.vm_id = TEXT("a");
	health.ports = ports;
	health.n_ports = 1;
	port.port = 8080;
	port.state = TEXT("unhealthy");
	port.reason = TEXT("HTTP status 500");
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_VM_HEALTH;
	m.vm_health = &health;
	say(&w, &m);
	assert_int_equal(w.n_health, 1);
	assert_string_equal(supervisor_find(&w.s, "a")->health->ports[0]->reason, "HTTP status 500");
	health.n_ports = 0;
	say(&w, &m);
	assert_int_equal(w.n_health, 2);
	assert_int_equal(supervisor_find(&w.s, "a")->health->n_ports, 0);
	health.vm_id = TEXT("nobody");
	say(&w, &m);
	assert_int_equal(w.n_health, 2);
	world_deinit(&w);
}

/* What the last message was, with its descriptors counted; to be freed. */
static Outrigger__Ipc__ToProxy *got(struct world *w, int proxy, size_t *ret_n_fds)
{
	int last = w->proxy;
	Outrigger__Ipc__ToProxy *m;

	w->proxy = proxy;
	m = next(w, ret_n_fds);
	w->proxy = last;
	assert_non_null(m);
	return m;
}

/* Begins to replace the process that serves "a"; returns the old one's end, the new one's is w->proxy. */
static int begin_upgrade(struct world *w)
{
	Outrigger__Ipc__ToProxy *m;
	size_t n;
	int old;

	serve(w, "a", true);
	assert_int_equal(supervisor_upgrade(&w->s, "nobody"), -ESRCH);
	old = fcntl(w->proxy, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(supervisor_upgrade(&w->s, "ns-shop"), 0);
	assert_int_equal(supervisor_upgrade(&w->s, "ns-shop"), -EALREADY);
	assert_int_equal(w->n_spawned, 2);
	expect(w, HELLO);
	say_hello(w, 1, NULL);
	m = got(w, w->proxy, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_SETUP);
	assert_string_equal(m->setup->resume_path, "");		/* the names are the old one's yet */
	pb_free(m);
	m = got(w, w->proxy, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT);
	assert_true(m->vm_put->standby);
	assert_int_equal(n, 0);
	pb_free(m);
	return old;
}

static void a_successor_gets_the_listeners_when_it_can_serve(void **state)
{
	Outrigger__Ipc__ToProxy *m;
	unsigned n_diverts;
	struct world w;
	size_t n;
	int old;

	(void)state;
	world_init(&w);
	old = begin_upgrade(&w);
	n_diverts = w.n_diverts;
	assert_int_equal(w.n_listeners, 1);
	want(&w, "b", "ns-shop", 81, false);		/* one that comes meanwhile is the old one's */
	m = got(&w, old, &n);
	assert_string_equal(m->vm_put->vm_id, "b");
	assert_int_equal(n, 2);
	pb_free(m);
	say_status(&w, "a", STATE(CERTIFICATE));
	expect_nothing(&w);
	say_status(&w, "a", STATE(READY));
	m = got(&w, w.proxy, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT);
	assert_string_equal(m->vm_put->vm_id, "a");
	assert_false(m->vm_put->standby);
	assert_int_equal(n, 2);
	pb_free(m);
	m = got(&w, w.proxy, &n);
	assert_string_equal(m->vm_put->vm_id, "b");	/* was not served yet */
	assert_int_equal(n, 2);
	pb_free(m);
	m = got(&w, w.proxy, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_SETUP);
	assert_string_equal(m->setup->resume_path, "/run/x/ns-shop/102.resume");
	pb_free(m);
	m = got(&w, old, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_SHUTDOWN);
	assert_true(m->shutdown->linger_ms > 0);
	pb_free(m);
	assert_int_equal(w.n_diverts, n_diverts);	/* not for a moment undone */
	assert_int_equal(w.n_listeners, 4);
	assert_int_equal(w.last, VM_PREPARING);
	say_status(&w, "b", STATE(READY));
	assert_int_equal(w.last, VM_SERVING);
	/* A VM that is gone is gone for who drains, too. */
	supervisor_vanished(&w.s, "a");
	m = got(&w, old, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_VM_REMOVE);
	assert_string_equal(m->vm_remove->vm_id, "a");
	assert_int_equal(m->vm_remove->drain_ms, 0);
	pb_free(m);
	expect_nothing(&w);
	/* The old one ends: nobody minds. */
	supervisor_exited(&w.s, &(struct monitor_exit){ .proxy = 1 });
	turn(&w);
	assert_int_equal(w.n_spawned, 2);
	supervisor_tick(&w.s);
	assert_int_equal(w.last, VM_SERVING);
	close(old);
	world_deinit(&w);
}

static void every_process_gets_the_access_log_and_again_when_it_is_opened_anew(void **state)
{
	Outrigger__Ipc__Setup setup = OUTRIGGER__IPC__SETUP__INIT;
	Outrigger__Ipc__ToProxy *m;
	struct world w;
	size_t n;

	(void)state;
	world_init(&w);
	setup.access_log = TEXT("/log");
	assert_int_equal(supervisor_set_mesh(&w.s, &setup), 0);
	want(&w, "a", "ns-shop", 80, false);
	expect(&w, HELLO);
	say_hello(&w, 1, NULL);
	m = next(&w, &n);
	assert_non_null(m);
	assert_true(m->setup->access_log_comes);
	pb_free(m);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_ACCESS_LOG, 1);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 2);
	assert_int_equal(supervisor_set_mesh(&w.s, &setup), 0);
	assert_int_equal(w.n_access_logs, 2);
	expect(&w, SETUP);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_ACCESS_LOG, 1);
	/* Without the file it serves on, and is told that there is none. */
	w.access_log_error = -EACCES;
	assert_int_equal(supervisor_set_mesh(&w.s, &setup), 0);
	assert_int_equal(w.n_failed, 1);
	expect(&w, SETUP);
	expect(&w, ACCESS_LOG);
	/* What is not a file, the proxy has already. */
	setup.access_log = TEXT("stderr");
	assert_int_equal(supervisor_set_mesh(&w.s, &setup), 0);
	m = next(&w, &n);
	assert_false(m->setup->access_log_comes);
	pb_free(m);
	expect_nothing(&w);
	world_deinit(&w);
}

static void who_drains_gets_the_new_access_log_as_well(void **state)
{
	Outrigger__Ipc__Setup setup = OUTRIGGER__IPC__SETUP__INIT;
	Outrigger__Ipc__ToProxy *m;
	struct world w;
	size_t n;
	int old;

	(void)state;
	world_init(&w);
	old = begin_upgrade(&w);
	say_status(&w, "a", STATE(READY));
	m = got(&w, old, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_SHUTDOWN);
	pb_free(m);
	setup.access_log = TEXT("/log");
	assert_int_equal(supervisor_set_mesh(&w.s, &setup), 0);
	m = got(&w, old, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_ACCESS_LOG);
	assert_int_equal(n, 1);
	pb_free(m);
	close(old);
	world_deinit(&w);
}

static void a_successor_that_fails_changes_nothing(void **state)
{
	for (int how = 0; how < 3; how++) {
		Outrigger__Ipc__ToProxy *m;
		struct world w;
		size_t n;
		int old;

		(void)state;
		world_init(&w);
		old = begin_upgrade(&w);
		if (how == 0)
			say_status(&w, "a", STATE(FAILED));
		else if (how == 1)
			supervisor_exited(&w.s, &(struct monitor_exit){ .proxy = 2 });
		else
			w.proxy = close_fd(w.proxy);
		turn(&w);
		supervisor_tick(&w.s);
		assert_int_equal(w.n_listeners, 1);
		assert_int_equal(w.last, VM_SERVING);
		assert_true(w.n_failed >= 1);
		/* The old one serves on, and hears of changes. */
		m = got(&w, old, &n);
		assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_LOAD_REQUEST);
		pb_free(m);
		want(&w, "a", "ns-shop", 90, true);
		m = got(&w, old, &n);
		assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT);
		pb_free(m);
		assert_int_equal(supervisor_upgrade(&w.s, "ns-shop"), 0);
		assert_int_equal(w.n_spawned, 3);
		close(old);
		world_deinit(&w);
	}
}

static void a_vm_that_leaves_leaves_the_successor_as_well(void **state)
{
	Outrigger__Ipc__ToProxy *m;
	struct world w;
	size_t n;
	int old;

	(void)state;
	world_init(&w);
	old = begin_upgrade(&w);
	supervisor_unwant(&w.s, "a", 20);
	expect(&w, VM_REMOVE);
	m = got(&w, old, &n);
	assert_int_equal(m->msg_case, OUTRIGGER__IPC__TO_PROXY__MSG_VM_REMOVE);
	pb_free(m);
	supervisor_tick(&w.s);			/* nobody to wait for: it takes over */
	expect(&w, SETUP);
	turn_until(&w, &w.n_gone, 1);
	close(old);
	world_deinit(&w);
}

static void a_restarted_process_gets_the_credential_of_the_one_before(void **state)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__Credential credential = OUTRIGGER__IPC__CREDENTIAL__INIT;
	CLEANUP_FREE uint8_t *data = NULL;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct world w;
	size_t len;

	(void)state;
	world_init(&w);
	serve(&w, "a", true);
	credential.vm_id = TEXT("a");
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_CREDENTIAL;
	m.credential = &credential;
	assert_int_equal(pb_pack(&m.base, &data, &len), 0);
	assert_int_equal(fdmsg_send(w.proxy, data, len, &fd, 1), 0);
	close(fd);
	turn(&w);
	supervisor_exited(&w.s, &(struct monitor_exit){ .proxy = 1 });
	turn_until(&w, &w.n_spawned, 2);
	expect(&w, HELLO);
	say_hello(&w, 1, NULL);
	expect(&w, SETUP);
	expect_fds(&w, OUTRIGGER__IPC__TO_PROXY__MSG_VM_PUT, 3);
	world_deinit(&w);
}

static void garbage_from_a_proxy_ends_it(void **state)
{
	struct world w;

	(void)state;
	world_init(&w);
	serve(&w, "a", false);
	assert_int_equal(fdmsg_send(w.proxy, "\xff\xff\xff", 3, NULL, 0), 0);
	turn(&w);
	assert_int_equal(w.n_killed, 1);
	assert_int_equal(w.last, VM_WAITING);
	world_deinit(&w);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(flows_are_diverted_only_when_the_proxy_is_ready),
		cmocka_unit_test(sockets_for_queries_come_when_the_policy_wants_them),
		cmocka_unit_test(without_a_mesh_nothing_is_started),
		cmocka_unit_test(a_group_is_one_process_and_another_group_another),
		cmocka_unit_test(a_later_service_joins_and_the_same_wish_is_no_news),
		cmocka_unit_test(a_dead_process_is_back_with_all_its_vms),
		cmocka_unit_test(what_fails_closed_stays_diverted),
		cmocka_unit_test(a_process_that_cannot_start_is_tried_again),
		cmocka_unit_test(a_vm_that_leaves_is_drained),
		cmocka_unit_test(a_proxy_that_does_not_let_go_is_not_waited_for),
		cmocka_unit_test(what_was_kept_for_a_group_goes_with_its_last_vm),
		cmocka_unit_test(a_vm_that_comes_back_while_it_leaves_is_put_anew),
		cmocka_unit_test(another_group_is_another_process),
		cmocka_unit_test(tokens_go_with_the_put_or_after_it),
		cmocka_unit_test(an_unknown_version_is_refused),
		cmocka_unit_test(a_successor_adopts_what_serves),
		cmocka_unit_test(who_drains_is_known_to_the_next_agent_and_hosts_nobody),
		cmocka_unit_test(what_the_proxy_finds_of_the_vms_health_is_kept),
		cmocka_unit_test(a_successor_gets_the_listeners_when_it_can_serve),
		cmocka_unit_test(every_process_gets_the_access_log_and_again_when_it_is_opened_anew),
		cmocka_unit_test(who_drains_gets_the_new_access_log_as_well),
		cmocka_unit_test(a_successor_that_fails_changes_nothing),
		cmocka_unit_test(a_vm_that_leaves_leaves_the_successor_as_well),
		cmocka_unit_test(a_restarted_process_gets_the_credential_of_the_one_before),
		cmocka_unit_test(garbage_from_a_proxy_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

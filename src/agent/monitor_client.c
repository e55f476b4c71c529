/*
 * The worker's side of the root monitor: requests and their answers.
 */
#include "agent/monitor_client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "agent/monitor_msg.h"
#include "base/clock.h"
#include "base/fdmsg.h"
#include "base/list.h"

struct queued_exit {
	struct list link;
	struct monitor_exit e;
};

struct monitor_client {
	int sock;
	uint32_t n_calls;
	struct list exits;
	void (*on_exit)(const struct monitor_exit *e, void *data);
	void *on_exit_data;

	struct {
		struct monitor_header h;
		uint8_t body[MONITOR_MSG_MAX - sizeof(struct monitor_header)];
	} msg;
	size_t body_len;
	int fds[MONITOR_MAX_FDS];
	size_t n_fds;
};

int monitor_client_new(int sock, struct monitor_client **ret_client)
{
	struct monitor_client *c = calloc(1, sizeof(*c));

	if (!c) {
		close_fd(sock);
		return -ENOMEM;
	}
	c->sock = sock;
	list_init(&c->exits);
	*ret_client = c;
	return 0;
}

struct monitor_client *monitor_client_free(struct monitor_client *c)
{
	if (!c)
		return NULL;
	list_for_each_safe(l, &c->exits)
		free(list_entry(l, struct queued_exit, link));
	close_fd(c->sock);
	free(c);
	return NULL;
}

int monitor_client_fd(const struct monitor_client *c)
{
	return c->sock;
}

void monitor_client_on_exit(struct monitor_client *c, void (*fn)(const struct monitor_exit *e, void *data), void *data)
{
	c->on_exit = fn;
	c->on_exit_data = data;
}

/* --- receiving --- */

static void close_fds(struct monitor_client *c)
{
	while (c->n_fds)
		close_fd(c->fds[--c->n_fds]);
}

static int wait_readable(const struct monitor_client *c, uint64_t until_ms)
{
	struct pollfd p = { .fd = c->sock, .events = POLLIN };
	uint64_t now = clock_mono_ms();
	int r = poll(&p, 1, until_ms > now ? (int)(until_ms - now) : 0);

	if (r < 0)
		return errno == EINTR ? 0 : -errno;
	return r ? 0 : -ETIMEDOUT;
}

/* -EAGAIN: nothing there */
static int receive(struct monitor_client *c)
{
	ssize_t n = fdmsg_recv(c->sock, &c->msg, sizeof(c->msg), c->fds, ELEMENTS(c->fds), &c->n_fds);

	if (n == 0 || n == -ECONNRESET)
		return -EPIPE;
	if (n < 0)
		return (int)n;
	if ((size_t)n < sizeof(c->msg.h)) {
		close_fds(c);
		return -EPROTO;
	}
	c->body_len = (size_t)n - sizeof(c->msg.h);
	return 0;
}

static int queue_exit(struct monitor_client *c)
{
	struct queued_exit *q;

	if (c->body_len != sizeof(q->e))
		return -EPROTO;
	q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	memcpy(&q->e, c->msg.body, sizeof(q->e));
	list_append(&c->exits, &q->link);
	return 0;
}

int monitor_client_dispatch(struct monitor_client *c)
{
	int r;

	while ((r = receive(c)) == 0) {
		close_fds(c);
		r = c->msg.h.op == MONITOR_OP_EXITED ? queue_exit(c) : -EPROTO;
		if (r < 0)
			return r;
	}
	while (!list_empty(&c->exits)) {
		struct queued_exit *q = list_first(&c->exits, struct queued_exit, link);

		list_unlink(&q->link);
		if (c->on_exit)
			c->on_exit(&q->e, c->on_exit_data);
		free(q);
	}
	return r == -EAGAIN ? 0 : r;
}

/* --- calling --- */

static int await_answer(struct monitor_client *c, uint32_t call)
{
	uint64_t until_ms = clock_mono_ms() + MONITOR_TIMEOUT_MS;

	for (;;) {
		int r = receive(c);

		if (r == -EAGAIN || r == -EINTR) {
			r = wait_readable(c, until_ms);
			if (r < 0)
				return r;
			continue;
		}
		if (r < 0)
			return r;
		if (c->msg.h.op != MONITOR_OP_EXITED)
			break;
		close_fds(c);
		r = queue_exit(c);
		if (r < 0)
			return r;
	}
	if (c->msg.h.call == call)
		return 0;
	close_fds(c);
	return -EPROTO;
}

/* The answer's body must have @ret_len bytes, and the descriptors must be @ret_n_fds, which are left in c->fds. */
static int call(struct monitor_client *c, enum monitor_op op, const void *body, size_t len,
		const int *fds, size_t n_fds, void *ret_body, size_t ret_len, size_t ret_n_fds)
{
	if (len > sizeof(c->msg.body) || n_fds > MONITOR_MAX_FDS)
		return -E2BIG;
	c->msg.h = (struct monitor_header){ .op = op, .call = ++c->n_calls };
	if (len)
		memcpy(c->msg.body, body, len);

	int r = fdmsg_send(c->sock, &c->msg, sizeof(c->msg.h) + len, fds, n_fds);
	if (r < 0)
		return r;
	r = await_answer(c, c->n_calls);
	if (r < 0)
		return r;
	if (c->msg.h.result < 0) {
		close_fds(c);
		return c->msg.h.result;
	}
	if (c->msg.h.op != op || c->body_len != ret_len || c->n_fds != ret_n_fds) {
		close_fds(c);
		return -EPROTO;
	}
	if (ret_len)
		memcpy(ret_body, c->msg.body, ret_len);
	return 0;
}

static int tell(struct monitor_client *c, enum monitor_op op, const void *body, size_t len)
{
	return call(c, op, body, len, NULL, 0, NULL, 0, 0);
}

int monitor_load(struct monitor_client *c, struct monitor_loaded *ret_loaded)
{
	struct monitor_msg_loaded m;
	int r = call(c, MONITOR_OP_LOAD, NULL, 0, NULL, 0, &m, sizeof(m), 1);

	if (r < 0)
		return r;
	c->n_fds = 0;
	*ret_loaded = (struct monitor_loaded){
		.adopted = m.adopted, .tcx = m.tcx, .ring_fd = c->fds[0], .ring_bytes = m.ring_bytes,
	};
	return 0;
}

int monitor_port_add(struct monitor_client *c, const struct monitor_port *p)
{
	return tell(c, MONITOR_OP_PORT_ADD, p, sizeof(*p));
}

int monitor_port_remove(struct monitor_client *c, uint32_t ifindex, uint16_t vlan)
{
	struct monitor_msg_port m = { .ifindex = ifindex, .vlan = vlan };

	return tell(c, MONITOR_OP_PORT_REMOVE, &m, sizeof(m));
}

int monitor_address_add(struct monitor_client *c, uint32_t vm, const struct ip *addr, const uint8_t mac[6])
{
	struct monitor_msg_address m = { .addr = *addr, .vm = vm };

	memcpy(m.mac, mac, sizeof(m.mac));
	return tell(c, MONITOR_OP_ADDRESS_ADD, &m, sizeof(m));
}

int monitor_address_remove(struct monitor_client *c, uint32_t vm, const struct ip *addr)
{
	struct monitor_msg_address m = { .addr = *addr, .vm = vm };

	return tell(c, MONITOR_OP_ADDRESS_REMOVE, &m, sizeof(m));
}

int monitor_vm_clear(struct monitor_client *c, uint32_t vm)
{
	struct monitor_msg_vm m = { .vm = vm };

	return tell(c, MONITOR_OP_VM_CLEAR, &m, sizeof(m));
}

int monitor_sniff_set(struct monitor_client *c, const struct monitor_sniff *ports, size_t n_ports)
{
	struct monitor_msg_sniff m = { .n = (uint32_t)n_ports };

	if (n_ports > MONITOR_MAX_SNIFF)
		return -E2BIG;
	for (size_t i = 0; i < n_ports; i++) {
		m.ports[i].port = ports[i].port;
		m.ports[i].udp = ports[i].udp;
	}
	return tell(c, MONITOR_OP_SNIFF_SET, &m, sizeof(m));
}

int monitor_divert_add(struct monitor_client *c, const struct monitor_divert *d)
{
	return tell(c, MONITOR_OP_DIVERT_ADD, d, sizeof(*d));
}

int monitor_divert_remove(struct monitor_client *c, const struct monitor_divert *d)
{
	return tell(c, MONITOR_OP_DIVERT_REMOVE, d, sizeof(*d));
}

int monitor_diverts_settle(struct monitor_client *c, uint32_t vm)
{
	struct monitor_msg_vm m = { .vm = vm };

	return tell(c, MONITOR_OP_DIVERTS_SETTLE, &m, sizeof(m));
}

int monitor_diverts_open(struct monitor_client *c, uint32_t vm)
{
	struct monitor_msg_vm m = { .vm = vm };

	return tell(c, MONITOR_OP_DIVERTS_OPEN, &m, sizeof(m));
}

static int make_sockets(struct monitor_client *c, uint32_t op, uint32_t vm, int ret_fds[2])
{
	struct monitor_msg_vm m = { .vm = vm };
	int r = call(c, op, &m, sizeof(m), NULL, 0, NULL, 0, 2);

	if (r < 0)
		return r;
	c->n_fds = 0;
	ret_fds[0] = c->fds[0];
	ret_fds[1] = c->fds[1];
	return 0;
}

int monitor_listeners_make(struct monitor_client *c, uint32_t vm, int ret_fds[2])
{
	return make_sockets(c, MONITOR_OP_LISTENERS_MAKE, vm, ret_fds);
}

int monitor_dns_make(struct monitor_client *c, uint32_t vm, int ret_fds[2])
{
	return make_sockets(c, MONITOR_OP_DNS_MAKE, vm, ret_fds);
}

/* --- proxies --- */

int monitor_proxy_spawn(struct monitor_client *c, const struct monitor_spawn *s, uint32_t *ret_proxy, pid_t *ret_pid)
{
	struct monitor_msg_spawn m = { .workers = s->workers };
	struct monitor_msg_spawned spawned;
	int r;

	if ((size_t)snprintf(m.group, sizeof(m.group), "%s", s->group) >= sizeof(m.group))
		return -ENAMETOOLONG;
	r = call(c, MONITOR_OP_PROXY_SPAWN, &m, sizeof(m), s->fds, s->n_fds, &spawned, sizeof(spawned), 0);
	if (r < 0)
		return r;
	*ret_proxy = spawned.proxy;
	*ret_pid = spawned.pid;
	return 0;
}

int monitor_proxy_user(struct monitor_client *c, const char *group, uid_t *ret_uid)
{
	struct monitor_msg_group m = {};
	struct monitor_msg_user a;
	int r;

	if ((size_t)snprintf(m.group, sizeof(m.group), "%s", group) >= sizeof(m.group))
		return -ENAMETOOLONG;
	r = call(c, MONITOR_OP_PROXY_USER, &m, sizeof(m), NULL, 0, &a, sizeof(a), 0);
	if (r < 0)
		return r;
	*ret_uid = a.uid;
	return 0;
}

int monitor_proxy_signal(struct monitor_client *c, uint32_t proxy, int signo)
{
	struct monitor_msg_signal m = { .proxy = proxy, .signo = signo };

	return tell(c, MONITOR_OP_PROXY_SIGNAL, &m, sizeof(m));
}

int monitor_access_log(struct monitor_client *c, const char *path, int *ret_fd)
{
	struct monitor_msg_path m = {};
	int r;

	if ((size_t)snprintf(m.path, sizeof(m.path), "%s", path) >= sizeof(m.path))
		return -ENAMETOOLONG;
	r = call(c, MONITOR_OP_ACCESS_LOG, &m, sizeof(m), NULL, 0, NULL, 0, 1);
	if (r < 0)
		return r;
	c->n_fds = 0;
	*ret_fd = c->fds[0];
	return 0;
}

/* --- probes --- */

int monitor_probe_open(struct monitor_client *c, const struct monitor_probe *p, int *ret_fd, struct ip_port *ret_local)
{
	int r = call(c, MONITOR_OP_PROBE_OPEN, p, sizeof(*p), NULL, 0, ret_local, sizeof(*ret_local), 1);

	if (r < 0)
		return r;
	c->n_fds = 0;
	*ret_fd = c->fds[0];
	return 0;
}

int monitor_probe_result(struct monitor_client *c, const struct ip_port *target, const struct ip_port *local,
			 struct monitor_probe_answer *ret_answer)
{
	struct monitor_msg_probe_result m = { .target = *target, .local = *local };
	struct monitor_msg_probe_answer a;
	int r = call(c, MONITOR_OP_PROBE_RESULT, &m, sizeof(m), NULL, 0, &a, sizeof(a), 0);

	if (r < 0)
		return r;
	*ret_answer = (struct monitor_probe_answer){
		.ifindex = a.ifindex, .vm = a.vm, .vlan = a.vlan, .refused = a.refused,
	};
	memcpy(ret_answer->mac, a.mac, sizeof(a.mac));
	return 0;
}

/* --- what is going on --- */

int monitor_counters_get(struct monitor_client *c, uint32_t vm, struct monitor_counters *ret_counters)
{
	struct monitor_msg_vm m = { .vm = vm };

	return call(c, MONITOR_OP_COUNTERS, &m, sizeof(m), NULL, 0, ret_counters, sizeof(*ret_counters), 0);
}

int monitor_checks(struct monitor_client *c, struct monitor_check *ret_checks, size_t *ret_n)
{
	struct monitor_msg_checks m;
	int r = call(c, MONITOR_OP_CHECKS, NULL, 0, NULL, 0, &m, sizeof(m), 0);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < m.n && i < MONITOR_MAX_CHECKS; i++) {
		ret_checks[i] = (struct monitor_check){ .ok = m.checks[i].ok, .fatal = m.checks[i].fatal };
		snprintf(ret_checks[i].what, sizeof(ret_checks[i].what), "%s", m.checks[i].what);
		snprintf(ret_checks[i].found, sizeof(ret_checks[i].found), "%s", m.checks[i].found);
	}
	*ret_n = MIN(m.n, (uint32_t)MONITOR_MAX_CHECKS);
	return 0;
}

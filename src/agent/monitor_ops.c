/*
 * What the root monitor does for the worker. Every field of a request is
 * checked here, before anything is done with it.
 */
#include "agent/monitor_ops.h"

#include <bpf/bpf.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "agent/log_file.h"
#include "agent/steer_check.h"
#include "agent/steer_sockets.h"
#include "api/divert.h"

enum { DNS_PORT = 53, BEHIND_LEN_MIN = 8 };

static bool is_vm(const struct monitor_state *m, uint32_t vm)
{
	return vm > 0 && vm < m->conf->max_vms;
}

static void reply(struct monitor_request *q, const void *data, size_t len)
{
	memcpy(q->out, data, len);
	q->out_len = len;
}

/* --- set-up --- */

void monitor_ops_unload(struct monitor_state *m)
{
	bool stays = m->bpf.pinned;

	if (!m->nl.sock)
		return;
	steer_table_deinit(&m->table);
	steer_bpf_unload(&m->bpf);
	if (!stays) {
		steer_routes_remove(&m->routes);
		steer_sysctls_restore(&m->sysctls);
		if (m->divert.ifindex)
			steer_link_remove(&m->nl, &m->divert);
	}
	netlink_close(&m->nl);
	m->loaded = false;
}

/* A predecessor's entry whose route went with the rules that were set up anew. */
static int route_found(const struct monitor_divert *d, void *data)
{
	struct monitor_state *m = data;

	return d->flags & MONITOR_DIVERT_SAME_NIC ? steer_routes_same_nic_add(&m->routes, &d->dst.ip, d->port) : 0;
}

static int load(struct monitor_state *m)
{
	int r = netlink_open(&m->nl);
	if (r < 0)
		return r;
	r = steer_link_ensure(&m->nl, m->conf, &m->divert);
	if (r < 0)
		return r;
	steer_sysctls_init(&m->sysctls, m->conf);
	r = steer_sysctls_apply(&m->sysctls);
	if (r < 0)
		return r;
	r = steer_routes_setup(&m->routes, &m->nl, m->conf, m->divert.ifindex);
	if (r < 0)
		return r;
	r = steer_bpf_load(&m->bpf, m->conf, &m->divert);
	if (r < 0)
		return r;
	r = steer_table_init(&m->table, &m->bpf);
	if (r < 0)
		return r;
	return steer_table_each_found(&m->table, 0, route_found, m);
}

static int op_load(struct monitor_state *m, struct monitor_request *q)
{
	if (m->loaded)
		return -EALREADY;

	int r = load(m);
	if (r < 0) {
		monitor_ops_unload(m);
		return r;
	}

	int ring = fcntl(m->bpf.ring, F_DUPFD_CLOEXEC, 0);
	if (ring < 0) {
		r = -errno;
		monitor_ops_unload(m);
		return r;
	}
	m->loaded = true;

	struct monitor_msg_loaded a = { .ring_bytes = m->conf->ring_bytes, .adopted = m->bpf.adopted, .tcx = m->bpf.tcx };
	reply(q, &a, sizeof(a));
	q->out_fds[q->n_out_fds++] = ring;
	return 0;
}

/* --- ports and addresses --- */

static bool is_port(const struct monitor_state *m, const struct monitor_port *p)
{
	bool vm = p->role == MONITOR_ROLE_VM;
	uint32_t known = MONITOR_PORT_DROP_SPOOFED | MONITOR_PORT_LEARN;

	if ((unsigned)p->role > MONITOR_ROLE_UPLINK || (unsigned)p->topology > MONITOR_OVS)
		return false;
	if (!p->ifindex || p->ifindex > INT32_MAX || p->out_ifindex > INT32_MAX || p->flags & ~known)
		return false;
	if (p->vlan > 4094 || p->out_vlan > 4094)
		return false;
	if (p->ifindex == m->divert.ifindex || p->out_ifindex == m->divert.ifindex)
		return false;
	return vm ? is_vm(m, p->vm) : p->vm == 0;
}

static bool matches(const char *const *patterns, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (fnmatch(patterns[i], name, 0) == 0)
			return true;
	return false;
}

/* Where frames in a VM's name may leave: the bridge that its port is in, an uplink, or what a port's `out` names. */
static int check_out(struct monitor_state *m, const struct monitor_port *p)
{
	const struct steer_conf *c = m->conf;
	struct steer_link port;
	char name[IF_NAMESIZE];

	if (!p->out_ifindex)
		return 0;
	if (!if_indextoname(p->out_ifindex, name))
		return -errno;
	if (matches(c->uplinks, c->n_uplinks, name))
		return 0;
	for (size_t i = 0; i < c->n_outs; i++)
		if (!strcmp(c->outs[i], name))
			return 0;

	int r = steer_link_get(&m->nl, p->ifindex, &port);
	if (r < 0)
		return r;
	return port.master == p->out_ifindex ? 0 : -EPERM;
}

/* The administrator names the devices; the worker may be somebody else by now. */
static int check_devices(struct monitor_state *m, const struct monitor_port *p)
{
	const struct steer_conf *c = m->conf;
	char name[IF_NAMESIZE];

	if (!c->n_vm_ports && !c->n_uplinks)
		return 0;
	if (!if_indextoname(p->ifindex, name))
		return -errno;
	if (p->role == MONITOR_ROLE_VM ? !matches(c->vm_ports, c->n_vm_ports, name) : !matches(c->uplinks, c->n_uplinks, name))
		return -EPERM;
	return check_out(m, p);
}

static int op_port_add(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_port p;

	memcpy(&p, q->in, sizeof(p));
	if (!is_port(m, &p))
		return MONITOR_OPS_E_ODD;
	int r = check_devices(m, &p);
	if (r < 0)
		return r;
	return steer_table_port_add(&m->table, &p);
}

static int op_port_remove(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_port p;

	memcpy(&p, q->in, sizeof(p));
	if (p.vlan > 4094)
		return MONITOR_OPS_E_ODD;
	return steer_table_port_remove(&m->table, p.ifindex, (uint16_t)p.vlan);
}

static int op_address_add(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_address a;

	memcpy(&a, q->in, sizeof(a));
	if (!is_vm(m, a.vm))
		return MONITOR_OPS_E_ODD;
	if (ip_is_none(&a.addr) || ip_is_multicast(&a.addr) || ip_is_loopback(&a.addr) || a.mac[0] & 1)
		return -EADDRNOTAVAIL;
	return steer_table_address_add(&m->table, a.vm, &a.addr, a.mac);
}

static int op_address_remove(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_address a;

	memcpy(&a, q->in, sizeof(a));
	if (!is_vm(m, a.vm))
		return MONITOR_OPS_E_ODD;
	return steer_table_address_remove(&m->table, a.vm, &a.addr);
}

static int op_sniff_set(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_sniff s;
	struct monitor_sniff ports[MONITOR_MAX_SNIFF];

	memcpy(&s, q->in, sizeof(s));
	if (s.n > MONITOR_MAX_SNIFF)
		return MONITOR_OPS_E_ODD;
	for (uint32_t i = 0; i < s.n; i++) {
		if (!s.ports[i].port)
			return MONITOR_OPS_E_ODD;
		ports[i] = (struct monitor_sniff){ .port = s.ports[i].port, .udp = s.ports[i].udp };
	}
	return steer_table_sniff_set(&m->table, ports, s.n);
}

/* --- diverts --- */

static bool is_divert(const struct monitor_state *m, const struct monitor_divert *d)
{
	uint16_t known = MONITOR_DIVERT_FAIL_CLOSED | MONITOR_DIVERT_SAME_NIC;

	if (d->direction == MONITOR_BEHIND)
		return is_vm(m, d->vm) && d->dst.len <= 128 && !d->port && !d->flags;
	if (d->direction == MONITOR_DNS)
		return is_vm(m, d->vm) && d->dst.len <= 128 && d->port == DNS_PORT && !(d->flags & ~MONITOR_DIVERT_DNS_ANSWERS);
	if ((unsigned)d->direction > MONITOR_INBOUND || !is_vm(m, d->vm) || d->dst.len > 128 || d->flags & ~known)
		return false;
	if (!(d->flags & MONITOR_DIVERT_SAME_NIC))
		return true;
	return d->direction == MONITOR_INBOUND && d->dst.len == 128 && d->port;
}

static int op_divert_add(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_divert d;
	uint32_t old_flags = 0;

	memcpy(&d, q->in, sizeof(d));
	if (!is_divert(m, &d))
		return MONITOR_OPS_E_ODD;
	if (d.direction == MONITOR_BEHIND && d.dst.len < BEHIND_LEN_MIN + (ip_is_v4(&d.dst.ip) ? 96 : 0))
		return -EADDRNOTAVAIL;		/* a cluster's objects may say anything; nobody has half of the internet behind him */

	int r = steer_table_divert_add(&m->table, &d, &old_flags);
	if (r < 0)
		return r;
	bool had = old_flags & MONITOR_DIVERT_SAME_NIC, has = d.flags & MONITOR_DIVERT_SAME_NIC;
	if (had && !has)
		steer_routes_same_nic_remove(&m->routes, &d.dst.ip, d.port);
	if (had || !has)
		return 0;
	r = steer_routes_same_nic_add(&m->routes, &d.dst.ip, d.port);
	if (r < 0)
		(void)!steer_table_divert_remove(&m->table, &d, &old_flags);
	return r;
}

static int divert_remove(const struct monitor_divert *d, void *data)
{
	struct monitor_state *m = data;
	uint32_t flags = 0;
	int r = steer_table_divert_remove(&m->table, d, &flags);

	if (r < 0)
		return r;
	if (flags & MONITOR_DIVERT_SAME_NIC)
		steer_routes_same_nic_remove(&m->routes, &d->dst.ip, d->port);
	return 0;
}

static int op_divert_remove(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_divert d;

	memcpy(&d, q->in, sizeof(d));
	if (!is_divert(m, &d))
		return MONITOR_OPS_E_ODD;
	return divert_remove(&d, m);
}

static int op_diverts_settle(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_vm v;

	memcpy(&v, q->in, sizeof(v));
	if (!is_vm(m, v.vm))
		return MONITOR_OPS_E_ODD;
	return steer_table_each_found(&m->table, v.vm, divert_remove, m);
}

static int divert_open(const struct monitor_divert *d, void *data)
{
	return d->direction == MONITOR_OUTBOUND ? divert_remove(d, data) : 0;
}

static int op_diverts_open(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_vm v;

	memcpy(&v, q->in, sizeof(v));
	if (!is_vm(m, v.vm))
		return MONITOR_OPS_E_ODD;
	if (steer_table_has_listeners(&m->table, v.vm))
		return 0;
	return steer_table_each_found(&m->table, v.vm, divert_open, m);
}

static int op_vm_clear(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_vm v;

	memcpy(&v, q->in, sizeof(v));
	if (!is_vm(m, v.vm))
		return MONITOR_OPS_E_ODD;
	int r = steer_table_each_divert(&m->table, v.vm, divert_remove, m);
	int e = steer_table_vm_clear(&m->table, v.vm);
	return r < 0 ? r : e;
}

static int op_listeners_make(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_vm v;

	memcpy(&v, q->in, sizeof(v));
	if (!is_vm(m, v.vm))
		return MONITOR_OPS_E_ODD;
	for (int i = 0; i < 2; i++) {
		int fd = steer_socket_listen(m->conf, i == MONITOR_OUTBOUND ? m->conf->outbound_port : m->conf->inbound_port);
		if (fd < 0)
			return fd;
		q->out_fds[q->n_out_fds++] = fd;
	}
	return steer_table_listeners_set(&m->table, v.vm, q->out_fds);
}

static int op_dns_make(struct monitor_state *m, struct monitor_request *q)
{
	static const enum steer_mark marks[2] = { STEER_MARK_DNS_ANSWER, STEER_MARK_DNS_QUERY };
	struct monitor_msg_vm v;

	memcpy(&v, q->in, sizeof(v));
	if (!is_vm(m, v.vm))
		return MONITOR_OPS_E_ODD;
	for (int i = 0; i < 2; i++) {
		int fd = steer_socket_dns(m->conf, marks[i]);
		if (fd < 0)
			return fd;
		q->out_fds[q->n_out_fds++] = fd;
	}
	return steer_table_dns_set(&m->table, v.vm, q->out_fds[0]);
}

/* --- proxies --- */

static bool is_group(const char *s)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

	return n && n < MONITOR_GROUP_LEN && !s[n] && s[0] != '.';	/* a folder has this name */
}

/* What a proxy is told on its command line is said here: of the worker's, only the group's name and a number are in it. */
static int op_proxy_spawn(struct monitor_state *m, struct monitor_request *q)
{
	static char option_group[] = "--group", option_mark[] = "--mark-base", option_workers[] = "--workers";
	char title[96], mark[16], workers[16];
	struct monitor_msg_spawn s;
	struct monitor_msg_spawned a;

	memcpy(&s, q->in, sizeof(s));
	if (!memchr(s.group, 0, sizeof(s.group)) || !is_group(s.group) || s.workers > MONITOR_MAX_WORKERS)
		return MONITOR_OPS_E_ODD;
	snprintf(title, sizeof(title), "outrigger-proxy %s", s.group);
	snprintf(mark, sizeof(mark), "%u", (unsigned)m->conf->mark_base);
	snprintf(workers, sizeof(workers), "%u", (unsigned)s.workers);
	char *argv[] = { title, option_group, s.group, option_mark, mark, option_workers, workers, NULL };
	int r = monitor_proxies_spawn(&m->proxies, s.group, argv, q->fds, q->n_fds, &a.proxy, &a.pid);
	if (r < 0)
		return r;
	reply(q, &a, sizeof(a));
	return 0;
}

static int op_proxy_user(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_user a = {};
	struct monitor_msg_group g;

	memcpy(&g, q->in, sizeof(g));
	if (!memchr(g.group, 0, sizeof(g.group)))
		return MONITOR_OPS_E_ODD;
	if (!is_group(g.group))		/* from a file's name, which any proxy may have made */
		return -EINVAL;
	int r = monitor_users_find(&m->proxies.users, g.group, &a.uid);
	if (r == 0)
		reply(q, &a, sizeof(a));
	return r;
}

static int op_proxy_signal(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_signal s;

	memcpy(&s, q->in, sizeof(s));
	if (s.signo != SIGTERM && s.signo != SIGKILL && s.signo != SIGHUP && s.signo != SIGUSR1 && s.signo != SIGUSR2)
		return MONITOR_OPS_E_ODD;
	return monitor_proxies_signal(&m->proxies, s.proxy, s.signo);
}

/* Only the file that the administrator named when we were started: the worker may be somebody else by now. */
static int op_access_log(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_path p;

	memcpy(&p, q->in, sizeof(p));
	if (!memchr(p.path, 0, sizeof(p.path)))
		return MONITOR_OPS_E_ODD;
	if (!m->conf->access_log || strcmp(p.path, m->conf->access_log))
		return -EPERM;
	int fd = log_file_open(p.path);
	if (fd < 0)
		return fd;
	q->out_fds[q->n_out_fds++] = fd;
	return 0;
}

/* --- probes --- */

static int op_probe_open(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_probe p;
	struct ip_port local;

	memcpy(&p, q->in, sizeof(p));
	/* No guest is at the NIC's own loopback, where others listen for nobody but programs of the NIC. */
	if (!p.target.port || ip_is_none(&p.target.ip) || ip_is_multicast(&p.target.ip) || ip_is_loopback(&p.target.ip))
		return -EINVAL;
	if (!ip_is_none(&p.source) && ip_is_v4(&p.source) != ip_is_v4(&p.target.ip))
		return -EAFNOSUPPORT;

	int fd = steer_socket_probe(m->conf, &p.target, &p.source, &local);
	if (fd < 0)
		return fd;
	q->out_fds[q->n_out_fds++] = fd;
	reply(q, &local, sizeof(local));
	return 0;
}

static int op_probe_result(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_probe_result p;
	struct steer_flow_key k = {};
	struct steer_probe v;

	memcpy(&p, q->in, sizeof(p));
	memcpy(&k.saddr, &p.target.ip, sizeof(k.saddr));
	memcpy(&k.daddr, &p.local.ip, sizeof(k.daddr));
	k.sport = htons(p.target.port);
	k.dport = htons(p.local.port);
	if (bpf_map_lookup_elem(m->bpf.probes, &k, &v) < 0)
		return -errno;
	(void)!bpf_map_delete_elem(m->bpf.probes, &k);

	struct monitor_msg_probe_answer a = {
		.ifindex = v.ifindex, .vm = v.vm, .vlan = v.vlan, .refused = (v.tcp_flags & 4) != 0,
	};
	memcpy(a.mac, v.mac, sizeof(a.mac));
	reply(q, &a, sizeof(a));
	return 0;
}

/* --- what is going on --- */

static int op_counters(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_counters c;
	struct monitor_msg_vm v;

	memcpy(&v, q->in, sizeof(v));
	if (v.vm >= m->conf->max_vms)
		return MONITOR_OPS_E_ODD;
	int r = steer_table_counters(&m->table, v.vm, &c);
	if (r < 0)
		return r;
	reply(q, &c, sizeof(c));
	return 0;
}

static int op_checks(struct monitor_state *m, struct monitor_request *q)
{
	struct monitor_msg_checks c = {};

	steer_check_run(m, &c);
	reply(q, &c, sizeof(c));
	return 0;
}

/* --- the table of rights --- */

static const struct {
	int (*run)(struct monitor_state *m, struct monitor_request *q);
	size_t len;		/* of the request's body */
	size_t min_fds, max_fds;
	bool early;		/* may come before MONITOR_OP_LOAD */
} ops[] = {
	[MONITOR_OP_LOAD]           = { op_load, .early = true },
	[MONITOR_OP_PORT_ADD]       = { op_port_add, sizeof(struct monitor_port) },
	[MONITOR_OP_PORT_REMOVE]    = { op_port_remove, sizeof(struct monitor_msg_port) },
	[MONITOR_OP_ADDRESS_ADD]    = { op_address_add, sizeof(struct monitor_msg_address) },
	[MONITOR_OP_ADDRESS_REMOVE] = { op_address_remove, sizeof(struct monitor_msg_address) },
	[MONITOR_OP_VM_CLEAR]       = { op_vm_clear, sizeof(struct monitor_msg_vm) },
	[MONITOR_OP_SNIFF_SET]      = { op_sniff_set, sizeof(struct monitor_msg_sniff) },
	[MONITOR_OP_DIVERT_ADD]     = { op_divert_add, sizeof(struct monitor_divert) },
	[MONITOR_OP_DIVERT_REMOVE]  = { op_divert_remove, sizeof(struct monitor_divert) },
	[MONITOR_OP_DIVERTS_SETTLE] = { op_diverts_settle, sizeof(struct monitor_msg_vm) },
	[MONITOR_OP_DIVERTS_OPEN]   = { op_diverts_open, sizeof(struct monitor_msg_vm) },
	[MONITOR_OP_LISTENERS_MAKE] = { op_listeners_make, sizeof(struct monitor_msg_vm) },
	[MONITOR_OP_DNS_MAKE]       = { op_dns_make, sizeof(struct monitor_msg_vm) },
	[MONITOR_OP_PROXY_SPAWN]    = { op_proxy_spawn, sizeof(struct monitor_msg_spawn), .max_fds = MONITOR_MAX_FDS, .early = true },
	[MONITOR_OP_PROXY_SIGNAL]   = { op_proxy_signal, sizeof(struct monitor_msg_signal), .early = true },
	[MONITOR_OP_PROXY_USER]     = { op_proxy_user, sizeof(struct monitor_msg_group), .early = true },
	[MONITOR_OP_ACCESS_LOG]     = { op_access_log, sizeof(struct monitor_msg_path), .early = true },
	[MONITOR_OP_PROBE_OPEN]     = { op_probe_open, sizeof(struct monitor_probe) },
	[MONITOR_OP_PROBE_RESULT]   = { op_probe_result, sizeof(struct monitor_msg_probe_result) },
	[MONITOR_OP_COUNTERS]       = { op_counters, sizeof(struct monitor_msg_vm) },
	[MONITOR_OP_CHECKS]         = { op_checks },
};
_Static_assert(ELEMENTS(ops) == _MONITOR_OP_N, "every request has a row");

int monitor_ops_run(struct monitor_state *m, uint32_t op, struct monitor_request *q)
{
	if (op >= _MONITOR_OP_N)
		return MONITOR_OPS_E_ODD;
	if (q->in_len != ops[op].len)
		return MONITOR_OPS_E_ODD;
	if (q->n_fds < ops[op].min_fds || q->n_fds > ops[op].max_fds)
		return MONITOR_OPS_E_ODD;
	if (!m->loaded && !ops[op].early)
		return -ENOTCONN;
	return ops[op].run(m, q);
}

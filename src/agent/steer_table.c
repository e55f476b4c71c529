/*
 * Entries of the BPF maps.
 */
#include "agent/steer_table.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/counters.h"
#include "api/divert.h"
#include "api/ports.h"

_Static_assert(sizeof(struct ip) == sizeof(struct steer_addr), "the same 16 bytes");
_Static_assert(STEER_C_SLOTS == ELEMENTS(((struct monitor_counters *)0)->v), "counters fit");
_Static_assert((int)MONITOR_OUTBOUND == (int)STEER_OUTBOUND && (int)MONITOR_INBOUND == (int)STEER_INBOUND &&
	       (int)MONITOR_DNS == (int)STEER_DNS && (int)MONITOR_BEHIND == (int)STEER_BEHIND, "one order");
_Static_assert((int)MONITOR_DIVERT_FAIL_CLOSED == (int)STEER_DIVERT_FAIL_CLOSED &&
	       (int)MONITOR_DIVERT_SAME_NIC == (int)STEER_DIVERT_SAME_NIC &&
	       (int)MONITOR_DIVERT_DNS_ANSWERS == (int)STEER_DIVERT_DNS_ANSWERS, "one set of flags");

static struct steer_addr map_addr(const struct ip *a)
{
	struct steer_addr r;

	memcpy(&r, a, sizeof(r));
	return r;
}

/* libbpf 1.0: -1 and errno */
static int update(int map, const void *key, const void *value)
{
	return bpf_map_update_elem(map, key, value, BPF_ANY) < 0 ? -errno : 0;
}

static int lookup(int map, const void *key, void *ret_value)
{
	return bpf_map_lookup_elem(map, key, ret_value) < 0 ? -errno : 0;
}

static int delete(int map, const void *key)
{
	return bpf_map_delete_elem(map, key) < 0 ? -errno : 0;
}

/* --- diverts found in adopted maps --- */

static void set_port_flag(struct steer_table *t, uint16_t port, uint8_t flag, bool on)
{
	uint8_t *f = &t->bpf->flags_of_port[htons(port)];

	*f = (uint8_t)(on ? *f | flag : *f & ~flag);
}

static const uint8_t flag_of_direction[] = {
	[MONITOR_OUTBOUND] = STEER_PF_OUTBOUND,
	[MONITOR_INBOUND] = STEER_PF_INBOUND,
	[MONITOR_DNS] = STEER_PF_DNS,
	[MONITOR_BEHIND] = 0,
};

/* An entry for all ports sets the flag of each. */
static void refresh_flags(struct steer_table *t, unsigned direction, uint16_t port)
{
	const uint32_t *n = t->n_diverts[direction];

	if (port) {
		set_port_flag(t, port, flag_of_direction[direction], n[0] || n[port]);
		return;
	}
	for (uint32_t p = 0; p < 65536; p++)
		set_port_flag(t, (uint16_t)p, flag_of_direction[direction], n[0] || n[p]);
}

static void count_divert(struct steer_table *t, unsigned direction, uint16_t port, bool add)
{
	uint32_t *n = &t->n_diverts[direction][port];

	*n = add ? *n + 1 : *n - 1;
	if (*n == add)		/* the first came, or the last went */
		refresh_flags(t, direction, port);
}

static struct monitor_divert divert_of(const struct steer_divert_key *key, const struct steer_divert *v)
{
	struct monitor_divert d = {
		.vm = v->vm, .direction = key->direction, .port = ntohs(key->port), .flags = (uint16_t)v->flags,
		.dst.len = (uint8_t)(key->prefix_len - STEER_DIVERT_FIXED_BITS),
	};

	memcpy(&d.dst.ip, &key->addr, sizeof(d.dst.ip));
	return d;
}

static int note_found(struct steer_table *t, const struct monitor_divert *d)
{
	if (!(t->n_found & (t->n_found - 1))) {		/* 0 and the powers of two */
		struct monitor_divert *v = realloc(t->found, (t->n_found ? 2 * t->n_found : 1) * sizeof(*v));

		if (!v)
			return -ENOMEM;
		t->found = v;
	}
	t->found[t->n_found++] = *d;
	return 0;
}

static void forget_found(struct steer_table *t, const struct monitor_divert *d)
{
	for (size_t i = 0; i < t->n_found; i++) {
		const struct monitor_divert *f = &t->found[i];

		if (f->vm == d->vm && f->direction == d->direction && f->port == d->port && f->dst.len == d->dst.len &&
		    ip_equal(&f->dst.ip, &d->dst.ip)) {
			t->found[i] = t->found[--t->n_found];
			return;
		}
	}
}

static int recount_diverts(struct steer_table *t)
{
	struct steer_divert_key key, next;
	const void *at = NULL;
	struct steer_divert v;
	int r = 0;

	while (r == 0 && bpf_map_get_next_key(t->bpf->diverts, at, &next) == 0) {
		key = next;
		at = &key;
		if (key.direction >= _MONITOR_DIRECTION_N || lookup(t->bpf->diverts, &key, &v) < 0)
			continue;

		struct monitor_divert d = divert_of(&key, &v);
		t->n_diverts[key.direction][ntohs(key.port)]++;
		r = note_found(t, &d);
	}
	refresh_flags(t, MONITOR_OUTBOUND, 0);
	refresh_flags(t, MONITOR_INBOUND, 0);
	refresh_flags(t, MONITOR_DNS, 0);
	return r;
}

int steer_table_each_found(struct steer_table *t, uint32_t vm,
			   int (*fn)(const struct monitor_divert *d, void *data), void *data)
{
	for (size_t i = t->n_found; i-- > 0;) {
		struct monitor_divert d = t->found[i];	/* @fn may take it off the list, and then the last one stands there */
		int r = vm && d.vm != vm ? 0 : fn(&d, data);

		if (r < 0)
			return r;
	}
	return 0;
}

int steer_table_init(struct steer_table *t, struct steer_bpf *bpf)
{
	memset(t, 0, sizeof(*t));
	t->bpf = bpf;
	t->ports = calloc(STEER_MAX_PORTS, sizeof(*t->ports));
	if (!t->ports)
		return -ENOMEM;
	return recount_diverts(t);
}

void steer_table_deinit(struct steer_table *t)
{
	free(t->ports);
	free(t->found);
	t->found = NULL;
	t->n_found = 0;
	t->ports = NULL;
	t->n_ports = 0;
}

/* --- ports --- */

static struct monitor_port *find_port(const struct steer_table *t, uint32_t ifindex, uint16_t vlan)
{
	for (size_t i = 0; i < t->n_ports; i++)
		if (t->ports[i].ifindex == ifindex && t->ports[i].vlan == vlan)
			return &t->ports[i];
	return NULL;
}

static const struct monitor_port *steer_table_port_of_vm(const struct steer_table *t, uint32_t vm)
{
	for (size_t i = 0; i < t->n_ports; i++)
		if (t->ports[i].role == MONITOR_ROLE_VM && t->ports[i].vm == vm)
			return &t->ports[i];
	return NULL;
}

static bool has_device(const struct steer_table *t, uint32_t ifindex)
{
	for (size_t i = 0; i < t->n_ports; i++)
		if (t->ports[i].ifindex == ifindex)
			return true;
	return false;
}

bool steer_table_has_listeners(const struct steer_table *t, uint32_t vm)
{
	for (uint32_t d = 0; d < 2; d++) {
		uint32_t slot = STEER_LISTENER(vm, d);
		uint64_t cookie;

		if (lookup(t->bpf->listeners, &slot, &cookie) == 0)
			return true;
	}
	return false;
}

static int write_port(struct steer_table *t, const struct monitor_port *p, bool steer)
{
	struct steer_port_key k = { .ifindex = p->ifindex, .vlan = p->vlan };
	struct steer_port v = { .vm = p->vm, .out_ifindex = p->out_ifindex, .out_vlan = p->out_vlan };

	if (p->role == MONITOR_ROLE_UPLINK)
		v.flags |= STEER_PORT_UPLINK;
	if (p->topology == MONITOR_ROUTED)
		v.flags |= STEER_PORT_ROUTED;
	if (p->flags & MONITOR_PORT_DROP_SPOOFED)
		v.flags |= STEER_PORT_DROP_SPOOFED;
	if (p->flags & MONITOR_PORT_LEARN)
		v.flags |= STEER_PORT_LEARN;
	if (steer)
		v.flags |= STEER_PORT_STEER;
	return update(t->bpf->ports, &k, &v);
}

int steer_table_port_add(struct steer_table *t, const struct monitor_port *p)
{
	struct monitor_port *entry = find_port(t, p->ifindex, p->vlan);
	int r;

	if (!entry && t->n_ports == STEER_MAX_PORTS)
		return -ENOSPC;
	r = write_port(t, p, p->role == MONITOR_ROLE_VM && steer_table_has_listeners(t, p->vm));
	if (r < 0)
		return r;
	r = steer_bpf_attach(t->bpf, p->ifindex, STEER_HOOK_PORT_INGRESS);
	if (r == 0 && p->role == MONITOR_ROLE_VM)
		r = steer_bpf_attach(t->bpf, p->ifindex, STEER_HOOK_PORT_EGRESS);
	if (!entry)
		entry = &t->ports[t->n_ports++];
	*entry = *p;
	if (r < 0)
		(void)!steer_table_port_remove(t, p->ifindex, p->vlan);
	return r;
}

int steer_table_port_remove(struct steer_table *t, uint32_t ifindex, uint16_t vlan)
{
	struct steer_port_key k = { .ifindex = ifindex, .vlan = vlan };
	struct monitor_port *p = find_port(t, ifindex, vlan);

	if (!p)
		return -ENOENT;
	int r = delete(t->bpf->ports, &k);
	*p = t->ports[--t->n_ports];
	if (!has_device(t, ifindex)) {
		steer_bpf_detach(t->bpf, ifindex, STEER_HOOK_PORT_EGRESS);
		steer_bpf_detach(t->bpf, ifindex, STEER_HOOK_PORT_INGRESS);
	}
	return r == -ENOENT ? 0 : r;
}

/* --- addresses --- */

int steer_table_address_add(struct steer_table *t, uint32_t vm, const struct ip *addr, const uint8_t mac[6])
{
	const struct monitor_port *p = steer_table_port_of_vm(t, vm);
	struct steer_addr k = map_addr(addr);
	struct steer_guest g;

	if (!p)
		return -ENODEV;
	if (lookup(t->bpf->guests, &k, &g) == 0 && g.vm != vm)
		return -EEXIST;
	g = (struct steer_guest){ .vm = vm, .ifindex = p->ifindex, .vlan = p->vlan };
	memcpy(g.mac, mac, sizeof(g.mac));
	return update(t->bpf->guests, &k, &g);
}

int steer_table_address_remove(struct steer_table *t, uint32_t vm, const struct ip *addr)
{
	struct steer_addr k = map_addr(addr);
	struct steer_guest g;
	int r = lookup(t->bpf->guests, &k, &g);

	if (r < 0)
		return r;
	return g.vm == vm ? delete(t->bpf->guests, &k) : -EPERM;
}

static void clear_addresses(struct steer_table *t, uint32_t vm)
{
	struct steer_addr key, next;
	struct steer_guest g;
	int r = bpf_map_get_next_key(t->bpf->guests, NULL, &next);

	while (r == 0) {
		key = next;
		r = bpf_map_get_next_key(t->bpf->guests, &key, &next);
		if (lookup(t->bpf->guests, &key, &g) == 0 && g.vm == vm)
			(void)!delete(t->bpf->guests, &key);
	}
}

/* --- sniffing --- */

int steer_table_sniff_set(struct steer_table *t, const struct monitor_sniff *ports, size_t n)
{
	for (uint32_t p = 0; p < 65536; p++)
		set_port_flag(t, (uint16_t)p, STEER_PF_SNIFF_TCP | STEER_PF_SNIFF_UDP, false);
	for (size_t i = 0; i < n; i++)
		set_port_flag(t, ports[i].port, ports[i].udp ? STEER_PF_SNIFF_UDP : STEER_PF_SNIFF_TCP, true);
	return 0;
}

/* --- diverts --- */

static struct steer_divert_key divert_key(const struct monitor_divert *d)
{
	return (struct steer_divert_key){
		.prefix_len = STEER_DIVERT_FIXED_BITS + d->dst.len,
		.vm = d->direction == MONITOR_INBOUND ? 0 : d->vm,
		.port = htons(d->port), .direction = (uint16_t)d->direction, .addr = map_addr(&d->dst.ip),
	};
}

/* An LPM lookup finds the longest match: is it this very entry? The map says that only in a walk. */
static bool has_divert(const struct steer_table *t, const struct steer_divert_key *k, struct steer_divert *ret_divert)
{
	struct steer_divert_key key, next;
	const void *at = NULL;

	while (bpf_map_get_next_key(t->bpf->diverts, at, &next) == 0) {
		key = next;
		at = &key;
		if (!memcmp(&key, k, sizeof(key)))
			return lookup(t->bpf->diverts, k, ret_divert) == 0;
	}
	return false;
}

int steer_table_divert_add(struct steer_table *t, const struct monitor_divert *d, uint32_t *ret_old_flags)
{
	struct steer_divert_key k = divert_key(d);
	struct steer_divert v = { .vm = d->vm, .flags = d->flags };
	struct steer_divert old;
	bool replaced = has_divert(t, &k, &old);

	if (replaced && old.vm != d->vm)
		return -EEXIST;
	int r = update(t->bpf->diverts, &k, &v);
	if (r < 0)
		return r;
	forget_found(t, d);
	if (replaced) {
		*ret_old_flags = old.flags;
		return STEER_TABLE_E_REPLACED;
	}
	count_divert(t, d->direction, d->port, true);
	return 0;
}

int steer_table_divert_remove(struct steer_table *t, const struct monitor_divert *d, uint32_t *ret_flags)
{
	struct steer_divert_key k = divert_key(d);
	struct steer_divert old;

	if (!has_divert(t, &k, &old))
		return -ENOENT;
	if (old.vm != d->vm)
		return -EPERM;
	int r = delete(t->bpf->diverts, &k);
	if (r < 0)
		return r;
	count_divert(t, d->direction, d->port, false);
	forget_found(t, d);
	*ret_flags = old.flags;
	return 0;
}

int steer_table_each_divert(struct steer_table *t, uint32_t vm,
			    int (*fn)(const struct monitor_divert *d, void *data), void *data)
{
	struct steer_divert_key key, next;
	struct steer_divert v;
	int r = bpf_map_get_next_key(t->bpf->diverts, NULL, &next);

	while (r == 0) {
		key = next;
		r = bpf_map_get_next_key(t->bpf->diverts, &key, &next);
		if (lookup(t->bpf->diverts, &key, &v) < 0 || v.vm != vm)
			continue;

		struct monitor_divert d = divert_of(&key, &v);
		int e = fn(&d, data);
		if (e < 0)
			return e;
	}
	return 0;
}

/* --- listeners --- */

int steer_table_dns_set(struct steer_table *t, uint32_t vm, int fd)
{
	static const struct steer_dns fresh;	/* what was said of the socket before it is not this one's */
	uint64_t value = (uint64_t)fd;
	int r = update(t->bpf->dns_vms, &vm, &fresh);

	return r < 0 ? r : update(t->bpf->dns_sockets, &vm, &value);
}

int steer_table_listeners_set(struct steer_table *t, uint32_t vm, const int fds[2])
{
	for (uint32_t d = 0; d < 2; d++) {
		uint32_t slot = STEER_LISTENER(vm, d);
		uint64_t fd = (uint64_t)fds[d];
		int r = update(t->bpf->listeners, &slot, &fd);

		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < t->n_ports; i++) {
		int r = t->ports[i].vm == vm ? write_port(t, &t->ports[i], true) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- a whole VM --- */

int steer_table_vm_clear(struct steer_table *t, uint32_t vm)
{
	int r = 0;

	clear_addresses(t, vm);
	for (uint32_t d = 0; d < 2; d++) {
		uint32_t slot = STEER_LISTENER(vm, d);

		(void)!delete(t->bpf->listeners, &slot);
	}
	(void)!delete(t->bpf->dns_sockets, &vm);
	for (size_t i = t->n_ports; i-- > 0;) {
		const struct monitor_port *p = &t->ports[i];

		if (p->role != MONITOR_ROLE_VM || p->vm != vm)
			continue;
		int e = steer_table_port_remove(t, p->ifindex, p->vlan);
		r = r < 0 ? r : e;
	}
	return r;
}

/* --- counters --- */

static int add_counters(struct steer_table *t, uint32_t vm, struct steer_counters *cpus, int n_cpus, struct monitor_counters *sum)
{
	int r = lookup(t->bpf->counters, &vm, cpus);
	if (r < 0)
		return r;
	for (int cpu = 0; cpu < n_cpus; cpu++)
		for (size_t i = 0; i < STEER_C_SLOTS; i++)
			sum->v[i] += cpus[cpu].v[i];
	return 0;
}

int steer_table_counters(struct steer_table *t, uint32_t vm, struct monitor_counters *ret_counters)
{
	struct monitor_counters sum = {};
	int n_cpus = libbpf_num_possible_cpus();
	CLEANUP_FREE struct steer_counters *cpus = calloc((size_t)MAX(n_cpus, 1), sizeof(*cpus));
	int r = 0;

	if (!cpus)
		return -ENOMEM;
	if (vm) {
		r = add_counters(t, vm, cpus, n_cpus, &sum);
	} else {
		for (uint32_t i = 0; r == 0 && i < t->bpf->conf->max_vms; i++)
			r = add_counters(t, i, cpus, n_cpus, &sum);
	}
	if (r < 0)
		return r;
	*ret_counters = sum;
	return 0;
}

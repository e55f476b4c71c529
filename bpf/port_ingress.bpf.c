/*
 * tc ingress of every VM port and of the uplinks: what comes out of a VM, and
 * what comes in for one. Decides packet by packet whether it belongs to a
 * connection of ours, opens a new one, is copied, or is none of our business.
 * Whatever goes wrong, the packet passes unchanged and is counted, unless an
 * entry of the divert table says fail-closed.
 */
#include "lib/dns.h"
#include "lib/packet.h"
#include "lib/sniff.h"
#include "lib/steer.h"

enum { MAX_EMPTY_TAGS = 2 };

enum verdict {
	V_PASS,
	V_LEAVE,	/* passes, and is not copied either */
	V_DROP,
	V_DELIVER,	/* to the NIC's own stack, by the divert device */
};

/* --- flows --- */

static __always_inline int flow_charge(__u32 vm)
{
	struct steer_vm *v = bpf_map_lookup_elem(&vms, &vm);

	if (!v || v->n_flows >= settings.max_flows_per_vm)
		return -1;
	__sync_fetch_and_add(&v->n_flows, 1);
	return 0;
}

static __always_inline void flow_discharge(__u32 vm)
{
	struct steer_vm *v = bpf_map_lookup_elem(&vms, &vm);

	if (v)
		__sync_fetch_and_add(&v->n_flows, -1);
}

/* Remembers how answers get back. 0, or the counter that says why not. */
static __always_inline int flow_enter(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port, __u32 vm,
				      const struct steer_flow_key *k)
{
	struct steer_flow f = {
		.since_ns = bpf_ktime_get_ns(), .ifindex = skb->ifindex, .vlan = p->vlan, .vm = vm,
		.out_ifindex = port->out_ifindex, .out_vlan = port->out_vlan,
		.flags = port->flags & STEER_PORT_ROUTED ? STEER_FLOW_ROUTED : 0,
	};
	struct steer_flow *old;

	if (bpf_skb_load_bytes(skb, 0, f.dmac, sizeof(f.dmac) + sizeof(f.smac)))
		return STEER_C_MALFORMED;
	old = bpf_map_lookup_elem(&flows, k);
	if (old && old->vm == vm)	/* a SYN again, or its 4-tuple again */
		return bpf_map_update_elem(&flows, k, &f, BPF_EXIST) ? STEER_C_FLOW_ERROR : 0;
	if (flow_charge(vm))
		return STEER_C_FLOW_LIMIT;
	if (old)
		flow_discharge(old->vm);
	if (!bpf_map_update_elem(&flows, k, &f, BPF_ANY))
		return 0;
	flow_discharge(vm);
	return STEER_C_FLOW_ERROR;
}

/*
 * The peer of an open connection may get another MAC address, or another place:
 * its router was replaced, its bridge lost a port, its VM moved. Answers follow
 * the packets that pass the source check, not the SYN of long ago.
 */
static __always_inline void flow_follow(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port)
{
	struct steer_flow_key k;
	struct steer_flow *f;
	__u32 was[3], now[3];	/* both MAC addresses, as flow_enter() takes them */

	flow_key(&k, p);
	f = bpf_map_lookup_elem(&flows, &k);
	if (!f || bpf_skb_load_bytes(skb, 0, now, sizeof(now)))
		return;
	__builtin_memcpy(was, f->dmac, sizeof(was));
	if (f->ifindex == skb->ifindex && f->vlan == p->vlan && was[0] == now[0] && was[1] == now[1] && was[2] == now[2])
		return;
	__builtin_memcpy(f->dmac, now, sizeof(now));
	f->ifindex = skb->ifindex;
	f->vlan = p->vlan;
	f->out_ifindex = port->out_ifindex;
	f->out_vlan = port->out_vlan;
	f->flags = port->flags & STEER_PORT_ROUTED ? STEER_FLOW_ROUTED : 0;
}

/* --- probes --- */

static __always_inline void probe_record(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port)
{
	struct steer_flow_key k;
	struct steer_probe answer = {
		.ifindex = skb->ifindex, .vm = port->vm, .vlan = p->vlan, .tcp_flags = p->tcp_flags,
	};

	if (bpf_skb_load_bytes(skb, 6, answer.mac, sizeof(answer.mac)))
		return;
	flow_key(&k, p);
	if (!bpf_map_update_elem(&probes, &k, &answer, BPF_ANY))
		count(port->vm, STEER_C_PROBE_ANSWERS);
}

/* --- diverting --- */

/* An entry of the divert table for this packet, by direction: the VM's own choice comes first. */
static __always_inline struct steer_divert *match(const struct packet *p, const struct steer_port *port,
						  __u32 port_flags_of_dst, __u16 *direction)
{
	struct steer_divert *d = NULL;

	if (port->vm && port_flags_of_dst & STEER_PF_OUTBOUND) {
		*direction = STEER_OUTBOUND;
		d = find_divert(p, port->vm, STEER_OUTBOUND);
	}
	if (!d && port_flags_of_dst & STEER_PF_INBOUND) {
		*direction = STEER_INBOUND;
		d = find_divert(p, 0, STEER_INBOUND);
	}
	return d;
}

static __always_inline int refuse(const struct steer_divert *d, __u32 reason)
{
	count(d->vm, reason);
	return d->flags & STEER_DIVERT_FAIL_CLOSED ? V_DROP : V_PASS;
}

/* A packet without a socket: a SYN, or the ACK after a SYN cookie, of what the table wants? */
static __always_inline int open_flow(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port,
				     __u32 port_flags_of_dst)
{
	int syn = is_syn(p);
	__u16 direction = 0;

	if (!syn && (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_ACK)
		return V_PASS;

	struct steer_divert *d = match(p, port, port_flags_of_dst, &direction);
	if (!d)
		return V_PASS;

	__u32 slot = STEER_LISTENER(d->vm, direction);
	struct bpf_sock *listener = bpf_map_lookup_elem(&listeners, &slot);
	if (!listener) {
		if (!syn)	/* of a connection older than the entry */
			return V_PASS;
		return refuse(d, d->flags & STEER_DIVERT_FAIL_CLOSED ? STEER_C_NO_LISTENER_DROP : STEER_C_NO_LISTENER_PASS);
	}
	if (!syn && !is_cookie_ack(skb, p, listener)) {
		bpf_sk_release(listener);
		return V_PASS;
	}

	/* Who opens it has it charged, where that is a VM: a neighbour must not use up what another may have. */
	__u32 payer = port->vm ? port->vm : d->vm;
	struct steer_flow_key k;

	flow_key(&k, p);
	int r = flow_enter(skb, p, port, payer, &k);
	if (r) {
		bpf_sk_release(listener);
		count(payer, r);
		return d->flags & STEER_DIVERT_FAIL_CLOSED ? V_DROP : V_PASS;
	}
	r = bpf_sk_assign(skb, listener, 0);
	bpf_sk_release(listener);
	if (r)
		return refuse(d, STEER_C_ASSIGN_ERROR);
	count(d->vm, syn ? STEER_C_DIVERT_NEW : STEER_C_DIVERT_COOKIE);
	return V_DELIVER;
}

/*
 * A packet that found a socket of this namespace. Only those are ours that
 * carry our mark: the NIC's other connections cannot be reached by an address
 * that a VM makes up. Sockets without a mark to look at (half-open, TIME_WAIT)
 * are taken when the table wants their flow.
 */
static __always_inline int use_socket(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port,
				      __u32 port_flags_of_dst, struct bpf_sock *sk)
{
	__u32 state = sk->state;
	struct bpf_sock *full = bpf_sk_fullsock(sk);
	__u16 direction;

	if (!full)
		return match(p, port, port_flags_of_dst, &direction) ? V_DELIVER : V_PASS;

	__u32 mark = mark_of(full->mark);
	if (state == BPF_TCP_SYN_SENT && (mark == MARK_PROBE || mark == MARK_PROBE_OWN))
		probe_record(skb, p, port);
	if (mark == MARK_ANSWER)
		flow_follow(skb, p, port);
	return mark && mark < MARK_N ? V_DELIVER : V_PASS;
}

static __always_inline int divert_tcp(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port,
				      __u32 port_flags_of_dst)
{
	struct bpf_sock *sk = find_socket(skb, p);

	if (!sk)
		return open_flow(skb, p, port, port_flags_of_dst);

	__u32 state = sk->state;
	if (state == BPF_TCP_LISTEN) {
		bpf_sk_release(sk);
		return open_flow(skb, p, port, port_flags_of_dst);
	}

	int v = use_socket(skb, p, port, port_flags_of_dst, sk);
	/* a socket set on an established connection's packet would cost it TCP's early demux, and a route lookup */
	if (v == V_DELIVER && state != BPF_TCP_ESTABLISHED && bpf_sk_assign(skb, sk, 0)) {
		count(port->vm, STEER_C_ASSIGN_ERROR);
		v = V_PASS;
	}
	bpf_sk_release(sk);
	if (v == V_DELIVER)
		count(port->vm, STEER_C_DIVERT_PACKETS);
	return v;
}

/* Could this packet be of a connection of ours at all? Most are ruled out here, without a lookup. */
static __always_inline int is_candidate(const struct packet *p, const struct steer_port *port, __u32 port_flags_of_dst)
{
	if (port_flags_of_dst & STEER_PF_INBOUND || port->flags & STEER_PORT_STEER)
		return 1;
	if (p->tcp_flags & TCP_RST || (p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK))
		return 1;	/* perhaps the answer to a probe */
	if (port->vm)
		return port_flags_of_dst & STEER_PF_OUTBOUND;
	return flags_of_port(p->sport) & STEER_PF_OUTBOUND;	/* an answer to a connection in a VM's name */
}

static __always_inline int deliver(struct __sk_buff *skb, __u32 vlan, __u32 vm)
{
	__u8 mac[6];

	__builtin_memcpy(mac, (const void *)settings.divert_mac, sizeof(mac));
	if ((vlan && bpf_skb_vlan_pop(skb)) || bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0)) {
		count(vm, STEER_C_REWRITE_ERROR);
		return TC_ACT_SHOT;	/* half rewritten and with a socket on it: it cannot pass any more */
	}
	return bpf_redirect(settings.divert_ifindex, BPF_F_INGRESS);
}

/* --- queries for names --- */

static __always_inline int assign_dns(struct __sk_buff *skb, __u32 vm)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(&dns_sockets, &vm);
	long r;

	if (!sk)
		return -1;
	r = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	if (r)
		count(vm, STEER_C_ASSIGN_ERROR);
	return r ? -1 : 0;
}

/* Of a VM, with its own source address. */
static __always_inline int divert_dns(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port)
{
	struct steer_flow_key k;
	int r;

	if (!find_divert(p, port->vm, STEER_DNS) || !dns_has_proxy(port->vm) || !dns_admit(port->vm))
		return V_PASS;
	dns_key(&k, &p->saddr, &p->daddr);
	r = flow_enter(skb, p, port, port->vm, &k);
	if (r) {
		count(port->vm, r);
		return V_PASS;
	}
	if (assign_dns(skb, port->vm))
		return V_PASS;
	count(port->vm, STEER_C_DNS_QUERIES);
	return V_DELIVER;
}

/* What came out of the VM, or was on its way to it, and was turned round to come by here. */
static __always_inline int handle_turned(struct __sk_buff *skb, __u32 mark, __u32 vm)
{
	skb->mark = 0;
	if (mark == MARK_DNS_QUERY)
		return TC_ACT_UNSPEC;
	if (!assign_dns(skb, vm)) {
		count(vm, STEER_C_DNS_ANSWERS);
		return deliver(skb, packet_vlan(skb), vm);
	}
	skb->mark = settings.mark_base + MARK_DNS_ANSWER;	/* nobody is there: on to the VM after all */
	return bpf_redirect(skb->ifindex, 0);
}

/* --- the hook --- */

enum source {
	SOURCE_WRONG,
	SOURCE_BEHIND,		/* a pod's of the node that the VM is: it has what belongs to it, but is not the VM */
	SOURCE_RIGHT,
};

static __always_inline int is_behind(const struct packet *p, const struct steer_port *port)
{
	struct steer_divert_key k = {
		.prefix_len = STEER_DIVERT_FIXED_BITS + 128, .vm = port->vm, .direction = STEER_BEHIND, .addr = p->saddr,
	};

	return bpf_map_lookup_elem(&diverts, &k) != NULL;
}

/* The source check. An uplink's packets must not come from an address that is here. A guest's address is nobody else's. */
static __always_inline enum source source_of(const struct packet *p, const struct steer_port *port)
{
	const struct steer_guest *g = bpf_map_lookup_elem(&guests, &p->saddr);

	if (!port->vm)
		return g ? SOURCE_WRONG : SOURCE_RIGHT;
	if (g)
		return g->vm == port->vm ? SOURCE_RIGHT : SOURCE_WRONG;
	return is_behind(p, port) ? SOURCE_BEHIND : SOURCE_WRONG;
}

/*
 * May it not pass, although it cannot be judged: a SYN from an address that
 * nobody is known by (yet), or in fragments (RFC 1858), to where everything has
 * to come by the proxy? A SYN that is honest comes again.
 */
static __always_inline int evades(const struct packet *p, __u32 port_flags_of_dst)
{
	struct steer_divert *d;

	if (!(port_flags_of_dst & STEER_PF_INBOUND))
		return 0;
	d = find_divert(p, 0, STEER_INBOUND);
	return d && d->flags & STEER_DIVERT_FAIL_CLOSED;
}

/* Likewise what cannot be read to its end, but by the VM perhaps. */
static __always_inline int is_disguised(const struct packet *p, int parsed)
{
	if (parsed == PARSED_SHORT)
		return evades(p, flags_of_port(p->dport));
	return parsed == PARSED_DEEP && bpf_map_lookup_elem(&guests, &p->daddr);
}

static __always_inline void copy(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port, enum source source)
{
	__u32 flags = 0;

	if (source != SOURCE_RIGHT) {
		if (!(port->flags & STEER_PORT_LEARN) || !within_rate(port->vm))
			return;
		flags = STEER_RECORD_UNVERIFIED;
	}
	sniff(skb, p, port->vm, flags);
}

/* Counts a packet whose source is not known to be right. Is it dropped? */
static __always_inline int is_unwanted(const struct packet *p, const struct steer_port *port, __u32 port_flags_of_dst, int candidate, int sniffed)
{
	count(port->vm, STEER_C_SPOOFED);
	if (port->flags & STEER_PORT_DROP_SPOOFED && !(port->flags & STEER_PORT_LEARN && sniffed))
		return 1;
	return candidate && is_syn(p) && evades(p, port_flags_of_dst);
}

/* One that may be of a connection of ours, with the right source. */
static __always_inline int handle_candidate(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port, __u32 port_flags_of_dst)
{
	if (!p->fragment)
		return divert_tcp(skb, p, port, port_flags_of_dst);
	count(port->vm, STEER_C_FRAGMENT);
	return is_syn(p) && evades(p, port_flags_of_dst) ? V_DROP : V_LEAVE;
}

static __always_inline int handle_l4(struct __sk_buff *skb, const struct packet *p, const struct steer_port *port)
{
	__u32 of_dst = flags_of_port(p->dport);
	int candidate = p->protocol == IPPROTO_TCP && is_candidate(p, port, of_dst);
	int sniffed = port->vm && is_sniffed(p);
	int dns = port->vm && is_dns(p, p->dport);
	int v = V_PASS;

	if (!candidate && !sniffed && !dns && !(port->flags & STEER_PORT_DROP_SPOOFED))
		return TC_ACT_UNSPEC;

	enum source source = source_of(p, port);
	if (source == SOURCE_WRONG && is_unwanted(p, port, of_dst, candidate, sniffed))
		return TC_ACT_SHOT;
	if (source == SOURCE_BEHIND)
		of_dst &= ~STEER_PF_OUTBOUND;	/* what it opens is not the VM's; what answers our sockets, or goes to another VM, is as any */
	if (source != SOURCE_WRONG && candidate)
		v = handle_candidate(skb, p, port, of_dst);
	if (v == V_PASS && sniffed)	/* a query also when the proxy gets it */
		copy(skb, p, port, source);
	if (source == SOURCE_RIGHT && dns)	/* UDP: no candidate */
		v = divert_dns(skb, p, port);
	if (v == V_DELIVER)
		return deliver(skb, p->vlan, port->vm);
	return v == V_DROP ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

/* Other IP traffic: nothing but the source check. ICMPv6 before an address is chosen comes from "::". */
static __always_inline int handle_ip(const struct packet *p, const struct steer_port *port)
{
	if (!(port->flags & STEER_PORT_DROP_SPOOFED) || !port->vm || source_of(p, port) != SOURCE_WRONG)
		return TC_ACT_UNSPEC;
	count(port->vm, STEER_C_SPOOFED);
	return TC_ACT_SHOT;
}

static __always_inline int is_tagged_inside(const struct __sk_buff *skb)
{
	__u16 type = (__u16)skb->protocol;

	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

/*
 * The outermost tag is beside the packet here, others are inside. A VM takes off
 * tags of no VLAN, wherever they are, and goes by what follows; so do we, or
 * every packet could pass in two of them. -1: there is no honest reason for it.
 */
static __always_inline int untag(struct __sk_buff *skb)
{
	__u16 tci;

#pragma clang loop unroll(full)
	for (int i = 0; i < MAX_EMPTY_TAGS; i++) {
		if (!is_tagged_inside(skb))
			return 0;
		if (packet_vlan(skb))
			return bpf_skb_load_bytes(skb, ETH_HLEN, &tci, sizeof(tci)) || !(tci & bpf_htons(0xfff)) ? -1 : 0;
		if (bpf_skb_vlan_pop(skb))
			return -1;
	}
	return is_tagged_inside(skb) ? -1 : 0;
}

SEC("tc")
int port_ingress(struct __sk_buff *skb)
{
	int tags = untag(skb);
	struct steer_port_key k = { .ifindex = skb->ifindex, .vlan = packet_vlan(skb) };
	const struct steer_port *port = bpf_map_lookup_elem(&ports, &k);
	struct packet p = {};

	if (!port)
		return TC_ACT_UNSPEC;
	if (tags) {
		count(port->vm, STEER_C_MALFORMED);
		return TC_ACT_SHOT;
	}

	__u32 mark = mark_of(skb->mark);
	if (port->vm && (mark == MARK_DNS_QUERY || mark == MARK_DNS_BACK))
		return handle_turned(skb, mark, port->vm);

	int parsed = packet_parse(skb, &p);
	if (parsed >= PARSED_SHORT) {
		count(port->vm, STEER_C_MALFORMED);
		return is_disguised(&p, parsed) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
	}
	if (port->vm && is_learning(&p, parsed, 0)) {
		learn(skb, &p, port->vm, 0);
		return TC_ACT_UNSPEC;
	}
	if (parsed == PARSED_L4)
		return handle_l4(skb, &p, port);
	if (parsed == PARSED_OTHER)
		return TC_ACT_UNSPEC;
	return handle_ip(&p, port);
}

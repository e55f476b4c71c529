/*
 * tc egress of the divert device: what our own sockets send in the name of
 * others. Gives each packet the Ethernet header and VLAN tag that it would
 * have had without us, and sends it out of the right port. The device leads
 * nowhere else, so what is not understood here is dropped.
 */
#include <linux/if_packet.h>
#include "lib/dns.h"
#include "lib/packet.h"
#include "lib/steer.h"

enum { FIB_SUCCESS = 0, FIB_NO_NEIGHBOUR = 7 };

struct frame {
	__u32 ifindex;
	__u32 vlan;
	__u8 dmac[6];		/* these two are written as one */
	__u8 smac[6];
};

/* @way: 0, out of the port; BPF_F_INGRESS: in by it. */
static __always_inline int send_frame(struct __sk_buff *skb, __u32 vm, const struct frame *f, __u64 way)
{
	if (bpf_skb_store_bytes(skb, 0, f->dmac, sizeof(f->dmac) + sizeof(f->smac), 0) ||
	    (f->vlan && bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), f->vlan))) {
		count(vm, STEER_C_REWRITE_ERROR);
		return TC_ACT_SHOT;
	}
	count(vm, STEER_C_ANSWER_PACKETS);
	return bpf_redirect(f->ifindex, way);
}

static __always_inline int drop(__u32 reason)
{
	count(0, reason);
	return TC_ACT_SHOT;
}

/* From an accepted connection: back to where its SYN came from. */
static __always_inline int send_answer(struct __sk_buff *skb, const struct packet *p)
{
	struct steer_flow_key k;
	const struct steer_flow *f;
	struct frame frame = {};

	flow_key_reversed(&k, p);
	f = bpf_map_lookup_elem(&flows, &k);
	if (!f)
		return drop(STEER_C_ANSWER_UNKNOWN);
	frame.ifindex = f->ifindex;
	frame.vlan = f->vlan;
	__builtin_memcpy(frame.dmac, f->smac, sizeof(frame.dmac));
	__builtin_memcpy(frame.smac, f->dmac, sizeof(frame.smac));
	return send_frame(skb, f->vm, &frame, 0);
}

/* To a guest of this NIC, from whatever address: straight to its port. */
static __always_inline int send_to_vm(struct __sk_buff *skb, const struct packet *p)
{
	const struct steer_guest *g = bpf_map_lookup_elem(&guests, &p->daddr);
	struct frame frame = {};

	if (!g)
		return drop(STEER_C_ANSWER_UNKNOWN);
	frame.ifindex = g->ifindex;
	frame.vlan = g->vlan;
	__builtin_memcpy(frame.dmac, g->mac, sizeof(frame.dmac));
	__builtin_memcpy(frame.smac, (const void *)settings.divert_mac, sizeof(frame.smac));
	return send_frame(skb, g->vm, &frame, 0);
}

/* As the VM's own packet would have been routed had it come in by the VM's port. */
static __always_inline int send_routed(struct __sk_buff *skb, const struct packet *p, const struct steer_flow *f)
{
	struct bpf_fib_lookup fib = {
		.family = p->ip6 ? AF_INET6 : AF_INET, .l4_protocol = IPPROTO_TCP, .ifindex = f->ifindex,
		.sport = p->sport, .dport = p->dport,
	};

	if (p->ip6) {
		__builtin_memcpy(fib.ipv6_src, &p->saddr, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &p->daddr, sizeof(fib.ipv6_dst));
	} else {
		fib.ipv4_src = p->saddr.w[3];
		fib.ipv4_dst = p->daddr.w[3];
	}

	long r = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (r != FIB_SUCCESS && r != FIB_NO_NEIGHBOUR)
		return drop(STEER_C_ANSWER_UNKNOWN);
	count(f->vm, STEER_C_ANSWER_PACKETS);
	return bpf_redirect_neigh(fib.ifindex, NULL, 0, 0);
}

/* Would the VM that this goes to have had it go through its own proxy, and insists on it? */
static __always_inline int goes_around(const struct packet *p)
{
	if (!(flags_of_port(p->dport) & STEER_PF_INBOUND))
		return 0;

	const struct steer_divert *d = find_divert(p, 0, STEER_INBOUND);
	return d && d->flags & STEER_DIVERT_FAIL_CLOSED;
}

/* In a VM's name to the original destination: the frame that the VM itself sent, once more. */
static __always_inline int send_from_vm(struct __sk_buff *skb, const struct packet *p)
{
	struct steer_flow_key k;
	const struct steer_flow *f;
	struct frame frame = {};

	flow_key(&k, p);
	f = bpf_map_lookup_elem(&flows, &k);
	if (!f)
		return drop(STEER_C_ANSWER_UNKNOWN);
	if (goes_around(p))
		return drop(STEER_C_ANSWER_REFUSED);
	if (f->flags & STEER_FLOW_ROUTED)
		return send_routed(skb, p, f);
	frame.ifindex = f->out_ifindex;
	frame.vlan = f->out_vlan;
	__builtin_memcpy(frame.dmac, f->dmac, sizeof(frame.dmac));
	__builtin_memcpy(frame.smac, f->smac, sizeof(frame.smac));
	return send_frame(skb, f->vm, &frame, 0);
}

/* --- names --- */

static __always_inline int set_port(struct __sk_buff *skb, const struct packet *p, __u32 at, __u16 from, __u16 to)
{
	return bpf_l4_csum_replace(skb, p->l4 + 6, from, to, BPF_F_MARK_MANGLED_0 | sizeof(to)) ||
	       bpf_skb_store_bytes(skb, p->l4 + at, &to, sizeof(to), 0) ? -1 : 0;
}

/* A proxy's socket has a port of its own, since 53 of every address may be somebody else's here. */
static __always_inline int send_dns_answer(struct __sk_buff *skb, const struct packet *p)
{
	const struct steer_guest *g = bpf_map_lookup_elem(&guests, &p->daddr);

	if (!g)
		return drop(STEER_C_ANSWER_UNKNOWN);
	dns_alive(g->vm);
	if (set_port(skb, p, 0, p->sport, bpf_htons(DNS_PORT))) {
		count(g->vm, STEER_C_REWRITE_ERROR);
		return TC_ACT_SHOT;
	}
	return send_to_vm(skb, p);
}

/* Source and destination change places: no checksum feels it. */
static __always_inline int swap_addresses(struct __sk_buff *skb, const struct packet *p)
{
	const struct steer_addr *addr[2] = { &p->daddr, &p->saddr };
	__u32 v4[2] = { p->daddr.w[3], p->saddr.w[3] };

	if (!p->ip6)
		return bpf_skb_store_bytes(skb, ETH_HLEN + 12, v4, sizeof(v4), 0) ? -1 : 0;
	for (int i = 0; i < 2; i++)
		if (bpf_skb_store_bytes(skb, ETH_HLEN + 8 + i * sizeof(*addr[0]), addr[i], sizeof(*addr[0]), 0))
			return -1;
	return 0;
}

/*
 * A query on its way to its server. It was sent to the VM, and from the server:
 * that way it comes by here even when the server's address is one of this NIC.
 * Turned round it enters by the VM's port, as it did when the VM sent it.
 */
static __always_inline int send_dns_query(struct __sk_buff *skb, const struct packet *p)
{
	const struct steer_flow *f;
	struct steer_flow_key k;
	struct frame frame = {};

	dns_key(&k, &p->daddr, &p->saddr);
	f = bpf_map_lookup_elem(&flows, &k);
	if (!f)
		return drop(STEER_C_ANSWER_UNKNOWN);
	dns_alive(f->vm);
	frame.ifindex = f->ifindex;
	frame.vlan = f->vlan;
	__builtin_memcpy(frame.dmac, f->dmac, sizeof(frame.dmac));
	__builtin_memcpy(frame.smac, f->smac, sizeof(frame.smac));
	if (set_port(skb, p, 0, p->sport, p->dport) || set_port(skb, p, 2, p->dport, bpf_htons(DNS_PORT)) ||
	    swap_addresses(skb, p)) {
		count(f->vm, STEER_C_REWRITE_ERROR);
		return TC_ACT_SHOT;
	}
	return send_frame(skb, f->vm, &frame, BPF_F_INGRESS);
}

static __always_inline int send_dns(struct __sk_buff *skb, const struct packet *p)
{
	if (p->fragment)
		return drop(STEER_C_FRAGMENT);
	return mark_of(skb->mark) == MARK_DNS_ANSWER ? send_dns_answer(skb, p) : send_dns_query(skb, p);
}

SEC("tc")
int divert_egress(struct __sk_buff *skb)
{
	struct packet p = {};

	__u32 mark = mark_of(skb->mark);
	int dns = mark == MARK_DNS_ANSWER || mark == MARK_DNS_QUERY;

	if (packet_parse(skb, &p) != PARSED_L4 || p.protocol != (dns ? IPPROTO_UDP : IPPROTO_TCP))
		return TC_ACT_SHOT;	/* the kernel's own chatter on a device that is up */
	switch (mark) {
	case MARK_DNS_ANSWER:
	case MARK_DNS_QUERY:
		return send_dns(skb, &p);
	case MARK_ANSWER:
		return send_answer(skb, &p);
	case MARK_TO_VM:
	case MARK_PROBE:
		return send_to_vm(skb, &p);
	case MARK_FROM_VM:
		return send_from_vm(skb, &p);
	default:
		return drop(STEER_C_ANSWER_UNKNOWN);
	}
}

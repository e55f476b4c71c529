#pragma once
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "maps.h"
#include "packet.h"

/*
 * What the hooks share about diverting: port flags, the divert table,
 * listeners, marks, SYN cookies.
 */
enum {
	MARK_ANSWER = 1,
	MARK_TO_VM = 2,
	MARK_FROM_VM = 3,
	MARK_PROBE = 4,
	MARK_DNS_ANSWER = 5,	/* a proxy's answer to a VM's query */
	MARK_DNS_QUERY = 6,	/* a VM's query that goes on to its server: it enters by the VM's port once more */
	MARK_DNS_BACK = 7,	/* never a socket's: a server's answer, turned round at the VM's port */
	MARK_N = 8,		/* marks below are routed to the divert device */
	MARK_PROBE_OWN = 8,	/* a probe from the NIC's own address: only recognised */
	MARK_ALL = 16,

	AF_INET = 2,
	AF_INET6 = 10,

	STATE_NEW_SYN_RECV = 12,	/* BPF_TCP_NEW_SYN_RECV */
};

/* What the mark means: one of the above, or MARK_ALL and more for a foreign one. */
static __always_inline __u32 mark_of(__u32 mark)
{
	return mark - settings.mark_base;
}

/* @port in network byte order */
static __always_inline __u32 flags_of_port(__u16 port)
{
	__u32 zero = 0;
	const struct steer_port_flags *t = bpf_map_lookup_elem(&port_flags, &zero);

	return t ? t->f[port] : 0;
}

/* With a FIN, too: Linux drops that, others take it for the SYN that it is. */
static __always_inline int is_syn(const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

static __always_inline struct steer_divert *find_divert_to(const struct steer_addr *addr, __u16 port, __u32 vm, __u16 direction)
{
	struct steer_divert_key k = {
		.prefix_len = STEER_DIVERT_FIXED_BITS + 128,
		.vm = vm, .port = port, .direction = direction, .addr = *addr,
	};
	struct steer_divert *d = bpf_map_lookup_elem(&diverts, &k);

	if (d)
		return d;
	k.port = 0;
	return bpf_map_lookup_elem(&diverts, &k);
}

static __always_inline struct steer_divert *find_divert(const struct packet *p, __u32 vm, __u16 direction)
{
	return find_divert_to(&p->daddr, p->dport, vm, direction);
}

static __always_inline struct bpf_sock *find_socket(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock_tuple t = {};

	if (!p->ip6) {
		t.ipv4.saddr = p->saddr.w[3];
		t.ipv4.daddr = p->daddr.w[3];
		t.ipv4.sport = p->sport;
		t.ipv4.dport = p->dport;
		return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	__builtin_memcpy(t.ipv6.saddr, &p->saddr, sizeof(t.ipv6.saddr));
	__builtin_memcpy(t.ipv6.daddr, &p->daddr, sizeof(t.ipv6.daddr));
	t.ipv6.sport = p->sport;
	t.ipv6.dport = p->dport;
	return bpf_skc_lookup_tcp(skb, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
}

static __always_inline void flow_key(struct steer_flow_key *k, const struct packet *p)
{
	k->saddr = p->saddr;
	k->daddr = p->daddr;
	k->sport = p->sport;
	k->dport = p->dport;
}

/* The key of the flow that this packet answers. */
static __always_inline void flow_key_reversed(struct steer_flow_key *k, const struct packet *p)
{
	k->saddr = p->daddr;
	k->daddr = p->saddr;
	k->sport = p->dport;
	k->dport = p->sport;
}

/* Does this ACK complete a handshake for which @listener sent a SYN cookie? */
static __always_inline int is_cookie_ack(struct __sk_buff *skb, const struct packet *p, struct bpf_sock *listener)
{
	struct tcphdr t;

	if (bpf_skb_load_bytes(skb, p->l4, &t, sizeof(t)))
		return 0;
	if (p->ip6) {
		struct ipv6hdr ip;

		return !bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) &&
		       !bpf_tcp_check_syncookie(listener, &ip, sizeof(ip), &t, sizeof(t));
	}

	struct iphdr ip;

	return !bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) &&
	       !bpf_tcp_check_syncookie(listener, &ip, sizeof(ip), &t, sizeof(t));
}

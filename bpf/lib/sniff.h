#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "maps.h"
#include "packet.h"
#include "steer.h"

/*
 * Copies packets to the capture ring.
 */
enum {
	LEARN_MAX = 1024,		/* bytes of an ARP, ND or DHCP frame */
	SNIFF_MAX_UDP = 16384,
	REFILL_NS = 1000000,		/* no more often */
};

/* What a record says beyond the packet. */
struct sniff {
	__u32 vm;
	__u32 kind;		/* STEER_RECORD_UDP, ... */
	__u32 flags;		/* STEER_RECORD_* */
	__u32 from;		/* first byte of the frame to copy */
	__u32 total;		/* and how many there are */
};

/* Learning and unverified packets: a guest may make as many as it likes, we copy so many a second. */
static __always_inline int within_rate(__u32 vm)
{
	struct steer_vm *v = bpf_map_lookup_elem(&vms, &vm);
	__u64 now = bpf_ktime_get_ns();

	if (!v)
		return 0;
	if (now - v->token_ns >= NSEC_PER_SEC) {	/* races cost a few tokens, no more */
		v->token_ns = now;
		v->tokens = settings.unverified_per_s;
	}
	if (!v->tokens) {
		count(vm, STEER_C_RATE_LIMITED);
		return 0;
	}
	v->tokens--;
	return 1;
}

/*
 * Whoever floods what we listen to fills neither the ring, which all VMs share,
 * nor the agent's time. Races cost some bytes, no more.
 */
static __always_inline int take_bytes(struct steer_sniff_budget *b, __u64 most, __u32 len)
{
	__u64 now = bpf_ktime_get_ns(), cost = (__u64)len + STEER_SNIFF_COST, passed;

	passed = now - b->since_ns;
	if (passed >= NSEC_PER_SEC) {
		b->since_ns = now;
		b->bytes = most;
	} else if (passed >= REFILL_NS) {
		b->since_ns = now;
		b->bytes += most * (passed / 1024) / (NSEC_PER_SEC / 1024);
		if (b->bytes > most)
			b->bytes = most;
	}
	if (b->bytes < cost)
		return 0;
	b->bytes -= cost;
	return 1;
}

/* Is this an answer of somebody whom the VM has asked? A question is noted. */
static __always_inline int is_talk(const struct packet *p, __u32 vm, int to_vm)
{
	struct steer_talk t = {
		.addr = to_vm ? p->saddr : p->daddr, .port = to_vm ? p->sport : p->dport, .protocol = p->protocol, .vm = vm,
	};
	__u8 one = 1;

	if (bpf_map_lookup_elem(&talks, &t))
		return 1;
	return !to_vm && !bpf_map_update_elem(&talks, &t, &one, BPF_ANY);
}

/* What nobody asked for, from wherever, must not use up what the VM may say and hear. */
static __always_inline int within_budget(const struct packet *p, __u32 vm, __u32 len, int to_vm)
{
	int strange = !is_talk(p, vm, to_vm) && to_vm;
	struct steer_sniff_budget *b = strange ? bpf_map_lookup_elem(&stranger_budgets, &vm) : bpf_map_lookup_elem(&sniff_budgets, &vm);

	if (!b)
		return 0;
	if (take_bytes(b, strange ? settings.sniff_bytes_per_s / STEER_STRANGERS_SHARE : settings.sniff_bytes_per_s, len))
		return 1;
	count(vm, strange ? STEER_C_STRANGER_BUDGET : STEER_C_SNIFF_BUDGET);
	return 0;
}

static __always_inline void record_lost(__u32 vm)
{
	struct steer_vm *v = bpf_map_lookup_elem(&vms, &vm);

	count(vm, STEER_C_RING_FULL);
	if (v)
		__sync_fetch_and_add(&v->lost, 1);
}

static __always_inline void record_header(struct __sk_buff *skb, const struct packet *p, const struct sniff *s,
					  struct steer_record *r, __u32 offset)
{
	__u32 vm = s->vm;
	struct steer_vm *v = bpf_map_lookup_elem(&vms, &vm);

	r->time_ns = bpf_ktime_get_ns();
	r->ifindex = skb->ifindex;
	r->vm = s->vm;
	r->lost = v ? v->lost : 0;
	r->seq = p->seq;
	r->ack = p->ack;
	r->total = s->total;
	r->offset = offset;
	r->len = 0;
	r->vlan = p->vlan;
	r->sport = p->sport;
	r->dport = p->dport;
	r->kind = s->kind;
	r->flags = s->flags;
	r->tcp_flags = p->tcp_flags;
	__builtin_memset(r->pad, 0, sizeof(r->pad));
	if (bpf_skb_load_bytes(skb, 0, r->dmac, sizeof(r->dmac) + sizeof(r->smac)))
		__builtin_memset(r->dmac, 0, sizeof(r->dmac) + sizeof(r->smac));
	r->saddr = p->saddr;
	r->daddr = p->daddr;
}

/*
 * The length is bounded to 1 .. 2^n in one 64-bit register right before the
 * call: older verifiers (6.1) lose 32-bit bounds over a spill.
 */
#define BOUND_LEN(len, max)	asm volatile("%0 += -1\n\t%0 &= %1\n\t%0 += 1" : "+r"(len) : "i"((max) - 1))

static __always_inline int sniff_small(struct __sk_buff *skb, const struct packet *p, const struct sniff *s)
{
	struct steer_record_small *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	__u64 len = s->total;

	if (!r)
		return -1;
	record_header(skb, p, s, &r->h, 0);
	if (s->total) {
		BOUND_LEN(len, STEER_RECORD_SMALL);
		if (!bpf_skb_load_bytes(skb, s->from, r->data, len))
			r->h.len = len;
	}
	bpf_ringbuf_submit(r, 0);
	return 0;
}

/* The loop's body is verified once, and not for every chunk: hence bpf_loop() (Linux 5.17). */
struct sniff_loop {
	struct __sk_buff *skb;
	const struct packet *p;
	const struct sniff *s;
	__u32 end;
	__u32 pad;
};

static long sniff_chunk(__u32 i, struct sniff_loop *l)
{
	__u32 offset = i * STEER_RECORD_LARGE;
	struct steer_record_large *r;
	__u64 len;

	if (offset >= l->end)
		return 1;
	len = l->end - offset;
	r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	if (!r) {
		record_lost(l->s->vm);
		return 0;
	}
	record_header(l->skb, l->p, l->s, &r->h, offset);
	if (len > STEER_RECORD_LARGE)
		len = STEER_RECORD_LARGE;
	BOUND_LEN(len, STEER_RECORD_LARGE);
	if (!bpf_skb_load_bytes(l->skb, l->s->from + offset, r->data, len))
		r->h.len = len;
	bpf_ringbuf_submit(r, 0);
	return 0;
}

/* A super-frame (GSO) of up to 64 KiB becomes several records. */
static __always_inline void sniff_copy(struct __sk_buff *skb, const struct packet *p, struct sniff *s, __u32 max)
{
	struct sniff_loop l = { .skb = skb, .p = p, .s = s, .end = s->total };

	if (l.end > max) {
		l.end = max;
		s->flags |= STEER_RECORD_CUT;
	}
	if (l.end > STEER_RECORD_SMALL)
		bpf_loop(STEER_RECORD_CHUNKS, sniff_chunk, &l, 0);
	else if (sniff_small(skb, p, s))
		record_lost(s->vm);
}

/* Is this one that says who has which address? Requests from the VM, DHCP's answers to it. */
static __always_inline int is_learning(const struct packet *p, int parsed, int to_vm)
{
	if (parsed == PARSED_OTHER)
		return !to_vm && p->ethertype == bpf_htons(ETH_P_ARP);
	if (parsed == PARSED_ICMP6)
		return !to_vm && (p->sport == ICMP6_ROUTER_SOLICITATION || p->sport == ICMP6_NEIGHBOUR_SOLICITATION ||
				  p->sport == ICMP6_NEIGHBOUR_ADVERTISEMENT);
	if (parsed != PARSED_L4 || p->protocol != IPPROTO_UDP)
		return 0;
	if (to_vm)
		return (p->sport == bpf_htons(DHCP_SERVER) && p->dport == bpf_htons(DHCP_CLIENT)) ||
		       (p->sport == bpf_htons(DHCP6_SERVER) && p->dport == bpf_htons(DHCP6_CLIENT));
	return (p->sport == bpf_htons(DHCP_CLIENT) && p->dport == bpf_htons(DHCP_SERVER)) ||
	       (p->sport == bpf_htons(DHCP6_CLIENT) && p->dport == bpf_htons(DHCP6_SERVER));
}

static __always_inline void learn(struct __sk_buff *skb, const struct packet *p, __u32 vm, __u32 flags)
{
	struct sniff s = { .vm = vm, .kind = STEER_RECORD_LEARN, .flags = flags, .total = skb->len };

	if (!within_rate(vm))
		return;
	count(vm, STEER_C_LEARNED);
	sniff_copy(skb, p, &s, LEARN_MAX);
}

/* Has somebody asked for packets of this kind? */
static __always_inline int is_sniffed(const struct packet *p)
{
	__u32 want = p->protocol == IPPROTO_TCP ? STEER_PF_SNIFF_TCP : STEER_PF_SNIFF_UDP;

	if (!((flags_of_port(p->sport) | flags_of_port(p->dport)) & want))
		return 0;
	if (p->protocol == IPPROTO_UDP)
		return p->end > p->payload;
	return p->end > p->payload || p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST);
}

static __always_inline void sniff(struct __sk_buff *skb, const struct packet *p, __u32 vm, __u32 flags)
{
	struct sniff s = {
		.vm = vm, .flags = flags, .from = p->payload, .total = p->end - p->payload,
		.kind = p->protocol == IPPROTO_TCP ? STEER_RECORD_TCP : STEER_RECORD_UDP,
	};

	if (!within_budget(p, vm, s.total, flags & STEER_RECORD_TO_VM))
		return;
	if (p->fragment)
		s.flags |= STEER_RECORD_CUT;
	count(vm, STEER_C_SNIFFED);
	sniff_copy(skb, p, &s, p->protocol == IPPROTO_TCP ? STEER_RECORD_CHUNKS * STEER_RECORD_LARGE : SNIFF_MAX_UDP);
}

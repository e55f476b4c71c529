/*
 * Not a hook: run now and then by the monitor (BPF_PROG_TEST_RUN) to remove
 * flows whose sockets are gone. That way an entry lives exactly as long as its
 * connection, however busy or idle that is, and nobody's flood evicts
 * somebody's flow, as an LRU map would.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "lib/maps.h"
#include "lib/packet.h"
#include "lib/steer.h"

struct sweep {
	struct __sk_buff *skb;
	struct steer_sweep s;
};

static __always_inline int has_socket(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_sock *sk = find_socket(skb, p);
	int is = 0;

	if (sk) {
		is = sk->state != BPF_TCP_LISTEN;
		bpf_sk_release(sk);
	}
	return is;
}

/* Either of its two connections counts: the accepted one, and the one in the VM's name. */
static __always_inline int is_alive(struct __sk_buff *skb, const struct steer_flow_key *k)
{
	struct packet p = { .saddr = k->saddr, .daddr = k->daddr, .sport = k->sport, .dport = k->dport };
	struct packet q = { .saddr = k->daddr, .daddr = k->saddr, .sport = k->dport, .dport = k->sport };

	p.ip6 = q.ip6 = k->saddr.w[0] || k->saddr.w[1] || k->saddr.w[2] != bpf_htonl(0xffff);
	return has_socket(skb, &p) || has_socket(skb, &q);
}

static long sweep_one(struct map_flows *map, struct steer_flow_key *key, struct steer_flow *f, struct sweep *w)
{
	struct steer_flow_key k = *key;
	__u32 vm = f->vm;

	w->s.n_seen++;
	if (f->since_ns > w->s.older_than_ns || is_alive(w->skb, &k))
		return 0;
	if (bpf_map_delete_elem(map, &k))
		return 0;
	w->s.n_removed++;

	struct steer_vm *v = bpf_map_lookup_elem(&vms, &vm);
	if (v)
		__sync_fetch_and_add(&v->n_flows, -1);
	return 0;
}

SEC("tc")
int flow_sweep(struct __sk_buff *skb)
{
	struct sweep w = { .skb = skb };

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &w.s, sizeof(w.s)))
		return TC_ACT_SHOT;
	bpf_for_each_map_elem(&flows, sweep_one, &w, 0);
	return bpf_skb_store_bytes(skb, ETH_HLEN, &w.s, sizeof(w.s), 0) ? TC_ACT_SHOT : TC_ACT_OK;
}

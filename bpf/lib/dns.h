#pragma once
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include "count.h"
#include "maps.h"
#include "packet.h"
#include "steer.h"

/*
 * What the hooks share about a VM's queries for names. They come to the proxy
 * by UDP port 53 of whatever server the VM asks. What the proxy does not
 * answer, it sends on as it was, and it enters by the VM's port once more: the
 * network sees the VM's own packet, and the server's answer goes its own way.
 */
enum { DNS_PORT = 53 };

/* The way from a VM to one of its servers. */
static __always_inline void dns_key(struct steer_flow_key *k, const struct steer_addr *vm, const struct steer_addr *server)
{
	k->saddr = *vm;
	k->daddr = *server;
	k->sport = 0;
	k->dport = bpf_htons(DNS_PORT);
}

static __always_inline int is_dns(const struct packet *p, __u16 port)
{
	return p->protocol == IPPROTO_UDP && !p->fragment && port == bpf_htons(DNS_PORT) && flags_of_port(port) & STEER_PF_DNS;
}

static __always_inline int dns_has_proxy(__u32 vm)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(&dns_sockets, &vm);

	if (sk)
		bpf_sk_release(sk);
	return sk != NULL;
}

/*
 * May the proxy be given another packet? One that is alive does something with
 * each at once. One that does not is given one in a while, and the others take
 * the way that they would take without it. Races cost a packet, no more.
 */
static __always_inline int dns_admit(__u32 vm)
{
	const __u64 stuck_ns = STEER_DNS_STUCK_MS * 1000000ULL, try_ns = STEER_DNS_TRY_MS * 1000000ULL;
	struct steer_dns *d = bpf_map_lookup_elem(&dns_vms, &vm);
	__u64 now = bpf_ktime_get_ns();

	if (!d)
		return 0;
	if (now - d->second_ns >= NSEC_PER_SEC) {
		d->second_ns = now;
		d->n_second = 0;
	}
	if (d->n_second++ >= STEER_DNS_PER_S) {
		count(vm, STEER_C_DNS_BUDGET);
		return 0;
	}
	if (!d->n) {
		d->since_ns = d->tried_ns = now;
	} else if (now - d->since_ns >= stuck_ns) {
		if (now - d->tried_ns < try_ns) {
			count(vm, STEER_C_DNS_STUCK);
			return 0;
		}
		d->tried_ns = now;
	}
	d->n++;
	return 1;
}

/* The proxy has sent something. */
static __always_inline void dns_alive(__u32 vm)
{
	struct steer_dns *d = bpf_map_lookup_elem(&dns_vms, &vm);

	if (d)
		d->n = 0;
}

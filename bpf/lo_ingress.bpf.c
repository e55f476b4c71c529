/*
 * tc ingress of lo: connections that the NIC's own processes open to a VM of
 * this same NIC (a proxy's tunnel to another VM's proxy). Rules and routes
 * bring them here (steer_routes.c); the listener is all that is missing. Only
 * the packets that open a connection need anything; the others find their
 * sockets by themselves.
 */
#include "lib/packet.h"
#include "lib/steer.h"

SEC("tc")
int lo_ingress(struct __sk_buff *skb)
{
	struct packet p = {};

	if (packet_parse(skb, &p) != PARSED_L4 || p.protocol != IPPROTO_TCP || p.fragment)
		return TC_ACT_UNSPEC;
	if (!(flags_of_port(p.dport) & STEER_PF_INBOUND))
		return TC_ACT_UNSPEC;

	int syn = is_syn(&p);
	if (!syn && (p.tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) != TCP_ACK)
		return TC_ACT_UNSPEC;

	const struct steer_divert *d = find_divert(&p, 0, STEER_INBOUND);
	if (!d || !(d->flags & STEER_DIVERT_SAME_NIC))
		return TC_ACT_UNSPEC;

	/* half-open or established: TCP finds it without us */
	struct bpf_sock *sk = find_socket(skb, &p);
	if (sk) {
		__u32 state = sk->state;

		bpf_sk_release(sk);
		if (state != BPF_TCP_LISTEN && state != BPF_TCP_TIME_WAIT)
			return TC_ACT_UNSPEC;
	}

	__u32 slot = STEER_LISTENER(d->vm, STEER_INBOUND);
	struct bpf_sock *listener = bpf_map_lookup_elem(&listeners, &slot);
	if (!listener) {
		count(d->vm, STEER_C_NO_LISTENER_DROP);	/* the stack refuses it */
		return TC_ACT_UNSPEC;
	}
	if (!syn && !is_cookie_ack(skb, &p, listener)) {
		bpf_sk_release(listener);
		return TC_ACT_UNSPEC;
	}

	long r = bpf_sk_assign(skb, listener, 0);
	bpf_sk_release(listener);
	count(d->vm, r ? STEER_C_ASSIGN_ERROR : syn ? STEER_C_DIVERT_NEW : STEER_C_DIVERT_COOKIE);
	return TC_ACT_UNSPEC;
}

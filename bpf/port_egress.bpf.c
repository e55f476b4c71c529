/*
 * tc egress of the VM ports: what goes to a VM is only copied, never changed.
 * Packets of our own sockets are left out: the proxy has their bytes already.
 */
#include "lib/packet.h"
#include "lib/sniff.h"
#include "lib/steer.h"

static __always_inline int is_multicast(const struct packet *p)
{
	__u8 first = p->ip6 ? *(const __u8 *)&p->daddr : *(const __u8 *)&p->daddr.w[3];

	return p->ip6 ? first == 0xff : first >= 224;
}

/* A bridge floods what it does not know: not all that comes by is for this VM. */
static __always_inline int is_for_vm(const struct packet *p, __u32 vm)
{
	if (is_multicast(p))
		return 1;

	const struct steer_guest *g = bpf_map_lookup_elem(&guests, &p->daddr);
	return g && g->vm == vm;
}

SEC("tc")
int port_egress(struct __sk_buff *skb)
{
	struct steer_port_key k = { .ifindex = skb->ifindex, .vlan = packet_vlan(skb) };
	const struct steer_port *port;
	struct packet p = {};
	__u32 flags = STEER_RECORD_TO_VM;

	if (mark_of(skb->mark) < MARK_ALL)
		return TC_ACT_UNSPEC;
	port = bpf_map_lookup_elem(&ports, &k);
	if (!port || !port->vm)
		return TC_ACT_UNSPEC;

	int parsed = packet_parse(skb, &p);
	if (is_learning(&p, parsed, 1)) {
		learn(skb, &p, port->vm, flags);
		return TC_ACT_UNSPEC;
	}
	if (parsed != PARSED_L4 || !is_sniffed(&p))
		return TC_ACT_UNSPEC;
	if (!is_for_vm(&p, port->vm)) {
		if (!(port->flags & STEER_PORT_LEARN) || !within_rate(port->vm))
			return TC_ACT_UNSPEC;
		flags |= STEER_RECORD_UNVERIFIED;
	}
	sniff(skb, &p, port->vm, flags);
	return TC_ACT_UNSPEC;
}

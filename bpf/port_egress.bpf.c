/*
 * tc egress of the VM ports: what goes to a VM is only copied, never changed;
 * answers of servers of names may be turned round, to the VM's proxy. Packets of our own sockets are left out: the proxy has their bytes already.
 */
#include "lib/dns.h"
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

/* An answer to a query that the proxy has sent on and whose outcome it wants to know. */
static __always_inline int is_wanted(const struct packet *p, __u32 vm)
{
	const struct steer_divert *d = find_divert_to(&p->saddr, p->sport, vm, STEER_DNS);

	return d && d->flags & STEER_DIVERT_DNS_ANSWERS && dns_has_proxy(vm) && dns_admit(vm);
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
	if (parsed != PARSED_L4)
		return TC_ACT_UNSPEC;

	int sniffed = is_sniffed(&p), dns = is_dns(&p, p.sport);
	if (!sniffed && !dns)
		return TC_ACT_UNSPEC;
	if (!is_for_vm(&p, port->vm)) {
		if (!(port->flags & STEER_PORT_LEARN) || !within_rate(port->vm))
			return TC_ACT_UNSPEC;
		flags |= STEER_RECORD_UNVERIFIED;
		dns = 0;
	}
	if (sniffed)
		sniff(skb, &p, port->vm, flags);
	if (!dns || is_multicast(&p) || !is_wanted(&p, port->vm))
		return TC_ACT_UNSPEC;
	skb->mark = settings.mark_base + MARK_DNS_BACK;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

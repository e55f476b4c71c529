#pragma once
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "count.h"

/*
 * A packet's headers in one form for both families. The VLAN tag of a tagged
 * frame is not in the packet at the tc hooks but beside it, so offsets do not
 * change with it.
 */
enum {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_ACK = 16,

	IP6_HOP_BY_HOP = 0,
	IP6_ROUTING = 43,
	IP6_FRAGMENT = 44,
	IP6_DESTINATION = 60,
	IP6_MAX_EXTENSIONS = 4,
	IP_MAX_L4 = ETH_HLEN + 60,	/* offset of the L4 header of IPv4 with all options */
	IP6_MAX_L4 = ETH_HLEN + 40 + 4 * 264,

	ICMP6_ROUTER_SOLICITATION = 133,
	ICMP6_NEIGHBOUR_SOLICITATION = 135,
	ICMP6_NEIGHBOUR_ADVERTISEMENT = 136,

	NSEC_PER_SEC = 1000000000,

	DHCP_SERVER = 67,
	DHCP_CLIENT = 68,
	DHCP6_CLIENT = 546,
	DHCP6_SERVER = 547,
};

enum fragment {
	FRAGMENT_NONE,
	FRAGMENT_FIRST,
	FRAGMENT_LATER,
	FRAGMENT_INSIDE,	/* a later one that begins inside the TCP header, so that it may change the flags */
};

struct packet {
	struct steer_addr saddr;
	struct steer_addr daddr;
	__u32 vlan;
	__u32 l4;		/* offsets from the start of the frame */
	__u32 payload;
	__u32 end;		/* of the IP datagram: what follows is padding */
	__u32 seq;
	__u32 ack;
	__u16 ethertype;	/* network byte order */
	__u16 sport;		/* network byte order; ICMPv6: the type */
	__u16 dport;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 ip6;
	__u8 fragment;		/* enum fragment */
	__u16 pad;
};

enum parsed {
	PARSED_L4,		/* TCP or UDP, all of the fields */
	PARSED_ICMP6,		/* sport is its type */
	PARSED_IP,		/* some other IP: addresses and protocol only */
	PARSED_OTHER,		/* not IP: ethertype only */
	PARSED_SHORT,		/* TCP without a whole header, a tiny first fragment perhaps: addresses and ports only; counted */
	PARSED_DEEP,		/* what it is shows no single packet, or only behind endless extension headers: addresses only; counted */
	PARSED_BAD,		/* cut short; counted */
};

static __always_inline __u32 packet_vlan(const struct __sk_buff *skb)
{
	return skb->vlan_present ? skb->vlan_tci & 0xfff : 0;
}

/*
 * The guest can hand us (virtio's hdr_len) frames whose headers are not in the
 * linear part. Only what is needed is pulled: more would copy payload for
 * every packet.
 */
static __always_inline int packet_linear(struct __sk_buff *skb, __u32 want)
{
	if (want > skb->len)
		want = skb->len;
	if ((__u32)(skb->data_end - skb->data) >= want)
		return 0;
	return bpf_skb_pull_data(skb, want) ? -1 : 0;
}

static __always_inline int packet_tcp(struct __sk_buff *skb, struct packet *p)
{
	struct tcphdr t;

	if (bpf_skb_load_bytes(skb, p->l4, &t, sizeof(t)) || t.doff < 5)
		return bpf_skb_load_bytes(skb, p->l4, &p->sport, 2 * sizeof(p->sport)) ? PARSED_BAD : PARSED_SHORT;
	p->sport = t.source;
	p->dport = t.dest;
	p->seq = bpf_ntohl(t.seq);
	p->ack = bpf_ntohl(t.ack_seq);
	p->tcp_flags = ((const __u8 *)&t)[13];
	p->payload = p->l4 + t.doff * 4;
	return PARSED_L4;
}

static __always_inline int packet_udp(struct __sk_buff *skb, struct packet *p)
{
	struct udphdr u;

	if (bpf_skb_load_bytes(skb, p->l4, &u, sizeof(u)))
		return PARSED_BAD;
	p->sport = u.source;
	p->dport = u.dest;
	p->payload = p->l4 + sizeof(u);
	return PARSED_L4;
}

static __always_inline int packet_l4(struct __sk_buff *skb, struct packet *p)
{
	__u8 type;

	if (p->fragment >= FRAGMENT_LATER)
		return p->fragment == FRAGMENT_INSIDE && p->protocol == IPPROTO_TCP ? PARSED_DEEP : PARSED_IP;
	if (p->protocol == IPPROTO_TCP)
		return packet_tcp(skb, p);
	if (p->protocol == IPPROTO_UDP)
		return packet_udp(skb, p);
	if (p->protocol != IPPROTO_ICMPV6 || !p->ip6)
		return PARSED_IP;
	if (bpf_skb_load_bytes(skb, p->l4, &type, sizeof(type)))
		return PARSED_BAD;
	p->sport = type;
	return PARSED_ICMP6;
}

/* @offset in units of 8 bytes. RFC 1858, section 4: the flags of TCP are in the second of them. */
static __always_inline enum fragment fragment_at(__u16 offset)
{
	return !offset ? FRAGMENT_FIRST : offset == 1 ? FRAGMENT_INSIDE : FRAGMENT_LATER;
}

static __always_inline int packet_ip4(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data;
	const struct iphdr *ip = data + ETH_HLEN;

	if ((const void *)(ip + 1) > (void *)(long)skb->data_end || ip->ihl < 5)
		return PARSED_BAD;
	p->protocol = ip->protocol;
	p->l4 = ETH_HLEN + ip->ihl * 4;
	p->end = ETH_HLEN + bpf_ntohs(ip->tot_len);
	p->saddr.w[2] = p->daddr.w[2] = bpf_htonl(0xffff);
	p->saddr.w[3] = ip->saddr;
	p->daddr.w[3] = ip->daddr;
	if (ip->frag_off & bpf_htons(0x3fff))
		p->fragment = fragment_at(bpf_ntohs(ip->frag_off) & 0x1fff);
	return packet_l4(skb, p);
}

static __always_inline int is_ip6_extension(__u8 protocol)
{
	return protocol == IP6_HOP_BY_HOP || protocol == IP6_ROUTING || protocol == IP6_DESTINATION || protocol == IP6_FRAGMENT;
}

/* RFC 8200, section 4: the extension headers that a TCP segment may hide behind */
static __always_inline int packet_ip6_extensions(struct __sk_buff *skb, struct packet *p)
{
#pragma clang loop unroll(full)
	for (int i = 0; i < IP6_MAX_EXTENSIONS; i++) {
		__u8 h[4];	/* next header, length, and in a fragment header its offset */

		if (!is_ip6_extension(p->protocol))
			return 0;
		if (p->l4 + sizeof(h) > p->end || bpf_skb_load_bytes(skb, p->l4, h, sizeof(h)))
			return -1;
		if (p->protocol == IP6_FRAGMENT) {
			p->fragment = fragment_at((h[2] << 8 | h[3]) >> 3);
			p->l4 += 8;
		} else {
			p->l4 += (h[1] + 1) * 8;
		}
		p->protocol = h[0];
		if (p->fragment >= FRAGMENT_LATER)
			return 0;
	}
	return 0;
}

static __always_inline int packet_ip6(struct __sk_buff *skb, struct packet *p)
{
	void *data = (void *)(long)skb->data;
	const struct ipv6hdr *ip = data + ETH_HLEN;

	if ((const void *)(ip + 1) > (void *)(long)skb->data_end)
		return PARSED_BAD;
	p->ip6 = 1;
	p->protocol = ip->nexthdr;
	p->l4 = ETH_HLEN + sizeof(*ip);
	/* none: a jumbogram, or one that Linux takes for such, with all that there is behind its hop-by-hop options */
	p->end = ip->payload_len && !skb->gso_size ? p->l4 + bpf_ntohs(ip->payload_len) : skb->len;
	__builtin_memcpy(&p->saddr, &ip->saddr, sizeof(p->saddr));
	__builtin_memcpy(&p->daddr, &ip->daddr, sizeof(p->daddr));
	if (packet_ip6_extensions(skb, p))
		return PARSED_BAD;
	if (p->fragment < FRAGMENT_LATER && is_ip6_extension(p->protocol))
		return PARSED_DEEP;
	return packet_l4(skb, p);
}

/*
 * Headers that the packet's end cuts off: padding may look like their rest, and
 * in a fragment the next one has it (RFC 3128, RFC 7112).
 */
static __always_inline int packet_cut(const struct packet *p)
{
	if (p->protocol == IPPROTO_TCP && p->l4 + sizeof(p->sport) + sizeof(p->dport) <= p->end)
		return PARSED_SHORT;
	return PARSED_BAD;
}

/* @p must be zeroed. A packet that is longer than its IP header says (a GSO frame over 64 KiB) ends with the frame. */
static __always_inline int packet_parse(struct __sk_buff *skb, struct packet *p)
{
	int r;

	p->ethertype = (__u16)skb->protocol;
	p->vlan = packet_vlan(skb);
	if (p->ethertype == bpf_htons(ETH_P_IP)) {
		if (packet_linear(skb, ETH_HLEN + sizeof(struct iphdr)))
			return PARSED_BAD;
		r = packet_ip4(skb, p);
	} else if (p->ethertype == bpf_htons(ETH_P_IPV6)) {
		if (packet_linear(skb, ETH_HLEN + sizeof(struct ipv6hdr)))
			return PARSED_BAD;
		r = packet_ip6(skb, p);
	} else {
		return PARSED_OTHER;
	}
	if (p->end > skb->len || skb->gso_size)
		p->end = skb->len;
	if ((r == PARSED_L4 && p->payload > p->end) || r == PARSED_SHORT)
		r = packet_cut(p);
	return r == PARSED_BAD && p->fragment ? PARSED_DEEP : r;
}

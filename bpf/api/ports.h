#pragma once
#include <linux/types.h>

/*
 * Shared layouts: where VMs are, and which addresses are theirs.
 */

/* 16 bytes; IPv4 as ::ffff:a.b.c.d, as struct ip of the programs. */
struct steer_addr {
	__u32 w[4];		/* network byte order */
};

struct steer_port_key {
	__u32 ifindex;
	__u32 vlan;		/* 0: untagged */
};

enum {
	STEER_PORT_UPLINK = 1,
	STEER_PORT_ROUTED = 2,		/* frames in the VM's name leave by the NIC's routes, else by out_ifindex */
	STEER_PORT_STEER = 4,		/* the VM has listeners, or had: look its TCP packets up */
	STEER_PORT_DROP_SPOOFED = 8,
	STEER_PORT_LEARN = 16,
};

struct steer_port {
	__u32 vm;		/* 0: an uplink */
	__u32 flags;		/* STEER_PORT_* */
	__u32 out_ifindex;
	__u16 out_vlan;
	__u16 pad;
};

/* By address: whose it is and where it is. */
struct steer_guest {
	__u32 vm;
	__u32 ifindex;
	__u16 vlan;
	__u8 mac[6];
};

/* By VM slot: what the programs keep. */
struct steer_vm {
	__u64 token_ns;		/* time of the last refill */
	__u32 tokens;
	__u32 n_flows;
	__u32 lost;		/* records that did not fit, ever */
	__u32 pad;
};

/* By VM slot: how much of it may be copied. A map of its own, so that an agent that is replaced keeps its other maps. */
struct steer_sniff_budget {
	__u64 since_ns;		/* when it was last filled up */
	__u64 bytes;		/* that are left */
};

/* With whom a VM talks, as their client. */
struct steer_talk {
	struct steer_addr addr;
	__u32 vm;
	__u16 port;		/* network byte order */
	__u16 protocol;
};

/* What a copied packet costs of it besides its bytes: to look at a small one takes as long. */
enum {
	STEER_SNIFF_COST = 512,
	STEER_STRANGERS_SHARE = 8,	/* beside the VM's own bytes, an eighth of as many for those who send to it unasked */
};

/*
 * What is done with a port number at all, to spare most packets all the
 * lookups. Indexed by the port in network byte order.
 */
enum {
	STEER_PF_OUTBOUND = 1,
	STEER_PF_INBOUND = 2,
	STEER_PF_SNIFF_TCP = 4,
	STEER_PF_SNIFF_UDP = 8,
	STEER_PF_DNS = 16,
};

struct steer_port_flags {
	__u8 f[65536];
};

_Static_assert(sizeof(struct steer_addr) == 16, "shared layout");
_Static_assert(sizeof(struct steer_port_key) == 8, "shared layout");
_Static_assert(sizeof(struct steer_port) == 16, "shared layout");
_Static_assert(sizeof(struct steer_guest) == 16, "shared layout");
_Static_assert(sizeof(struct steer_vm) == 24, "shared layout");
_Static_assert(sizeof(struct steer_sniff_budget) == 16, "shared layout");
_Static_assert(sizeof(struct steer_talk) == 24, "shared layout");

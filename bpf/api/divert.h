#pragma once
#include <linux/types.h>
#include "ports.h"

/*
 * Shared layouts: what is diverted, the flows that are, answers to probes.
 */

enum steer_direction {
	STEER_OUTBOUND,
	STEER_INBOUND,
	STEER_DNS,			/* queries that the VM sends by UDP; the address is the server's */
	STEER_BEHIND,			/* diverts nothing: addresses of what is behind the VM, a node's pods; port 0 */
};

struct steer_divert_key {
	__u32 prefix_len;		/* first: LPM_TRIE demands it. STEER_DIVERT_FIXED_BITS + those of addr */
	__u32 vm;			/* outbound, DNS, behind: whose packets; inbound: 0, the address says it */
	__u16 port;			/* network byte order; 0: all */
	__u16 direction;
	struct steer_addr addr;
};

enum { STEER_DIVERT_FIXED_BITS = 64 };

enum {
	STEER_DIVERT_FAIL_CLOSED = 1,
	STEER_DIVERT_SAME_NIC = 2,
	STEER_DIVERT_DNS_ANSWERS = 4,	/* the servers' answers, too */
};

struct steer_divert {
	__u32 vm;			/* whose listener */
	__u32 flags;			/* STEER_DIVERT_* */
};

/* Index in the map of listeners. */
#define STEER_LISTENER(vm, direction)	((vm) * 2 + (direction))

/* As seen in the packets of the side that opened the connection. */
struct steer_flow_key {
	struct steer_addr saddr;
	struct steer_addr daddr;
	__u16 sport;			/* network byte order */
	__u16 dport;
};

enum {
	STEER_FLOW_ROUTED = 1,
};

struct steer_flow {
	__u64 since_ns;			/* when it was entered */
	__u32 ifindex;			/* where its SYN came in */
	__u32 out_ifindex;
	__u32 vm;			/* who is charged for it */
	__u32 flags;			/* STEER_FLOW_* */
	__u16 vlan;
	__u16 out_vlan;
	__u8 dmac[6];			/* of the SYN: these two are written as one */
	__u8 smac[6];
};

/*
 * A VM's way to one server of names is a flow, too: with its address, the
 * server's, port 0 and port 53. Queries of all its ports share it.
 */

/* By VM slot: does the proxy do something with the queries that it is given? */
struct steer_dns {
	__u64 since_ns;			/* since when it has not, when @n is not 0 */
	__u64 tried_ns;			/* the last time that a query was given to it all the same */
	__u64 second_ns;		/* when this second began */
	__u32 n;			/* queries since it last did */
	__u32 n_second;			/* packets in this second */
};

enum {
	STEER_DNS_STUCK_MS = 1000,	/* from then on queries pass, */
	STEER_DNS_TRY_MS = 30000,	/* but for one in so long */
	STEER_DNS_PER_S = 4000,		/* queries and answers of one VM; those over it pass */
};

struct steer_probe {
	__u32 ifindex;
	__u32 vm;
	__u16 vlan;
	__u8 tcp_flags;
	__u8 pad[3];
	__u8 mac[6];
};

/* What flow_sweep is told and tells; the packet that its test run is given. */
struct steer_sweep {
	__u64 older_than_ns;		/* in: flows younger than this are left alone */
	__u32 n_seen;			/* out */
	__u32 n_removed;
};

_Static_assert(sizeof(struct steer_divert_key) == 28, "shared layout");
_Static_assert(sizeof(struct steer_divert) == 8, "shared layout");
_Static_assert(sizeof(struct steer_flow_key) == 36, "shared layout");
_Static_assert(sizeof(struct steer_flow) == 40, "shared layout");
_Static_assert(sizeof(struct steer_dns) == 32, "shared layout");
_Static_assert(sizeof(struct steer_probe) == 20, "shared layout");
_Static_assert(sizeof(struct steer_sweep) == 16, "shared layout");

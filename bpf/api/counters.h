#pragma once
#include <linux/types.h>

/*
 * Why packets took the way that they took. Counted per VM and CPU; slot 0 is
 * what belongs to no VM. Names for people: steer_counter_name().
 */
enum steer_counter {
	STEER_C_DIVERT_NEW,		/* SYN given to a listener */
	STEER_C_DIVERT_COOKIE,		/* ACK that completes a SYN-cookie handshake, given to a listener */
	STEER_C_DIVERT_PACKETS,		/* packets of diverted connections */
	STEER_C_ANSWER_PACKETS,		/* packets of ours sent out by the divert device */
	STEER_C_SNIFFED,		/* packets copied */
	STEER_C_LEARNED,		/* ARP, ND, DHCP frames copied */

	STEER_C_RING_FULL,		/* records that the ring had no room for */
	STEER_C_RATE_LIMITED,		/* learning or unverified packets over the limit, not copied */
	STEER_C_SPOOFED,		/* source address neither the VM's nor of what is known behind it: not looked up */
	STEER_C_NO_LISTENER_PASS,	/* would be diverted, nobody listens, fail open */
	STEER_C_NO_LISTENER_DROP,	/* ... fail closed */
	STEER_C_FLOW_LIMIT,		/* would be diverted, the VM has too many connections */
	STEER_C_FLOW_ERROR,		/* would be diverted, no memory for the flow */
	STEER_C_ASSIGN_ERROR,		/* the kernel refused the socket */
	STEER_C_FRAGMENT,		/* TCP fragment: not looked at */
	STEER_C_MALFORMED,		/* headers cut short or with impossible lengths */
	STEER_C_PULL_ERROR,		/* headers could not be made linear */
	STEER_C_REWRITE_ERROR,		/* MAC or VLAN could not be written */
	STEER_C_ANSWER_UNKNOWN,		/* on the divert device, and nobody knows whose it is: dropped */
	STEER_C_ANSWER_REFUSED,		/* a proxy tried to go around the inbound proxy of a fail-closed VM: dropped */
	STEER_C_PROBE_ANSWERS,		/* answers to our probes recorded */
	STEER_C_SNIFF_BUDGET,		/* not copied: the VM has used up its bytes */
	STEER_C_DNS_QUERIES,		/* queries for names given to the proxy */
	STEER_C_DNS_ANSWERS,		/* servers' answers given to the proxy */
	STEER_C_DNS_STUCK,		/* passed, since the proxy does nothing with what it has */
	STEER_C_DNS_BUDGET,		/* passed, since there were too many in this second */
	STEER_C_STRANGER_BUDGET,	/* not copied: others have sent the VM too much that it did not ask for */
	_STEER_C_N
};

enum { STEER_C_SLOTS = 32 };		/* room for more without a new layout */

struct steer_counters {
	__u64 v[STEER_C_SLOTS];
};

_Static_assert((int)_STEER_C_N <= (int)STEER_C_SLOTS, "shared layout");
_Static_assert(sizeof(struct steer_counters) == 256, "shared layout");

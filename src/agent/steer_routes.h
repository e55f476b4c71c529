#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/netlink.h"
#include "agent/steer_conf.h"
#include "base/defs.h"
#include "base/ip.h"

/*
 * The routing rules and tables that steering needs, in both families:
 *
 *   pref+0  iif DIVERT_DEV             -> table_local: everything is local
 *   pref+1  fwmark base/0xfffffff8     -> table_divert: default dev DIVERT_DEV
 *   pref+2  iif lo, TCP to port P      -> table_same_nic+k: local ADDRESS dev lo
 *
 * The third kind exists for each port P of inbound diverts that the NIC's own
 * processes may reach (MONITOR_DIVERT_SAME_NIC).
 */
struct steer_same_nic {
	uint16_t port;
	uint32_t n_addrs;		/* 0: free */
};

struct steer_routes {
	struct netlink *nl;
	const struct steer_conf *conf;
	uint32_t divert_ifindex;
	struct steer_same_nic same_nic[STEER_N_SAME_NIC];
};

/* Removes what a predecessor left, and enters rules and routes. */
MUST_CHECK int steer_routes_setup(struct steer_routes *r, struct netlink *nl, const struct steer_conf *conf, uint32_t divert_ifindex);
void steer_routes_remove(struct steer_routes *r);

/* -ENOSPC when STEER_N_SAME_NIC ports are in use. */
MUST_CHECK int steer_routes_same_nic_add(struct steer_routes *r, const struct ip *addr, uint16_t port);
void steer_routes_same_nic_remove(struct steer_routes *r, const struct ip *addr, uint16_t port);

/* Are the two general rules there, in this family? */
bool steer_routes_present(struct steer_routes *r, int family);

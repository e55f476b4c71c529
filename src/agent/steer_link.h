#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/netlink.h"
#include "agent/steer_conf.h"
#include "base/defs.h"

/*
 * The divert device: where diverted packets enter the stack.
 */
struct steer_link {
	uint32_t ifindex;
	uint8_t mac[6];
	bool made;		/* by us, in this run */
	uint32_t master;		/* ifindex of its bridge or the like; 0: none */
};

/*
 * Finds it or makes it: a dummy where the kernel has them, else a veth pair
 * whose other end leads nowhere. Up, without ARP and addresses.
 */
MUST_CHECK int steer_link_ensure(struct netlink *nl, const struct steer_conf *conf, struct steer_link *ret_link);
void steer_link_remove(struct netlink *nl, const struct steer_link *link);

/* -ENODEV when there is none. */
MUST_CHECK int steer_link_find(struct netlink *nl, const char *name, struct steer_link *ret_link);

/* By its ifindex. -ENODEV: no such device. */
MUST_CHECK int steer_link_get(struct netlink *nl, uint32_t ifindex, struct steer_link *ret_link);

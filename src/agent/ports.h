#pragma once
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/loop.h"

/*
 * The NIC's devices as they come, change and go, told by rtnetlink to the
 * unprivileged worker.
 *
 * Which of them carry VMs is said by name patterns (shell globs such as
 * "tap*"); what a port means beyond that (VLANs, VM slots) is the caller's.
 */
struct ports;

enum { PORTS_MAX_PATTERNS = 32 };

struct port_info {
	uint32_t ifindex;
	char name[IFNAMSIZ];
	uint8_t mac[6];
	uint32_t mtu;
	uint32_t master;	/* ifindex of its bridge, OVS datapath, ...; 0: none */
	char master_kind[16];	/* "bridge", "openvswitch", ...; empty: none */
	bool up;		/* administratively */
	bool carrier;		/* and somebody at the other end */
};

enum ports_event {
	PORTS_NEW,
	PORTS_CHANGED,
	PORTS_GONE,		/* also when it was renamed out of the patterns */
};

typedef void ports_fn(enum ports_event event, const struct port_info *port, void *data);

/*
 * Calls @fn for each matching device there is and then for every change, from
 * @l. @patterns are copied. After messages were lost (ENOBUFS) it reads
 * everything anew and tells the differences. *ret_ports is good in the first calls already.
 */
MUST_CHECK int ports_new(struct loop *l, const char *const *patterns, size_t n_patterns, ports_fn *fn, void *data,
			 struct ports **ret_ports);

/* NULL when there is none. Any device, whether it matches or not (uplinks are named in the configuration). */
const struct port_info *ports_find_name(const struct ports *p, const char *name);

#pragma once
#include <linux/types.h>

/*
 * Shared layout: settings that are fixed when the programs are loaded.
 */
struct steer_settings {
	__u32 divert_ifindex;
	__u32 mark_base;
	__u32 max_flows_per_vm;
	__u32 unverified_per_s;
	__u8 divert_mac[6];
	__u8 pad[2];
	__u32 sniff_bytes_per_s;	/* of one VM; as many at once */
};

_Static_assert(sizeof(struct steer_settings) == 28, "shared layout");

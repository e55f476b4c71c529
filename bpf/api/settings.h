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
};

_Static_assert(sizeof(struct steer_settings) == 24, "shared layout");

#pragma once
#include "maps.h"

/* Counts one packet of @vm for the reason @c. */
static __always_inline void count(__u32 vm, __u32 c)
{
	struct steer_counters *v = bpf_map_lookup_elem(&counters, &vm);

	if (v && c < STEER_C_SLOTS)
		v->v[c]++;
}

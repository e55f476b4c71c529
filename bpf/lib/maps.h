#pragma once
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "../api/counters.h"
#include "../api/divert.h"
#include "../api/ports.h"
#include "../api/record.h"
#include "../api/settings.h"

/*
 * The maps and settings that the programs share. maps.bpf.c owns them; sizes
 * that the configuration says are set by the loader.
 */

struct map_ports {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct steer_port_key);
	__type(value, struct steer_port);
};

struct map_guests {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct steer_addr);
	__type(value, struct steer_guest);
};

struct map_vms {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct steer_vm);
};

struct map_sniff_budgets {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct steer_sniff_budget);
};

/* By VM slot, what comes for it from those with whom it does not talk. */
struct map_stranger_budgets {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct steer_sniff_budget);
};

/* Whose entry is pushed out has the answer to its next question counted as a stranger's: it is copied all the same. */
struct map_talks {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct steer_talk);
	__type(value, __u8);
};

struct map_counters {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct steer_counters);
};

struct map_port_flags {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct steer_port_flags);
};

struct map_diverts {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct steer_divert_key);
	__type(value, struct steer_divert);
};

struct map_listeners {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2048);
	__type(key, __u32);
	__type(value, __u64);
};

/* By VM slot. Maps of their own, for the same reason as that of the budgets. */
struct map_dns_sockets {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
};

struct map_dns_vms {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct steer_dns);
};

/* Not an LRU map: nobody's flood may push out somebody's connection. See flow_sweep.bpf.c. */
struct map_flows {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct steer_flow_key);
	__type(value, struct steer_flow);
};

struct map_probes {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct steer_flow_key);
	__type(value, struct steer_probe);
};

struct map_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
};

extern struct map_ports ports SEC(".maps");
extern struct map_guests guests SEC(".maps");
extern struct map_vms vms SEC(".maps");
extern struct map_sniff_budgets sniff_budgets SEC(".maps");
extern struct map_stranger_budgets stranger_budgets SEC(".maps");
extern struct map_talks talks SEC(".maps");
extern struct map_counters counters SEC(".maps");
extern struct map_port_flags port_flags SEC(".maps");
extern struct map_diverts diverts SEC(".maps");
extern struct map_listeners listeners SEC(".maps");
extern struct map_dns_sockets dns_sockets SEC(".maps");
extern struct map_dns_vms dns_vms SEC(".maps");
extern struct map_flows flows SEC(".maps");
extern struct map_probes probes SEC(".maps");
extern struct map_ring ring SEC(".maps");

extern const volatile struct steer_settings settings;

/*
 * The owner of the maps: nothing but their definitions, so that each hook is a
 * file of its own and all of them work on the same ones.
 */
#include "lib/maps.h"

struct map_ports ports SEC(".maps");
struct map_guests guests SEC(".maps");
struct map_vms vms SEC(".maps");
struct map_sniff_budgets sniff_budgets SEC(".maps");
struct map_stranger_budgets stranger_budgets SEC(".maps");
struct map_talks talks SEC(".maps");
struct map_counters counters SEC(".maps");
struct map_port_flags port_flags SEC(".maps");
struct map_diverts diverts SEC(".maps");
struct map_listeners listeners SEC(".maps");
struct map_dns_sockets dns_sockets SEC(".maps");
struct map_dns_vms dns_vms SEC(".maps");
struct map_flows flows SEC(".maps");
struct map_probes probes SEC(".maps");
struct map_ring ring SEC(".maps");

const volatile struct steer_settings settings = {};

char steer_license[] SEC("license") = "Dual BSD/GPL";

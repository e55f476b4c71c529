/*
 * The defaults of what steering takes for itself.
 */
#include "agent/steer_conf.h"

#include <string.h>

void steer_conf_init(struct steer_conf *c)
{
	*c = (struct steer_conf){
		.divert_dev = "dvt0",
		.mark_base = 0x5b00,
		.rule_pref = 5100,
		.table_local = 5101,
		.table_divert = 5102,
		.table_same_nic = 5110,
		.outbound_port = 15001,
		.inbound_port = 15006,
		.max_vms = 1024,
		.max_flows = 262144,
		.max_flows_per_vm = 65536,
		.ring_bytes = 8 << 20,
		.sniff_bytes_per_s = 8 << 20,
		.unverified_per_s = 200,
		.pin_dir = "/sys/fs/bpf/outrigger",
		.proxy_path = "/usr/lib/outrigger/outrigger-proxy",
		.proxy_uid_base = 61000,
		.max_proxies = 64,
		.worker_uid = 60999,
		.worker_gid = 60999,
	};
}

gid_t steer_conf_proxies_gid(const struct steer_conf *c)
{
	return c->proxy_uid_base + STEER_PROXY_UIDS;
}

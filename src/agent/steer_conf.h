#pragma once
#include <limits.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Everything that steering takes for itself on the NIC: names, routing tables,
 * rule preferences, packet marks, limits. One struct, filled with the defaults
 * by steer_conf_init() and then changed from the agent's configuration, so
 * that an administrator can move whatever collides with something else.
 * docs/interception.md says what each is for.
 */
enum { STEER_MAX_VM_PORTS = 32, STEER_MAX_UPLINKS = 8 };

struct steer_conf {
	/* The device by which diverted packets enter the stack and answers leave it. Dummy, else a veth pair. */
	char divert_dev[IFNAMSIZ];		/* "dvt0"; the other end of a veth pair is its name plus "p" */

	/*
	 * Packet marks: @mark_base is a multiple of 16, and the 16 values from it
	 * on are ours (enum steer_mark). The rule matches base/0xfffffff0.
	 */
	uint32_t mark_base;			/* 0x5b00 */

	uint32_t rule_pref;			/* 5100: the first of STEER_N_PREFS consecutive rule preferences */
	uint32_t table_local;			/* 5101: "everything is local", for what arrives on the divert device */
	uint32_t table_divert;			/* 5102: default route to the divert device, for marked packets */
	uint32_t table_same_nic;		/* 5110: the first of STEER_N_SAME_NIC tables, one a port */

	uint16_t outbound_port;			/* 15001: where the listeners are bound; any free port does */
	uint16_t inbound_port;			/* 15006 */

	uint32_t max_vms;			/* 1024: VM slots are 1 .. max_vms - 1 */
	uint32_t max_flows;			/* 262144: diverted connections on this NIC */
	uint32_t max_flows_per_vm;		/* 65536 */
	uint32_t ring_bytes;			/* 8 MiB: a power of two */
	uint32_t sniff_bytes_per_s;		/* 8 MiB: of one VM's packets that are copied; each counts for 512 more than it has */
	uint32_t unverified_per_s;		/* 200: learning and unverified packets a VM may send up a second */

	bool force_clsact;			/* do not try TCX */

	/* Empty: nothing outlives the monitor. Else a directory in bpffs, made when it is not there. */
	char pin_dir[128];			/* "/sys/fs/bpf/outrigger" */

	char proxy_path[PATH_MAX];		/* outrigger-proxy */
	uid_t proxy_uid_base;			/* 61000: the process with index i runs as uid and gid base + i */
	uint32_t max_proxies;			/* 64; at most STEER_PROXY_UIDS */
	char proxies_dir[PATH_MAX];		/* where each group's processes have a folder for their sockets; empty: nowhere */

	/*
	 * Names of devices that may be attached, patterns of fnmatch(3), borrowed: the
	 * worker cannot have others. None at all: any.
	 */
	const char *vm_ports[STEER_MAX_VM_PORTS];
	size_t n_vm_ports;
	const char *uplinks[STEER_MAX_UPLINKS];
	size_t n_uplinks;
	const char *outs[STEER_MAX_VM_PORTS];	/* names: what else may carry VMs' frames, beside a port's own bridge and the uplinks */
	size_t n_outs;

	/* A file that is opened for the worker, so that all proxies write to it; borrowed, NULL: none. */
	const char *access_log;

	/* Who the worker is. */
	uid_t worker_uid;			/* 60999 */
	gid_t worker_gid;
};

enum {
	STEER_PROXY_UIDS = 4095,		/* from proxy_uid_base on; the next one is the group of all proxies and the worker */
	STEER_N_PREFS = 32,
	STEER_N_SAME_NIC = 16,			/* distinct ports of inbound diverts with MONITOR_DIVERT_SAME_NIC */
};

/* Added to mark_base. */
enum steer_mark {
	STEER_MARK_ANSWER = 1,		/* listeners, and so the connections they accept: back to where the SYN came from */
	STEER_MARK_TO_VM = 2,		/* a proxy's connection to its own VM, from a foreign source address */
	STEER_MARK_FROM_VM = 3,		/* a proxy's connection in its VM's name (address and port) to the original destination */
	STEER_MARK_PROBE = 4,		/* the agent's probe, from a spare address, to a guest */
	STEER_MARK_DNS_ANSWER = 5,	/* a proxy's answer to a VM's query for a name */
	STEER_MARK_DNS_QUERY = 6,	/* a VM's query that goes on to its own server; 7 is of the BPF programs only */
};

void steer_conf_init(struct steer_conf *c);
/* Of the proxies and the worker: whoever is in it may get past proxies_dir, into the folders of the groups. */
gid_t steer_conf_proxies_gid(const struct steer_conf *c);

#pragma once
#include <limits.h>
#include <stdint.h>
#include <sys/types.h>
#include "agent/monitor_client.h"

/*
 * The messages between worker and root monitor: a header, then the struct
 * named in the table of monitor.c. Both ends are one program in two
 * processes, so structs travel as they are; the monitor checks every field.
 */
enum monitor_op {
	MONITOR_OP_LOAD,
	MONITOR_OP_PORT_ADD,
	MONITOR_OP_PORT_REMOVE,
	MONITOR_OP_ADDRESS_ADD,
	MONITOR_OP_ADDRESS_REMOVE,
	MONITOR_OP_VM_CLEAR,
	MONITOR_OP_SNIFF_SET,
	MONITOR_OP_DIVERT_ADD,
	MONITOR_OP_DIVERT_REMOVE,
	MONITOR_OP_DIVERTS_SETTLE,
	MONITOR_OP_DIVERTS_OPEN,
	MONITOR_OP_LISTENERS_MAKE,
	MONITOR_OP_DNS_MAKE,
	MONITOR_OP_PROXY_SPAWN,
	MONITOR_OP_PROXY_SIGNAL,
	MONITOR_OP_PROXY_USER,
	MONITOR_OP_ACCESS_LOG,
	MONITOR_OP_PROBE_OPEN,
	MONITOR_OP_PROBE_RESULT,
	MONITOR_OP_COUNTERS,
	MONITOR_OP_CHECKS,
	_MONITOR_OP_N,

	MONITOR_OP_EXITED,	/* from the monitor, unasked */
};

struct monitor_header {
	uint32_t op;
	int32_t result;		/* in answers: 0 or negative errno */
	uint32_t call;		/* the answer carries the request's number */
};

enum {
	MONITOR_MSG_MAX = 32768,	/* header and body */
};

struct monitor_msg_loaded {
	uint32_t ring_bytes;
	uint8_t adopted;
	uint8_t tcx;
	uint8_t pad[2];
};

struct monitor_msg_port {
	uint32_t ifindex;
	uint32_t vlan;
};

struct monitor_msg_address {
	struct ip addr;
	uint32_t vm;
	uint8_t mac[6];
	uint8_t pad[2];
};

struct monitor_msg_vm {
	uint32_t vm;
};

struct monitor_msg_sniff {
	uint32_t n;
	struct {
		uint16_t port;
		uint16_t udp;
	} ports[MONITOR_MAX_SNIFF];
};

struct monitor_msg_spawn {
	uint32_t workers;
	char group[MONITOR_GROUP_LEN];	/* with its zero */
};

struct monitor_msg_spawned {
	uint32_t proxy;
	int32_t pid;
};

struct monitor_msg_group {
	char group[MONITOR_GROUP_LEN];
};

struct monitor_msg_user {
	uint32_t uid;
};

struct monitor_msg_signal {
	uint32_t proxy;
	int32_t signo;
};

struct monitor_msg_path {
	char path[PATH_MAX];	/* with its zero */
};

struct monitor_msg_probe_result {
	struct ip_port target;
	struct ip_port local;
};

struct monitor_msg_probe_answer {
	uint32_t ifindex;
	uint32_t vm;
	uint16_t vlan;
	uint8_t refused;
	uint8_t mac[6];
	uint8_t pad[3];
};

struct monitor_msg_checks {
	uint32_t n;
	struct {
		uint8_t ok;
		uint8_t fatal;
		char what[MONITOR_CHECK_TEXT_LEN];
		char found[MONITOR_CHECK_TEXT_LEN];
	} checks[MONITOR_MAX_CHECKS];
};

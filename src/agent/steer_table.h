#pragma once
#include <stddef.h>
#include <stdint.h>
#include "agent/monitor_client.h"
#include "agent/steer_bpf.h"
#include "base/defs.h"

/*
 * The contents of the BPF maps, kept consistent: ports, addresses, sniffed
 * ports, diverts, and the flags by port number that spare the programs most
 * lookups.
 *
 * Ports are also kept here, since their devices' attachments depend on them;
 * everything else is in the maps only, where a successor finds it.
 */
struct steer_table {
	struct steer_bpf *bpf;
	struct monitor_port *ports;
	size_t n_ports;
	uint32_t n_diverts[_MONITOR_DIRECTION_N][65536];	/* by direction and port; [..][0]: those for all ports */
	struct monitor_divert *found;	/* entries of a predecessor that were neither added again nor removed */
	size_t n_found;
};

enum { STEER_MAX_PORTS = 1024 };

MUST_CHECK int steer_table_init(struct steer_table *t, struct steer_bpf *bpf);
void steer_table_deinit(struct steer_table *t);

MUST_CHECK int steer_table_port_add(struct steer_table *t, const struct monitor_port *p);
MUST_CHECK int steer_table_port_remove(struct steer_table *t, uint32_t ifindex, uint16_t vlan);

MUST_CHECK int steer_table_address_add(struct steer_table *t, uint32_t vm, const struct ip *addr, const uint8_t mac[6]);
MUST_CHECK int steer_table_address_remove(struct steer_table *t, uint32_t vm, const struct ip *addr);

MUST_CHECK int steer_table_sniff_set(struct steer_table *t, const struct monitor_sniff *ports, size_t n);

/* positive: it was there, and is replaced (add). -ENOENT from remove: it was not there. */
enum { STEER_TABLE_E_REPLACED = 1 };
MUST_CHECK int steer_table_divert_add(struct steer_table *t, const struct monitor_divert *d, uint32_t *ret_old_flags);
MUST_CHECK int steer_table_divert_remove(struct steer_table *t, const struct monitor_divert *d, uint32_t *ret_flags);

/* Calls @fn for each entry of a predecessor that nobody has added again, of @vm or (0) of all; @fn may remove it. */
MUST_CHECK int steer_table_each_found(struct steer_table *t, uint32_t vm,
				      int (*fn)(const struct monitor_divert *d, void *data), void *data);

/* Does any process still hold one of the VM's listeners? */
bool steer_table_has_listeners(const struct steer_table *t, uint32_t vm);

/* Listeners of a VM into the socket map; from then on its TCP packets are looked up. */
MUST_CHECK int steer_table_listeners_set(struct steer_table *t, uint32_t vm, const int fds[2]);
/* The socket that its queries for names come to. */
MUST_CHECK int steer_table_dns_set(struct steer_table *t, uint32_t vm, int fd);

/* Calls @fn for each inbound and outbound entry of @vm; @fn may remove it. */
MUST_CHECK int steer_table_each_divert(struct steer_table *t, uint32_t vm,
				       int (*fn)(const struct monitor_divert *d, void *data), void *data);
/* Addresses, listeners, ports of @vm. Diverts are the caller's (their routes are, too). */
MUST_CHECK int steer_table_vm_clear(struct steer_table *t, uint32_t vm);

MUST_CHECK int steer_table_counters(struct steer_table *t, uint32_t vm, struct monitor_counters *ret_counters);

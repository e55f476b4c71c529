#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/guest.h"
#include "agent/steer_conf.h"
#include "base/conf.h"
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"

/*
 * agent.yaml. docs/config-agent.md is printed from these tables.
 */
enum { CONFIG_MAX_PROTOCOLS = 32 };

enum config_topology { CONFIG_TOPOLOGY_AUTO, CONFIG_TOPOLOGY_ROUTED, CONFIG_TOPOLOGY_BRIDGE, CONFIG_TOPOLOGY_OVS };

struct config_controller {
	char *address;			/* host:port; NULL: on its own */
	char *roots;			/* PEM file */
	char *server_name;		/* NULL: the host of @address */
	char *join_token_file;
};

struct config_port {
	char *match;			/* glob over device names */
	struct conf_uints vlans;	/* none: untagged, and whatever is untagged only */
	int topology;			/* enum config_topology */
	char *out;			/* device by which its frames leave; NULL: its bridge, or the first uplink */
	uint32_t out_vlan;
	bool drop_spoofed;
};

struct config_guest {
	unsigned line;
	struct conf_mac mac;
	char *port;
	uint32_t vlan;			/* CONFIG_ANY_VLAN: any */
	char *name;
	struct conf_strings addresses;	/* that it has */
	struct conf_prefixes may_have;	/* none: any */
};

enum { CONFIG_ANY_VLAN = 4095 };

struct config_registry {
	char *protocol;
	struct ip_port address;
};

struct config_limits {
	uint32_t guests;
	uint32_t guests_per_port;
	uint32_t address_lifetime_ms;
	uint64_t sniffed_bytes;
	uint32_t observations_per_s;
	uint32_t claims_per_s;
};

struct config_probe {
	bool enabled;
	uint32_t interval_ms;
	uint32_t timeout_ms;
	uint32_t misses;
	bool own_address;		/* from the NIC's own address, not from a spare one */
};

enum config_upgrade { CONFIG_UPGRADE_AUTO, CONFIG_UPGRADE_MANUAL };

struct config_proxy {
	char *path;
	uint32_t workers;
	char *access_log;
	bool access_log_json;
	uint32_t drain_ms;
	int upgrade;			/* enum config_upgrade */
	uint32_t upgrade_drain_ms;
	uint32_t connections;		/* per VM, 0: the proxy's default */
	uint32_t connection_rate;	/* a second, per VM; 0: no limit */
	uint64_t buffered_bytes;
};

struct config_log {
	int level;			/* enum log_level */
	bool json;
};

struct config_steering {
	char *divert_device;
	uint32_t mark_base;
	uint32_t rule_preference;
	uint32_t table;
	char *pin_dir;
	uint32_t worker_uid;
	uint32_t proxy_uid_base;
	uint64_t ring_bytes;
	uint32_t max_vms;
	bool force_clsact;
};

struct config_discovery {		/* one list a protocol of discover/protocols.c */
	struct conf_uints ports[CONFIG_MAX_PROTOCOLS];
};

struct config {
	char *nic;
	struct config_controller controller;
	struct conf_list ports;		/* struct config_port */
	struct conf_strings uplinks;
	struct conf_list guests;	/* struct config_guest */
	struct config_discovery discovery;
	struct conf_list registries;	/* struct config_registry */
	struct config_limits limits;
	struct config_probe probe;
	struct config_proxy proxy;
	struct config_log log;
	struct config_steering steering;
	char *state_dir;
	char *run_dir;
	struct ip_port metrics;
};

/* -EINVAL with @reterr_diag, -ENOMEM. */
MUST_CHECK int config_load(const char *path, struct config *ret_config, struct diag *reterr_diag);
MUST_CHECK int config_parse(const char *file, const char *text, size_t len, struct config *ret_config, struct diag *reterr_diag);
void config_free(struct config *c);

/* The table, for the manual. */
const struct conf_table *config_table(void);

/* What the file says of guests, for guest_table_init(). Borrows from @c, and is there as long as the process. */
MUST_CHECK int config_rules(const struct config *c, struct guest_rule **ret_rules, size_t *ret_n);
void config_rules_free(struct guest_rule *rules, size_t n);

/* Steering's settings, with what the file changes. */
void config_steer(const struct config *c, struct steer_conf *ret_steer);

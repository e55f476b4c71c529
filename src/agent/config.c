/*
 * agent.yaml as tables. The list of discovery protocols is taken from
 * discover/protocols.c, so that a new one needs no row here.
 */
#include "agent/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "discover/protocol.h"
#include "mesh/identity.h"

/* --- checks --- */

static const char *check_nic(const char *text)
{
	return identity_name_valid(text) ? NULL : "letters, digits, '.', '-' and '_' only: it is part of a SPIFFE ID";
}

static const char *check_host_port(const char *text)
{
	const char *colon = strrchr(text, ':');

	return colon && colon != text && colon[1] ? NULL : "\"host:port\" is expected";
}

static const char *check_absolute(const char *text)
{
	return text[0] == '/' ? NULL : "an absolute path is expected";
}

static const char *check_protocol(const char *text)
{
	return discover_protocol_by_name(text) ? NULL : "no such discovery protocol";
}

/* --- tables --- */

#define AT(type, member) offsetof(struct type, member)

static const struct conf_item controller_items[] = {
	{ "address", CONF_STRING, AT(config_controller, address), .reload = CONF_RESTART, .check = check_host_port,
	  .doc = "The edge services controller's provisioner, `host:port`. Without it the agent draws its map and lets nobody join." },
	{ "roots", CONF_STRING, AT(config_controller, roots), .reload = CONF_RESTART,
	  .doc = "PEM file with the trust roots of the controller's certificate." },
	{ "server_name", CONF_STRING, AT(config_controller, server_name), .reload = CONF_RESTART,
	  .doc = "Name or address that the controller's certificate must be for; the host of `address` by default." },
	{ "join_token_file", CONF_STRING, AT(config_controller, join_token_file), .reload = CONF_RESTART,
	  .doc = "File with the one-time join token. Needed once; the environment's OUTRIGGER_JOIN_TOKEN goes before it." },
};
static const struct conf_table controller_table = CONF_TABLE_INIT("controller", struct config_controller, controller_items);

static const char *const topology_names[] = { "auto", "routed", "bridge", "ovs", NULL };

static const struct conf_item port_items[] = {
	{ "match", CONF_STRING, AT(config_port, match), .required = true, .doc = "Devices that carry VMs, by name: `tap*`." },
	{ "vlans", CONF_UINTS, AT(config_port, vlans), .min = 1, .max = 4094,
	  .doc = "VLAN tags behind which VMs stand. None: VMs are untagged." },
	{ "topology", CONF_ENUM, AT(config_port, topology), .names = topology_names, .dflt = "auto",
	  .doc = "How the device is connected: `routed`, `bridge`, `ovs`. `auto` looks at its master." },
	{ "out", CONF_STRING, AT(config_port, out),
	  .doc = "Device by which frames in a VM's name leave; its bridge, or for OVS the first uplink, by default." },
	{ "out_vlan", CONF_UINT, AT(config_port, out_vlan), .max = 4094, .doc = "Tag that those frames get; 0: none." },
	{ "drop_spoofed", CONF_BOOL, AT(config_port, drop_spoofed), .dflt = "false",
	  .doc = "Drop what a VM sends from an address that is neither its own nor, where it is a node of a Kubernetes cluster, one of its pods'. "
		 "Otherwise it is counted, passes (but opens no connection to where diverts fail closed), and is never diverted." },
};
static const struct conf_table port_table = CONF_TABLE_INIT("port", struct config_port, port_items);

static const struct conf_item guest_items[] = {
	{ NULL, CONF_LINE, AT(config_guest, line) },
	{ "mac", CONF_MAC, AT(config_guest, mac), .doc = "The guest's MAC address." },
	{ "port", CONF_STRING, AT(config_guest, port), .doc = "Glob over its port's device name." },
	{ "vlan", CONF_UINT, AT(config_guest, vlan), .max = CONFIG_ANY_VLAN, .dflt = "4095", .doc = "Its VLAN; 4095: any, 0: untagged." },
	{ "name", CONF_STRING, AT(config_guest, name), .doc = "What people and policies call it." },
	{ "addresses", CONF_STRINGS, AT(config_guest, addresses),
	  .doc = "Addresses that it has from the start, without a word from it. Needs `mac` and `port`." },
	{ "may_have", CONF_PREFIXES, AT(config_guest, may_have), .doc = "Prefixes of the addresses that it may have. None: any." },
};

static int check_guest(const void *obj, const char *file, unsigned line, struct diag *d)
{
	const struct config_guest *g = obj;
	struct ip ip;

	if (!g->mac.set && !g->port)
		return diag_at(d, file, line, "guests: \"mac\" or \"port\" must say which guest is meant");
	if (g->addresses.n && (!g->mac.set || !g->port))
		return diag_at(d, file, line, "guests: \"addresses\" needs \"mac\" and \"port\"");
	for (size_t i = 0; i < g->addresses.n; i++)
		if (ip_parse(g->addresses.v[i], &ip) < 0)
			return diag_at(d, file, line, "guests: addresses: \"%s\" is no address", g->addresses.v[i]);
	return 0;
}
static const struct conf_table guest_table = CONF_TABLE_INIT("guest", struct config_guest, guest_items, .check = check_guest);

static const struct conf_item registry_items[] = {
	{ "protocol", CONF_STRING, AT(config_registry, protocol), .required = true, .check = check_protocol, .doc = "`zookeeper`, `consul`." },
	{ "address", CONF_IP_PORT, AT(config_registry, address), .required = true, .doc = "Where it listens." },
};
static const struct conf_table registry_table = CONF_TABLE_INIT("registry", struct config_registry, registry_items);

static const struct conf_item limits_items[] = {
	{ "guests", CONF_UINT, AT(config_limits, guests), .min = 1, .max = 4096, .dflt = "512", .doc = "Guests of this NIC." },
	{ "guests_per_port", CONF_UINT, AT(config_limits, guests_per_port), .min = 1, .max = 4096, .dflt = "8",
	  .doc = "MACs behind one port." },
	{ "address_lifetime", CONF_DURATION, AT(config_limits, address_lifetime_ms), .min = 10000, .max = 7 * 86400000u, .dflt = "1h",
	  .doc = "How long an address stays a guest's after its last sign of life." },
	{ "sniffed_per_second", CONF_SIZE, AT(config_limits, sniffed_bytes), .reload = CONF_RESTART, .min = 65536, .max = 1 << 30, .dflt = "8MiB",
	  .doc = "Of one guest's discovery traffic, in a second and at once; each packet counts for 512 bytes more than it has. The rest is not looked at. "
		 "What its proxy copies of its conversations with registries may be as much again." },
	{ "observations_per_second", CONF_UINT, AT(config_limits, observations_per_s), .min = 10, .max = 1000000, .dflt = "5000",
	  .doc = "What is observed of one guest (registrations, renewals, queries for names, answers to them), in a second, and twice as much at once. "
		 "The rest of its discovery traffic is not looked at." },
	{ "claims_per_second", CONF_UINT, AT(config_limits, claims_per_s), .min = 1, .max = 1000, .dflt = "10",
	  .doc = "Services that one guest may register for the first time, in a second; 128 at once. The last eight of the others wait for their turn." },
};
static const struct conf_table limits_table = CONF_TABLE_INIT("limits", struct config_limits, limits_items);

static const struct conf_item probe_items[] = {
	{ "enabled", CONF_BOOL, AT(config_probe, enabled), .dflt = "true", .doc = "Send SYNs to the services that guests claim." },
	{ "interval", CONF_DURATION, AT(config_probe, interval_ms), .min = 50, .max = 3600000, .dflt = "250ms",
	  .doc = "Between two probes of a service that is in the mesh." },
	{ "timeout", CONF_DURATION, AT(config_probe, timeout_ms), .min = 20, .max = 60000, .dflt = "250ms", .doc = "For one answer." },
	{ "misses", CONF_UINT, AT(config_probe, misses), .min = 1, .max = 100, .dflt = "3",
	  .doc = "So many silent probes in a row take a service out of the mesh until it answers again." },
	{ "own_address", CONF_BOOL, AT(config_probe, own_address), .dflt = "false",
	  .doc = "Probe from the NIC's own address and by its routes, instead of a spare address straight to the port." },
};
static const struct conf_table probe_table = CONF_TABLE_INIT("probe", struct config_probe, probe_items);

static const char *const upgrade_names[] = { "auto", "manual", NULL };

static const struct conf_item proxy_items[] = {
	{ "path", CONF_STRING, AT(config_proxy, path), .reload = CONF_RESTART, .check = check_absolute, .doc = "The outrigger-proxy program; beside the agent by default." },
	{ "workers", CONF_UINT, AT(config_proxy, workers), .reload = CONF_RESTART, .max = 64, .dflt = "0", .doc = "Threads of a proxy process; 0: one a processor, at most 4." },
	{ "access_log", CONF_STRING, AT(config_proxy, access_log),
	  .doc = "A file, or `stderr`. Nothing by default. The agent opens the file for all proxies, again at each reload: "
		 "as root if it was started with it, else as its own user." },
	{ "access_log_json", CONF_BOOL, AT(config_proxy, access_log_json), .dflt = "false", .doc = "One JSON object a line." },
	{ "drain", CONF_DURATION, AT(config_proxy, drain_ms), .max = 3600000, .dflt = "5s",
	  .doc = "Time that connections have to end when a VM leaves. For the first half of it everything is served as before, while its peers learn that it leaves." },
	{ "upgrade", CONF_ENUM, AT(config_proxy, upgrade), .names = upgrade_names, .dflt = "auto",
	  .doc = "An agent that adopts proxies of another program than the installed one replaces them (`auto`), or leaves it to `outrigger proxies upgrade`." },
	{ "upgrade_drain", CONF_DURATION, AT(config_proxy, upgrade_drain_ms), .max = 86400000, .dflt = "10m",
	  .doc = "Time that connections have to end in a proxy process that was replaced." },
	{ "connections", CONF_UINT, AT(config_proxy, connections), .max = 1000000, .dflt = "0",
	  .doc = "Connections a VM may have; 0: the proxy's default (12000). Peers that have many get none of the last eighth." },
	{ "connection_rate", CONF_UINT, AT(config_proxy, connection_rate), .max = 1000000, .dflt = "0",
	  .doc = "Connections a second that a VM may open; 0: no limit. More wait in the kernel. A flood is served behind the neighbours in any case; a limit keeps it from the processor, too." },
	{ "buffered_bytes", CONF_SIZE, AT(config_proxy, buffered_bytes), .dflt = "0", .doc = "Bytes a VM's connections may buffer; 0: the proxy's default." },
};
static const struct conf_table proxy_table = CONF_TABLE_INIT("proxy", struct config_proxy, proxy_items);

static const char *const level_names[] = { "error", "warn", "info", "debug", NULL };

static const struct conf_item log_items[] = {
	{ "level", CONF_ENUM, AT(config_log, level), .names = level_names, .dflt = "info", .doc = "`error`, `warn`, `info`, `debug`." },
	{ "json", CONF_BOOL, AT(config_log, json), .dflt = "false", .doc = "One JSON object a line." },
};
static const struct conf_table log_table = CONF_TABLE_INIT("log", struct config_log, log_items);

static const struct conf_item steering_items[] = {
	{ "divert_device", CONF_STRING, AT(config_steering, divert_device), .reload = CONF_RESTART, .dflt = "dvt0", .doc = "Device by which diverted packets enter the stack." },
	{ "mark_base", CONF_UINT, AT(config_steering, mark_base), .reload = CONF_RESTART, .min = 16, .max = 0xfffffff0u, .dflt = "23296",
	  .doc = "First of 16 packet marks; a multiple of 16." },
	{ "rule_preference", CONF_UINT, AT(config_steering, rule_preference), .reload = CONF_RESTART, .min = 1, .max = 32000, .dflt = "5100", .doc = "First of 32 rule preferences." },
	{ "table", CONF_UINT, AT(config_steering, table), .reload = CONF_RESTART, .min = 1, .max = 0xfffffff0u, .dflt = "5101", .doc = "First routing table." },
	{ "pin_dir", CONF_STRING, AT(config_steering, pin_dir), .reload = CONF_RESTART, .dflt = "/sys/fs/bpf/outrigger",
	  .doc = "Where steering is pinned, so that it outlives the agent; empty: nowhere." },
	{ "worker_uid", CONF_UINT, AT(config_steering, worker_uid), .reload = CONF_RESTART, .min = 1, .max = 0x7fffffff, .dflt = "60999", .doc = "User and group of the agent's worker." },
	{ "proxy_uid_base", CONF_UINT, AT(config_steering, proxy_uid_base), .reload = CONF_RESTART, .min = 1, .max = 0x7fffffff, .dflt = "61000",
	  .doc = "User and group of the first proxy process; each has its own." },
	{ "ring_bytes", CONF_SIZE, AT(config_steering, ring_bytes), .reload = CONF_RESTART, .min = 65536, .max = 1 << 30, .dflt = "8MiB", .doc = "Capture ring; a power of two." },
	{ "max_vms", CONF_UINT, AT(config_steering, max_vms), .reload = CONF_RESTART, .min = 2, .max = 4096, .dflt = "1024", .doc = "VM slots." },
	{ "force_clsact", CONF_BOOL, AT(config_steering, force_clsact), .reload = CONF_RESTART, .dflt = "false", .doc = "Do not try TCX." },
};

static int check_steering(const void *obj, const char *file, unsigned line, struct diag *d)
{
	const struct config_steering *s = obj;

	if (s->mark_base % 16)
		return diag_at(d, file, line, "steering: mark_base must be a multiple of 16");
	if (s->ring_bytes & (s->ring_bytes - 1))
		return diag_at(d, file, line, "steering: ring_bytes must be a power of two");
	if (strlen(s->divert_device) >= IF_NAMESIZE - 1 || strlen(s->pin_dir) >= sizeof(((struct steer_conf *)0)->pin_dir))
		return diag_at(d, file, line, "steering: divert_device or pin_dir is too long");
	return 0;
}
static const struct conf_table steering_table = CONF_TABLE_INIT("steering", struct config_steering, steering_items, .check = check_steering);

/* Filled from the protocol table, see config_table(). */
static struct conf_item discovery_items[CONFIG_MAX_PROTOCOLS];
static struct conf_table discovery_table = { .name = "discovery", .size = sizeof(struct config_discovery), .items = discovery_items };

static const struct conf_item items[] = {
	{ "nic", CONF_STRING, AT(config, nic), .reload = CONF_RESTART, .required = true, .check = check_nic, .doc = "The name of this NIC: unique in the mesh." },
	{ "controller", CONF_SUB, AT(config, controller), .sub = &controller_table, .doc = "Who provisions this agent." },
	{ "ports", CONF_LIST, AT(config, ports), .reload = CONF_RESTART, .sub = &port_table, .max = 32, .doc = "VM ports, as they come and go." },
	{ "uplinks", CONF_STRINGS, AT(config, uplinks), .reload = CONF_RESTART, .max = 8, .doc = "Devices towards the network. They are watched untagged and with the tags of `ports`." },
	{ "guests", CONF_LIST, AT(config, guests), .sub = &guest_table, .max = 4096, .doc = "What is known of guests beforehand. The first entry that fits counts." },
	{ "discovery", CONF_SUB, AT(config, discovery), .sub = &discovery_table,
	  .doc = "Ports where registries listen, beside the protocols' own, by protocol." },
	{ "registries", CONF_LIST, AT(config, registries), .sub = &registry_table, .max = 64,
	  .doc = "Registries to look services up in. Without one for a protocol, the one that the registration went to is asked." },
	{ "limits", CONF_SUB, AT(config, limits), .sub = &limits_table, .doc = "How much the agent keeps." },
	{ "probe", CONF_SUB, AT(config, probe), .sub = &probe_table, .doc = "Probes: for the verdict, and whether a service still answers." },
	{ "proxy", CONF_SUB, AT(config, proxy), .sub = &proxy_table, .doc = "The service proxies." },
	{ "log", CONF_SUB, AT(config, log), .sub = &log_table, .doc = "The agent's and its proxies' log, on standard error." },
	{ "steering", CONF_SUB, AT(config, steering), .sub = &steering_table, .doc = "What interception takes for itself. Change it only where it collides with something." },
	{ "state_dir", CONF_STRING, AT(config, state_dir), .reload = CONF_RESTART, .dflt = "/var/lib/outrigger/agent", .check = check_absolute, .doc = "What a restart needs." },
	{ "run_dir", CONF_STRING, AT(config, run_dir), .reload = CONF_RESTART, .dflt = "/run/outrigger", .check = check_absolute, .doc = "Sockets." },
	{ "metrics", CONF_IP_PORT, AT(config, metrics), .reload = CONF_RESTART, .dflt = "127.0.0.1:15020", .doc = "Where /metrics is served, with those of the proxies." },
};
static const struct conf_table table = CONF_TABLE_INIT("agent.yaml", struct config, items,
						       .doc = "The mesh agent's configuration, /etc/outrigger/agent.yaml. It is read when the agent starts, and "
						       "again at SIGHUP or when `POST /v1/reload` asks its socket to.");

const struct conf_table *config_table(void)
{
	for (size_t i = 0; i < n_discover_protocols && i < CONFIG_MAX_PROTOCOLS; i++)
		discovery_items[i] = (struct conf_item){
			discover_protocols[i]->name, CONF_UINTS, i * sizeof(struct conf_uints), .min = 1, .max = 65535,
			.reload = CONF_RESTART, .doc = "Further ports of this protocol.",
		};
	discovery_table.n_items = MIN(n_discover_protocols, (size_t)CONFIG_MAX_PROTOCOLS);
	return &table;
}

int config_load(const char *path, struct config *ret_config, struct diag *reterr_diag)
{
	return conf_load(config_table(), path, ret_config, reterr_diag);
}

int config_parse(const char *file, const char *text, size_t len, struct config *ret_config, struct diag *reterr_diag)
{
	return conf_parse(config_table(), file, text, len, ret_config, reterr_diag);
}

void config_free(struct config *c)
{
	conf_free(config_table(), c);
}

/* --- for others --- */

static int rule_fill(const struct config_guest *g, struct guest_rule *r)
{
	struct ip *addresses = calloc(g->addresses.n ? g->addresses.n : 1, sizeof(*addresses));

	if (!addresses)
		return -ENOMEM;
	*r = (struct guest_rule){
		.port = g->port, .vlan = g->vlan == CONFIG_ANY_VLAN ? -1 : (int)g->vlan, .name = g->name,
		.prefixes = g->may_have.v, .n_prefixes = g->may_have.n, .addresses = addresses, .n_addresses = g->addresses.n,
	};
	memcpy(r->mac, g->mac.b, sizeof(r->mac));
	for (size_t i = 0; i < g->addresses.n; i++)
		if (ip_parse(g->addresses.v[i], &addresses[i]) < 0)
			r->n_addresses = i;	/* check_guest() lets none such pass */
	return 0;
}

void config_rules_free(struct guest_rule *rules, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free((struct ip *)(uintptr_t)rules[i].addresses);
	free(rules);
}

int config_rules(const struct config *c, struct guest_rule **ret_rules, size_t *ret_n)
{
	const struct config_guest *guests = c->guests.v;
	struct guest_rule *rules = calloc(c->guests.n ? c->guests.n : 1, sizeof(*rules));

	if (!rules)
		return -ENOMEM;
	for (size_t i = 0; i < c->guests.n; i++)
		if (rule_fill(&guests[i], &rules[i]) < 0) {
			config_rules_free(rules, i);
			return -ENOMEM;
		}
	*ret_rules = rules;
	*ret_n = c->guests.n;
	return 0;
}

void config_steer(const struct config *c, struct steer_conf *ret_steer)
{
	struct steer_conf s;

	steer_conf_init(&s);
	snprintf(s.divert_dev, sizeof(s.divert_dev), "%s", c->steering.divert_device);
	snprintf(s.pin_dir, sizeof(s.pin_dir), "%s", c->steering.pin_dir);
	if (c->proxy.path)
		snprintf(s.proxy_path, sizeof(s.proxy_path), "%s", c->proxy.path);
	snprintf(s.proxies_dir, sizeof(s.proxies_dir), "%s/proxies", c->run_dir);
	s.mark_base = c->steering.mark_base;
	s.rule_pref = c->steering.rule_preference;
	s.table_local = c->steering.table;
	s.table_divert = c->steering.table + 1;
	s.table_same_nic = c->steering.table + 9;
	s.worker_uid = c->steering.worker_uid;
	s.worker_gid = c->steering.worker_uid;
	s.proxy_uid_base = c->steering.proxy_uid_base;
	s.ring_bytes = (uint32_t)c->steering.ring_bytes;
	s.sniff_bytes_per_s = (uint32_t)c->limits.sniffed_bytes;
	s.max_vms = c->steering.max_vms;
	s.force_clsact = c->steering.force_clsact;
	if (c->proxy.access_log && *c->proxy.access_log && strcmp(c->proxy.access_log, "stderr"))
		s.access_log = c->proxy.access_log;
	for (size_t i = 0; i < c->ports.n && i < ELEMENTS(s.vm_ports); i++) {
		const struct config_port *p = &((const struct config_port *)c->ports.v)[i];

		s.vm_ports[s.n_vm_ports++] = p->match;
		if (p->out)
			s.outs[s.n_outs++] = p->out;
	}
	for (size_t i = 0; i < c->uplinks.n && i < ELEMENTS(s.uplinks); i++)
		s.uplinks[s.n_uplinks++] = c->uplinks.v[i];
	*ret_steer = s;
}

/*
 * Ports of VMs: from netlink's devices to the monitor's ports and slots.
 */
#include "agent/places.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/state.h"
#include "base/bytes.h"
#include "base/glob.h"
#include "base/log.h"

/* --- slots --- */

enum { STATE_VERSION = 1, SLOT_TAKEN = 1, SLOT_KEPT = 2 };
static const char state_file[] = "places";

/* The slot that the same port had before a restart, else the first that is free. */
static uint32_t slot_take(struct places *ps, const char *port, uint16_t vlan, bool *ret_kept)
{
	for (size_t i = 0; i < ps->n_kept; i++) {
		const struct kept_place *k = &ps->kept[i];

		if (k->vlan == vlan && !strcmp(k->port, port) && ps->slots[k->slot] == SLOT_KEPT) {
			ps->slots[k->slot] = SLOT_TAKEN;
			*ret_kept = true;
			return k->slot;
		}
	}
	for (uint32_t i = 1; i < ps->n_slots; i++)
		if (!ps->slots[i]) {
			ps->slots[i] = SLOT_TAKEN;
			return i;
		}
	return 0;
}

/* "<port> <vlan> <slot>" a line: so that a successor takes over what is pinned. */
static void places_save(struct places *ps)
{
	struct bytes text;
	int r = 0;

	bytes_init(&text, 1 << 20);
	list_for_each(l, &ps->places) {
		const struct place *p = list_entry(l, struct place, link);

		if (r == 0)
			r = bytes_appendf(&text, "%s %u %u\n", p->port, p->vlan, p->slot);
	}
	if (r == 0)
		r = state_save(ps->conf->state_dir, state_file, STATE_VERSION, text.len ? text.data : (const uint8_t *)"", text.len, 0600);
	bytes_deinit(&text);
	state_note(&ps->unsaved, state_file, "a restart interrupts connections", r);
}

void places_save_again(struct places *ps)
{
	if (ps->unsaved)
		places_save(ps);
}

static int places_load(struct places *ps)
{
	CLEANUP_FREE void *data = NULL;
	char *line, *rest;
	size_t len;
	int r = state_load(ps->conf->state_dir, state_file, STATE_VERSION, &data, &len);

	if (r < 0)
		return r == -ENOMEM ? r : 0;
	ps->kept = calloc(ps->n_slots, sizeof(*ps->kept));
	if (!ps->kept)
		return -ENOMEM;
	for (line = strtok_r(data, "\n", &rest); line && ps->n_kept < ps->n_slots; line = strtok_r(NULL, "\n", &rest)) {
		struct kept_place k = {};
		unsigned vlan;

		if (sscanf(line, "%15s %u %u", k.port, &vlan, &k.slot) != 3 || vlan > 4094 || !k.slot || k.slot >= ps->n_slots)
			continue;
		k.vlan = (uint16_t)vlan;
		ps->slots[k.slot] = SLOT_KEPT;
		ps->kept[ps->n_kept++] = k;
	}
	return 0;
}

void places_drop_kept(struct places *ps)
{
	for (uint32_t i = 1; i < ps->n_slots; i++)
		if (ps->slots[i] == SLOT_KEPT) {
			ps->slots[i] = 0;
			if (monitor_vm_clear(ps->monitor, i) < 0)
				ps->n_failed++;
		}
	ps->n_kept = 0;
}

struct place *places_by_slot(const struct places *ps, uint32_t slot)
{
	list_for_each(l, &ps->places) {
		struct place *p = list_entry(l, struct place, link);

		if (p->slot == slot)
			return p;
	}
	return NULL;
}

struct place *places_by_link(const struct places *ps, const struct guest_link *link)
{
	list_for_each(l, &ps->places) {
		struct place *p = list_entry(l, struct place, link);

		if (p->vlan == link->vlan && !strcmp(p->port, link->port))
			return p;
	}
	return NULL;
}

/* --- topology --- */

static bool is_uplink(const struct places *ps, const char *name)
{
	for (size_t i = 0; i < ps->conf->uplinks.n; i++)
		if (!strcmp(ps->conf->uplinks.v[i], name))
			return true;
	return false;
}

static enum monitor_topology topology_of(const struct config_port *conf, const struct port_info *info)
{
	switch (conf->topology) {
	case CONFIG_TOPOLOGY_ROUTED:
		return MONITOR_ROUTED;
	case CONFIG_TOPOLOGY_BRIDGE:
		return MONITOR_BRIDGE;
	case CONFIG_TOPOLOGY_OVS:
		return MONITOR_OVS;
	default:
		break;
	}
	if (!info->master)
		return MONITOR_ROUTED;
	return !strcmp(info->master_kind, "bridge") ? MONITOR_BRIDGE : MONITOR_OVS;
}

static uint32_t out_of(const struct places *ps, const struct config_port *conf, const struct port_info *info, enum monitor_topology t)
{
	const char *name = conf->out;
	const struct port_info *out;

	if (!name && t == MONITOR_BRIDGE)
		return info->master;
	if (!name && ps->conf->uplinks.n)
		name = ps->conf->uplinks.v[0];
	if (t == MONITOR_ROUTED || !name)
		return 0;
	out = ports_find_name(ps->ports, name);
	return out ? out->ifindex : 0;
}

static int attach(struct places *ps, struct place *p, const struct port_info *info)
{
	struct monitor_port port = {
		.ifindex = info->ifindex, .vlan = p->vlan, .role = MONITOR_ROLE_VM, .vm = p->slot,
		.flags = MONITOR_PORT_LEARN | (p->conf->drop_spoofed ? MONITOR_PORT_DROP_SPOOFED : 0),
	};
	int r;

	port.topology = topology_of(p->conf, info);
	p->bridged = port.topology != MONITOR_ROUTED;
	port.out_ifindex = out_of(ps, p->conf, info, port.topology);
	port.out_vlan = port.topology == MONITOR_ROUTED ? 0 : (uint16_t)p->conf->out_vlan;
	r = monitor_port_add(ps->monitor, &port);
	if (r < 0) {
		ps->n_failed++;
		log_error("port could not be attached", log_str("port", p->port), log_int("vlan", p->vlan), log_errno(r));
	}
	return r;
}

static void attach_uplink(struct places *ps, const struct port_info *info, uint16_t vlan)
{
	struct monitor_port port = { .ifindex = info->ifindex, .vlan = vlan, .role = MONITOR_ROLE_UPLINK };
	int r;

	port.topology = !info->master ? MONITOR_ROUTED : !strcmp(info->master_kind, "bridge") ? MONITOR_BRIDGE : MONITOR_OVS;
	r = monitor_port_add(ps->monitor, &port);
	if (r < 0) {
		ps->n_failed++;
		log_error("uplink could not be attached", log_str("port", info->name), log_int("vlan", vlan), log_errno(r));
	} else {
		log_info("uplink attached", log_str("port", info->name), log_int("vlan", vlan));
	}
}

static bool has_vlan(const struct places *ps, uint16_t vlan)
{
	return ps->uplink_vlans[vlan / 8] & 1 << vlan % 8;
}

static void attach_uplink_vlans(struct places *ps, const struct port_info *info)
{
	for (unsigned vlan = 0; vlan < 4095; vlan++)
		if (!vlan || has_vlan(ps, (uint16_t)vlan))
			attach_uplink(ps, info, (uint16_t)vlan);
}

/* There are VMs behind that tag: what comes to them by an uplink has it, too. */
static void want_uplink_vlan(struct places *ps, uint16_t vlan)
{
	if (!vlan || has_vlan(ps, vlan))
		return;
	ps->uplink_vlans[vlan / 8] |= (uint8_t)(1 << vlan % 8);
	for (size_t i = 0; i < ps->conf->uplinks.n; i++) {
		const struct port_info *info = ports_find_name(ps->ports, ps->conf->uplinks.v[i]);

		if (info)
			attach_uplink(ps, info, vlan);
	}
}

/* --- devices come and go --- */

static const struct config_port *conf_of(const struct places *ps, const char *name)
{
	const struct config_port *ports = ps->conf->ports.v;

	for (size_t i = 0; i < ps->conf->ports.n; i++)
		if (glob_match(ports[i].match, name))
			return &ports[i];
	return NULL;
}

static void place_down(struct places *ps, struct place *p, const char *reason)
{
	if (!p->up)
		return;
	p->up = false;
	log_info("port is down", log_str("port", p->port), log_int("vlan", p->vlan), log_str("reason", reason));
	ps->events.down(p, reason, ps->events.data);
}

static void place_update(struct places *ps, struct place *p, const struct port_info *info)
{
	bool up = info->up && info->carrier;

	p->attached = attach(ps, p, info) == 0;
	if (!up) {
		place_down(ps, p, "port down");
	} else if (!p->up && p->attached) {
		p->up = true;
		log_info("port is up", log_str("port", p->port), log_int("vlan", p->vlan), log_int("vm", p->slot));
		ps->events.up(p, ps->events.data);
	}
}

static void place_new(struct places *ps, const struct config_port *conf, const struct port_info *info, uint16_t vlan)
{
	struct place *p = calloc(1, sizeof(*p));
	bool kept = false;
	uint32_t slot = p ? slot_take(ps, info->name, vlan, &kept) : 0;

	if (!slot) {
		ps->n_failed++;
		log_error("no room for another port", log_str("port", info->name), log_int("max_vms", ps->n_slots));
		free(p);
		return;
	}
	*p = (struct place){ .ifindex = info->ifindex, .vlan = vlan, .slot = slot, .conf = conf };
	snprintf(p->port, sizeof(p->port), "%s", info->name);
	list_append(&ps->places, &p->link);
	/* What a predecessor left in this slot is only good for the same port. */
	if (!kept && monitor_vm_clear(ps->monitor, slot) < 0)
		ps->n_failed++;
	places_save(ps);
	want_uplink_vlan(ps, vlan);
	want_uplink_vlan(ps, (uint16_t)conf->out_vlan);
	place_update(ps, p, info);
}

static void place_gone(struct places *ps, struct place *p)
{
	place_down(ps, p, "port removed");
	if (monitor_port_remove(ps->monitor, p->ifindex, p->vlan) < 0 || monitor_vm_clear(ps->monitor, p->slot) < 0)
		ps->n_failed++;
	ps->slots[p->slot] = 0;
	list_unlink(&p->link);
	free(p);
	places_save(ps);
}

static bool known(struct places *ps, const struct port_info *info, bool gone)
{
	bool found = false;

	list_for_each_safe(l, &ps->places) {
		struct place *p = list_entry(l, struct place, link);

		if (p->ifindex != info->ifindex)
			continue;
		found = true;
		if (gone)
			place_gone(ps, p);
		else
			place_update(ps, p, info);
	}
	return found;
}

static void on_port(enum ports_event event, const struct port_info *info, void *data)
{
	struct places *ps = data;
	const struct config_port *conf = conf_of(ps, info->name);

	if (is_uplink(ps, info->name)) {
		if (event == PORTS_NEW)
			attach_uplink_vlans(ps, info);
		return;
	}
	if (known(ps, info, event == PORTS_GONE) || event == PORTS_GONE || !conf)
		return;
	if (!conf->vlans.n)
		place_new(ps, conf, info, 0);
	for (size_t i = 0; i < conf->vlans.n; i++)
		place_new(ps, conf, info, (uint16_t)conf->vlans.v[i]);
}

/* --- life --- */

int places_init(struct places *ps, struct loop *l, const struct config *conf, struct monitor_client *monitor, bool adopted,
		const struct places_events *events)
{
	const struct config_port *ports = conf->ports.v;
	const char *patterns[PORTS_MAX_PATTERNS];
	size_t n = 0;
	int r;

	*ps = (struct places){ .loop = l, .conf = conf, .monitor = monitor, .events = *events, .n_slots = conf->steering.max_vms };
	list_init(&ps->places);
	ps->slots = calloc(ps->n_slots, 1);
	r = ps->slots ? 0 : -ENOMEM;
	if (r == 0 && adopted)
		r = places_load(ps);
	if (r < 0)
		return r;
	for (size_t i = 0; i < conf->uplinks.n && n < ELEMENTS(patterns); i++)
		patterns[n++] = conf->uplinks.v[i];
	for (size_t i = 0; i < conf->ports.n && n < ELEMENTS(patterns); i++)
		patterns[n++] = ports[i].match;
	return ports_new(l, patterns, n, on_port, ps, &ps->ports);
}

void places_address(struct places *ps, struct place *p, const uint8_t mac[6], const struct ip *ip, bool add)
{
	int r = add ? monitor_address_add(ps->monitor, p->slot, ip, mac) : monitor_address_remove(ps->monitor, p->slot, ip);

	if (r < 0 && r != -ENOENT) {
		ps->n_failed++;
		LOG_LIMITED(LOG_L_WARN, "the monitor refuses an address", log_str("port", p->port), log_ip("address", ip), log_errno(r));
	}
}

static int add_behind(void *data, const struct monitor_divert *d)
{
	struct places *ps = data;
	int r = monitor_divert_add(ps->monitor, d);

	if (r == 0 || r == -EPIPE)
		return r;
	ps->n_failed++;
	LOG_LIMITED(LOG_L_WARN, "the monitor refuses addresses behind a VM", log_ip("address", &d->dst.ip), log_int("bits", d->dst.len), log_errno(r));
	return 0;
}

static int remove_behind(void *data, const struct monitor_divert *d)
{
	int r = monitor_divert_remove(((struct places *)data)->monitor, d);

	return r == -ENOENT ? 0 : r;	/* it was refused, or settled */
}

void places_behind(struct places *ps, struct place *p, struct diverts *known, const struct ip_prefix *prefixes, size_t n)
{
	struct diverts now;
	int r = diverts_behind(p->slot, prefixes, n, &now);

	if (r < 0) {
		LOG_LIMITED(LOG_L_ERROR, "what is behind a VM is not told to the monitor", log_str("port", p->port), log_errno(r));
		return;
	}
	r = diverts_change(known, &now, add_behind, remove_behind, ps);
	if (r < 0)
		ps->n_failed++;
	diverts_deinit(known);
	*known = now;
}

#pragma once
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/list.h"
#include "base/map.h"

/*
 * Guests: who sits behind which port, and for which addresses he speaks.
 *
 * A guest is a MAC on a port (and VLAN). Its addresses come from what it says of
 * itself (ARP, neighbour discovery), what a DHCP server gave it, and, as long as
 * nothing better is known, from the source of its packets. The first owner of
 * an address keeps it until he is gone or silent for the address's lifetime: a
 * neighbour who says the same is counted and not believed.
 *
 * Pure state: no I/O, no log; time is handed in (monotonic milliseconds). Not
 * thread-safe.
 */
enum {
	GUEST_ID_LEN = 128,		/* "<nic>/<port>[.<vlan>]/<mac>", with the zero */
	GUEST_NAME_LEN = 64,
	GUEST_MAX_ADDRESSES = 16,	/* of one guest; the stalest link-local one makes room */
	GUEST_MAC_TEXT_LEN = 18,
	GUEST_MAX_AWAY = 16,		/* that have just moved; the oldest makes room */
};

enum {
	_GUEST_E_SUCCESS,

	GUEST_E_REFUSED,	/* not an address that a guest of this port may have */
	GUEST_E_CONFLICT,	/* somebody else's: he keeps it */
	GUEST_E_FULL,		/* too many guests on this port or NIC, or addresses of this guest */
	GUEST_E_IGNORED,	/* weaker than what is known; the guest itself is in ret_guest */
};

/* In the order of trust. */
enum guest_source {
	GUEST_BY_TRAFFIC,	/* source address of a packet: believed only while nothing better is known */
	GUEST_BY_ND,
	GUEST_BY_ARP,
	GUEST_BY_DHCP,		/* given by a DHCP server's answer to this MAC */
	GUEST_BY_CONFIG,	/* written in agent.yaml: never expires */
	_GUEST_SOURCE_N
};

/* What agent.yaml says about some guests. The first rule that matches a guest counts. */
struct guest_rule {
	const char *port;		/* glob, NULL: any */
	int vlan;			/* -1: any */
	uint8_t mac[6];			/* all zeros: any */
	const char *name;		/* may be NULL */
	const struct ip_prefix *prefixes;	/* addresses that it may have; none: any */
	size_t n_prefixes;
	const struct ip *addresses;	/* it has these from the start, without a word from it */
	size_t n_addresses;
};

struct guest_limits {
	uint32_t per_nic;		/* guests */
	uint32_t per_port;
	uint64_t address_ms;		/* lifetime of an address after its last sign of life */
};

struct guest_link {			/* where a frame came from, or went to */
	char port[IF_NAMESIZE];
	uint16_t vlan;			/* 0: untagged */
	uint8_t mac[6];
};

struct catalog_guest;

struct guest_sighting {
	struct guest_link link;
	struct ip ip;
	enum guest_source source;
	uint64_t lifetime_ms;		/* 0: guest_limits.address_ms; a DHCP lease has its own */
};

struct guest_address {
	struct map_link by_ip;		/* of the table */
	struct guest *guest;
	struct ip ip;
	enum guest_source source;
	uint64_t seen_ms;
	uint64_t until_ms;		/* UINT64_MAX: for ever */
};

struct guest {
	struct map_link by_id;		/* of the table */
	char id[GUEST_ID_LEN];
	struct guest_link link;
	char name[GUEST_NAME_LEN];	/* may be empty */
	const struct guest_rule *rule;	/* may be NULL */

	struct guest_address *addresses[GUEST_MAX_ADDRESSES];
	size_t n_addresses;

	uint64_t first_seen_ms;
	uint64_t last_seen_ms;
	uint64_t n_refused;		/* addresses that it may not have */
	uint64_t n_conflicts;		/* addresses of others */

	void *user;			/* of the agent */
	struct catalog_guest *catalog;	/* of the catalog */
};

/* Called while the guest is whole; a guest that is gone is freed afterwards. */
struct guest_events {
	void (*changed)(struct guest *g, void *data);	/* it is new, or its addresses are others */
	void (*gone)(struct guest *g, const char *reason, void *data);
	void *data;
};

struct guest_table {
	const char *nic;
	const struct guest_rule *rules;
	size_t n_rules;
	struct guest_limits limits;
	struct guest_events events;

	struct ip *ours;		/* the NIC's own addresses: no guest has them */
	size_t n_ours;

	struct map by_id;		/* struct guest.by_id */
	struct map by_ip;		/* struct guest_address.by_ip */
	uint64_t n_full;		/* sightings refused for want of room */

	struct guest_away {
		struct guest_link link;
		uint64_t until_ms;
	} away[GUEST_MAX_AWAY];
	size_t next_away;
};

/* @rules and @nic are borrowed for the table's life. */
void guest_table_init(struct guest_table *t, const char *nic, const struct guest_rule *rules, size_t n_rules,
		      const struct guest_limits *limits, const struct guest_events *events);
void guest_table_deinit(struct guest_table *t);	/* calls no event */

/*
 * Other rules and limits: guests get other names, and lose addresses that they
 * may not have any more. @rules is borrowed; the old one is not used any more.
 */
void guest_table_change(struct guest_table *t, const struct guest_rule *rules, size_t n_rules, const struct guest_limits *limits);

/*
 * The NIC's own addresses, all of them: no guest gets one, however it says so,
 * and who has one loses it. Link-local ones may be on both ends of different
 * links, and do not count. @ips is copied. -ENOMEM: what was said before counts.
 */
MUST_CHECK int guest_table_ours(struct guest_table *t, const struct ip *ips, size_t n);

bool guest_table_is_ours(const struct guest_table *t, const struct ip *ip);

/*
 * Takes notice of a guest and of one address of his. @ret_guest is written with
 * 0 and with every GUEST_E_* while there is a guest (else NULL). -ENOMEM.
 */
MUST_CHECK int guest_learn(struct guest_table *t, const struct guest_sighting *s, uint64_t now_ms, struct guest **ret_guest);

/* Makes the guests that agent.yaml names with port, MAC and addresses known when their port comes up. -ENOMEM, GUEST_E_FULL. */
MUST_CHECK int guest_port_up(struct guest_table *t, const char *port, uint64_t now_ms);
/* All guests of the port, with every VLAN, are gone. */
void guest_port_down(struct guest_table *t, const char *port, const char *reason);

/* The guest is gone, and what still comes from it until @until_ms is not heard, unless its port comes up anew. */
void guest_moved(struct guest_table *t, struct guest *g, const char *reason, uint64_t until_ms);

/* The guest lives: its addresses are good for another lifetime. */
void guest_touch(struct guest_table *t, struct guest *g, uint64_t now_ms);
/* Ends what was not seen for its lifetime. */
void guest_expire(struct guest_table *t, uint64_t now_ms);

struct guest *guest_by_id(const struct guest_table *t, const char *id);
struct guest *guest_by_ip(const struct guest_table *t, const struct ip *ip);
struct guest *guest_by_link(const struct guest_table *t, const struct guest_link *link);
bool guest_owns(const struct guest *g, const struct ip *ip);
/* The address for a service whose registration names none: the first that is not link-local; none: all zeros. */
struct ip guest_primary_ip(const struct guest *g, bool v6);

const char *guest_source_name(enum guest_source source);
const char *guest_mac_format(const uint8_t mac[6], char text[static GUEST_MAC_TEXT_LEN]);

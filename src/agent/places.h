#pragma once
#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/budgets.h"
#include "agent/config.h"
#include "agent/diverts.h"
#include "agent/guest.h"
#include "agent/monitor_client.h"
#include "agent/ports.h"
#include "base/defs.h"
#include "base/ip.h"
#include "base/list.h"
#include "base/loop.h"

/*
 * Places: where a VM can stand. A place is a port (and VLAN) with a VM slot of
 * the monitor's; its addresses are those of the guests there.
 *
 * Follows the devices as they come and go, and keeps the monitor's tables like
 * the guests' addresses.
 */
struct place {
	struct list link;		/* places.places */
	char port[IF_NAMESIZE];
	uint32_t ifindex;
	uint16_t vlan;
	uint32_t slot;
	bool up;			/* and somebody at the other end */
	bool attached;
	bool bridged;			/* on a bridge or switch, not routed */
	const struct config_port *conf;
	struct guest_budgets budgets;
	const char *guest_id;		/* who has the place's listeners; borrowed; NULL: nobody */
};

struct places_events {
	void (*up)(struct place *p, void *data);
	void (*down)(struct place *p, const char *reason, void *data);
	void *data;
};

struct kept_place {			/* of a predecessor */
	char port[IF_NAMESIZE];
	uint16_t vlan;
	uint32_t slot;
};

struct places {
	struct loop *loop;
	const struct config *conf;
	struct monitor_client *monitor;
	struct places_events events;
	struct ports *ports;
	struct list places;
	uint8_t *slots;			/* taken or not; [0] is no slot */
	uint32_t n_slots;
	struct kept_place *kept;
	size_t n_kept;
	uint8_t uplink_vlans[4096 / 8];	/* bits: tags besides none that uplinks are watched for */
	uint64_t n_failed;		/* what the monitor refused */
	bool unsaved;			/* the slots, for a successor */
};

/*
 * Reads the devices there are and calls events for them. @adopted: steering of a
 * predecessor is in force, so ports get the slots back that they had.
 */
MUST_CHECK int places_init(struct places *ps, struct loop *l, const struct config *conf, struct monitor_client *monitor, bool adopted,
			   const struct places_events *events);
/* Slots of the predecessor whose ports have not come back are free now. */
void places_drop_kept(struct places *ps);
/* The slots, if they could not be written to disk. */
void places_save_again(struct places *ps);

struct place *places_by_slot(const struct places *ps, uint32_t slot);
struct place *places_by_link(const struct places *ps, const struct guest_link *link);

/* The guest there may speak for @ip, or may not any more. */
void places_address(struct places *ps, struct place *p, const uint8_t mac[6], const struct ip *ip, bool add);
/* These are behind the guest there, and nothing else. @known is what was said last, and becomes what is said now. */
void places_behind(struct places *ps, struct place *p, struct diverts *known, const struct ip_prefix *prefixes, size_t n);

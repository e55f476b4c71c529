#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/guest.h"
#include "base/defs.h"
#include "base/ip.h"
#include "base/list.h"
#include "base/map.h"
#include "base/pace.h"
#include "discover/observation.h"

/*
 * The catalog: what the guests offer, look for and were told.
 *
 * A claim says: service S is offered at A:P by guest G until T. There is one for
 * each instance, however many protocols spoke of it: each is a source of the
 * claim with a lifetime of its own, and the claim ends with its last source. A
 * guest claims for its own addresses. What it registers for others is refused,
 * counted and kept as knowledge; for an address that nobody has been seen with
 * it waits for the guest to be seen with it.
 *
 * Everything is bounded per guest, so that a guest can only crowd out itself.
 * Pure state: no I/O, no log; time is handed in (CLOCK_MONOTONIC). Not thread-safe.
 */
enum {
	CATALOG_MAX_CLAIMS = 64,	/* of one guest */
	CATALOG_MAX_SOURCES = 4,	/* of one claim */
	CATALOG_MAX_METADATA = 16,	/* of one claim */
	CATALOG_MAX_LOOKUPS = 64,	/* services that one guest looked for: the stalest makes room */
	CATALOG_MAX_REFUSALS = 16,	/* of one guest that are kept for people; all are counted */
	CATALOG_MAX_WAITING = 8,	/* registrations of one guest that wait: the stalest makes room */
	CATALOG_CLAIMS_BURST = 2 * CATALOG_MAX_CLAIMS,	/* new ones at once, before they come at catalog.claims_per_s */
	CATALOG_MAX_HINTS = 256,	/* that one guest's exchanges taught: the stalest makes room */
	CATALOG_MAX_SERVICE_LEN = 253,	/* a DNS name's */
};

enum {
	_CATALOG_E_SUCCESS,

	CATALOG_E_REFUSED,	/* not the guest's to claim, or no usable claim: kept in its refusals */
	CATALOG_E_UNPROVEN,	/* likewise; a claim as soon as the guest is seen to own the address */
	CATALOG_E_PACED,	/* too many new claims in this second; a claim by and by, unless it says something newer */
	CATALOG_E_SHORT,	/* there was no memory for it; a claim when there is */
	CATALOG_E_FULL,		/* the guest has as many claims as it may */
	CATALOG_E_IGNORED,	/* about nothing that is known (a deregistration, a renewal) */
};

struct claim_source {
	const char *protocol;		/* of the protocol table */
	char *instance;			/* the registry's id, or NULL */
	struct ip_port registry;	/* none: multicast */
	enum observation_health health;
	uint32_t ttl_s;			/* as announced; 0: none */
	uint64_t until_ms;		/* UINT64_MAX: until it is withdrawn */
	uint64_t first_frame;
	uint64_t first_ns;		/* CLOCK_MONOTONIC of the packet */
	uint64_t last_frame;
	uint64_t last_ns;
	uint64_t n_seen;
};

struct claim_meta {
	char *key;
	char *value;
};

struct claim {
	struct list link;		/* catalog_guest.claims */
	struct catalog_guest *owner;

	char *service;
	struct ip address;
	uint16_t port;			/* never 0 */
	bool udp;
	bool behind;			/* the address is not the guest's, but packets of it came out of the guest */
	char *app_protocol;		/* or NULL */
	struct claim_meta metadata[CATALOG_MAX_METADATA];	/* of the last register */
	size_t n_metadata;
	struct claim_source sources[CATALOG_MAX_SOURCES];
	size_t n_sources;

	/* The stages, CLOCK_MONOTONIC nanoseconds; 0: not reached. The agent fills in what follows the claim. */
	uint64_t packet_ns;
	uint64_t claimed_ns;
	uint64_t decided_ns;
	int64_t first_seen_wall_ms;

	bool silent;			/* its probe says: nobody answers there any more */
	void *user;			/* of the agent */
};

struct lookup {				/* a service that a guest asked for */
	char *service;
	const char *protocol;
	struct ip_port registry;
	uint64_t n;
	uint64_t first_ns, last_ns;
	uint64_t last_frame;
};

struct refusal {
	char *service;
	struct ip_port at;
	const char *protocol;
	const char *why;		/* constant text */
	uint64_t frame;
	uint64_t last_ns;
	uint64_t n;
};

struct waiting {			/* a registration that is no claim yet */
	struct observation o;		/* texts and metadata are its own */
	bool for_address;		/* nobody has been seen with it; else for its turn, or memory */
	struct observation_meta metadata[CATALOG_MAX_METADATA];
	uint64_t until_ns;		/* CLOCK_MONOTONIC; UINT64_MAX: as long as the guest is there */
};

struct hint {				/* what a registry's answer, or a registrar, said of an address */
	struct map_link by_addr;	/* catalog.hints */
	struct list link;		/* catalog_guest.hints, stalest first */
	struct catalog_guest *owner;
	struct ip_port at;
	char *service;
	const char *protocol;
	struct ip_port registry;
	bool registered;		/* by a registrar on behalf of it, else from an answer */
	uint64_t last_ns;
	uint64_t frame;
};

struct catalog_guest {			/* what the catalog keeps of one guest */
	struct guest *guest;
	struct list link;		/* catalog.guests */
	struct list claims;
	size_t n_claims;
	struct lookup lookups[CATALOG_MAX_LOOKUPS];
	size_t n_lookups;
	struct refusal refusals[CATALOG_MAX_REFUSALS];
	size_t n_refusals;
	struct waiting waiting[CATALOG_MAX_WAITING];	/* stalest first */
	size_t n_waiting;
	struct list hints;
	size_t n_hints;
	uint64_t n_observations[_OBS_KIND_N];
	uint64_t n_refused;
	uint64_t n_full;
	uint64_t n_paced;
	struct pace pace;		/* of new claims */
};

struct catalog_events {
	void (*claimed)(struct claim *c, void *data);
	void (*changed)(struct claim *c, void *data);	/* health, metadata, sources, silence */
	void (*gone)(struct claim *c, const char *reason, void *data);	/* whole in the call, freed afterwards */
	void (*looked_up)(struct catalog_guest *g, const struct lookup *l, void *data);	/* the first time only */
	void *data;
};

struct catalog {
	struct guest_table *guests;
	struct catalog_events events;
	struct list by_guest;		/* struct catalog_guest.link */
	struct map hints;		/* struct hint.by_addr, keyed by struct ip_port's 18 bytes */
	uint32_t claims_per_s;		/* new ones of one guest; 0: without limit. May be set at any time */
};

void catalog_init(struct catalog *c, struct guest_table *guests, const struct catalog_events *events);
void catalog_deinit(struct catalog *c);		/* calls no event */

/*
 * Takes an observation of @g's port. @o->guest is the VM's side of the exchange,
 * which need not be an address of @g (then it is behind it).
 * -ENOMEM; nothing is kept then, and nothing waits.
 */
MUST_CHECK int catalog_observe(struct catalog *c, struct guest *g, const struct observation *o, uint64_t now_ns);

/* The guest's addresses are others: claims for one that it lost end ("moved"), registrations for one that it has now become claims. */
void catalog_guest_changed(struct catalog *c, struct guest *g, uint64_t now_ns);
/* Now and then: registrations that wait for their turn, or for memory, are tried again. */
void catalog_retry(struct catalog *c, uint64_t now_ns);
/* All of it ends. */
void catalog_guest_gone(struct catalog *c, struct guest *g, const char *reason);

/*
 * What the probe of a claim said. An answer keeps alive what is only cached
 * (mDNS records): their time to live says how long others may remember them.
 */
void catalog_probed(struct catalog *c, struct claim *claim, bool answered, uint64_t now_ms);

/* Ends what is over; returns when the next end is due (UINT64_MAX: never). */
uint64_t catalog_expire(struct catalog *c, uint64_t now_ms);

struct catalog_guest *catalog_of(const struct guest *g);	/* NULL: nothing known of it */
const struct hint *catalog_hint(const struct catalog *c, const struct ip_port *at);
/* The worst of its sources' healths, critical when it is silent. */
enum observation_health claim_health(const struct claim *c);
/* The longest end of its sources. */
uint64_t claim_until_ms(const struct claim *c);

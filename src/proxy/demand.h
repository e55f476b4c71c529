#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/map.h"

/*
 * Destinations that a VM has asked for by dialling them, each a subscription
 * "network/ip" of its discovery stream. No I/O: the owner subscribes and tells
 * what was answered.
 *
 * What the mesh does not know is remembered as absent as long as it is used
 * now and then. Its subscription stays meanwhile, and a mesh controller may
 * tell when something appears there; istiod does not, so it is asked again,
 * with growing delays, as long as the address is dialled. What the mesh knows
 * stays subscribed for the VM's life. All are bounded.
 */
enum { DEMAND_MAX = 4096, DEMAND_AGAIN_MIN_MS = 1000, DEMAND_AGAIN_MAX_MS = 30000, DEMAND_NAME_LEN = 64 + IP_TEXT_LEN };

struct demand_ops {
	int (*subscribe)(void *data, const char *name);
	void (*unsubscribe)(void *data, const char *name);
	void (*ask_again)(void *data, const char *name);	/* it is subscribed: answer anew */
	void (*absent)(void *data, const struct ip *ip, bool absent);
	bool (*known)(void *data, const struct ip *ip);	/* there is a resource with this address */
};

struct demand {
	struct map wants;
	const char *network;		/* borrowed */
	const struct demand_ops *ops;
	void *data;
	uint64_t refused;		/* over DEMAND_MAX */
};

void demand_init(struct demand *d, const char *network, const struct demand_ops *ops, void *data);
void demand_deinit(struct demand *d);	/* withdraws what is absent; no unsubscriptions */

/* Somebody dials @ip. 0, -E2BIG: the VM asks for too much, -ENOMEM. */
MUST_CHECK int demand_want(struct demand *d, const struct ip *ip, uint64_t now_ms);
/* A connection to @ip was seen: it is in use. false: nobody has asked for it. */
bool demand_used(struct demand *d, const struct ip *ip, uint64_t now_ms);
/* The mesh has said what there is under @name, if that is one of ours. */
void demand_answered(struct demand *d, const char *name);
/* What is known has changed: those answered become absent, or are not any more. */
void demand_review(struct demand *d, uint64_t now_ms);
/* Forgets absent ones that have not been used for @idle_ms, asks again about others. Call it every second or so. */
void demand_sweep(struct demand *d, uint64_t now_ms, uint64_t idle_ms);

/* The address of "network/ip", if @name is one. */
bool demand_parse(const struct demand *d, const char *name, struct ip *ret_ip);

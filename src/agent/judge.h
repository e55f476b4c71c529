#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/catalog.h"
#include "agent/config.h"
#include "agent/probe.h"
#include "agent/registry.h"
#include "agent/standing.h"
#include "agent/verdict.h"
#include "base/defs.h"
#include "base/loop.h"

/*
 * The judge of one claim: keeps its evidence, asks the methods that have to be
 * asked, and goes on probing for as long as the claim lives.
 *
 * What needs no answer is known when judge_new() returns; the rest comes when
 * it comes, and calls changed() when the verdict or its evidence is another.
 */
struct judge;

struct judge_court {			/* what all judges share; borrowed for their life */
	struct loop *loop;
	struct monitor_client *monitor;	/* NULL: no probes (tests) */
	struct catalog *catalog;
	const struct containers *const *containers;	/* *containers NULL: not told yet */
	const struct nodes *const *nodes;		/* the same */
	const struct config_registry *registries;	/* to ask instead of the one that was registered with */
	size_t n_registries;
	bool probe;
	bool own_address;
	uint32_t interval_ms, timeout_ms, misses;
	/* Which slot's port is @g's? For the probe's answer. */
	uint32_t (*slot_of)(const struct guest *g, void *data);
	void (*changed)(struct claim *c, bool verdict, void *data);
	void (*answered)(struct guest *g, void *data);	/* it lives */
	void *data;
};

struct judge {
	const struct judge_court *court;
	struct claim *claim;
	struct verdict_case verdict;
	uint32_t n_told;		/* of its news */
	struct registry_lookup *lookup;	/* NULL: none is under way */
	struct timer ask;
	struct probe probe;
	struct timer timer;
	uint64_t probe_ns;		/* when the last one was sent */
	unsigned n_probes;
	unsigned n_misses;		/* in a row */
	bool has_answered;		/* something, once */
	bool has_accepted;		/* a connection, once */
	bool other_source;		/* the next one comes from the NIC's own address */
	bool close;			/* it is in the mesh: probe often */
	struct standing standing;	/* how healthy it is, as last reviewed */

	char *instance;			/* as reported: the first source's; "" for none */
	uint64_t ready_ns;		/* its proxy serves it, the controller knows: 0 not yet */
	uint64_t mesh_ns;
};

/* -ENOMEM. */
MUST_CHECK int judge_new(const struct judge_court *court, struct claim *claim, struct judge **ret_judge);
struct judge *judge_free(struct judge *j);

/* The claim, its guest or the container addresses are others: judge anew. True: another verdict. */
bool judge_review(struct judge *j);
/* It took connections elsewhere a moment ago: one refusal says that it does not here. Silence may be a firewall's, as ever. */
void judge_was_there(struct judge *j);
/* Whether it is worth a probe every interval. */
void judge_watch(struct judge *j, bool close);

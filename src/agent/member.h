#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/budgets.h"
#include "agent/diverts.h"
#include "agent/guest.h"
#include "agent/judge.h"
#include "agent/places.h"
#include "agent/policy.h"
#include "agent/verdict.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/pace.h"

/*
 * A guest as a (possible) member of the mesh: what policy and verdict make of
 * it, what its proxy is wished to be, what the controller is told.
 *
 * Whatever changes about the guest calls member_touch(); member.c decides anew
 * once, at the end of the loop's turn, or a little later when the guest keeps
 * changing: each decision looks at all its claims, and the newest state counts.
 */
struct worker;

enum { MEMBER_MAX_SERVICES = CATALOG_MAX_CLAIMS };

/* What is logged as often as the guest brings it about. */
enum member_said { SAID_CLAIM, SAID_CLAIM_GONE, SAID_VERDICT, _SAID_N };

struct member {
	struct worker *worker;
	struct guest *guest;
	struct place *place;		/* NULL: none of ours any more */
	struct defer decide;
	struct timer decide_later;	/* it has been decided on too often of late */
	struct pace decisions;
	struct pace observations;	/* feed.c: may more of it be looked at? */
	struct list tees;		/* of feed.c: the streams that its proxy copies, stalest first */
	size_t n_tees;
	struct guest_budgets budgets;
	uint64_t engine_id;		/* of discover/engine; one more for what is behind it */

	const struct policy *policy;
	struct verdict_case verdict;	/* of the guest itself, as a client */
	bool client_elsewhere;		/* it was a client of the mesh behind another NIC a moment ago */
	bool joined;			/* a proxy is wished for it */
	bool ends;			/* its guest is about to be gone */
	char why_not[160];		/* else: why */
	char group[POLICY_GROUP_LEN];

	struct ip known[GUEST_MAX_ADDRESSES];	/* to the monitor */
	size_t n_known;
	struct diverts behind;		/* the same */

	int64_t token_until;		/* seconds since 1970; 0: none asked for or none got */
	uint64_t token_asked_ms;	/* a request is under way since; 0: none is */
	uint32_t token_wait_ms;		/* since then: it is not repeated before */
	char token_refused[160];

	/* CLOCK_MONOTONIC ns of the first: discovery packet, claim or look-up, verdict, wish, token, ready, all told; 0: not yet. */
	uint64_t packet_ns, found_ns, decided_ns, wished_ns, token_ns, ready_ns, mesh_ns;
	uint64_t first_frame;
	char first_protocol[32];

	uint64_t asked_ns;		/* when a neighbour was last asked for, for its sake */
	struct log_limit said[_SAID_N];
};

MUST_CHECK int member_new(struct worker *w, struct guest *g);	/* -ENOMEM */
/* The guest is gone. */
void member_end(struct member *m, const char *reason);
static inline struct member *member_of(const struct guest *g)
{
	return g->user;
}

void member_touch(struct member *m);
/* Of the Kubernetes cluster. NULL: it is none. */
const struct node *member_node(const struct member *m);
/* May this claim be in the mesh? NULL: yes; else why not. @ret is room for the text. */
const char *member_refusal(const struct member *m, const struct claim *c, char text[static 400]);

/* Asks the controller for the workload's token, unless that is under way. */
void member_ask_token(struct member *m);

#pragma once
#include <stdint.h>
#include "base/bytes.h"
#include "base/defs.h"

/*
 * What a guest may use of the agent: bytes of its discovery traffic, packets
 * that teach addresses, diverted connections; claims, new ones in a second,
 * what is observed of it and decided on it in a second. What is beyond is
 * counted where it is refused or put off (BPF, catalog, feed.c, member.c); here
 * it is told, guest by guest.
 */
struct worker;

enum guest_budget {
	GUEST_B_SNIFFED,
	GUEST_B_STRANGERS,	/* what others send it unasked */
	GUEST_B_UNVERIFIED,
	GUEST_B_FLOWS,
	GUEST_B_CLAIMS,
	GUEST_B_CLAIM_RATE,	/* those that had to wait */
	GUEST_B_OBSERVATIONS,	/* packets and pieces of streams that were not looked at */
	GUEST_B_DECISIONS,	/* those that had to wait */
	_GUEST_BUDGET_N
};

struct guest_budgets {			/* of a place, for what BPF counts, or a member; starts zeroed */
	uint64_t over[_GUEST_BUDGET_N];	/* as of the last look */
	uint64_t told[_GUEST_BUDGET_N];	/* the last message spoke of so many */
	uint64_t quiet_until_ms[_GUEST_BUDGET_N];
};

/* Every second. Looks at the counters now and then; logs who is over which, at most once in 10 s for each. */
void budgets_tick(struct worker *w);
/* outrigger_guest_over_budget_total{guest,port,budget} */
MUST_CHECK int budgets_write(struct worker *w, struct bytes *out);

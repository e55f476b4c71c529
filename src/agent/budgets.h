#pragma once
#include <stdint.h>
#include "base/bytes.h"
#include "base/defs.h"

/*
 * What a guest may use of the agent: bytes of its discovery traffic, packets
 * that teach addresses, diverted connections, claims. What is beyond is counted
 * where it is refused (BPF, catalog); here it is told, guest by guest.
 */
struct worker;

enum guest_budget {
	GUEST_B_SNIFFED,
	GUEST_B_UNVERIFIED,
	GUEST_B_FLOWS,
	GUEST_B_CLAIMS,
	_GUEST_BUDGET_N
};

struct guest_budgets {			/* of a place; starts zeroed */
	uint64_t over[_GUEST_BUDGET_N];	/* as of the last look */
	uint64_t told[_GUEST_BUDGET_N];	/* the last message spoke of so many */
	uint64_t quiet_until_ms[_GUEST_BUDGET_N];
};

/* Every second. Looks at the counters now and then; logs who is over which, at most once in 10 s for each. */
void budgets_tick(struct worker *w);
/* outrigger_guest_over_budget_total{guest,port,budget} */
MUST_CHECK int budgets_write(struct worker *w, struct bytes *out);

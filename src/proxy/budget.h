#pragma once
#include <stdint.h>
#include "base/defs.h"

/*
 * What a VM may use of the process that it shares with others. Each budget has
 * a counter of what was refused, cut or put off because of it
 * (vm_counters.over_budget), and a line in the log that names VM and budget.
 */
enum vm_budget {
	VM_B_CONNECTIONS,	/* open at once */
	VM_B_BUFFERS,		/* bytes that wait in user memory */
	VM_B_HANDSHAKES,	/* tunnels to the VM whose peers have not shown who they are yet */
	VM_B_TUNNELS,		/* tunnels to the VM */
	VM_B_DESCRIPTORS,	/* none was free for it */
	VM_B_MEMORY,		/* the process had none for it */
	VM_B_RATE,		/* connections that it opens, a second: how often it had to wait */
	VM_B_TEED,		/* bytes a second that are copied of its conversations with registries: pieces that were left out */
	VM_B_TURN,		/* its share of a turn of the loop: what was left for the next one */
	_VM_BUDGET_N
};

const char *vm_budget_name(enum vm_budget b);	/* "connections" */

/* When to say so. Main thread; starts zeroed. */
struct budget_watch {
	uint64_t told[_VM_BUDGET_N];		/* the count that was last spoken of */
	uint64_t quiet_until_ms[_VM_BUDGET_N];
};

enum { BUDGET_QUIET_MS = 10000 };

/*
 * By how much @count of @b has grown since it was last spoken of, if that is
 * worth a message now; else 0. One message in BUDGET_QUIET_MS.
 */
uint64_t budget_watch_due(struct budget_watch *w, enum vm_budget b, uint64_t count, uint64_t now_ms);

/*
 * Descriptors. @limit: RLIMIT_NOFILE. How many connections one VM may have so
 * that some three sevenths of what the process may open are left to its
 * neighbours, whatever it does, and half where it is one peer's doing; at least 16.
 */
uint32_t budget_connections(uint64_t limit);
/* How many spare sockets of each sort a thread may keep (sockd_pool_new()): a quarter of the descriptors in all, at least 4. */
unsigned budget_spare_sockets(uint64_t limit, unsigned n_workers);
/* What the process needs with nothing to do: @n_workers threads, each with @spare sockets of each sort. */
uint64_t budget_idle_descriptors(unsigned n_workers, unsigned spare);
/* With fewer descriptors than this it cannot serve. */
uint64_t budget_least_descriptors(unsigned n_workers);

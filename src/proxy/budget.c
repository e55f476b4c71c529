/*
 * Budgets of VMs: names, messages, descriptors.
 */
#include "proxy/budget.h"

enum {
	FDS_A_CONNECTION = 2,		/* the VM's side and the other */
	LEAST_CONNECTIONS = 16,
	IDLE_FDS = 24,			/* of the main thread: loop, agent, controller, logs, admin */
	IDLE_FDS_A_WORKER = 4 + 4 * 32,	/* its loop and socket helper, and a shelf of spare sockets of each kind */
};

static const struct {
	const char *name;
	uint64_t worth;			/* less than this in BUDGET_QUIET_MS is daily life */
} budgets[] = {
	[VM_B_CONNECTIONS] = { "connections", 1 },
	[VM_B_BUFFERS] = { "buffered_bytes", 1 },
	[VM_B_HANDSHAKES] = { "handshakes", 1 },
	[VM_B_TUNNELS] = { "tunnels", 1 },
	[VM_B_DESCRIPTORS] = { "descriptors", 1 },
	[VM_B_TURN] = { "turn", 10000 },
};
_Static_assert(ELEMENTS(budgets) == _VM_BUDGET_N, "every budget has a name");

const char *vm_budget_name(enum vm_budget b)
{
	return budgets[b].name;
}

uint64_t budget_watch_due(struct budget_watch *w, enum vm_budget b, uint64_t count, uint64_t now_ms)
{
	uint64_t grown;

	if (count < w->told[b])		/* another struct vm: counted from the beginning */
		w->told[b] = 0;
	grown = count - w->told[b];
	if (!grown || now_ms < w->quiet_until_ms[b])
		return 0;
	w->quiet_until_ms[b] = now_ms + BUDGET_QUIET_MS;
	w->told[b] = count;
	return grown >= budgets[b].worth ? grown : 0;
}

uint32_t budget_connections(uint64_t limit)
{
	uint64_t n = limit / 2 / FDS_A_CONNECTION;

	return (uint32_t)MIN(MAX(n, (uint64_t)LEAST_CONNECTIONS), (uint64_t)UINT32_MAX);
}

uint64_t budget_idle_descriptors(unsigned n_workers)
{
	return IDLE_FDS + (uint64_t)IDLE_FDS_A_WORKER * (n_workers + 1);	/* the main thread has a pool, too: checks of health */
}

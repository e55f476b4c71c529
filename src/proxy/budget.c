/*
 * Budgets of VMs: names, messages, descriptors.
 */
#include "proxy/budget.h"

#include "proxy/sockd.h"

enum {
	FDS_A_CONNECTION = 2,		/* the VM's side and the other */
	LEAST_CONNECTIONS = 16,
	IDLE_FDS = 24,			/* of the main thread: loop, agent, controller, logs, admin */
	IDLE_FDS_A_THREAD = 4,		/* its loop and socket helper, without spare sockets */
	LEAST_SPARE = 4,
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
	[VM_B_MEMORY] = { "memory", 1 },
	[VM_B_RATE] = { "connection_rate", 1 },
	[VM_B_TEED] = { "sniffed_bytes", 1 },
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

	n += n / 7;			/* what one peer may have of them (peer_share.h) is half of the descriptors */
	return (uint32_t)MIN(MAX(n, (uint64_t)LEAST_CONNECTIONS), (uint64_t)UINT32_MAX);
}

/* The main thread has spare sockets, too: checks of health. */
unsigned budget_spare_sockets(uint64_t limit, unsigned n_workers)
{
	uint64_t n = limit / 4 / SOCKD_SHELVES / (n_workers + 1);

	return (unsigned)MIN(MAX(n, (uint64_t)LEAST_SPARE), (uint64_t)SOCKD_MAX_BATCH);
}

uint64_t budget_idle_descriptors(unsigned n_workers, unsigned spare)
{
	return IDLE_FDS + (uint64_t)(IDLE_FDS_A_THREAD + SOCKD_SHELVES * spare) * (n_workers + 1);
}

uint64_t budget_least_descriptors(unsigned n_workers)
{
	return budget_idle_descriptors(n_workers, LEAST_SPARE) + FDS_A_CONNECTION * LEAST_CONNECTIONS;
}

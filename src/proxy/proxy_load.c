/*
 * What the process and each of its VMs cost, for the agent that asks.
 */
#include "proxy/proxy.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "proxy/sidecar.h"

static uint64_t own_cpu_ns(void)
{
	struct rusage u;

	if (getrusage(RUSAGE_SELF, &u) < 0)
		return 0;
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000 +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

static uint64_t own_rss(void)
{
	unsigned long size, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	if (fscanf(f, "%lu %lu", &size, &resident) != 2)
		resident = 0;
	fclose(f);
	return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void fill_load(const struct sidecar *s, Outrigger__Ipc__VmLoad *l)
{
	struct vm_counters c = {};

	outrigger__ipc__vm_load__init(l);
	l->vm_id = s->put->vm_id;
	if (!s->vm)
		return;
	vm_count(s->vm, &c);
	for (int i = 0; i < 2; i++) {
		l->connections_opened += c.opened[i];
		l->connections_open += c.opened[i] - c.closed[i];
		l->bytes_sent += c.bytes_sent[i];
		l->bytes_received += c.bytes_received[i];
		l->failed += c.failed[i] + c.refused[i];
	}
	l->buffered_bytes = __atomic_load_n(&s->vm->buffered_bytes, __ATOMIC_RELAXED);
}

static size_t n_shown(const struct proxy *p)
{
	size_t n = 0;

	list_for_each(l, &p->shown)
		n++;
	return n;
}

void proxy_send_load(struct proxy *p)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__Load load = OUTRIGGER__IPC__LOAD__INIT;
	size_t n = n_shown(p) + 1;
	CLEANUP_FREE Outrigger__Ipc__VmLoad *vms = calloc(n, sizeof(*vms));
	CLEANUP_FREE Outrigger__Ipc__VmLoad **list = calloc(n, sizeof(*list));

	if (!vms || !list)
		return;		/* it asks again */
	list_for_each(l, &p->shown) {
		fill_load(list_entry(l, struct sidecar, shown), &vms[load.n_vms]);
		list[load.n_vms] = &vms[load.n_vms];
		load.n_vms++;
	}
	load.vms = list;
	load.cpu_ns = own_cpu_ns();
	load.rss_bytes = own_rss();
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_LOAD;
	m.load = &load;
	int r = agent_link_send(p->link, &m, false);
	if (r < 0)
		log_warn("agent does not take a load report", log_errno(r));
}

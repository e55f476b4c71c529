#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "agent/monitor_client.h"
#include "base/defs.h"
#include "base/ip.h"
#include "base/loop.h"

/*
 * One probe: a SYN to a service, and by which port, VLAN and MAC the answer
 * came. Being refused is an answer too: somebody is there.
 */
enum probe_result {
	PROBE_CONNECTED,
	PROBE_REFUSED,
	PROBE_SILENT,		/* no answer in time */
	PROBE_FAILED,		/* could not be sent: says nothing */
};

/* From where, and which way. Straight to the port means: to nobody else, whatever address the guest says is its own. */
enum probe_way {
	PROBE_FROM_SPARE,	/* an address that nobody has, straight to the guest's port */
	PROBE_FROM_OWN,		/* the NIC's own, straight to the guest's port */
	PROBE_BY_ROUTES,	/* the NIC's own, by its routes */
};

struct probe;
/* @where: of an answer, if it came in by a port of ours; else NULL. The probe may be started again in here. */
typedef void probe_fn(struct probe *p, enum probe_result result, const struct monitor_probe_answer *where);

struct probe {
	struct watch watch;
	struct timer timer;
	struct monitor_client *monitor;	/* borrowed */
	struct ip_port target;
	struct ip_port local;
	int fd;
	bool running;
	probe_fn *fn;
};

/* Zero it first. The result comes by @fn, never during this call. -EBUSY: it runs. Errors of the monitor. */
MUST_CHECK int probe_start(struct probe *p, struct loop *l, struct monitor_client *monitor, const struct ip_port *target,
			   enum probe_way way, uint32_t timeout_ms, probe_fn *fn);
void probe_cancel(struct probe *p);

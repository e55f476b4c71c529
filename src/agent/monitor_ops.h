#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/monitor_msg.h"
#include "agent/monitor_proxies.h"
#include "agent/netlink.h"
#include "agent/steer_bpf.h"
#include "agent/steer_conf.h"
#include "agent/steer_link.h"
#include "agent/steer_routes.h"
#include "agent/steer_sysctl.h"
#include "agent/steer_table.h"
#include "base/defs.h"

/*
 * The rights of the worker: what the root monitor does for it, one function a
 * request, in one table.
 */
struct monitor_state {
	const struct steer_conf *conf;
	bool loaded;
	struct netlink nl;
	struct steer_link divert;
	struct steer_sysctls sysctls;
	struct steer_routes routes;
	struct steer_bpf bpf;
	struct steer_table table;
	struct monitor_proxies proxies;
};

struct monitor_request {
	const uint8_t *in;
	size_t in_len;
	const int *fds;		/* the monitor's loop closes them */
	size_t n_fds;

	uint8_t *out;		/* MONITOR_MSG_MAX less the header */
	size_t out_len;
	int out_fds[2];		/* closed by the monitor's loop once they are sent */
	size_t n_out_fds;
};

/*
 * 0 or negative errno: the answer to the worker. MONITOR_OPS_E_ODD: a request
 * that our worker cannot have made; the monitor must stop.
 */
enum { MONITOR_OPS_E_ODD = 1 };
MUST_CHECK int monitor_ops_run(struct monitor_state *m, uint32_t op, struct monitor_request *q);

/* Undoes what MONITOR_OP_LOAD did, as far as it is not to stay. */
void monitor_ops_unload(struct monitor_state *m);

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/defs.h"
#include "base/ip.h"
#include "base/loop.h"
#include "mesh/health.h"
#include "outrigger/ipc.pb-c.h"
#include "proxy/sockd.h"

/*
 * The health of one VM as its proxy sees it: the check of its VmPut, made again
 * and again at each address and port where it serves, by the way that traffic
 * takes to the VM.
 */
struct vm_health;

enum { VM_HEALTH_MAX_PORTS = 64 };

struct vm_health_port {		/* for looking at */
	struct ip_port at;
	const struct health *health;
	uint64_t n_ok, n_failed;	/* checks */
};

/* @changed: vm_health_port() tells something else. @pool: transparent sockets; NULL: ordinary ones (tests). -ENOMEM. */
MUST_CHECK int vm_health_new(struct loop *loop, struct sockd_pool *pool, void (*changed)(void *data), void *data, struct vm_health **ret_health);
struct vm_health *vm_health_free(struct vm_health *h);

/*
 * Another VmPut. A port that was looked at stays what it was until its next
 * check. -ENOMEM, -EINVAL: not a check that can be made; then nothing is.
 */
MUST_CHECK int vm_health_set(struct vm_health *h, const Outrigger__Ipc__VmPut *put);

size_t vm_health_n_ports(const struct vm_health *h);
struct vm_health_port vm_health_port(const struct vm_health *h, size_t i);
/*
 * The VM as a whole, for those who know only that: unhealthy as soon as one port
 * is, else waiting as long as one is. @ret_reason: room for the port and why.
 * HEALTH_UP where nothing is checked.
 */
enum { VM_HEALTH_REASON_LEN = HEALTH_REASON_LEN + 16 };
enum health_state vm_health_sum(const struct vm_health *h, char reason[static VM_HEALTH_REASON_LEN]);

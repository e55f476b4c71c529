/*
 * Giving up rights: the root monitor, and the worker beside it.
 */
#include "agent/monitor_jail.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdbool.h>

#include "agent/monitor.h"
#include "base/sandbox.h"

static const int kept[] = {
	CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW,	/* programs, maps, devices, routes, marks */
	CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_KILL,		/* proxies */
	CAP_SYS_RESOURCE,					/* locked memory, before 5.11 */
};

/* Those that we have: in a container some may be missing, and what needs them says so when it fails. */
static int keep_capabilities(void)
{
	bool have[ELEMENTS(kept)];

	for (size_t i = 0; i < ELEMENTS(kept); i++)
		have[i] = capng_have_capability(CAPNG_PERMITTED, (unsigned)kept[i]);
	capng_clear(CAPNG_SELECT_BOTH);
	for (size_t i = 0; i < ELEMENTS(kept); i++) {
		unsigned sets = CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET;

		if (have[i] && capng_update(CAPNG_ADD, (capng_type_t)sets, (unsigned)kept[i]) < 0)
			return -EPERM;
	}
	return capng_apply(CAPNG_SELECT_BOTH) < 0 ? -EPERM : 0;
}

int monitor_jail_monitor(void)
{
	/* Its own, and all that a proxy needs from its first instruction on: filters are inherited. */
	const unsigned groups = SANDBOX_LOOP | SANDBOX_THREADS | SANDBOX_SOCKETS | SANDBOX_NETLINK | SANDBOX_WRITE_FILES |
				SANDBOX_PROCESSES | SANDBOX_BPF | SANDBOX_SPAWN;
	struct diag d;
	int r = keep_capabilities();

	if (r < 0)
		return r;
	r = sandbox_harden();
	return r < 0 ? r : sandbox_confine(groups, &d);
}

int monitor_drop_worker(const struct steer_conf *conf)
{
	gid_t common = steer_conf_proxies_gid(conf);

	if (setgroups(1, &common) < 0 || setresgid(conf->worker_gid, conf->worker_gid, conf->worker_gid) < 0)
		return -errno;
	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_apply(CAPNG_SELECT_BOUNDS) < 0)
		return -EPERM;
	if (setresuid(conf->worker_uid, conf->worker_uid, conf->worker_uid) < 0)
		return -errno;
	if (capng_apply(CAPNG_SELECT_CAPS) < 0)
		return -EPERM;
	return sandbox_harden();
}

/*
 * Giving up rights: the root monitor, and the worker beside it.
 */
#include "agent/monitor_jail.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "agent/monitor.h"
#include "base/sandbox.h"

enum { WORKER_NICE = 5, MAX_NICE = 19 };

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

/*
 * What the worker has to do is never as urgent as what the proxies have: a guest
 * that gives it work without end must not take their time. Not so low that it
 * starves: a third of what one of them gets is enough for its heartbeats.
 * Where the kernel shares time out by session first (sched_autogroup), each
 * proxy has one of its own, and that of the agent has a priority, too: it is
 * lowered where it is the agent's alone, and not a terminal's.
 */
static void lower_worker(void)
{
	char text[16];
	int fd, n;

	if (setpriority(PRIO_PROCESS, 0, MIN(getpriority(PRIO_PROCESS, 0) + WORKER_NICE, MAX_NICE)) < 0)
		return;		/* it works as well, if not as kindly */
	if (getsid(0) != getppid())
		return;
	fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
	n = snprintf(text, sizeof(text), "%d", getpriority(PRIO_PROCESS, 0));
	if (fd >= 0)
		(void)!write(fd, text, (size_t)n);
	close_fd(fd);
}

int monitor_drop_worker(const struct steer_conf *conf)
{
	gid_t common = steer_conf_proxies_gid(conf);

	lower_worker();

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

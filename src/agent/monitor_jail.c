/*
 * Giving up rights: the root monitor, and the worker beside it.
 */
#include "agent/monitor_jail.h"

#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <stdbool.h>
#include <sys/prctl.h>

#include "agent/monitor.h"

static const int kept[] = {
	CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW,	/* programs, maps, devices, routes, marks */
	CAP_SETUID, CAP_SETGID, CAP_SETPCAP, CAP_KILL,		/* proxies */
	CAP_SYS_RESOURCE,					/* locked memory, before 5.11 */
};

static const int forbidden[] = {
	SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev), SCMP_SYS(kcmp),
	SCMP_SYS(kexec_load), SCMP_SYS(kexec_file_load), SCMP_SYS(init_module), SCMP_SYS(finit_module), SCMP_SYS(delete_module),
	SCMP_SYS(mount), SCMP_SYS(umount2), SCMP_SYS(pivot_root), SCMP_SYS(chroot), SCMP_SYS(unshare), SCMP_SYS(setns),
	SCMP_SYS(move_mount), SCMP_SYS(open_tree), SCMP_SYS(fsopen), SCMP_SYS(fsmount), SCMP_SYS(open_by_handle_at),
	SCMP_SYS(reboot), SCMP_SYS(swapon), SCMP_SYS(swapoff), SCMP_SYS(acct), SCMP_SYS(quotactl),
	SCMP_SYS(settimeofday), SCMP_SYS(clock_settime), SCMP_SYS(clock_adjtime), SCMP_SYS(adjtimex),
	SCMP_SYS(add_key), SCMP_SYS(request_key), SCMP_SYS(keyctl), SCMP_SYS(perf_event_open), SCMP_SYS(userfaultfd),
	SCMP_SYS(iopl), SCMP_SYS(ioperm), SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
	SCMP_SYS(mknod), SCMP_SYS(mknodat), SCMP_SYS(syslog), SCMP_SYS(vhangup), SCMP_SYS(personality),
};

static int forbid(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
	int r = f ? 0 : -ENOMEM;

	for (size_t i = 0; r == 0 && i < ELEMENTS(forbidden); i++) {
		r = seccomp_rule_add(f, SCMP_ACT_KILL_PROCESS, forbidden[i], 0);
		if (r == -EDOM || r == -EFAULT)		/* this architecture has no such call */
			r = 0;
	}
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	return r;
}

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
	int r = keep_capabilities();

	if (r < 0)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return forbid();
}

int monitor_drop_worker(const struct steer_conf *conf)
{
	if (setgroups(0, NULL) < 0 || setresgid(conf->worker_gid, conf->worker_gid, conf->worker_gid) < 0)
		return -errno;
	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_apply(CAPNG_SELECT_BOUNDS) < 0)
		return -EPERM;
	if (setresuid(conf->worker_uid, conf->worker_uid, conf->worker_uid) < 0)
		return -errno;
	if (capng_apply(CAPNG_SELECT_CAPS) < 0)
		return -EPERM;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

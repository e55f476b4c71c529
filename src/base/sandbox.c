/*
 * Privileges given up, by tables.
 */
#include "base/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <linux/netlink.h>

/* --- user and capabilities --- */

static int has_some_capability(void)
{
	return capng_get_caps_process() == 0 && capng_have_capabilities(CAPNG_SELECT_CAPS) > CAPNG_NONE;
}

static int select_capabilities(const struct sandbox_user *user)
{
	capng_clear(CAPNG_SELECT_BOTH);
	for (size_t i = 0; i < user->n_keep_caps; i++)
		if (capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET, (unsigned)user->keep_caps[i]) < 0)
			return -EINVAL;
	return 0;
}

static int drop_capabilities(const struct sandbox_user *user, struct diag *d)
{
	int r = select_capabilities(user);

	if (r < 0)
		return r;
	if (user->uid == (uid_t)-1)
		r = capng_apply(CAPNG_SELECT_BOTH);
	else
		r = capng_change_id((int)user->uid, (int)user->gid, CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING);
	if (r < 0) {
		diag_set(d, "giving up capabilities failed (libcap-ng says %d)", r);
		return -EPERM;
	}
	return 0;
}

int sandbox_drop(const struct sandbox_user *user, struct diag *reterr_diag)
{
	static const struct rlimit none;
	bool privileged = has_some_capability();
	int r;

	if (!privileged && user->uid != (uid_t)-1 && (user->uid != geteuid() || user->gid != getegid())) {
		diag_set(reterr_diag, "becoming user %u takes privileges that are not there", user->uid);
		return -EPERM;
	}
	if (privileged) {
		r = drop_capabilities(user, reterr_diag);
		if (r < 0)
			return r;
	}
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
	    setrlimit(RLIMIT_CORE, &none) < 0) {
		r = -errno;
		diag_set(reterr_diag, "no_new_privs and no core dumps: %s", strerror(-r));
		return r;
	}
	return 0;
}

static int parse_id(const char *text, unsigned *ret_id)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);

	if (!*text || *end || v >= 0xffffffff)
		return -EINVAL;
	*ret_id = (unsigned)v;
	return 0;
}

int sandbox_user_parse(const char *text, struct sandbox_user *user, struct diag *reterr_diag)
{
	char name[64];
	const char *colon = strchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : strlen(text);
	unsigned uid, gid;

	if (!n || n >= sizeof(name))
		return diag_set(reterr_diag, "\"%.64s\" is not a user", text);
	memcpy(name, text, n);
	name[n] = '\0';

	const struct passwd *pw = getpwnam(name);
	if (!pw && parse_id(name, &uid) < 0)
		return diag_set(reterr_diag, "there is no user \"%s\"", name);
	if (pw)
		uid = pw->pw_uid;
	gid = pw ? pw->pw_gid : uid;

	const struct group *gr = colon ? getgrnam(colon + 1) : NULL;
	if (colon && !gr && parse_id(colon + 1, &gid) < 0)
		return diag_set(reterr_diag, "there is no group \"%.64s\"", colon + 1);
	if (gr)
		gid = gr->gr_gid;
	user->uid = uid;
	user->gid = gid;
	return 0;
}

/* --- the filter --- */

struct call {
	unsigned groups;	/* any of them allows it */
	int nr;
};

#define CALL(groups, name)	{ groups, SCMP_SYS(name) }

static const struct call calls[] = {
	CALL(SANDBOX_CORE, read), CALL(SANDBOX_CORE, write), CALL(SANDBOX_CORE, readv), CALL(SANDBOX_CORE, writev),
	CALL(SANDBOX_CORE, pread64), CALL(SANDBOX_CORE, pwrite64), CALL(SANDBOX_CORE, close), CALL(SANDBOX_CORE, close_range),
	CALL(SANDBOX_CORE, lseek), CALL(SANDBOX_CORE, fstat), CALL(SANDBOX_CORE, dup), CALL(SANDBOX_CORE, dup2),
	CALL(SANDBOX_CORE, dup3), CALL(SANDBOX_CORE, fcntl), CALL(SANDBOX_CORE, poll), CALL(SANDBOX_CORE, ppoll),
	CALL(SANDBOX_CORE, select), CALL(SANDBOX_CORE, pselect6),
	CALL(SANDBOX_CORE, brk), CALL(SANDBOX_CORE, munmap), CALL(SANDBOX_CORE, mremap), CALL(SANDBOX_CORE, madvise),
	CALL(SANDBOX_CORE, mlock), CALL(SANDBOX_CORE, mlock2), CALL(SANDBOX_CORE, munlock), CALL(SANDBOX_CORE, membarrier),
	CALL(SANDBOX_CORE, futex), CALL(SANDBOX_CORE, set_robust_list), CALL(SANDBOX_CORE, get_robust_list), CALL(SANDBOX_CORE, rseq),
	CALL(SANDBOX_CORE, rt_sigaction), CALL(SANDBOX_CORE, rt_sigprocmask), CALL(SANDBOX_CORE, rt_sigreturn),
	CALL(SANDBOX_CORE, rt_sigtimedwait), CALL(SANDBOX_CORE, rt_sigpending), CALL(SANDBOX_CORE, sigaltstack),
	CALL(SANDBOX_CORE, restart_syscall), CALL(SANDBOX_CORE, exit), CALL(SANDBOX_CORE, exit_group),
	CALL(SANDBOX_CORE, clock_gettime), CALL(SANDBOX_CORE, clock_getres), CALL(SANDBOX_CORE, clock_nanosleep),
	CALL(SANDBOX_CORE, nanosleep), CALL(SANDBOX_CORE, gettimeofday), CALL(SANDBOX_CORE, time), CALL(SANDBOX_CORE, getrandom),
	CALL(SANDBOX_CORE, getpid), CALL(SANDBOX_CORE, getppid), CALL(SANDBOX_CORE, gettid), CALL(SANDBOX_CORE, getuid),
	CALL(SANDBOX_CORE, geteuid), CALL(SANDBOX_CORE, getgid), CALL(SANDBOX_CORE, getegid), CALL(SANDBOX_CORE, getresuid),
	CALL(SANDBOX_CORE, getresgid), CALL(SANDBOX_CORE, getrusage), CALL(SANDBOX_CORE, getrlimit), CALL(SANDBOX_CORE, times),
	CALL(SANDBOX_CORE, uname), CALL(SANDBOX_CORE, sysinfo), CALL(SANDBOX_CORE, sched_yield), CALL(SANDBOX_CORE, sched_getaffinity),
	CALL(SANDBOX_CORE, getcpu), CALL(SANDBOX_CORE, ioctl),

	CALL(SANDBOX_LOOP, epoll_create1), CALL(SANDBOX_LOOP, epoll_ctl), CALL(SANDBOX_LOOP, epoll_wait),
	CALL(SANDBOX_LOOP, epoll_pwait), CALL(SANDBOX_LOOP, eventfd2), CALL(SANDBOX_LOOP, signalfd4),
	CALL(SANDBOX_LOOP, timerfd_create), CALL(SANDBOX_LOOP, timerfd_settime), CALL(SANDBOX_LOOP, pipe2), CALL(SANDBOX_LOOP, splice),

	CALL(SANDBOX_THREADS, set_tid_address), CALL(SANDBOX_THREADS, sched_setaffinity),

	CALL(SANDBOX_SOCKETS, socketpair), CALL(SANDBOX_SOCKETS, bind), CALL(SANDBOX_SOCKETS, connect), CALL(SANDBOX_SOCKETS, listen),
	CALL(SANDBOX_SOCKETS, accept), CALL(SANDBOX_SOCKETS, accept4), CALL(SANDBOX_SOCKETS, getsockname),
	CALL(SANDBOX_SOCKETS, getpeername), CALL(SANDBOX_SOCKETS, setsockopt), CALL(SANDBOX_SOCKETS, getsockopt),
	CALL(SANDBOX_SOCKETS, sendto), CALL(SANDBOX_SOCKETS, sendmsg), CALL(SANDBOX_SOCKETS, sendmmsg),
	CALL(SANDBOX_SOCKETS, recvfrom), CALL(SANDBOX_SOCKETS, recvmsg), CALL(SANDBOX_SOCKETS, recvmmsg), CALL(SANDBOX_SOCKETS, shutdown),

	CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, stat), CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, lstat),
	CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, newfstatat), CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, statx),
	CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, access), CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, faccessat),
	CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, faccessat2), CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, readlink),
	CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, readlinkat), CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, getdents64),
	CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, getcwd), CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, statfs),
	CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, fstatfs), CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, fadvise64),
	CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, inotify_init1), CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, inotify_add_watch),
	CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, inotify_rm_watch), CALL(SANDBOX_READ_FILES | SANDBOX_WRITE_FILES, flock),

	CALL(SANDBOX_WRITE_FILES, open), CALL(SANDBOX_WRITE_FILES, openat), CALL(SANDBOX_WRITE_FILES, creat),
	CALL(SANDBOX_WRITE_FILES, rename), CALL(SANDBOX_WRITE_FILES, renameat), CALL(SANDBOX_WRITE_FILES, renameat2),
	CALL(SANDBOX_WRITE_FILES, unlink), CALL(SANDBOX_WRITE_FILES, unlinkat), CALL(SANDBOX_WRITE_FILES, mkdir),
	CALL(SANDBOX_WRITE_FILES, mkdirat), CALL(SANDBOX_WRITE_FILES, rmdir), CALL(SANDBOX_WRITE_FILES, ftruncate),
	CALL(SANDBOX_WRITE_FILES, fsync), CALL(SANDBOX_WRITE_FILES, fdatasync), CALL(SANDBOX_WRITE_FILES, fallocate),
	CALL(SANDBOX_WRITE_FILES, chmod), CALL(SANDBOX_WRITE_FILES, fchmod), CALL(SANDBOX_WRITE_FILES, fchmodat),
	CALL(SANDBOX_WRITE_FILES, fchown), CALL(SANDBOX_WRITE_FILES, fchownat), CALL(SANDBOX_WRITE_FILES, chown),
	CALL(SANDBOX_WRITE_FILES, lchown), CALL(SANDBOX_WRITE_FILES, umask), CALL(SANDBOX_WRITE_FILES, utimensat),
	CALL(SANDBOX_WRITE_FILES, link), CALL(SANDBOX_WRITE_FILES, linkat), CALL(SANDBOX_WRITE_FILES, symlinkat),

	CALL(SANDBOX_PROCESSES, clone), CALL(SANDBOX_PROCESSES, clone3), CALL(SANDBOX_PROCESSES, fork), CALL(SANDBOX_PROCESSES, vfork),
	CALL(SANDBOX_PROCESSES, execve), CALL(SANDBOX_PROCESSES, execveat), CALL(SANDBOX_PROCESSES, wait4),
	CALL(SANDBOX_PROCESSES, waitid), CALL(SANDBOX_PROCESSES, kill), CALL(SANDBOX_PROCESSES, pidfd_open),
	CALL(SANDBOX_PROCESSES, pidfd_send_signal), CALL(SANDBOX_PROCESSES, setpgid), CALL(SANDBOX_PROCESSES, setsid),
	CALL(SANDBOX_PROCESSES, prlimit64), CALL(SANDBOX_PROCESSES, prctl), CALL(SANDBOX_PROCESSES, arch_prctl),

	CALL(SANDBOX_BPF_MAPS, bpf),
};

/* What only somebody who has taken over the process would try. */
static const struct call hostile[] = {
	{ SANDBOX_PROCESSES, SCMP_SYS(execve) }, { SANDBOX_PROCESSES, SCMP_SYS(execveat) }, { 0, SCMP_SYS(ptrace) },
	{ 0, SCMP_SYS(process_vm_readv) }, { 0, SCMP_SYS(process_vm_writev) }, { 0, SCMP_SYS(init_module) },
	{ 0, SCMP_SYS(finit_module) }, { 0, SCMP_SYS(delete_module) }, { 0, SCMP_SYS(kexec_load) }, { 0, SCMP_SYS(mount) },
	{ 0, SCMP_SYS(umount2) }, { 0, SCMP_SYS(pivot_root) }, { 0, SCMP_SYS(chroot) }, { 0, SCMP_SYS(unshare) },
	{ 0, SCMP_SYS(setns) }, { 0, SCMP_SYS(keyctl) }, { 0, SCMP_SYS(add_key) }, { 0, SCMP_SYS(userfaultfd) },
	{ 0, SCMP_SYS(perf_event_open) }, { SANDBOX_BPF_MAPS, SCMP_SYS(bpf) }, { 0, SCMP_SYS(io_uring_setup) },
};

/* Allowed only with one argument as it is said here. */
struct conditional {
	unsigned groups;
	int nr;
	struct scmp_arg_cmp arg;
};

#define ONLY(groups, name, n, op, ...)	{ groups, SCMP_SYS(name), { n, op, __VA_ARGS__ } }

static const struct conditional conditionals[] = {
	ONLY(SANDBOX_CORE, mmap, 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
	ONLY(SANDBOX_CORE, mprotect, 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
	ONLY(SANDBOX_CORE, prctl, 0, SCMP_CMP_EQ, PR_SET_NAME, 0),
	ONLY(SANDBOX_CORE, prlimit64, 2, SCMP_CMP_EQ, 0, 0),		/* reads only */
	ONLY(SANDBOX_THREADS, clone, 0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD),
	ONLY(SANDBOX_SOCKETS, socket, 0, SCMP_CMP_EQ, AF_INET, 0),
	ONLY(SANDBOX_SOCKETS, socket, 0, SCMP_CMP_EQ, AF_INET6, 0),
	ONLY(SANDBOX_SOCKETS, socket, 0, SCMP_CMP_EQ, AF_UNIX, 0),
	ONLY(SANDBOX_NETLINK, socket, 0, SCMP_CMP_EQ, AF_NETLINK, 0),
	ONLY(SANDBOX_READ_FILES, open, 1, SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, 0),
	ONLY(SANDBOX_READ_FILES, openat, 2, SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, 0),
};

static bool no_such_call(int r)
{
	return r == -EDOM || r == -EFAULT || r == -EEXIST;	/* not on this architecture; or said already */
}

static int add_calls(scmp_filter_ctx f, unsigned groups)
{
	for (size_t i = 0; i < ELEMENTS(calls); i++) {
		if (!(calls[i].groups & groups))
			continue;
		int r = seccomp_rule_add(f, SCMP_ACT_ALLOW, calls[i].nr, 0);
		if (r < 0 && !no_such_call(r))
			return r;
	}
	for (size_t i = 0; i < ELEMENTS(conditionals); i++) {
		if (!(conditionals[i].groups & groups))
			continue;
		int r = seccomp_rule_add_array(f, SCMP_ACT_ALLOW, conditionals[i].nr, 1, &conditionals[i].arg);
		if (r < 0 && !no_such_call(r))
			return r;
	}
	for (size_t i = 0; i < ELEMENTS(hostile); i++) {
		if (hostile[i].groups & groups)
			continue;
		int r = seccomp_rule_add(f, SCMP_ACT_KILL_PROCESS, hostile[i].nr, 0);
		if (r < 0 && !no_such_call(r))
			return r;
	}
	/* So that abort() and assert() end the process with its own signal. */
	return seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
}

static int confine(unsigned groups)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	int r = f ? 0 : -ENOMEM;

	if (r == 0)
		r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
	if (r == 0)
		r = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);	/* a tree: the cost of a call does not grow with the list */
	if (r == 0)
		r = add_calls(f, groups | SANDBOX_CORE);
	if (r == 0)
		r = seccomp_load(f);
	seccomp_release(f);
	return r;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

int sandbox_confine(unsigned groups, struct diag *reterr_diag)
{
	int r = SANITIZED ? 0 : confine(groups);

	if (r < 0)
		diag_set(reterr_diag, "the seccomp filter: %s", strerror(-r));
	return r;
}

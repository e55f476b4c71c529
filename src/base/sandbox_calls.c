/*
 * Who may call what: the one table that all seccomp filters are made of.
 */
#include "base/sandbox_calls.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/sandbox.h"

enum {
	CORE = SANDBOX_CORE, LOOP = SANDBOX_LOOP, THREADS = SANDBOX_THREADS, SOCKETS = SANDBOX_SOCKETS, NETLINK = SANDBOX_NETLINK,
	READ_FILES = SANDBOX_READ_FILES, WRITE_FILES = SANDBOX_WRITE_FILES, PROCESSES = SANDBOX_PROCESSES, BPF = SANDBOX_BPF,
	SPAWN = SANDBOX_SPAWN, SOCKD = SANDBOX_SOCKD,

	FILES = READ_FILES | WRITE_FILES,
};

#define CALL(groups, name)	{ groups, SCMP_SYS(name) }

const struct sandbox_call sandbox_calls[] = {
	CALL(CORE, read), CALL(CORE, write), CALL(CORE, readv), CALL(CORE, writev), CALL(CORE, pread64), CALL(CORE, pwrite64),
	CALL(CORE | SOCKD, close), CALL(CORE, close_range), CALL(CORE, lseek), CALL(CORE, fstat), CALL(CORE, dup), CALL(CORE, dup2), CALL(CORE, dup3),
	CALL(CORE, fcntl), CALL(CORE | SOCKD, poll), CALL(CORE | SOCKD, ppoll), CALL(CORE, select), CALL(CORE, pselect6), CALL(CORE, brk),
	CALL(CORE, munmap), CALL(CORE, mremap), CALL(CORE, madvise), CALL(CORE, mlock), CALL(CORE, mlock2), CALL(CORE, munlock),
	CALL(CORE, membarrier), CALL(CORE, futex), CALL(CORE, set_robust_list), CALL(CORE, get_robust_list), CALL(CORE, rseq),
	CALL(CORE, rt_sigaction), CALL(CORE, rt_sigprocmask), CALL(CORE | SOCKD, rt_sigreturn), CALL(CORE, rt_sigtimedwait),
	CALL(CORE, rt_sigpending), CALL(CORE, sigaltstack), CALL(CORE | SOCKD, restart_syscall), CALL(CORE, exit), CALL(CORE | SOCKD, exit_group),
	CALL(CORE, clock_gettime), CALL(CORE, clock_getres), CALL(CORE, clock_nanosleep), CALL(CORE, nanosleep), CALL(CORE, pause), CALL(CORE, gettimeofday),
	CALL(CORE, time), CALL(CORE, getrandom), CALL(CORE, getpid), CALL(CORE, getppid), CALL(CORE, gettid), CALL(CORE, getuid), CALL(CORE, geteuid),
	CALL(CORE, getgid), CALL(CORE, getegid), CALL(CORE, getresuid), CALL(CORE, getresgid), CALL(CORE, getrusage), CALL(CORE, getrlimit),
	CALL(CORE, times), CALL(CORE, uname), CALL(CORE, sysinfo), CALL(CORE, sched_yield), CALL(CORE, sched_getaffinity), CALL(CORE, getcpu),
	CALL(CORE, ioctl),

	CALL(LOOP, epoll_create1), CALL(LOOP, epoll_ctl), CALL(LOOP, epoll_wait), CALL(LOOP, epoll_pwait), CALL(LOOP, eventfd2),
	CALL(LOOP, signalfd4), CALL(LOOP, timerfd_create), CALL(LOOP, timerfd_settime), CALL(LOOP, pipe2), CALL(LOOP, splice),

	CALL(THREADS | PROCESSES, set_tid_address), CALL(THREADS, sched_setaffinity),

	CALL(SOCKETS, socketpair), CALL(SOCKETS, bind), CALL(SOCKETS, connect), CALL(SOCKETS, listen), CALL(SOCKETS, accept), CALL(SOCKETS, accept4),
	CALL(SOCKETS, getsockname), CALL(SOCKETS, getpeername), CALL(SOCKETS | SOCKD, setsockopt), CALL(SOCKETS, getsockopt), CALL(SOCKETS, sendto),
	CALL(SOCKETS | SOCKD, sendmsg), CALL(SOCKETS, sendmmsg), CALL(SOCKETS, recvfrom), CALL(SOCKETS | SOCKD, recvmsg), CALL(SOCKETS, recvmmsg),
	CALL(SOCKETS, shutdown),

	CALL(FILES, stat), CALL(FILES, lstat), CALL(FILES, newfstatat), CALL(FILES, statx), CALL(FILES, access), CALL(FILES, faccessat),
	CALL(FILES, faccessat2), CALL(FILES, readlink), CALL(FILES, readlinkat), CALL(FILES, getdents64), CALL(FILES, getcwd), CALL(FILES, statfs),
	CALL(FILES, fstatfs), CALL(FILES, fadvise64), CALL(FILES, inotify_init1), CALL(FILES, inotify_add_watch), CALL(FILES, inotify_rm_watch),
	CALL(FILES, flock),

	CALL(WRITE_FILES, open), CALL(WRITE_FILES, openat), CALL(WRITE_FILES, creat), CALL(WRITE_FILES, rename), CALL(WRITE_FILES, renameat),
	CALL(WRITE_FILES, renameat2), CALL(WRITE_FILES, unlink), CALL(WRITE_FILES, unlinkat), CALL(WRITE_FILES, mkdir), CALL(WRITE_FILES, mkdirat),
	CALL(WRITE_FILES, rmdir), CALL(WRITE_FILES, ftruncate), CALL(WRITE_FILES, fsync), CALL(WRITE_FILES, fdatasync), CALL(WRITE_FILES, fallocate),
	CALL(WRITE_FILES, memfd_create),
	CALL(WRITE_FILES, chmod), CALL(WRITE_FILES, fchmod), CALL(WRITE_FILES, fchmodat), CALL(WRITE_FILES, fchown), CALL(WRITE_FILES, fchownat),
	CALL(WRITE_FILES, chown), CALL(WRITE_FILES, lchown), CALL(WRITE_FILES, umask), CALL(WRITE_FILES, utimensat), CALL(WRITE_FILES, link),
	CALL(WRITE_FILES, linkat), CALL(WRITE_FILES, symlinkat),

	CALL(PROCESSES, clone), CALL(PROCESSES, clone3), CALL(PROCESSES, fork), CALL(PROCESSES, vfork), CALL(PROCESSES, execve),
	CALL(PROCESSES, execveat), CALL(PROCESSES, wait4), CALL(PROCESSES, waitid), CALL(PROCESSES, kill), CALL(PROCESSES, pidfd_open),
	CALL(PROCESSES, pidfd_send_signal), CALL(PROCESSES, setpgid), CALL(PROCESSES, setsid), CALL(PROCESSES, prlimit64), CALL(PROCESSES, prctl),
	CALL(PROCESSES, arch_prctl),

	CALL(BPF, bpf),

	CALL(SPAWN, setresuid), CALL(SPAWN, setresgid), CALL(SPAWN, setgroups), CALL(SPAWN, capget), CALL(SPAWN, capset), CALL(SPAWN, seccomp),
	CALL(SPAWN, tgkill),
};
const size_t sandbox_n_calls = ELEMENTS(sandbox_calls);

#define ONLY(groups, name, n, op, ...)	{ groups, SCMP_SYS(name), { n, op, __VA_ARGS__ } }

const struct sandbox_condition sandbox_conditions[] = {
	ONLY(CORE, mmap, 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
	ONLY(SPAWN, mmap, 2, SCMP_CMP_MASKED_EQ, PROT_EXEC | PROT_WRITE, PROT_EXEC),	/* programs that it starts load their libraries */
	ONLY(CORE, mprotect, 2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
	ONLY(CORE, prctl, 0, SCMP_CMP_EQ, PR_SET_NAME, 0),
	ONLY(CORE, prlimit64, 2, SCMP_CMP_EQ, 0, 0),		/* reads only */
	ONLY(THREADS, clone, 0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD),
	ONLY(SOCKETS | SOCKD, socket, 0, SCMP_CMP_EQ, AF_INET, 0),
	ONLY(SOCKETS | SOCKD, socket, 0, SCMP_CMP_EQ, AF_INET6, 0),
	ONLY(SOCKETS, socket, 0, SCMP_CMP_EQ, AF_UNIX, 0),
	ONLY(NETLINK, socket, 0, SCMP_CMP_EQ, AF_NETLINK, 0),
	ONLY(READ_FILES, open, 1, SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, 0),
	ONLY(READ_FILES, openat, 2, SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, 0),
};
const size_t sandbox_n_conditions = ELEMENTS(sandbox_conditions);

/* What only somebody who has taken over the process would try: unless its groups allow it, that is the end. */
const struct sandbox_call sandbox_attacks[] = {
	CALL(PROCESSES, execve), CALL(PROCESSES, execveat), CALL(0, ptrace), CALL(0, process_vm_readv), CALL(0, process_vm_writev),
	CALL(0, init_module), CALL(0, finit_module), CALL(0, delete_module), CALL(0, kexec_load), CALL(0, mount), CALL(0, umount2),
	CALL(0, pivot_root), CALL(0, chroot), CALL(0, unshare), CALL(0, setns), CALL(0, keyctl), CALL(0, add_key), CALL(0, userfaultfd),
	CALL(0, perf_event_open), CALL(BPF, bpf), CALL(0, io_uring_setup), CALL(0, kcmp), CALL(0, kexec_file_load), CALL(0, move_mount),
	CALL(0, open_tree), CALL(0, fsopen), CALL(0, fsmount), CALL(0, open_by_handle_at), CALL(0, reboot), CALL(0, swapon), CALL(0, swapoff),
	CALL(0, acct), CALL(0, quotactl), CALL(0, settimeofday), CALL(0, clock_settime), CALL(0, clock_adjtime), CALL(0, adjtimex),
	CALL(0, request_key), CALL(0, iopl), CALL(0, ioperm), CALL(0, io_uring_enter), CALL(0, io_uring_register), CALL(0, mknod), CALL(0, mknodat),
	CALL(0, syslog), CALL(0, vhangup), CALL(0, personality),
};
const size_t sandbox_n_attacks = ELEMENTS(sandbox_attacks);

#pragma once
#include <stddef.h>
#include <sys/types.h>
#include "base/defs.h"
#include "base/diag.h"

/*
 * Giving up rights, for every program of ours: user and capabilities, then a
 * seccomp filter that allows named groups of system calls and nothing else.
 *
 * sandbox_calls.c is the table. A call that is on no list fails with ENOSYS, which is what a kernel without
 * it would say, so libraries take their older way; the few that only an
 * attacker makes (sandbox_attacks) end the process. Memory can never be made
 * executable; with SANDBOX_SPAWN files can be mapped so, but not be writable too.
 */
enum sandbox_group {
	SANDBOX_CORE		= 1 << 0,	/* memory, clocks, signals to itself, open descriptors; always on */
	SANDBOX_LOOP		= 1 << 1,	/* epoll, eventfd, signalfd, timerfd, pipes */
	SANDBOX_THREADS		= 1 << 2,	/* new threads, no processes */
	SANDBOX_SOCKETS		= 1 << 3,	/* of TCP, UDP and unix, made and used */
	SANDBOX_NETLINK		= 1 << 4,	/* route netlink */
	SANDBOX_READ_FILES	= 1 << 5,
	SANDBOX_WRITE_FILES	= 1 << 6,	/* make, rename, delete; implies reading */
	SANDBOX_PROCESSES	= 1 << 7,	/* fork, exec, wait, kill */
	SANDBOX_BPF		= 1 << 8,	/* bpf(), perf events not */
	SANDBOX_SPAWN		= 1 << 9,	/* become somebody else and load programs: for the monitor, whose filter its proxies inherit */
	SANDBOX_SOCKD		= 1 << 10,	/* the socket helper, alone: no core either, and whatever else ends it */
};

struct sandbox_user {
	uid_t uid;		/* (uid_t)-1: stay who we are */
	gid_t gid;
	const int *keep_caps;	/* CAP_*; the bounding set is emptied but for them */
	size_t n_keep_caps;
};

/*
 * Becomes @user with no supplementary groups and only those capabilities. When
 * the process is not privileged, changing the user is refused, and there is
 * nothing else to give up. Also: no_new_privs, no core dumps, not to be traced.
 * Before threads start. Negative errno, with the reason.
 */
MUST_CHECK int sandbox_drop(const struct sandbox_user *user, struct diag *reterr_diag);

/* No new privileges, no core dumps, not to be traced: a part of sandbox_drop(). */
MUST_CHECK int sandbox_harden(void);

/* Loads the filter, for all threads there are. A build with a sanitizer does without: its runtime needs more. */
MUST_CHECK int sandbox_confine(unsigned groups, struct diag *reterr_diag);

/* "nobody", "1000", "nobody:nogroup" to ids. -EINVAL with the reason. */
MUST_CHECK int sandbox_user_parse(const char *text, struct sandbox_user *user, struct diag *reterr_diag);

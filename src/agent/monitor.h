#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "agent/steer_conf.h"
#include "base/defs.h"

/*
 * The root monitor: the only part of the agent with privileges.
 *
 * It serves typed, validated requests of the unprivileged worker
 * (monitor_client.h) over a SOCK_SEQPACKET pair, and parses nothing that came
 * from the network. Anything odd from the worker ends it.
 *
 * Use: fdmsg_pair(); fork(); the child gives up its privileges and becomes the
 * worker with one end, the parent calls monitor_run() with the other.
 */

/*
 * Serves until the worker closes its end, then undoes what was set up (unless
 * it is pinned) and returns 0. Negative errno when it could not start or when
 * the worker misbehaved (-EPROTO). Reads the kernel's state only when the
 * worker asks for it, so it may be called before any device exists.
 *
 * SIGHUP is passed on to @worker, when that is not 0.
 *
 * Keeps CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_SETUID,
 * CAP_SETGID, CAP_KILL and CAP_SYS_RESOURCE, and installs a seccomp filter.
 */
MUST_CHECK int monitor_run(const struct steer_conf *conf, int sock, pid_t worker);

/*
 * For the worker's side of the fork: no supplementary groups, the uid and gid
 * of @conf, no capability, no way to gain any.
 */
MUST_CHECK int monitor_drop_worker(const struct steer_conf *conf);

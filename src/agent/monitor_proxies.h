#pragma once
#include <stdint.h>
#include <sys/types.h>
#include "agent/monitor_client.h"
#include "agent/monitor_users.h"
#include "agent/steer_conf.h"
#include "base/defs.h"

/*
 * The proxy processes that this monitor started: those of an isolation group
 * under a uid and gid of its own and with a folder of its own (monitor_folders.h),
 * so that tenants cannot signal, trace or read one another, nor take one
 * another's sockets.
 */
struct monitor_proxy {
	uint32_t id;		/* 0: the slot is free */
	pid_t pid;
	char group[MONITOR_GROUP_LEN];
};

struct monitor_proxies {
	const struct steer_conf *conf;
	struct monitor_proxy *list;	/* max_proxies */
	struct monitor_users users;
	uint32_t last_id;
};

MUST_CHECK int monitor_proxies_init(struct monitor_proxies *p, const struct steer_conf *conf);
/* Forgets the processes and lets them run: they serve on without an agent. */
void monitor_proxies_deinit(struct monitor_proxies *p);

/* @argv begins with the program's name and ends with NULL. The error of the exec, when that is what failed. */
MUST_CHECK int monitor_proxies_spawn(struct monitor_proxies *p, const char *group, char *const *argv, const int *fds, size_t n_fds,
				     uint32_t *ret_id, pid_t *ret_pid);
MUST_CHECK int monitor_proxies_signal(struct monitor_proxies *p, uint32_t id, int signo);

/* After a SIGCHLD: the next one that has ended. -ECHILD: no more. */
MUST_CHECK int monitor_proxies_reap(struct monitor_proxies *p, uint32_t *ret_id, pid_t *ret_pid, int *ret_status);

#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "agent/steer_conf.h"
#include "base/defs.h"

/*
 * Which user the proxies of an isolation group run under: the monitor's own
 * record, so that a worker that is not itself any more has no say in it, and
 * pinned beside steering, so that it is as old as the oldest process.
 *
 * A group keeps its user. Only when all users have been given does the one go
 * to another group whose processes have all ended, the longest unused first.
 */
struct monitor_users {
	const struct steer_conf *conf;
	int map;			/* -1: not open yet; a BPF map is what root can keep in a folder that nobody else reaches */
};

void monitor_users_init(struct monitor_users *u, const struct steer_conf *conf);
void monitor_users_deinit(struct monitor_users *u);

/* The user of @group, from proxy_uid_base on. -ENOENT: it has none. */
MUST_CHECK int monitor_users_find(struct monitor_users *u, const char *group, uid_t *ret_uid);
/* The same, and it is given one. -EUSERS: there is none left; -EAGAIN: too many of its processes are there. */
MUST_CHECK int monitor_users_give(struct monitor_users *u, const char *group, uid_t *ret_uid);
/* It has a user, and none of its processes is there. */
bool monitor_users_are_idle(struct monitor_users *u, const char *group);
/* A process of it was started. */
MUST_CHECK int monitor_users_started(struct monitor_users *u, const char *group, pid_t pid);

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/diag.h"
#include "base/list.h"
#include "base/loop.h"
#include "base/map.h"
#include "mesh/channel.h"
#include "mesh/httpd.h"
#include "mesh/names.h"
#include "outrigger/ipc.pb-c.h"
#include "proxy/access_log.h"
#include "proxy/agent_link.h"
#include "proxy/knowledge.h"
#include "proxy/mailbox.h"
#include "proxy/metrics.h"
#include "proxy/slots.h"
#include "proxy/sockd.h"
#include "proxy/state_file.h"
#include "proxy/tee_relay.h"
#include "proxy/worker.h"

/*
 * The main thread of outrigger-proxy: what its files share. It talks to the
 * agent and the mesh controller, keeps certificates and the snapshot, and tells
 * the workers; no traffic passes through it.
 */
struct sidecar;

enum { PROXY_WORKERS_MAX = 16 };

struct proxy_options {
	const char *group;		/* isolation group */
	unsigned workers;		/* 0: one a processor, at most 4 */
	unsigned mark_base;
	const char *static_file;	/* NULL: an agent speaks on descriptor 3 */
	const char *user;		/* become this user; NULL: stay */
	const char *log_level;
	bool log_json;
	bool round_robin;
	bool version;			/* only print it */
};

struct proxy {
	/* fixed for the process's life */
	struct loop *loop;
	struct proxy_options options;
	struct mailbox mail;		/* from the workers */
	struct worker *workers[PROXY_WORKERS_MAX];
	size_t n_workers;
	struct agent_link *link;	/* also without an agent */
	struct knowledge *knowledge;
	char network[NAMES_NETWORK_LEN];	/* of the VMs */
	struct metrics *metrics;
	struct sockd_pool *sockd;	/* of this thread, for checks of health; NULL: ordinary sockets */
	struct access_log *access_log;
	uint64_t start_ms;
	uint32_t connections_max;	/* of one VM, by the descriptors that the process may have */

	/* changes */
	Outrigger__Ipc__Setup *setup;	/* NULL: has not come yet */
	struct channel *channel;	/* to the mesh controller; NULL without one */
	struct channel_user channel_watch;	/* tells the VMs when it cannot be reached */
	bool unpublished;		/* a worker has not got the newest snapshot: no memory */
	struct revocations *revoked;	/* certificates that peers must not show any more; NULL: none */
	struct map sidecars;		/* by VM id */
	struct list leaving;		/* sidecars that drain */
	struct list shown;		/* sidecars that the agent and the admin socket are told of: while the process ends, those that drain as well */
	struct slots slots;
	uint32_t next_holder;
	size_t next_worker;		/* for proxy_dial() */
	struct httpd *admin;
	char *admin_path;
	struct state_file state;
	bool unkept;			/* it could not be written */
	uint64_t told_dropped, dropped_quiet_ms;	/* lines of the access log */
	bool restored;			/* the last configuration is in force until the mesh controller has spoken */
	bool restored_wanted;		/* one of the VMs has asked for all of it */
	struct tee_relay tee;
	struct timer tick;		/* every second */
	unsigned n_ticks;
	unsigned save_at_tick;		/* not before it */
	size_t most_open;		/* connections, since memory was last given back */
	uint64_t n_reports;		/* of connections */
	uint64_t reports_at_tick, reports_at_trim;	/* how many there were at the last tick, and when memory was last given back */
	uint64_t rests_at_trim;		/* likewise: how often tunnels had fallen quiet */
	size_t trimmed_open;		/* one more than there were when it was last given back; 0: no wave of ends */
	struct timer stop_timer;
	bool stopping;
	bool standby;			/* a process before this one serves still: names and state files are its */
	uint32_t drain_ms;		/* of a retired process: the stop timer begins it */
	void (*reload)(struct proxy *p);	/* on SIGHUP; NULL: nothing to read again */
	char **vm_ids;			/* of the last Hello */
};

/* --- proxy.c --- */

/* Everything but the start-up that needs privileges; @sockd_socks has one for each worker, then one for the main thread, or is NULL. */
MUST_CHECK int proxy_init(struct proxy *p, const struct proxy_options *options, const int *sockd_socks);
void proxy_deinit(struct proxy *p);
unsigned proxy_n_workers(const struct proxy_options *options);

MUST_CHECK int proxy_vm_put(struct proxy *p, const Outrigger__Ipc__VmPut *m, int *fds, size_t n_fds, struct diag *reterr_diag);
/* What @bytes (outrigger.v1.Revocations) says is revoked, from now on. -EBADMSG with the reason, -E2BIG, -ENOMEM. */
MUST_CHECK int proxy_revoke(struct proxy *p, const void *bytes, size_t len, struct diag *reterr_diag);
/* Gives the workers the newest snapshot. */
void proxy_publish(struct proxy *p);
/* Has a worker take @fd for a connection of @vm; @fd is taken over. -ENOMEM. */
MUST_CHECK int proxy_dial(struct proxy *p, struct vm *vm, int fd, const struct ip_port *src, const struct ip_port *dst);
struct sidecar *proxy_sidecar(const struct proxy *p, const char *vm_id);
/* A sidecar has ended. */
void proxy_forget(struct proxy *p, struct sidecar *s);

/* --- proxy_setup.c --- */

/* Puts everything of a Setup into force that can change. @m is copied. @state_fds: two, taken over (then -1), or NULL. */
MUST_CHECK int proxy_setup(struct proxy *p, const Outrigger__Ipc__Setup *m, int *state_fds, struct diag *reterr_diag);
/* The mesh controller is not ours. */
bool proxy_is_istio(const Outrigger__Ipc__MeshController *mc);

/* --- proxy_load.c --- */

/* Answers the agent's LoadRequest. */
void proxy_send_load(struct proxy *p);

/* --- admin.c --- */
MUST_CHECK int admin_listen(struct proxy *p, const char *path, struct diag *reterr_diag);

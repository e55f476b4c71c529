#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/diverts.h"
#include "agent/monitor_client.h"
#include "agent/policy.h"
#include "base/backoff.h"
#include "base/defs.h"
#include "base/list.h"
#include "base/loop.h"
#include "base/map.h"
#include "outrigger/ipc.pb-c.h"

/*
 * The supervisor: one service proxy for each VM that joins, hosted in the
 * proxy process of its isolation group.
 *
 * It starts and watches the processes, hands each VM's listeners over, and
 * diverts the VM's flows while its proxy serves. A process that dies is back
 * within 100 ms (the first time; then it backs off). Two small state machines,
 * one a process and one a VM, are tables in supervisor.c.
 *
 * What it does to the system goes through struct supervisor_system, so that a
 * test can stand in for the monitor.
 */
struct supervisor;

enum { PROCESS_IPC_VERSION = 1 };	/* of proto/outrigger/ipc.proto */

enum process_state {
	PROCESS_IDLE,		/* not there */
	PROCESS_STARTING,	/* runs, has not said hello */
	PROCESS_RUNNING,
	PROCESS_BACKOFF,	/* died, or could not be started: the timer runs */
	PROCESS_STOPPING,	/* was told to end */
	_PROCESS_STATE_N
};

enum vm_state {
	VM_WAITING,		/* for its process */
	VM_PREPARING,		/* the proxy has it: certificate, configuration */
	VM_SERVING,		/* flows are diverted */
	VM_BROKEN,		/* the proxy says that it cannot serve */
	VM_LEAVING,		/* the proxy drains it */
	_VM_STATE_N
};

struct supervisor_system {
	int (*spawn)(void *data, const struct monitor_spawn *s, uint32_t *ret_proxy, pid_t *ret_pid);
	int (*kill)(void *data, uint32_t proxy);
	int (*listeners_make)(void *data, uint32_t vm, int ret_fds[2]);
	int (*access_log_open)(void *data, const char *path);	/* a descriptor, the caller's */
	int (*dns_make)(void *data, uint32_t vm, int ret_fds[2]);
	int (*divert_add)(void *data, const struct monitor_divert *d);
	int (*divert_remove)(void *data, const struct monitor_divert *d);
	int (*diverts_settle)(void *data, uint32_t vm);	/* what a predecessor left and was not added again goes */
	void *data;
};

struct process {
	struct list link;		/* supervisor.processes */
	struct supervisor *supervisor;
	char group[POLICY_GROUP_LEN];
	enum process_state state;
	uint32_t handle;		/* the monitor's; 0: adopted from a predecessor */
	pid_t pid;
	struct proxy_link *ipc;		/* NULL while there is none */
	struct timer timer;
	struct backoff backoff;
	uint64_t started_ms;
	uint32_t n_starts;
	char *had[64];			/* guests that an adopted process serves and that have not come back yet */
	size_t n_had;
	struct list vms;		/* struct proxy_vm.in_process */
	uint64_t cpu_ns;
	uint64_t rss_bytes;
	uint64_t connections;		/* open ones of all its VMs */

	char software[64];		/* as it says itself */
	char binary[96];		/* its program's file */
	bool adopted;			/* from a predecessor of this agent */

	/* upgrade.c */
	struct process *next;		/* its successor, which gets ready; NULL: none */
	struct process *prev;		/* of such a one: whom it succeeds */
	bool retired;			/* has handed over, and drains */
	struct timer deadline;		/* of one that gets ready */
	uint64_t upgrade_after_ms;	/* not by itself before */
	char upgrade[200];		/* how the last one went: "", "running", "done", or why it was given up */
};

struct vm_load {
	uint64_t connections_opened, connections_open, bytes_sent, bytes_received, failed, buffered_bytes;
};

struct proxy_vm {
	struct map_link by_id;
	struct list in_process;
	struct process *process;
	char id[160];
	uint32_t slot;
	enum vm_state state;
	bool wanted;			/* else it goes for good when it has left */
	bool held;			/* the process has it (VmPut was sent, or it was adopted) */
	bool has_dns;			/* and was given sockets for queries by this agent */
	bool next_held;			/* the process's successor has it, to get ready */
	bool next_ready;		/* and is */
	int credential_fd;		/* its key and certificate in sealed memory, never read here; -1: none */

	Outrigger__Ipc__VmPut *put;	/* as it was last wished, without the token */
	char *token;
	bool fail_closed;
	struct diverts diverts;		/* as wished */
	struct diverts set;		/* as they are now */
	bool settled;			/* of a predecessor's nothing is left */
	char next_group[POLICY_GROUP_LEN];	/* it moves there when it has left; empty: no */
	uint32_t drain_ms;		/* VM_LEAVING: how long, and the timer of its end */
	struct timer timer;

	/* What the proxy last said. */
	Outrigger__Ipc__VmState said;
	char detail[160];
	char identity[320];
	int64_t cert_not_after;
	uint64_t wanted_ns;		/* CLOCK_MONOTONIC: first wished, ready for the first time, last state */
	uint64_t ready_ns;
	uint64_t said_ns;
	struct vm_load load;
	Outrigger__Ipc__VmHealth *health;	/* NULL: it has not said yet */
};

struct supervisor_ops {
	void (*changed)(struct proxy_vm *vm, void *data);	/* what the proxy said, or whether there is one */
	void (*gone)(struct proxy_vm *vm, void *data);		/* freed afterwards */
	void (*health)(struct proxy_vm *vm, void *data);	/* proxy_vm.health is another */
	void (*token_wanted)(struct proxy_vm *vm, const char *reason, void *data);
	void (*tee)(struct proxy_vm *vm, const Outrigger__Ipc__Tee *tee, void *data);
	void (*failed)(const char *what, const char *subject, int r, void *data);	/* for the log */
	void *data;
};

struct supervisor_conf {		/* borrowed for the supervisor's life */
	const char *run_dir;		/* the groups' folders, with sockets of the proxies */
	const char *state_dir;		/* a folder for their last configurations; "" for none */
	uint32_t state_keep_ms;		/* so long for what a predecessor has left there to be wanted again */
	const char *proxy_path;		/* the installed program; NULL: it is not looked at */
	bool upgrade_adopted;		/* adopted processes of another program are replaced by themselves */
	uint32_t upgrade_drain_ms;	/* for the connections of a process that was replaced */
	uint32_t mark_base;
	uint32_t workers;
	const char *log_level;
	bool log_json;
	uint32_t drain_ms;
	uint32_t linger_ms;		/* a process without a VM goes after it */
};

struct supervisor {
	struct loop *loop;
	struct supervisor_conf conf;
	struct supervisor_system system;
	struct supervisor_ops ops;
	Outrigger__Ipc__Setup *setup;	/* NULL: the mesh is not known yet, nothing is started */
	int access_log_fd;		/* one for all processes; -1: none */
	struct list processes;
	struct map vms;			/* struct proxy_vm.by_id */
	uint64_t n_restarts;
	uint64_t sweep_at_ms;		/* state_dir is looked through */
};

/* What a VM is to be given. @put has no token; it is copied. */
struct supervisor_wish {
	uint32_t slot;
	const char *group;
	const Outrigger__Ipc__VmPut *put;
	const struct divert_wish *diverts;
	bool fail_closed;
};

MUST_CHECK int supervisor_init(struct supervisor *s, struct loop *loop, const struct supervisor_conf *conf,
			       const struct supervisor_system *system, const struct supervisor_ops *ops);
/* The processes are left alone: they serve until somebody adopts or stops them. */
void supervisor_deinit(struct supervisor *s);

/*
 * Who the mesh's control plane is: copied, sent to every process. The access
 * log is opened anew, since it may have been moved away. -ENOMEM.
 */
MUST_CHECK int supervisor_set_mesh(struct supervisor *s, const Outrigger__Ipc__Setup *setup);

/* The VM gets a proxy, or the one that it has is changed. -ENOMEM, -E2BIG. */
MUST_CHECK int supervisor_want(struct supervisor *s, const struct supervisor_wish *wish);
/* It leaves the mesh: no new flow is diverted, those there are may end. */
void supervisor_unwant(struct supervisor *s, const char *id, uint32_t drain_ms);
/* It is not there any more: processes that have handed over and drain let go of it, too. */
void supervisor_vanished(struct supervisor *s, const char *id);
/* @refused: why there is no token, or NULL. */
MUST_CHECK int supervisor_token(struct supervisor *s, const char *id, const char *token, const char *refused);
struct proxy_vm *supervisor_find(const struct supervisor *s, const char *id);

/* The monitor says that a process has ended. */
void supervisor_exited(struct supervisor *s, const struct monitor_exit *e);
/*
 * A process that a predecessor left, by its connected socket (taken over).
 * @draining: it has handed its VMs over, and is only looked at. -EBUSY: the group has one that has not.
 */
MUST_CHECK int supervisor_adopt(struct supervisor *s, const char *group, int fd, pid_t pid, bool draining);
/*
 * Begins to replace the process of @group by one of the installed program:
 * the new one gets certificates and configuration, then the listeners; the old
 * one drains. process.upgrade says how it goes. -ESRCH: there is none that runs;
 * -EALREADY; -EAGAIN: it was just adopted and not all its guests are known yet.
 */
MUST_CHECK int supervisor_upgrade(struct supervisor *s, const char *group);
/* It runs another program than the one that is installed, or does not say which. */
bool supervisor_outdated(const struct supervisor *s, const struct process *p);
/* About once a second: asks every process for its load (the answers come in proxy_vm.load), tries again what failed. */
void supervisor_tick(struct supervisor *s);
/* All processes are told to end. */
void supervisor_shutdown(struct supervisor *s, uint32_t drain_ms);

/* "<run_dir>/<group>/<pid>.<what>"; "" when that is longer than a socket's path may be. */
const char *process_path(const struct process *p, const char *what, char path[static 108]);

const char *process_state_name(enum process_state state);
const char *vm_state_name(enum vm_state state);
/* The proxy's words: "starting", "ready", ... */
const char *supervisor_said_name(Outrigger__Ipc__VmState said);

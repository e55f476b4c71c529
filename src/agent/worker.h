#pragma once
#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include "agent/capture.h"
#include "agent/catalog.h"
#include "agent/config.h"
#include "agent/containers.h"
#include "agent/guest.h"
#include "agent/judge.h"
#include "agent/monitor_client.h"
#include "agent/nodes.h"
#include "agent/places.h"
#include "agent/policy.h"
#include "agent/session.h"
#include "agent/supervisor.h"
#include "base/defs.h"
#include "base/loop.h"
#include "discover/engine.h"
#include "mesh/names.h"

/*
 * The unprivileged worker: everything of the agent that looks at bytes from
 * the network or decides. One loop, one thread. worker.c puts the parts
 * together, worker_proxies.c those that serve; feed.c brings what was captured to the engine and what that
 * observed to the catalog; member.c decides; admin.c tells.
 */
struct tee;
struct admin;

struct worker {
	/* Fixed for its life. */
	struct loop *loop;
	struct config *conf;		/* reload.c changes what may change */
	const char *conf_path;
	struct monitor_client *monitor;
	struct watch monitor_watch;
	struct monitor_loaded loaded;
	struct guest_rule *rules;
	size_t n_rules;
	struct judge_court court;
	uint64_t started_ms;

	/* What is known. */
	struct places places;
	struct own_addresses *own;
	struct guest_table guests;
	struct catalog catalog;
	struct policy_set *policies;	/* NULL: none yet */
	struct containers *containers;
	struct nodes *nodes;		/* NULL: none told yet */
	struct diag conf_error;		/* why the file was not taken when it was read again; msg "" when it was */
	char policy_refused[256];	/* why the last set was not taken; "" when it was */
	char trust_domain[256];
	char cluster_id[128];
	char network[NAMES_NETWORK_LEN];
	char mesh_controller[256];
	bool revoked;
	bool told_l2;			/* the proxies know that ports are bridged */

	json_t *memory;			/* memory.c: of a predecessor; NULL: nothing (any more) */
	bool memory_dirty, memory_unsaved;
	uint64_t memory_at_ms;		/* not before */
	struct knowledge_file *unsaved;	/* of knowledge.c: what has to be written yet */
	uint32_t memory_ticks;		/* until it is forgotten */

	/* What is done. */
	struct engine *engine;
	struct capture *capture;
	struct supervisor supervisor;
	char proxy_state[PATH_MAX];	/* folder of the proxies' last configurations */
	struct session *session;
	struct admin *admin;
	struct timer tick;
	struct timer expiry;

	/* feed.c: the packet at hand. */
	struct guest *current;
	uint64_t frame;
	uint64_t next_engine_id;
	uint8_t datagram[4096];		/* one that comes in pieces */
	size_t n_datagram;
	struct map tees;		/* struct tee */
	uint32_t tee_ports[MONITOR_MAX_SNIFF];	/* of TCP: the proxies copy streams to these */
	size_t n_tee_ports;
	uint64_t n_unplaced;		/* records of no place or guest */
	uint64_t n_sightings;
	uint64_t n_claims_refused;
	uint64_t n_claims_full;
	unsigned budget_tick;
};

struct worker_start {			/* the strings are borrowed for the worker's life */
	struct config *conf;
	const char *conf_path;
	const char *roots_pem;
	char *join_token;
};

/*
 * Runs until SIGTERM or SIGINT (returns 0), or until something fails that it
 * cannot go on without. @sock: to the monitor, taken over. Has no privileges
 * any more and needs none.
 */
MUST_CHECK int worker_run(const struct worker_start *start, int sock);

/* --- worker_proxies.c --- */

/* @run_dir: of the proxies' sockets, borrowed for the worker's life. */
MUST_CHECK int worker_start_supervisor(struct worker *w, const char *run_dir);
/* What VMs send that nobody serves or remembers passes again. */
void worker_open_forgotten(struct worker *w);
/* The diverts of VMs that have not come back to the mesh go. */
void worker_settle_others(struct worker *w);

/* --- reload.c --- */
/*
 * Reads the file again. Whole or not at all: -EINVAL with a reason (kept in
 * conf_error, too), -ENOMEM; then the last good one stays in force. Settings
 * that only a start reads keep their value; @ret_waiting (the caller's) lists
 * them as "section.name".
 */
MUST_CHECK int reload_config(struct worker *w, json_t **ret_waiting, struct diag *reterr_diag);
void worker_touch_everybody(struct worker *w);

/* --- feed.c --- */
int feed_record(const struct capture_record *r, void *data);		/* a capture_fn */
void feed_tee(struct proxy_vm *vm, const Outrigger__Ipc__Tee *t, void *data);
void feed_observation(const struct observation *o, void *data);		/* an observation_fn */
void feed_forget(struct worker *w, const struct guest *g);
/* What is to be sniffed: every port of the engine's protocols. */
MUST_CHECK int feed_set_ports(struct worker *w);

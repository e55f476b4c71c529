#pragma once
#include "discover/observation.h"
#include "discover/zk_asked.h"
#include "discover/zk_guest.h"
#include "discover/zk_stream.h"
#include "proto/jute.h"
#include "proto/zk_instance.h"

/*
 * Inside of the observer of ZooKeeper: zookeeper.c has the connection and pairs
 * requests and replies, zk_nodes.c knows what a guest's sessions keep there,
 * zk_lookup.c what it asks for; both tell it by zk_emit.c. Nobody else includes
 * this.
 */
enum { ZK_OBSERVER_MAX_PATH = 16 * 1024 };

struct zk_observer {
	struct zk_guest *guest;
	struct zk_guest *own;		/* the same, when there is no guest to share it */
	struct zk_framer to;
	struct zk_framer from;
	struct zk_queue queue;
	struct zk_asked asked;
	struct ip_port client;
	struct ip_port server;
	uint64_t session;		/* 0: not known yet */
	uint64_t asked_session;		/* of the connect request: the one to be resumed */
	bool begun;			/* the client's first bytes were seen */
	bool answered;			/* and something of the server */
	bool connecting;		/* a connect request waits for its response */
	const struct discover_ctx *ctx;	/* of the call at hand */
};

/* A zero-terminated copy; false for what no path is. */
bool zk_copy_path(struct jute_str s, char to[static ZK_OBSERVER_MAX_PATH]);

/* --- zk_emit.c --- */

uint64_t zk_instance_hash(const struct zk_instance *i);
void zk_emit_instance(struct zk_observer *s, enum observation_kind kind, const struct zk_instance *i, uint32_t ttl_s);
void zk_emit_discover(struct zk_observer *s, const char *service);

/* --- zk_nodes.c: requests that were answered without an error --- */

void zk_on_created(struct zk_observer *s, const struct jute_request *r, struct jute_str reply_path);
void zk_on_data_set(struct zk_observer *s, const struct jute_request *r, uint64_t owner);
void zk_on_deleted(struct zk_observer *s, const struct jute_request *r);
void zk_on_multi(struct zk_observer *s, const struct jute_request *multi, struct jute_reply *reply);
/* A stat names the session for sure. */
void zk_learn_session(struct zk_observer *s, uint64_t id);
/* What was told of a node, or of all of a session's, is told to be gone. */
void zk_node_gone(struct zk_guest *g, struct zk_node *n, const struct discover_ctx *ctx);
void zk_session_gone(struct zk_guest *g, uint64_t id, const struct discover_ctx *ctx);

/* --- zk_lookup.c --- */

/* A question for the children of @dir. What is no service by its path is told when an instance turns up in it. */
void zk_on_children_asked(struct zk_observer *s, const char *dir, bool watch);
void zk_on_children(struct zk_observer *s, const struct jute_request *r, struct jute_reply *reply);
void zk_on_data(struct zk_observer *s, const struct jute_request *r, struct jute_reply *reply);
/*
 * Dubbo's consumers write themselves down and then watch the providers: one
 * question, whichever of the two comes first.
 */
void zk_on_consumer(struct zk_observer *s, const char *path, const char *service);
/* Who takes part in a lock asks for the others that do: no question for a service. */
void zk_note_recipe(struct zk_observer *s, const char *path);

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/ip.h"
#include "base/list.h"
#include "base/map.h"

/*
 * A guest's sessions at ZooKeeper and the nodes it made, which live as long as
 * their session does, whatever becomes of its connections. Bounded: what does
 * not fit is not followed.
 */
enum {
	ZK_GUEST_MAX_SESSIONS = 256,
	ZK_GUEST_MAX_NODES = 8192,
	ZK_DEFAULT_TIMEOUT_MS = 40000,	/* of a session whose beginning was not seen */
};

struct zk_session {
	struct map_link link;
	uint64_t id;
	uint32_t timeout_ms;
	uint64_t last_ns;		/* of the last packet of the client */
	bool closing;			/* it asked to be closed */
};

struct zk_node {
	struct map_link link;
	struct list in_order;
	char *path;
	uint64_t session;		/* 0: it stays without one */
	struct ip_port registry;
	uint64_t hash;			/* of the instance as it was told */
	bool told;			/* there was a register, and what follows is filled in */
	char *service;
	char *instance;
	char *host;
	char *app_protocol;
	struct ip address;
	uint16_t port;
};

struct zk_guest {
	struct map sessions;
	struct map nodes;
	struct list in_order;		/* the nodes, oldest first */
};

struct zk_guest *zk_guest_new(void);
struct zk_guest *zk_guest_free(struct zk_guest *g);

/* NULL: no memory or no room. */
struct zk_session *zk_guest_session(struct zk_guest *g, uint64_t id);
struct zk_session *zk_guest_find_session(const struct zk_guest *g, uint64_t id);
void zk_guest_remove_session(struct zk_guest *g, struct zk_session *s);	/* its nodes stay */

struct zk_node *zk_guest_node(struct zk_guest *g, const char *path);
struct zk_node *zk_guest_find_node(const struct zk_guest *g, const char *path);
void zk_guest_remove_node(struct zk_guest *g, struct zk_node *n);

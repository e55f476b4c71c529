#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/ip.h"
#include "base/list.h"
#include "base/map.h"

/*
 * What one guest has told Consul so far: later requests name their instance
 * only by its id, or by the id of a check. Bounded; what does not fit is not
 * remembered.
 */
enum {
	CONSUL_GUEST_MAX_INSTANCES = 4096,
	CONSUL_GUEST_MAX_CHECKS = 8192,
	CONSUL_GUEST_MAX_WATCHES = 512,
	CONSUL_GUEST_MAX_SEEN = 1024,	/* instances remembered of one watch's answer */
};

struct consul_known {
	struct map_link link;
	struct list in_order;
	char *key;			/* node, line feed, id */
	char *node;			/* "" for those registered at an agent */
	char *id;
	char *service;
	char *host;			/* NULL, or the name that was given for an address */
	struct ip address;
	uint16_t port;
	uint32_t ttl_s;
	bool infrastructure;		/* a sidecar or gateway: remembered to be left out */
};

/* A blocking query and what it was last answered. */
struct consul_watch {
	struct map_link link;
	char *key;
	uint64_t *seen;			/* hashes of instances */
	size_t n_seen;
};

struct consul_guest {
	struct map instances;
	struct list in_order;		/* the instances, oldest first */
	struct map checks;
	struct map watches;
};

struct consul_guest *consul_guest_new(void);
struct consul_guest *consul_guest_free(struct consul_guest *g);

/* The instance, made if need be; NULL: no memory or no room. @node "" for the agent's own. */
struct consul_known *consul_guest_add(struct consul_guest *g, const char *node, const char *id, const char *service);
/* With @node "" or unknown there: any instance of that id. */
struct consul_known *consul_guest_find(const struct consul_guest *g, const char *node, const char *id);
void consul_guest_remove(struct consul_guest *g, struct consul_known *k);

/* Which instance a check is of. False: no memory or no room. */
bool consul_guest_add_check(struct consul_guest *g, const char *check_id, const char *instance_id);
void consul_guest_remove_check(struct consul_guest *g, const char *check_id);
/*
 * The id of the instance that a check is of: as registered, else by the server's
 * default "service:<id>" or "service:<id>:<n>". NULL: a node's check, or unknown.
 * @buf holds the answer in the latter case.
 */
const char *consul_guest_check_instance(const struct consul_guest *g, const char *check_id, char *buf, size_t size);

/* The watch @key, and whether it was there already. NULL: no memory or no room. */
struct consul_watch *consul_guest_watch(struct consul_guest *g, const char *key, bool *ret_known);
struct consul_watch *consul_guest_find_watch(const struct consul_guest *g, const char *key);
bool consul_watch_saw(const struct consul_watch *w, uint64_t hash);
/* Takes over @hashes (of malloc). */
void consul_watch_set(struct consul_watch *w, uint64_t *hashes, size_t n);

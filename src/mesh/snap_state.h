#pragma once
#include <stdatomic.h>
#include "base/bytes.h"
#include "base/list.h"
#include "base/map.h"
#include "base/trie.h"
#include "mesh/snapshot.h"

/*
 * Inside of snapshot and store: shared by the readers (snapshot.c) and the
 * writers (snap_*.c). Nobody else includes this.
 *
 * Everything that a snapshot leads to is either a trie node or an object of one
 * of the kinds below. An object never changes once it is published. The store
 * keeps lists of what the running transaction has made (freed when it is given
 * up) and of what it does not need any more (freed when all snapshots up to the
 * last one are given back).
 */
struct snap_hosts {			/* the services with one host name: at least one */
	uint32_t n;
	const struct snap_def *list[];
};

/* What a snapshot shows. The tries lead to objects by slab_ref(), those of addresses by snap_address_entry(). */
struct snap_state {
	struct trie workloads;		/* hash of the uid: struct snap_workload */
	struct trie by_ip;		/* hash of an address in our network: of a struct snap_workload (snap_address_owner()) */
	struct trie by_far_ip;		/* hash of an address in another network: of a struct snap_workload, one of them */
	struct trie services;		/* id: struct snap_service */
	struct trie by_key;		/* hash of the key: struct snap_def */
	struct trie by_vip;		/* hash of an address in our network: of a struct snap_def */
	struct trie by_host;		/* hash of the host name: struct snap_hosts */
	struct trie absent;		/* hash of an address: struct ip */
	struct trie policies;		/* hash of "namespace/name": struct policy */
	struct trie policies_of;	/* hash of the namespace: struct snap_policies */
	struct snap_policies *global;
	bool policies_known;
	bool shared_ips;		/* two workloads, or two services, have had one address */
	uint64_t policy_serial;
};

enum snap_object_type {
	SNAP_O_ABSENT,
	SNAP_O_SERVICE,
	SNAP_O_DEF,
	SNAP_O_HOSTS,
	SNAP_O_WORKLOAD,
	SNAP_O_POLICY,
	SNAP_O_POLICIES,
};

struct snap_object {
	enum snap_object_type type;
	void *ptr;
};

struct snap_objects {
	struct snap_object *list;
	size_t n;
	size_t size;
};

struct snapshot {
	_Atomic uint32_t refs;
	uint64_t serial;
	struct snap_state state;

	/* The store's: what no later snapshot has. */
	struct list link;		/* in the store's chain, oldest first */
	struct trie_nodes dropped_nodes;
	struct snap_objects dropped;
};

struct snap_member {			/* of a kind in a service */
	uint32_t service_id;
	uint32_t ports_end;		/* its ports follow those of the one before */
};

struct snap_kinds {			/* by their hash */
	struct snap_kind **slots;
	uint32_t n_slots;		/* a power of two, or 0 */
	uint32_t n;
};

struct snap_store {
	char *network;
	struct snap_state now;		/* the next snapshot's */
	bool changed;
	struct snapshot *last;		/* published; the store has a reference */
	struct list chain;
	struct trie_tx tx;
	struct slab slab;		/* of all that tries lead to, and what they share */
	struct slab nodes;		/* of tries, and the services that have the roots of some */
	struct snap_objects idle_objects;	/* empty, with room: for the next snapshot's */
	struct trie_nodes idle_nodes;
	struct snap_objects made;
	struct snap_objects dropped;
	struct snap_kinds kinds;
	struct map places;
	struct map ways;
	struct bytes key;		/* of one of these, while it is put together */
	uint32_t next_workload_id;
	uint32_t next_service_id;
};

/* --- snap_store.c --- */

/* Notes an object made, or not needed any more. On -ENOMEM @ptr is freed by snap_made(), kept by snap_drop(). */
MUST_CHECK int snap_made(struct snap_store *st, enum snap_object_type type, void *ptr);
MUST_CHECK int snap_drop(struct snap_store *st, enum snap_object_type type, void *ptr);

uint64_t snap_hash_text(const char *text);
uint64_t snap_hash_ip(const struct ip *ip);

/* --- addresses in an object --- */

/*
 * What indexes by address lead to is either the object, which then is looked for
 * by its first address, or a mark at a further one, from which the object is found.
 */
const void *snap_address_owner(uint32_t entry);		/* NULL for 0 */
uint32_t snap_address_entry(const struct snap_addresses *a);	/* of the one that was read last */
size_t snap_address_end(size_t at, const struct ip *ip, bool is_first);	/* where one ends in an object, that begins at @at there */
/* Puts it into @object at @at, to be read by snap_address_next(). Where the next one goes. */
uint8_t *snap_address_put(void *object, uint8_t *at, const struct ip *ip, bool is_first);
bool snap_addresses_have(struct snap_addresses a, const struct ip *ip, uint32_t *ret_entry);	/* @ret_entry may be NULL */

const char *snap_workload_rest(const struct snap_workload *w);	/* of the uid, behind its head */

/* trie_key_fn of the indexes. */
uint64_t snap_key_of_workload(uint32_t value);
uint64_t snap_key_of_workload_address(uint32_t entry);
uint64_t snap_key_of_service(uint32_t value);
uint64_t snap_key_of_def(uint32_t value);
uint64_t snap_key_of_def_address(uint32_t entry);

const struct snap_service *snap_service_by_id(const struct snap_state *s, uint32_t id);

/* --- snap_workload.c --- */

void snap_workload_free(struct snap_store *st, struct snap_workload *w);

/* --- snap_service.c --- */

/* The id of the service @key, which is made known if it is not. */
MUST_CHECK int snap_service_mention(struct snap_store *st, const char *key, uint32_t *ret_id);
MUST_CHECK int snap_services_renew(struct snap_store *st);	/* the nodes of all endpoints */
MUST_CHECK int snap_service_put_endpoint(struct snap_store *st, uint32_t id, struct snap_workload *w);
MUST_CHECK int snap_service_remove_endpoint(struct snap_store *st, uint32_t id, const struct snap_workload *w);

struct snap_service *snap_service_find(struct snap_store *st, const char *key);	/* NULL: nobody has mentioned it */

size_t snap_hosts_size(uint32_t n);

/* --- snap_policy.c --- */

void snap_policies_free(struct snap_store *st, struct snap_policies *list);

/* --- snap_def.c --- */

MUST_CHECK int snap_def_make(struct snap_store *st, const struct service *s, uint32_t id, struct snap_def **ret_def);
struct snap_def *snap_def_mention(struct snap_store *st, const char *key, uint32_t id);	/* not defined; NULL: no memory */
void snap_def_free(struct snap_store *st, struct snap_def *def);

/* --- snap_kind.c, snap_place.c --- */

struct snap_port snap_port_of(const struct port_map *p);

/* Find or make what equal workloads share, with a reference. @likely: what it probably is, or NULL. */
MUST_CHECK int snap_kind_get(struct snap_store *st, const struct workload *w, const struct snap_kind *likely, const struct snap_kind **ret_kind);
void snap_kind_put(struct snap_store *st, const struct snap_kind *kind);
MUST_CHECK int snap_place_get(struct snap_store *st, const struct workload *w, const struct snap_place *likely, const struct snap_place **ret_place);
void snap_place_put(struct snap_store *st, const struct snap_place *place);
/* @net may be NULL. *ret_ways is NULL when neither is set. */
MUST_CHECK int snap_ways_get(struct snap_store *st, const struct model_gateway *way, const struct model_gateway *net, const struct snap_ways **ret_ways);
void snap_ways_put(struct snap_store *st, const struct snap_ways *ways);	/* NULL allowed */
bool snap_ways_are(const struct snap_ways *ways, const struct workload *w);
void snap_kinds_deinit(struct snap_kinds *t);

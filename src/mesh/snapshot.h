#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "base/arena.h"
#include "base/defs.h"
#include "base/ip.h"
#include "base/slab.h"
#include "base/trie.h"
#include "mesh/model.h"

/*
 * What a proxy process knows of the mesh at one moment, for its workers to read
 * without locks.
 *
 *	struct snap_store	the writer, on the main thread
 *	struct snapshot		one published state: never changes
 *
 * Versions share everything that did not change between them: one endpoint's
 * change costs a few small nodes (base/trie.h), whatever the size of the mesh.
 * A worker holds one reference, of the newest snapshot that it was given, for
 * the length of its loop turns, and swaps it between turns. Pointers into a
 * snapshot are good while it is held; what lives longer (a tunnel's expected
 * identities, a flow's labels) is copied. A held snapshot keeps the memory of
 * all later changes too, so nobody holds one for the life of a connection.
 *
 * Visibility: a process serves one isolation group, which is one tenant; its
 * snapshot is the union of what the mesh controller told the group's VMs.
 * Policies are evaluated per VM all the same.
 */
struct snapshot;
struct snap_store;

enum { SNAP_HBONE_PORT = 15008, SNAP_IDS_MAX = 16 };

/* --- what workers read --- */

struct snap_port {
	uint16_t port;			/* of the service */
	uint16_t target_port;
	uint8_t app_protocol;		/* enum app_protocol */
	uint8_t zero;			/* ports are compared byte by byte */
};

/* Ways that connections have to take. */
struct snap_ways {
	struct model_gateway waypoint;		/* to a workload's own address */
	struct model_gateway network_gateway;
};

/* Where something runs; shared by all that run there. Never NULL, "" where not known. */
struct snap_place {
	const char *network;
	const char *cluster;
	const char *region;
	const char *zone;
	const char *subzone;
	const char *node;
};

enum snap_text {
	SNAP_IDENTITY,			/* "spiffe://td/ns/<namespace>/sa/<service account>" */
	SNAP_TRUST_DOMAIN, SNAP_NAMESPACE, SNAP_SERVICE_ACCOUNT,
	SNAP_WORKLOAD_NAME,		/* of the deployment; the workload's own name where there is none */
	SNAP_CANONICAL_NAME, SNAP_CANONICAL_REVISION,
	SNAP_UID_HEAD,			/* with which their uids begin, up to a '/'; may be "" */
	_SNAP_TEXT_N
};

#define SNAP_USUAL_REVISION	"latest"

/* What replicas have in common, shared by them: services and policies are behind it. */
struct snap_kind {
	struct snap_kind *next;		/* the store's, as are the next three */
	uint32_t hash;
	uint32_t refs;
	uint32_t size;
	uint16_t n_members;		/* services that it is in */
	uint16_t n_policies;		/* that select it */
	const struct snap_ways *ways;	/* or NULL */
	uint16_t weight;		/* 0: gets no traffic */
	uint16_t members_at;
	uint16_t texts[_SNAP_TEXT_N];	/* where they are; 0: SNAP_USUAL_REVISION */
	char tail[];
};

/* Never NULL. */
static inline const char *snap_kind_text(const struct snap_kind *k, enum snap_text which)
{
	return k->texts[which] ? (const char *)k + k->texts[which] : SNAP_USUAL_REVISION;
}

/* Of the @i-th service that it is in: its id; the ports that it serves of it. */
uint32_t snap_kind_service(const struct snap_kind *k, uint32_t i);
const struct snap_port *snap_kind_ports(const struct snap_kind *k, uint32_t i, uint32_t *ret_n);
/* "namespace/name" of the first policy; the next ones by snap_text_next(). */
const char *snap_kind_policies(const struct snap_kind *k);
const struct snap_ways *snap_kind_ways(const struct snap_kind *k);	/* never NULL */

static inline const char *snap_text_next(const char *text)
{
	return text + strlen(text) + 1;
}

/* What the store's owner notes beside a workload, on his thread: nobody else looks at it, nor is it part of a snapshot's state. */
struct snap_note {
	uint8_t hash[8];		/* of the bytes that it was made of */
	uint32_t holders;		/* proxy/holders.h */
};

/* Addresses of something, to be read one after the other. */
struct snap_addresses {
	const uint8_t *object;
	const uint8_t *at;
	const uint8_t *mark;		/* the store's: in front of the one that was read last; NULL: that was the first */
	uint16_t left;
	bool is_first;
	bool is_v6;
};

bool snap_address_next(struct snap_addresses *a, struct ip *ret_ip);	/* false: there are no more */

struct snap_workload {
	const struct snap_kind *kind;
	const struct snap_place *place;
	uint32_t id;			/* of this uid while it is known, never used again: key for a worker's own state */
	struct snap_note note;
	uint16_t name_at;		/* in @tail */
	uint8_t n_addresses;		/* 0: none that can be dialled */
	uint8_t tunnel : 2;		/* enum tunnel */
	bool is_v6 : 1;			/* the first address */
	bool healthy : 1;
	bool reachable : 1;		/* in our own network */
	uint8_t tail[];			/* addresses, what the uid has behind its kind's head, name (which may be the end of that) */
};

enum { SNAP_UID_LEN = MODEL_NAME_MAX + 1 };

const char *snap_workload_uid(const struct snap_workload *w, char uid[static SNAP_UID_LEN]);
bool snap_workload_is(const struct snap_workload *w, const char *uid);
const char *snap_workload_name(const struct snap_workload *w);
struct ip snap_workload_ip(const struct snap_workload *w);		/* the first; none when it has none */
struct snap_addresses snap_workload_addresses(const struct snap_workload *w);

struct snap_def {			/* a service as it was sent */
	uint32_t service_id;
	uint32_t key_at;
	const struct snap_ways *ways;	/* or NULL */
	struct snap_note note;
	uint16_t n_ports;
	uint16_t n_vips;		/* addresses in our own network */
	uint16_t n_sans;
	uint16_t host_at;
	uint8_t lb_mode : 4;		/* enum lb_mode */
	uint8_t n_lb_preference : 4;
	uint8_t lb_preference[LB_PREFERENCE_MAX];
	bool defined : 1;		/* false: only endpoints have mentioned it */
	bool allow_unhealthy : 1;
	bool canonical : 1;
	bool is_v6 : 1;			/* the first address */
	uint8_t tail[];
};

/* Texts are "" in one that is not defined, but the key: "namespace/hostname". */
const char *snap_def_key(const struct snap_def *def);
const char *snap_def_hostname(const struct snap_def *def);
const char *snap_def_namespace(const struct snap_def *def);
const char *snap_def_name(const struct snap_def *def);
const char *snap_def_sans(const struct snap_def *def);	/* the first of @n_sans; the next ones by snap_text_next() */
const struct snap_port *snap_def_ports(const struct snap_def *def);
struct snap_addresses snap_def_addresses(const struct snap_def *def);
/* Which connections have to take: policies of HTTP are enforced there. NULL: none. */
const struct model_gateway *snap_def_waypoint(const struct snap_def *def);

struct snap_service {
	uint32_t id;			/* of this key while it is known, never used again */
	uint32_t tx;			/* the store's */
	struct trie endpoints;		/* struct snap_workload by id */
	uint16_t max_weight;		/* of an endpoint; at least 1 */
	const struct snap_def *def;
};

static inline uint32_t snap_service_size(const struct snap_service *s)
{
	return trie_count(&s->endpoints);
}

static inline const struct snap_workload *snap_service_endpoint(const struct snap_service *s, uint32_t i)
{
	return slab_at(trie_at(&s->endpoints, i));	/* NULL behind the end */
}

/* Any thread. unref() of the last reference does not free: the store does, on its thread. NULL allowed. */
struct snapshot *snapshot_ref(struct snapshot *s);
struct snapshot *snapshot_unref(struct snapshot *s);

uint64_t snapshot_serial(const struct snapshot *s);		/* rises with each publication */
/* Changes when the outcome of any authz_check() may have: then open connections are checked again. */
uint64_t snapshot_policy_serial(const struct snapshot *s);

/* What an address means to somebody who dials it. */
enum {
	_SNAP_E_SUCCESS,

	SNAP_E_UNKNOWN,		/* not known yet: have the main thread resolve it, then ask a newer snapshot */
	SNAP_E_ABSENT,		/* the mesh does not know it: goes out as it is, if policy lets it */
	SNAP_E_NO_PORT,		/* a service's address, but none of its ports: refuse */
};

struct snap_route {
	struct ip_port dialled;			/* for a host name: ip none */
	const struct snap_service *service;	/* or NULL: a workload was dialled by its own address */
	const struct snap_port *port;		/* of the service */
	const struct snap_workload *workload;	/* when @service is NULL */
};

MUST_CHECK int snapshot_route(const struct snapshot *s, const struct ip_port *dst, struct snap_route *ret_route);
/*
 * By host name as in an :authority; @host need not end in a zero. Of two
 * services with one host name, that in @namespace (may be NULL) wins, then the
 * canonical one, then the first.
 */
MUST_CHECK int snapshot_route_host(const struct snapshot *s, const char *host, size_t len, uint16_t port,
				   const char *namespace, struct snap_route *ret_route);

/*
 * The waypoint that what was dialled wants all connections to take: the
 * service's, or the workload's when that was dialled by its own address. NULL:
 * none, or not known.
 */
const struct model_gateway *snap_route_waypoint(const struct snap_route *route);
const struct model_gateway *snapshot_waypoint(const struct snapshot *s, const struct ip *dialled);
/* The way to it: 0; SNAP_E_UNKNOWN: have the main thread ask for it; SNAP_E_ABSENT, SNAP_E_NO_PORT: there is none. */
MUST_CHECK int snapshot_route_gateway(const struct snapshot *s, const struct model_gateway *g, struct snap_route *ret_route);

/* NULL when not known. */
const struct snap_workload *snapshot_workload(const struct snapshot *s, const char *uid);
const struct snap_workload *snapshot_workload_by_ip(const struct snapshot *s, const struct ip *ip);
/* Who has @ip on another network, as far as the mesh told; NULL: nobody, or @ip is known in our own. */
const struct snap_workload *snapshot_elsewhere(const struct snapshot *s, const struct ip *ip);
/* An endpoint of @service that is on another network; NULL: none. */
const struct snap_workload *snapshot_service_elsewhere(const struct snap_service *service);
const struct snap_service *snapshot_service(const struct snapshot *s, const char *key);
/* The service that has the address; if none has, the first of those whose endpoint has it. NULL: none that is known. */
const struct snap_service *snapshot_service_of_ip(const struct snapshot *s, const struct ip *ip);

uint32_t snapshot_n_workloads(const struct snapshot *s);
uint32_t snapshot_n_services(const struct snapshot *s);
/* For listing; NULL behind the end. Here are also services that are not defined; the lookups above do not find them. */
const struct snap_workload *snapshot_workload_at(const struct snapshot *s, uint32_t i);
const struct snap_service *snapshot_service_at(const struct snapshot *s, uint32_t i);

/* @w as it could have been sent, as far as a snapshot keeps it. Its arrays are in @arena, its texts in @s. -ENOMEM. */
MUST_CHECK int snapshot_workload_model(const struct snapshot *s, const struct snap_workload *w, struct arena *arena,
				       struct workload *ret_workload);

/* The same of a service that is defined. Its texts are in the snapshot that @def is of, or the store's. */
MUST_CHECK int snap_store_service_model(const struct snap_store *st, const struct snap_def *def, struct arena *arena, struct service *ret_service);

/* One way to reach an endpoint. Pointers are the snapshot's. */
struct snap_endpoint {
	const struct snap_workload *workload;	/* NULL: not of the mesh (a pass-through) */
	const struct snap_service *service;	/* or NULL */
	struct ip_port target;			/* of the application: what an :authority names */
	struct ip_port hbone;			/* where the tunnel goes, when @tunnel is TUNNEL_HBONE */
	enum tunnel tunnel;
	bool is_waypoint;			/* @workload and @service are it, and @target is what was dialled */
};

/* How @route's connection reaches @w. False when @w does not serve that port, or has no address in our network. */
bool snap_endpoint_of(const struct snapshot *s, const struct snap_route *route, const struct snap_workload *w,
		      struct snap_endpoint *ret_endpoint);

/* @e, of a waypoint, as the way to what was @dialled: always a tunnel, whatever is said of the waypoint. */
void snap_endpoint_through(struct snap_endpoint *e, const struct ip_port *dialled);

/*
 * The identities of which the endpoint must show one: its own, then the
 * service's subject_alt_names. How many; those over SNAP_IDS_MAX are left out
 * (which is stricter).
 */
size_t snap_endpoint_ids(const struct snap_endpoint *e, const char *ret_ids[static SNAP_IDS_MAX]);

/* The port of workload @w behind port @port of service @s: 0 when it does not serve it. */
uint16_t snap_target_port(const struct snap_service *s, const struct snap_workload *w, uint16_t port);

/* --- policies (mesh/authz.h evaluates them) --- */

struct snap_policies {			/* of one namespace, or the global ones */
	const char *namespace;
	uint32_t n;
	const struct policy *list[];
};

bool snapshot_policies_known(const struct snapshot *s);		/* false until the first answer of the mesh */
const struct policy *snapshot_policy(const struct snapshot *s, const char *key);
const struct snap_policies *snapshot_policies_global(const struct snapshot *s);			/* or NULL */
const struct snap_policies *snapshot_policies_of(const struct snapshot *s, const char *namespace);	/* or NULL */

/* --- the writer: one thread --- */

/* @network: our own; addresses of others are not dialled. */
MUST_CHECK int snap_store_new(const char *network, struct snap_store **ret_store);
/* -EBUSY: something is there already, by the network before. -ENOMEM. */
MUST_CHECK int snap_store_set_network(struct snap_store *st, const char *network);
/* All snapshots must have been given back. */
struct snap_store *snap_store_free(struct snap_store *st);

/*
 * Each adds, replaces or removes in the state that snap_store_publish() will
 * publish. They copy what they need (but policies). On -ENOMEM all that was changed since the
 * last publication is in doubt: call snap_store_abort() and do all of it again.
 * -EEXIST: another key with the same 64-bit hash is there; refuse the resource.
 */
MUST_CHECK int snap_store_put_workload(struct snap_store *st, const struct workload *w);
/*
 * The same, with @note beside it. @hash: map_hash() of the uid. @at: what
 * snap_store_note() finds of it, which spares looking it up again.
 */
MUST_CHECK int snap_store_put_noted(struct snap_store *st, const struct workload *w, uint64_t hash, struct snap_note *at, const struct snap_note *note);
/* To be read and changed until the next change of the store, as of which it goes with the workload. NULL: no such workload. */
struct snap_note *snap_store_note(struct snap_store *st, const char *uid, uint64_t hash);
MUST_CHECK int snap_store_remove_workload(struct snap_store *st, const char *uid);
MUST_CHECK int snap_store_put_service(struct snap_store *st, const struct service *s);
/* The same, with @note beside it; what is noted of the services that are there, by "namespace/hostname". */
MUST_CHECK int snap_store_put_service_noted(struct snap_store *st, const struct service *s, const struct snap_note *note);
struct snap_note *snap_store_service_note(struct snap_store *st, const char *key, uint64_t hash);
MUST_CHECK int snap_store_remove_service(struct snap_store *st, const char *key);
/* Takes over @p, which is emptied, on success. */
MUST_CHECK int snap_store_put_policy(struct snap_store *st, struct policy *p);
MUST_CHECK int snap_store_remove_policy(struct snap_store *st, const char *key);
MUST_CHECK int snap_store_set_policies_known(struct snap_store *st, bool known);
/* @ip is asked for and the mesh has nothing there; a workload or service at it wins. */
MUST_CHECK int snap_store_put_absent(struct snap_store *st, const struct ip *ip);
MUST_CHECK int snap_store_remove_absent(struct snap_store *st, const struct ip *ip);

/* Back to the last publication. */
void snap_store_abort(struct snap_store *st);

/*
 * Makes the current state the newest snapshot, with a reference for the
 * caller. Without changes since the last it is the same one again. -ENOMEM: the
 * changes are kept, publish again later. Frees what no reader has any more.
 */
MUST_CHECK int snap_store_publish(struct snap_store *st, struct snapshot **ret_snapshot);

/*
 * After large changes much of what the tries take is holes that the version
 * before left. renew() makes all their nodes anew, so that the old ones can go
 * when it is published: for when nothing changes for a while. Nothing
 * unpublished may be there. -ENOMEM: as after any change.
 */
bool snap_store_is_sparse(const struct snap_store *st);
MUST_CHECK int snap_store_renew(struct snap_store *st);
void snap_store_trim(struct snap_store *st);	/* and then this gives back what is kept for the next change */

/* Frees what readers gave back since the last publication. Returns the number of snapshots that are still held. */
size_t snap_store_reclaim(struct snap_store *st);

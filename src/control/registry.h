#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"
#include "base/list.h"
#include "base/loop.h"
#include "base/map.h"
#include "base/pace.h"
#include "control/config.h"
#include "control/resources.h"
#include "control/store.h"
#include "control/vip.h"
#include "mesh/model.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * The registry: namespaces, services and workloads, from the configuration and
 * from what the NICs report, as one model.
 *
 * A VM is a workload of the mesh only while its NIC's policy joins it, its
 * proxy is ready and a claim of it is admitted with the verdict "vm" (or the
 * policy lets it in as a client). Every change marks what it touches; at the end
 * of the loop's turn all that is marked is worked out and put into the
 * resources, so that a hand-over of a VM between NICs is one change.
 *
 * Several files, one owner: registry.c (life, NICs, configuration),
 * registry_report.c (what NICs say), registry_guest.c (from guest to workload),
 * registry_departed.c (what guests that have left offered),
 * registry_service.c (services, workloads, members), registry_founder.c (which NIC
 * made which service), registry_kube.c (Services of a Kubernetes cluster), registry_publish.c (to resources), registry_store.c (to
 * the store and back).
 */
enum {
	REG_MAX_GUESTS = 4096,		/* of one NIC */
	REG_MAX_CLAIMS = 256,		/* of one guest */
	REG_MAX_VERDICTS = 512,
	REG_MAX_ADDRESSES = 32,
	REG_MAX_TEXT = 512,		/* bytes of any one text in a report */
	REG_MAX_PORTS = 64,		/* of a service */
	REG_MAX_SERVICES = 100000,
	REG_MAX_TOLD = 64 << 20,	/* bytes of memory that what one NIC has told and is kept takes: pb_memory() */
	REG_MAX_DEPARTED = 256,		/* guests that are remembered after they have left, of all NICs; the NIC with most of them gives way */
	REG_DEPARTED_MS = 60000,	/* for so long */
};

/* Where policies for the whole mesh live. */
#define REG_ROOT_NAMESPACE	"outrigger-system"

struct reg_service {
	struct map_link link;		/* by key */
	struct map_link name_link;	/* by "namespace/name" as registered; declared ones only */
	struct list dirty;
	char *key;			/* "namespace/hostname" */
	char *name;
	char *name_key;
	const char *hostname;		/* in @key */
	size_t n_namespace;
	struct ip *addresses;
	size_t n_addresses;
	struct port_map ports[REG_MAX_PORTS];
	size_t n_ports;
	bool declared;			/* in the configuration, or @kube: the ports are fixed */
	bool kube;			/* a Service of the Kubernetes cluster */
	bool stale;			/* while a configuration is applied */
	struct reg_founder *founder;	/* of an undeclared one */
	uint64_t empty_since_ms;	/* an undeclared one without members is forgotten after a while */
	struct list members;		/* reg_member.in_service */
	struct port_map published[REG_MAX_PORTS];	/* ports with an endpoints resource */
	size_t n_published;
};

struct reg_founder {			/* the NIC whose VM was the first to register a service */
	struct map_link link;		/* by id */
	size_t n_services;		/* such as are there; without any it is forgotten */
	char id[];
};

struct reg_member {
	struct list in_service;
	struct list in_workload;
	struct reg_service *service;
	struct reg_workload *workload;
	struct port_map *ports;
	size_t n_ports;
	bool unhealthy;			/* at one of its ports */
};

struct reg_workload {
	struct map_link link;		/* by uid */
	struct list dirty;
	char *uid;
	char *name;
	char *namespace;
	char *service_account;
	char *node;
	struct reg_address *addresses;
	size_t n_addresses;
	const struct conf_labels *labels;	/* the configuration's, or its pod's */
	const char *workload_name;	/* of what made it; NULL: as @name. Its pod's */
	uint8_t type;			/* WorkloadType of istio/workload.proto */
	bool kube;			/* a Pod of the Kubernetes cluster */
	bool host_network;		/* its addresses are its node's, and not found by them; set before them */
	enum tunnel tunnel;
	uint32_t weight;
	bool stale;
	struct reg_guest *guest;	/* NULL: from the configuration, or @kube */
	struct list members;
};

struct reg_address {			/* who has it, among workloads of the mesh */
	struct map_link link;
	struct ip ip;
	struct reg_workload *workload;
};

struct reg_claim {
	struct list link;
	Outrigger__V1__Claim *pb;
	uint64_t epoch;
	uint64_t received_ms;		/* monotonic */
	int64_t found_ms;		/* from its first packet until here, by both clocks; -1: they do not agree */
	uint64_t joined_ms;		/* monotonic, when it got into the mesh; 0: is not */
	int64_t in_mesh_ms;		/* from its first packet until all subscribers knew; -1: not yet */
	const char *why_not;		/* it is not in the mesh, or NULL */
	bool unhealthy;			/* as it was last settled */
};

struct reg_verdict {
	struct list link;
	Outrigger__V1__Verdict *pb;
	uint64_t epoch;
};

struct reg_guest {
	struct map_link link;		/* by id */
	struct list in_nic;
	struct list dirty;
	struct reg_nic *nic;
	uint64_t epoch;
	uint64_t order;			/* of its appearance: the newest wins a hand-over */
	Outrigger__V1__Guest *pb;
	Outrigger__V1__ProxyStatus *proxy;	/* NULL: none yet */
	uint64_t proxy_epoch;
	uint64_t proxy_received_ms;	/* monotonic, when its state became what it is */
	struct ip ips[REG_MAX_ADDRESSES];
	size_t n_ips;
	struct list claims;
	size_t n_claims;
	struct list verdicts;
	size_t n_verdicts;
	const struct config_onboarding *policy;	/* of the configuration in force; NULL: none matches */
	struct reg_workload *workload;	/* NULL: not in the mesh */
	char blocked[160];		/* another workload has its address */
	const char *why_not;		/* it is not in the mesh, or NULL */
	uint64_t offered_epoch;		/* of its NIC's session in which it was offered what it had elsewhere; 0: it was not */
	uint64_t moved_epoch;		/* of its NIC's session that was told that it is elsewhere; 0: was not */
	bool handed_over;		/* what it offers was offered to a guest behind another NIC */
	bool over_share;		/* a service that it would be the first of is too much for its NIC */
	uint64_t departed_ms;		/* monotonic, when it left; 0: it is here */
	bool store_dirty;
	bool store_put;			/* in the transaction that is open */
	bool stored;			/* there is a row of it */
};

struct reg_nic {
	struct map_link link;		/* by id */
	struct registry *registry;
	char *id;
	bool connected;
	bool synced;
	uint64_t epoch;			/* of the session at hand */
	struct timer grace;
	struct list guests;
	size_t n_guests;
	size_t n_departed;		/* of REG_MAX_DEPARTED */
	char hostname[256];
	char software[128];
	int64_t connected_at;		/* seconds since 1970 */
	int64_t lost_at;		/* the same; 0: it has not been here since our start, or is here */
	uint64_t connections, bytes, cpu_ns;
	uint32_t n_proxies;
	uint64_t n_reports, n_refused;
	size_t told;			/* bytes, of REG_MAX_TOLD */
	struct pace pace;		/* of its reports, over its sessions */
};

/*
 * A machine of the mesh has turned up behind another NIC, or again a moment after
 * it had left: what is known of it there is offered to the newcomer. When that one
 * is in the mesh in its place, the NIC that it has left is told. Once a session each.
 */
struct registry_moves {			/* NULL: nobody listens */
	void (*offer)(const struct reg_guest *from, const struct reg_guest *to, void *data);
	void (*moved)(const struct reg_guest *from, const struct reg_guest *to, void *data);
	void *data;
};

struct registry {
	struct loop *loop;
	struct resources *resources;
	struct store *store;		/* not owned; may be NULL */
	const struct config *config;	/* borrowed */
	struct vips vips;
	struct map nics, guests, services, declared, founders, workloads, addresses;
	struct list dirty_guests, dirty_services, dirty_workloads;
	struct defer settle;
	struct timer write, sweep;
	bool addresses_freed;
	uint64_t order;
	uint64_t n_over_share;		/* services that were not made, since their NIC has its share */
	uint64_t n_store_failures;
	int last_store_error;		/* 0: the store works */
	struct list dropped;		/* guests to be removed from the store: reg_dropped */
	struct list departed;		/* guests that have left, by in_nic; the longest gone first */
	size_t n_departed;
	void (*changed)(void *data);	/* something was settled, or a guest is gone; NULL: nobody listens */
	void *changed_data;
	struct registry_moves moves;
};

/* @resources and @store outlive it. Errors are those of the store. */
MUST_CHECK int registry_new(struct loop *loop, struct resources *resources, struct store *store, const struct config *config,
			    struct registry **ret_registry);
struct registry *registry_free(struct registry *reg);

/* Applies a configuration as a diff. @config stays borrowed until the next one. -ENOMEM. */
MUST_CHECK int registry_apply(struct registry *reg, const struct config *config);
/* Works out now what is marked (the loop does it at the end of a turn). */
void registry_settle(struct registry *reg);
void reg_settle_later(struct registry *reg);

/* --- NICs: registry.c --- */

/* A session begins: everything the NIC has to be said again until registry_nic_synced(). -ENOMEM. */
MUST_CHECK int registry_nic_connect(struct registry *reg, const char *id, struct reg_nic **ret_nic);
/* It ended. The guests stay for session_grace. */
void registry_nic_lost(struct reg_nic *nic);
/* It is not trusted any more: everything of it goes at once. */
void registry_nic_forget(struct registry *reg, const char *id);
struct reg_nic *registry_nic(const struct registry *reg, const char *id);
void registry_guest_remove(struct reg_guest *g);
/* The same, in two halves: it is no NIC's any more; and then it is freed. */
void reg_guest_detach(struct reg_guest *g);
void reg_guest_free(struct reg_guest *g);

/* --- reports: registry_report.c --- */

/*
 * Takes over what it keeps of @report (which is left without it). -EINVAL with
 * the reason: nothing has changed; -ENOMEM.
 */
MUST_CHECK int registry_report(struct reg_nic *nic, Outrigger__V1__Report *report, struct diag *reterr_diag);
struct reg_guest *registry_guest(const struct registry *reg, const char *id);
/* The verdict on a claim, or NULL. */
const struct reg_verdict *reg_guest_verdict(const struct reg_guest *g, const char *service, const char *instance);
/* It is a client by verdict and policy, whatever it offers. */
bool reg_guest_is_client(const struct reg_guest *g);
bool reg_guest_has_ip(const struct reg_guest *g, const struct ip *ip);
void reg_told_free(struct reg_nic *nic, ProtobufCMessage *message);	/* one that was kept of a report */
void reg_claim_free(struct reg_guest *g, struct reg_claim *c);
void reg_verdict_free(struct reg_guest *g, struct reg_verdict *v);

/* --- from guest to workload: registry_guest.c --- */

void reg_guest_mark(struct registry *reg, struct reg_guest *g);
void reg_guest_settle(struct registry *reg, struct reg_guest *g);
/* All subscribers know the workload: the times of its claims are set. */
void registry_in_mesh(struct registry *reg, const char *uid);
/*
 * May this NIC have a token for that guest, and for whom? -EINVAL with the
 * reason. @ret_policy is valid until the next configuration.
 */
MUST_CHECK int registry_may_have_token(struct registry *reg, const char *nic, const char *guest_id,
				       const struct config_onboarding **ret_policy, struct diag *reterr_diag);

/* Both are one machine, under their policies. */
bool reg_same_machine(const struct reg_guest *a, const struct reg_guest *b);

/* --- guests that have left: registry_departed.c --- */

/*
 * Removes it, and remembers for REG_DEPARTED_MS what it offered: a VM that is
 * moved may leave before it is seen elsewhere. The mesh forgets it at once.
 */
void registry_guest_depart(struct reg_guest *g);
/* What @g offered before it left, if it did so not long ago; NULL: there is nothing. It can be had once: reg_departed_forget(). */
struct reg_guest *reg_departed_find(struct registry *reg, const struct reg_guest *g);
void reg_departed_forget(struct registry *reg, struct reg_guest *departed);
/* Those of @nic, or all (NULL), or (@all false) those whose time is over. */
void reg_departed_sweep(struct registry *reg, const struct reg_nic *nic, bool all);

/* --- services and workloads: registry_service.c --- */

struct reg_service *reg_service_find(const struct registry *reg, const char *key);
struct reg_workload *reg_workload_find(const struct registry *reg, const char *uid);
/* The service that a guest's claim means: declared, a Kubernetes Service, or made. NULL: there is none, for the reason *ret_why. */
struct reg_service *reg_service_of_claim(struct registry *reg, struct reg_guest *g, const char *service, const char **ret_why);
struct reg_service *reg_service_new(struct registry *reg, const char *namespace, const char *hostname, const char *name);
/* Takes copies. -ENOMEM. */
MUST_CHECK int reg_service_set_addresses(struct reg_service *s, const struct ip *ips, size_t n);
void reg_service_mark(struct registry *reg, struct reg_service *s);
void reg_service_remove(struct registry *reg, struct reg_service *s);
MUST_CHECK int reg_services_apply(struct registry *reg, const struct config *config);	/* -ENOMEM */

MUST_CHECK int reg_workload_new(struct registry *reg, const char *uid, struct reg_workload **ret_workload);
MUST_CHECK int reg_workload_set(struct reg_workload *w, const char *name, const char *namespace, const char *service_account, const char *node);
/* -EEXIST: another workload has one of them (@ret_owner); nothing has changed. */
MUST_CHECK int reg_workload_set_addresses(struct registry *reg, struct reg_workload *w, const struct ip *ips, size_t n,
					  struct reg_workload **ret_owner);
void reg_workload_mark(struct registry *reg, struct reg_workload *w);
void reg_workload_remove(struct registry *reg, struct reg_workload *w);
void reg_workload_leave_all(struct registry *reg, struct reg_workload *w);
/* Adds a port to its membership of @s. -ENOMEM. */
MUST_CHECK int reg_workload_join(struct registry *reg, struct reg_workload *w, struct reg_service *s, struct port_map port, bool unhealthy);
/* It offers something, and nothing of it is healthy. */
bool reg_workload_unhealthy(const struct reg_workload *w);
/* How a port of a workload fits to a service's ports; false: not at all. */
bool reg_service_map_port(const struct reg_service *s, uint16_t target, enum app_protocol protocol, struct port_map *ret_port);
MUST_CHECK int reg_workloads_apply(struct registry *reg, const struct config *config);	/* -ENOMEM */

/* --- who made which: registry_founder.c --- */

/* So many may there be of one NIC, or it could use up those of the mesh. */
size_t reg_founder_share(const struct registry *reg);
bool reg_founder_may(const struct registry *reg, const char *nic);
/* @s is @nic's from now on. -ENOMEM. */
MUST_CHECK int reg_founder_add(struct registry *reg, struct reg_service *s, const char *nic);
/* @s goes, or is declared: guests of its NIC that wait for that are settled again. Harmless without a founder. */
void reg_founder_drop(struct registry *reg, struct reg_service *s);

/* --- Services of a Kubernetes cluster: registry_kube.c --- */

struct reg_kube_service {		/* borrowed for the call */
	const char *namespace;
	const char *name;
	const struct ip *addresses;
	size_t n_addresses;
	const struct port_map *ports;
	size_t n_ports;			/* <= REG_MAX_PORTS */
};

/* -EEXIST: the configuration has a service of its host name, which stays. -EINVAL: it makes no host name. -ENOMEM. */
MUST_CHECK int reg_kube_service_put(struct registry *reg, const struct reg_kube_service *service);
void reg_kube_service_remove(struct registry *reg, struct reg_service *s);
/* NULL: there is none, or the configuration has its host name. */
struct reg_service *reg_kube_service_find(const struct registry *reg, const char *namespace, const char *name);
/* The one that a VM's claim of @service means, if its policy lets it join those: by the label that its host name would have. */
struct reg_service *reg_kube_service_of_claim(const struct registry *reg, const struct config_onboarding *policy, const char *service);

/* --- to resources: registry_publish.c --- */

MUST_CHECK int reg_publish_workload(struct registry *reg, const struct reg_workload *w);
MUST_CHECK int reg_publish_service(struct registry *reg, struct reg_service *s);
MUST_CHECK int reg_publish_policies(struct registry *reg);
void reg_withdraw_service(struct registry *reg, struct reg_service *s);
/* What metrics and logs call it. */
const char *reg_canonical_name(const struct reg_workload *w);
const char *reg_canonical_revision(const struct reg_workload *w);
/* The name of the endpoints resource: "outbound|<port>||<hostname>". */
enum { REG_CLUSTER_LEN = 280 };
const char *reg_cluster_name(const struct reg_service *s, uint16_t port, char name[static REG_CLUSTER_LEN]);
/* registry_endpoints.c: the same for one ClusterLoadAssignment; also for one without endpoints that nobody knows. */
MUST_CHECK int reg_publish_endpoints(struct registry *reg, const struct reg_service *s, uint16_t port);

/* --- to the store and back: registry_store.c --- */

void reg_store_mark(struct registry *reg, struct reg_guest *g);
void reg_store_drop(struct registry *reg, const struct reg_guest *g);
void reg_store_flush(struct registry *reg);
MUST_CHECK int reg_store_restore(struct registry *reg);
void reg_store_deinit(struct registry *reg);

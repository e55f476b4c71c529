#pragma once
#include <openssl/types.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/backoff.h"
#include "base/list.h"
#include "base/loop.h"
#include "base/map.h"
#include "mesh/ca_client.h"
#include "mesh/identity.h"
#include "mesh/xds_client.h"
#include "proxy/demand.h"
#include "proxy/proxy.h"
#include "proxy/vm.h"
#include "proxy/vm_dns.h"
#include "proxy/vm_health.h"

/*
 * The service proxy of one VM, on the main thread: identity, key and
 * certificate, discovery stream, state. The workers get a struct vm_conf of it
 * when it is able to serve, and again whenever that changes.
 *
 *	starting ---- certificate --> certificate ---- configuration --> ready
 *	    \                              |                            |   ^
 *	     \------ certificate, with the last configuration           v   |
 *	                                 \ \---------------------> degraded-/
 *
 * A certificate that expires makes it failed, until there is another. Removal
 * drains it, and it stops when the last worker has nothing of it any more.
 */
enum sidecar_state {		/* as VmState of ipc.proto */
	SIDECAR_STARTING,
	SIDECAR_CERTIFICATE,
	SIDECAR_READY,
	SIDECAR_DEGRADED,
	SIDECAR_DRAINING,
	SIDECAR_STOPPED,
	SIDECAR_FAILED,
	_SIDECAR_STATE_N
};

enum sidecar_event {
	SIDECAR_EV_CERTIFICATE,		/* the first, or another */
	SIDECAR_EV_CONFIG,		/* the mesh controller has told all there is */
	SIDECAR_EV_LOST,		/* the discovery stream ended */
	SIDECAR_EV_EXPIRED,		/* the certificate */
	SIDECAR_EV_REMOVE,
	SIDECAR_EV_GONE,		/* no worker has anything of it any more */
	_SIDECAR_EVENT_N
};

const char *sidecar_state_name(enum sidecar_state s);
/* The state that follows, or -1: the event means nothing there. For tests and for the diagram. */
int sidecar_next(enum sidecar_state s, enum sidecar_event ev, bool has_config, bool in_sync, bool serving);

struct sidecar {
	struct proxy *proxy;
	struct map_link link;		/* by id, in the proxy's map */
	struct list leaving;		/* or in its list of those */
	struct list shown;
	uint32_t holder;		/* in the process's knowledge */
	char *vm_id;			/* the key of proxy.sidecars */
	Outrigger__Ipc__VmPut *put;	/* the newest */
	char identity[IDENTITY_TEXT_LEN];

	enum sidecar_state state;
	char detail[256];
	uint64_t state_ns;		/* monotonic */
	bool has_config;
	bool in_sync;
	bool serving;			/* the workers have it */
	bool unpushed;			/* they have not got what it is now: no memory */

	struct vm *vm;
	struct budget_watch budgets;
	char *uid;			/* of its workload in the mesh, as far as it is known */
	struct tls_ctx *client;
	struct tls_ctx *server;
	EVP_PKEY *key;
	char *chain_pem;
	int64_t not_before;
	int64_t not_after;

	struct ca_client *ca;
	struct xds_client *xds;
	struct demand demand;
	struct vm_dns *dns;		/* NULL: its queries do not come by here */
	struct vm_health *health;
	enum health_state told_health;	/* of the VM as a whole, in the log */
	char *token;
	bool token_wanted;
	unsigned token_refusals;	/* in a row, of tokens that the mesh controller did not take */
	char token_reason[160];
	uint64_t token_asked_ms;

	uint64_t unregistered_ms;	/* since when Istio has no workload of it, or the last attempt; 0: it has */
	uint32_t register_wait_ms;
	bool goes_unregistered;		/* the stream was opened without what registers it */
	struct backoff registering;

	uint32_t drain_ms;
	struct defer end;
};

/* @m is copied; of @fds those that are taken over are set to -1. -EINVAL with a reason, -ENOMEM. */
MUST_CHECK int sidecar_new(struct proxy *p, const Outrigger__Ipc__VmPut *m, int *fds, size_t n_fds,
			   struct sidecar **ret_sidecar, struct diag *reterr_diag);
MUST_CHECK int sidecar_update(struct sidecar *s, const Outrigger__Ipc__VmPut *m, int *fds, size_t n_fds, struct diag *reterr_diag);
struct sidecar *sidecar_free(struct sidecar *s);

/* Keys of its own instead of the authority's: the static mode. */
MUST_CHECK int sidecar_set_credential(struct sidecar *s, EVP_PKEY *key, const char *chain_pem, struct diag *reterr_diag);
/* There is nothing more to be told: the static mode. */
void sidecar_set_config(struct sidecar *s);

void sidecar_token(struct sidecar *s, const char *token, const char *refused);
/* Roots, controller or trust domain have changed, or come. */
void sidecar_setup(struct sidecar *s);
void sidecar_resolve(struct sidecar *s, const struct ip *ip);
/* Takes @fds over: those of VmDns. */
MUST_CHECK int sidecar_set_dns(struct sidecar *s, int fds[2]);
/* A connection of @vm to port 53; @fd is taken over. */
void sidecar_take_names(struct sidecar *s, struct vm *vm, int fd, const struct ip_port *src, const struct ip_port *dst);
void sidecar_used(struct sidecar *s, const struct ip *ip);
/* The snapshot has changed. */
void sidecar_review(struct sidecar *s);
void sidecar_tick(struct sidecar *s);
void sidecar_remove(struct sidecar *s, uint32_t drain_ms, uint32_t linger_ms);	/* as worker_remove_vm() */
void sidecar_cut(struct sidecar *s);		/* of one that was removed: it drains no longer */
void sidecar_removed(struct sidecar *s, const struct vm *vm);	/* the last worker has nothing of @vm any more */
/* Tells the agent its state; a new agent, or of a new VM, also that a token is wanted. */
void sidecar_report(struct sidecar *s);
/* There is no connection to the mesh controller: said of a VM that has no certificate yet. */
void sidecar_unreachable(struct sidecar *s, const char *address, const char *why);
void sidecar_greet(struct sidecar *s);

/* --- sidecar_conf.c --- */
MUST_CHECK int sidecar_conf_make(const struct sidecar *s, struct vm_conf **ret_conf);
/* The value of a label of a VmPut, "" without it: a names_label_fn. */
const char *sidecar_label(const void *put, const char *key);

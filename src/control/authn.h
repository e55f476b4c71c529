#pragma once
#include "control/issuer.h"
#include "control/limiter.h"
#include "control/registry.h"
#include "control/revoker.h"
#include "control/store.h"
#include "mesh/grpc.h"
#include "mesh/identity.h"

/*
 * Who calls the mesh controller: by a workload token ("authorization: Bearer"),
 * else by the client's certificate. Only workloads of the own trust domain.
 *
 * Each try costs a signature's verification, so an address whose tries come to
 * nothing has AUTHN_TRIES of them, which come back in a minute: as many as a NIC
 * has VMs whose tokens have all expired in an outage, a few times over.
 */
enum { AUTHN_TRIES = 1000 };

struct authn {
	struct issuer *issuer;
	struct registry *registry;
	struct store *store;
	const struct revoker *revoker;
	const char *trust_domain;
	struct limiter failures;	/* by address; authn_init() */
};

struct authn_caller {
	struct identity id;
	bool by_token;
	bool through_nic;		/* a VM's: then @origin is that of its NIC */
	struct revocation_origin origin;
	char guest_id[ISSUER_GUEST_LEN];	/* by the token of a VM; else "" */
};

void authn_init(struct authn *a);	/* what is not borrowed */

/* GRPC_OK; GRPC_UNAUTHENTICATED, GRPC_RESOURCE_EXHAUSTED (the call is told how long to wait): with the reason. */
MUST_CHECK enum grpc_code authn_call(struct authn *a, struct grpc_call *call, struct authn_caller *ret_caller, struct diag *reterr_diag);

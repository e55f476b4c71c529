#pragma once
#include "control/issuer.h"
#include "control/registry.h"
#include "control/revoker.h"
#include "control/store.h"
#include "mesh/grpc.h"
#include "mesh/identity.h"

/*
 * Who calls the mesh controller: by a workload token ("authorization: Bearer"),
 * else by the client's certificate. Only workloads of the own trust domain.
 */
struct authn {
	struct issuer *issuer;
	struct registry *registry;
	struct store *store;
	const struct revoker *revoker;
	const char *trust_domain;
};

struct authn_caller {
	struct identity id;
	bool by_token;
	bool through_nic;		/* a VM's: then @origin is that of its NIC */
	struct revocation_origin origin;
	char guest_id[ISSUER_GUEST_LEN];	/* by the token of a VM; else "" */
};

/* -EACCES with the reason, -ENOMEM. */
MUST_CHECK int authn_call(const struct authn *a, const struct grpc_call *call, struct authn_caller *ret_caller, struct diag *reterr_diag);

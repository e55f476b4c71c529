#pragma once
#include "control/issuer.h"
#include "control/registry.h"
#include "mesh/grpc.h"
#include "mesh/identity.h"

/*
 * Who calls the mesh controller: by a workload token ("authorization: Bearer"),
 * else by the client's certificate. Only workloads of the own trust domain.
 */
struct authn {
	struct issuer *issuer;
	struct registry *registry;
	const char *trust_domain;
};

/* -EACCES with the reason, -ENOMEM. */
MUST_CHECK int authn_call(const struct authn *a, const struct grpc_call *call, struct identity *ret_id, struct diag *reterr_diag);

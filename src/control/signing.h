#pragma once
#include "control/authn.h"
#include "control/authority.h"
#include "control/limiter.h"
#include "mesh/grpc_server.h"

/*
 * istio.v1.auth.IstioCertificateService/CreateCertificate: the name in a
 * certificate is the authenticated caller's and nothing else.
 *
 * How often is limited: by VM and by NIC, so that whoever has taken one over
 * cannot keep the authority from serving others. A certificate that was issued
 * through a NIC does not renew itself: that takes a token, which the NIC's
 * agent gets only while it hosts the VM.
 */
struct signing {
	struct authn *authn;
	struct authority *authority;
	const struct config *config;	/* ttl; replaced when another is in force */
	uint64_t n_issued, n_refused;
	struct limiter per_vm, per_nic, per_identity;	/* the last for those that are no VM */
};

/* All are borrowed for its life, @config until another is put there. */
void signing_init(struct signing *s, struct authn *authn, struct authority *authority, const struct config *config);

#define SIGNING_PATH	"/istio.v1.auth.IstioCertificateService/CreateCertificate"

void signing_create(struct signing *s, struct grpc_call *call, const uint8_t *bytes, size_t len);

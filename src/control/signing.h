#pragma once
#include "control/authn.h"
#include "control/authority.h"
#include "mesh/grpc_server.h"

/*
 * istio.v1.auth.IstioCertificateService/CreateCertificate: the name in a
 * certificate is the authenticated caller's and nothing else.
 */
struct signing {
	struct authn *authn;
	struct authority *authority;
	const struct config *config;	/* ttl; replaced when another is in force */
	uint64_t n_issued, n_refused;
};

#define SIGNING_PATH	"/istio.v1.auth.IstioCertificateService/CreateCertificate"

void signing_create(struct signing *s, struct grpc_call *call, const uint8_t *bytes, size_t len);

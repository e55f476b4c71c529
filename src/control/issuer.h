#pragma once
#include <jansson.h>
#include <stdint.h>
#include "base/loop.h"
#include "control/config.h"
#include "mesh/jwt.h"
#include "mesh/revocation.h"

/*
 * The controller as OIDC issuer: signs workload tokens (ES256), publishes its
 * keys, and verifies what it signed.
 *
 * Signing keys are files <state_dir>/oidc/key-<seconds since 1970>.pem. The
 * newest signs; older ones are published until what they signed has expired.
 *
 * A VM's token is bound to its guest: claim "outrigger.guest", and the same in
 * "jti" ("guest:<guest id>:<origin><random>"), which is what is looked at. The
 * origin is that of its NIC's enrolment, as in the serial numbers of what the
 * NIC is issued. A token without one (older versions') is told by its time.
 */
struct issuer;

MUST_CHECK int issuer_new(struct loop *loop, const struct config *config, struct issuer **ret_issuer, struct diag *reterr_diag);
struct issuer *issuer_free(struct issuer *i);
/* Lifetimes, audiences and rotation of another configuration, borrowed until the next one. */
void issuer_apply(struct issuer *i, const struct config *config);

struct issuer_subject {
	const char *namespace;
	const char *service_account;
	const char *guest_id;		/* NULL: not a VM */
	const struct revocation_origin *origin;	/* of the guest's NIC; NULL: none */
	const char *audience;		/* NULL or "": those of the configuration */
	int64_t ttl_s;
};

MUST_CHECK int issuer_sign(struct issuer *i, const struct issuer_subject *s, char **ret_token, int64_t *ret_expires_at);

enum { ISSUER_GUEST_LEN = 256 };
struct issuer_verified {
	char namespace[254];
	char service_account[254];
	char guest_id[ISSUER_GUEST_LEN];	/* "": not a VM's */
	int64_t issued_at;
	bool has_origin;
	struct revocation_origin origin;
};
/* -EACCES with the reason. */
MUST_CHECK int issuer_verify(struct issuer *i, const char *token, struct issuer_verified *ret_verified, struct diag *reterr_diag);

/* The documents of OpenID Connect Discovery 1.0 section 4 and RFC 7517. NULL: no memory. */
json_t *issuer_discovery(const struct issuer *i);
char *issuer_jwks(const struct issuer *i);

#pragma once
#include <openssl/types.h>
#include <stdint.h>
#include "base/loop.h"
#include "control/config.h"
#include "control/store.h"
#include "mesh/cert_ca.h"
#include "mesh/tls.h"

/*
 * The certificate authority of the controller: loaded, or made at the first
 * start (a root in <dir>/root and an intermediate under it in <dir>, which is
 * replaced in time). Every certificate it issues is put on record.
 */
struct authority;

struct authority_leaf {
	EVP_PKEY *key;			/* public key of the owner */
	const char *id;			/* SPIFFE ID */
	const char *const *names;	/* DNS names and addresses besides, NULL ends it; NULL: none */
	int64_t ttl_s;
	const struct revocation_origin *origin;	/* NULL: of no NIC */
};

struct authority_issued {
	struct cert_list chain;		/* leaf, intermediates, roots; the caller's: cert_list_deinit() */
	uint8_t fingerprint[STORE_HASH_LEN];	/* SHA-256 of the leaf (DER) */
	int64_t not_after;
};

/* -EINVAL with the reason in @reterr_diag, -ENOMEM, -EIO. @config is borrowed for the call, @store for its life. */
MUST_CHECK int authority_new(struct loop *loop, const struct config *config, struct store *store, struct authority **ret_authority,
			     struct diag *reterr_diag);
struct authority *authority_free(struct authority *a);

/* As cert_ca_sign(). That it could not be put on record is logged, not an error. */
MUST_CHECK int authority_sign(struct authority *a, const struct authority_leaf *leaf, struct authority_issued *ret_issued);

/* What peers trust: the own roots and those of ca.extra_roots. */
const char *authority_roots_pem(const struct authority *a);
int64_t authority_not_after(const struct authority *a);
uint64_t authority_n_issued(const struct authority *a);

/*
 * A server's TLS context with a fresh key and certificate for @names and
 * identity @id, asking clients for certificates as @verify says.
 */
MUST_CHECK int authority_server_tls(struct authority *a, const char *id, const char *const *names, int64_t ttl_s,
				    enum tls_verify verify, const char *const *alpn, struct tls_ctx **ret_ctx, struct diag *reterr_diag);

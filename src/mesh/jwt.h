#pragma once
#include <jansson.h>
#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"

/*
 * JSON Web Tokens: signed by us with ES256 or RS256, verified with these and EdDSA.
 *
 * The algorithm is that of the key, never the token's choice: `none`, HMAC and
 * a key of another kind are refused. A token without "exp" is refused. Source:
 * RFC 7515 (JWS compact form), 7517 (JWK), 7518 (algorithms), 7519 (claims),
 * 8037 (EdDSA), 8725 (good practice).
 */
enum {
	JWT_MAX = 16 * 1024,		/* bytes of a token */
	JWT_JWKS_MAX = 256 * 1024,	/* bytes of a key set */
	JWT_KEYS_MAX = 64,
	JWT_AUDIENCES_MAX = 16,
	JWT_TEXT_MAX = 1024,		/* bytes of iss, sub, jti, one audience */
	JWT_KID_MAX = 128,
};

enum {
	_JWT_E_SUCCESS,

	JWT_E_MALFORMED,	/* not a token */
	JWT_E_ALGORITHM,	/* `none`, or not that of the key */
	JWT_E_KEY,		/* no key of that id */
	JWT_E_SIGNATURE,
	JWT_E_EXPIRED,
	JWT_E_NOT_YET,		/* nbf or iat lies in the future */
	JWT_E_ISSUER,
	JWT_E_AUDIENCE,
	_JWT_E_N,
};

enum jwt_alg { JWT_NONE, JWT_ES256, JWT_RS256, JWT_EDDSA };

MUST_CHECK int jwt_key_new(enum jwt_alg alg, EVP_PKEY **ret_key);	/* JWT_ES256, JWT_RS256; -EIO when libcrypto cannot */
enum jwt_alg jwt_key_alg(EVP_PKEY *key);	/* the one algorithm that the key is for; JWT_NONE: it is for none */
const char *jwt_alg_name(enum jwt_alg alg);

const char *jwt_error_text(int r);	/* "token has expired"; for people */

struct jwt_claims {
	char iss[JWT_TEXT_MAX + 1];
	char sub[JWT_TEXT_MAX + 1];
	char aud[JWT_AUDIENCES_MAX][JWT_TEXT_MAX + 1];	/* always an array on the wire: istiod demands it */
	size_t n_aud;
	int64_t exp;		/* seconds since 1970 */
	int64_t nbf;		/* 0: none */
	int64_t iat;		/* 0: none */
	char jti[JWT_TEXT_MAX + 1];	/* "": none */
};

/* "system:serviceaccount:<namespace>:<service account>" into its parts of at most 253 bytes; -EINVAL for others. */
MUST_CHECK int jwt_subject_parse(const char *sub, char ret_ns[static 254], char ret_service_account[static 254]);
MUST_CHECK int jwt_subject_format(const char *ns, const char *service_account, char ret_sub[static JWT_TEXT_MAX + 1]);

/*
 * Signs with @key (P-256: ES256, RSA: RS256). @kid names it for verifiers, jwt_kid() makes it.
 * @extra: further claims, may be NULL. The token is the caller's. -EINVAL for
 * a key of another kind, -EMSGSIZE, -ENOMEM, -EIO.
 */
MUST_CHECK int jwt_sign(EVP_PKEY *key, const char *kid, const struct jwt_claims *claims, json_t *extra, char **ret_token);

/* RFC 7638 thumbprint of a key: its id. */
MUST_CHECK int jwt_kid(EVP_PKEY *key, char ret_kid[static JWT_KID_MAX]);

/* A set of public keys (JWKS). */
struct jwt_keys;

MUST_CHECK int jwt_keys_new(struct jwt_keys **ret_keys);
struct jwt_keys *jwt_keys_free(struct jwt_keys *keys);
MUST_CHECK int jwt_keys_add(struct jwt_keys *keys, EVP_PKEY *key, const char *kid);	/* a reference is taken; -EINVAL, -EEXIST, -E2BIG, -ENOMEM */
/* Replaces nothing: a new set from text. Keys of unknown kinds are skipped (RFC 7517 section 5). */
MUST_CHECK int jwt_keys_from_json(const char *text, size_t len, struct jwt_keys **ret_keys, struct diag *reterr_diag);
MUST_CHECK int jwt_keys_to_json(const struct jwt_keys *keys, char **ret_text);
size_t jwt_keys_count(const struct jwt_keys *keys);

struct jwt_expect {
	const char *iss;	/* NULL: any */
	const char *aud;	/* one of the token's audiences; NULL: any */
	int64_t now;		/* seconds since 1970 */
	int64_t leeway_s;	/* for clocks that differ; at most 60 counts */
};

/* 0 with the claims, JWT_E_*, -ENOMEM. A token without "kid" is tried only against a set of one key. */
MUST_CHECK int jwt_verify(const struct jwt_keys *keys, const char *token, size_t len, const struct jwt_expect *expect,
			  struct jwt_claims *ret_claims);

#pragma once
#include "mesh/jwt.h"

/*
 * Keys of tokens, and base64url. Private to jwt*.c.
 */
enum { JWT_ES256_LEN = 64 };

enum jwt_alg { JWT_NONE, JWT_ES256, JWT_RS256, JWT_EDDSA };

enum jwt_alg jwt_key_alg(EVP_PKEY *key);	/* the one algorithm that the key is for; JWT_NONE: it is for none */
const char *jwt_alg_name(enum jwt_alg alg);

/* @kid NULL: the only key of the set. NULL when there is no such key. */
EVP_PKEY *jwt_keys_find(const struct jwt_keys *keys, const char *kid, enum jwt_alg *ret_alg);

/* RFC 4648, section 5, without padding. Strict: no other characters, no spare bits. -EINVAL, -ENOMEM. */
MUST_CHECK int jwt_base64_encode(const void *data, size_t len, char **ret_text);
MUST_CHECK int jwt_base64_decode(const char *text, size_t len, uint8_t **ret_data, size_t *ret_len);

#pragma once
#include "mesh/jwt.h"

/*
 * Keys of tokens, and base64url. Private to jwt*.c.
 */
enum { JWT_ES256_LEN = 64 };

/* @kid NULL: the only key of the set. NULL when there is no such key. */
EVP_PKEY *jwt_keys_find(const struct jwt_keys *keys, const char *kid, enum jwt_alg *ret_alg);

/* RFC 4648, section 5, without padding. Strict: no other characters, no spare bits. -EINVAL, -ENOMEM. */
MUST_CHECK int jwt_base64_encode(const void *data, size_t len, char **ret_text);
MUST_CHECK int jwt_base64_decode(const char *text, size_t len, uint8_t **ret_data, size_t *ret_len);

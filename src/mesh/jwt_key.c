/*
 * Public keys as JSON (JWK, JWKS), their ids, and base64url.
 */
#include "mesh/jwt_key.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <string.h>

enum { RSA_BITS = 2048 };

struct jwt_keys {
	struct {
		char kid[JWT_KID_MAX];
		EVP_PKEY *key;
		enum jwt_alg alg;
	} key[JWT_KEYS_MAX];
	size_t n;
};

/* --- base64url --- */

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

int jwt_base64_encode(const void *data, size_t len, char **ret_text)
{
	const uint8_t *in = data;
	char *text = malloc(len / 3 * 4 + 5);
	size_t n = 0;

	if (!text)
		return -ENOMEM;
	for (size_t i = 0; i < len; i += 3) {
		size_t left = len - i;
		uint32_t v = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0);

		for (unsigned k = 0; k < (left > 2 ? 4 : left + 1); k++)
			text[n++] = ALPHABET[v >> (18 - 6 * k) & 63];
	}
	text[n] = 0;
	*ret_text = text;
	return 0;
}

static int digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '-' ? 62 : c == '_' ? 63 : -1;
}

static int decode(const char *text, size_t len, uint8_t *out)
{
	uint32_t v = 0;
	unsigned bits = 0;

	for (size_t i = 0; i < len; i++) {
		int d = digit(text[i]);

		if (d < 0)
			return -EINVAL;
		v = (v << 6 | (uint32_t)d) & 0xffffff;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			*out++ = (uint8_t)(v >> bits);
		}
	}
	return v & ((1u << bits) - 1) ? -EINVAL : 0;	/* two texts must not mean the same bytes */
}

int jwt_base64_decode(const char *text, size_t len, uint8_t **ret_data, size_t *ret_len)
{
	uint8_t *data;
	int r;

	if (len % 4 == 1)
		return -EINVAL;
	data = malloc(len / 4 * 3 + 3);
	if (!data)
		return -ENOMEM;
	r = decode(text, len, data);
	if (r < 0) {
		free(data);
		return r;
	}
	*ret_data = data;
	*ret_len = len * 6 / 8;
	return 0;
}

/* --- algorithms --- */

int jwt_key_new(enum jwt_alg alg, EVP_PKEY **ret_key)
{
	EVP_PKEY *key = alg == JWT_RS256 ? EVP_RSA_gen(RSA_BITS) : EVP_EC_gen("prime256v1");

	ERR_clear_error();
	if (!key)
		return -EIO;
	*ret_key = key;
	return 0;
}

enum jwt_alg jwt_key_alg(EVP_PKEY *key)
{
	char group[32] = "";

	if (EVP_PKEY_is_a(key, "ED25519"))
		return JWT_EDDSA;
	if (EVP_PKEY_is_a(key, "RSA"))
		return EVP_PKEY_get_bits(key) >= 2048 && EVP_PKEY_get_bits(key) <= 8192 ? JWT_RS256 : JWT_NONE;
	if (EVP_PKEY_is_a(key, "EC") && EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) && !strcmp(group, "prime256v1"))
		return JWT_ES256;
	return JWT_NONE;
}

const char *jwt_alg_name(enum jwt_alg alg)
{
	static const char *const names[] = { "", "ES256", "RS256", "EdDSA" };

	return names[alg];
}

/* --- key to JSON --- */

static int set_bytes(json_t *o, const char *name, const void *data, size_t len)
{
	CLEANUP_FREE char *text = NULL;
	int r = jwt_base64_encode(data, len, &text);

	if (r < 0)
		return r;
	return json_object_set_new(o, name, json_string(text)) == 0 ? 0 : -ENOMEM;
}

static int set_number(json_t *o, const char *name, EVP_PKEY *key, const char *param, int min_len)
{
	uint8_t bytes[1024];
	BIGNUM *n = NULL;
	int len = -1;

	if (EVP_PKEY_get_bn_param(key, param, &n) == 1)
		len = BN_num_bytes(n) <= (int)sizeof(bytes) ? BN_bn2binpad(n, bytes, MAX(min_len, BN_num_bytes(n))) : -1;
	BN_free(n);
	return len < 0 ? -EINVAL : set_bytes(o, name, bytes, (size_t)len);
}

static int set_fixed(json_t *o, json_t *members)
{
	return json_object_update_new(o, members) < 0 ? -ENOMEM : 0;
}

/* The members that define the key, and no others: what the thumbprint is made of. */
static int key_members(EVP_PKEY *key, json_t *o)
{
	uint8_t raw[32];
	size_t len = sizeof(raw);
	int r;

	switch (jwt_key_alg(key)) {
	case JWT_ES256:
		r = set_number(o, "x", key, OSSL_PKEY_PARAM_EC_PUB_X, 32);
		if (r == 0)
			r = set_number(o, "y", key, OSSL_PKEY_PARAM_EC_PUB_Y, 32);
		return r < 0 ? r : set_fixed(o, json_pack("{s:s, s:s}", "kty", "EC", "crv", "P-256"));
	case JWT_RS256:
		r = set_number(o, "n", key, OSSL_PKEY_PARAM_RSA_N, 1);
		if (r == 0)
			r = set_number(o, "e", key, OSSL_PKEY_PARAM_RSA_E, 1);
		return r < 0 ? r : set_fixed(o, json_pack("{s:s}", "kty", "RSA"));
	case JWT_EDDSA:
		r = EVP_PKEY_get_raw_public_key(key, raw, &len) == 1 ? set_bytes(o, "x", raw, len) : -EINVAL;
		return r < 0 ? r : set_fixed(o, json_pack("{s:s, s:s}", "kty", "OKP", "crv", "Ed25519"));
	default:
		return -EINVAL;
	}
}

/* RFC 7638: SHA-256 of the members in the order of their names, without blanks */
int jwt_kid(EVP_PKEY *key, char ret_kid[static JWT_KID_MAX])
{
	json_t *o = json_object();
	int r = o ? key_members(key, o) : -ENOMEM;
	CLEANUP_FREE char *json = r == 0 ? json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	CLEANUP_FREE char *text = NULL;
	uint8_t hash[32];

	json_decref(o);
	if (!json)
		return r < 0 ? r : -ENOMEM;
	if (EVP_Digest(json, strlen(json), hash, NULL, EVP_sha256(), NULL) != 1)
		return -EIO;
	r = jwt_base64_encode(hash, sizeof(hash), &text);
	if (r < 0)
		return r;
	memcpy(ret_kid, text, strlen(text) + 1);
	return 0;
}

/* --- JSON to key --- */

struct blob {
	uint8_t *data;
	size_t len;
};

static int get_blob(json_t *o, const char *name, size_t max, struct blob *b)
{
	const char *text = json_string_value(json_object_get(o, name));
	int r = text ? jwt_base64_decode(text, strlen(text), &b->data, &b->len) : -EINVAL;

	return r == 0 && (!b->len || b->len > max) ? -EINVAL : r;
}

static EVP_PKEY *from_params(const char *type, OSSL_PARAM_BLD *build)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
	OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
	EVP_PKEY *key = NULL;

	if (ctx && params && EVP_PKEY_fromdata_init(ctx) == 1 && EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params) != 1)
		key = NULL;
	OSSL_PARAM_free(params);
	EVP_PKEY_CTX_free(ctx);
	return key;
}

static EVP_PKEY *ec_key(const struct blob *x, const struct blob *y)
{
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	uint8_t point[65] = { 4 };	/* uncompressed */
	EVP_PKEY *key = NULL;

	if (build && x->len == 32 && y->len == 32) {
		memcpy(point + 1, x->data, 32);
		memcpy(point + 33, y->data, 32);
		if (OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) == 1 &&
		    OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point)) == 1)
			key = from_params("EC", build);		/* which checks that it is on the curve */
	}
	OSSL_PARAM_BLD_free(build);
	return key;
}

static EVP_PKEY *rsa_key(const struct blob *n, const struct blob *e)
{
	OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
	BIGNUM *bn_n = BN_bin2bn(n->data, (int)n->len, NULL);
	BIGNUM *bn_e = BN_bin2bn(e->data, (int)e->len, NULL);
	EVP_PKEY *key = NULL;

	/* An exponent of 1 makes every signature right. */
	if (build && bn_n && bn_e && BN_is_odd(bn_e) && !BN_is_one(bn_e) && OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, bn_n) == 1 &&
	    OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, bn_e) == 1)
		key = from_params("RSA", build);
	BN_free(bn_n);
	BN_free(bn_e);
	OSSL_PARAM_BLD_free(build);
	return key;
}

static bool text_is(json_t *o, const char *name, const char *what)
{
	const char *text = json_string_value(json_object_get(o, name));

	return text && !strcmp(text, what);
}

static EVP_PKEY *key_from_jwk(json_t *o)
{
	struct blob a = {}, b = {};
	EVP_PKEY *key = NULL;

	if (text_is(o, "kty", "EC") && text_is(o, "crv", "P-256")) {
		if (get_blob(o, "x", 32, &a) == 0 && get_blob(o, "y", 32, &b) == 0)
			key = ec_key(&a, &b);
	} else if (text_is(o, "kty", "RSA")) {
		if (get_blob(o, "n", 1024, &a) == 0 && get_blob(o, "e", 8, &b) == 0)
			key = rsa_key(&a, &b);
	} else if (text_is(o, "kty", "OKP") && text_is(o, "crv", "Ed25519")) {
		if (get_blob(o, "x", 32, &a) == 0 && a.len == 32)
			key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, a.data, a.len);
	}
	free(a.data);
	free(b.data);
	ERR_clear_error();
	return key;
}

/* --- sets --- */

int jwt_keys_new(struct jwt_keys **ret_keys)
{
	struct jwt_keys *keys = calloc(1, sizeof(*keys));

	if (!keys)
		return -ENOMEM;
	*ret_keys = keys;
	return 0;
}

struct jwt_keys *jwt_keys_free(struct jwt_keys *keys)
{
	for (size_t i = 0; keys && i < keys->n; i++)
		EVP_PKEY_free(keys->key[i].key);
	free(keys);
	return NULL;
}

int jwt_keys_add(struct jwt_keys *keys, EVP_PKEY *key, const char *kid)
{
	enum jwt_alg alg = jwt_key_alg(key);
	enum jwt_alg found;
	size_t len = strlen(kid);

	if (alg == JWT_NONE || len >= JWT_KID_MAX)
		return -EINVAL;
	if (keys->n == JWT_KEYS_MAX)
		return -E2BIG;
	if (jwt_keys_find(keys, kid, &found))
		return -EEXIST;
	if (!EVP_PKEY_up_ref(key))
		return -ENOMEM;
	memcpy(keys->key[keys->n].kid, kid, len + 1);
	keys->key[keys->n].key = key;
	keys->key[keys->n].alg = alg;
	keys->n++;
	return 0;
}

EVP_PKEY *jwt_keys_find(const struct jwt_keys *keys, const char *kid, enum jwt_alg *ret_alg)
{
	for (size_t i = 0; i < keys->n; i++) {
		if (kid ? strcmp(keys->key[i].kid, kid) != 0 : keys->n != 1)
			continue;
		*ret_alg = keys->key[i].alg;
		return keys->key[i].key;
	}
	return NULL;
}

size_t jwt_keys_count(const struct jwt_keys *keys)
{
	return keys->n;
}

/* RFC 7517, section 4: for signatures, and for the algorithm that we would use */
static bool is_for_us(json_t *jwk, enum jwt_alg alg)
{
	return (!json_object_get(jwk, "use") || text_is(jwk, "use", "sig")) &&
	       (!json_object_get(jwk, "alg") || text_is(jwk, "alg", jwt_alg_name(alg)));
}

static int add_jwk(struct jwt_keys *keys, json_t *jwk, struct diag *reterr_diag)
{
	const char *kid = json_string_value(json_object_get(jwk, "kid")) ?: "";
	EVP_PKEY *key = key_from_jwk(jwk);
	int r = 0;

	if (key && is_for_us(jwk, jwt_key_alg(key))) {
		r = jwt_key_alg(key) == JWT_NONE ? 0 : jwt_keys_add(keys, key, kid);
		if (r == -EEXIST || r == -EINVAL || r == -E2BIG)
			r = diag_set(reterr_diag, r == -EEXIST ? "two keys of one id (%.64s)" : r == -E2BIG ? "too many keys (%.64s)" :
				     "key id is too long (%.64s)", kid);
	}
	EVP_PKEY_free(key);
	return r;
}

int jwt_keys_from_json(const char *text, size_t len, struct jwt_keys **ret_keys, struct diag *reterr_diag)
{
	json_error_t error = {};
	json_t *o = len > JWT_JWKS_MAX ? NULL : json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
	json_t *list = json_object_get(o, "keys");
	struct jwt_keys *keys = NULL;
	json_t *jwk;
	size_t i;
	int r;

	if (!json_is_array(list)) {
		r = diag_set(reterr_diag, "not a JSON object with \"keys\"%s%s", error.text[0] ? ": " : "", error.text);
	} else {
		r = jwt_keys_new(&keys);
		json_array_foreach(list, i, jwk)
			r = r == 0 ? add_jwk(keys, jwk, reterr_diag) : r;
	}
	json_decref(o);
	if (r < 0) {
		jwt_keys_free(keys);
		return r;
	}
	*ret_keys = keys;
	return 0;
}

int jwt_keys_to_json(const struct jwt_keys *keys, char **ret_text)
{
	json_t *list = json_array();
	json_t *o = json_pack("{s:o}", "keys", list);
	int r = o ? 0 : -ENOMEM;

	for (size_t i = 0; i < keys->n && r == 0; i++) {
		json_t *jwk = json_pack("{s:s, s:s, s:s}", "kid", keys->key[i].kid, "use", "sig", "alg", jwt_alg_name(keys->key[i].alg));

		r = jwk ? key_members(keys->key[i].key, jwk) : -ENOMEM;
		if (r == 0 && json_array_append(list, jwk) < 0)
			r = -ENOMEM;
		json_decref(jwk);
	}
	char *text = r == 0 ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (r == 0 && !text)
		r = -ENOMEM;
	if (r < 0)
		return r;
	*ret_text = text;
	return 0;
}

/*
 * Tokens: the compact form, its claims, sign and verify.
 */
#include "mesh/jwt.h"

#include <errno.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "mesh/identity.h"
#include "mesh/jwt_key.h"

enum { LEEWAY_MAX_S = 60, SIGNATURE_MAX = 1024 };	/* RSA of 8192 bits */

static const char *const error_texts[] = {
	[_JWT_E_SUCCESS] = "token is valid",
	[JWT_E_MALFORMED] = "not a token",
	[JWT_E_ALGORITHM] = "token is signed with an algorithm that is not that of the key",
	[JWT_E_KEY] = "token is signed with a key that is not known",
	[JWT_E_SIGNATURE] = "token's signature is wrong",
	[JWT_E_EXPIRED] = "token has expired",
	[JWT_E_NOT_YET] = "token is not valid yet",
	[JWT_E_ISSUER] = "token is of another issuer",
	[JWT_E_AUDIENCE] = "token is for another audience",
};
_Static_assert(ELEMENTS(error_texts) == _JWT_E_N, "every outcome has words");

const char *jwt_error_text(int r)
{
	return r >= 0 && r < _JWT_E_N ? error_texts[r] : "token cannot be checked";
}

/* --- subjects --- */

static const char SUBJECT_PREFIX[] = "system:serviceaccount:";

int jwt_subject_parse(const char *sub, char ret_ns[static 254], char ret_service_account[static 254])
{
	size_t n_prefix = sizeof(SUBJECT_PREFIX) - 1;
	char ns[254], account[254];

	if (strncmp(sub, SUBJECT_PREFIX, n_prefix) != 0)
		return -EINVAL;
	const char *colon = strchr(sub + n_prefix, ':');
	size_t n_ns = colon ? (size_t)(colon - sub) - n_prefix : 0;
	size_t n_account = colon ? strlen(colon + 1) : 0;
	if (!colon || n_ns >= sizeof(ns) || n_account >= sizeof(account))
		return -EINVAL;
	memcpy(ns, sub + n_prefix, n_ns);
	ns[n_ns] = 0;
	memcpy(account, colon + 1, n_account + 1);
	if (!identity_name_valid(ns) || !identity_name_valid(account))
		return -EINVAL;
	memcpy(ret_ns, ns, n_ns + 1);
	memcpy(ret_service_account, account, n_account + 1);
	return 0;
}

int jwt_subject_format(const char *ns, const char *service_account, char ret_sub[static JWT_TEXT_MAX + 1])
{
	if (!identity_name_valid(ns) || !identity_name_valid(service_account))
		return -EINVAL;
	snprintf(ret_sub, JWT_TEXT_MAX + 1, "%s%s:%s", SUBJECT_PREFIX, ns, service_account);
	return 0;
}

/* --- sign --- */

static int set_text(json_t *o, const char *key, const char *text)
{
	return !text[0] || json_object_set_new(o, key, json_string(text)) == 0 ? 0 : -EINVAL;
}

static int set_time(json_t *o, const char *key, int64_t t)
{
	return !t || json_object_set_new(o, key, json_integer(t)) == 0 ? 0 : -ENOMEM;
}

static int set_audience(json_t *o, const struct jwt_claims *c)
{
	json_t *list = json_array();

	for (size_t i = 0; i < c->n_aud; i++)
		if (json_array_append_new(list, json_string(c->aud[i])) < 0) {
			json_decref(list);
			return -EINVAL;
		}
	return json_object_set_new(o, "aud", list) == 0 ? 0 : -ENOMEM;
}

static int make_payload(const struct jwt_claims *c, json_t *extra, json_t **ret_payload)
{
	json_t *o = json_object();
	int r = !o ? -ENOMEM : extra && json_object_update(o, extra) < 0 ? -EINVAL : 0;

	if (r == 0)
		r = set_text(o, "iss", c->iss);
	if (r == 0)
		r = set_text(o, "sub", c->sub);
	if (r == 0)
		r = set_audience(o, c);
	if (r == 0)
		r = set_time(o, "exp", c->exp);
	if (r == 0)
		r = set_time(o, "nbf", c->nbf);
	if (r == 0)
		r = set_time(o, "iat", c->iat);
	if (r == 0)
		r = set_text(o, "jti", c->jti);
	if (r < 0) {
		json_decref(o);
		return r;
	}
	*ret_payload = o;
	return 0;
}

/* base64url of a JSON object */
static int encode_part(json_t *o, char **ret_text)
{
	CLEANUP_FREE char *json = json_dumps(o, JSON_COMPACT);

	return json ? jwt_base64_encode(json, strlen(json), ret_text) : -ENOMEM;
}

/* RFC 7518, section 3.4: r and s as they are, 32 bytes each, not in DER */
static int signature_to_jws(const uint8_t *der, size_t len, uint8_t jws[static JWT_ES256_LEN])
{
	ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)len);
	int r = -EIO;

	if (sig && BN_bn2binpad(ECDSA_SIG_get0_r(sig), jws, 32) == 32 && BN_bn2binpad(ECDSA_SIG_get0_s(sig), jws + 32, 32) == 32)
		r = 0;
	ECDSA_SIG_free(sig);
	return r;
}

/* RFC 7518, sections 3.3 and 3.4: what RSA signs (PKCS #1 v1.5, OpenSSL's default) is the signature as it is. */
static int sign_bytes(EVP_PKEY *key, const char *text, uint8_t jws[static SIGNATURE_MAX], size_t *ret_len)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	uint8_t signature[SIGNATURE_MAX];
	size_t len = sizeof(signature);
	int r = -EIO;

	if (ctx && EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
	    EVP_DigestSign(ctx, signature, &len, (const uint8_t *)text, strlen(text)) == 1)
		r = 0;
	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	if (r == 0 && jwt_key_alg(key) == JWT_ES256) {
		*ret_len = JWT_ES256_LEN;
		return signature_to_jws(signature, len, jws);
	}
	if (r == 0) {
		memcpy(jws, signature, len);
		*ret_len = len;
	}
	return r;
}

static int append_signature(EVP_PKEY *key, const char *header, const char *payload, char **ret_token)
{
	size_t len = strlen(header) + strlen(payload) + 2;
	CLEANUP_FREE char *head = malloc(len);
	CLEANUP_FREE char *signature = NULL;
	uint8_t jws[SIGNATURE_MAX];
	size_t jws_len;
	int r;

	if (!head)
		return -ENOMEM;
	snprintf(head, len, "%s.%s", header, payload);
	r = sign_bytes(key, head, jws, &jws_len);
	if (r == 0)
		r = jwt_base64_encode(jws, jws_len, &signature);
	if (r < 0)
		return r;
	len += strlen(signature) + 1;
	if (len > JWT_MAX)
		return -EMSGSIZE;
	char *token = malloc(len);
	if (!token)
		return -ENOMEM;
	snprintf(token, len, "%s.%s", head, signature);
	*ret_token = token;
	return 0;
}

int jwt_sign(EVP_PKEY *key, const char *kid, const struct jwt_claims *claims, json_t *extra, char **ret_token)
{
	CLEANUP_FREE char *header_text = NULL, *payload_text = NULL;
	json_t *header, *payload = NULL;
	int r;

	enum jwt_alg alg = jwt_key_alg(key);

	if ((alg != JWT_ES256 && alg != JWT_RS256) || !claims->exp || claims->n_aud > JWT_AUDIENCES_MAX)
		return -EINVAL;
	header = json_pack("{s:s, s:s, s:s}", "alg", jwt_alg_name(alg), "kid", kid, "typ", "JWT");
	r = header ? make_payload(claims, extra, &payload) : -EINVAL;
	if (r == 0)
		r = encode_part(header, &header_text);
	if (r == 0)
		r = encode_part(payload, &payload_text);
	if (r == 0)
		r = append_signature(key, header_text, payload_text, ret_token);
	json_decref(header);
	json_decref(payload);
	return r;
}

/* --- verify --- */

struct part {
	const char *text;
	size_t len;
};

/* header "." payload "." signature: RFC 7515, section 3.1 */
static bool split(const char *token, size_t len, struct part parts[static 3])
{
	const char *end = token + len;

	for (int i = 0; i < 3; i++) {
		const char *dot = memchr(token, '.', (size_t)(end - token));

		if (!dot == (i < 2))
			return false;	/* too few, or too many */
		parts[i] = (struct part){ token, (size_t)((dot ?: end) - token) };
		if (!parts[i].len)
			return false;
		token = dot ? dot + 1 : end;
	}
	return true;
}

/* A JSON object without duplicate keys: RFC 7515, section 4; deep nesting is refused by jansson. */
static int decode_part(const struct part *part, json_t **ret_object)
{
	CLEANUP_FREE uint8_t *bytes = NULL;
	size_t len;
	int r = jwt_base64_decode(part->text, part->len, &bytes, &len);

	if (r != 0)
		return r < 0 && r != -EINVAL ? r : JWT_E_MALFORMED;
	json_t *o = json_loadb((const char *)bytes, len, JSON_REJECT_DUPLICATES, NULL);
	if (!json_is_object(o)) {
		json_decref(o);
		return JWT_E_MALFORMED;
	}
	*ret_object = o;
	return 0;
}

static bool signature_to_der(const uint8_t *jws, size_t len, uint8_t **ret_der, int *ret_len)
{
	ECDSA_SIG *sig = len == JWT_ES256_LEN ? ECDSA_SIG_new() : NULL;
	BIGNUM *r = sig ? BN_bin2bn(jws, 32, NULL) : NULL;
	BIGNUM *s = sig ? BN_bin2bn(jws + 32, 32, NULL) : NULL;

	*ret_der = NULL;
	*ret_len = -1;
	if (r && s && ECDSA_SIG_set0(sig, r, s)) {
		*ret_len = i2d_ECDSA_SIG(sig, ret_der);
	} else {
		BN_free(r);
		BN_free(s);
	}
	ECDSA_SIG_free(sig);
	return *ret_len > 0;
}

static int verify_bytes(EVP_PKEY *key, enum jwt_alg alg, const struct part *signed_part, const uint8_t *signature, size_t len)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	uint8_t *der = NULL;
	int der_len;
	int r = JWT_E_SIGNATURE;

	if (!ctx)
		return -ENOMEM;
	if (alg == JWT_ES256 && signature_to_der(signature, len, &der, &der_len)) {
		signature = der;
		len = (size_t)der_len;
	}
	if ((alg != JWT_ES256 || der) &&
	    EVP_DigestVerifyInit(ctx, NULL, alg == JWT_EDDSA ? NULL : EVP_sha256(), NULL, key) == 1 &&
	    EVP_DigestVerify(ctx, signature, len, (const uint8_t *)signed_part->text, signed_part->len) == 1)
		r = 0;
	OPENSSL_free(der);
	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	return r;
}

static int verify_signature(const struct jwt_keys *keys, json_t *header, const struct part *signed_part, const struct part *signature)
{
	const char *alg = json_string_value(json_object_get(header, "alg"));
	json_t *kid = json_object_get(header, "kid");
	CLEANUP_FREE uint8_t *bytes = NULL;
	enum jwt_alg key_alg;
	size_t len;
	int r;

	/* RFC 7515, section 4.1.11: an extension that must be understood is not */
	if (!alg || json_object_get(header, "crit") || (kid && !json_is_string(kid)))
		return JWT_E_MALFORMED;
	EVP_PKEY *key = jwt_keys_find(keys, json_string_value(kid), &key_alg);
	if (!key)
		return JWT_E_KEY;
	if (strcmp(alg, jwt_alg_name(key_alg)) != 0)
		return JWT_E_ALGORITHM;
	r = jwt_base64_decode(signature->text, signature->len, &bytes, &len);
	if (r < 0)
		return r == -EINVAL ? JWT_E_MALFORMED : r;
	return verify_bytes(key, key_alg, signed_part, bytes, len);
}

static bool get_text(json_t *o, const char *key, char text[static JWT_TEXT_MAX + 1])
{
	json_t *v = json_object_get(o, key);
	size_t len = json_string_length(v);

	text[0] = 0;
	if (!v)
		return true;
	if (!json_is_string(v) || len > JWT_TEXT_MAX || strlen(json_string_value(v)) != len)
		return false;
	memcpy(text, json_string_value(v), len + 1);
	return true;
}

/* NumericDate: a number, maybe with a fraction */
static bool get_time(json_t *o, const char *key, int64_t *ret_time)
{
	json_t *v = json_object_get(o, key);

	*ret_time = 0;
	if (!v)
		return true;
	double t = json_number_value(v);
	if (!json_is_number(v) || !(t >= 0 && t < 1e15))
		return false;
	*ret_time = (int64_t)t;
	return true;
}

/* RFC 7519, section 4.1.3: one text, or a list of them */
static bool get_audience(json_t *o, struct jwt_claims *c)
{
	json_t *v = json_object_get(o, "aud");
	size_t n = json_is_string(v) ? 1 : json_array_size(v);

	c->n_aud = 0;
	if ((v && !json_is_string(v) && !json_is_array(v)) || n > JWT_AUDIENCES_MAX)
		return false;
	for (size_t i = 0; i < n; i++) {
		json_t *item = json_is_string(v) ? v : json_array_get(v, i);
		size_t len = json_string_length(item);

		if (!json_is_string(item) || len > JWT_TEXT_MAX || strlen(json_string_value(item)) != len)
			return false;
		memcpy(c->aud[c->n_aud++], json_string_value(item), len + 1);
	}
	return true;
}

static int check_claims(const struct jwt_claims *c, const struct jwt_expect *e)
{
	int64_t leeway = MAX((int64_t)0, MIN(e->leeway_s, (int64_t)LEEWAY_MAX_S));
	bool meant = !e->aud;

	if (!c->exp)
		return JWT_E_MALFORMED;
	if (e->now - leeway >= c->exp)
		return JWT_E_EXPIRED;
	if (c->nbf > e->now + leeway || c->iat > e->now + leeway)
		return JWT_E_NOT_YET;
	if (e->iss && strcmp(c->iss, e->iss) != 0)
		return JWT_E_ISSUER;
	for (size_t i = 0; i < c->n_aud && !meant; i++)
		meant = !strcmp(c->aud[i], e->aud);
	return meant ? 0 : JWT_E_AUDIENCE;
}

static int take_claims(const struct part *payload, const struct jwt_expect *expect, struct jwt_claims *c)
{
	json_t *o;
	int r = decode_part(payload, &o);

	if (r != 0)
		return r;
	if (get_text(o, "iss", c->iss) && get_text(o, "sub", c->sub) && get_text(o, "jti", c->jti) && get_time(o, "exp", &c->exp) &&
	    get_time(o, "nbf", &c->nbf) && get_time(o, "iat", &c->iat) && get_audience(o, c))
		r = check_claims(c, expect);
	else
		r = JWT_E_MALFORMED;
	json_decref(o);
	return r;
}

int jwt_verify(const struct jwt_keys *keys, const char *token, size_t len, const struct jwt_expect *expect, struct jwt_claims *ret_claims)
{
	CLEANUP_FREE struct jwt_claims *claims = NULL;
	struct part parts[3], signed_part;
	json_t *header;
	int r;

	if (len > JWT_MAX || !split(token, len, parts))
		return JWT_E_MALFORMED;
	r = decode_part(&parts[0], &header);
	if (r != 0)
		return r;
	signed_part = (struct part){ token, parts[0].len + 1 + parts[1].len };
	r = verify_signature(keys, header, &signed_part, &parts[2]);
	json_decref(header);
	if (r != 0)
		return r;
	claims = calloc(1, sizeof(*claims));
	if (!claims)
		return -ENOMEM;
	r = take_claims(&parts[1], expect, claims);
	if (r == 0)
		*ret_claims = *claims;
	return r;
}

#include "mesh/jwt.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "lib/unit.h"
#include "mesh/cert.h"

/* RFC 7515, appendix A.3 */
static const char ES256_KEYS[] = "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
	"\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";
static const char ES256_TOKEN[] = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
	"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

/* RFC 7515, appendix A.2 */
static const char RS256_KEYS[] = "{\"keys\":[{\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-"
	"Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdb"
	"BYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkM"
	"Ls91kzk2PAcDTW9gb54h4FRWyuXpoQ\"}]}";
static const char RS256_TOKEN[] = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
	"cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKB"
	"YNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6Bf"
	"I7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

/* RFC 8037, appendices A.2 to A.4; its payload is no JSON */
static const char EDDSA_KEYS[] = "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}";
static const char EDDSA_TOKEN[] = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
	"hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
static const char EDDSA_THUMBPRINT[] = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

enum { NOW = 1300819000, EXP = 1300819380 };

static struct jwt_claims claims;

static struct jwt_keys *keys_of(const char *json)
{
	struct jwt_keys *keys;

	assert_int_equal(jwt_keys_from_json(json, strlen(json), &keys, NULL), 0);
	assert_int_equal(jwt_keys_count(keys), 1);
	return keys;
}

static int verify_at(const struct jwt_keys *keys, const char *token, int64_t now)
{
	return jwt_verify(keys, token, strlen(token), &(struct jwt_expect){ .now = now }, &claims);
}

static void the_vectors_of_the_rfcs_verify(void **state)
{
	struct jwt_keys *keys = keys_of(ES256_KEYS);

	(void)state;
	assert_int_equal(verify_at(keys, ES256_TOKEN, NOW), 0);
	assert_string_equal(claims.iss, "joe");
	assert_int_equal(claims.exp, EXP);
	assert_int_equal(claims.n_aud, 0);
	assert_int_equal(verify_at(keys, RS256_TOKEN, NOW), JWT_E_ALGORITHM);
	jwt_keys_free(keys);

	keys = keys_of(RS256_KEYS);
	assert_int_equal(verify_at(keys, RS256_TOKEN, NOW), 0);
	assert_int_equal(verify_at(keys, ES256_TOKEN, NOW), JWT_E_ALGORITHM);
	jwt_keys_free(keys);

	keys = keys_of(EDDSA_KEYS);
	assert_int_equal(verify_at(keys, EDDSA_TOKEN, NOW), JWT_E_MALFORMED);	/* the signature is right, the payload no object */
	jwt_keys_free(keys);
}

static void a_changed_byte_breaks_the_signature(void **state)
{
	static const char *const pairs[][2] = {
		{ ES256_KEYS, ES256_TOKEN }, { RS256_KEYS, RS256_TOKEN }, { EDDSA_KEYS, EDDSA_TOKEN },
	};

	(void)state;
	for (size_t p = 0; p < ELEMENTS(pairs); p++) {
		struct jwt_keys *keys = keys_of(pairs[p][0]);
		size_t first = (size_t)(strchr(pairs[p][1], '.') - pairs[p][1]) + 1;
		char token[1024];

		for (size_t i = first; i < strlen(pairs[p][1]); i++) {
			memcpy(token, pairs[p][1], strlen(pairs[p][1]) + 1);
			if (token[i] == '.')
				continue;
			token[i] = token[i] == 'A' ? 'B' : 'A';
			int r = verify_at(keys, token, NOW);
			assert_true(r == JWT_E_SIGNATURE || r == JWT_E_MALFORMED);
			assert_true(r == JWT_E_SIGNATURE || i > strlen(token) - 2 || p == 2);
		}
		jwt_keys_free(keys);
	}
}

static void truncated_tokens_are_refused(void **state)
{
	struct jwt_keys *keys = keys_of(ES256_KEYS);

	(void)state;
	for (size_t n = 0; n < strlen(ES256_TOKEN); n++)
		assert_true(jwt_verify(keys, ES256_TOKEN, n, &(struct jwt_expect){ .now = NOW }, &claims) > 0);
	jwt_keys_free(keys);
}

static void thumbprints_are_those_of_the_rfc(void **state)
{
	static const uint8_t raw[32] = { 0xd7, 0x5a, 0x98, 0x01, 0x82, 0xb1, 0x0a, 0xb7, 0xd5, 0x4b, 0xfe, 0xd3, 0xc9, 0x64, 0x07, 0x3a,
					 0x0e, 0xe1, 0x72, 0xf3, 0xda, 0xa6, 0x23, 0x25, 0xaf, 0x02, 0x1a, 0x68, 0xf7, 0x07, 0x51, 0x1a };
	CLEANUP_KEY EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, raw, sizeof(raw));
	char kid[JWT_KID_MAX];

	(void)state;
	assert_int_equal(jwt_kid(key, kid), 0);
	assert_string_equal(kid, EDDSA_THUMBPRINT);
}

/* --- our own --- */

static struct {
	EVP_PKEY *key;
	char kid[JWT_KID_MAX];
	struct jwt_keys *keys;
	struct jwt_claims claims;
} own;

static int setup(void **state)
{
	(void)state;
	memset(&own, 0, sizeof(own));
	assert_int_equal(cert_key_new(&own.key), 0);
	assert_int_equal(jwt_kid(own.key, own.kid), 0);
	assert_int_equal(jwt_keys_new(&own.keys), 0);
	assert_int_equal(jwt_keys_add(own.keys, own.key, own.kid), 0);
	own.claims = (struct jwt_claims){ .iss = "https://controller", .sub = "system:serviceaccount:shop:orders", .n_aud = 2,
					  .aud = { "istio-ca", "other" }, .exp = 2000, .nbf = 1000, .iat = 1000, .jti = "j1" };
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	jwt_keys_free(own.keys);
	EVP_PKEY_free(own.key);
	return 0;
}

static void sign_own(char **ret_token)
{
	assert_int_equal(jwt_sign(own.key, own.kid, &own.claims, NULL, ret_token), 0);
}

static int check(const char *token, const char *iss, const char *aud, int64_t now)
{
	struct jwt_expect expect = { .iss = iss, .aud = aud, .now = now, .leeway_s = 5 };

	memset(&claims, 0, sizeof(claims));
	return jwt_verify(own.keys, token, strlen(token), &expect, &claims);
}

static void what_is_signed_verifies(void **state)
{
	char *token;

	(void)state;
	sign_own(&token);
	assert_int_equal(check(token, "https://controller", "other", 1500), 0);
	assert_string_equal(claims.sub, "system:serviceaccount:shop:orders");
	assert_string_equal(claims.jti, "j1");
	assert_int_equal(claims.n_aud, 2);
	assert_string_equal(claims.aud[0], "istio-ca");
	free(token);
}

static void time_issuer_and_audience_are_checked(void **state)
{
	char *token;

	(void)state;
	sign_own(&token);
	assert_int_equal(check(token, NULL, NULL, 2004), 0);
	assert_int_equal(check(token, NULL, NULL, 2005), JWT_E_EXPIRED);
	assert_int_equal(check(token, NULL, NULL, 995), 0);
	assert_int_equal(check(token, NULL, NULL, 994), JWT_E_NOT_YET);
	assert_int_equal(check(token, "https://other", NULL, 1500), JWT_E_ISSUER);
	assert_int_equal(check(token, NULL, "istio", 1500), JWT_E_AUDIENCE);
	assert_string_equal(jwt_error_text(JWT_E_EXPIRED), "token has expired");
	free(token);
}

static void the_audience_is_always_a_list(void **state)
{
	char *token, *json;
	json_t *o;

	(void)state;
	own.claims.n_aud = 1;
	sign_own(&token);
	/* istiod takes nothing else: see what is on the wire */
	char *payload = strchr(token, '.') + 1;
	*strchr(payload, '.') = 0;
	for (char *p = payload; *p; p++)
		*p = *p == '-' ? '+' : *p == '_' ? '/' : *p;
	size_t len = strlen(payload);
	char padded[1024];
	snprintf(padded, sizeof(padded), "%s%s", payload, len % 4 == 2 ? "==" : len % 4 == 3 ? "=" : "");
	json = calloc(1, 1024);
	assert_true(EVP_DecodeBlock((uint8_t *)json, (const uint8_t *)padded, (int)strlen(padded)) > 0);
	o = json_loads(json, JSON_DISABLE_EOF_CHECK, NULL);
	assert_true(json_is_array(json_object_get(o, "aud")));
	json_decref(o);
	free(json);
	free(token);
}

static void keys_survive_json(void **state)
{
	char *json, *token;
	struct jwt_keys *keys;

	(void)state;
	sign_own(&token);
	assert_int_equal(jwt_keys_to_json(own.keys, &json), 0);
	assert_null(strstr(json, "\"d\""));
	assert_int_equal(jwt_keys_from_json(json, strlen(json), &keys, NULL), 0);
	assert_int_equal(verify_at(keys, token, 1500), 0);
	jwt_keys_free(keys);
	free(json);
	free(token);
}

static void another_key_is_not_known(void **state)
{
	CLEANUP_KEY EVP_PKEY *key = NULL;
	char kid[JWT_KID_MAX];
	char *token;

	(void)state;
	assert_int_equal(cert_key_new(&key), 0);
	assert_int_equal(jwt_kid(key, kid), 0);
	assert_int_equal(jwt_sign(key, kid, &own.claims, NULL, &token), 0);
	assert_int_equal(check(token, NULL, NULL, 1500), JWT_E_KEY);
	free(token);
	assert_int_equal(jwt_sign(key, own.kid, &own.claims, NULL, &token), 0);	/* lies about its key */
	assert_int_equal(check(token, NULL, NULL, 1500), JWT_E_SIGNATURE);
	free(token);
}

static void no_algorithm_but_the_keys_is_taken(void **state)
{
	/* {"alg":"none"}, {"alg":"HS256"}, {"alg":"none","kid":...} are no way in */
	static const char *const heads[] = { "eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9" };
	char token[4096];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(heads); i++) {
		snprintf(token, sizeof(token), "%s.eyJleHAiOjIwMDB9.AAAA", heads[i]);
		assert_int_equal(check(token, NULL, NULL, 1500), JWT_E_ALGORITHM);
		snprintf(token, sizeof(token), "%s.eyJleHAiOjIwMDB9.", heads[i]);
		assert_int_equal(check(token, NULL, NULL, 1500), JWT_E_MALFORMED);
	}
}

static void a_token_without_an_end_is_refused(void **state)
{
	json_t *extra = json_pack("{s:s}", "exp", "never");
	char *token;

	(void)state;
	own.claims.exp = 0;
	assert_int_equal(jwt_sign(own.key, own.kid, &own.claims, NULL, &token), -EINVAL);
	own.claims.exp = 2000;
	assert_int_equal(jwt_sign(own.key, own.kid, &own.claims, extra, &token), 0);	/* what we set wins */
	assert_int_equal(check(token, NULL, NULL, 1500), 0);
	free(token);
	json_decref(extra);
}

static void oversized_tokens_are_refused(void **state)
{
	static char token[JWT_MAX + 2];

	(void)state;
	memset(token, 'A', sizeof(token) - 1);
	token[100] = token[200] = '.';
	assert_int_equal(check(token, NULL, NULL, 1500), JWT_E_MALFORMED);
}

static void bad_key_sets_are_refused(void **state)
{
	static const char *const bad[] = {
		"", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[]",
		("{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"},"
		 "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}"),
	};
	struct jwt_keys *keys;
	struct diag diag = {};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++) {
		diag.msg[0] = 0;
		assert_int_equal(jwt_keys_from_json(bad[i], strlen(bad[i]), &keys, &diag), -EINVAL);
		assert_true(diag.msg[0]);
	}
}

static void keys_of_other_kinds_are_skipped(void **state)
{
	static const char *const odd[] = {
		"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}",
		"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAA\",\"y\":\"AAAA\"}]}",
		/* not on the curve */
		"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\"}]}",
		"{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}",
		"{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"use\":\"enc\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}",
		"{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"alg\":\"ES256\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}]}",
		"{\"keys\":[1, null, \"x\", {}]}",
	};
	struct jwt_keys *keys;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(odd); i++) {
		assert_int_equal(jwt_keys_from_json(odd[i], strlen(odd[i]), &keys, NULL), 0);
		assert_int_equal(jwt_keys_count(keys), 0);
		jwt_keys_free(keys);
	}
}

static void subjects_have_two_parts(void **state)
{
	static const char *const bad[] = {
		"", "system:serviceaccount:a", "system:serviceaccount::b", "system:serviceaccount:a:", "system:serviceaccount:a:b:c",
		"system:serviceaccount:a/b:c", "user:a:b", "system:serviceaccount:..:b",
	};
	char ns[254], account[254], sub[JWT_TEXT_MAX + 1];

	(void)state;
	assert_int_equal(jwt_subject_parse("system:serviceaccount:shop:orders", ns, account), 0);
	assert_string_equal(ns, "shop");
	assert_string_equal(account, "orders");
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(jwt_subject_parse(bad[i], ns, account), -EINVAL);
	assert_int_equal(jwt_subject_format("shop", "orders", sub), 0);
	assert_string_equal(sub, "system:serviceaccount:shop:orders");
	assert_int_equal(jwt_subject_format("a:b", "c", sub), -EINVAL);
}

#define OWN(f)	cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_vectors_of_the_rfcs_verify),
		cmocka_unit_test(a_changed_byte_breaks_the_signature),
		cmocka_unit_test(truncated_tokens_are_refused),
		cmocka_unit_test(thumbprints_are_those_of_the_rfc),
		OWN(what_is_signed_verifies),
		OWN(time_issuer_and_audience_are_checked),
		OWN(the_audience_is_always_a_list),
		OWN(keys_survive_json),
		OWN(another_key_is_not_known),
		OWN(no_algorithm_but_the_keys_is_taken),
		OWN(a_token_without_an_end_is_refused),
		OWN(oversized_tokens_are_refused),
		cmocka_unit_test(bad_key_sets_are_refused),
		cmocka_unit_test(keys_of_other_kinds_are_skipped),
		cmocka_unit_test(subjects_have_two_parts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

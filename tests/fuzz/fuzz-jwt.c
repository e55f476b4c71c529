/*
 * Tokens and key sets: the text up to the first zero byte is a set, the rest a
 * token. A token that our own key has not signed must never be valid.
 */
#include "mesh/jwt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* RFC 7515, appendix A.3: nobody here has the private half */
static const char KEYS[] = "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
	"\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}]}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is taken is said again by its two parts. */
static void take_subject(const char *token, size_t len)
{
	char ns[254], account[254], again[600], *text = strndup(token, len);

	if (!text)
		abort();
	if (jwt_subject_parse(text, ns, account) == 0) {
		snprintf(again, sizeof(again), "system:serviceaccount:%s:%s", ns, account);
		if (strcmp(again, text) != 0 || !*ns || !*account)
			abort();
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct jwt_claims claims;
	const uint8_t *zero = memchr(data, 0, size);
	size_t n_keys = zero ? (size_t)(zero - data) : 0;
	const char *token = (const char *)data + (zero ? n_keys + 1 : 0);
	size_t n_token = size - (zero ? n_keys + 1 : 0);
	struct jwt_expect expect = { .now = 2000000000 };	/* after the end of the RFC's own token */
	struct jwt_keys *keys;
	char *json;

	take_subject(token, n_token);
	if (jwt_keys_from_json(KEYS, sizeof(KEYS) - 1, &keys, NULL) < 0)
		abort();
	if (jwt_verify(keys, token, n_token, &expect, &claims) == 0)
		abort();
	jwt_keys_free(keys);
	if (jwt_keys_from_json((const char *)data, n_keys, &keys, NULL) < 0)
		return 0;
	if (jwt_verify(keys, token, n_token, &expect, &claims) == 0 && claims.exp <= expect.now)
		abort();
	if (jwt_keys_to_json(keys, &json) == 0)
		free(json);
	jwt_keys_free(keys);
	return 0;
}

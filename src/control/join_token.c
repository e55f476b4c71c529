/*
 * Join tokens.
 */
#include "control/join_token.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

enum { SECRET_LEN = 32, ID_BYTES = (STORE_ID_LEN - 1) / 2 };

static void base64url(const uint8_t *data, size_t len, char *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	uint32_t bits = 0;
	unsigned n = 0;

	for (size_t i = 0; i < len; i++) {
		bits = bits << 8 | data[i];
		for (n += 8; n >= 6; n -= 6)
			*out++ = digits[bits >> (n - 6) & 63];
	}
	if (n)
		*out++ = digits[bits << (6 - n) & 63];
	*out = 0;
}

static void hash_of(const char *token, uint8_t hash[static STORE_HASH_LEN])
{
	SHA256((const uint8_t *)token, strlen(token), hash);
}

int join_token_create(struct store *s, const char *nic, const char *note, int64_t ttl_s, char ret_token[static JOIN_TOKEN_LEN],
		      struct store_token *ret_row)
{
	uint8_t random[ID_BYTES + SECRET_LEN];
	struct store_token row = { .created_at = clock_wall_s() };
	char token[JOIN_TOKEN_LEN], secret[44];
	int r;

	if (RAND_bytes(random, sizeof(random)) != 1)
		return -EIO;
	for (size_t i = 0; i < ID_BYTES; i++)
		snprintf(row.id + 2 * i, 3, "%02x", random[i]);
	base64url(random + ID_BYTES, SECRET_LEN, secret);
	snprintf(token, sizeof(token), "%s.%s", row.id, secret);
	hash_of(token, row.hash);
	row.expires_at = row.created_at + ttl_s;
	snprintf(row.nic, sizeof(row.nic), "%s", nic);
	snprintf(row.note, sizeof(row.note), "%s", note);
	r = store_token_add(s, &row);
	if (r == 0) {
		memcpy(ret_token, token, sizeof(token));
		*ret_row = row;
	}
	OPENSSL_cleanse(token, sizeof(token));
	OPENSSL_cleanse(secret, sizeof(secret));
	OPENSSL_cleanse(random, sizeof(random));
	return r;
}

static const char *format_time(int64_t t, char text[static 32])
{
	time_t when = (time_t)t;
	struct tm tm;

	if (!gmtime_r(&when, &tm) || !strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &tm))
		snprintf(text, 32, "?");
	return text;
}

static int judge(const struct store_token *t, const char *nic, char why[static JOIN_TOKEN_WHY_LEN])
{
	char when[32];

	if (t->revoked_at) {
		snprintf(why, JOIN_TOKEN_WHY_LEN, "join token %s was revoked at %s", t->id, format_time(t->revoked_at, when));
		return JOIN_TOKEN_E_REVOKED;
	}
	if (t->used_at) {
		snprintf(why, JOIN_TOKEN_WHY_LEN, "join token %s was used already, at %s by NIC '%.100s'", t->id, format_time(t->used_at, when), t->used_by);
		return JOIN_TOKEN_E_USED;
	}
	if (t->expires_at <= clock_wall_s()) {
		snprintf(why, JOIN_TOKEN_WHY_LEN, "join token %s expired at %s", t->id, format_time(t->expires_at, when));
		return JOIN_TOKEN_E_EXPIRED;
	}
	if (t->nic[0] && strcmp(t->nic, nic) != 0) {
		snprintf(why, JOIN_TOKEN_WHY_LEN, "join token %s is for NIC '%.100s', not for '%.100s'", t->id, t->nic, nic);
		return JOIN_TOKEN_E_OTHER_NIC;
	}
	return 0;
}

int join_token_check(struct store *s, const char *token, const char *nic, char ret_id[static STORE_ID_LEN],
		     char why[static JOIN_TOKEN_WHY_LEN])
{
	struct store_token row = {};
	uint8_t hash[STORE_HASH_LEN];
	char id[STORE_ID_LEN] = "";
	size_t n = strcspn(token, ".");
	int r = -ENOENT;

	hash_of(token, hash);
	if (n == STORE_ID_LEN - 1) {
		memcpy(id, token, n);
		r = store_token_get(s, id, &row);
	}
	if (r < 0 && r != -ENOENT) {
		snprintf(why, JOIN_TOKEN_WHY_LEN, "the controller cannot look up join tokens: %.200s", store_error(s));
		return r;
	}
	if (CRYPTO_memcmp(hash, row.hash, sizeof(hash)) || r == -ENOENT) {
		snprintf(why, JOIN_TOKEN_WHY_LEN, "the join token is not known");
		return JOIN_TOKEN_E_UNKNOWN;
	}
	r = judge(&row, nic, why);
	if (r == 0)
		memcpy(ret_id, id, sizeof(id));
	return r;
}

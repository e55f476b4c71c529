/*
 * Workload tokens.
 */
#include "control/issuer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/secret.h"
#include "mesh/cert.h"

enum { MAX_KEYS = 8, CHECK_MS = 60000, LEEWAY_S = 10, MAX_KEY_FILE = 8192 };

struct signing_key {
	int64_t since;			/* seconds since 1970; its file's name */
	EVP_PKEY *key;
	char kid[JWT_KID_MAX];
};

struct issuer {
	struct loop *loop;
	const struct config *config;
	char *dir;
	struct signing_key keys[MAX_KEYS];	/* the newest last */
	size_t n_keys;
	struct jwt_keys *public_keys;
	struct timer check;
};

static void path_of(const struct issuer *i, int64_t since, char *path, size_t size)
{
	snprintf(path, size, "%s/key-%" PRId64 ".pem", i->dir, since);
}

/* --- keys --- */

static int publish(struct issuer *i)
{
	struct jwt_keys *keys;
	int r = jwt_keys_new(&keys);

	for (size_t k = 0; r == 0 && k < i->n_keys; k++)
		r = jwt_keys_add(keys, i->keys[k].key, i->keys[k].kid);
	if (r < 0)
		return r;
	jwt_keys_free(i->public_keys);
	i->public_keys = keys;
	return 0;
}

/* Takes @key on success. */
static int add_key(struct issuer *i, int64_t since, EVP_PKEY *key)
{
	size_t at = i->n_keys;
	int r;

	if (i->n_keys == MAX_KEYS)
		return -E2BIG;
	struct signing_key new_key = { .since = since, .key = key };
	r = jwt_kid(key, new_key.kid);
	if (r < 0)
		return r;
	while (at > 0 && i->keys[at - 1].since > since)
		at--;
	memmove(&i->keys[at + 1], &i->keys[at], (i->n_keys - at) * sizeof(*i->keys));
	i->keys[at] = new_key;
	i->n_keys++;
	return 0;
}

static int write_key(const char *path, const char *pem)
{
	CLEANUP_FREE char *tmp = NULL;
	size_t len = strlen(pem);

	if (asprintf(&tmp, "%s.new", path) < 0) {
		tmp = NULL;
		return -ENOMEM;
	}
	CLEANUP_FD int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, pem, len);
	if (n < 0 || fsync(fd) < 0)
		return -errno;
	if ((size_t)n != len)
		return -ENOSPC;
	return rename(tmp, path) < 0 ? -errno : 0;
}

/* istiod takes ES256 only where its JWT_RULE has no jwks_uri, and RS256 always. */
static enum jwt_alg wanted_alg(const struct config *c)
{
	switch (c->tokens.algorithm) {
	case TOKEN_ES256:
		return JWT_ES256;
	case TOKEN_RS256:
		return JWT_RS256;
	default:
		return c->mesh.kind == MESH_ISTIO ? JWT_RS256 : JWT_ES256;
	}
}

static int make_key(struct issuer *i, struct diag *d)
{
	CLEANUP_KEY EVP_PKEY *key = NULL;
	char path[4096], *pem = NULL;
	int64_t now = clock_wall_s();
	int r = jwt_key_new(wanted_alg(i->config), &key);

	if (i->n_keys)			/* its file's name is the time */
		now = MAX(now, i->keys[i->n_keys - 1].since + 1);

	if (r == 0)
		r = cert_key_to_pem(key, &pem);
	path_of(i, now, path, sizeof(path));
	if (r == 0)
		r = write_key(path, pem);
	secret_free(pem);
	if (r == 0)
		r = add_key(i, now, key);
	if (r < 0) {
		diag_at(d, path, 0, "a signing key cannot be stored: %s", strerror(-r));
		return r;
	}
	key = NULL;
	return publish(i);
}

static void retire(struct issuer *i)
{
	int64_t longest_s = MAX(i->config->tokens.workload_ttl_ms, i->config->tokens.container_ttl_ms) / 1000 + 2 * LEEWAY_S;
	int64_t now = clock_wall_s();
	char path[4096];

	/* The oldest is not needed any more when the tokens of its time have expired: it ended when the next one began. */
	while (i->n_keys > 1 && (i->keys[1].since + longest_s < now || i->n_keys == MAX_KEYS)) {
		path_of(i, i->keys[0].since, path, sizeof(path));
		unlink(path);
		EVP_PKEY_free(i->keys[0].key);
		memmove(&i->keys[0], &i->keys[1], (--i->n_keys) * sizeof(*i->keys));
		if (publish(i) < 0)
			log_error("out of memory: an old signing key stays published");
	}
}

static int load_key(struct issuer *i, const char *name, struct diag *d)
{
	CLEANUP_KEY EVP_PKEY *key = NULL;
	CLEANUP_FREE char *pem = NULL;
	char path[4096];
	int64_t since;
	int end = 0;
	struct stat st;

	if (sscanf(name, "key-%" SCNd64 ".pem%n", &since, &end) != 1 || (size_t)end != strlen(name))
		return 0;
	path_of(i, since, path, sizeof(path));
	CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return diag_at(d, path, 0, "%m");
	if (st.st_mode & 077)
		return diag_at(d, path, 0, "others can read this key: its mode must be 0600");
	pem = calloc(1, MAX_KEY_FILE + 1);
	if (!pem)
		return -ENOMEM;
	if (read(fd, pem, MAX_KEY_FILE) <= 0 || cert_key_from_pem(pem, &key) < 0)
		return diag_at(d, path, 0, "is not a private key");
	int r = add_key(i, since, key);
	OPENSSL_cleanse(pem, MAX_KEY_FILE);
	if (r == -E2BIG)
		return diag_at(d, i->dir, 0, "more than %d signing keys", MAX_KEYS);
	if (r == 0)
		key = NULL;
	return r;
}

static int load_keys(struct issuer *i, struct diag *d)
{
	DIR *dir;
	int r = 0;

	if (mkdir(i->dir, 0700) < 0 && errno != EEXIST)
		return diag_at(d, i->dir, 0, "%m");
	dir = opendir(i->dir);
	if (!dir)
		return diag_at(d, i->dir, 0, "%m");
	for (struct dirent *e = readdir(dir); e && r == 0; e = readdir(dir))
		r = load_key(i, e->d_name, d);
	closedir(dir);
	if (r == 0 && (!i->n_keys || jwt_key_alg(i->keys[i->n_keys - 1].key) != wanted_alg(i->config))) {
		retire(i);		/* makes room */
		return make_key(i, d);
	}
	return r < 0 ? r : publish(i);
}

static int on_check(struct timer *t)
{
	struct issuer *i = container_of(t, struct issuer, check);
	struct diag diag = {};

	retire(i);
	if (clock_wall_s() - i->keys[i->n_keys - 1].since > i->config->tokens.key_rotation_ms / 1000) {
		if (make_key(i, &diag) < 0)
			log_error("the signing key cannot be rotated", log_str("reason", diag.msg));
		else
			log_info("a new signing key is in use", log_str("kid", i->keys[i->n_keys - 1].kid));
	}
	return timer_arm(i->loop, t, CHECK_MS, on_check);
}

int issuer_new(struct loop *loop, const struct config *config, struct issuer **ret_issuer, struct diag *reterr_diag)
{
	struct issuer *i = calloc(1, sizeof(*i));
	int r;

	if (!i)
		return -ENOMEM;
	i->loop = loop;
	i->config = config;
	if (asprintf(&i->dir, "%s/oidc", config->state_dir) < 0) {
		free(i);
		return -ENOMEM;
	}
	r = load_keys(i, reterr_diag);
	if (r == 0)
		r = timer_arm(loop, &i->check, CHECK_MS, on_check);
	if (r < 0) {
		issuer_free(i);
		return r;
	}
	*ret_issuer = i;
	return 0;
}

struct issuer *issuer_free(struct issuer *i)
{
	if (!i)
		return NULL;
	timer_cancel(&i->check);
	for (size_t k = 0; k < i->n_keys; k++)
		EVP_PKEY_free(i->keys[k].key);
	jwt_keys_free(i->public_keys);
	free(i->dir);
	free(i);
	return NULL;
}

void issuer_apply(struct issuer *i, const struct config *config)
{
	i->config = config;
}

/* --- tokens --- */

static int put_audiences(const struct issuer *i, const char *audience, struct jwt_claims *c)
{
	const struct conf_strings *list = &i->config->tokens.audiences;

	if (audience && *audience) {
		snprintf(c->aud[c->n_aud++], sizeof(c->aud[0]), "%s", audience);
		return 0;
	}
	if (list->n > JWT_AUDIENCES_MAX)
		return -E2BIG;
	for (size_t k = 0; k < list->n; k++)
		snprintf(c->aud[c->n_aud++], sizeof(c->aud[0]), "%s", list->v[k]);
	return 0;
}

enum { JTI_RANDOM = 12, JTI_ORIGIN = REVOCATION_ORIGIN_LEN };

static int put_jti(const struct issuer_subject *s, struct jwt_claims *c)
{
	uint8_t bytes[JTI_ORIGIN + JTI_RANDOM];
	size_t n_origin = s->origin ? JTI_ORIGIN : 0;
	char hex[2 * sizeof(bytes) + 1];

	if (s->origin)
		memcpy(bytes, s->origin->b, JTI_ORIGIN);
	if (RAND_bytes(bytes + n_origin, JTI_RANDOM) != 1)
		return -EIO;
	for (size_t k = 0; k < n_origin + JTI_RANDOM; k++)
		snprintf(hex + 2 * k, 3, "%02x", bytes[k]);
	snprintf(c->jti, sizeof(c->jti), s->guest_id ? "guest:%s:%s" : "workload:%s%s", s->guest_id ? s->guest_id : "", hex);
	return 0;
}

int issuer_sign(struct issuer *i, const struct issuer_subject *s, char **ret_token, int64_t *ret_expires_at)
{
	const struct signing_key *key = &i->keys[i->n_keys - 1];
	CLEANUP_FREE struct jwt_claims *c = calloc(1, sizeof(*c));
	json_t *extra;
	int r;

	if (!c)
		return -ENOMEM;
	c->iat = c->nbf = clock_wall_s();
	c->exp = c->iat + s->ttl_s;
	snprintf(c->iss, sizeof(c->iss), "%s", i->config->tokens.issuer);
	r = jwt_subject_format(s->namespace, s->service_account, c->sub);
	if (r == 0)
		r = put_audiences(i, s->audience, c);
	if (r == 0)
		r = put_jti(s, c);
	if (r < 0)
		return r;
	extra = s->guest_id ? json_pack("{s:{s:s}}", "outrigger", "guest", s->guest_id) : NULL;
	if (s->guest_id && !extra)
		return -ENOMEM;
	r = jwt_sign(key->key, key->kid, c, extra, ret_token);
	json_decref(extra);
	if (r == 0)
		*ret_expires_at = c->exp;
	return r;
}

static void take_origin(const char *hex, struct issuer_verified *v)
{
	size_t len = strlen(hex);

	v->has_origin = len == 2 * (JTI_ORIGIN + JTI_RANDOM) && strspn(hex, "0123456789abcdef") == len;
	for (size_t k = 0; v->has_origin && k < JTI_ORIGIN; k++)
		sscanf(hex + 2 * k, "%2hhx", &v->origin.b[k]);
}

static void take_guest(const char *jti, struct issuer_verified *v)
{
	const char *end = strrchr(jti, ':');

	if (strncmp(jti, "guest:", 6) != 0 || end <= jti + 6)
		return;
	snprintf(v->guest_id, sizeof(v->guest_id), "%.*s", (int)(end - jti - 6), jti + 6);
	take_origin(end + 1, v);
}

int issuer_verify(struct issuer *i, const char *token, struct issuer_verified *ret_verified, struct diag *reterr_diag)
{
	CLEANUP_FREE struct jwt_claims *c = calloc(1, sizeof(*c));
	const struct conf_strings *audiences = &i->config->tokens.audiences;
	const struct jwt_expect expect = {
		.iss = i->config->tokens.issuer, .aud = audiences->n ? audiences->v[0] : NULL, .now = clock_wall_s(), .leeway_s = LEEWAY_S,
	};
	struct issuer_verified v = {};
	int r;

	if (!c)
		return -ENOMEM;
	r = jwt_verify(i->public_keys, token, strlen(token), &expect, c);
	if (r < 0)
		return r;
	if (r > 0)
		diag_set(reterr_diag, "%s", jwt_error_text(r));
	else if (jwt_subject_parse(c->sub, v.namespace, v.service_account) < 0)
		diag_set(reterr_diag, "the token's subject is not a service account");
	else
		r = 0;
	if (r > 0 || !v.namespace[0])
		return -EACCES;
	take_guest(c->jti, &v);
	v.issued_at = c->iat;
	*ret_verified = v;
	return 0;
}

/* Of all keys: the older ones' tokens are still about. */
static json_t *algorithms(const struct issuer *i)
{
	json_t *list = json_array();

	for (size_t k = i->n_keys; k-- > 0;) {
		const char *name = jwt_alg_name(jwt_key_alg(i->keys[k].key));
		bool listed = false;

		for (size_t n = 0; n < json_array_size(list); n++)
			listed |= !strcmp(json_string_value(json_array_get(list, n)), name);
		if (!listed)
			json_array_append_new(list, json_string(name));
	}
	return list;
}

json_t *issuer_discovery(const struct issuer *i)
{
	CLEANUP_FREE char *jwks = NULL;

	if (asprintf(&jwks, "%s/jwks.json", i->config->tokens.issuer) < 0) {
		jwks = NULL;
		return NULL;
	}
	return json_pack("{s:s, s:s, s:[s], s:[s], s:o}", "issuer", i->config->tokens.issuer, "jwks_uri", jwks,
			 "response_types_supported", "id_token", "subject_types_supported", "public",
			 "id_token_signing_alg_values_supported", algorithms(i));
}

char *issuer_jwks(const struct issuer *i)
{
	char *text;

	return jwt_keys_to_json(i->public_keys, &text) < 0 ? NULL : text;
}

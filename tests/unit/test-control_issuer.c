#include "lib/unit.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "control/authority.h"
#include "control/issuer.h"

struct fixture {
	char dir[32];
	struct loop *loop;
	struct config *config;
	struct issuer *issuer;
};

static struct config *config_for(const char *dir, const char *more)
{
	char text[512];
	struct config *c;
	struct diag d = {};

	snprintf(text, sizeof(text), "trust_domain: t.mesh\nstate_dir: %s\n%s", dir, more);
	if (config_parse("c.yaml", text, strlen(text), &c, &d) < 0)
		fail_msg("%s", d.msg);
	return c;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct diag d = {};

	assert_non_null(f);
	snprintf(f->dir, sizeof(f->dir), "/tmp/issuer-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(loop_new(&f->loop), 0);
	f->config = config_for(f->dir, "");
	assert_int_equal(issuer_new(f->loop, f->config, &f->issuer, &d), 0);
	*state = f;
	return 0;
}

static void remove_all(const char *dir)
{
	DIR *d = opendir(dir);

	for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
		char path[512];

		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
		if (unlink(path) < 0)
			remove_all(path);
	}
	if (d)
		closedir(d);
	rmdir(dir);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	issuer_free(f->issuer);
	config_free(f->config);
	loop_free(f->loop);
	remove_all(f->dir);
	free(f);
	return 0;
}

static char *sign(struct fixture *f, const char *guest, const char *audience, int64_t ttl_s)
{
	int64_t expires_at;
	char *token;

	assert_int_equal(issuer_sign(f->issuer, &(struct issuer_subject){ "shop", "cart", guest, NULL, audience, ttl_s }, &token, &expires_at), 0);
	return token;
}

static void what_was_signed_is_verified(void **state)
{
	struct fixture *f = *state;
	struct issuer_verified v;
	struct diag d = {};
	char *token = sign(f, "nic-a/p1/52:54:00:00:00:01", NULL, 60);

	assert_int_equal(issuer_verify(f->issuer, token, &v, &d), 0);
	assert_string_equal(v.namespace, "shop");
	assert_string_equal(v.service_account, "cart");
	assert_string_equal(v.guest_id, "nic-a/p1/52:54:00:00:00:01");
	free(token);
	token = sign(f, NULL, "", 60);
	assert_int_equal(issuer_verify(f->issuer, token, &v, &d), 0);
	assert_string_equal(v.guest_id, "");
	free(token);
}

static void a_vms_token_says_under_which_enrolment(void **state)
{
	struct fixture *f = *state;
	struct revocation_origin origin = revocation_origin_of_nic("nic-a", 1234567890);
	struct issuer_verified v;
	struct diag d = {};
	int64_t expires_at;
	char *token = sign(f, "nic-a/p1/52:54:00:00:00:01", NULL, 60);

	assert_int_equal(issuer_verify(f->issuer, token, &v, &d), 0);
	assert_false(v.has_origin);			/* of an older controller */
	free(token);
	assert_int_equal(issuer_sign(f->issuer, &(struct issuer_subject){ "shop", "cart", "nic-a/p1/52:54:00:00:00:01", &origin, NULL, 60 },
				     &token, &expires_at), 0);
	assert_int_equal(issuer_verify(f->issuer, token, &v, &d), 0);
	assert_true(v.has_origin);
	assert_memory_equal(&v.origin, &origin, sizeof(origin));
	assert_string_equal(v.guest_id, "nic-a/p1/52:54:00:00:00:01");
	free(token);
}

static void other_tokens_are_refused(void **state)
{
	struct fixture *f = *state;
	struct issuer_verified v;
	struct diag d = {};
	char *expired = sign(f, NULL, NULL, -60), *foreign = sign(f, NULL, "somebody", 60), *good = sign(f, NULL, NULL, 60);

	assert_int_equal(issuer_verify(f->issuer, expired, &v, &d), -EACCES);
	assert_non_null(strstr(d.msg, "expired"));
	assert_int_equal(issuer_verify(f->issuer, foreign, &v, &d), -EACCES);
	for (size_t i = 0; i < strlen(good); i++) {
		char c = good[i];

		good[i] = c == 'A' ? 'B' : 'A';
		int r = issuer_verify(f->issuer, good, &v, &d);
		assert_true(r == -EACCES || (r == 0 && i + 1 == strlen(good)));	/* the last letter has bits that do not count */
		good[i] = 0;
		assert_int_equal(issuer_verify(f->issuer, good, &v, &d), -EACCES);
		good[i] = c;
	}
	free(expired);
	free(foreign);
	free(good);
}

static void the_key_survives_a_restart_and_is_nobodys_business(void **state)
{
	struct fixture *f = *state;
	struct issuer_verified v;
	struct diag d = {};
	char *token = sign(f, NULL, NULL, 60), path[512];
	DIR *dir;

	issuer_free(f->issuer);
	f->issuer = NULL;
	assert_int_equal(issuer_new(f->loop, f->config, &f->issuer, &d), 0);
	assert_int_equal(issuer_verify(f->issuer, token, &v, &d), 0);
	free(token);
	f->issuer = issuer_free(f->issuer);

	snprintf(path, sizeof(path), "%s/oidc", f->dir);
	dir = opendir(path);
	assert_non_null(dir);
	for (struct dirent *e = readdir(dir); e; e = readdir(dir))
		if (!strncmp(e->d_name, "key-", 4)) {
			snprintf(path, sizeof(path), "%s/oidc/%s", f->dir, e->d_name);
			assert_int_equal(chmod(path, 0644), 0);
		}
	closedir(dir);
	assert_int_equal(issuer_new(f->loop, f->config, &f->issuer, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "0600"));
}

static const char *algorithm(json_t *discovery, size_t i)
{
	return json_string_value(json_array_get(json_object_get(discovery, "id_token_signing_alg_values_supported"), i));
}

static void istio_gets_rs256_and_tokens_of_the_key_before_stay_good(void **state)
{
	struct fixture *f = *state;
	struct issuer_verified v;
	struct diag d = {};
	char *before = sign(f, NULL, NULL, 60);

	issuer_free(f->issuer);
	config_free(f->config);
	f->config = config_for(f->dir, "mesh: { kind: istio, roots_file: /dev/null, tokens: oidc }\nadvertise: { mesh: 'a:1' }\n");
	assert_int_equal(issuer_new(f->loop, f->config, &f->issuer, &d), 0);
	char *after = sign(f, NULL, NULL, 60);
	assert_int_equal(issuer_verify(f->issuer, before, &v, &d), 0);
	assert_int_equal(issuer_verify(f->issuer, after, &v, &d), 0);
	assert_int_equal(after[strlen(after) - 343], '.');		/* 256 bytes follow */
	json_t *discovery = issuer_discovery(f->issuer);
	assert_string_equal(algorithm(discovery, 0), "RS256");
	assert_string_equal(algorithm(discovery, 1), "ES256");
	json_decref(discovery);

	/* The next start finds what it wants. */
	issuer_free(f->issuer);
	assert_int_equal(issuer_new(f->loop, f->config, &f->issuer, &d), 0);
	char *jwks = issuer_jwks(f->issuer);
	json_t *keys = json_loads(jwks, 0, NULL);
	assert_int_equal(json_array_size(json_object_get(keys, "keys")), 2);
	json_decref(keys);
	free(jwks);
	free(before);
	free(after);
}

static void documents_name_issuer_and_keys(void **state)
{
	struct fixture *f = *state;
	json_t *discovery = issuer_discovery(f->issuer);
	char *jwks = issuer_jwks(f->issuer);

	assert_string_equal(json_string_value(json_object_get(discovery, "issuer")), "https://outrigger.local");
	assert_non_null(strstr(jwks, "\"kty\":\"EC\""));
	assert_null(strstr(jwks, "\"d\""));
	json_decref(discovery);
	free(jwks);
}

/* --- the authority --- */

static void an_authority_is_made_once_and_signs(void **state)
{
	struct fixture *f = *state;
	struct authority *a;
	struct authority_issued issued;
	struct diag d = {};
	struct cert_info info;
	EVP_PKEY *key;
	char *roots;

	assert_int_equal(authority_new(f->loop, f->config, NULL, &a, &d), 0);
	assert_int_equal(cert_key_new(&key), 0);
	assert_int_equal(authority_sign(a, &(struct authority_leaf){ .key = key, .id = "spiffe://t.mesh/ns/a/sa/b", .ttl_s = 60 }, &issued), 0);
	assert_int_equal(issued.chain.n, 3);
	assert_int_equal(cert_info(issued.chain.pem[0], &info), 0);
	assert_string_equal(info.id, "spiffe://t.mesh/ns/a/sa/b");
	assert_true(info.not_before >= clock_wall_s() - CERT_BACKDATE_S - 1);
	assert_true(info.not_after <= clock_wall_s() + 61);
	assert_int_equal(cert_list_verify(&issued.chain, authority_roots_pem(a), &d), 0);
	roots = strdup(authority_roots_pem(a));
	authority_free(a);

	assert_int_equal(authority_new(f->loop, f->config, NULL, &a, &d), 0);
	assert_string_equal(authority_roots_pem(a), roots);
	authority_free(a);

	struct config *other = config_for(f->dir, "ca: {extra_roots: [/nonexistent/root.pem]}\n");
	assert_int_equal(authority_new(f->loop, other, NULL, &a, &d), -EINVAL);
	assert_string_equal(d.file, "/nonexistent/root.pem");
	config_free(other);
	cert_list_deinit(&issued.chain);
	EVP_PKEY_free(key);
	free(roots);
}

static void the_authority_of_another_trust_domain_is_refused(void **state)
{
	struct fixture *f = *state;
	struct authority *a;
	struct diag d = {};
	char text[256];
	struct config *other;

	assert_int_equal(authority_new(f->loop, f->config, NULL, &a, &d), 0);
	authority_free(a);
	snprintf(text, sizeof(text), "trust_domain: other.mesh\nstate_dir: %s\n", f->dir);
	assert_int_equal(config_parse("c", text, strlen(text), &other, &d), 0);
	int r = authority_new(f->loop, other, NULL, &a, &d);
	assert_int_equal(r, -EINVAL);
	assert_non_null(strstr(d.msg, "t.mesh"));
	config_free(other);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_was_signed_is_verified, setup, teardown),
		cmocka_unit_test_setup_teardown(a_vms_token_says_under_which_enrolment, setup, teardown),
		cmocka_unit_test_setup_teardown(other_tokens_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(the_key_survives_a_restart_and_is_nobodys_business, setup, teardown),
		cmocka_unit_test_setup_teardown(istio_gets_rs256_and_tokens_of_the_key_before_stay_good, setup, teardown),
		cmocka_unit_test_setup_teardown(documents_name_issuer_and_keys, setup, teardown),
		cmocka_unit_test_setup_teardown(an_authority_is_made_once_and_signs, setup, teardown),
		cmocka_unit_test_setup_teardown(the_authority_of_another_trust_domain_is_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

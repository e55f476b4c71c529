/*
 * Who gets a certificate for an expired one: each test is a way to come by one that must not count.
 */
#include "control/recovery.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "lib/unit.h"
#include "mesh/cert_ca.h"

enum { LIFE_S = 3600, GRACE_S = 600, DAY_S = 86400 };

static const char NIC_A[] = "spiffe://mesh.internal/nic/a", NIC_B[] = "spiffe://mesh.internal/nic/b";

static struct {
	struct cert_ca *root, *ca;
	EVP_PKEY *key;
	char *chain_pem;
	struct cert_info leaf;
	struct recovery_rules rules;
	struct recovery_claim claim;
	uint8_t fingerprint[CERT_FINGERPRINT_LEN];
	struct diag diag;
} t;

static char *issue(struct cert_ca *ca, const char *id, int64_t ttl_s)
{
	struct cert_list chain = {};
	char *pem;

	assert_int_equal(cert_ca_sign(ca, &(struct cert_leaf){ .key = t.key, .id = id, .ttl_s = ttl_s }, &chain), 0);
	assert_int_equal(cert_list_join(&chain, 0, chain.n, &pem), 0);
	cert_list_deinit(&chain);
	return pem;
}

/* What is shown, @ago_s after its end. */
static void show(char *chain_pem, int64_t ago_s)
{
	free(t.chain_pem);
	t.chain_pem = chain_pem;
	assert_int_equal(cert_info(chain_pem, &t.leaf), 0);
	t.claim = (struct recovery_claim){ .nic = "a", .chain_pem = chain_pem, .key = t.key };
	t.rules.now = t.leaf.not_after + ago_s;
}

static int setup(void **state)
{
	(void)state;
	memset(&t, 0, sizeof(t));
	assert_int_equal(cert_ca_new_root("mesh.internal", 10, &t.root), 0);
	assert_int_equal(cert_ca_new_intermediate(t.root, 5, &t.ca), 0);
	assert_int_equal(cert_key_new(&t.key), 0);
	t.rules = (struct recovery_rules){ .trust_domain = "mesh.internal", .roots_pem = cert_ca_roots_pem(t.root), .grace_s = GRACE_S };
	show(issue(t.ca, NIC_A, LIFE_S), 60);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(t.chain_pem);
	EVP_PKEY_free(t.key);
	cert_ca_free(t.ca);
	cert_ca_free(t.root);
	return 0;
}

static int check(void)
{
	t.diag = (struct diag){};
	return recovery_check(&t.rules, &t.claim, t.fingerprint, &t.diag);
}

static void refused(const char *word)
{
	assert_int_equal(check(), -EKEYREJECTED);
	assert_non_null(strstr(t.diag.msg, word));
}

static void the_owner_of_the_key_is_taken_for_the_nic(void **state)
{
	uint8_t expected[CERT_FINGERPRINT_LEN];

	(void)state;
	assert_int_equal(check(), 0);
	assert_int_equal(cert_fingerprint(t.chain_pem, expected), 0);
	assert_memory_equal(t.fingerprint, expected, sizeof(expected));
}

static void the_grace_is_what_it_says(void **state)
{
	(void)state;
	t.rules.now = t.leaf.not_after + GRACE_S;
	assert_int_equal(check(), 0);
	t.rules.now++;
	refused("601 s ago");
	t.rules.now = INT64_MAX / 2;
	refused("ca.nic_grace");
}

static void without_a_grace_nothing_is_given(void **state)
{
	(void)state;
	t.rules.grace_s = 0;
	refused("nic_grace is 0");
	t.rules.now = t.leaf.not_after - 1;
	refused("nic_grace is 0");
}

/* A NIC whose clock is ahead of the controller's asks too early. */
static void a_certificate_that_is_still_good_counts(void **state)
{
	(void)state;
	t.rules.now = t.leaf.not_after - LIFE_S / 2;
	assert_int_equal(check(), 0);
}

static void a_clock_that_was_set_back_brings_nothing_to_life(void **state)
{
	(void)state;
	t.rules.now = t.leaf.not_before - DAY_S;
	refused("clock is wrong");
}

static void a_certificate_without_its_key_is_nothing(void **state)
{
	CLEANUP_KEY EVP_PKEY *thief = NULL;

	(void)state;
	assert_int_equal(cert_key_new(&thief), 0);
	t.claim.key = thief;
	refused("key");
}

static void it_is_for_that_nic_and_no_other(void **state)
{
	(void)state;
	t.claim.nic = "b";
	refused("'a'");
	show(issue(t.ca, NIC_B, LIFE_S), 60);
	refused("'b'");
}

static void a_workloads_certificate_is_no_nics(void **state)
{
	(void)state;
	show(issue(t.ca, "spiffe://mesh.internal/ns/shop/sa/a", LIFE_S), 60);
	refused("not a NIC's");
	show(issue(t.ca, "spiffe://other.internal/nic/a", LIFE_S), 60);
	refused("not a NIC's");
}

static void another_authoritys_is_nobodys(void **state)
{
	struct cert_ca *other;

	(void)state;
	assert_int_equal(cert_ca_new_root("mesh.internal", 10, &other), 0);
	show(issue(other, NIC_A, LIFE_S), 60);
	refused("not valid");
	cert_ca_free(other);
}

/* A root that is not trusted any more takes all with it; during a rotation the old one is trusted beside the new one. */
static void a_root_that_was_taken_away_takes_it_along(void **state)
{
	CLEANUP_FREE char *both = NULL;
	struct cert_ca *next;

	(void)state;
	assert_int_equal(cert_ca_new_root("mesh.internal", 10, &next), 0);
	t.rules.roots_pem = cert_ca_roots_pem(next);
	refused("not valid");
	assert_true(asprintf(&both, "%s%s", cert_ca_roots_pem(next), cert_ca_roots_pem(t.root)) > 0);
	t.rules.roots_pem = both;
	assert_int_equal(check(), 0);
	cert_ca_free(next);
}

/* An intermediate that has been replaced since: what stands between is the caller's to bring. */
static void the_chain_between_is_brought_along(void **state)
{
	char *end;

	(void)state;
	end = strstr(strstr(t.chain_pem, "-----END CERTIFICATE-----"), "\n");
	assert_non_null(end);
	end[1] = 0;
	refused("not valid");
}

static void an_authority_is_no_nic(void **state)
{
	CLEANUP_FREE char *pem = NULL;

	(void)state;
	assert_true(asprintf(&pem, "%s%s", cert_ca_cert_pem(t.ca), cert_ca_roots_pem(t.ca)) > 0);
	t.claim.chain_pem = pem;
	refused("not a NIC's");
}

static void what_is_no_certificate_is_refused(void **state)
{
	CLEANUP_FREE char *cut = strdup(t.chain_pem);
	size_t between = (size_t)(strstr(strstr(t.chain_pem, "-----END") + 1, "-----END") - t.chain_pem);

	(void)state;
	t.claim.chain_pem = "";
	refused("cannot be read");
	t.claim.chain_pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
	refused("cannot be read");
	t.claim.chain_pem = cut;
	for (size_t n = between; n-- > 0;) {	/* the root at the end is not needed */
		cut[n] = 0;
		assert_int_equal(check(), -EKEYREJECTED);
		assert_true(t.diag.msg[0]);
	}
}

#define RECOVERY(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		RECOVERY(the_owner_of_the_key_is_taken_for_the_nic),
		RECOVERY(the_grace_is_what_it_says),
		RECOVERY(without_a_grace_nothing_is_given),
		RECOVERY(a_certificate_that_is_still_good_counts),
		RECOVERY(a_clock_that_was_set_back_brings_nothing_to_life),
		RECOVERY(a_certificate_without_its_key_is_nothing),
		RECOVERY(it_is_for_that_nic_and_no_other),
		RECOVERY(a_workloads_certificate_is_no_nics),
		RECOVERY(another_authoritys_is_nobodys),
		RECOVERY(a_root_that_was_taken_away_takes_it_along),
		RECOVERY(the_chain_between_is_brought_along),
		RECOVERY(an_authority_is_no_nic),
		RECOVERY(what_is_no_certificate_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "mesh/cert_ca.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/secret.h"
#include "lib/unit.h"

static const char ID[] = "spiffe://mesh.internal/ns/shop/sa/orders";

static EVP_PKEY *new_key(void)
{
	EVP_PKEY *key;

	assert_int_equal(cert_key_new(&key), 0);
	return key;
}

static struct cert_ca *new_root(void)
{
	struct cert_ca *ca;

	assert_int_equal(cert_ca_new_root("mesh.internal", 10, &ca), 0);
	return ca;
}

/* --- requests --- */

static void a_request_names_one_identity(void **state)
{
	CLEANUP_KEY EVP_PKEY *key = new_key();
	CLEANUP_FREE char *pem = NULL;
	struct cert_csr csr;

	(void)state;
	assert_int_equal(cert_csr_new(key, ID, &pem), 0);
	assert_int_equal(cert_csr_parse(pem, strlen(pem), &csr, NULL), 0);
	assert_string_equal(csr.id, ID);
	assert_int_equal(EVP_PKEY_eq(csr.key, key), 1);
	cert_csr_deinit(&csr);
}

/* What ztunnel sends: see it with libcrypto's own eyes. */
static void a_request_has_no_subject_and_a_critical_name(void **state)
{
	CLEANUP_KEY EVP_PKEY *key = new_key();
	CLEANUP_FREE char *pem = NULL;

	(void)state;
	assert_int_equal(cert_csr_new(key, ID, &pem), 0);
	BIO *b = BIO_new_mem_buf(pem, -1);
	X509_REQ *req = PEM_read_bio_X509_REQ(b, NULL, NULL, NULL);
	STACK_OF(X509_EXTENSION) *extensions = X509_REQ_get_extensions(req);

	assert_int_equal(X509_NAME_entry_count(X509_REQ_get_subject_name(req)), 0);
	assert_int_equal(X509_REQ_get_version(req), 0);
	assert_int_equal(X509_REQ_get_signature_nid(req), NID_ecdsa_with_SHA256);
	assert_int_equal(sk_X509_EXTENSION_num(extensions), 1);
	assert_int_equal(X509_EXTENSION_get_critical(sk_X509_EXTENSION_value(extensions, 0)), 1);
	sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
	X509_REQ_free(req);
	BIO_free(b);
}

static void truncated_requests_are_refused(void **state)
{
	CLEANUP_KEY EVP_PKEY *key = new_key();
	CLEANUP_FREE char *pem = NULL;
	struct cert_csr csr;
	struct diag diag;

	(void)state;
	assert_int_equal(cert_csr_new(key, ID, &pem), 0);
	for (size_t n = 0; n < strlen(pem) - 1; n++) {
		diag.msg[0] = 0;
		assert_int_equal(cert_csr_parse(pem, n, &csr, &diag), -EINVAL);
		assert_true(diag.msg[0]);
	}
}

static void a_changed_request_is_refused(void **state)
{
	CLEANUP_KEY EVP_PKEY *key = new_key();
	CLEANUP_FREE char *pem = NULL;
	struct cert_csr csr;
	size_t body;

	(void)state;
	assert_int_equal(cert_csr_new(key, ID, &pem), 0);
	body = (size_t)(strchr(pem, '\n') - pem) + 1;
	for (size_t i = body; pem[i] != '-'; i++) {
		char old = pem[i];

		if (old == '\n' || old == '=' || pem[i + 1] == '=')
			continue;	/* the last digit has bits that mean nothing */
		pem[i] = old == 'A' ? 'B' : 'A';
		assert_int_equal(cert_csr_parse(pem, strlen(pem), &csr, NULL), -EINVAL);
		pem[i] = old;
	}
}

/* Requests that libcrypto makes, with whatever name. */
static char *foreign_request(EVP_PKEY *key, const char *san)
{
	X509_REQ *req = X509_REQ_new();
	BIO *b = BIO_new(BIO_s_mem());
	char *data, *pem;
	long len;

	assert_int_equal(X509_REQ_set_pubkey(req, key), 1);
	if (san) {
		STACK_OF(X509_EXTENSION) *extensions = sk_X509_EXTENSION_new_null();
		X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, san);

		assert_non_null(e);
		sk_X509_EXTENSION_push(extensions, e);
		X509_REQ_add_extensions(req, extensions);
		sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
	}
	assert_true(X509_REQ_sign(req, key, EVP_PKEY_is_a(key, "ED25519") ? NULL : EVP_sha256()) > 0);
	assert_int_equal(PEM_write_bio_X509_REQ(b, req), 1);
	len = BIO_get_mem_data(b, &data);
	pem = strndup(data, (size_t)len);
	X509_REQ_free(req);
	BIO_free(b);
	return pem;
}

static void only_one_spiffe_id_may_be_asked_for(void **state)
{
	static const struct { const char *san; int r; const char *id; } cases[] = {
		{ NULL, 0, "" },
		{ "URI:spiffe://td/ns/a/sa/b", 0, "spiffe://td/ns/a/sa/b" },
		{ "URI:spiffe://td/ns/a/sa/b,URI:spiffe://td/ns/a/sa/c", -EINVAL, NULL },
		{ "URI:spiffe://td/ns/a/sa/b,DNS:x", -EINVAL, NULL },
		{ "DNS:x", -EINVAL, NULL },
		{ "URI:https://td/ns/a", -EINVAL, NULL },
		{ "URI:spiffe://TD/ns/a/sa/b", -EINVAL, NULL },
		{ "URI:spiffe://td/../x", -EINVAL, NULL },
	};
	CLEANUP_KEY EVP_PKEY *key = new_key();

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		CLEANUP_FREE char *pem = foreign_request(key, cases[i].san);
		struct cert_csr csr;

		assert_int_equal(cert_csr_parse(pem, strlen(pem), &csr, NULL), cases[i].r);
		if (cases[i].r == 0) {
			assert_string_equal(csr.id, cases[i].id);
			cert_csr_deinit(&csr);
		}
	}
}

static void weak_and_odd_keys_are_refused(void **state)
{
	const struct { EVP_PKEY *key; int r; } cases[] = {
		{ EVP_RSA_gen(1024), -EINVAL }, { EVP_RSA_gen(2048), 0 }, { EVP_EC_gen("P-384"), 0 }, { EVP_EC_gen("P-521"), -EINVAL },
		{ EVP_EC_gen("secp256k1"), -EINVAL }, { EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), 0 },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		CLEANUP_FREE char *pem = foreign_request(cases[i].key, "URI:spiffe://td/ns/a/sa/b");
		struct cert_csr csr;

		assert_int_equal(cert_csr_parse(pem, strlen(pem), &csr, NULL), cases[i].r);
		if (cases[i].r == 0)
			cert_csr_deinit(&csr);
		EVP_PKEY_free(cases[i].key);
	}
}

/* --- authority --- */

static struct cert_list sign_leaf(struct cert_ca *ca, EVP_PKEY *key, int64_t ttl_s)
{
	struct cert_list chain;

	assert_int_equal(cert_ca_sign(ca, &(struct cert_leaf){ .key = key, .id = ID, .ttl_s = ttl_s }, &chain), 0);
	return chain;
}

static void a_leaf_is_what_it_should_be(void **state)
{
	struct cert_ca *ca = new_root();
	CLEANUP_KEY EVP_PKEY *key = new_key(), *other = new_key();
	struct cert_list chain = sign_leaf(ca, key, 3600);
	struct cert_info info, root;
	int64_t now = clock_wall_s();

	(void)state;
	assert_int_equal(chain.n, 2);
	assert_string_equal(chain.pem[1], cert_ca_roots_pem(ca));
	assert_int_equal(cert_info(chain.pem[0], &info), 0);
	assert_string_equal(info.id, ID);
	assert_false(info.is_ca);
	assert_true(info.not_before <= now && info.not_before >= now - CERT_BACKDATE_S - 2);
	assert_true(info.not_after >= now + 3590 && info.not_after <= now + 3600);
	assert_int_equal(cert_has_key(chain.pem[0], key), 0);
	assert_int_equal(cert_has_key(chain.pem[0], other), -EKEYREJECTED);
	assert_int_equal(cert_info(chain.pem[1], &root), 0);
	assert_true(root.is_ca && root.self_signed);
	assert_string_equal(root.id, "spiffe://mesh.internal");
	assert_int_equal(cert_list_verify(&chain, cert_ca_roots_pem(ca), NULL), 0);
	cert_list_deinit(&chain);
	cert_ca_free(ca);
}

static void the_extensions_of_a_leaf_are_those_of_the_profile(void **state)
{
	struct cert_ca *ca = new_root();
	CLEANUP_KEY EVP_PKEY *key = new_key();
	struct cert_list chain = sign_leaf(ca, key, 3600);
	BIO *b = BIO_new_mem_buf(chain.pem[0], -1);
	X509 *x = PEM_read_bio_X509(b, NULL, NULL, NULL);

	(void)state;
	assert_int_equal(X509_get_version(x), 2);
	assert_int_equal(X509_NAME_entry_count(X509_get_subject_name(x)), 0);
	assert_int_equal(X509_get_key_usage(x), KU_DIGITAL_SIGNATURE);
	assert_int_equal(X509_get_extended_key_usage(x), XKU_SSL_SERVER | XKU_SSL_CLIENT);
	assert_non_null(X509_get0_subject_key_id(x));
	assert_non_null(X509_get0_authority_key_id(x));
	assert_int_equal(X509_EXTENSION_get_critical(X509_get_ext(x, X509_get_ext_by_NID(x, NID_subject_alt_name, -1))), 1);
	BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
	assert_int_equal(BN_num_bits(serial), 8 * REVOCATION_SERIAL_LEN - 2);	/* 001...: of no NIC */
	BN_free(serial);
	X509_free(x);
	BIO_free(b);
	cert_list_deinit(&chain);
	cert_ca_free(ca);
}

static void a_leaf_of_a_nic_says_so_in_its_serial(void **state)
{
	struct revocation_origin origin = revocation_origin_of_nic("nic-a", 1), got;
	struct cert_ca *ca = new_root();
	CLEANUP_KEY EVP_PKEY *key = new_key();
	struct cert_list chain;
	uint8_t bytes[REVOCATION_SERIAL_LEN];

	(void)state;
	assert_int_equal(cert_ca_sign(ca, &(struct cert_leaf){ .key = key, .id = ID, .ttl_s = 60, .origin = &origin }, &chain), 0);
	BIO *b = BIO_new_mem_buf(chain.pem[0], -1);
	X509 *x = PEM_read_bio_X509(b, NULL, NULL, NULL);
	BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(x), NULL);
	assert_int_equal(BN_bn2bin(serial, bytes), sizeof(bytes));
	assert_true(revocation_origin_of_serial(bytes, sizeof(bytes), &got));
	assert_memory_equal(got.b, origin.b, sizeof(got.b));
	BN_free(serial);
	X509_free(x);
	BIO_free(b);
	cert_list_deinit(&chain);
	cert_ca_free(ca);
}

static void a_short_life_is_hardly_backdated(void **state)
{
	struct cert_ca *ca = new_root();
	CLEANUP_KEY EVP_PKEY *key = new_key();
	struct cert_list chain = sign_leaf(ca, key, 20);
	struct cert_info info;

	(void)state;
	assert_int_equal(cert_info(chain.pem[0], &info), 0);
	/* ztunnel renews at half the life after not_before: that must lie ahead. */
	assert_true(info.not_before + (info.not_after - info.not_before) / 2 > clock_wall_s() + 5);
	cert_list_deinit(&chain);
	cert_ca_free(ca);
}

static void a_leaf_never_outlives_its_authority(void **state)
{
	struct cert_ca *ca = new_root();
	CLEANUP_KEY EVP_PKEY *key = new_key();
	struct cert_list chain = sign_leaf(ca, key, 100 * 86400);
	struct cert_info info;

	(void)state;
	assert_int_equal(cert_info(chain.pem[0], &info), 0);
	assert_int_equal(info.not_after, cert_ca_not_after(ca));
	cert_list_deinit(&chain);
	cert_ca_free(ca);
}

static void an_intermediate_signs_a_chain_of_three(void **state)
{
	struct cert_ca *root = new_root(), *ca;
	CLEANUP_KEY EVP_PKEY *key = new_key();
	struct cert_list chain;
	struct diag diag = {};

	(void)state;
	assert_int_equal(cert_ca_new_intermediate(root, 5, &ca), 0);
	assert_string_equal(cert_ca_trust_domain(ca), "mesh.internal");
	chain = sign_leaf(ca, key, 3600);
	assert_int_equal(chain.n, 3);
	assert_string_equal(chain.pem[1], cert_ca_cert_pem(ca));
	assert_string_equal(chain.pem[2], cert_ca_roots_pem(root));
	assert_int_equal(cert_list_verify(&chain, cert_ca_roots_pem(root), &diag), 0);
	free(chain.pem[1]);		/* without the middle there is no way to the root */
	chain.pem[1] = chain.pem[2];
	chain.n = 2;
	assert_int_equal(cert_list_verify(&chain, cert_ca_roots_pem(root), &diag), -EKEYREJECTED);
	assert_non_null(strstr(diag.msg, "unable to get local issuer certificate"));
	cert_list_deinit(&chain);
	cert_ca_free(ca);
	cert_ca_free(root);
}

static void a_leaf_of_another_authority_is_refused(void **state)
{
	struct cert_ca *ca = new_root(), *other = new_root();
	CLEANUP_KEY EVP_PKEY *key = new_key();
	struct cert_list chain = sign_leaf(ca, key, 3600);

	(void)state;
	assert_int_equal(cert_list_verify(&chain, cert_ca_roots_pem(other), NULL), -EKEYREJECTED);
	assert_int_equal(cert_list_verify(&chain, "no roots", NULL), -EINVAL);
	cert_list_deinit(&chain);
	cert_ca_free(ca);
	cert_ca_free(other);
}

static void servers_have_names(void **state)
{
	static const char *const names[] = { "controller.example", "10.0.0.1", "fd00::1", NULL };
	struct cert_ca *ca = new_root();
	CLEANUP_KEY EVP_PKEY *key = new_key();
	struct cert_list chain;

	(void)state;
	assert_int_equal(cert_ca_sign(ca, &(struct cert_leaf){ .key = key, .names = names, .ttl_s = 60 }, &chain), 0);
	BIO *b = BIO_new_mem_buf(chain.pem[0], -1);
	X509 *x = PEM_read_bio_X509(b, NULL, NULL, NULL);
	assert_int_equal(X509_check_host(x, "controller.example", 0, 0, NULL), 1);
	assert_int_equal(X509_check_ip_asc(x, "10.0.0.1", 0), 1);
	assert_int_equal(X509_check_ip_asc(x, "fd00::1", 0), 1);
	assert_int_equal(X509_check_ip_asc(x, "10.0.0.2", 0), 0);
	X509_free(x);
	BIO_free(b);
	cert_list_deinit(&chain);
	cert_ca_free(ca);
}

static void nonsense_is_not_signed(void **state)
{
	struct cert_ca *ca = new_root();
	CLEANUP_KEY EVP_PKEY *key = new_key();
	const struct cert_leaf bad[] = {
		{ .key = key, .ttl_s = 60 }, { .key = key, .id = "http://x", .ttl_s = 60 }, { .key = key, .id = ID, .ttl_s = 0 },
		{ .key = key, .id = ID, .ttl_s = -5 },
	};
	struct cert_list chain;
	struct cert_ca *none;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(cert_ca_sign(ca, &bad[i], &chain), -EINVAL);
	assert_int_equal(cert_ca_new_root("Not A Domain", 1, &none), -EINVAL);
	assert_int_equal(cert_ca_new_root("td", 0, &none), -EINVAL);
	cert_ca_free(ca);
}

/* --- chains --- */

static void bundles_come_apart_and_together(void **state)
{
	struct cert_ca *a = new_root(), *b = new_root();
	struct cert_list list = {};
	CLEANUP_FREE char *joined = NULL;
	char text[8192];

	(void)state;
	snprintf(text, sizeof(text), "comment\n%s\nmore\n%s", cert_ca_roots_pem(a), cert_ca_roots_pem(b));
	assert_int_equal(cert_list_add(&list, text), 0);
	assert_int_equal(list.n, 2);
	assert_string_equal(list.pem[0], cert_ca_roots_pem(a));
	assert_int_equal(cert_list_join(&list, 0, 2, &joined), 0);
	snprintf(text, sizeof(text), "%s%s", cert_ca_roots_pem(a), cert_ca_roots_pem(b));
	assert_string_equal(joined, text);

	assert_int_equal(cert_list_add(&list, ""), -EINVAL);
	assert_int_equal(cert_list_add(&list, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), -EINVAL);
	text[strlen(text) - 40] = 0;	/* the second is cut off */
	assert_int_equal(cert_list_add(&list, text), -EINVAL);
	assert_int_equal(list.n, 2);	/* nothing of it */
	for (int i = 0; i < CERT_CHAIN_MAX - 2; i++)
		assert_int_equal(cert_list_add(&list, cert_ca_roots_pem(a)), 0);
	assert_int_equal(cert_list_add(&list, cert_ca_roots_pem(a)), -E2BIG);
	cert_list_deinit(&list);
	cert_ca_free(a);
	cert_ca_free(b);
}

/* --- keys and files --- */

static void keys_survive_pem(void **state)
{
	CLEANUP_KEY EVP_PKEY *key = new_key();
	CLEANUP_KEY EVP_PKEY *again = NULL;
	char *pem;

	(void)state;
	assert_int_equal(cert_key_to_pem(key, &pem), 0);
	assert_int_equal(cert_key_from_pem(pem, &again), 0);
	assert_int_equal(EVP_PKEY_eq(key, again), 1);
	secret_free(pem);
	assert_int_equal(cert_key_from_pem("x", &again), -EINVAL);
}

static char folder[] = "/tmp/outrigger-test-cert-XXXXXX";

static int make_folder(void **state)
{
	(void)state;
	memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
	assert_non_null(mkdtemp(folder));
	return 0;
}

static void path_of(char path[static 128], const char *name)
{
	snprintf(path, 128, "%s/%s", folder, name);
}

static int remove_folder(void **state)
{
	static const char *const names[] = { "ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem" };
	char path[128];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(names); i++) {
		path_of(path, names[i]);
		unlink(path);
	}
	return rmdir(folder);		/* fails when anything else was left behind */
}

static void an_authority_survives_its_files(void **state)
{
	struct cert_ca *root = new_root(), *middle, *loaded;
	CLEANUP_KEY EVP_PKEY *key = new_key();
	struct cert_list chain;
	struct diag diag = {};
	struct stat st;
	char path[128];

	(void)state;
	assert_int_equal(cert_ca_load(folder, &loaded, &diag), -ENOENT);
	assert_int_equal(cert_ca_store(root, folder, NULL), 0);
	path_of(path, "ca-key.pem");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(cert_ca_load(folder, &loaded, NULL), 0);
	chain = sign_leaf(loaded, key, 60);
	assert_int_equal(chain.n, 2);
	assert_int_equal(cert_list_verify(&chain, cert_ca_roots_pem(root), NULL), 0);
	cert_list_deinit(&chain);
	cert_ca_free(loaded);

	assert_int_equal(cert_ca_new_intermediate(root, 5, &middle), 0);
	assert_int_equal(cert_ca_store(middle, folder, NULL), 0);
	assert_int_equal(cert_ca_load(folder, &loaded, NULL), 0);
	chain = sign_leaf(loaded, key, 60);
	assert_int_equal(chain.n, 3);
	assert_int_equal(cert_list_verify(&chain, cert_ca_roots_pem(root), NULL), 0);
	cert_list_deinit(&chain);
	cert_ca_free(loaded);
	cert_ca_free(middle);
	cert_ca_free(root);
}

static void bad_files_are_refused_with_their_name(void **state)
{
	struct cert_ca *a = new_root(), *loaded;
	struct diag diag = {};
	char path[128];

	(void)state;
	assert_int_equal(cert_ca_store(a, folder, NULL), 0);
	path_of(path, "ca-key.pem");
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(cert_ca_load(folder, &loaded, &diag), -EINVAL);
	assert_string_equal(diag.file, path);

	FILE *f = fopen(path, "w");			/* longer than is read: no end is found in what was */
	assert_non_null(f);
	for (int i = 0; i <= CERT_PEM_MAX; i++)
		fputc('A', f);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, 0600), 0);
	memset(&diag, 0, sizeof(diag));
	assert_int_equal(cert_ca_load(folder, &loaded, &diag), -EFBIG);
	assert_string_equal(diag.file, path);

	assert_int_equal(unlink(path), 0);
	memset(&diag, 0, sizeof(diag));
	assert_int_equal(cert_ca_load(folder, &loaded, &diag), -EINVAL);
	assert_string_equal(diag.file, path);
	cert_ca_free(a);
}

static void a_key_that_does_not_fit_is_refused(void **state)
{
	struct cert_ca *a = new_root(), *b = new_root(), *loaded;
	struct diag diag = {};
	char *key_pem;

	(void)state;
	assert_int_equal(cert_ca_key_pem(b, &key_pem), 0);
	assert_int_equal(cert_ca_from_pem(cert_ca_cert_pem(a), key_pem, NULL, NULL, &loaded, &diag), -EINVAL);
	assert_non_null(strstr(diag.msg, "not that of the certificate"));
	secret_free(key_pem);
	cert_ca_free(a);
	cert_ca_free(b);
}

static void a_leaf_is_no_authority(void **state)
{
	struct cert_ca *ca = new_root(), *loaded;
	CLEANUP_KEY EVP_PKEY *key = new_key();
	struct cert_list chain = sign_leaf(ca, key, 3600);
	struct diag diag = {};
	char *key_pem;

	(void)state;
	assert_int_equal(cert_key_to_pem(key, &key_pem), 0);
	assert_int_equal(cert_ca_from_pem(chain.pem[0], key_pem, NULL, cert_ca_roots_pem(ca), &loaded, &diag), -EINVAL);
	assert_non_null(strstr(diag.msg, "authority"));
	secret_free(key_pem);
	cert_list_deinit(&chain);
	cert_ca_free(ca);
}

#define WITH_FOLDER(f)	cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_names_one_identity),
		cmocka_unit_test(a_request_has_no_subject_and_a_critical_name),
		cmocka_unit_test(truncated_requests_are_refused),
		cmocka_unit_test(a_changed_request_is_refused),
		cmocka_unit_test(only_one_spiffe_id_may_be_asked_for),
		cmocka_unit_test(weak_and_odd_keys_are_refused),
		cmocka_unit_test(a_leaf_is_what_it_should_be),
		cmocka_unit_test(the_extensions_of_a_leaf_are_those_of_the_profile),
		cmocka_unit_test(a_leaf_of_a_nic_says_so_in_its_serial),
		cmocka_unit_test(a_short_life_is_hardly_backdated),
		cmocka_unit_test(a_leaf_never_outlives_its_authority),
		cmocka_unit_test(an_intermediate_signs_a_chain_of_three),
		cmocka_unit_test(a_leaf_of_another_authority_is_refused),
		cmocka_unit_test(servers_have_names),
		cmocka_unit_test(nonsense_is_not_signed),
		cmocka_unit_test(bundles_come_apart_and_together),
		cmocka_unit_test(keys_survive_pem),
		WITH_FOLDER(an_authority_survives_its_files),
		WITH_FOLDER(bad_files_are_refused_with_their_name),
		cmocka_unit_test(a_key_that_does_not_fit_is_refused),
		cmocka_unit_test(a_leaf_is_no_authority),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

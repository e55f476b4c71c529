/*
 * Credentials in sealed memory.
 */
#include "lib/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proxy/credential.h"

static const char identity[] = "spiffe://t.mesh/ns/shop/sa/orders";
static const char chain[] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

static int encoded(EVP_PKEY **ret_key)
{
	EVP_PKEY *key = EVP_PKEY_Q_keygen(NULL, NULL, "EC", "P-256");
	int fd = credential_encode(identity, key, chain);

	assert_true(fd >= 0);
	*ret_key = key;
	return fd;
}

static void what_was_left_is_found_again(void **state)
{
	EVP_PKEY *key, *got = NULL;
	struct diag d = {};
	char *text = NULL;
	int fd = encoded(&key);

	(void)state;
	for (int i = 0; i < 2; i++) {		/* it may be asked for more than once */
		assert_int_equal(credential_decode(fd, identity, &got, &text, &d), 0);
		assert_int_equal(EVP_PKEY_eq(key, got), 1);
		assert_string_equal(text, chain);
		EVP_PKEY_free(got);
		free(text);
	}
	assert_true(write(fd, "x", 1) < 0);
	assert_true(ftruncate(fd, 0) < 0);
	close(fd);
	EVP_PKEY_free(key);
}

static void another_identity_gets_nothing(void **state)
{
	static const char *const others[] = { "", "spiffe://t.mesh/ns/shop/sa/order", "spiffe://t.mesh/ns/shop/sa/orders2" };
	EVP_PKEY *key, *got;
	char *text;
	int fd = encoded(&key);

	(void)state;
	for (size_t i = 0; i < ELEMENTS(others); i++) {
		struct diag d = {};

		assert_int_equal(credential_decode(fd, others[i], &got, &text, &d), -EINVAL);
		assert_non_null(strstr(d.msg, "another identity"));
	}
	close(fd);
	EVP_PKEY_free(key);
}

/* A file with these bytes; sealed when it is to be believed. */
static int file_of(const void *data, size_t len, bool sealed)
{
	int fd = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(write(fd, data, len), len);
	if (sealed)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK), 0);
	return fd;
}

static void what_is_no_credential_is_refused(void **state)
{
	static const struct {
		const char *text;
		bool sealed;
		const char *why;
	} cases[] = {
		{ "outrigger-proxy credential 1\nspiffe://t.mesh/ns/shop/sa/orders\n", false, "sealed" },
		{ "outrigger-proxy credential 2\nspiffe://t.mesh/ns/shop/sa/orders\n", true, "version is \"2\"" },
		{ "outrigger-proxy credential 1\nspiffe://t.mesh/ns/shop/sa/orders\n", true, "no key" },
		{ "outrigger-proxy credential 1\nspiffe://t.mesh/ns/shop/sa/orders", true, "another identity" },
		{ "outrigger-proxy credential 1", true, "not a credential" },
		{ "something else\n", true, "not a credential" },
		{ "", true, "not a credential" },
	};
	EVP_PKEY *got;
	char *text;
	int pipes[2];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		int fd = file_of(cases[i].text, strlen(cases[i].text), cases[i].sealed);
		struct diag d = {};

		assert_int_equal(credential_decode(fd, identity, &got, &text, &d), -EINVAL);
		assert_non_null(strstr(d.msg, cases[i].why));
		close(fd);
	}
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	assert_int_equal(credential_decode(pipes[0], identity, &got, &text, &(struct diag){}), -EINVAL);
	close(pipes[0]);
	close(pipes[1]);
}

static void every_part_of_one_is_refused(void **state)
{
	static char whole[65536], zeros[65536];
	EVP_PKEY *key, *got = NULL;
	int fd = encoded(&key);
	ssize_t len = pread(fd, whole, sizeof(whole), 0);
	ssize_t chain_at = len - (ssize_t)strlen(chain);
	char *text = NULL;
	struct diag d = {};

	(void)state;
	for (ssize_t n = 0; n <= chain_at + 26; n++) {	/* behind that the certificate is the reader's to judge */
		int part = file_of(whole, (size_t)n, true);

		assert_int_equal(credential_decode(part, identity, &got, &text, &d), -EINVAL);
		close(part);
	}
	whole[40] = 0;
	close(fd);
	fd = file_of(whole, (size_t)len, true);
	assert_int_equal(credential_decode(fd, identity, &got, &text, &d), -EINVAL);
	close(fd);
	fd = file_of(zeros, sizeof(zeros), true);
	d = (struct diag){};
	assert_int_equal(credential_decode(fd, identity, &got, &text, &d), -EINVAL);
	assert_non_null(strstr(d.msg, "too long"));
	close(fd);
	EVP_PKEY_free(key);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_left_is_found_again),
		cmocka_unit_test(another_identity_gets_nothing),
		cmocka_unit_test(what_is_no_credential_is_refused),
		cmocka_unit_test(every_part_of_one_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

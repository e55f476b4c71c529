#include "lib/unit.h"

#include <stdlib.h>
#include <string.h>

#include "proto/aead.h"

enum { MAX_LEN = 16384 + 256 };

static const uint8_t nonce[AEAD_NONCE_LEN] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
static const uint8_t aad[5] = { 23, 3, 3, 0x40, 0x11 };
static uint8_t plain[MAX_LEN], sealed[MAX_LEN + AEAD_TAG_LEN], other[MAX_LEN + AEAD_TAG_LEN];

static struct aead_key *new_key(const struct aead *a, enum aead_alg alg)
{
	uint8_t bytes[AEAD_KEY_MAX];
	struct aead_key *k;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 + alg);
	assert_int_equal(a->key_new(alg, AEAD_SEAL | AEAD_OPEN, bytes, &k), 0);
	return k;
}

static void seal(const struct aead *a, struct aead_key *k, size_t len, uint8_t *out)
{
	struct iovec iov = { plain, len };

	assert_int_equal(a->seal(k, nonce, aad, sizeof(aad), &iov, 1, out), 0);
}

static void both_implementations_agree_at_every_length(void **state)
{
	(void)state;
	if (!aead_native || !aead_native->usable())
		skip();
	for (enum aead_alg alg = 0; alg < _AEAD_ALG_N; alg++) {
		struct aead_key *evp = new_key(&aead_evp, alg), *fast = new_key(aead_native, alg);

		for (size_t len = 0; len <= MAX_LEN; len++) {
			seal(&aead_evp, evp, len, sealed);
			seal(aead_native, fast, len, other);
			assert_memory_equal(sealed, other, len + AEAD_TAG_LEN);
			assert_true(aead_native->open(fast, nonce, aad, sizeof(aad), sealed, len + AEAD_TAG_LEN, other));
			assert_memory_equal(other, plain, len);
			assert_true(aead_evp.open(evp, nonce, aad, sizeof(aad), sealed, len + AEAD_TAG_LEN, sealed));
			assert_memory_equal(sealed, plain, len);
		}
		aead_evp.key_free(evp);
		aead_native->key_free(fast);
	}
}

static void for_each(void (*check)(const struct aead *a, enum aead_alg alg))
{
	for (enum aead_alg alg = 0; alg < _AEAD_ALG_N; alg++) {
		check(&aead_evp, alg);
		if (aead_native && aead_native->usable())
			check(aead_native, alg);
	}
}

static void check_scatter(const struct aead *a, enum aead_alg alg)
{
	struct aead_key *k = new_key(a, alg);
	unsigned seed = 1;

	for (int round = 0; round < 300; round++) {
		struct iovec iov[9];
		size_t len = 0;

		for (size_t i = 0; i < ELEMENTS(iov); i++) {
			seed = seed * 1103515245 + 12345;
			iov[i] = (struct iovec){ plain + len, (seed >> 16) % (round < 100 ? 4 : 1500) };
			len += iov[i].iov_len;
		}
		seal(a, k, len, sealed);
		assert_int_equal(a->seal(k, nonce, aad, sizeof(aad), iov, ELEMENTS(iov), other), 0);
		assert_memory_equal(sealed, other, len + AEAD_TAG_LEN);
	}
	a->key_free(k);
}

static void scattered_input_makes_the_same_bytes(void **state)
{
	(void)state;
	for_each(check_scatter);
}

static void check_forgery(const struct aead *a, enum aead_alg alg)
{
	struct aead_key *k = new_key(a, alg);
	size_t len = 77 + AEAD_TAG_LEN;
	uint8_t bad_aad[5];

	seal(a, k, 77, sealed);
	for (size_t i = 0; i < len * 8; i++) {
		sealed[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_false(a->open(k, nonce, aad, sizeof(aad), sealed, len, other));
		sealed[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (size_t n = 0; n < len; n++)
		assert_false(a->open(k, nonce, aad, sizeof(aad), sealed, n, other));
	memcpy(bad_aad, aad, sizeof(bad_aad));
	bad_aad[4] ^= 1;
	assert_false(a->open(k, nonce, bad_aad, sizeof(bad_aad), sealed, len, other));
	assert_true(a->open(k, nonce, aad, sizeof(aad), sealed, len, other));
	a->key_free(k);
}

static void one_changed_bit_is_noticed(void **state)
{
	(void)state;
	for_each(check_forgery);
}

static void check_spare(const struct aead *a, enum aead_alg alg)
{
	struct aead_key *k = new_key(a, alg), *spare;
	uint8_t bytes[AEAD_KEY_MAX];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 + alg);
	aead_spare_make(a, alg);
	aead_spare_make(a, alg);
	for (int i = 0; i < 2; i++) {		/* what it was before is nothing to it */
		spare = aead_spare(a, alg, bytes);
		assert_non_null(spare);
		seal(a, k, 1000, sealed);
		seal(a, spare, 1000, other);
		assert_memory_equal(sealed, other, 1000 + AEAD_TAG_LEN);
		assert_true(a->open(spare, nonce, aad, sizeof(aad), sealed, 1000 + AEAD_TAG_LEN, other));
		aead_spare_done(a, spare);
		assert_false(a->open(spare, nonce, aad, sizeof(aad), sealed, 1000 + AEAD_TAG_LEN, other));	/* it is wiped */
		spare = aead_spare(a, alg, plain);
		assert_non_null(spare);
		aead_spare_done(a, spare);
	}
	a->key_free(k);
}

static void a_spare_key_does_for_any(void **state)
{
	(void)state;
	for_each(check_spare);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_implementations_agree_at_every_length),
		cmocka_unit_test(scattered_input_makes_the_same_bytes),
		cmocka_unit_test(one_changed_bit_is_noticed),
		cmocka_unit_test(a_spare_key_does_for_any),
	};

	for (size_t i = 0; i < sizeof(plain); i++)
		plain[i] = (uint8_t)(i * 31 + (i >> 8));
	return cmocka_run_group_tests(tests, NULL, NULL);
}

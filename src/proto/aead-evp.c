/*
 * AEAD by OpenSSL. An EVP context per key; only the nonce is set for each
 * record, since setting the key again would expand it again.
 */
#include "proto/aead.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>

struct aead_key {
	EVP_CIPHER_CTX *seal;	/* NULL: not among its uses */
	EVP_CIPHER_CTX *open;
};

static EVP_CIPHER *ciphers[_AEAD_ALG_N];	/* fetched once: a fetch takes locks */
static pthread_once_t ciphers_once = PTHREAD_ONCE_INIT;

static void fetch_ciphers(void)
{
	static const char *const names[] = {
		[AEAD_AES_128_GCM] = "AES-128-GCM",
		[AEAD_AES_256_GCM] = "AES-256-GCM",
		[AEAD_CHACHA20_POLY1305] = "ChaCha20-Poly1305",
	};

	for (size_t i = 0; i < ELEMENTS(names); i++)
		ciphers[i] = EVP_CIPHER_fetch(NULL, names[i], NULL);
}

static bool evp_usable(void)
{
	return true;
}

static void evp_key_free(struct aead_key *k)
{
	if (!k)
		return;
	EVP_CIPHER_CTX_free(k->seal);
	EVP_CIPHER_CTX_free(k->open);
	OPENSSL_cleanse(k, sizeof(*k));
	free(k);
}

static EVP_CIPHER_CTX *context(enum aead_alg alg, const uint8_t *key, int encrypt)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();

	if (c && EVP_CipherInit_ex2(c, ciphers[alg], key, NULL, encrypt, NULL) != 1) {
		EVP_CIPHER_CTX_free(c);
		c = NULL;
	}
	return c;
}

static int evp_key_new(enum aead_alg alg, unsigned uses, const uint8_t *key, struct aead_key **ret_key)
{
	pthread_once(&ciphers_once, fetch_ciphers);
	if (!ciphers[alg])
		return -EOPNOTSUPP;

	struct aead_key *k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	if (uses & AEAD_SEAL)
		k->seal = context(alg, key, 1);
	if (uses & AEAD_OPEN)
		k->open = context(alg, key, 0);
	if ((uses & AEAD_SEAL && !k->seal) || (uses & AEAD_OPEN && !k->open)) {
		evp_key_free(k);
		return -ENOMEM;
	}
	*ret_key = k;
	return 0;
}

static int evp_key_set(struct aead_key *k, const uint8_t *key)
{
	if (k->seal && EVP_CipherInit_ex2(k->seal, NULL, key, NULL, 1, NULL) != 1)
		return -ENOMEM;
	if (k->open && EVP_CipherInit_ex2(k->open, NULL, key, NULL, 0, NULL) != 1)
		return -ENOMEM;
	return 0;
}

static int evp_seal(struct aead_key *k, const uint8_t nonce[static AEAD_NONCE_LEN], const uint8_t *aad, size_t n_aad,
		    const struct iovec *iov, size_t n_iov, uint8_t *out)
{
	EVP_CIPHER_CTX *c = k->seal;
	int n;

	if (EVP_EncryptInit_ex2(c, NULL, NULL, nonce, NULL) != 1 || EVP_EncryptUpdate(c, NULL, &n, aad, (int)n_aad) != 1)
		return -ENOMEM;
	for (size_t i = 0; i < n_iov; i++) {
		if (!iov[i].iov_len)
			continue;
		if (EVP_EncryptUpdate(c, out, &n, iov[i].iov_base, (int)iov[i].iov_len) != 1)
			return -ENOMEM;
		out += n;
	}
	if (EVP_EncryptFinal_ex(c, out, &n) != 1 || EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_LEN, out) != 1)
		return -ENOMEM;
	return 0;
}

static bool evp_open(struct aead_key *k, const uint8_t nonce[static AEAD_NONCE_LEN], const uint8_t *aad, size_t n_aad,
		     const uint8_t *in, size_t len, uint8_t *out)
{
	EVP_CIPHER_CTX *c = k->open;
	uint8_t tag[AEAD_TAG_LEN];
	int n;

	if (len < AEAD_TAG_LEN)
		return false;
	len -= AEAD_TAG_LEN;
	for (size_t i = 0; i < sizeof(tag); i++)
		tag[i] = in[len + i];
	return EVP_DecryptInit_ex2(c, NULL, NULL, nonce, NULL) == 1 &&
	       EVP_DecryptUpdate(c, NULL, &n, aad, (int)n_aad) == 1 &&
	       (!len || EVP_DecryptUpdate(c, out, &n, in, (int)len) == 1) &&
	       EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) == 1 &&
	       EVP_DecryptFinal_ex(c, out + len, &n) == 1;
}

const struct aead aead_evp = {
	.name = "openssl",
	.usable = evp_usable,
	.key_new = evp_key_new,
	.key_set = evp_key_set,
	.key_free = evp_key_free,
	.seal = evp_seal,
	.open = evp_open,
};

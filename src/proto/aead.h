#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "base/defs.h"

/*
 * Authenticated encryption with the three algorithms of TLS 1.3 that are in
 * use (RFC 5116, RFC 8439): one interface, two implementations.
 *
 * libipsec-mb is 4.5 times as fast as OpenSSL 3.0 where it exists (amd64);
 * OpenSSL is everywhere, and is the oracle that the other one is tested
 * against. Keys belong to one thread at a time; implementations are shared.
 */
enum aead_alg { AEAD_AES_128_GCM, AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, _AEAD_ALG_N };

enum {
	AEAD_NONCE_LEN = 12,
	AEAD_TAG_LEN = 16,
	AEAD_KEY_MAX = 32,
};

size_t aead_key_len(enum aead_alg alg);

enum aead_use { AEAD_SEAL = 1, AEAD_OPEN = 2 };	/* what a key is for; may be both */

struct aead_key;		/* an expanded key; its shape is the implementation's */

struct aead {
	const char *name;
	bool (*usable)(void);	/* on this processor; the first call may take a millisecond */
	MUST_CHECK int (*key_new)(enum aead_alg alg, unsigned uses, const uint8_t *key, struct aead_key **ret_key);
	MUST_CHECK int (*key_set)(struct aead_key *k, const uint8_t *key);	/* another key for the same algorithm and uses: takes no memory */
	void (*key_free)(struct aead_key *k);	/* wipes it */

	/*
	 * Encrypts what @iov describes into @out, which must have room for it
	 * and the tag, and must not overlap it unless a part starts exactly where
	 * its ciphertext goes. -ENOMEM.
	 */
	MUST_CHECK int (*seal)(struct aead_key *k, const uint8_t nonce[static AEAD_NONCE_LEN], const uint8_t *aad, size_t n_aad,
			       const struct iovec *iov, size_t n_iov, uint8_t *out);
	/*
	 * Decrypts @len bytes, tag included, into @out (len - AEAD_TAG_LEN bytes;
	 * may be @in itself). false: not authentic; @out is then garbage.
	 */
	MUST_CHECK bool (*open)(struct aead_key *k, const uint8_t nonce[static AEAD_NONCE_LEN], const uint8_t *aad, size_t n_aad,
				const uint8_t *in, size_t len, uint8_t *out);
};

extern const struct aead aead_evp;
extern const struct aead *const aead_native;	/* libipsec-mb, or NULL where the build has none */

/* The fastest that works here. Thread-safe. */
const struct aead *aead_best(void);

/*
 * What is to go on without memory for another key has one of the thread's,
 * which is made when there is some (aead_spare_make()) and lent for a call of
 * seal() or open(). NULL: there is none. It is the thread's until aead_spare_done(), which wipes it.
 */
void aead_spare_make(const struct aead *a, enum aead_alg alg);
struct aead_key *aead_spare(const struct aead *a, enum aead_alg alg, const uint8_t *key);
void aead_spare_done(const struct aead *a, struct aead_key *k);

/*
 * AEAD by libipsec-mb, its direct interface: no jobs, no queues. What is needed
 * of its manager is the functions for this processor. They are copied: the rest
 * of it, the queues, is 200 kB.
 */
#include "proto/aead.h"

#include <errno.h>
#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <string.h>

struct aead_key {
	struct gcm_key_data gcm;	/* 64-byte aligned; not there for ChaCha20 */
	enum aead_alg alg;
	uint8_t chacha[AEAD_KEY_MAX];
};

/* By the names that they have in IMB_MGR, for which the library's macros ask. Only read once they are there. */
static struct functions {
	aes_gcm_pre_t gcm128_pre, gcm256_pre;
	aes_gcm_init_t gcm128_init, gcm256_init;
	aes_gcm_enc_dec_update_t gcm128_enc_update, gcm256_enc_update;
	aes_gcm_enc_dec_finalize_t gcm128_enc_finalize, gcm256_enc_finalize;
	aes_gcm_enc_dec_t gcm128_dec, gcm256_dec;
	chacha_poly_init_t chacha20_poly1305_init;
	chacha_poly_enc_dec_update_t chacha20_poly1305_enc_update, chacha20_poly1305_dec_update;
	chacha_poly_finalize_t chacha20_poly1305_finalize;
} functions;
static const struct functions *mgr;	/* NULL: not usable */
static pthread_once_t mgr_once = PTHREAD_ONCE_INIT;

static void copy_functions(const IMB_MGR *m)
{
	functions = (struct functions){
		.gcm128_pre = m->gcm128_pre,
		.gcm256_pre = m->gcm256_pre,
		.gcm128_init = m->gcm128_init,
		.gcm256_init = m->gcm256_init,
		.gcm128_enc_update = m->gcm128_enc_update,
		.gcm256_enc_update = m->gcm256_enc_update,
		.gcm128_enc_finalize = m->gcm128_enc_finalize,
		.gcm256_enc_finalize = m->gcm256_enc_finalize,
		.gcm128_dec = m->gcm128_dec,
		.gcm256_dec = m->gcm256_dec,
		.chacha20_poly1305_init = m->chacha20_poly1305_init,
		.chacha20_poly1305_enc_update = m->chacha20_poly1305_enc_update,
		.chacha20_poly1305_dec_update = m->chacha20_poly1305_dec_update,
		.chacha20_poly1305_finalize = m->chacha20_poly1305_finalize,
	};
	mgr = &functions;
}

static void make_mgr(void)
{
	IMB_MGR *m = alloc_mb_mgr(0);

	if (!m)
		return;
	init_mb_mgr_auto(m, NULL);
	if (!imb_get_errno(m) && (m->features & IMB_FEATURE_AESNI))	/* without, it is slower than OpenSSL */
		copy_functions(m);
	free_mb_mgr(m);
}

static bool imb_usable(void)
{
	pthread_once(&mgr_once, make_mgr);
	return mgr;
}

static void imb_key_free(struct aead_key *k)
{
	if (!k)
		return;
	OPENSSL_cleanse(k, sizeof(*k));
	free(k);
}

static int imb_key_set(struct aead_key *k, const uint8_t *key)
{
	switch (k->alg) {
	case AEAD_AES_128_GCM:
		IMB_AES128_GCM_PRE(mgr, key, &k->gcm);
		break;
	case AEAD_AES_256_GCM:
		IMB_AES256_GCM_PRE(mgr, key, &k->gcm);
		break;
	default:
		memcpy(k->chacha, key, sizeof(k->chacha));
		break;
	}
	return 0;
}

static int imb_key_new(enum aead_alg alg, unsigned uses, const uint8_t *key, struct aead_key **ret_key)
{
	(void)uses;			/* one does for both */
	if (!imb_usable())
		return -EOPNOTSUPP;

	struct aead_key *k = aligned_alloc(64, (sizeof(*k) + 63) & ~(size_t)63);
	if (!k)
		return -ENOMEM;
	memset(k, 0, sizeof(*k));
	k->alg = alg;
	*ret_key = k;
	return imb_key_set(k, key);
}

static void gcm_seal(const struct aead_key *k, const uint8_t *nonce, const uint8_t *aad, size_t n_aad,
		     const struct iovec *iov, size_t n_iov, uint8_t *out)
{
	bool small = k->alg == AEAD_AES_128_GCM;
	struct gcm_context_data ctx;

	if (small)
		IMB_AES128_GCM_INIT(mgr, &k->gcm, &ctx, nonce, aad, n_aad);
	else
		IMB_AES256_GCM_INIT(mgr, &k->gcm, &ctx, nonce, aad, n_aad);
	for (size_t i = 0; i < n_iov; i++) {
		if (!iov[i].iov_len)
			continue;
		if (small)
			IMB_AES128_GCM_ENC_UPDATE(mgr, &k->gcm, &ctx, out, iov[i].iov_base, iov[i].iov_len);
		else
			IMB_AES256_GCM_ENC_UPDATE(mgr, &k->gcm, &ctx, out, iov[i].iov_base, iov[i].iov_len);
		out += iov[i].iov_len;
	}
	if (small)
		IMB_AES128_GCM_ENC_FINALIZE(mgr, &k->gcm, &ctx, out, AEAD_TAG_LEN);
	else
		IMB_AES256_GCM_ENC_FINALIZE(mgr, &k->gcm, &ctx, out, AEAD_TAG_LEN);
}

static void chacha_seal(const struct aead_key *k, const uint8_t *nonce, const uint8_t *aad, size_t n_aad,
			const struct iovec *iov, size_t n_iov, uint8_t *out)
{
	struct chacha20_poly1305_context_data ctx;

	IMB_CHACHA20_POLY1305_INIT(mgr, k->chacha, &ctx, nonce, aad, n_aad);
	for (size_t i = 0; i < n_iov; i++) {
		if (!iov[i].iov_len)
			continue;
		IMB_CHACHA20_POLY1305_ENC_UPDATE(mgr, k->chacha, &ctx, out, iov[i].iov_base, iov[i].iov_len);
		out += iov[i].iov_len;
	}
	IMB_CHACHA20_POLY1305_ENC_FINALIZE(mgr, &ctx, out, AEAD_TAG_LEN);
	OPENSSL_cleanse(&ctx, sizeof(ctx));
}

static int imb_seal(struct aead_key *k, const uint8_t nonce[static AEAD_NONCE_LEN], const uint8_t *aad, size_t n_aad,
		    const struct iovec *iov, size_t n_iov, uint8_t *out)
{
	if (k->alg == AEAD_CHACHA20_POLY1305)
		chacha_seal(k, nonce, aad, n_aad, iov, n_iov, out);
	else
		gcm_seal(k, nonce, aad, n_aad, iov, n_iov, out);
	return 0;
}

static bool imb_open(struct aead_key *k, const uint8_t nonce[static AEAD_NONCE_LEN], const uint8_t *aad, size_t n_aad,
		     const uint8_t *in, size_t len, uint8_t *out)
{
	uint8_t want[AEAD_TAG_LEN], got[AEAD_TAG_LEN];
	struct gcm_context_data gcm;

	if (len < AEAD_TAG_LEN)
		return false;
	len -= AEAD_TAG_LEN;
	memcpy(want, in + len, sizeof(want));	/* @out may lie over it */

	if (k->alg == AEAD_AES_128_GCM) {
		IMB_AES128_GCM_DEC(mgr, &k->gcm, &gcm, out, in, len, nonce, aad, n_aad, got, AEAD_TAG_LEN);
	} else if (k->alg == AEAD_AES_256_GCM) {
		IMB_AES256_GCM_DEC(mgr, &k->gcm, &gcm, out, in, len, nonce, aad, n_aad, got, AEAD_TAG_LEN);
	} else {
		struct chacha20_poly1305_context_data ctx;

		IMB_CHACHA20_POLY1305_INIT(mgr, k->chacha, &ctx, nonce, aad, n_aad);
		if (len)
			IMB_CHACHA20_POLY1305_DEC_UPDATE(mgr, k->chacha, &ctx, out, in, len);
		IMB_CHACHA20_POLY1305_DEC_FINALIZE(mgr, &ctx, got, AEAD_TAG_LEN);
		OPENSSL_cleanse(&ctx, sizeof(ctx));
	}
	return CRYPTO_memcmp(want, got, sizeof(want)) == 0;
}

static const struct aead aead_imb = {
	.name = "ipsec-mb",
	.usable = imb_usable,
	.key_new = imb_key_new,
	.key_set = imb_key_set,
	.key_free = imb_key_free,
	.seal = imb_seal,
	.open = imb_open,
};

const struct aead *const aead_native = &aead_imb;

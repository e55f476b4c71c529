#pragma once
#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"
#include "mesh/identity.h"

/*
 * Keys, signing requests and certificate chains.
 *
 * Keys are P-256 and live in memory (EVP_PKEY, freed by EVP_PKEY_free() or
 * CLEANUP_KEY). PEM texts that are returned are the caller's, free() them.
 * Thread-safe, as no state is kept. The authority that signs is cert_ca.h.
 */
enum {
	CERT_PEM_MAX = 256 * 1024,	/* bytes of a chain or bundle that is taken from somebody */
	CERT_CSR_MAX = 16 * 1024,
	CERT_CHAIN_MAX = 16,		/* certificates */
	CERT_FINGERPRINT_LEN = 32,	/* SHA-256 of the DER */
};

MUST_CHECK int cert_key_new(EVP_PKEY **ret_key);	/* -ENOMEM, -EIO when libcrypto cannot */
/* The private key as PKCS#8 PEM; free it by secret_free(). For NICs and authorities; a workload's key never leaves memory. */
MUST_CHECK int cert_key_to_pem(EVP_PKEY *key, char **ret_pem);
MUST_CHECK int cert_key_from_pem(const char *pem, EVP_PKEY **ret_key);	/* -EINVAL, -ENOMEM */
void cert_key_cleanup(EVP_PKEY **key);
#define CLEANUP_KEY	CLEANUP(cert_key_cleanup)

/*
 * A PKCS#10 request in ztunnel's form: empty subject, one critical
 * subjectAltName with one URI, ecdsa-with-SHA256. RFC 2986, RFC 5280 4.2.1.6.
 * @spiffe_id NULL: it names nothing, as of a NIC that is told its trust domain
 * only by the answer.
 */
MUST_CHECK int cert_csr_new(EVP_PKEY *key, const char *spiffe_id, char **ret_pem);

struct cert_csr {
	EVP_PKEY *key;			/* the requester's public key */
	char id[IDENTITY_MAX + 1];	/* what it asks for; "" when the request names nothing: an authority may fill it in */
};

/*
 * Parses a request and checks that its signer has the key. -EINVAL: not a
 * request, bad signature, more than one name, a name that is no SPIFFE ID, a
 * key that is too weak or of a kind that is not taken (P-256, P-384, Ed25519,
 * RSA from 2048 bits are).
 */
MUST_CHECK int cert_csr_parse(const char *pem, size_t len, struct cert_csr *ret_csr, struct diag *reterr_diag);
void cert_csr_deinit(struct cert_csr *csr);

/* What is worth knowing of a certificate. */
struct cert_info {
	char id[IDENTITY_MAX + 1];	/* its one URI name; "" without */
	int64_t not_before;		/* seconds since 1970 */
	int64_t not_after;
	bool is_ca;
	bool self_signed;
	char serial[48];		/* hex */
};

/* Of the first certificate in @pem. -EINVAL, -ENOMEM. */
MUST_CHECK int cert_info(const char *pem, struct cert_info *ret_info);
MUST_CHECK int cert_has_key(const char *pem, EVP_PKEY *key);	/* 0: its first certificate is of that key; -EKEYREJECTED: it is not; -EINVAL */
MUST_CHECK int cert_fingerprint(const char *pem, uint8_t ret_hash[static CERT_FINGERPRINT_LEN]);	/* of its first certificate. -EINVAL, -EIO */

/*
 * A chain or bundle, taken apart: each element is the PEM of one certificate,
 * without what stood around it.
 */
struct cert_list {
	char *pem[CERT_CHAIN_MAX];
	size_t n;
};

/* Appends the certificates of one PEM text. -EINVAL: none in it, or a broken one; -E2BIG: more than CERT_CHAIN_MAX or CERT_PEM_MAX. */
MUST_CHECK int cert_list_add(struct cert_list *list, const char *pem);
void cert_list_deinit(struct cert_list *list);
/* The certificates from @first to before @end in one PEM text. */
MUST_CHECK int cert_list_join(const struct cert_list *list, size_t first, size_t end, char **ret_pem);

/*
 * Checks that the first certificate leads over the others to one of @roots_pem
 * now, for use by a server and a client. -EKEYREJECTED with the reason;
 * -EINVAL for roots that are none.
 */
MUST_CHECK int cert_list_verify(const struct cert_list *list, const char *roots_pem, struct diag *reterr_diag);
/* The same at another time, in seconds since 1970: whether a certificate was good once. */
MUST_CHECK int cert_list_verify_at(const struct cert_list *list, const char *roots_pem, int64_t at, struct diag *reterr_diag);

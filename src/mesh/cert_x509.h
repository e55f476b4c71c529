#pragma once
#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/diag.h"

/*
 * What cert.c and cert_ca.c share of libcrypto. Private to cert*.c.
 */
#define CLEANUP_X509	CLEANUP(cert_x509_cleanup)
#define CLEANUP_BIO	CLEANUP(cert_bio_cleanup)

void cert_x509_cleanup(X509 **x);
void cert_bio_cleanup(BIO **b);

/* The one certificate, or the first one, of a PEM text; NULL when there is none. */
X509 *cert_x509_from_pem(const char *pem, size_t len);
MUST_CHECK int cert_x509_to_pem(X509 *x, char **ret_pem);
int64_t cert_time(const ASN1_TIME *t);			/* seconds since 1970 */

/*
 * A subjectAltName of @uri (may be NULL) and of the DNS names and addresses in
 * @names (NULL ends it; may be NULL). -ENOMEM.
 */
MUST_CHECK int cert_san_new(const char *uri, const char *const *names, GENERAL_NAMES **ret_san);
struct cert_list;
/* As cert_list_verify_at(), also of an authority's own certificate (@is_ca), which is for no handshake. @at 0: now. */
MUST_CHECK int cert_chain_verify(const struct cert_list *list, const char *roots_pem, bool is_ca, int64_t at, struct diag *reterr_diag);

/* The digest that a key signs with, or NULL for those that bring their own. */
const EVP_MD *cert_key_digest(EVP_PKEY *key);

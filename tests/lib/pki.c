/*
 * A certificate authority in memory. P-256, SHA-256.
 */
#include "lib/pki.h"
#include "lib/unit.h"

#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LEAVES = 64 };

struct pki {
	EVP_PKEY *key;
	X509 *cert;
	char *root_pem;
	char *between_pem;	/* sent with each leaf; "" under a root */
	struct pki_leaf leaves[MAX_LEAVES];
	int n;
	long serial;
};

static char *bio_text(BIO *b)
{
	char *data, *text;
	long n = BIO_get_mem_data(b, &data);

	text = strndup(data, (size_t)n);
	assert_non_null(text);
	BIO_free(b);
	return text;
}

static char *cert_text(X509 *x)
{
	BIO *b = BIO_new(BIO_s_mem());

	assert_int_equal(PEM_write_bio_X509(b, x), 1);
	return bio_text(b);
}

static void extend_by(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);

	assert_non_null(e);
	assert_int_equal(X509_add_ext(x, e, -1), 1);
	X509_EXTENSION_free(e);
}

static void extend(X509 *x, int nid, const char *value)
{
	extend_by(x, x, nid, value);
}

static X509 *new_cert(struct pki *p, EVP_PKEY *key, const char *cn, long from_s, long until_s)
{
	X509 *x = X509_new();

	assert_non_null(x);
	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), ++p->serial);
	X509_gmtime_adj(X509_getm_notBefore(x), from_s);
	X509_gmtime_adj(X509_getm_notAfter(x), until_s);
	X509_set_pubkey(x, key);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1, 0);
	return x;
}

/* @parent NULL: a root. */
static struct pki *authority(struct pki *parent, const char *name)
{
	struct pki *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	p->key = EVP_EC_gen("P-256");
	p->cert = new_cert(parent ? parent : p, p->key, name, -86400, 86400);
	X509_set_issuer_name(p->cert, X509_get_subject_name(parent ? parent->cert : p->cert));
	extend(p->cert, NID_basic_constraints, "critical,CA:TRUE");
	extend(p->cert, NID_key_usage, "critical,keyCertSign,cRLSign");
	extend(p->cert, NID_subject_key_identifier, "hash");
	if (parent)
		extend_by(p->cert, parent->cert, NID_authority_key_identifier, "keyid:always");
	assert_true(X509_sign(p->cert, parent ? parent->key : p->key, EVP_sha256()) > 0);
	return p;
}

struct pki *pki_new(void)
{
	struct pki *p = authority(NULL, "test root");

	p->root_pem = cert_text(p->cert);
	p->between_pem = strdup("");
	return p;
}

struct pki *pki_under(struct pki *parent)
{
	char name[64];

	snprintf(name, sizeof(name), "test intermediate %ld", parent->serial + 1);
	struct pki *p = authority(parent, name);
	char *own = cert_text(p->cert);

	p->root_pem = strdup(parent->root_pem);
	assert_true(asprintf(&p->between_pem, "%s%s", own, parent->between_pem) > 0);
	free(own);
	return p;
}

void pki_free(struct pki *p)
{
	for (int i = 0; i < p->n; i++) {
		free(p->leaves[i].cert_pem);
		free(p->leaves[i].key_pem);
	}
	free(p->root_pem);
	free(p->between_pem);
	X509_free(p->cert);
	EVP_PKEY_free(p->key);
	free(p);
}

const char *pki_root_pem(const struct pki *p)
{
	return p->root_pem;
}

const struct pki_leaf *pki_issue(struct pki *p, const struct pki_want *want)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = new_cert(p, key, "leaf", want->from_s, want->until_s ? want->until_s : 3600);
	struct pki_leaf *leaf = &p->leaves[p->n++];
	BIO *b = BIO_new(BIO_s_mem());

	assert_true(p->n <= MAX_LEAVES);
	X509_set_issuer_name(x, X509_get_subject_name(p->cert));
	extend(x, NID_basic_constraints, want->is_ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
	extend_by(x, p->cert, NID_authority_key_identifier, "keyid:always");
	if (want->san)
		extend(x, NID_subject_alt_name, want->san);
	if (want->eku)
		extend(x, NID_ext_key_usage, want->eku);
	assert_true(X509_sign(x, p->key, EVP_sha256()) > 0);
	char *own = cert_text(x);
	assert_true(asprintf(&leaf->cert_pem, "%s%s", own, p->between_pem) > 0);
	free(own);
	assert_int_equal(PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL), 1);
	leaf->key_pem = bio_text(b);
	X509_free(x);
	EVP_PKEY_free(key);
	return leaf;
}

const struct pki_leaf *pki_issue_san(struct pki *p, const char *san)
{
	return pki_issue(p, &(struct pki_want){ .san = san });
}

/* --- memory --- */

static void *crypto_malloc(size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	return malloc(n);
}

static void *crypto_realloc(void *p, size_t n, const char *file, int line)
{
	(void)file;
	(void)line;
	return realloc(p, n);
}

static void crypto_free(void *p, const char *file, int line)
{
	(void)file;
	(void)line;
	free(p);
}

int pki_take_malloc(void)
{
	return CRYPTO_set_mem_functions(crypto_malloc, crypto_realloc, crypto_free);
}

/*
 * Keys, signing requests, chains: libcrypto behind plain C strings.
 */
#include "mesh/cert.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/ip.h"
#include "mesh/cert_x509.h"

/* libcrypto's queue of errors is per thread and outlives the call: it must not confuse the next one. */
static int crypto_error(int r)
{
	ERR_clear_error();
	return r;
}

/* --- shared with cert_ca.c --- */

void cert_x509_cleanup(X509 **x)
{
	X509_free(*x);
}

void cert_bio_cleanup(BIO **b)
{
	BIO_free(*b);
}

void cert_key_cleanup(EVP_PKEY **key)
{
	EVP_PKEY_free(*key);
}

static int cert_bio_take(BIO *b, char **ret_text)
{
	char *data;
	long len = BIO_get_mem_data(b, &data);
	char *text = len < 0 ? NULL : malloc((size_t)len + 1);

	if (!text)
		return -ENOMEM;
	memcpy(text, data, (size_t)len);
	text[len] = 0;
	*ret_text = text;
	return 0;
}

X509 *cert_x509_from_pem(const char *pem, size_t len)
{
	CLEANUP_BIO BIO *b = len > CERT_PEM_MAX ? NULL : BIO_new_mem_buf(pem, (int)len);
	X509 *x = b ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;

	ERR_clear_error();
	return x;
}

int cert_x509_to_pem(X509 *x, char **ret_pem)
{
	CLEANUP_BIO BIO *b = BIO_new(BIO_s_mem());

	if (!b || !PEM_write_bio_X509(b, x))
		return crypto_error(-ENOMEM);
	return cert_bio_take(b, ret_pem);
}

int64_t cert_time(const ASN1_TIME *t)
{
	struct tm tm;

	return ASN1_TIME_to_tm(t, &tm) ? (int64_t)timegm(&tm) : 0;
}

static int push_name(GENERAL_NAMES *san, int type, const void *data, size_t len)
{
	GENERAL_NAME *name = GENERAL_NAME_new();
	ASN1_STRING *value = type == GEN_IPADD ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();

	if (!name || !value || !ASN1_STRING_set(value, data, (int)len)) {
		ASN1_STRING_free(value);
		GENERAL_NAME_free(name);
		return -ENOMEM;
	}
	GENERAL_NAME_set0_value(name, type, value);
	if (!sk_GENERAL_NAME_push(san, name)) {
		GENERAL_NAME_free(name);
		return -ENOMEM;
	}
	return 0;
}

int cert_san_new(const char *uri, const char *const *names, GENERAL_NAMES **ret_san)
{
	GENERAL_NAMES *san = GENERAL_NAMES_new();
	int r = san ? 0 : -ENOMEM;

	if (r == 0 && uri)
		r = push_name(san, GEN_URI, uri, strlen(uri));
	for (; r == 0 && names && *names; names++) {
		struct ip ip;

		if (ip_parse(*names, &ip) < 0)
			r = push_name(san, GEN_DNS, *names, strlen(*names));
		else
			r = push_name(san, GEN_IPADD, ip_is_v4(&ip) ? ip.b + 12 : ip.b, ip_is_v4(&ip) ? 4 : 16);
	}
	if (r < 0) {
		GENERAL_NAMES_free(san);
		return crypto_error(r);
	}
	*ret_san = san;
	return 0;
}

static bool cert_key_acceptable(EVP_PKEY *key)
{
	char group[32] = "";

	if (EVP_PKEY_is_a(key, "ED25519"))
		return true;
	if (EVP_PKEY_is_a(key, "RSA"))
		return EVP_PKEY_get_bits(key) >= 2048 && EVP_PKEY_get_bits(key) <= 8192;
	if (!EVP_PKEY_is_a(key, "EC") || !EVP_PKEY_get_group_name(key, group, sizeof(group), NULL))
		return false;
	return !strcmp(group, SN_X9_62_prime256v1) || !strcmp(group, SN_secp384r1);
}

const EVP_MD *cert_key_digest(EVP_PKEY *key)
{
	return EVP_PKEY_is_a(key, "ED25519") ? NULL : EVP_sha256();
}

/* --- keys --- */

int cert_key_new(EVP_PKEY **ret_key)
{
	EVP_PKEY *key = EVP_EC_gen(SN_X9_62_prime256v1);

	if (!key)
		return crypto_error(-EIO);
	*ret_key = key;
	return 0;
}

int cert_key_to_pem(EVP_PKEY *key, char **ret_pem)
{
	BIO *b = BIO_new(BIO_s_secmem());
	int r = -ENOMEM;

	if (b && PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL))
		r = cert_bio_take(b, ret_pem);
	BIO_free(b);		/* wiped, being "secmem" */
	return crypto_error(r);
}

/* Without it libcrypto asks the terminal for the password of an encrypted key. */
static int no_password(char *buf, int size, int writing, void *data)
{
	(void)buf;
	(void)size;
	(void)writing;
	(void)data;
	return -1;
}

int cert_key_from_pem(const char *pem, EVP_PKEY **ret_key)
{
	size_t len = strnlen(pem, CERT_PEM_MAX + 1);
	CLEANUP_BIO BIO *b = len > CERT_PEM_MAX ? NULL : BIO_new_mem_buf(pem, (int)len);
	EVP_PKEY *key = b ? PEM_read_bio_PrivateKey(b, NULL, no_password, NULL) : NULL;

	if (!key)
		return crypto_error(-EINVAL);
	*ret_key = key;
	return 0;
}

/* --- requests --- */

static int add_san_request(X509_REQ *req, const char *spiffe_id)
{
	STACK_OF(X509_EXTENSION) *extensions = NULL;
	GENERAL_NAMES *san;
	int r = cert_san_new(spiffe_id, NULL, &san);

	if (r < 0)
		return r;
	/* RFC 5280, section 4.2.1.6: critical, since the subject is empty */
	if (X509V3_add1_i2d(&extensions, NID_subject_alt_name, san, 1, X509V3_ADD_DEFAULT) != 1 ||
	    !X509_REQ_add_extensions(req, extensions))
		r = -ENOMEM;
	sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
	GENERAL_NAMES_free(san);
	return r;
}

int cert_csr_new(EVP_PKEY *key, const char *spiffe_id, char **ret_pem)
{
	X509_REQ *req = X509_REQ_new();
	CLEANUP_BIO BIO *b = BIO_new(BIO_s_mem());
	int r = req && b ? 0 : -ENOMEM;

	if (r == 0 && (!X509_REQ_set_version(req, X509_REQ_VERSION_1) || !X509_REQ_set_pubkey(req, key)))
		r = -ENOMEM;
	if (r == 0 && spiffe_id)
		r = add_san_request(req, spiffe_id);
	if (r == 0 && !X509_REQ_sign(req, key, cert_key_digest(key)))
		r = -EIO;
	if (r == 0 && !PEM_write_bio_X509_REQ(b, req))
		r = -ENOMEM;
	if (r == 0)
		r = cert_bio_take(b, ret_pem);
	X509_REQ_free(req);
	return crypto_error(r);
}

/* The one URI name. 0 with an empty text when there is no name at all; -EINVAL for anything else. */
static int take_uri(const GENERAL_NAMES *san, char id[static IDENTITY_MAX + 1])
{
	struct identity parsed;
	const ASN1_STRING *s;
	int type;

	id[0] = 0;
	if (!san || !sk_GENERAL_NAME_num(san))
		return 0;
	s = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(san, 0), &type);
	if (sk_GENERAL_NAME_num(san) != 1 || type != GEN_URI)
		return -EINVAL;

	size_t len = (size_t)ASN1_STRING_length(s);
	const char *text = (const char *)ASN1_STRING_get0_data(s);
	if (identity_parse_n(text, len, &parsed) < 0)	/* which has no zero byte inside either */
		return -EINVAL;
	memcpy(id, text, len);
	id[len] = 0;
	return 0;
}

static int take_requested_id(X509_REQ *req, char id[static IDENTITY_MAX + 1])
{
	STACK_OF(X509_EXTENSION) *extensions = X509_REQ_get_extensions(req);
	int critical = -1;
	GENERAL_NAMES *san = X509V3_get_d2i(extensions, NID_subject_alt_name, &critical, NULL);
	int r = critical == -2 || (!san && critical >= 0) ? -EINVAL : take_uri(san, id);

	GENERAL_NAMES_free(san);
	sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
	return r;
}

static int check_csr(X509_REQ *req, struct cert_csr *csr, struct diag *reterr_diag)
{
	EVP_PKEY *key = X509_REQ_get0_pubkey(req);

	if (!key || !cert_key_acceptable(key))
		return diag_set(reterr_diag, "the request's key is not of a kind that is taken (P-256, P-384, Ed25519, RSA from 2048 bits)");
	if (X509_REQ_verify(req, key) != 1)
		return diag_set(reterr_diag, "the request is not signed by its key");
	if (take_requested_id(req, csr->id) < 0)
		return diag_set(reterr_diag, "the request has to name exactly one SPIFFE ID and nothing else");
	if (!EVP_PKEY_up_ref(key))
		return -ENOMEM;
	csr->key = key;
	return 0;
}

int cert_csr_parse(const char *pem, size_t len, struct cert_csr *ret_csr, struct diag *reterr_diag)
{
	CLEANUP_BIO BIO *b = len > CERT_CSR_MAX ? NULL : BIO_new_mem_buf(pem, (int)len);
	X509_REQ *req = b ? PEM_read_bio_X509_REQ(b, NULL, NULL, NULL) : NULL;
	int r;

	if (len > CERT_CSR_MAX)
		return diag_set(reterr_diag, "the request is larger than %d bytes", CERT_CSR_MAX);
	if (req)
		r = check_csr(req, ret_csr, reterr_diag);
	else
		r = diag_set(reterr_diag, "not a certificate signing request in PEM");
	X509_REQ_free(req);
	return crypto_error(r);
}

void cert_csr_deinit(struct cert_csr *csr)
{
	EVP_PKEY_free(csr->key);
	*csr = (struct cert_csr){};
}

/* --- certificates --- */

static void take_serial(const X509 *x, char serial[static 48])
{
	const ASN1_INTEGER *number = X509_get0_serialNumber(x);
	size_t len = MIN((size_t)ASN1_STRING_length(number), (size_t)23);
	const uint8_t *bytes = ASN1_STRING_get0_data(number);

	for (size_t i = 0; i < len; i++)
		snprintf(serial + 2 * i, 3, "%02x", bytes[i]);
	serial[2 * len] = 0;
}

/* X.509-SVID section 2: the only URI, whatever other names there are. */
static void take_id(X509 *x, char id[static IDENTITY_MAX + 1])
{
	GENERAL_NAMES *san = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	const ASN1_STRING *uri = NULL;
	int n = 0;

	id[0] = 0;
	for (int i = 0; i < sk_GENERAL_NAME_num(san); i++) {
		int type;
		const ASN1_STRING *s = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(san, i), &type);

		if (type == GEN_URI) {
			uri = s;
			n++;
		}
	}
	if (n == 1 && ASN1_STRING_length(uri) <= IDENTITY_MAX && !memchr(ASN1_STRING_get0_data(uri), 0, (size_t)ASN1_STRING_length(uri))) {
		memcpy(id, ASN1_STRING_get0_data(uri), (size_t)ASN1_STRING_length(uri));
		id[ASN1_STRING_length(uri)] = 0;
	}
	GENERAL_NAMES_free(san);
}

int cert_info(const char *pem, struct cert_info *ret_info)
{
	CLEANUP_X509 X509 *x = cert_x509_from_pem(pem, strnlen(pem, CERT_PEM_MAX + 1));

	if (!x)
		return -EINVAL;
	take_id(x, ret_info->id);
	take_serial(x, ret_info->serial);
	ret_info->not_before = cert_time(X509_get0_notBefore(x));
	ret_info->not_after = cert_time(X509_get0_notAfter(x));
	ret_info->is_ca = X509_check_ca(x) == 1;
	ret_info->self_signed = X509_self_signed(x, 0) == 1;
	return crypto_error(0);
}

int cert_has_key(const char *pem, EVP_PKEY *key)
{
	CLEANUP_X509 X509 *x = cert_x509_from_pem(pem, strnlen(pem, CERT_PEM_MAX + 1));
	EVP_PKEY *own = x ? X509_get0_pubkey(x) : NULL;

	if (!own)
		return crypto_error(-EINVAL);
	return crypto_error(EVP_PKEY_eq(own, key) == 1 ? 0 : -EKEYREJECTED);
}

int cert_fingerprint(const char *pem, uint8_t ret_hash[static CERT_FINGERPRINT_LEN])
{
	CLEANUP_X509 X509 *x = cert_x509_from_pem(pem, strnlen(pem, CERT_PEM_MAX + 1));
	unsigned len = CERT_FINGERPRINT_LEN;

	if (!x)
		return crypto_error(-EINVAL);
	return crypto_error(X509_digest(x, EVP_sha256(), ret_hash, &len) == 1 ? 0 : -EIO);
}

/* --- chains --- */

static int add_all(struct cert_list *list, BIO *b, size_t *n_added)
{
	for (;;) {
		CLEANUP_X509 X509 *x = PEM_read_bio_X509(b, NULL, NULL, NULL);

		if (!x) {
			bool end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
			return end && *n_added ? 0 : -EINVAL;
		}
		if (list->n == CERT_CHAIN_MAX)
			return -E2BIG;
		int r = cert_x509_to_pem(x, &list->pem[list->n]);
		if (r < 0)
			return r;
		list->n++;
		(*n_added)++;
	}
}

int cert_list_add(struct cert_list *list, const char *pem)
{
	size_t len = strnlen(pem, CERT_PEM_MAX + 1);
	CLEANUP_BIO BIO *b = len > CERT_PEM_MAX ? NULL : BIO_new_mem_buf(pem, (int)len);
	size_t n_added = 0;

	if (len > CERT_PEM_MAX)
		return -E2BIG;
	if (!b)
		return crypto_error(-ENOMEM);
	ERR_clear_error();
	int r = add_all(list, b, &n_added);
	while (r < 0 && n_added--)		/* all of it, or nothing */
		free(list->pem[--list->n]);
	return crypto_error(r);
}

void cert_list_deinit(struct cert_list *list)
{
	while (list->n)
		free(list->pem[--list->n]);
}

int cert_list_join(const struct cert_list *list, size_t first, size_t end, char **ret_pem)
{
	size_t len = 0, at = 0;

	for (size_t i = first; i < end && i < list->n; i++)
		len += strlen(list->pem[i]);
	char *pem = malloc(len + 1);
	if (!pem)
		return -ENOMEM;
	for (size_t i = first; i < end && i < list->n; i++) {
		size_t n = strlen(list->pem[i]);

		memcpy(pem + at, list->pem[i], n);
		at += n;
	}
	pem[at] = 0;
	*ret_pem = pem;
	return 0;
}

/* --- verification --- */

static int load_roots(X509_STORE *store, const char *roots_pem)
{
	size_t len = strnlen(roots_pem, CERT_PEM_MAX + 1);
	CLEANUP_BIO BIO *b = len > CERT_PEM_MAX ? NULL : BIO_new_mem_buf(roots_pem, (int)len);
	size_t n = 0;

	for (;; n++) {
		CLEANUP_X509 X509 *x = b ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;

		if (!x)
			return n ? 0 : -EINVAL;
		if (!X509_STORE_add_cert(store, x))
			return -ENOMEM;
	}
}

static int verify_for(X509_STORE *store, X509 *leaf, STACK_OF(X509) *others, int purpose, struct diag *reterr_diag)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	int r = -ENOMEM;

	if (ctx && X509_STORE_CTX_init(ctx, store, leaf, others) && X509_STORE_CTX_set_purpose(ctx, purpose)) {
		r = X509_verify_cert(ctx) == 1 ? 0 : -EKEYREJECTED;
		if (r < 0)
			diag_set(reterr_diag, "the certificate is not valid: %s",
				 X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
	}
	X509_STORE_CTX_free(ctx);
	return r;
}

static int verify(X509_STORE *store, STACK_OF(X509) *others, const struct cert_list *list, bool is_ca, struct diag *reterr_diag)
{
	CLEANUP_X509 X509 *leaf = list->n ? cert_x509_from_pem(list->pem[0], strlen(list->pem[0])) : NULL;

	if (!leaf) {
		diag_set(reterr_diag, "no certificate");
		return -EKEYREJECTED;
	}
	for (size_t i = 1; i < list->n; i++) {
		X509 *x = cert_x509_from_pem(list->pem[i], strlen(list->pem[i]));

		if (!x || !sk_X509_push(others, x)) {
			X509_free(x);
			return -ENOMEM;
		}
	}
	if (is_ca)
		return verify_for(store, leaf, others, X509_PURPOSE_ANY, reterr_diag);
	int r = verify_for(store, leaf, others, X509_PURPOSE_SSL_SERVER, reterr_diag);
	return r < 0 ? r : verify_for(store, leaf, others, X509_PURPOSE_SSL_CLIENT, reterr_diag);
}

int cert_chain_verify(const struct cert_list *list, const char *roots_pem, bool is_ca, int64_t at, struct diag *reterr_diag)
{
	X509_STORE *store = X509_STORE_new();
	STACK_OF(X509) *others = sk_X509_new_null();
	int r = store && others ? load_roots(store, roots_pem) : -ENOMEM;

	if (r == -EINVAL)
		diag_set(reterr_diag, "the roots are not certificates in PEM");
	if (r == 0 && at)
		X509_VERIFY_PARAM_set_time(X509_STORE_get0_param(store), (time_t)at);
	if (r == 0)
		r = verify(store, others, list, is_ca, reterr_diag);
	sk_X509_pop_free(others, X509_free);
	X509_STORE_free(store);
	return crypto_error(r);
}

int cert_list_verify(const struct cert_list *list, const char *roots_pem, struct diag *reterr_diag)
{
	return cert_chain_verify(list, roots_pem, false, 0, reterr_diag);
}

int cert_list_verify_at(const struct cert_list *list, const char *roots_pem, int64_t at, struct diag *reterr_diag)
{
	return cert_chain_verify(list, roots_pem, false, at, reterr_diag);
}

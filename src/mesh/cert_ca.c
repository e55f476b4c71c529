/*
 * The authority: a root or an intermediate, and the leaves that it signs.
 */
#include "mesh/cert_ca.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mesh/cert_x509.h"
#include "mesh/revocation.h"

enum { DAY_S = 86400 };

struct cert_ca {
	X509 *cert;
	EVP_PKEY *key;
	char *cert_pem;
	char *chain_pem;	/* the CA and those above it, without the root; "" for a root */
	char *roots_pem;
	char trust_domain[IDENTITY_TRUST_DOMAIN_MAX + 1];
};

/* --- making certificates --- */

/* RFC 5280, section 4.1.2.2: positive, at most 20 bytes; CA/Browser Forum: at least 64 random bits */
static int set_serial(X509 *x, const struct revocation_origin *origin)
{
	uint8_t bytes[REVOCATION_SERIAL_LEN];
	int r = revocation_serial(origin, bytes);
	BIGNUM *n;

	if (r < 0)
		return r;
	n = BN_bin2bn(bytes, sizeof(bytes), NULL);
	if (!n || !BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x)))
		r = -ENOMEM;
	BN_free(n);
	return r;
}

/* @value in libcrypto's configuration syntax: constants of this file only. */
static int add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *e;
	int r = -ENOMEM;

	X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
	X509V3_set_ctx_nodb(&ctx);
	e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	if (e && X509_add_ext(x, e, -1))
		r = 0;
	X509_EXTENSION_free(e);
	return r;
}

struct extension {
	int nid;
	const char *value;
};

static int add_extensions(X509 *x, X509 *issuer, const struct extension *list, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++)
		r = add_extension(x, issuer, list[i].nid, list[i].value);
	return r;
}

static int add_san(X509 *x, const char *uri, const char *const *names, bool critical)
{
	GENERAL_NAMES *san;
	int r = cert_san_new(uri, names, &san);

	if (r < 0)
		return r;
	if (sk_GENERAL_NAME_num(san) && X509_add1_ext_i2d(x, NID_subject_alt_name, san, critical, X509V3_ADD_DEFAULT) != 1)
		r = -ENOMEM;
	GENERAL_NAMES_free(san);
	return r;
}

static int set_validity(X509 *x, int64_t from, int64_t until)
{
	if (!ASN1_TIME_set(X509_getm_notBefore(x), (time_t)from) || !ASN1_TIME_set(X509_getm_notAfter(x), (time_t)until))
		return -ENOMEM;
	return 0;
}

static int sign(X509 *x, EVP_PKEY *key)
{
	return X509_sign(x, key, cert_key_digest(key)) ? 0 : -EIO;
}

static int add_text(X509_NAME *name, const char *field, const char *text)
{
	return X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC, (const uint8_t *)text, -1, -1, 0) ? 0 : -ENOMEM;
}

/* --- the CA's own certificate --- */

static int set_ca_fields(struct cert_ca *ca, struct cert_ca *parent, const char *trust_domain, unsigned days)
{
	static const struct extension extensions[] = {
		{ NID_basic_constraints, "critical,CA:TRUE" },
		{ NID_key_usage, "critical,keyCertSign,cRLSign" },
		{ NID_subject_key_identifier, "hash" },
		{ NID_authority_key_identifier, "keyid" },
	};
	X509 *issuer = parent ? parent->cert : ca->cert;
	int64_t now = clock_wall_s();
	int64_t until = now + (int64_t)days * DAY_S;
	char uri[IDENTITY_TRUST_DOMAIN_MAX + 16] = "spiffe://";
	X509_NAME *name = X509_get_subject_name(ca->cert);
	int r = X509_set_version(ca->cert, X509_VERSION_3) && X509_set_pubkey(ca->cert, ca->key) ? set_serial(ca->cert, NULL) : -ENOMEM;

	memcpy(uri + strlen(uri), trust_domain, strlen(trust_domain) + 1);
	if (r == 0)
		r = set_validity(ca->cert, now - CERT_BACKDATE_S, parent ? MIN(until, cert_ca_not_after(parent)) : until);
	if (r == 0)
		r = add_text(name, "O", "outrigger");
	if (r == 0)
		r = add_text(name, "CN", parent ? "intermediate CA" : "root CA");
	if (r == 0 && !X509_set_issuer_name(ca->cert, X509_get_subject_name(issuer)))
		r = -ENOMEM;
	if (r == 0)
		r = add_extensions(ca->cert, issuer, extensions, ELEMENTS(extensions));
	return r < 0 ? r : add_san(ca->cert, uri, NULL, false);
}

/* Takes the trust domain from the URI name: X.509-SVID section 3, a signing certificate's ID has no path. */
static void take_trust_domain(struct cert_ca *ca)
{
	struct cert_info info;
	struct identity id;

	if (cert_info(ca->cert_pem, &info) == 0 && identity_parse(info.id, &id) == 0)
		memcpy(ca->trust_domain, id.trust_domain, sizeof(ca->trust_domain));
}

/* Joins up to two PEM texts; @b may be NULL. */
static int join_pem(const char *a, const char *b, char **ret_pem)
{
	size_t n_a = strlen(a), n_b = b ? strlen(b) : 0;
	char *pem = malloc(n_a + n_b + 1);

	if (!pem)
		return -ENOMEM;
	memcpy(pem, a, n_a);
	if (n_b)
		memcpy(pem + n_a, b, n_b);
	pem[n_a + n_b] = 0;
	*ret_pem = pem;
	return 0;
}

static int set_texts(struct cert_ca *ca, const char *above_pem, const char *roots_pem)
{
	int r = cert_x509_to_pem(ca->cert, &ca->cert_pem);

	if (r == 0)
		r = join_pem(roots_pem ? ca->cert_pem : "", roots_pem ? above_pem : NULL, &ca->chain_pem);
	if (r == 0)
		r = join_pem(roots_pem ?: ca->cert_pem, NULL, &ca->roots_pem);
	if (r == 0)
		take_trust_domain(ca);
	return r;
}

static int make(struct cert_ca *parent, const char *trust_domain, unsigned days, struct cert_ca **ret_ca)
{
	struct cert_ca *ca = calloc(1, sizeof(*ca));
	int r = ca ? cert_key_new(&ca->key) : -ENOMEM;

	if (r == 0)
		r = (ca->cert = X509_new()) ? set_ca_fields(ca, parent, trust_domain, days) : -ENOMEM;
	if (r == 0)
		r = sign(ca->cert, parent ? parent->key : ca->key);
	if (r == 0)
		r = set_texts(ca, parent ? parent->chain_pem : NULL, parent ? parent->roots_pem : NULL);
	ERR_clear_error();
	if (r < 0) {
		cert_ca_free(ca);
		return r;
	}
	*ret_ca = ca;
	return 0;
}

int cert_ca_new_root(const char *trust_domain, unsigned days, struct cert_ca **ret_ca)
{
	return identity_trust_domain_valid(trust_domain) && days ? make(NULL, trust_domain, days, ret_ca) : -EINVAL;
}

int cert_ca_new_intermediate(struct cert_ca *parent, unsigned days, struct cert_ca **ret_ca)
{
	return parent->trust_domain[0] && days ? make(parent, parent->trust_domain, days, ret_ca) : -EINVAL;
}

static int check_chain(const struct cert_ca *ca, struct diag *reterr_diag)
{
	struct cert_list list = {};
	struct cert_info info;
	int r = cert_list_add(&list, ca->cert_pem);

	if (r == 0 && ca->chain_pem[0]) {
		cert_list_deinit(&list);
		r = cert_list_add(&list, ca->chain_pem);
	}
	if (r == 0)
		r = cert_chain_verify(&list, ca->roots_pem, true, 0, reterr_diag);
	if (r == -EKEYREJECTED)
		r = -EINVAL;
	if (r == 0 && (cert_info(ca->cert_pem, &info) < 0 || !info.is_ca))
		r = diag_set(reterr_diag, "the certificate is not that of an authority");
	cert_list_deinit(&list);
	return r;
}

int cert_ca_from_pem(const char *cert_pem, const char *key_pem, const char *chain_pem, const char *roots_pem, struct cert_ca **ret_ca,
		     struct diag *reterr_diag)
{
	struct cert_ca *ca = calloc(1, sizeof(*ca));
	int r;

	if (!ca)
		return -ENOMEM;
	ca->cert = cert_x509_from_pem(cert_pem, strlen(cert_pem));
	if (!ca->cert)
		r = diag_set(reterr_diag, "no certificate in PEM");
	else if (cert_key_from_pem(key_pem, &ca->key) < 0)
		r = diag_set(reterr_diag, "no private key in PEM");
	else if (cert_has_key(cert_pem, ca->key) < 0)
		r = diag_set(reterr_diag, "the key is not that of the certificate");
	else
		r = set_texts(ca, chain_pem, roots_pem);
	if (r == 0)
		r = check_chain(ca, reterr_diag);
	if (r < 0) {
		cert_ca_free(ca);
		return r;
	}
	*ret_ca = ca;
	return 0;
}

struct cert_ca *cert_ca_free(struct cert_ca *ca)
{
	if (!ca)
		return NULL;
	X509_free(ca->cert);
	EVP_PKEY_free(ca->key);
	free(ca->cert_pem);
	free(ca->chain_pem);
	free(ca->roots_pem);
	free(ca);
	return NULL;
}

const char *cert_ca_trust_domain(const struct cert_ca *ca)
{
	return ca->trust_domain;
}

const char *cert_ca_roots_pem(const struct cert_ca *ca)
{
	return ca->roots_pem;
}

const char *cert_ca_chain_pem(const struct cert_ca *ca)
{
	return ca->chain_pem;
}

const char *cert_ca_cert_pem(const struct cert_ca *ca)
{
	return ca->cert_pem;
}

int cert_ca_key_pem(const struct cert_ca *ca, char **ret_pem)
{
	return cert_key_to_pem(ca->key, ret_pem);
}

int64_t cert_ca_not_after(const struct cert_ca *ca)
{
	return cert_time(X509_get0_notAfter(ca->cert));
}

/* --- leaves --- */

static int set_leaf_fields(struct cert_ca *ca, X509 *x, const struct cert_leaf *leaf)
{
	static const struct extension extensions[] = {
		{ NID_basic_constraints, "critical,CA:FALSE" },
		{ NID_key_usage, "critical,digitalSignature" },
		{ NID_ext_key_usage, "serverAuth,clientAuth" },
		{ NID_subject_key_identifier, "hash" },
		{ NID_authority_key_identifier, "keyid" },
	};
	int64_t now = clock_wall_s();
	int64_t until = MIN(now + leaf->ttl_s, cert_ca_not_after(ca));
	/* Of a very short life only a part: half the life after not_before must not be over already. */
	int64_t from = MAX(now - MIN((int64_t)CERT_BACKDATE_S, leaf->ttl_s / 10), cert_time(X509_get0_notBefore(ca->cert)));
	int r = X509_set_version(x, X509_VERSION_3) && X509_set_pubkey(x, leaf->key) ? set_serial(x, leaf->origin) : -ENOMEM;

	if (until <= now)
		return -EKEYEXPIRED;
	if (r == 0)
		r = set_validity(x, from, until);
	if (r == 0 && !X509_set_issuer_name(x, X509_get_subject_name(ca->cert)))
		r = -ENOMEM;
	if (r == 0)
		r = add_extensions(x, ca->cert, extensions, ELEMENTS(extensions));
	return r < 0 ? r : add_san(x, leaf->id, leaf->names, true);
}

/* [leaf, intermediates one by one, all roots in one] */
static int set_chain(const struct cert_ca *ca, X509 *x, struct cert_list *chain)
{
	int r = cert_x509_to_pem(x, &chain->pem[0]);

	if (r < 0)
		return r;
	chain->n = 1;
	r = ca->chain_pem[0] ? cert_list_add(chain, ca->chain_pem) : 0;
	if (r < 0)
		return r;
	if (chain->n == CERT_CHAIN_MAX)
		return -E2BIG;
	chain->pem[chain->n] = strdup(ca->roots_pem);
	if (!chain->pem[chain->n])
		return -ENOMEM;
	chain->n++;
	return 0;
}

int cert_ca_sign(struct cert_ca *ca, const struct cert_leaf *leaf, struct cert_list *ret_chain)
{
	CLEANUP_X509 X509 *x = X509_new();
	struct cert_list chain = {};
	struct identity id;
	int r;

	if (leaf->ttl_s <= 0 || (!leaf->id && !(leaf->names && leaf->names[0])) || (leaf->id && identity_parse(leaf->id, &id) < 0))
		return -EINVAL;
	r = x ? set_leaf_fields(ca, x, leaf) : -ENOMEM;
	if (r == 0)
		r = sign(x, ca->key);
	if (r == 0)
		r = set_chain(ca, x, &chain);
	ERR_clear_error();
	if (r < 0) {
		cert_list_deinit(&chain);
		return r;
	}
	*ret_chain = chain;
	return 0;
}

/*
 * Peer certificates: identity, verification, and the cache of the verified.
 */
#include "mesh/tls_peer.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "mesh/identity.h"

enum { CACHE_MAX = 4096 };	/* certificates; about 300 bytes each */

struct cached {
	struct map_link link;	/* by the peer's fingerprint */
	struct list by_age;
	struct tls_peer *peer;
};

static struct tls_peer *tls_peer_ref(struct tls_peer *p)
{
	__atomic_add_fetch(&p->n_refs, 1, __ATOMIC_RELAXED);
	return p;
}

struct tls_peer *tls_peer_unref(struct tls_peer *p)
{
	if (p && __atomic_sub_fetch(&p->n_refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(p);
	return NULL;
}

/* --- reading a certificate --- */

static int64_t time_of(const ASN1_TIME *t)
{
	struct tm tm;

	return ASN1_TIME_to_tm(t, &tm) == 1 ? timegm(&tm) : 0;
}

static bool fail(char error[static TLS_PEER_ERROR_LEN], const char *why)
{
	snprintf(error, TLS_PEER_ERROR_LEN, "%s", why);
	return false;
}

/*
 * X509-SVID, section 2: exactly one URI, and it is the identity. @ret_id gets
 * a copy, or NULL when the certificate names no SPIFFE ID.
 */
static bool read_id(X509 *leaf, char **ret_id, char error[static TLS_PEER_ERROR_LEN])
{
	static const char scheme[] = "spiffe://";
	int critical = -1;		/* -1: there is no such extension */
	GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, &critical, NULL);
	const ASN1_IA5STRING *uri = NULL;
	struct identity parsed;
	int n_uris = 0;
	bool ok = true;

	*ret_id = NULL;
	if (!names && critical != -1)	/* malformed, or no memory to read them: that is not "no names", which would be remembered */
		return fail(error, "the certificate's names cannot be read");
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

		if (name->type != GEN_URI)
			continue;
		uri = name->d.uniformResourceIdentifier;
		n_uris++;
	}
	if (n_uris > 1) {
		ok = fail(error, "the certificate has more than one URI name");
	} else if (uri && uri->length >= (int)sizeof(scheme) - 1 && !memcmp(uri->data, scheme, sizeof(scheme) - 1)) {
		if (identity_parse_n((const char *)uri->data, (size_t)uri->length, &parsed) < 0)
			ok = fail(error, "the certificate's SPIFFE ID is malformed");
		else if (X509_check_ca(leaf) > 0)
			ok = fail(error, "a certificate authority presented itself as a peer");
		else if (!(*ret_id = strndup((const char *)uri->data, (size_t)uri->length)))
			ok = fail(error, "out of memory");
	}
	GENERAL_NAMES_free(names);
	return ok;
}

/* RFC 5280, section 4.1.2.2: 20 bytes at most. */
static void read_serial(X509 *leaf, struct tls_peer *p)
{
	const ASN1_INTEGER *serial = X509_get0_serialNumber(leaf);
	int n = ASN1_STRING_length(serial);

	if (n < 0 || (size_t)n > sizeof(p->serial))
		return;
	memcpy(p->serial, ASN1_STRING_get0_data(serial), (size_t)n);
	p->n_serial = (uint8_t)n;
}

int tls_peer_new(X509 *leaf, STACK_OF(X509) *chain, struct tls_peer **ret_peer, char error[static TLS_PEER_ERROR_LEN])
{
	CLEANUP_FREE char *id = NULL;
	unsigned n = 0;

	if (!read_id(leaf, &id, error))
		return TLS_PEER_E_BAD;

	size_t n_id = id ? strlen(id) + 1 : 0;
	struct tls_peer *p = calloc(1, sizeof(*p) + n_id);
	if (!p)
		return -ENOMEM;
	p->n_refs = 1;
	if (id)
		p->id = memcpy(p + 1, id, n_id);
	read_serial(leaf, p);
	p->not_before = time_of(X509_get0_notBefore(leaf));
	p->not_after = time_of(X509_get0_notAfter(leaf));
	for (int i = 0; i < sk_X509_num(chain); i++) {
		X509 *x = sk_X509_value(chain, i);

		p->not_before = MAX(p->not_before, time_of(X509_get0_notBefore(x)));
		p->not_after = MIN(p->not_after, time_of(X509_get0_notAfter(x)));
	}
	if (X509_digest(leaf, EVP_sha256(), p->fingerprint, &n) != 1) {
		free(p);
		return -ENOMEM;
	}
	*ret_peer = p;
	return 0;
}

/* --- the cache --- */

void tls_peer_cache_init(struct tls_peer_cache *c)
{
	pthread_mutex_init(&c->lock, NULL);
	map_init(&c->by_fingerprint);
	list_init(&c->by_age);
}

static void forget(struct tls_peer_cache *c, struct cached *e)
{
	map_remove(&c->by_fingerprint, &e->link);
	list_unlink(&e->by_age);
	tls_peer_unref(e->peer);
	free(e);
}

void tls_peer_cache_deinit(struct tls_peer_cache *c)
{
	list_for_each_safe(l, &c->by_age)
		forget(c, list_entry(l, struct cached, by_age));
	map_deinit(&c->by_fingerprint);
	pthread_mutex_destroy(&c->lock);
}

/* A reference, or NULL. */
static struct tls_peer *recall(struct tls_peer_cache *c, const uint8_t fingerprint[static 32])
{
	int64_t now = clock_wall_s();
	struct tls_peer *p = NULL;

	pthread_mutex_lock(&c->lock);
	struct map_link *l = map_find(&c->by_fingerprint, fingerprint, 32);
	if (l) {
		struct cached *e = container_of(l, struct cached, link);

		if (now >= e->peer->not_before && now <= e->peer->not_after)
			p = tls_peer_ref(e->peer);
		else
			forget(c, e);
	}
	pthread_mutex_unlock(&c->lock);
	return p;
}

/* Out of memory only means that it is verified again. */
static void remember(struct tls_peer_cache *c, struct tls_peer *p)
{
	struct cached *e = calloc(1, sizeof(*e));

	if (!e)
		return;
	list_init(&e->by_age);
	pthread_mutex_lock(&c->lock);
	if (c->by_fingerprint.n >= CACHE_MAX)
		forget(c, list_entry(c->by_age.next, struct cached, by_age));
	if (map_add(&c->by_fingerprint, &e->link, p->fingerprint, sizeof(p->fingerprint)) == 0) {
		e->peer = tls_peer_ref(p);
		list_append(&c->by_age, &e->by_age);
		e = NULL;
	}
	pthread_mutex_unlock(&c->lock);
	free(e);
}

/* --- verification --- */

static const char *name_of(X509 *leaf, char *text, size_t size)
{
	char ignored[TLS_PEER_ERROR_LEN], *id = NULL;

	if (leaf && read_id(leaf, &id, ignored) && id)
		snprintf(text, size, "%s", id);
	else if (leaf)
		X509_NAME_oneline(X509_get_subject_name(leaf), text, (int)size);
	else
		snprintf(text, size, "the peer");
	free(id);
	return text;
}

static void say_why(X509_STORE_CTX *store, char error[static TLS_PEER_ERROR_LEN])
{
	int code = X509_STORE_CTX_get_error(store);
	char name[160];

	name_of(X509_STORE_CTX_get0_cert(store), name, sizeof(name));
	switch (code) {
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_CERT_SIGNATURE_FAILURE:		/* a root of the same name and another key */
		X509_STORE_CTX_set_error(store, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
		snprintf(error, TLS_PEER_ERROR_LEN, "unknown CA: the certificate of %s is not signed by our roots", name);
		break;
	case X509_V_ERR_CERT_HAS_EXPIRED:
		snprintf(error, TLS_PEER_ERROR_LEN, "certificate expired: %s", name);
		break;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		snprintf(error, TLS_PEER_ERROR_LEN, "certificate not valid yet: %s (or our clock is behind)", name);
		break;
	default:
		snprintf(error, TLS_PEER_ERROR_LEN, "certificate of %s: %s", name, X509_verify_cert_error_string(code));
		break;
	}
}

int tls_peer_verify(struct tls_peer_cache *c, X509_STORE_CTX *store, struct tls_peer **ret_peer,
		    char error[static TLS_PEER_ERROR_LEN])
{
	X509 *leaf = X509_STORE_CTX_get0_cert(store);
	uint8_t fingerprint[EVP_MAX_MD_SIZE];
	unsigned n;
	int r;

	if (!leaf || X509_digest(leaf, EVP_sha256(), fingerprint, &n) != 1)
		return -ENOMEM;
	*ret_peer = recall(c, fingerprint);
	if (*ret_peer) {
		X509_STORE_CTX_set_error(store, X509_V_OK);
		return 0;
	}
	if (X509_verify_cert(store) != 1) {
		say_why(store, error);
		return TLS_PEER_E_BAD;
	}
	r = tls_peer_new(leaf, X509_STORE_CTX_get0_chain(store), ret_peer, error);
	if (r == TLS_PEER_E_BAD)
		X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
	if (r != 0)
		return r;
	remember(c, *ret_peer);
	return 0;
}

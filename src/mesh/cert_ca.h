#pragma once
#include "mesh/cert.h"
#include "mesh/revocation.h"

/*
 * A certificate authority: a self-signed root, or an intermediate under one,
 * that signs SPIFFE leaves. The only place where a signing key lives.
 */
struct cert_ca;

/* A fresh root for @trust_domain, valid for @days. -EINVAL, -ENOMEM, -EIO. */
MUST_CHECK int cert_ca_new_root(const char *trust_domain, unsigned days, struct cert_ca **ret_ca);
/* An intermediate under @parent, with a key of its own; never outlives the parent. */
MUST_CHECK int cert_ca_new_intermediate(struct cert_ca *parent, unsigned days, struct cert_ca **ret_ca);

/*
 * From PEM: the CA's own certificate and key, the certificates between it and
 * the root (NULL or "": none), the roots (NULL: it is a root itself). -EINVAL
 * with the reason: key does not fit, not a CA, expired, chain broken.
 */
MUST_CHECK int cert_ca_from_pem(const char *cert_pem, const char *key_pem, const char *chain_pem, const char *roots_pem,
				struct cert_ca **ret_ca, struct diag *reterr_diag);
struct cert_ca *cert_ca_free(struct cert_ca *ca);

/*
 * Files in @dir, in Istio's form (plugged-in CA): ca-cert.pem, ca-key.pem
 * (0600), cert-chain.pem, root-cert.pem. Stored as new files that are renamed
 * when all are on disk. Load: -ENOENT when none is there; -EINVAL with the
 * reason when they are not a CA, or a key that others may read.
 */
MUST_CHECK int cert_ca_store(struct cert_ca *ca, const char *dir, struct diag *reterr_diag);
MUST_CHECK int cert_ca_load(const char *dir, struct cert_ca **ret_ca, struct diag *reterr_diag);

const char *cert_ca_trust_domain(const struct cert_ca *ca);	/* of its certificate's URI name; "" without */
const char *cert_ca_roots_pem(const struct cert_ca *ca);	/* what peers trust */
const char *cert_ca_cert_pem(const struct cert_ca *ca);		/* its own certificate */
MUST_CHECK int cert_ca_key_pem(const struct cert_ca *ca, char **ret_pem);	/* for its files; secret_free() it */
const char *cert_ca_chain_pem(const struct cert_ca *ca);	/* the CA and what is between it and the root; "" for a root */
int64_t cert_ca_not_after(const struct cert_ca *ca);

enum {
	CERT_BACKDATE_S = 10,		/* peers' clocks may be behind. Not more: ztunnel renews at not_before + half the life. */
};

struct cert_leaf {			/* what to sign */
	EVP_PKEY *key;			/* public key of the owner */
	const char *id;			/* SPIFFE ID, or NULL for a server that is known by @dns and @ips alone */
	const char *const *names;	/* DNS names and IP addresses besides, NULL ends it; NULL: none */
	int64_t ttl_s;			/* cut down to what is left of the CA's own life */
	const struct revocation_origin *origin;	/* of the NIC that it is issued through, or NULL */
};

/*
 * Signs a leaf for servers and clients: digitalSignature, EKU server and
 * client, serial by @origin (revocation.h), subject empty (SAN critical) unless there
 * are only names. @ret_chain gets leaf, intermediates, roots as elements, the
 * form of IstioCertificateResponse. -EINVAL, -EKEYEXPIRED (the CA's own life is
 * over), -ENOMEM, -EIO.
 */
MUST_CHECK int cert_ca_sign(struct cert_ca *ca, const struct cert_leaf *leaf, struct cert_list *ret_chain);

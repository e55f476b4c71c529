#pragma once
#include <openssl/x509.h>
#include <pthread.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/list.h"
#include "base/map.h"

/*
 * What is kept of a peer's certificate, and the memory of which certificates
 * have been verified: building a chain costs a fifth of a handshake, and the
 * same few peers come again and again.
 */
struct tls_peer {			/* immutable but for the references */
	unsigned n_refs;		/* atomic */
	uint8_t fingerprint[32];	/* SHA-256 of the leaf's DER */
	uint8_t serial[20];		/* without leading zeros; a longer one counts as none */
	uint8_t n_serial;
	int64_t not_before;		/* of the whole chain, seconds since 1970 */
	int64_t not_after;
	const char *id;			/* SPIFFE ID, or NULL; points behind the struct */
};

struct tls_peer *tls_peer_unref(struct tls_peer *p);

enum {
	_TLS_PEER_E_SUCCESS,
	TLS_PEER_E_BAD,		/* no X509-SVID: @error says why */
};

enum { TLS_PEER_ERROR_LEN = 256 };

/*
 * Reads a leaf. @chain (may be NULL) narrows the validity. TLS_PEER_E_BAD for
 * more than one URI, for a SPIFFE ID in a CA certificate or one that is not
 * well-formed (X509-SVID sections 2 and 4.1); -ENOMEM.
 */
MUST_CHECK int tls_peer_new(X509 *leaf, STACK_OF(X509) *chain, struct tls_peer **ret_peer, char error[static TLS_PEER_ERROR_LEN]);

struct tls_peer_cache {			/* shared by threads */
	pthread_mutex_t lock;		/* held in handshakes only */
	struct map by_fingerprint;
	struct list by_age;
};

void tls_peer_cache_init(struct tls_peer_cache *c);
void tls_peer_cache_deinit(struct tls_peer_cache *c);

/*
 * Verifies the certificate that @store is about, from the cache if it has been
 * seen and its chain is still valid. The result holds a reference. @store's
 * error is set, for the alert. TLS_PEER_E_BAD with the reason in @error, -ENOMEM.
 */
MUST_CHECK int tls_peer_verify(struct tls_peer_cache *c, X509_STORE_CTX *store, struct tls_peer **ret_peer,
			       char error[static TLS_PEER_ERROR_LEN]);

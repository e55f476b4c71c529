#pragma once
#include <openssl/ssl.h>
#include "mesh/tls.h"
#include "mesh/tls_peer.h"

/*
 * What the files of mesh/tls share among each other, and nobody else.
 */
enum { TLS_MAX_ALPN = 8 };

struct tls_ctx {			/* nothing changes after tls_ctx_new() but @n_refs and the cache */
	SSL_CTX *ssl;
	enum tls_role role;
	char *alpn[TLS_MAX_ALPN];
	size_t n_alpn;
	uint8_t alpn_wire[256];		/* RFC 7301: length, name, length, name, ... */
	unsigned n_alpn_wire;
	struct tls_peer *own;		/* of the own certificate; NULL without one */
	struct tls_peer_cache peers;
	unsigned n_refs;		/* atomic */
};

/* Is it the peer that was expected? Else @error says who came instead. */
bool tls_expect_met(const struct tls_expect *e, const struct tls_peer *p, X509 *leaf, char error[static TLS_PEER_ERROR_LEN]);

/* Called by libssl during a handshake; in tls.c. */
void tls_on_secret(const SSL *ssl, const char *line);
int tls_on_verify(X509_STORE_CTX *store, void *ctx);

#pragma once
#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include "base/defs.h"
#include "base/diag.h"

/*
 * TLS behind about a dozen calls, without sockets: bytes in, bytes out.
 *
 * libssl makes the handshake and verifies certificates. After a TLS 1.3
 * handshake the record layer is ours (proto/tls13_record.h): the traffic
 * secrets are taken over and the SSL object, which is what costs memory, is
 * freed. A TLS 1.2 peer or an unknown cipher suite stays on libssl whole; the
 * caller does not notice.
 *
 *	struct tls_ctx		one per own certificate and role; immutable,
 *				shared by threads through references
 *	struct tls_session	one per connection; belongs to one thread
 *
 * A connection reads from its socket, hands the bytes to tls_feed(), and sends
 * what tls_take() or tls_seal() give it. Whatever came back from tls_feed(),
 * errors included: when tls_pending() says so there are bytes (handshake,
 * alert, KeyUpdate) for the peer, and they should be sent before the socket is
 * closed. For a socket on a loop, tls_conn.h does all this.
 *
 * Identities are SPIFFE IDs (X.509-SVID): the one URI of a certificate's
 * subjectAltName, "spiffe://<trust domain>/<path>". A certificate with more
 * than one URI is refused; one without has the identity NULL.
 */
enum {
	_TLS_E_SUCCESS,

	TLS_E_CLOSED,	/* the peer ended the stream in order (close_notify): no more plaintext will come */
	TLS_E_REFUSED,	/* the peer refused us: it sent a fatal alert */
	TLS_E_VERIFY,	/* we refuse the peer: certificate, identity or name */
	TLS_E_PROTOCOL,	/* the peer broke the protocol, or there is nothing in common */
};

enum {
	TLS_PLAINTEXT_MAX = 16384 + 240,	/* of one record with its padding; the least room that tls_feed() needs */
	TLS_SEAL_PARTS = 62,		/* most parts of one tls_seal() */
	TLS_ID_MAX = 2048,		/* SPIFFE ID, bytes (SPIFFE-ID section 2.3) */
	TLS_ERROR_LEN = 320,
};

enum tls_role { TLS_CLIENT, TLS_SERVER };

enum tls_verify {
	TLS_VERIFY_REQUIRE,	/* the peer must present a certificate that our roots vouch for */
	TLS_VERIFY_REQUEST,	/* server: a client may come without a certificate, but not with a bad one */
	TLS_VERIFY_NONE,	/* server: no client certificate is asked for. Not allowed in a client. */
	TLS_VERIFY_NOTHING,	/* client: whoever answers is spoken to. For probes, which tell nobody anything and believe no word. */
};

struct tls_config {			/* borrowed for the call */
	enum tls_role role;
	enum tls_verify verify;
	const char *cert_pem;		/* own chain, leaf first; NULL: none (clients only) */
	const char *key_pem;		/* key of the leaf, or @key; a reference of @key is taken */
	EVP_PKEY *key;
	const char *roots_pem;		/* trust roots, any number; NULL only with TLS_VERIFY_NONE and _NOTHING */
	const char *const *alpn;	/* by preference, NULL ends it; NULL: no ALPN. A server refuses a client that offers
					 * others only, and accepts one that offers none. */
	bool allow_tls12;		/* else TLS 1.3 only */
};

struct tls_ctx;
struct tls_session;

/*
 * -EINVAL with the reason in @reterr_diag (bad PEM, key does not fit, ...),
 * -ENOMEM. Certificates are not checked against the clock here. Thread-safe;
 * a context starts with one reference.
 */
MUST_CHECK int tls_ctx_new(const struct tls_config *config, struct tls_ctx **ret_ctx, struct diag *reterr_diag);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx);
struct tls_ctx *tls_ctx_unref(struct tls_ctx *ctx);
/* The own SPIFFE ID, or NULL. Validity of the own leaf, seconds since 1970; 0 without a certificate. */
const char *tls_ctx_id(const struct tls_ctx *ctx);
int64_t tls_ctx_not_before(const struct tls_ctx *ctx);
int64_t tls_ctx_not_after(const struct tls_ctx *ctx);

/*
 * Whom we expect, beyond "signed by our roots". Everything in it is borrowed
 * until the handshake is over. With several conditions all must hold.
 */
struct tls_expect {
	const char *server_name;	/* DNS name or IP address that the certificate must be for. A client sends a DNS
					 * name as SNI. NULL: not checked, no SNI (HBONE). */
	const char *const *ids;		/* the identity must be one of these; @n_ids 0: not checked */
	size_t n_ids;
	const char *trust_domain;	/* the identity must be in it; NULL: not checked */
};

/*
 * @expect may be NULL. Takes a reference of @ctx while it needs it. A client's
 * ClientHello is pending at once. -ENOMEM.
 */
MUST_CHECK int tls_session_new(struct tls_ctx *ctx, const struct tls_expect *expect, struct tls_session **ret_session);
struct tls_session *tls_session_free(struct tls_session *s);	/* wipes the keys */

struct tls_in {			/* one tls_feed() */
	const uint8_t *data;	/* from the peer; @data and @len are advanced over what was used */
	size_t len;
	uint8_t *out;		/* plaintext goes here: @out_size >= TLS_PLAINTEXT_MAX */
	size_t out_size;
	size_t out_len;		/* written by the call */
};

/*
 * Bytes from the peer: handshake, then plaintext. A part of a record at the
 * end is kept inside (so @len is 0 afterwards, unless @out has too little room
 * for another record: take the plaintext and call again). @in is valid after
 * errors too: plaintext before them counts. 0, TLS_E_*, -ENOMEM.
 */
MUST_CHECK int tls_feed(struct tls_session *s, struct tls_in *in);

/* Bytes for the peer that are not application data. */
size_t tls_pending(const struct tls_session *s);
/* Moves at most @size of them to @out, returns how many. */
size_t tls_take(struct tls_session *s, uint8_t *out, size_t size);

/* At most so many bytes come of tls_seal() for @len bytes of plaintext, pending ones included. */
size_t tls_seal_size(const struct tls_session *s, size_t len);

/*
 * Encrypts the plaintext in @iov into @out, as few records as possible, behind
 * what is pending. Only once tls_is_open(). @size >= tls_seal_size(), @n_iov <=
 * TLS_SEAL_PARTS. @out must not overlap the plaintext. 0, -ENOMEM, -EPIPE after
 * tls_shutdown() or an error, -ENOBUFS, -EINVAL.
 */
MUST_CHECK int tls_seal(struct tls_session *s, const struct iovec *iov, size_t n_iov, uint8_t *out, size_t size, size_t *ret_len);

/* Ends our direction: close_notify becomes pending. Plaintext may still come in. */
MUST_CHECK int tls_shutdown(struct tls_session *s);

/* Much hangs on this connection, which is open: its buffer for records that come in parts stays until tls_rest(), so that they do not fail for want of one. */
void tls_hold(struct tls_session *s);
/* The connection is idle: drops what can be made again (expanded keys, 2 kB; that buffer). Of the keys it wakes without memory. True: that buffer has gone. */
bool tls_rest(struct tls_session *s);
/* Before bytes are read for one that holds: has that buffer again. -ENOMEM: what is read might be lost, so it had better wait where it is. */
MUST_CHECK int tls_wake(struct tls_session *s);

/* What the peer's records have cost beside their bytes: one each, a KeyUpdate TLS13_UPDATE_WORK. Wraps. */
uint32_t tls_work(const struct tls_session *s);
bool tls_is_open(const struct tls_session *s);		/* the handshake is over, tls_seal() may be called */
const char *tls_alpn(const struct tls_session *s);	/* the protocol agreed on, or NULL */
const char *tls_peer_id(const struct tls_session *s);	/* SPIFFE ID, or NULL (no certificate, or one without) */
/* SHA-256 of the peer's leaf certificate (DER), 32 bytes, or NULL. */
const uint8_t *tls_peer_fingerprint(const struct tls_session *s);
/* The serial number of the peer's leaf, for revocations_has(). *ret_len is 0 without a certificate. */
const uint8_t *tls_peer_serial(const struct tls_session *s, size_t *ret_len);
int64_t tls_peer_not_after(const struct tls_session *s);	/* seconds since 1970; 0 without a certificate */
/* What went wrong, for people: "peer presented spiffe://a/b, expected one of spiffe://c/d". "" when nothing did. */
const char *tls_error(const struct tls_session *s);

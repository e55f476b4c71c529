#pragma once
#include <openssl/types.h>
#include "base/loop.h"
#include "mesh/channel.h"

/*
 * One identity's certificate: asked for with a key that is made here, checked,
 * renewed at half its life, for as long as the client lives.
 *
 * Speaks istio.v1.auth.IstioCertificateService/CreateCertificate, with a token
 * or with the channel's client certificate. A new key each time. While a
 * certificate is valid a failed renewal changes nothing; it is tried again with
 * growing, jittered delays.
 *
 * It renews with the certificate itself where it is told to: on a connection of
 * its own, since a connection has one identity. When that does not succeed, the
 * token speaks, each time.
 */
struct ca_client;

struct ca_client_options {		/* copied */
	struct channel *channel;	/* borrowed for its life */
	const char *id;			/* SPIFFE ID that the certificate must have */
	const char *token;		/* may be NULL, and come later */
	bool needs_token;		/* without one nothing is asked */
	const char *cluster_id;		/* metadata "clusterid", sent along with a token; may be NULL */
	const char *roots_pem;		/* the chain must lead to one of these */
	int64_t ttl_s;			/* wished for; 0: 24 h */
	bool renews_itself;		/* as long as a certificate is valid it asks for the next one; the channel has TLS */
};

struct ca_credential {			/* borrowed for the call */
	EVP_PKEY *key;			/* take a reference to keep it */
	const char *chain_pem;		/* leaf, then intermediates */
	const char *roots_pem;		/* as the authority told: for information, @roots_pem of the options is what is trusted */
	int64_t not_before;		/* seconds since 1970 */
	int64_t not_after;
	bool renewed_itself;		/* the last certificate has asked for it, and no token */
};

struct ca_client_ops {
	void (*issued)(struct ca_client *client, void *data, const struct ca_credential *credential);
	/*
	 * An attempt failed; it goes on trying. GRPC_UNAUTHENTICATED: the token
	 * (or certificate) was refused, another one would help; GRPC_DATA_LOSS:
	 * the answer was not what was asked for. May be NULL.
	 */
	void (*failed)(struct ca_client *client, void *data, const struct grpc_status *status);
	/* The certificate could not renew itself; the token is tried next. May be NULL. */
	void (*fell_back)(struct ca_client *client, void *data, const struct grpc_status *status);
};

MUST_CHECK int ca_client_new(struct loop *loop, const struct ca_client_options *options, const struct ca_client_ops *ops, void *data,
			     struct ca_client **ret_client);
struct ca_client *ca_client_free(struct ca_client *client);	/* allowed in every callback */

/*
 * Another token: an attempt that was refused for the old one is made again at
 * once. NULL: no token, from now on the channel's certificate speaks. -ENOMEM.
 */
MUST_CHECK int ca_client_set_token(struct ca_client *client, const char *token);
/* Other roots (rotation): for answers from now on. -ENOMEM. */
MUST_CHECK int ca_client_set_roots(struct ca_client *client, const char *roots_pem);
/* For requests from now on; 0: 24 h. */
void ca_client_set_ttl(struct ca_client *client, int64_t ttl_s);
void ca_client_set_renewal(struct ca_client *client, bool renews_itself);
int64_t ca_client_not_after(const struct ca_client *client);	/* of the last one; 0: none yet */

#pragma once
#include "base/list.h"
#include "base/loop.h"
#include "mesh/grpc_client.h"

/*
 * A gRPC connection that is kept up: connected anew after a jittered delay,
 * and replaced when the server says GOAWAY. Streams of several identities
 * (one a VM) share it.
 *
 * Users keep their calls themselves: a call that ends because the connection
 * did says so by its closed(); up() tells when to start anew.
 */
struct channel;

struct channel_user {
	struct list link;
	/* There is a connection, or another one. Also called (on a turn of its own) after channel_attach() while there is one. */
	void (*up)(struct channel_user *user, struct grpc_client *client);
	/* An attempt or the connection failed. May be NULL. */
	void (*down)(struct channel_user *user, int r, const char *text);
	struct defer greet;	/* the channel's */
	struct channel *channel;
};

struct channel_options {		/* copied */
	const char *target;		/* "host:port" */
	struct tls_ctx *tls;		/* a reference is taken; NULL: plaintext */
	const char *const *server_names;	/* the server's certificate must be for one of these; NULL ends it.
						 * NULL or empty: for the host of @target. */
	uint32_t connect_timeout_ms;	/* 0: 5000 */
	uint32_t backoff_min_ms;	/* 0: 100 */
	uint32_t backoff_max_ms;	/* 0: 10000 */
};

/* Starts connecting. -EINVAL, -ENOMEM. */
MUST_CHECK int channel_new(struct loop *loop, const struct channel_options *options, struct channel **ret_channel);
/* Another one to where @from goes, as somebody else: with @tls in place of its own. -EINVAL, -ENOMEM. */
MUST_CHECK int channel_like(struct loop *loop, const struct channel *from, struct tls_ctx *tls, struct channel **ret_channel);
/* Detaches all users; their calls end with GRPC_UNAVAILABLE. Allowed in every callback. NULL is allowed. */
struct channel *channel_free(struct channel *channel);

/* Other target, roots or own certificate. The connection is replaced in order: calls on the old one run on until @grace_ms later. */
MUST_CHECK int channel_change(struct channel *channel, const struct channel_options *options, uint32_t grace_ms);

/* @user starts zeroed but for its functions. */
void channel_attach(struct channel *channel, struct channel_user *user);
void channel_detach(struct channel_user *user);		/* harmless when it is attached nowhere */

struct grpc_client *channel_client(const struct channel *channel);	/* takes calls now; NULL: not connected */
const char *channel_error(const struct channel *channel);		/* the last one; "" while connected */

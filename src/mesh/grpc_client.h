#pragma once
#include "base/loop.h"
#include "mesh/grpc.h"

/*
 * One gRPC connection to a server, with any number of calls on it.
 *
 * It connects once. When it is gone it stays gone: whoever needs it back makes
 * another one, after a delay of its own (base/backoff.h).
 */
struct grpc_client;

struct grpc_client_ops {
	/* HTTP/2 is up. Calls can be made earlier too: they wait. May be NULL. */
	void (*opened)(struct grpc_client *client, void *data);
	/*
	 * The server asked us to leave (GOAWAY). Calls that it knows go on, new
	 * ones are refused with -ECONNRESET: open another connection. May be NULL.
	 */
	void (*going_away)(struct grpc_client *client, void *data);
	/*
	 * The end, after closed() of every call. @r: 0 in order, TLS_E_*,
	 * negative errno (-ETIMEDOUT: connecting or a keep-alive took too
	 * long, -EPROTO: not HTTP/2). @text says it in words. The owner still
	 * has to call grpc_client_free().
	 */
	void (*closed)(struct grpc_client *client, void *data, int r, const char *text);
};

struct grpc_client_options {		/* borrowed for the call; zeros are the defaults */
	const int *socket;		/* plaintext on a socket whose connect() to @target is under way, which becomes the client's, also
					 * when grpc_client_new() fails; NULL: it connects itself */
	const char *target;		/* "10.0.0.1:15012", "[::1]:15012", "controller.example:15012" (resolved on a thread of its own) */
	struct tls_ctx *tls;		/* a reference is taken; NULL: plaintext */
	const struct tls_expect *expect;	/* copied. Without a server_name the host of @target is expected and named. */
	bool any_server_name;		/* no such default: @expect says all there is to check */
	const char *authority;		/* ":authority"; NULL: @target */
	const char *user_agent;		/* NULL: "outrigger/<version>" */
	uint32_t connect_timeout_ms;	/* resolve, connect and handshake together; 10000 */
	uint32_t keepalive_ms;		/* PING after so long a silence while calls are open; 30000 */
	uint32_t keepalive_timeout_ms;	/* 20000 */
	size_t max_message;		/* bytes, both ways; 16 MiB */
	size_t max_queued;		/* bytes a call may queue; 4 MiB */
	uint32_t window;		/* bytes a call's server may send ahead; 1 MiB */
};

/*
 * -EINVAL for a target that is none, -ENOMEM, errors of epoll. What fails
 * later comes to closed(), never during this call.
 */
MUST_CHECK int grpc_client_new(struct loop *loop, const struct grpc_client_options *options, const struct grpc_client_ops *ops,
			       void *data, struct grpc_client **ret_client);

/* Cancels all calls and closes at once. Allowed in every callback. NULL is allowed. */
struct grpc_client *grpc_client_free(struct grpc_client *client);

/* Ends it as if the connection were lost: closed() of every call (GRPC_UNAVAILABLE), then closed() of the client with -ESHUTDOWN. */
void grpc_client_shut(struct grpc_client *client, const char *text);

bool grpc_client_usable(const struct grpc_client *client);	/* takes calls: not closed, not going away */
size_t grpc_client_n_calls(const struct grpc_client *client);

struct grpc_call_options {		/* borrowed for the call */
	const char *path;		/* "/package.Service/Method" */
	const struct grpc_metadata *metadata;
	size_t n_metadata;
	uint32_t deadline_ms;		/* 0: none */
};

/* A streaming call. -ECONNRESET when the connection takes no calls any more, -EINVAL for metadata that HTTP/2 cannot carry, -ENOMEM. */
MUST_CHECK int grpc_client_stream(struct grpc_client *client, const struct grpc_call_options *options, const struct grpc_call_ops *ops,
				  void *data, struct grpc_call **ret_call);

/* The result of a unary call; @bytes is NULL unless the status is GRPC_OK. The call is gone when it returns. */
typedef void grpc_unary_fn(struct grpc_call *call, void *data, const struct grpc_status *status, const uint8_t *bytes, size_t len);

/* As grpc_client_stream(), with one message each way. */
MUST_CHECK int grpc_client_unary(struct grpc_client *client, const struct grpc_call_options *options, const ProtobufCMessage *request,
				 grpc_unary_fn *done, void *data, struct grpc_call **ret_call);

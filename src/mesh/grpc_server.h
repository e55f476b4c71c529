#pragma once
#include "base/loop.h"
#include "mesh/grpc.h"

/*
 * A gRPC server on a loop: listener, connections, a table of methods.
 */
struct grpc_server;

/* A row a method. One of @unary and @open is set. */
struct grpc_method {
	const char *path;	/* "/package.Service/Method" */
	/*
	 * The request is there, exactly one message. Answer now or later with
	 * grpc_call_reply_pb() or grpc_call_finish(); to answer later set ops
	 * whose closed() says that the client has left.
	 */
	void (*unary)(struct grpc_call *call, void *server_data, const uint8_t *bytes, size_t len);
	/* A stream begins: grpc_call_set_ops(), or grpc_call_finish() to refuse it. Its "authorization" is hidden when this returns. */
	void (*open)(struct grpc_call *call, void *server_data);
};

struct grpc_server_options {		/* zeros are the defaults */
	struct tls_ctx *tls;		/* a reference is taken; NULL: plaintext */
	const char *trust_domain;	/* copied; a peer with a certificate must be of it; NULL: not checked */
	const struct grpc_method *methods;	/* borrowed for the server's life */
	size_t n_methods;
	void *data;			/* of the methods */
	size_t max_connections;		/* 4096; for one more the oldest goes that has not shown who it is, else that one */
	uint32_t max_streams;		/* calls at a time on one connection; 1000 */
	size_t max_header_list;		/* bytes of a request's metadata; 16 KiB */
	size_t max_message;		/* bytes, both ways; 4 MiB */
	size_t max_queued;		/* bytes a call may queue; 4 MiB */
	uint32_t window;		/* bytes a client may send ahead on a call; 256 KiB */
	uint32_t handshake_timeout_ms;	/* 10000 */
	uint32_t keepalive_ms;		/* PING a client that was silent for so long; 60000 */
	uint32_t keepalive_timeout_ms;	/* 20000: then it is gone */
};

/* -EINVAL, -ENOMEM. Listens nowhere yet. */
MUST_CHECK int grpc_server_new(struct loop *loop, const struct grpc_server_options *options, struct grpc_server **ret_server);

/* Cancels all calls (their closed() is not called), closes everything. NULL is allowed. */
struct grpc_server *grpc_server_free(struct grpc_server *server);

/* A TCP listener; any number of them. Errors of socket, bind, listen (-EADDRINUSE), told in words by @reterr_diag. */
MUST_CHECK int grpc_server_listen(struct grpc_server *server, const struct ip_port *addr, struct ip_port *ret_bound,
				  struct diag *reterr_diag);

/* Another certificate, for connections from now on. */
void grpc_server_set_tls(struct grpc_server *server, struct tls_ctx *tls);

/*
 * Stops listening and says GOAWAY: calls that run may finish, each connection
 * is closed behind its last call. grpc_server_free() ends the wait.
 */
void grpc_server_drain(struct grpc_server *server);

size_t grpc_server_n_connections(const struct grpc_server *server);
/* Closes every connection whose peer has this SPIFFE ID: after a revocation. Returns how many. */
size_t grpc_server_kick(struct grpc_server *server, const char *peer_id);

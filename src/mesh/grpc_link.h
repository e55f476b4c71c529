#pragma once
#include "mesh/plain_conn.h"
#include "mesh/tls_conn.h"

/*
 * What an HTTP/2 session of gRPC stands on: TLS, or a plain socket. Private to
 * grpc_*.c.
 */
struct grpc_link;

struct grpc_link_ops {
	void (*opened)(void *data);
	void (*received)(void *data, const uint8_t *bytes, size_t len);
	void (*drained)(void *data);
	void (*closed)(void *data, int r, const char *text);
};

/* @tls NULL: plaintext. The callbacks never come during these calls. */
MUST_CHECK int grpc_link_dial(struct loop *loop, const struct ip_port *addr, struct tls_ctx *tls, const struct tls_expect *expect,
			      uint32_t open_timeout_ms, const struct grpc_link_ops *ops, void *data, struct grpc_link **ret_link);
/* Plaintext on a socket whose connect() is under way; it becomes the link's, also when this fails. */
MUST_CHECK int grpc_link_connecting(struct loop *loop, int fd, uint32_t open_timeout_ms, const struct grpc_link_ops *ops, void *data,
				    struct grpc_link **ret_link);
/* @fd becomes the link's, also when this fails. */
MUST_CHECK int grpc_link_accept(struct loop *loop, int fd, struct tls_ctx *tls, const struct tls_expect *expect, uint32_t open_timeout_ms,
				const struct grpc_link_ops *ops, void *data, struct grpc_link **ret_link);
struct grpc_link *grpc_link_free(struct grpc_link *l);	/* allowed in every callback */

MUST_CHECK int grpc_link_write(struct grpc_link *l, const void *bytes, size_t len);
void grpc_link_shutdown(struct grpc_link *l);
size_t grpc_link_queued(const struct grpc_link *l);
const struct tls_session *grpc_link_session(const struct grpc_link *l);	/* NULL on plaintext */
struct ip_port grpc_link_peer(const struct grpc_link *l);

#pragma once
#include "base/ip.h"
#include "base/loop.h"

/*
 * A TCP or unix socket on a loop, without TLS: the same shape as tls_conn.h,
 * for gRPC in the clear (loopback, tests, a mesh whose wire is trusted).
 */
struct plain_conn;

struct plain_conn_ops {
	void (*opened)(struct plain_conn *c, void *data);
	void (*received)(struct plain_conn *c, void *data, const uint8_t *bytes, size_t len);
	void (*drained)(struct plain_conn *c, void *data);	/* all that was written has gone to the kernel */
	/* 0: the peer closed in order; negative errno. The owner still has to call plain_conn_free(). */
	void (*closed)(struct plain_conn *c, void *data, int r, const char *text);
};

enum { PLAIN_CONN_MAX_QUEUED = 4 << 20 };

/*
 * On a connected (or, when @connecting, still connecting) non-blocking socket,
 * which becomes the connection's, also when this fails. Callbacks start on the
 * next turn; plain_conn_free() may be called from any of them.
 */
MUST_CHECK int plain_conn_new(struct loop *loop, int fd, bool connecting, uint32_t open_timeout_ms, const struct plain_conn_ops *ops,
			      void *data, struct plain_conn **ret_conn);
MUST_CHECK int plain_conn_dial(struct loop *loop, const struct ip_port *addr, uint32_t open_timeout_ms, const struct plain_conn_ops *ops,
			       void *data, struct plain_conn **ret_conn);
struct plain_conn *plain_conn_free(struct plain_conn *c);

/* -ENOBUFS when too much waits, -ENOMEM, -EPIPE once closed. */
MUST_CHECK int plain_conn_write(struct plain_conn *c, const void *bytes, size_t len);
/* Sends what waits, then FIN; closed() comes when the peer has closed too. */
void plain_conn_shutdown(struct plain_conn *c);
size_t plain_conn_queued(const struct plain_conn *c);
struct ip_port plain_conn_peer(const struct plain_conn *c);

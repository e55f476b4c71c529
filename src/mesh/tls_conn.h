#pragma once
#include "base/ip.h"
#include "base/loop.h"
#include "mesh/tls.h"

/*
 * A TLS session on a socket on a loop: what the control plane's connections
 * are made of (gRPC, REST). The data path has its own, leaner way.
 *
 * Callbacks run on the loop's thread. tls_conn_free() may be called from any
 * of them. After closed() nothing is called any more; the owner still has to
 * call tls_conn_free().
 */
struct tls_conn;

struct tls_conn_ops {
	/* The handshake is done: tls_conn_session() knows peer and ALPN. */
	void (*opened)(struct tls_conn *c, void *data);
	/* Plaintext. The bytes are valid for the call. */
	void (*received)(struct tls_conn *c, void *data, const uint8_t *bytes, size_t len);
	/* All that was written has gone to the kernel. May be NULL. */
	void (*drained)(struct tls_conn *c, void *data);
	/*
	 * The end. @r: 0 the peer closed in order; TLS_E_*; negative errno
	 * (-ETIMEDOUT: connecting or handshake took too long). @text says it in words.
	 */
	void (*closed)(struct tls_conn *c, void *data, int r, const char *text);
};

struct tls_conn_options {
	size_t max_queued;		/* bytes of plaintext and ciphertext that may wait to be sent; 0: 4 MiB */
	uint32_t open_timeout_ms;	/* connect and handshake together; 0: 10000 */
};

/*
 * On a connected stream socket, which becomes the connection's (also when this
 * fails). @ctx's role says which side we are. @options may be NULL. Errors:
 * -ENOMEM and those of epoll.
 */
MUST_CHECK int tls_conn_new(struct loop *loop, int fd, struct tls_ctx *ctx, const struct tls_expect *expect,
			    const struct tls_conn_options *options, const struct tls_conn_ops *ops, void *data,
			    struct tls_conn **ret_conn);

/* Connects to @addr first. What fails later comes to closed(). @expect is copied. */
MUST_CHECK int tls_conn_dial(struct loop *loop, const struct ip_port *addr, struct tls_ctx *ctx, const struct tls_expect *expect,
			     const struct tls_conn_options *options, const struct tls_conn_ops *ops, void *data,
			     struct tls_conn **ret_conn);

/* On a non-blocking socket whose connect() to @addr is under way; it becomes the connection's, also when this fails. */
MUST_CHECK int tls_conn_connecting(struct loop *loop, int fd, const struct ip_port *addr, struct tls_ctx *ctx, const struct tls_expect *expect,
				   const struct tls_conn_options *options, const struct tls_conn_ops *ops, void *data,
				   struct tls_conn **ret_conn);

/* Closes at once and frees. NULL is allowed. */
struct tls_conn *tls_conn_free(struct tls_conn *c);

/* Encrypts and sends or queues. Only after opened(). -ENOBUFS when too much waits, -ENOMEM, -EPIPE once closed. */
MUST_CHECK int tls_conn_write(struct tls_conn *c, const void *bytes, size_t len);
/* No more writes: sends what waits, close_notify and FIN. closed() comes when the peer has closed too. */
void tls_conn_shutdown(struct tls_conn *c);
size_t tls_conn_queued(const struct tls_conn *c);	/* bytes waiting to be sent */
/* Stops and resumes reading: back-pressure. */
void tls_conn_pause(struct tls_conn *c, bool paused);
const struct tls_session *tls_conn_session(const struct tls_conn *c);
bool tls_conn_connected(const struct tls_conn *c);	/* TCP is; the handshake may still be under way */
struct ip_port tls_conn_peer(const struct tls_conn *c);	/* address of the other end; none when unknown */

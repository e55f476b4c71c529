#pragma once
#include <sys/uio.h>
#include "base/bytes.h"
#include "base/loop.h"

/*
 * One TCP socket of a connection: what waits to be written to it, and how far
 * each direction has come. Memory is used only while the other side is slow.
 */
enum { SOCK_OUT_MAX = 2 * 1024 * 1024 };	/* bytes; the peer's window keeps it lower */

struct sock {
	struct loop *loop;
	struct watch watch;
	struct bytes *out;		/* waits to be written; NULL: nothing does */
	int fd;				/* owned; -1: none */
	bool connecting : 1;
	bool reading : 1;		/* EPOLLIN is wanted */
	bool eof : 1;			/* a FIN has been read */
	bool end_wanted : 1;		/* a FIN is to be sent behind @out */
	bool ended : 1;			/* it has been */
};

static inline size_t sock_waiting(const struct sock *s)	/* bytes in @out */
{
	return s->out ? s->out->len : 0;
}

void sock_init(struct sock *s);
/* Watches @fd, which becomes the sock's. */
MUST_CHECK int sock_add(struct sock *s, struct loop *l, int fd, bool connecting, watch_fn *fn);
/* @rst: the other end shall see a reset. Returns the bytes in @out that were dropped. */
size_t sock_close(struct sock *s, bool rst);

/*
 * Both directions have ended on the wire, but bytes are left to be read and
 * nobody reads just now. epoll would tell that again and again: it is not
 * asked until something is wanted.
 */
void sock_unwatch(struct sock *s);
/* From time to time: it is watched again, for which there was no memory before. */
void sock_tick(struct sock *s);
void sock_read(struct sock *s, bool on);

/* The outcome of a connect() that epoll says is over: 0 or a negative errno. */
MUST_CHECK int sock_connected(struct sock *s);

/*
 * Writes what fits, keeps the rest in @out. @ret_sent: the bytes that went out
 * at once. Negative: the socket is broken, or there is no memory (-ENOMEM); then
 * nothing more is kept.
 */
MUST_CHECK int sock_write(struct sock *s, const struct iovec *iov, size_t n_iov, size_t *ret_sent);
/* Writes of @out what fits. */
MUST_CHECK int sock_flush(struct sock *s, size_t *ret_sent);
/* A FIN, behind what waits. */
void sock_end(struct sock *s);

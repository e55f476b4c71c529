#pragma once
#include <stddef.h>
#include "base/defs.h"

/*
 * Messages with file descriptors over a SOCK_SEQPACKET socket: what our own
 * processes speak among each other.
 */
enum {
	FDMSG_MAX_LEN = 256 * 1024,	/* bytes of one message */
	FDMSG_MAX_FDS = 64,
};

/* A connected pair, non-blocking and close-on-exec, with room for a message of the maximum. */
MUST_CHECK int fdmsg_pair(int ret_fds[2]);

/* 0; -EAGAIN: the peer is slow, nothing was sent; -EPIPE and others: the peer is gone. @fds stay the caller's. */
MUST_CHECK int fdmsg_send(int sock, const void *data, size_t len, const int *fds, size_t n_fds);

/*
 * The length of the message, 0 at the end of the stream (and for a message of nothing, whose descriptors are closed), -EAGAIN, -EMSGSIZE for
 * one longer than @size (it is dropped). Descriptors received become the
 * caller's, close-on-exec; those over @max_fds are closed.
 */
MUST_CHECK ssize_t fdmsg_recv(int sock, void *data, size_t size, int *ret_fds, size_t max_fds, size_t *ret_n_fds);

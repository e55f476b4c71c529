#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/loop.h"
#include "outrigger/ipc.pb-c.h"

/*
 * The agent's end of its socket to one proxy process: messages of
 * proto/outrigger/ipc.proto, one a packet, with their descriptors.
 */
struct proxy_link;

enum {
	PROXY_LINK_MAX_QUEUED = 1024,	/* messages that wait for a slow proxy */
};

struct proxy_link_ops {
	/* @m is valid for the call; @fd is -1, or a descriptor that came with it: set to -1 by whoever takes it over. */
	void (*message)(struct proxy_link *l, const Outrigger__Ipc__ToAgent *m, int *fd, void *data);
	/* The proxy has closed its end, or broke the protocol: @why is for people. The owner frees the link, also in here. */
	void (*closed)(struct proxy_link *l, const char *why, void *data);
};

/* Takes @fd over, also when it fails. */
MUST_CHECK int proxy_link_new(struct loop *loop, int fd, const struct proxy_link_ops *ops, void *data, struct proxy_link **ret_link);
struct proxy_link *proxy_link_free(struct proxy_link *l);

/*
 * Sends now, or queues with duplicates of @fds, which stay the caller's.
 * -ENOBUFS: the proxy is too far behind; -EPIPE and others: it is gone; -ENOMEM.
 */
MUST_CHECK int proxy_link_send(struct proxy_link *l, const Outrigger__Ipc__ToProxy *m, const int *fds, size_t n_fds);

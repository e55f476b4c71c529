#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/defs.h"
#include "base/diag.h"
#include "base/loop.h"
#include "outrigger/ipc.pb-c.h"

/*
 * The proxy's end of its socket to the agent: messages of
 * proto/outrigger/ipc.proto, one a packet, with their descriptors.
 *
 * The agent may go away: the proxy goes on, listens on its resume socket, and
 * whoever connects there (root, this user, or the user of the first agent) and
 * says Hello in a version that we know is the agent from then on.
 */
struct agent_link;

enum {
	IPC_VERSION = 1,
	AGENT_LINK_MAX_FDS = 3,
	AGENT_LINK_QUEUE_MAX = 4 * 1024 * 1024,		/* bytes that wait for a slow agent; bulk gets half of it */
};

struct agent_link_ops {
	/* An agent is there and said Hello: tell it what it should know. */
	void (*connected)(void *data);
	/* @m is valid for the call; of @fds those that are taken over are set to -1. */
	void (*message)(void *data, const Outrigger__Ipc__ToProxy *m, int *fds, size_t n_fds);
	/* It is gone. @why is for people. */
	void (*gone)(void *data, const char *why);
	/* Ids for our Hello: a list of @ret_n strings, both borrowed until the next turn. */
	char **(*vm_ids)(void *data, size_t *ret_n);
};

/* @group is borrowed for the link's life. */
MUST_CHECK int agent_link_new(struct loop *loop, const char *group, const struct agent_link_ops *ops, void *data,
			      struct agent_link **ret_link);
struct agent_link *agent_link_free(struct agent_link *l);
/* No successor of the agent is to make us its proxy any more: it finds us as "....draining" instead of "....resume". */
void agent_link_retire(struct agent_link *l);

/* The socket that the agent gave us. Takes @fd over, also when it fails. Says Hello. */
MUST_CHECK int agent_link_open(struct agent_link *l, int fd);
/* Listens for a successor. A path that is being listened on already is no error. */
MUST_CHECK int agent_link_listen(struct agent_link *l, const char *path, struct diag *reterr_diag);

bool agent_link_connected(const struct agent_link *l);
bool agent_link_trusts(const struct agent_link *l, uid_t uid);	/* root, the agent, ourselves */
/* -ENOTCONN, -ENOBUFS: the agent is too far behind, -ENOMEM. @bulk gives way to what is not. */
MUST_CHECK int agent_link_send(struct agent_link *l, const Outrigger__Ipc__ToAgent *m, bool bulk);
/* The same with a descriptor, which stays the caller's. */
MUST_CHECK int agent_link_send_fd(struct agent_link *l, const Outrigger__Ipc__ToAgent *m, int fd);
/* "<device>:<inode>:<size>:<mtime>" of this program's file, for Hello: to be called before the process is confined. */
void agent_link_find_binary(void);

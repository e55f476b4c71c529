#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/defs.h"
#include "base/wire.h"

/*
 * ZooKeeper's client protocol: the records of zookeeper.jute, as sent on port
 * 2181 in frames of a 32-bit length. Decoders return slices of the frame.
 */
enum jute_op {
	JUTE_CREATE = 1, JUTE_DELETE = 2, JUTE_EXISTS = 3, JUTE_GET_DATA = 4, JUTE_SET_DATA = 5, JUTE_GET_CHILDREN = 8,
	JUTE_SYNC = 9, JUTE_PING = 11, JUTE_GET_CHILDREN2 = 12, JUTE_CHECK = 13, JUTE_MULTI = 14, JUTE_CREATE2 = 15,
	JUTE_CREATE_CONTAINER = 19, JUTE_CREATE_TTL = 21, JUTE_MULTI_READ = 22, JUTE_AUTH = 100, JUTE_SASL = 102,
	JUTE_CLOSE = -11, JUTE_ERROR = -1,
};

enum { JUTE_XID_EVENT = -1, JUTE_XID_PING = -2, JUTE_XID_AUTH = -4, JUTE_XID_SET_WATCHES = -8 };
enum { JUTE_OK = 0, JUTE_NO_NODE = -101, JUTE_NO_AUTH = -102, JUTE_NODE_EXISTS = -110 };
enum { JUTE_EVENT_CREATED = 1, JUTE_EVENT_DELETED = 2, JUTE_EVENT_CHANGED = 3, JUTE_EVENT_CHILDREN = 4 };

struct jute_str {		/* not zero-terminated; p is NULL for the null string or buffer */
	const char *p;
	size_t len;
};

struct jute_connect {		/* request and response */
	uint32_t timeout_ms;	/* response: 0 when the session has expired */
	uint64_t session;
};

struct jute_request {
	int32_t xid;		/* not in an operation of a multi */
	int32_t op;
	struct jute_str path;
	struct jute_str data;	/* create, setData */
	int32_t flags;		/* create */
	uint64_t ttl_ms;	/* createTTL */
	bool watch;		/* reads */
	struct wire ops;	/* multi: for jute_multi_request_next() */
};

struct jute_reply {
	int32_t xid;
	int32_t err;
	struct wire body;	/* what follows the header */
};

struct jute_stat {
	uint64_t ephemeral_owner;
	int32_t version;
};

/* A frame's contents, without its length. False when it is not that record. */
bool jute_connect_request(const void *frame, size_t len, struct jute_connect *ret_c);
bool jute_connect_response(const void *frame, size_t len, struct jute_connect *ret_c);
/* Operations that it does not know have xid and op only. */
bool jute_request_decode(const void *frame, size_t len, struct jute_request *ret_r);
bool jute_reply_decode(const void *frame, size_t len, struct jute_reply *ret_r);

/* The next operation of a multi; false at the end, and when it is broken (then @ops is bad). */
bool jute_multi_request_next(struct wire *ops, struct jute_request *ret_op);
/* The next result of a multi's reply: its op (JUTE_ERROR: it failed), and the path that creates say. */
bool jute_multi_reply_next(struct wire *results, int32_t *ret_op, struct jute_str *ret_path);

/* Pieces of reply bodies; the cursor goes bad where they are not all there. */
struct jute_str jute_read_str(struct wire *w);		/* ustring or buffer */
struct jute_stat jute_read_stat(struct wire *w);
uint32_t jute_read_count(struct wire *w);		/* of a vector; 0 for null and for more than could be there */

static inline bool jute_op_creates(int32_t op)
{
	return op == JUTE_CREATE || op == JUTE_CREATE2 || op == JUTE_CREATE_CONTAINER || op == JUTE_CREATE_TTL;
}

/* Flags of a create: 1 and 3 are ephemeral; 4 container, 5 and 6 with a time to live. */
static inline bool jute_flags_ephemeral(int32_t flags)
{
	return flags == 1 || flags == 3;
}

/* For clients: whole frames, length included, appended to @out. 0, -ENOBUFS, -ENOMEM. */
MUST_CHECK int jute_put_connect(struct bytes *out, uint32_t timeout_ms);
MUST_CHECK int jute_put_path(struct bytes *out, int32_t xid, enum jute_op op, const char *path);	/* a read without a watch */
MUST_CHECK int jute_put_close(struct bytes *out, int32_t xid);

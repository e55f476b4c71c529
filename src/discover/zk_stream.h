#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/list.h"

/*
 * ZooKeeper's frames out of one direction of a sniffed connection, and the
 * requests that wait for their replies.
 */
enum {
	ZK_MAX_FRAME = 256 * 1024,	/* larger ones are passed over, but for their header */
	ZK_MAX_SANE = 64 * 1024 * 1024,	/* a length over this is none */
	ZK_MAX_LOOKS = 16384,		/* at bytes that may begin a frame, to find one again: enough for honest ones */
	ZK_MAX_PENDING = 1024,
	ZK_MAX_PENDING_BYTES = 1024 * 1024,
};

struct zk_framer {
	struct bytes buf;		/* length and contents of the frame at hand */
	size_t skip;			/* bytes of a large or damaged frame to come */
	bool lost;			/* bytes are missing: where the next frame begins is not known */
	bool replies;			/* what is plausible: replies, or requests */
	uint32_t n_looks;		/* in these bytes, of ZK_MAX_LOOKS */
};

/* One frame, without its length; @whole is false when only its beginning is there. */
typedef bool zk_frame_fn(const uint8_t *frame, size_t len, bool whole, void *data);

void zk_framer_init(struct zk_framer *f, bool replies);
void zk_framer_deinit(struct zk_framer *f);
/* False: this is not ZooKeeper, no memory, or @fn said so. */
bool zk_framer_feed(struct zk_framer *f, const uint8_t *data, size_t len, zk_frame_fn *fn, void *fn_data);
void zk_framer_gap(struct zk_framer *f, size_t len);

struct zk_pending {
	struct list link;
	int32_t xid;
	int32_t op;
	size_t len;
	uint8_t frame[];		/* the request; empty when it was not kept */
};

struct zk_queue {
	struct list list;		/* oldest first */
	size_t n;
	size_t bytes;
};

void zk_queue_init(struct zk_queue *q);
void zk_queue_deinit(struct zk_queue *q);
/* The oldest make room. */
void zk_queue_add(struct zk_queue *q, int32_t xid, int32_t op, const uint8_t *frame, size_t len);
/* The request with that xid, now the caller's to free(); older ones have lost their replies and go. NULL: none. */
struct zk_pending *zk_queue_take(struct zk_queue *q, int32_t xid);
bool zk_queue_has_op(const struct zk_queue *q, int32_t op);

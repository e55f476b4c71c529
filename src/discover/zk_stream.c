/*
 * ZooKeeper's frames and pending requests: see zk_stream.h.
 */
#include "discover/zk_stream.h"

#include <stdlib.h>
#include <string.h>

#include "base/wire.h"
#include "proto/jute.h"

enum { LENGTH = 4, KEPT_OF_LARGE = 1024, RESYNC_LOOK = 4096 };

void zk_framer_init(struct zk_framer *f, bool replies)
{
	*f = (struct zk_framer){ .replies = replies };
	bytes_init(&f->buf, LENGTH + ZK_MAX_FRAME);
}

void zk_framer_deinit(struct zk_framer *f)
{
	bytes_deinit(&f->buf);
}

static size_t frame_len(const uint8_t *p)
{
	struct wire w = wire_init(p, LENGTH);

	return wire_u32(&w);
}

static bool known_op(int32_t op)
{
	return (op >= JUTE_CREATE && op <= JUTE_MULTI_READ) || (op >= JUTE_AUTH && op <= 110) || op == JUTE_CLOSE;
}

/* Could these bytes, with their length, be a frame of that direction? */
static bool plausible(const struct zk_framer *f, const uint8_t *p, size_t left)
{
	enum { HEADER = 8, REPLY_HEADER = 16 };
	struct wire w = wire_init(p, left);
	size_t len = wire_u32(&w);
	int32_t second;

	wire_u32(&w);			/* xid */
	if (f->replies)
		wire_u64(&w);		/* zxid */
	second = (int32_t)wire_u32(&w);	/* op, or err */
	if (w.bad || len < (size_t)(f->replies ? REPLY_HEADER : HEADER) || len > ZK_MAX_FRAME)
		return false;
	return f->replies ? second <= 0 && second > -200 : known_op(second);
}

/* Frames one after the other up to the very end. Bytes may be made to look like that from everywhere, nearly to their end. */
static bool is_chain(struct zk_framer *f, const uint8_t *p, size_t len)
{
	while (len) {
		if (f->n_looks == ZK_MAX_LOOKS)
			return false;
		f->n_looks++;
		if (!plausible(f, p, len) || len < LENGTH + frame_len(p))
			return false;
		len -= LENGTH + frame_len(p);
		p += LENGTH + frame_len(p);
	}
	return true;
}

/* Where in @data frames begin again; @len when they do not. */
static size_t resync(struct zk_framer *f, const uint8_t *data, size_t len)
{
	f->n_looks = 0;
	for (size_t at = 0; at < len && at < RESYNC_LOOK && f->n_looks < ZK_MAX_LOOKS; at++)
		if (is_chain(f, data + at, len - at)) {
			f->lost = false;
			return at;
		}
	return len;
}

/* Appends of @data what is wanted up to @size in the buffer. */
static int fill(struct zk_framer *f, size_t size, const uint8_t **data, size_t *len)
{
	size_t room = size > f->buf.len ? size - f->buf.len : 0;
	size_t n = MIN(*len, room);
	int r = bytes_append(&f->buf, *data, n);

	*data += n;
	*len -= n;
	return r;
}

/* The next frame or part of one. 1: there was progress, 0: more bytes are needed, negative: give up. */
static int step(struct zk_framer *f, const uint8_t **data, size_t *len, zk_frame_fn *fn, void *fn_data)
{
	size_t want, skip = 0;
	bool more;

	if (fill(f, LENGTH, data, len) < 0)
		return -1;
	if (f->buf.len < LENGTH)
		return 0;
	want = frame_len(f->buf.data);
	if (want > ZK_MAX_SANE)
		return -1;
	if (want > ZK_MAX_FRAME) {
		skip = want - KEPT_OF_LARGE;
		want = KEPT_OF_LARGE;
	}
	if (fill(f, LENGTH + want, data, len) < 0)
		return -1;
	if (f->buf.len < LENGTH + want)
		return 0;
	more = fn(f->buf.data + LENGTH, want, !skip, fn_data);
	bytes_clear(&f->buf);
	f->skip = skip;
	return more ? 1 : -1;
}

bool zk_framer_feed(struct zk_framer *f, const uint8_t *data, size_t len, zk_frame_fn *fn, void *fn_data)
{
	if (f->lost) {
		size_t at = resync(f, data, len);

		data += at;
		len -= at;
	}
	for (;;) {
		size_t n = MIN(f->skip, len);
		int r;

		f->skip -= n;
		data += n;
		len -= n;
		if (!len && !f->buf.len)
			return true;
		r = step(f, &data, &len, fn, fn_data);
		if (r <= 0)
			return r == 0;
	}
}

void zk_framer_gap(struct zk_framer *f, size_t len)
{
	size_t left = f->skip;

	if (f->buf.len >= LENGTH)
		left = LENGTH + frame_len(f->buf.data) - f->buf.len;
	bytes_clear(&f->buf);
	f->skip = left >= len ? left - len : 0;
	f->lost = f->lost || left < len;
}

void zk_queue_init(struct zk_queue *q)
{
	*q = (struct zk_queue){};
	list_init(&q->list);
}

static struct zk_pending *oldest(const struct zk_queue *q)
{
	return list_entry(q->list.next, struct zk_pending, link);
}

static void unlink_first(struct zk_queue *q, struct zk_pending *p)
{
	list_unlink(&p->link);
	q->n--;
	q->bytes -= p->len;
}

static void drop_first(struct zk_queue *q)
{
	struct zk_pending *p = oldest(q);

	unlink_first(q, p);
	free(p);
}

void zk_queue_deinit(struct zk_queue *q)
{
	while (q->n)
		drop_first(q);
}

void zk_queue_add(struct zk_queue *q, int32_t xid, int32_t op, const uint8_t *frame, size_t len)
{
	struct zk_pending *p;

	while (q->n && (q->n >= ZK_MAX_PENDING || q->bytes + len > ZK_MAX_PENDING_BYTES))
		drop_first(q);
	p = malloc(sizeof(*p) + len);
	if (!p)
		return;
	*p = (struct zk_pending){ .xid = xid, .op = op, .len = len };
	if (len)
		memcpy(p->frame, frame, len);
	list_append(&q->list, &p->link);
	q->n++;
	q->bytes += len;
}

struct zk_pending *zk_queue_take(struct zk_queue *q, int32_t xid)
{
	bool found = false;

	list_for_each(l, &q->list)
		if (list_entry(l, struct zk_pending, link)->xid == xid) {
			found = true;		/* the first, as a rule: answers come in order */
			break;
		}
	while (found) {
		struct zk_pending *p = oldest(q);

		if (p->xid == xid) {
			unlink_first(q, p);
			return p;
		}
		drop_first(q);
	}
	return NULL;
}

bool zk_queue_has_op(const struct zk_queue *q, int32_t op)
{
	list_for_each(l, &q->list)
		if (list_entry(l, struct zk_pending, link)->op == op)
			return true;
	return false;
}

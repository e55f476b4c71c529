#pragma once
/*
 * ZooKeeper frames for tests, put together by hand from the records' definition,
 * so that they check the codec and do not use it.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"

struct frame {
	uint8_t data[8192];
	size_t len;		/* length field included */
};

static inline void frame_u(struct frame *f, uint64_t v, size_t size)
{
	for (size_t i = 0; i < size; i++)
		f->data[f->len++] = (uint8_t)(v >> (8 * (size - 1 - i)));
	size_t body = f->len - 4;
	for (size_t i = 0; i < 4; i++)
		f->data[i] = (uint8_t)(body >> (8 * (3 - i)));
}

static inline void frame_str(struct frame *f, const char *s)
{
	if (!s) {
		frame_u(f, 0xffffffff, 4);
		return;
	}
	frame_u(f, strlen(s), 4);
	memcpy(f->data + f->len, s, strlen(s));
	f->len += strlen(s);
	frame_u(f, 0, 0);
}

static inline struct frame frame_new(void)
{
	return (struct frame){ .len = 4 };
}

static inline struct frame frame_connect(uint64_t session, uint32_t timeout_ms, bool read_only)
{
	struct frame f = frame_new();

	frame_u(&f, 0, 4);
	frame_u(&f, 0, 8);
	frame_u(&f, timeout_ms, 4);
	frame_u(&f, session, 8);
	frame_u(&f, 16, 4);
	frame_u(&f, 0, 8);
	frame_u(&f, 0, 8);
	if (read_only)
		frame_u(&f, 0, 1);
	return f;
}

static inline struct frame frame_connected(uint64_t session, uint32_t timeout_ms)
{
	struct frame f = frame_new();

	frame_u(&f, 0, 4);
	frame_u(&f, timeout_ms, 4);
	frame_u(&f, session, 8);
	frame_u(&f, 16, 4);
	frame_u(&f, 0, 8);
	frame_u(&f, 0, 8);
	frame_u(&f, 0, 1);
	return f;
}

static inline void frame_add_acl(struct frame *f)
{
	frame_u(f, 1, 4);
	frame_u(f, 31, 4);
	frame_str(f, "world");
	frame_str(f, "anyone");
}

static inline void frame_add_create(struct frame *f, const char *path, const char *data, uint32_t flags)
{
	frame_str(f, path);
	frame_str(f, data);
	frame_add_acl(f);
	frame_u(f, flags, 4);
}

static inline struct frame frame_request(uint32_t xid, uint32_t op)
{
	struct frame f = frame_new();

	frame_u(&f, xid, 4);
	frame_u(&f, op, 4);
	return f;
}

static inline struct frame frame_create(uint32_t xid, uint32_t op, const char *path, const char *data, uint32_t flags)
{
	struct frame f = frame_request(xid, op);

	frame_add_create(&f, path, data, flags);
	return f;
}

static inline struct frame frame_set(uint32_t xid, const char *path, const char *data)
{
	struct frame f = frame_request(xid, 5);

	frame_str(&f, path);
	frame_str(&f, data);
	frame_u(&f, 0xffffffff, 4);
	return f;
}

static inline struct frame frame_delete(uint32_t xid, const char *path)
{
	struct frame f = frame_request(xid, 2);

	frame_str(&f, path);
	frame_u(&f, 0xffffffff, 4);
	return f;
}

static inline struct frame frame_read(uint32_t xid, uint32_t op, const char *path, bool watch)
{
	struct frame f = frame_request(xid, op);

	frame_str(&f, path);
	frame_u(&f, watch, 1);
	return f;
}

static inline struct frame frame_reply(uint32_t xid, int32_t err)
{
	struct frame f = frame_new();

	frame_u(&f, xid, 4);
	frame_u(&f, 7, 8);
	frame_u(&f, (uint32_t)err, 4);
	return f;
}

static inline void frame_add_stat(struct frame *f, uint64_t owner)
{
	for (int i = 0; i < 4; i++)
		frame_u(f, 1, 8);
	for (int i = 0; i < 3; i++)
		frame_u(f, 0, 4);
	frame_u(f, owner, 8);
	frame_u(f, 0, 4);
	frame_u(f, 0, 4);
	frame_u(f, 1, 8);
}

static inline struct frame frame_reply_path(uint32_t xid, const char *path)
{
	struct frame f = frame_reply(xid, 0);

	frame_str(&f, path);
	return f;
}

static inline struct frame frame_reply_stat(uint32_t xid, uint64_t owner)
{
	struct frame f = frame_reply(xid, 0);

	frame_add_stat(&f, owner);
	return f;
}

static inline struct frame frame_reply_data(uint32_t xid, const char *data, uint64_t owner)
{
	struct frame f = frame_reply(xid, 0);

	frame_str(&f, data);
	frame_add_stat(&f, owner);
	return f;
}

static inline void frame_add_multi_header(struct frame *f, uint32_t op, bool done)
{
	frame_u(f, op, 4);
	frame_u(f, done, 1);
	frame_u(f, 0xffffffff, 4);
}

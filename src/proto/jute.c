/*
 * ZooKeeper's records: see jute.h.
 */
#include "proto/jute.h"

#include <errno.h>
#include <string.h>

struct jute_str jute_read_str(struct wire *w)
{
	int32_t len = (int32_t)wire_u32(w);
	const uint8_t *p;

	if (len < 0)			/* -1 is null */
		return (struct jute_str){};
	p = wire_take(w, (size_t)len);
	return p ? (struct jute_str){ (const char *)p, (size_t)len } : (struct jute_str){};
}

uint32_t jute_read_count(struct wire *w)
{
	int32_t n = (int32_t)wire_u32(w);

	if (n < 0)
		return 0;
	if ((size_t)n > wire_left(w) / 4)	/* an element has a length at least */
		w->bad = true;
	return w->bad ? 0 : (uint32_t)n;
}

struct jute_stat jute_read_stat(struct wire *w)
{
	struct jute_stat s;

	wire_take(w, 4 * 8);		/* czxid, mzxid, ctime, mtime */
	s.version = (int32_t)wire_u32(w);
	wire_take(w, 2 * 4);		/* cversion, aversion */
	s.ephemeral_owner = wire_u64(w);
	wire_take(w, 2 * 4 + 8);	/* dataLength, numChildren, pzxid */
	return s;
}

bool jute_connect_request(const void *frame, size_t len, struct jute_connect *ret_c)
{
	enum { PASSWORD_LEN = 16 };
	struct wire w = wire_init(frame, len);
	struct jute_connect c;

	if (wire_u32(&w) != 0)		/* protocolVersion */
		return false;
	wire_u64(&w);			/* lastZxidSeen */
	c.timeout_ms = wire_u32(&w);
	c.session = wire_u64(&w);
	struct jute_str password = jute_read_str(&w);

	/* A readOnly byte may follow. */
	if (w.bad || password.len > PASSWORD_LEN || wire_left(&w) > 1)
		return false;
	*ret_c = c;
	return true;
}

bool jute_connect_response(const void *frame, size_t len, struct jute_connect *ret_c)
{
	struct wire w = wire_init(frame, len);
	struct jute_connect c;

	wire_u32(&w);			/* protocolVersion */
	c.timeout_ms = wire_u32(&w);
	c.session = wire_u64(&w);
	jute_read_str(&w);
	if (w.bad || wire_left(&w) > 1)
		return false;
	if ((int32_t)c.timeout_ms < 0)
		c.timeout_ms = 0;
	*ret_c = c;
	return true;
}

static void read_acl(struct wire *w)
{
	for (uint32_t n = jute_read_count(w); n && !w->bad; n--) {
		wire_u32(w);		/* perms */
		jute_read_str(w);	/* scheme */
		jute_read_str(w);	/* id */
	}
}

/* The record that goes with @r->op. */
static bool read_operation(struct wire *w, struct jute_request *r)
{
	switch (r->op) {
	case JUTE_CREATE:
	case JUTE_CREATE2:
	case JUTE_CREATE_CONTAINER:
	case JUTE_CREATE_TTL:
		r->path = jute_read_str(w);
		r->data = jute_read_str(w);
		read_acl(w);
		r->flags = (int32_t)wire_u32(w);
		if (r->op == JUTE_CREATE_TTL)
			r->ttl_ms = wire_u64(w);
		break;
	case JUTE_SET_DATA:
		r->path = jute_read_str(w);
		r->data = jute_read_str(w);
		wire_u32(w);		/* version */
		break;
	case JUTE_DELETE:
	case JUTE_CHECK:
		r->path = jute_read_str(w);
		wire_u32(w);		/* version */
		break;
	case JUTE_GET_DATA:
	case JUTE_EXISTS:
	case JUTE_GET_CHILDREN:
	case JUTE_GET_CHILDREN2:
		r->path = jute_read_str(w);
		r->watch = wire_u8(w);
		break;
	case JUTE_MULTI:
		r->ops = *w;
		break;
	default:
		break;
	}
	return !w->bad;
}

bool jute_request_decode(const void *frame, size_t len, struct jute_request *ret_r)
{
	struct wire w = wire_init(frame, len);
	struct jute_request r = {};

	r.xid = (int32_t)wire_u32(&w);
	r.op = (int32_t)wire_u32(&w);
	if (w.bad || !read_operation(&w, &r))
		return false;
	*ret_r = r;
	return true;
}

bool jute_reply_decode(const void *frame, size_t len, struct jute_reply *ret_r)
{
	struct wire w = wire_init(frame, len);
	struct jute_reply r = {};

	r.xid = (int32_t)wire_u32(&w);
	wire_u64(&w);			/* zxid */
	r.err = (int32_t)wire_u32(&w);
	if (w.bad)
		return false;
	r.body = w;
	*ret_r = r;
	return true;
}

/* MultiHeader: type, done, err. */
static bool multi_header(struct wire *w, int32_t *ret_op)
{
	int32_t op = (int32_t)wire_u32(w);
	bool done = wire_u8(w);

	wire_u32(w);
	*ret_op = op;
	return !w->bad && !done;
}

bool jute_multi_request_next(struct wire *ops, struct jute_request *ret_op)
{
	struct jute_request r = {};

	if (!multi_header(ops, &r.op))
		return false;
	/* Without knowing an operation there is no telling where the next one begins. */
	if (!jute_op_creates(r.op) && r.op != JUTE_DELETE && r.op != JUTE_SET_DATA && r.op != JUTE_CHECK) {
		ops->bad = true;
		return false;
	}
	if (!read_operation(ops, &r))
		return false;
	*ret_op = r;
	return true;
}

bool jute_multi_reply_next(struct wire *results, int32_t *ret_op, struct jute_str *ret_path)
{
	struct jute_str path = {};
	int32_t op;

	if (!multi_header(results, &op))
		return false;
	if (jute_op_creates(op))
		path = jute_read_str(results);
	if ((jute_op_creates(op) && op != JUTE_CREATE) || op == JUTE_SET_DATA)
		jute_read_stat(results);
	else if (op == JUTE_ERROR)
		wire_u32(results);
	else if (op != JUTE_CREATE && op != JUTE_DELETE && op != JUTE_CHECK)
		results->bad = true;
	if (results->bad)
		return false;
	*ret_op = op;
	*ret_path = path;
	return true;
}

static size_t put_be(uint8_t *to, uint64_t v, size_t size)
{
	for (size_t i = 0; i < size; i++)
		to[i] = (uint8_t)(v >> (8 * (size - 1 - i)));
	return size;
}

int jute_put_connect(struct bytes *out, uint32_t timeout_ms)
{
	enum { BODY_LEN = 45, PASSWORD_LEN = 16 };
	uint8_t f[4 + BODY_LEN] = {};
	size_t at = put_be(f, BODY_LEN, 4);

	at += 4 + 8;			/* protocolVersion, lastZxidSeen */
	at += put_be(f + at, timeout_ms, 4);
	at += 8;			/* a new session */
	put_be(f + at, PASSWORD_LEN, 4);
	return bytes_append(out, f, sizeof(f));
}

int jute_put_path(struct bytes *out, int32_t xid, enum jute_op op, const char *path)
{
	size_t len = strlen(path);
	size_t size = 4 + 4 + 4 + 4 + len + 1;
	uint8_t *f = bytes_reserve(out, size);
	size_t at = 0;

	if (!f)
		return -ENOBUFS;
	at += put_be(f + at, size - 4, 4);
	at += put_be(f + at, (uint32_t)xid, 4);
	at += put_be(f + at, (uint32_t)op, 4);
	at += put_be(f + at, len, 4);
	memcpy(f + at, path, len);
	f[at + len] = 0;		/* no watch */
	bytes_commit(out, size);
	return 0;
}

int jute_put_close(struct bytes *out, int32_t xid)
{
	uint8_t f[12];

	put_be(f, 8, 4);
	put_be(f + 4, (uint32_t)xid, 4);
	put_be(f + 8, (uint32_t)JUTE_CLOSE, 4);
	return bytes_append(out, f, sizeof(f));
}

/*
 * Lookups in ZooKeeper: a session of our own that only reads.
 *
 * A service is a directory, and where that is nobody says: the usual places are
 * tried first, then the tree is walked for a directory of that name, down to a
 * depth and with a number of reads that a server does not feel.
 */
#include "agent/registry_backend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "agent/signs.h"
#include "base/bytes.h"
#include "base/wire.h"
#include "proto/jute.h"
#include "proto/zk_instance.h"

enum {
	SESSION_TIMEOUT_MS = 4000,
	MAX_FRAME = 4 * 1024 * 1024,
	MAX_READS = 512,
	MAX_QUEUE = 4096,
	MAX_DEPTH = 5,
	MAX_PATH = 1024,
};

/* Something to read: the children of a directory, or the data of a node in it. */
struct task {
	struct list link;
	enum jute_op op;
	bool walk;			/* a directory of the walk: look at its name and go on below it */
	char path[];
};

struct lookup {
	struct registry_lookup *l;
	int fd;
	struct watch watch;
	struct bytes in;
	struct bytes out;
	struct list tasks;		/* the first one is being asked for */
	size_t n_tasks;
	size_t n_reads;
	int32_t xid;
	bool connected;			/* the session is there */
	bool walked;			/* the walk has begun */
};

static size_t depth_of(const char *path)
{
	size_t n = 0;

	for (; *path; path++)
		n += *path == '/' && path[1];
	return n;
}

static void add_task(struct lookup *z, enum jute_op op, bool walk, bool first, const char *path)
{
	size_t size = strlen(path) + 1;
	struct task *t = z->n_tasks < MAX_QUEUE ? calloc(1, sizeof(*t) + size) : NULL;

	if (!t)
		return;
	t->op = op;
	t->walk = walk;
	memcpy(t->path, path, size);
	/* What is below a service's directory is read before the next directory: behind the task at hand. */
	list_append(first && !list_empty(&z->tasks) ? z->tasks.next->next : &z->tasks, &t->link);
	z->n_tasks++;
}

static void drop_task(struct lookup *z, struct task *t)
{
	list_unlink(&t->link);
	z->n_tasks--;
	free(t);
}

static void add_usual_places(struct lookup *z)
{
	static const char *const places[] = { "/services/%s", "/dubbo/%s/providers", "/nerve/services/%s/services", "/discovery/%s", "/service/%s" };
	char path[MAX_PATH];

	for (size_t i = 0; i < ELEMENTS(places); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		int n = snprintf(path, sizeof(path), places[i], z->l->service);
#pragma GCC diagnostic pop

		if (n < (int)sizeof(path))
			add_task(z, JUTE_GET_CHILDREN, false, false, path);
	}
	if (strcmp(z->l->service, "kafka") == 0)
		add_task(z, JUTE_GET_CHILDREN, false, false, "/brokers/ids");
}

static int flush(struct lookup *z)
{
	while (z->out.len) {
		ssize_t n = send(z->fd, z->out.data, z->out.len, MSG_NOSIGNAL);

		if (n < 0)
			return errno == EAGAIN ? watch_modify(&z->watch, EPOLLIN | EPOLLOUT) : -errno;
		bytes_consume(&z->out, (size_t)n);
	}
	return watch_modify(&z->watch, EPOLLIN);
}

static void fail(struct lookup *z, int error)
{
	watch_remove(&z->watch);
	registry_finish(z->l, REGISTRY_UNREACHABLE, "ZooKeeper at %s: %s", z->l->where,
			error == -EPIPE ? "it closed the connection" : strerror(-error));
}

static void end(struct lookup *z)
{
	/* A session that is not closed would cost the server memory until it times out. */
	if (!jute_put_close(&z->out, ++z->xid))
		(void)!flush(z);
	registry_finish_counted(z->l, "ZooKeeper");
}

/* Asks for the next thing, or ends. */
static int ask(struct lookup *z)
{
	struct task *t;
	int r;

	if (list_empty(&z->tasks) && !z->walked && !z->l->n_entries) {
		z->walked = true;
		add_task(z, JUTE_GET_CHILDREN, true, false, "/");
	}
	t = list_first(&z->tasks, struct task, link);
	if (!t || z->n_reads == MAX_READS) {
		end(z);
		return 0;
	}
	z->n_reads++;
	r = jute_put_path(&z->out, ++z->xid, t->op, t->path);
	return r < 0 ? r : flush(z);
}

static const char *sign_of(const struct zk_instance *i)
{
	const char *sign = NULL;

	for (size_t n = 0; n < i->n_meta && !sign; n++)
		sign = sign_of_meta(i->keys[n], i->values[n]);
	return sign;
}

static void add_instance(struct lookup *z, struct zk_instance *i)
{
	if (strcmp(i->service, z->l->service) == 0)
		registry_add(z->l, i->id, i->address[0] ? i->address : NULL, i->port, sign_of(i));
	zk_instance_deinit(i);
}

static bool is_wanted(const struct lookup *z, const char *dir)
{
	char service[ZK_INSTANCE_MAX_NAME];

	zk_dir_service(dir, service);
	return strcmp(service, z->l->service) == 0;
}

static void on_children(struct lookup *z, const struct task *t, struct wire *body)
{
	bool wanted = !t->walk || is_wanted(z, t->path);
	bool below = t->walk && depth_of(t->path) < MAX_DEPTH;
	char path[MAX_PATH];

	for (uint32_t n = jute_read_count(body); n && !body->bad; n--) {
		struct jute_str c = jute_read_str(body);
		struct zk_instance i;

		if (!c.len || snprintf(path, sizeof(path), "%s/%.*s", strcmp(t->path, "/") ? t->path : "", (int)c.len, c.p) >= (int)sizeof(path))
			continue;
		if (strcmp(path, "/zookeeper") == 0)
			continue;
		if (wanted && zk_instance_read_name(path, &i) && i.scheme[0])
			add_instance(z, &i);			/* Dubbo: it is all in the name */
		else if (wanted)
			add_task(z, JUTE_GET_DATA, false, true, path);
		if (below)
			add_task(z, JUTE_GET_CHILDREN, true, false, path);
	}
}

static void on_data(struct lookup *z, const struct task *t, struct wire *body)
{
	struct jute_str data = jute_read_str(body);
	struct zk_instance i;

	if (!body->bad && zk_instance_read(t->path, data.p, data.len, &i))
		add_instance(z, &i);
}

static int on_reply(struct lookup *z, const uint8_t *frame, size_t len)
{
	struct task *t = list_first(&z->tasks, struct task, link);
	struct jute_reply reply;

	if (!jute_reply_decode(frame, len, &reply))
		return -EPROTO;
	if (reply.xid < 0 || z->l->done)
		return 0;
	if (reply.xid != z->xid || !t)
		return -EPROTO;
	if (reply.err == JUTE_NO_AUTH && !t->walk) {
		registry_finish(z->l, REGISTRY_REFUSED, "ZooKeeper at %s refuses to show %.128s", z->l->where, t->path);
		return 0;
	}
	if (reply.err == JUTE_OK && t->op == JUTE_GET_DATA)
		on_data(z, t, &reply.body);
	else if (reply.err == JUTE_OK)
		on_children(z, t, &reply.body);
	drop_task(z, t);
	/* The walk ends at the first place where the service is. */
	if (z->l->n_entries && z->walked)
		list_for_each_safe(link, &z->tasks) {
			struct task *other = list_entry(link, struct task, link);

			if (other->walk)
				drop_task(z, other);
		}
	return ask(z);
}

static int on_frame(struct lookup *z, const uint8_t *frame, size_t len)
{
	struct jute_connect c;

	if (z->connected)
		return on_reply(z, frame, len);
	if (!jute_connect_response(frame, len, &c) || !c.timeout_ms)
		return -EPROTO;
	z->connected = true;
	return ask(z);
}

static int take_frames(struct lookup *z)
{
	int r = 0;

	while (!r && z->in.len >= 4) {
		struct wire w = wire_init(z->in.data, z->in.len);
		size_t len = wire_u32(&w);

		if (len > MAX_FRAME)
			return -EPROTO;
		if (wire_left(&w) < len)
			break;
		r = on_frame(z, w.pos, len);
		bytes_consume(&z->in, 4 + len);
	}
	return r;
}

static int read_all(struct lookup *z)
{
	for (;;) {
		enum { PIECE = 16 * 1024 };
		uint8_t *to = bytes_reserve(&z->in, PIECE);
		ssize_t n = to ? recv(z->fd, to, PIECE, 0) : -1;

		if (!to)
			return -ENOMEM;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (n == 0)
			return -EPIPE;
		bytes_commit(&z->in, (size_t)n);
		int r = take_frames(z);
		if (r < 0)
			return r;
	}
}

static int on_ready(struct watch *w, uint32_t events)
{
	struct lookup *z = container_of(w, struct lookup, watch);
	int r = 0;

	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		r = read_all(z);
	if (!r && events & EPOLLOUT)
		r = flush(z);
	if (r < 0)
		fail(z, r);
	return 0;
}

static void stop(struct registry_lookup *l)
{
	struct lookup *z = l->impl;

	if (!z)
		return;
	watch_remove(&z->watch);
	close_fd(z->fd);
	list_for_each_safe(link, &z->tasks)
		drop_task(z, list_entry(link, struct task, link));
	bytes_deinit(&z->in);
	bytes_deinit(&z->out);
	free(z);
	l->impl = NULL;
}

static int start(struct registry_lookup *l)
{
	struct sockaddr_storage sa;
	socklen_t sa_len = ip_port_to_sockaddr(&l->registry, 0, &sa);
	struct lookup *z = calloc(1, sizeof(*z));

	if (!z)
		return -ENOMEM;
	l->impl = z;
	z->l = l;
	list_init(&z->tasks);
	bytes_init(&z->in, 4 + MAX_FRAME + 64 * 1024);
	bytes_init(&z->out, 64 * 1024);
	add_usual_places(z);
	z->fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (z->fd < 0)
		return -errno;
	if (connect(z->fd, (struct sockaddr *)&sa, sa_len) < 0 && errno != EINPROGRESS) {
		registry_finish(l, REGISTRY_UNREACHABLE, "ZooKeeper at %s: %s", l->where, strerror(errno));
		return 0;
	}
	int r = jute_put_connect(&z->out, SESSION_TIMEOUT_MS);
	return r < 0 ? r : watch_add(l->loop, &z->watch, z->fd, EPOLLIN | EPOLLOUT, false, on_ready);
}

const struct registry_backend registry_zk = { .protocol = "zookeeper", .start = start, .stop = stop };

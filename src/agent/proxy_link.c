/*
 * One SEQPACKET socket to a proxy process.
 */
#include "agent/proxy_link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/fdmsg.h"
#include "base/list.h"
#include "base/secret.h"
#include "mesh/pb.h"

enum { LINK_MAX_FDS = 3, MESSAGES_A_TURN = 64 };

struct queued {
	struct list link;
	size_t len;
	int fds[LINK_MAX_FDS];
	size_t n_fds;
	uint8_t data[];
};

struct proxy_link {
	struct watch watch;
	struct loop *loop;
	int fd;
	struct proxy_link_ops ops;
	void *data;
	struct list queue;
	size_t n_queued;
	bool *freed;		/* of the callback on the stack: set when the link is freed in it */
	uint8_t *buffer;	/* FDMSG_MAX_LEN */
};

static void queued_free(struct queued *q)
{
	for (size_t i = 0; i < q->n_fds; i++)
		close_fd(q->fds[i]);
	list_unlink(&q->link);
	free(q);
}

struct proxy_link *proxy_link_free(struct proxy_link *l)
{
	if (!l)
		return NULL;
	if (l->freed)
		*l->freed = true;
	list_for_each_safe(q, &l->queue)
		queued_free(list_entry(q, struct queued, link));
	watch_remove(&l->watch);
	close_fd(l->fd);
	free(l->buffer);
	free(l);
	return NULL;
}

static void fail(struct proxy_link *l, const char *why)
{
	watch_remove(&l->watch);
	l->ops.closed(l, why, l->data);
}

static int flush(struct proxy_link *l)
{
	while (!list_empty(&l->queue)) {
		struct queued *q = list_entry(l->queue.next, struct queued, link);
		int r = fdmsg_send(l->fd, q->data, q->len, q->fds, q->n_fds);

		if (r < 0)
			return r;
		queued_free(q);
		l->n_queued--;
	}
	return watch_modify(&l->watch, EPOLLIN);
}

/* True: go on reading. */
static bool receive(struct proxy_link *l)
{
	bool freed = false;
	ProtobufCMessage *m;
	int fd = -1;
	size_t n_fds;
	ssize_t n = fdmsg_recv(l->fd, l->buffer, FDMSG_MAX_LEN, &fd, 1, &n_fds);

	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		fail(l, n == 0 ? "it closed its end" : strerror((int)-n));
		return false;
	}
	int r = pb_unpack(&outrigger__ipc__to_agent__descriptor, l->buffer, (size_t)n, 0, &m);
	explicit_bzero(l->buffer, (size_t)n);	/* there are credentials among them */
	if (r < 0) {
		close_fd(fd);
		fail(l, "it sent what is no message");
		return false;
	}
	l->freed = &freed;
	l->ops.message(l, (const Outrigger__Ipc__ToAgent *)(const void *)m, &fd, l->data);
	close_fd(fd);
	if (!freed)
		l->freed = NULL;
	pb_free(m);
	return !freed;
}

static int on_event(struct watch *w, uint32_t events)
{
	struct proxy_link *l = container_of(w, struct proxy_link, watch);

	if (events & EPOLLOUT) {
		int r = flush(l);

		if (r < 0 && r != -EAGAIN) {
			fail(l, strerror(-r));
			return 0;
		}
	}
	/* Bounded, so that a proxy that tees much does not keep the loop. */
	for (unsigned i = 0; i < MESSAGES_A_TURN; i++)
		if (!receive(l))
			break;
	return 0;
}

int proxy_link_new(struct loop *loop, int fd, const struct proxy_link_ops *ops, void *data, struct proxy_link **ret_link)
{
	struct proxy_link *l = calloc(1, sizeof(*l));
	int r;

	if (!l) {
		close_fd(fd);
		return -ENOMEM;
	}
	l->loop = loop;
	l->fd = fd;
	l->ops = *ops;
	l->data = data;
	list_init(&l->queue);
	l->buffer = malloc(FDMSG_MAX_LEN);
	r = l->buffer ? watch_add(loop, &l->watch, fd, EPOLLIN, false, on_event) : -ENOMEM;
	if (r < 0) {
		proxy_link_free(l);
		return r;
	}
	*ret_link = l;
	return 0;
}

static int enqueue(struct proxy_link *l, const uint8_t *data, size_t len, const int *fds, size_t n_fds)
{
	struct queued *q;

	if (l->n_queued == PROXY_LINK_MAX_QUEUED)
		return -ENOBUFS;
	q = malloc(sizeof(*q) + len);
	if (!q)
		return -ENOMEM;
	*q = (struct queued){ .len = len };
	memcpy(q->data, data, len);
	list_append(&l->queue, &q->link);
	for (; q->n_fds < n_fds; q->n_fds++) {
		q->fds[q->n_fds] = fcntl(fds[q->n_fds], F_DUPFD_CLOEXEC, 3);
		if (q->fds[q->n_fds] < 0) {
			int r = -errno;

			queued_free(q);
			return r;
		}
	}
	l->n_queued++;
	return watch_modify(&l->watch, EPOLLIN | EPOLLOUT);
}

int proxy_link_send(struct proxy_link *l, const Outrigger__Ipc__ToProxy *m, const int *fds, size_t n_fds)
{
	CLEANUP_SECRET uint8_t *data = NULL;
	size_t len;
	int r = pb_pack(&m->base, &data, &len);

	if (r < 0)
		return r;
	if (n_fds > LINK_MAX_FDS || len > FDMSG_MAX_LEN)
		return -EMSGSIZE;
	r = list_empty(&l->queue) ? fdmsg_send(l->fd, data, len, fds, n_fds) : -EAGAIN;
	return r == -EAGAIN ? enqueue(l, data, len, fds, n_fds) : r;
}

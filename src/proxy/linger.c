/*
 * Connections that only wait for their peers to be quiet.
 */
#include "proxy/linger.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum {
	LINGER_MS = 1000,
	LINGER_BYTES = 1024 * 1024,	/* a peer that says more than this does not listen */
	LINGER_MAX = 64,		/* at once, of a worker */
};

struct lingering {
	struct list link;
	struct worker *w;
	struct watch watch;
	struct timer timer;
	struct defer free_defer;
	int fd;
	size_t n_bytes;
};

static int really_free(struct defer *d)
{
	free(container_of(d, struct lingering, free_defer));
	return 0;
}

static void end(struct lingering *l)
{
	watch_remove(&l->watch);
	timer_cancel(&l->timer);
	l->fd = close_fd(l->fd);
	list_unlink(&l->link);
	l->w->n_lingering--;
	loop_defer(l->w->loop, &l->free_defer, really_free);
}

static int on_readable(struct watch *w, uint32_t events)
{
	struct lingering *l = container_of(w, struct lingering, watch);
	ssize_t n = recv(l->fd, l->w->net, WORKER_NET_SIZE, MSG_DONTWAIT);

	(void)events;
	if (n > 0)
		l->n_bytes += (size_t)n;
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || l->n_bytes > LINGER_BYTES)
		end(l);
	return 0;
}

static int on_timer(struct timer *t)
{
	end(container_of(t, struct lingering, timer));
	return 0;
}

void linger_close(struct worker *w, int fd)
{
	struct lingering *l = w->n_lingering < LINGER_MAX ? calloc(1, sizeof(*l)) : NULL;

	if (!l || shutdown(fd, SHUT_WR) < 0) {
		free(l);
		close_fd(fd);
		return;
	}
	l->w = w;
	l->fd = fd;
	list_init(&l->link);
	list_append(&w->lingering, &l->link);
	w->n_lingering++;
	if (watch_add(w->loop, &l->watch, fd, EPOLLIN, false, on_readable) < 0 || timer_arm(w->loop, &l->timer, LINGER_MS, on_timer) < 0)
		end(l);
}

void linger_free_all(struct worker *w)
{
	list_for_each_safe(i, &w->lingering)
		end(list_entry(i, struct lingering, link));
}

/*
 * The socket helper and its pools.
 *
 * A request is one struct sockd_request; the answer carries that many
 * descriptors, or fewer, never none without an error. The helper is a fork
 * without exec: it has nothing of the proxy's but its own few pages, and can
 * do nothing but make sockets.
 */
#include "proxy/sockd.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/fdmsg.h"
#include "base/sandbox.h"

enum {
	/* enum steer_mark, which belongs to the agent */
	MARK_TO_VM = 2,
	MARK_FROM_VM = 3,

	N_FAMILIES = 2,
	N_SHELVES = SOCKD_SHELVES,
};

struct sockd_request {
	uint32_t shelf;
	uint32_t n;
};

struct sockd_answer {
	uint32_t shelf;
	int32_t error;		/* negative errno when there is no descriptor */
};

/* One of the sorts of socket: kind and family. */
static const struct {
	int family;
	uint32_t mark;
} shelf_types[N_SHELVES] = {
	[SOCKD_TO_VM * N_FAMILIES]       = { AF_INET, MARK_TO_VM },
	[SOCKD_TO_VM * N_FAMILIES + 1]   = { AF_INET6, MARK_TO_VM },
	[SOCKD_FROM_VM * N_FAMILIES]     = { AF_INET, MARK_FROM_VM },
	[SOCKD_FROM_VM * N_FAMILIES + 1] = { AF_INET6, MARK_FROM_VM },
};

/* --- the helper --- */

static int set_int(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int make_socket(uint32_t shelf, uint32_t mark_base)
{
	int family = shelf_types[shelf].family;
	CLEANUP_FD int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int r;

	if (fd < 0)
		return -errno;
	if (family == AF_INET)
		r = set_int(fd, SOL_IP, IP_TRANSPARENT, 1);
	else
		r = set_int(fd, SOL_IPV6, IPV6_TRANSPARENT, 1);
	if (r == 0)
		r = set_int(fd, SOL_SOCKET, SO_MARK, (int)(mark_base + shelf_types[shelf].mark));
	if (r == 0)
		r = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r == 0)
		r = set_int(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	return r < 0 ? r : steal_fd(&fd);
}

/* 0, or -EPIPE when this pool is gone. */
static int serve(int sock, uint32_t mark_base)
{
	struct sockd_request q;
	struct sockd_answer a = {};
	int fds[SOCKD_MAX_BATCH];
	size_t n = 0, none;
	ssize_t len = fdmsg_recv(sock, &q, sizeof(q), NULL, 0, &none);

	if (len == -EAGAIN || len == -EINTR)
		return 0;
	if (len != sizeof(q) || q.shelf >= N_SHELVES || q.n > SOCKD_MAX_BATCH)
		return -EPIPE;
	a.shelf = q.shelf;
	while (n < q.n && a.error == 0) {
		int fd = make_socket(q.shelf, mark_base);

		if (fd < 0)
			a.error = n ? 0 : fd;
		if (fd < 0)
			break;
		fds[n++] = fd;
	}

	int r = fdmsg_send(sock, &a, sizeof(a), fds, n);
	while (n)
		close_fd(fds[--n]);
	return r < 0 && r != -EAGAIN ? -EPIPE : 0;
}

static void helper_loop(uint32_t mark_base, struct pollfd *polls, size_t n)
{
	size_t open = n;

	while (open) {
		if (poll(polls, n, -1) < 0 && errno != EINTR)
			return;
		for (size_t i = 0; i < n; i++) {
			if (polls[i].fd < 0 || !polls[i].revents)
				continue;
			if (polls[i].revents & POLLIN && serve(polls[i].fd, mark_base) == 0)
				continue;
			polls[i].fd = close_fd(polls[i].fd);
			open--;
		}
	}
}

/* All that it does: wait, take a request, make sockets, send them. */
static int confine(void)
{
	struct diag d;
	int r;

	capng_clear(CAPNG_SELECT_BOTH);
	if (capng_updatev(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_NET_ADMIN, CAP_NET_RAW, -1) < 0 ||
	    capng_apply(CAPNG_SELECT_CAPS) < 0)
		return -EPERM;
	r = sandbox_harden();
	return r < 0 ? r : sandbox_confine(SANDBOX_SOCKD, &d);
}

/* Only the pools' sockets, from descriptor 3 on. */
static size_t keep_only(const int *socks, size_t n, struct pollfd *polls)
{
	int moved[SOCKD_MAX_POOLS];

	for (size_t i = 0; i < n; i++)
		moved[i] = fcntl(socks[i], F_DUPFD_CLOEXEC, 3 + 2 * SOCKD_MAX_POOLS);
	for (size_t i = 0; i < n; i++) {
		if (moved[i] < 0 || dup2(moved[i], 3 + (int)i) < 0)
			return 0;
		polls[i] = (struct pollfd){ .fd = 3 + (int)i, .events = POLLIN };
	}
	(void)!close_range((unsigned)(3 + n), ~0U, 0);
	return n;
}

static _Noreturn void helper(uint32_t mark_base, const int *socks, size_t n)
{
	struct pollfd polls[SOCKD_MAX_POOLS];
	sigset_t all;

	prctl(PR_SET_NAME, "outrigger-sockd");
	sigfillset(&all);		/* it ends with its proxy, not by a ^C or by its signals */
	sigprocmask(SIG_SETMASK, &all, NULL);
	n = keep_only(socks, n, polls);
	if (n && confine() == 0)
		helper_loop(mark_base, polls, n);
	_exit(0);
}

int sockd_start(uint32_t mark_base, size_t n_pools, int *ret_socks)
{
	int ours[SOCKD_MAX_POOLS], theirs[SOCKD_MAX_POOLS];
	size_t n = 0;
	int r = n_pools && n_pools <= SOCKD_MAX_POOLS ? 0 : -EINVAL;

	for (; r == 0 && n < n_pools; n++) {
		int pair[2];

		r = fdmsg_pair(pair);
		if (r < 0)
			break;
		ours[n] = pair[0];
		theirs[n] = pair[1];
	}
	if (r == 0) {
		pid_t pid = fork();

		if (pid == 0)
			helper(mark_base, theirs, n);
		r = pid < 0 ? -errno : 0;
	}
	for (size_t i = 0; i < n; i++)
		close_fd(theirs[i]);
	for (size_t i = 0; i < n; i++) {
		if (r < 0)
			close_fd(ours[i]);
		else
			ret_socks[i] = ours[i];
	}
	return r;
}

/* --- the pool --- */

struct shelf {
	int fds[2 * SOCKD_MAX_BATCH];
	size_t n;
	bool asked;
	int error;		/* why the helper could not */
};

struct sockd_pool {
	struct watch watch;
	struct loop *loop;
	int sock;		/* -1: the helper is gone */
	uint32_t batch;
	struct shelf shelves[N_SHELVES];
	void (*on_refill)(void *data);
	void *on_refill_data;
};

static void ask(struct sockd_pool *p, uint32_t i)
{
	struct sockd_request q = { .shelf = i, .n = p->batch };
	struct shelf *s = &p->shelves[i];

	if (!s->asked && p->sock >= 0)
		s->asked = fdmsg_send(p->sock, &q, sizeof(q), NULL, 0) == 0;
}

static void lose_helper(struct sockd_pool *p)
{
	watch_remove(&p->watch);
	p->sock = close_fd(p->sock);
}

/* 0, -EAGAIN, -EPIPE. */
static int receive(struct sockd_pool *p)
{
	struct sockd_answer a;
	int fds[SOCKD_MAX_BATCH];
	size_t n;
	ssize_t len = fdmsg_recv(p->sock, &a, sizeof(a), fds, SOCKD_MAX_BATCH, &n);

	if (len == -EAGAIN || len == -EINTR)
		return -EAGAIN;
	if (len != sizeof(a) || a.shelf >= N_SHELVES) {
		while (len > 0 && n)
			close_fd(fds[--n]);
		return -EPIPE;
	}

	struct shelf *s = &p->shelves[a.shelf];
	s->asked = false;
	s->error = n ? 0 : a.error;
	for (size_t i = 0; i < n; i++) {
		if (s->n < ELEMENTS(s->fds))
			s->fds[s->n++] = fds[i];
		else
			close_fd(fds[i]);
	}
	return 0;
}

static int on_answer(struct watch *w, uint32_t events)
{
	struct sockd_pool *p = container_of(w, struct sockd_pool, watch);
	int r;

	(void)events;
	while ((r = receive(p)) == 0)
		;
	if (r == -EPIPE)
		lose_helper(p);
	if (p->on_refill)
		p->on_refill(p->on_refill_data);
	return 0;
}

int sockd_pool_new(struct loop *l, int sock, unsigned batch, struct sockd_pool **ret_pool)
{
	struct sockd_pool *p = calloc(1, sizeof(*p));

	if (!p) {
		close_fd(sock);
		return -ENOMEM;
	}
	p->loop = l;
	p->sock = sock;
	p->batch = MIN(MAX(batch, 1U), (unsigned)SOCKD_MAX_BATCH);
	int r = watch_add(l, &p->watch, sock, EPOLLIN, false, on_answer);
	if (r < 0) {
		sockd_pool_free(p);
		return r;
	}
	for (uint32_t i = 0; i < N_SHELVES; i++)
		ask(p, i);
	*ret_pool = p;
	return 0;
}

struct sockd_pool *sockd_pool_free(struct sockd_pool *p)
{
	if (!p)
		return NULL;
	lose_helper(p);
	for (size_t i = 0; i < N_SHELVES; i++)
		while (p->shelves[i].n)
			close_fd(p->shelves[i].fds[--p->shelves[i].n]);
	free(p);
	return NULL;
}

int sockd_take(struct sockd_pool *p, enum sockd_kind kind, int family)
{
	uint32_t i = kind * N_FAMILIES + (family == AF_INET6);
	struct shelf *s;

	if ((unsigned)kind >= _SOCKD_KIND_N || (family != AF_INET && family != AF_INET6))
		return -EINVAL;
	s = &p->shelves[i];
	if (s->n < (p->batch + 1) / 2)		/* before there is none */
		ask(p, i);
	if (s->n)
		return s->fds[--s->n];
	if (p->sock < 0)
		return -EPIPE;
	return s->error ? s->error : -EAGAIN;
}

void sockd_on_refill(struct sockd_pool *p, void (*fn)(void *data), void *data)
{
	p->on_refill = fn;
	p->on_refill_data = data;
}

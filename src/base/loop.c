/*
 * Event loop over epoll. Timers are a binary heap; watchers removed in the
 * middle of a turn are struck out of the turn's event list.
 */
#include "base/loop.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#include "base/clock.h"

enum { BATCH = 128 };	/* events that a turn takes from the kernel */

struct loop {
	int epoll_fd;
	bool stopped;
	uint64_t now_ms;

	struct epoll_event events[BATCH];
	int n_events;
	int at_event;		/* index of the one being dispatched */

	struct timer **timers;	/* heap by due_ms */
	size_t n_timers;
	size_t timers_size;

	struct list deferred;
	struct list next;	/* deferred to the next turn */

	void (*turn_hook)(void *data);
	void *turn_hook_data;

	struct watch wake_watch;
	int wake_fd;
	void (*wake_fn)(void *data);
	void *wake_data;

	struct watch signal_watch;
	int signal_fd;
	void (*signal_fn)(int signo, void *data);
	void *signal_data;
};

/* --- timers --- */

static void timer_place(struct loop *l, struct timer *t, size_t i)
{
	l->timers[i] = t;
	t->index = i;
}

static void timer_up(struct loop *l, struct timer *t)
{
	size_t i = t->index;

	while (i > 0 && l->timers[(i - 1) / 2]->due_ms > t->due_ms) {
		timer_place(l, l->timers[(i - 1) / 2], i);
		i = (i - 1) / 2;
	}
	timer_place(l, t, i);
}

static void timer_down(struct loop *l, struct timer *t)
{
	size_t i = t->index;

	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= l->n_timers)
			break;
		if (child + 1 < l->n_timers && l->timers[child + 1]->due_ms < l->timers[child]->due_ms)
			child++;
		if (l->timers[child]->due_ms >= t->due_ms)
			break;
		timer_place(l, l->timers[child], i);
		i = child;
	}
	timer_place(l, t, i);
}

int timer_arm(struct loop *l, struct timer *t, uint64_t delay_ms, timer_fn *fn)
{
	timer_cancel(t);
	if (l->n_timers == l->timers_size) {
		size_t size = l->timers_size ? l->timers_size * 2 : 64;
		struct timer **timers = realloc(l->timers, size * sizeof(struct timer *));

		if (!timers)
			return -ENOMEM;
		l->timers = timers;
		l->timers_size = size;
	}
	t->due_ms = clock_mono_ms() + delay_ms;
	t->fn = fn;
	t->loop = l;
	t->index = l->n_timers++;
	timer_up(l, t);
	return 0;
}

void timer_cancel(struct timer *t)
{
	struct loop *l = t->loop;

	if (!l)
		return;
	t->loop = NULL;

	struct timer *last = l->timers[--l->n_timers];
	if (last == t)
		return;
	last->index = t->index;
	timer_up(l, last);
	timer_down(l, last);
}

static int run_timers(struct loop *l)
{
	while (l->n_timers && l->timers[0]->due_ms <= l->now_ms) {
		struct timer *t = l->timers[0];

		timer_cancel(t);
		int r = t->fn(t);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- watches --- */

static int control(const struct watch *w, struct loop *l, int op)
{
	struct epoll_event e = { .events = w->events, .data.ptr = (void *)(uintptr_t)w };

	if (w->edge)
		e.events |= EPOLLET;
	if (w->exclusive)
		e.events |= EPOLLEXCLUSIVE;
	return epoll_ctl(l->epoll_fd, op, w->fd, &e) < 0 ? -errno : 0;
}

int watch_add(struct loop *l, struct watch *w, int fd, uint32_t events, bool edge, watch_fn *fn)
{
	struct watch new = { .fd = fd, .events = events & UINT16_MAX, .edge = edge, .exclusive = !!(events & EPOLLEXCLUSIVE), .fn = fn };
	int r;

	*w = new;
	r = control(w, l, EPOLL_CTL_ADD);
	if (r < 0)
		return r;
	w->loop = l;
	return 0;
}

static bool is_put_off(const struct watch *w)
{
	return w->put_off.next && !list_empty(&w->put_off);
}

int watch_modify(struct watch *w, uint32_t events)
{
	uint32_t before = w->events;
	int r;

	if (!w->loop)
		return -EBADF;
	if (before == events)
		return 0;
	w->events = events & UINT16_MAX;
	if (is_put_off(w))
		return 0;
	r = control(w, w->loop, EPOLL_CTL_MOD);
	if (r < 0)
		w->events = before & UINT16_MAX;
	return r;
}

/* What this turn's wait has told of it is not dispatched any more. In its own callback that was all: a descriptor is told of once. */
static void forget_events(struct loop *l, const struct watch *w)
{
	if (l->at_event < l->n_events && l->events[l->at_event].data.ptr == w)
		return;
	for (int i = l->at_event + 1; i < l->n_events; i++)
		if (l->events[i].data.ptr == w)
			l->events[i].data.ptr = NULL;
}

void watch_remove(struct watch *w)
{
	struct loop *l = w->loop;

	if (!l)
		return;
	w->loop = NULL;
	if (is_put_off(w)) {
		list_unlink(&w->put_off);
		return;
	}
	epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	forget_events(l, w);
}

void watch_put_off(struct watch *w, uint32_t events, struct list *queue)
{
	if (!w->loop || is_put_off(w))
		return;
	epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	forget_events(w->loop, w);
	w->ready = events & UINT8_MAX;
	list_append(queue, &w->put_off);
}

int watch_take_up(struct watch *w)
{
	int r = control(w, w->loop, EPOLL_CTL_ADD);

	if (r < 0)
		return r;
	list_unlink(&w->put_off);

	uint32_t ready = w->ready & (w->events | EPOLLERR | EPOLLHUP);
	return ready ? w->fn(w, ready) : 0;
}

/* --- deferred calls --- */

void loop_defer(struct loop *l, struct defer *d, defer_fn *fn)
{
	d->fn = fn;
	if (!d->link.next || list_empty(&d->link))
		list_append(&l->deferred, &d->link);
}

void loop_defer_next(struct loop *l, struct defer *d, defer_fn *fn)
{
	d->fn = fn;
	if (!d->link.next || list_empty(&d->link))
		list_append(&l->next, &d->link);
}

/* Those that were put off to this turn are now deferred to its end. */
static void take_next(struct loop *l)
{
	list_splice(&l->deferred, &l->next);
}

void defer_cancel(struct defer *d)
{
	if (d->link.next)
		list_unlink(&d->link);
}

static int run_deferred(struct loop *l)
{
	while (!list_empty(&l->deferred)) {
		struct defer *d = list_first(&l->deferred, struct defer, link);

		list_unlink(&d->link);
		int r = d->fn(d);
		if (r < 0)
			return r;
	}
	return 0;
}

/* --- wake-ups and signals --- */

static int on_wake(struct watch *w, uint32_t events)
{
	struct loop *l = container_of(w, struct loop, wake_watch);
	uint64_t n;

	(void)events;
	if (read(l->wake_fd, &n, sizeof(n)) != sizeof(n))
		return 0;
	if (l->wake_fn)
		l->wake_fn(l->wake_data);
	return 0;
}

void loop_wake(struct loop *l)
{
	uint64_t one = 1;

	if (write(l->wake_fd, &one, sizeof(one)) < 0)
		return;		/* the counter is full: it is awake anyway */
}

void loop_on_wake(struct loop *l, void (*fn)(void *data), void *data)
{
	l->wake_fn = fn;
	l->wake_data = data;
}

static int on_signal(struct watch *w, uint32_t events)
{
	struct loop *l = container_of(w, struct loop, signal_watch);
	struct signalfd_siginfo info;

	(void)events;
	while (read(l->signal_fd, &info, sizeof(info)) == sizeof(info))
		l->signal_fn((int)info.ssi_signo, l->signal_data);
	return 0;
}

int loop_on_signal(struct loop *l, const int *signals, size_t n_signals, void (*fn)(int signo, void *data), void *data)
{
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < n_signals; i++)
		sigaddset(&set, signals[i]);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	l->signal_fd = signalfd(l->signal_fd, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (l->signal_fd < 0)
		return -errno;
	l->signal_fn = fn;
	l->signal_data = data;
	if (l->signal_watch.loop)
		return 0;
	return watch_add(l, &l->signal_watch, l->signal_fd, EPOLLIN, false, on_signal);
}

/* --- the loop --- */

int loop_new(struct loop **ret_loop)
{
	struct loop *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	l->signal_fd = -1;
	list_init(&l->deferred);
	list_init(&l->next);
	l->now_ms = clock_mono_ms();
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (l->epoll_fd < 0 || l->wake_fd < 0)
		r = -errno;
	else
		r = watch_add(l, &l->wake_watch, l->wake_fd, EPOLLIN, false, on_wake);
	if (r < 0) {
		loop_free(l);
		return r;
	}
	*ret_loop = l;
	return 0;
}

struct loop *loop_free(struct loop *l)
{
	if (!l)
		return NULL;
	close_fd(l->signal_fd);
	close_fd(l->wake_fd);
	close_fd(l->epoll_fd);
	free(l->timers);
	free(l);
	return NULL;
}

static int wait_ms(const struct loop *l, int timeout_ms)
{
	if (!list_empty(&l->deferred) || !list_empty(&l->next))
		return 0;
	if (!l->n_timers)
		return timeout_ms;

	uint64_t now = clock_mono_ms();
	uint64_t due = l->timers[0]->due_ms;
	uint64_t wait = due > now ? due - now : 0;
	if (timeout_ms >= 0 && wait > (uint64_t)timeout_ms)
		return timeout_ms;
	return wait > 3600000 ? 3600000 : (int)wait;
}

static int dispatch(struct loop *l)
{
	for (l->at_event = 0; l->at_event < l->n_events; l->at_event++) {
		struct watch *w = l->events[l->at_event].data.ptr;

		if (!w)
			continue;	/* removed earlier in this turn */
		int r = w->fn(w, l->events[l->at_event].events);
		if (r < 0) {
			l->n_events = 0;
			return r;
		}
	}
	l->n_events = l->at_event = 0;
	return 0;
}

int loop_turn(struct loop *l, int timeout_ms)
{
	int r = epoll_wait(l->epoll_fd, l->events, BATCH, wait_ms(l, timeout_ms));

	if (r < 0 && errno != EINTR)
		return -errno;
	l->n_events = r < 0 ? 0 : r;
	l->now_ms = clock_mono_ms();

	take_next(l);
	r = dispatch(l);
	if (r < 0)
		return r;
	r = run_timers(l);
	if (r < 0)
		return r;
	r = run_deferred(l);
	if (r < 0)
		return r;
	if (l->turn_hook)
		l->turn_hook(l->turn_hook_data);
	return 0;
}

int loop_run(struct loop *l)
{
	l->stopped = false;
	while (!l->stopped) {
		int r = loop_turn(l, -1);
		if (r < 0)
			return r;
	}
	return 0;
}

void loop_stop(struct loop *l)
{
	l->stopped = true;
}

uint64_t loop_now_ms(const struct loop *l)
{
	return l->now_ms;
}

void loop_set_turn_hook(struct loop *l, void (*hook)(void *data), void *data)
{
	l->turn_hook = hook;
	l->turn_hook_data = data;
}

#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/list.h"

/*
 * Event loop: one a thread, epoll, timers, deferred calls, wake-ups from other
 * threads.
 *
 * Watchers, timers and deferred calls are embedded in the objects they serve.
 * Callbacks run on the loop's thread, never block, and return 0, or a negative
 * errno that ends loop_run() with it. A callback must not free the object that
 * it was called for: it defers that with loop_defer(). Removing any watcher or
 * timer inside a callback is allowed, also one whose event is pending: it is
 * not called any more.
 *
 * Nothing here is thread-safe but loop_wake().
 */
struct loop;
struct watch;
struct timer;
struct defer;

typedef int watch_fn(struct watch *w, uint32_t events);	/* EPOLLIN | EPOLLOUT | EPOLLHUP | EPOLLERR | EPOLLRDHUP */
typedef int timer_fn(struct timer *t);
typedef int defer_fn(struct defer *d);

struct watch {
	int fd;			/* not owned */
	uint32_t events : 16;	/* what is asked for now */
	uint32_t ready : 8;	/* what had come when it was put off; EPOLLRDHUP is not kept */
	uint32_t edge : 1;
	uint32_t exclusive : 1;
	watch_fn *fn;
	struct loop *loop;	/* NULL while it is in none */
	struct list put_off;
};

struct timer {
	uint64_t due_ms;	/* monotonic */
	timer_fn *fn;
	struct loop *loop;	/* NULL while it is not armed */
	size_t index;		/* in the heap */
};

struct defer {
	struct list link;
	defer_fn *fn;
};

MUST_CHECK int loop_new(struct loop **ret_loop);
struct loop *loop_free(struct loop *l);

/* Runs until loop_stop() (returns 0) or until a callback fails. */
MUST_CHECK int loop_run(struct loop *l);
/* One turn: waits at most @timeout_ms (-1: for ever), dispatches. For tests and for foreign loops. */
MUST_CHECK int loop_turn(struct loop *l, int timeout_ms);
void loop_stop(struct loop *l);

/* The time of this turn: read once after each wait. */
uint64_t loop_now_ms(const struct loop *l);

/* @edge: EPOLLET. @events may hold EPOLLEXCLUSIVE. The watch is filled in by these calls; it starts zeroed. */
MUST_CHECK int watch_add(struct loop *l, struct watch *w, int fd, uint32_t events, bool edge, watch_fn *fn);
MUST_CHECK int watch_modify(struct watch *w, uint32_t events);
void watch_remove(struct watch *w);	/* before the fd is closed; harmless when it is in no loop */

/*
 * For who has no time for @w now: nothing is heard of it until it is taken up,
 * so that the turns for which it waits cost nothing, also of what this turn has
 * brought for it already. @events: those of the call in its callback; elsewhere 0,
 * as the kernel tells again of what there is when it is taken up. @queue is the
 * caller's, and a watch that is removed leaves it.
 */
void watch_put_off(struct watch *w, uint32_t events, struct list *queue);
/* Calls back with what had come and is still asked for. -ENOMEM, -ENOSPC: @w has kept its place, try again later. */
MUST_CHECK int watch_take_up(struct watch *w);

/* Arms @t anew when it is armed already. -ENOMEM. */
MUST_CHECK int timer_arm(struct loop *l, struct timer *t, uint64_t delay_ms, timer_fn *fn);
void timer_cancel(struct timer *t);

/*
 * Calls @fn once, after the callbacks of this turn, before the next wait. A
 * defer starts zeroed or list_init()ed, and may be deferred again by its own call.
 */
void loop_defer(struct loop *l, struct defer *d, defer_fn *fn);
/* The same, but at the end of the next turn, which comes at once: for the rest of work that would keep others waiting. */
void loop_defer_next(struct loop *l, struct defer *d, defer_fn *fn);
void defer_cancel(struct defer *d);

/*
 * @hook runs at the end of every turn, after the deferred calls: the place
 * where a data path flushes what the turn produced. One per loop.
 */
void loop_set_turn_hook(struct loop *l, void (*hook)(void *data), void *data);

/*
 * From any thread: has the loop call the function given to loop_on_wake(). Many
 * wakes may become one call.
 */
void loop_wake(struct loop *l);
void loop_on_wake(struct loop *l, void (*fn)(void *data), void *data);

/* SIGTERM, SIGINT and the like as a callback. Blocks them in this thread; call it before threads start. */
MUST_CHECK int loop_on_signal(struct loop *l, const int *signals, size_t n_signals, void (*fn)(int signo, void *data), void *data);

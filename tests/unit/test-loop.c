#include "lib/unit.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/loop.h"

static int order[64];
static size_t n_order;

struct tick {
	struct timer timer;
	int id;
};

static int on_tick(struct timer *t)
{
	order[n_order++] = container_of(t, struct tick, timer)->id;
	return 0;
}

static void timers_fire_in_order_of_time(void **state)
{
	struct tick ticks[20] = {};
	struct loop *l;

	(void)state;
	n_order = 0;
	assert_int_equal(loop_new(&l), 0);
	for (int i = 0; i < 20; i++) {
		ticks[i].id = (i * 7) % 20;
		assert_int_equal(timer_arm(l, &ticks[i].timer, (uint64_t)ticks[i].id * 3, on_tick), 0);
	}
	timer_cancel(&ticks[0].timer);		/* id 0 */
	timer_cancel(&ticks[0].timer);
	while (n_order < 19)
		assert_int_equal(loop_turn(l, -1), 0);
	for (int i = 0; i < 19; i++)
		assert_int_equal(order[i], i + 1);
	loop_free(l);
}

struct pair {
	struct watch w[2];
	int calls;
};

static struct pair two;

static int on_readable(struct watch *w, uint32_t events)
{
	assert_true(events & EPOLLIN);
	two.calls++;
	watch_remove(w == &two.w[0] ? &two.w[1] : &two.w[0]);
	watch_remove(w);
	return 0;
}

static void a_watch_removed_in_the_turn_is_not_called(void **state)
{
	int a[2], b[2];
	struct loop *l;

	(void)state;
	two = (struct pair){};
	assert_int_equal(loop_new(&l), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, a), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, b), 0);
	assert_int_equal(watch_add(l, &two.w[0], a[0], EPOLLIN, false, on_readable), 0);
	assert_int_equal(watch_add(l, &two.w[1], b[0], EPOLLIN, false, on_readable), 0);
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "x", 1), 1);
	assert_int_equal(loop_turn(l, 100), 0);
	assert_int_equal(loop_turn(l, 0), 0);
	assert_int_equal(two.calls, 1);
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
	loop_free(l);
}

struct busy {
	struct loop *l;
	struct watch w;
	struct list queue;
	int sock[2];
	uint32_t seen;		/* the events of the last call */
	int calls;
	bool put_off;		/* at each call */
};

static int on_busy(struct watch *w, uint32_t events)
{
	struct busy *b = container_of(w, struct busy, w);

	b->calls++;
	b->seen = events;
	if (b->put_off)
		watch_put_off(w, events, &b->queue);
	return 0;
}

/* Something has come, and has been put off. */
static void busy_begin(struct busy *b)
{
	*b = (struct busy){ .put_off = true };
	list_init(&b->queue);
	assert_int_equal(loop_new(&b->l), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, b->sock), 0);
	assert_int_equal(watch_add(b->l, &b->w, b->sock[0], EPOLLIN, false, on_busy), 0);
	assert_int_equal(write(b->sock[1], "x", 1), 1);
	assert_int_equal(loop_turn(b->l, 100), 0);
	assert_int_equal(b->calls, 1);
	assert_ptr_equal(list_first(&b->queue, struct watch, put_off), &b->w);
}

static void busy_end(struct busy *b)
{
	watch_remove(&b->w);
	assert_true(list_empty(&b->queue));
	assert_int_equal(loop_turn(b->l, 0), 0);
	loop_free(b->l);
	close(b->sock[0]);
	close(b->sock[1]);
}

static void what_is_put_off_is_quiet_until_it_is_taken_up(void **state)
{
	struct busy b;

	(void)state;
	busy_begin(&b);
	watch_put_off(&b.w, EPOLLIN, &b.queue);		/* once is enough */
	assert_int_equal(shutdown(b.sock[1], SHUT_RDWR), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(loop_turn(b.l, 0), 0);
	assert_int_equal(b.calls, 1);
	b.put_off = false;
	assert_int_equal(watch_take_up(&b.w), 0);
	assert_int_equal(b.calls, 2);
	assert_int_equal(b.seen, EPOLLIN);
	assert_true(list_empty(&b.queue));
	assert_int_equal(loop_turn(b.l, 100), 0);	/* and it is heard of again, with what has come meanwhile */
	assert_int_equal(b.calls, 3);
	assert_int_equal(b.seen, EPOLLIN | EPOLLHUP);
	busy_end(&b);
}

static void what_is_put_off_may_change_its_mind(void **state)
{
	struct busy b;

	(void)state;
	busy_begin(&b);
	assert_int_equal(watch_modify(&b.w, EPOLLOUT), 0);
	assert_int_equal(watch_take_up(&b.w), 0);	/* nothing came that it still wants */
	assert_int_equal(b.calls, 1);
	assert_int_equal(loop_turn(b.l, 100), 0);
	assert_int_equal(b.calls, 2);
	assert_int_equal(b.seen, EPOLLOUT);
	busy_end(&b);
}

static void what_is_taken_up_may_be_put_off_again_or_removed(void **state)
{
	struct busy b;

	(void)state;
	busy_begin(&b);
	assert_int_equal(watch_take_up(&b.w), 0);
	assert_int_equal(b.calls, 2);
	assert_false(list_empty(&b.queue));
	watch_remove(&b.w);
	assert_true(list_empty(&b.queue));
	watch_put_off(&b.w, EPOLLIN, &b.queue);		/* too late: harmless */
	assert_true(list_empty(&b.queue));
	b.put_off = false;
	assert_int_equal(watch_add(b.l, &b.w, b.sock[0], EPOLLIN, false, on_busy), 0);
	assert_int_equal(loop_turn(b.l, 100), 0);
	assert_int_equal(b.calls, 3);
	busy_end(&b);
}

/* Of two that the same wait tells of, the first to be called puts off the other. */
struct rivals {
	struct watch w[2];
	struct list queue;
	int calls[2];
};

static struct rivals rivals;

static int on_rival(struct watch *w, uint32_t events)
{
	size_t i = (size_t)(w - rivals.w);

	(void)events;
	rivals.calls[i]++;
	if (rivals.w[!i].loop)
		watch_put_off(&rivals.w[!i], 0, &rivals.queue);
	return 0;
}

static void what_another_puts_off_is_quiet_at_once(void **state)
{
	int a[2], b[2];
	struct loop *l;

	(void)state;
	rivals = (struct rivals){};
	list_init(&rivals.queue);
	assert_int_equal(loop_new(&l), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, a), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, b), 0);
	assert_int_equal(watch_add(l, &rivals.w[0], a[0], EPOLLIN, false, on_rival), 0);
	assert_int_equal(watch_add(l, &rivals.w[1], b[0], EPOLLIN, false, on_rival), 0);
	assert_int_equal(write(a[1], "x", 1), 1);
	assert_int_equal(write(b[1], "x", 1), 1);
	assert_int_equal(loop_turn(l, 100), 0);
	assert_int_equal(rivals.calls[0] + rivals.calls[1], 1);

	size_t other = rivals.calls[0] ? 1 : 0;
	assert_ptr_equal(list_first(&rivals.queue, struct watch, put_off), &rivals.w[other]);
	watch_remove(&rivals.w[!other]);
	assert_int_equal(watch_take_up(&rivals.w[other]), 0);
	assert_int_equal(rivals.calls[other], 0);
	assert_int_equal(loop_turn(l, 100), 0);
	assert_int_equal(rivals.calls[other], 1);		/* what had come is told of again */
	watch_remove(&rivals.w[other]);
	loop_free(l);
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
	}
}

static void what_cannot_be_taken_up_keeps_its_place(void **state)
{
	struct busy b;
	int fd;

	(void)state;
	busy_begin(&b);
	fd = b.w.fd;
	b.w.fd = -1;			/* the kernel refuses it */
	assert_int_equal(watch_take_up(&b.w), -EBADF);
	assert_int_equal(b.calls, 1);
	assert_ptr_equal(list_first(&b.queue, struct watch, put_off), &b.w);
	b.w.fd = fd;
	b.put_off = false;
	assert_int_equal(watch_take_up(&b.w), 0);
	assert_int_equal(b.calls, 2);
	busy_end(&b);
}

static int on_defer(struct defer *d)
{
	(void)d;
	order[n_order++] = 1;
	return 0;
}

static int failing(struct defer *d)
{
	(void)d;
	return -EIO;
}

struct rest {
	struct defer d;
	struct loop *l;
	int n;
};

static int on_rest(struct defer *d)
{
	struct rest *r = container_of(d, struct rest, d);

	if (++r->n < 3)
		loop_defer_next(r->l, &r->d, on_rest);
	return 0;
}

static void what_is_put_off_to_the_next_turn_runs_once_a_turn_without_a_wait(void **state)
{
	struct rest r = {};
	struct defer cancelled = {};

	(void)state;
	assert_int_equal(loop_new(&r.l), 0);
	loop_defer_next(r.l, &r.d, on_rest);
	loop_defer_next(r.l, &r.d, on_rest);
	loop_defer_next(r.l, &cancelled, failing);
	defer_cancel(&cancelled);
	for (int i = 1; i <= 3; i++) {
		assert_int_equal(loop_turn(r.l, -1), 0);	/* for ever, if it waited */
		assert_int_equal(r.n, i);
	}
	assert_int_equal(loop_turn(r.l, 0), 0);
	assert_int_equal(r.n, 3);
	loop_free(r.l);
}

static void deferred_calls_run_once_and_errors_come_out(void **state)
{
	struct defer d = {}, bad = {};
	struct loop *l;

	(void)state;
	n_order = 0;
	assert_int_equal(loop_new(&l), 0);
	loop_defer(l, &d, on_defer);
	loop_defer(l, &d, on_defer);
	assert_int_equal(loop_turn(l, -1), 0);
	assert_int_equal(loop_turn(l, 0), 0);
	assert_int_equal(n_order, 1);
	loop_defer(l, &bad, failing);
	loop_defer(l, &d, on_defer);
	defer_cancel(&d);
	assert_int_equal(loop_run(l), -EIO);
	assert_int_equal(n_order, 1);
	loop_free(l);
}

static void on_woken(void *data)
{
	loop_stop(data);
}

static void *waker(void *data)
{
	loop_wake(data);
	return NULL;
}

static void another_thread_can_wake_it(void **state)
{
	pthread_t thread;
	struct loop *l;

	(void)state;
	assert_int_equal(loop_new(&l), 0);
	loop_on_wake(l, on_woken, l);
	assert_int_equal(pthread_create(&thread, NULL, waker, l), 0);
	assert_int_equal(loop_run(l), 0);
	pthread_join(thread, NULL);
	loop_free(l);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(timers_fire_in_order_of_time),
		cmocka_unit_test(a_watch_removed_in_the_turn_is_not_called),
		cmocka_unit_test(what_is_put_off_is_quiet_until_it_is_taken_up),
		cmocka_unit_test(what_is_put_off_may_change_its_mind),
		cmocka_unit_test(what_is_taken_up_may_be_put_off_again_or_removed),
		cmocka_unit_test(what_another_puts_off_is_quiet_at_once),
		cmocka_unit_test(what_cannot_be_taken_up_keeps_its_place),
		cmocka_unit_test(deferred_calls_run_once_and_errors_come_out),
		cmocka_unit_test(what_is_put_off_to_the_next_turn_runs_once_a_turn_without_a_wait),
		cmocka_unit_test(another_thread_can_wake_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Sockets of connections whose watch the kernel refuses.
 */
#include "lib/unit.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/sock.h"

static int n_calls;

static int on_events(struct watch *w, uint32_t events)
{
	(void)w;
	assert_int_equal(events, EPOLLIN);
	n_calls++;
	return 0;
}

/* epoll takes no file: it stands for one for which the kernel has no memory. */
static void refuse(int fd)
{
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	assert_true(file >= 0);
	assert_int_equal(dup2(file, fd), fd);
	close(file);
}

static void what_could_not_be_watched_is_watched_later(void **state)
{
	struct loop *l;
	struct sock s;
	int pair[2], fd;

	(void)state;
	assert_int_equal(loop_new(&l), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	fd = dup(pair[0]);
	sock_init(&s);
	assert_int_equal(sock_add(&s, l, fd, false, on_events), 0);
	sock_unwatch(&s);
	refuse(fd);
	sock_read(&s, true);
	assert_int_equal(dup2(pair[0], fd), fd);	/* now there is memory */
	assert_int_equal(write(pair[1], "x", 1), 1);
	assert_int_equal(loop_turn(l, 0), 0);
	assert_int_equal(n_calls, 0);
	sock_tick(&s);
	assert_int_equal(loop_turn(l, 100), 0);
	assert_int_equal(n_calls, 1);
	sock_tick(&s);			/* it is */
	sock_close(&s, false);
	sock_tick(&s);			/* nothing to watch */
	assert_int_equal(loop_turn(l, 0), 0);
	assert_int_equal(n_calls, 1);
	loop_free(l);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_could_not_be_watched_is_watched_later),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

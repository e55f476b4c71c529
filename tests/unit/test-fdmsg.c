#include "lib/unit.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/fdmsg.h"

static void a_message_brings_its_descriptors(void **state)
{
	int s[2], p[2], got[4];
	char text[16], c;
	size_t n;

	(void)state;
	assert_int_equal(fdmsg_pair(s), 0);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(fdmsg_send(s[0], "hello", 5, p, 2), 0);
	close(p[0]);
	close(p[1]);
	assert_int_equal(fdmsg_recv(s[1], text, sizeof(text), got, 4, &n), 5);
	assert_memory_equal(text, "hello", 5);
	assert_int_equal(n, 2);
	assert_int_equal(write(got[1], "x", 1), 1);
	assert_int_equal(read(got[0], &c, 1), 1);
	close(got[0]);
	close(got[1]);
	close(s[0]);
	assert_int_equal(fdmsg_recv(s[1], text, sizeof(text), got, 4, &n), 0);
	close(s[1]);
}

static void one_that_does_not_fit_is_dropped_whole(void **state)
{
	int s[2], got[1];
	char text[4];
	size_t n;

	(void)state;
	assert_int_equal(fdmsg_pair(s), 0);
	assert_int_equal(fdmsg_send(s[0], "too long", 8, s, 1), 0);
	assert_int_equal(fdmsg_send(s[0], "ok", 2, NULL, 0), 0);
	assert_int_equal(fdmsg_recv(s[1], text, sizeof(text), got, 1, &n), -EMSGSIZE);
	assert_int_equal(n, 0);
	assert_int_equal(fdmsg_recv(s[1], text, sizeof(text), got, 1, &n), 2);
	assert_int_equal(fdmsg_recv(s[1], text, sizeof(text), got, 1, &n), -EAGAIN);
	close(s[0]);
	close(s[1]);
}

/* As a stranger may send it, so that whoever takes it for the end keeps its descriptors. */
static void a_message_of_nothing_brings_nothing(void **state)
{
	int s[2], p[2], got[1];
	char text[4];
	size_t n;

	(void)state;
	assert_int_equal(fdmsg_pair(s), 0);
	assert_int_equal(pipe(p), 0);
	signal(SIGPIPE, SIG_IGN);
	assert_int_equal(fdmsg_send(s[0], "", 0, &p[0], 1), 0);
	close(p[0]);
	assert_int_equal(fdmsg_recv(s[1], text, sizeof(text), got, 1, &n), 0);
	assert_int_equal(n, 0);
	assert_int_equal(write(p[1], "x", 1), -1);	/* no reader is left */
	assert_int_equal(errno, EPIPE);
	close(p[1]);
	close(s[0]);
	close(s[1]);
}

static void the_largest_message_passes(void **state)
{
	static char big[FDMSG_MAX_LEN + 1];
	int s[2];
	size_t n;

	(void)state;
	assert_int_equal(fdmsg_pair(s), 0);
	assert_int_equal(fdmsg_send(s[0], big, sizeof(big), NULL, 0), -EMSGSIZE);
	assert_int_equal(fdmsg_send(s[0], big, FDMSG_MAX_LEN, NULL, 0), 0);
	assert_int_equal(fdmsg_recv(s[1], big, sizeof(big), NULL, 0, &n), FDMSG_MAX_LEN);
	close(s[0]);
	close(s[1]);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_brings_its_descriptors),
		cmocka_unit_test(one_that_does_not_fit_is_dropped_whole),
		cmocka_unit_test(a_message_of_nothing_brings_nothing),
		cmocka_unit_test(the_largest_message_passes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "lib/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/sandbox.h"
#include "base/sandbox_calls.h"

#ifndef __has_feature			/* gcc defines the macros, clang the features */
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

/* Runs @fn in a child under the filter; its exit status, or -signal. */
static int confined(unsigned groups, int (*fn)(void))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (!pid) {
		const struct sandbox_user stay = { .uid = (uid_t)-1 };
		struct diag d;

		if (sandbox_drop(&stay, &d) < 0 || sandbox_confine(groups, &d) < 0)
			_exit(99);
		_exit(fn());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static void *nothing(void *data)
{
	return data;
}

static int start_thread(void)
{
	pthread_t t;

	if (pthread_create(&t, NULL, nothing, NULL))
		return 1;
	return pthread_join(t, NULL) ? 2 : 0;
}

static int make_process(void)
{
	pid_t pid = fork();

	if (pid < 0)
		return errno == ENOSYS ? 1 : 2;
	if (!pid)
		_exit(0);
	return waitpid(pid, NULL, 0) == pid ? 0 : 3;
}

static int make_sockets(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0)
		return 1;
	close(fd);
	return socket(AF_PACKET, SOCK_RAW, 0) < 0 && errno == ENOSYS ? 0 : 2;
}

static int make_loop(void)
{
	return epoll_create1(0) >= 0 ? 0 : errno == ENOSYS ? 1 : 2;
}

static int read_file(void)
{
	int fd = open("/proc/self/stat", O_RDONLY);

	return fd >= 0 ? 0 : errno == ENOSYS ? 1 : 2;
}

static int write_file(void)
{
	int fd = open("/dev/null", O_WRONLY);

	return fd >= 0 ? 0 : errno == ENOSYS ? 1 : 2;
}

static int allocate(void)
{
	char *p = malloc(64 << 20);

	if (!p)
		return 1;
	memset(p, 1, 64 << 20);
	free(p);
	return 0;
}

static int run_data(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return 1;
	if (mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0)
		return 2;
	return mmap(NULL, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? 0 : 3;
}

/* What a program that is started needs, and no more: code from files, which nobody writes to meanwhile. */
static int load_a_library(void)
{
	int fd = open("/proc/self/exe", O_RDONLY);

	if (fd < 0 || mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED)
		return 1;
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, fd, 0) != MAP_FAILED)
		return 2;
	return run_data();
}

static int mount_something(void)
{
	return mount("none", "/nowhere", "tmpfs", 0, NULL) < 0 ? 1 : 0;
}

static int an_odd_call(void)
{
	return syscall(SYS_mlockall, 0) < 0 && errno == ENOSYS ? 1 : 0;
}

static int serve_sockets(void)
{
	struct pollfd p = { .fd = -1 };
	int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 || close(fd) < 0)
		return 1;
	return poll(&p, 1, 0) == 0 ? 0 : 2;
}

static int make_netlink(void)
{
	return socket(AF_NETLINK, SOCK_RAW, 0) < 0 ? 1 : 0;
}

static int execute(void)
{
	execl("/bin/true", "true", NULL);
	return 1;
}

static int trace(void)
{
	return ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0 ? 1 : 0;
}

static int give_up(void)
{
	abort();
}

static void a_group_allows_what_it_says_and_no_more(void **state)
{
	(void)state;
	if (SANITIZED)
		skip();
	assert_int_equal(confined(0, allocate), 0);
	assert_int_equal(confined(0, make_loop), 1);
	assert_int_equal(confined(SANDBOX_LOOP, make_loop), 0);
	assert_int_equal(confined(SANDBOX_THREADS, start_thread), 0);
	assert_int_equal(confined(SANDBOX_LOOP, start_thread), 1);
	assert_int_equal(confined(SANDBOX_THREADS, make_process), 1);
	assert_int_equal(confined(SANDBOX_PROCESSES, make_process), 0);
	assert_int_equal(confined(SANDBOX_SOCKETS, make_sockets), 0);
	assert_int_equal(confined(0, make_sockets), 1);
	assert_int_equal(confined(SANDBOX_READ_FILES, read_file), 0);
	assert_int_equal(confined(SANDBOX_READ_FILES, write_file), 1);
	assert_int_equal(confined(SANDBOX_WRITE_FILES, write_file), 0);
	assert_int_equal(confined(SANDBOX_LOOP, read_file), 1);
}

static void memory_never_becomes_code(void **state)
{
	(void)state;
	if (SANITIZED)
		skip();
	assert_int_equal(confined(0xffff & ~(SANDBOX_PROCESSES | SANDBOX_SOCKD), run_data), 0);
}

static void the_monitor_is_confined_too(void **state)
{
	enum { MONITOR = 0xffff & ~SANDBOX_SOCKD };

	(void)state;
	if (SANITIZED)
		skip();
	assert_int_equal(confined(MONITOR, load_a_library), 0);
	assert_int_equal(confined(MONITOR, make_process), 0);
	assert_int_equal(confined(MONITOR, an_odd_call), 1);
	assert_int_equal(confined(MONITOR, mount_something), -SIGSYS);
	assert_int_equal(confined(MONITOR, trace), -SIGSYS);
	assert_int_equal(confined(MONITOR, give_up), -SIGABRT);
}

static void the_socket_helper_makes_sockets_or_dies(void **state)
{
	(void)state;
	if (SANITIZED)
		skip();
	assert_int_equal(confined(SANDBOX_SOCKD, serve_sockets), 0);
	assert_int_equal(confined(SANDBOX_SOCKD, make_netlink), -SIGSYS);
	assert_int_equal(confined(SANDBOX_SOCKD, read_file), -SIGSYS);
	assert_int_equal(confined(SANDBOX_SOCKD, an_odd_call), -SIGSYS);
}

/* The table holds no call twice: what a second row would say could be overlooked. */
static void each_call_has_one_row(void **state)
{
	(void)state;
	for (size_t i = 0; i < sandbox_n_calls; i++)
		for (size_t k = i + 1; k < sandbox_n_calls; k++)
			assert_true(sandbox_calls[i].nr != sandbox_calls[k].nr);
	for (size_t i = 0; i < sandbox_n_attacks; i++)
		for (size_t k = 0; k < sandbox_n_calls; k++)
			if (sandbox_attacks[i].nr == sandbox_calls[k].nr)
				assert_int_equal(sandbox_attacks[i].groups, sandbox_calls[k].groups);
}

static void an_attack_ends_the_process(void **state)
{
	(void)state;
	if (SANITIZED)
		skip();
	assert_int_equal(confined(SANDBOX_LOOP | SANDBOX_SOCKETS, execute), -SIGSYS);
	assert_int_equal(confined(SANDBOX_LOOP, trace), -SIGSYS);
	assert_int_equal(confined(SANDBOX_PROCESSES | SANDBOX_READ_FILES, give_up), -SIGABRT);
}

static int look_at_myself(void)
{
	struct rlimit core;

	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || prctl(PR_GET_DUMPABLE) != 0)
		return 1;
	if (getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_cur || core.rlim_max)
		return 2;
	return 0;
}

static void rights_are_gone_for_good(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	if (!pid) {
		struct sandbox_user user = { .uid = (uid_t)-1 };
		struct diag d;

		if (geteuid() == 0 && sandbox_user_parse("nobody", &user, &d) < 0)
			_exit(3);
		if (sandbox_drop(&user, &d) < 0)
			_exit(4);
		if (geteuid() == 0 || setuid(0) == 0 || socket(AF_PACKET, SOCK_RAW, 0) >= 0)
			_exit(5);
		_exit(look_at_myself());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void users_have_names_or_numbers(void **state)
{
	struct sandbox_user u;
	struct diag d;

	(void)state;
	assert_int_equal(sandbox_user_parse("root", &u, &d), 0);
	assert_int_equal(u.uid, 0);
	assert_int_equal(u.gid, 0);
	assert_int_equal(sandbox_user_parse("1234:root", &u, &d), 0);
	assert_int_equal(u.uid, 1234);
	assert_int_equal(u.gid, 0);
	assert_int_equal(sandbox_user_parse("77", &u, &d), 0);
	assert_int_equal(u.gid, 77);
	assert_int_equal(sandbox_user_parse("no such one", &u, &d), -EINVAL);
	assert_string_equal(d.msg, "there is no user \"no such one\"");
	assert_int_equal(sandbox_user_parse("root:no such one", &u, &d), -EINVAL);
	assert_int_equal(sandbox_user_parse("", &u, &d), -EINVAL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_group_allows_what_it_says_and_no_more),
		cmocka_unit_test(memory_never_becomes_code),
		cmocka_unit_test(an_attack_ends_the_process),
		cmocka_unit_test(the_monitor_is_confined_too),
		cmocka_unit_test(the_socket_helper_makes_sockets_or_dies),
		cmocka_unit_test(each_call_has_one_row),
		cmocka_unit_test(rights_are_gone_for_good),
		cmocka_unit_test(users_have_names_or_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * fork and exec.
 */
#include "ctl/envoy_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static bool has_arg(char *const *args, unsigned n, const char *name)
{
	for (unsigned i = 0; i < n; i++)
		if (!strcmp(args[i], name) || (!strncmp(args[i], name, strlen(name)) && args[i][strlen(name)] == '='))
			return true;
	return false;
}

static void add_default(const char **argv, unsigned *n, char *const *args, unsigned n_args, const char *name, const char *value)
{
	if (has_arg(args, n_args, name))
		return;
	argv[(*n)++] = name;
	if (value)
		argv[(*n)++] = value;
}

/* In the child. Says why exec failed through @error_fd, which exec closes. */
static void become(const char *program, const char *const *argv, pid_t parent, int error_fd)
{
	sigset_t none;
	int error;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(1);		/* it died between the two calls */
	execvp(program, (char *const *)(uintptr_t)argv);
	error = errno;
	if (write(error_fd, &error, sizeof(error)) < 0)
		_exit(126);
	_exit(127);
}

int envoy_process_start(const char *program, const char *bootstrap_path, char *const *args, unsigned n_args, pid_t *ret_pid)
{
	const char *argv[ENVOY_ARGS_MAX + 16] = { program, "--config-path", bootstrap_path };
	unsigned n = 3;
	int fds[2], error = 0;
	pid_t self = getpid(), pid;

	if (n_args > ENVOY_ARGS_MAX)
		return -E2BIG;
	add_default(argv, &n, args, n_args, "--disable-hot-restart", NULL);	/* whose shared memory several Envoys would fight over */
	add_default(argv, &n, args, n_args, "--concurrency", "2");
	add_default(argv, &n, args, n_args, "--log-level", "warning");
	add_default(argv, &n, args, n_args, "--file-flush-interval-msec", "250");	/* of the access log: 10 s otherwise */
	for (unsigned i = 0; i < n_args; i++)
		argv[n++] = args[i];
	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0)
		become(program, argv, self, fds[1]);
	if (pid < 0)
		error = errno;
	close_fd(fds[1]);
	if (pid > 0 && read(fds[0], &error, sizeof(error)) != sizeof(error))
		error = 0;		/* closed by exec: it runs */
	close_fd(fds[0]);
	if (error)
		return -error;
	*ret_pid = pid;
	return 0;
}

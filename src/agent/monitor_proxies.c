/*
 * Starting proxies: fork, a uid of its own, two ambient capabilities, exec.
 */
#include "agent/monitor_proxies.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "agent/monitor_folders.h"

enum { FIRST_FD = 3 };

int monitor_proxies_init(struct monitor_proxies *p, const struct steer_conf *conf)
{
	*p = (struct monitor_proxies){ .conf = conf };
	monitor_users_init(&p->users, conf);
	p->list = calloc(conf->max_proxies, sizeof(*p->list));
	return p->list ? 0 : -ENOMEM;
}

void monitor_proxies_deinit(struct monitor_proxies *p)
{
	monitor_users_deinit(&p->users);
	free(p->list);
	p->list = NULL;
}

/* --- in the child --- */

/* Descriptors become 3, 4, ...: first out of the way, since they may be each other's numbers. The report's new number, or a negative errno. */
static int place_fds(const int *fds, size_t n_fds, int report)
{
	int away[MONITOR_MAX_FDS], end = FIRST_FD + (int)n_fds;

	if (n_fds > ELEMENTS(away))
		return -EINVAL;
	report = fcntl(report, F_DUPFD_CLOEXEC, end);
	if (report < 0)
		return -errno;
	for (size_t i = 0; i < n_fds; i++) {
		away[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, end);
		if (away[i] < 0)
			return -errno;
	}
	for (size_t i = 0; i < n_fds; i++)
		if (dup2(away[i], FIRST_FD + (int)i) < 0)
			return -errno;
	(void)!close_range((unsigned)(FIRST_FD + n_fds), (unsigned)report - 1, 0);
	(void)!close_range((unsigned)report + 1, ~0U, 0);
	return report;
}

static int become(const struct monitor_proxies *p, const char *group, uid_t uid)
{
	gid_t common = steer_conf_proxies_gid(p->conf);
	int r;

	if (setgroups(1, &common) < 0 || setresgid(uid, uid, uid) < 0)
		return -errno;
	r = monitor_folder_make(p->conf->proxies_dir, group, uid);
	if (r < 0)
		return r;
	capng_clear(CAPNG_SELECT_BOUNDS);
	if (capng_updatev(CAPNG_ADD, CAPNG_BOUNDING_SET, CAP_NET_ADMIN, CAP_NET_RAW, -1) < 0 || capng_apply(CAPNG_SELECT_BOUNDS) < 0)
		return -EPERM;
	if (prctl(PR_SET_KEEPCAPS, 1) < 0 || setresuid(uid, uid, uid) < 0)
		return -errno;
	capng_clear(CAPNG_SELECT_CAPS);
	if (capng_updatev(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_INHERITABLE,
			  CAP_NET_ADMIN, CAP_NET_RAW, -1) < 0 || capng_apply(CAPNG_SELECT_CAPS) < 0)
		return -EPERM;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0) < 0 ||
	    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_RAW, 0, 0) < 0)
		return -errno;
	return 0;
}

static _Noreturn void child(const struct monitor_proxies *p, const char *group, uid_t uid, char *const *argv,
			    const int *fds, size_t n_fds, int report)
{
	static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
	char *const env[] = { path, NULL };
	sigset_t none;
	int r = place_fds(fds, n_fds, report);

	if (r >= 0) {
		report = r;
		r = become(p, group, uid);
	}
	if (r >= 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		signal(SIGPIPE, SIG_DFL);
		setsid();
		execve(p->conf->proxy_path, argv, env);
		r = -errno;
	}
	(void)!write(report, &r, sizeof(r));
	_exit(127);
}

/* --- in the monitor --- */

static struct monitor_proxy *find_free(struct monitor_proxies *p)
{
	for (uint32_t i = 0; i < p->conf->max_proxies; i++)
		if (!p->list[i].id)
			return &p->list[i];
	return NULL;
}

/* Nothing comes when the exec worked: its end of the pipe was closed by it. */
static int read_report(int fd)
{
	int r = 0;
	ssize_t n;

	do
		n = read(fd, &r, sizeof(r));
	while (n < 0 && errno == EINTR);
	return n == sizeof(r) && r < 0 ? r : 0;
}

int monitor_proxies_spawn(struct monitor_proxies *p, const char *group, char *const *argv, const int *fds, size_t n_fds,
			  uint32_t *ret_id, pid_t *ret_pid)
{
	struct monitor_proxy *slot = find_free(p);
	int report[2];
	uid_t uid;
	int r;

	if (!slot)
		return -EMFILE;
	r = monitor_users_give(&p->users, group, &uid);
	if (r < 0)
		return r;
	if (pipe2(report, O_CLOEXEC) < 0)
		return -errno;

	pid_t pid = fork();
	if (pid == 0)
		child(p, group, uid, argv, fds, n_fds, report[1]);

	r = pid < 0 ? -errno : 0;
	close(report[1]);
	if (r == 0)
		r = read_report(report[0]);
	close(report[0]);
	if (r == 0) {
		r = monitor_users_started(&p->users, group, pid);
		if (r < 0)
			kill(pid, SIGKILL);
	}
	if (r < 0) {
		if (pid > 0)
			waitpid(pid, NULL, 0);
		return r;
	}
	*slot = (struct monitor_proxy){ .id = ++p->last_id, .pid = pid };
	snprintf(slot->group, sizeof(slot->group), "%s", group);
	*ret_id = slot->id;
	*ret_pid = pid;
	return 0;
}

int monitor_proxies_signal(struct monitor_proxies *p, uint32_t id, int signo)
{
	for (uint32_t i = 0; id && i < p->conf->max_proxies; i++)
		if (p->list[i].id == id)	/* not reaped yet, so the pid is still its own */
			return kill(p->list[i].pid, signo) < 0 ? -errno : 0;
	return -ESRCH;
}

int monitor_proxies_reap(struct monitor_proxies *p, uint32_t *ret_id, pid_t *ret_pid, int *ret_status)
{
	for (uint32_t i = 0; i < p->conf->max_proxies; i++) {
		struct monitor_proxy *slot = &p->list[i];
		int status;

		if (!slot->id || waitpid(slot->pid, &status, WNOHANG) != slot->pid)
			continue;
		*ret_id = slot->id;
		*ret_pid = slot->pid;
		*ret_status = status;
		if (monitor_users_are_idle(&p->users, slot->group))
			monitor_folder_remove(p->conf->proxies_dir, slot->group);
		*slot = (struct monitor_proxy){};
		return 0;
	}
	return -ECHILD;
}

/*
 * The root monitor: receives a request, has it run, answers. Everything that
 * it may be asked is in monitor_ops.c.
 */
#include "agent/monitor.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "agent/monitor_jail.h"
#include "agent/monitor_ops.h"
#include "base/fdmsg.h"
#include "base/log.h"
#include "base/loop.h"

enum {
	SWEEP_MS = 10000,
	SWEEP_OLDER_THAN_S = 30,

	BPF_FS = 0xcafe4a11,
};

struct monitor {
	pid_t worker;
	struct loop *loop;
	struct watch watch;
	struct timer sweep;
	int sock;
	struct monitor_state state;
	struct {
		struct monitor_header h;
		uint8_t body[MONITOR_MSG_MAX - sizeof(struct monitor_header)];
	} in, out;
};

static int odd(const char *what, uint32_t op)
{
	log_error("the worker made a request that it cannot have made: stopping", log_str("what", what), log_int("op", op));
	return -EPROTO;
}

/* --- requests --- */

static int answer(struct monitor *m, struct monitor_request *q, int result)
{
	m->out.h = (struct monitor_header){ .op = m->in.h.op, .call = m->in.h.call, .result = result };
	if (result < 0)
		q->out_len = q->n_out_fds = 0;
	return fdmsg_send(m->sock, &m->out, sizeof(m->out.h) + q->out_len, q->out_fds, q->n_out_fds);
}

static int serve(struct monitor *m, size_t len, const int *fds, size_t n_fds)
{
	struct monitor_request q = {
		.in = m->in.body, .in_len = len - sizeof(m->in.h), .fds = fds, .n_fds = n_fds, .out = m->out.body,
		.out_fds = { -1, -1 },
	};
	int r = monitor_ops_run(&m->state, m->in.h.op, &q);
	int e = r == MONITOR_OPS_E_ODD ? odd("body", m->in.h.op) : answer(m, &q, r);

	for (size_t i = 0; i < ELEMENTS(q.out_fds); i++)
		close_fd(q.out_fds[i]);
	if (e == -EAGAIN)
		return odd("it does not read its answers", m->in.h.op);
	return e;
}

static int on_request(struct watch *w, uint32_t events)
{
	struct monitor *m = container_of(w, struct monitor, watch);
	int fds[MONITOR_MAX_FDS];
	size_t n_fds = 0;

	(void)events;
	ssize_t n = fdmsg_recv(m->sock, &m->in, sizeof(m->in), fds, ELEMENTS(fds), &n_fds);
	if (n == -EAGAIN)
		return 0;
	if (n == 0 || n == -ECONNRESET) {	/* the worker has ended */
		loop_stop(m->loop);
		return 0;
	}
	if (n < 0)
		return (int)n;

	int r = (size_t)n < sizeof(m->in.h) ? odd("header", 0) : serve(m, (size_t)n, fds, n_fds);
	while (n_fds)
		close_fd(fds[--n_fds]);
	if (r == -EPIPE || r == -ECONNRESET) {
		loop_stop(m->loop);
		return 0;
	}
	return r;
}

/* --- what happens by itself --- */

static void on_signal(int signo, void *data)
{
	struct monitor *m = data;
	struct {
		struct monitor_header h;
		struct monitor_exit e;
	} msg = { .h.op = MONITOR_OP_EXITED };

	if (signo == SIGHUP) {
		if (m->worker && kill(m->worker, SIGHUP) < 0)
			log_warn("the worker could not be told to read its configuration again", log_errno(errno));
		return;
	}
	if (signo != SIGCHLD) {
		loop_stop(m->loop);
		return;
	}
	while (monitor_proxies_reap(&m->state.proxies, &msg.e.proxy, &msg.e.pid, &msg.e.status) == 0)
		if (fdmsg_send(m->sock, &msg, sizeof(msg), NULL, 0) < 0)
			log_warn("the worker could not be told of a proxy's end", log_int("pid", msg.e.pid));
}

static int on_sweep(struct timer *t)
{
	struct monitor *m = container_of(t, struct monitor, sweep);
	uint32_t seen, removed;

	if (m->state.loaded) {
		int r = steer_bpf_sweep(&m->state.bpf, SWEEP_OLDER_THAN_S, &seen, &removed);
		if (r < 0)
			log_warn("flows could not be swept", log_errno(r));
		else if (removed)
			log_debug("flows swept", log_int("seen", seen), log_int("removed", removed));
	}
	return timer_arm(m->loop, &m->sweep, SWEEP_MS, on_sweep);
}

/* --- life --- */

/* A mount takes a right that is given up next, so it is done here. */
static int mount_bpffs(const struct steer_conf *conf)
{
	static const char dir[] = "/sys/fs/bpf";
	struct statfs s;

	if (strncmp(conf->pin_dir, dir, sizeof(dir) - 1) || statfs(dir, &s) < 0 || (uint32_t)s.f_type == BPF_FS)
		return 0;
	return mount("bpf", dir, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700") < 0 ? -errno : 0;
}

static int set_up(struct monitor *m, const struct steer_conf *conf, int sock)
{
	static const int signals[] = { SIGCHLD, SIGTERM, SIGINT, SIGHUP };

	m->sock = sock;
	m->state.conf = conf;
	int r = mount_bpffs(conf);
	if (r < 0)
		log_warn("bpffs could not be mounted: steering will not outlive the agent", log_errno(r));
	r = monitor_jail_monitor();
	if (r < 0)
		return r;
	r = monitor_proxies_init(&m->state.proxies, conf);
	if (r < 0)
		return r;
	r = loop_new(&m->loop);
	if (r < 0)
		return r;
	r = loop_on_signal(m->loop, signals, ELEMENTS(signals), on_signal, m);
	if (r < 0)
		return r;
	r = watch_add(m->loop, &m->watch, sock, EPOLLIN, false, on_request);
	if (r < 0)
		return r;
	return timer_arm(m->loop, &m->sweep, SWEEP_MS, on_sweep);
}

int monitor_run(const struct steer_conf *conf, int sock, pid_t worker)
{
	CLEANUP_FREE struct monitor *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->worker = worker;
	int r = set_up(m, conf, sock);
	if (r == 0)
		r = loop_run(m->loop);
	monitor_ops_unload(&m->state);
	monitor_proxies_deinit(&m->state.proxies);
	loop_free(m->loop);
	close_fd(sock);
	return r;
}

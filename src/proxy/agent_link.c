/*
 * One SEQPACKET socket to the agent, and the one on which its successor comes.
 */
#include "proxy/agent_link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/fdmsg.h"
#include "base/list.h"
#include "base/secret.h"
#include "mesh/pb.h"

enum { MESSAGES_A_TURN = 64 };

struct queued {
	struct list link;
	int fd;				/* ours; -1: none */
	size_t len;
	uint8_t data[];
};

static char binary[96];			/* fixed before the first link */

struct agent_link {
	struct loop *loop;
	const char *group;
	struct agent_link_ops ops;
	void *data;

	int fd;				/* -1: no agent */
	bool greeted;
	struct watch watch;
	struct list queue;
	size_t queued_bytes;
	uint8_t *buffer;		/* FDMSG_MAX_LEN */
	uid_t agent_uid;		/* of the first agent */

	int resume_fd;			/* -1: not listening */
	struct watch resume_watch;
	char resume_path[108];
};

static void queued_free(struct queued *q)
{
	list_unlink(&q->link);
	close_fd(q->fd);
	free(q);
}

static void queue_clear(struct agent_link *l)
{
	list_for_each_safe(link, &l->queue)
		queued_free(list_entry(link, struct queued, link));
	l->queued_bytes = 0;
}

static void hang_up(struct agent_link *l)
{
	watch_remove(&l->watch);
	l->fd = close_fd(l->fd);
	l->greeted = false;
	queue_clear(l);
}

static void lose(struct agent_link *l, const char *why)
{
	hang_up(l);
	l->ops.gone(l->data, why);
}

/* --- sending --- */

static int flush(struct agent_link *l)
{
	while (!list_empty(&l->queue)) {
		struct queued *q = list_first(&l->queue, struct queued, link);
		int r = fdmsg_send(l->fd, q->data, q->len, &q->fd, q->fd >= 0);

		if (r < 0)
			return r;
		l->queued_bytes -= q->len;
		queued_free(q);
	}
	return watch_modify(&l->watch, EPOLLIN);
}

static int enqueue(struct agent_link *l, const uint8_t *data, size_t len, int fd, bool bulk)
{
	struct queued *q;

	if (l->queued_bytes + len > (size_t)(bulk ? AGENT_LINK_QUEUE_MAX / 2 : AGENT_LINK_QUEUE_MAX))
		return -ENOBUFS;
	q = malloc(sizeof(*q) + len);
	if (!q)
		return -ENOMEM;
	q->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
	if (fd >= 0 && q->fd < 0) {
		free(q);
		return -errno;
	}
	q->len = len;
	memcpy(q->data, data, len);
	list_append(&l->queue, &q->link);
	l->queued_bytes += len;
	return watch_modify(&l->watch, EPOLLIN | EPOLLOUT);
}

static int send_message(struct agent_link *l, const Outrigger__Ipc__ToAgent *m, int fd, bool bulk)
{
	CLEANUP_SECRET uint8_t *data = NULL;
	size_t len;
	int r;

	if (l->fd < 0)
		return -ENOTCONN;
	r = pb_pack(&m->base, &data, &len);
	if (r < 0)
		return r;
	if (len > FDMSG_MAX_LEN)
		return -EMSGSIZE;
	r = list_empty(&l->queue) ? fdmsg_send(l->fd, data, len, &fd, fd >= 0) : -EAGAIN;
	return r == -EAGAIN ? enqueue(l, data, len, fd, bulk) : r;
}

int agent_link_send(struct agent_link *l, const Outrigger__Ipc__ToAgent *m, bool bulk)
{
	return send_message(l, m, -1, bulk);
}

int agent_link_send_fd(struct agent_link *l, const Outrigger__Ipc__ToAgent *m, int fd)
{
	return send_message(l, m, fd, false);
}

void agent_link_find_binary(void)
{
	struct stat st;

	if (stat("/proc/self/exe", &st) == 0)
		snprintf(binary, sizeof(binary), "%llu:%llu:%lld:%lld", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino,
			 (long long)st.st_size, (long long)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
}

static int say_hello(struct agent_link *l)
{
	Outrigger__Ipc__ToAgent m = OUTRIGGER__IPC__TO_AGENT__INIT;
	Outrigger__Ipc__Hello hello = OUTRIGGER__IPC__HELLO__INIT;
	char software[] = "outrigger-proxy " OUTRIGGER_VERSION;

	hello.version = IPC_VERSION;
	hello.software = software;
	hello.pid = (uint32_t)getpid();
	hello.group = (char *)(uintptr_t)l->group;
	hello.binary = binary;
	hello.vm_ids = l->ops.vm_ids(l->data, &hello.n_vm_ids);
	m.msg_case = OUTRIGGER__IPC__TO_AGENT__MSG_HELLO;
	m.hello = &hello;
	return agent_link_send(l, &m, false);
}

/* --- receiving --- */

static void close_fds(int *fds, size_t n_fds)
{
	for (size_t i = 0; i < n_fds; i++)
		fds[i] = close_fd(fds[i]);
}

static void take(struct agent_link *l, const Outrigger__Ipc__ToProxy *m, int *fds, size_t n_fds)
{
	char why[96];

	if (m->msg_case == OUTRIGGER__IPC__TO_PROXY__MSG_HELLO) {
		if (m->hello->version != IPC_VERSION) {
			snprintf(why, sizeof(why), "the agent speaks version %u of the protocol, we speak %d", m->hello->version, IPC_VERSION);
			lose(l, why);
			return;
		}
		l->greeted = true;
		l->ops.connected(l->data);
		return;
	}
	if (!l->greeted) {
		lose(l, "the agent's first message was not Hello");
		return;
	}
	l->ops.message(l->data, m, fds, n_fds);
}

/* False: nothing more for now, or the agent is gone. */
static bool receive(struct agent_link *l)
{
	int fds[AGENT_LINK_MAX_FDS];
	size_t n_fds = 0;
	ProtobufCMessage *m;
	ssize_t n = fdmsg_recv(l->fd, l->buffer, FDMSG_MAX_LEN, fds, AGENT_LINK_MAX_FDS, &n_fds);

	if (n == -EAGAIN)
		return false;
	if (n <= 0) {
		lose(l, n == 0 ? "it closed its end" : strerror((int)-n));
		return false;
	}
	int r = pb_unpack(&outrigger__ipc__to_proxy__descriptor, l->buffer, (size_t)n, 0, &m);
	explicit_bzero(l->buffer, (size_t)n);	/* there are tokens among them */
	if (r < 0) {
		close_fds(fds, n_fds);
		lose(l, r == -ENOMEM ? "no memory for its message" : "it sent what is no message");
		return false;
	}

	int fd = l->fd;
	take(l, (const Outrigger__Ipc__ToProxy *)(const void *)m, fds, n_fds);
	close_fds(fds, n_fds);
	pb_free(m);
	return l->fd == fd;
}

static int on_event(struct watch *w, uint32_t events)
{
	struct agent_link *l = container_of(w, struct agent_link, watch);

	if (events & EPOLLOUT) {
		int r = flush(l);

		if (r < 0 && r != -EAGAIN) {
			lose(l, strerror(-r));
			return 0;
		}
	}
	for (unsigned i = 0; i < MESSAGES_A_TURN; i++)
		if (!receive(l))
			break;
	return 0;
}

/* --- connecting --- */

static int attach(struct agent_link *l, int fd)
{
	int r;

	hang_up(l);
	l->fd = fd;
	r = fcntl(fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
	if (r == 0)
		r = watch_add(l->loop, &l->watch, fd, EPOLLIN, false, on_event);
	if (r == 0)
		r = say_hello(l);
	if (r < 0)
		hang_up(l);
	return r;
}

int agent_link_open(struct agent_link *l, int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
		l->agent_uid = peer.uid;
	return attach(l, fd);
}

bool agent_link_trusts(const struct agent_link *l, uid_t uid)
{
	return uid == 0 || uid == geteuid() || uid == l->agent_uid;
}

static bool may_resume(const struct agent_link *l, int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && agent_link_trusts(l, peer.uid);
}

static int on_resume(struct watch *w, uint32_t events)
{
	struct agent_link *l = container_of(w, struct agent_link, resume_watch);
	int fd = accept4(l->resume_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	(void)events;
	if (fd < 0)
		return 0;
	if (!may_resume(l, fd)) {
		close_fd(fd);
		return 0;
	}
	if (l->fd >= 0)
		lose(l, "another agent has come in its place");
	if (attach(l, fd) < 0)
		l->ops.gone(l->data, "the new agent cannot be greeted");
	return 0;
}

int agent_link_listen(struct agent_link *l, const char *path, struct diag *reterr_diag)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	size_t n_path = strlen(path) + 1;
	int r;

	if (l->resume_fd >= 0 && !strcmp(path, l->resume_path))
		return 0;
	if (n_path > sizeof(sa.sun_path))
		return diag_set(reterr_diag, "resume path is too long: %s", path);
	memcpy(sa.sun_path, path, n_path);

	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	unlink(path);	/* of a process that is no more: the agent gives no path twice */
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || chmod(path, 0666) < 0 || listen(fd, 4) < 0) {
		r = -errno;
		diag_set(reterr_diag, "cannot listen on %s: %s", path, strerror(-r));
		return r;
	}
	watch_remove(&l->resume_watch);
	l->resume_fd = close_fd(l->resume_fd);
	r = watch_add(l->loop, &l->resume_watch, fd, EPOLLIN, false, on_resume);
	if (r < 0)
		return r;
	l->resume_fd = steal_fd(&fd);
	memcpy(l->resume_path, path, n_path);
	return 0;
}

bool agent_link_connected(const struct agent_link *l)
{
	return l->fd >= 0 && l->greeted;
}

int agent_link_new(struct loop *loop, const char *group, const struct agent_link_ops *ops, void *data, struct agent_link **ret_link)
{
	struct agent_link *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->loop = loop;
	l->group = group;
	l->ops = *ops;
	l->data = data;
	l->fd = l->resume_fd = -1;
	l->agent_uid = (uid_t)-1;
	list_init(&l->queue);
	l->buffer = malloc(FDMSG_MAX_LEN);
	if (!l->buffer) {
		free(l);
		return -ENOMEM;
	}
	*ret_link = l;
	return 0;
}

static void unlisten(struct agent_link *l)
{
	watch_remove(&l->resume_watch);
	if (l->resume_fd >= 0)
		unlink(l->resume_path);
	l->resume_fd = close_fd(l->resume_fd);
}

void agent_link_retire(struct agent_link *l)
{
	static const char ending[] = ".resume";
	char path[sizeof(l->resume_path)];
	size_t n = strlen(l->resume_path);

	if (l->resume_fd < 0)
		return;
	if (n < sizeof(ending) || strcmp(l->resume_path + n - (sizeof(ending) - 1), ending) ||
	    (size_t)snprintf(path, sizeof(path), "%.*s.draining", (int)(n - (sizeof(ending) - 1)), l->resume_path) >= sizeof(path) ||
	    rename(l->resume_path, path) < 0)
		unlisten(l);
	else
		memcpy(l->resume_path, path, sizeof(path));
}

struct agent_link *agent_link_free(struct agent_link *l)
{
	if (!l)
		return NULL;
	hang_up(l);
	unlisten(l);
	free(l->buffer);
	free(l);
	return NULL;
}

/*
 * Finding and adopting a predecessor's proxies.
 */
#include "agent/adopt.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "agent/worker.h"
#include "base/fdmsg.h"
#include "base/log.h"
#include "mesh/pb.h"

static int connect_to(const char *path, struct ucred *ret_peer)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t len = sizeof(*ret_peer);
	int r = fd < 0 ? -errno : 0;

	if (r == 0 && (size_t)snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path) >= sizeof(sa.sun_path))
		r = -ENAMETOOLONG;
	if (r == 0 && connect(fd, (const struct sockaddr *)&sa, sizeof(sa)) < 0)
		r = -errno;
	if (r == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret_peer, &len) < 0)
		r = -errno;
	if (r < 0) {
		close_fd(fd);
		return r;
	}
	return fd;
}

static int say(int fd, const Outrigger__Ipc__ToProxy *m)
{
	CLEANUP_FREE uint8_t *data = NULL;
	size_t len;
	int r = pb_pack(&m->base, &data, &len);

	return r < 0 ? r : fdmsg_send(fd, data, len, NULL, 0);
}

/* Steering is not what it was when it started: it would serve nobody. */
static void send_away(int fd)
{
	Outrigger__Ipc__Hello hello = OUTRIGGER__IPC__HELLO__INIT;
	Outrigger__Ipc__Shutdown shutdown = OUTRIGGER__IPC__SHUTDOWN__INIT;
	Outrigger__Ipc__ToProxy first = OUTRIGGER__IPC__TO_PROXY__INIT, second = first;

	hello.version = PROCESS_IPC_VERSION;
	first.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_HELLO;
	first.hello = &hello;
	second.msg_case = OUTRIGGER__IPC__TO_PROXY__MSG_SHUTDOWN;
	second.shutdown = &shutdown;
	if (say(fd, &first) < 0 || say(fd, &second) < 0)
		log_warn("a predecessor's proxy process does not listen");
	close_fd(fd);
}

static bool is_proxy(const struct worker *w, uid_t uid)
{
	uid_t base = w->conf->steering.proxy_uid_base;

	return uid >= base && uid - base < STEER_PROXY_UIDS;
}

static void adopt(struct worker *w, const char *group, const char *name, bool draining)
{
	char path[PATH_MAX];
	struct ucred peer;
	uid_t uid = 0;
	int fd, r;

	snprintf(path, sizeof(path), "%s/%s/%s", w->supervisor.conf.run_dir, group, name);
	fd = connect_to(path, &peer);
	if (fd < 0) {
		log_debug("nobody behind a resume socket", log_str("path", path), log_errno(fd));
		return;
	}
	/* Only its processes may put something there, but that is another's word: who answers must be of this group. -ENOENT: its user is not on record. */
	r = monitor_proxy_user(w->monitor, group, &uid);
	if (!is_proxy(w, peer.uid) || (r < 0 && r != -ENOENT) || (r == 0 && uid != peer.uid)) {
		log_warn("a stranger listens on a resume socket", log_str("path", path), log_int("uid", peer.uid), log_int("pid", peer.pid));
		close_fd(fd);
		return;
	}
	if (!w->loaded.adopted || r == -ENOENT) {
		log_info("a predecessor's proxy process is told to end", log_str("group", group), log_int("pid", peer.pid));
		send_away(fd);
		return;
	}
	r = supervisor_adopt(&w->supervisor, group, fd, peer.pid, draining);
	if (r < 0)
		log_warn("a predecessor's proxy process could not be adopted", log_str("group", group), log_int("pid", peer.pid), log_errno(r));
	else if (draining)
		log_info("a predecessor's proxy process drains", log_str("group", group), log_int("pid", peer.pid));
	else
		log_info("adopted a predecessor's proxy process", log_str("group", group), log_int("pid", peer.pid));
}

static bool ends(const char *name, const char *with)
{
	size_t n = strlen(name), n_with = strlen(with);

	return n > n_with && !strcmp(name + n - n_with, with);
}

static void adopt_group(struct worker *w, const char *group)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/%s", w->supervisor.conf.run_dir, group);
	dir = opendir(path);
	if (!dir) {
		if (errno != ENOTDIR)
			log_warn("a group's folder cannot be read", log_str("path", path), log_errno(errno));
		return;
	}
	while ((e = readdir(dir)))
		if (ends(e->d_name, ".resume") || ends(e->d_name, ".draining"))
			adopt(w, group, e->d_name, ends(e->d_name, ".draining"));
	closedir(dir);
}

int adopt_predecessors(struct worker *w)
{
	DIR *dir = opendir(w->supervisor.conf.run_dir);
	struct dirent *e;

	if (!dir)
		return -errno;
	while ((e = readdir(dir)))
		if (e->d_name[0] != '.')
			adopt_group(w, e->d_name);
	closedir(dir);
	return 0;
}

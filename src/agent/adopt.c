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

static const char suffix[] = ".resume";

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

/* -ENOENT: no group of this name has a user, since the monitor before had no record that outlived it. */
static int find_user(struct worker *w, const char *name, uid_t *ret_uid)
{
	char group[POLICY_GROUP_LEN];
	size_t len = strlen(name);

	snprintf(group, sizeof(group), "%.*s", (int)MIN(len - (len && name[len - 1] == '~'), sizeof(group) - 1), name);
	return monitor_proxy_user(w->monitor, group, ret_uid);
}

static bool is_proxy(const struct worker *w, uid_t uid)
{
	uid_t base = w->conf->steering.proxy_uid_base;

	return uid >= base && uid - base < STEER_PROXY_UIDS;
}

static void adopt(struct worker *w, const char *name)
{
	char path[PATH_MAX], group[POLICY_GROUP_LEN + 1];	/* with its tilde */
	struct ucred peer;
	uid_t uid = 0;
	int fd, r;

	snprintf(group, sizeof(group), "%.*s", (int)MIN(strlen(name) - strlen(suffix), sizeof(group) - 1), name);
	snprintf(path, sizeof(path), "%s/%s", w->supervisor.conf.run_dir, name);
	fd = connect_to(path, &peer);
	if (fd < 0) {
		log_debug("nobody behind a resume socket", log_str("path", path), log_errno(fd));
		return;
	}
	/* The directory is open to all proxies: who answers must be one, and of the group that the name says. */
	r = find_user(w, group, &uid);
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
	r = supervisor_adopt(&w->supervisor, group, fd, peer.pid);
	if (r < 0)
		log_warn("a predecessor's proxy process could not be adopted", log_str("group", group), log_errno(r));
	else
		log_info("adopted a predecessor's proxy process", log_str("group", group), log_int("pid", peer.pid));
}

int adopt_predecessors(struct worker *w)
{
	DIR *dir = opendir(w->supervisor.conf.run_dir);
	struct dirent *e;

	if (!dir)
		return -errno;
	while ((e = readdir(dir))) {
		size_t len = strlen(e->d_name);

		if (len > strlen(suffix) && !strcmp(e->d_name + len - strlen(suffix), suffix))
			adopt(w, e->d_name);
	}
	closedir(dir);
	return 0;
}

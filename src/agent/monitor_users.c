/*
 * The users of isolation groups.
 */
#include "agent/monitor_users.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/monitor_client.h"
#include "agent/monitor_folders.h"
#include "base/clock.h"

enum { MAX_PIDS = 8 };			/* of a group: one serves, others drain */

struct key {
	char group[MONITOR_GROUP_LEN];	/* filled up with zeros */
};

struct entry {
	uint32_t index;
	int32_t pids[MAX_PIDS];		/* 0: free */
	uint32_t pad;
	uint64_t started_ns;		/* the last one */
};
_Static_assert(sizeof(struct entry) == 48, "no holes");

void monitor_users_init(struct monitor_users *u, const struct steer_conf *conf)
{
	*u = (struct monitor_users){ .conf = conf, .map = -1 };
}

void monitor_users_deinit(struct monitor_users *u)
{
	u->map = close_fd(u->map);
}

/* --- the map --- */

static int adopt_map(const char *path)
{
	CLEANUP_FD int fd = bpf_obj_get(path);
	struct bpf_map_info info = {};
	uint32_t len = sizeof(info);

	if (fd < 0)
		return -errno;
	if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
		return -errno;
	if (info.type != BPF_MAP_TYPE_HASH || info.key_size != sizeof(struct key) || info.value_size != sizeof(struct entry))
		return -EPROTO;		/* of another version */
	return steal_fd(&fd);
}

static int open_map(struct monitor_users *u)
{
	const char *dir = u->conf->pin_dir;
	char path[sizeof(u->conf->pin_dir) + 8];
	int fd;

	if (u->map >= 0)
		return 0;
	snprintf(path, sizeof(path), "%s/users", dir);
	if (*dir) {
		if (mkdir(dir, 0700) < 0 && errno != EEXIST)
			return -errno;
		fd = adopt_map(path);
		if (fd >= 0) {
			u->map = fd;
			return 0;
		}
		(void)!unlink(path);
	}
	fd = bpf_map_create(BPF_MAP_TYPE_HASH, "users", sizeof(struct key), sizeof(struct entry), STEER_PROXY_UIDS, NULL);
	if (fd < 0)
		return -errno;
	if (*dir && bpf_obj_pin(fd, path) < 0) {
		int r = -errno;

		close_fd(fd);
		return r;
	}
	u->map = fd;
	return 0;
}

static int find(struct monitor_users *u, const char *group, struct key *ret_key, struct entry *ret_entry)
{
	int r = open_map(u);

	if (r < 0)
		return r;
	*ret_key = (struct key){};
	snprintf(ret_key->group, sizeof(ret_key->group), "%s", group);
	return bpf_map_lookup_elem(u->map, ret_key, ret_entry) < 0 ? -errno : 0;
}

/* --- giving --- */

static bool is_alive(int32_t pid)
{
	return pid && (kill(pid, 0) == 0 || errno != ESRCH);
}

static unsigned count_alive(const struct entry *e)
{
	unsigned n = 0;

	for (size_t i = 0; i < MAX_PIDS; i++)
		n += is_alive(e->pids[i]);
	return n;
}

/* A pid that is another's by now keeps the user from being given away, and no more. */
static int recycle(struct monitor_users *u, uint32_t *ret_index)
{
	struct key key, oldest, *prev = NULL;
	struct entry e;
	uint64_t oldest_ns = UINT64_MAX;

	for (; bpf_map_get_next_key(u->map, prev, &key) == 0; prev = &key)
		if (bpf_map_lookup_elem(u->map, &key, &e) == 0 && e.started_ns < oldest_ns && !count_alive(&e)) {
			oldest = key;
			oldest_ns = e.started_ns;
			*ret_index = e.index;
		}
	if (oldest_ns == UINT64_MAX)
		return -EUSERS;
	monitor_folder_remove(u->conf->proxies_dir, oldest.group);
	return bpf_map_delete_elem(u->map, &oldest) < 0 ? -errno : 0;
}

static int find_free(struct monitor_users *u, uint32_t *ret_index)
{
	uint8_t taken[STEER_PROXY_UIDS] = {};
	struct key key, *prev = NULL;
	struct entry e;

	for (; bpf_map_get_next_key(u->map, prev, &key) == 0; prev = &key)
		if (bpf_map_lookup_elem(u->map, &key, &e) == 0 && e.index < STEER_PROXY_UIDS)
			taken[e.index] = 1;
	for (uint32_t i = 0; i < STEER_PROXY_UIDS; i++)
		if (!taken[i]) {
			*ret_index = i;
			return 0;
		}
	return recycle(u, ret_index);
}

int monitor_users_find(struct monitor_users *u, const char *group, uid_t *ret_uid)
{
	struct entry e;
	struct key key;
	int r = find(u, group, &key, &e);

	if (r == 0)
		*ret_uid = u->conf->proxy_uid_base + e.index;
	return r;
}

bool monitor_users_are_idle(struct monitor_users *u, const char *group)
{
	struct entry e;
	struct key key;

	return find(u, group, &key, &e) == 0 && !count_alive(&e);
}

int monitor_users_give(struct monitor_users *u, const char *group, uid_t *ret_uid)
{
	struct entry e;
	struct key key;
	int r = find(u, group, &key, &e);

	if (r == 0 && count_alive(&e) == MAX_PIDS)
		return -EAGAIN;
	if (r == -ENOENT) {
		e = (struct entry){ .started_ns = clock_mono_ns() };
		r = find_free(u, &e.index);
		if (r == 0 && bpf_map_update_elem(u->map, &key, &e, BPF_NOEXIST) < 0)
			r = -errno;
	}
	if (r < 0)
		return r;
	*ret_uid = u->conf->proxy_uid_base + e.index;
	return 0;
}

int monitor_users_started(struct monitor_users *u, const char *group, pid_t pid)
{
	struct entry e;
	struct key key;
	size_t i = 0;
	int r = find(u, group, &key, &e);

	if (r < 0)
		return r;
	while (i < MAX_PIDS - 1 && is_alive(e.pids[i]))
		i++;
	e.pids[i] = pid;
	e.started_ns = clock_mono_ns();
	return bpf_map_update_elem(u->map, &key, &e, BPF_EXIST) < 0 ? -errno : 0;
}

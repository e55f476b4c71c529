/*
 * What a guest asks ZooKeeper for, and what it is answered.
 */
#include "discover/zk_observer.h"

#include <stdio.h>
#include <string.h>

enum { MAX_CHILDREN = 4096 };

void zk_note_recipe(struct zk_observer *s, const char *path)
{
	char dir[ZK_OBSERVER_MAX_PATH];
	struct zk_dir *d;

	if (!zk_path_is_recipe(path))
		return;
	zk_path_dir(path, dir, sizeof(dir));
	d = zk_asked_dir(&s->asked, dir);
	if (d)
		d->recipe = true;
}

void zk_on_consumer(struct zk_observer *s, const char *path, const char *service)
{
	char consumers[ZK_OBSERVER_MAX_PATH], above[ZK_OBSERVER_MAX_PATH], providers[ZK_OBSERVER_MAX_PATH];
	struct zk_dir *d;

	zk_path_dir(path, consumers, sizeof(consumers));
	zk_path_dir(consumers, above, sizeof(above));
	if (snprintf(providers, sizeof(providers), "%s/providers", above) >= (int)sizeof(providers))
		return;
	d = zk_asked_dir(&s->asked, providers);
	if (d && d->announced)
		return;
	zk_emit_discover(s, service);
	if (d) {
		d->announced = d->watched = true;
		d->round++;
	}
}

void zk_on_children_asked(struct zk_observer *s, const char *dir, bool watch)
{
	struct zk_dir *d = zk_dir_is_dubbo_other(dir) ? NULL : zk_asked_dir(&s->asked, dir);
	char service[ZK_INSTANCE_MAX_NAME];
	bool goes_on;

	if (!d || d->recipe)
		return;
	goes_on = d->round && d->watched && watch;
	d->watched = watch;
	if (goes_on)
		return;
	d->round++;
	d->announced = zk_dir_is_service(dir);
	if (d->announced) {
		zk_dir_service(dir, service);
		zk_emit_discover(s, service);
	}
}

static void answered(struct zk_observer *s, const char *path, const struct zk_instance *i)
{
	char dir[ZK_OBSERVER_MAX_PATH];
	struct zk_dir *d;

	zk_path_dir(path, dir, sizeof(dir));
	d = zk_asked_dir(&s->asked, dir);
	if (!d)
		return;
	if (!d->announced)
		zk_emit_discover(s, i->service);
	d->announced = true;
	if (zk_asked_news(&s->asked, path, zk_instance_hash(i), d->round))
		zk_emit_instance(s, OBS_ANSWER, i, 0);
}

/* Is this the guest looking at what it wrote itself, and not at a service? */
static bool reads_own(struct zk_observer *s, const char *path)
{
	char dir[ZK_OBSERVER_MAX_PATH];

	zk_path_dir(path, dir, sizeof(dir));
	return zk_guest_find_node(s->guest, path) && !zk_asked_find_dir(&s->asked, dir);
}

void zk_on_data(struct zk_observer *s, const struct jute_request *r, struct jute_reply *reply)
{
	struct jute_str data = jute_read_str(&reply->body);
	struct jute_stat stat = jute_read_stat(&reply->body);
	struct zk_instance i;
	char path[ZK_OBSERVER_MAX_PATH];

	if (reply->body.bad || !zk_copy_path(r->path, path) || reads_own(s, path) || !zk_instance_read(path, data.p, data.len, &i))
		return;
	if (stat.ephemeral_owner || i.lasting)
		answered(s, path, &i);
	zk_instance_deinit(&i);
}

/* Names that say it all: no one reads the data of those. */
static bool told_by_name(const char *dir, const struct zk_instance *i)
{
	return i->scheme[0] || strncmp(dir, "/services/", 10) != 0;
}

void zk_on_children(struct zk_observer *s, const struct jute_request *r, struct jute_reply *reply)
{
	uint32_t n = MIN(jute_read_count(&reply->body), (uint32_t)MAX_CHILDREN);
	char dir[ZK_OBSERVER_MAX_PATH], path[ZK_OBSERVER_MAX_PATH];

	if (!zk_copy_path(r->path, dir) || zk_dir_is_dubbo_other(dir))
		return;
	while (n--) {
		struct jute_str child = jute_read_str(&reply->body);
		struct zk_instance i;

		if (reply->body.bad)
			return;
		if (snprintf(path, sizeof(path), "%s/%.*s", dir, (int)child.len, child.p ? child.p : "") >= (int)sizeof(path))
			continue;
		if (!zk_instance_read_name(path, &i))
			continue;
		if (told_by_name(dir, &i))
			answered(s, path, &i);
		zk_instance_deinit(&i);
	}
}

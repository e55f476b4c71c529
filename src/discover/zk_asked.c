/*
 * A connection's questions to ZooKeeper: see zk_asked.h.
 */
#include "discover/zk_asked.h"

#include <stdlib.h>
#include <string.h>

#include "base/list.h"

struct told {
	struct map_link link;
	uint64_t hash;
	uint32_t round;
	char path[];
};

void zk_asked_init(struct zk_asked *a)
{
	map_init(&a->dirs);
	map_init(&a->told);
}

void zk_asked_deinit(struct zk_asked *a)
{
	map_for_each(l, &a->dirs) {
		struct zk_dir *d = list_entry(l, struct zk_dir, link);

		free(d->path);
		free(d);
	}
	map_for_each(l, &a->told)
		free(list_entry(l, struct told, link));
	map_deinit(&a->dirs);
	map_deinit(&a->told);
}

struct zk_dir *zk_asked_find_dir(const struct zk_asked *a, const char *path)
{
	struct map_link *l = map_find_str(&a->dirs, path);

	return l ? list_entry(l, struct zk_dir, link) : NULL;
}

struct zk_dir *zk_asked_dir(struct zk_asked *a, const char *path)
{
	struct zk_dir *d = zk_asked_find_dir(a, path);

	if (d || a->dirs.n >= ZK_ASKED_MAX_DIRS)
		return d;
	d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	d->path = strdup(path);
	if (!d->path || map_add(&a->dirs, &d->link, d->path, strlen(d->path)) < 0) {
		free(d->path);
		free(d);
		return NULL;
	}
	return d;
}

bool zk_asked_news(struct zk_asked *a, const char *path, uint64_t hash, uint32_t round)
{
	struct map_link *l = map_find_str(&a->told, path);
	struct told *t = l ? list_entry(l, struct told, link) : NULL;
	size_t size = strlen(path) + 1;

	if (t && t->hash == hash && t->round == round)
		return false;
	if (!t && a->told.n < ZK_ASKED_MAX_TOLD) {
		t = calloc(1, sizeof(*t) + size);
		if (!t)
			return true;
		memcpy(t->path, path, size);
		if (map_add(&a->told, &t->link, t->path, size - 1) < 0) {
			free(t);
			return true;
		}
	}
	if (t) {
		t->hash = hash;
		t->round = round;
	}
	return true;
}

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/map.h"

/*
 * What a connection has asked of which directory, and what it was told: so that
 * a question that is asked again because its watch has fired is one question,
 * and an unchanged instance that is read again is one answer. Bounded.
 */
enum { ZK_ASKED_MAX_DIRS = 1024, ZK_ASKED_MAX_TOLD = 8192 };

struct zk_dir {
	struct map_link link;
	char *path;
	bool announced;			/* its discover was told */
	bool watched;			/* the last question left a watch */
	bool recipe;			/* of a lock or an election, in which the guest takes part */
	uint32_t round;			/* questions so far */
};

struct zk_asked {
	struct map dirs;
	struct map told;
};

void zk_asked_init(struct zk_asked *a);
void zk_asked_deinit(struct zk_asked *a);

/* NULL: no memory or no room. */
struct zk_dir *zk_asked_dir(struct zk_asked *a, const char *path);
struct zk_dir *zk_asked_find_dir(const struct zk_asked *a, const char *path);
/* Is this news about the node @path, in this round of its directory? Remembers it. */
bool zk_asked_news(struct zk_asked *a, const char *path, uint64_t hash, uint32_t round);

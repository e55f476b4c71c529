#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "base/list.h"
#include "base/map.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * What the controller is to know of this NIC: the last report on each thing.
 *
 * Reports are state, not events. So what was said before and is the same is not
 * said again, and after a reconnect everything here is said once. That makes it
 * the queue, too: its bound is the agent's own state.
 */
enum mirror_class {		/* in the order in which a new session hears of them */
	MIRROR_GUEST,
	MIRROR_CLAIM,
	MIRROR_VERDICT,
	MIRROR_PROXY,
	_MIRROR_CLASS_N
};

enum { MIRROR_KEY_LEN = 1600 };

struct mirror_entry {
	struct map_link by_key;
	struct list link;		/* mirror.entries[class] */
	char *key;			/* its first character is the class */
	size_t len;
	uint8_t data[];			/* a packed Report without seq */
};

struct mirror {
	struct map by_key;
	struct list entries[_MIRROR_CLASS_N];
};

void mirror_init(struct mirror *m);
void mirror_deinit(struct mirror *m);

/* @ret_changed: it is news. -ENOMEM. */
MUST_CHECK int mirror_put(struct mirror *m, enum mirror_class class, const char *key, const Outrigger__V1__Report *report, bool *ret_changed);
/* True when it was there. */
bool mirror_drop(struct mirror *m, enum mirror_class class, const char *key);

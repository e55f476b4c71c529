#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/defs.h"

/*
 * The files of the proxies' last configurations (proxy/state_file.h): two a
 * group, "<dir>/<group>.0" and ".1". A proxy reaches no folder, so the agent
 * opens them for it, and removes what nobody will want any more.
 */
enum { PROXY_STATE_FILES = 2 };

/* Made when they are not there. A negative errno: none is open. */
MUST_CHECK int proxy_state_open(const char *dir, const char *group, int ret_fds[static PROXY_STATE_FILES]);
void proxy_state_remove(const char *dir, const char *group);
/* Those of all groups that @lives() does not know. */
void proxy_state_sweep(const char *dir, bool (*lives)(const char *group, void *data), void *data);

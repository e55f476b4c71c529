#pragma once
#include <sys/types.h>
#include "base/defs.h"

/*
 * A folder for each isolation group, where its proxy processes have their
 * sockets: <dir>/<group>, root's, with the group's own gid. Processes of
 * other groups can put nothing there and take nothing away; the agent's worker
 * may look.
 */

/*
 * In the process that is to become a proxy: still root, but already with the
 * gid @gid. One that is there and not as it must be is replaced, and one that
 * is has the names of dead processes removed. @dir "": no folders are kept.
 */
MUST_CHECK int monitor_folder_make(const char *dir, const char *group, gid_t gid);

/* With what dead processes have left in it; what cannot be removed stays. */
void monitor_folder_remove(const char *dir, const char *group);

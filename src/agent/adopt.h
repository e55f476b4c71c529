#pragma once
#include "base/defs.h"

/*
 * Proxy processes that a predecessor of this agent has left: they went on
 * serving, or drain, and listen on sockets in the folders of their groups.
 */
struct worker;

/* Takes over what can be taken over, tells the rest to end. Negative errno only when it cannot even look. */
MUST_CHECK int adopt_predecessors(struct worker *w);

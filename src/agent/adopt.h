#pragma once
#include "base/defs.h"

/*
 * Proxy processes that a predecessor of this agent has left: they went on
 * serving, and listen on their resume sockets in run_dir/proxies.
 */
struct worker;

/* Takes over what can be taken over, tells the rest to end. Negative errno only when it cannot even look. */
MUST_CHECK int adopt_predecessors(struct worker *w);

#pragma once
#include "agent/steer_conf.h"
#include "base/defs.h"

/*
 * What the agent's two processes give up.
 */

/*
 * The monitor: all capabilities but those it works with, and the system calls
 * that are only of use to somebody who broke in. The filter is a list of what
 * is forbidden, not of what is allowed, because proxies inherit it; they add
 * a strict one of their own.
 */
MUST_CHECK int monitor_jail_monitor(void);

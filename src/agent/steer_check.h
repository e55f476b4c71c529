#pragma once
#include "agent/monitor_msg.h"
#include "agent/monitor_ops.h"

/*
 * The host's state against what steering needs, for `outrigger check`. All
 * lines are there each time, so that a user also sees what was looked at.
 */
void steer_check_run(struct monitor_state *m, struct monitor_msg_checks *ret_checks);

#pragma once
#include "base/defs.h"
#include "base/diag.h"
#include "outrigger/health.pb-c.h"

/*
 * Is this a check that can be made? -EINVAL with the reason: an unknown kind, a
 * port that is none, text that would not stay inside of its line of HTTP.
 */
MUST_CHECK int health_check_valid(const Outrigger__Health__Check *check, struct diag *reterr_diag);

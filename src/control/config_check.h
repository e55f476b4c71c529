#pragma once
#include "base/diag.h"
#include "control/config.h"

/*
 * The checks of a whole configuration, each of whose items is right by itself.
 * Returns 0, -ENOMEM, or diag_at()'s error with the place in @file in @reterr_diag.
 */
MUST_CHECK int config_check(const struct config *c, const char *file, struct diag *reterr_diag);

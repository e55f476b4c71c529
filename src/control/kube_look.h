#pragma once
#include <stdio.h>
#include "base/defs.h"
#include "base/diag.h"
#include "control/config.h"

/*
 * A look into the cluster of a configuration: what kubernetes.manage would do
 * there, printed. Nothing is changed, and nothing of a running controller is
 * needed. -EINVAL with @reterr_diag: it cannot be looked at. -ENOMEM, -EIO.
 */
MUST_CHECK int kube_look_print(const struct config *config, FILE *out, struct diag *reterr_diag);

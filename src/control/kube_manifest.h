#pragma once
#include <stdio.h>
#include "base/defs.h"
#include "control/config.h"

/*
 * What the onboarding policies need in a cluster with Istio, as YAML for
 * `kubectl apply -f -`: the ServiceAccounts and WorkloadGroups that they name,
 * and the right to ask for tokens of those accounts. Nothing is applied here.
 * -EIO: it could not be written.
 */
MUST_CHECK int kube_manifest_print(const struct config *config, FILE *out);

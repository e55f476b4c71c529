#pragma once
#include <stdio.h>
#include "base/defs.h"
#include "control/config.h"

/*
 * What the onboarding policies need in a cluster with Istio, as YAML for
 * `kubectl apply -f -`: the rights to ask for tokens and, with
 * kubernetes.manage, to make the rest; the ServiceAccounts and WorkloadGroups
 * that they name, with probes. Nothing is applied here. -ENOMEM;
 * -EIO: it could not be written.
 */
MUST_CHECK int kube_manifest_print(const struct config *config, FILE *out);

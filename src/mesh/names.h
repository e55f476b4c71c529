#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/defs.h"

/*
 * Names that agent and controller must make alike.
 */
enum {
	NAMES_HOST_LEN = 254,		/* of a host name, with the zero */
	NAMES_UID_LEN = 300,
	NAMES_NETWORK_LEN = 64,
	NAMES_WORKLOAD_LEN = 64,
};

#define NAMES_SUFFIX	"mesh.internal"

/* Is it "domain" or "namespace/domain", lower-case DNS names, or "."? As in a policy's dns_domains. */
bool names_dns_domain_valid(const char *text);

/* Label of the WorkloadEntries of VMs in an Istio mesh: the NIC that hosts them. */
#define ISTIO_NIC_LABEL	"outrigger.dev/nic"

/*
 * "<service>.<namespace>.mesh.internal" of a service as it registered itself
 * ("com.shop.OrderService", "My Service", "_http._tcp"): letters become lower
 * case, what a host name cannot have becomes '-', at the ends of a label it is
 * dropped. Different names may fall together. -EINVAL: nothing is left, or it
 * is too long, or the namespace is no DNS label.
 */
MUST_CHECK int names_service_host(const char *service, const char *namespace, char ret_host[static NAMES_HOST_LEN]);

/* The mesh's uid of a VM's workload: VmPut.uid and istio.workload.Workload.uid. -EINVAL when it is too long. */
MUST_CHECK int names_vm_uid(const char *guest_id, char ret_uid[static NAMES_UID_LEN]);

/*
 * The uid under which istiod will know a VM that registers by @group in @network
 * ("": the one without a name): the one of the WorkloadEntry that it makes. (An
 * update is pushed under this name only, not under the address.) -EINVAL when
 * it is too long.
 */
MUST_CHECK int names_istio_uid(const char *cluster, const char *namespace, const char *group, const char *address, const char *network,
			       char ret_uid[static NAMES_UID_LEN]);

/* The workload's name, a DNS label: the guest's own name if that makes one, else "vm-<mac>" of the guest's id. */
const char *names_vm_workload(const char *guest_name, const char *guest_id, char name[static NAMES_WORKLOAD_LEN]);

/*
 * What Istio calls the canonical name and revision of a workload: the first of
 * the labels for it that is there and not empty. NULL: none is.
 * (istio.io/latest/docs/ops/configuration/mesh/canonical-service; ztunnel and
 * telemetry go by it.) @label: the value of a label of @of, NULL or "" without it.
 */
typedef const char *names_label_fn(const void *of, const char *key);
const char *names_canonical_name(names_label_fn *label, const void *of);
const char *names_canonical_revision(names_label_fn *label, const void *of);

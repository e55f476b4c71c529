#pragma once
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "base/conf.h"
#include "base/defs.h"
#include "base/ip.h"
#include "mesh/model.h"

/*
 * Pods, Services and EndpointSlices as the mesh sees them: JSON of the
 * Kubernetes API to struct. What is missing or odd is left out; an object
 * without a name, or of another size than the API allows, is none.
 *
 * Source: https://kubernetes.io/docs/reference/kubernetes-api/ (core/v1,
 * discovery.k8s.io/v1); canonical names and protocols by port names as Istio's.
 */
enum {
	KUBE_NAME_MAX = 253,
	KUBE_KEY_LEN = 2 * KUBE_NAME_MAX + 2,	/* "namespace/name" */
	KUBE_LABELS_MAX = 64,		/* of a pod */
	KUBE_IPS_MAX = 8,
	KUBE_PORTS_MAX = 64,
	KUBE_ENDPOINTS_MAX = 1000,	/* of a slice: what the API allows */
};

/* Annotations and labels of pods. */
#define KUBE_ISTIO_REDIRECTION	"ambient.istio.io/redirection"	/* "enabled": a ztunnel takes its traffic */
#define KUBE_TUNNEL		"outrigger.dev/tunnel"		/* "hbone" or "none": ours, goes before it */

/* "namespace/name" of any object. -EINVAL: it has no name, or one that cannot be. */
MUST_CHECK int kube_object_key(const json_t *object, char key[static KUBE_KEY_LEN]);

struct kube_pod {
	char *namespace;
	char *name;
	char *account;
	char *node;
	char *workload;			/* what made it: the Deployment, StatefulSet, Job; or its own name */
	uint8_t type;			/* WorkloadType of istio/workload.proto */
	bool host_network;
	enum tunnel tunnel;
	struct ip ips[KUBE_IPS_MAX];
	size_t n_ips;
	struct conf_labels labels;
};

/* -ESRCH: it has ended or has no address yet, so the mesh has nothing of it. -EINVAL, -ENOMEM. */
MUST_CHECK int kube_pod_read(const json_t *object, struct kube_pod **ret_pod);
struct kube_pod *kube_pod_free(struct kube_pod *pod);
bool kube_pod_equal(const struct kube_pod *a, const struct kube_pod *b);

struct kube_port {
	char name[64];			/* "": the only one */
	uint16_t port;
	uint16_t target;		/* 0: by a name, the slices have the number */
	enum app_protocol protocol;
};

struct kube_service {
	char *namespace;
	char *name;
	struct ip ips[KUBE_IPS_MAX];	/* none: headless */
	size_t n_ips;
	struct kube_port *ports;	/* TCP only */
	size_t n_ports;
	bool affinity;			/* sessionAffinity: clients should come to one pod; the mesh balances */
};

/* -ESRCH: it is but another name (ExternalName), or speaks no TCP. -EINVAL, -ENOMEM. */
MUST_CHECK int kube_service_read(const json_t *object, struct kube_service **ret_service);
struct kube_service *kube_service_free(struct kube_service *service);
bool kube_service_equal(const struct kube_service *a, const struct kube_service *b);

struct kube_endpoint {
	char *pod;			/* "namespace/name" */
	bool ready;
};

struct kube_slice {
	char *service;			/* "namespace/name" */
	struct kube_port *ports;	/* .port is the pods' */
	size_t n_ports;
	struct kube_endpoint *endpoints;	/* those that are pods */
	size_t n_endpoints;
};

/* -ESRCH: it belongs to no service. -EINVAL, -ENOMEM. */
MUST_CHECK int kube_slice_read(const json_t *object, struct kube_slice **ret_slice);
struct kube_slice *kube_slice_free(struct kube_slice *slice);
/* Its endpoints are kept elsewhere. */
void kube_slice_drop_endpoints(struct kube_slice *slice);
bool kube_slice_same_ports(const struct kube_slice *a, const struct kube_slice *b);

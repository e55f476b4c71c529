#pragma once
#include <jansson.h>
#include "control/kube_source.h"
#include "control/registry.h"

/*
 * Pods and Services of a Kubernetes cluster as members of the embedded mesh.
 *
 * A Service is a service of the mesh: "<name>.<namespace>.svc.<cluster domain>"
 * with its ClusterIPs, a Pod is a workload with the identity of its service
 * account. Which pod serves which service, at which port, and whether it is
 * ready is what the EndpointSlices say.
 *
 * It is fed with what is watched (kube_source). What has changed is worked out
 * at the end of the loop's turn, a pod at a time: the cost of a change is that
 * of the pods in it, and of the services that they serve. What is away is not
 * gone: only a deletion, or a whole new list without it, takes an object out.
 *
 * The configuration's services and workloads come first: a Service with the
 * host name of one, and a Pod with the address of one, stay out. A Pod's address
 * goes before a guest's. Of two Pods with one address the later has it.
 */
struct kube_mesh;

/* Both are borrowed for its life. -ENOMEM. */
MUST_CHECK int kube_mesh_new(struct loop *loop, struct registry *registry, struct kube_mesh **ret_mesh);
struct kube_mesh *kube_mesh_free(struct kube_mesh *mesh);

/* What is watched, as kube_watch_ops. Objects of other kinds are passed over. */
void kube_mesh_begin(struct kube_mesh *mesh, enum kube_kind kind);
void kube_mesh_put(struct kube_mesh *mesh, enum kube_kind kind, const json_t *object);
void kube_mesh_gone(struct kube_mesh *mesh, enum kube_kind kind, const json_t *object);
void kube_mesh_synced(struct kube_mesh *mesh, enum kube_kind kind);

/* The registry has another configuration: who comes first may have changed. */
void kube_mesh_apply(struct kube_mesh *mesh);
/* Addresses may have become free. */
void kube_mesh_retry(struct kube_mesh *mesh);

struct kube_mesh_info {
	size_t n_services, n_pods;	/* in the mesh */
	size_t n_left_out;		/* services and pods that the configuration, or another pod, has precedence of */
	char left_out[200];		/* one of them, for people */
	size_t n_affinity;		/* services that want session affinity, which the mesh has not got */
	char affinity[200];		/* one of them */
};

struct kube_mesh_info kube_mesh_info(const struct kube_mesh *mesh);

#pragma once
#include "base/list.h"
#include "base/map.h"
#include "control/kube_mesh.h"
#include "control/kube_objects.h"
#include "mesh/names.h"

/*
 * Inside of kube_mesh: what is kept of a cluster. kube_mesh.c takes what is
 * watched, kube_mesh_keep.c keeps it, kube_mesh_settle.c works out what the
 * registry has of it.
 */

/* Slices may come before what they speak of: pods and services without an object are names that somebody has said. */
struct mesh_pod {
	struct map_link link;		/* by "namespace/name" */
	struct list dirty;
	struct list waiting;		/* for an address that another workload has */
	struct list endpoints;		/* endpoint.in_pod */
	uint64_t generation;
	struct kube_pod *object;	/* NULL: none, or not one of the mesh */
	bool news;			/* its object has changed: it may take another pod's address */
	uint8_t mark;			/* while two slices are compared */
	char key[];
};

struct mesh_service {
	struct map_link link;		/* by "namespace/name" */
	struct list dirty;
	struct list slices;		/* slice.in_service */
	uint64_t generation;
	struct kube_service *object;	/* the same */
	bool left_out;			/* the configuration has its host name */
	char key[];
};

struct mesh_endpoint {
	struct list in_pod;
	struct mesh_pod *pod;
	struct mesh_slice *slice;
	bool ready;
};

struct mesh_slice {
	struct map_link link;		/* by its own "namespace/name" */
	struct list in_service;
	struct mesh_service *service;
	uint64_t generation;
	struct kube_slice *object;	/* its endpoints are in @endpoints */
	struct mesh_endpoint *endpoints;
	size_t n_endpoints;
	char key[];
};

struct kube_mesh {
	struct loop *loop;
	struct registry *reg;
	struct map pods, services, slices;
	uint64_t generations[_KUBE_KIND_N];
	bool synced[_KUBE_KIND_N];
	struct list dirty_pods, dirty_services, waiting;
	struct defer settle;
};

/* --- kube_mesh_keep.c: names, with or without an object, and slices --- */

/* Made when it is not there. NULL: no memory. */
struct mesh_pod *mesh_pod_get(struct kube_mesh *m, const char *key);
struct mesh_service *mesh_service_get(struct kube_mesh *m, const char *key);
struct mesh_slice *mesh_slice_get(struct kube_mesh *m, const char *key);

/* @object is taken; NULL: there is none any more. */
void mesh_pod_set_object(struct kube_mesh *m, struct mesh_pod *p, struct kube_pod *object);
void mesh_service_set_object(struct kube_mesh *m, struct mesh_service *s, struct kube_service *object);
/* -ENOMEM: the slice is as it was. */
MUST_CHECK int mesh_slice_set(struct kube_mesh *m, struct mesh_slice *s, struct kube_slice *object);
void mesh_slice_free(struct kube_mesh *m, struct mesh_slice *s);
void mesh_slice_mark_pods(struct kube_mesh *m, const struct mesh_slice *s);
/* Frees it if nobody says its name any more. */
void mesh_pod_forget(struct kube_mesh *m, struct mesh_pod *p);
void mesh_service_forget(struct kube_mesh *m, struct mesh_service *s);

enum { MESH_UID_LEN = NAMES_UID_LEN * 2 };
void mesh_pod_uid(const struct kube_mesh *m, const struct mesh_pod *p, char uid[static MESH_UID_LEN]);
/* What the registry has of it. It may have removed it, to give its address to a workload of the configuration: NULL. */
struct reg_workload *mesh_pod_workload(const struct kube_mesh *m, const struct mesh_pod *p);
struct reg_service *mesh_service_registered(const struct kube_mesh *m, const struct mesh_service *s);

/* --- kube_mesh_settle.c --- */

/* It is looked at again at the end of the loop's turn. */
void mesh_pod_mark(struct kube_mesh *m, struct mesh_pod *p);
void mesh_service_mark(struct kube_mesh *m, struct mesh_service *s);
void kube_mesh_settle(struct kube_mesh *m);

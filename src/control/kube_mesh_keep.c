/*
 * Names of pods, services and slices, with or without an object.
 */
#include "control/kube_mesh_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- names, with or without an object --- */

struct mesh_pod *mesh_pod_get(struct kube_mesh *m, const char *key)
{
	struct map_link *l = map_find_str(&m->pods, key);
	struct mesh_pod *p;

	if (l)
		return container_of(l, struct mesh_pod, link);
	p = calloc(1, sizeof(*p) + strlen(key) + 1);
	if (!p)
		return NULL;
	memcpy(p->key, key, strlen(key));
	list_init(&p->dirty);
	list_init(&p->waiting);
	list_init(&p->endpoints);
	if (map_add(&m->pods, &p->link, p->key, strlen(p->key)) < 0) {
		free(p);
		return NULL;
	}
	return p;
}

void mesh_pod_uid(const struct kube_mesh *m, const struct mesh_pod *p, char uid[static MESH_UID_LEN])
{
	snprintf(uid, MESH_UID_LEN, "%s//Pod/%s", m->reg->config->mesh.cluster_id, p->key);
}

struct reg_workload *mesh_pod_workload(const struct kube_mesh *m, const struct mesh_pod *p)
{
	char uid[MESH_UID_LEN];

	mesh_pod_uid(m, p, uid);
	return reg_workload_find(m->reg, uid);
}

void mesh_pod_forget(struct kube_mesh *m, struct mesh_pod *p)
{
	if (p->object || !list_empty(&p->endpoints))
		return;
	map_remove(&m->pods, &p->link);
	list_unlink(&p->dirty);
	list_unlink(&p->waiting);
	free(p);
}

/* Its labels and name are the workload's. */
void mesh_pod_set_object(struct kube_mesh *m, struct mesh_pod *p, struct kube_pod *object)
{
	struct reg_workload *w = mesh_pod_workload(m, p);

	if (w && object) {
		w->labels = &object->labels;
		w->workload_name = object->workload;
	} else if (w) {
		reg_workload_remove(m->reg, w);
	}
	kube_pod_free(p->object);
	p->object = object;
	p->news = true;
	mesh_pod_mark(m, p);
}

struct mesh_service *mesh_service_get(struct kube_mesh *m, const char *key)
{
	struct map_link *l = map_find_str(&m->services, key);
	struct mesh_service *s;

	if (l)
		return container_of(l, struct mesh_service, link);
	s = calloc(1, sizeof(*s) + strlen(key) + 1);
	if (!s)
		return NULL;
	memcpy(s->key, key, strlen(key));
	list_init(&s->dirty);
	list_init(&s->slices);
	if (map_add(&m->services, &s->link, s->key, strlen(s->key)) < 0) {
		free(s);
		return NULL;
	}
	return s;
}

void mesh_service_forget(struct kube_mesh *m, struct mesh_service *s)
{
	if (s->object || !list_empty(&s->slices))
		return;
	map_remove(&m->services, &s->link);
	list_unlink(&s->dirty);
	free(s);
}

struct reg_service *mesh_service_registered(const struct kube_mesh *m, const struct mesh_service *s)
{
	return s->object ? reg_kube_service_find(m->reg, s->object->namespace, s->object->name) : NULL;
}

void mesh_service_set_object(struct kube_mesh *m, struct mesh_service *s, struct kube_service *object)
{
	struct reg_service *r = object ? NULL : mesh_service_registered(m, s);

	if (r)
		reg_kube_service_remove(m->reg, r);
	kube_service_free(s->object);
	s->object = object;
	mesh_service_mark(m, s);
}

/* --- slices --- */

void mesh_slice_mark_pods(struct kube_mesh *m, const struct mesh_slice *s)
{
	for (size_t i = 0; i < s->n_endpoints; i++)
		mesh_pod_mark(m, s->endpoints[i].pod);
}

void mesh_slice_free(struct kube_mesh *m, struct mesh_slice *s)
{
	for (size_t i = 0; i < s->n_endpoints; i++) {
		list_unlink(&s->endpoints[i].in_pod);
		mesh_pod_mark(m, s->endpoints[i].pod);
	}
	list_unlink(&s->in_service);
	if (s->service)
		mesh_service_mark(m, s->service);	/* forgotten, if it was but a name */
	map_remove(&m->slices, &s->link);
	kube_slice_free(s->object);
	free(s->endpoints);
	free(s);
}

struct mesh_slice *mesh_slice_get(struct kube_mesh *m, const char *key)
{
	struct map_link *l = map_find_str(&m->slices, key);
	struct mesh_slice *s;

	if (l)
		return container_of(l, struct mesh_slice, link);
	s = calloc(1, sizeof(*s) + strlen(key) + 1);
	if (!s)
		return NULL;
	memcpy(s->key, key, strlen(key));
	list_init(&s->in_service);
	if (map_add(&m->slices, &s->link, s->key, strlen(s->key)) < 0) {
		free(s);
		return NULL;
	}
	return s;
}

/*
 * Only pods that are endpoints in another way than before are looked at again:
 * a slice has a hundred, of which one came or went.
 */
static void mark_differences(struct kube_mesh *m, const struct mesh_slice *s, const struct mesh_endpoint *next, size_t n)
{
	for (size_t i = 0; i < n; i++)
		next[i].pod->mark = (uint8_t)(1 + next[i].ready);
	for (size_t i = 0; i < s->n_endpoints; i++) {
		struct mesh_pod *p = s->endpoints[i].pod;

		if (p->mark != 1 + s->endpoints[i].ready)
			mesh_pod_mark(m, p);
		p->mark = 0;
	}
	for (size_t i = 0; i < n; i++) {
		if (next[i].pod->mark)
			mesh_pod_mark(m, next[i].pod);
		next[i].pod->mark = 0;
	}
}

int mesh_slice_set(struct kube_mesh *m, struct mesh_slice *s, struct kube_slice *object)
{
	struct mesh_service *service = mesh_service_get(m, object->service);
	struct mesh_endpoint *list = calloc(object->n_endpoints + 1, sizeof(*list));
	size_t n = 0;

	for (size_t i = 0; list && service && i < object->n_endpoints; i++) {
		struct mesh_pod *p = mesh_pod_get(m, object->endpoints[i].pod);

		if (p)
			list[n++] = (struct mesh_endpoint){ .pod = p, .slice = s, .ready = object->endpoints[i].ready };
	}
	if (!list || !service || n < object->n_endpoints) {
		for (size_t i = 0; i < n; i++)
			mesh_pod_mark(m, list[i].pod);	/* names that nobody says are forgotten */
		free(list);
		return -ENOMEM;
	}
	if (s->service != service || !kube_slice_same_ports(s->object, object)) {
		mesh_slice_mark_pods(m, s);
		for (size_t i = 0; i < n; i++)
			mesh_pod_mark(m, list[i].pod);
	} else {
		mark_differences(m, s, list, n);
	}
	for (size_t i = 0; i < s->n_endpoints; i++)
		list_unlink(&s->endpoints[i].in_pod);
	free(s->endpoints);
	s->endpoints = list;
	s->n_endpoints = n;
	for (size_t i = 0; i < n; i++)
		list_append(&list[i].pod->endpoints, &list[i].in_pod);
	if (s->service != service) {
		if (s->service)
			mesh_service_mark(m, s->service);
		list_unlink(&s->in_service);
		list_append(&service->slices, &s->in_service);
		s->service = service;
	}
	kube_slice_free(s->object);
	s->object = object;
	kube_slice_drop_endpoints(object);
	return 0;
}

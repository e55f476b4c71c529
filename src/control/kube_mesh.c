/*
 * Pods, Services and EndpointSlices to workloads, services and memberships: what
 * is watched is taken in.
 */
#include "control/kube_mesh.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/glob.h"
#include "base/log.h"
#include "control/kube_mesh_state.h"

/* --- what of the cluster is in the mesh --- */

static bool matches_any(const struct conf_strings *globs, const char *text)
{
	for (size_t i = 0; i < globs->n; i++)
		if (glob_match(globs->v[i], text))
			return true;
	return false;
}

static bool takes_namespace(const struct kube_mesh *m, const char *namespace)
{
	return matches_any(&m->reg->config->kubernetes.namespaces, namespace);
}

static bool takes_service(const struct kube_mesh *m, const struct kube_service *s, const char *key)
{
	const struct conf_strings *services = &m->reg->config->kubernetes.services;

	return takes_namespace(m, s->namespace) && (!services->n || matches_any(services, key));
}

/* --- what is watched --- */

void kube_mesh_begin(struct kube_mesh *m, enum kube_kind kind)
{
	m->generations[kind]++;
}

static void put_pod(struct kube_mesh *m, const char *key, const json_t *json)
{
	struct kube_pod *object = NULL;
	int r = kube_pod_read(json, &object);
	struct mesh_pod *p;

	if (r == -ENOMEM)
		return;			/* as it was, until it changes again */
	if (r == 0 && !takes_namespace(m, object->namespace))
		object = kube_pod_free(object);
	if (!object && !map_find_str(&m->pods, key))
		return;
	p = mesh_pod_get(m, key);
	if (!p) {
		kube_pod_free(object);
		return;
	}
	p->generation = m->generations[KUBE_PODS];
	if (p->object && object && kube_pod_equal(p->object, object))
		kube_pod_free(object);	/* a condition, a restart count */
	else if (p->object || object)
		mesh_pod_set_object(m, p, object);
}

static void put_service(struct kube_mesh *m, const char *key, const json_t *json)
{
	struct kube_service *object = NULL;
	int r = kube_service_read(json, &object);
	struct mesh_service *s;

	if (r == -ENOMEM)
		return;
	if (r == 0 && !takes_service(m, object, key))
		object = kube_service_free(object);
	if (!object && !map_find_str(&m->services, key))
		return;
	s = mesh_service_get(m, key);
	if (!s) {
		kube_service_free(object);
		return;
	}
	s->generation = m->generations[KUBE_SERVICES];
	if (s->object && object && kube_service_equal(s->object, object))
		kube_service_free(object);
	else if (s->object || object)
		mesh_service_set_object(m, s, object);
}

static void remove_slice(struct kube_mesh *m, const char *key)
{
	struct map_link *l = map_find_str(&m->slices, key);

	if (l)
		mesh_slice_free(m, container_of(l, struct mesh_slice, link));
}

static void put_slice(struct kube_mesh *m, const char *key, const json_t *json)
{
	char namespace[KUBE_KEY_LEN];
	struct kube_slice *object = NULL;
	struct mesh_slice *s;
	int r;

	snprintf(namespace, sizeof(namespace), "%.*s", (int)strcspn(key, "/"), key);
	r = takes_namespace(m, namespace) ? kube_slice_read(json, &object) : -ESRCH;
	if (r == -ENOMEM)
		return;
	if (r < 0) {
		remove_slice(m, key);
		return;
	}
	s = mesh_slice_get(m, key);
	if (s)
		s->generation = m->generations[KUBE_SLICES];
	if (!s || mesh_slice_set(m, s, object) < 0) {
		log_error("out of memory: a slice of endpoints was not taken", log_str("slice", key));
		kube_slice_free(object);
		if (s && !s->object)
			mesh_slice_free(m, s);
	}
}

void kube_mesh_put(struct kube_mesh *m, enum kube_kind kind, const json_t *object)
{
	char key[KUBE_KEY_LEN];

	if (kube_object_key(object, key) < 0)
		return;
	if (kind == KUBE_PODS)
		put_pod(m, key, object);
	else if (kind == KUBE_SERVICES)
		put_service(m, key, object);
	else if (kind == KUBE_SLICES)
		put_slice(m, key, object);
}

void kube_mesh_gone(struct kube_mesh *m, enum kube_kind kind, const json_t *object)
{
	char key[KUBE_KEY_LEN];
	struct map_link *l;

	if (kube_object_key(object, key) < 0)
		return;
	if (kind == KUBE_PODS && (l = map_find_str(&m->pods, key)))
		mesh_pod_set_object(m, container_of(l, struct mesh_pod, link), NULL);
	else if (kind == KUBE_SERVICES && (l = map_find_str(&m->services, key)))
		mesh_service_set_object(m, container_of(l, struct mesh_service, link), NULL);
	else if (kind == KUBE_SLICES)
		remove_slice(m, key);
}

/* What the list that has just ended did not name. */

static void forget_old_pods(struct kube_mesh *m)
{
	map_for_each(l, &m->pods) {
		struct mesh_pod *p = container_of(l, struct mesh_pod, link);

		if (p->object && p->generation != m->generations[KUBE_PODS])
			mesh_pod_set_object(m, p, NULL);
	}
}

static void forget_old_services(struct kube_mesh *m)
{
	map_for_each(l, &m->services) {
		struct mesh_service *s = container_of(l, struct mesh_service, link);

		if (s->object && s->generation != m->generations[KUBE_SERVICES])
			mesh_service_set_object(m, s, NULL);
	}
}

static void forget_old_slices(struct kube_mesh *m)
{
	map_for_each(l, &m->slices)
		if (container_of(l, struct mesh_slice, link)->generation != m->generations[KUBE_SLICES])
			mesh_slice_free(m, container_of(l, struct mesh_slice, link));
}

void kube_mesh_synced(struct kube_mesh *m, enum kube_kind kind)
{
	m->synced[kind] = true;
	if (kind == KUBE_PODS)
		forget_old_pods(m);
	else if (kind == KUBE_SERVICES)
		forget_old_services(m);
	else if (kind == KUBE_SLICES)
		forget_old_slices(m);
	if (m->synced[KUBE_PODS] && m->synced[KUBE_SERVICES] && m->synced[KUBE_SLICES]) {
		kube_mesh_settle(m);
		registry_settle(m->reg);
		resources_set_complete(m->reg->resources, true);
	}
}

/* --- interface --- */

void kube_mesh_apply(struct kube_mesh *m)
{
	map_for_each(l, &m->services)
		mesh_service_mark(m, container_of(l, struct mesh_service, link));
	map_for_each(l, &m->pods)
		mesh_pod_mark(m, container_of(l, struct mesh_pod, link));
	kube_mesh_settle(m);
}

void kube_mesh_retry(struct kube_mesh *m)
{
	list_for_each(l, &m->waiting)
		mesh_pod_mark(m, list_entry(l, struct mesh_pod, waiting));
}

struct kube_mesh_info kube_mesh_info(const struct kube_mesh *m)
{
	struct kube_mesh_info info = {};

	map_for_each(l, &m->services) {
		const struct mesh_service *s = container_of(l, struct mesh_service, link);

		info.n_services += s->object && !s->left_out;
		info.n_left_out += s->left_out;
		info.n_affinity += s->object && s->object->affinity;
		if (s->object && s->object->affinity)
			snprintf(info.affinity, sizeof(info.affinity), "%.150s", s->key);
		if (s->left_out)
			snprintf(info.left_out, sizeof(info.left_out), "service %.150s: its host name", s->key);
	}
	map_for_each(l, &m->pods) {
		const struct mesh_pod *p = container_of(l, struct mesh_pod, link);

		info.n_pods += p->object && list_empty(&p->waiting);
		info.n_left_out += !list_empty(&p->waiting);
		if (!list_empty(&p->waiting))
			snprintf(info.left_out, sizeof(info.left_out), "pod %.150s: its address", p->key);
	}
	return info;
}

int kube_mesh_new(struct loop *loop, struct registry *registry, struct kube_mesh **ret_mesh)
{
	struct kube_mesh *m = calloc(1, sizeof(*m));

	if (!m)
		return -ENOMEM;
	m->loop = loop;
	m->reg = registry;
	list_init(&m->dirty_pods);
	list_init(&m->dirty_services);
	list_init(&m->waiting);
	resources_set_complete(registry->resources, false);
	*ret_mesh = m;
	return 0;
}

struct kube_mesh *kube_mesh_free(struct kube_mesh *m)
{
	if (!m)
		return NULL;
	map_for_each(l, &m->slices)
		mesh_slice_free(m, container_of(l, struct mesh_slice, link));
	map_for_each(l, &m->pods)
		mesh_pod_set_object(m, container_of(l, struct mesh_pod, link), NULL);
	map_for_each(l, &m->services)
		mesh_service_set_object(m, container_of(l, struct mesh_service, link), NULL);
	kube_mesh_settle(m);			/* all of them are forgotten */
	defer_cancel(&m->settle);
	map_deinit(&m->slices);
	map_deinit(&m->pods);
	map_deinit(&m->services);
	free(m);
	return NULL;
}

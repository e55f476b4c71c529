/*
 * Pods, Services and EndpointSlices to workloads, services and memberships.
 */
#include "control/kube_mesh.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/glob.h"
#include "base/log.h"
#include "control/kube_objects.h"
#include "mesh/names.h"

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

static void settle(struct kube_mesh *m);

static int on_settle(struct defer *d)
{
	settle(container_of(d, struct kube_mesh, settle));
	return 0;
}

static void mark_pod(struct kube_mesh *m, struct mesh_pod *p)
{
	if (list_empty(&p->dirty))
		list_append(&m->dirty_pods, &p->dirty);
	loop_defer(m->loop, &m->settle, on_settle);
}

static void mark_pods_of_slice(struct kube_mesh *m, const struct mesh_slice *s)
{
	for (size_t i = 0; i < s->n_endpoints; i++)
		mark_pod(m, s->endpoints[i].pod);
}

static void mark_service(struct kube_mesh *m, struct mesh_service *s)
{
	if (list_empty(&s->dirty))
		list_append(&m->dirty_services, &s->dirty);
	loop_defer(m->loop, &m->settle, on_settle);
}

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

/* --- names, with or without an object --- */

static struct mesh_pod *pod_get(struct kube_mesh *m, const char *key)
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

static void uid_of(const struct kube_mesh *m, const struct mesh_pod *p, char uid[static NAMES_UID_LEN * 2])
{
	snprintf(uid, NAMES_UID_LEN * 2, "%s//Pod/%s", m->reg->config->mesh.cluster_id, p->key);
}

/* The registry may have removed it, to give its address to a workload of the configuration. */
static struct reg_workload *workload_of(const struct kube_mesh *m, const struct mesh_pod *p)
{
	char uid[NAMES_UID_LEN * 2];

	uid_of(m, p, uid);
	return reg_workload_find(m->reg, uid);
}

static void withdraw_pod(struct kube_mesh *m, struct mesh_pod *p)
{
	struct reg_workload *w = workload_of(m, p);

	if (w)
		reg_workload_remove(m->reg, w);
}

static void pod_forget(struct kube_mesh *m, struct mesh_pod *p)
{
	if (p->object || !list_empty(&p->endpoints))
		return;
	map_remove(&m->pods, &p->link);
	list_unlink(&p->dirty);
	list_unlink(&p->waiting);
	free(p);
}

/* Its labels and name are the workload's. */
static void pod_set_object(struct kube_mesh *m, struct mesh_pod *p, struct kube_pod *object)
{
	struct reg_workload *w = workload_of(m, p);

	if (w && object) {
		w->labels = &object->labels;
		w->workload_name = object->workload;
	} else if (w) {
		reg_workload_remove(m->reg, w);
	}
	kube_pod_free(p->object);
	p->object = object;
	p->news = true;
	mark_pod(m, p);
}

static struct mesh_service *service_get(struct kube_mesh *m, const char *key)
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

static void service_forget(struct kube_mesh *m, struct mesh_service *s)
{
	if (s->object || !list_empty(&s->slices))
		return;
	map_remove(&m->services, &s->link);
	list_unlink(&s->dirty);
	free(s);
}

static struct reg_service *registered(const struct kube_mesh *m, const struct mesh_service *s)
{
	return s->object ? reg_kube_service_find(m->reg, s->object->namespace, s->object->name) : NULL;
}

static void service_set_object(struct kube_mesh *m, struct mesh_service *s, struct kube_service *object)
{
	struct reg_service *r = object ? NULL : registered(m, s);

	if (r)
		reg_kube_service_remove(m->reg, r);
	kube_service_free(s->object);
	s->object = object;
	mark_service(m, s);
}

/* --- slices --- */

static void slice_free(struct kube_mesh *m, struct mesh_slice *s)
{
	for (size_t i = 0; i < s->n_endpoints; i++) {
		list_unlink(&s->endpoints[i].in_pod);
		mark_pod(m, s->endpoints[i].pod);
	}
	list_unlink(&s->in_service);
	if (s->service)
		mark_service(m, s->service);	/* forgotten, if it was but a name */
	map_remove(&m->slices, &s->link);
	kube_slice_free(s->object);
	free(s->endpoints);
	free(s);
}

static struct mesh_slice *slice_get(struct kube_mesh *m, const char *key)
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
			mark_pod(m, p);
		p->mark = 0;
	}
	for (size_t i = 0; i < n; i++) {
		if (next[i].pod->mark)
			mark_pod(m, next[i].pod);
		next[i].pod->mark = 0;
	}
}

/* -ENOMEM: the slice is as it was. */
static int slice_set(struct kube_mesh *m, struct mesh_slice *s, struct kube_slice *object)
{
	struct mesh_service *service = service_get(m, object->service);
	struct mesh_endpoint *list = calloc(object->n_endpoints + 1, sizeof(*list));
	size_t n = 0;

	for (size_t i = 0; list && service && i < object->n_endpoints; i++) {
		struct mesh_pod *p = pod_get(m, object->endpoints[i].pod);

		if (p)
			list[n++] = (struct mesh_endpoint){ .pod = p, .slice = s, .ready = object->endpoints[i].ready };
	}
	if (!list || !service || n < object->n_endpoints) {
		for (size_t i = 0; i < n; i++)
			mark_pod(m, list[i].pod);	/* names that nobody says are forgotten */
		free(list);
		return -ENOMEM;
	}
	if (s->service != service || !kube_slice_same_ports(s->object, object)) {
		mark_pods_of_slice(m, s);
		for (size_t i = 0; i < n; i++)
			mark_pod(m, list[i].pod);
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
			mark_service(m, s->service);
		list_unlink(&s->in_service);
		list_append(&service->slices, &s->in_service);
		s->service = service;
	}
	kube_slice_free(s->object);
	s->object = object;
	kube_slice_drop_endpoints(object);
	return 0;
}

/* --- from pod to workload --- */

static enum app_protocol protocol_of(const struct kube_port *service, const struct kube_port *pods)
{
	return service->protocol ? service->protocol : pods->protocol;
}

/* The ports of both have names, or are the only ones; the slice has the pods' number. */
static int join_by_slice(struct kube_mesh *m, struct reg_workload *w, struct reg_service *s, const struct kube_service *object,
			 const struct kube_slice *slice, bool ready)
{
	for (size_t i = 0; i < object->n_ports; i++)
		for (size_t k = 0; k < slice->n_ports; k++) {
			const struct kube_port *p = &object->ports[i], *at = &slice->ports[k];

			if (strcmp(p->name, at->name) != 0)
				continue;
			int r = reg_workload_join(m->reg, w, s, (struct port_map){ p->port, at->port, (uint8_t)protocol_of(p, at) }, !ready);
			if (r < 0)
				return r;
		}
	return 0;
}

static int join_services(struct kube_mesh *m, struct mesh_pod *p, struct reg_workload *w)
{
	int r = 0;

	reg_workload_leave_all(m->reg, w);
	list_for_each(l, &p->endpoints) {
		const struct mesh_endpoint *e = list_entry(l, struct mesh_endpoint, in_pod);
		struct reg_service *s = registered(m, e->slice->service);

		if (s && r == 0)
			r = join_by_slice(m, w, s, e->slice->service->object, e->slice->object, e->ready);
	}
	return r;
}

static struct mesh_pod *pod_of_workload(const struct kube_mesh *m, const struct reg_workload *w)
{
	const char *key = strstr(w->uid, "//Pod/");
	struct map_link *l = key ? map_find_str(&m->pods, key + 6) : NULL;

	return l ? container_of(l, struct mesh_pod, link) : NULL;
}

/* True: it has left the address, the next try may have it. */
static bool make_way(struct kube_mesh *m, struct mesh_pod *p, struct reg_workload *owner)
{
	if (owner->guest) {
		log_warn("a guest's address is given to a pod", log_str("guest", owner->uid), log_str("pod", p->key));
		reg_guest_mark(m->reg, owner->guest);
	} else if (owner->kube && p->news) {
		struct mesh_pod *other = pod_of_workload(m, owner);

		log_warn("two pods have one address: the later has it", log_str("pod", p->key), log_str("instead_of", owner->uid));
		if (other && list_empty(&other->waiting))
			list_append(&m->waiting, &other->waiting);
	} else {
		return false;
	}
	reg_workload_remove(m->reg, owner);
	return true;
}

static int take_addresses(struct kube_mesh *m, struct mesh_pod *p, struct reg_workload *w)
{
	struct reg_workload *owner;
	int r;

	while ((r = reg_workload_set_addresses(m->reg, w, p->object->ips, p->object->n_ips, &owner)) == -EEXIST)
		if (!make_way(m, p, owner))
			return r;
	return r;
}

static int place_pod(struct kube_mesh *m, struct mesh_pod *p, struct reg_workload *w)
{
	const struct kube_pod *o = p->object;
	int r = reg_workload_set(w, o->name, o->namespace, o->account, o->node);

	if (r < 0)
		return r;
	w->kube = true;
	w->host_network = o->host_network;
	w->workload_name = o->workload;
	w->type = o->type;
	w->tunnel = o->tunnel;
	w->weight = 1;
	w->labels = &o->labels;
	r = take_addresses(m, p, w);
	return r < 0 ? r : join_services(m, p, w);
}

static void settle_pod(struct kube_mesh *m, struct mesh_pod *p)
{
	char uid[NAMES_UID_LEN * 2];
	struct reg_workload *w = workload_of(m, p);
	int r = 0;

	list_unlink(&p->waiting);
	if (!p->object) {
		withdraw_pod(m, p);
		pod_forget(m, p);
		return;
	}
	uid_of(m, p, uid);
	if (w && w->host_network != p->object->host_network) {	/* it has its addresses in another way */
		reg_workload_remove(m->reg, w);
		w = NULL;
	}
	if (!w)
		r = reg_workload_new(m->reg, uid, &w);
	if (r == 0)
		r = place_pod(m, p, w);
	p->news = false;
	if (r == 0) {
		reg_workload_mark(m->reg, w);
		return;
	}
	if (w)
		reg_workload_remove(m->reg, w);
	if (r == -EEXIST)
		list_append(&m->waiting, &p->waiting);
	else
		log_error("a pod could not be put into the mesh", log_str("pod", p->key), log_str("reason", strerror(-r)));
}

/* --- from Service to service --- */

static void settle_service(struct kube_mesh *m, struct mesh_service *s)
{
	struct port_map ports[KUBE_PORTS_MAX];
	size_t n = 0;
	int r;

	if (!s->object) {
		service_forget(m, s);
		return;
	}
	for (size_t i = 0; i < s->object->n_ports; i++)
		ports[n++] = (struct port_map){ s->object->ports[i].port, s->object->ports[i].target, (uint8_t)s->object->ports[i].protocol };
	r = reg_kube_service_put(m->reg, &(struct reg_kube_service){ s->object->namespace, s->object->name, s->object->ips, s->object->n_ips, ports, n });
	if (r == -EEXIST && !s->left_out)
		log_warn("a Kubernetes Service has the host name of a service of the configuration: it stays out", log_str("service", s->key));
	else if (r < 0 && r != -EEXIST)
		log_error("a Kubernetes Service could not be put into the mesh", log_str("service", s->key), log_str("reason", strerror(-r)));
	s->left_out = r == -EEXIST;
	list_for_each(l, &s->slices)
		mark_pods_of_slice(m, list_entry(l, struct mesh_slice, in_service));
}

static void settle(struct kube_mesh *m)
{
	list_for_each_safe(l, &m->dirty_services) {	/* first: the pods join them */
		list_unlink(l);
		settle_service(m, list_entry(l, struct mesh_service, dirty));
	}
	list_for_each_safe(l, &m->dirty_pods) {
		list_unlink(l);
		settle_pod(m, list_entry(l, struct mesh_pod, dirty));
	}
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
	p = pod_get(m, key);
	if (!p) {
		kube_pod_free(object);
		return;
	}
	p->generation = m->generations[KUBE_PODS];
	if (p->object && object && kube_pod_equal(p->object, object))
		kube_pod_free(object);	/* a condition, a restart count */
	else if (p->object || object)
		pod_set_object(m, p, object);
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
	s = service_get(m, key);
	if (!s) {
		kube_service_free(object);
		return;
	}
	s->generation = m->generations[KUBE_SERVICES];
	if (s->object && object && kube_service_equal(s->object, object))
		kube_service_free(object);
	else if (s->object || object)
		service_set_object(m, s, object);
}

static void remove_slice(struct kube_mesh *m, const char *key)
{
	struct map_link *l = map_find_str(&m->slices, key);

	if (l)
		slice_free(m, container_of(l, struct mesh_slice, link));
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
	s = slice_get(m, key);
	if (s)
		s->generation = m->generations[KUBE_SLICES];
	if (!s || slice_set(m, s, object) < 0) {
		log_error("out of memory: a slice of endpoints was not taken", log_str("slice", key));
		kube_slice_free(object);
		if (s && !s->object)
			slice_free(m, s);
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
		pod_set_object(m, container_of(l, struct mesh_pod, link), NULL);
	else if (kind == KUBE_SERVICES && (l = map_find_str(&m->services, key)))
		service_set_object(m, container_of(l, struct mesh_service, link), NULL);
	else if (kind == KUBE_SLICES)
		remove_slice(m, key);
}

void kube_mesh_synced(struct kube_mesh *m, enum kube_kind kind)
{
	uint64_t now = m->generations[kind];

	m->synced[kind] = true;
	if (kind == KUBE_PODS) {
		map_for_each(l, &m->pods) {
			struct mesh_pod *p = container_of(l, struct mesh_pod, link);

			if (p->object && p->generation != now)
				pod_set_object(m, p, NULL);
		}
	} else if (kind == KUBE_SERVICES) {
		map_for_each(l, &m->services) {
			struct mesh_service *s = container_of(l, struct mesh_service, link);

			if (s->object && s->generation != now)
				service_set_object(m, s, NULL);
		}
	} else if (kind == KUBE_SLICES) {
		map_for_each(l, &m->slices)
			if (container_of(l, struct mesh_slice, link)->generation != now)
				slice_free(m, container_of(l, struct mesh_slice, link));
	}
	if (m->synced[KUBE_PODS] && m->synced[KUBE_SERVICES] && m->synced[KUBE_SLICES]) {
		settle(m);
		registry_settle(m->reg);
		resources_set_complete(m->reg->resources, true);
	}
}

/* --- interface --- */

void kube_mesh_apply(struct kube_mesh *m)
{
	map_for_each(l, &m->services)
		mark_service(m, container_of(l, struct mesh_service, link));
	map_for_each(l, &m->pods)
		mark_pod(m, container_of(l, struct mesh_pod, link));
	settle(m);
}

void kube_mesh_retry(struct kube_mesh *m)
{
	list_for_each(l, &m->waiting)
		mark_pod(m, list_entry(l, struct mesh_pod, waiting));
}

struct kube_mesh_info kube_mesh_info(const struct kube_mesh *m)
{
	struct kube_mesh_info info = {};

	map_for_each(l, &m->services) {
		const struct mesh_service *s = container_of(l, struct mesh_service, link);

		info.n_services += s->object && !s->left_out;
		info.n_left_out += s->left_out;
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
		slice_free(m, container_of(l, struct mesh_slice, link));
	map_for_each(l, &m->pods)
		pod_set_object(m, container_of(l, struct mesh_pod, link), NULL);
	map_for_each(l, &m->services)
		service_set_object(m, container_of(l, struct mesh_service, link), NULL);
	settle(m);			/* all of them are forgotten */
	defer_cancel(&m->settle);
	map_deinit(&m->slices);
	map_deinit(&m->pods);
	map_deinit(&m->services);
	free(m);
	return NULL;
}

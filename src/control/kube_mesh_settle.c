/*
 * From pods to workloads, from Services to services.
 */
#include "control/kube_mesh_state.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"

/* --- what is due --- */

static int on_settle(struct defer *d)
{
	kube_mesh_settle(container_of(d, struct kube_mesh, settle));
	return 0;
}

void mesh_pod_mark(struct kube_mesh *m, struct mesh_pod *p)
{
	if (list_empty(&p->dirty))
		list_append(&m->dirty_pods, &p->dirty);
	loop_defer(m->loop, &m->settle, on_settle);
}

void mesh_service_mark(struct kube_mesh *m, struct mesh_service *s)
{
	if (list_empty(&s->dirty))
		list_append(&m->dirty_services, &s->dirty);
	loop_defer(m->loop, &m->settle, on_settle);
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
		struct reg_service *s = mesh_service_registered(m, e->slice->service);

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

static void withdraw_pod(struct kube_mesh *m, struct mesh_pod *p)
{
	struct reg_workload *w = mesh_pod_workload(m, p);

	if (w)
		reg_workload_remove(m->reg, w);
}

static void settle_pod(struct kube_mesh *m, struct mesh_pod *p)
{
	char uid[MESH_UID_LEN];
	struct reg_workload *w = mesh_pod_workload(m, p);
	int r = 0;

	list_unlink(&p->waiting);
	if (!p->object) {
		withdraw_pod(m, p);
		mesh_pod_forget(m, p);
		return;
	}
	mesh_pod_uid(m, p, uid);
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
		mesh_service_forget(m, s);
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
		mesh_slice_mark_pods(m, list_entry(l, struct mesh_slice, in_service));
}

void kube_mesh_settle(struct kube_mesh *m)
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

/*
 * Objects of a cluster, for the addresses in them. A row a kind.
 */
#include "control/kube_thing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_LEN = 600 };

/* --- JSON --- */

static const json_t *at(const json_t *object, const char *a, const char *b)
{
	return json_object_get(json_object_get(object, a), b);
}

static const char *text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text ? text : "";
}

static const char *text_at(const json_t *object, const char *a, const char *b)
{
	return text_of(json_object_get(object, a), b);
}

static void add_prefix(struct kube_thing *t, const struct ip_prefix *p, bool is_node)
{
	struct kube_thing_address *more;

	if (t->n_addresses == KUBE_THING_ADDRESSES_MAX)
		return;
	more = realloc(t->addresses, (t->n_addresses + 1) * sizeof(*more));
	if (!more)
		return;
	t->addresses = more;
	t->addresses[t->n_addresses++] = (struct kube_thing_address){ *p, is_node };
}

static void add(struct kube_thing *t, const char *text, bool is_node)
{
	struct ip_prefix p = { .len = 128 };

	if (text && ip_parse(text, &p.ip) == 0 && !ip_is_none(&p.ip))
		add_prefix(t, &p, is_node);
}

static void add_network(struct kube_thing *t, const char *text)
{
	struct ip_prefix p;

	if (text && ip_prefix_parse(text, &p) == 0)
		add_prefix(t, &p, false);
}

/* @name: of the member that is the number. Other transports than TCP and UDP have no registrations. */
static void add_port(struct kube_thing *t, const json_t *port, const char *name)
{
	json_int_t n = json_integer_value(json_object_get(port, name));
	const char *transport = text_of(port, "protocol");
	bool udp = !strcmp(transport, "UDP");
	struct kube_thing_port *more;

	if (n < 1 || n > 65535 || t->n_ports == KUBE_THING_PORTS_MAX || (*transport && !udp && strcmp(transport, "TCP") != 0))
		return;
	more = realloc(t->ports, (t->n_ports + 1) * sizeof(*more));
	if (!more)
		return;
	t->ports = more;
	t->ports[t->n_ports++] = (struct kube_thing_port){ (uint16_t)n, udp };
}

/* --- kinds: 0, -ESRCH, -ENOMEM --- */

static void read_pod_ports(const json_t *o, bool host_network, struct kube_thing *t)
{
	const json_t *container, *port;
	size_t i, k;

	json_array_foreach(at(o, "spec", "containers"), i, container)
		json_array_foreach(json_object_get(container, "ports"), k, port)
			add_port(t, port, host_network ? "containerPort" : "hostPort");
}

static int read_pod(const json_t *o, struct kube_thing *t)
{
	const char *phase = text_at(o, "status", "phase"), *node = text_at(o, "spec", "nodeName");
	bool host_network = json_is_true(at(o, "spec", "hostNetwork"));
	const json_t *ip;
	size_t i;

	/* A pod that has ended gives its address back; one of the host's network has none of its own. */
	if (!strcmp(phase, "Succeeded") || !strcmp(phase, "Failed"))
		return -ESRCH;
	json_array_foreach(at(o, "status", "podIPs"), i, ip)
		if (!host_network)
			add(t, json_string_value(json_object_get(ip, "ip")), false);
	read_pod_ports(o, host_network, t);
	/* The injector's; gateways have it, too. */
	t->sidecar = !host_network && !strcmp(text_of(at(o, "metadata", "labels"), "security.istio.io/tlsMode"), "istio");
	t->node = *node ? strdup(node) : NULL;
	if ((*node && !t->node) || asprintf(&t->what, "pod %s%s%s", t->key, *node ? " on node " : "", node) < 0) {
		t->what = NULL;
		return -ENOMEM;
	}
	return t->n_addresses || t->node ? 0 : -ESRCH;
}

static int read_node(const json_t *o, struct kube_thing *t)
{
	const char *provider_id = text_at(o, "spec", "providerID");
	const json_t *a;
	size_t i;

	json_array_foreach(at(o, "spec", "podCIDRs"), i, a)
		add_network(t, json_string_value(a));
	json_array_foreach(at(o, "status", "addresses"), i, a)
		if (!strcmp(text_of(a, "type"), "InternalIP") || !strcmp(text_of(a, "type"), "ExternalIP"))
			add(t, text_of(a, "address"), true);
	snprintf(t->created, sizeof(t->created), "%s", text_at(o, "metadata", "creationTimestamp"));
	t->provider_id = *provider_id ? strdup(provider_id) : NULL;
	if ((*provider_id && !t->provider_id) || asprintf(&t->what, "pod network of node %s", t->key) < 0) {
		t->what = NULL;
		return -ENOMEM;
	}
	return t->n_addresses ? 0 : -ESRCH;
}

static int read_service(const json_t *o, struct kube_thing *t)
{
	const json_t *a;
	size_t i;

	json_array_foreach(at(o, "spec", "clusterIPs"), i, a)
		add(t, json_string_value(a), false);	/* "None" is no address */
	json_array_foreach(at(o, "spec", "ports"), i, a)
		add_port(t, a, "nodePort");
	if (asprintf(&t->what, "address of the Kubernetes service %s", t->key) < 0) {
		t->what = NULL;
		return -ENOMEM;
	}
	return t->n_addresses ? 0 : -ESRCH;
}

/* Endpoints that are pods; others may be VMs. */
static int read_slice(const json_t *o, struct kube_thing *t)
{
	const char *service = text_at(o, "metadata", "name");
	const json_t *endpoint, *labels = at(o, "metadata", "labels"), *a;
	const char *label = json_string_value(json_object_get(labels, "kubernetes.io/service-name"));
	size_t i, k;

	json_array_foreach(json_object_get(o, "endpoints"), i, endpoint) {
		if (strcmp(text_at(endpoint, "targetRef", "kind"), "Pod") != 0)
			continue;
		json_array_foreach(json_object_get(endpoint, "addresses"), k, a)
			add(t, json_string_value(a), false);
	}
	json_array_foreach(json_object_get(o, "ports"), i, a)
		add_port(t, a, "port");
	if (asprintf(&t->what, "endpoint of the Kubernetes service %s/%s", text_at(o, "metadata", "namespace"), label ? label : service) < 0) {
		t->what = NULL;
		return -ENOMEM;
	}
	return t->n_addresses ? 0 : -ESRCH;
}

static int (*const readers[])(const json_t *object, struct kube_thing *t) = {
	[KUBE_PODS] = read_pod, [KUBE_SLICES] = read_slice, [KUBE_SERVICES] = read_service, [KUBE_NODES] = read_node,
};
_Static_assert(ELEMENTS(readers) == _KUBE_KIND_N, "every kind is read");

/* --- things --- */

static int thing_new(const json_t *object, struct kube_thing **ret_thing)
{
	const char *ns = text_at(object, "metadata", "namespace"), *name = text_at(object, "metadata", "name");
	size_t size = strlen(ns) + strlen(name) + 2;
	struct kube_thing *t;

	if (!*name || size > KEY_LEN)
		return -EINVAL;
	t = calloc(1, sizeof(*t) + size);
	if (!t)
		return -ENOMEM;
	memcpy(t->key, ns, strlen(ns));
	if (*ns)
		t->key[strlen(ns)] = '/';
	memcpy(t->key + strlen(t->key), name, strlen(name));
	*ret_thing = t;
	return 0;
}

struct kube_thing *kube_thing_free(struct kube_thing *t)
{
	if (!t)
		return NULL;
	free(t->addresses);
	free(t->ports);
	free(t->node);
	free(t->provider_id);
	free(t->what);
	free(t);
	return NULL;
}

int kube_thing_read(enum kube_kind kind, const json_t *object, struct kube_thing **ret_thing)
{
	struct kube_thing *t;
	int r = thing_new(object, &t);

	if (r < 0)
		return r;
	r = readers[kind](object, t);
	if (r == -ENOMEM)
		kube_thing_free(t);
	else
		*ret_thing = t;
	return r;
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

bool kube_thing_equal(const struct kube_thing *a, const struct kube_thing *b)
{
	if (a->n_addresses != b->n_addresses || a->n_ports != b->n_ports || a->sidecar != b->sidecar || !same_text(a->what, b->what) ||
	    !same_text(a->node, b->node) || !same_text(a->provider_id, b->provider_id) || strcmp(a->created, b->created) != 0)
		return false;
	for (size_t i = 0; i < a->n_addresses; i++)
		if (!ip_equal(&a->addresses[i].prefix.ip, &b->addresses[i].prefix.ip) || a->addresses[i].prefix.len != b->addresses[i].prefix.len ||
		    a->addresses[i].is_node != b->addresses[i].is_node)
			return false;
	for (size_t i = 0; i < a->n_ports; i++)
		if (a->ports[i].port != b->ports[i].port || a->ports[i].udp != b->ports[i].udp)
			return false;
	return true;
}

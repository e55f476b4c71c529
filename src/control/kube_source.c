/*
 * Objects of a cluster, for the addresses in them. A row a kind.
 */
#include "control/kube_source.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/map.h"

enum {
	THING_ADDRESSES_MAX = 1024,	/* a slice of endpoints has at most 1000 */
	SETTLE_MS = 100,
	KEY_LEN = 600,
};

struct thing_address {
	struct ip_prefix prefix;
	bool is_node;			/* the node's own: no container's */
};

struct thing {				/* an object with addresses */
	struct map_link link;		/* by "ns/name", in its kind */
	uint64_t generation;		/* of the list or change that brought it */
	struct thing_address *addresses;
	size_t n_addresses;
	bool sidecar;			/* a pod: its proxy speaks Istio's mutual TLS */
	char *what;
	char key[];
};

struct source_kind {
	const char *path;
	const char *what;
	/* Adds its addresses and sets what it is. False: it has none that count. */
	bool (*read)(const json_t *object, struct thing *t);
};

struct kind_state {
	const struct source_kind *kind;
	struct kube_source *source;
	struct kube_watch *watch;
	struct map things;
	uint64_t generation;
};

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

static void add(struct thing *t, const char *text, bool is_node)
{
	struct thing_address *more;
	struct ip_prefix p;

	if (!text || t->n_addresses == THING_ADDRESSES_MAX || ip_prefix_parse(text, &p) < 0)
		return;
	more = realloc(t->addresses, (t->n_addresses + 1) * sizeof(*more));
	if (!more)
		return;
	t->addresses = more;
	t->addresses[t->n_addresses++] = (struct thing_address){ p, is_node };
}

/* --- kinds --- */

static bool read_pod(const json_t *o, struct thing *t)
{
	const char *phase = text_at(o, "status", "phase"), *node = text_at(o, "spec", "nodeName");
	const json_t *ip;
	size_t i;

	/* A pod that has ended gives its address back; one of the host's network has none of its own. */
	if (!strcmp(phase, "Succeeded") || !strcmp(phase, "Failed") || json_is_true(at(o, "spec", "hostNetwork")))
		return false;
	json_array_foreach(at(o, "status", "podIPs"), i, ip)
		add(t, json_string_value(json_object_get(ip, "ip")), false);
	/* The injector's; gateways have it, too. */
	t->sidecar = !strcmp(text_of(at(o, "metadata", "labels"), "security.istio.io/tlsMode"), "istio");
	if (asprintf(&t->what, "pod %s%s%s", t->key, *node ? " on node " : "", node) < 0)
		t->what = NULL;
	return t->n_addresses > 0;
}

static bool read_node(const json_t *o, struct thing *t)
{
	const json_t *a;
	size_t i;

	json_array_foreach(at(o, "spec", "podCIDRs"), i, a)
		add(t, json_string_value(a), false);
	json_array_foreach(at(o, "status", "addresses"), i, a) {
		const char *type = json_string_value(json_object_get(a, "type"));

		if (type && !strcmp(type, "InternalIP"))
			add(t, json_string_value(json_object_get(a, "address")), true);
	}
	if (asprintf(&t->what, "pod network of node %s", text_at(o, "metadata", "name")) < 0)
		t->what = NULL;
	return t->n_addresses > 0;
}

static bool read_service(const json_t *o, struct thing *t)
{
	const json_t *ip;
	size_t i;

	json_array_foreach(at(o, "spec", "clusterIPs"), i, ip)
		add(t, json_string_value(ip), false);	/* "None" is no address */
	if (asprintf(&t->what, "address of the Kubernetes service %s", t->key) < 0)
		t->what = NULL;
	return t->n_addresses > 0;
}

/* Endpoints that are pods; others may be VMs. */
static bool read_slice(const json_t *o, struct thing *t)
{
	const char *service = text_at(o, "metadata", "name");
	const json_t *endpoint, *labels = at(o, "metadata", "labels"), *ip;
	const char *label = json_string_value(json_object_get(labels, "kubernetes.io/service-name"));
	size_t i, k;

	json_array_foreach(json_object_get(o, "endpoints"), i, endpoint) {
		if (strcmp(text_at(endpoint, "targetRef", "kind"), "Pod") != 0)
			continue;
		json_array_foreach(json_object_get(endpoint, "addresses"), k, ip)
			add(t, json_string_value(ip), false);
	}
	if (asprintf(&t->what, "endpoint of the Kubernetes service %s/%s", text_at(o, "metadata", "namespace"), label ? label : service) < 0)
		t->what = NULL;
	return t->n_addresses > 0;
}

/* By what says most of an address. */
static const struct source_kind kinds[_KUBE_KIND_N] = {
	[KUBE_PODS] = { "/api/v1/pods", "pods", read_pod },
	[KUBE_SLICES] = { "/apis/discovery.k8s.io/v1/endpointslices", "endpointslices.discovery.k8s.io", read_slice },
	[KUBE_SERVICES] = { "/api/v1/services", "services", read_service },
	[KUBE_NODES] = { "/api/v1/nodes", "nodes", read_node },
};

struct kube_source {
	struct loop *loop;
	void (*changed)(void *data);
	void *data;
	const struct kube_reader *reader;
	void *reader_data;
	struct timer settle;
	struct kind_state kinds[ELEMENTS(kinds)];
};

/* --- things --- */

static void thing_free(struct thing *t)
{
	free(t->addresses);
	free(t->what);
	free(t);
}

static int on_settle(struct timer *t)
{
	struct kube_source *s = container_of(t, struct kube_source, settle);

	s->changed(s->data);
	return 0;
}

static void changed(struct kube_source *s)
{
	if (!s->settle.loop)
		(void)!timer_arm(s->loop, &s->settle, SETTLE_MS, on_settle);	/* no memory: with the next change */
}

static bool equal(const struct thing *a, const struct thing *b)
{
	if (a->n_addresses != b->n_addresses || a->sidecar != b->sidecar || !a->what || !b->what || strcmp(a->what, b->what) != 0)
		return false;
	for (size_t i = 0; i < a->n_addresses; i++)
		if (!ip_equal(&a->addresses[i].prefix.ip, &b->addresses[i].prefix.ip) || a->addresses[i].prefix.len != b->addresses[i].prefix.len)
			return false;
	return true;
}

static struct thing *thing_new(const json_t *object)
{
	const char *ns = text_at(object, "metadata", "namespace"), *name = text_at(object, "metadata", "name");
	size_t size = strlen(ns) + strlen(name) + 2;
	struct thing *t = *name && size <= KEY_LEN ? calloc(1, sizeof(*t) + size) : NULL;

	if (t && *ns) {
		memcpy(t->key, ns, strlen(ns));
		t->key[strlen(ns)] = '/';
	}
	if (t)
		memcpy(t->key + strlen(t->key), name, strlen(name));
	return t;
}

static void drop(struct kind_state *k, struct thing *t)
{
	map_remove(&k->things, &t->link);
	thing_free(t);
	changed(k->source);
}

static void remove_key(struct kind_state *k, const char *key)
{
	struct map_link *l = map_find_str(&k->things, key);

	if (l)
		drop(k, container_of(l, struct thing, link));
}

static enum kube_kind kind_of(const struct kind_state *k)
{
	return (enum kube_kind)(k->kind - kinds);
}

static void take(struct kind_state *k, const json_t *object)
{
	struct thing *t = thing_new(object);
	struct map_link *l = t ? map_find_str(&k->things, t->key) : NULL;
	struct thing *old = l ? container_of(l, struct thing, link) : NULL;

	if (!t)
		return;
	if (!k->kind->read(object, t) || !t->what) {
		remove_key(k, t->key);
		thing_free(t);
		return;
	}
	if (old && equal(old, t)) {	/* a heartbeat, a label */
		old->generation = k->generation;
		thing_free(t);
		return;
	}
	if (old)
		drop(k, old);
	t->generation = k->generation;
	if (map_add(&k->things, &t->link, t->key, strlen(t->key)) < 0)
		thing_free(t);
	changed(k->source);
}

static void on_put(void *data, const json_t *object)
{
	struct kind_state *k = data;

	take(k, object);
	if (k->source->reader)
		k->source->reader->put(k->source->reader_data, kind_of(k), object);
}

static void on_gone(void *data, const json_t *object)
{
	struct kind_state *k = data;
	struct thing *t = thing_new(object);

	if (t)
		remove_key(k, t->key);
	free(t);
	if (k->source->reader)
		k->source->reader->gone(k->source->reader_data, kind_of(k), object);
}

static void on_begin(void *data)
{
	struct kind_state *k = data;

	k->generation++;
	if (k->source->reader)
		k->source->reader->begin(k->source->reader_data, kind_of(k));
}

static void on_synced(void *data)
{
	struct kind_state *k = data;

	map_for_each(l, &k->things) {
		struct thing *t = container_of(l, struct thing, link);

		if (t->generation != k->generation)
			drop(k, t);
	}
	changed(k->source);
	if (k->source->reader)
		k->source->reader->synced(k->source->reader_data, kind_of(k));
}

/* --- interface --- */

int kube_source_containers(const struct kube_source *s, struct kube_container **ret_containers, size_t *ret_n)
{
	struct kube_container *v;
	size_t n = 0;

	for (size_t i = 0; i < ELEMENTS(kinds); i++)
		map_for_each(l, &s->kinds[i].things)
			n += container_of(l, struct thing, link)->n_addresses;
	v = calloc(n ? n : 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	n = 0;
	for (size_t i = 0; i < ELEMENTS(kinds); i++)
		map_for_each(l, &s->kinds[i].things) {
			const struct thing *t = container_of(l, struct thing, link);

			for (size_t a = 0; a < t->n_addresses; a++)
				if (!t->addresses[a].is_node)
					v[n++] = (struct kube_container){ t->addresses[a].prefix, t->what };
		}
	*ret_containers = v;
	*ret_n = n;
	return 0;
}

size_t kube_source_n_sidecars(const struct kube_source *s)
{
	size_t n = 0;

	for (size_t i = 0; i < ELEMENTS(kinds); i++)
		map_for_each(l, &s->kinds[i].things)
			n += container_of(l, struct thing, link)->sidecar;
	return n;
}

size_t kube_source_n_watches(const struct kube_source *s)
{
	(void)s;
	return ELEMENTS(kinds);
}

struct kube_watch_info kube_source_watch(const struct kube_source *s, size_t i)
{
	return kube_watch_info(s->kinds[i].watch);
}

int kube_source_new(struct loop *loop, const struct kube_source_options *o, struct kube_source **ret_source)
{
	struct kube_source *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return -ENOMEM;
	s->loop = loop;
	s->changed = o->changed;
	s->data = o->data;
	s->reader = o->reader;
	s->reader_data = o->reader_data;
	for (size_t i = 0; r == 0 && i < ELEMENTS(kinds); i++) {
		struct kind_state *k = &s->kinds[i];
		const struct kube_watch_options w = {
			.client = o->client, .path = kinds[i].path, .what = kinds[i].what, .data = k,
			.ops = { .begin = on_begin, .put = on_put, .gone = on_gone, .synced = on_synced },
		};

		k->kind = &kinds[i];
		k->source = s;
		map_init(&k->things);
		r = kube_watch_new(loop, &w, &k->watch);
	}
	if (r < 0) {
		kube_source_free(s);
		return r;
	}
	*ret_source = s;
	return 0;
}

struct kube_source *kube_source_free(struct kube_source *s)
{
	if (!s)
		return NULL;
	for (size_t i = 0; i < ELEMENTS(kinds); i++) {
		kube_watch_free(s->kinds[i].watch);
		map_for_each(l, &s->kinds[i].things)
			thing_free(container_of(l, struct thing, link));
		map_deinit(&s->kinds[i].things);
	}
	timer_cancel(&s->settle);
	free(s);
	return NULL;
}

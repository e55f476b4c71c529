/*
 * Objects of a cluster, and the answers that are drawn from them.
 */
#include "control/kube_things.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct kube_thing *thing_of(struct map_link *l)
{
	return container_of(l, struct kube_thing, link);
}

/* --- keeping --- */

void kube_things_init(struct kube_things *s)
{
	*s = (struct kube_things){};
	for (size_t i = 0; i < _KUBE_KIND_N; i++)
		map_init(&s->kinds[i]);
}

void kube_things_deinit(struct kube_things *s)
{
	for (size_t i = 0; i < _KUBE_KIND_N; i++) {
		map_for_each(l, &s->kinds[i])
			kube_thing_free(thing_of(l));
		map_deinit(&s->kinds[i]);
	}
}

static void drop(struct map *m, struct kube_thing *t)
{
	map_remove(m, &t->link);
	kube_thing_free(t);
}

static bool drop_key(struct map *m, const char *key)
{
	struct map_link *l = map_find_str(m, key);

	if (l)
		drop(m, thing_of(l));
	return l;
}

void kube_things_begin(struct kube_things *s, enum kube_kind kind)
{
	s->generations[kind]++;
}

bool kube_things_put(struct kube_things *s, enum kube_kind kind, const json_t *object)
{
	struct map *m = &s->kinds[kind];
	struct kube_thing *t;
	int r = kube_thing_read(kind, object, &t);
	struct map_link *l = r == 0 ? map_find_str(m, t->key) : NULL;

	if (r == -ESRCH) {
		bool changed = drop_key(m, t->key);

		kube_thing_free(t);
		return changed;
	}
	if (r < 0)
		return false;
	t->generation = s->generations[kind];
	if (l && kube_thing_equal(thing_of(l), t)) {	/* a heartbeat, a label */
		thing_of(l)->generation = t->generation;
		kube_thing_free(t);
		return false;
	}
	if (l)
		drop(m, thing_of(l));
	if (map_add(m, &t->link, t->key, strlen(t->key)) < 0)
		kube_thing_free(t);
	return true;
}

bool kube_things_gone(struct kube_things *s, enum kube_kind kind, const json_t *object)
{
	struct kube_thing *t;
	int r = kube_thing_read(kind, object, &t);
	bool changed = false;

	if (r == 0 || r == -ESRCH) {
		changed = drop_key(&s->kinds[kind], t->key);
		kube_thing_free(t);
	}
	return changed;
}

bool kube_things_synced(struct kube_things *s, enum kube_kind kind)
{
	struct map *m = &s->kinds[kind];
	bool changed = false;

	map_for_each(l, m) {
		if (thing_of(l)->generation == s->generations[kind])
			continue;
		drop(m, thing_of(l));
		changed = true;
	}
	return changed;
}

/* --- nodes by address --- */

/* The youngest of an address comes first. */
static int compare(const void *pa, const void *pb)
{
	const struct kube_node_address *a = pa, *b = pb;
	int r = memcmp(&a->ip, &b->ip, sizeof(a->ip));

	if (r == 0)
		r = strcmp(b->node->created, a->node->created);
	return r ? r : strcmp(a->node->key, b->node->key);
}

int kube_things_index(const struct kube_things *s, struct kube_node_index *ret_index)
{
	struct kube_node_address *v;
	size_t n = 0;

	map_for_each(l, &s->kinds[KUBE_NODES])
		n += thing_of(l)->n_addresses;
	v = calloc(n ? n : 1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	n = 0;
	map_for_each(l, &s->kinds[KUBE_NODES]) {
		const struct kube_thing *t = thing_of(l);

		for (size_t i = 0; i < t->n_addresses; i++)
			if (t->addresses[i].is_node)
				v[n++] = (struct kube_node_address){ t->addresses[i].prefix.ip, t };
	}
	qsort(v, n, sizeof(*v), compare);
	*ret_index = (struct kube_node_index){ v, n };
	return 0;
}

void kube_node_index_deinit(struct kube_node_index *index)
{
	free(index->v);
	*index = (struct kube_node_index){};
}

static const struct kube_thing *node_at(const struct kube_node_index *index, const struct ip *ip)
{
	size_t from = 0, to = index->n;

	while (from < to) {		/* the first that is not before it */
		size_t mid = (from + to) / 2;

		if (memcmp(&index->v[mid].ip, ip, sizeof(*ip)) < 0)
			from = mid + 1;
		else
			to = mid;
	}
	return from < index->n && ip_equal(&index->v[from].ip, ip) ? index->v[from].node : NULL;
}

/* --- containers --- */

static void add_containers(const struct kube_thing *t, const struct kube_node_index *nodes, struct kube_container *v, size_t *n)
{
	for (size_t i = 0; i < t->n_addresses; i++) {
		const struct kube_thing_address *a = &t->addresses[i];

		if (!a->is_node && (a->prefix.len < 128 || !node_at(nodes, &a->prefix.ip)))
			v[(*n)++] = (struct kube_container){ a->prefix, t->what };
	}
}

int kube_things_containers(const struct kube_things *s, struct kube_container **ret_containers, size_t *ret_n)
{
	struct kube_node_index nodes;
	struct kube_container *v;
	size_t n = 0;
	int r = kube_things_index(s, &nodes);

	if (r < 0)
		return r;
	for (size_t i = 0; i < _KUBE_KIND_N; i++)
		map_for_each(l, &s->kinds[i])
			n += thing_of(l)->n_addresses;
	v = calloc(n ? n : 1, sizeof(*v));
	if (v) {
		n = 0;
		for (size_t i = 0; i < _KUBE_KIND_N; i++)
			map_for_each(l, &s->kinds[i])
				add_containers(thing_of(l), &nodes, v, &n);
		*ret_containers = v;
		*ret_n = n;
	}
	kube_node_index_deinit(&nodes);
	return v ? 0 : -ENOMEM;
}

size_t kube_things_n_sidecars(const struct kube_things *s)
{
	size_t n = 0;

	map_for_each(l, &s->kinds[KUBE_PODS])
		n += thing_of(l)->sidecar;
	return n;
}

/* --- a node --- */

static bool is_within(const struct kube_node *n, const struct ip *ip)
{
	for (size_t i = 0; i < n->n_prefixes; i++)
		if (ip_in_prefix(ip, &n->prefixes[i]))
			return true;
	return false;
}

static int add_prefix(struct kube_node *n, const struct ip_prefix *p)
{
	struct ip_prefix *more;

	if (n->n_prefixes == KUBE_NODE_PREFIXES_MAX || (p->len == 128 && is_within(n, &p->ip)))
		return 0;
	more = realloc(n->prefixes, (n->n_prefixes + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	n->prefixes = more;
	n->prefixes[n->n_prefixes++] = *p;
	return 0;
}

static int add_ports(struct kube_node *n, const struct kube_thing *t)
{
	struct kube_node_port *more;
	size_t fit = MIN(t->n_ports, (size_t)KUBE_NODE_PORTS_MAX - n->n_ports);

	if (!fit)
		return 0;
	more = realloc(n->ports, (n->n_ports + fit) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	n->ports = more;
	for (size_t i = 0; i < fit; i++)
		n->ports[n->n_ports++] = (struct kube_node_port){ t->ports[i], t->what };
	return 0;
}

static bool has_endpoint_at(const struct kube_thing *slice, const struct kube_node_index *index, const struct kube_thing *node)
{
	for (size_t i = 0; i < slice->n_addresses; i++)
		if (node_at(index, &slice->addresses[i].prefix.ip) == node)
			return true;
	return false;
}

static int add_pod(struct kube_node *n, const struct kube_thing *pod, const struct kube_node_index *index)
{
	int r = add_ports(n, pod);

	n->n_pods++;
	for (size_t i = 0; r == 0 && i < pod->n_addresses; i++)
		if (!node_at(index, &pod->addresses[i].prefix.ip))
			r = add_prefix(n, &pod->addresses[i].prefix);
	return r;
}

/* Pods' own ports say most of what listens there, node ports of Services least. */
static int fill(const struct kube_things *s, const struct kube_node_index *index, const struct kube_thing *node, struct kube_node *n)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < node->n_addresses; i++)
		if (!node->addresses[i].is_node)
			r = add_prefix(n, &node->addresses[i].prefix);
	map_for_each(l, &s->kinds[KUBE_PODS])
		if (r == 0 && thing_of(l)->node && !strcmp(thing_of(l)->node, node->key))
			r = add_pod(n, thing_of(l), index);
	map_for_each(l, &s->kinds[KUBE_SLICES])
		if (r == 0 && thing_of(l)->n_ports && has_endpoint_at(thing_of(l), index, node))
			r = add_ports(n, thing_of(l));
	map_for_each(l, &s->kinds[KUBE_SERVICES])
		if (r == 0)
			r = add_ports(n, thing_of(l));
	return r;
}

int kube_things_node(const struct kube_things *s, const struct kube_node_index *index, const struct ip *ips, size_t n, struct kube_node *ret_node)
{
	const struct kube_thing *node = NULL;
	struct kube_node found = {};
	int r;

	for (size_t i = 0; i < n && !node; i++)
		node = node_at(index, &ips[i]);
	if (!node)
		return -ENOENT;
	found.name = node->key;
	found.provider_id = node->provider_id;
	r = fill(s, index, node, &found);
	if (r < 0)
		kube_node_deinit(&found);
	else
		*ret_node = found;
	return r;
}

void kube_node_deinit(struct kube_node *node)
{
	free(node->prefixes);
	free(node->ports);
	*node = (struct kube_node){};
}

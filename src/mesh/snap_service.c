/*
 * The writer's part for services.
 *
 * A service is two objects: what was sent about it (struct snap_def), and a
 * small one with its endpoints, which is all that an endpoint's change copies.
 * Indexes by address and name lead to the former, the id in it to the latter.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mesh/snap_state.h"

/* --- the object with the endpoints --- */

/* The service @id as the running transaction may change it. */
static int service_own(struct snap_store *st, uint32_t id, struct snap_service **ret_service)
{
	struct snap_service *old = (struct snap_service *)(uintptr_t)snap_service_by_id(&st->now, id);
	struct snap_service *s;
	int r;

	if (!old)
		return -ENOENT;
	if (old->tx == st->tx.serial) {
		*ret_service = old;
		return 0;
	}
	s = slab_alloc(&st->slab, sizeof(*s));
	if (!s)
		return -ENOMEM;
	*s = *old;
	s->tx = st->tx.serial;
	r = snap_made(st, SNAP_O_SERVICE, s);
	if (r == 0)
		r = trie_swap(&st->now.services, &st->tx, id, old, s);
	if (r == 0)
		r = snap_drop(st, SNAP_O_SERVICE, old);
	if (r == 0)
		*ret_service = s;
	return r;
}

static int service_new(struct snap_store *st, struct snap_def *def)
{
	struct snap_service *s = slab_zalloc(&st->slab, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	*s = (struct snap_service){ .id = def->service_id, .tx = st->tx.serial, .max_weight = 1, .def = def };
	r = snap_made(st, SNAP_O_SERVICE, s);
	if (r == 0)
		r = trie_add(&st->now.services, &st->tx, snap_key_of_service, def->service_id, s);
	return r;
}

static int service_delete(struct snap_store *st, struct snap_service *s)
{
	struct snap_def *def = (struct snap_def *)(uintptr_t)s->def;
	int r = trie_remove(&st->now.by_key, &st->tx, snap_hash_text(def->key), def);

	if (r == 0)
		r = trie_remove(&st->now.services, &st->tx, s->id, s);
	if (r == 0)
		r = snap_drop(st, SNAP_O_SERVICE, s);
	if (r == 0)
		r = snap_drop(st, SNAP_O_PLAIN, def);
	return r;
}

static uint16_t max_weight(const struct snap_service *s)
{
	uint16_t max = 1;

	for (uint32_t i = 0; i < snap_service_size(s); i++) {
		uint16_t weight = snap_service_endpoint(s, i)->kind->weight;

		if (weight > max)
			max = weight;
	}
	return max;
}

static uint64_t key_of_endpoint(const void *entry)
{
	return ((const struct snap_workload *)entry)->id;
}

int snap_service_put_endpoint(struct snap_store *st, uint32_t id, struct snap_workload *w)
{
	struct snap_service *s;
	void *old;
	int r = service_own(st, id, &s);

	if (r == 0)
		r = trie_put(&s->endpoints, &st->tx, key_of_endpoint, w->id, w, &old);
	if (r < 0)
		return r;
	if (w->kind->weight >= s->max_weight)
		s->max_weight = w->kind->weight;
	else if (old && ((struct snap_workload *)old)->kind->weight == s->max_weight)
		s->max_weight = max_weight(s);
	return 0;
}

int snap_service_remove_endpoint(struct snap_store *st, uint32_t id, const struct snap_workload *w)
{
	struct snap_service *s;
	int r = service_own(st, id, &s);

	if (r == 0)
		r = trie_remove(&s->endpoints, &st->tx, w->id, w);
	if (r < 0)
		return r;
	if (!snap_service_size(s) && !s->def->defined)
		return service_delete(st, s);
	if (w->kind->weight > 1 && w->kind->weight == s->max_weight)
		s->max_weight = max_weight(s);
	return 0;
}

/* --- definitions --- */

static struct snap_def *def_find(struct snap_store *st, const char *key, uint64_t hash)
{
	struct snap_def *def = trie_get(&st->now.by_key, hash);

	return def && !strcmp(def->key, key) ? def : NULL;
}

struct snap_service *snap_service_find(struct snap_store *st, const char *key)
{
	const struct snap_def *def = def_find(st, key, snap_hash_text(key));

	return def ? (struct snap_service *)(uintptr_t)snap_service_by_id(&st->now, def->service_id) : NULL;
}

int snap_service_mention(struct snap_store *st, const char *key, uint32_t *ret_id)
{
	size_t n_key = strlen(key) + 1;
	uint64_t hash = map_hash(key, n_key - 1);
	struct snap_def *def = def_find(st, key, hash);
	int r;

	if (def) {
		*ret_id = def->service_id;
		return 0;
	}
	def = calloc(1, sizeof(*def) + n_key);
	if (!def)
		return -ENOMEM;
	def->service_id = st->next_service_id;
	def->key = memcpy(def + 1, key, n_key);
	def->name = def->namespace = def->hostname = "";
	r = snap_made(st, SNAP_O_PLAIN, def);
	if (r == 0)
		r = trie_add(&st->now.by_key, &st->tx, snap_key_of_def, hash, def);
	if (r == -EEXIST)
		return snap_drop(st, SNAP_O_PLAIN, def) < 0 ? -ENOMEM : r;
	st->next_service_id++;
	if (r == 0)
		r = service_new(st, def);
	if (r == 0)
		*ret_id = def->service_id;
	return r;
}

static bool is_vip(const struct snap_store *st, const struct service_address *a)
{
	return a->prefix_len == 128 && !strcmp(a->network, st->network) && !ip_is_none(&a->ip);
}

static size_t text_size(const char *text)
{
	return text ? strlen(text) + 1 : 0;
}

static size_t gateway_size(const struct model_gateway *g)
{
	return text_size(g->network) + text_size(g->namespace) + text_size(g->hostname);
}

struct def_size {
	size_t texts, total;
};

static size_t vips_size(const struct snap_store *st, const struct service *s)
{
	size_t size = 0;

	for (size_t i = 0; i < s->n_addresses; i++)
		if (is_vip(st, &s->addresses[i]))
			size += snap_address_size(&s->addresses[i].ip, !size);
	return size;
}

static struct def_size def_size(const struct snap_store *st, const struct service *s)
{
	struct def_size n = {};

	n.texts = 2 * (strlen(s->namespace) + 1) + 2 * (strlen(s->hostname) + 1) + strlen(s->name) + 1 + gateway_size(&s->waypoint);
	for (size_t i = 0; i < s->n_sans; i++)
		n.texts += strlen(s->sans[i]) + 1;
	n.total = sizeof(struct snap_def) + s->n_sans * sizeof(char *) + vips_size(st, s) + s->n_ports * sizeof(struct snap_port) + n.texts;
	return n;
}

static const char *put_text(char **at, const char *text)
{
	size_t n = strlen(text) + 1;
	const char *to = memcpy(*at, text, n);

	*at += n;
	return to;
}

static struct model_gateway put_gateway(char **at, const struct model_gateway *g)
{
	struct model_gateway to = *g;

	to.network = g->network ? put_text(at, g->network) : NULL;
	to.namespace = g->namespace ? put_text(at, g->namespace) : NULL;
	to.hostname = g->hostname ? put_text(at, g->hostname) : NULL;
	return to;
}

/* What is behind them. */
static uint8_t *fill_vips(const struct snap_store *st, struct snap_def *def, const struct service *s, uint8_t *at)
{
	def->vips = at;
	for (size_t i = 0; i < s->n_addresses; i++) {
		const struct ip *ip = &s->addresses[i].ip;

		if (!is_vip(st, &s->addresses[i]))
			continue;
		if (!def->n_vips)
			def->is_v6 = !ip_is_v4(ip);
		at = snap_address_put(def, at, ip, !def->n_vips);
		def->n_vips++;
	}
	return at;
}

static void fill_ports(struct snap_def *def, const struct service *s, struct snap_port *ports)
{
	for (size_t i = 0; i < s->n_ports; i++) {
		const struct port_map *p = &s->ports[i];

		ports[i].port = p->service_port;
		ports[i].target_port = p->target_port ? p->target_port : p->service_port;
		ports[i].app_protocol = p->app_protocol;
	}
	def->ports = ports;
	def->n_ports = (uint16_t)s->n_ports;
	def->n_lb_preference = s->n_lb_preference;
	memcpy(def->lb_preference, s->lb_preference, sizeof(def->lb_preference));
}

/* Lists first, by falling alignment, then the texts. */
static struct snap_def *def_make(const struct snap_store *st, const struct service *s, const char *key, uint32_t id)
{
	struct def_size n = def_size(st, s);
	struct snap_def *def = calloc(1, n.total);

	if (!def)
		return NULL;

	const char **sans = (const char **)(def + 1);
	struct snap_port *ports = (struct snap_port *)(sans + s->n_sans);
	uint8_t *vips = (uint8_t *)(ports + s->n_ports);
	char *texts = (char *)fill_vips(st, def, s, vips);

	fill_ports(def, s, ports);
	def->service_id = id;
	def->defined = true;
	def->key = put_text(&texts, key);
	def->name = put_text(&texts, s->name);
	def->namespace = put_text(&texts, s->namespace);
	def->hostname = put_text(&texts, s->hostname);
	for (size_t i = 0; i < s->n_sans; i++)
		sans[i] = put_text(&texts, s->sans[i]);
	def->sans = sans;
	def->n_sans = (uint16_t)s->n_sans;
	def->lb_mode = (uint8_t)s->lb_mode;
	def->allow_unhealthy = s->allow_unhealthy;
	def->canonical = s->canonical;
	def->waypoint = put_gateway(&texts, &s->waypoint);
	return def;
}

/* --- its indexes --- */

static bool has_vip(const struct snap_def *def, const struct ip *ip, const void **ret_entry)
{
	return def && snap_addresses_have(snap_def_addresses(def), ip, ret_entry);
}

static const void *another_with(struct snap_store *st, const struct ip *ip, uint32_t gone)
{
	const void *entry;

	for (uint32_t i = 0; st->now.shared_ips && i < trie_count(&st->now.by_key); i++) {
		struct snap_def *def = trie_at(&st->now.by_key, i);

		if (def->service_id != gone && has_vip(def, ip, &entry))
			return entry;
	}
	return NULL;
}

static void *unconst(const void *p)
{
	return (void *)(uintptr_t)p;
}

static int unindex_vip(struct snap_store *st, const struct ip *ip, const struct snap_def *old)
{
	uint64_t hash = snap_hash_ip(ip);
	const void *at = trie_get(&st->now.by_vip, hash), *other;

	if (!at || snap_address_owner(at) != old || snap_key_of_def_address(at) != hash)
		return 0;
	other = another_with(st, ip, old->service_id);
	return other ? trie_swap(&st->now.by_vip, &st->tx, hash, at, unconst(other)) : trie_remove(&st->now.by_vip, &st->tx, hash, at);
}

static int index_vips(struct snap_store *st, const struct snap_def *old, struct snap_def *def)
{
	struct snap_addresses a = {};
	struct ip ip;
	void *was;
	int r = 0;

	if (old)
		a = snap_def_addresses(old);
	while (r == 0 && snap_address_next(&a, &ip))
		if (!has_vip(def, &ip, NULL))
			r = unindex_vip(st, &ip, old);
	if (def)
		a = snap_def_addresses(def);
	while (r == 0 && def && snap_address_next(&a, &ip)) {
		r = trie_put(&st->now.by_vip, &st->tx, snap_key_of_def_address, snap_hash_ip(&ip), unconst(a.entry), &was);
		if (r == 0 && was && ((const struct snap_def *)snap_address_owner(was))->service_id != def->service_id)
			st->now.shared_ips = true;
	}
	return r;
}

static uint64_t key_of_hosts(const void *entry)
{
	return snap_hash_text(((const struct snap_hosts *)entry)->hostname);
}

/* The list of its host name, without @old, with @def; either may be NULL. */
static int index_host(struct snap_store *st, const char *hostname, const struct snap_def *old, const struct snap_def *def)
{
	uint64_t hash = snap_hash_text(hostname);
	struct snap_hosts *was = trie_get(&st->now.by_host, hash);
	uint32_t n = 0;

	if (was && strcmp(was->hostname, hostname))
		was = NULL;

	uint32_t n_was = was ? was->n : 0;
	size_t n_hostname = strlen(hostname) + 1;
	struct snap_hosts *hosts = calloc(1, sizeof(*hosts) + (n_was + 1) * sizeof(hosts->list[0]) + n_hostname);
	if (!hosts)
		return -ENOMEM;
	hosts->hostname = memcpy(&hosts->list[n_was + 1], hostname, n_hostname);
	for (uint32_t i = 0; i < n_was; i++)
		if (was->list[i] != old)
			hosts->list[n++] = was->list[i];
	if (def)
		hosts->list[n++] = def;
	hosts->n = n;

	int r = snap_made(st, SNAP_O_PLAIN, hosts);
	if (r == 0 && n)
		r = was ? trie_swap(&st->now.by_host, &st->tx, hash, was, hosts) : trie_add(&st->now.by_host, &st->tx, key_of_hosts, hash, hosts);
	else if (r == 0 && was)
		r = trie_remove(&st->now.by_host, &st->tx, hash, was);
	if ((r == 0 && !n) || r == -EEXIST)
		r = snap_drop(st, SNAP_O_PLAIN, hosts) < 0 ? -ENOMEM : r;
	if (r == 0)
		r = snap_drop(st, SNAP_O_PLAIN, was);
	return r;
}

static int def_swap(struct snap_store *st, struct snap_def *old, struct snap_def *def)
{
	struct snap_service *s;
	int r = trie_swap(&st->now.by_key, &st->tx, snap_hash_text(def->key), old, def);

	if (r == 0)
		r = service_own(st, def->service_id, &s);
	if (r < 0)
		return r;
	s->def = def;
	if (old->defined)
		r = index_vips(st, old, def->defined ? def : NULL);
	else
		r = index_vips(st, NULL, def);
	if (r == 0 && old->defined && (!def->defined || strcmp(old->hostname, def->hostname)))
		r = index_host(st, old->hostname, old, NULL);
	if (r == 0 && def->defined)
		r = index_host(st, def->hostname, old, def);
	if (r == 0)
		r = snap_drop(st, SNAP_O_PLAIN, old);
	return r;
}

static char *service_key(const struct service *s)
{
	char *key;

	return asprintf(&key, "%s/%s", s->namespace, s->hostname) < 0 ? NULL : key;
}

int snap_store_put_service(struct snap_store *st, const struct service *s)
{
	CLEANUP_FREE char *key = service_key(s);
	struct snap_def *old, *def;
	uint32_t id;
	int r;

	if (!key)
		return -ENOMEM;
	r = snap_service_mention(st, key, &id);
	if (r < 0)
		return r;
	old = def_find(st, key, snap_hash_text(key));
	def = def_make(st, s, key, id);
	if (!def)
		return -ENOMEM;
	r = snap_made(st, SNAP_O_PLAIN, def);
	return r < 0 ? r : def_swap(st, old, def);
}

int snap_store_remove_service(struct snap_store *st, const char *key)
{
	struct snap_def *old = def_find(st, key, snap_hash_text(key)), *stub;
	struct snap_service *s;
	int r;

	if (!old || !old->defined)
		return 0;

	/* It goes back to what endpoints mention, and away when there are none. */
	size_t n_key = strlen(key) + 1;
	stub = calloc(1, sizeof(*stub) + n_key);
	if (!stub)
		return -ENOMEM;
	stub->service_id = old->service_id;
	stub->key = memcpy(stub + 1, key, n_key);
	stub->name = stub->namespace = stub->hostname = "";
	r = snap_made(st, SNAP_O_PLAIN, stub);
	if (r == 0)
		r = def_swap(st, old, stub);
	if (r == 0)
		r = service_own(st, stub->service_id, &s);
	if (r == 0 && !snap_service_size(s))
		r = service_delete(st, s);
	return r;
}

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
	s = slab_alloc(&st->nodes, sizeof(*s));
	if (!s)
		return -ENOMEM;
	*s = *old;
	s->tx = st->tx.serial;
	r = snap_made(st, SNAP_O_SERVICE, s);
	if (r == 0)
		r = trie_swap(&st->now.services, &st->tx, id, slab_ref(old), slab_ref(s));
	if (r == 0)
		r = snap_drop(st, SNAP_O_SERVICE, old);
	if (r == 0)
		*ret_service = s;
	return r;
}

static int service_new(struct snap_store *st, struct snap_def *def)
{
	struct snap_service *s = slab_alloc(&st->nodes, sizeof(*s));
	int r;

	if (!s)
		return -ENOMEM;
	*s = (struct snap_service){ .id = def->service_id, .tx = st->tx.serial, .max_weight = 1, .def = def };
	r = snap_made(st, SNAP_O_SERVICE, s);
	if (r == 0)
		r = trie_add(&st->now.services, &st->tx, snap_key_of_service, def->service_id, slab_ref(s));
	return r;
}

static int service_delete(struct snap_store *st, struct snap_service *s)
{
	struct snap_def *def = (struct snap_def *)(uintptr_t)s->def;
	int r = trie_remove(&st->now.by_key, &st->tx, snap_hash_text(snap_def_key(def)), slab_ref(def));

	if (r == 0)
		r = trie_remove(&st->now.services, &st->tx, s->id, slab_ref(s));
	if (r == 0)
		r = snap_drop(st, SNAP_O_SERVICE, s);
	if (r == 0)
		r = snap_drop(st, SNAP_O_DEF, def);
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

static uint64_t key_of_endpoint(uint32_t value)
{
	const struct snap_workload *w = slab_at(value);

	return w->id;
}

int snap_service_put_endpoint(struct snap_store *st, uint32_t id, struct snap_workload *w)
{
	struct snap_service *s;
	uint32_t was;
	int r = service_own(st, id, &s);

	if (r == 0)
		r = trie_put(&s->endpoints, &st->tx, key_of_endpoint, w->id, slab_ref(w), &was);
	if (r < 0)
		return r;

	const struct snap_workload *old = slab_at(was);
	if (w->kind->weight >= s->max_weight)
		s->max_weight = w->kind->weight;
	else if (old && old->kind->weight == s->max_weight)
		s->max_weight = max_weight(s);
	return 0;
}

int snap_services_renew(struct snap_store *st)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < trie_count(&st->now.services); i++) {
		struct snap_service *s = slab_at(trie_at(&st->now.services, i));

		r = service_own(st, s->id, &s);
		if (r == 0)
			r = trie_renew(&s->endpoints, &st->tx);
	}
	return r;
}

int snap_service_remove_endpoint(struct snap_store *st, uint32_t id, const struct snap_workload *w)
{
	struct snap_service *s;
	int r = service_own(st, id, &s);

	if (r == 0)
		r = trie_remove(&s->endpoints, &st->tx, w->id, slab_ref(w));
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
	struct snap_def *def = slab_at(trie_get(&st->now.by_key, hash));

	return def && !strcmp(snap_def_key(def), key) ? def : NULL;
}

struct snap_service *snap_service_find(struct snap_store *st, const char *key)
{
	const struct snap_def *def = def_find(st, key, snap_hash_text(key));

	return def ? (struct snap_service *)(uintptr_t)snap_service_by_id(&st->now, def->service_id) : NULL;
}

/* Of a service that nobody has mentioned yet. @hash: of its key. */
static int def_add(struct snap_store *st, struct snap_def *def, uint64_t hash)
{
	int r = snap_made(st, SNAP_O_DEF, def);

	if (r == 0)
		r = trie_add(&st->now.by_key, &st->tx, snap_key_of_def, hash, slab_ref(def));
	if (r == -EEXIST)
		return snap_drop(st, SNAP_O_DEF, def) < 0 ? -ENOMEM : r;
	st->next_service_id++;
	return r < 0 ? r : service_new(st, def);
}

int snap_service_mention(struct snap_store *st, const char *key, uint32_t *ret_id)
{
	uint64_t hash = snap_hash_text(key);
	struct snap_def *def = def_find(st, key, hash);
	int r;

	if (def) {
		*ret_id = def->service_id;
		return 0;
	}
	def = snap_def_mention(st, key, st->next_service_id);
	if (!def)
		return -ENOMEM;
	r = def_add(st, def, hash);
	if (r == 0)
		*ret_id = def->service_id;
	return r;
}

/* --- its indexes --- */

static bool has_vip(const struct snap_def *def, const struct ip *ip, uint32_t *ret_entry)
{
	return def && snap_addresses_have(snap_def_addresses(def), ip, ret_entry);
}

/* 0: nobody. */
static uint32_t another_with(struct snap_store *st, const struct ip *ip, uint32_t gone)
{
	uint32_t entry;

	for (uint32_t i = 0; st->now.shared_ips && i < trie_count(&st->now.by_key); i++) {
		const struct snap_def *def = slab_at(trie_at(&st->now.by_key, i));

		if (def->service_id != gone && has_vip(def, ip, &entry))
			return entry;
	}
	return 0;
}

static int unindex_vip(struct snap_store *st, const struct ip *ip, const struct snap_def *old)
{
	uint64_t hash = snap_hash_ip(ip);
	uint32_t at = trie_get(&st->now.by_vip, hash), other;

	if (!at || snap_address_owner(at) != old || snap_key_of_def_address(at) != hash)
		return 0;
	other = another_with(st, ip, old->service_id);
	return other ? trie_swap(&st->now.by_vip, &st->tx, hash, at, other) : trie_remove(&st->now.by_vip, &st->tx, hash, at);
}

static int index_vips(struct snap_store *st, const struct snap_def *old, struct snap_def *def)
{
	struct snap_addresses a = {};
	uint32_t was;
	struct ip ip;
	int r = 0;

	if (old)
		a = snap_def_addresses(old);
	while (r == 0 && snap_address_next(&a, &ip))
		if (!has_vip(def, &ip, NULL))
			r = unindex_vip(st, &ip, old);
	if (def)
		a = snap_def_addresses(def);
	while (r == 0 && def && snap_address_next(&a, &ip)) {
		r = trie_put(&st->now.by_vip, &st->tx, snap_key_of_def_address, snap_hash_ip(&ip), snap_address_entry(&a), &was);
		if (r == 0 && was && ((const struct snap_def *)snap_address_owner(was))->service_id != def->service_id)
			st->now.shared_ips = true;
	}
	return r;
}

static uint64_t key_of_hosts(uint32_t value)
{
	const struct snap_hosts *hosts = slab_at(value);

	return snap_hash_text(snap_def_hostname(hosts->list[0]));
}

size_t snap_hosts_size(uint32_t n)
{
	return sizeof(struct snap_hosts) + n * sizeof(const struct snap_def *);
}

/* The list @was without @old and with @def, any of which may be NULL; *ret_hosts is NULL when nothing is in it. */
static int hosts_change(struct snap_store *st, const struct snap_hosts *was, const struct snap_def *old, const struct snap_def *def,
			struct snap_hosts **ret_hosts)
{
	uint32_t n_was = was ? was->n : 0, n = def ? 1 : 0;
	struct snap_hosts *hosts;

	for (uint32_t i = 0; i < n_was; i++)
		n += was->list[i] != old;
	*ret_hosts = NULL;
	if (!n)
		return 0;
	hosts = slab_alloc(&st->slab, snap_hosts_size(n));
	if (!hosts)
		return -ENOMEM;
	hosts->n = 0;
	for (uint32_t i = 0; i < n_was; i++)
		if (was->list[i] != old)
			hosts->list[hosts->n++] = was->list[i];
	if (def)
		hosts->list[hosts->n++] = def;
	*ret_hosts = hosts;
	return snap_made(st, SNAP_O_HOSTS, hosts);
}

/* The list of its host name, without @old, with @def; either may be NULL. */
static int index_host(struct snap_store *st, const char *hostname, const struct snap_def *old, const struct snap_def *def)
{
	uint64_t hash = snap_hash_text(hostname);
	struct snap_hosts *was = slab_at(trie_get(&st->now.by_host, hash)), *hosts;
	int r;

	if (was && strcmp(snap_def_hostname(was->list[0]), hostname))
		was = NULL;
	r = hosts_change(st, was, old, def, &hosts);
	if (r == 0 && hosts)
		r = was ? trie_swap(&st->now.by_host, &st->tx, hash, slab_ref(was), slab_ref(hosts)) : trie_add(&st->now.by_host, &st->tx, key_of_hosts, hash, slab_ref(hosts));
	else if (r == 0 && was)
		r = trie_remove(&st->now.by_host, &st->tx, hash, slab_ref(was));
	if (r == -EEXIST)
		return snap_drop(st, SNAP_O_HOSTS, hosts) < 0 ? -ENOMEM : r;
	return r < 0 ? r : snap_drop(st, SNAP_O_HOSTS, was);
}

/* Either may be NULL: there was, or is to be, none that is defined. */
static int index_def(struct snap_store *st, const struct snap_def *old, struct snap_def *def)
{
	int r = index_vips(st, old, def);

	if (r == 0 && old && (!def || strcmp(snap_def_hostname(old), snap_def_hostname(def))))
		r = index_host(st, snap_def_hostname(old), old, NULL);
	if (r == 0 && def)
		r = index_host(st, snap_def_hostname(def), old, def);
	return r;
}

/* @hash: of the key of both. */
static int def_swap(struct snap_store *st, struct snap_def *old, struct snap_def *def, uint64_t hash)
{
	struct snap_service *s;
	int r = snap_made(st, SNAP_O_DEF, def);

	if (r == 0)
		r = trie_swap(&st->now.by_key, &st->tx, hash, slab_ref(old), slab_ref(def));
	if (r == 0)
		r = service_own(st, def->service_id, &s);
	if (r < 0)
		return r;
	s->def = def;
	r = index_def(st, old->defined ? old : NULL, def->defined ? def : NULL);
	return r < 0 ? r : snap_drop(st, SNAP_O_DEF, old);
}

static char *service_key(const struct service *s)
{
	char *key;

	return asprintf(&key, "%s/%s", s->namespace, s->hostname) < 0 ? NULL : key;
}

struct snap_note *snap_store_service_note(struct snap_store *st, const char *key, uint64_t hash)
{
	struct snap_def *def = def_find(st, key, hash);

	return def && def->defined ? &def->note : NULL;
}

/* @note NULL: what is noted stays. */
static int put_service(struct snap_store *st, const struct service *s, const struct snap_note *note)
{
	CLEANUP_FREE char *key = service_key(s);
	struct snap_def *old, *def;
	int r;

	if (!key)
		return -ENOMEM;

	uint64_t hash = snap_hash_text(key);
	old = def_find(st, key, hash);
	r = snap_def_make(st, s, old ? old->service_id : st->next_service_id, &def);
	if (r < 0)
		return r;
	if (note)
		def->note = *note;
	else if (old)
		def->note = old->note;
	if (old)
		return def_swap(st, old, def, hash);
	r = def_add(st, def, hash);
	return r < 0 ? r : index_def(st, NULL, def);
}

int snap_store_put_service(struct snap_store *st, const struct service *s)
{
	return put_service(st, s, NULL);
}

int snap_store_put_service_noted(struct snap_store *st, const struct service *s, const struct snap_note *note)
{
	return put_service(st, s, note);
}

int snap_store_remove_service(struct snap_store *st, const char *key)
{
	uint64_t hash = snap_hash_text(key);
	struct snap_def *old = def_find(st, key, hash), *stub;
	struct snap_service *s;
	int r;

	if (!old || !old->defined)
		return 0;

	/* It goes back to what endpoints mention, and away when there are none. */
	stub = snap_def_mention(st, key, old->service_id);
	if (!stub)
		return -ENOMEM;
	r = def_swap(st, old, stub, hash);
	if (r == 0)
		r = service_own(st, stub->service_id, &s);
	if (r == 0 && !snap_service_size(s))
		r = service_delete(st, s);
	return r;
}

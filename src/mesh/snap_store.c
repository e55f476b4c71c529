/*
 * The writer: transactions, publication, reclamation, and workloads.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "mesh/snap_state.h"

enum { KEY_MAX = 4 * 1024 * 1024, KEEP_OBJECTS = 128, SPARSE_MIN = 16 * 1024 };

uint64_t snap_hash_text(const char *text)
{
	return map_hash(text, strlen(text));
}

uint64_t snap_hash_ip(const struct ip *ip)
{
	return map_hash(ip->b, sizeof(ip->b));
}

/* --- objects of a transaction --- */

static int objects_add(struct snap_objects *o, enum snap_object_type type, void *ptr)
{
	if (o->n == o->size) {
		size_t size = o->size ? o->size * 2 : 16;
		struct snap_object *list = realloc(o->list, size * sizeof(*list));

		if (!list)
			return -ENOMEM;
		o->list = list;
		o->size = size;
	}
	o->list[o->n++] = (struct snap_object){ type, ptr };
	return 0;
}

static size_t workload_size(const struct snap_workload *w)
{
	const char *rest = snap_workload_rest(w);
	const char *name = snap_workload_name(w);
	const char *end = name > rest + strlen(rest) ? name : rest;

	return (size_t)(end + strlen(end) + 1 - (const char *)w);
}

static void workload_free(struct snap_store *st, struct snap_workload *w)
{
	snap_kind_put(st, w->kind);
	snap_place_put(st, w->place);
	slab_free(&st->slab, w, workload_size(w));
}

static void object_free(struct snap_store *st, enum snap_object_type type, void *ptr)
{
	switch (type) {
	case SNAP_O_WORKLOAD:
		workload_free(st, ptr);
		return;
	case SNAP_O_SERVICE:
		slab_free(&st->slab, ptr, sizeof(struct snap_service));
		return;
	case SNAP_O_DEF:
		snap_def_free(st, ptr);
		return;
	case SNAP_O_HOSTS:
		slab_free(&st->slab, ptr, snap_hosts_size(((struct snap_hosts *)ptr)->n));
		return;
	case SNAP_O_POLICY:
		policy_deinit(ptr);
		free(ptr);
		return;
	case SNAP_O_PLAIN:
		free(ptr);
	}
}

/* Its room stays, if that is not much. */
static void objects_empty(struct snap_objects *o)
{
	o->n = 0;
	if (o->size <= KEEP_OBJECTS)
		return;
	free(o->list);
	*o = (struct snap_objects){};
}

static void swap_objects(struct snap_objects *a, struct snap_objects *b)
{
	struct snap_objects was = *a;

	*a = *b;
	*b = was;
}

static void objects_free(struct snap_store *st, struct snap_objects *o)
{
	for (size_t i = 0; i < o->n; i++)
		object_free(st, o->list[i].type, o->list[i].ptr);
	objects_empty(o);
}

int snap_made(struct snap_store *st, enum snap_object_type type, void *ptr)
{
	int r = objects_add(&st->made, type, ptr);

	st->changed = true;
	if (r < 0)
		object_free(st, type, ptr);
	return r;
}

int snap_drop(struct snap_store *st, enum snap_object_type type, void *ptr)
{
	st->changed = true;
	return ptr ? objects_add(&st->dropped, type, ptr) : 0;
}

/* --- the store --- */

static struct snapshot *snapshot_make(struct snap_store *st, uint64_t serial)
{
	struct snapshot *s = slab_zalloc(&st->slab, sizeof(*s));

	if (!s)
		return NULL;
	s->serial = serial;
	s->state = st->now;
	atomic_init(&s->refs, 1);
	list_append(&st->chain, &s->link);
	return s;
}

/* Nobody has @s any more, nor any older one. */
static void snapshot_retire(struct snap_store *st, struct snapshot *s)
{
	list_unlink(&s->link);
	trie_nodes_free(&s->dropped_nodes, &st->nodes);
	objects_free(st, &s->dropped);
	if (!st->idle_objects.list)
		swap_objects(&st->idle_objects, &s->dropped);
	if (!st->idle_nodes.list) {
		st->idle_nodes = s->dropped_nodes;
		s->dropped_nodes = (struct trie_nodes){};
	}
	trie_nodes_deinit(&s->dropped_nodes);
	free(s->dropped.list);
	slab_free(&st->slab, s, sizeof(*s));
}

int snap_store_new(const char *network, struct snap_store **ret_store)
{
	struct snap_store *st = calloc(1, sizeof(*st));

	if (!st)
		return -ENOMEM;
	list_init(&st->chain);
	slab_init(&st->slab);
	slab_init(&st->nodes);
	bytes_init(&st->key, KEY_MAX);
	st->next_workload_id = 1;
	st->next_service_id = 1;
	st->now.policy_serial = 1;
	st->network = strdup(network);
	st->last = snapshot_make(st, 1);
	if (!st->network || !st->last) {
		if (st->last)
			snapshot_retire(st, st->last);
		slab_deinit(&st->slab);
		slab_deinit(&st->nodes);
		free(st->network);
		free(st);
		return -ENOMEM;
	}
	trie_tx_init(&st->tx, &st->nodes, 2);
	*ret_store = st;
	return 0;
}

static void free_trie(struct snap_store *st, struct trie *t, enum snap_object_type type)
{
	for (uint32_t i = 0; i < trie_count(t); i++)
		object_free(st, type, trie_at(t, i));
	trie_free(t, &st->nodes);
}

/* The newest state's objects; each is in exactly one of these tries besides its indexes. */
static void free_state(struct snap_store *st)
{
	struct snap_state *s = &st->now;

	trie_free(&s->by_ip, &st->nodes);
	trie_free(&s->by_far_ip, &st->nodes);
	trie_free(&s->by_vip, &st->nodes);
	for (uint32_t i = 0; i < trie_count(&s->services); i++) {
		struct snap_service *service = trie_at(&s->services, i);

		trie_free(&service->endpoints, &st->nodes);
	}
	free_trie(st, &s->services, SNAP_O_SERVICE);
	free_trie(st, &s->by_key, SNAP_O_DEF);
	free_trie(st, &s->by_host, SNAP_O_HOSTS);
	free_trie(st, &s->absent, SNAP_O_PLAIN);
	free_trie(st, &s->workloads, SNAP_O_WORKLOAD);
	free_trie(st, &s->policies, SNAP_O_POLICY);
	free_trie(st, &s->policies_of, SNAP_O_PLAIN);
	free(s->global);
}

struct snap_store *snap_store_free(struct snap_store *st)
{
	if (!st)
		return NULL;
	snap_store_abort(st);
	st->last = snapshot_unref(st->last);
	list_for_each_safe(l, &st->chain) {
		struct snapshot *s = list_entry(l, struct snapshot, link);

		assert(!atomic_load_explicit(&s->refs, memory_order_acquire));
		snapshot_retire(st, s);
	}
	free_state(st);
	free(st->made.list);
	free(st->dropped.list);
	free(st->idle_objects.list);
	trie_nodes_deinit(&st->idle_nodes);
	trie_tx_deinit(&st->tx);
	snap_kinds_deinit(&st->kinds);
	slab_deinit(&st->slab);
	map_deinit(&st->places);
	map_deinit(&st->ways);
	bytes_deinit(&st->key);
	free(st->network);
	free(st);
	return NULL;
}

int snap_store_set_network(struct snap_store *st, const char *network)
{
	char *copy;

	if (!strcmp(network, st->network))
		return 0;
	if (trie_count(&st->now.workloads) || trie_count(&st->now.services))
		return -EBUSY;
	copy = strdup(network);
	if (!copy)
		return -ENOMEM;
	free(st->network);
	st->network = copy;
	return 0;
}

enum { N_TRIES = 10 };

/* All but those of services' endpoints. */
static void tries_of(struct snap_state *s, struct trie *ret_tries[static N_TRIES])
{
	struct trie *const tries[N_TRIES] = {
		&s->workloads, &s->by_ip, &s->by_far_ip, &s->services, &s->by_key, &s->by_vip, &s->by_host, &s->absent, &s->policies, &s->policies_of,
	};

	memcpy(ret_tries, tries, sizeof(tries));
}

/* All tries that the running transaction may have changed. */
static void undo_state(struct snap_store *st)
{
	struct trie *tries[N_TRIES];

	tries_of(&st->now, tries);
	for (size_t i = 0; i < N_TRIES; i++)
		trie_undo(tries[i], &st->tx);
	for (size_t i = 0; i < st->made.n; i++)
		if (st->made.list[i].type == SNAP_O_SERVICE)
			trie_undo(&((struct snap_service *)st->made.list[i].ptr)->endpoints, &st->tx);
}

void snap_store_abort(struct snap_store *st)
{
	undo_state(st);
	trie_tx_abort(&st->tx);
	st->now = st->last->state;
	objects_free(st, &st->made);
	objects_empty(&st->dropped);
	st->changed = false;
}

size_t snap_store_reclaim(struct snap_store *st)
{
	size_t n = 0;

	/*
	 * Oldest first: what a snapshot dropped may still be in any that is
	 * older.
	 */
	while (st->chain.next != &st->last->link) {
		struct snapshot *s = list_first(&st->chain, struct snapshot, link);

		if (atomic_load_explicit(&s->refs, memory_order_acquire))
			break;
		snapshot_retire(st, s);
	}
	list_for_each(l, &st->chain)
		n += l != &st->last->link;
	return n;
}

int snap_store_publish(struct snap_store *st, struct snapshot **ret_snapshot)
{
	if (st->changed) {
		struct snapshot *old = st->last;
		struct snapshot *s = snapshot_make(st, old->serial + 1);

		if (!s)
			return -ENOMEM;
		old->dropped_nodes = st->idle_nodes;
		st->idle_nodes = (struct trie_nodes){};
		trie_tx_commit(&st->tx, &old->dropped_nodes);
		swap_objects(&st->dropped, &st->idle_objects);
		swap_objects(&old->dropped, &st->idle_objects);
		objects_empty(&st->made);
		st->last = s;
		st->changed = false;
		snapshot_unref(old);
	}
	snap_store_reclaim(st);
	*ret_snapshot = snapshot_ref(st->last);
	return 0;
}

bool snap_store_is_sparse(const struct snap_store *st)
{
	return slab_holes(&st->nodes) > slab_used(&st->nodes) / 8 + SPARSE_MIN;
}

int snap_store_renew(struct snap_store *st)
{
	struct trie *tries[N_TRIES];
	int r = 0;

	slab_start_over(&st->nodes);
	tries_of(&st->now, tries);
	for (size_t i = 0; r == 0 && i < N_TRIES; i++)
		r = trie_renew(tries[i], &st->tx);
	if (r == 0)
		r = snap_services_renew(st);
	st->changed = true;
	return r;
}

/* --- workloads --- */

static bool is_end(const char *text, const char *end)
{
	size_t n = strlen(text), n_end = strlen(end);

	return n_end <= n && !strcmp(text + n - n_end, end);
}

/* What is behind the struct. */
struct tail {
	size_t n_addresses;
	const char *rest;		/* of the uid */
	size_t n_rest;
	size_t n_name;			/* of a name that is not its end, or 0 */
	size_t size;			/* with the struct */
};

static struct tail tail_of(const struct workload *w, const struct snap_kind *kind)
{
	struct tail t = { .n_addresses = MIN(w->n_addresses, (size_t)UINT8_MAX), .rest = w->uid + strlen(snap_kind_text(kind, SNAP_UID_HEAD)) };

	t.n_rest = strlen(t.rest) + 1;
	t.n_name = is_end(t.rest, w->name) ? 0 : strlen(w->name) + 1;
	t.size = offsetof(struct snap_workload, tail) + t.n_rest + t.n_name;
	for (size_t i = 0; i < t.n_addresses; i++)
		t.size += snap_address_size(&w->addresses[i], !i);
	return t;
}

static void fill_tail(struct snap_workload *out, const struct workload *w, const struct tail *t)
{
	uint8_t *at = out->tail;

	out->n_addresses = (uint8_t)t->n_addresses;
	out->is_v6 = t->n_addresses && !ip_is_v4(&w->addresses[0]);
	for (size_t i = 0; i < t->n_addresses; i++)
		at = snap_address_put(out, at, &w->addresses[i], !i);
	memcpy(at, t->rest, t->n_rest);
	at += t->n_rest;
	if (t->n_name)
		memcpy(at, w->name, t->n_name);
	else
		at -= strlen(w->name) + 1;
	out->name_at = (uint16_t)(at - out->tail);
}

/* Takes over @kind and @place. */
static struct snap_workload *workload_fill(struct snap_store *st, const struct workload *w, uint32_t id, const struct snap_kind *kind,
					   const struct snap_place *place)
{
	const struct tail t = tail_of(w, kind);
	struct snap_workload *out = slab_zalloc(&st->slab, t.size);

	if (!out)
		return NULL;
	out->kind = kind;
	out->place = place;
	out->id = id;
	out->tunnel = (unsigned)w->tunnel & 3;
	out->healthy = !w->unhealthy;
	out->reachable = t.n_addresses && !strcmp(w->network, st->network);
	fill_tail(out, w, &t);
	return out;
}

static int workload_make(struct snap_store *st, const struct workload *w, const struct snap_workload *old,
			 struct snap_workload **ret_workload)
{
	const struct snap_kind *kind;
	const struct snap_place *place;
	struct snap_workload *out;
	int r = snap_kind_get(st, w, old ? old->kind : NULL, &kind);

	if (r < 0)
		return r;
	r = snap_place_get(st, w, old ? old->place : NULL, &place);
	if (r < 0) {
		snap_kind_put(st, kind);
		return r;
	}
	out = workload_fill(st, w, old ? old->id : st->next_workload_id, kind, place);
	if (!out) {
		snap_place_put(st, place);
		snap_kind_put(st, kind);
		return -ENOMEM;
	}
	*ret_workload = out;
	return 0;
}

/* Addresses of other networks are kept apart: the same one may be somebody else's here. */
static struct trie *index_of(struct snap_store *st, const struct snap_workload *w)
{
	return w->reachable ? &st->now.by_ip : &st->now.by_far_ip;
}

static bool has_address(const struct snap_workload *w, const struct ip *ip, const void **ret_entry)
{
	return snap_addresses_have(snap_workload_addresses(w), ip, ret_entry);
}

/* Somebody else with the address that @gone leaves: rare, so looked for the long way. */
static const void *another_at(struct snap_store *st, const struct ip *ip, const struct snap_workload *gone)
{
	const void *entry;

	for (uint32_t i = 0; st->now.shared_ips && i < trie_count(&st->now.workloads); i++) {
		struct snap_workload *w = trie_at(&st->now.workloads, i);

		if (w->id != gone->id && w->reachable == gone->reachable && has_address(w, ip, &entry))
			return entry;
	}
	return NULL;
}

static void *unconst(const void *p)
{
	return (void *)(uintptr_t)p;
}

static int index_address(struct snap_store *st, const struct ip *ip, const void *entry, const struct snap_workload *w)
{
	void *was;
	int r = trie_put(index_of(st, w), &st->tx, snap_key_of_workload_address, snap_hash_ip(ip), unconst(entry), &was);

	if (r == 0 && was && ((const struct snap_workload *)snap_address_owner(was))->id != w->id)
		st->now.shared_ips = true;
	return r;
}

static int unindex_address(struct snap_store *st, const struct ip *ip, const struct snap_workload *old)
{
	uint64_t hash = snap_hash_ip(ip);
	struct trie *index = index_of(st, old);
	const void *at = trie_get(index, hash), *other;

	if (!at || snap_address_owner(at) != old || snap_key_of_workload_address(at) != hash)
		return 0;
	other = another_at(st, ip, old);
	return other ? trie_swap(index, &st->tx, hash, at, unconst(other)) : trie_remove(index, &st->tx, hash, at);
}

/* Either of @old and @w may be NULL. */
static int index_addresses(struct snap_store *st, const struct snap_workload *old, const struct snap_workload *w)
{
	struct snap_addresses a = {};
	struct ip ip;
	int r = 0;

	if (old)
		a = snap_workload_addresses(old);
	while (r == 0 && snap_address_next(&a, &ip))
		if (!w || w->reachable != old->reachable || !has_address(w, &ip, NULL))
			r = unindex_address(st, &ip, old);
	if (w)
		a = snap_workload_addresses(w);
	while (r == 0 && w && snap_address_next(&a, &ip))
		r = index_address(st, &ip, a.entry, w);
	return r;
}

static bool is_member(const struct snap_workload *w, uint32_t service_id)
{
	for (uint32_t i = 0; w && i < w->kind->n_members; i++)
		if (snap_kind_service(w->kind, i) == service_id)
			return true;
	return false;
}

static int index_services(struct snap_store *st, const struct snap_workload *old, struct snap_workload *w)
{
	int r = 0;

	for (uint32_t i = 0; w && r == 0 && i < w->kind->n_members; i++)
		r = snap_service_put_endpoint(st, snap_kind_service(w->kind, i), w);
	for (uint32_t i = 0; old && r == 0 && i < old->kind->n_members; i++)
		if (!is_member(w, snap_kind_service(old->kind, i)))
			r = snap_service_remove_endpoint(st, snap_kind_service(old->kind, i), old);
	return r;
}

static bool same_policies(const struct snap_kind *a, const struct snap_kind *b)
{
	const char *p = snap_kind_policies(a), *q = snap_kind_policies(b);

	if (a == b)
		return true;
	if (a->n_policies != b->n_policies || strcmp(snap_kind_text(a, SNAP_NAMESPACE), snap_kind_text(b, SNAP_NAMESPACE)))
		return false;
	for (uint32_t i = 0; i < a->n_policies; i++, p = snap_text_next(p), q = snap_text_next(q))
		if (strcmp(p, q))
			return false;
	return true;
}

static bool changes_policies(const struct snap_workload *old, const struct snap_workload *w)
{
	return old ? !same_policies(old->kind, w->kind) : w->kind->n_policies > 0;
}

/* @new, made of what was sent, is what is there already. */
static bool is_same(const struct snap_workload *old, struct snap_workload *new)
{
	const struct snap_note note = new->note;
	size_t size = workload_size(new);
	bool same = workload_size(old) == size;

	new->note = old->note;
	same = same && !memcmp(old, new, size);
	new->note = note;
	return same;
}

struct snap_note *snap_store_note(struct snap_store *st, const char *uid, uint64_t hash)
{
	struct snap_workload *w = trie_get(&st->now.workloads, hash);

	return w && snap_workload_is(w, uid) ? &w->note : NULL;
}

int snap_store_put_workload(struct snap_store *st, const struct workload *w)
{
	uint64_t hash = snap_hash_text(w->uid);
	struct snap_note *at = snap_store_note(st, w->uid, hash);

	return snap_store_put_noted(st, w, hash, at, at ? at : &(struct snap_note){});
}

int snap_store_put_noted(struct snap_store *st, const struct workload *w, uint64_t hash, struct snap_note *at, const struct snap_note *note)
{
	struct snap_workload *old = at ? container_of(at, struct snap_workload, note) : NULL;
	struct snap_workload *new;
	int r;

	r = workload_make(st, w, old, &new);
	if (r < 0)
		return r;
	new->note = *note;
	if (old && is_same(old, new)) {
		old->note = *note;
		object_free(st, SNAP_O_WORKLOAD, new);
		return 0;
	}
	if (!old)
		st->next_workload_id++;
	r = snap_made(st, SNAP_O_WORKLOAD, new);
	if (r == 0)
		r = old ? trie_swap(&st->now.workloads, &st->tx, hash, old, new) : trie_add(&st->now.workloads, &st->tx, snap_key_of_workload, hash, new);
	if (r == -EEXIST)
		return snap_drop(st, SNAP_O_WORKLOAD, new) < 0 ? -ENOMEM : r;
	if (r == 0)
		r = index_addresses(st, old, new);
	if (r == 0)
		r = index_services(st, old, new);
	if (r == 0)
		r = snap_drop(st, SNAP_O_WORKLOAD, old);
	if (r == 0 && changes_policies(old, new))
		st->now.policy_serial++;
	return r;
}

int snap_store_remove_workload(struct snap_store *st, const char *uid)
{
	uint64_t hash = snap_hash_text(uid);
	struct snap_workload *old = trie_get(&st->now.workloads, hash);
	int r;

	if (!old || !snap_workload_is(old, uid))
		return 0;
	r = trie_remove(&st->now.workloads, &st->tx, hash, old);
	if (r == 0)
		r = index_addresses(st, old, NULL);
	if (r == 0)
		r = index_services(st, old, NULL);
	if (r == 0)
		r = snap_drop(st, SNAP_O_WORKLOAD, old);
	return r;
}

/* --- addresses that are not of the mesh --- */

static struct ip *absent_find(struct snap_store *st, const struct ip *ip, uint64_t hash)
{
	struct ip *at = trie_get(&st->now.absent, hash);

	return at && ip_equal(at, ip) ? at : NULL;
}

static uint64_t key_of_absent(const void *entry)
{
	return snap_hash_ip(entry);
}

int snap_store_put_absent(struct snap_store *st, const struct ip *ip)
{
	uint64_t hash = snap_hash_ip(ip);
	struct ip *copy;
	void *old = NULL;
	int r;

	if (absent_find(st, ip, hash))
		return 0;
	copy = malloc(sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	*copy = *ip;
	r = snap_made(st, SNAP_O_PLAIN, copy);
	if (r == 0)
		r = trie_put(&st->now.absent, &st->tx, key_of_absent, hash, copy, &old);
	return r < 0 ? r : snap_drop(st, SNAP_O_PLAIN, old);
}

int snap_store_remove_absent(struct snap_store *st, const struct ip *ip)
{
	uint64_t hash = snap_hash_ip(ip);
	struct ip *old = absent_find(st, ip, hash);
	int r = old ? trie_remove(&st->now.absent, &st->tx, hash, old) : 0;

	return r < 0 || !old ? r : snap_drop(st, SNAP_O_PLAIN, old);
}

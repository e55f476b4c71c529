/*
 * The writer: transactions, publication, reclamation.
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

static void object_free(struct snap_store *st, enum snap_object_type type, void *ptr)
{
	switch (type) {
	case SNAP_O_WORKLOAD:
		snap_workload_free(st, ptr);
		return;
	case SNAP_O_SERVICE:
		slab_free(&st->nodes, ptr, sizeof(struct snap_service));
		return;
	case SNAP_O_DEF:
		snap_def_free(st, ptr);
		return;
	case SNAP_O_HOSTS:
		slab_free(&st->slab, ptr, snap_hosts_size(((struct snap_hosts *)ptr)->n));
		return;
	case SNAP_O_POLICY:
		policy_deinit(ptr);
		slab_free(&st->slab, ptr, sizeof(struct policy));
		return;
	case SNAP_O_POLICIES:
		snap_policies_free(st, ptr);
		return;
	case SNAP_O_ABSENT:
		slab_free(&st->slab, ptr, sizeof(struct ip));
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
		object_free(st, type, slab_at(trie_at(t, i)));
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
		struct snap_service *service = slab_at(trie_at(&s->services, i));

		trie_free(&service->endpoints, &st->nodes);
	}
	free_trie(st, &s->services, SNAP_O_SERVICE);
	free_trie(st, &s->by_key, SNAP_O_DEF);
	free_trie(st, &s->by_host, SNAP_O_HOSTS);
	free_trie(st, &s->absent, SNAP_O_ABSENT);
	free_trie(st, &s->workloads, SNAP_O_WORKLOAD);
	free_trie(st, &s->policies, SNAP_O_POLICY);
	free_trie(st, &s->policies_of, SNAP_O_POLICIES);
	snap_policies_free(st, s->global);
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

void snap_store_trim(struct snap_store *st)
{
	slab_trim(&st->slab);
	slab_trim(&st->nodes);
}

/* --- addresses that are not of the mesh --- */

static struct ip *absent_find(struct snap_store *st, const struct ip *ip, uint64_t hash)
{
	struct ip *at = slab_at(trie_get(&st->now.absent, hash));

	return at && ip_equal(at, ip) ? at : NULL;
}

static uint64_t key_of_absent(uint32_t value)
{
	return snap_hash_ip(slab_at(value));
}

int snap_store_put_absent(struct snap_store *st, const struct ip *ip)
{
	uint64_t hash = snap_hash_ip(ip);
	struct ip *copy;
	uint32_t was = 0;
	int r;

	if (absent_find(st, ip, hash))
		return 0;
	copy = slab_alloc(&st->slab, sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	*copy = *ip;
	r = snap_made(st, SNAP_O_ABSENT, copy);
	if (r == 0)
		r = trie_put(&st->now.absent, &st->tx, key_of_absent, hash, slab_ref(copy), &was);
	return r < 0 ? r : snap_drop(st, SNAP_O_ABSENT, slab_at(was));
}

int snap_store_remove_absent(struct snap_store *st, const struct ip *ip)
{
	uint64_t hash = snap_hash_ip(ip);
	struct ip *old = absent_find(st, ip, hash);
	int r = old ? trie_remove(&st->now.absent, &st->tx, hash, slab_ref(old)) : 0;

	return r < 0 || !old ? r : snap_drop(st, SNAP_O_ABSENT, old);
}

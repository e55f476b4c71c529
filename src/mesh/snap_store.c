/*
 * The writer: transactions, publication, reclamation, and workloads.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "mesh/snap_state.h"

enum { KEY_MAX = 4 * 1024 * 1024 };

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
	if (type == SNAP_O_WORKLOAD) {
		struct snap_workload *w = ptr;

		snap_kind_put(st, w->kind);
		snap_place_put(st, w->place);
	} else if (type == SNAP_O_POLICY) {
		policy_deinit(ptr);
	}
	free(ptr);
}

static void objects_free(struct snap_store *st, struct snap_objects *o)
{
	for (size_t i = 0; i < o->n; i++)
		object_free(st, o->list[i].type, o->list[i].ptr);
	free(o->list);
	*o = (struct snap_objects){};
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
	struct snapshot *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->serial = serial;
	s->state = st->now;
	list_init(&s->dropped_nodes);
	atomic_init(&s->refs, 1);
	list_append(&st->chain, &s->link);
	return s;
}

int snap_store_new(const char *network, struct snap_store **ret_store)
{
	struct snap_store *st = calloc(1, sizeof(*st));

	if (!st)
		return -ENOMEM;
	list_init(&st->chain);
	bytes_init(&st->key, KEY_MAX);
	st->next_workload_id = 1;
	st->next_service_id = 1;
	st->now.policy_serial = 1;
	st->network = strdup(network);
	st->last = snapshot_make(st, 1);
	if (!st->network || !st->last) {
		free(st->network);
		free(st->last);
		free(st);
		return -ENOMEM;
	}
	trie_tx_begin(&st->tx, 2, &st->spare);
	*ret_store = st;
	return 0;
}

static void free_trie(struct snap_store *st, struct trie *t, enum snap_object_type type)
{
	for (uint32_t i = 0; i < trie_count(t); i++)
		object_free(st, type, trie_at(t, i));
	trie_clear(t, &st->tx);
}

/* The newest state's objects; each is in exactly one of these tries besides its indexes. */
static void free_state(struct snap_store *st)
{
	struct snap_state *s = &st->now;

	trie_clear(&s->by_ip, &st->tx);
	trie_clear(&s->by_far_ip, &st->tx);
	trie_clear(&s->by_vip, &st->tx);
	for (uint32_t i = 0; i < trie_count(&s->services); i++) {
		struct snap_service *service = trie_at(&s->services, i);

		trie_clear(&service->endpoints, &st->tx);
	}
	free_trie(st, &s->services, SNAP_O_PLAIN);
	free_trie(st, &s->by_key, SNAP_O_PLAIN);
	free_trie(st, &s->by_host, SNAP_O_PLAIN);
	free_trie(st, &s->absent, SNAP_O_PLAIN);
	free_trie(st, &s->workloads, SNAP_O_WORKLOAD);
	free_trie(st, &s->policies, SNAP_O_POLICY);
	free_trie(st, &s->policies_of, SNAP_O_PLAIN);
	free(s->global);
}

struct snap_store *snap_store_free(struct snap_store *st)
{
	struct list nodes = LIST_INIT(nodes);

	if (!st)
		return NULL;
	snap_store_abort(st);
	st->last = snapshot_unref(st->last);
	list_for_each_safe(l, &st->chain) {
		struct snapshot *s = list_entry(l, struct snapshot, link);

		assert(!atomic_load_explicit(&s->refs, memory_order_acquire));
		trie_nodes_free(&s->dropped_nodes, &st->spare);
		objects_free(st, &s->dropped);
		free(s);
	}
	free_state(st);
	trie_tx_commit(&st->tx, &nodes);
	trie_nodes_free(&nodes, NULL);
	trie_spare_free(&st->spare);
	map_deinit(&st->kinds);
	map_deinit(&st->places);
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

void snap_store_abort(struct snap_store *st)
{
	trie_tx_abort(&st->tx);
	st->now = st->last->state;
	objects_free(st, &st->made);
	free(st->dropped.list);
	st->dropped = (struct snap_objects){};
	st->changed = false;
	trie_tx_begin(&st->tx, st->tx.serial + 1, &st->spare);
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
		list_unlink(&s->link);
		trie_nodes_free(&s->dropped_nodes, &st->spare);
		objects_free(st, &s->dropped);
		free(s);
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
		trie_tx_commit(&st->tx, &old->dropped_nodes);
		old->dropped = st->dropped;
		st->dropped = (struct snap_objects){};
		st->made.n = 0;
		st->last = s;
		st->changed = false;
		snapshot_unref(old);
		trie_tx_begin(&st->tx, st->tx.serial + 1, &st->spare);
	}
	snap_store_reclaim(st);
	*ret_snapshot = snapshot_ref(st->last);
	return 0;
}

/* --- workloads --- */

static size_t workload_size(const struct snap_workload *w)
{
	const char *uid = snap_workload_uid(w);
	const char *name = snap_workload_name(w);
	const char *end = name > uid + strlen(uid) ? name : uid;

	return (size_t)(end + strlen(end) + 1 - (const char *)w);
}

static bool is_end(const char *text, const char *end)
{
	size_t n = strlen(text), n_end = strlen(end);

	return n_end <= n && !strcmp(text + n - n_end, end);
}

/* Lays out what is behind the struct. */
static void fill_tail(struct snap_workload *out, const struct workload *w, size_t n_uid, size_t n_name)
{
	size_t n_more = out->n_more * sizeof(struct ip);

	if (n_more)
		memcpy(out->tail, w->addresses + 1, n_more);
	memcpy(out->tail + n_more, w->uid, n_uid);
	if (is_end(w->uid, w->name)) {
		out->name_at = (uint16_t)(n_more + n_uid - n_name);
		return;
	}
	out->name_at = (uint16_t)(n_more + n_uid);
	memcpy(out->tail + out->name_at, w->name, n_name);
}

static int workload_make(struct snap_store *st, const struct workload *w, const struct snap_workload *old,
			 struct snap_workload **ret_workload)
{
	size_t n_more = w->n_addresses > 1 ? MIN(w->n_addresses - 1, (size_t)UINT8_MAX) : 0;
	size_t n_uid = strlen(w->uid) + 1;
	size_t n_name = strlen(w->name) + 1;
	struct snap_workload *out = calloc(1, offsetof(struct snap_workload, tail) + n_more * sizeof(struct ip) + n_uid + (is_end(w->uid, w->name) ? 0 : n_name));
	int r;

	if (!out)
		return -ENOMEM;
	r = snap_kind_get(st, w, old ? old->kind : NULL, &out->kind);
	if (r < 0) {
		free(out);
		return r;
	}
	r = snap_place_get(st, w, old ? old->place : NULL, &out->place);
	if (r < 0) {
		snap_kind_put(st, out->kind);
		free(out);
		return r;
	}
	out->id = old ? old->id : st->next_workload_id;
	out->weight = (uint16_t)MIN(w->capacity, (uint32_t)UINT16_MAX);
	out->tunnel = (uint8_t)w->tunnel;
	out->healthy = !w->unhealthy;
	out->n_more = (uint8_t)n_more;
	if (w->n_addresses)
		out->ip = w->addresses[0];
	out->reachable = w->n_addresses && !strcmp(w->network, st->network);
	fill_tail(out, w, n_uid, n_name);
	*ret_workload = out;
	return 0;
}

/* Addresses of other networks are kept apart: the same one may be somebody else's here. */
static struct trie *index_of(struct snap_store *st, const struct snap_workload *w)
{
	return w->reachable ? &st->now.by_ip : &st->now.by_far_ip;
}

/* Address @i of the workload, or NULL behind the end. */
static const struct ip *address_at(const struct snap_workload *w, unsigned i)
{
	if (!w || ip_is_none(&w->ip) || i > w->n_more)
		return NULL;
	return i ? &snap_workload_more(w)[i - 1] : &w->ip;
}

static bool has_address(const struct snap_workload *w, const struct ip *ip)
{
	for (unsigned i = 0; address_at(w, i); i++)
		if (ip_equal(address_at(w, i), ip))
			return true;
	return false;
}

/* Somebody else with the address that @gone leaves: rare, so looked for the long way. */
static struct snap_workload *another_at(struct snap_store *st, const struct ip *ip, const struct snap_workload *gone)
{
	for (uint32_t i = 0; st->now.shared_ips && i < trie_count(&st->now.workloads); i++) {
		struct snap_workload *w = trie_at(&st->now.workloads, i);

		if (w->id != gone->id && w->reachable == gone->reachable && has_address(w, ip))
			return w;
	}
	return NULL;
}

static int index_address(struct snap_store *st, const struct ip *ip, struct snap_workload *w)
{
	void *was;
	int r = trie_put(index_of(st, w), &st->tx, snap_hash_ip(ip), w, &was);

	if (r == 0 && was && ((struct snap_workload *)was)->id != w->id)
		st->now.shared_ips = true;
	return r;
}

static int unindex_address(struct snap_store *st, const struct ip *ip, const struct snap_workload *old)
{
	uint64_t hash = snap_hash_ip(ip);
	struct trie *index = index_of(st, old);
	struct snap_workload *at = trie_get(index, hash);

	if (!at || at->id != old->id)
		return 0;

	struct snap_workload *other = another_at(st, ip, old);
	return other ? trie_put(index, &st->tx, hash, other, NULL) : trie_remove(index, &st->tx, hash, NULL);
}

/* Either of @old and @w may be NULL. */
static int index_addresses(struct snap_store *st, const struct snap_workload *old, struct snap_workload *w)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && address_at(old, i); i++)
		if (!w || w->reachable != old->reachable || !has_address(w, address_at(old, i)))
			r = unindex_address(st, address_at(old, i), old);
	for (unsigned i = 0; r == 0 && address_at(w, i); i++)
		r = index_address(st, address_at(w, i), w);
	return r;
}

static bool is_member(const struct snap_workload *w, uint32_t service_id)
{
	for (uint32_t i = 0; w && i < w->kind->n_members; i++)
		if (w->kind->members[i].service_id == service_id)
			return true;
	return false;
}

static int index_services(struct snap_store *st, const struct snap_workload *old, struct snap_workload *w)
{
	int r = 0;

	for (uint32_t i = 0; w && r == 0 && i < w->kind->n_members; i++)
		r = snap_service_put_endpoint(st, w->kind->members[i].service_id, w);
	for (uint32_t i = 0; old && r == 0 && i < old->kind->n_members; i++)
		if (!is_member(w, old->kind->members[i].service_id))
			r = snap_service_remove_endpoint(st, old->kind->members[i].service_id, old);
	return r;
}

static bool same_policies(const struct snap_kind *a, const struct snap_kind *b)
{
	if (a->n_policies != b->n_policies || strcmp(a->namespace, b->namespace))
		return false;
	for (uint32_t i = 0; i < a->n_policies; i++)
		if (strcmp(a->policies[i], b->policies[i]))
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
	bool same = workload_size(old) == workload_size(new);

	new->note = old->note;
	same = same && !memcmp(old, new, workload_size(new));
	new->note = note;
	return same;
}

struct snap_note *snap_store_note(struct snap_store *st, const char *uid, uint64_t hash)
{
	struct snap_workload *w = trie_get(&st->now.workloads, hash);

	return w && !strcmp(snap_workload_uid(w), uid) ? &w->note : NULL;
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

	if (!old && trie_get(&st->now.workloads, hash))
		return -EEXIST;
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
		r = trie_put(&st->now.workloads, &st->tx, hash, new, NULL);
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

	if (!old || strcmp(snap_workload_uid(old), uid))
		return 0;
	r = trie_remove(&st->now.workloads, &st->tx, hash, NULL);
	if (r == 0)
		r = index_addresses(st, old, NULL);
	if (r == 0)
		r = index_services(st, old, NULL);
	if (r == 0)
		r = snap_drop(st, SNAP_O_WORKLOAD, old);
	return r;
}

/* --- addresses that are not of the mesh --- */

int snap_store_put_absent(struct snap_store *st, const struct ip *ip)
{
	uint64_t hash = snap_hash_ip(ip);
	struct ip *copy;
	void *old;
	int r;

	if (trie_get(&st->now.absent, hash))
		return 0;
	copy = malloc(sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	*copy = *ip;
	r = snap_made(st, SNAP_O_PLAIN, copy);
	if (r == 0)
		r = trie_put(&st->now.absent, &st->tx, hash, copy, &old);
	return r;
}

int snap_store_remove_absent(struct snap_store *st, const struct ip *ip)
{
	void *old;
	int r = trie_remove(&st->now.absent, &st->tx, snap_hash_ip(ip), &old);

	if (r < 0 || !old)
		return r;
	return snap_drop(st, SNAP_O_PLAIN, old);
}

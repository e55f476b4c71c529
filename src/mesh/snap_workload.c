/*
 * The writer's part for workloads: the object, and its places in the indexes.
 */
#include <errno.h>
#include <string.h>

#include "mesh/snap_state.h"

static size_t workload_size(const struct snap_workload *w)
{
	const char *rest = snap_workload_rest(w);
	const char *name = snap_workload_name(w);
	const char *end = name > rest + strlen(rest) ? name : rest;

	return (size_t)(end + strlen(end) + 1 - (const char *)w);
}

void snap_workload_free(struct snap_store *st, struct snap_workload *w)
{
	snap_kind_put(st, w->kind);
	snap_place_put(st, w->place);
	slab_free(&st->slab, w, workload_size(w));
}

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
	t.size = offsetof(struct snap_workload, tail);
	for (size_t i = 0; i < t.n_addresses; i++)
		t.size = snap_address_end(t.size, &w->addresses[i], !i);
	t.size += t.n_rest + t.n_name;
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

/* Another one of the same service. */
static const struct snap_workload *neighbour_of(struct snap_store *st, const struct workload *w)
{
	const struct snap_service *s = w->n_services ? snap_service_find(st, w->services[0].key) : NULL;

	return s ? snap_service_endpoint(s, 0) : NULL;
}

static int workload_make(struct snap_store *st, const struct workload *w, const struct snap_workload *old,
			 struct snap_workload **ret_workload)
{
	const struct snap_workload *like = old ? old : neighbour_of(st, w);	/* in most of what workloads share */
	const struct snap_kind *kind;
	const struct snap_place *place;
	struct snap_workload *out;
	int r = snap_kind_get(st, w, like ? like->kind : NULL, &kind);

	if (r < 0)
		return r;
	r = snap_place_get(st, w, like ? like->place : NULL, &place);
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

static bool has_address(const struct snap_workload *w, const struct ip *ip, uint32_t *ret_entry)
{
	return snap_addresses_have(snap_workload_addresses(w), ip, ret_entry);
}

/* Somebody else with the address that @gone leaves: rare, so looked for the long way. 0: nobody. */
static uint32_t another_at(struct snap_store *st, const struct ip *ip, const struct snap_workload *gone)
{
	uint32_t entry;

	for (uint32_t i = 0; st->now.shared_ips && i < trie_count(&st->now.workloads); i++) {
		const struct snap_workload *w = slab_at(trie_at(&st->now.workloads, i));

		if (w->id != gone->id && w->reachable == gone->reachable && has_address(w, ip, &entry))
			return entry;
	}
	return 0;
}

static int index_address(struct snap_store *st, const struct ip *ip, uint32_t entry, const struct snap_workload *w)
{
	uint32_t was;
	int r = trie_put(index_of(st, w), &st->tx, snap_key_of_workload_address, snap_hash_ip(ip), entry, &was);

	if (r == 0 && was && ((const struct snap_workload *)snap_address_owner(was))->id != w->id)
		st->now.shared_ips = true;
	return r;
}

static int unindex_address(struct snap_store *st, const struct ip *ip, const struct snap_workload *old)
{
	uint64_t hash = snap_hash_ip(ip);
	struct trie *index = index_of(st, old);
	uint32_t at = trie_get(index, hash), other;

	if (!at || snap_address_owner(at) != old || snap_key_of_workload_address(at) != hash)
		return 0;
	other = another_at(st, ip, old);
	return other ? trie_swap(index, &st->tx, hash, at, other) : trie_remove(index, &st->tx, hash, at);
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
		r = index_address(st, &ip, snap_address_entry(&a), w);
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
	struct snap_workload *w = slab_at(trie_get(&st->now.workloads, hash));

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
		snap_workload_free(st, new);
		return 0;
	}
	if (!old)
		st->next_workload_id++;
	r = snap_made(st, SNAP_O_WORKLOAD, new);
	if (r == 0)
		r = old ? trie_swap(&st->now.workloads, &st->tx, hash, slab_ref(old), slab_ref(new)) : trie_add(&st->now.workloads, &st->tx, snap_key_of_workload, hash, slab_ref(new));
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
	struct snap_workload *old = slab_at(trie_get(&st->now.workloads, hash));
	int r;

	if (!old || !snap_workload_is(old, uid))
		return 0;
	r = trie_remove(&st->now.workloads, &st->tx, hash, slab_ref(old));
	if (r == 0)
		r = index_addresses(st, old, NULL);
	if (r == 0)
		r = index_services(st, old, NULL);
	if (r == 0)
		r = snap_drop(st, SNAP_O_WORKLOAD, old);
	return r;
}

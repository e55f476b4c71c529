/*
 * Workloads and services that have no record: what is noted of them in the
 * store, and what is put together.
 *
 * Notes are changed in place. That of one which is not published would be lost
 * when the store goes back to its last publication; so before who holds it
 * changes, what was put is published.
 */
#include <errno.h>
#include <string.h>

#include "proxy/knowledge_internal.h"

enum { TOGETHER_MAX = 4096, TOGETHER_FIRST = 16 };

struct snap_note *note_of(const struct knowledge *k, bool is_service, const char *name, uint64_t hash)
{
	return is_service ? snap_store_service_note(k->store, name, hash) : snap_store_note(k->store, name, hash);
}

/* NULL also when a record keeps it. */
static struct snap_note *noted_find(const struct knowledge *k, const char *name, uint64_t hash, bool *ret_is_service)
{
	for (int is_service = 0; is_service < 2; is_service++) {
		struct snap_note *note = note_of(k, is_service, name, hash);

		if (!note || note->holders == KNOWLEDGE_RECORDED)
			continue;
		*ret_is_service = is_service;
		return note;
	}
	return NULL;
}

void noted_move(struct knowledge *k, struct record *rec)
{
	bool is_service;
	struct snap_note *note = noted_find(k, rec->name, map_hash(rec->name, strlen(rec->name)), &is_service);

	if (!note)
		return;
	rec->holders = note->holders;
	rec->in_store = true;
	rec->is_service = is_service;
	note->holders = KNOWLEDGE_RECORDED;
}

/* --- together --- */

static int note_put(struct knowledge *k, const struct put *p)
{
	if (k->n_puts == TOGETHER_MAX)
		return -E2BIG;
	if (k->n_puts == k->room_puts) {
		size_t room = k->room_puts ? k->room_puts * 2 : TOGETHER_FIRST;
		struct put *puts = realloc(k->puts, room * sizeof(*puts));

		if (!puts)
			return -ENOMEM;
		k->puts = puts;
		k->room_puts = room;
	}
	k->puts[k->n_puts++] = *p;
	return 0;
}

/* A change of the store has the outcome @r. @p: what it put, NULL when it took something out. */
static int change(struct knowledge *k, int r, const struct put *p)
{
	if (r == 0)
		k->unpublished = true;
	if (r == 0 && k->together && (!p || note_put(k, p) == 0))
		return 0;
	return knowledge_publish(k, r);
}

void noted_put_again(struct knowledge *k)
{
	size_t n = k->n_puts;
	bool together = k->together;

	k->n_puts = 0;
	k->together = false;
	for (size_t i = 0; i < n; i++) {
		const struct put *p = &k->puts[i];
		struct diag d;
		int r = knowledge_put(k, p->holder, p->kind, p->name, p->value, p->len, &d);

		if (r < 0)
			k->lost = r;
	}
	k->together = together;
}

void knowledge_begin(struct knowledge *k)
{
	k->together = true;
	k->lost = 0;
}

int knowledge_end(struct knowledge *k)
{
	int r = k->unpublished ? knowledge_publish(k, 0) : 0;

	(void)r;			/* all of it was done again, and what was lost by that counts */
	k->together = false;
	if (k->room_puts > TOGETHER_FIRST) {	/* what most answers need stays */
		free(k->puts);
		k->puts = NULL;
		k->room_puts = 0;
	}
	return k->lost;
}

/* --- putting --- */

/* The bytes stay, to be published later; what the store has of it stays. */
static int keep_for_later(struct knowledge *k, const struct put *p)
{
	struct record *rec;
	int r = record_new(k, KNOWLEDGE_ADDRESS, p->name, &rec);

	if (r < 0)
		return r;
	r = record_keep(rec, p->value, p->len);
	if (r < 0) {
		record_drop(k, rec);
		return r;
	}
	noted_move(k, rec);
	rec->hash = p->hash;
	if (rec->holders)
		return 0;		/* it holds it already */
	return holders_add(&k->holders, &rec->holders, p->holder);	/* the first needs no memory */
}

static int put_address(struct knowledge *k, const struct put *p, struct snap_note *old, const struct address *a, struct diag *d)
{
	struct snap_note note = { .holders = old ? old->holders : HOLDERS_NONE };
	int r = old ? 0 : holders_add(&k->holders, &note.holders, p->holder);	/* the first needs no memory */

	memcpy(note.hash, &p->hash, sizeof(note.hash));
	if (r == 0 && a->type == ADDRESS_WORKLOAD)
		r = change(k, snap_store_put_noted(k->store, &a->workload, p->name_hash, old, &note), p);
	else if (r == 0)
		r = change(k, snap_store_put_service_noted(k->store, &a->service, &note), p);
	if (r == -EEXIST)
		return diag_set(d, "its name collides with another's");
	if (r == 0)
		k->generation++;
	return r;
}

/* The resource goes by the name that is in it. */
static bool is_own_name(const struct address *a, const char *name)
{
	size_t n;

	if (a->type == ADDRESS_WORKLOAD)
		return !strcmp(a->workload.uid, name);
	n = strlen(a->service.namespace);
	return !strncmp(name, a->service.namespace, n) && name[n] == '/' && !strcmp(name + n + 1, a->service.hostname);
}

/* @note: of the same name, of a service or of a workload; NULL: none. */
static int put_decoded(struct knowledge *k, const struct put *p, struct snap_note *note, bool is_service, const struct address *a, struct diag *d)
{
	bool to_service = a->type == ADDRESS_SERVICE;
	bool fits = note ? is_service == to_service : !note_of(k, to_service, p->name, p->name_hash);

	return fits && is_own_name(a, p->name) ? put_address(k, p, note, a, d) : record_put(k, NULL, p, a, d);
}

static bool is_same(const struct snap_note *note, const struct put *p)
{
	uint64_t hash;

	memcpy(&hash, note->hash, sizeof(hash));
	return hash == p->hash;
}

int noted_put(struct knowledge *k, struct put *p, struct diag *d)
{
	bool is_service = false;
	struct snap_note *note = noted_find(k, p->name, p->name_hash, &is_service);
	struct address a;
	int r;

	if (note && !holders_has(&k->holders, note->holders, p->holder)) {
		if (k->n_puts) {
			(void)!knowledge_publish(k, 0);
			return knowledge_put(k, p->holder, p->kind, p->name, p->value, p->len, d);
		}
		r = holders_add(&k->holders, &note->holders, p->holder);
		if (r < 0)
			return r;
	}
	if (note && is_same(note, p))
		return 0;
	r = address_decode(p->value, p->len, &a, d);
	if (r == 0) {
		r = put_decoded(k, p, note, is_service, &a, d);
		address_deinit(&a);
	}
	if (r == -ENOMEM && keep_for_later(k, p) == 0) {
		knowledge_retry_later(k, r);
		r = 0;
	}
	return r;
}

/* --- letting go --- */

static int forget(struct knowledge *k, const char *name, bool is_service)
{
	return change(k, is_service ? snap_store_remove_service(k->store, name) : snap_store_remove_workload(k->store, name), NULL);
}

void noted_gone(struct knowledge *k, uint32_t holder, const char *name, uint64_t hash)
{
	bool is_service;
	struct snap_note *note = noted_find(k, name, hash, &is_service);

	if (!note || !holders_has(&k->holders, note->holders, holder))
		return;
	if (k->n_puts) {
		(void)!knowledge_publish(k, 0);
		knowledge_gone(k, holder, KNOWLEDGE_ADDRESS, name);
		return;
	}
	holders_remove(&k->holders, &note->holders, holder);
	if (note->holders)
		return;
	k->generation++;
	knowledge_retry_later(k, forget(k, name, is_service));
}

static void drop_one(struct knowledge *k, uint32_t holder, const struct snap_note *note, const char *name)
{
	if (note->holders != KNOWLEDGE_RECORDED && holders_has(&k->holders, note->holders, holder))
		noted_gone(k, holder, name, map_hash(name, strlen(name)));
}

void noted_drop(struct knowledge *k, uint32_t holder)
{
	struct snapshot *s = snapshot_ref(k->snapshot);
	bool together = k->together;
	char uid[SNAP_UID_LEN];

	k->together = true;
	for (uint32_t i = 0; i < snapshot_n_workloads(s); i++) {
		const struct snap_workload *w = snapshot_workload_at(s, i);

		drop_one(k, holder, &w->note, snap_workload_uid(w, uid));
	}
	for (uint32_t i = 0; i < snapshot_n_services(s); i++) {
		const struct snap_def *def = snapshot_service_at(s, i)->def;

		if (def->defined)
			drop_one(k, holder, &def->note, snap_def_key(def));
	}
	k->together = together;
	snapshot_unref(s);
	if (k->unpublished && !together)
		(void)!knowledge_publish(k, 0);
}

int noted_retry(struct knowledge *k)
{
	struct snapshot *s = snapshot_ref(k->snapshot);
	char uid[SNAP_UID_LEN];
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < snapshot_n_workloads(s); i++) {
		const struct snap_workload *w = snapshot_workload_at(s, i);

		if (w->note.holders == HOLDERS_NONE)
			r = forget(k, snap_workload_uid(w, uid), false);
	}
	for (uint32_t i = 0; r == 0 && i < snapshot_n_services(s); i++) {
		const struct snap_def *def = snapshot_service_at(s, i)->def;

		if (def->defined && def->note.holders == HOLDERS_NONE)
			r = forget(k, snap_def_key(def), true);
	}
	snapshot_unref(s);
	return r;
}

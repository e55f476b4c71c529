/*
 * Workloads that have no record: what is noted of them in the store, and what is
 * put together.
 *
 * Notes are changed in place. That of a workload which is not published would be
 * lost when the store goes back to its last publication; so before who holds it
 * changes, what was put is published.
 */
#include <errno.h>
#include <string.h>

#include "proxy/knowledge_internal.h"

enum { TOGETHER_MAX = 4096, TOGETHER_FIRST = 64 };

struct snap_note *noted_find(const struct knowledge *k, const char *name, uint64_t hash)
{
	struct snap_note *note = snap_store_note(k->store, name, hash);

	return note && note->holders != KNOWLEDGE_RECORDED ? note : NULL;
}

void noted_move(struct knowledge *k, struct record *rec)
{
	struct snap_note *note = noted_find(k, rec->name, map_hash(rec->name, strlen(rec->name)));

	if (!note)
		return;
	rec->holders = note->holders;
	rec->in_store = true;
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
	free(k->puts);
	k->puts = NULL;
	k->room_puts = 0;
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

static int put_workload(struct knowledge *k, const struct put *p, struct snap_note *old, const struct workload *w, struct diag *d)
{
	struct snap_note note = { .holders = old ? old->holders : HOLDERS_NONE };
	int r = old ? 0 : holders_add(&k->holders, &note.holders, p->holder);	/* the first needs no memory */

	memcpy(note.hash, &p->hash, sizeof(note.hash));
	if (r == 0)
		r = change(k, snap_store_put_noted(k->store, w, p->name_hash, old, &note), p);
	if (r == -EEXIST)
		return diag_set(d, "its name collides with another's");
	if (r == 0)
		k->generation++;
	return r;
}

static int put_decoded(struct knowledge *k, const struct put *p, struct snap_note *note, const struct address *a, struct diag *d)
{
	if (a->type == ADDRESS_WORKLOAD && !strcmp(a->workload.uid, p->name) && (note || !snap_store_note(k->store, p->name, p->name_hash)))
		return put_workload(k, p, note, &a->workload, d);
	return record_put(k, NULL, p, a, d);
}

static bool is_same(const struct snap_note *note, const struct put *p)
{
	uint64_t hash;

	memcpy(&hash, note->hash, sizeof(hash));
	return hash == p->hash;
}

int noted_put(struct knowledge *k, struct put *p, struct diag *d)
{
	struct snap_note *note = noted_find(k, p->name, p->name_hash);
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
		r = put_decoded(k, p, note, &a, d);
		address_deinit(&a);
	}
	if (r == -ENOMEM && keep_for_later(k, p) == 0) {
		knowledge_retry_later(k, r);
		r = 0;
	}
	return r;
}

/* --- letting go --- */

static void forget(struct knowledge *k, const char *name)
{
	knowledge_retry_later(k, change(k, snap_store_remove_workload(k->store, name), NULL));
}

void noted_gone(struct knowledge *k, uint32_t holder, const char *name, uint64_t hash)
{
	struct snap_note *note = noted_find(k, name, hash);

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
	forget(k, name);
}

void noted_drop(struct knowledge *k, uint32_t holder)
{
	struct snapshot *s = snapshot_ref(k->snapshot);
	bool together = k->together;

	k->together = true;
	for (uint32_t i = 0; i < snapshot_n_workloads(s); i++) {
		const struct snap_workload *w = snapshot_workload_at(s, i);
		const char *uid = snap_workload_uid(w);

		if (w->note.holders != KNOWLEDGE_RECORDED && holders_has(&k->holders, w->note.holders, holder))
			noted_gone(k, holder, uid, map_hash(uid, strlen(uid)));
	}
	k->together = together;
	snapshot_unref(s);
	if (k->unpublished && !together)
		(void)!knowledge_publish(k, 0);
}

int noted_retry(struct knowledge *k)
{
	struct snapshot *s = snapshot_ref(k->snapshot);
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < snapshot_n_workloads(s); i++) {
		const struct snap_workload *w = snapshot_workload_at(s, i);

		if (w->note.holders == HOLDERS_NONE)
			r = change(k, snap_store_remove_workload(k->store, snap_workload_uid(w)), NULL);
	}
	snapshot_unref(s);
	return r;
}

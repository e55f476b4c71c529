/*
 * Records: resources that are kept by their bytes (knowledge_internal.h).
 */
#include "proxy/knowledge_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { RETRY_MS = 1000, REST_MS = 1000 };

const char *knowledge_type_url(enum knowledge_kind kind)
{
	return kind == KNOWLEDGE_POLICY ? MODEL_TYPE_AUTHORIZATION : MODEL_TYPE_ADDRESS;
}

static struct record *find(const struct knowledge *k, enum knowledge_kind kind, const char *name, size_t len, uint64_t hash)
{
	struct map_link *l = map_find_hashed(&k->records[kind], name, len, hash);

	return l ? container_of(l, struct record, link) : NULL;
}

const char *record_target(const struct record *rec)
{
	return rec->extra && rec->extra->target ? rec->extra->target : rec->name;
}

static int extra_new(const uint8_t *value, size_t len, struct extra **ret_extra)
{
	struct extra *e = malloc(sizeof(*e) + len);

	if (!e)
		return -ENOMEM;
	e->target = NULL;
	e->len = len;
	if (len)
		memcpy(e->value, value, len);
	*ret_extra = e;
	return 0;
}

static struct extra *extra_free(struct extra *e)
{
	if (e)
		free(e->target);
	free(e);
	return NULL;
}

int record_new(struct knowledge *k, enum knowledge_kind kind, const char *name, struct record **ret_record)
{
	size_t n = strlen(name) + 1;
	struct record *rec = malloc(sizeof(*rec) + n);
	int r;

	if (!rec)
		return -ENOMEM;
	*rec = (struct record){ .kind = (uint8_t)kind };
	memcpy(rec->name, name, n);
	r = map_add(&k->records[kind], &rec->link, rec->name, n - 1);
	if (r < 0) {
		free(rec);
		return r;
	}
	*ret_record = rec;
	return 0;
}

void record_drop(struct knowledge *k, struct record *rec)
{
	map_remove(&k->records[rec->kind], &rec->link);
	holders_clear(&k->holders, &rec->holders);
	extra_free(rec->extra);
	free(rec);
}

int record_keep(struct record *rec, const uint8_t *value, size_t len)
{
	struct extra *e;
	int r = extra_new(value, len, &e);

	if (r < 0)
		return r;
	if (rec->extra) {		/* what the store has of it stays under its key */
		e->target = rec->extra->target;
		rec->extra->target = NULL;
	}
	extra_free(rec->extra);
	rec->extra = e;
	rec->published = false;
	return 0;
}

/* --- publishing --- */

static int on_tell(struct defer *d)
{
	struct knowledge *k = container_of(d, struct knowledge, tell);

	k->changed(k->data);
	return 0;
}

static int on_retry(struct timer *t);

/* What could not be published for want of memory is tried again. */
void knowledge_retry_later(struct knowledge *k, int r)
{
	if (r == -ENOMEM && !k->retry.loop)
		(void)!timer_arm(k->loop, &k->retry, RETRY_MS, on_retry);
}

static void take_back(struct knowledge *k)
{
	snap_store_abort(k->store);
	if (k->unpublished)
		knowledge_retry_later(k, -ENOMEM);	/* what was taken out is there again */
	k->unpublished = false;
	noted_put_again(k);
}

static int on_rest(struct timer *t);
static void rest_later(struct knowledge *k);

static int publish(struct knowledge *k)
{
	struct snapshot *s;
	int r = snap_store_publish(k->store, &s);

	if (r < 0)
		return r;
	if (s != k->snapshot)
		loop_defer(k->loop, &k->tell, on_tell);
	snapshot_unref(k->snapshot);
	k->snapshot = s;
	/* What it replaced need not wait for the next one, but for workers who have it. */
	if (snap_store_reclaim(k->store) || snap_store_is_sparse(k->store))
		rest_later(k);
	return 0;
}

/* Without memory, or without a timer, things stay as they are until the next publication. */
static void rest_later(struct knowledge *k)
{
	if (k->rest.loop)
		return;
	k->rest_serial = snapshot_serial(k->snapshot);
	(void)!timer_arm(k->loop, &k->rest, REST_MS, on_rest);
}

static int on_rest(struct timer *t)
{
	struct knowledge *k = container_of(t, struct knowledge, rest);
	bool quiet = k->rest_serial == snapshot_serial(k->snapshot) && !k->unpublished;
	bool held = snap_store_reclaim(k->store);

	if (snap_store_is_sparse(k->store) && quiet && !held) {
		if (snap_store_renew(k->store) < 0 || publish(k) < 0)
			snap_store_abort(k->store);
	} else if (held || snap_store_is_sparse(k->store)) {
		rest_later(k);
	}
	if (quiet)
		snap_store_trim(k->store);
	return 0;
}

int knowledge_publish(struct knowledge *k, int r)
{
	if (r == 0)
		r = publish(k);
	if (r < 0) {
		take_back(k);
		return r;
	}
	k->unpublished = false;
	k->n_puts = 0;
	return 0;
}

/* What a record has put there. */
static int remove_target(struct knowledge *k, const struct record *rec)
{
	const char *target = record_target(rec);
	struct snap_note *note;

	if (rec->kind == KNOWLEDGE_POLICY)
		return knowledge_publish(k, snap_store_remove_policy(k->store, target));
	note = note_of(k, rec->is_service, target, map_hash(target, strlen(target)));
	if (note && note->holders != KNOWLEDGE_RECORDED)
		holders_clear(&k->holders, &note->holders);
	return knowledge_publish(k, rec->is_service ? snap_store_remove_service(k->store, target) : snap_store_remove_workload(k->store, target));
}

/* --- decoding into the store --- */

/* What is known of a resource once its bytes are decoded. */
struct taken {
	bool is_service;
	struct extra *extra;
};

/* "@a/@b", or only @a. */
static bool is_joined(const char *text, const char *a, const char *b)
{
	size_t n = strlen(a);

	return !strncmp(text, a, n) && (b ? text[n] == '/' && !strcmp(text + n + 1, b) : !text[n]);
}

/* @len 0: the bytes need not be kept. */
static int taken_init(struct taken *t, const struct record *rec, const char *a, const char *b, const uint8_t *value, size_t len)
{
	int r = 0;

	if (len || !is_joined(rec->name, a, b))
		r = extra_new(value, len, &t->extra);
	if (r < 0 || is_joined(rec->name, a, b))
		return r;
	if (asprintf(&t->extra->target, b ? "%s/%s" : "%s", a, b) >= 0)
		return 0;
	t->extra->target = NULL;
	return -ENOMEM;
}

static int put_policy(struct knowledge *k, const struct record *rec, const uint8_t *value, size_t len, struct taken *t, struct diag *d)
{
	struct policy p;
	int r = policy_decode(value, len, &p, d);

	if (r < 0)
		return r;
	r = taken_init(t, rec, p.namespace, p.name, value, len);
	if (r == 0)
		r = knowledge_publish(k, snap_store_put_policy(k->store, &p));
	policy_deinit(&p);
	return r;
}

static int put_workload(struct knowledge *k, const struct workload *w)
{
	uint64_t hash = map_hash(w->uid, strlen(w->uid));
	struct snap_note *note = snap_store_note(k->store, w->uid, hash);

	return snap_store_put_noted(k->store, w, hash, note, note ? note : &(struct snap_note){ .holders = KNOWLEDGE_RECORDED });
}

static int put_service(struct knowledge *k, const struct service *s)
{
	CLEANUP_FREE char *key = NULL;
	struct snap_note *note;

	if (asprintf(&key, "%s/%s", s->namespace, s->hostname) < 0) {
		key = NULL;
		return -ENOMEM;
	}
	note = snap_store_service_note(k->store, key, map_hash(key, strlen(key)));
	return snap_store_put_service_noted(k->store, s, note ? note : &(struct snap_note){ .holders = KNOWLEDGE_RECORDED });
}

static int put_address(struct knowledge *k, const struct record *rec, const struct address *a, struct taken *t)
{
	int r;

	t->is_service = a->type == ADDRESS_SERVICE;
	if (t->is_service)
		r = taken_init(t, rec, a->service.namespace, a->service.hostname, NULL, 0);
	else
		r = taken_init(t, rec, a->workload.uid, NULL, NULL, 0);
	if (r == 0)
		r = knowledge_publish(k, t->is_service ? put_service(k, &a->service) : put_workload(k, &a->workload));
	return r;
}

/* Under one name there may come another thing than before: then the old one goes. */
static int drop_old(struct knowledge *k, const struct record *rec, const struct taken *t)
{
	const char *target = t->extra && t->extra->target ? t->extra->target : rec->name;

	if (!rec->in_store || (rec->is_service == t->is_service && !strcmp(record_target(rec), target)))
		return 0;
	return remove_target(k, rec);
}

/* @a: of an address, decoded. */
static int record_publish(struct knowledge *k, struct record *rec, const struct address *a, const uint8_t *value, size_t len, struct diag *d)
{
	struct taken t = {};
	int r;

	if (rec->kind == KNOWLEDGE_POLICY)
		r = put_policy(k, rec, value, len, &t, d);
	else
		r = put_address(k, rec, a, &t);
	if (r == 0)
		r = drop_old(k, rec, &t);
	if (r < 0) {
		extra_free(t.extra);
		return r == -EEXIST ? diag_set(d, "its name collides with another's") : r;
	}
	extra_free(rec->extra);
	rec->extra = t.extra;
	rec->is_service = t.is_service;
	rec->published = rec->in_store = true;
	return 0;
}

/* What is published under its own name needs no record. */
static void retire(struct knowledge *k, struct record *rec)
{
	struct snap_note *note;

	if (rec->kind != KNOWLEDGE_ADDRESS || !rec->published || rec->extra)
		return;
	note = note_of(k, rec->is_service, rec->name, map_hash(rec->name, strlen(rec->name)));
	if (!note || note->holders != KNOWLEDGE_RECORDED)
		return;
	note->holders = rec->holders;
	memcpy(note->hash, &rec->hash, sizeof(note->hash));
	rec->holders = HOLDERS_NONE;
	record_drop(k, rec);
}

/* --- letting go --- */

/* Nobody holds it any more. */
static int forget(struct knowledge *k, struct record *rec)
{
	int r = rec->in_store ? remove_target(k, rec) : 0;

	if (r < 0)
		return r;
	record_drop(k, rec);
	return 0;
}

static void let_go(struct knowledge *k, struct record *rec, uint32_t holder)
{
	holders_remove(&k->holders, &rec->holders, holder);
	if (rec->holders)
		return;
	k->generation++;
	knowledge_retry_later(k, forget(k, rec));
}

/* --- again --- */

static int publish_kept(struct knowledge *k, struct record *rec)
{
	const struct extra *e = rec->extra;
	struct address a = {};
	struct diag d;
	int r = 0;

	if (rec->kind == KNOWLEDGE_ADDRESS)
		r = address_decode(e->value, e->len, &a, &d);
	if (r == 0)
		r = record_publish(k, rec, &a, e->value, e->len, &d);
	address_deinit(&a);
	if (r == 0)
		retire(k, rec);
	return r;
}

/* Those of one map: what could not be forgotten, and what could not be published. */
static int retry_all(struct knowledge *k, const struct map *records)
{
	int r = 0;

	map_for_each(l, records) {
		struct record *rec = container_of(l, struct record, link);

		if (r == 0 && !rec->holders)
			r = forget(k, rec);
		else if (r == 0 && !rec->published && rec->extra)
			r = publish_kept(k, rec);
	}
	return r;
}

static int on_retry(struct timer *t)
{
	struct knowledge *k = container_of(t, struct knowledge, retry);
	int r = 0;

	for (size_t i = 0; r == 0 && i < ELEMENTS(k->records); i++)
		r = retry_all(k, &k->records[i]);
	if (r == 0)
		r = noted_retry(k);
	knowledge_retry_later(k, r);
	return 0;
}

/* --- putting --- */

/* A new record that is not to be: what it took over is noted again. */
static void give_back(struct knowledge *k, struct record *rec)
{
	struct snap_note *note = NULL;

	if (rec->kind == KNOWLEDGE_ADDRESS)
		note = note_of(k, rec->is_service, rec->name, map_hash(rec->name, strlen(rec->name)));

	if (note && rec->in_store && note->holders == KNOWLEDGE_RECORDED) {
		note->holders = rec->holders;
		rec->holders = HOLDERS_NONE;
	}
	record_drop(k, rec);
}

static int keep_for_later(struct knowledge *k, struct record *rec, const struct put *p)
{
	int r = record_keep(rec, p->value, p->len);

	if (r < 0)
		return r;
	k->generation++;
	rec->hash = p->hash;
	knowledge_retry_later(k, -ENOMEM);
	return 0;
}

/* New bytes are published, now or later. When they are refused the last good ones stay in force. */
static int record_change(struct knowledge *k, struct record *rec, const struct put *p, const struct address *a, struct diag *d)
{
	int r = record_publish(k, rec, a, p->value, p->len, d);

	if (r == -ENOMEM)
		return keep_for_later(k, rec, p);
	if (r < 0)
		return r;
	k->generation++;
	rec->hash = p->hash;
	retire(k, rec);
	return 0;
}

int record_put(struct knowledge *k, struct record *rec, const struct put *p, const struct address *a, struct diag *d)
{
	bool is_new = !rec;
	int r = is_new ? record_new(k, p->kind, p->name, &rec) : 0;

	if (r < 0)
		return r;
	if (is_new && p->kind == KNOWLEDGE_ADDRESS)
		noted_move(k, rec);
	r = holders_add(&k->holders, &rec->holders, p->holder);
	if (r == 0 && (is_new || rec->hash != p->hash))
		r = record_change(k, rec, p, a, d);
	if (r < 0 && is_new)
		give_back(k, rec);
	return r;
}

/* There is a record of it: what it was made of is decoded only when it is new. */
static int put_again(struct knowledge *k, struct record *rec, const struct put *p, struct diag *d)
{
	struct address a = {};
	int r = holders_add(&k->holders, &rec->holders, p->holder);

	if (r < 0)
		return r;
	if (p->kind == KNOWLEDGE_ADDRESS && rec->hash != p->hash)
		r = address_decode(p->value, p->len, &a, d);
	if (r == -ENOMEM)
		return keep_for_later(k, rec, p);
	if (r < 0)
		return r;
	r = record_put(k, rec, p, &a, d);
	address_deinit(&a);
	return r;
}

int knowledge_put(struct knowledge *k, uint32_t holder, enum knowledge_kind kind, const char *name,
		  const uint8_t *value, size_t len, struct diag *reterr_diag)
{
	size_t n_name = strlen(name);
	struct put p = {
		.holder = holder, .kind = kind, .name = name, .name_hash = map_hash(name, n_name),
		.value = value, .len = len, .hash = map_hash(value, len),
	};
	struct record *rec = find(k, kind, name, n_name, p.name_hash);

	if (rec)
		return put_again(k, rec, &p, reterr_diag);
	return kind == KNOWLEDGE_ADDRESS ? noted_put(k, &p, reterr_diag) : record_put(k, NULL, &p, NULL, reterr_diag);
}

void knowledge_gone(struct knowledge *k, uint32_t holder, enum knowledge_kind kind, const char *name)
{
	size_t n_name = strlen(name);
	uint64_t hash = map_hash(name, n_name);
	struct record *rec = find(k, kind, name, n_name, hash);

	if (rec)
		let_go(k, rec, holder);
	else if (kind == KNOWLEDGE_ADDRESS)
		noted_gone(k, holder, name, hash);
}

void knowledge_drop(struct knowledge *k, uint32_t holder)
{
	if (k->unpublished)
		(void)!knowledge_publish(k, 0);
	for (size_t i = 0; i < ELEMENTS(k->records); i++)
		map_for_each(l, &k->records[i])
			let_go(k, container_of(l, struct record, link), holder);
	noted_drop(k, holder);
}

/* --- the rest --- */

void knowledge_absent(struct knowledge *k, const struct ip *ip, bool absent)
{
	/* Without memory the address stays unknown: who asks waits for the timeout. */
	(void)!knowledge_publish(k, absent ? snap_store_put_absent(k->store, ip) : snap_store_remove_absent(k->store, ip));
}

void knowledge_policies_known(struct knowledge *k)
{
	(void)!knowledge_publish(k, snap_store_set_policies_known(k->store, true));
}

struct snapshot *knowledge_snapshot(const struct knowledge *k)
{
	return k->snapshot;
}

size_t knowledge_n(const struct knowledge *k)
{
	size_t n = k->records[KNOWLEDGE_ADDRESS].n + k->records[KNOWLEDGE_POLICY].n;

	for (uint32_t i = 0; i < snapshot_n_workloads(k->snapshot); i++)
		n += snapshot_workload_at(k->snapshot, i)->note.holders != KNOWLEDGE_RECORDED;
	for (uint32_t i = 0; i < snapshot_n_services(k->snapshot); i++) {
		const struct snap_def *def = snapshot_service_at(k->snapshot, i)->def;

		n += def->defined && def->note.holders != KNOWLEDGE_RECORDED;
	}
	return n;
}

uint64_t knowledge_generation(const struct knowledge *k)
{
	return k->generation;
}

int knowledge_set_network(struct knowledge *k, const char *network)
{
	return snap_store_set_network(k->store, network);
}

int knowledge_new(struct loop *loop, void (*changed)(void *data), void *data, struct knowledge **ret_knowledge)
{
	struct knowledge *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return -ENOMEM;
	k->loop = loop;
	k->changed = changed;
	k->data = data;
	for (size_t i = 0; i < ELEMENTS(k->records); i++)
		map_init(&k->records[i]);
	r = snap_store_new("", &k->store);
	if (r == 0)
		r = snap_store_publish(k->store, &k->snapshot);
	if (r < 0) {
		snap_store_free(k->store);
		free(k);
		return r;
	}
	*ret_knowledge = k;
	return 0;
}

struct knowledge *knowledge_free(struct knowledge *k)
{
	if (!k)
		return NULL;
	timer_cancel(&k->retry);
	timer_cancel(&k->rest);
	defer_cancel(&k->tell);
	for (size_t i = 0; i < ELEMENTS(k->records); i++) {
		map_for_each(l, &k->records[i])
			record_drop(k, container_of(l, struct record, link));
		map_deinit(&k->records[i]);
	}
	holders_deinit(&k->holders);
	free(k->puts);
	snapshot_unref(k->snapshot);
	snap_store_free(k->store);
	free(k);
	return NULL;
}


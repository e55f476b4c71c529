/*
 * Pools of tunnels.
 */
#include "proxy/pool.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proxy/flow.h"
#include "proxy/hbone.h"

enum {
	NOT_THERE_MS = 100,
	FIRST_BACKOFF_MS = 100,
	MAX_BACKOFF_MS = 1000,		/* ten handshakes a second at first, one later: no load to speak of */
	FLOWS_A_TURN = 64,		/* so many are sent on their way at once: others have their turn */
};

/* --- entries --- */

static void make_key(uint8_t key[static 26], const struct ip_port *addr, const char *const *ids, size_t n_ids)
{
	uint64_t hash = 0;

	for (size_t i = 0; i < n_ids; i++)
		hash = hash * 31 + map_hash(ids[i], strlen(ids[i]));
	memcpy(key, addr->ip.b, 16);
	memcpy(key + 16, &addr->port, 2);
	memcpy(key + 18, &hash, 8);
}

static void entry_free(struct pool_entry *p)
{
	defer_cancel(&p->more_defer);
	map_remove(&p->v->pool, &p->link);
	for (size_t i = 0; i < p->n_ids; i++)
		free((void *)(uintptr_t)p->ids[i]);
	free(p->ids);
	free(p);
}

static struct pool_entry *entry_new(struct worker_vm *v, const uint8_t key[static 26], const struct ip_port *addr,
				    const char *const *ids, size_t n_ids)
{
	struct pool_entry *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->v = v;
	p->addr = *addr;
	list_init(&p->tunnels);
	list_init(&p->waiting);
	list_init(&p->lost);
	memcpy(p->key, key, sizeof(p->key));
	if (map_add(&v->pool, &p->link, p->key, sizeof(p->key)) < 0) {
		free(p);
		return NULL;
	}
	p->ids = calloc(n_ids + 1, sizeof(*p->ids));
	for (size_t i = 0; p->ids && i < n_ids && (p->ids[i] = strdup(ids[i])); i++)
		p->n_ids++;
	if (!p->ids || p->n_ids != n_ids) {
		entry_free(p);
		return NULL;
	}
	return p;
}

static struct pool_entry *entry_of(struct worker_vm *v, const struct snap_endpoint *e)
{
	const char *ids[SNAP_IDS_MAX];
	size_t n = snap_endpoint_ids(e, ids);
	uint8_t key[26];

	make_key(key, &e->hbone, ids, n);

	struct map_link *l = map_find(&v->pool, key, sizeof(key));
	return l ? container_of(l, struct pool_entry, link) : entry_new(v, key, &e->hbone, ids, n);
}

/* --- tunnels for flows --- */

/* The one with the fewest streams, or NULL. */
static struct hbone *choose(struct pool_entry *p)
{
	struct hbone *best = NULL;

	list_for_each(l, &p->tunnels) {
		struct hbone *t = list_entry(l, struct hbone, of_pool);

		if (hbone_takes_streams(t) && (!best || h2_n_streams(&t->h2) < h2_n_streams(&best->h2)))
			best = t;
	}
	return best;
}

/* Those that take streams, or will. What a new certificate or a GOAWAY has retired may stay for as long as a connection does. */
static size_t n_current(const struct pool_entry *p)
{
	size_t n = 0;

	list_for_each(l, &p->tunnels) {
		const struct hbone *t = list_entry(l, struct hbone, of_pool);

		n += !t->broken && !t->draining;
	}
	return n;
}

/* It is being dialled, or has not said yet how many streams it takes. */
static bool one_is_coming(const struct pool_entry *p)
{
	list_for_each(l, &p->tunnels) {
		const struct hbone *t = list_entry(l, struct hbone, of_pool);

		if (!t->broken && !t->draining && (!t->open || !t->h2.settings_seen))
			return true;
	}
	return false;
}

bool pool_can_spare(const struct pool_entry *p, const struct hbone *t)
{
	list_for_each(l, &p->tunnels) {
		const struct hbone *other = list_entry(l, struct hbone, of_pool);

		if (other != t && hbone_takes_streams(other) && h2_n_streams(&other->h2) < POOL_SOFT_STREAMS / 2)
			return true;
	}
	return false;
}

static bool dial(struct pool_entry *p, char why[static 160])
{
	struct hbone *t = hbone_dial(p->v, p, why);

	if (!t)
		return false;
	list_append(&p->tunnels, &t->of_pool);
	return true;
}

static int on_more(struct defer *d);

int pool_join(struct worker_vm *v, struct flow *f, const struct snap_endpoint *e, char why[static 160])
{
	struct pool_entry *p = entry_of(v, e);
	struct hbone *t;

	if (!p) {
		snprintf(why, 160, "out of memory");
		return -ENOMEM;
	}
	t = choose(p);
	if (!t && !one_is_coming(p) && loop_now_ms(v->w->loop) < p->retry_ms) {
		snprintf(why, 160, "%s", p->why);
		return -EHOSTDOWN;
	}
	if ((!t || h2_n_streams(&t->h2) >= POOL_SOFT_STREAMS) && n_current(p) < (t ? POOL_MAX_TUNNELS : POOL_FULL_TUNNELS) && !one_is_coming(p))
		if (!dial(p, why) && !t)
			return -EHOSTDOWN;
	if (t && list_empty(&p->waiting)) {
		flow_out_request(f, t);
		return 0;
	}
	f->pool = p;
	if (t)			/* behind those that came before */
		loop_defer_next(v->w->loop, &p->more_defer, on_more);
	return 0;
}

void pool_leave(struct flow *f)
{
	list_unlink(&f->waiting);
	f->pool = NULL;
}

static void send_some(struct pool_entry *p)
{
	struct worker *w = p->v->w;
	struct hbone *t;

	for (int i = 0; !list_empty(&p->waiting) && (t = choose(p)); i++) {
		struct flow *f = list_entry(p->waiting.next, struct flow, waiting);

		if (i == FLOWS_A_TURN) {
			loop_defer_next(w->loop, &p->more_defer, on_more);
			break;
		}
		pool_leave(f);
		list_append(&w->connecting, &f->waiting);
		flow_out_request(f, t);
	}
}

static void fail_some(struct pool_entry *p)
{
	char why[160];

	snprintf(why, sizeof(why), "%s", p->why);
	for (int i = 0; i < FLOWS_A_TURN && !list_empty(&p->lost); i++) {
		struct flow *f = list_entry(p->lost.next, struct flow, waiting);

		pool_leave(f);
		flow_out_failed(f, why);
	}
	if (!list_empty(&p->lost))
		loop_defer_next(p->v->w->loop, &p->more_defer, on_more);
}

static int on_more(struct defer *d)
{
	struct pool_entry *p = container_of(d, struct pool_entry, more_defer);

	fail_some(p);
	send_some(p);
	return 0;
}

/*
 * Who remembers that a peer was not there refuses in its name, when another
 * worker's connections get through already. To ask for one is cheap: if it
 * refuses a packet, and if it is silent a dial at a time, for which all wait.
 * Only a handshake that fails takes work, on both sides.
 */
static void leave_alone(struct pool_entry *p, bool not_there, const char *why)
{
	if (not_there) {
		p->backoff_ms = 0;
		p->retry_ms = loop_now_ms(p->v->w->loop) + NOT_THERE_MS;
	} else {
		p->backoff_ms = p->backoff_ms ? MIN(p->backoff_ms * 2, (uint32_t)MAX_BACKOFF_MS) : FIRST_BACKOFF_MS;
		p->retry_ms = loop_now_ms(p->v->w->loop) + p->backoff_ms;
	}
	snprintf(p->why, sizeof(p->why), "%s", why);
}

void pool_tunnel_open(struct pool_entry *p)
{
	p->backoff_ms = 0;
	p->retry_ms = 0;
	send_some(p);
}

/* There is a tunnel less. @failed: that one, and the peer is to blame; NULL: who waits gets another one. */
static void go_on(struct pool_entry *p, const struct hbone *failed)
{
	char no_dial[160];

	if (choose(p) || one_is_coming(p) || (!failed && list_empty(&p->waiting)))
		return;
	if (!failed && dial(p, no_dial))
		return;
	leave_alone(p, failed && failed->connecting, failed ? failed->why : no_dial);
	list_splice(&p->lost, &p->waiting);	/* a list of their own: they may come back to this very entry, and be told to wait */
	fail_some(p);
}

void pool_tunnel_retired(struct pool_entry *p)
{
	go_on(p, NULL);
}

void pool_tunnel_gone(struct pool_entry *p, struct hbone *t, bool was_open)
{
	list_unlink(&t->of_pool);
	/* One that was retired while it was being opened (there is a new certificate) says nothing of the peer. */
	go_on(p, was_open || t->draining ? NULL : t);
}

void pool_tunnel_silent(struct pool_entry *p, const char *why)
{
	list_for_each(l, &p->tunnels) {
		const struct hbone *t = list_entry(l, struct hbone, of_pool);

		if (t->open && !t->broken && !t->draining && !t->silent)
			return;		/* the peer is there: it is full, and that is what they wait for */
	}
	list_for_each_safe(l, &p->waiting)
		flow_out_hesitate(list_entry(l, struct flow, waiting), why);
}

void pool_tick(struct worker_vm *v, uint64_t now_ms)
{
	map_for_each(l, &v->pool) {
		struct pool_entry *p = container_of(l, struct pool_entry, link);

		if (list_empty(&p->tunnels) && list_empty(&p->waiting) && list_empty(&p->lost) && now_ms > p->retry_ms + MAX_BACKOFF_MS)
			entry_free(p);
	}
}

void pool_free_all(struct worker_vm *v)
{
	map_for_each(l, &v->pool)
		entry_free(container_of(l, struct pool_entry, link));
	map_deinit(&v->pool);
}

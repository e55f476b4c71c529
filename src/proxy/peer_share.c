/*
 * Shares of the tunnels to a VM.
 */
#include "proxy/peer_share.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/hbone.h"

static struct peer_share *peer_share_new(struct worker_vm *v, const char *id, size_t len)
{
	struct peer_share *h = calloc(1, sizeof(*h) + len + 1);

	if (!h)
		return NULL;
	memcpy(h->id, id, len);
	list_init(&h->tunnels);
	if (map_add(&v->shares, &h->link, h->id, (uint32_t)len) == 0)
		return h;
	free(h);
	return NULL;
}

int peer_share_join(struct hbone *t)
{
	const char *id = tls_peer_id(t->tls);
	struct map_link *l = map_find_str(&t->v->shares, id ? id : "");
	struct peer_share *h = l ? container_of(l, struct peer_share, link) : peer_share_new(t->v, id ? id : "", id ? strlen(id) : 0);

	if (!h)
		return -ENOMEM;
	t->share = h;
	h->n++;
	list_append(&h->tunnels, &t->of_share);
	return 0;
}

void peer_share_leave(struct hbone *t)
{
	struct peer_share *h = t->share;

	if (!h)
		return;
	t->share = NULL;
	h->n_flows -= t->n_shared;
	t->n_shared = 0;
	list_unlink(&t->of_share);
	if (--h->n)
		return;
	map_remove(&t->v->shares, &h->link);
	free(h);
}

static bool may_go(const struct hbone *t)
{
	return t->open && !t->broken;
}

/* @t itself is not open yet. */
static struct hbone *unused(const struct worker_vm *v)
{
	struct hbone *oldest = NULL;

	list_for_each(l, &v->tunnels) {
		struct hbone *t = list_entry(l, struct hbone, of_vm);

		if (t->server && may_go(t) && list_empty(&t->flows) && (!oldest || t->idle_ms < oldest->idle_ms))
			oldest = t;
	}
	return oldest;
}

static struct hbone *least_used(const struct peer_share *h)
{
	struct hbone *least = NULL;

	list_for_each(l, &h->tunnels) {
		struct hbone *t = list_entry(l, struct hbone, of_share);

		if (may_go(t) && (!least || h2_n_streams(&t->h2) < h2_n_streams(&least->h2)))
			least = t;
	}
	return least;
}

struct hbone *peer_share_makes_room(const struct hbone *t)
{
	struct hbone *idle = unused(t->v);
	const struct peer_share *most = t->share;

	if (idle)
		return idle;
	map_for_each(l, &t->v->shares) {
		const struct peer_share *h = container_of(l, struct peer_share, link);

		if (h->n > most->n)
			most = h;
	}
	return most == t->share ? NULL : least_used(most);
}

bool peer_share_may_connect(const struct hbone *t)
{
	uint32_t may = t->v->conf->limits.connections, kept = vm_kept(&t->v->conf->limits);

	if (!t->share || __atomic_load_n(&t->v->vm->n_connections, __ATOMIC_RELAXED) < may - kept)
		return true;
	return t->share->n_flows <= kept / t->v->vm->n_workers;
}

void peer_share_flow_comes(struct hbone *t)
{
	if (!t->share)
		return;
	t->share->n_flows++;
	t->n_shared++;
}

void peer_share_flow_goes(struct hbone *t)
{
	if (!t->n_shared)
		return;
	t->share->n_flows--;
	t->n_shared--;
}

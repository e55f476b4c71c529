/*
 * Copies of streams to registries.
 */
#include "proxy/tee.h"

#include <string.h>

#include "base/clock.h"

void tee_begin(struct flow *f)
{
	const struct vm_conf *c = f->v->conf;

	for (size_t i = 0; i < c->n_tee_ports && f->direction == FLOW_OUTBOUND; i++)
		if (c->tee_ports[i] == f->destination.port)
			f->tee = true;
}

/* On the main thread. */
static void deliver(struct mail *m, void *receiver)
{
	struct flow_tee *t = container_of(m, struct flow_tee, mail);
	struct worker *w = t->worker;

	(void)receiver;
	__atomic_sub_fetch(&w->tee_outstanding, t->len + sizeof(*t), __ATOMIC_RELAXED);
	__atomic_sub_fetch(&t->vm->tee_outstanding, t->len + sizeof(*t), __ATOMIC_RELAXED);
	w->conf.events->tee(w->conf.events_data, t);
}

/* The end of what was begun is told in any case: the agent keeps something of it until then. */
static bool may_copy(const struct flow *f, size_t len)
{
	struct worker_vm *v = f->v;
	const struct pace_rate rate = { .per_s = v->conf->limits.teed_bytes, .burst_ms = TEE_BURST_MS };
	uint64_t now_ms = loop_now_ms(v->w->loop);

	if (len && (!pace_left(&v->vm->teed, rate, now_ms) || __atomic_load_n(&v->vm->tee_outstanding, __ATOMIC_RELAXED) + len > TEE_MAX_OF_VM)) {
		worker_over(v, VM_B_TEED);
		return false;
	}
	pace_take(&v->vm->teed, rate, len + TEE_PIECE_COST, now_ms);
	return true;
}

static struct flow_tee *new_tee(struct flow *f, bool by_client, size_t len)
{
	struct worker *w = f->v->w;
	struct flow_tee *t;

	if (!may_copy(f, len) || __atomic_load_n(&w->tee_outstanding, __ATOMIC_RELAXED) + len > TEE_MAX_OUTSTANDING ||
	    !(t = calloc(1, sizeof(*t) + len))) {
		f->tee_lost[!by_client] = (uint32_t)MIN(f->tee_lost[!by_client] + len, (size_t)UINT32_MAX);
		return NULL;
	}
	t->mail.fn = deliver;
	t->worker = w;
	t->vm = vm_ref(f->v->vm);
	t->id = f->id;
	t->client = f->source;
	t->server = f->destination;
	t->from_server = !by_client;
	t->open = !f->tee_begun;
	t->lost = f->tee_lost[!by_client];
	t->mono_ns = clock_mono_ns();
	t->len = (uint32_t)len;
	f->tee_begun = true;
	f->tee_lost[!by_client] = 0;
	__atomic_add_fetch(&w->tee_outstanding, len + sizeof(*t), __ATOMIC_RELAXED);
	__atomic_add_fetch(&t->vm->tee_outstanding, len + sizeof(*t), __ATOMIC_RELAXED);
	return t;
}

void tee_parts_slow(struct flow *f, bool by_client, const struct iovec *iov, size_t n_iov, size_t len)
{
	struct flow_tee *t = new_tee(f, by_client, len);
	size_t at = 0;

	for (size_t i = 0; t && i < n_iov && at < len; i++) {
		size_t n = MIN(iov[i].iov_len, len - at);

		memcpy(t->data + at, iov[i].iov_base, n);
		at += n;
	}
	if (t)
		worker_post_now(f->v->w, &t->mail);
}

void tee_end_slow(struct flow *f, bool by_client)
{
	struct flow_tee *t = f->tee_begun ? new_tee(f, by_client, 0) : NULL;	/* of what was never told nothing is */

	if (!t)
		return;
	t->fin = true;
	worker_post_now(f->v->w, &t->mail);
}

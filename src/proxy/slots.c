/*
 * Which worker has which VM.
 */
#include "proxy/slots.h"

#include <errno.h>

#include "proxy/vm.h"

void slots_start(struct slots *t, struct worker *const *workers, size_t n_workers)
{
	t->workers = workers;
	t->n_workers = n_workers;
}

int slots_take(struct slots *t, struct sidecar *s)
{
	for (int i = 0; i < SLOTS_MAX; i++) {
		if (t->v[i].used)
			continue;
		t->v[i] = (struct slot){ .used = true, .sidecar = s };
		return i;
	}
	return -ENOSPC;
}

void slots_release(struct slots *t, uint32_t slot)
{
	struct slot *x = &t->v[slot];

	t->n_owing -= x->owed != 0;
	vm_unref(x->vm);
	*x = (struct slot){};
}

struct sidecar *slots_sidecar(const struct slots *t, const struct vm *vm)
{
	return t->v[vm->slot].sidecar;
}

void slots_forget_sidecar(struct slots *t, const struct sidecar *s)
{
	for (size_t i = 0; i < SLOTS_MAX; i++)
		if (t->v[i].sidecar == s)
			t->v[i].sidecar = NULL;
}

int slots_give(struct slots *t, struct vm_conf *c)
{
	struct slot *x = &t->v[c->vm->slot];

	for (size_t i = 0; i < t->n_workers; i++) {
		int r = worker_put_vm(t->workers[i], c);

		if (r < 0)
			return r;
		x->had |= (uint16_t)(1u << i);
	}
	return 0;
}

/* Tells the workers that are owed it, as far as there is memory. */
static void tell(struct slots *t, struct slot *x)
{
	for (size_t i = 0; i < t->n_workers; i++) {
		uint16_t bit = (uint16_t)(1u << i);

		if (x->owed & bit && worker_remove_vm(t->workers[i], x->vm, x->drain_ms, x->linger_ms) == 0)
			x->owed &= (uint16_t)~bit;
	}
	if (x->owed)
		return;
	t->n_owing--;
	x->vm = vm_unref(x->vm);
}

bool slots_withdraw(struct slots *t, struct vm *vm, uint32_t drain_ms, uint32_t linger_ms, bool *ret_owed)
{
	struct slot *x = &t->v[vm->slot];

	*ret_owed = false;
	if (!x->had || !t->n_workers) {
		slots_release(t, vm->slot);
		return false;
	}
	x->withdrawn = true;
	x->drain_ms = drain_ms;
	x->linger_ms = linger_ms;
	if (!x->owed) {
		t->n_owing++;
		x->vm = vm_ref(vm);
	}
	x->owed = x->had;
	tell(t, x);
	*ret_owed = x->owed != 0;
	return true;
}

bool slots_gone(struct slots *t, const struct vm *vm)
{
	struct slot *x = &t->v[vm->slot];

	if (++x->n_gone < __builtin_popcount(x->had))
		return false;
	slots_release(t, vm->slot);
	return true;
}

void slots_tick(struct slots *t)
{
	for (size_t i = 0; t->n_owing && i < SLOTS_MAX; i++)
		if (t->v[i].owed)
			tell(t, &t->v[i]);
}

void slots_stop(struct slots *t)
{
	t->n_workers = 0;
	for (size_t i = 0; i < SLOTS_MAX; i++)
		if (t->v[i].owed)
			slots_release(t, (uint32_t)i);
}

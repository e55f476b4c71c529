/*
 * Which worker has which VM, with workers that may have no memory for what they are told.
 */
#include "proxy/slots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/unit.h"
#include "proxy/vm.h"

enum { WORKERS = 3, DRAIN_MS = 500, LINGER_MS = 100 };

/* --- the workers: the linker's --wrap sends what they are told here --- */

int __wrap_worker_put_vm(struct worker *w, struct vm_conf *c);
int __wrap_worker_remove_vm(struct worker *w, struct vm *vm, uint32_t drain_ms, uint32_t linger_ms);

struct worker {
	bool no_memory;
	int n_put, n_removed;
	uint32_t drain_ms, linger_ms;	/* that it was told last */
};

static struct {
	struct slots slots;
	struct worker workers[WORKERS];
	struct worker *list[WORKERS];
	struct vm *vm;
	struct vm_conf conf;
	char sidecar;			/* it is only pointed to */
} t;

int __wrap_worker_put_vm(struct worker *w, struct vm_conf *c)
{
	assert_ptr_equal(c->vm, t.vm);
	if (w->no_memory)
		return -ENOMEM;
	w->n_put++;
	return 0;
}

int __wrap_worker_remove_vm(struct worker *w, struct vm *vm, uint32_t drain_ms, uint32_t linger_ms)
{
	assert_ptr_equal(vm, t.vm);
	if (w->no_memory)
		return -ENOMEM;
	w->n_removed++;
	w->drain_ms = drain_ms;
	w->linger_ms = linger_ms;
	return 0;
}

static struct sidecar *sidecar(void)
{
	return (struct sidecar *)(void *)&t.sidecar;
}

static int setup(void **state)
{
	int slot;

	(void)state;
	memset(&t, 0, sizeof(t));
	for (size_t i = 0; i < WORKERS; i++)
		t.list[i] = &t.workers[i];
	slots_start(&t.slots, t.list, WORKERS);
	slot = slots_take(&t.slots, sidecar());
	assert_true(slot >= 0);
	assert_int_equal(vm_new((uint32_t)slot, "nic/tap0/mac", -1, -1, WORKERS, &t.vm), 0);
	t.conf.vm = t.vm;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	slots_stop(&t.slots);
	vm_unref(t.vm);
	assert_int_equal(t.slots.n_owing, 0);
	return 0;
}

static bool is_free(void)
{
	return !t.slots.v[t.vm->slot].used;
}

static bool withdraw(bool want_owed)
{
	bool owed, had = slots_withdraw(&t.slots, t.vm, DRAIN_MS, LINGER_MS, &owed);

	assert_int_equal(owed, want_owed);
	return had;
}

static void a_place_is_free_when_the_last_worker_has_let_go(void **state)
{
	(void)state;
	assert_int_equal(slots_give(&t.slots, &t.conf), 0);
	assert_true(withdraw(false));
	for (size_t i = 0; i < WORKERS; i++) {
		assert_int_equal(t.workers[i].n_removed, 1);
		assert_int_equal(t.workers[i].drain_ms, DRAIN_MS);
		assert_int_equal(t.workers[i].linger_ms, LINGER_MS);
		assert_false(is_free());
		assert_int_equal(slots_gone(&t.slots, t.vm), i == WORKERS - 1);
	}
	assert_true(is_free());
}

/* It would serve a VM that is gone, and its place would never be free. */
static void a_worker_without_memory_is_told_later(void **state)
{
	(void)state;
	assert_int_equal(slots_give(&t.slots, &t.conf), 0);
	t.workers[1].no_memory = true;
	assert_true(withdraw(true));
	assert_false(slots_gone(&t.slots, t.vm));
	assert_false(slots_gone(&t.slots, t.vm));
	slots_tick(&t.slots);
	assert_int_equal(t.workers[1].n_removed, 0);
	assert_false(is_free());
	slots_forget_sidecar(&t.slots, sidecar());	/* it need not last so long */
	assert_null(slots_sidecar(&t.slots, t.vm));

	t.workers[1].no_memory = false;
	slots_tick(&t.slots);
	slots_tick(&t.slots);
	for (size_t i = 0; i < WORKERS; i++)
		assert_int_equal(t.workers[i].n_removed, 1);	/* nobody is told twice */
	assert_int_equal(t.workers[1].linger_ms, LINGER_MS);
	assert_true(slots_gone(&t.slots, t.vm));
	assert_true(is_free());
}

/* One that was never given the VM says nothing when it is withdrawn: it is not waited for. */
static void a_worker_that_never_had_it_is_not_waited_for(void **state)
{
	(void)state;
	t.workers[1].no_memory = true;
	assert_int_equal(slots_give(&t.slots, &t.conf), -ENOMEM);
	assert_true(withdraw(false));
	assert_int_equal(t.workers[0].n_removed, 1);
	assert_int_equal(t.workers[1].n_removed + t.workers[2].n_removed, 0);
	assert_true(slots_gone(&t.slots, t.vm));
	assert_true(is_free());
}

static void what_nobody_had_is_free_at_once(void **state)
{
	(void)state;
	t.workers[0].no_memory = true;
	assert_int_equal(slots_give(&t.slots, &t.conf), -ENOMEM);
	assert_false(withdraw(false));
	assert_true(is_free());
}

static void it_is_given_again_to_those_that_had_no_memory(void **state)
{
	(void)state;
	t.workers[2].no_memory = true;
	assert_int_equal(slots_give(&t.slots, &t.conf), -ENOMEM);
	t.workers[2].no_memory = false;
	assert_int_equal(slots_give(&t.slots, &t.conf), 0);
	assert_true(withdraw(false));
	assert_int_equal(t.workers[2].n_removed, 1);
}

/* The VM is gone while it still drains: what is owed is the last word. */
static void the_last_word_counts(void **state)
{
	bool owed;

	(void)state;
	assert_int_equal(slots_give(&t.slots, &t.conf), 0);
	t.workers[0].no_memory = true;
	assert_true(withdraw(true));
	assert_true(slots_withdraw(&t.slots, t.vm, 0, 0, &owed));
	assert_true(owed);
	assert_int_equal(t.slots.n_owing, 1);
	t.workers[0].no_memory = false;
	slots_tick(&t.slots);
	for (size_t i = 0; i < WORKERS; i++)
		assert_int_equal(t.workers[i].drain_ms + t.workers[i].linger_ms, 0);
	assert_int_equal(t.slots.n_owing, 0);
}

static void at_the_end_nothing_is_owed(void **state)
{
	(void)state;
	assert_int_equal(slots_give(&t.slots, &t.conf), 0);
	t.workers[0].no_memory = true;
	assert_true(withdraw(true));
	slots_stop(&t.slots);
	assert_int_equal(t.slots.n_owing, 0);
	assert_false(withdraw(false));
}

static void places_run_out(void **state)
{
	(void)state;
	for (int i = 1; i < SLOTS_MAX; i++)
		assert_true(slots_take(&t.slots, sidecar()) >= 0);
	assert_int_equal(slots_take(&t.slots, sidecar()), -ENOSPC);
	slots_release(&t.slots, 17);
	assert_int_equal(slots_take(&t.slots, sidecar()), 17);
}

#define SLOTS(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		SLOTS(a_place_is_free_when_the_last_worker_has_let_go),
		SLOTS(a_worker_without_memory_is_told_later),
		SLOTS(a_worker_that_never_had_it_is_not_waited_for),
		SLOTS(what_nobody_had_is_free_at_once),
		SLOTS(it_is_given_again_to_those_that_had_no_memory),
		SLOTS(the_last_word_counts),
		SLOTS(at_the_end_nothing_is_owed),
		SLOTS(places_run_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

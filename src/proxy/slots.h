#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/defs.h"
#include "proxy/worker.h"

/*
 * The places of the struct vm that workers have, or have had: which workers were
 * given one, which have been told to let go, and which have. A place is used
 * until all that were given it have said that they have nothing of that VM any
 * more, which may be long after its sidecar has gone or has got other listeners.
 *
 * To let go takes a message, and a message memory. Without it a worker would
 * serve that VM for ever: so it is owed, and slots_tick() tries again. Main
 * thread.
 */
struct sidecar;

enum { SLOTS_MAX = 4096 };

struct slot {
	struct sidecar *sidecar;	/* NULL: it has gone, the workers have not finished */
	struct vm *vm;			/* a reference, while @owed */
	uint32_t drain_ms, linger_ms;	/* of the removal that is owed */
	uint16_t had;			/* a bit for each worker that was given it */
	uint16_t owed;			/* and for each that has not been told to let go yet */
	uint8_t n_gone;
	bool used;
	bool withdrawn;
};

struct slots {
	struct worker *const *workers;	/* borrowed; at most 16 */
	size_t n_workers;
	size_t n_owing;			/* slots */
	struct slot v[SLOTS_MAX];
};

/* A zeroed @t gets its workers. */
void slots_start(struct slots *t, struct worker *const *workers, size_t n_workers);
/* They have ended. */
void slots_stop(struct slots *t);

/* A place for a VM of @s: -ENOSPC. */
MUST_CHECK int slots_take(struct slots *t, struct sidecar *s);
/* For one that no worker was ever given. */
void slots_release(struct slots *t, uint32_t slot);
/* Of a worker's VM, also while it drains. NULL: it has gone. */
struct sidecar *slots_sidecar(const struct slots *t, const struct vm *vm);
void slots_forget_sidecar(struct slots *t, const struct sidecar *s);

/* Gives all workers @c. -ENOMEM: some may have it, do it again. */
MUST_CHECK int slots_give(struct slots *t, struct vm_conf *c);
/*
 * Has the workers that were given @vm let go of it, as worker_remove_vm(); again
 * for other times. False: none was, and the place is free. Without memory it is
 * done later, *@ret_owed says so.
 */
MUST_CHECK bool slots_withdraw(struct slots *t, struct vm *vm, uint32_t drain_ms, uint32_t linger_ms, bool *ret_owed);
/* A worker has let go of @vm. True: it was the last, and the place is free. */
MUST_CHECK bool slots_gone(struct slots *t, const struct vm *vm);
/* Tells those that could not be told for want of memory. */
void slots_tick(struct slots *t);

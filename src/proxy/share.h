#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * What VMs may take of a turn of a worker's loop, so that a busy one does not
 * keep its neighbours waiting.
 *
 * Counted in units that stand for some microseconds each: no clock is read.
 * Who has used up his share is left alone until the next turn; epoll tells of
 * his descriptors again, behind those of his neighbours. What he took beyond
 * his share, since one event may be much work (a read that brings a hundred
 * requests), he owes to the next turns. As long as a VM is the only one with
 * anything to do it may take all of the turn.
 */
enum {
	SHARE_TURN = 128,	/* units that all VMs of a turn share */
	SHARE_MIN = 16,		/* that a VM has in any case */
	SHARE_DEBT = 8,		/* turns that it waits at most for what it took too much */
	SHARE_BYTES = 16384,	/* so many bytes moved are a unit, like an event */
	SHARE_ACCEPT = 8,	/* a new connection, with what follows of it */
	SHARE_HANDSHAKE = 32,	/* a message of a TLS handshake: signatures */
};

struct share_turn {		/* of a worker */
	uint32_t turn;		/* starts at 1 */
	uint32_t window;	/* likewise; a second or so */
	uint32_t quota;		/* units of a VM in this turn */
	uint32_t n_now;		/* VMs that had something to do in this window */
	uint32_t n_before;	/* and in the one before */
};

struct share {			/* of a VM on that worker; starts zeroed */
	uint32_t turn;
	uint32_t window;
	uint32_t used;
};

static inline void share_divide(struct share_turn *t)
{
	uint32_t n = MAX(t->n_now, t->n_before);

	t->quota = n < 2 ? UINT32_MAX : MAX((uint32_t)SHARE_TURN / n, (uint32_t)SHARE_MIN);
}

static inline void share_init(struct share_turn *t)
{
	*t = (struct share_turn){ .turn = 1, .window = 1 };
	share_divide(t);
}

/* Are there several that want something? */
static inline bool share_contended(const struct share_turn *t)
{
	return t->quota != UINT32_MAX;
}

static inline void share_next_turn(struct share_turn *t)
{
	t->turn++;
}

static inline void share_next_window(struct share_turn *t)
{
	t->window++;
	t->n_before = t->n_now;
	t->n_now = 0;
	share_divide(t);
}

/* Each turn that has come since is worth a share. */
static inline void share_repay(const struct share_turn *t, struct share *s)
{
	uint32_t turns = t->turn - s->turn, owed = MIN(s->used, (SHARE_DEBT + 1) * t->quota);

	s->turn = t->turn;
	s->used = turns <= SHARE_DEBT && owed > turns * t->quota ? owed - turns * t->quota : 0;
}

/* May @s do something in this turn still? While it is alone nothing is reckoned up. */
static inline bool share_left(struct share_turn *t, struct share *s)
{
	if (s->window != t->window) {
		s->window = t->window;
		t->n_now++;
		share_divide(t);
	}
	if (!share_contended(t))
		return true;
	if (s->turn != t->turn)
		share_repay(t, s);
	return s->used < t->quota;
}

static inline void share_use(struct share *s, uint32_t units)
{
	s->used += units;
}

static inline void share_use_bytes(struct share *s, size_t n)
{
	s->used += (uint32_t)(n / SHARE_BYTES);	/* a shift */
}

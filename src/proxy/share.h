#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/defs.h"

/*
 * What VMs may take of a turn of a worker's loop, so that a busy one does not
 * keep its neighbours waiting.
 *
 * Counted in units that stand for some microseconds each: no clock is read.
 * What comes for a VM that has used up its share is put off to the next turns,
 * behind what has been put off already. What it took beyond its share, since
 * one event may be much work (a read that brings a hundred requests), it owes
 * to the next turns. As long as a VM is the only one with anything to do a turn
 * of it may be long, but not without end: another may come.
 */
enum {
	SHARE = 32,		/* units that each VM has in a turn */
	SHARE_LONG = 64,	/* a turn of more is a long one */
	SHARE_ALONE = 128,	/* that a VM has while no other has anything to do */
	SHARE_DEBT = 8,		/* turns that it waits at most for what it took too much */
	SHARE_BYTES = 16384,	/* so many bytes moved are a unit, like an event */
	SHARE_ACCEPT = 16,	/* a new connection, with what follows of it */
	SHARE_END = 4,		/* a connection's end, or that of one of its directions: packets, and sockets that go */
	SHARE_TOGETHER = 4,	/* a VM alone has so many times as many of these two in a turn: what they send goes out together */
	SHARE_HANDSHAKE = 32,	/* a message of a TLS handshake: signatures */
	SHARE_PIECES = 16,	/* so many records and frames that came are a unit, however short they are */
	SHARE_READ_LEAST = 1024,	/* bytes */
};

struct share_turn {		/* of a worker */
	uint32_t turn;		/* starts at 1 */
	uint32_t window;	/* likewise; a second or so */
	uint32_t quota;		/* units of a VM in this turn */
	uint32_t spent;		/* in this turn, by all of them */
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
	t->quota = MAX(t->n_now, t->n_before) < 2 ? SHARE_ALONE : SHARE;
}

static inline void share_init(struct share_turn *t)
{
	*t = (struct share_turn){ .turn = 1, .window = 1, .quota = SHARE_ALONE };
}

/* Are there several that want something? */
static inline bool share_contended(const struct share_turn *t)
{
	return t->quota != SHARE_ALONE;
}

static inline void share_next_turn(struct share_turn *t)
{
	t->turn++;
	t->spent = 0;
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

/* May @s do something in this turn still? */
static inline bool share_left(struct share_turn *t, struct share *s)
{
	if (s->window != t->window) {
		s->window = t->window;
		t->n_now++;
		share_divide(t);
	}
	if (s->turn != t->turn)
		share_repay(t, s);
	return s->used < t->quota;
}

static inline void share_use(struct share_turn *t, struct share *s, uint32_t units)
{
	s->used += units;
	t->spent += units;
}

/* A connection begins or ends. */
static inline void share_use_connection(struct share_turn *t, struct share *s, uint32_t units)
{
	share_use(t, s, share_contended(t) ? units : units / SHARE_TOGETHER);
}

static inline void share_use_bytes(struct share_turn *t, struct share *s, size_t n)
{
	share_use(t, s, (uint32_t)(n / SHARE_BYTES));	/* a shift */
}

/* Did this turn take so long that others may have been waiting for the processor? */
static inline bool share_was_long(const struct share_turn *t)
{
	return t->spent > SHARE_LONG;
}

/*
 * The most bytes that the next read of a tunnel should be, after one of at most
 * @max bytes that was @cost units of work and @full or not: what waits in a
 * tunnel may be thousands of requests, and one event is not cut short.
 */
static inline uint32_t share_read_max(uint32_t max, uint32_t cost, bool full, uint32_t most)
{
	if (cost > SHARE)
		return MAX(max / 2, (uint32_t)SHARE_READ_LEAST);
	return full ? MIN(max * 2, most) : max;
}

/*
 * Balancing: the power of two choices, interleaved weighted round robin,
 * locality, and the memory of what failed.
 *
 * The common case looks at two endpoints. Only when those will not do (failed
 * lately, unhealthy, tried, a locality preference) all are looked at, once.
 */
#include "mesh/balance.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

enum {
	TABLE_FIRST = 16,
	TABLE_MAX = 1 << 20,
	CURSORS = 256,			/* a power of two; services that share one disturb each other's order only */
	OUT_FIRST_MS = 1000,
	OUT_MAX_MS = 30000,
	DRAWS = 4,
};

struct memory {				/* of one endpoint that is not idle */
	uint32_t id;			/* 0: an empty slot */
	uint32_t n_open;
	uint32_t n_failed;		/* in a row */
	uint64_t out_until_ms;
};

struct balance {
	enum balance_method method;
	uint64_t random;
	struct memory *table;		/* open addressing */
	size_t n_slots;			/* a power of two, or 0 */
	size_t n;
	uint32_t cursors[CURSORS];	/* of round robin, by service */
};

int balance_new(enum balance_method method, uint64_t seed, struct balance **ret_balance)
{
	struct balance *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->method = method;
	b->random = seed;
	if (!seed && getrandom(&b->random, sizeof(b->random), 0) != sizeof(b->random))
		b->random = (uint64_t)(uintptr_t)b;
	b->random |= 1;
	*ret_balance = b;
	return 0;
}

struct balance *balance_free(struct balance *b)
{
	if (!b)
		return NULL;
	free(b->table);
	free(b);
	return NULL;
}

/* Marsaglia: Xorshift RNGs (2003), with a multiplication behind. Evenly in 0 .. @n - 1. */
static uint32_t random_below(struct balance *b, uint32_t n)
{
	b->random ^= b->random >> 12;
	b->random ^= b->random << 25;
	b->random ^= b->random >> 27;
	return (uint32_t)((b->random * 0x2545f4914f6cdd1d >> 32) * n >> 32);
}

/* --- memory of endpoints --- */

static size_t slot_of(const struct balance *b, uint32_t id)
{
	return (id * 0x9e3779b1u >> 7) & (b->n_slots - 1);
}

static struct memory *memory_find(const struct balance *b, uint32_t id)
{
	if (!b->n_slots)
		return NULL;
	for (size_t i = slot_of(b, id); b->table[i].id; i = (i + 1) & (b->n_slots - 1))
		if (b->table[i].id == id)
			return &b->table[i];
	return NULL;
}

static struct memory *memory_insert(struct balance *b, uint32_t id)
{
	size_t i = slot_of(b, id);

	while (b->table[i].id)
		i = (i + 1) & (b->n_slots - 1);
	b->table[i] = (struct memory){ .id = id };
	return &b->table[i];
}

static int table_grow(struct balance *b)
{
	size_t n_slots = b->n_slots ? b->n_slots * 2 : TABLE_FIRST;
	struct memory *old = b->table;
	size_t n_old = b->n_slots;

	if (n_slots > TABLE_MAX)
		return -ENOMEM;

	struct memory *table = calloc(n_slots, sizeof(*table));
	if (!table)
		return -ENOMEM;
	b->table = table;
	b->n_slots = n_slots;
	for (size_t i = 0; i < n_old; i++)
		if (old[i].id)
			*memory_insert(b, old[i].id) = old[i];
	free(old);
	return 0;
}

/* The memory of @id, made if it is not there; NULL when there is no room. */
static struct memory *memory_get(struct balance *b, uint32_t id)
{
	struct memory *m = memory_find(b, id);

	if (m)
		return m;
	if (b->n * 4 >= b->n_slots * 3 && table_grow(b) < 0)
		return NULL;
	b->n++;
	return memory_insert(b, id);
}

/* Forgets one that is idle: the entries behind it that it had pushed on move back. */
static void memory_drop(struct balance *b, struct memory *m)
{
	size_t mask = b->n_slots - 1;
	size_t hole = (size_t)(m - b->table);

	for (size_t i = (hole + 1) & mask; b->table[i].id; i = (i + 1) & mask) {
		size_t home = slot_of(b, b->table[i].id);

		if (((i - home) & mask) >= ((i - hole) & mask)) {
			b->table[hole] = b->table[i];
			hole = i;
		}
	}
	b->table[hole] = (struct memory){};
	b->n--;
}

static void forget_if_idle(struct balance *b, struct memory *m)
{
	if (!m->n_open && !m->n_failed)
		memory_drop(b, m);
}

int balance_opened(struct balance *b, uint32_t workload_id)
{
	struct memory *m = memory_get(b, workload_id);

	if (!m)
		return -ENOMEM;
	m->n_open++;
	return 0;
}

void balance_closed(struct balance *b, uint32_t workload_id)
{
	struct memory *m = memory_find(b, workload_id);

	if (!m || !m->n_open)
		return;
	m->n_open--;
	forget_if_idle(b, m);
}

void balance_failed(struct balance *b, uint32_t workload_id, uint64_t now_ms)
{
	struct memory *m = memory_get(b, workload_id);
	uint64_t pause_ms = OUT_FIRST_MS;

	if (!m)
		return;		/* no room to remember it: it is tried again the sooner */
	if (m->n_failed && now_ms < m->out_until_ms)
		return;		/* connections begun before the first of them failed */
	for (uint32_t i = 0; i < m->n_failed && pause_ms < OUT_MAX_MS; i++)
		pause_ms *= 2;
	m->n_failed++;
	m->out_until_ms = now_ms + MIN(pause_ms, (uint64_t)OUT_MAX_MS);
}

void balance_succeeded(struct balance *b, uint32_t workload_id)
{
	struct memory *m = memory_find(b, workload_id);

	if (!m)
		return;
	m->n_failed = 0;
	m->out_until_ms = 0;
	forget_if_idle(b, m);
}

uint32_t balance_n_open(const struct balance *b, uint32_t workload_id)
{
	const struct memory *m = memory_find(b, workload_id);

	return m ? m->n_open : 0;
}

bool balance_is_out(const struct balance *b, uint32_t workload_id, uint64_t now_ms)
{
	const struct memory *m = memory_find(b, workload_id);

	return m && now_ms < m->out_until_ms;
}

size_t balance_n_remembered(const struct balance *b)
{
	return b->n;
}

/* --- one endpoint --- */

enum fitness { FIT, FIT_OUT, FIT_TRIED, FIT_UNHEALTHY, FIT_ELSEWHERE, FIT_NOT };	/* from best to worst */

static bool was_tried(const struct balance_ask *ask, uint32_t id)
{
	for (size_t i = 0; i < ask->n_tried; i++)
		if (ask->tried[i] == id)
			return true;
	return false;
}

static enum fitness fitness(const struct balance *b, const struct balance_ask *ask, const struct snap_workload *w)
{
	struct snap_endpoint e;

	if (!w->kind->weight)
		return FIT_NOT;
	if (!w->reachable && w->n_addresses)
		return FIT_ELSEWHERE;	/* its address may be somebody else's here */
	if (!snap_endpoint_of(ask->snapshot, ask->route, w, &e))
		return FIT_NOT;
	if (!w->healthy && !ask->route->service->def->allow_unhealthy)
		return FIT_UNHEALTHY;
	if (was_tried(ask, w->id))
		return FIT_TRIED;
	return balance_is_out(b, w->id, ask->now_ms) ? FIT_OUT : FIT;
}

/* Is @a the less busy one, each for its weight? */
static bool less_busy(const struct balance *b, const struct snap_workload *a, const struct snap_workload *c)
{
	uint64_t busy_a = (balance_n_open(b, a->id) + (uint64_t)1) * c->kind->weight;
	uint64_t busy_c = (balance_n_open(b, c->id) + (uint64_t)1) * a->kind->weight;

	return busy_a < busy_c;
}

/* --- locality --- */

static bool same_scope(uint8_t scope, const struct snap_place *a, const struct snap_place *b)
{
	switch ((enum lb_scope)scope) {
	case LB_REGION:
		return !strcmp(a->region, b->region);
	case LB_ZONE:
		return !strcmp(a->zone, b->zone);
	case LB_SUBZONE:
		return !strcmp(a->subzone, b->subzone);
	case LB_NODE:
		return !strcmp(a->node, b->node);
	case LB_CLUSTER:
		return !strcmp(a->cluster, b->cluster);
	case LB_NETWORK:
		return !strcmp(a->network, b->network);
	default:
		return false;
	}
}

/* How many of the service's preferences, from the first on, the endpoint shares with the one who asks. */
static unsigned rank(const struct balance_ask *ask, const struct snap_workload *w)
{
	const struct snap_def *def = ask->route->service->def;
	unsigned n = 0;

	if (!ask->source || w->place == ask->source->place)
		return def->n_lb_preference;
	while (n < def->n_lb_preference && same_scope(def->lb_preference[n], ask->source->place, w->place))
		n++;
	return n;
}

static bool needs_rank(const struct balance_ask *ask)
{
	const struct snap_def *def = ask->route->service->def;

	return def->n_lb_preference && (def->lb_mode == LB_STRICT || def->lb_mode == LB_FAILOVER) && ask->source;
}

/* --- looking at all of them --- */

struct survey {
	const struct snap_workload *two[2];	/* a random sample of the fit ones of the best rank */
	uint32_t n_fit;				/* of that rank */
	unsigned rank;
	const struct snap_workload *soonest;	/* of those that are out */
	uint64_t soonest_ms;
	enum fitness best;
};

static void survey_fit(struct survey *s, struct balance *b, const struct snap_workload *w, unsigned r)
{
	if (s->n_fit && r < s->rank)
		return;
	if (!s->n_fit || r > s->rank)
		*s = (struct survey){ .rank = r, .best = FIT };
	s->n_fit++;
	if (s->n_fit <= 2) {
		s->two[s->n_fit - 1] = w;
		return;
	}

	uint32_t place = random_below(b, s->n_fit);	/* reservoir sampling */
	if (place < 2)
		s->two[place] = w;
}

static void survey_one(struct survey *s, struct balance *b, const struct balance_ask *ask, const struct snap_workload *w)
{
	enum fitness fit = fitness(b, ask, w);
	unsigned r = needs_rank(ask) ? rank(ask, w) : 0;

	if (needs_rank(ask) && ask->route->service->def->lb_mode == LB_STRICT && r < ask->route->service->def->n_lb_preference)
		return;
	s->best = MIN(s->best, fit);
	if (fit == FIT) {
		survey_fit(s, b, w, r);
		return;
	}

	const struct memory *m = fit == FIT_OUT ? memory_find(b, w->id) : NULL;
	if (m && (!s->soonest || m->out_until_ms < s->soonest_ms)) {
		s->soonest = w;
		s->soonest_ms = m->out_until_ms;
	}
}

static int survey_all(struct balance *b, const struct balance_ask *ask, const struct snap_workload **ret_workload)
{
	const struct snap_service *service = ask->route->service;
	struct survey s = { .best = FIT_NOT };
	unsigned first;

	for (uint32_t i = 0; i < snap_service_size(service); i++)
		survey_one(&s, b, ask, snap_service_endpoint(service, i));
	switch (s.best) {
	case FIT:
		first = s.n_fit > 1 ? random_below(b, 2) : 0;		/* which of two that are equally busy */
		*ret_workload = s.n_fit > 1 && less_busy(b, s.two[!first], s.two[first]) ? s.two[!first] : s.two[first];
		return 0;
	case FIT_OUT:
		*ret_workload = s.soonest;
		return 0;
	case FIT_TRIED:
		return BALANCE_E_TRIED;
	case FIT_UNHEALTHY:
		return BALANCE_E_UNHEALTHY;
	case FIT_ELSEWHERE:
		return BALANCE_E_ELSEWHERE;
	default:
		return BALANCE_E_NONE;
	}
}

/* --- the quick ways --- */

/* Two random ones that are fit, the less busy of them; NULL when luck was against it. */
static const struct snap_workload *pick_of_two(struct balance *b, const struct balance_ask *ask)
{
	const struct snap_service *service = ask->route->service;
	uint32_t n = snap_service_size(service);
	const struct snap_workload *best = NULL;
	unsigned n_found = 0;

	for (unsigned i = 0; i < DRAWS && n_found < 2; i++) {
		const struct snap_workload *w = snap_service_endpoint(service, random_below(b, n));

		if (w == best || fitness(b, ask, w) != FIT)
			continue;
		n_found++;
		if (!best || less_busy(b, w, best))
			best = w;
	}
	return n_found == 2 || n > 8 ? best : NULL;	/* of few, look at all: two draws are often the same */
}

/* Katevenis et al.: Weighted Round-Robin Cell Multiplexing (1991): in round r those of a weight over r have a turn. */
static const struct snap_workload *pick_next(struct balance *b, const struct balance_ask *ask)
{
	const struct snap_service *service = ask->route->service;
	uint32_t n = snap_service_size(service);
	uint32_t *cursor = &b->cursors[service->id % CURSORS];

	for (uint32_t i = 0; i < 2 * n; i++) {
		uint32_t at = (*cursor)++;
		const struct snap_workload *w = snap_service_endpoint(service, at % n);

		if (w->kind->weight > at / n % service->max_weight && fitness(b, ask, w) == FIT)
			return w;
	}
	return NULL;
}

static int pick_workload(struct balance *b, const struct balance_ask *ask, const struct snap_workload **ret_workload)
{
	const struct snap_workload *w = NULL;

	if (!snap_service_size(ask->route->service))
		return BALANCE_E_NONE;
	if (!needs_rank(ask))
		w = b->method == BALANCE_ROUND_ROBIN ? pick_next(b, ask) : pick_of_two(b, ask);
	if (!w)
		return survey_all(b, ask, ret_workload);
	*ret_workload = w;
	return 0;
}

int balance_pick(struct balance *b, const struct balance_ask *ask, struct snap_endpoint *ret_endpoint)
{
	const struct snap_workload *w = ask->route->workload;
	int r = 0;

	if (ask->route->service)
		r = pick_workload(b, ask, &w);
	else if (was_tried(ask, w->id))
		r = BALANCE_E_TRIED;
	if (r)
		return r;
	return snap_endpoint_of(ask->snapshot, ask->route, w, ret_endpoint) ? 0 : BALANCE_E_NONE;
}

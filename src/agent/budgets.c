/*
 * Who is over which budget.
 */
#include "agent/budgets.h"

#include "agent/member.h"
#include "agent/worker.h"
#include "api/counters.h"
#include "base/clock.h"
#include "base/log.h"

enum {
	QUIET_MS = 10000,
	LOOK_EVERY_TICKS = 5,		/* at a place: it is a call to the monitor */
	NO_COUNTER = -1,
};

static const struct {
	const char *name;
	int counter;			/* enum steer_counter, or NO_COUNTER */
} rows[] = {
	[GUEST_B_SNIFFED] = { "sniffed_bytes", STEER_C_SNIFF_BUDGET },
	[GUEST_B_STRANGERS] = { "stranger_bytes", STEER_C_STRANGER_BUDGET },
	[GUEST_B_UNVERIFIED] = { "unverified_packets", STEER_C_RATE_LIMITED },
	[GUEST_B_FLOWS] = { "flows", STEER_C_FLOW_LIMIT },
	[GUEST_B_CLAIMS] = { "claims", NO_COUNTER },
	[GUEST_B_CLAIM_RATE] = { "claim_rate", NO_COUNTER },
	[GUEST_B_OBSERVATIONS] = { "observations", NO_COUNTER },
	[GUEST_B_DECISIONS] = { "decisions", NO_COUNTER },
};
_Static_assert(ELEMENTS(rows) == _GUEST_BUDGET_N, "every budget has a row");

/* BPF knows places, not guests: the guests of one place share what it may. */
static const char *name_of(const struct place *p)
{
	return p->guest_id ?: p->port;
}

static void tell(struct guest_budgets *b, int i, const char *guest, uint64_t now_ms)
{
	if (b->over[i] < b->told[i])
		b->told[i] = 0;		/* the slot is another's now */
	if (b->over[i] == b->told[i] || now_ms < b->quiet_until_ms[i])
		return;
	log_warn("a guest is over its budget", log_str("guest", guest), log_str("budget", rows[i].name),
		 log_int("times", (int64_t)(b->over[i] - b->told[i])));
	b->told[i] = b->over[i];
	b->quiet_until_ms[i] = now_ms + QUIET_MS;
}

/* What the programs have refused it. */
static void look(struct worker *w, struct place *p)
{
	struct monitor_counters c;

	if (monitor_counters_get(w->monitor, p->slot, &c) < 0)
		return;
	for (int i = 0; i < _GUEST_BUDGET_N; i++)
		if (rows[i].counter != NO_COUNTER)
			p->budgets.over[i] = c.v[rows[i].counter];
}

/* What the catalog has. */
static void count_claims(struct guest *g)
{
	const struct catalog_guest *c = catalog_of(g);
	uint64_t *over = member_of(g)->budgets.over;

	over[GUEST_B_CLAIMS] = c ? c->n_full : 0;
	over[GUEST_B_CLAIM_RATE] = c ? c->n_paced : 0;
}

void budgets_tick(struct worker *w)
{
	uint64_t now_ms = clock_mono_ms();

	w->budget_tick++;
	list_for_each(l, &w->places.places) {
		struct place *p = list_entry(l, struct place, link);

		if (p->slot % LOOK_EVERY_TICKS != w->budget_tick % LOOK_EVERY_TICKS)
			continue;
		look(w, p);
		for (int i = 0; i < _GUEST_BUDGET_N; i++)
			if (rows[i].counter != NO_COUNTER)
				tell(&p->budgets, i, name_of(p), now_ms);
	}
	map_for_each(l, &w->guests.by_id) {
		struct guest *g = container_of(l, struct guest, by_id);

		if (!member_of(g))
			continue;
		count_claims(g);
		for (int i = 0; i < _GUEST_BUDGET_N; i++)
			if (rows[i].counter == NO_COUNTER)
				tell(&member_of(g)->budgets, i, g->id, now_ms);
	}
}

static int write_row(struct bytes *out, const char *guest, const char *port, int i, uint64_t n)
{
	return bytes_appendf(out, "outrigger_guest_over_budget_total{guest=\"%s\",port=\"%s\",budget=\"%s\"} %llu\n", guest, port, rows[i].name,
			     (unsigned long long)n);
}

int budgets_write(struct worker *w, struct bytes *out)
{
	int r = bytes_append_str(out, "# HELP outrigger_guest_over_budget_total What guests were refused because they have had all that they may.\n"
				      "# TYPE outrigger_guest_over_budget_total counter\n");

	list_for_each(l, &w->places.places) {
		const struct place *p = list_entry(l, struct place, link);

		for (int i = 0; i < _GUEST_BUDGET_N && r == 0; i++)
			if (rows[i].counter != NO_COUNTER)
				r = write_row(out, p->guest_id ?: "", p->port, i, p->budgets.over[i]);
	}
	map_for_each(l, &w->guests.by_id) {
		struct guest *g = container_of(l, struct guest, by_id);

		if (!member_of(g))
			continue;
		count_claims(g);
		for (int i = 0; i < _GUEST_BUDGET_N && r == 0; i++)
			if (rows[i].counter == NO_COUNTER)
				r = write_row(out, g->id, g->link.port, i, member_of(g)->budgets.over[i]);
	}
	return r;
}

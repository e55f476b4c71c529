/*
 * Guests that have left, as they were: a VM that is moved to another NIC may be
 * gone from the one before the other has seen it, and registers nothing anew.
 *
 * It is memory and nothing else. The mesh knows nothing of them, nothing is sent
 * to them; who turns up as the same machine is offered what it had, and what
 * becomes of that is decided anew, as if it had registered. Bounded in number
 * and in time, not kept on the disk.
 */
#include "base/clock.h"
#include "control/onboard.h"
#include "control/registry.h"

void reg_departed_forget(struct registry *reg, struct reg_guest *departed)
{
	list_unlink(&departed->in_nic);
	departed->nic->n_departed--;
	reg->n_departed--;
	reg_guest_free(departed);
}

static bool is_over(const struct reg_guest *d)
{
	return clock_mono_ms() - d->departed_ms >= REG_DEPARTED_MS;
}

void reg_departed_sweep(struct registry *reg, const struct reg_nic *nic, bool all)
{
	list_for_each_safe(l, &reg->departed) {
		struct reg_guest *d = list_entry(l, struct reg_guest, in_nic);

		if ((!nic || d->nic == nic) && (all || is_over(d)))
			reg_departed_forget(reg, d);
	}
}

/* Its policy is looked up again: the configuration may be another one by now. */
struct reg_guest *reg_departed_find(struct registry *reg, const struct reg_guest *g)
{
	list_for_each(l, &reg->departed) {
		struct reg_guest *d = list_entry(l, struct reg_guest, in_nic);
		bool shared = false;

		for (size_t i = 0; i < g->n_ips; i++)
			shared |= !ip_is_link_local(&g->ips[i]) && reg_guest_has_ip(d, &g->ips[i]);
		if (!shared || is_over(d))
			continue;
		d->policy = onboard_match(reg->config, d->nic->id, d->pb);
		if (onboard_joins(d->policy) && reg_same_machine(g, d))
			return d;
	}
	return NULL;
}

/* A client says nothing that could be offered, but that it was one. */
static bool is_worth_it(const struct reg_guest *g)
{
	if (g->handed_over || !onboard_joins(g->policy) || !g->pb->mac[0])
		return false;
	list_for_each(l, &g->claims)
		if (list_entry(l, struct reg_claim, link)->pb->admitted)
			return true;
	return reg_guest_is_client(g);
}

/* Only the last that is known of a machine counts. */
static void forget_earlier(struct registry *reg, const struct reg_guest *g)
{
	struct reg_guest *d;

	while (onboard_joins(g->policy) && (d = reg_departed_find(reg, g)))
		reg_departed_forget(reg, d);
}

/* The longest gone of the NIC that has most of them: one that makes up guests pushes out its own. */
static void make_room(struct registry *reg)
{
	struct reg_guest *victim = NULL;

	list_for_each(l, &reg->departed) {
		struct reg_guest *d = list_entry(l, struct reg_guest, in_nic);

		if (!victim || d->nic->n_departed > victim->nic->n_departed)
			victim = d;
	}
	if (victim)
		reg_departed_forget(reg, victim);
}

void registry_guest_depart(struct reg_guest *g)
{
	struct registry *reg = g->nic->registry;

	forget_earlier(reg, g);
	reg_guest_detach(g);
	if (!is_worth_it(g)) {
		reg_guest_free(g);
		return;
	}
	if (reg->n_departed == REG_MAX_DEPARTED)
		make_room(reg);
	g->departed_ms = clock_mono_ms();
	list_append(&reg->departed, &g->in_nic);
	g->nic->n_departed++;
	reg->n_departed++;
}

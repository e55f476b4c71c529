/*
 * Registrations that are no claims yet. The guest named an address that nobody
 * has been seen with (its second one, its IPv6 one, after the agent's start):
 * they wait until the guest is seen to own it. Or there was no memory, or the
 * guest makes too many claims: they wait for their turn, since a registry's
 * client may never say it again. What it says later counts.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/catalog_internal.h"

static void waiting_free(struct waiting *u)
{
	for (size_t i = 0; i < u->o.n_metadata; i++) {
		free((char *)(uintptr_t)u->metadata[i].key);
		free((char *)(uintptr_t)u->metadata[i].value);
	}
	free((char *)(uintptr_t)u->o.service);
	free((char *)(uintptr_t)u->o.instance);
	free((char *)(uintptr_t)u->o.app_protocol);
	*u = (struct waiting){};
}

void waiting_clear(struct catalog_guest *g)
{
	while (g->n_waiting)
		waiting_free(&g->waiting[--g->n_waiting]);
}

static void drop(struct catalog_guest *g, size_t i)
{
	waiting_free(&g->waiting[i]);
	g->n_waiting--;
	for (; i < g->n_waiting; i++) {
		g->waiting[i] = g->waiting[i + 1];
		g->waiting[i].o.metadata = g->waiting[i].metadata;
	}
	g->waiting[g->n_waiting] = (struct waiting){};
}

/* How many could not be had: all are asked for, so that all can be freed. */
static int copy(const char *text, const char **ret_copy)
{
	*ret_copy = text ? strdup(text) : NULL;
	return text && !*ret_copy;
}

static int fill(struct waiting *u, const struct observation *o, uint64_t now_ns)
{
	size_t n = MIN(o->n_metadata, (size_t)CATALOG_MAX_METADATA);
	int n_missing = 0;

	u->o = *o;
	u->o.metadata = u->metadata;
	u->o.n_metadata = n;
	u->o.host = NULL;
	u->until_ns = o->ttl_s ? now_ns + o->ttl_s * 1000000000ULL : UINT64_MAX;
	for (size_t i = 0; i < n; i++)
		n_missing += copy(o->metadata[i].key, &u->metadata[i].key) + copy(o->metadata[i].value, &u->metadata[i].value);
	n_missing += copy(o->service, &u->o.service) + copy(o->instance, &u->o.instance) + copy(o->app_protocol, &u->o.app_protocol);
	if (!n_missing)
		return 0;
	waiting_free(u);
	return -ENOMEM;
}

static const struct ip *address_of(const struct observation *o)
{
	return ip_is_none(&o->address) ? &o->guest : &o->address;
}

static bool is_same(const struct observation *a, const struct observation *b)
{
	return !strcmp(a->service, b->service) && a->port == b->port && ip_equal(address_of(a), address_of(b)) &&
	       catalog_same_text(a->instance, b->instance) && !strcmp(a->protocol, b->protocol);
}

/* The same instance, wherever: it is where it was registered last (catalog.c, withdraw_elsewhere()). */
static bool is_same_instance(const struct observation *a, const struct observation *b)
{
	return a->instance && catalog_same_text(a->instance, b->instance) && !strcmp(a->service, b->service) && !strcmp(a->protocol, b->protocol) &&
	       ip_is_v4(address_of(a)) == ip_is_v4(address_of(b));
}

bool waiting_replace(struct catalog_guest *g, const struct observation *o)
{
	bool was_there = false;

	for (size_t i = g->n_waiting; i-- > 0;) {
		bool same = is_same(&g->waiting[i].o, o);

		was_there |= same;
		if (same || is_same_instance(&g->waiting[i].o, o))
			drop(g, i);
	}
	return was_there;
}

int waiting_keep(struct catalog_guest *g, const struct observation *o, bool for_address, uint64_t now_ns)
{
	struct waiting *u;
	int r;

	if (g->n_waiting == CATALOG_MAX_WAITING)
		drop(g, 0);
	u = &g->waiting[g->n_waiting];
	r = fill(u, o, now_ns);
	if (r < 0)
		return r;
	u->for_address = for_address;
	g->n_waiting++;
	return 0;
}

void waiting_withdraw(struct catalog_guest *g, const struct observation *o)
{
	for (size_t i = g->n_waiting; i-- > 0;) {
		const struct observation *u = &g->waiting[i].o;

		if (!strcmp(u->protocol, o->protocol) && (o->instance ? catalog_same_text(u->instance, o->instance) : catalog_same_text(u->service, o->service)))
			drop(g, i);
	}
}

void waiting_settle(struct catalog *c, struct catalog_guest *g, uint64_t now_ns)
{
	size_t i = 0;

	while (i < g->n_waiting) {
		struct waiting *u = &g->waiting[i];
		int r = 0;

		if (u->until_ns > now_ns) {
			if (u->for_address && !guest_owns(g->guest, &u->o.address)) {
				i++;
				continue;
			}
			r = catalog_register(c, g, &u->o, now_ns);
			u->for_address = r == CATALOG_E_UNPROVEN;	/* it was the guest's, and may be again */
		}
		if (r < 0 || r == CATALOG_E_PACED || r == CATALOG_E_UNPROVEN)
			i++;		/* not now either */
		else
			drop(g, i);
	}
}

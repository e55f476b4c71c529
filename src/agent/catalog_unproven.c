/*
 * Registrations that came before their proof: the guest named an address that
 * nobody has been seen with yet (its second one, its IPv6 one, after the agent's
 * start). Each waits until the guest is seen to own it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/catalog_internal.h"

static void unproven_free(struct unproven *u)
{
	for (size_t i = 0; i < u->o.n_metadata; i++) {
		free((char *)(uintptr_t)u->metadata[i].key);
		free((char *)(uintptr_t)u->metadata[i].value);
	}
	free((char *)(uintptr_t)u->o.service);
	free((char *)(uintptr_t)u->o.instance);
	free((char *)(uintptr_t)u->o.app_protocol);
	*u = (struct unproven){};
}

void unproven_clear(struct catalog_guest *g)
{
	while (g->n_unproven)
		unproven_free(&g->unproven[--g->n_unproven]);
}

static void drop(struct catalog_guest *g, size_t i)
{
	unproven_free(&g->unproven[i]);
	g->unproven[i] = g->unproven[--g->n_unproven];
	if (i < g->n_unproven)
		g->unproven[i].o.metadata = g->unproven[i].metadata;
	g->unproven[g->n_unproven] = (struct unproven){};
}

/* How many could not be had: all are asked for, so that all can be freed. */
static int copy(const char *text, const char **ret_copy)
{
	*ret_copy = text ? strdup(text) : NULL;
	return text && !*ret_copy;
}

static int fill(struct unproven *u, const struct observation *o, uint64_t now_ns)
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
	unproven_free(u);
	return -ENOMEM;
}

static bool is_same(const struct observation *a, const struct observation *b)
{
	return !strcmp(a->service, b->service) && a->port == b->port && ip_equal(&a->address, &b->address) &&
	       catalog_same_text(a->instance, b->instance) && !strcmp(a->protocol, b->protocol);
}

bool unproven_keep(struct catalog_guest *g, const struct observation *o, uint64_t now_ns)
{
	struct unproven *u;
	bool is_new = true;

	for (size_t i = g->n_unproven; i-- > 0;)
		if (is_same(&g->unproven[i].o, o)) {
			is_new = false;
			drop(g, i);
		}
	if (g->n_unproven == CATALOG_MAX_UNPROVEN)
		drop(g, 0);
	u = &g->unproven[g->n_unproven];
	if (fill(u, o, now_ns) < 0)
		return false;
	g->n_unproven++;
	return is_new;
}

void unproven_withdraw(struct catalog_guest *g, const struct observation *o)
{
	for (size_t i = g->n_unproven; i-- > 0;) {
		const struct observation *u = &g->unproven[i].o;

		if (!strcmp(u->protocol, o->protocol) && (o->instance ? catalog_same_text(u->instance, o->instance) : catalog_same_text(u->service, o->service)))
			drop(g, i);
	}
}

void unproven_settle(struct catalog *c, struct catalog_guest *g, uint64_t now_ns)
{
	for (size_t i = g->n_unproven; i-- > 0;) {
		struct unproven *u = &g->unproven[i];

		if (u->until_ns > now_ns && !guest_owns(g->guest, &u->o.address))
			continue;
		if (u->until_ns > now_ns && catalog_register(c, g, &u->o, now_ns) < 0)
			continue;		/* no memory now: with the next change */
		drop(g, i);
	}
}

/*
 * What guests ask for, are told, and register for others: kept for people and
 * for the chain of evidence, claimed by nobody.
 */
#include "agent/catalog_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* --- hints --- */

static void hint_free(struct catalog *c, struct hint *h)
{
	map_remove(&c->hints, &h->by_addr);
	list_unlink(&h->link);
	h->owner->n_hints--;
	free(h->service);
	free(h);
}

bool hearsay_worth(const struct observation *o)
{
	return o->service && o->port && !ip_is_none(&o->address);
}

/* Keeping no hint for want of memory is no loss worth an error. */
void hearsay_hint(struct catalog *c, struct catalog_guest *g, const struct observation *o, bool registered)
{
	struct ip_port at = { .ip = o->address, .port = o->port };
	struct map_link *l = map_find(&c->hints, &at, sizeof(at));
	struct hint *h = l ? container_of(l, struct hint, by_addr) : NULL;

	if (h && (h->owner != g || !catalog_same_text(h->service, o->service))) {
		hint_free(c, h);
		h = NULL;
	}
	if (!h) {
		h = g->n_hints == CATALOG_MAX_HINTS ? list_first(&g->hints, struct hint, link) : NULL;
		if (h)
			hint_free(c, h);
		h = calloc(1, sizeof(*h));
		if (!h)
			return;
		*h = (struct hint){ .owner = g, .at = at, .service = strdup(o->service) };
		if (!h->service || map_add(&c->hints, &h->by_addr, &h->at, sizeof(h->at)) < 0) {
			free(h->service);
			free(h);
			return;
		}
		list_init(&h->link);
		g->n_hints++;
	}
	list_unlink(&h->link);
	list_append(&g->hints, &h->link);
	h->protocol = o->protocol;
	h->registry = o->registry;
	h->registered = registered;
	h->last_ns = o->time_ns;
	h->frame = o->frame;
}

const struct hint *catalog_hint(const struct catalog *c, const struct ip_port *at)
{
	struct map_link *l = map_find(&c->hints, at, sizeof(*at));

	return l ? container_of(l, struct hint, by_addr) : NULL;
}

/* --- refusals --- */

static struct refusal *refusal_slot(struct catalog_guest *g, const struct observation *o, const struct ip_port *at)
{
	struct refusal *stalest = &g->refusals[0];

	for (size_t i = 0; i < g->n_refusals; i++) {
		struct refusal *r = &g->refusals[i];

		if (catalog_same_text(r->service, o->service) && !memcmp(&r->at, at, sizeof(*at)) && catalog_same_text(r->protocol, o->protocol))
			return r;
		if (r->last_ns < stalest->last_ns)
			stalest = r;
	}
	if (g->n_refusals < CATALOG_MAX_REFUSALS)
		stalest = &g->refusals[g->n_refusals++];
	free(stalest->service);
	*stalest = (struct refusal){ .at = *at, .protocol = o->protocol, .service = o->service ? strdup(o->service) : NULL };
	return stalest;
}

int hearsay_refuse(struct catalog_guest *g, const struct observation *o, const struct ip_port *at, const char *why)
{
	struct refusal *r = refusal_slot(g, o, at);

	g->n_refused++;
	r->why = why;
	r->frame = o->frame;
	r->last_ns = o->time_ns;
	r->n++;
	return CATALOG_E_REFUSED;
}

/* --- look-ups --- */

static struct lookup *lookup_slot(struct catalog_guest *g, const struct observation *o, bool *ret_new)
{
	struct lookup *stalest = &g->lookups[0];

	*ret_new = false;
	for (size_t i = 0; i < g->n_lookups; i++) {
		struct lookup *l = &g->lookups[i];

		if (catalog_same_text(l->protocol, o->protocol) && !strcmp(l->service, o->service))
			return l;
		if (l->last_ns < stalest->last_ns)
			stalest = l;
	}

	char *service = strdup(o->service);
	if (!service)
		return NULL;
	if (g->n_lookups < CATALOG_MAX_LOOKUPS)
		stalest = &g->lookups[g->n_lookups++];
	free(stalest->service);
	*stalest = (struct lookup){ .service = service, .protocol = o->protocol, .first_ns = o->time_ns };
	*ret_new = true;
	return stalest;
}

int hearsay_lookup(struct catalog *c, struct catalog_guest *g, const struct observation *o, uint64_t now_ns)
{
	struct lookup *l;
	bool is_new;

	(void)now_ns;
	if (!o->service || !o->service[0] || strlen(o->service) > CATALOG_MAX_SERVICE_LEN)
		return CATALOG_E_IGNORED;
	l = lookup_slot(g, o, &is_new);
	if (!l)
		return -ENOMEM;
	l->n++;
	l->registry = o->registry;
	l->last_ns = o->time_ns;
	l->last_frame = o->frame;
	if (is_new)
		c->events.looked_up(g, l, c->events.data);
	return 0;
}

/* --- life --- */

void hearsay_clear(struct catalog *c, struct catalog_guest *g)
{
	list_for_each_safe(l, &g->hints)
		hint_free(c, list_entry(l, struct hint, link));
	for (size_t i = 0; i < g->n_lookups; i++)
		free(g->lookups[i].service);
	for (size_t i = 0; i < g->n_refusals; i++)
		free(g->refusals[i].service);
}

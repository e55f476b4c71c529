/*
 * Delta ADS: names, resources and acknowledgements of a type.
 */
#include "mesh/xds_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ACKS_MAX = 64 };

struct xds_name *xds_name_find(const struct xds_state *s, const char *text)
{
	struct map_link *l = map_find_str(&s->names, text);

	return l ? container_of(l, struct xds_name, link) : NULL;
}

int xds_name_add(struct xds_state *s, const char *text, size_t len)
{
	struct xds_name *n;
	int r;

	if (s->names.n >= XDS_NAMES_MAX)
		return -E2BIG;
	n = malloc(sizeof(*n) + len + 1);
	if (!n)
		return -ENOMEM;
	*n = (struct xds_name){ .wanted = true };
	list_init(&n->pending);
	memcpy(n->text, text, len + 1);
	r = map_add(&s->names, &n->link, n->text, len);
	if (r < 0) {
		free(n);
		return r;
	}
	list_append(&s->to_subscribe, &n->pending);
	return 0;
}

void xds_name_drop(struct xds_state *s, struct xds_name *n)
{
	list_unlink(&n->pending);
	map_remove(&s->names, &n->link);
	free(n);
}

struct xds_held *xds_held_find(const struct xds_state *s, const char *name)
{
	struct map_link *l = map_find_str(&s->held, name);

	return l ? container_of(l, struct xds_held, link) : NULL;
}

void xds_held_drop(struct xds_state *s, struct xds_held *h)
{
	map_remove(&s->held, &h->link);
	free(h);
}

char *xds_held_version(struct xds_held *h)
{
	return h->text + h->at_version;
}

static int add_held(struct xds_state *s, const char *name, const char *version)
{
	size_t n_name = strlen(name), n_version = strlen(version);
	struct xds_held *h = malloc(sizeof(*h) + n_name + n_version + 2);

	if (!h)
		return -ENOMEM;
	memcpy(h->text, name, n_name + 1);
	memcpy(h->text + n_name + 1, version, n_version + 1);
	h->at_version = (uint16_t)(n_name + 1);
	h->max_version = (uint16_t)n_version;

	int r = map_add(&s->held, &h->link, h->text, n_name);
	if (r < 0)
		free(h);
	return r;
}

int xds_hold(struct xds_state *s, const char *name, const char *version)
{
	struct xds_held *h = xds_held_find(s, name);
	size_t len = strlen(version);

	if (len > XDS_NAME_MAX || (!h && s->held.n >= XDS_RESOURCES_MAX))
		return -E2BIG;
	if (h && len <= h->max_version) {
		memcpy(xds_held_version(h), version, len + 1);
		return 0;
	}
	if (!h)
		return add_held(s, name, version);
	map_remove(&s->held, &h->link);

	int r = add_held(s, name, version);
	if (r < 0)
		(void)!map_add(&s->held, &h->link, h->text, h->at_version - 1u);	/* its place is still there */
	else
		free(h);
	return r;
}

int xds_ack_queue(struct xds_state *s, const char *nonce, const char *reason)
{
	size_t len = strlen(nonce);
	struct xds_ack *a;

	if (s->n_acks == ACKS_MAX)
		return -EBADMSG;	/* it talks, but does not listen */
	a = malloc(sizeof(*a) + len + 1);
	if (!a)
		return -ENOMEM;
	a->reason = reason ? strdup(reason) : NULL;
	if (reason && !a->reason) {
		free(a);
		return -ENOMEM;
	}
	memcpy(a->nonce, nonce, len + 1);
	list_append(&s->acks, &a->link);
	s->n_acks++;
	return 0;
}

void xds_ack_drop(struct xds_state *s, struct xds_ack *a)
{
	list_unlink(&a->link);
	s->n_acks--;
	free(a->reason);
	free(a);
}

void xds_acks_drop(struct xds_state *s)
{
	list_for_each_safe(l, &s->acks)
		xds_ack_drop(s, list_entry(l, struct xds_ack, link));
}

/*
 * Longest-prefix match over container-registered addresses.
 */
#include "agent/containers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct ip_prefix) == 17, "is a map's key: no holes");

static struct ip_prefix prefix_of(const struct ip *ip, uint8_t len)
{
	struct ip_prefix p = { .ip = *ip, .len = len };

	for (unsigned i = 0; i < sizeof(p.ip.b); i++) {
		unsigned bits = len > i * 8 ? MIN(len - i * 8, 8u) : 0;

		p.ip.b[i] &= (uint8_t)(0xff00u >> bits);
	}
	return p;
}

static int add(struct containers *c, const Outrigger__V1__ContainerAddress *pb, struct diag *d)
{
	struct container *one;
	struct ip_prefix p;
	int r;

	if (ip_prefix_parse(pb->prefix, &p) < 0)
		return diag_set(d, "container address \"%s\" (%s): not an address prefix", pb->prefix, pb->what);
	one = calloc(1, sizeof(*one));
	if (!one)
		return -ENOMEM;
	one->prefix = prefix_of(&p.ip, p.len);
	one->what = strdup(pb->what[0] ? pb->what : "container");
	r = one->what ? map_add(&c->by_prefix, &one->by_prefix, &one->prefix, sizeof(one->prefix)) : -ENOMEM;
	if (r < 0) {
		free(one->what);
		free(one);
		return r == -EEXIST ? 0 : r;	/* said twice: the first counts */
	}
	c->has_len[p.len] = true;
	return 0;
}

int containers_decode(const Outrigger__V1__ContainerSet *pb, struct containers **ret_containers, struct diag *reterr_diag)
{
	struct containers *c;
	int r = 0;

	if (pb->n_addresses > CONTAINERS_MAX)
		return diag_set(reterr_diag, "%zu container addresses: at most %d", pb->n_addresses, CONTAINERS_MAX);
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->version = pb->version;
	map_init(&c->by_prefix);
	for (size_t i = 0; r == 0 && i < pb->n_addresses; i++)
		r = add(c, pb->addresses[i], reterr_diag);
	if (r < 0) {
		containers_free(c);
		return r;
	}
	*ret_containers = c;
	return 0;
}

struct containers *containers_free(struct containers *c)
{
	if (!c)
		return NULL;
	map_for_each(l, &c->by_prefix) {
		struct container *one = container_of(l, struct container, by_prefix);

		free(one->what);
		free(one);
	}
	map_deinit(&c->by_prefix);
	free(c);
	return NULL;
}

const struct container *containers_find(const struct containers *c, const struct ip *ip)
{
	for (int len = CONTAINERS_N_LENS - 1; len >= 0; len--) {
		if (!c->has_len[len])
			continue;
		struct ip_prefix p = prefix_of(ip, (uint8_t)len);
		struct map_link *l = map_find(&c->by_prefix, &p, sizeof(p));

		if (l)
			return container_of(l, struct container, by_prefix);
	}
	return NULL;
}

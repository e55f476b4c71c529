/*
 * A service as it was sent, in one object: ports, addresses, then texts (key,
 * namespace, name, subject alternative names).
 */
#include <errno.h>
#include <string.h>

#include "mesh/snap_state.h"

/* --- reading --- */

const char *snap_def_key(const struct snap_def *def)
{
	return (const char *)def + def->key_at;
}

const char *snap_def_hostname(const struct snap_def *def)
{
	return snap_def_key(def) + def->host_at;
}

const char *snap_def_namespace(const struct snap_def *def)
{
	return snap_text_next(snap_def_hostname(def));	/* which is the key's end */
}

const char *snap_def_name(const struct snap_def *def)
{
	return snap_text_next(snap_def_namespace(def));
}

const char *snap_def_sans(const struct snap_def *def)
{
	return snap_text_next(snap_def_name(def));
}

const struct snap_port *snap_def_ports(const struct snap_def *def)
{
	return (const struct snap_port *)(const void *)def->tail;
}

struct snap_addresses snap_def_addresses(const struct snap_def *def)
{
	return (struct snap_addresses){ (const uint8_t *)def, def->tail + def->n_ports * sizeof(struct snap_port), NULL, def->n_vips, true, def->is_v6 };
}

const struct model_gateway *snap_def_waypoint(const struct snap_def *def)
{
	return def->ways ? &def->ways->waypoint : NULL;
}

/* --- making --- */

static bool is_vip(const struct snap_store *st, const struct service_address *a)
{
	return a->prefix_len == 128 && !strcmp(a->network, st->network) && !ip_is_none(&a->ip);
}

/* Where those that begin at @at in an object end. */
static size_t vips_end(const struct snap_store *st, const struct service *s, size_t at)
{
	bool is_first = true;

	for (size_t i = 0; i < s->n_addresses; i++) {
		if (!is_vip(st, &s->addresses[i]))
			continue;
		at = snap_address_end(at, &s->addresses[i].ip, is_first);
		is_first = false;
	}
	return at;
}

/* Ports and addresses: each has a number that an index can lead to. */
_Static_assert(sizeof(struct snap_def) + MODEL_LIST_MAX * (sizeof(struct snap_port) + sizeof(struct ip) + SLAB_GRAIN) <= SLAB_REACH, "their marks have one");

static size_t texts_size(const struct service *s)
{
	size_t n = 2 * (strlen(s->namespace) + 1) + strlen(s->hostname) + 1 + strlen(s->name) + 1;

	for (size_t i = 0; i < s->n_sans; i++)
		n += strlen(s->sans[i]) + 1;
	return n;
}

static size_t def_size(const struct snap_def *def)
{
	const char *end = snap_def_sans(def);

	for (uint16_t i = 0; i < def->n_sans; i++)
		end = snap_text_next(end);
	return (size_t)(end - (const char *)def);
}

static uint8_t *put_ports(uint8_t *at, const struct service *s)
{
	for (size_t i = 0; i < s->n_ports; i++, at += sizeof(struct snap_port)) {
		const struct snap_port port = snap_port_of(&s->ports[i]);

		memcpy(at, &port, sizeof(port));
	}
	return at;
}

static uint8_t *put_vips(const struct snap_store *st, struct snap_def *def, uint8_t *at, const struct service *s)
{
	for (size_t i = 0; i < s->n_addresses; i++) {
		const struct ip *ip = &s->addresses[i].ip;

		if (!is_vip(st, &s->addresses[i]))
			continue;
		if (!def->n_vips)
			def->is_v6 = !ip_is_v4(ip);
		at = snap_address_put(def, at, ip, !def->n_vips);
		def->n_vips++;
	}
	return at;
}

static char *put_text(char *at, const char *text, char end)
{
	size_t n = strlen(text);

	memcpy(at, text, n);
	at[n] = end;
	return at + n + 1;
}

static void put_texts(struct snap_def *def, char *at, const struct service *s)
{
	def->key_at = (uint32_t)(at - (char *)def);
	def->host_at = (uint16_t)(strlen(s->namespace) + 1);
	at = put_text(at, s->namespace, '/');
	at = put_text(at, s->hostname, 0);
	at = put_text(at, s->namespace, 0);
	at = put_text(at, s->name, 0);
	for (size_t i = 0; i < s->n_sans; i++)
		at = put_text(at, s->sans[i], 0);
}

int snap_def_make(struct snap_store *st, const struct service *s, uint32_t id, struct snap_def **ret_def)
{
	size_t size = vips_end(st, s, offsetof(struct snap_def, tail) + s->n_ports * sizeof(struct snap_port)) + texts_size(s);
	struct snap_def *def = slab_zalloc(&st->slab, size);
	int r;

	if (!def)
		return -ENOMEM;
	r = snap_ways_get(st, &s->waypoint, NULL, &def->ways);
	if (r < 0) {
		slab_free(&st->slab, def, size);
		return r;
	}
	def->service_id = id;
	def->defined = true;
	def->n_ports = (uint16_t)s->n_ports;
	def->n_sans = (uint16_t)s->n_sans;
	def->lb_mode = (unsigned)s->lb_mode & 15U;
	def->n_lb_preference = s->n_lb_preference & 15U;
	memcpy(def->lb_preference, s->lb_preference, sizeof(def->lb_preference));
	def->allow_unhealthy = s->allow_unhealthy;
	def->canonical = s->canonical;
	put_texts(def, (char *)put_vips(st, def, put_ports(def->tail, s), s), s);
	*ret_def = def;
	return 0;
}

struct snap_def *snap_def_mention(struct snap_store *st, const char *key, uint32_t id)
{
	size_t n_key = strlen(key) + 1;
	struct snap_def *def = slab_zalloc(&st->slab, offsetof(struct snap_def, tail) + n_key + 2);	/* and two empty texts */

	if (!def)
		return NULL;
	def->service_id = id;
	def->key_at = offsetof(struct snap_def, tail);
	def->host_at = (uint16_t)(n_key - 1);
	memcpy(def->tail, key, n_key);
	return def;
}

void snap_def_free(struct snap_store *st, struct snap_def *def)
{
	snap_ways_put(st, def->ways);
	slab_free(&st->slab, def, def_size(def));
}

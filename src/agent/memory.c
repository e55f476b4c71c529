/*
 * Guests, claims and look-ups to a JSON file in the state directory, and back.
 */
#include "agent/memory.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/member.h"
#include "agent/state.h"
#include "agent/worker.h"
#include "base/clock.h"
#include "base/log.h"
#include "discover/protocol.h"

enum {
	STATE_VERSION = 1,
	BELIEVED_MS = 60000,		/* without a sign of life */
	MAX_AGE_S = 3600,		/* older: who knows who stands there now */
};

static const char file[] = "memory";

/* --- saving --- */

static json_t *drop(json_t *v)
{
	json_decref(v);
	return NULL;
}

/* Takes both; NULL when there was no memory for one of them: a part of it all is no memory of a guest. */
static json_t *append(json_t *array, json_t *value)
{
	return json_array_append_new(array, value) < 0 ? drop(array) : array;
}

static json_t *address_text(const struct ip *ip)
{
	char text[IP_TEXT_LEN];

	return json_string(ip_format(ip, text));
}

static json_t *save_source(const struct claim_source *s)
{
	char registry[IP_PORT_TEXT_LEN];

	return json_pack("{s:s, s:s?, s:o, s:i, s:i}", "protocol", s->protocol, "instance", s->instance,
			 "registry", ip_is_none(&s->registry.ip) ? json_null() : json_string(ip_port_format(&s->registry, registry)),
			 "health", (int)s->health, "ttl_s", (int)s->ttl_s);
}

static json_t *save_claim(const struct claim *c)
{
	json_t *sources = json_array(), *metadata = json_object();

	for (size_t i = 0; i < c->n_sources; i++)
		sources = append(sources, save_source(&c->sources[i]));
	for (size_t i = 0; i < c->n_metadata; i++)
		if (json_object_set_new(metadata, c->metadata[i].key, json_string(c->metadata[i].value)) < 0)
			metadata = drop(metadata);
	return json_pack("{s:s, s:o, s:i, s:b, s:s?, s:o, s:o}", "service", c->service, "address", address_text(&c->address), "port", (int)c->port,
			 "udp", c->udp, "app_protocol", c->app_protocol, "sources", sources, "metadata", metadata);
}

static json_t *save_guest(const struct guest *g)
{
	const struct catalog_guest *cg = catalog_of(g);
	json_t *addresses = json_array(), *claims = json_array(), *lookups = json_array();
	char mac[GUEST_MAC_TEXT_LEN];

	for (size_t i = 0; i < g->n_addresses; i++)
		addresses = append(addresses, json_pack("{s:o, s:i}", "ip", address_text(&g->addresses[i]->ip), "source",
							(int)g->addresses[i]->source));
	if (cg) {
		list_for_each(l, &cg->claims) {
			const struct claim *c = list_entry(l, struct claim, link);

			if (!c->behind)
				claims = append(claims, save_claim(c));
		}
		for (size_t i = 0; i < cg->n_lookups; i++)
			lookups = append(lookups, json_pack("{s:s, s:s}", "service", cg->lookups[i].service, "protocol", cg->lookups[i].protocol));
	}
	return json_pack("{s:s, s:i, s:s, s:o, s:o, s:o}", "port", g->link.port, "vlan", (int)g->link.vlan, "mac", guest_mac_format(g->link.mac, mac),
			 "addresses", addresses, "claims", claims, "lookups", lookups);
}

void memory_touch(struct worker *w)
{
	w->memory_dirty = true;
}

void memory_save(struct worker *w)
{
	json_t *guests, *root;
	char *text;
	int r;

	if (!w->memory_dirty || clock_mono_ms() < w->memory_at_ms)
		return;
	guests = json_array();
	map_for_each(l, &w->guests.by_id)
		guests = append(guests, save_guest(container_of(l, struct guest, by_id)));
	root = json_pack("{s:I, s:o}", "saved_at", (json_int_t)clock_wall_s(), "guests", guests);
	text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	r = text ? state_save(w->conf->state_dir, file, STATE_VERSION, text, strlen(text), 0600) : -ENOMEM;
	free(text);
	json_decref(root);
	w->memory_dirty = r < 0;
	w->memory_at_ms = r < 0 ? clock_mono_ms() + STATE_RETRY_MS : 0;
	state_note(&w->memory_unsaved, file, "a restart knows guests and services from before", r);
}

/* --- recalling --- */

static bool mac_parse(const char *text, uint8_t mac[6])
{
	return text && sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]) == 6;
}

/* @o: what the claim says, whoever has heard it. */
static void recall_source(struct worker *w, struct guest *g, struct observation *o, json_t *source)
{
	const char *name = json_string_value(json_object_get(source, "protocol"));
	const struct discover_protocol *p = name ? discover_protocol_by_name(name) : NULL;
	const char *registry = json_string_value(json_object_get(source, "registry"));
	json_int_t health = json_integer_value(json_object_get(source, "health"));

	if (!p)
		return;
	o->protocol = p->name;
	o->instance = json_string_value(json_object_get(source, "instance"));
	o->ttl_s = (uint32_t)json_integer_value(json_object_get(source, "ttl_s"));
	o->health = health >= 0 && health < _OBS_HEALTH_N ? (enum observation_health)health : OBS_HEALTH_UNKNOWN;
	o->registry = (struct ip_port){};
	if (registry && ip_port_parse(registry, &o->registry) < 0)
		return;
	if (catalog_observe(&w->catalog, g, o, o->time_ns) < 0)
		log_warn("a remembered claim is lost", log_str("service", o->service));
}

static void recall_claim(struct worker *w, struct guest *g, json_t *claim)
{
	struct observation_meta meta[CATALOG_MAX_METADATA];
	struct observation o = { .kind = OBS_REGISTER, .metadata = meta, .time_ns = clock_mono_ns() };
	const char *key;
	json_t *value, *source;
	size_t i;

	o.service = json_string_value(json_object_get(claim, "service"));
	o.port = (uint16_t)json_integer_value(json_object_get(claim, "port"));
	o.transport = json_is_true(json_object_get(claim, "udp")) ? "udp" : "tcp";
	o.app_protocol = json_string_value(json_object_get(claim, "app_protocol"));
	if (!o.service || ip_parse(json_string_value(json_object_get(claim, "address")) ?: "", &o.address) < 0)
		return;
	o.guest = o.address;
	json_object_foreach(json_object_get(claim, "metadata"), key, value)
		if (o.n_metadata < ELEMENTS(meta) && json_is_string(value))
			meta[o.n_metadata++] = (struct observation_meta){ key, json_string_value(value) };
	json_array_foreach(json_object_get(claim, "sources"), i, source)
		recall_source(w, g, &o, source);
}

static void recall_lookup(struct worker *w, struct guest *g, json_t *lookup)
{
	const char *name = json_string_value(json_object_get(lookup, "protocol"));
	const struct discover_protocol *p = name ? discover_protocol_by_name(name) : NULL;
	struct observation o = { .kind = OBS_DISCOVER, .time_ns = clock_mono_ns() };

	o.service = json_string_value(json_object_get(lookup, "service"));
	if (!p || !o.service)
		return;
	o.protocol = p->name;
	if (catalog_observe(&w->catalog, g, &o, o.time_ns) < 0)
		log_warn("a remembered look-up is lost", log_str("service", o.service));
}

static struct guest *recall_addresses(struct worker *w, const struct guest_link *link, json_t *addresses)
{
	struct guest *g = NULL;
	json_t *address;
	size_t i;

	json_array_foreach(addresses, i, address) {
		json_int_t source = json_integer_value(json_object_get(address, "source"));
		struct guest_sighting s = { .link = *link, .lifetime_ms = BELIEVED_MS };
		struct guest *found;

		if (source < 0 || source >= GUEST_BY_CONFIG || ip_parse(json_string_value(json_object_get(address, "ip")) ?: "", &s.ip) < 0)
			continue;
		s.source = (enum guest_source)source;
		if (guest_learn(&w->guests, &s, clock_mono_ms(), &found) >= 0 && found)
			g = found;
	}
	return g;
}

/* True: it was at @p. */
static bool recall_guest(struct worker *w, const struct place *p, json_t *guest)
{
	struct guest_link link = { .vlan = (uint16_t)json_integer_value(json_object_get(guest, "vlan")) };
	const char *port = json_string_value(json_object_get(guest, "port"));
	struct guest *g;
	json_t *one;
	size_t i;

	if (!port || strcmp(port, p->port) || link.vlan != p->vlan || !mac_parse(json_string_value(json_object_get(guest, "mac")), link.mac))
		return false;
	snprintf(link.port, sizeof(link.port), "%s", port);
	g = recall_addresses(w, &link, json_object_get(guest, "addresses"));
	if (!g)
		g = guest_by_link(&w->guests, &link);	/* by configuration */
	if (!g)
		return true;
	json_array_foreach(json_object_get(guest, "claims"), i, one)
		recall_claim(w, g, one);
	json_array_foreach(json_object_get(guest, "lookups"), i, one)
		recall_lookup(w, g, one);
	return true;
}

/* Once: who comes to the port later is somebody else. */
void memory_recall(struct worker *w, const struct place *p)
{
	for (size_t i = json_array_size(w->memory); i-- > 0;)
		if (recall_guest(w, p, json_array_get(w->memory, i)))
			json_array_remove(w->memory, i);
}

int memory_load(struct worker *w)
{
	CLEANUP_FREE void *text = NULL;
	json_t *root;
	size_t len;
	int r = state_load(w->conf->state_dir, file, STATE_VERSION, &text, &len);

	if (r == -ENOENT || r == -ENOMEM)
		return r == -ENOENT ? 0 : r;
	root = r == 0 ? json_loadb(text, len, 0, NULL) : NULL;
	if (!root) {
		log_warn("a state file cannot be used", log_str("file", file), log_errno(r ? r : -EBADMSG));
		return 0;
	}
	int64_t age = clock_wall_s() - json_integer_value(json_object_get(root, "saved_at"));
	if (age >= 0 && age <= MAX_AGE_S)
		w->memory = json_incref(json_object_get(root, "guests"));
	json_decref(root);
	return 0;
}

void memory_forget(struct worker *w)
{
	json_decref(w->memory);
	w->memory = NULL;
}

/*
 * Instances at Consul as observations.
 */
#include "discover/consul_request.h"

#include <stdio.h>
#include <string.h>

#include "discover/obs_build.h"

static enum observation_health health_of(enum consul_status s)
{
	static const enum observation_health map[] = {
		[CONSUL_STATUS_UNKNOWN] = OBS_HEALTH_UNKNOWN, [CONSUL_STATUS_PASSING] = OBS_HEALTH_PASSING,
		[CONSUL_STATUS_WARNING] = OBS_HEALTH_WARNING, [CONSUL_STATUS_CRITICAL] = OBS_HEALTH_CRITICAL,
	};

	return map[s];
}

bool consul_is_infrastructure(const char *kind)
{
	return kind && strcmp(kind, "typical") != 0;
}

/* Meta as it is; the tags as one more, comma-separated. */
static void add_metadata(struct obs_build *b, const struct consul_instance *i)
{
	char tags[OBS_MAX_STR + 1] = "";
	size_t at = 0;
	const char *key;
	json_t *value;

	if (i->meta)
		json_object_foreach((json_t *)(uintptr_t)i->meta, key, value)
			if (json_is_string(value))
				obs_build_meta(b, key, json_string_value(value));
	for (size_t n = 0; n < json_array_size(i->tags); n++) {
		const char *tag = json_string_value(json_array_get(i->tags, n));

		if (!tag || at + strlen(tag) + 2 > sizeof(tags))
			continue;
		at += (size_t)snprintf(tags + at, sizeof(tags) - at, "%s%s", at ? "," : "", tag);
	}
	if (at)
		obs_build_meta(b, "tags", obs_build_copy(b, tags));
}

static const char *meta_value(const struct observation *o, const char *key)
{
	for (size_t i = 0; i < o->n_metadata; i++)
		if (strcmp(o->metadata[i].key, key) == 0)
			return o->metadata[i].value;
	return NULL;
}

/* An address, or the name of a host in its place. */
static void set_address(struct obs_build *b, const char *text)
{
	if (text && ip_parse(text, &b->o.address) < 0)
		b->o.host = obs_build_text(b, text);
}

void consul_emit_instance(struct consul_stream *s, enum observation_kind kind, const struct consul_instance *i, const char *service,
			  const struct discover_ctx *ctx)
{
	struct obs_build b;

	obs_build_init(&b, kind, "consul", &s->server);
	b.o.service = obs_build_text(&b, service);
	b.o.instance = obs_build_text(&b, i->id);
	set_address(&b, i->address);
	b.o.port = i->port;
	b.o.transport = i->udp ? "udp" : "tcp";
	b.o.ttl_s = i->ttl_s;
	b.o.health = health_of(i->status);
	add_metadata(&b, i);
	b.o.app_protocol = meta_value(&b.o, "protocol");
	obs_build_emit(&b, ctx);
}

void consul_emit_known(struct consul_stream *s, enum observation_kind kind, const char *id, const struct consul_known *k,
		       enum consul_status status, const struct discover_ctx *ctx)
{
	struct obs_build b;

	if (k && k->infrastructure)
		return;
	obs_build_init(&b, kind, "consul", &s->server);
	b.o.instance = obs_build_text(&b, id);
	b.o.health = health_of(status);
	if (k) {
		b.o.service = obs_build_text(&b, k->service);
		b.o.address = k->address;
		b.o.host = obs_build_text(&b, k->host);
		b.o.port = k->port;
		b.o.ttl_s = k->ttl_s;
		b.o.transport = "tcp";
	}
	obs_build_emit(&b, ctx);
}

/*
 * Instances at ZooKeeper as observations.
 */
#include "discover/zk_observer.h"

#include "discover/obs_build.h"

uint64_t zk_instance_hash(const struct zk_instance *i)
{
	struct bytes b;
	uint64_t hash;
	bool ok;

	bytes_init(&b, 256 * 1024);
	ok = bytes_appendf(&b, "%s\n%s\n%s\n%u\n%s\n%d\n", i->service, i->id, i->address, i->port, i->scheme, (int)i->health) == 0;
	for (size_t n = 0; n < i->n_meta && ok; n++)
		ok = bytes_appendf(&b, "%s\n%s\n", i->keys[n], i->values[n]) == 0;
	hash = map_hash(b.data ? b.data : (const uint8_t *)"", b.len);
	bytes_deinit(&b);
	return hash;
}

static void set_place(struct observation *o, struct obs_build *b, const struct zk_instance *i)
{
	if (i->address[0] && ip_parse(i->address, &o->address) < 0)
		o->host = obs_build_text(b, i->address);
	o->port = i->port;
}

void zk_emit_instance(struct zk_observer *s, enum observation_kind kind, const struct zk_instance *i, uint32_t ttl_s)
{
	static const enum observation_health health[] = {
		[ZK_HEALTH_UNKNOWN] = OBS_HEALTH_UNKNOWN, [ZK_HEALTH_UP] = OBS_HEALTH_PASSING, [ZK_HEALTH_DOWN] = OBS_HEALTH_CRITICAL,
	};
	struct obs_build b;

	obs_build_init(&b, kind, "zookeeper", &s->server);
	b.o.service = obs_build_text(&b, i->service);
	b.o.instance = obs_build_text(&b, i->id);
	set_place(&b.o, &b, i);
	if (kind == OBS_REGISTER && !i->address[0])
		b.o.address = s->client.ip;
	b.o.transport = "tcp";
	b.o.app_protocol = obs_build_text(&b, i->scheme);
	b.o.ttl_s = ttl_s;
	b.o.health = health[i->health];
	for (size_t n = 0; n < i->n_meta; n++)
		obs_build_meta(&b, i->keys[n], i->values[n]);
	obs_build_emit(&b, s->ctx);
}

void zk_emit_discover(struct zk_observer *s, const char *service)
{
	struct obs_build b;

	obs_build_init(&b, OBS_DISCOVER, "zookeeper", &s->server);
	b.o.service = obs_build_text(&b, service);
	if (b.o.service)
		obs_build_emit(&b, s->ctx);
}

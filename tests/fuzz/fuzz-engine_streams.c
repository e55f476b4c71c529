/*
 * Connections that proxies copy to the engine, many at once and from several
 * guests, with hardly any room for what they leave unfinished. The first byte
 * says which protocol the first of them speaks. Then records as conversation.h
 * has them, with the connection in the upper half of the first byte; connections
 * and guests also come and go.
 */
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "base/wire.h"
#include "discover/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_STREAMS = 16, N_GUESTS = 3 };
enum { TO = 0, FROM = 1, GAP_TO = 2, GAP_FROM = 3, CLOSE = 4, WAIT = 5, END_TO = 6, END_FROM = 7, FORGET = 8, _N_RECORDS = 9 };

static struct engine *engine;
static struct engine_stream *streams[N_STREAMS];
static uint64_t now_ns;
static unsigned first_port;

static void on_observation(const struct observation *o, void *data)
{
	(void)data;
	if (!o->protocol || o->kind >= _OBS_KIND_N || ip_is_none(&o->guest) || o->n_metadata > OBS_MAX_METADATA)
		abort();
	if (o->service && (strlen(o->service) > OBS_MAX_STR || !utf8_is_clean(o->service, strlen(o->service))))
		abort();
}

static struct engine_stream *stream_at(unsigned i)
{
	static const uint16_t ports[] = { 2181, 8500, 53, 80 };		/* nobody speaks the last */
	const struct engine_guest guest = { .id = 1 + i % N_GUESTS, .address = ip_from_v4((uint8_t[4]){ 10, 0, 0, (uint8_t)(1 + i % N_GUESTS) }) };
	const struct ip_port client = { guest.address, (uint16_t)(40000 + i) };
	const struct ip_port server = { ip_from_v4((uint8_t[4]){ 10, 0, 1, 1 }), ports[(first_port + i) % ELEMENTS(ports)] };

	if (!streams[i] && engine_stream_open(engine, &guest, &client, &server, &streams[i]) < 0)
		streams[i] = NULL;
	return streams[i];
}

static void feed(struct engine_stream *s, enum discover_dir dir, const uint8_t *data, size_t len)
{
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy)
		abort();
	memcpy(copy, data, len);
	(void)!engine_stream_data(s, dir, copy, len, 1, now_ns);
	free(copy);
}

static void step(struct wire *w)
{
	uint8_t op = wire_u8(w);
	unsigned what = (op & 15) % _N_RECORDS, i = op >> 4;
	size_t len = wire_u16(w), n = MIN(len, (size_t)(w->end - w->pos));
	struct engine_stream *s = stream_at(i);

	if (what == WAIT) {
		now_ns += len * 1000000ULL;
		engine_tick(engine, 1, now_ns);
	} else if (what == FORGET) {
		engine_forget_guest(engine, 1 + i % N_GUESTS);
	} else if (s && what <= FROM) {
		feed(s, what == TO ? DISCOVER_TO_REGISTRY : DISCOVER_FROM_REGISTRY, w->pos, n);
	} else if (s && what <= GAP_FROM) {
		(void)!engine_stream_gap(s, what == GAP_TO ? DISCOVER_TO_REGISTRY : DISCOVER_FROM_REGISTRY, len, 1, now_ns);
	} else if (s && what == CLOSE) {
		streams[i] = engine_stream_close(s, 1, now_ns);
	} else if (s) {
		engine_stream_end(s, what == END_TO ? DISCOVER_TO_REGISTRY : DISCOVER_FROM_REGISTRY, 1, now_ns);
	}
	if (what <= FROM)
		w->pos += n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct engine_limits limits = { .max_guests = 2, .max_guest_held = 600, .max_total_held = 1000 };
	struct wire w = wire_init(data, size);

	first_port = wire_u8(&w);
	now_ns = 1;
	if (engine_new(&limits, on_observation, NULL, &engine) < 0)
		abort();
	while (wire_more(&w))
		step(&w);
	if (engine_stats(engine)->n_guests > limits.max_guests)
		abort();
	for (unsigned i = 0; i < N_STREAMS; i++)
		if (streams[i])
			streams[i] = engine_stream_close(streams[i], 1, now_ns);
	engine_flush(engine);
	engine_free(engine);
	return 0;
}

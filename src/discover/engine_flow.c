/*
 * Connections in the engine: captured ones, which are put together first, and
 * proxied ones, which come in order.
 */
#include "discover/engine_state.h"

#include <errno.h>
#include <stdlib.h>
#include "base/defs.h"
#include "proto/packet.h"

/* ---- what observers hold of unfinished messages ---- */

static void note_held(struct engine *e, struct guest *g, size_t *held, size_t now)
{
	e->held += now - *held;
	g->held += now - *held;
	*held = now;
}

static size_t held_by(const struct discover_protocol *protocol, const void *stream)
{
	return stream && protocol->stream_held ? protocol->stream_held(stream) : 0;
}

static void flow_sleep(struct flow *f)
{
	if (f->stream)
		f->protocol->stream_free(f->stream);
	f->stream = NULL;
	note_held(f->engine, f->guest, &f->held, 0);
}

static void stream_sleep(struct engine_stream *s)
{
	if (s->stream)
		s->protocol->stream_free(s->stream);
	s->stream = NULL;
	if (s->guest)
		note_held(s->engine, s->guest, &s->held, 0);
}

static struct guest *greediest(const struct engine *e)
{
	struct guest *most = NULL;

	list_for_each(l, &e->guests_by_use) {
		struct guest *g = list_entry(l, struct guest, recent);

		if (!most || g->held > most->held)
			most = g;
	}
	return most;
}

/* Of one guest the connection that holds most. What it was is not known any more; the others go on. */
static void crowd_out(struct engine *e, const struct guest *g)
{
	struct engine_stream *stream = NULL;
	struct flow *flow = NULL;
	size_t most = 0;

	list_for_each(l, &g->flows) {
		struct flow *f = list_entry(l, struct flow, of_guest);

		if (f->held > most) {
			most = f->held;
			flow = f;
		}
	}
	list_for_each(l, &g->streams) {
		struct engine_stream *s = list_entry(l, struct engine_stream, of_guest);

		if (s->held > most) {
			most = s->held;
			stream = s;
		}
	}
	if (stream)
		stream_sleep(stream);
	else
		flow_sleep(flow);
	e->stats.streams_crowded++;
}

/* Not within a stream's own call. Whoever feeds one finds it gone. */
static void keep_budget(struct engine *e, struct guest *g)
{
	while (g->held > e->limits.max_guest_held)
		crowd_out(e, g);
	while (e->held > e->limits.max_total_held)
		crowd_out(e, greediest(e));
}

void flow_free(struct flow *f)
{
	struct engine *e = f->engine;

	reasm_deinit(&f->reasm);
	flow_sleep(f);
	map_remove(&e->flows, &f->link);
	list_unlink(&f->of_guest);
	f->guest->n_flows--;
	free(f);
}

void engine_stream_orphan(struct engine_stream *s)
{
	list_unlink(&s->of_guest);
	stream_sleep(s);
	s->guest = NULL;
}

static enum discover_dir dir_of(unsigned dir)
{
	return dir == 0 ? DISCOVER_TO_REGISTRY : DISCOVER_FROM_REGISTRY;
}

static void on_data(void *arg, unsigned dir, const uint8_t *data, size_t len)
{
	struct flow *f = arg;
	struct discover_ctx ctx = engine_context(f->engine, f->guest, f->frame, f->last_ns);

	if (f->stream && !f->protocol->stream_data(f->stream, dir_of(dir), data, len, &ctx)) {
		f->engine->stats.streams_slept++;
		flow_sleep(f);
		return;
	}
	note_held(f->engine, f->guest, &f->held, held_by(f->protocol, f->stream));
	keep_budget(f->engine, f->guest);
}

static void on_gap(void *arg, unsigned dir, size_t len)
{
	struct flow *f = arg;
	struct discover_ctx ctx = engine_context(f->engine, f->guest, f->frame, f->last_ns);

	if (f->stream && !f->protocol->stream_gap(f->stream, dir_of(dir), len, &ctx))
		flow_sleep(f);
}

static void on_end(void *arg, unsigned dir)
{
	struct flow *f = arg;
	struct discover_ctx ctx = engine_context(f->engine, f->guest, f->frame, f->last_ns);

	if (f->stream && f->protocol->stream_end)
		f->protocol->stream_end(f->stream, dir_of(dir), &ctx);
}

static struct reasm_sink sink_of(struct flow *f)
{
	return (struct reasm_sink){ .data = on_data, .gap = on_gap, .end = on_end, .arg = f };
}

/* After the reassembly has run, never within: a flow that nobody listens to holds nothing. */
static void flow_settle(struct flow *f)
{
	if (f->stream && reasm_ended(&f->reasm))
		flow_sleep(f);
	if (!f->stream)
		reasm_deinit(&f->reasm);
}

static void flow_begin(struct flow *f)
{
	f->stream = f->protocol->stream_new(engine_guest_state(f->guest, f->protocol), &f->key.client, &f->key.server);
	if (!f->stream)
		f->engine->stats.no_memory++;
	reasm_init(&f->reasm, f->engine->limits.max_flow_bytes, &f->guest->budget, &f->engine->counts);
	f->engine->stats.flows++;
}

static struct flow *flow_new(struct engine *e, struct guest *g, const struct discover_protocol *protocol,
			     const struct flow_key *key)
{
	struct flow *f;

	if (g->n_flows >= e->limits.max_flows_per_guest) {
		flow_free(list_first(&g->flows, struct flow, of_guest));
		e->stats.flows_evicted++;
	}
	f = calloc(1, sizeof(*f));
	if (!f || map_add(&e->flows, &f->link, key, sizeof(*key)) < 0) {
		free(f);
		e->stats.no_memory++;
		return NULL;
	}
	f->key = *key;
	f->link.key = &f->key;
	f->engine = e;
	f->guest = g;
	f->protocol = protocol;
	list_append(&g->flows, &f->of_guest);
	g->n_flows++;
	flow_begin(f);
	return f;
}

static struct flow *flow_find(struct engine *e, const struct flow_key *key)
{
	struct map_link *l = map_find(&e->flows, key, sizeof(*key));

	return l ? container_of(l, struct flow, link) : NULL;
}

static void flow_segment(struct flow *f, const struct engine_packet *p, unsigned dir)
{
	struct reasm_segment seg = {
		.dir = dir, .seq = p->tcp_seq, .ack = p->tcp_ack, .flags = p->tcp_flags,
		.data = p->payload, .len = p->len, .wire_len = p->wire_len, .time_ns = p->time_ns,
	};
	struct reasm_sink sink = sink_of(f);

	f->frame = p->frame;
	f->last_ns = p->time_ns;
	list_unlink(&f->of_guest);
	list_append(&f->guest->flows, &f->of_guest);
	if (reasm_is_new_connection(&f->reasm, &seg)) {
		reasm_flush(&f->reasm, &sink);
		flow_sleep(f);
		reasm_deinit(&f->reasm);
		flow_begin(f);
	}
	if (!f->stream)
		return;
	reasm_segment(&f->reasm, &seg, &sink);
	flow_settle(f);
}

/* A packet of nobody's conversation opens a flow only if it can be the start of one, or holds data. */
static bool opens_flow(const struct engine_packet *p)
{
	return p->wire_len || p->tcp_flags & PACKET_TCP_SYN;
}

void flow_take(struct engine *e, const struct engine_packet *p, const struct engine_guest *who,
		     const struct discover_protocol *protocol, enum discover_dir dir)
{
	bool to = dir == DISCOVER_TO_REGISTRY;
	struct flow_key key = { .id = who->id, .client = to ? p->src : p->dst, .server = to ? p->dst : p->src };
	struct flow *f = flow_find(e, &key);
	struct guest *g;

	if (p->wire_len)
		e->stats.segments++;
	if (!f && !opens_flow(p))
		return;
	g = engine_guest_get(e, who);
	if (!f && g)
		f = flow_new(e, g, protocol, &key);
	if (f)
		flow_segment(f, p, to ? 0 : 1);
}

void flow_tick(struct flow *f, uint64_t frame, uint64_t time_ns)
{
	struct reasm_sink sink = sink_of(f);

	if (!f->stream) {
		if (time_ns > f->last_ns + CLOSED_FLOW_MS * 1000000ull)
			flow_free(f);
		return;
	}
	f->frame = frame;
	reasm_expire(&f->reasm, time_ns, &sink);
	flow_settle(f);
}

void flow_flush(struct flow *f)
{
	struct reasm_sink sink = sink_of(f);

	if (f->stream)
		reasm_flush(&f->reasm, &sink);
	flow_settle(f);
}

/* ---- streams of the proxy ---- */

int engine_stream_open(struct engine *e, const struct engine_guest *guest, const struct ip_port *client,
		       const struct ip_port *server, struct engine_stream **ret_stream)
{
	const struct discover_protocol *protocol = engine_protocol_of_port(e, IPPROTO_TCP, server->port);
	struct engine_stream *s;
	struct guest *g;

	if (!protocol)
		return -ENOENT;
	g = engine_guest_get(e, guest);
	s = g ? calloc(1, sizeof(*s)) : NULL;
	if (!s)
		return -ENOMEM;
	*s = (struct engine_stream){ .engine = e, .guest = g, .protocol = protocol };
	s->stream = protocol->stream_new(engine_guest_state(g, protocol), client, server);
	if (!s->stream) {
		free(s);
		return -ENOMEM;
	}
	list_append(&g->streams, &s->of_guest);
	*ret_stream = s;
	return 0;
}

bool engine_stream_data(struct engine_stream *s, enum discover_dir dir, const void *data, size_t len,
			uint64_t frame, uint64_t time_ns)
{
	struct discover_ctx ctx;

	if (!s->stream)
		return false;
	s->engine->now_ns = MAX(s->engine->now_ns, time_ns);
	ctx = engine_context(s->engine, s->guest, frame, time_ns);
	if (!s->protocol->stream_data(s->stream, dir, data, len, &ctx)) {
		s->engine->stats.streams_slept++;
		stream_sleep(s);
		return false;
	}
	note_held(s->engine, s->guest, &s->held, held_by(s->protocol, s->stream));
	keep_budget(s->engine, s->guest);
	return s->stream != NULL;
}

bool engine_stream_gap(struct engine_stream *s, enum discover_dir dir, size_t len, uint64_t frame, uint64_t time_ns)
{
	struct discover_ctx ctx;

	if (!s->stream)
		return false;
	ctx = engine_context(s->engine, s->guest, frame, time_ns);
	s->engine->counts.gaps++;
	s->engine->counts.gap_bytes += len;
	if (s->protocol->stream_gap(s->stream, dir, len, &ctx))
		return true;
	stream_sleep(s);
	return false;
}

void engine_stream_end(struct engine_stream *s, enum discover_dir dir, uint64_t frame, uint64_t time_ns)
{
	struct discover_ctx ctx;

	if (!s->stream || s->ended[dir])
		return;
	s->ended[dir] = true;
	ctx = engine_context(s->engine, s->guest, frame, time_ns);
	if (s->protocol->stream_end)
		s->protocol->stream_end(s->stream, dir, &ctx);
}

struct engine_stream *engine_stream_close(struct engine_stream *s, uint64_t frame, uint64_t time_ns)
{
	if (!s)
		return NULL;
	engine_stream_end(s, DISCOVER_TO_REGISTRY, frame, time_ns);
	engine_stream_end(s, DISCOVER_FROM_REGISTRY, frame, time_ns);
	if (s->guest)
		engine_stream_orphan(s);
	free(s);
	return NULL;
}

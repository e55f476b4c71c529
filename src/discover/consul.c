/*
 * Observer of Consul's HTTP API: what a guest registers, renews, withdraws and
 * asks for, and what it is answered.
 *
 * Writes count when the paired answer is a 2xx; a query counts when it is
 * asked. Sidecars and gateways (Kind) are the mesh's own furniture and are no
 * services here. Tokens are never read.
 */
#include "discover/consul.h"

#include <stdlib.h>

#include "discover/consul_request.h"
#include "proto/json_body.h"

static bool wants(const char *method, const char *path, void *data)
{
	char arg[CONSUL_MAX_ARG];

	(void)data;
	return consul_call_parse(method, path, arg) != CONSUL_OTHER;
}

static void begin(struct consul_request *c, struct consul_stream *s, const struct http_exchange *x, const struct discover_ctx *ctx)
{
	c->s = s;
	c->ctx = ctx;
	c->x = x;
	c->body = NULL;
	c->call = consul_call_parse(x->method, x->path, c->arg);
}

static void on_request(const struct http_exchange *x, const struct discover_ctx *ctx, void *data)
{
	struct consul_request c;

	begin(&c, data, x, ctx);
	if (consul_call_is_query(c.call))
		consul_on_query(&c);
}

static void on_exchange(const struct http_exchange *x, const struct discover_ctx *ctx, void *data)
{
	struct consul_request c;

	if (x->status < 200 || x->status > 299)
		return;
	begin(&c, data, x, ctx);
	if (consul_call_is_query(c.call)) {
		consul_on_answer(&c);
	} else {
		c.body = json_body_parse(x->request_body, x->n_request_body);
		consul_on_write(&c);
		json_decref(c.body);
	}
}

static const struct http_flow_events events = { .wants = wants, .on_request = on_request, .on_exchange = on_exchange };

static void *guest_new(void)
{
	return consul_guest_new();
}

static void guest_free(void *guest)
{
	consul_guest_free(guest);
}

static void stream_free(void *stream)
{
	struct consul_stream *s = stream;

	if (!s)
		return;
	http_flow_free(s->flow);
	consul_guest_free(s->own);
	free(s);
}

static void *stream_new(void *guest, const struct ip_port *client, const struct ip_port *server)
{
	struct consul_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->client = *client;
	s->server = *server;
	s->own = guest ? NULL : consul_guest_new();
	s->guest = guest ? guest : s->own;
	s->flow = http_flow_new(&events, s);
	if (!s->flow || !s->guest) {
		stream_free(s);
		return NULL;
	}
	return s;
}

static bool stream_data(void *stream, enum discover_dir dir, const uint8_t *data, size_t len, const struct discover_ctx *ctx)
{
	struct consul_stream *s = stream;

	return http_flow_data(s->flow, dir, data, len, ctx);
}

static bool stream_gap(void *stream, enum discover_dir dir, size_t len, const struct discover_ctx *ctx)
{
	struct consul_stream *s = stream;

	return http_flow_gap(s->flow, dir, len, ctx);
}

static void stream_end(void *stream, enum discover_dir dir, const struct discover_ctx *ctx)
{
	struct consul_stream *s = stream;

	http_flow_close(s->flow, dir, ctx);
}

static size_t stream_held(const void *stream)
{
	const struct consul_stream *s = stream;

	return http_flow_held(s->flow);
}

const struct discover_protocol discover_consul = {
	.name = "consul",
	.tcp_ports = { 8500 },
	.guest_new = guest_new,
	.guest_free = guest_free,
	.stream_new = stream_new,
	.stream_free = stream_free,
	.stream_data = stream_data,
	.stream_gap = stream_gap,
	.stream_end = stream_end,
	.stream_held = stream_held,
};

/*
 * Observer of DNS: which services a guest looks up, what it is told, and what
 * it writes there (dns_update.c).
 *
 * A user's lookup is several queries: A and AAAA (and HTTPS), each name of the
 * search list, a repetition over TCP, another server. They are gathered into
 * one `struct lookup`, and one discover is made of it, when an answer tells
 * which name it was, or when it is clear that none will. Rules for users:
 * docs/decode.md.
 */
#include "discover/dns.h"

#include <stdlib.h>
#include "base/bytes.h"
#include "discover/dns_lookup.h"

/* A message that is @cut holds the header, the question, and the records that are whole. */
static void take_message(struct dns_guest *g, const uint8_t *data, size_t len, bool cut, const struct ip_port *client,
			 const struct ip_port *server, bool to_server, const struct discover_ctx *ctx)
{
	struct dns_message m;
	struct exchange x = { .guest = g, .message = &m, .client = *client, .server = *server, .ctx = ctx };

	if (!dns_open(&m, data, len)) {
		discover_senseless(ctx);
		return;
	}
	/* NOTIFY and others put other things into the same sections. */
	if ((m.header.opcode != DNS_OPCODE_QUERY && m.header.opcode != DNS_OPCODE_UPDATE) || m.header.response == to_server)
		return;
	if (cut && m.header.opcode == DNS_OPCODE_UPDATE && to_server)
		return;
	if (!cut && !dns_check(&m)) {
		discover_senseless(ctx);
		return;
	}
	if (m.header.opcode == DNS_OPCODE_UPDATE && to_server)
		dns_take_update(&g->updates, &m, client, server);
	else if (m.header.opcode == DNS_OPCODE_UPDATE)
		dns_take_update_response(&g->updates, &m, client, server, ctx);
	else if (to_server)
		dns_take_query(&x);
	else
		dns_take_response(&x);
}

static void expire(void *guest, const struct discover_ctx *ctx, bool all)
{
	struct dns_guest *g = guest;

	list_for_each_safe(i, &g->lookups) {
		struct lookup *l = list_entry(i, struct lookup, link);
		uint64_t quiet_ms = dns_ms_since(ctx->time_ns, l->last_ns);
		uint64_t patience_ms = l->refused && l->settled == l->asked ? SETTLE_MS : UNANSWERED_MS;

		if (all || quiet_ms >= patience_ms)
			lookup_report(l, ctx);
		if (quiet_ms >= REMEMBER_MS)
			lookup_drop(g, l);
	}
	dns_expire_held(g, ctx, all);
}

static void dns_tick(void *guest, const struct discover_ctx *ctx)
{
	expire(guest, ctx, false);
}

static void dns_flush(void *guest, const struct discover_ctx *ctx)
{
	expire(guest, ctx, true);
}

static void dns_datagram(void *guest, const struct datagram *d, const struct discover_ctx *ctx)
{
	bool to_server = d->dir == DISCOVER_TO_REGISTRY;

	take_message(guest, d->data, d->len, d->cut, to_server ? &d->src : &d->dst, to_server ? &d->dst : &d->src, to_server, ctx);
}

static void *dns_guest_new(void)
{
	struct dns_guest *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	list_init(&g->lookups);
	list_init(&g->queries);
	list_init(&g->held);
	dns_updates_init(&g->updates);
	return g;
}

static void dns_guest_free(void *guest)
{
	struct dns_guest *g = guest;

	list_for_each_safe(i, &g->lookups)
		lookup_drop(g, list_entry(i, struct lookup, link));
	list_for_each_safe(i, &g->held)
		held_drop(g, list_entry(i, struct held, link));
	dns_updates_deinit(&g->updates);
	free(g);
}

/* RFC 7766: messages with their length in front. */
struct dns_stream {
	struct dns_guest *guest;
	struct ip_port client;
	struct ip_port server;
	struct bytes in[2];
};

static void *dns_stream_new(void *guest, const struct ip_port *client, const struct ip_port *server)
{
	struct dns_stream *s = guest ? calloc(1, sizeof(*s)) : NULL;

	if (!s)
		return NULL;
	s->guest = guest;
	s->client = *client;
	s->server = *server;
	for (unsigned i = 0; i < 2; i++)
		bytes_init(&s->in[i], 2 + UINT16_MAX);
	return s;
}

static void dns_stream_free(void *stream)
{
	struct dns_stream *s = stream;

	for (unsigned i = 0; i < 2; i++)
		bytes_deinit(&s->in[i]);
	free(s);
}

static bool stream_messages(struct dns_stream *s, enum discover_dir dir, const struct discover_ctx *ctx)
{
	struct bytes *in = &s->in[dir];

	while (in->len >= 2) {
		size_t len = (size_t)in->data[0] << 8 | in->data[1];

		if (len < DNS_HEADER_LEN)
			return false;
		if (in->len < 2 + len)
			break;
		take_message(s->guest, in->data + 2, len, false, &s->client, &s->server, dir == DISCOVER_TO_REGISTRY, ctx);
		bytes_consume(in, 2 + len);
	}
	return true;
}

static bool dns_stream_data(void *stream, enum discover_dir dir, const uint8_t *data, size_t len, const struct discover_ctx *ctx)
{
	struct dns_stream *s = stream;
	struct bytes *in = &s->in[dir];

	while (len) {
		size_t part = MIN(len, in->max - in->len);

		if (bytes_append(in, data, part) < 0 || !stream_messages(s, dir, ctx))
			return false;
		data += part;
		len -= part;
	}
	return true;
}

/* A message has no mark to find its beginning by. Joined late, the first segment is hoped to begin one. */
static bool dns_stream_gap(void *stream, enum discover_dir dir, size_t len, const struct discover_ctx *ctx)
{
	(void)stream;
	(void)dir;
	(void)ctx;
	return len == 0;
}

static size_t dns_stream_held(const void *stream)
{
	const struct dns_stream *s = stream;

	return s->in[DISCOVER_TO_REGISTRY].len + s->in[DISCOVER_FROM_REGISTRY].len;
}

const struct discover_protocol discover_dns = {
	.name = "dns",
	.udp_ports = { 53, 8600 },
	.tcp_ports = { 53, 8600 },
	.takes_cut = true,
	.guest_new = dns_guest_new,
	.guest_free = dns_guest_free,
	.datagram = dns_datagram,
	.stream_new = dns_stream_new,
	.stream_free = dns_stream_free,
	.stream_data = dns_stream_data,
	.stream_gap = dns_stream_gap,
	.stream_held = dns_stream_held,
	.tick = dns_tick,
	.flush = dns_flush,
};

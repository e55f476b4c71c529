#pragma once
/*
 * Plays a conversation to an observer and writes down what it saw, one line an
 * observation, so that a test can compare text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "discover/protocol.h"

struct observe {
	const struct discover_protocol *protocol;
	void *guest;
	void *stream;
	struct bytes text;
	uint64_t time_ns;
	uint64_t frame;
	size_t step;		/* bytes fed at once; 0: all */
};

static void observe_add(struct bytes *b, const char *s)
{
	if (bytes_append_str(b, s) < 0)
		abort();
}

/* "register orders/orders-1 10.0.0.1:8080 passing ttl=30 a=b" */
static void observe_emit(const struct observation *o, void *data)
{
	static const char *const kinds[] = { "register", "renew", "deregister", "discover", "answer" };
	static const char *const healths[] = { "", " passing", " warning", " critical" };
	struct observe *ob = data;
	char line[256], address[IP_TEXT_LEN] = "-";

	if (!ip_is_none(&o->address))
		ip_format(&o->address, address);
	observe_add(&ob->text, kinds[o->kind]);
	snprintf(line, sizeof(line), " %s/%s %s:%u%s", o->service ? o->service : "-", o->instance ? o->instance : "-",
		 o->host ? o->host : address, o->port, healths[o->health]);
	observe_add(&ob->text, line);
	if (o->ttl_s) {
		snprintf(line, sizeof(line), " ttl=%u", o->ttl_s);
		observe_add(&ob->text, line);
	}
	for (size_t i = 0; i < o->n_metadata; i++) {
		observe_add(&ob->text, " ");
		observe_add(&ob->text, o->metadata[i].key);
		observe_add(&ob->text, "=");
		observe_add(&ob->text, o->metadata[i].value);
	}
	observe_add(&ob->text, "\n");
}

static struct discover_ctx observe_ctx(struct observe *o)
{
	static const uint8_t guest[4] = { 10, 0, 0, 9 };

	return (struct discover_ctx){ .guest = ip_from_v4(guest), .frame = ++o->frame, .time_ns = o->time_ns,
				      .emit = observe_emit, .emit_data = o };
}

static void observe_connect(struct observe *o)
{
	static const uint8_t client[4] = { 10, 0, 0, 9 }, server[4] = { 10, 0, 0, 1 };
	struct ip_port c = { ip_from_v4(client), 40000 }, s = { ip_from_v4(server), o->protocol->tcp_ports[0] };

	if (o->stream)
		o->protocol->stream_free(o->stream);
	o->stream = o->protocol->stream_new(o->guest, &c, &s);
}

static void observe_init(struct observe *o, const struct discover_protocol *protocol, size_t step)
{
	*o = (struct observe){ .protocol = protocol, .step = step, .time_ns = 1000000000 };
	bytes_init(&o->text, 1024 * 1024);
	o->guest = protocol->guest_new();
	observe_connect(o);
}

static void observe_deinit(struct observe *o)
{
	o->protocol->stream_free(o->stream);
	o->protocol->guest_free(o->guest);
	bytes_deinit(&o->text);
}

static bool observe_feed(struct observe *o, enum discover_dir dir, const void *data, size_t len)
{
	const uint8_t *p = data;
	bool more = true;

	while (len && more) {
		size_t n = o->step && o->step < len ? o->step : len;
		struct discover_ctx ctx = observe_ctx(o);

		/* A copy of exactly that size: what reads over its end is found by ASan. */
		uint8_t *copy = malloc(n);
		if (!copy)
			abort();
		memcpy(copy, p, n);
		more = o->protocol->stream_data(o->stream, dir, copy, n, &ctx);
		free(copy);
		p += n;
		len -= n;
	}
	return more;
}

static inline bool observe_client(struct observe *o, const char *text)
{
	return observe_feed(o, DISCOVER_TO_REGISTRY, text, strlen(text));
}

static inline bool observe_server(struct observe *o, const char *text)
{
	return observe_feed(o, DISCOVER_FROM_REGISTRY, text, strlen(text));
}

/* What was seen since the last time. Belongs to @o until the next call. */
static inline const char *observe_text(struct observe *o)
{
	static char text[64 * 1024];

	snprintf(text, sizeof(text), "%.*s", (int)o->text.len, o->text.data ? (const char *)o->text.data : "");
	bytes_clear(&o->text);
	return text;
}

#pragma once
/*
 * Fuzz input as a conversation: records of one byte (direction, or what
 * happens), two bytes of length, and that many bytes; fed to one observer, with
 * what it emits checked for what observation.h promises.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "discover/protocol.h"
#include "base/utf8.h"

enum { TO = 0, FROM = 1, GAP_TO = 2, GAP_FROM = 3, RECONNECT = 4, WAIT = 5, END_TO = 6, END_FROM = 7, _N_RECORDS = 8 };

static void check_text(const char *s)
{
	if (s && (!*s || strlen(s) > OBS_MAX_STR || !utf8_is_clean(s, strlen(s))))
		abort();
}

static void check(const struct observation *o, void *data)
{
	(void)data;
	if (!o->protocol || o->kind >= _OBS_KIND_N || o->n_metadata > OBS_MAX_METADATA)
		abort();
	check_text(o->service);
	check_text(o->instance);
	check_text(o->host);
	check_text(o->app_protocol);
	for (size_t i = 0; i < o->n_metadata; i++) {
		check_text(o->metadata[i].key);
		if (!o->metadata[i].value || !utf8_is_clean(o->metadata[i].value, strlen(o->metadata[i].value)))
			abort();
	}
}

static void converse(const struct discover_protocol *p, const uint8_t *data, size_t size)
{
	struct discover_ctx ctx = { .frame = 1, .time_ns = 1, .emit = check };
	struct ip_port end = {};
	void *guest = p->guest_new();
	void *stream = p->stream_new(guest, &end, &end);
	bool more = true;

	while (size >= 3) {
		unsigned what = data[0] % _N_RECORDS;
		size_t len = (size_t)data[1] << 8 | data[2];
		uint8_t *copy;

		data += 3;
		size -= 3;
		if (what <= FROM && len > size)
			len = size;
		if (what <= FROM && more && (copy = malloc(len ? len : 1))) {
			memcpy(copy, data, len);
			more = p->stream_data(stream, what == TO ? DISCOVER_TO_REGISTRY : DISCOVER_FROM_REGISTRY, copy, len, &ctx);
			free(copy);
		} else if ((what == GAP_TO || what == GAP_FROM) && more) {
			more = p->stream_gap(stream, what == GAP_TO ? DISCOVER_TO_REGISTRY : DISCOVER_FROM_REGISTRY, len, &ctx);
		} else if (what == END_TO || what == END_FROM) {
			p->stream_end(stream, what == END_TO ? DISCOVER_TO_REGISTRY : DISCOVER_FROM_REGISTRY, &ctx);
		} else if (what == RECONNECT) {
			p->stream_free(stream);
			stream = p->stream_new(guest, &end, &end);
			more = true;
		} else if (what == WAIT) {
			ctx.time_ns += len * 1000000ULL;
			if (p->tick)
				p->tick(guest, &ctx);
		}
		if (what <= FROM) {
			data += len;
			size -= len;
		}
	}
	p->stream_free(stream);
	p->guest_free(guest);
}

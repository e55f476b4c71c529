/*
 * HTTP/1 messages: whole and in single bytes they must be framed alike.
 */
#include <stdint.h>
#include <stdlib.h>

#include "proto/http1.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct sum {
	uint64_t body;
	unsigned heads;
	unsigned ends;
	int error;
};

static void read_head(const struct http1 *p)
{
	struct http1_str name, value;
	size_t pos = 0;

	while (http1_header_next(&p->head, &pos, &name, &value))
		if (value.len > p->head.fields.len)
			abort();
}

static void feed(struct http1 *p, const uint8_t *data, size_t size, struct sum *s)
{
	while (!s->error) {
		struct http1_event ev;
		size_t used;

		s->error = http1_parse(p, data, size, &used, &ev);
		if (used > size)
			abort();
		if (s->error || ev.type == HTTP1_NEED_MORE)
			return;
		if (ev.type == HTTP1_HEAD) {
			read_head(p);
			s->heads++;
		}
		s->ends += ev.type == HTTP1_END;
		s->body += ev.len;
		data += used;
		size -= used;
	}
}

static struct sum run(const uint8_t *data, size_t size, size_t step, enum http1_kind kind, bool strict, bool resync)
{
	struct sum s = {};
	struct http1 p;

	http1_init(&p, kind, strict);
	if (resync)
		http1_resync(&p);
	for (size_t at = 0; at < size && !s.error; at += step)
		feed(&p, data + at, step < size - at ? step : size - at, &s);
	http1_deinit(&p);
	return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;

	enum http1_kind kind = data[0] & 1 ? HTTP1_RESPONSE : HTTP1_REQUEST;
	struct sum whole = run(data + 1, size - 1, size, kind, data[0] & 2, data[0] & 4);
	struct sum single = run(data + 1, size - 1, 1, kind, data[0] & 2, data[0] & 4);

	if (whole.heads != single.heads || whole.ends != single.ends || whole.body != single.body || !whole.error != !single.error)
		abort();
	return 0;
}

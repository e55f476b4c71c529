/*
 * Reassembly as a script: each 8 bytes are a segment (direction and flags,
 * sequence number near the stream's, length, acknowledgement, time). The data
 * of a sequence number is a function of it, so that what is delivered can be
 * checked: in order, nothing twice, nothing invented, within the limits.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "discover/reasm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_FLOW = 2048, MAX_ALL = 3000, STEP_LEN = 8 };

struct check {
	bool started[2];
	bool ended[2];
	uint32_t next[2];
};

static uint8_t byte_at(uint32_t seq)
{
	return (uint8_t)(seq * 2654435761u >> 24);
}

static void on_data(void *arg, unsigned dir, const uint8_t *data, size_t len)
{
	struct check *c = arg;

	if (!len || c->ended[dir])
		abort();
	if (!c->started[dir])
		c->next[dir] = 0;
	for (size_t i = 0; c->started[dir] && i < len; i++)
		if (data[i] != byte_at(c->next[dir] + (uint32_t)i))
			abort();
	c->next[dir] += (uint32_t)len;
}

static void on_gap(void *arg, unsigned dir, size_t len)
{
	struct check *c = arg;

	if (c->ended[dir])
		abort();
	c->next[dir] += (uint32_t)len;
}

static void on_end(void *arg, unsigned dir)
{
	struct check *c = arg;

	if (c->ended[dir])
		abort();
	c->ended[dir] = true;
}

static void step(struct reasm *r, struct check *c, const struct reasm_sink *sink, const uint8_t *op, uint64_t *now)
{
	static uint8_t bytes[256];
	struct reasm_segment seg = {
		.dir = op[0] & 1,
		.flags = (op[0] >> 1 & 7) | (op[0] & 0x10),
		.seq = 0xfffffe00u + (uint32_t)(op[1] << 8 | op[2]) % 4096,
		.ack = 0xfffffe00u + (uint32_t)(op[3] << 8 | op[4]) % 4096,
		.len = op[5],
		.data = bytes,
	};

	/* FIN, SYN, RST rarely */
	if (op[0] >> 5)
		seg.flags &= REASM_ACK;
	seg.wire_len = seg.len + (op[6] > 250 ? op[6] - 250u : 0);
	*now += (uint64_t)op[7] * 4000000;
	seg.time_ns = *now;
	for (size_t i = 0; i < seg.len; i++)
		bytes[i] = byte_at(seg.seq + !!(seg.flags & REASM_SYN) + (uint32_t)i);
	if (!c->started[seg.dir] && (seg.flags & (REASM_SYN | REASM_FIN) || seg.wire_len) && !r->sides[seg.dir].started) {
		c->started[seg.dir] = true;
		c->next[seg.dir] = seg.seq + !!(seg.flags & REASM_SYN);
	}
	reasm_segment(r, &seg, sink);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reasm_budget all = { .max = MAX_ALL };
	struct reasm_budget guest = { .parent = &all, .max = MAX_ALL };
	struct reasm_counts counts = {};
	struct check c = {};
	struct reasm_sink sink = { on_data, on_gap, on_end, &c };
	struct reasm r;
	uint64_t now = 1;

	reasm_init(&r, MAX_FLOW, &guest, &counts);
	for (; size >= STEP_LEN; size -= STEP_LEN, data += STEP_LEN) {
		step(&r, &c, &sink, data, &now);
		if (r.sides[0].bytes > MAX_FLOW || r.sides[1].bytes > MAX_FLOW || all.used > MAX_ALL ||
		    all.used != r.sides[0].bytes + r.sides[1].bytes)
			abort();
	}
	reasm_flush(&r, &sink);
	if (all.used)
		abort();
	reasm_deinit(&r);
	return 0;
}

#include "lib/unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/defs.h"
#include "discover/reasm.h"

/* What came out, as text: client's bytes, then server's in brackets, gaps as <n>, ends as $. */
struct heard {
	char text[4096];
};

static void say(struct heard *h, unsigned dir, const char *text, size_t len)
{
	size_t at = strlen(h->text);

	assert_true(at + len + 3 < sizeof(h->text));
	snprintf(h->text + at, sizeof(h->text) - at, dir ? "[%.*s]" : "%.*s", (int)len, text);
}

static void on_data(void *arg, unsigned dir, const uint8_t *data, size_t len)
{
	say(arg, dir, (const char *)data, len);
}

static void on_gap(void *arg, unsigned dir, size_t len)
{
	char text[32];

	say(arg, dir, text, (size_t)snprintf(text, sizeof(text), "<%zu>", len));
}

static void on_end(void *arg, unsigned dir)
{
	say(arg, dir, "$", 1);
}

enum { S = REASM_SYN, F = REASM_FIN, R = REASM_RST, A = REASM_ACK };

struct line {
	unsigned dir;
	uint8_t flags;
	uint32_t seq;
	uint32_t ack;
	const char *data;	/* NULL ends */
	unsigned ms;		/* time since the line before */
	unsigned cut;		/* bytes that the capture left out */
};

static struct reasm_budget all, guest;
static struct reasm_counts counts;

static void play(struct reasm *r, struct heard *h, const struct line *lines, uint32_t base)
{
	struct reasm_sink sink = { on_data, on_gap, on_end, h };
	uint64_t now = 1000000000;

	for (; lines->data; lines++) {
		struct reasm_segment seg = {
			.dir = lines->dir, .flags = lines->flags, .seq = base + lines->seq, .ack = base + lines->ack,
			.data = (const uint8_t *)lines->data, .len = strlen(lines->data),
			.wire_len = strlen(lines->data) + lines->cut,
		};

		now += (uint64_t)lines->ms * 1000000;
		seg.time_ns = now;
		reasm_segment(r, &seg, &sink);
	}
}

static void run(const struct line *lines, size_t max, bool flush, const char *expected)
{
	static const uint32_t bases[] = { 0, 1000, 0xfffffffa, 0xfffffff0, 0x7ffffffb };

	for (size_t i = 0; i < ELEMENTS(bases); i++) {
		struct heard h = {};
		struct reasm_sink sink = { on_data, on_gap, on_end, &h };
		struct reasm r;

		all = (struct reasm_budget){ .max = 1 << 20 };
		guest = (struct reasm_budget){ .parent = &all, .max = 1 << 20 };
		counts = (struct reasm_counts){};
		reasm_init(&r, max, &guest, &counts);
		play(&r, &h, lines, bases[i]);
		if (flush)
			reasm_flush(&r, &sink);
		assert_string_equal(h.text, expected);
		reasm_deinit(&r);
		assert_int_equal(all.used, 0);
	}
}

enum { BIG = 1 << 16 };
#define RUN(expected, ...) run((const struct line[]){ __VA_ARGS__, {} }, BIG, false, expected)
#define HANDSHAKE { 0, S, 0, 0, "" }, { 1, S | A, 0, 1, "" }, { 0, A, 1, 1, "" }

static void a_conversation_comes_out_in_order(void **state)
{
	(void)state;
	RUN("GET[200]$[$]", HANDSHAKE, { 0, A, 1, 1, "GET" }, { 1, A, 1, 4, "200" }, { 0, F | A, 4, 4, "" }, { 1, F | A, 4, 5, "" });
}

static void copies_are_swallowed(void **state)
{
	(void)state;
	RUN("GETmore[200]", HANDSHAKE, HANDSHAKE, { 0, A, 1, 1, "GET" }, { 0, A, 1, 1, "GET" }, { 0, A, 2, 1, "ET" },
	    { 0, A, 3, 1, "Tmore" }, { 1, A, 1, 8, "200" }, { 1, A, 1, 8, "200" });
}

static void the_first_copy_counts(void **state)
{
	(void)state;
	RUN("abXdeXfgh", HANDSHAKE, { 0, A, 4, 1, "de" }, { 0, A, 3, 1, "XXXXfgh" }, { 0, A, 1, 1, "abc" }, { 0, A, 1, 1, "ZZZZZ" },
	    { 0, A, 6, 1, "" });
}

static void any_order_will_do(void **state)
{
	(void)state;
	RUN("abcdef", HANDSHAKE, { 0, A, 5, 1, "ef" }, { 0, A, 3, 1, "cd" }, { 0, A, 1, 1, "ab" });
	RUN("abcdef$", HANDSHAKE, { 0, F | A, 7, 1, "" }, { 0, A, 3, 1, "cdef" }, { 0, A, 1, 1, "ab" });
}

static void an_answer_waits_for_its_request(void **state)
{
	(void)state;
	RUN("GET[200]", HANDSHAKE, { 1, A, 1, 4, "200" }, { 0, A, 1, 1, "GET" });
}

static void what_the_peer_has_is_not_waited_for_long(void **state)
{
	(void)state;
	RUN("", HANDSHAKE, { 1, A, 1, 4, "200" }, { 1, A, 4, 4, "", 199 });
	RUN("<3>[200]", HANDSHAKE, { 1, A, 1, 4, "200" }, { 1, A, 4, 4, "", 200 });
	RUN("ab<2>ef", HANDSHAKE, { 0, A, 1, 1, "ab" }, { 0, A, 5, 1, "ef" }, { 1, A, 1, 7, "" }, { 1, A, 1, 7, "", 200 });
	RUN("ab", HANDSHAKE, { 0, A, 1, 1, "ab" }, { 0, A, 5, 1, "ef" }, { 1, A, 1, 3, "", 14000 });
	RUN("ab<2>ef", HANDSHAKE, { 0, A, 1, 1, "ab" }, { 0, A, 5, 1, "ef" }, { 1, A, 1, 3, "", 15000 });
}

static void bytes_cut_off_by_the_capture_are_a_gap(void **state)
{
	(void)state;
	RUN("ab<2>ef", HANDSHAKE, { 0, A, 1, 1, "ab", 0, 2 }, { 0, A, 5, 1, "ef" });
}

static void a_stream_may_be_joined_in_the_middle(void **state)
{
	(void)state;
	RUN("<0>ab[<0>][200]", { 0, A, 100, 50, "ab" }, { 1, A, 50, 102, "200" });
	RUN("<0>ab", { 0, A, 100, 50, "ab" }, { 0, S, 99, 0, "" });
}

static void a_reset_ends_both_directions(void **state)
{
	(void)state;
	RUN("GET$[$]", HANDSHAKE, { 0, A, 1, 1, "GET" }, { 1, R | A, 1, 4, "" }, { 0, A, 4, 1, "x" });
	RUN("<2>cd$[$]", HANDSHAKE, { 0, A, 3, 1, "cd" }, { 1, R | A, 1, 4, "" });
}

static void strangers_are_not_of_the_stream(void **state)
{
	(void)state;
	RUN("ab", HANDSHAKE, { 0, A, 1, 1, "ab" }, { 0, A, 0x40000000, 1, "zz" }, { 0, A, 0xc0000000, 1, "zz" });
	assert_int_equal(counts.out_of_window, 2);
	RUN("abcd", HANDSHAKE, { 0, A, 1, 1, "ab" }, { 1, A, 1, 0x50000000, "" }, { 0, A, 3, 1, "cd", 10000 });
}

static void a_full_window_gives_the_hole_up(void **state)
{
	static const struct line lines[] = {
		HANDSHAKE, { 0, A, 11, 1, "aaaaaaaaaa" }, { 0, A, 31, 1, "bbbbbbbbbb" }, { 0, A, 51, 1, "cccccccccc" }, {}
	};

	(void)state;
	run(lines, 110, false, "<10>aaaaaaaaaa");
	run(lines, 110, true, "<10>aaaaaaaaaa<10>bbbbbbbbbb<10>cccccccccc");
	run(lines, 10, true, "");	/* no room at all: the bytes are lost, nothing breaks */
}

static void acknowledgements_that_cannot_be_true_do_no_harm(void **state)
{
	static const struct line lines[] = { HANDSHAKE, { 0, A, 1, 9, "ab" }, { 1, A, 1, 9, "cd" }, {} };

	(void)state;
	run(lines, BIG, true, "ab<6>[cd][<6>]");
}

static void a_new_connection_is_told_from_a_late_syn(void **state)
{
	static const struct line lines[] = { HANDSHAKE, { 0, A, 1, 1, "ab" }, {} };
	struct reasm_segment syn = { .flags = REASM_SYN };
	struct heard h = {};
	struct reasm r;

	(void)state;
	all = (struct reasm_budget){ .max = BIG };
	reasm_init(&r, BIG, &all, &counts);
	play(&r, &h, lines, 7000);
	syn.seq = 7000;
	assert_false(reasm_is_new_connection(&r, &syn));
	syn.seq = 7100;
	assert_true(reasm_is_new_connection(&r, &syn));
	syn.flags = REASM_ACK;
	assert_false(reasm_is_new_connection(&r, &syn));
	reasm_deinit(&r);
}

/* Any order, any cuts, copies of everything: the same bytes, whatever is drawn. */
static void shuffled_segments_make_the_same_stream(void **state)
{
	static uint8_t stream[5000];

	(void)state;
	srandom(7);
	for (size_t i = 0; i < sizeof(stream); i++)
		stream[i] = (uint8_t)('a' + random() % 26);
	for (unsigned round = 0; round < 200; round++) {
		struct { size_t at, len; } cuts[400];
		struct heard h = {};
		struct reasm_sink sink = { on_data, on_gap, on_end, &h };
		struct reasm r;
		size_t n = 0, size = 3000;

		for (size_t at = 0; at < size; n++) {
			size_t len = MIN((size_t)(1 + random() % 60), size - at);

			cuts[n].at = at;
			cuts[n].len = MIN(len + (size_t)(random() % 20), size - at);
			at += len;
		}
		for (size_t i = 0; i < n; i++) {
			size_t j = (size_t)random() % n;
			__typeof__(cuts[0]) swap = cuts[i];

			cuts[i] = cuts[j];
			cuts[j] = swap;
		}
		all = (struct reasm_budget){ .max = BIG };
		reasm_init(&r, BIG, &all, &counts);
		play(&r, &h, (const struct line[]){ HANDSHAKE, {} }, 0xfffffc00u);
		for (size_t i = 0; i < n; i++) {
			struct reasm_segment seg = {
				.seq = 0xfffffc01u + (uint32_t)cuts[i].at, .flags = REASM_ACK, .ack = 0xfffffc01u,
				.data = stream + cuts[i].at, .len = cuts[i].len, .wire_len = cuts[i].len, .time_ns = 1000000000,
			};

			reasm_segment(&r, &seg, &sink);
			if (random() % 4 == 0)
				reasm_segment(&r, &seg, &sink);
		}
		assert_int_equal(strlen(h.text), size);
		assert_memory_equal(h.text, stream, size);
		reasm_deinit(&r);
		assert_int_equal(all.used, 0);
	}
}

static void count_data(void *arg, unsigned dir, const uint8_t *data, size_t len)
{
	(void)dir;
	(void)data;
	*(size_t *)arg += len;
}

static void count_gap(void *arg, unsigned dir, size_t len)
{
	(void)arg;
	(void)dir;
	(void)len;
}

static void count_end(void *arg, unsigned dir)
{
	(void)arg;
	(void)dir;
}

/* Every other byte alone: none is compared with all that came before it. */
static void there_are_not_too_many_pieces(void **state)
{
	enum { N = 5000 };
	size_t heard = 0;
	struct reasm_sink sink = { count_data, count_gap, count_end, &heard };
	struct reasm r;

	(void)state;
	all = (struct reasm_budget){ .max = 64 << 20 };
	guest = (struct reasm_budget){ .parent = &all, .max = 64 << 20 };
	reasm_init(&r, 64 << 20, &guest, &counts);
	for (uint32_t i = 0; i <= N; i++) {
		struct reasm_segment seg = { .flags = i ? A : S, .seq = 2 * i, .data = (const uint8_t *)"x", .len = i > 0, .wire_len = i > 0, .time_ns = 1000000000 };

		reasm_segment(&r, &seg, &sink);
		assert_true(r.sides[0].n_pieces <= REASM_MAX_PIECES);
	}
	assert_int_equal(heard, N - REASM_MAX_PIECES);
	reasm_flush(&r, &sink);
	assert_int_equal(heard, N);
	assert_int_equal(r.sides[0].n_pieces, 0);
	assert_int_equal(guest.used, 0);
	reasm_deinit(&r);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_conversation_comes_out_in_order),
		cmocka_unit_test(copies_are_swallowed),
		cmocka_unit_test(the_first_copy_counts),
		cmocka_unit_test(any_order_will_do),
		cmocka_unit_test(an_answer_waits_for_its_request),
		cmocka_unit_test(what_the_peer_has_is_not_waited_for_long),
		cmocka_unit_test(bytes_cut_off_by_the_capture_are_a_gap),
		cmocka_unit_test(a_stream_may_be_joined_in_the_middle),
		cmocka_unit_test(a_reset_ends_both_directions),
		cmocka_unit_test(strangers_are_not_of_the_stream),
		cmocka_unit_test(a_full_window_gives_the_hole_up),
		cmocka_unit_test(acknowledgements_that_cannot_be_true_do_no_harm),
		cmocka_unit_test(a_new_connection_is_told_from_a_late_syn),
		cmocka_unit_test(there_are_not_too_many_pieces),
		cmocka_unit_test(shuffled_segments_make_the_same_stream),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

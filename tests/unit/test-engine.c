#include "lib/unit.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include "base/defs.h"
#include "discover/engine.h"
#include "proto/inflate.h"
#include "proto/json_body.h"
#include "proto/packet.h"

/* What was emitted, a line each. */
static char heard[8192];

static void on_observation(const struct observation *o, void *data)
{
	char guest[IP_TEXT_LEN], address[IP_TEXT_LEN];
	size_t at = strlen(heard);

	(void)data;
	snprintf(heard + at, sizeof(heard) - at, "%s %s %s %s\n", observation_kind_name(o->kind), o->service,
		 ip_is_none(&o->address) ? "-" : ip_format(&o->address, address), ip_format(&o->guest, guest));
}

static struct engine *start(const struct engine_limits *limits)
{
	struct engine *e = NULL;

	heard[0] = 0;
	assert_int_equal(engine_new(limits, on_observation, NULL, &e), 0);
	return e;
}

static struct ip_port addr(const char *text)
{
	struct ip_port a = {};

	assert_int_equal(ip_port_parse(text, &a), 0);
	return a;
}

static struct engine_guest guest(uint64_t id, const char *address)
{
	struct engine_guest g = { .id = id };

	assert_int_equal(ip_parse(address, &g.address), 0);
	return g;
}

static const uint8_t query[] = {
	0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, 'a', 'p', 'i', 1, 'x', 0, 0, 1, 0, 1,
};
static const uint8_t answer[] = {
	0, 7, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 3, 'a', 'p', 'i', 1, 'x', 0, 0, 1, 0, 1,
	0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 9, 9, 9,
};
enum { ANSWER_ID = 1 };

/* Announces w._http._tcp.local on h.local:80, with the address in its last 4 bytes and the TTL of the PTR and SRV at [TTLS]. */
static const uint8_t announcement[] = {
	0, 0, 0x84, 0, 0, 0, 0, 4, 0, 0, 0, 0,
	/* 12 */ 5, '_', 'h', 't', 't', 'p', 4, '_', 't', 'c', 'p', 5, 'l', 'o', 'c', 'a', 'l', 0, 0, 12, 0, 1, 0, 0, 0, 120, 0, 4, 1, 'w', 0xc0, 12,
	/* 44 */ 0xc0, 40, 0, 33, 0x80, 1, 0, 0, 0, 120, 0, 10, 0, 0, 0, 0, 0, 80, 1, 'h', 0xc0, 23,
	/* 66 */ 0xc0, 40, 0, 16, 0x80, 1, 0, 0, 0, 120, 0, 1, 0,
	/* 79 */ 0xc0, 62, 0, 1, 0x80, 1, 0, 0, 0, 120, 0, 4, 10, 0, 0, 1,
};
enum { PTR_TTL = 37, SRV_TTL = 53 };

struct feed {
	struct engine *e;
	uint64_t frame;
	uint64_t now_ms;
};

static void udp(struct feed *f, const char *src, const char *dst, const uint8_t *data, size_t len, struct engine_guest g, bool from_guest)
{
	struct engine_packet p = {
		.src = addr(src), .dst = addr(dst), .ip_proto = IPPROTO_UDP, .payload = data, .len = len, .wire_len = len,
		.guest = g, .from_guest = from_guest, .frame = ++f->frame, .time_ns = ++f->now_ms * 1000000,
	};

	engine_packet(f->e, &p);
}

static void tcp(struct feed *f, const char *src, const char *dst, uint8_t flags, uint32_t seq, uint32_t ack, const void *data, size_t len,
		struct engine_guest g, bool from_guest)
{
	struct engine_packet p = {
		.src = addr(src), .dst = addr(dst), .ip_proto = IPPROTO_TCP, .tcp_flags = flags, .tcp_seq = seq, .tcp_ack = ack,
		.payload = data, .len = len, .wire_len = len, .guest = g, .from_guest = from_guest,
		.frame = ++f->frame, .time_ns = ++f->now_ms * 1000000,
	};

	engine_packet(f->e, &p);
}

#define VM "10.0.0.1:40000"
#define DNS "10.0.0.2:53"

static void a_lookup_of_a_guest_is_reported(void **state)
{
	struct feed f = { start(NULL) };
	struct engine_guest g = guest(5, "10.0.0.1");

	(void)state;
	udp(&f, VM, DNS, query, sizeof(query), g, true);
	udp(&f, DNS, VM, answer, sizeof(answer), g, false);
	udp(&f, DNS, VM, answer, sizeof(answer), g, false);
	assert_string_equal(heard, "discover api.x - 10.0.0.1\nanswer api.x 10.9.9.9 10.0.0.1\n");
	engine_free(f.e);
}

static void the_same_frames_on_the_registrys_port_count_once(void **state)
{
	struct feed f = { start(NULL) };
	struct engine_guest client = guest(5, "10.0.0.1"), server = guest(6, "10.0.0.2");

	(void)state;
	udp(&f, VM, DNS, query, sizeof(query), client, true);
	udp(&f, VM, DNS, query, sizeof(query), server, false);
	udp(&f, DNS, VM, answer, sizeof(answer), server, true);
	udp(&f, DNS, VM, answer, sizeof(answer), client, false);
	assert_string_equal(heard, "discover api.x - 10.0.0.1\nanswer api.x 10.9.9.9 10.0.0.1\n");
	assert_int_equal(engine_stats(f.e)->n_guests, 1);
	assert_int_equal(engine_stats(f.e)->ignored, 2);
	engine_free(f.e);
}

static void an_answer_must_fit_its_question(void **state)
{
	struct engine_guest g = guest(5, "10.0.0.1");
	uint8_t other_id[sizeof(answer)], other_name[sizeof(answer)];
	struct feed f = { start(NULL) };

	(void)state;
	memcpy(other_id, answer, sizeof(answer));
	other_id[ANSWER_ID]++;
	memcpy(other_name, answer, sizeof(answer));
	other_name[13] = 'b';
	udp(&f, DNS, VM, answer, sizeof(answer), g, false);		/* before any question */
	udp(&f, VM, DNS, query, sizeof(query), g, true);
	udp(&f, DNS, VM, other_id, sizeof(answer), g, false);
	udp(&f, DNS, VM, other_name, sizeof(answer), g, false);
	udp(&f, "10.0.0.3:53", VM, answer, sizeof(answer), g, false);
	udp(&f, DNS, "10.0.0.1:40001", answer, sizeof(answer), g, false);
	udp(&f, VM, DNS, answer, sizeof(answer), g, true);		/* in the wrong direction */
	assert_string_equal(heard, "");
	udp(&f, DNS, VM, answer, sizeof(answer), g, false);
	assert_string_equal(heard, "discover api.x - 10.0.0.1\nanswer api.x 10.9.9.9 10.0.0.1\n");
	engine_free(f.e);
}

static void an_answer_alone_counts_where_requests_may_be_missing(void **state)
{
	struct engine_guest g = guest(5, "10.0.0.1");
	uint8_t other_id[sizeof(answer)], refusal[sizeof(query)];
	struct feed f = { start(NULL) };

	(void)state;
	engine_allow_missing_requests(f.e);
	memcpy(other_id, answer, sizeof(answer));
	other_id[ANSWER_ID]++;
	udp(&f, DNS, VM, answer, sizeof(answer), g, false);
	udp(&f, DNS, VM, answer, sizeof(answer), g, false);
	udp(&f, "10.0.0.3:53", VM, other_id, sizeof(answer), g, false);	/* the socket has its answer */
	assert_string_equal(heard, "discover api.x - 10.0.0.1\nanswer api.x 10.9.9.9 10.0.0.1\n");
	heard[0] = 0;
	udp(&f, "10.0.0.1:40001", DNS, query, sizeof(query), g, true);
	udp(&f, DNS, "10.0.0.1:40001", other_id, sizeof(answer), g, false);	/* the question was seen, and this is none of its answers */
	assert_string_equal(heard, "");
	memcpy(refusal, query, sizeof(query));
	refusal[2] = 0x81;
	refusal[3] = 0x83;
	refusal[13] = 'b';
	udp(&f, DNS, "10.0.0.1:40002", refusal, sizeof(refusal), g, false);
	engine_flush(f.e);
	assert_string_equal(heard, "discover api.x - 10.0.0.1\ndiscover bpi.x - 10.0.0.1\n");
	engine_free(f.e);
}

static void a_question_without_an_answer_is_reported_in_the_end(void **state)
{
	struct feed f = { start(NULL) };
	struct engine_guest g = guest(5, "10.0.0.1");

	(void)state;
	udp(&f, VM, DNS, query, sizeof(query), g, true);
	udp(&f, VM, DNS, query, sizeof(query), g, true);
	engine_tick(f.e, f.frame, 4000ull * 1000000);
	assert_string_equal(heard, "");
	engine_tick(f.e, f.frame, 5010ull * 1000000);
	engine_tick(f.e, f.frame, 6010ull * 1000000);
	assert_string_equal(heard, "discover api.x - 10.0.0.1\n");
	engine_free(f.e);
}

/* Two messages of DNS over TCP in any cuts, by capture and by copy of a proxied stream. */
static void streams_are_put_together(void **state)
{
	uint8_t to[2 + sizeof(query)] = { 0, sizeof(query) }, from[2 + sizeof(answer)] = { 0, sizeof(answer) };
	struct engine_guest g = guest(5, "10.0.0.1");

	(void)state;
	memcpy(to + 2, query, sizeof(query));
	memcpy(from + 2, answer, sizeof(answer));
	for (size_t cut = 1; cut < sizeof(to); cut++) {
		struct feed f = { start(NULL) };

		tcp(&f, VM, DNS, PACKET_TCP_SYN, 100, 0, NULL, 0, g, true);
		tcp(&f, VM, DNS, PACKET_TCP_ACK, 101 + (uint32_t)cut, 1, to + cut, sizeof(to) - cut, g, true);
		tcp(&f, VM, DNS, PACKET_TCP_ACK, 101, 1, to, cut, g, true);
		tcp(&f, DNS, VM, PACKET_TCP_ACK, 1, 101 + sizeof(to), from, sizeof(from), g, false);
		tcp(&f, DNS, VM, PACKET_TCP_ACK | PACKET_TCP_FIN, 1 + sizeof(from), 101 + sizeof(to), NULL, 0, g, false);
		tcp(&f, VM, DNS, PACKET_TCP_ACK | PACKET_TCP_FIN, 101 + sizeof(to), 2 + sizeof(from), NULL, 0, g, true);
		/* late copies of all of it */
		tcp(&f, VM, DNS, PACKET_TCP_ACK, 101, 1, to, sizeof(to), g, true);
		tcp(&f, DNS, VM, PACKET_TCP_ACK, 1, 101 + sizeof(to), from, sizeof(from), g, false);
		assert_string_equal(heard, "discover api.x - 10.0.0.1\nanswer api.x 10.9.9.9 10.0.0.1\n");
		assert_int_equal(engine_stats(f.e)->flows, 1);
		assert_int_equal(engine_stats(f.e)->buffered_bytes, 0);
		engine_free(f.e);
	}
}

static void a_proxied_stream_is_read_as_it_is(void **state)
{
	uint8_t to[2 + sizeof(query)] = { 0, sizeof(query) }, from[2 + sizeof(answer)] = { 0, sizeof(answer) };
	struct engine_guest g = guest(5, "10.0.0.1");
	struct ip_port client = addr(VM), server = addr(DNS), other = addr("10.0.0.2:81");
	struct engine_stream *s = NULL;
	struct engine *e = start(NULL);

	(void)state;
	memcpy(to + 2, query, sizeof(query));
	memcpy(from + 2, answer, sizeof(answer));
	assert_int_equal(engine_stream_open(e, &g, &client, &other, &s), -ENOENT);
	assert_int_equal(engine_stream_open(e, &g, &client, &server, &s), 0);
	for (size_t i = 0; i < sizeof(to); i++)
		assert_true(engine_stream_data(s, DISCOVER_TO_REGISTRY, to + i, 1, i + 1, 1000 + i));
	assert_true(engine_stream_data(s, DISCOVER_FROM_REGISTRY, from, sizeof(from), 99, 2000));
	assert_string_equal(heard, "discover api.x - 10.0.0.1\nanswer api.x 10.9.9.9 10.0.0.1\n");
	assert_false(engine_stream_data(s, DISCOVER_FROM_REGISTRY, "\0\1", 2, 100, 2001));	/* no DNS: give up */
	s = engine_stream_close(s, 101, 2002);
	assert_int_equal(engine_stream_open(e, &g, &client, &server, &s), 0);
	engine_forget_guest(e, 5);
	assert_false(engine_stream_data(s, DISCOVER_TO_REGISTRY, to, sizeof(to), 102, 2003));
	s = engine_stream_close(s, 103, 2004);
	assert_null(s);
	engine_free(e);
}

static bool said(struct engine_stream *s, enum discover_dir dir, const char *text, uint64_t frame)
{
	return engine_stream_data(s, dir, text, strlen(text), frame, 1000 + frame);
}

/* What there was no time to copy: the next registration on the same connection is heard. */
static void a_hole_in_a_proxied_stream_is_not_its_end(void **state)
{
	static const char put[] = "PUT /v1/agent/service/register HTTP/1.1\r\nContent-Length: 37\r\n\r\n{\"Name\":\"web\",\"ID\":\"w-1\",\"Port\":8080}";
	static const char yes[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	struct engine_guest g = guest(5, "10.0.0.1");
	struct ip_port client = addr(VM), server = addr("10.0.0.53:8500");
	struct engine_stream *s = NULL;
	struct engine *e = start(NULL);

	(void)state;
	assert_int_equal(engine_stream_open(e, &g, &client, &server, &s), 0);
	assert_true(said(s, DISCOVER_TO_REGISTRY, put, 1) && said(s, DISCOVER_FROM_REGISTRY, yes, 2));
	assert_int_equal(engine_stats(e)->observations, 1);
	assert_true(said(s, DISCOVER_TO_REGISTRY, "PUT /v1/agent/service/register HT", 3));
	assert_true(engine_stream_gap(s, DISCOVER_TO_REGISTRY, 1000, 4, 1004));
	assert_true(engine_stream_gap(s, DISCOVER_FROM_REGISTRY, 300, 5, 1005));
	assert_int_equal(engine_stats(e)->gap_bytes, 1300);
	assert_true(said(s, DISCOVER_TO_REGISTRY, put, 6) && said(s, DISCOVER_FROM_REGISTRY, yes, 7));
	assert_int_equal(engine_stats(e)->observations, 2);
	s = engine_stream_close(s, 8, 1008);

	/* As when the copies begin in the middle. */
	assert_int_equal(engine_stream_open(e, &g, &client, &server, &s), 0);
	assert_true(engine_stream_gap(s, DISCOVER_TO_REGISTRY, 0, 9, 1009) && engine_stream_gap(s, DISCOVER_FROM_REGISTRY, 0, 9, 1009));
	assert_true(said(s, DISCOVER_TO_REGISTRY, put, 10) && said(s, DISCOVER_FROM_REGISTRY, yes, 11));
	assert_int_equal(engine_stats(e)->observations, 3);
	engine_forget_guest(e, 5);
	assert_false(engine_stream_gap(s, DISCOVER_TO_REGISTRY, 1, 12, 1012));
	s = engine_stream_close(s, 13, 1013);
	engine_free(e);
}

static void mdns(struct feed *f, const uint8_t *data, struct engine_guest g, bool from_guest)
{
	udp(f, "10.0.0.1:5353", "224.0.0.251:5353", data, sizeof(announcement), g, from_guest);
}

static void announcements_count_once_and_are_renewed_late(void **state)
{
	struct feed f = { start(NULL) };
	struct engine_guest g = guest(5, "10.0.0.1");
	uint8_t bye[sizeof(announcement)];

	(void)state;
	memcpy(bye, announcement, sizeof(bye));
	bye[PTR_TTL] = bye[SRV_TTL] = 0;
	for (unsigned i = 0; i < 3; i++)
		mdns(&f, announcement, g, true);
	assert_string_equal(heard, "register w 10.0.0.1 10.0.0.1\n");
	heard[0] = 0;
	f.now_ms += 59000;
	mdns(&f, announcement, g, true);
	assert_string_equal(heard, "");
	f.now_ms += 1000;
	mdns(&f, announcement, g, true);
	assert_string_equal(heard, "renew w 10.0.0.1 10.0.0.1\n");
	heard[0] = 0;
	for (unsigned i = 0; i < 3; i++)
		mdns(&f, bye, g, true);
	assert_string_equal(heard, "deregister w 10.0.0.1 10.0.0.1\n");
	heard[0] = 0;
	mdns(&f, announcement, g, true);
	assert_string_equal(heard, "register w 10.0.0.1 10.0.0.1\n");
	engine_free(f.e);
}

/* jmDNS says goodbye to a name that it has only probed for. */
static void a_name_that_was_only_probed_for_does_not_go(void **state)
{
	struct feed f = { start(NULL) };
	struct engine_guest g = guest(5, "10.0.0.1");
	uint8_t probe[sizeof(announcement)], bye[sizeof(announcement)];

	(void)state;
	memcpy(probe, announcement, sizeof(probe));
	probe[2] = 0;			/* a query, */
	probe[7] = 0;			/* whose records are */
	probe[9] = 4;			/* in the authority section */
	memcpy(bye, announcement, sizeof(bye));
	bye[PTR_TTL] = bye[SRV_TTL] = 0;
	udp(&f, "10.0.0.1:5353", "224.0.0.251:5353", probe, sizeof(probe), g, true);
	udp(&f, "10.0.0.1:5353", "224.0.0.251:5353", bye, sizeof(bye), g, true);
	assert_string_equal(heard, "");
	udp(&f, "10.0.0.1:5353", "224.0.0.251:5353", probe, sizeof(probe), g, true);
	udp(&f, "10.0.0.1:5353", "224.0.0.251:5353", announcement, sizeof(announcement), g, true);
	udp(&f, "10.0.0.1:5353", "224.0.0.251:5353", bye, sizeof(bye), g, true);
	assert_string_equal(heard, "register w 10.0.0.1 10.0.0.1\nderegister w 10.0.0.1 10.0.0.1\n");
	engine_free(f.e);
}

static void changes_are_registered_again(void **state)
{
	struct feed f = { start(NULL) };
	struct engine_guest g = guest(5, "10.0.0.1");
	uint8_t changed[sizeof(announcement)];

	(void)state;
	memcpy(changed, announcement, sizeof(changed));
	mdns(&f, announcement, g, true);
	changed[sizeof(changed) - 1] = 77;	/* the address; the old one is flushed when it is older than a second */
	f.now_ms += 2000;
	mdns(&f, changed, g, true);
	changed[61] = 81;			/* the port */
	mdns(&f, changed, g, true);
	assert_string_equal(heard, "register w 10.0.0.1 10.0.0.1\nregister w 10.0.0.77 10.0.0.1\nregister w 10.0.0.77 10.0.0.1\n");
	engine_free(f.e);
}

static void what_others_announce_is_an_answer_only_to_who_asked(void **state)
{
	static const uint8_t browse[] = {
		0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 5, '_', 'h', 't', 't', 'p', 4, '_', 't', 'c', 'p', 5, 'l', 'o', 'c', 'a', 'l', 0, 0, 12, 0, 1,
	};
	struct feed f = { start(NULL) };
	struct engine_guest g = guest(9, "10.0.0.3");

	(void)state;
	mdns(&f, announcement, g, false);
	assert_string_equal(heard, "");
	udp(&f, "10.0.0.3:5353", "224.0.0.251:5353", browse, sizeof(browse), g, true);
	udp(&f, "10.0.0.3:5353", "224.0.0.251:5353", browse, sizeof(browse), g, true);
	mdns(&f, announcement, g, false);
	mdns(&f, announcement, g, false);
	assert_string_equal(heard, "discover _http._tcp.local - 10.0.0.3\nanswer w 10.0.0.1 10.0.0.3\n");
	engine_free(f.e);
}

static void nothing_grows_beyond_its_limit(void **state)
{
	static const struct engine_limits limits = {
		.max_guests = 3, .max_flows_per_guest = 2, .max_flow_bytes = 1000,
		.max_guest_bytes = 1500, .max_total_bytes = 2000,
	};
	struct feed f = { start(&limits) };
	static uint8_t bytes[400];

	(void)state;
	for (unsigned i = 0; i < 10; i++) {
		for (unsigned flow = 0; flow < 5; flow++) {
			char src[64], ip[32];

			snprintf(ip, sizeof(ip), "10.0.1.%u", i);
			snprintf(src, sizeof(src), "%s:%u", ip, 1000 + flow);
			tcp(&f, src, DNS, PACKET_TCP_SYN, 0, 0, NULL, 0, guest(i + 1, ip), true);
			for (unsigned n = 0; n < 20; n++)
				tcp(&f, src, DNS, PACKET_TCP_ACK, 100 + n * 500, 1, bytes, sizeof(bytes), guest(i + 1, ip), true);
			assert_true(engine_stats(f.e)->buffered_bytes <= 2000);
		}
		assert_true(engine_stats(f.e)->n_guests <= 3);
		assert_true(engine_stats(f.e)->n_flows <= 6);
	}
	assert_int_equal(engine_stats(f.e)->guests_evicted, 7);
	assert_int_equal(engine_stats(f.e)->flows_evicted, 30);
	engine_free(f.e);
}

#define CONSUL "10.0.0.2:8500"

static const char put[] = "PUT /v1/agent/service/register HTTP/1.1\r\nHost: c\r\nContent-Length: %zu\r\n%s\r\n";

/* A registration of which only the first @n bytes come. @src in the guest's network. */
static uint32_t begin_put(struct feed *f, const char *src, const char *body, size_t len, size_t n, struct engine_guest g)
{
	char head[256];
	size_t n_head = (size_t)snprintf(head, sizeof(head), put, len, "");
	uint32_t seq = 1;

	tcp(f, src, CONSUL, PACKET_TCP_SYN, 0, 0, NULL, 0, g, true);
	tcp(f, src, CONSUL, PACKET_TCP_ACK, seq, 1, head, n_head, g, true);
	seq += (uint32_t)n_head;
	for (size_t at = 0; at < n;) {
		size_t part = MIN(n - at, (size_t)1400);

		tcp(f, src, CONSUL, PACKET_TCP_ACK, seq, 1, body + at, part, g, true);
		seq += (uint32_t)part;
		at += part;
	}
	return seq;
}

/* Who begins messages and ends none of them loses his own, however many guests he makes of himself. */
static void what_is_unfinished_has_a_budget(void **state)
{
	enum { GUEST = 300000, TOTAL = 1000000, BODY = 100000 };
	static const struct engine_limits limits = { .max_guest_held = GUEST, .max_total_held = TOTAL };
	static const char body[] = "{\"Name\":\"web\",\"ID\":\"w\",\"Address\":\"10.0.0.1\",\"Port\":80}";
	static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	static char filler[BODY];
	struct engine_guest honest = guest(5, "10.0.0.1");
	struct feed f = { start(&limits) };
	size_t n = strlen(body);
	uint32_t seq = begin_put(&f, VM, body, n, 10, honest);
	uint64_t crowded;

	(void)state;
	for (unsigned i = 0; i < 6; i++)
		for (unsigned flow = 0; flow < 10; flow++) {
			char src[64], ip[32];

			snprintf(ip, sizeof(ip), "10.0.1.%u", i);
			snprintf(src, sizeof(src), "%s:%u", ip, 1000 + flow);
			begin_put(&f, src, filler, BODY, BODY - 1, guest(10 + i, ip));
			crowded = engine_stats(f.e)->streams_crowded;
			assert_true(10 * i + flow + 1 - crowded <= TOTAL / (BODY - 1) + 1);
			assert_true(i || flow + 1 - crowded <= GUEST / (BODY - 1));
		}
	tcp(&f, VM, CONSUL, PACKET_TCP_ACK, seq, 1, body + 10, n - 10, honest, true);
	tcp(&f, CONSUL, VM, PACKET_TCP_ACK, 1, seq + (uint32_t)n - 10, ok, strlen(ok), honest, false);
	assert_string_equal(heard, "register web 10.0.0.1 10.0.0.1\n");
	engine_free(f.e);
}

/* Megabytes, as well compressed as they may be; a server that does not answer. */
static void what_is_compressed_is_not_kept_at_its_full_size(void **state)
{
	enum { PLAIN = 4000000, N = 60, PART = 60000, MOST = 16 << 20 };
	struct engine_guest g = guest(5, "10.0.0.1");
	struct feed f = { start(NULL) };
	static unsigned char zipped[100000];
	unsigned char *plain = calloc(1, PLAIN);
	z_stream z = { .next_in = plain, .avail_in = PLAIN, .next_out = zipped, .avail_out = sizeof(zipped) };
	char head[256];
	uint32_t seq = 1;

	(void)state;
	assert_non_null(plain);
	srand(1);
	for (size_t i = 0; i < PLAIN; i += 100)
		plain[i] = (unsigned char)rand();
	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	size_t n = sizeof(zipped) - z.avail_out, n_head = (size_t)snprintf(head, sizeof(head), put, n, "Content-Encoding: gzip\r\n");
	deflateEnd(&z);
	free(plain);
	assert_true(n * INFLATE_MAX_RATIO > PLAIN);

	struct mallinfo2 before = mallinfo2();
	tcp(&f, VM, CONSUL, PACKET_TCP_SYN, 0, 0, NULL, 0, g, true);
	for (int i = 0; i < N; i++) {
		tcp(&f, VM, CONSUL, PACKET_TCP_ACK, seq, 1, head, n_head, g, true);
		seq += (uint32_t)n_head;
		for (size_t at = 0; at < n; at += PART)
			tcp(&f, VM, CONSUL, PACKET_TCP_ACK, seq + (uint32_t)at, 1, zipped + at, MIN(n - at, (size_t)PART), g, true);
		seq += (uint32_t)n;
	}
	struct mallinfo2 after = mallinfo2();
	assert_true(after.uordblks + after.hblkhd <= before.uordblks + before.hblkhd + MOST);
	engine_free(f.e);
}

static size_t n_heard(void)
{
	size_t n = 0;

	for (const char *c = heard; *c; c++)
		n += *c == '\n';
	return n;
}

/* Request and answer, one connection each. @coding is a header line, or "". */
static void exchange(struct feed *f, uint16_t port, const void *body, size_t len, const char *coding, struct engine_guest g)
{
	static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
	char head[256], src[32];
	size_t n_head = (size_t)snprintf(head, sizeof(head), put, len, coding);
	uint32_t seq = 1;

	snprintf(src, sizeof(src), "10.0.0.1:%u", port);
	tcp(f, src, CONSUL, PACKET_TCP_SYN, 0, 0, NULL, 0, g, true);
	tcp(f, src, CONSUL, PACKET_TCP_ACK, seq, 1, head, n_head, g, true);
	seq += (uint32_t)n_head;
	for (size_t at = 0; at < len; at += 60000)
		tcp(f, src, CONSUL, PACKET_TCP_ACK, seq + (uint32_t)at, 1, (const char *)body + at, MIN(len - at, (size_t)60000), g, true);
	tcp(f, CONSUL, src, PACKET_TCP_ACK, 1, seq + (uint32_t)len, ok, strlen(ok), g, false);
}

/* What costs us much more than the guest has to send. */
static void nobody_is_read_beyond_his_share(void **state)
{
	enum { PLAIN = 4000000, N = 20 };
	static const char text[] = "{\"Name\":\"web\",\"ID\":\"w\",\"Address\":\"10.0.0.1\",\"Port\":80,\"x\":[";
	static unsigned char zipped[100000];
	struct engine_guest g = guest(5, "10.0.0.1");
	struct feed f = { start(NULL) };
	char *body = malloc(PLAIN);
	z_stream z = { .next_in = (unsigned char *)body, .avail_in = PLAIN, .next_out = zipped, .avail_out = sizeof(zipped) };
	size_t few;

	(void)state;
	assert_non_null(body);
	/* no more values than there may be, or one too many */
	for (int over = 0; over < 2; over++) {
		size_t n = (size_t)(over ? JSON_BODY_MAX_VALUES : 1000) * 2, at = strlen(text);

		memcpy(body, text, at);
		for (size_t i = 0; i < n; i++)
			body[at++] = i % 2 ? ',' : '0';
		memcpy(body + at, "0]}", 4);
		exchange(&f, (uint16_t)(1000 + over), body, at + 3, "", g);
		assert_int_equal(n_heard(), 1);
	}

	/* so much a second, decompressed */
	memset(body, ' ', PLAIN);
	memcpy(body, text, strlen(text));
	for (size_t i = strlen(text) + 100; i + 10 < PLAIN; i += 100)
		body[i] = "\t\n\r "[rand() & 3];
	memcpy(body + PLAIN - 2, "]}", 2);
	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 9, Z_DEFAULT_STRATEGY), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	heard[0] = 0;
	for (int i = 0; i < N; i++)
		exchange(&f, (uint16_t)(2000 + i), zipped, sizeof(zipped) - z.avail_out, "Content-Encoding: gzip\r\n", g);
	few = n_heard();
	assert_true(few >= 4 && few < N);
	f.now_ms += 60000;
	exchange(&f, 3000, zipped, sizeof(zipped) - z.avail_out, "Content-Encoding: gzip\r\n", g);
	assert_int_equal(n_heard(), few + 1);
	free(body);
	engine_free(f.e);
}

static void ports_are_configured_by_protocol(void **state)
{
	static const uint16_t ports[] = { 5300, 5301 };
	struct feed f = { start(NULL) };
	struct engine_guest g = guest(5, "10.0.0.1");

	(void)state;
	assert_int_equal(engine_set_ports(f.e, "smtp", ports, 2), -ENOENT);
	assert_int_equal(engine_set_ports(f.e, "dns", ports, 17), -E2BIG);
	assert_int_equal(engine_set_ports(f.e, "dns", ports, 2), 0);
	assert_false(engine_wants_port(f.e, IPPROTO_UDP, 53));
	assert_true(engine_wants_port(f.e, IPPROTO_UDP, 5301));
	assert_true(engine_wants_port(f.e, IPPROTO_TCP, 5300));
	for (uint16_t i = 0; i < 14; i++)
		assert_int_equal(engine_add_port(f.e, "dns", (uint16_t)(6000 + i)), 0);
	assert_int_equal(engine_add_port(f.e, "dns", 6000), 0);
	assert_int_equal(engine_add_port(f.e, "dns", 7000), -E2BIG);
	udp(&f, VM, DNS, query, sizeof(query), g, true);
	assert_int_equal(engine_stats(f.e)->ignored, 1);
	udp(&f, VM, "10.0.0.2:5300", query, sizeof(query), g, true);
	engine_flush(f.e);
	assert_string_equal(heard, "discover api.x - 10.0.0.1\n");
	engine_free(f.e);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_lookup_of_a_guest_is_reported),
		cmocka_unit_test(the_same_frames_on_the_registrys_port_count_once),
		cmocka_unit_test(an_answer_must_fit_its_question),
		cmocka_unit_test(an_answer_alone_counts_where_requests_may_be_missing),
		cmocka_unit_test(a_question_without_an_answer_is_reported_in_the_end),
		cmocka_unit_test(streams_are_put_together),
		cmocka_unit_test(a_proxied_stream_is_read_as_it_is),
		cmocka_unit_test(a_hole_in_a_proxied_stream_is_not_its_end),
		cmocka_unit_test(announcements_count_once_and_are_renewed_late),
		cmocka_unit_test(a_name_that_was_only_probed_for_does_not_go),
		cmocka_unit_test(changes_are_registered_again),
		cmocka_unit_test(what_others_announce_is_an_answer_only_to_who_asked),
		cmocka_unit_test(nothing_grows_beyond_its_limit),
		cmocka_unit_test(what_is_unfinished_has_a_budget),
		cmocka_unit_test(what_is_compressed_is_not_kept_at_its_full_size),
		cmocka_unit_test(nobody_is_read_beyond_his_share),
		cmocka_unit_test(ports_are_configured_by_protocol),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "lib/unit.h"

#include <string.h>

#include "proto/dns_reply.h"

/* "wEb.demo", A, id 0x1234, recursion desired; then EDNS with 4096 bytes. */
static const uint8_t asked[] = { 0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 1, 3, 'w', 'E', 'b', 4, 'd', 'e', 'm', 'o', 0, 0, 1, 0, 1,
				 0, 0, 41, 0x10, 0x00, 0, 0, 0, 0, 0, 0 };
enum { WITHOUT_EDNS = 26 };

static const struct ip four = { .b = { [10] = 0xff, [11] = 0xff, [12] = 10, [15] = 1 } };
static const struct ip six = { .b = { 0xfd, [15] = 1 } };

static struct dns_query query(bool edns)
{
	uint8_t data[sizeof(asked)];
	struct dns_query q;

	memcpy(data, asked, sizeof(data));
	data[11] = edns;
	assert_true(dns_query_decode(data, edns ? sizeof(asked) : WITHOUT_EDNS, &q));
	return q;
}

static void a_query_is_taken_apart(void **state)
{
	struct dns_query q = query(true);
	char text[DNS_NAME_TEXT_LEN];

	(void)state;
	assert_int_equal(q.id, 0x1234);
	assert_int_equal(q.type, DNS_TYPE_A);
	assert_string_equal(dns_name_text(&q.name, text), "wEb.demo");
	assert_true(q.recursion_desired && q.edns && !q.checking_disabled);
	assert_int_equal(q.udp_max, 4096);
	q = query(false);
	assert_false(q.edns);
	assert_int_equal(q.udp_max, DNS_UDP_MIN);
}

static void a_query_that_is_cut_short_is_none(void **state)
{
	struct dns_query q;

	(void)state;
	for (size_t n = 0; n < sizeof(asked); n++)
		assert_false(dns_query_decode(asked, n, &q));
}

static void what_is_no_ordinary_query_is_left_to_others(void **state)
{
	static const struct { size_t at; uint8_t value; const char *what; } rows[] = {
		{ 2, 0x81, "a response" }, { 2, 0x29, "an update" }, { 2, 0x03, "truncated" }, { 5, 0, "no question" }, { 5, 2, "two questions" },
		{ 7, 1, "an answer" }, { 9, 1, "an authority" }, { 25, 3, "class CHAOS" }, { 24, 0x80, "multicast's bit" }, { 12, 64, "a label of no kind" },
		{ 32, 1, "EDNS of version 1" }, { 36, 9, "options longer than the message" },
	};
	struct dns_query q;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		uint8_t data[sizeof(asked)];

		memcpy(data, asked, sizeof(data));
		data[rows[i].at] = rows[i].value;
		if (dns_query_decode(data, sizeof(data), &q))
			fail_msg("%s was taken", rows[i].what);
	}
}

static void a_response_says_its_question_and_how_it_ended(void **state)
{
	uint8_t data[sizeof(asked)];
	struct dns_query q;

	(void)state;
	memcpy(data, asked, sizeof(data));
	assert_false(dns_response_decode(data, sizeof(data), &q));
	data[2] |= 0x80;
	data[3] = DNS_RCODE_NXDOMAIN;
	assert_true(dns_response_decode(data, sizeof(data), &q));
	assert_int_equal(q.rcode, DNS_RCODE_NXDOMAIN);
	assert_int_equal(q.id, 0x1234);
	for (size_t n = 0; n < WITHOUT_EDNS; n++)
		assert_false(dns_response_decode(data, n, &q));
}

/* Our own decoder reads what we made; the fuzz target has the same oracle. */
static void a_reply_reads_as_it_was_meant(void **state)
{
	struct dns_query q = query(true);
	struct dns_message m;
	struct dns_record r;
	struct dns_reply out;
	struct ip ip;

	(void)state;
	dns_reply_begin(&out, &q);
	dns_reply_address(&out, &four, 30);
	dns_reply_address(&out, &six, 5);
	dns_reply_end(&out);
	assert_true(dns_open(&m, out.data, out.len) && dns_check(&m));
	assert_true(m.header.response && m.header.authoritative && !m.header.truncated);
	assert_int_equal(m.header.id, 0x1234);
	assert_int_equal(m.header.rcode, 0);
	assert_true(dns_next(&m, &r));
	assert_memory_equal(r.name.wire, q.name.wire, q.name.len);	/* the case is the asker's */
	assert_true(dns_next(&m, &r) && dns_address(&r, &ip) && ip_equal(&ip, &four));
	assert_int_equal(r.ttl_s, 30);
	assert_true(dns_name_equal(&r.name, &q.name));
	assert_true(dns_next(&m, &r) && dns_address(&r, &ip) && ip_equal(&ip, &six));
	assert_int_equal(r.type, DNS_TYPE_AAAA);
	assert_true(dns_next(&m, &r));
	assert_int_equal(r.type, DNS_TYPE_OPT);
	assert_int_equal(r.class_, DNS_UDP_MAX);
	assert_false(dns_next(&m, &r));
}

static void an_empty_reply_is_no_error(void **state)
{
	struct dns_query q = query(false);
	struct dns_message m;
	struct dns_record r;
	struct dns_reply out;

	(void)state;
	dns_reply_begin(&out, &q);
	dns_reply_end(&out);
	assert_true(dns_open(&m, out.data, out.len) && dns_check(&m));
	assert_int_equal(m.header.rcode, 0);
	assert_int_equal(m.header.counts[DNS_ANSWER], 0);
	assert_true(dns_next(&m, &r) && dns_next(&m, &r));
	assert_int_equal(r.section, DNS_AUTHORITY);
	assert_int_equal(r.type, DNS_TYPE_SOA);
	assert_int_equal(r.ttl_s, DNS_NO_DATA_TTL_S);
	assert_true(dns_name_equal(&r.name, &q.name));
	assert_false(dns_next(&m, &r));
}

static void records_that_have_no_room_are_left_out_and_it_says_so(void **state)
{
	(void)state;
	for (int edns = 0; edns < 2; edns++) {
		struct dns_query q = query(edns);
		struct dns_message m;
		struct dns_reply out;

		dns_reply_begin(&out, &q);
		for (int i = 0; i < 1000; i++)
			dns_reply_address(&out, &six, 30);
		dns_reply_end(&out);
		assert_true(out.cut);
		assert_true(out.len <= (edns ? (size_t)DNS_UDP_MAX : (size_t)DNS_UDP_MIN) && out.len > (edns ? 1200 : 480));
		assert_true(dns_open(&m, out.data, out.len) && dns_check(&m));
		assert_true(m.header.truncated);
		assert_int_equal(m.header.counts[DNS_ANSWER], out.n_answers);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_query_is_taken_apart),
		cmocka_unit_test(a_query_that_is_cut_short_is_none),
		cmocka_unit_test(what_is_no_ordinary_query_is_left_to_others),
		cmocka_unit_test(a_response_says_its_question_and_how_it_ended),
		cmocka_unit_test(a_reply_reads_as_it_was_meant),
		cmocka_unit_test(an_empty_reply_is_no_error),
		cmocka_unit_test(records_that_have_no_room_are_left_out_and_it_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

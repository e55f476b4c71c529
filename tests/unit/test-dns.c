#include "lib/unit.h"

#include <string.h>
#include "base/defs.h"
#include "proto/dns.h"

/* A response with every kind of record that is looked into; names compressed. */
static const uint8_t message[] = {
	0x12, 0x34, 0x84, 0x00, 0, 1, 0, 5, 0, 0, 0, 2,
	/* 12 */ 5, '_', 'H', 't', 't', 'p', 4, '_', 't', 'c', 'p', 1, 'x', 0, 0, 33, 0x80, 1,
	/* 30 */ 0xc0, 12, 0, 33, 0x80, 1, 0, 0, 0, 120, 0, 11, 0, 1, 0, 2, 0x1f, 0x90, 2, 'h', '1', 0xc0, 23,
	/* 53 */ 0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 9, 0, 6, 3, 'W', '.', '1', 0xc0, 12,
	/* 71 */ 0xc0, 65, 0, 16, 0, 1, 0, 0, 0, 9, 0, 7, 3, 'a', '=', '1', 0, 1, 'k',
	/* 90 */ 0xc0, 48, 0, 5, 0, 1, 0xff, 0, 0, 9, 0, 2, 0xc0, 23,
	/* 104 */ 0xc0, 23, 0, 65, 0, 1, 0, 0, 0, 9, 0, 28, 0, 1, 0, 0, 1, 0, 3, 2, 'h', '2', 0, 3, 0, 2, 0x20, 0xfb,
		  0, 4, 0, 8, 10, 0, 0, 1, 10, 0, 0, 2,
	/* 144 */ 0xc0, 48, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 9,
	/* 160 */ 0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0,
};

static unsigned read_all(const uint8_t *data, size_t size)
{
	struct dns_message m;
	struct dns_record r;
	unsigned n = 0;

	if (!dns_open(&m, data, size))
		return 0;
	while (dns_next(&m, &r))
		n++;
	return m.bad ? 0 : n;
}

static void next(struct dns_message *m, struct dns_record *r, uint16_t type, const char *name)
{
	char text[DNS_NAME_TEXT_LEN];

	assert_true(dns_next(m, r));
	assert_int_equal(r->type, type);
	assert_string_equal(dns_name_text(&r->name, text), name);
}

static void every_record_is_read(void **state)
{
	struct dns_message m;
	struct dns_record r;
	struct dns_srv srv;
	struct dns_svcb svcb;
	struct dns_name name;
	struct ip ip;
	const uint8_t *txt;
	size_t len;
	char text[DNS_NAME_TEXT_LEN], ip_text[IP_TEXT_LEN];

	(void)state;
	assert_true(dns_open(&m, message, sizeof(message)));
	assert_int_equal(m.header.id, 0x1234);
	assert_true(m.header.response && m.header.authoritative && !m.header.truncated);
	next(&m, &r, DNS_TYPE_SRV, "_Http._tcp.x");
	assert_true(r.top_bit);
	next(&m, &r, DNS_TYPE_SRV, "_Http._tcp.x");
	assert_true(r.top_bit);
	assert_int_equal(r.class_, DNS_CLASS_IN);
	assert_int_equal(r.ttl_s, 120);
	assert_true(dns_srv(&m, &r, &srv));
	assert_int_equal(srv.port, 8080);
	assert_string_equal(dns_name_text(&srv.target, text), "h1.x");
	next(&m, &r, DNS_TYPE_PTR, "_Http._tcp.x");
	assert_true(dns_target(&m, &r, &name));
	assert_string_equal(dns_name_text(&name, text), "W\\.1._Http._tcp.x");
	next(&m, &r, DNS_TYPE_TXT, "W\\.1._Http._tcp.x");
	assert_true(dns_txt_next(&r.rdata, &txt, &len) && len == 3 && !memcmp(txt, "a=1", 3));
	assert_true(dns_txt_next(&r.rdata, &txt, &len) && len == 0);
	assert_true(dns_txt_next(&r.rdata, &txt, &len) && len == 1);
	assert_false(dns_txt_next(&r.rdata, &txt, &len));
	next(&m, &r, DNS_TYPE_CNAME, "h1.x");
	assert_int_equal(r.ttl_s, 0);	/* the top bit */
	assert_true(dns_target(&m, &r, &name));
	next(&m, &r, DNS_TYPE_HTTPS, "x");
	assert_true(dns_svcb(&m, &r, &svcb));
	assert_int_equal(svcb.port, 8443);
	assert_string_equal(svcb.alpn, "h2");
	assert_int_equal(svcb.n_hints, 2);
	next(&m, &r, DNS_TYPE_A, "h1.x");
	assert_true(dns_address(&r, &ip));
	assert_string_equal(ip_format(&ip, ip_text), "10.0.0.9");
	next(&m, &r, DNS_TYPE_OPT, ".");
	assert_int_equal(r.class_, 4096);
	assert_false(dns_next(&m, &r));
	assert_false(m.bad);
}

static void every_truncation_is_bad(void **state)
{
	(void)state;
	assert_int_equal(read_all(message, sizeof(message)), 8);
	for (size_t i = 0; i < sizeof(message); i++)
		assert_int_equal(read_all(message, i), 0);
}

static void wrong_lengths_of_data_are_refused(void **state)
{
	static const struct { size_t at; uint8_t value; } rows[] = {
		{ 41, 10 }, { 41, 12 },		/* SRV */
		{ 64, 5 }, { 64, 7 },		/* PTR */
		{ 115, 27 }, { 115, 29 }, { 122, 200 },	/* HTTPS and its ALPN */
		{ 155, 3 }, { 155, 5 },		/* A */
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		uint8_t copy[sizeof(message)];
		struct dns_message m;
		struct dns_record r;
		unsigned good = 0;

		memcpy(copy, message, sizeof(copy));
		assert_int_not_equal(copy[rows[i].at], rows[i].value);
		copy[rows[i].at] = rows[i].value;
		assert_true(dns_open(&m, copy, sizeof(copy)));
		while (dns_next(&m, &r)) {
			struct dns_srv srv;
			struct dns_svcb svcb;
			struct dns_name name;
			struct ip ip;

			good += r.section != DNS_QUESTION && r.type == DNS_TYPE_SRV && dns_srv(&m, &r, &srv);
			good += (r.type == DNS_TYPE_PTR || r.type == DNS_TYPE_CNAME) && dns_target(&m, &r, &name);
			good += r.type == DNS_TYPE_HTTPS && dns_svcb(&m, &r, &svcb);
			good += r.type == DNS_TYPE_A && dns_address(&r, &ip);
		}
		assert_true(good < 5);
	}
}

static void pointers_that_do_not_go_back_are_refused(void **state)
{
	static const uint8_t header[] = { 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0 };
	static const struct { uint8_t body[16]; size_t len; unsigned good; } rows[] = {
		{ { 0xc0, 12, 0, 1, 0, 1 }, 6, 0 },				/* at itself */
		{ { 0xc0, 20, 0, 1, 0, 1, 0, 0, 1, 'a', 0 }, 11, 0 },		/* forward */
		{ { 1, 'a', 0xc0, 12, 0, 1, 0, 1 }, 8, 0 },			/* at its own beginning */
		{ { 0xff, 0xff, 0, 1, 0, 1 }, 6, 0 },				/* beyond the end */
		{ { 0x40, 0, 0, 1, 0, 1 }, 6, 0 },				/* a kind of label that there is not */
		{ { 1, 'a', 0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1 }, 13, 2 },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		uint8_t copy[64];

		memcpy(copy, header, sizeof(header));
		memcpy(copy + sizeof(header), rows[i].body, rows[i].len);
		assert_int_equal(read_all(copy, sizeof(header) + rows[i].len), rows[i].good);
	}
}

static void a_name_is_no_longer_than_255_bytes(void **state)
{
	uint8_t copy[12 + 4 * 64 + 16] = { 0, 1, 0, 0, 0, 1 };
	uint8_t *p = copy + 12;

	(void)state;
	for (unsigned i = 0; i < 4; i++) {
		*p = i == 3 ? 61 : 63;
		memset(p + 1, 'a' + (int)i, *p);
		p += *p + 1;
	}
	assert_int_equal(read_all(copy, (size_t)(p - copy) + 5), 1);	/* 3 * 64 + 62 + 1 = 255 */
	copy[12 + 3 * 64] = 62;
	assert_int_equal(read_all(copy, (size_t)(p - copy) + 6), 0);
}

static void names_show_what_they_hold(void **state)
{
	static const uint8_t wire[] = { 7, 'a', '.', '\\', 1, 0xff, 0xc3, 0xa9, 1, 'b', 0 };
	struct dns_name n = { .len = sizeof(wire) };
	char text[DNS_NAME_TEXT_LEN], label[DNS_LABEL_TEXT_LEN];

	(void)state;
	memcpy(n.wire, wire, sizeof(wire));
	assert_string_equal(dns_name_text(&n, text), "a\\.\\\\\\001\\255\xc3\xa9.b");
	assert_string_equal(dns_label_text(wire + 1, 7, label), "a.\\\\001\\255\xc3\xa9");
	assert_string_equal(dns_name_head_text(&n, 0, text), ".");
}

static void services_are_told_from_instances(void **state)
{
	static const struct { const char *name; int at; } rows[] = {
		{ "_http._tcp.local", 0 }, { "billing._http._tcp.local", 1 }, { "a.b._http._udp.local", 2 },
		{ "_api._sub._http._tcp.local", -1 }, { "www.example", -1 }, { "_tcp.local", -1 }, { "_http._tcp", 0 },
		{ "_http._sctp.x", -1 }, { "_ldap._tcp.dc._msdcs.x", 0 },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		struct dns_name n;
		unsigned at = 99;

		assert_true(dns_name_parse(rows[i].name, &n));
		assert_int_equal(dns_name_service(&n, &at), rows[i].at >= 0);
		if (rows[i].at >= 0)
			assert_int_equal(at, rows[i].at);
	}
}

static void names_compare_without_case_by_labels(void **state)
{
	struct dns_name a, b, tail;

	(void)state;
	assert_true(dns_name_parse("API.Svc.Example", &a) && dns_name_parse("api.svc.other", &b));
	assert_false(dns_name_equal(&a, &b));
	assert_int_equal(dns_name_common_head(&a, &b), 2);
	assert_true(dns_name_ends_with(&a, "svc.example"));
	assert_false(dns_name_ends_with(&a, "vc.example"));
	assert_false(dns_name_ends_with(&b, "a.b.c.d"));
	dns_name_tail(&a, 2, &tail);
	assert_int_equal(dns_name_labels(&tail), 1);
	dns_name_tail(&a, 9, &tail);
	assert_true(dns_name_is_root(&tail));
	assert_false(dns_name_parse("a..b", &b));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_record_is_read),
		cmocka_unit_test(every_truncation_is_bad),
		cmocka_unit_test(wrong_lengths_of_data_are_refused),
		cmocka_unit_test(pointers_that_do_not_go_back_are_refused),
		cmocka_unit_test(a_name_is_no_longer_than_255_bytes),
		cmocka_unit_test(names_show_what_they_hold),
		cmocka_unit_test(services_are_told_from_instances),
		cmocka_unit_test(names_compare_without_case_by_labels),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "lib/unit.h"

#include <errno.h>
#include <string.h>

#include "base/ip.h"

static void addresses_survive_a_round_trip(void **state)
{
	static const char *const texts[] = { "10.0.0.1", "255.255.255.255", "::1", "fd00::2", "2001:db8::1:2" };
	char text[IP_TEXT_LEN];
	struct ip a;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(texts); i++) {
		assert_int_equal(ip_parse(texts[i], &a), 0);
		assert_string_equal(ip_format(&a, text), texts[i]);
	}
}

static void ports_need_a_colon_and_digits(void **state)
{
	static const char *const bad[] = {
		"", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:+1", "::1:80", "[::1]", "[::1]80", "[]:1", "x:1", "1.2.3.4:1x",
		"[1.2.3.4]:80", "1.2.3.4: 80", "1.2.3.4:-80", "1.2.3.4:18446744073709551696",
	};
	char text[IP_PORT_TEXT_LEN];
	struct ip_port a;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(ip_port_parse(bad[i], &a), -EINVAL);
	assert_int_equal(ip_port_parse("10.1.2.3:80", &a), 0);
	assert_string_equal(ip_port_format(&a, text), "10.1.2.3:80");
	assert_int_equal(ip_port_parse("[fd00::1]:65535", &a), 0);
	assert_string_equal(ip_port_format(&a, text), "[fd00::1]:65535");
}

static void prefixes_match_by_bits(void **state)
{
	struct ip_prefix p;
	struct ip a;

	(void)state;
	assert_int_equal(ip_prefix_parse("10.88.0.0/23", &p), 0);
	assert_int_equal(ip_parse("10.88.1.255", &a), 0);
	assert_true(ip_in_prefix(&a, &p));
	assert_int_equal(ip_parse("10.88.2.0", &a), 0);
	assert_false(ip_in_prefix(&a, &p));
	assert_int_equal(ip_prefix_parse("0.0.0.0/0", &p), 0);
	assert_true(ip_in_prefix(&a, &p));
	assert_int_equal(ip_parse("fd00::1", &a), 0);
	assert_false(ip_in_prefix(&a, &p));
	assert_int_equal(ip_prefix_parse("fd00::1", &p), 0);
	assert_true(ip_in_prefix(&a, &p));
	assert_int_equal(ip_prefix_parse("10.0.0.0/33", &p), -EINVAL);
	assert_int_equal(ip_prefix_parse("10.0.0.0/", &p), -EINVAL);
}

static void sockaddrs_survive_a_round_trip(void **state)
{
	struct sockaddr_storage sa;
	struct ip_port a, b;

	(void)state;
	assert_int_equal(ip_port_parse("10.1.2.3:80", &a), 0);
	ip_port_to_sockaddr(&a, 0, &sa);
	assert_int_equal(sa.ss_family, AF_INET);
	assert_int_equal(ip_port_from_sockaddr(&sa, &b), 0);
	assert_true(ip_equal(&a.ip, &b.ip) && a.port == b.port);
	ip_port_to_sockaddr(&a, AF_INET6, &sa);
	assert_int_equal(sa.ss_family, AF_INET6);
	assert_int_equal(ip_port_from_sockaddr(&sa, &b), 0);
	assert_true(ip_equal(&a.ip, &b.ip) && a.port == b.port);
	sa.ss_family = AF_UNIX;
	assert_int_equal(ip_port_from_sockaddr(&sa, &b), -EAFNOSUPPORT);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_survive_a_round_trip),
		cmocka_unit_test(ports_need_a_colon_and_digits),
		cmocka_unit_test(prefixes_match_by_bits),
		cmocka_unit_test(sockaddrs_survive_a_round_trip),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

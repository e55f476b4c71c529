#include "mesh/identity.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/unit.h"

static void both_forms_are_parsed_and_written(void **state)
{
	char text[IDENTITY_TEXT_LEN];
	struct identity id;

	(void)state;
	assert_int_equal(identity_parse("spiffe://mesh.internal/ns/shop/sa/orders", &id), 0);
	assert_int_equal(id.kind, IDENTITY_WORKLOAD);
	assert_string_equal(id.trust_domain, "mesh.internal");
	assert_string_equal(id.ns, "shop");
	assert_string_equal(id.service_account, "orders");
	assert_string_equal(identity_format(&id, text), "spiffe://mesh.internal/ns/shop/sa/orders");
	assert_int_equal(identity_parse("spiffe://mesh.internal/nic/NIC-1.a_b", &id), 0);
	assert_int_equal(id.kind, IDENTITY_NIC);
	assert_string_equal(identity_format(&id, text), "spiffe://mesh.internal/nic/NIC-1.a_b");
}

static void other_ids_are_valid_but_neither(void **state)
{
	static const char *const others[] = {
		"spiffe://td", "spiffe://td/a", "spiffe://td/ns/a", "spiffe://td/ns/a/sa", "spiffe://td/ns/a/sa/b/c", "spiffe://td/nic/a/b",
		"spiffe://td/ns/a/SA/b", "spiffe://1.2.3.4/...", "spiffe://td/a/b/c/d/e/f/g",
	};
	char text[IDENTITY_TEXT_LEN];
	struct identity id;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(others); i++) {
		assert_int_equal(identity_parse(others[i], &id), 0);
		assert_int_equal(id.kind, IDENTITY_OTHER);
		assert_string_equal(identity_format(&id, text), "");
	}
}

static void what_the_specification_forbids_is_refused(void **state)
{
	static const char *const bad[] = {
		"", "spiffe://", "spiffe:/td/a", "http://td/a", "SPIFFE://td/a", "spiffe:///a", "spiffe://td/", "spiffe://td//a", "spiffe://td/a/",
		"spiffe://TD/a", "spiffe://td:80/a", "spiffe://u@td/a", "spiffe://td?x", "spiffe://td/a?x", "spiffe://td/a#x", "spiffe://td/%41",
		"spiffe://td/.", "spiffe://td/..", "spiffe://td/a/../b", "spiffe://td/a b", "spiffe://td/\xc3\xa4", "spiffe://t\xc3\xa4/a",
		" spiffe://td/a", "spiffe://td/a ", "spiffe://td/a\n",
	};
	struct identity id;

	(void)state;
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		assert_int_equal(identity_parse(bad[i], &id), -EINVAL);
	assert_int_equal(identity_parse_n("spiffe://td/a\0b", 15, &id), -EINVAL);
}

static void every_truncation_is_refused_or_shorter(void **state)
{
	static const char whole[] = "spiffe://td/ns/shop/sa/orders";
	struct identity id;

	(void)state;
	for (size_t n = 0; n < sizeof(whole) - 1; n++)
		if (identity_parse_n(whole, n, &id) == 0)
			assert_true(id.kind == IDENTITY_OTHER || n > strlen("spiffe://td/ns/shop/sa/"));
}

static void lengths_are_limited(void **state)
{
	static char text[IDENTITY_MAX + 16];
	char name[IDENTITY_NAME_MAX + 2];
	struct identity id;

	(void)state;
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = 0;
	snprintf(text, sizeof(text), "spiffe://td/ns/%s/sa/b", name);
	assert_int_equal(identity_parse(text, &id), -EINVAL);
	assert_int_equal(identity_workload("td", name, "b", &id), -EINVAL);
	snprintf(text, sizeof(text), "spiffe://td/ns/%s/sa/b", name + 1);
	assert_int_equal(identity_parse(text, &id), 0);

	memset(text, 'a', sizeof(text) - 1);
	memcpy(text, "spiffe://td/", 12);
	assert_int_equal(identity_parse_n(text, IDENTITY_MAX, &id), 0);
	assert_int_equal(identity_parse_n(text, IDENTITY_MAX + 1, &id), -EINVAL);
	memset(text + 9, 'd', 300);
	assert_int_equal(identity_parse_n(text, 9 + 255, &id), 0);
	assert_int_equal(identity_parse_n(text, 9 + 256, &id), -EINVAL);
}

static void parts_are_checked_before_they_are_put_together(void **state)
{
	struct identity id;

	(void)state;
	assert_int_equal(identity_workload("td", "a", "b", &id), 0);
	assert_int_equal(identity_workload("td", "a/b", "c", &id), -EINVAL);
	assert_int_equal(identity_workload("td", "..", "c", &id), -EINVAL);
	assert_int_equal(identity_workload("", "a", "c", &id), -EINVAL);
	assert_int_equal(identity_workload("td", "a", "", &id), -EINVAL);
	assert_int_equal(identity_nic("td", "nic-1", &id), 0);
	assert_int_equal(identity_nic("Td", "nic-1", &id), -EINVAL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_forms_are_parsed_and_written),
		cmocka_unit_test(other_ids_are_valid_but_neither),
		cmocka_unit_test(what_the_specification_forbids_is_refused),
		cmocka_unit_test(every_truncation_is_refused_or_shorter),
		cmocka_unit_test(lengths_are_limited),
		cmocka_unit_test(parts_are_checked_before_they_are_put_together),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "lib/unit.h"

#include <errno.h>
#include <string.h>

#include "mesh/names.h"

static void services_become_host_names(void **state)
{
	static const struct { const char *service, *host; } cases[] = {
		{ "orders", "orders.shop.mesh.internal" },
		{ "com.shop.OrderService", "com.shop.orderservice.shop.mesh.internal" },
		{ "My  Service!", "my-service.shop.mesh.internal" },
		{ "_http._tcp", "http.tcp.shop.mesh.internal" },
		{ ".a..b.", "a.b.shop.mesh.internal" },
	};
	char host[NAMES_HOST_LEN];

	(void)state;
	for (size_t i = 0; i < ELEMENTS(cases); i++) {
		assert_int_equal(names_service_host(cases[i].service, "shop", host), 0);
		assert_string_equal(host, cases[i].host);
	}
}

static void what_cannot_be_a_host_name_is_refused(void **state)
{
	char host[NAMES_HOST_LEN], text[400];

	(void)state;
	assert_int_equal(names_service_host("", "shop", host), -EINVAL);
	assert_int_equal(names_service_host("...", "shop", host), -EINVAL);
	assert_int_equal(names_service_host("\xc3\xa4", "shop", host), -EINVAL);
	assert_int_equal(names_service_host("a", "", host), -EINVAL);
	assert_int_equal(names_service_host("a", "Shop", host), -EINVAL);
	assert_int_equal(names_service_host("a", "a.b", host), -EINVAL);
	for (size_t n = 0; n < sizeof(text); n++) {
		for (size_t i = 0; i < n; i++)
			text[i] = i % 50 == 49 ? '.' : 'a';
		text[n] = 0;
		if (!names_service_host(text, "shop", host))
			assert_true(strlen(host) < NAMES_HOST_LEN);
	}
	memset(text, 'a', 64);
	text[64] = 0;
	assert_int_equal(names_service_host(text, "shop", host), -EINVAL);
}

static void a_vm_has_a_uid_and_a_name(void **state)
{
	char uid[NAMES_UID_LEN], name[NAMES_WORKLOAD_LEN];

	(void)state;
	assert_int_equal(names_vm_uid("nic-a/vm1/52:54:00:00:00:01", uid), 0);
	assert_string_equal(uid, "vm/nic-a/vm1/52:54:00:00:00:01");
	assert_int_equal(names_vm_uid("", uid), -EINVAL);
	assert_string_equal(names_vm_workload("Orders 1", "n/p/52:54:00:00:00:0A", name), "orders-1");
	assert_string_equal(names_vm_workload("", "n/p/52:54:00:00:00:0A", name), "vm-52540000000a");
	assert_string_equal(names_vm_workload("--", "x", name), "vm-x");
}

static void istiods_uid_of_a_vm_is_known_before(void **state)
{
	char uid[NAMES_UID_LEN] = "", group[NAMES_UID_LEN];

	(void)state;
	assert_int_equal(names_istio_uid("Kubernetes", "shop", "orders", "10.0.0.1", "", uid), 0);
	assert_string_equal(uid, "Kubernetes/networking.istio.io/WorkloadEntry/shop/orders-10.0.0.1");
	assert_int_equal(names_istio_uid("c", "shop", "orders", "10.0.0.1", "vpc-1", uid), 0);
	assert_string_equal(uid, "c/networking.istio.io/WorkloadEntry/shop/orders-10.0.0.1-vpc-1");
	assert_int_equal(names_istio_uid("c", "shop", "orders", "fd00::1", "", uid), 0);
	assert_string_equal(uid, "c/networking.istio.io/WorkloadEntry/shop/orders-fd00--1");
	memset(group, 'g', sizeof(group) - 1);
	group[sizeof(group) - 1] = 0;
	assert_int_equal(names_istio_uid("c", "shop", group, "10.0.0.1", "", uid), -EINVAL);
}

static void domains_of_names_are_checked(void **state)
{
	static const char *const good[] = { "example.com", "svc.cluster.local", "local", "shop/example.com", "a-b.c_d.e", "x/y", "." };
	static const char *const bad[] = { "", "/", "..", "./.", "shop/.", "shop/", "/example.com", "a/b/c", "Example.com", ".example.com", "example.com.", "a..b", "-a.b", "a-.b",
					   "a.b-", "a b", "my.shop/example.com", "*.example.com",
					   "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b" };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(good); i++)
		if (!names_dns_domain_valid(good[i]))
			fail_msg("\"%s\" is refused", good[i]);
	for (size_t i = 0; i < ELEMENTS(bad); i++)
		if (names_dns_domain_valid(bad[i]))
			fail_msg("\"%s\" is taken", bad[i]);
}

static const char *label(const void *of, const char *key)
{
	for (const char *const *at = of; *at; at += 2)
		if (!strcmp(at[0], key))
			return at[1];
	return NULL;
}

static void a_canonical_name_is_the_first_label_of_istios(void **state)
{
	static const char *const rows[][7] = {
		{ NULL },
		{ "app", "c", NULL },
		{ "app", "c", "app.kubernetes.io/name", "b", NULL },
		{ "app", "c", "app.kubernetes.io/name", "b", "service.istio.io/canonical-name", "a", NULL },
		{ "app", "c", "app.kubernetes.io/name", "", NULL },
	};
	static const char *const names[] = { NULL, "c", "b", "a", "c" };
	static const char *const versions[] = { "version", "v1", "app.kubernetes.io/version", "v2", NULL };

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++)
		if (names[i])
			assert_string_equal(names_canonical_name(label, rows[i]), names[i]);
		else
			assert_null(names_canonical_name(label, rows[i]));
	assert_string_equal(names_canonical_revision(label, versions), "v2");
	assert_null(names_canonical_revision(label, rows[1]));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(services_become_host_names),
		cmocka_unit_test(what_cannot_be_a_host_name_is_refused),
		cmocka_unit_test(a_vm_has_a_uid_and_a_name),
		cmocka_unit_test(domains_of_names_are_checked),
		cmocka_unit_test(istiods_uid_of_a_vm_is_known_before),
		cmocka_unit_test(a_canonical_name_is_the_first_label_of_istios),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

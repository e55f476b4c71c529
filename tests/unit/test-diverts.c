/*
 * Divert entries: exclusions are cut out exactly, changes are minimal.
 */
#include "lib/unit.h"

#include <errno.h>
#include <string.h>

#include "agent/diverts.h"

static struct ip ip(const char *text)
{
	struct ip a;

	assert_int_equal(ip_parse(text, &a), 0);
	return a;
}

static struct ip_prefix prefix(const char *text)
{
	struct ip_prefix p;

	assert_int_equal(ip_prefix_parse(text, &p), 0);
	return p;
}

/* As the longest prefix match of the BPF map would. */
static bool diverted(const struct diverts *d, enum monitor_direction direction, const char *text, uint16_t port)
{
	struct ip a = ip(text);

	for (size_t i = 0; i < d->n; i++)
		if (d->v[i].direction == direction && ip_in_prefix(&a, &d->v[i].dst) && (!d->v[i].port || d->v[i].port == port))
			return true;
	return false;
}

static void everything_goes_out_through_the_proxy(void **state)
{
	struct divert_wish w = { .vm = 3, .hbone_port = 15008 };
	struct diverts d;

	(void)state;
	assert_int_equal(diverts_make(&w, &d), 0);
	assert_true(diverted(&d, MONITOR_OUTBOUND, "10.1.2.3", 80));
	assert_true(diverted(&d, MONITOR_OUTBOUND, "255.0.0.1", 443));
	assert_true(diverted(&d, MONITOR_OUTBOUND, "2001:db8::1", 80));
	assert_true(diverted(&d, MONITOR_OUTBOUND, "fd00::1", 80));
	assert_false(diverted(&d, MONITOR_OUTBOUND, "fe80::1", 80));
	assert_false(diverted(&d, MONITOR_INBOUND, "10.1.2.3", 15008));
	assert_int_equal(d.v[0].vm, 3);
	assert_int_equal(d.v[0].flags, 0);
	diverts_deinit(&d);
}

static void queries_for_names_come_by_when_wanted(void **state)
{
	struct ip_prefix exclude[] = { prefix("10.88.0.2") };
	struct divert_wish w = { .vm = 3, .hbone_port = 15008, .exclude = exclude, .n_exclude = 1 };
	struct diverts d, e;

	(void)state;
	assert_int_equal(diverts_make(&w, &d), 0);
	assert_false(diverted(&d, MONITOR_DNS, "10.1.2.3", 53));
	w.dns = true;
	for (int answers = 0; answers < 2; answers++) {
		w.dns_answers = answers;
		assert_int_equal(diverts_make(&w, &e), 0);
		assert_true(diverted(&e, MONITOR_DNS, "10.1.2.3", 53));
		assert_true(diverted(&e, MONITOR_DNS, "fd00::1", 53));
		assert_false(diverted(&e, MONITOR_DNS, "10.1.2.3", 80));
		assert_false(diverted(&e, MONITOR_DNS, "10.88.0.2", 53));	/* a server that is to be left alone */
		for (size_t i = 0; i < e.n; i++)
			assert_true(e.v[i].direction != MONITOR_DNS || e.v[i].flags == (answers ? MONITOR_DIVERT_DNS_ANSWERS : 0));
		diverts_deinit(&e);
	}
	diverts_deinit(&d);
}

static void exclusions_are_cut_out_to_the_bit(void **state)
{
	struct ip_prefix exclude[] = { prefix("10.88.0.2"), prefix("192.168.0.0/16"), prefix("fd00:5::/32") };
	struct divert_wish w = { .hbone_port = 15008, .exclude = exclude, .n_exclude = 3 };
	struct diverts d;

	(void)state;
	assert_int_equal(diverts_make(&w, &d), 0);
	assert_false(diverted(&d, MONITOR_OUTBOUND, "10.88.0.2", 80));
	assert_true(diverted(&d, MONITOR_OUTBOUND, "10.88.0.1", 80));
	assert_true(diverted(&d, MONITOR_OUTBOUND, "10.88.0.3", 80));
	assert_false(diverted(&d, MONITOR_OUTBOUND, "192.168.255.255", 80));
	assert_true(diverted(&d, MONITOR_OUTBOUND, "192.169.0.0", 80));
	assert_true(diverted(&d, MONITOR_OUTBOUND, "192.167.255.255", 80));
	assert_false(diverted(&d, MONITOR_OUTBOUND, "fd00:5::1", 80));
	assert_true(diverted(&d, MONITOR_OUTBOUND, "fd00:6::1", 80));
	diverts_deinit(&d);

	exclude[0] = prefix("0.0.0.0/0");
	assert_int_equal(diverts_make(&w, &d), 0);
	assert_false(diverted(&d, MONITOR_OUTBOUND, "8.8.8.8", 80));
	assert_true(diverted(&d, MONITOR_OUTBOUND, "2001:db8::1", 80));
	diverts_deinit(&d);
}

static void what_comes_in_is_diverted_by_address_and_port(void **state)
{
	struct ip addresses[] = { ip("10.0.0.1"), ip("fe80::1"), ip("fd00::1") };
	uint16_t ports[] = { 8080, 9090, 8080 };
	struct divert_wish w = { .addresses = addresses, .n_addresses = 3, .ports = ports, .n_ports = 3, .hbone_port = 15008, .fail_closed = true };
	struct diverts d;
	size_t n = 0;

	(void)state;
	assert_int_equal(diverts_make(&w, &d), 0);
	assert_true(diverted(&d, MONITOR_INBOUND, "10.0.0.1", 15008));
	assert_true(diverted(&d, MONITOR_INBOUND, "10.0.0.1", 8080));
	assert_true(diverted(&d, MONITOR_INBOUND, "fd00::1", 9090));
	assert_false(diverted(&d, MONITOR_INBOUND, "10.0.0.1", 22));
	assert_false(diverted(&d, MONITOR_INBOUND, "fe80::1", 15008));
	for (size_t i = 0; i < d.n; i++) {
		assert_true(d.v[i].flags & MONITOR_DIVERT_FAIL_CLOSED);
		assert_int_equal(!!(d.v[i].flags & MONITOR_DIVERT_SAME_NIC), d.v[i].port == 15008);
		n += d.v[i].direction == MONITOR_INBOUND;
	}
	assert_int_equal(n, 2 * 3);	/* the port that is named twice is one entry */
	diverts_deinit(&d);
}

struct calls {
	unsigned n_added, n_removed;
	bool removed_before_added;
};

static int on_add(void *data, const struct monitor_divert *one)
{
	struct calls *c = data;

	(void)one;
	c->removed_before_added |= c->n_removed;
	c->n_added++;
	return 0;
}

static int on_remove(void *data, const struct monitor_divert *one)
{
	struct calls *c = data;

	(void)one;
	c->n_removed++;
	return 0;
}

static void a_change_touches_only_what_differs(void **state)
{
	struct ip address = ip("10.0.0.1");
	uint16_t before_ports[] = { 80, 81 }, after_ports[] = { 81, 82 };
	struct divert_wish w = { .addresses = &address, .n_addresses = 1, .ports = before_ports, .n_ports = 2, .hbone_port = 15008 };
	struct diverts before, after, closed, none = {};
	struct calls c = {};

	(void)state;
	assert_int_equal(diverts_make(&w, &before), 0);
	w.ports = after_ports;
	assert_int_equal(diverts_make(&w, &after), 0);
	w.fail_closed = true;
	assert_int_equal(diverts_make(&w, &closed), 0);

	assert_int_equal(diverts_change(&before, &after, on_add, on_remove, &c), 0);
	assert_int_equal(c.n_added, 1);
	assert_int_equal(c.n_removed, 1);
	assert_false(c.removed_before_added);
	c = (struct calls){};
	assert_int_equal(diverts_change(&after, &closed, on_add, on_remove, &c), 0);
	assert_int_equal(c.n_added, closed.n);	/* other flags: written anew, not removed */
	assert_int_equal(c.n_removed, 0);
	c = (struct calls){};
	assert_int_equal(diverts_change(&closed, &none, on_add, on_remove, &c), 0);
	assert_int_equal(c.n_removed, closed.n);
	diverts_deinit(&before);
	diverts_deinit(&after);
	diverts_deinit(&closed);
}

static void too_many_entries_are_refused(void **state)
{
	static struct ip_prefix exclude[256];
	struct divert_wish w = { .hbone_port = 15008, .exclude = exclude, .n_exclude = 256 };
	struct diverts d;

	(void)state;
	for (size_t i = 0; i < 256; i++) {
		exclude[i] = prefix("10.0.0.1");
		exclude[i].ip.b[12] = (uint8_t)i;
		exclude[i].ip.b[13] = (uint8_t)(i * 7);
		exclude[i].ip.b[14] = (uint8_t)(i * 13);
	}
	assert_int_equal(diverts_make(&w, &d), -E2BIG);
}

static void what_is_behind_a_vm_is_said_once_and_changed_by_its_difference(void **state)
{
	const struct ip_prefix before[] = { prefix("10.244.7.0/24"), prefix("10.9.0.1"), prefix("10.244.7.0/24") };
	const struct ip_prefix after[] = { prefix("10.9.0.2"), prefix("10.244.7.0/24") };
	struct calls c = {};
	struct diverts d, e;

	(void)state;
	assert_int_equal(diverts_behind(3, before, 3, &d), 0);
	assert_int_equal(d.n, 2);
	assert_int_equal(d.v[0].direction, MONITOR_BEHIND);
	assert_int_equal(d.v[0].vm, 3);
	assert_int_equal(diverts_behind(3, after, 2, &e), 0);
	assert_int_equal(diverts_change(&d, &e, on_add, on_remove, &c), 0);
	assert_int_equal(c.n_added, 1);
	assert_int_equal(c.n_removed, 1);
	diverts_deinit(&d);
	diverts_deinit(&e);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_goes_out_through_the_proxy),
		cmocka_unit_test(queries_for_names_come_by_when_wanted),
		cmocka_unit_test(exclusions_are_cut_out_to_the_bit),
		cmocka_unit_test(what_comes_in_is_diverted_by_address_and_port),
		cmocka_unit_test(a_change_touches_only_what_differs),
		cmocka_unit_test(too_many_entries_are_refused),
		cmocka_unit_test(what_is_behind_a_vm_is_said_once_and_changed_by_its_difference),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

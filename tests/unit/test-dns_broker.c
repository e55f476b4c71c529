#include "lib/unit.h"

#include <stdio.h>
#include <stdlib.h>

#include "lib/dns_mesh.h"

#define TEXT(s)	((char *)(uintptr_t)(s))	/* protobuf-c has no const; nothing writes to them */

struct sent {
	unsigned n;
	struct dns_way way;		/* of the last */
	uint8_t data[65536];
	size_t len;
};

static struct {
	struct loop *loop;
	struct dns_mesh mesh;
	struct dns_broker broker;
	Outrigger__Ipc__VmPut put;
	struct sent vm, server;
} rig;

static struct dns_way way;		/* of what is asked; a datagram's unless a test says otherwise */

static void keep(struct sent *s, const struct dns_way *w, const void *message, size_t len)
{
	s->n++;
	s->way = *w;
	memcpy(s->data, message, len);
	s->len = len;
}

static void to_vm(void *data, const struct dns_way *w, const void *message, size_t len)
{
	(void)data;
	keep(&rig.vm, w, message, len);
}

static void to_server(void *data, const struct dns_way *w, const void *message, size_t len)
{
	(void)data;
	keep(&rig.server, w, message, len);
}

static const struct dns_broker_ops ops = { .to_vm = to_vm, .to_server = to_server };

static int set_up(void **state)
{
	(void)state;
	memset(&rig, 0, sizeof(rig));
	outrigger__ipc__vm_put__init(&rig.put);
	rig.put.namespace_ = TEXT("demo");
	rig.put.dns = OUTRIGGER__IPC__DNS_MODE__DNS_ANSWER;
	way = (struct dns_way){ .client = { dns_mesh_ip("10.66.0.12"), 4000 }, .server = dns_mesh_ip("10.66.0.1") };
	assert_int_equal(dns_mesh_init(&rig.mesh), 0);
	assert_int_equal(loop_new(&rig.loop), 0);
	dns_broker_init(&rig.broker, rig.loop, &ops, NULL, &dns_mesh_ops, &rig.mesh);
	rig.broker.put = &rig.put;
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	dns_broker_deinit(&rig.broker);
	loop_free(rig.loop);
	dns_mesh_deinit(&rig.mesh);
	return 0;
}

static void ask(const char *name, uint16_t type, uint16_t id)
{
	uint8_t m[512];
	size_t len = dns_message_make(m, name, type, id, -1);

	assert_true(len);
	dns_broker_query(&rig.broker, &way, m, len);
}

static void respond(const char *name, uint16_t type, uint16_t id, int rcode)
{
	uint8_t m[512];
	size_t len = dns_message_make(m, name, type, id, rcode);

	dns_broker_response(&rig.broker, &way, m, len);
}

/* What the VM was told the last time: "10.96.0.1", "80 web...", a name, "nothing", "NXDOMAIN"; of several addresses all. */
static const char *told(void)
{
	static char text[2048];
	char name[DNS_NAME_TEXT_LEN], address[IP_TEXT_LEN];
	struct dns_message m;
	struct dns_record r;

	text[0] = '\0';
	assert_true(dns_open(&m, rig.vm.data, rig.vm.len) && dns_check(&m) && m.header.response);
	if (m.header.rcode)
		return m.header.rcode == DNS_RCODE_NXDOMAIN ? "NXDOMAIN" : "an error";
	while (dns_next(&m, &r)) {
		size_t at = strlen(text);
		struct dns_name target;
		struct dns_srv srv;
		struct ip ip;

		if (r.section == DNS_AUTHORITY)
			return r.type == DNS_TYPE_SOA && !m.header.counts[DNS_ANSWER] ? "nothing" : "a surprise";
		if (r.section != DNS_ANSWER)
			continue;
		if (r.type == DNS_TYPE_SRV && dns_srv(&m, &r, &srv))
			snprintf(text + at, sizeof(text) - at, "%s%u %s", at ? " " : "", srv.port, dns_name_text(&srv.target, name));
		else if (r.type == DNS_TYPE_PTR && dns_target(&m, &r, &target))
			snprintf(text + at, sizeof(text) - at, "%s%s", at ? " " : "", dns_name_text(&target, name));
		else if (dns_address(&r, &ip))
			snprintf(text + at, sizeof(text) - at, "%s%s", at ? " " : "", ip_format(&ip, address));
	}
	return text;
}

static void turn_until_sent(const struct sent *s, unsigned n)
{
	while (s->n < n)
		assert_true(loop_turn(rig.loop, 100) >= 0);
}

/* --- tests --- */

static void questions_have_their_answers(void **state)
{
	static const struct { const char *name; uint16_t type; const char *answer; } rows[] = {	/* "": the server is asked */
		{ "web.demo.svc.cluster.local", DNS_TYPE_A, "10.96.0.1" },
		{ "wEB.Demo.svc.CLUSTER.local", DNS_TYPE_A, "10.96.0.1" },
		{ "web.demo.svc", DNS_TYPE_A, "10.96.0.1" },
		{ "web.demo.svc.cluster.local", DNS_TYPE_AAAA, "nothing" },
		{ "two.demo.svc.cluster.local", DNS_TYPE_AAAA, "fd00::96" },
		{ "two.demo.svc.cluster.local", DNS_TYPE_A, "nothing" },
		{ "web.demo.svc.cluster.local", DNS_TYPE_ANY, "10.96.0.1" },
		{ "web.demo.svc.cluster.local", DNS_TYPE_HTTPS, "nothing" },
		{ "web.demo.svc.cluster.local", DNS_TYPE_SVCB, "nothing" },
		{ "web.demo.svc.cluster.local", DNS_TYPE_SOA, "nothing" },
		{ "web.demo.svc.cluster.local", DNS_TYPE_SRV, "nothing" },
		{ "orders.shop.mesh.internal", DNS_TYPE_A, "10.99.0.1" },
		{ "headless.demo.svc.cluster.local", DNS_TYPE_A, "10.0.0.1" },		/* one is not healthy */
		{ "headless.demo.svc.cluster.local", DNS_TYPE_AAAA, "fd00::3" },
		{ "_http._tcp.web.demo.svc.cluster.local", DNS_TYPE_SRV, "80 web.demo.svc.cluster.local" },
		{ "_HTTPS._TCP.web.demo.svc.cluster.local", DNS_TYPE_SRV, "443 web.demo.svc.cluster.local" },
		{ "_http._tcp.web.demo.svc", DNS_TYPE_SRV, "80 web.demo.svc" },
		{ "_http._udp.web.demo.svc.cluster.local", DNS_TYPE_SRV, "" },
		{ "_grpc._tcp.web.demo.svc.cluster.local", DNS_TYPE_SRV, "" },		/* its port's name may be that all the same */
		{ "_http._tcp.two.demo.svc.cluster.local", DNS_TYPE_SRV, "" },		/* which one? */
		{ "_http._tcp.web.demo.svc.cluster.local", DNS_TYPE_A, "" },
		{ "_http._tcp", DNS_TYPE_SRV, "" },
		{ "1.0.96.10.in-addr.arpa", DNS_TYPE_PTR, "web.demo.svc.cluster.local" },
		{ "1.0.0.10.in-addr.arpa", DNS_TYPE_PTR, "headless.demo.svc.cluster.local" },
		{ "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.D.f.ip6.arpa", DNS_TYPE_PTR, "headless.demo.svc.cluster.local" },
		{ "2.0.99.10.in-addr.arpa", DNS_TYPE_PTR, "" },				/* its name is in no domain that is answered for */
		{ "9.9.9.9.in-addr.arpa", DNS_TYPE_PTR, "" },
		{ "1.0.96.in-addr.arpa", DNS_TYPE_PTR, "" },
		{ "01.0.96.10.in-addr.arpa", DNS_TYPE_PTR, "" },
		{ "1.0.96.256.in-addr.arpa", DNS_TYPE_PTR, "" },
		{ "1.0.96.10.in-addr.arpa", DNS_TYPE_A, "" },
		{ "gone.demo.svc.cluster.local", DNS_TYPE_A, "" },
		{ "web.demo.demo.svc.cluster.local", DNS_TYPE_A, "" },			/* a search list's way to web.demo */
		{ "web.demo.svc.svc.cluster.local", DNS_TYPE_A, "" },
		{ "web", DNS_TYPE_A, "" },
		{ "api.example.com", DNS_TYPE_A, "" },
	};

	(void)state;
	for (size_t i = 0; i < ELEMENTS(rows); i++) {
		unsigned n = rig.vm.n, forwarded = rig.server.n;

		ask(rows[i].name, rows[i].type, 7);
		while (rig.vm.n == n && rig.server.n == forwarded)	/* the mesh is asked first, and says nothing */
			assert_true(loop_turn(rig.loop, 100) >= 0);
		if (strcmp(rig.vm.n == n ? "" : told(), rows[i].answer))
			fail_msg("%s, type %u: %s", rows[i].name, rows[i].type, rig.vm.n == n ? "no answer" : told());
	}
	assert_int_equal(rig.broker.count.malformed, 0);
}

static void short_names_are_answered_where_they_are_asked_for(void **state)
{
	static const char *const names[][2] = { { "web", "10.96.0.1" }, { "web.demo", "10.96.0.1" }, { "web.demo.svc", "10.96.0.1" }, { "HEADLESS", "10.0.0.1" } };
	char *domains[] = { TEXT("svc.cluster.local"), TEXT(".") };

	(void)state;
	rig.put.dns_domains = domains;
	rig.put.n_dns_domains = ELEMENTS(domains);
	for (size_t i = 0; i < ELEMENTS(names); i++) {
		ask(names[i][0], DNS_TYPE_A, 1);
		assert_int_equal(rig.vm.n, i + 1);
		assert_string_equal(told(), names[i][1]);
	}
	ask("web.shop.demo", DNS_TYPE_A, 1);
	assert_int_equal(rig.server.n, 1);
}

/* Every truncation, every byte changed, and lengths at their limits: the server gets what the mesh does not take, as it was. */
static void what_is_no_query_goes_on_as_it_was(void **state)
{
	char longest[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.demo.svc.cluster.local";
	uint8_t m[512], changed[512];
	size_t len = dns_message_make(m, "web.demo.svc.cluster.local", DNS_TYPE_A, 1, -1);

	(void)state;
	for (size_t n = 0; n < len; n++) {
		dns_broker_query(&rig.broker, &way, m, n);
		assert_int_equal(rig.server.n, n + 1);
		assert_int_equal(rig.server.len, n);
	}
	assert_int_equal(rig.broker.count.malformed, len);
	assert_int_equal(rig.vm.n, 0);
	for (size_t at = 0; at < len; at++)
		for (unsigned v = 0; v < 256; v++) {
			memcpy(changed, m, len);
			changed[at] = (uint8_t)v;
			dns_broker_query(&rig.broker, &way, changed, len);
			dns_broker_response(&rig.broker, &way, changed, len);
		}
	changed[5] = 2;			/* two questions: not ours to take apart */
	memcpy(changed, m, len);
	memcpy(changed + len, m + DNS_HEADER_LEN, len - DNS_HEADER_LEN);
	changed[5] = 2;
	unsigned n = rig.server.n;
	dns_broker_query(&rig.broker, &way, changed, 2 * len - DNS_HEADER_LEN);
	assert_int_equal(rig.server.n, n + 1);
	assert_memory_equal(rig.server.data, changed, 2 * len - DNS_HEADER_LEN);
	ask(longest, DNS_TYPE_A, 1);	/* a label of 63 bytes */
	assert_int_equal(dns_message_make(m, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.demo.svc", DNS_TYPE_A, 1, -1), 0);
}

static void the_mesh_is_waited_for(void **state)
{
	(void)state;
	rig.mesh.hidden = true;
	ask("web.demo.svc.cluster.local", DNS_TYPE_A, 1);
	ask("web.demo.svc.cluster.local", DNS_TYPE_AAAA, 2);
	assert_int_equal(rig.mesh.n_asked, 1);
	assert_int_equal(rig.vm.n + rig.server.n, 0);
	dns_names_told(&rig.broker.names, "demo/web.demo.svc.cluster.local");	/* and publishes it with the rest of its answer */
	assert_int_equal(rig.vm.n + rig.server.n, 0);
	rig.mesh.hidden = false;
	dns_broker_review(&rig.broker);
	assert_int_equal(rig.vm.n, 2);
	assert_string_equal(told(), "nothing");
	rig.mesh.hidden = true;
	ask("two.demo.svc.cluster.local", DNS_TYPE_AAAA, 3);	/* it says nothing */
	turn_until_sent(&rig.server, 1);
	ask("headless.demo.svc.cluster.local", DNS_TYPE_A, 4);
	dns_names_told(&rig.broker.names, "demo/headless.demo.svc.cluster.local");	/* it says no */
	dns_broker_review(&rig.broker);
	assert_int_equal(rig.server.n, 2);
	assert_int_equal(rig.broker.n_pending, 0);
}

static void filling_leaves_answers_alone_and_replaces_refusals(void **state)
{
	static const int refusals[] = { DNS_RCODE_NXDOMAIN, DNS_RCODE_SERVFAIL, DNS_RCODE_REFUSED };

	(void)state;
	rig.put.dns = OUTRIGGER__IPC__DNS_MODE__DNS_FILL;
	ask("web.demo.svc.cluster.local", DNS_TYPE_A, 1);
	assert_int_equal(rig.server.n, 1);
	assert_int_equal(rig.vm.n, 0);
	respond("web.demo.svc.cluster.local", DNS_TYPE_A, 1, 0);
	assert_string_equal(told(), "");				/* the server's own: no record, no SOA */
	for (size_t i = 0; i < ELEMENTS(refusals); i++) {
		ask("web.demo.svc.cluster.local", DNS_TYPE_A, 2);
		respond("WEB.demo.svc.cluster.local", DNS_TYPE_A, 2, refusals[i]);
		assert_string_equal(told(), "10.96.0.1");
	}
	ask("1.0.96.10.in-addr.arpa", DNS_TYPE_PTR, 3);
	respond("1.0.96.10.in-addr.arpa", DNS_TYPE_PTR, 3, DNS_RCODE_NXDOMAIN);
	assert_string_equal(told(), "web.demo.svc.cluster.local");
	ask("www.example.org", DNS_TYPE_A, 4);
	respond("www.example.org", DNS_TYPE_A, 4, DNS_RCODE_NXDOMAIN);
	assert_string_equal(told(), "NXDOMAIN");
	assert_int_equal(rig.broker.count.filled, 4);
	assert_int_equal(rig.broker.n_pending, 0);

	unsigned n = rig.vm.n;
	ask("web.demo.svc.cluster.local", DNS_TYPE_A, 5);		/* and a server that is silent */
	turn_until_sent(&rig.vm, n + 1);
	assert_string_equal(told(), "10.96.0.1");
	assert_int_equal(rig.broker.n_pending, 0);
}

/* In datagrams a late answer is the resolver's to tell from others; on a connection it would be taken for the next one. */
static void a_late_answer_is_not_heard_on_a_connection(void **state)
{
	int some;

	(void)state;
	rig.put.dns = OUTRIGGER__IPC__DNS_MODE__DNS_FILL;
	way.conn = (struct dns_conn *)(void *)&some;
	ask("web.demo.svc.cluster.local", DNS_TYPE_A, 1);
	assert_true(dns_broker_waits(&rig.broker, way.conn));
	turn_until_sent(&rig.vm, 1);
	assert_false(dns_broker_waits(&rig.broker, way.conn));
	respond("web.demo.svc.cluster.local", DNS_TYPE_A, 1, 0);
	assert_int_equal(rig.vm.n, 1);
	respond("web.demo.svc.cluster.local", DNS_TYPE_A, 1, 0);	/* whose question nobody knows any more */
	assert_int_equal(rig.vm.n, 2);

	ask("web.demo.svc.cluster.local", DNS_TYPE_A, 2);		/* the server goes instead */
	ask("www.example.org", DNS_TYPE_A, 3);
	dns_broker_server_gone(&rig.broker, way.conn);
	assert_int_equal(rig.vm.n, 3);
	assert_string_equal(told(), "10.96.0.1");
	ask("web.demo.svc.cluster.local", DNS_TYPE_A, 4);
	dns_broker_drop(&rig.broker, way.conn);
	assert_int_equal(rig.broker.n_pending, 0);
}

/* Whoever can send to the VM may send answers to what nobody has asked: they use nothing up. */
static void an_answer_that_nobody_asked_for_asks_for_nothing(void **state)
{
	(void)state;
	rig.put.dns = OUTRIGGER__IPC__DNS_MODE__DNS_FILL;
	rig.mesh.hidden = true;
	respond("web.demo.svc.cluster.local", DNS_TYPE_A, 1, DNS_RCODE_NXDOMAIN);
	assert_string_equal(told(), "NXDOMAIN");
	assert_int_equal(rig.broker.n_pending, 0);
	assert_int_equal(rig.broker.names.wants.n, 0);
	ask("web.demo.svc.cluster.local", DNS_TYPE_A, 2);		/* one that was asked for does */
	assert_int_equal(rig.broker.names.wants.n, 1);
}

static void no_more_wait_than_may(void **state)
{
	(void)state;
	rig.mesh.hidden = true;
	for (unsigned i = 0; i < VM_DNS_PENDING_MAX + 3; i++)
		ask("web.demo.svc.cluster.local", DNS_TYPE_A, (uint16_t)i);
	assert_int_equal(rig.broker.n_pending, VM_DNS_PENDING_MAX);
	assert_int_equal(rig.server.n, 3);
	assert_int_equal(rig.broker.count.over_budget, 3);
}

static void observing_passes_everything_on(void **state)
{
	(void)state;
	rig.put.dns = OUTRIGGER__IPC__DNS_MODE__DNS_OBSERVE;
	ask("web.demo.svc.cluster.local", DNS_TYPE_A, 1);
	respond("web.demo.svc.cluster.local", DNS_TYPE_A, 1, DNS_RCODE_NXDOMAIN);
	assert_int_equal(rig.server.n, 1);
	assert_string_equal(told(), "NXDOMAIN");
	assert_int_equal(rig.mesh.n_asked, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(questions_have_their_answers, set_up, tear_down),
		cmocka_unit_test_setup_teardown(short_names_are_answered_where_they_are_asked_for, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_no_query_goes_on_as_it_was, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_mesh_is_waited_for, set_up, tear_down),
		cmocka_unit_test_setup_teardown(filling_leaves_answers_alone_and_replaces_refusals, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_late_answer_is_not_heard_on_a_connection, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_answer_that_nobody_asked_for_asks_for_nothing, set_up, tear_down),
		cmocka_unit_test_setup_teardown(no_more_wait_than_may, set_up, tear_down),
		cmocka_unit_test_setup_teardown(observing_passes_everything_on, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

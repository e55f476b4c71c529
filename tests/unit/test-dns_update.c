/*
 * Dynamic updates, written and answered record by record.
 */
#include "lib/unit.h"

#include "base/defs.h"
#include "discover/dns.h"
#include "lib/observe.h"

enum { IN = 1, NONE = 254, ANY = 255, A = 1, TXT = 16, AAAA = 28, SRV = 33 };

struct message {
	uint8_t data[1024];
	size_t len;
};

static void put16(struct message *m, unsigned v)
{
	m->data[m->len++] = (uint8_t)(v >> 8);
	m->data[m->len++] = (uint8_t)v;
}

static void put_name(struct message *m, const char *name)
{
	while (*name) {
		size_t n = strcspn(name, ".");

		m->data[m->len++] = (uint8_t)n;
		memcpy(m->data + m->len, name, n);
		m->len += n;
		name += n + (name[n] == '.');
	}
	m->data[m->len++] = 0;
}

/* Opcode 5, the zone "z", no prerequisites. */
static struct message update(unsigned id)
{
	struct message m = {};

	put16(&m, id);
	put16(&m, 5 << 11);
	put16(&m, 1);
	put16(&m, 0);
	put16(&m, 0);
	put16(&m, 0);
	put_name(&m, "z");
	put16(&m, 6);
	put16(&m, IN);
	return m;
}

static void put_head(struct message *m, const char *name, unsigned type, unsigned class_, unsigned ttl_s)
{
	m->data[9]++;
	put_name(m, name);
	put16(m, type);
	put16(m, class_);
	put16(m, 0);
	put16(m, ttl_s);
}

static void put_data(struct message *m, const char *name, unsigned type, unsigned class_, unsigned ttl_s, const void *data, size_t len)
{
	put_head(m, name, type, class_, ttl_s);
	put16(m, (unsigned)len);
	memcpy(m->data + m->len, data, len);
	m->len += len;
}

static void put_a(struct message *m, const char *name, unsigned class_, uint8_t last)
{
	const uint8_t ip[4] = { 10, 0, 0, last };

	put_data(m, name, A, class_, class_ == IN ? 300 : 0, ip, sizeof(ip));
}

static void put_aaaa(struct message *m, const char *name, uint8_t last)
{
	const uint8_t ip[16] = { 0xfd, [15] = last };

	put_data(m, name, AAAA, IN, 300, ip, sizeof(ip));
}

static void put_srv(struct message *m, const char *name, unsigned class_, unsigned port, const char *target)
{
	struct message rdata = {};

	put16(&rdata, 0);
	put16(&rdata, 0);
	put16(&rdata, port);
	put_name(&rdata, target);
	put_data(m, name, SRV, class_, class_ == IN ? 60 : 0, rdata.data, rdata.len);
}

static void put_delete_all(struct message *m, const char *name, unsigned type)
{
	put_head(m, name, type, ANY, 0);
	put16(m, 0);
}

static void pass(struct observe *o, const uint8_t *data, size_t len, bool to_server)
{
	static const uint8_t client[4] = { 10, 0, 0, 9 }, server[4] = { 10, 0, 0, 1 };
	struct ip_port c = { ip_from_v4(client), 40000 }, s = { ip_from_v4(server), 53 };
	struct datagram d = {
		.src = to_server ? c : s, .dst = to_server ? s : c, .dir = to_server ? DISCOVER_TO_REGISTRY : DISCOVER_FROM_REGISTRY,
		.from_guest = to_server, .data = data, .len = len,
	};
	struct discover_ctx ctx = observe_ctx(o);

	discover_dns.datagram(o->guest, &d, &ctx);
}

/* Passes @m on, has it answered with @rcode, and compares what was observed. */
static void play(struct observe *o, struct message m, unsigned rcode, const char *expected)
{
	const uint8_t response[12] = { m.data[0], m.data[1], 0x80 | 5 << 3, (uint8_t)rcode };

	bytes_clear(&o->text);
	pass(o, m.data, m.len, true);
	assert_int_equal(o->text.len, 0);
	pass(o, response, sizeof(response), false);
	observe_add(&o->text, "");
	assert_int_equal(o->text.len, strlen(expected));
	assert_memory_equal(o->text.data ? o->text.data : (const uint8_t *)"", expected, strlen(expected));
}

static void start(struct observe *o)
{
	observe_init(o, &discover_dns, 0);
}

static void a_host_is_registered_renewed_moved_and_gone(void **state)
{
	struct observe o;
	struct message m;

	(void)state;
	start(&o);
	m = update(1);
	put_a(&m, "Vm1.z", IN, 5);
	put_aaaa(&m, "vm1.z", 5);	/* the same host */
	play(&o, m, 0, "register vm1.z/- 10.0.0.5:0 ttl=300\n");
	m.data[1] = 2;
	play(&o, m, 0, "renew vm1.z/- 10.0.0.5:0 ttl=300\n");
	m = update(3);
	put_delete_all(&m, "vm1.z", A);
	put_a(&m, "vm1.z", IN, 6);
	play(&o, m, 0, "deregister vm1.z/- 10.0.0.5:0\nregister vm1.z/- 10.0.0.6:0 ttl=300\n");
	m = update(4);
	put_delete_all(&m, "VM1.z", ANY);
	play(&o, m, 0, "deregister vm1.z/- 10.0.0.6:0\n");
	observe_deinit(&o);
}

static void a_refusal_and_a_copy_are_nothing(void **state)
{
	struct observe o;
	struct message m = update(1);

	(void)state;
	start(&o);
	put_a(&m, "vm1.z", IN, 5);
	for (unsigned rcode = 1; rcode < 16; rcode++) {
		m.data[0] = (uint8_t)rcode;
		play(&o, m, rcode, "");
	}
	m.data[0] = 0;
	play(&o, m, 0, "register vm1.z/- 10.0.0.5:0 ttl=300\n");
	play(&o, m, 0, "");
	observe_deinit(&o);
}

static void an_instance_has_its_targets_address_and_its_text(void **state)
{
	struct observe o;
	struct message m = update(1);

	(void)state;
	start(&o);
	put_srv(&m, "Web 1._http._tcp.z", IN, 8080, "vm1.z");
	put_data(&m, "Web 1._http._tcp.z", TXT, IN, 60, "\4a=b1", 5);
	put_a(&m, "vm1.z", IN, 5);
	put_srv(&m, "_pg._tcp.z", IN, 5432, "other.example");
	play(&o, m, 0,
	     "register Web 1/Web 1._http._tcp.z 10.0.0.5:8080 ttl=60 a=b1 type=_http._tcp\n"
	     "register vm1.z/- 10.0.0.5:0 ttl=300\n"
	     "register _pg._tcp.z/other.example other.example:5432 ttl=60\n");
	m = update(2);
	put_srv(&m, "_pg._tcp.z", NONE, 5432, "other.example");
	put_delete_all(&m, "web 1._http._tcp.z", SRV);
	play(&o, m, 0,
	     "deregister Web 1/Web 1._http._tcp.z 10.0.0.5:8080 type=_http._tcp\n"
	     "deregister _pg._tcp.z/other.example other.example:5432\n");
	observe_deinit(&o);
}

static void what_was_written_before_the_capture_can_go(void **state)
{
	struct observe o;
	struct message m = update(1);

	(void)state;
	start(&o);
	put_a(&m, "old.z", NONE, 7);
	put_delete_all(&m, "older.z", A);
	put_delete_all(&m, "older.z", AAAA);
	put_delete_all(&m, "5.0.0.10.in-addr.arpa", ANY);
	play(&o, m, 0, "deregister old.z/- 10.0.0.7:0\nderegister older.z/- -:0\n");
	m = update(2);			/* how clients write what may be there: delete, then add */
	put_delete_all(&m, "new.z", AAAA);
	put_delete_all(&m, "new.z", A);
	put_a(&m, "new.z", IN, 8);
	play(&o, m, 0, "register new.z/- 10.0.0.8:0 ttl=300\n");
	observe_deinit(&o);
}

static void what_is_added_and_deleted_again_never_was(void **state)
{
	struct observe o;
	struct message m = update(1);

	(void)state;
	start(&o);
	put_a(&m, "vm1.z", IN, 5);
	put_a(&m, "vm1.z", NONE, 5);
	play(&o, m, 0, "");
	observe_deinit(&o);
}

static void every_truncation_is_nothing(void **state)
{
	struct observe o;
	struct message m = update(1);

	(void)state;
	start(&o);
	put_srv(&m, "_pg._tcp.z", IN, 5432, "vm1.z");
	put_a(&m, "vm1.z", IN, 5);
	for (size_t len = 0; len < m.len; len++) {
		const uint8_t response[12] = { m.data[0], m.data[1], 0x80 | 5 << 3, 0 };

		pass(&o, m.data, len, true);
		pass(&o, response, sizeof(response), false);
	}
	assert_int_equal(o.text.len, 0);
	observe_deinit(&o);
}

static void nothing_grows_beyond_its_limit(void **state)
{
	struct observe o;

	(void)state;
	start(&o);
	for (unsigned i = 0; i < 1000; i++) {
		char name[32], expected[96];
		struct message m = update(i);

		snprintf(name, sizeof(name), "vm%u.z", i);
		put_a(&m, name, IN, 5);
		pass(&o, m.data, m.len, true);			/* never answered */
		m.data[0] |= 0x80;
		snprintf(expected, sizeof(expected), "register %s/- 10.0.0.5:0 ttl=300\n", name);
		play(&o, m, 0, expected);
	}
	observe_deinit(&o);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_host_is_registered_renewed_moved_and_gone),
		cmocka_unit_test(a_refusal_and_a_copy_are_nothing),
		cmocka_unit_test(an_instance_has_its_targets_address_and_its_text),
		cmocka_unit_test(what_was_written_before_the_capture_can_go),
		cmocka_unit_test(what_is_added_and_deleted_again_never_was),
		cmocka_unit_test(every_truncation_is_nothing),
		cmocka_unit_test(nothing_grows_beyond_its_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

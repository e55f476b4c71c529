#include "lib/unit.h"

#include "discover/zk_stream.h"
#include "discover/zookeeper.h"
#include "lib/observe.h"
#include "lib/zk_frames.h"

enum { SESSION = 0x1234, TIMEOUT_MS = 6000 };

static void to(struct observe *o, struct frame f)
{
	assert_true(observe_feed(o, DISCOVER_TO_REGISTRY, f.data, f.len));
}

static void from(struct observe *o, struct frame f)
{
	assert_true(observe_feed(o, DISCOVER_FROM_REGISTRY, f.data, f.len));
}

static void begin(struct observe *o, size_t step)
{
	observe_init(o, &discover_zookeeper, step);
	to(o, frame_connect(0, 6000, true));
	from(o, frame_connected(SESSION, TIMEOUT_MS));
}

static void create(struct observe *o, const char *path, const char *data, uint32_t flags)
{
	static uint32_t xid = 1000;

	to(o, frame_create(++xid, 1, path, data, flags));
	from(o, frame_reply_path(xid, path));
}

static void seen(struct observe *o, const char *text)
{
	assert_string_equal(observe_text(o), text);
}

static void wait_ms(struct observe *o, uint64_t ms)
{
	o->time_ns += ms * 1000000;
	struct discover_ctx ctx = observe_ctx(o);
	discover_zookeeper.tick(o->guest, &ctx);
}

#define CURATOR(id, port, version) "{\"name\":\"orders\",\"id\":\"" id "\",\"address\":\"10.1.0.1\",\"port\":" port ",\"sslPort\":null," \
	"\"payload\":{\"@class\":\"X\",\"version\":\"" version "\"},\"registrationTimeUTC\":1,\"serviceType\":\"DYNAMIC\",\"uriSpec\":null}"

static void an_instance_lives_as_long_as_its_node(void **state)
{
	(void)state;
	for (size_t step = 0; step < 2; step++) {
		struct observe o;

		begin(&o, step);
		create(&o, "/services", NULL, 0);
		create(&o, "/services/orders", "{\"name\":\"x\",\"port\":1}", 0);
		seen(&o, "");
		to(&o, frame_create(1, 15, "/services/orders/o1", CURATOR("o1", "80", "1"), 1));
		from(&o, frame_reply(1, -101));
		seen(&o, "");
		to(&o, frame_create(2, 15, "/services/orders/o1", CURATOR("o1", "80", "1"), 1));
		seen(&o, "");
		struct frame f = frame_reply_path(2, "/services/orders/o1");
		frame_add_stat(&f, SESSION);
		from(&o, f);
		seen(&o, "register orders/o1 10.1.0.1:80 version=1\n");
		to(&o, frame_set(3, "/services/orders/o1", CURATOR("o1", "80", "1")));
		from(&o, frame_reply_stat(3, SESSION));
		seen(&o, "");
		to(&o, frame_set(4, "/services/orders/o1", CURATOR("o1", "80", "2")));
		from(&o, frame_reply_stat(4, SESSION));
		seen(&o, "register orders/o1 10.1.0.1:80 version=2\n");
		to(&o, frame_delete(5, "/services/orders/o1"));
		from(&o, frame_reply(5, -103));
		seen(&o, "");
		to(&o, frame_delete(6, "/services/orders/o1"));
		from(&o, frame_reply(6, 0));
		seen(&o, "deregister orders/o1 10.1.0.1:80\n");
		observe_deinit(&o);
	}
}

static void an_empty_node_is_an_instance_when_its_data_is_set(void **state)
{
	struct observe o;

	(void)state;
	begin(&o, 0);
	create(&o, "/services/orders/vm1", "", 1);
	seen(&o, "");
	to(&o, frame_set(1, "/services/orders/vm1", "{\"name\":\"orders\",\"id\":\"vm1\",\"port\":8080}"));
	from(&o, frame_reply_stat(1, SESSION));
	seen(&o, "register orders/vm1 10.0.0.9:8080\n");
	observe_deinit(&o);
}

static void the_end_of_a_session_is_the_end_of_its_instances(void **state)
{
	struct observe o;

	(void)state;
	begin(&o, 0);
	create(&o, "/services/orders/o1", CURATOR("o1", "80", "1"), 1);
	seen(&o, "register orders/o1 10.1.0.1:80 version=1\n");
	/* Its connection breaks, it comes back with another one and goes on. */
	observe_connect(&o);
	wait_ms(&o, TIMEOUT_MS - 1);
	to(&o, frame_connect(SESSION, 6000, false));
	from(&o, frame_connected(SESSION, TIMEOUT_MS));
	create(&o, "/services/orders/o2", CURATOR("o2", "81", "1"), 1);
	seen(&o, "register orders/o2 10.1.0.1:81 version=1\n");
	wait_ms(&o, TIMEOUT_MS - 1);
	seen(&o, "");
	to(&o, frame_request(0xfffffffe, 11));
	wait_ms(&o, TIMEOUT_MS - 1);
	seen(&o, "");
	wait_ms(&o, 2);
	const char *text = observe_text(&o);
	assert_non_null(strstr(text, "deregister orders/o1 10.1.0.1:80\n"));
	assert_non_null(strstr(text, "deregister orders/o2 10.1.0.1:81\n"));
	wait_ms(&o, 100000);
	seen(&o, "");
	observe_deinit(&o);
}

/* A server that is down counts nobody's silence. */
static void a_session_outlives_its_servers_restart(void **state)
{
	struct observe o;

	(void)state;
	begin(&o, 0);
	create(&o, "/services/orders/o1", "10.1.0.1:80", 1);
	seen(&o, "register orders/o1 10.1.0.1:80\n");
	for (unsigned i = 0; i < 10; i++) {
		struct discover_ctx ctx;

		wait_ms(&o, 4000);
		observe_connect(&o);
		ctx = observe_ctx(&o);
		discover_zookeeper.stream_end(o.stream, DISCOVER_FROM_REGISTRY, &ctx);	/* refused */
	}
	seen(&o, "");
	wait_ms(&o, 4000);
	seen(&o, "");
	wait_ms(&o, 60000);
	seen(&o, "deregister orders/o1 10.1.0.1:80\n");
	observe_deinit(&o);
}

static void a_session_is_closed_by_its_client_or_declared_dead_by_the_server(void **state)
{
	struct observe o;

	(void)state;
	begin(&o, 0);
	create(&o, "/services/orders/o1", CURATOR("o1", "80", "1"), 1);
	observe_text(&o);
	to(&o, frame_request(9, (uint32_t)-11));
	seen(&o, "");
	from(&o, frame_reply(9, 0));
	seen(&o, "deregister orders/o1 10.1.0.1:80\n");
	observe_deinit(&o);

	begin(&o, 0);
	create(&o, "/services/orders/o1", CURATOR("o1", "80", "1"), 1);
	observe_text(&o);
	observe_connect(&o);
	to(&o, frame_connect(SESSION, 6000, false));
	from(&o, frame_connected(0, 0));
	seen(&o, "deregister orders/o1 10.1.0.1:80\n");
	observe_deinit(&o);
}

static void a_sequence_number_comes_from_the_reply(void **state)
{
	struct observe o;

	(void)state;
	begin(&o, 0);
	to(&o, frame_create(1, 1, "/nerve/services/web/services/i_", "{\"host\":\"10.1.0.2\",\"port\":81,\"name\":\"vm-7\"}", 3));
	from(&o, frame_reply_path(1, "/nerve/services/web/services/i_0000000007"));
	seen(&o, "register web/i_0000000007 10.1.0.2:81\n");
	to(&o, frame_create(2, 1, "/twitter/service/role/prod/job/member_", "{\"serviceEndpoint\":{\"host\":\"h.example\",\"port\":82},"
			    "\"additionalEndpoints\":{},\"status\":\"ALIVE\",\"shard\":3}", 3));
	from(&o, frame_reply_path(2, "/twitter/service/role/prod/job/member_0000000000"));
	seen(&o, "register job/member_0000000000 h.example:82 passing shard=3\n");
	observe_deinit(&o);
}

static void dubbo_says_it_in_the_path(void **state)
{
	struct observe o;

	(void)state;
	begin(&o, 0);
	create(&o, "/dubbo/org.x.Demo/providers/dubbo%3A%2F%2F10.1.0.3%3A20880%2Forg.x.Demo%3Fapplication%3Dapp%26methods%3Da%252Cb", "10.1.0.3", 1);
	seen(&o, "register org.x.Demo/10.1.0.3:20880 10.1.0.3:20880 application=app methods=a,b\n");
	create(&o, "/dubbo/org.x.Other/consumers/consumer%3A%2F%2F10.1.0.9%2Forg.x.Other%3Fside%3Dconsumer", "", 1);
	seen(&o, "discover org.x.Other/- -:0\n");
	to(&o, frame_read(7, 8, "/dubbo/org.x.Other/configurators", true));
	from(&o, frame_reply(7, -101));
	to(&o, frame_read(7, 8, "/dubbo/org.x.Other/providers", true));
	from(&o, frame_reply(7, -101));
	seen(&o, "");
	create(&o, "/dubbo/a.B%24C/providers/dubbo%3A%2F%2F10.1.0.3%3A20880%2Fa.B%24C", "", 1);
	seen(&o, "register a.B$C/10.1.0.3:20880 10.1.0.3:20880\n");
	to(&o, frame_read(8, 12, "/dubbo/org.x.Third/providers", true));
	seen(&o, "discover org.x.Third/- -:0\n");
	struct frame f = frame_reply(8, 0);
	frame_u(&f, 1, 4);
	frame_str(&f, "tri%3A%2F%2F10.1.0.4%3A50051%2Forg.x.Third%3Fversion%3D2.0%26group%3Dg");
	frame_add_stat(&f, 0);
	from(&o, f);
	seen(&o, "answer org.x.Third/g/10.1.0.4:50051:2.0 10.1.0.4:50051 version=2.0 group=g\n");
	observe_deinit(&o);
}

static void payloads_of_other_libraries_are_read(void **state)
{
	static const struct { const char *path, *data, *seen; } cases[] = {
		{ "/brokers/ids/1", "{\"listener_security_protocol_map\":{\"PLAINTEXT\":\"PLAINTEXT\"},\"endpoints\":[\"PLAINTEXT://10.1.0.5:9092\"],"
		  "\"host\":\"10.1.0.5\",\"port\":9092,\"version\":5}", "register kafka/1 10.1.0.5:9092 version=5\n" },
		{ "/services/spring/uuid-1", "{\"name\":\"spring\",\"id\":\"uuid-1\",\"address\":\"vm-1\",\"port\":8080,\"sslPort\":null,"
		  "\"payload\":{\"@class\":\"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance\",\"id\":\"a\",\"name\":\"spring\","
		  "\"metadata\":{\"instance_status\":\"UP\",\"zone\":\"z\"}},\"registrationTimeUTC\":1,\"serviceType\":\"DYNAMIC\"}",
		  "register spring/uuid-1 vm-1:8080 passing instance_status=UP zone=z\n" },
		{ "/rpc/echo/10.1.0.6:7000", "", "register echo/10.1.0.6:7000 10.1.0.6:7000\n" },
		{ "/app/echo/n1", "10.1.0.7:7001\n", "register echo/n1 10.1.0.7:7001\n" },
		{ "/app/v6/n1", "[fd00::1]:7001", "register v6/n1 fd00::1:7001\n" },
		{ "/services/vm1", "{\"name\":\"orders\",\"address\":\"10.1.0.8\",\"port\":\"8080\"}", "register orders/vm1 10.1.0.8:8080\n" },
		{ "/services/web/servers/s1", "http://10.1.0.8:81/x", "register web/s1 10.1.0.8:81\n" },
		{ "/solr/live_nodes/10.1.0.9:8983_solr", "", "register solr/10.1.0.9:8983_solr 10.1.0.9:8983\n" },
		{ "/hbase/rs/vm-1.example,16020,1700000000000", "\xff PBUF", "register hbase/vm-1.example,16020,1700000000000 vm-1.example:16020\n" },
		{ "/hbase/rs/vm-1.example,16020,x", "", "" },
		{ "/hbase/rs/,16020,1", "", "" },
		{ "/solr/live_nodes/10.1.0.9:_solr", "", "" },
		{ "/locks/orders/_c_1-lock-0000000001", "10.1.0.1", "" },
		{ "/election/n_1", "10.1.0.1:80", "" },
		{ "/controller", "{\"version\":1,\"brokerid\":1,\"timestamp\":\"1\"}", "" },
		{ "/config/x", "port", "" },
		{ "/config/y", "{\"a\":[1,2", "" },
		{ "/config/z", "[]", "" },
	};
	struct observe o;

	(void)state;
	begin(&o, 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		create(&o, cases[i].path, cases[i].data, 1);
		seen(&o, cases[i].seen);
	}
	observe_deinit(&o);
}

static void persistent_nodes_are_no_instances_unless_they_say_so(void **state)
{
	struct observe o;

	(void)state;
	begin(&o, 0);
	create(&o, "/services/orders/o1", CURATOR("o1", "80", "1"), 0);
	create(&o, "/rpc/echo/10.1.0.6:7000", "", 0);
	seen(&o, "");
	create(&o, "/services/db/d1", "{\"name\":\"db\",\"id\":\"d1\",\"address\":\"10.1.0.2\",\"port\":5432,\"serviceType\":\"PERMANENT\"}", 0);
	seen(&o, "register db/d1 10.1.0.2:5432\n");
	to(&o, frame_request(9, (uint32_t)-11));
	from(&o, frame_reply(9, 0));
	seen(&o, "");
	observe_deinit(&o);
}

static void the_operations_of_a_multi_count_one_by_one(void **state)
{
	struct observe o;
	struct frame f = frame_request(5, 14);

	(void)state;
	begin(&o, 0);
	frame_add_multi_header(&f, 1, false);
	frame_add_create(&f, "/services/orders/o1", CURATOR("o1", "80", "1"), 1);
	frame_add_multi_header(&f, 13, false);
	frame_str(&f, "/services");
	frame_u(&f, 0, 4);
	frame_add_multi_header(&f, 15, false);
	frame_add_create(&f, "/services/orders/o2", CURATOR("o2", "81", "1"), 1);
	frame_add_multi_header(&f, 0xffffffff, true);
	to(&o, f);
	struct frame failed = frame_reply(5, 0);
	for (int i = 0; i < 3; i++) {
		frame_add_multi_header(&failed, 0xffffffff, false);
		frame_u(&failed, (uint32_t)-110, 4);
	}
	frame_add_multi_header(&failed, 0xffffffff, true);
	from(&o, failed);
	seen(&o, "");
	to(&o, f);
	struct frame ok = frame_reply(5, 0);
	frame_add_multi_header(&ok, 1, false);
	frame_str(&ok, "/services/orders/o1");
	frame_add_multi_header(&ok, 13, false);
	frame_add_multi_header(&ok, 15, false);
	frame_str(&ok, "/services/orders/o2");
	frame_add_stat(&ok, SESSION);
	frame_add_multi_header(&ok, 0xffffffff, true);
	from(&o, ok);
	seen(&o, "register orders/o1 10.1.0.1:80 version=1\nregister orders/o2 10.1.0.1:81 version=1\n");

	/* Every truncation of it is no registration and no crash. */
	for (size_t cut = 0; cut < f.len - 8; cut++) {
		struct observe t;
		struct frame part = f;

		begin(&t, 0);
		part.len -= cut + 1;
		frame_u(&part, 0, 0);
		observe_feed(&t, DISCOVER_TO_REGISTRY, part.data, part.len);
		observe_feed(&t, DISCOVER_FROM_REGISTRY, ok.data, ok.len);
		observe_deinit(&t);
	}
	observe_deinit(&o);
}

static void reading_is_discovery_once(void **state)
{
	struct observe o;
	struct frame children;

	(void)state;
	begin(&o, 0);
	for (uint32_t i = 0; i < 2; i++) {	/* the second time because the watch has fired */
		to(&o, frame_read(1, 12, "/services/orders", true));
		seen(&o, i ? "" : "discover orders/- -:0\n");
		children = frame_reply(1, 0);
		frame_u(&children, 1, 4);
		frame_str(&children, "o1");
		frame_add_stat(&children, 0);
		from(&o, children);
		to(&o, frame_read(2, 4, "/services/orders/o1", false));
		from(&o, frame_reply_data(2, CURATOR("o1", "80", "1"), 77));
		seen(&o, i ? "" : "answer orders/o1 10.1.0.1:80 version=1\n");
	}
	to(&o, frame_read(2, 4, "/services/orders/o1", true));
	from(&o, frame_reply_data(2, CURATOR("o1", "80", "2"), 77));
	seen(&o, "answer orders/o1 10.1.0.1:80 version=2\n");

	/* A directory that is known to be one only by what is in it, and reads that are no discovery. */
	to(&o, frame_read(3, 8, "/my/flat/place", false));
	to(&o, frame_read(4, 4, "/my/flat/place/x", false));
	from(&o, frame_reply(3, 0));
	from(&o, frame_reply_data(4, "10.1.0.1:80", 77));
	seen(&o, "discover place/- -:0\nanswer place/x 10.1.0.1:80\n");
	to(&o, frame_read(5, 4, "/config/db", false));
	from(&o, frame_reply_data(5, "{\"host\":\"10.1.0.1\",\"port\":5432}", 0));
	to(&o, frame_read(6, 8, "/", false));
	from(&o, frame_reply(6, 0));
	to(&o, frame_read(7, 3, "/services/orders", false));
	from(&o, frame_reply_stat(7, 0));
	seen(&o, "");
	observe_deinit(&o);
}

static void a_guest_that_reads_its_own_node_asks_for_nothing(void **state)
{
	struct observe o;

	(void)state;
	begin(&o, 0);
	create(&o, "/services/orders/o1", CURATOR("o1", "80", "1"), 1);
	observe_text(&o);
	to(&o, frame_read(2, 4, "/services/orders/o1", true));
	from(&o, frame_reply_data(2, CURATOR("o1", "80", "1"), SESSION));
	seen(&o, "");
	observe_deinit(&o);
}

static void who_takes_part_in_a_lock_asks_for_no_service(void **state)
{
	struct observe o;

	(void)state;
	begin(&o, 0);
	create(&o, "/services/alock/_c_1-lock-0000000001", "10.1.0.1:80", 1);
	to(&o, frame_read(2, 8, "/services/alock", 0));
	from(&o, frame_reply(2, -101));
	seen(&o, "");
	to(&o, frame_read(3, 8, "/services/orders", 0));
	seen(&o, "discover orders/- -:0\n");
	observe_deinit(&o);
}

static void lost_bytes_are_passed_over(void **state)
{
	struct observe o;
	struct discover_ctx ctx;
	struct frame f;

	(void)state;
	begin(&o, 0);
	/* Inside a frame: it alone is lost. */
	f = frame_create(1, 1, "/services/orders/o1", CURATOR("o1", "80", "1"), 1);
	observe_feed(&o, DISCOVER_TO_REGISTRY, f.data, 50);
	ctx = observe_ctx(&o);
	assert_true(discover_zookeeper.stream_gap(o.stream, DISCOVER_TO_REGISTRY, 20, &ctx));
	observe_feed(&o, DISCOVER_TO_REGISTRY, f.data + 70, f.len - 70);
	from(&o, frame_reply_path(1, "/services/orders/o1"));
	create(&o, "/services/orders/o2", CURATOR("o2", "80", "1"), 1);
	seen(&o, "register orders/o2 10.1.0.1:80 version=1\n");

	/* Over the end of a frame: reading goes on where frames begin again. */
	observe_feed(&o, DISCOVER_TO_REGISTRY, f.data, 50);
	ctx = observe_ctx(&o);
	assert_true(discover_zookeeper.stream_gap(o.stream, DISCOVER_TO_REGISTRY, f.len, &ctx));
	observe_feed(&o, DISCOVER_TO_REGISTRY, f.data + 90, f.len - 90);
	create(&o, "/services/orders/o3", CURATOR("o3", "80", "1"), 1);
	seen(&o, "register orders/o3 10.1.0.1:80 version=1\n");
	observe_deinit(&o);
}

static void a_late_start_still_sees_what_comes(void **state)
{
	struct observe o;

	(void)state;
	observe_init(&o, &discover_zookeeper, 0);
	create(&o, "/services/orders/o1", CURATOR("o1", "80", "1"), 1);
	seen(&o, "register orders/o1 10.1.0.1:80 version=1\n");
	to(&o, frame_request(9, (uint32_t)-11));
	from(&o, frame_reply(9, 0));
	seen(&o, "deregister orders/o1 10.1.0.1:80\n");
	observe_deinit(&o);
}

static void other_protocols_are_given_up(void **state)
{
	static const char *const first[] = { "ruok", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01" };

	(void)state;
	for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
		struct observe o;

		observe_init(&o, &discover_zookeeper, 0);
		assert_false(observe_client(&o, first[i]));
		observe_deinit(&o);
	}
}

static void large_frames_are_passed_over(void **state)
{
	static uint8_t big[300 * 1024];
	struct observe o;
	struct frame f = frame_read(1, 4, "/x", false);

	(void)state;
	begin(&o, 1000);
	to(&o, f);
	f = frame_reply(1, 0);
	memcpy(big, f.data, f.len);
	big[0] = 0;
	big[1] = (sizeof(big) - 4) >> 16 & 0xff;
	big[2] = (sizeof(big) - 4) >> 8 & 0xff;
	big[3] = (sizeof(big) - 4) & 0xff;
	assert_true(observe_feed(&o, DISCOVER_FROM_REGISTRY, big, sizeof(big)));
	create(&o, "/services/orders/o1", CURATOR("o1", "80", "1"), 1);
	seen(&o, "register orders/o1 10.1.0.1:80 version=1\n");
	observe_deinit(&o);
}

static bool on_any_frame(const uint8_t *frame, size_t len, bool whole, void *data)
{
	(void)frame;
	(void)len;
	(void)whole;
	++*(unsigned *)data;
	return true;
}

/* After a gap every fourth byte begins what looks like frames, up to the last one: each is a walk to the end. */
static void finding_a_frame_again_has_a_bound(void **state)
{
	static uint8_t hostile[60001];
	struct frame honest = frame_create(7, 1, "/services/a", "x", 0);
	struct zk_framer f;
	unsigned n = 0;

	(void)state;
	for (size_t i = 3; i < sizeof(hostile); i += 4)
		hostile[i] = 8;
	zk_framer_init(&f, false);
	zk_framer_gap(&f, 100);
	assert_true(zk_framer_feed(&f, hostile, sizeof(hostile), on_any_frame, &n));
	assert_int_equal(n, 0);
	assert_int_equal(f.n_looks, ZK_MAX_LOOKS);
	assert_true(zk_framer_feed(&f, honest.data, honest.len, on_any_frame, &n));
	assert_int_equal(n, 1);
	zk_framer_deinit(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_instance_lives_as_long_as_its_node),
		cmocka_unit_test(an_empty_node_is_an_instance_when_its_data_is_set),
		cmocka_unit_test(the_end_of_a_session_is_the_end_of_its_instances),
		cmocka_unit_test(a_session_outlives_its_servers_restart),
		cmocka_unit_test(a_session_is_closed_by_its_client_or_declared_dead_by_the_server),
		cmocka_unit_test(a_sequence_number_comes_from_the_reply),
		cmocka_unit_test(dubbo_says_it_in_the_path),
		cmocka_unit_test(payloads_of_other_libraries_are_read),
		cmocka_unit_test(persistent_nodes_are_no_instances_unless_they_say_so),
		cmocka_unit_test(the_operations_of_a_multi_count_one_by_one),
		cmocka_unit_test(reading_is_discovery_once),
		cmocka_unit_test(a_guest_that_reads_its_own_node_asks_for_nothing),
		cmocka_unit_test(who_takes_part_in_a_lock_asks_for_no_service),
		cmocka_unit_test(lost_bytes_are_passed_over),
		cmocka_unit_test(a_late_start_still_sees_what_comes),
		cmocka_unit_test(other_protocols_are_given_up),
		cmocka_unit_test(large_frames_are_passed_over),
		cmocka_unit_test(finding_a_frame_again_has_a_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The session with a controller of a few lines, on a clock that stands until the test moves it.
 */
#include "agent/session.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "lib/unit.h"
#include "mesh/cert_ca.h"
#include "mesh/grpc_client.h"
#include "mesh/grpc_server.h"
#include "mesh/pb.h"
#include "mesh/tls.h"

enum { TURNS_MAX = 1000, STEP_MS = 10, LEAF_S = 3600, FIRST_WAIT_MS = 100, LONG_WAIT_MS = 1000 };

#define NIC_ID "spiffe://test.mesh/nic/n1"

/* --- the clock: the linker's --wrap sends its readers here --- */

uint64_t __wrap_clock_mono_ms(void);
int64_t __wrap_clock_wall_s(void);
int64_t __real_clock_wall_s(void);

static struct {
	uint64_t mono_ms;
	int64_t wall_ahead_s;
} now = { .mono_ms = 1000000 };

uint64_t __wrap_clock_mono_ms(void)
{
	return now.mono_ms;
}

int64_t __wrap_clock_wall_s(void)
{
	return __real_clock_wall_s() + now.wall_ahead_s;
}

static struct {
	struct loop *loop;
	struct cert_ca *ca;
	struct tls_ctx *tls;
	struct grpc_server *server;
	struct ip_port addr;
	struct session *session;
	char dir[32];
	char token[8];
	char address[IP_PORT_TEXT_LEN];
	int n_enrolled, n_renewed, n_recovered, n_attempts;
	bool gives_no_other;		/* for an expired certificate */
	bool clocks_differ;
	uint32_t version;		/* that it says it speaks */
	bool refuses_hello;
	bool is_newer;			/* it says what is not known yet */
	bool talks_nonsense;
	int n_sessions, n_policies;
	char *given;			/* the chain that it gave last */
} t;

/* --- the controller --- */

/* A certificate for the key of the request, or for a new key whose text is the caller's. */
static void sign(EVP_PKEY *key, const char *id, const char *const *names, struct cert_list *chain)
{
	const struct cert_leaf leaf = { .key = key, .id = id, .names = names, .ttl_s = LEAF_S };

	assert_int_equal(cert_ca_sign(t.ca, &leaf, chain), 0);
}

static void answer(struct grpc_call *call, const char *csr_pem)
{
	Outrigger__V1__EnrollResponse m = OUTRIGGER__V1__ENROLL_RESPONSE__INIT;
	struct cert_list chain = {};
	struct cert_csr csr;

	assert_int_equal(cert_csr_parse(csr_pem, strlen(csr_pem), &csr, NULL), 0);
	sign(csr.key, NIC_ID, NULL, &chain);
	free(t.given);
	assert_int_equal(cert_list_join(&chain, 0, chain.n, &t.given), 0);
	m.cert_chain = chain.pem;
	m.n_cert_chain = chain.n;
	grpc_call_reply_pb(call, &m.base);
	cert_list_deinit(&chain);
	cert_csr_deinit(&csr);
}

/* What it shows is what it was given last, and the request is by the same key. */
static void on_recover(struct grpc_call *call, const Outrigger__V1__EnrollRequest *q)
{
	struct cert_csr csr;
	int64_t ahead;

	t.n_recovered++;
	assert_string_equal(q->join_token, "");
	assert_string_equal(q->expired_cert_pem, t.given);
	assert_int_equal(cert_csr_parse(q->csr_pem, strlen(q->csr_pem), &csr, NULL), 0);
	assert_string_equal(csr.id, NIC_ID);
	assert_int_equal(cert_has_key(t.given, csr.key), 0);
	cert_csr_deinit(&csr);
	if (t.gives_no_other) {
		grpc_call_finish(call, GRPC_PERMISSION_DENIED, "too late");
		return;
	}
	ahead = now.wall_ahead_s;
	now.wall_ahead_s = 0;		/* as the controller's clock says */
	answer(call, q->csr_pem);
	if (t.clocks_differ)
		now.wall_ahead_s = ahead;
}

static void on_enroll(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	const Outrigger__V1__EnrollRequest *q;
	ProtobufCMessage *m;

	(void)data;
	assert_int_equal(pb_unpack(&outrigger__v1__enroll_request__descriptor, bytes, len, 0, &m), 0);
	q = (const void *)m;
	if (q->expired_cert_pem[0]) {
		on_recover(call, q);
	} else {
		assert_string_equal(q->join_token, "once");
		now.wall_ahead_s = 0;
		answer(call, q->csr_pem);
		t.n_enrolled++;
	}
	pb_free(m);
}

static void on_renew(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *m;

	(void)data;
	now.wall_ahead_s = 0;		/* the new one has all its life before it */
	assert_int_equal(pb_unpack(&outrigger__v1__renew_request__descriptor, bytes, len, 0, &m), 0);
	answer(call, ((const Outrigger__V1__RenewRequest *)(const void *)m)->csr_pem);
	pb_free(m);
	t.n_renewed++;
}

static void on_report(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	(void)call;
	(void)data;
	(void)bytes;
	(void)len;
}

static void on_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	(void)call;
	(void)data;
	(void)status;
}

/* A field that no version has said anything in so far: what it has as a number, and as text. */
static uint8_t new_number[] = { 7 }, new_text[] = { 5, 'l', 'a', 't', 'e', 'r' };
static ProtobufCMessageUnknownField new_fields[] = {
	{ .tag = 1000, .wire_type = PROTOBUF_C_WIRE_TYPE_VARINT, .len = sizeof(new_number), .data = new_number },
	{ .tag = 1001, .wire_type = PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, .len = sizeof(new_text), .data = new_text },
};

static void make_newer(ProtobufCMessage *m)
{
	m->unknown_fields = new_fields;
	m->n_unknown_fields = ELEMENTS(new_fields);
}

static void say_policies(struct grpc_call *call)
{
	Outrigger__V1__Directive m = OUTRIGGER__V1__DIRECTIVE__INIT;
	Outrigger__V1__PolicySet set = OUTRIGGER__V1__POLICY_SET__INIT;
	Outrigger__V1__Policy policy = OUTRIGGER__V1__POLICY__INIT, *list = &policy;
	char name[] = "orders";

	policy.name = name;
	set.version = 7;
	set.policies = &list;
	set.n_policies = 1;
	m.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_POLICIES;
	m.policies = &set;
	if (t.is_newer) {
		make_newer(&m.base);
		make_newer(&set.base);
		make_newer(&policy.base);
	}
	assert_int_equal(grpc_call_send_pb(call, &m.base), 0);
}

/* Nothing in it but what is not known: another kind of directive. */
static void say_something_new(struct grpc_call *call)
{
	Outrigger__V1__Directive m = OUTRIGGER__V1__DIRECTIVE__INIT;

	make_newer(&m.base);
	assert_int_equal(grpc_call_send_pb(call, &m.base), 0);
}

static void say_nonsense(struct grpc_call *call)
{
	static const uint8_t cut[] = { 0x0a, 0x7f, 0x08 };	/* a welcome that is said to be longer */

	assert_int_equal(grpc_call_send(call, cut, sizeof(cut)), 0);
}

static void on_session(struct grpc_call *call, void *data)
{
	static const struct grpc_call_ops ops = { .message = on_report, .closed = on_closed };
	Outrigger__V1__Directive m = OUTRIGGER__V1__DIRECTIVE__INIT;
	Outrigger__V1__Welcome welcome = OUTRIGGER__V1__WELCOME__INIT;

	(void)data;
	t.n_sessions++;
	if (t.refuses_hello) {
		grpc_call_finish(call, GRPC_FAILED_PRECONDITION, "the agent speaks version 1 of the protocol, this controller only 0: upgrade the controller");
		return;
	}
	grpc_call_set_ops(call, &ops, NULL);
	welcome.version = t.version;
	m.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_WELCOME;
	m.welcome = &welcome;
	if (t.is_newer) {
		say_something_new(call);
		make_newer(&m.base);
		make_newer(&welcome.base);
	}
	assert_int_equal(grpc_call_send_pb(call, &m.base), 0);
	say_policies(call);
	if (t.is_newer)
		say_something_new(call);
	if (t.talks_nonsense)
		say_nonsense(call);
}

static const struct grpc_method methods[] = {
	{ "/outrigger.v1.Provisioner/Enroll", .unary = on_enroll },
	{ "/outrigger.v1.Provisioner/Renew", .unary = on_renew },
	{ "/outrigger.v1.Provisioner/Session", .open = on_session },
};

static void make_tls(void)
{
	static const char *const alpn[] = { "h2", NULL }, *const names[] = { "controller", NULL };
	struct tls_config config = { .role = TLS_SERVER, .verify = TLS_VERIFY_REQUEST, .roots_pem = cert_ca_roots_pem(t.ca), .alpn = alpn };
	struct cert_list chain = {};
	char *chain_pem;

	assert_int_equal(cert_key_new(&config.key), 0);
	sign(config.key, NULL, names, &chain);
	assert_int_equal(cert_list_join(&chain, 0, chain.n, &chain_pem), 0);
	config.cert_pem = chain_pem;
	assert_int_equal(tls_ctx_new(&config, &t.tls, NULL), 0);
	EVP_PKEY_free(config.key);
	cert_list_deinit(&chain);
	free(chain_pem);
}

static void controller_starts(void)
{
	const struct grpc_server_options options = { .tls = t.tls, .methods = methods, .n_methods = ELEMENTS(methods) };

	assert_int_equal(grpc_server_new(t.loop, &options, &t.server), 0);
	assert_int_equal(grpc_server_listen(t.server, &t.addr, &t.addr, NULL), 0);
}

static void controller_dies(void)
{
	t.server = grpc_server_free(t.server);
	assert_int_equal(loop_turn(t.loop, 0), 0);	/* TLS connections go on a turn of their own */
}

/* --- the agent --- */

static void on_welcome(const Outrigger__V1__Welcome *m, void *data)
{
	(void)m;
	(void)data;
}

static void on_policies(const Outrigger__V1__PolicySet *m, void *data)
{
	(void)data;
	assert_int_equal(m->version, 7);
	assert_int_equal(m->n_policies, 1);
	assert_string_equal(m->policies[0]->name, "orders");
	t.n_policies++;
}

static void on_changed(enum session_state state, const char *detail, void *data)
{
	(void)detail;
	(void)data;
	t.n_attempts += state == SESSION_CONNECTING || state == SESSION_ENROLLING;
}

static struct session_info info(void)
{
	struct session_info i;

	session_get_info(t.session, &i);
	return i;
}

static bool is_open(void) { return info().state == SESSION_OPEN; }
static bool is_waiting(void) { return info().state == SESSION_WAITING; }

/* What needs no time. */
static void turn_until(bool (*reached)(void))
{
	for (int i = 0; i < TURNS_MAX && !reached(); i++)
		assert_int_equal(loop_turn(t.loop, 5), 0);
	assert_true(reached());
}

static void pass(uint64_t ms)
{
	now.mono_ms += ms;
	assert_int_equal(loop_turn(t.loop, 0), 0);
}

/* Milliseconds of the clock until the session tries again. */
static uint64_t wait_ms(void)
{
	uint64_t begin = now.mono_ms;
	int before;

	turn_until(is_waiting);
	before = t.n_attempts;
	while (t.n_attempts == before) {	/* one that is refused may be over at once */
		assert_true(now.mono_ms - begin < 60000);
		pass(STEP_MS);
	}
	return now.mono_ms - begin;
}

static void agent_starts(void)
{
	static const struct session_ops ops = { .welcome = on_welcome, .policies = on_policies, .changed = on_changed };
	const struct session_conf conf = { .nic = "n1", .address = t.address, .server_name = "controller", .join_token = t.token,
					   .roots_pem = cert_ca_roots_pem(t.ca), .state_dir = t.dir };

	assert_int_equal(session_new(t.loop, &conf, &ops, &t.session), 0);
}

static int setup(void **state)
{
	(void)state;
	memset(&t, 0, sizeof(t));
	now.wall_ahead_s = 0;
	strcpy(t.token, "once");
	t.version = 1;
	strcpy(t.dir, "/tmp/test-session-XXXXXX");
	assert_non_null(mkdtemp(t.dir));
	assert_int_equal(cert_ca_new_root("test.mesh", 1, &t.ca), 0);
	make_tls();
	assert_int_equal(ip_parse("127.0.0.1", &t.addr.ip), 0);
	assert_int_equal(loop_new(&t.loop), 0);
	controller_starts();		/* so that it has a port */
	ip_port_format(&t.addr, t.address);
	agent_starts();
	turn_until(is_open);
	assert_int_equal(t.n_enrolled, 1);
	return 0;
}

static int teardown(void **state)
{
	char path[64];

	(void)state;
	session_free(t.session);
	if (t.server)
		controller_dies();
	assert_int_equal(loop_turn(t.loop, 0), 0);
	tls_ctx_unref(t.tls);
	cert_ca_free(t.ca);
	loop_free(t.loop);
	free(t.given);
	snprintf(path, sizeof(path), "%s/nic.pem", t.dir);
	unlink(path);
	rmdir(t.dir);
	return 0;
}

/* The controller is away until attempts are far between. */
static void outage(void)
{
	controller_dies();
	for (int i = 0; i < 12; i++)
		(void)wait_ms();
	assert_true(wait_ms() > LONG_WAIT_MS);
}

static void attempts_are_further_and_further_apart(void **state)
{
	uint64_t waits[3];

	(void)state;
	controller_dies();
	for (size_t i = 0; i < ELEMENTS(waits); i++) {
		waits[i] = wait_ms();
		for (int j = 0; j < 2; j++)
			(void)wait_ms();	/* doubled each time, and half of it is by chance */
	}
	assert_true(waits[0] <= FIRST_WAIT_MS + STEP_MS);
	assert_true(waits[0] < waits[1] && waits[1] < waits[2]);
}

static void a_session_that_does_not_last_is_no_reason_to_hurry(void **state)
{
	(void)state;
	outage();
	controller_starts();
	(void)wait_ms();
	turn_until(is_open);
	controller_dies();
	assert_true(wait_ms() > LONG_WAIT_MS);
}

static void a_session_that_lasted_is(void **state)
{
	(void)state;
	outage();
	controller_starts();
	(void)wait_ms();
	turn_until(is_open);
	pass(5000);
	turn_until(is_open);
	controller_dies();
	assert_true(wait_ms() <= FIRST_WAIT_MS + STEP_MS);
}

/* The one that takes its place with the new certificate is young, and has not been tried for in vain. */
static void a_session_that_lasted_until_the_certificate_was_renewed_is(void **state)
{
	struct session_info first;

	(void)state;
	session_get_info(t.session, &first);
	controller_dies();
	for (int i = 0; i < 12; i++)
		(void)wait_ms();
	controller_starts();
	(void)wait_ms();
	turn_until(is_open);
	assert_int_equal(info().n_connects, 2);
	now.wall_ahead_s = LEAF_S / 2 + 60;
	now.mono_ms += 6000;
	for (int i = 0; i < TURNS_MAX && info().n_connects < 3; i++)
		assert_int_equal(loop_turn(t.loop, 5), 0);
	turn_until(is_open);
	assert_int_equal(t.n_renewed, 1);
	assert_int_equal(info().n_connects, 3);
	assert_true(info().cert_not_after >= first.cert_not_after);
	controller_dies();
	assert_true(wait_ms() <= FIRST_WAIT_MS + STEP_MS);
}

/* --- an outage that outlives the certificate --- */

/* The controller comes back when the certificate is over. */
static void long_outage(void)
{
	controller_dies();
	turn_until(is_waiting);
	now.wall_ahead_s = LEAF_S + 60;
	controller_starts();
}

/* The clock is moved until it is so, or for @ms. */
static bool pass_until(bool (*reached)(void), uint64_t ms)
{
	for (uint64_t i = 0; i < ms / STEP_MS && !reached(); i++) {
		pass(STEP_MS);
		for (int k = 0; k < 20 && !reached() && !is_waiting(); k++)
			assert_int_equal(loop_turn(t.loop, 1), 0);
	}
	return reached();
}

static void an_expired_certificate_gets_another_one(void **state)
{
	(void)state;
	long_outage();
	assert_true(pass_until(is_open, 30000));
	assert_int_equal(t.n_recovered, 1);
	assert_int_equal(t.n_enrolled, 1);
	assert_true(info().cert_not_after > clock_wall_s() + LEAF_S / 2);
}

/* An agent that was away itself: the key is in its state folder. And what it has got is there, too. */
static void also_after_a_restart_of_the_agent(void **state)
{
	(void)state;
	for (int i = 1; i <= 2; i++) {
		t.session = session_free(t.session);
		now.wall_ahead_s = LEAF_S + 60;
		agent_starts();
		assert_true(pass_until(is_open, 30000));
		assert_int_equal(t.n_recovered, i);
	}
	assert_int_equal(t.n_enrolled, 1);
	t.session = session_free(t.session);
	agent_starts();
	assert_true(pass_until(is_open, 30000));
	assert_int_equal(t.n_recovered, 2);
}

static bool has_asked_thrice(void) { return t.n_recovered >= 3; }

static void who_gets_none_asks_less_and_less_often(void **state)
{
	(void)state;
	t.gives_no_other = true;
	long_outage();
	assert_true(pass_until(has_asked_thrice, 30000));
	assert_false(is_open());
	turn_until(is_waiting);
	assert_non_null(strstr(info().detail, "too late"));
	for (int i = 0; i < 10; i++)
		(void)wait_ms();
	assert_true(wait_ms() > LONG_WAIT_MS);
	t.gives_no_other = false;
	assert_true(pass_until(is_open, 30000));
}

/* A token that somebody has given it meanwhile; it is kept for when the certificate does not help. */
static void who_gets_none_uses_its_join_token(void **state)
{
	(void)state;
	strcpy(t.token, "once");
	t.gives_no_other = true;
	long_outage();
	assert_true(pass_until(is_open, 30000));
	assert_int_equal(t.n_recovered, 1);
	assert_int_equal(t.n_enrolled, 2);
	assert_string_equal(t.token, "");

	strcpy(t.token, "once");
	t.gives_no_other = false;
	long_outage();
	assert_true(pass_until(is_open, 30000));
	assert_int_equal(t.n_recovered, 2);
	assert_int_equal(t.n_enrolled, 2);
	assert_string_equal(t.token, "once");
}

/* The NIC's clock is so far ahead that whatever it gets is over already. */
static void clocks_that_differ_make_no_storm(void **state)
{
	(void)state;
	t.clocks_differ = true;
	long_outage();
	assert_true(pass_until(has_asked_thrice, 30000));
	assert_false(is_open());
	for (int i = 0; i < 10; i++)
		(void)wait_ms();
	assert_true(wait_ms() > LONG_WAIT_MS);
	turn_until(is_waiting);
	assert_non_null(strstr(info().detail, "clocks"));
	t.clocks_differ = false;
	assert_true(pass_until(is_open, 30000));
}

/* --- a controller of another version --- */

static void again(void)
{
	controller_dies();
	turn_until(is_waiting);
	controller_starts();
}

static bool has_policies(void) { return t.n_policies > 0; }

/* Fields and directives of its own are passed over, wherever they are; what is known counts. */
static void a_newer_controller_is_understood_as_far_as_it_goes(void **state)
{
	(void)state;
	t.is_newer = true;
	t.n_policies = 0;
	again();
	assert_true(pass_until(is_open, 30000));
	turn_until(has_policies);
	for (int i = 0; i < 20; i++)
		assert_int_equal(loop_turn(t.loop, 1), 0);
	assert_true(is_open());
	assert_int_equal(t.n_sessions, 2);
}

/* Attempts that all fail the same way are further and further apart, and @words say why in what is shown. */
static void fails_and_waits(const char *words)
{
	again();
	for (int i = 0; i < 12; i++)
		(void)wait_ms();
	assert_true(wait_ms() > LONG_WAIT_MS);
	turn_until(is_waiting);
	assert_non_null(strstr(info().detail, words));
	assert_true(t.n_sessions < 20);
}

static void a_version_that_is_not_known_is_refused_by_name(void **state)
{
	(void)state;
	t.version = 2;
	t.n_policies = 0;
	fails_and_waits("version 2 of the protocol, this agent only 1: upgrade the agent");
	t.version = 0;
	(void)wait_ms();
	turn_until(is_waiting);
	assert_non_null(strstr(info().detail, "version 0 of the protocol, this agent only 1: upgrade the controller"));
	assert_int_equal(t.n_policies, 0);	/* nothing of it is believed */
	t.version = 1;
	assert_true(pass_until(is_open, 30000));
}

static void an_older_controller_that_refuses_us_is_quoted(void **state)
{
	(void)state;
	t.refuses_hello = true;
	fails_and_waits("this controller only 0: upgrade the controller");
	t.refuses_hello = false;
	assert_true(pass_until(is_open, 30000));
}

static void nonsense_makes_no_storm(void **state)
{
	(void)state;
	t.talks_nonsense = true;
	fails_and_waits("no directive");
	t.talks_nonsense = false;
	assert_true(pass_until(is_open, 30000));
}

#define SESSION(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		SESSION(attempts_are_further_and_further_apart),
		SESSION(a_session_that_does_not_last_is_no_reason_to_hurry),
		SESSION(a_session_that_lasted_is),
		SESSION(a_session_that_lasted_until_the_certificate_was_renewed_is),
		SESSION(an_expired_certificate_gets_another_one),
		SESSION(also_after_a_restart_of_the_agent),
		SESSION(who_gets_none_asks_less_and_less_often),
		SESSION(who_gets_none_uses_its_join_token),
		SESSION(clocks_that_differ_make_no_storm),
		SESSION(a_newer_controller_is_understood_as_far_as_it_goes),
		SESSION(a_version_that_is_not_known_is_refused_by_name),
		SESSION(an_older_controller_that_refuses_us_is_quoted),
		SESSION(nonsense_makes_no_storm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Enrolment, certificate and session with the controller.
 *
 * One gRPC connection at a time. With a certificate it calls Session; Renew is
 * called on the session's connection at half of the certificate's life, and the
 * next connection uses what came. Without one it calls Enroll with the join
 * token. With one that has expired, because one of the two was away for so
 * long, it calls Enroll with that, and proves that it has the key.
 */
#include "agent/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/nic_cert.h"
#include "base/backoff.h"
#include "base/clock.h"
#include "base/log.h"
#include "mesh/grpc_client.h"
#include "mesh/pb.h"

enum {
	PROTOCOL_VERSION = 1,
	CALL_DEADLINE_MS = 20000,
	KEEPALIVE_MS = 10000,
	KEEPALIVE_TIMEOUT_MS = 10000,
	CHECK_MS = 5000,	/* how often it is seen whether the certificate wants renewal */
	RETRY_MIN_MS = 100,
	RETRY_MAX_MS = 5000,	/* some thousand NICs are a few hundred connections a second then */
};

static const char *const state_names[] = {
	[SESSION_OFF] = "off",
	[SESSION_ENROLLING] = "enrolling",
	[SESSION_CONNECTING] = "connecting",
	[SESSION_OPEN] = "open",
	[SESSION_WAITING] = "waiting",
};
_Static_assert(ELEMENTS(state_names) == _SESSION_STATE_N, "every state has a name");

struct session {
	struct loop *loop;
	struct session_conf conf;
	struct session_ops ops;
	struct mirror mirror;
	struct session_info info;

	struct nic_cert cert;

	struct grpc_client *client;
	struct grpc_call *stream;	/* Session */
	struct grpc_call *unary;	/* Enroll or Renew */
	bool synced;
	uint64_t seq;
	uint64_t opened_ms;
	bool recovering;		/* what is asked for is for the expired certificate */
	bool token_next;		/* the certificate, expired or not, was refused: the join token's turn, if there is one */

	struct timer retry;
	struct timer check;
	struct defer reconnect;
	struct backoff backoff;
};

const char *session_state_name(enum session_state state)
{
	return state_names[state];
}

void session_get_info(const struct session *s, struct session_info *ret_info)
{
	*ret_info = s->info;
	snprintf(ret_info->trust_domain, sizeof(ret_info->trust_domain), "%s", s->cert.trust_domain);
	ret_info->cert_not_after = s->cert.not_after;
}

static void enter(struct session *s, enum session_state state, const char *detail)
{
	bool told = state == s->info.state && !strcmp(detail, s->info.detail);

	if (state != s->info.state)
		s->info.since_ms = clock_mono_ms();
	s->info.state = state;
	snprintf(s->info.detail, sizeof(s->info.detail), "%s", detail);
	if (!told)
		s->ops.changed(state, s->info.detail, s->ops.data);
}

/* --- the connection --- */

static int on_retry(struct timer *t);
static int on_check(struct timer *t);
static int on_reconnect(struct defer *d);

static void disconnect(struct session *s)
{
	s->stream = NULL;
	s->unary = NULL;
	s->synced = false;
	s->client = grpc_client_free(s->client);
}

/* Not until the certificate has expired: the NIC could not come back by itself then. */
static uint32_t next_attempt_ms(struct session *s)
{
	uint32_t wait_ms = backoff_next(&s->backoff);
	int64_t left_ms = (s->cert.not_after - clock_wall_s()) * 1000;

	if (left_ms > 0 && nic_cert_usable(&s->cert))
		wait_ms = (uint32_t)MIN((int64_t)wait_ms, MAX(left_ms / 4, (int64_t)s->backoff.min_ms));
	return wait_ms;
}

/* What was tried in vain before a good session is no reason to wait after it. */
static void note_settled(struct session *s)
{
	if (s->opened_ms)
		backoff_ended(&s->backoff, clock_mono_ms() - s->opened_ms);
}

static void retry_later(struct session *s, const char *why)
{
	disconnect(s);
	defer_cancel(&s->reconnect);	/* stream and connection end together: that is one failure, not two */
	if (s->info.state == SESSION_OFF)
		return;
	note_settled(s);
	s->opened_ms = 0;
	enter(s, SESSION_WAITING, why);
	if (timer_arm(s->loop, &s->retry, next_attempt_ms(s), on_retry) < 0)
		log_error("no memory to reach the controller again");
}

static void on_closed(struct grpc_client *client, void *data, int r, const char *text)
{
	struct session *s = data;

	(void)client;
	retry_later(s, r == 0 ? "the controller has closed the connection" : text);
}

static void on_going_away(struct grpc_client *client, void *data)
{
	struct session *s = data;

	(void)client;
	loop_defer(s->loop, &s->reconnect, on_reconnect);
}

static int connect_controller(struct session *s, bool with_certificate)
{
	static const struct grpc_client_ops ops = { .closed = on_closed, .going_away = on_going_away };
	static const char *const alpn[] = { "h2", NULL };
	struct tls_config tls = { .role = TLS_CLIENT, .verify = TLS_VERIFY_REQUIRE, .roots_pem = s->conf.roots_pem, .alpn = alpn };
	struct tls_expect expect = { .server_name = s->conf.server_name };
	struct grpc_client_options options = {
		.target = s->conf.address, .expect = s->conf.server_name ? &expect : NULL,
		.keepalive_ms = KEEPALIVE_MS, .keepalive_timeout_ms = KEEPALIVE_TIMEOUT_MS,
	};
	struct diag d = {};
	int r;

	if (with_certificate) {
		tls.cert_pem = s->cert.chain_pem;
		tls.key_pem = s->cert.key_pem;
	}
	r = tls_ctx_new(&tls, &options.tls, &d);
	if (r < 0) {
		log_error("no TLS with the controller", log_str("why", d.msg), log_errno(r));
		return r;
	}
	r = grpc_client_new(s->loop, &options, &ops, s, &s->client);
	tls_ctx_unref(options.tls);
	return r;
}

/* --- enrolment and renewal --- */

static void enrolment_failed(struct session *s, const struct grpc_status *status)
{
	char why[640];

	if (s->recovering)
		log_error("the controller gives no other certificate for the expired one", log_str("why", status->message),
			  log_str("code", grpc_code_name(status->code)));
	else
		log_error("the controller refuses the enrolment", log_str("why", status->message), log_str("code", grpc_code_name(status->code)));
	snprintf(why, sizeof(why), "%s was refused: %s", s->recovering ? "the expired certificate" : "enrolment", status->message);
	s->token_next = s->recovering;
	retry_later(s, why);
}

/* It may be over already: one of the clocks is wrong then, and asking again at once would not mend it. */
static void use_certificate(struct session *s)
{
	s->token_next = false;
	if (!nic_cert_usable(&s->cert)) {
		log_error("a certificate that is new has expired: the clocks of NIC and controller differ", log_int("not_after", s->cert.not_after));
		retry_later(s, "a certificate that is new has expired: the clocks of NIC and controller differ");
		return;
	}
	if (s->recovering)
		log_info("the expired certificate has another in its place", log_str("nic", s->conf.nic), log_int("not_after", s->cert.not_after));
	else
		log_info("enrolled", log_str("nic", s->conf.nic), log_str("trust_domain", s->cert.trust_domain));
	loop_defer(s->loop, &s->reconnect, on_reconnect);
}

static void on_enrolled(struct grpc_call *call, void *data, const struct grpc_status *status, const uint8_t *bytes, size_t len)
{
	struct session *s = data;
	ProtobufCMessage *m;
	int r;

	(void)call;
	s->unary = NULL;
	if (status->code != GRPC_OK) {
		enrolment_failed(s, status);
		return;
	}
	r = pb_unpack(&outrigger__v1__enroll_response__descriptor, bytes, len, 0, &m);
	if (r == 0) {
		r = nic_cert_take(&s->cert, (const Outrigger__V1__EnrollResponse *)(const void *)m);
		pb_free(m);
	}
	if (r < 0) {
		log_error("the controller's answer to the enrolment is no good", log_errno(r));
		retry_later(s, "the controller's answer to the enrolment is no good");
		return;
	}
	if (!s->recovering)
		explicit_bzero(s->conf.join_token, strlen(s->conf.join_token));	/* it is good once */
	use_certificate(s);
}

static int enroll(struct session *s)
{
	static const struct grpc_call_options options = { .path = "/outrigger.v1.Provisioner/Enroll", .deadline_ms = CALL_DEADLINE_MS };
	Outrigger__V1__EnrollRequest m = OUTRIGGER__V1__ENROLL_REQUEST__INIT;
	CLEANUP_FREE char *csr = NULL;
	CLEANUP_FREE char *nic = strdup(s->conf.nic);
	char version[] = OUTRIGGER_VERSION;
	int r = nic ? connect_controller(s, false) : -ENOMEM;

	if (r == 0)
		r = s->recovering ? nic_cert_request_again(&s->cert, &csr) : nic_cert_request(&s->cert, "", &csr);
	if (r < 0)
		return r;
	if (s->recovering)
		m.expired_cert_pem = s->cert.chain_pem;
	else
		m.join_token = s->conf.join_token;
	m.nic_id = nic;
	m.csr_pem = csr;
	m.version = version;
	r = grpc_client_unary(s->client, &options, &m.base, on_enrolled, s, &s->unary);
	return r;
}

static void on_renewed(struct grpc_call *call, void *data, const struct grpc_status *status, const uint8_t *bytes, size_t len)
{
	struct session *s = data;
	ProtobufCMessage *m;
	int r = -EBADMSG;

	(void)call;
	s->unary = NULL;
	if (status->code != GRPC_OK) {
		log_warn("the NIC's certificate was not renewed", log_str("why", status->message), log_str("code", grpc_code_name(status->code)));
		return;
	}
	if (pb_unpack(&outrigger__v1__enroll_response__descriptor, bytes, len, 0, &m) == 0) {
		r = nic_cert_take(&s->cert, (const Outrigger__V1__EnrollResponse *)(const void *)m);
		pb_free(m);
	}
	if (r < 0)
		log_error("the renewed certificate is no good", log_errno(r));
	else
		loop_defer(s->loop, &s->reconnect, on_reconnect);	/* with it */
}

static void renew(struct session *s)
{
	static const struct grpc_call_options options = { .path = "/outrigger.v1.Provisioner/Renew", .deadline_ms = CALL_DEADLINE_MS };
	Outrigger__V1__RenewRequest m = OUTRIGGER__V1__RENEW_REQUEST__INIT;
	CLEANUP_FREE char *csr = NULL;
	int r = nic_cert_request(&s->cert, s->cert.trust_domain, &csr);

	if (r == 0) {
		m.csr_pem = csr;
		r = grpc_client_unary(s->client, &options, &m.base, on_renewed, s, &s->unary);
	}
	if (r < 0)
		log_error("no renewal of the NIC's certificate", log_errno(r));
}

static int on_check(struct timer *t)
{
	struct session *s = container_of(t, struct session, check);

	if (s->info.state == SESSION_OPEN && !s->unary && clock_wall_s() >= s->cert.renew_at)
		renew(s);
	nic_cert_save_again(&s->cert);
	return timer_arm(s->loop, &s->check, CHECK_MS, on_check);
}

/* --- the session --- */

bool session_say(struct session *s, Outrigger__V1__Report *report)
{
	int r;

	if (!s->stream || !s->synced)
		return false;
	report->seq = ++s->seq;
	r = grpc_call_send_pb(s->stream, &report->base);
	report->seq = 0;
	/* Too slow a controller: a new session says it all again. */
	if (r < 0) {
		log_warn("the session is lost", log_errno(r));
		loop_defer(s->loop, &s->reconnect, on_reconnect);
	}
	return r == 0;
}

static int say_packed(struct session *s, const uint8_t *data, size_t len)
{
	ProtobufCMessage *m;
	int r = pb_unpack(&outrigger__v1__report__descriptor, data, len, 0, &m);

	if (r < 0)
		return r;
	((Outrigger__V1__Report *)(void *)m)->seq = ++s->seq;
	r = grpc_call_send_pb(s->stream, m);
	pb_free(m);
	return r;
}

static int say_everything(struct session *s)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__Synced synced = OUTRIGGER__V1__SYNCED__INIT;
	int r = 0;

	for (size_t i = 0; i < _MIRROR_CLASS_N; i++)
		list_for_each(l, &s->mirror.entries[i]) {
			const struct mirror_entry *e = list_entry(l, struct mirror_entry, link);

			if (r == 0)
				r = say_packed(s, e->data, e->len);
		}
	if (r < 0)
		return r;
	report.seq = ++s->seq;
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_SYNCED;
	report.synced = &synced;
	return grpc_call_send_pb(s->stream, &report.base);
}

static int say_hello(struct session *s)
{
	Outrigger__V1__Report report = OUTRIGGER__V1__REPORT__INIT;
	Outrigger__V1__AgentHello hello = OUTRIGGER__V1__AGENT_HELLO__INIT;
	CLEANUP_FREE char *nic = strdup(s->conf.nic);
	char software[] = "outrigger-agent " OUTRIGGER_VERSION;
	char hostname[256] = "";

	if (!nic)
		return -ENOMEM;
	if (gethostname(hostname, sizeof(hostname) - 1) < 0)
		hostname[0] = 0;
	hello.version = PROTOCOL_VERSION;
	hello.software = software;
	hello.nic_id = nic;
	hello.hostname = hostname;
	hello.boot_id = s->conf.boot_id;
	report.seq = s->seq = 1;
	report.msg_case = OUTRIGGER__V1__REPORT__MSG_HELLO;
	report.hello = &hello;
	return grpc_call_send_pb(s->stream, &report.base);
}

/* What the controller says cannot be used. Another session would hear the same: it is a failure, and the next attempt waits. */
static void give_up(struct session *s, const char *why)
{
	enter(s, SESSION_WAITING, why);
	loop_defer(s->loop, &s->reconnect, on_reconnect);
}

static void refuse_version(struct session *s, uint32_t version)
{
	char why[128];

	snprintf(why, sizeof(why), "the controller speaks version %u of the protocol, this agent only %d: upgrade the %s", version, PROTOCOL_VERSION,
		 version > PROTOCOL_VERSION ? "agent" : "controller");
	log_error("the controller speaks another version of the protocol", log_str("why", why), log_str("address", s->conf.address));
	give_up(s, why);
}

static void take_welcome(struct session *s, const Outrigger__V1__Welcome *m)
{
	if (m->version != PROTOCOL_VERSION) {
		refuse_version(s, m->version);
		return;
	}
	s->opened_ms = clock_mono_ms();
	s->info.n_connects++;
	enter(s, SESSION_OPEN, "");
	s->ops.welcome(m, s->ops.data);
	if (timer_arm(s->loop, &s->check, 0, on_check) < 0)	/* the time for renewal may have passed meanwhile */
		log_error("no memory to see to the NIC's certificate");
}

static void take_revoked(struct session *s, const char *reason)
{
	log_error("the controller has revoked this NIC", log_str("reason", reason));
	enter(s, SESSION_OFF, reason);
	loop_defer(s->loop, &s->reconnect, on_reconnect);	/* which leaves it at the disconnection */
	s->ops.revoked(reason, s->ops.data);
}

static void on_directive(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	struct session *s = data;
	ProtobufCMessage *pb;
	int r = pb_unpack(&outrigger__v1__directive__descriptor, bytes, len, 0, &pb);

	(void)call;
	if (s->info.state == SESSION_WAITING) {		/* it has been given up, and ends with the turn */
		if (r == 0)
			pb_free(pb);
		return;
	}
	if (r < 0) {
		log_error("the controller sent what is no directive", log_errno(r));
		give_up(s, "the controller sent what is no directive");
		return;
	}
	const Outrigger__V1__Directive *m = (const void *)pb;
	switch (m->msg_case) {
	case OUTRIGGER__V1__DIRECTIVE__MSG_WELCOME:
		take_welcome(s, m->welcome);
		break;
	case OUTRIGGER__V1__DIRECTIVE__MSG_POLICIES:
		s->ops.policies(m->policies, s->ops.data);
		break;
	case OUTRIGGER__V1__DIRECTIVE__MSG_CONTAINERS:
		s->ops.containers(m->containers, s->ops.data);
		break;
	case OUTRIGGER__V1__DIRECTIVE__MSG_NODES:
		s->ops.nodes(m->nodes, s->ops.data);
		break;
	case OUTRIGGER__V1__DIRECTIVE__MSG_TOKEN:
		s->ops.token(m->token, s->ops.data);
		break;
	case OUTRIGGER__V1__DIRECTIVE__MSG_DRAIN:
		s->ops.drain(m->drain, s->ops.data);
		break;
	case OUTRIGGER__V1__DIRECTIVE__MSG_REVOKED:
		take_revoked(s, m->revoked->reason);
		break;
	case OUTRIGGER__V1__DIRECTIVE__MSG_HANDOVER:
		s->ops.handover(m->handover, s->ops.data);
		break;
	case OUTRIGGER__V1__DIRECTIVE__MSG_MOVED:
		s->ops.moved(m->moved, s->ops.data);
		break;
	default:			/* of a newer controller */
		LOG_LIMITED(LOG_L_WARN, "a directive of an unknown kind is passed over: the controller is newer than this agent",
			    log_int("field", pb->n_unknown_fields ? pb->unknown_fields[0].tag : 0));
		break;
	}
	pb_free(pb);
}

static void on_stream_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	struct session *s = data;

	(void)call;
	s->stream = NULL;
	s->synced = false;
	if (s->info.state == SESSION_OFF)
		return;
	log_warn("the session with the controller has ended", log_str("why", status->message), log_str("code", grpc_code_name(status->code)));
	if (status->code == GRPC_UNAUTHENTICATED || status->code == GRPC_PERMISSION_DENIED)
		s->token_next = true;
	enter(s, SESSION_WAITING, status->message[0] ? status->message : grpc_code_name(status->code));
	loop_defer(s->loop, &s->reconnect, on_reconnect);
}

static int open_session(struct session *s)
{
	static const struct grpc_call_ops ops = { .message = on_directive, .closed = on_stream_closed };
	static const struct grpc_call_options options = { .path = "/outrigger.v1.Provisioner/Session" };
	int r = connect_controller(s, true);

	if (r == 0)
		r = grpc_client_stream(s->client, &options, &ops, s, &s->stream);
	if (r == 0)
		r = say_hello(s);
	if (r == 0)
		r = say_everything(s);
	if (r == 0)
		s->synced = true;
	return r;
}

static void attempt(struct session *s)
{
	bool token = s->conf.join_token && s->conf.join_token[0];
	bool anew = token && s->token_next;	/* a NIC that was revoked comes back so, long before its certificate has expired */
	int r;

	s->recovering = nic_cert_expired(&s->cert) && !anew;
	if (nic_cert_usable(&s->cert) && !anew) {
		enter(s, SESSION_CONNECTING, "");
		r = open_session(s);
	} else if (s->recovering || token) {
		enter(s, SESSION_ENROLLING, s->recovering ? "the certificate has expired" : "");
		r = enroll(s);
	} else {
		retry_later(s, "no certificate of this NIC and no join token");
		return;
	}
	if (r < 0) {
		log_error("the controller cannot be called", log_str("address", s->conf.address), log_errno(r));
		retry_later(s, strerror(-r));
	}
}

static int on_retry(struct timer *t)
{
	struct session *s = container_of(t, struct session, retry);

	disconnect(s);
	attempt(s);
	return 0;
}

/* Outside of the connection's own callbacks. */
static int on_reconnect(struct defer *d)
{
	struct session *s = container_of(d, struct session, reconnect);

	if (s->info.state == SESSION_OFF) {
		disconnect(s);
	} else if (s->info.state == SESSION_WAITING) {
		char why[sizeof(s->info.detail)];

		memcpy(why, s->info.detail, sizeof(why));
		retry_later(s, why);
	} else {
		note_settled(s);	/* a new one in its place, for the certificate's sake: its end is no failure */
		disconnect(s);
		attempt(s);
	}
	return 0;
}

/* --- life --- */

int session_new(struct loop *l, const struct session_conf *conf, const struct session_ops *ops, struct session **ret_session)
{
	struct session *s = calloc(1, sizeof(*s));
	int r = 0;

	if (!s)
		return -ENOMEM;
	s->loop = l;
	s->conf = *conf;
	s->ops = *ops;
	nic_cert_init(&s->cert, conf->nic, conf->state_dir);
	s->backoff = (struct backoff){ .min_ms = RETRY_MIN_MS, .max_ms = RETRY_MAX_MS };
	s->info.since_ms = clock_mono_ms();
	mirror_init(&s->mirror);
	if (conf->address) {
		nic_cert_load(&s->cert);
		s->info.state = SESSION_WAITING;
		r = timer_arm(l, &s->retry, 0, on_retry);
		if (r == 0)
			r = timer_arm(l, &s->check, CHECK_MS, on_check);
	} else {
		snprintf(s->info.detail, sizeof(s->info.detail), "no controller is configured");
	}
	if (r < 0) {
		session_free(s);
		return r;
	}
	*ret_session = s;
	return 0;
}

struct session *session_free(struct session *s)
{
	if (!s)
		return NULL;
	disconnect(s);
	timer_cancel(&s->retry);
	timer_cancel(&s->check);
	defer_cancel(&s->reconnect);
	mirror_deinit(&s->mirror);
	nic_cert_deinit(&s->cert);
	free(s);
	return NULL;
}

/* --- reports --- */

void session_put(struct session *s, enum mirror_class class, const char *key, Outrigger__V1__Report *report)
{
	bool changed;
	int r = mirror_put(&s->mirror, class, key, report, &changed);

	if (r < 0)
		log_error("a report is lost", log_errno(r));
	else if (changed)
		session_say(s, report);
}

void session_drop(struct session *s, enum mirror_class class, const char *key, Outrigger__V1__Report *gone)
{
	if (mirror_drop(&s->mirror, class, key) && gone)
		session_say(s, gone);
}

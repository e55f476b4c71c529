/*
 * A NIC's session: its reports to the registry, directives back.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/utf8.h"
#include "control/onboard.h"
#include "control/provisioner_session.h"
#include "mesh/pb.h"

enum {
	PROTOCOL_VERSION = 1,
	REPORTS_BURST_MS = 60000,
	REPORTS_PAUSE_MS = 100,
};

static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

int session_send(struct session *s, Outrigger__V1__Directive *d)
{
	return s->call ? grpc_call_send_pb(s->call, &d->base) : -EPIPE;
}

/* One that may not be lost: without room for it the session ends, and the next one begins anew. */
static void send_or_end(struct session *s, Outrigger__V1__Directive *d)
{
	int r = session_send(s, d);

	if (r < 0 && s->call)
		grpc_call_finish(s->call, GRPC_RESOURCE_EXHAUSTED, "%s", r == -ENOBUFS ? "too slow" : strerror(-r));
}

/* --- directives --- */

void session_push_welcome(struct session *s)
{
	Outrigger__V1__Directive d = OUTRIGGER__V1__DIRECTIVE__INIT;
	Outrigger__V1__Welcome w = OUTRIGGER__V1__WELCOME__INIT;
	const struct config *c = s->p->config;
	char address[IP_PORT_TEXT_LEN], *own_name = word("outrigger-controller");

	if (!s->p->roots_pem)
		return;			/* provisioner_set_roots() does it */
	w.version = PROTOCOL_VERSION;
	w.nic_id = s->nic_id;
	w.trust_domain = c->trust_domain;
	w.roots_pem = s->p->roots_pem;
	w.mesh_controller = c->advertise.mesh ? c->advertise.mesh : word(ip_port_format(&c->listen.mesh, address));
	w.mesh_server_names = c->advertise.server_names.n ? c->advertise.server_names.v : &own_name;
	w.n_mesh_server_names = c->advertise.server_names.n ? c->advertise.server_names.n : 1;
	w.mesh_kind = word(c->mesh.kind == MESH_ISTIO ? "istio" : "embedded");
	w.cluster_id = c->mesh.cluster_id;
	w.network = c->mesh.network;
	w.certificate_ttl_s = c->mesh.certificate_ttl_ms / 1000;
	w.renew_by_certificate = c->mesh.renewal == RENEWAL_CERTIFICATE;
	d.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_WELCOME;
	d.welcome = &w;
	send_or_end(s, &d);
}

void session_push_policies(struct session *s)
{
	Outrigger__V1__Directive d = OUTRIGGER__V1__DIRECTIVE__INIT;
	const struct kube_groups *groups = s->p->o.cluster ? cluster_groups(s->p->o.cluster) : NULL;
	Outrigger__V1__PolicySet *set;
	int r;

	if (groups && !kube_groups_ready(groups))
		return;			/* provisioner_policies() does it */
	r = onboard_set_new(s->p->config, groups, s->p->version, &set);
	if (r < 0)
		return;
	d.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_POLICIES;
	d.policies = set;
	r = session_send(s, &d);
	s->policies_due = r == -ENOBUFS;
	onboard_set_free(set);
}

static int put_container(Outrigger__V1__ContainerSet *set, const struct ip_prefix *prefix, const char *what)
{
	Outrigger__V1__ContainerAddress *a = malloc(sizeof(*a));
	char ip[IP_TEXT_LEN];

	if (!a)
		return -ENOMEM;
	outrigger__v1__container_address__init(a);
	if (asprintf(&a->prefix, "%s/%d", ip_format(&prefix->ip, ip), ip_is_v4(&prefix->ip) ? prefix->len - 96 : prefix->len) < 0) {
		free(a);
		return -ENOMEM;
	}
	a->what = word(what);
	set->addresses[set->n_addresses++] = a;
	return 0;
}

static void free_containers(Outrigger__V1__ContainerSet *set)
{
	for (size_t i = 0; i < set->n_addresses; i++) {
		free(set->addresses[i]->prefix);
		free(set->addresses[i]);
	}
	free(set->addresses);
}

/* Those of the file, then the cluster's: where an address is said twice, the first counts. */
static int put_containers(const struct session *s, const struct kube_container *v, size_t n, Outrigger__V1__ContainerSet *set)
{
	const struct config *c = s->p->config;
	int r = 0;

	set->addresses = calloc(c->containers.n + n + 1, sizeof(*set->addresses));
	if (!set->addresses)
		return -ENOMEM;
	config_for_each(const struct config_container, p, &c->containers)
		r = r < 0 ? r : put_container(set, &p->prefix, p->what);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = put_container(set, &v[i].prefix, v[i].what);
	return r;
}

void session_push_containers(struct session *s)
{
	Outrigger__V1__Directive d = OUTRIGGER__V1__DIRECTIVE__INIT;
	Outrigger__V1__ContainerSet set = OUTRIGGER__V1__CONTAINER_SET__INIT;
	CLEANUP_FREE struct kube_container *v = NULL;
	size_t n = 0;
	int r = s->p->o.cluster ? kube_things_containers(kube_source_things(cluster_source(s->p->o.cluster)), &v, &n) : 0;

	set.version = s->p->version;
	d.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_CONTAINERS;
	d.containers = &set;
	if (r == 0)
		r = put_containers(s, v, n, &set);
	if (r == 0)
		r = session_send(s, &d);
	s->containers_due = r == -ENOBUFS || r == -ENOMEM;
	free_containers(&set);
}

/* --- tokens --- */

struct session_ask {
	struct list link;
	struct session *s;
	struct token_ask *ask;		/* NULL: answered already */
	char guest_id[];
};

static void ask_free(struct session_ask *a)
{
	token_ask_cancel(a->ask);
	list_unlink(&a->link);
	free(a);
}

/* @wait_ms: with @refused, not to be asked for again before; 0: whenever it likes. */
static void send_answer(struct session *s, const char *guest_id, const char *text, int64_t expires_at, const char *refused, uint32_t wait_ms)
{
	struct provisioner *p = s->p;
	Outrigger__V1__Directive d = OUTRIGGER__V1__DIRECTIVE__INIT;
	Outrigger__V1__Token token = OUTRIGGER__V1__TOKEN__INIT;

	token.guest_id = word(guest_id);
	if (text) {
		p->counters.n_tokens++;
		token.token = word(text);
		token.expires_at = expires_at;
	} else {
		p->counters.n_tokens_refused++;
		LOG_LIMITED(LOG_L_WARN, "a token was refused", log_str("nic", s->nic_id), log_str("guest", guest_id), log_str("reason", refused));
		token.refused = word(refused);
		token.retry_after_ms = wait_ms;
	}
	d.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_TOKEN;
	d.token = &token;
	send_or_end(s, &d);
}

static void send_token(struct session *s, const char *guest_id, const char *text, int64_t expires_at, const char *refused)
{
	send_answer(s, guest_id, text, expires_at, refused, 0);
}

/* The answer may come long after the question: the guest must still be this NIC's. */
static void on_token(void *data, const char *token, int64_t expires_at, const char *refused)
{
	struct session_ask *a = data;
	const struct config_onboarding *policy;
	struct diag diag = {};

	a->ask = NULL;
	if (a->s->call && token && registry_may_have_token(a->s->p->o.registry, a->s->nic_id, a->guest_id, &policy, &diag) < 0)
		send_token(a->s, a->guest_id, NULL, 0, diag.msg);
	else if (a->s->call)
		send_token(a->s, a->guest_id, token, expires_at, refused);
	ask_free(a);
}

static int ask_token(struct session *s, const Outrigger__V1__TokenRequest *q, const struct config_onboarding *policy)
{
	size_t size = strlen(q->guest_id) + 1;
	struct session_ask *a = calloc(1, sizeof(*a) + size);
	const struct issuer_subject subject = {
		.namespace = policy->namespace, .service_account = policy->service_account, .guest_id = q->guest_id,
		.origin = &s->origin, .audience = q->audience, .ttl_s = s->p->config->tokens.workload_ttl_ms / 1000,
	};
	struct token_ask *ask;
	int r;

	if (!a)
		return -ENOMEM;
	a->s = s;
	memcpy(a->guest_id, q->guest_id, size);
	list_append(&s->asks, &a->link);
	r = tokens_ask(s->p->o.tokens, &subject, on_token, a, &ask);
	if (r < 0)
		ask_free(a);
	else if (ask)			/* else @a is gone already */
		a->ask = ask;
	return r;
}

static bool is_asked(const struct session *s, const char *guest_id)
{
	list_for_each(l, &s->asks)
		if (!strcmp(list_entry(l, struct session_ask, link)->guest_id, guest_id))
			return true;
	return false;
}

/* An agent has no use for others; the Kubernetes API's own would open the cluster to it. */
static bool is_audience(const struct config *c, const char *audience)
{
	for (size_t i = 0; i < c->tokens.audiences.n; i++)
		if (!strcmp(audience, c->tokens.audiences.v[i]))
			return true;
	return !*audience;
}

static void on_token_request(struct session *s, const Outrigger__V1__TokenRequest *q)
{
	const struct config_onboarding *policy;
	struct diag diag = {};
	uint32_t wait_ms;

	if (is_asked(s, q->guest_id))
		return;
	if (!provisioner_take_request(s->p, s->nic_id, &wait_ms))
		send_answer(s, q->guest_id, NULL, 0, "RESOURCE_EXHAUSTED: this NIC asks too often: wait before the next (limits.requests_per_minute)", wait_ms);
	else if (!is_audience(s->p->config, q->audience))
		send_token(s, q->guest_id, NULL, 0, "this audience is not one of the configuration's (tokens.audiences)");
	else if (registry_may_have_token(s->p->o.registry, s->nic_id, q->guest_id, &policy, &diag) < 0)
		send_token(s, q->guest_id, NULL, 0, diag.msg);
	else if (ask_token(s, q, policy) < 0)
		send_token(s, q->guest_id, NULL, 0, "the controller is out of memory");
}

/* --- reports --- */

static void take_over(struct session *s)
{
	list_for_each(l, &s->p->sessions) {
		struct session *other = list_entry(l, struct session, link);

		if (other == s || !other->call || strcmp(other->nic_id, s->nic_id) != 0)
			continue;
		other->nic = NULL;	/* its end is not the NIC's end */
		grpc_call_finish(other->call, GRPC_ABORTED, "another session of this NIC has begun");
		return;			/* there was one at most; the list may have changed */
	}
}

static void on_hello(struct session *s, const Outrigger__V1__AgentHello *hello)
{
	struct provisioner *p = s->p;

	if (hello->version != PROTOCOL_VERSION) {
		LOG_LIMITED(LOG_L_WARN, "a NIC's agent speaks another version of the protocol", log_str("nic", s->nic_id),
			    log_str("software", hello->software), log_int("its_version", hello->version), log_int("known_version", PROTOCOL_VERSION));
		grpc_call_finish(s->call, GRPC_FAILED_PRECONDITION, "the agent speaks version %u of the protocol, this controller only %d: upgrade the %s",
				 hello->version, PROTOCOL_VERSION, hello->version > PROTOCOL_VERSION ? "controller" : "agent");
		return;
	}
	if (strcmp(hello->nic_id, s->nic_id) != 0) {
		grpc_call_finish(s->call, GRPC_PERMISSION_DENIED, "the certificate is of NIC '%s', the hello of '%.100s'", s->nic_id, hello->nic_id);
		return;
	}
	take_over(s);
	if (registry_nic_connect(p->o.registry, s->nic_id, &s->nic) < 0) {
		grpc_call_finish(s->call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	utf8_clean(hello->hostname, strlen(hello->hostname), s->nic->hostname, sizeof(s->nic->hostname));
	utf8_clean(hello->software, strlen(hello->software), s->nic->software, sizeof(s->nic->software));
	log_info("NIC connected", log_str("nic", s->nic_id), log_str("host", s->nic->hostname), log_str("software", s->nic->software));
	session_push_welcome(s);
	session_push_policies(s);
	session_push_containers(s);
}

static void on_policy_ack(struct session *s, const Outrigger__V1__PolicyAck *ack)
{
	s->policy_version = ack->version;
	utf8_clean(ack->refused, strlen(ack->refused), s->policy_refused, sizeof(s->policy_refused));
	if (*ack->refused)
		log_warn("a NIC has refused the policies", log_str("nic", s->nic_id), log_str("reason", s->policy_refused));
}

static void on_report(struct session *s, Outrigger__V1__Report *report)
{
	bool was_synced = s->nic && s->nic->synced;
	struct diag diag = {};

	if (!s->nic) {
		if (report->msg_case == OUTRIGGER__V1__REPORT__MSG_HELLO)
			on_hello(s, report->hello);
		else
			grpc_call_finish(s->call, GRPC_FAILED_PRECONDITION, "the first report must be the hello");
		return;
	}
	switch (report->msg_case) {
	case OUTRIGGER__V1__REPORT__MSG_TOKEN_REQUEST:
		on_token_request(s, report->token_request);
		break;
	case OUTRIGGER__V1__REPORT__MSG_POLICY_ACK:
		on_policy_ack(s, report->policy_ack);
		break;
	default:
		if (registry_report(s->nic, report, &diag) < 0)
			LOG_LIMITED(LOG_L_WARN, "a report was refused", log_str("nic", s->nic_id), log_str("reason", diag.msg));
		if (s->nic->synced && !was_synced)
			session_push_nodes(s);
		break;
	}
}

static int on_wait(struct timer *t)
{
	struct session *s = container_of(t, struct session, wait);

	if (s->call)
		grpc_call_pause(s->call, false);
	return 0;
}

/*
 * What one NIC reports may be told to all of the mesh, again and again where it
 * changes to and fro. Beyond a rate it is not read for a while; what a NIC cannot
 * send it sends as it is by then.
 */
static void keep_pace(struct session *s)
{
	const struct pace_rate rate = { .per_s = s->p->config->limits.reports_per_second, .burst_ms = REPORTS_BURST_MS };
	uint64_t now_ms = loop_now_ms(s->p->o.loop), wait_ms;

	if (!s->call || !s->nic)
		return;
	pace_take(&s->nic->pace, rate, 1, now_ms);
	wait_ms = pace_wait_ms(&s->nic->pace, rate, now_ms);
	if (!wait_ms)
		return;
	/* Not for each: so many that they come in one go again. */
	if (timer_arm(s->p->o.loop, &s->wait, (uint32_t)wait_ms + REPORTS_PAUSE_MS, on_wait) < 0)
		return;
	s->p->counters.n_delayed++;
	LOG_LIMITED(LOG_L_WARN, "a NIC reports too much: its reports wait (limits.reports_per_second)", log_str("nic", s->nic_id));
	grpc_call_pause(s->call, true);
}

static void on_message(struct grpc_call *call, void *data, const uint8_t *bytes, size_t len)
{
	struct session *s = data;
	ProtobufCMessage *message;

	if (pb_unpack(&outrigger__v1__report__descriptor, bytes, len, 0, &message) < 0) {
		grpc_call_finish(call, GRPC_INVALID_ARGUMENT, "not a Report");
		return;
	}
	pb_drop_unknown(message);	/* most is kept */
	on_report(s, (Outrigger__V1__Report *)message);
	pb_free(message);
	keep_pace(s);
}

static void on_writable(struct grpc_call *call, void *data)
{
	struct session *s = data;

	(void)call;
	if (s->policies_due)
		session_push_policies(s);
	if (s->containers_due)
		session_push_containers(s);
	if (s->nodes_due)
		session_push_nodes(s);
}

static void on_half_closed(struct grpc_call *call, void *data)
{
	(void)data;
	grpc_call_finish(call, GRPC_OK, NULL);
}

/* --- life --- */

void session_free(struct session *s)
{
	defer_cancel(&s->dead);
	timer_cancel(&s->wait);
	list_for_each_safe(l, &s->asks)
		ask_free(list_entry(l, struct session_ask, link));
	list_unlink(&s->link);
	free(s->nodes);
	free(s);
}

static int on_dead(struct defer *d)
{
	session_free(container_of(d, struct session, dead));
	return 0;
}

static void on_closed(struct grpc_call *call, void *data, const struct grpc_status *status)
{
	struct session *s = data;

	(void)call;
	s->call = NULL;
	if (s->nic) {
		log_info("NIC disconnected", log_str("nic", s->nic_id), log_str("status", grpc_code_name(status->code)),
			 log_str("reason", status->message));
		registry_nic_lost(s->nic);
		s->nic = NULL;
	}
	loop_defer(s->p->o.loop, &s->dead, on_dead);
}

void provisioner_open_session(struct provisioner *p, struct grpc_call *call)
{
	static const struct grpc_call_ops ops = {
		.message = on_message, .half_closed = on_half_closed, .writable = on_writable, .closed = on_closed,
	};
	struct store_nic nic;
	struct session *s;

	if (!provisioner_check_nic(p, call, &nic))
		return;
	s = calloc(1, sizeof(*s));
	if (!s) {
		grpc_call_finish(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	s->p = p;
	s->call = call;
	list_init(&s->asks);
	s->origin = revocation_origin_of_nic(nic.id, nic.enrolled_at);
	snprintf(s->nic_id, sizeof(s->nic_id), "%.*s", IDENTITY_NAME_MAX, nic.id);
	list_append(&p->sessions, &s->link);
	grpc_call_set_ops(call, &ops, s);
}

/* --- from outside --- */

static struct session *find_session(const struct provisioner *p, const char *nic)
{
	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->call && s->nic && !strcmp(s->nic_id, nic))
			return s;
	}
	return NULL;
}

void provisioner_revoke(struct provisioner *p, const char *nic, const char *reason)
{
	Outrigger__V1__Directive d = OUTRIGGER__V1__DIRECTIVE__INIT;
	Outrigger__V1__Revoked revoked = OUTRIGGER__V1__REVOKED__INIT;
	struct session *s = find_session(p, nic);

	revoked.reason = word(reason);
	d.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_REVOKED;
	d.revoked = &revoked;
	if (s && session_send(s, &d) < 0)
		log_warn("a revoked NIC could not be told", log_str("nic", nic));
	if (s && s->call)
		grpc_call_finish(s->call, GRPC_PERMISSION_DENIED, "NIC '%s' was revoked: %.200s", nic, reason);
	registry_nic_forget(p->o.registry, nic);
}

/* Its claims as that NIC reported them: those that it admitted. */
void provisioner_hand_over(struct provisioner *p, const struct reg_guest *from, const struct reg_guest *to)
{
	Outrigger__V1__Directive d = OUTRIGGER__V1__DIRECTIVE__INIT;
	Outrigger__V1__Handover handover = OUTRIGGER__V1__HANDOVER__INIT;
	Outrigger__V1__Claim *claims[REG_MAX_CLAIMS];
	struct session *s = find_session(p, to->nic->id);

	list_for_each(l, &from->claims) {
		Outrigger__V1__Claim *c = list_entry(l, struct reg_claim, link)->pb;

		if (c->admitted && handover.n_claims < ELEMENTS(claims))
			claims[handover.n_claims++] = c;
	}
	handover.guest_id = to->pb->guest_id;
	handover.claims = claims;
	handover.client = reg_guest_is_client(from);
	d.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_HANDOVER;
	d.handover = &handover;
	if (!s)
		return;
	log_info("guest has turned up elsewhere", log_str("from", from->pb->guest_id), log_str("to", to->pb->guest_id),
		 log_int("claims", (int64_t)handover.n_claims));
	send_or_end(s, &d);
}

void provisioner_moved(struct provisioner *p, const struct reg_guest *from, const struct reg_guest *to)
{
	Outrigger__V1__Directive d = OUTRIGGER__V1__DIRECTIVE__INIT;
	Outrigger__V1__Moved moved = OUTRIGGER__V1__MOVED__INIT;
	struct session *s = find_session(p, from->nic->id);

	moved.guest_id = from->pb->guest_id;
	moved.nic = to->nic->id;
	d.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_MOVED;
	d.moved = &moved;
	if (s)
		send_or_end(s, &d);
}

int provisioner_drain(struct provisioner *p, const char *nic, const char *guest_id, uint32_t drain_ms)
{
	Outrigger__V1__Directive d = OUTRIGGER__V1__DIRECTIVE__INIT;
	Outrigger__V1__Drain drain = OUTRIGGER__V1__DRAIN__INIT;
	struct session *s = find_session(p, nic);

	drain.guest_id = word(guest_id);
	drain.drain_ms = drain_ms;
	d.msg_case = OUTRIGGER__V1__DIRECTIVE__MSG_DRAIN;
	d.drain = &drain;
	return s ? session_send(s, &d) : -ENOENT;
}

struct session_info provisioner_session(const struct provisioner *p, const char *nic)
{
	const struct session *s = find_session(p, nic);

	if (!s)
		return (struct session_info){ .policy_refused = "" };
	return (struct session_info){ .connected = true, .policy_version = s->policy_version, .policy_refused = s->policy_refused,
				      .peer = grpc_call_peer_addr(s->call) };
}

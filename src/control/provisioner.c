/*
 * Enrolment and renewal of NICs.
 */
#include "control/provisioner.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/join_token.h"
#include "control/provisioner_session.h"
#include "mesh/pb.h"

enum {
	LIMIT_BURST = 20,		/* enrolments from one address */
	LIMIT_PER_HOUR = 2 * 3600,
	MAX_ROOTS_FILE = 1 << 20,
	NODES_MS = 100,
};

/* --- life --- */

static int load_mesh_roots(struct provisioner *p, const struct config *config)
{
	size_t size = 0;
	FILE *f;

	if (config->mesh.kind == MESH_EMBEDDED) {
		p->roots_pem = strdup(authority_roots_pem(p->o.authority));
		return p->roots_pem ? 0 : -ENOMEM;
	}
	if (!config->mesh.roots_file)
		return 0;		/* the cluster tells them */
	f = fopen(config->mesh.roots_file, "re");
	if (!f) {
		int r = -errno;

		log_error("the roots of the mesh cannot be read", log_str("file", config->mesh.roots_file), log_errno(r));
		return r;
	}
	ssize_t n = getdelim(&p->roots_pem, &size, 0, f);
	fclose(f);
	return n > 0 && n < MAX_ROOTS_FILE ? 0 : -EINVAL;
}

int provisioner_new(const struct provisioner_options *options, struct provisioner **ret_provisioner)
{
	struct provisioner *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	p->o = *options;
	p->config = options->config;
	p->enrolments.burst = LIMIT_BURST;
	p->enrolments.per_hour = LIMIT_PER_HOUR;
	p->version = (uint64_t)clock_wall_ms();
	list_init(&p->sessions);
	r = load_mesh_roots(p, options->config);
	if (r < 0) {
		provisioner_free(p);
		return r;
	}
	*ret_provisioner = p;
	return 0;
}

struct provisioner *provisioner_free(struct provisioner *p)
{
	if (!p)
		return NULL;
	list_for_each_safe(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->call)
			grpc_call_cancel(s->call);
		session_free(s);
	}
	timer_cancel(&p->nodes);
	free(p->roots_pem);
	free(p);
	return NULL;
}

int provisioner_apply(struct provisioner *p, const struct config *config)
{
	uint64_t now = (uint64_t)clock_wall_ms();

	p->config = config;
	p->version = MAX(p->version + 1, now);
	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (!s->nic || !s->call)
			continue;
		session_push_policies(s);
		session_push_containers(s);
		session_push_nodes(s);
	}
	return 0;
}

void provisioner_policies(struct provisioner *p)
{
	uint64_t now = (uint64_t)clock_wall_ms();

	p->version = MAX(p->version + 1, now);
	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->nic && s->call)
			session_push_policies(s);
	}
}

void provisioner_containers(struct provisioner *p)
{
	uint64_t now = (uint64_t)clock_wall_ms();

	p->version = MAX(p->version + 1, now);
	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->nic && s->call)
			session_push_containers(s);
	}
}

static int on_nodes(struct timer *t)
{
	struct provisioner *p = container_of(t, struct provisioner, nodes);

	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->nic && s->call)
			session_push_nodes(s);
	}
	return 0;
}

void provisioner_nodes(struct provisioner *p)
{
	if (p->o.cluster && !p->nodes.loop)
		(void)!timer_arm(p->o.loop, &p->nodes, NODES_MS, on_nodes);	/* no memory: with the next change */
}

void provisioner_set_roots(struct provisioner *p, const char *roots_pem)
{
	char *copy = strdup(roots_pem);

	if (!copy) {
		log_error("out of memory: the NICs were not told of the mesh's roots");
		return;
	}
	free(p->roots_pem);
	p->roots_pem = copy;
	list_for_each(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->nic && s->call)
			session_push_welcome(s);
	}
}

struct provisioner_counters provisioner_counters(const struct provisioner *p)
{
	return p->counters;
}

/* --- certificates of NICs --- */

static void refuse(struct provisioner *p, struct grpc_call *call, enum grpc_code code, const char *nic, const char *why)
{
	struct ip_port peer = grpc_call_peer_addr(call);

	p->counters.n_refused++;
	LOG_LIMITED(LOG_L_WARN, "a NIC was refused", log_str("nic", nic), log_str("reason", why), log_ip("peer", &peer.ip));
	grpc_call_finish(call, code, "%s", why);
}

static enum grpc_code code_of(int r)
{
	return r == -ENOSPC || r == -EBUSY || r == -EIO ? GRPC_UNAVAILABLE : r == -ENOMEM ? GRPC_RESOURCE_EXHAUSTED : GRPC_INTERNAL;
}

/* Signs a certificate for @nic; ends the call where that is not possible. */
static bool sign_nic(struct provisioner *p, struct grpc_call *call, const char *nic, const char *csr_pem, struct authority_issued *ret_issued)
{
	char id_text[IDENTITY_TEXT_LEN], why[GRPC_MESSAGE_LEN];
	struct diag diag = {};
	struct identity id;
	struct cert_csr csr;
	int r;

	if (identity_nic(p->config->trust_domain, nic, &id) < 0) {
		refuse(p, call, GRPC_INVALID_ARGUMENT, nic, "the NIC's id is not valid: letters, digits, '.', '-' and '_'");
		return false;
	}
	identity_format(&id, id_text);
	if (cert_csr_parse(csr_pem, strlen(csr_pem), &csr, &diag) < 0) {
		refuse(p, call, GRPC_INVALID_ARGUMENT, nic, diag.msg);
		return false;
	}
	if (csr.id[0] && strcmp(csr.id, id_text) != 0) {
		snprintf(why, sizeof(why), "the request is for %.200s, but the caller is %.200s", csr.id, id_text);
		refuse(p, call, GRPC_PERMISSION_DENIED, nic, why);
		cert_csr_deinit(&csr);
		return false;
	}
	r = authority_sign(p->o.authority, &(struct authority_leaf){ .key = csr.key, .id = id_text, .ttl_s = p->config->ca.nic_ttl_ms / 1000 },
			   ret_issued);
	cert_csr_deinit(&csr);
	if (r < 0) {
		log_error("a NIC's certificate could not be signed", log_str("nic", nic), log_errno(r));
		grpc_call_finish(call, GRPC_INTERNAL, "the authority cannot sign: %s", strerror(-r));
	}
	return r == 0;
}

static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

static void reply(struct provisioner *p, struct grpc_call *call, const struct authority_issued *issued)
{
	Outrigger__V1__EnrollResponse response = OUTRIGGER__V1__ENROLL_RESPONSE__INIT;
	char *chain[CERT_CHAIN_MAX];

	memcpy(chain, issued->chain.pem, sizeof(chain));
	response.cert_chain = chain;
	response.n_cert_chain = issued->chain.n;
	response.trust_domain = word(p->config->trust_domain);
	response.roots_pem = word(authority_roots_pem(p->o.authority));
	grpc_call_reply_pb(call, &response.base);
}

/* --- Enroll --- */

/* Both or neither: the token is used up, and the NIC is known. */
static int record_enrolment(struct provisioner *p, const char *token_id, const struct store_nic *nic)
{
	int r = store_begin(p->o.store);

	if (r < 0)
		return r;
	r = store_token_use(p->o.store, token_id, nic->id, nic->enrolled_at);
	if (r == 0)
		r = store_nic_put(p->o.store, nic);
	int committed = r < 0 ? store_rollback(p->o.store) : store_commit(p->o.store);
	return r < 0 ? r : committed;
}

/* Each enrolment has a time of its own: what was issued under another is told apart by it. */
static int64_t last_enrolment(struct provisioner *p, const char *nic)
{
	struct store_nic old;

	return store_nic_get(p->o.store, nic, &old) == 0 ? old.enrolled_at : 0;
}

static void end_session(struct provisioner *p, const char *nic, const char *why)
{
	list_for_each_safe(l, &p->sessions) {
		struct session *s = list_entry(l, struct session, link);

		if (s->call && !strcmp(s->nic_id, nic))
			grpc_call_finish(s->call, GRPC_ABORTED, "%s", why);
	}
}

static void enroll(struct provisioner *p, struct grpc_call *call, const Outrigger__V1__EnrollRequest *q)
{
	char why[GRPC_MESSAGE_LEN], token_id[STORE_ID_LEN];
	struct authority_issued issued;
	struct store_nic nic = { .enrolled_at = clock_wall_s() };
	struct ip_port peer = grpc_call_peer_addr(call);
	uint32_t wait_ms;
	int r;

	if (!limiter_take(&p->enrolments, peer.ip.b, sizeof(peer.ip.b), clock_mono_ms(), &wait_ms)) {
		grpc_call_retry_after(call, wait_ms);
		refuse(p, call, GRPC_RESOURCE_EXHAUSTED, q->nic_id, "too many enrolments from this address: try again in a few seconds");
		return;
	}
	if (!identity_name_valid(q->nic_id)) {
		refuse(p, call, GRPC_INVALID_ARGUMENT, "", "the NIC's id is not valid: letters, digits, '.', '-' and '_'");
		return;
	}
	r = join_token_check(p->o.store, q->join_token, q->nic_id, token_id, why);
	if (r) {
		refuse(p, call, r < 0 ? code_of(r) : r == JOIN_TOKEN_E_UNKNOWN ? GRPC_UNAUTHENTICATED : GRPC_PERMISSION_DENIED, q->nic_id, why);
		return;
	}
	if (!sign_nic(p, call, q->nic_id, q->csr_pem, &issued))
		return;
	snprintf(nic.id, sizeof(nic.id), "%s", q->nic_id);
	nic.enrolled_at = MAX(nic.enrolled_at, last_enrolment(p, q->nic_id) + 1);
	snprintf(nic.software, sizeof(nic.software), "%s", q->version);
	memcpy(nic.fingerprint, issued.fingerprint, sizeof(nic.fingerprint));
	nic.not_after = issued.not_after;
	nic.renewed_at = nic.enrolled_at;
	r = record_enrolment(p, token_id, &nic);
	if (r == -EALREADY) {
		refuse(p, call, GRPC_PERMISSION_DENIED, q->nic_id, "the join token was used in this very moment by somebody else");
	} else if (r < 0) {
		snprintf(why, sizeof(why), "the controller cannot record the enrolment: %.200s", store_error(p->o.store));
		refuse(p, call, code_of(r), q->nic_id, why);
	} else {
		p->counters.n_enrolled++;
		log_info("NIC enrolled", log_str("nic", q->nic_id), log_str("token", token_id), log_ip("peer", &peer.ip));
		end_session(p, q->nic_id, "this NIC has been enrolled anew");
		reply(p, call, &issued);
	}
	cert_list_deinit(&issued.chain);
}

void provisioner_enroll(struct provisioner *p, struct grpc_call *call, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *message;

	if (pb_unpack(&outrigger__v1__enroll_request__descriptor, bytes, len, 0, &message) < 0) {
		refuse(p, call, GRPC_INVALID_ARGUMENT, "", "not an EnrollRequest");
		return;
	}
	enroll(p, call, (const Outrigger__V1__EnrollRequest *)message);
	pb_free(message);
}

/* --- who calls, with a NIC's certificate --- */

static const char *nic_obstacle(const struct provisioner *p, const struct grpc_call *call, struct identity *id, struct store_nic *nic,
				enum grpc_code *code, char why[static GRPC_MESSAGE_LEN])
{
	const char *peer = grpc_call_peer_id(call);
	const uint8_t *fingerprint = tls_peer_fingerprint(grpc_call_session(call));
	struct revocation_origin origin;
	int r;

	*code = GRPC_UNAUTHENTICATED;
	if (!peer || !fingerprint)
		return "a NIC's certificate is needed: enrol first";
	if (identity_parse(peer, id) < 0 || id->kind != IDENTITY_NIC || strcmp(id->trust_domain, p->config->trust_domain) != 0)
		return "the client's certificate is not a NIC's of this trust domain";
	r = store_nic_get(p->o.store, id->nic, nic);
	if (r == -ENOENT)
		return "this NIC is not enrolled here: enrol it with a new join token";
	if (r < 0) {
		*code = code_of(r);
		return store_error(p->o.store);
	}
	*code = GRPC_PERMISSION_DENIED;
	if (nic->revoked_at) {
		snprintf(why, GRPC_MESSAGE_LEN, "NIC '%.100s' was revoked: %.200s", nic->id, nic->revoke_reason);
		return why;
	}
	origin = revocation_origin_of_nic(nic->id, nic->enrolled_at);
	if (revoker_has(p->o.revoker, &origin))
		return "this NIC was revoked";		/* and the disk could not be written */
	if (CRYPTO_memcmp(fingerprint, nic->fingerprint, STORE_HASH_LEN) && CRYPTO_memcmp(fingerprint, nic->previous, STORE_HASH_LEN))
		return "this certificate of the NIC has been replaced by a newer one";
	return NULL;
}

bool provisioner_check_nic(struct provisioner *p, struct grpc_call *call, struct store_nic *ret_nic)
{
	char why[GRPC_MESSAGE_LEN];
	struct identity id = {};
	enum grpc_code code;
	const char *obstacle = nic_obstacle(p, call, &id, ret_nic, &code, why);

	if (obstacle)
		refuse(p, call, code, id.nic, obstacle);
	return !obstacle;
}

/* --- Renew --- */

static void renew(struct provisioner *p, struct grpc_call *call, const Outrigger__V1__RenewRequest *q)
{
	struct authority_issued issued;
	struct store_nic nic;
	char why[GRPC_MESSAGE_LEN];
	int r;

	if (!provisioner_check_nic(p, call, &nic) || !sign_nic(p, call, nic.id, q->csr_pem, &issued))
		return;
	/* What it called with stays good until it has called with the new one: the answer may get lost. */
	memcpy(nic.previous, tls_peer_fingerprint(grpc_call_session(call)), sizeof(nic.previous));
	memcpy(nic.fingerprint, issued.fingerprint, sizeof(nic.fingerprint));
	nic.renewed_at = clock_wall_s();
	nic.not_after = issued.not_after;
	r = store_nic_put(p->o.store, &nic);
	if (r < 0) {
		snprintf(why, sizeof(why), "the controller cannot record the renewal: %.200s", store_error(p->o.store));
		refuse(p, call, code_of(r), nic.id, why);
	} else {
		p->counters.n_renewed++;
		log_info("NIC's certificate renewed", log_str("nic", nic.id), log_int("not_after", nic.not_after));
		reply(p, call, &issued);
	}
	cert_list_deinit(&issued.chain);
}

void provisioner_renew(struct provisioner *p, struct grpc_call *call, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *message;

	if (pb_unpack(&outrigger__v1__renew_request__descriptor, bytes, len, 0, &message) < 0) {
		refuse(p, call, GRPC_INVALID_ARGUMENT, "", "not a RenewRequest");
		return;
	}
	renew(p, call, (const Outrigger__V1__RenewRequest *)message);
	pb_free(message);
}

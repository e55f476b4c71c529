/*
 * Certificates of NICs: by join token, by the one before, by one that has expired.
 */
#include "control/provisioner.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/utf8.h"
#include "control/join_token.h"
#include "control/provisioner_session.h"
#include "control/recovery.h"
#include "mesh/pb.h"

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

static bool parse_csr(struct provisioner *p, struct grpc_call *call, const char *nic, const char *csr_pem, struct cert_csr *ret_csr)
{
	struct diag diag = {};

	if (cert_csr_parse(csr_pem, strlen(csr_pem), ret_csr, &diag) == 0)
		return true;
	refuse(p, call, GRPC_INVALID_ARGUMENT, nic, diag.msg);
	return false;
}

/* Signs a certificate for @nic; ends the call where that is not possible. */
static bool sign_csr(struct provisioner *p, struct grpc_call *call, const char *nic, const struct cert_csr *csr, struct authority_issued *ret_issued)
{
	char id_text[IDENTITY_TEXT_LEN], why[GRPC_MESSAGE_LEN];
	struct identity id;
	int r;

	if (identity_nic(p->config->trust_domain, nic, &id) < 0) {
		refuse(p, call, GRPC_INVALID_ARGUMENT, nic, "the NIC's id is not valid: letters, digits, '.', '-' and '_'");
		return false;
	}
	identity_format(&id, id_text);
	if (csr->id[0] && strcmp(csr->id, id_text) != 0) {
		snprintf(why, sizeof(why), "the request is for %.200s, but the caller is %.200s", csr->id, id_text);
		refuse(p, call, GRPC_PERMISSION_DENIED, nic, why);
		return false;
	}
	r = authority_sign(p->o.authority, &(struct authority_leaf){ .key = csr->key, .id = id_text, .ttl_s = p->config->ca.nic_ttl_ms / 1000 },
			   ret_issued);
	if (r < 0) {
		log_error("a NIC's certificate could not be signed", log_str("nic", nic), log_errno(r));
		grpc_call_finish(call, GRPC_INTERNAL, "the authority cannot sign: %s", strerror(-r));
	}
	return r == 0;
}

static bool sign_nic(struct provisioner *p, struct grpc_call *call, const char *nic, const char *csr_pem, struct authority_issued *ret_issued)
{
	struct cert_csr csr;
	bool ok = parse_csr(p, call, nic, csr_pem, &csr);

	if (!ok)
		return false;
	ok = sign_csr(p, call, nic, &csr, ret_issued);
	cert_csr_deinit(&csr);
	return ok;
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

/* --- Enroll by token --- */

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

static void enroll_by_token(struct provisioner *p, struct grpc_call *call, const Outrigger__V1__EnrollRequest *q)
{
	char why[GRPC_MESSAGE_LEN], token_id[STORE_ID_LEN];
	struct authority_issued issued;
	struct store_nic nic = { .enrolled_at = clock_wall_s() };
	struct ip_port peer = grpc_call_peer_addr(call);
	int r = join_token_check(p->o.store, q->join_token, q->nic_id, token_id, why);

	if (r) {
		refuse(p, call, r < 0 ? code_of(r) : r == JOIN_TOKEN_E_UNKNOWN ? GRPC_UNAUTHENTICATED : GRPC_PERMISSION_DENIED, q->nic_id, why);
		return;
	}
	if (!sign_nic(p, call, q->nic_id, q->csr_pem, &issued))
		return;
	snprintf(nic.id, sizeof(nic.id), "%s", q->nic_id);
	nic.enrolled_at = MAX(nic.enrolled_at, last_enrolment(p, q->nic_id) + 1);
	utf8_clean(q->version, strlen(q->version), nic.software, sizeof(nic.software));
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

/* --- who calls, with a NIC's certificate --- */

static const char replaced[] = "this certificate of the NIC has been replaced by a newer one";

static bool same(const uint8_t a[static STORE_HASH_LEN], const uint8_t b[static STORE_HASH_LEN])
{
	return CRYPTO_memcmp(a, b, STORE_HASH_LEN) == 0;
}

/* NULL: @nic is the row of that NIC, which is trusted, and this certificate is its last, or the one before. */
static const char *row_obstacle(const struct provisioner *p, const char *id, const uint8_t fingerprint[static STORE_HASH_LEN], struct store_nic *nic,
				enum grpc_code *code, char why[static GRPC_MESSAGE_LEN])
{
	struct revocation_origin origin;
	int r = store_nic_get(p->o.store, id, nic);

	*code = GRPC_UNAUTHENTICATED;
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
	return same(fingerprint, nic->fingerprint) || same(fingerprint, nic->previous) ? NULL : replaced;
}

static const char *nic_obstacle(const struct provisioner *p, const struct grpc_call *call, struct identity *id, struct store_nic *nic,
				enum grpc_code *code, char why[static GRPC_MESSAGE_LEN])
{
	const char *peer = grpc_call_peer_id(call);
	const uint8_t *fingerprint = tls_peer_fingerprint(grpc_call_session(call));

	*code = GRPC_UNAUTHENTICATED;
	if (!peer || !fingerprint)
		return "a NIC's certificate is needed: enrol first";
	if (identity_parse(peer, id) < 0 || id->kind != IDENTITY_NIC || strcmp(id->trust_domain, p->config->trust_domain) != 0)
		return "the client's certificate is not a NIC's of this trust domain";
	return row_obstacle(p, id->nic, fingerprint, nic, code, why);
}

bool provisioner_take_request(struct provisioner *p, const char *nic, uint32_t *ret_wait_ms)
{
	return limiter_take(&p->requests, nic, strlen(nic), clock_mono_ms(), ret_wait_ms);
}

bool provisioner_check_nic(struct provisioner *p, struct grpc_call *call, struct store_nic *ret_nic)
{
	char why[GRPC_MESSAGE_LEN];
	struct identity id = {};
	enum grpc_code code;
	const char *obstacle = nic_obstacle(p, call, &id, ret_nic, &code, why);
	uint32_t wait_ms;

	if (obstacle) {
		refuse(p, call, code, id.nic, obstacle);
		return false;
	}
	if (!provisioner_take_request(p, id.nic, &wait_ms)) {
		grpc_call_retry_after(call, wait_ms);
		refuse(p, call, GRPC_RESOURCE_EXHAUSTED, id.nic, "this NIC asks too often: wait before the next (limits.requests_per_minute)");
		return false;
	}
	if (!ret_nic->used && same(tls_peer_fingerprint(grpc_call_session(call)), ret_nic->fingerprint) &&
	    store_nic_used(p->o.store, id.nic, ret_nic->fingerprint) < 0)
		LOG_LIMITED(LOG_L_WARN, "it cannot be recorded that a NIC uses its certificate", log_str("nic", id.nic),
			    log_str("reason", store_error(p->o.store)));
	return true;
}

/* --- another one for that NIC --- */

/* Takes @issued over, puts it on record and answers. False: it could not be recorded, and the call has ended. */
static bool replace_certificate(struct provisioner *p, struct grpc_call *call, struct store_nic *nic, const uint8_t shown[static STORE_HASH_LEN],
				struct authority_issued *issued)
{
	char why[GRPC_MESSAGE_LEN];
	int r;

	/* What it called with stays good, since the answer may get lost. */
	memcpy(nic->previous, shown, sizeof(nic->previous));
	memcpy(nic->fingerprint, issued->fingerprint, sizeof(nic->fingerprint));
	nic->renewed_at = clock_wall_s();
	nic->not_after = issued->not_after;
	r = store_nic_put(p->o.store, nic);
	if (r < 0) {
		snprintf(why, sizeof(why), "the controller cannot record the renewal: %.200s", store_error(p->o.store));
		refuse(p, call, code_of(r), nic->id, why);
	} else {
		reply(p, call, issued);
	}
	cert_list_deinit(&issued->chain);
	return r == 0;
}

/* Before the new one has been called with, its answer may have got lost; afterwards the one before is an old one. */
static const char *recovery_obstacle(const struct provisioner *p, const char *id, const uint8_t fingerprint[static STORE_HASH_LEN], struct store_nic *nic,
				     enum grpc_code *code, char why[static GRPC_MESSAGE_LEN])
{
	const char *obstacle = row_obstacle(p, id, fingerprint, nic, code, why);

	return obstacle || same(fingerprint, nic->fingerprint) || !nic->used ? obstacle : replaced;
}

static void recover_by(struct provisioner *p, struct grpc_call *call, const Outrigger__V1__EnrollRequest *q, const struct cert_csr *csr)
{
	const struct recovery_rules rules = { .trust_domain = p->config->trust_domain, .roots_pem = authority_roots_pem(p->o.authority),
					      .grace_s = p->config->ca.nic_grace_ms / 1000, .now = clock_wall_s() };
	const struct recovery_claim claim = { .nic = q->nic_id, .chain_pem = q->expired_cert_pem, .key = csr->key };
	uint8_t fingerprint[STORE_HASH_LEN];
	char why[GRPC_MESSAGE_LEN];
	struct authority_issued issued;
	struct diag diag = {};
	struct store_nic nic;
	enum grpc_code code;
	const char *obstacle;
	int64_t ended;
	int r = recovery_check(&rules, &claim, fingerprint, &diag);

	if (r < 0) {
		refuse(p, call, r == -EKEYREJECTED ? GRPC_PERMISSION_DENIED : code_of(r), q->nic_id, r == -EKEYREJECTED ? diag.msg : strerror(-r));
		return;
	}
	obstacle = recovery_obstacle(p, q->nic_id, fingerprint, &nic, &code, why);
	if (obstacle) {
		refuse(p, call, code, q->nic_id, obstacle);
		return;
	}
	ended = nic.not_after;
	if (!sign_csr(p, call, nic.id, csr, &issued) || !replace_certificate(p, call, &nic, fingerprint, &issued))
		return;
	struct ip_port peer = grpc_call_peer_addr(call);
	p->counters.n_recovered++;
	log_warn("a NIC came with an expired certificate and has another one", log_str("nic", nic.id), log_int("expired_s", rules.now - ended),
		 log_int("not_after", nic.not_after), log_ip("peer", &peer.ip));
}

static void recover(struct provisioner *p, struct grpc_call *call, const Outrigger__V1__EnrollRequest *q)
{
	struct cert_csr csr;

	if (!parse_csr(p, call, q->nic_id, q->csr_pem, &csr))
		return;
	recover_by(p, call, q, &csr);
	cert_csr_deinit(&csr);
}

static void renew(struct provisioner *p, struct grpc_call *call, const Outrigger__V1__RenewRequest *q)
{
	struct authority_issued issued;
	struct store_nic nic;

	if (!provisioner_check_nic(p, call, &nic) || !sign_nic(p, call, nic.id, q->csr_pem, &issued) ||
	    !replace_certificate(p, call, &nic, tls_peer_fingerprint(grpc_call_session(call)), &issued))
		return;
	p->counters.n_renewed++;
	log_info("NIC's certificate renewed", log_str("nic", nic.id), log_int("not_after", nic.not_after));
}

/* --- the methods --- */

static void enroll(struct provisioner *p, struct grpc_call *call, const Outrigger__V1__EnrollRequest *q)
{
	struct ip_port peer = grpc_call_peer_addr(call);
	uint32_t wait_ms;

	if (!limiter_take_ip(&p->enrolments, &peer.ip, clock_mono_ms(), &wait_ms)) {
		grpc_call_retry_after(call, wait_ms);
		refuse(p, call, GRPC_RESOURCE_EXHAUSTED, q->nic_id,
		       "too many enrolments from this address: try again in a few seconds (limits.enrolments_per_minute)");
	} else if (!identity_name_valid(q->nic_id)) {
		refuse(p, call, GRPC_INVALID_ARGUMENT, "", "the NIC's id is not valid: letters, digits, '.', '-' and '_'");
	} else if (q->expired_cert_pem[0]) {
		recover(p, call, q);
	} else {
		enroll_by_token(p, call, q);
	}
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

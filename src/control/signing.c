/*
 * Certificates for workloads.
 */
#include "control/signing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "istio/ca.pb-c.h"
#include "mesh/pb.h"

static void refuse(struct signing *s, struct grpc_call *call, enum grpc_code code, const char *who, const char *why)
{
	s->n_refused++;
	LOG_LIMITED(LOG_L_WARN, "a certificate was refused", log_str("identity", who), log_str("reason", why));
	grpc_call_finish(call, code, "%s", why);
}

void signing_init(struct signing *s, struct authn *authn, struct authority *authority, const struct config *config)
{
	*s = (struct signing){
		.authn = authn, .authority = authority, .config = config,
		.per_vm = { .burst = 10, .per_hour = 360 },
		.per_nic = { .burst = 1000, .per_hour = 72000 },
		.per_identity = { .burst = 1000, .per_hour = 72000 },	/* shared by all replicas of a workload */
	};
}

static bool may_ask(struct signing *s, const struct authn_caller *caller, const char *id, uint32_t *ret_wait_ms)
{
	uint64_t now = clock_mono_ms();

	if (!caller->guest_id[0])
		return limiter_take(&s->per_identity, id, strlen(id), now, ret_wait_ms);
	return limiter_take(&s->per_vm, caller->guest_id, strlen(caller->guest_id), now, ret_wait_ms) &&
	       limiter_take(&s->per_nic, caller->origin.b, sizeof(caller->origin.b), now, ret_wait_ms);
}

static int64_t lifetime(const struct config *c, int64_t wanted_s)
{
	int64_t max_s = c->ca.max_ttl_ms / 1000;

	return wanted_s > 0 ? MIN(wanted_s, max_s) : MIN((int64_t)c->ca.workload_ttl_ms / 1000, max_s);
}

static void issue(struct signing *s, struct grpc_call *call, const char *id, const struct authority_leaf *leaf)
{
	Istio__V1__Auth__IstioCertificateResponse response = ISTIO__V1__AUTH__ISTIO_CERTIFICATE_RESPONSE__INIT;
	struct authority_issued issued;
	int r = authority_sign(s->authority, leaf, &issued);

	if (r < 0) {
		log_error("a certificate could not be signed", log_str("identity", id), log_errno(r));
		grpc_call_finish(call, GRPC_INTERNAL, "the authority cannot sign: %s", strerror(-r));
		return;
	}
	response.cert_chain = issued.chain.pem;
	response.n_cert_chain = issued.chain.n;
	s->n_issued++;
	log_debug("certificate issued", log_str("identity", id), log_int("ttl_s", leaf->ttl_s));
	grpc_call_reply_pb(call, &response.base);
	cert_list_deinit(&issued.chain);
}

static void handle(struct signing *s, struct grpc_call *call, const Istio__V1__Auth__IstioCertificateRequest *request)
{
	char text[IDENTITY_TEXT_LEN], why[GRPC_MESSAGE_LEN];
	struct diag diag = {};
	struct authn_caller caller;
	struct cert_csr csr;
	enum grpc_code code = authn_call(s->authn, call, &caller, &diag);
	uint32_t wait_ms;

	if (code != GRPC_OK) {
		refuse(s, call, code, "", diag.msg);
		return;
	}
	identity_format(&caller.id, text);
	if (caller.through_nic && !caller.by_token) {
		refuse(s, call, GRPC_PERMISSION_DENIED, text, "a VM's certificate is renewed by a token, not by itself");
		return;
	}
	if (!may_ask(s, &caller, text, &wait_ms)) {
		grpc_call_retry_after(call, wait_ms);
		refuse(s, call, GRPC_RESOURCE_EXHAUSTED, text, "too many certificates were asked for: wait before the next");
		return;
	}
	if (cert_csr_parse(request->csr, strlen(request->csr), &csr, &diag) < 0) {
		refuse(s, call, GRPC_INVALID_ARGUMENT, text, diag.msg);
		return;
	}
	if (csr.id[0] && strcmp(csr.id, text) != 0) {
		snprintf(why, sizeof(why), "the request is for %.200s, but the caller is %.200s", csr.id, text);
		refuse(s, call, GRPC_PERMISSION_DENIED, text, why);
	} else {
		issue(s, call, text, &(struct authority_leaf){
			.key = csr.key, .id = text, .ttl_s = lifetime(s->config, request->validity_duration),
			.origin = caller.through_nic ? &caller.origin : NULL,
		});
	}
	cert_csr_deinit(&csr);
}

void signing_create(struct signing *s, struct grpc_call *call, const uint8_t *bytes, size_t len)
{
	ProtobufCMessage *message;
	int r = pb_unpack(&istio__v1__auth__istio_certificate_request__descriptor, bytes, len, 0, &message);

	if (r < 0) {
		refuse(s, call, GRPC_INVALID_ARGUMENT, "", "not an IstioCertificateRequest");
		return;
	}
	handle(s, call, (const Istio__V1__Auth__IstioCertificateRequest *)message);
	pb_free(message);
}

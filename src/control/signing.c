/*
 * Certificates for workloads.
 */
#include "control/signing.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "istio/ca.pb-c.h"
#include "mesh/pb.h"

static void refuse(struct signing *s, struct grpc_call *call, enum grpc_code code, const char *who, const char *why)
{
	s->n_refused++;
	LOG_LIMITED(LOG_L_WARN, "a certificate was refused", log_str("identity", who), log_str("reason", why));
	grpc_call_finish(call, code, "%s", why);
}

static int64_t lifetime(const struct config *c, int64_t wanted_s)
{
	int64_t max_s = c->ca.max_ttl_ms / 1000;

	return wanted_s > 0 ? MIN(wanted_s, max_s) : MIN((int64_t)c->ca.workload_ttl_ms / 1000, max_s);
}

static void issue(struct signing *s, struct grpc_call *call, const char *id, EVP_PKEY *key, int64_t ttl_s)
{
	Istio__V1__Auth__IstioCertificateResponse response = ISTIO__V1__AUTH__ISTIO_CERTIFICATE_RESPONSE__INIT;
	struct authority_issued issued;
	int r = authority_sign(s->authority, &(struct authority_leaf){ .key = key, .id = id, .ttl_s = ttl_s }, &issued);

	if (r < 0) {
		log_error("a certificate could not be signed", log_str("identity", id), log_errno(r));
		grpc_call_finish(call, GRPC_INTERNAL, "the authority cannot sign: %s", strerror(-r));
		return;
	}
	response.cert_chain = issued.chain.pem;
	response.n_cert_chain = issued.chain.n;
	s->n_issued++;
	log_debug("certificate issued", log_str("identity", id), log_int("ttl_s", ttl_s));
	grpc_call_reply_pb(call, &response.base);
	cert_list_deinit(&issued.chain);
}

static void handle(struct signing *s, struct grpc_call *call, const Istio__V1__Auth__IstioCertificateRequest *request)
{
	char text[IDENTITY_TEXT_LEN], why[GRPC_MESSAGE_LEN];
	struct diag diag = {};
	struct identity id;
	struct cert_csr csr;

	if (authn_call(s->authn, call, &id, &diag) < 0) {
		refuse(s, call, GRPC_UNAUTHENTICATED, "", diag.msg);
		return;
	}
	identity_format(&id, text);
	if (cert_csr_parse(request->csr, strlen(request->csr), &csr, &diag) < 0) {
		refuse(s, call, GRPC_INVALID_ARGUMENT, text, diag.msg);
		return;
	}
	if (csr.id[0] && strcmp(csr.id, text) != 0) {
		snprintf(why, sizeof(why), "the request is for %.200s, but the caller is %.200s", csr.id, text);
		refuse(s, call, GRPC_PERMISSION_DENIED, text, why);
	} else {
		issue(s, call, text, csr.key, lifetime(s->config, request->validity_duration));
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

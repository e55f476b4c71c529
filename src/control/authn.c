/*
 * Authentication of workloads.
 */
#include "control/authn.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "control/onboard.h"

static int deny(struct diag *d, const char *why)
{
	diag_set(d, "%s", why);
	return -EACCES;
}

/*
 * What is issued through a NIC is bound to its enrolment: a token of before a
 * new one (which followed, perhaps, the theft of the NIC's key) is worth nothing.
 */
static int check_nic(const struct authn *a, const struct issuer_verified *v, const char *nic_id, struct authn_caller *caller, struct diag *d)
{
	struct store_nic nic;
	int r = store_nic_get(a->store, nic_id, &nic);

	if (r < 0)
		return deny(d, r == -ENOENT ? "the NIC of the token's guest is not enrolled" : store_error(a->store));
	caller->origin = revocation_origin_of_nic(nic.id, nic.enrolled_at);
	if (v->has_origin ? memcmp(&v->origin, &caller->origin, sizeof(v->origin)) != 0 : v->issued_at < nic.enrolled_at)
		return deny(d, "the token is older than the enrolment of its NIC");
	caller->through_nic = true;
	if (nic.revoked_at || revoker_has(a->revoker, &caller->origin))
		return deny(d, "the NIC of the token's guest was revoked");
	return 0;
}

/* A VM's token is worth nothing once its guest is gone, or may not join any more. */
static int check_guest(const struct authn *a, const struct issuer_verified *v, struct authn_caller *caller, struct diag *d)
{
	const struct reg_guest *g;
	const struct config_onboarding *p;

	if (!v->guest_id[0])
		return 0;
	g = registry_guest(a->registry, v->guest_id);
	if (!g)
		return deny(d, "the token's guest is not known any more");
	p = onboard_match(a->registry->config, g->nic->id, g->pb);
	if (!onboard_joins(p) || strcmp(p->namespace, v->namespace) != 0 || strcmp(p->service_account, v->service_account) != 0)
		return deny(d, "the token's guest may not join under this identity any more");
	snprintf(caller->guest_id, sizeof(caller->guest_id), "%s", v->guest_id);
	return check_nic(a, v, g->nic->id, caller, d);
}

static int by_token(const struct authn *a, const char *token, struct authn_caller *caller, struct diag *d)
{
	struct issuer_verified v;
	int r = issuer_verify(a->issuer, token, &v, d);

	if (r == 0)
		r = check_guest(a, &v, caller, d);
	if (r < 0)
		return r;
	caller->by_token = true;
	return identity_workload(a->trust_domain, v.namespace, v.service_account, &caller->id) < 0
		? deny(d, "the token's subject makes no identity") : 0;
}

static int by_certificate(const struct authn *a, const struct grpc_call *call, const char *peer, struct authn_caller *caller, struct diag *d)
{
	size_t n_serial;
	const uint8_t *serial = tls_peer_serial(grpc_call_session(call), &n_serial);

	if (identity_parse(peer, &caller->id) < 0 || caller->id.kind != IDENTITY_WORKLOAD)
		return deny(d, "the client's certificate is not a workload's");
	if (strcmp(caller->id.trust_domain, a->trust_domain) != 0)
		return deny(d, "the client's certificate is of another trust domain");
	if (!serial)
		return deny(d, "the client's certificate has no serial number");
	caller->through_nic = revocation_origin_of_serial(serial, n_serial, &caller->origin);
	return caller->through_nic && revoker_has(a->revoker, &caller->origin) ? deny(d, "the client's certificate was revoked") : 0;
}

void authn_init(struct authn *a)
{
	limiter_set(&a->failures, AUTHN_TRIES, AUTHN_TRIES * 60);
}

static int identify(const struct authn *a, const struct grpc_call *call, struct authn_caller *ret_caller, struct diag *reterr_diag)
{
	const char *authorization = grpc_call_metadata(call, "authorization");
	const char *peer = grpc_call_peer_id(call);
	struct authn_caller caller = {};
	int r;

	if (authorization && !strncasecmp(authorization, "Bearer ", 7))
		r = by_token(a, authorization + 7, &caller, reterr_diag);
	else if (peer)
		r = by_certificate(a, call, peer, &caller, reterr_diag);
	else
		r = deny(reterr_diag, "neither a token nor a client certificate");
	if (r == 0)
		*ret_caller = caller;
	return r;
}

enum grpc_code authn_call(struct authn *a, struct grpc_call *call, struct authn_caller *ret_caller, struct diag *reterr_diag)
{
	struct ip_port peer = grpc_call_peer_addr(call);
	uint64_t now_ms = clock_mono_ms();
	uint32_t wait_ms;

	if (!limiter_has_ip(&a->failures, &peer.ip, now_ms, &wait_ms)) {
		grpc_call_retry_after(call, wait_ms);
		diag_set(reterr_diag, "too many callers from this address were nobody: wait before the next");
		return GRPC_RESOURCE_EXHAUSTED;
	}
	if (identify(a, call, ret_caller, reterr_diag) == 0)
		return GRPC_OK;
	(void)limiter_take_ip(&a->failures, &peer.ip, now_ms, &wait_ms);
	return GRPC_UNAUTHENTICATED;
}

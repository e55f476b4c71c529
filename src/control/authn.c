/*
 * Authentication of workloads.
 */
#include "control/authn.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "control/onboard.h"

static int deny(struct diag *d, const char *why)
{
	diag_set(d, "%s", why);
	return -EACCES;
}

/* A VM's token is worth nothing once its guest is gone, or may not join any more. */
static int check_guest(const struct authn *a, const struct issuer_verified *v, struct diag *d)
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
	return 0;
}

static int by_token(const struct authn *a, const char *token, struct identity *ret_id, struct diag *d)
{
	struct issuer_verified v;
	int r = issuer_verify(a->issuer, token, &v, d);

	if (r == 0)
		r = check_guest(a, &v, d);
	if (r < 0)
		return r;
	return identity_workload(a->trust_domain, v.namespace, v.service_account, ret_id) < 0
		? deny(d, "the token's subject makes no identity") : 0;
}

static int by_certificate(const struct authn *a, const char *peer, struct identity *ret_id, struct diag *d)
{
	struct identity id;

	if (identity_parse(peer, &id) < 0 || id.kind != IDENTITY_WORKLOAD)
		return deny(d, "the client's certificate is not a workload's");
	if (strcmp(id.trust_domain, a->trust_domain) != 0)
		return deny(d, "the client's certificate is of another trust domain");
	*ret_id = id;
	return 0;
}

int authn_call(const struct authn *a, const struct grpc_call *call, struct identity *ret_id, struct diag *reterr_diag)
{
	const char *authorization = grpc_call_metadata(call, "authorization");
	const char *peer = grpc_call_peer_id(call);

	if (authorization && !strncasecmp(authorization, "Bearer ", 7))
		return by_token(a, authorization + 7, ret_id, reterr_diag);
	if (peer)
		return by_certificate(a, peer, ret_id, reterr_diag);
	return deny(reterr_diag, "neither a token nor a client certificate");
}

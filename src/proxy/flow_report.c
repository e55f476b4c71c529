/*
 * Reports of connections: what they are made of.
 */
#include "proxy/flow_report.h"

static const char *const result_names[] = {
	[FLOW_OK] = "ok",
	[FLOW_R_RESET] = "reset",
	[FLOW_R_DENIED] = "denied",
	[FLOW_R_POLICY_CHANGED] = "policy-changed",
	[FLOW_R_PLAINTEXT] = "plaintext-refused",
	[FLOW_R_UNKNOWN] = "unresolved",
	[FLOW_R_NO_PORT] = "no-such-port",
	[FLOW_R_NO_ENDPOINT] = "no-healthy-endpoint",
	[FLOW_R_CONNECT] = "connect-failed",
	[FLOW_R_NO_CERTIFICATE] = "no-certificate",
	[FLOW_R_BUDGET] = "over-budget",
	[FLOW_R_TUNNEL] = "tunnel-lost",
	[FLOW_R_IDLE] = "idle",
	[FLOW_R_DRAIN] = "drained",
	[FLOW_R_BAD_REQUEST] = "bad-request",
	[FLOW_R_INTERNAL] = "internal",
};
_Static_assert(ELEMENTS(result_names) == _FLOW_RESULT_N, "every result has a name");

const char *flow_result_name(enum flow_result r)
{
	return result_names[r];
}

struct flow_peer *flow_peer_ref(struct flow_peer *p)
{
	if (p)
		__atomic_add_fetch(&p->n_refs, 1, __ATOMIC_RELAXED);
	return p;
}

struct flow_peer *flow_peer_unref(struct flow_peer *p)
{
	if (p && __atomic_sub_fetch(&p->n_refs, 1, __ATOMIC_ACQ_REL) == 0)
		free(p);
	return NULL;
}

void flow_report_free(struct flow_report *r)
{
	vm_unref(r->vm);
	flow_peer_unref(r->peer);
	free(r);
}

void flow_tee_free(struct flow_tee *t)
{
	vm_unref(t->vm);
	free(t);
}

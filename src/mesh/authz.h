#pragma once
#include <stdbool.h>
#include <stddef.h>
#include "base/ip.h"
#include "mesh/snapshot.h"

/*
 * L4 authorization of inbound connections, by Istio's rules: a DENY that
 * matches refuses; else, if there are ALLOW policies for the workload, one of
 * them must match; else it is let in. Policies apply by scope: global, of the
 * workload's namespace, or named by the workload. Strict mutual TLS arrives as
 * a DENY of who has no identity.
 *
 * It fails closed: a policy that is named but not there, one that is not
 * understood, policies that have not come yet. Called for each connection, and
 * again for open ones when snapshot_policy_serial() changes. Any thread.
 */
enum authz_outcome {
	AUTHZ_ALLOWED,
	AUTHZ_DENIED,
	AUTHZ_UNDECIDED,	/* own workload or policies are not known yet: park, ask a newer snapshot, refuse when
				 * that takes longer than the resolve timeout */
};

enum authz_reason {
	AUTHZ_R_NO_POLICY,	/* allowed: nothing is said about this workload */
	AUTHZ_R_ALLOW,		/* allowed by @policy */
	AUTHZ_R_DENY,		/* denied by @policy */
	AUTHZ_R_NO_ALLOW,	/* denied: there are ALLOW policies and none matches; @policy is one of them */
	AUTHZ_R_MISSING,	/* denied: the workload names @policy, which is not there; it may be on its way */
	AUTHZ_R_STRANGE,	/* denied: @policy says something that is not understood */
	AUTHZ_R_UNKNOWN_TARGET,	/* undecided: no workload */
	AUTHZ_R_NOT_READY,	/* undecided: no policies yet */
	_AUTHZ_REASON_N
};

struct authz_conn {
	struct ip_port source;		/* the client as the mesh sees it */
	struct ip_port destination;	/* of the VM: address dialled and port of the application */
	const char *principal;		/* SPIFFE ID that the peer proved, or NULL: plaintext */
};

struct authz_verdict {
	enum authz_outcome outcome;
	enum authz_reason reason;
	const char *policy;		/* name, the snapshot's; NULL where the reason has none */
	const char *policy_namespace;
	const char *dry_run;		/* name of a dry-run policy that would have refused this, or NULL */
};

/* @target: the VM's own workload, or NULL when the mesh has not told about it yet. */
struct authz_verdict authz_check(const struct snapshot *s, const struct snap_workload *target, const struct authz_conn *conn);

enum { AUTHZ_TEXT_LEN = 1200 };
/* "explicitly denied by ns/name" and the like: for the log and for the answer's details. */
const char *authz_text(const struct authz_verdict *v, char text[static AUTHZ_TEXT_LEN]);

/* Does the policy match, whatever its action? */
bool authz_policy_matches(const struct policy *p, const struct authz_conn *conn);

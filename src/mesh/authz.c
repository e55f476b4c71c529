/*
 * L4 authorization.
 *
 * Source of the rules: Istio's AuthorizationPolicy ("Implicit enablement",
 * "DENY before ALLOW") as istio/authorization.proto carries them: rules are
 * or'ed, clauses and'ed, matches or'ed; within a match all lists that are not
 * empty must hold. A match without any condition never holds: that is what is
 * left of conditions that the sender could not express (HTTP fields in an L4
 * policy). For a DENY this one fails closed, so there it always holds.
 */
#include "mesh/authz.h"

#include <stdio.h>
#include <string.h>

/* --- one match --- */

/* An identity in the parts that matches look at. Slices of the principal. */
struct who {
	const char *principal;		/* without "spiffe://", "" when there is none */
	const char *namespace;
	size_t n_namespace;
	const char *account;		/* ends with the principal */
};

static struct who who_is(const char *principal)
{
	struct who w = { "", "", 0, "" };
	const char *ns, *slash;

	if (!principal || strncmp(principal, "spiffe://", 9))
		return w;
	w.principal = principal + 9;
	ns = strstr(w.principal, "/ns/");
	if (!ns)
		return w;
	ns += 4;
	slash = strchr(ns, '/');
	if (!slash || strncmp(slash, "/sa/", 4))
		return w;
	w.namespace = ns;
	w.n_namespace = (size_t)(slash - ns);
	w.account = slash + 4;
	return w;
}

static bool text_matches(const struct text_matches *m, const char *text, size_t len)
{
	for (size_t i = 0; i < m->n; i++) {
		const char *want = m->list[i].text;
		size_t n = strlen(want);

		switch (m->list[i].kind) {
		case TEXT_EXACT:
			if (n == len && !memcmp(want, text, n))
				return true;
			break;
		case TEXT_PREFIX:
			if (n <= len && !memcmp(want, text, n))
				return true;
			break;
		case TEXT_SUFFIX:
			if (n <= len && !memcmp(want, text + len - n, n))
				return true;
			break;
		case TEXT_PRESENCE:
			if (len)
				return true;
			break;
		}
	}
	return false;
}

/* No identity matches nothing, not even an empty exact text. */
static bool principal_matches(const struct text_matches *m, const struct who *w)
{
	size_t len = strlen(w->principal);

	return len && text_matches(m, w->principal, len);
}

static bool account_matches(const struct account_matches *m, const struct who *w)
{
	for (size_t i = 0; w->n_namespace && i < m->n; i++)
		if (strlen(m->list[i].namespace) == w->n_namespace &&
		    !memcmp(m->list[i].namespace, w->namespace, w->n_namespace) &&
		    !strcmp(m->list[i].service_account, w->account))
			return true;
	return false;
}

static bool ip_matches(const struct ip_matches *m, const struct ip *ip)
{
	for (size_t i = 0; i < m->n; i++)
		if (ip_in_prefix(ip, &m->list[i]))
			return true;
	return false;
}

static bool port_matches(const struct port_matches *m, uint16_t port)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->list[i] == port)
			return true;
	return false;
}

static bool is_empty(const struct policy_match *m)
{
	return !(m->namespaces.n | m->not_namespaces.n | m->principals.n | m->not_principals.n | m->accounts.n |
		 m->not_accounts.n | m->source_ips.n | m->not_source_ips.n | m->destination_ips.n |
		 m->not_destination_ips.n | m->destination_ports.n | m->not_destination_ports.n);
}

/* @n is the length of a list: an empty one says nothing. */
static bool holds(size_t n, bool matches, size_t n_not, bool matches_not)
{
	return (!n || matches) && (!n_not || !matches_not);
}

static bool match_holds(const struct policy_match *m, const struct authz_conn *c, const struct who *w)
{
	return holds(m->destination_ports.n, port_matches(&m->destination_ports, c->destination.port),
		     m->not_destination_ports.n, port_matches(&m->not_destination_ports, c->destination.port)) &&
	       holds(m->principals.n, principal_matches(&m->principals, w),
		     m->not_principals.n, principal_matches(&m->not_principals, w)) &&
	       holds(m->accounts.n, account_matches(&m->accounts, w),
		     m->not_accounts.n, account_matches(&m->not_accounts, w)) &&
	       holds(m->namespaces.n, text_matches(&m->namespaces, w->namespace, w->n_namespace),
		     m->not_namespaces.n, text_matches(&m->not_namespaces, w->namespace, w->n_namespace)) &&
	       holds(m->source_ips.n, ip_matches(&m->source_ips, &c->source.ip),
		     m->not_source_ips.n, ip_matches(&m->not_source_ips, &c->source.ip)) &&
	       holds(m->destination_ips.n, ip_matches(&m->destination_ips, &c->destination.ip),
		     m->not_destination_ips.n, ip_matches(&m->not_destination_ips, &c->destination.ip));
}

/* --- a policy --- */

static bool clause_holds(const struct policy_clause *cl, bool deny, const struct authz_conn *c, const struct who *w)
{
	if (cl->strange)
		return deny;
	if (!cl->n_matches)
		return true;
	for (size_t i = 0; i < cl->n_matches; i++) {
		const struct policy_match *m = &cl->matches[i];

		if (!deny && (m->strange || is_empty(m)))
			continue;
		if (match_holds(m, c, w))
			return true;
	}
	return false;
}

static bool rule_holds(const struct policy_rule *rule, bool deny, const struct authz_conn *c, const struct who *w)
{
	if (rule->strange && !deny)
		return false;
	for (size_t i = 0; i < rule->n_clauses; i++)
		if (!clause_holds(&rule->clauses[i], deny, c, w))
			return false;
	return true;
}

static bool policy_matches(const struct policy *p, const struct authz_conn *c, const struct who *w)
{
	for (size_t i = 0; i < p->n_rules; i++)
		if (rule_holds(&p->rules[i], p->action == POLICY_DENY, c, w))
			return true;
	return false;
}

bool authz_policy_matches(const struct policy *p, const struct authz_conn *conn)
{
	struct who w = who_is(conn->principal);

	return policy_matches(p, conn, &w);
}

/* --- all policies of a workload --- */

/* What has been found so far. @done: refused, nothing more to look at. */
struct look {
	const struct authz_conn *conn;
	struct who who;
	const struct policy *allowed;	/* by this one */
	const struct policy *not_allowed;	/* an ALLOW that does not match */
	struct authz_verdict verdict;
	bool done;
};

static void refuse(struct look *l, enum authz_reason reason, const struct policy *p)
{
	l->verdict.outcome = AUTHZ_DENIED;
	l->verdict.reason = reason;
	l->verdict.policy = p->name;
	l->verdict.policy_namespace = p->namespace;
	l->done = true;
}

static void look_at_dry_run(struct look *l, const struct policy *p)
{
	bool matches = !p->strange && policy_matches(p, l->conn, &l->who);

	if (p->strange || (p->action == POLICY_DENY) == matches)
		l->verdict.dry_run = p->name;
}

static void look_at(struct look *l, const struct policy *p)
{
	if (p->dry_run) {
		look_at_dry_run(l, p);
		return;
	}
	if (p->strange) {
		refuse(l, AUTHZ_R_STRANGE, p);
		return;
	}

	bool matches = policy_matches(p, l->conn, &l->who);
	if (p->action == POLICY_DENY && matches)
		refuse(l, AUTHZ_R_DENY, p);
	else if (p->action == POLICY_ALLOW && matches && !l->allowed)
		l->allowed = p;
	else if (p->action == POLICY_ALLOW && !l->not_allowed)
		l->not_allowed = p;
}

static void look_at_list(struct look *l, const struct snap_policies *list)
{
	for (uint32_t i = 0; list && !l->done && i < list->n; i++)
		look_at(l, list->list[i]);
}

static void look_at_named(struct look *l, const struct snapshot *s, const struct snap_kind *kind)
{
	const char *key = snap_kind_policies(kind);

	for (uint32_t i = 0; !l->done && i < kind->n_policies; i++, key = snap_text_next(key)) {
		const struct policy *p = snapshot_policy(s, key);

		if (!p)
			refuse(l, AUTHZ_R_MISSING, &(struct policy){ .name = key });
		else if (p->scope == POLICY_WORKLOAD)
			look_at(l, p);	/* else it is in one of the lists */
	}
}

static struct authz_verdict undecided(enum authz_reason reason)
{
	return (struct authz_verdict){ .outcome = AUTHZ_UNDECIDED, .reason = reason };
}

struct authz_verdict authz_check(const struct snapshot *s, const struct snap_workload *target, const struct authz_conn *conn)
{
	struct look l = { .conn = conn, .who = who_is(conn->principal) };

	if (!snapshot_policies_known(s))
		return undecided(AUTHZ_R_NOT_READY);
	if (!target)
		return undecided(AUTHZ_R_UNKNOWN_TARGET);

	look_at_list(&l, snapshot_policies_global(s));
	look_at_list(&l, snapshot_policies_of(s, snap_kind_text(target->kind, SNAP_NAMESPACE)));
	look_at_named(&l, s, target->kind);
	if (l.done)
		return l.verdict;
	if (!l.allowed && l.not_allowed) {
		refuse(&l, AUTHZ_R_NO_ALLOW, l.not_allowed);
		return l.verdict;
	}
	l.verdict.outcome = AUTHZ_ALLOWED;
	l.verdict.reason = l.allowed ? AUTHZ_R_ALLOW : AUTHZ_R_NO_POLICY;
	l.verdict.policy = l.allowed ? l.allowed->name : NULL;
	l.verdict.policy_namespace = l.allowed ? l.allowed->namespace : NULL;
	return l.verdict;
}

const char *authz_text(const struct authz_verdict *v, char text[static AUTHZ_TEXT_LEN])
{
	static const char *const reasons[] = {
		[AUTHZ_R_NO_POLICY] = "no policy",
		[AUTHZ_R_ALLOW] = "allowed by",
		[AUTHZ_R_DENY] = "explicitly denied by",
		[AUTHZ_R_NO_ALLOW] = "allow policies exist, but none allowed, such as",
		[AUTHZ_R_MISSING] = "denied, because this policy is not there:",
		[AUTHZ_R_STRANGE] = "denied, because this policy is not understood:",
		[AUTHZ_R_UNKNOWN_TARGET] = "own workload is not known yet",
		[AUTHZ_R_NOT_READY] = "policies are not known yet",
	};
	_Static_assert(ELEMENTS(reasons) == _AUTHZ_REASON_N, "every reason has a text");

	if (v->policy && v->policy_namespace)
		snprintf(text, AUTHZ_TEXT_LEN, "%s %s/%s", reasons[v->reason], v->policy_namespace, v->policy);
	else if (v->policy)
		snprintf(text, AUTHZ_TEXT_LEN, "%s %s", reasons[v->reason], v->policy);
	else
		snprintf(text, AUTHZ_TEXT_LEN, "%s", reasons[v->reason]);
	return text;
}

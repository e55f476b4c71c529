/*
 * istio.security.Authorization to struct policy and back.
 *
 * What this version does not know (a field, an enum's value, an extension) is
 * marked as strange at the level where it stands, and the evaluation fails
 * closed there (mesh/authz.c). What is broken is refused.
 */
#include <errno.h>
#include <istio/authorization.pb-c.h>
#include <string.h>

#include "mesh/model.h"
#include "mesh/model_decode.h"

struct decode {
	struct arena *arena;
	struct diag *diag;
};

static bool has_unknown(const ProtobufCMessage *m)
{
	return m->n_unknown_fields > 0;
}

static int decode_texts(struct decode *d, Istio__Security__StringMatch *const *in, size_t n,
			struct text_matches *ret_matches, bool *strange)
{
	struct text_match *list = arena_alloc(d->arena, n, sizeof(*list));
	size_t n_list = 0;

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct text_match *m = &list[n_list];

		switch (in[i]->match_type_case) {
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_EXACT:
			*m = (struct text_match){ TEXT_EXACT, in[i]->exact };
			break;
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PREFIX:
			*m = (struct text_match){ TEXT_PREFIX, in[i]->prefix };
			break;
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_SUFFIX:
			*m = (struct text_match){ TEXT_SUFFIX, in[i]->suffix };
			break;
		case ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE:
			*m = (struct text_match){ TEXT_PRESENCE, "" };
			break;
		default:
			*strange = true;	/* a kind of comparison that is not known */
			continue;
		}
		if (model_check_text("match", m->text, d->diag) < 0)
			return -EINVAL;
		n_list++;
	}
	*ret_matches = (struct text_matches){ list, n_list };
	return 0;
}

static int decode_accounts(struct decode *d, Istio__Security__ServiceAccountMatch *const *in, size_t n,
			   struct account_matches *ret_matches, bool *strange)
{
	struct account_match *list = arena_alloc(d->arena, n, sizeof(*list));

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		*strange |= has_unknown(&in[i]->base);
		list[i] = (struct account_match){ in[i]->namespace_, in[i]->serviceaccount };
	}
	*ret_matches = (struct account_matches){ list, n };
	return 0;
}

static int decode_ips(struct decode *d, const char *field, Istio__Security__Address *const *in, size_t n,
		      struct ip_matches *ret_matches)
{
	struct ip_prefix *list = arena_alloc(d->arena, n, sizeof(*list));

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (model_prefix(field, &in[i]->address, in[i]->length, &list[i], d->diag) < 0)
			return -EINVAL;
	*ret_matches = (struct ip_matches){ list, n };
	return 0;
}

static int decode_port_list(struct decode *d, const uint32_t *in, size_t n, struct port_matches *ret_matches)
{
	for (size_t i = 0; i < n; i++)
		if (in[i] > 65535)
			return diag_set(d->diag, "destination_ports: %u is no port", in[i]);
	*ret_matches = (struct port_matches){ in, n };
	return 0;
}

static int decode_match(struct decode *d, const Istio__Security__Match *in, struct policy_match *m)
{
	int r;

	m->strange = has_unknown(&in->base) || in->n_extensions;
	r = decode_texts(d, in->namespaces, in->n_namespaces, &m->namespaces, &m->strange);
	if (r == 0)
		r = decode_texts(d, in->not_namespaces, in->n_not_namespaces, &m->not_namespaces, &m->strange);
	if (r == 0)
		r = decode_texts(d, in->principals, in->n_principals, &m->principals, &m->strange);
	if (r == 0)
		r = decode_texts(d, in->not_principals, in->n_not_principals, &m->not_principals, &m->strange);
	if (r == 0)
		r = decode_accounts(d, in->service_accounts, in->n_service_accounts, &m->accounts, &m->strange);
	if (r == 0)
		r = decode_accounts(d, in->not_service_accounts, in->n_not_service_accounts, &m->not_accounts, &m->strange);
	if (r == 0)
		r = decode_ips(d, "source_ips", in->source_ips, in->n_source_ips, &m->source_ips);
	if (r == 0)
		r = decode_ips(d, "not_source_ips", in->not_source_ips, in->n_not_source_ips, &m->not_source_ips);
	if (r == 0)
		r = decode_ips(d, "destination_ips", in->destination_ips, in->n_destination_ips, &m->destination_ips);
	if (r == 0)
		r = decode_ips(d, "not_destination_ips", in->not_destination_ips, in->n_not_destination_ips, &m->not_destination_ips);
	if (r == 0)
		r = decode_port_list(d, in->destination_ports, in->n_destination_ports, &m->destination_ports);
	if (r == 0)
		r = decode_port_list(d, in->not_destination_ports, in->n_not_destination_ports, &m->not_destination_ports);
	return r;
}

static int decode_clause(struct decode *d, const Istio__Security__Rules *in, struct policy_clause *c)
{
	struct policy_match *matches = arena_alloc(d->arena, in->n_matches, sizeof(*matches));
	int r = model_check_list("matches", in->n_matches, d->diag);

	if (r < 0)
		return r;
	if (!matches)
		return -ENOMEM;
	for (size_t i = 0; i < in->n_matches; i++) {
		r = decode_match(d, in->matches[i], &matches[i]);
		if (r < 0)
			return r;
	}
	*c = (struct policy_clause){ matches, in->n_matches, has_unknown(&in->base) };
	return 0;
}

static int decode_rule(struct decode *d, const Istio__Security__Group *in, struct policy_rule *rule)
{
	struct policy_clause *clauses = arena_alloc(d->arena, in->n_rules, sizeof(*clauses));
	int r = model_check_list("rules", in->n_rules, d->diag);

	if (r < 0)
		return r;
	if (!clauses)
		return -ENOMEM;
	for (size_t i = 0; i < in->n_rules; i++) {
		r = decode_clause(d, in->rules[i], &clauses[i]);
		if (r < 0)
			return r;
	}
	*rule = (struct policy_rule){ clauses, in->n_rules, has_unknown(&in->base) };
	return 0;
}

static const char *what_is_strange(const Istio__Security__Authorization *in)
{
	if ((int)in->scope < 0 || (int)in->scope >= _POLICY_SCOPE_N)
		return "its scope is not known";
	if ((int)in->action < 0 || (int)in->action >= _POLICY_ACTION_N)
		return "its action is not known";
	if (has_unknown(&in->base))
		return "it has a field that is not known";
	if (in->n_extensions)
		return "it has an extension";
	return NULL;
}

static int decode_policy(struct decode *d, const Istio__Security__Authorization *in, struct policy *p)
{
	struct policy_rule *rules = arena_alloc(d->arena, in->n_groups, sizeof(*rules));
	int r;

	r = model_check_name("name", in->name, d->diag);
	if (r == 0)
		r = model_check_text("namespace", in->namespace_, d->diag);	/* "" is the mesh's root namespace */
	if (r == 0 && strchr(in->namespace_, '/'))
		r = diag_set(d->diag, "namespace: has a '/'");
	if (r == 0)
		r = model_check_list("groups", in->n_groups, d->diag);
	if (r < 0)
		return r;
	if (!rules)
		return -ENOMEM;
	for (size_t i = 0; i < in->n_groups; i++) {
		r = decode_rule(d, in->groups[i], &rules[i]);
		if (r < 0)
			return r;
	}
	*p = (struct policy){
		.name = in->name,
		.namespace = in->namespace_,
		.action = in->action == ISTIO__SECURITY__ACTION__ALLOW ? POLICY_ALLOW : POLICY_DENY,
		.rules = rules,
		.n_rules = in->n_groups,
		.dry_run = in->dry_run,
		.strange = what_is_strange(in),
	};
	/* Of a scope that is not known at least its namespace is sure. */
	p->scope = (int)in->scope >= 0 && (int)in->scope < _POLICY_SCOPE_N ? (enum policy_scope)in->scope : POLICY_NAMESPACE;
	return 0;
}

int policy_decode(const void *data, size_t len, struct policy *ret_policy, struct diag *reterr_diag)
{
	struct policy p;
	struct model_owner *owner;
	int r = model_owner_new(&istio__security__authorization__descriptor, data, len, &owner, reterr_diag);

	if (r < 0)
		return r;

	struct decode d = { .arena = owner->arena, .diag = reterr_diag };
	r = decode_policy(&d, (const Istio__Security__Authorization *)owner->message, &p);
	if (r < 0) {
		model_owner_free(owner);
		return r;
	}
	p.owner = owner;
	*ret_policy = p;
	return 0;
}

void policy_deinit(struct policy *p)
{
	model_owner_free(p->owner);
	*p = (struct policy){};
}

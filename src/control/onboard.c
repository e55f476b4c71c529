/*
 * Onboarding policies: matching a guest, and the message that tells the NICs.
 */
#include "control/onboard.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/glob.h"
#include "mesh/pb.h"

static bool matches_text(const char *glob, const char *text)
{
	return !glob || glob_match(glob, text);
}

static bool in_any(const struct conf_prefixes *p, const struct ip *ip)
{
	for (size_t i = 0; i < p->n; i++)
		if (ip_in_prefix(ip, &p->v[i]))
			return true;
	return false;
}

static bool has_family(const struct conf_prefixes *p, const struct ip *ip)
{
	for (size_t i = 0; i < p->n; i++)
		if (ip_is_v4(&p->v[i].ip) == ip_is_v4(ip))
			return true;
	return false;
}

/* One address at least is inside, and none of a family that the policy speaks of is outside. */
static bool matches_addresses(const struct conf_prefixes *p, const Outrigger__V1__Guest *g)
{
	bool inside = false;

	for (size_t i = 0; i < g->n_addresses; i++) {
		struct ip ip;

		if (ip_parse(g->addresses[i], &ip) < 0)
			return false;
		if (in_any(p, &ip))
			inside = true;
		else if (!ip_is_link_local(&ip) && has_family(p, &ip))
			return false;
	}
	return inside;
}

const struct config_onboarding *onboard_match(const struct config *c, const char *nic, const Outrigger__V1__Guest *g)
{
	config_for_each(const struct config_onboarding, p, &c->onboarding) {
		const struct config_match *m = &p->match;

		if (matches_text(m->nic, nic) && matches_text(m->port, g->port) && (!m->vlan || m->vlan == g->vlan) &&
		    matches_text(m->mac, g->mac) && matches_text(m->guest_name, g->name) &&
		    (!m->addresses.n || matches_addresses(&m->addresses, g)))
			return p;
	}
	return NULL;
}

bool onboard_joins(const struct config_onboarding *p)
{
	return p && p->mode >= MODE_PERMISSIVE;
}

bool onboard_allows_service(const struct config_onboarding *p, const char *service)
{
	for (size_t i = 0; p && i < p->services.n; i++)
		if (glob_match(p->services.v[i], service))
			return true;
	return false;
}

/* --- the message --- */

static char empty[] = "";

/* protobuf-c has no const strings; nothing writes into these. */
static char *word(const char *text)
{
	return (char *)(uintptr_t)text;
}

static char *or_empty(char *text)
{
	return text ? text : empty;
}

static int format_prefixes(const struct conf_prefixes *p, char ***ret_texts, size_t *n_texts)
{
	if (!p->n)
		return 0;
	*ret_texts = calloc(p->n, sizeof(**ret_texts));
	if (!*ret_texts)
		return -ENOMEM;
	for (size_t i = 0; i < p->n; i++) {
		char ip[IP_TEXT_LEN];
		const struct ip_prefix *x = &p->v[i];

		if (asprintf(&(*ret_texts)[i], "%s/%d", ip_format(&x->ip, ip), ip_is_v4(&x->ip) ? x->len - 96 : x->len) < 0) {
			(*ret_texts)[i] = NULL;
			return -ENOMEM;
		}
		(*n_texts)++;
	}
	return 0;
}

static int put_labels(const struct conf_labels *labels, Outrigger__V1__Policy *pb)
{
	if (!labels->n)
		return 0;
	pb->labels = calloc(labels->n, sizeof(*pb->labels));
	if (!pb->labels)
		return -ENOMEM;
	for (size_t i = 0; i < labels->n; i++) {
		Outrigger__V1__Policy__LabelsEntry *e = malloc(sizeof(*e));

		if (!e)
			return -ENOMEM;
		outrigger__v1__policy__labels_entry__init(e);
		e->key = labels->v[i].key;
		e->value = labels->v[i].value;
		pb->labels[pb->n_labels++] = e;
	}
	return 0;
}

/* Borrows the texts. */
static int put_headers(const struct conf_labels *headers, Outrigger__Health__Check *pb)
{
	Outrigger__Health__Header *v = calloc(headers->n + 1, sizeof(*v));

	pb->headers = calloc(headers->n + 1, sizeof(*pb->headers));
	if (!v || !pb->headers) {
		free(v);
		free(pb->headers);
		return -ENOMEM;
	}
	pb->headers[0] = v;		/* freed by it, also where there is none */
	for (; pb->n_headers < headers->n; pb->n_headers++) {
		Outrigger__Health__Header *h = &v[pb->n_headers];

		outrigger__health__header__init(h);
		h->name = headers->v[pb->n_headers].key;
		h->value = headers->v[pb->n_headers].value;
		pb->headers[pb->n_headers] = h;
	}
	return 0;
}

int onboard_health_new(const struct config_health *h, Outrigger__Health__Check **ret_check)
{
	static const char *const kinds[] = { "", "tcp", "http", "https", "grpc" };
	Outrigger__Health__Check pb = OUTRIGGER__HEALTH__CHECK__INIT, *copy;

	if (h->kind == HEALTH_CHECK_NONE)
		return 0;
	pb.kind = word(kinds[h->kind]);
	pb.port = h->port;
	pb.path = or_empty(h->path);
	pb.host = or_empty(h->host);
	pb.service = or_empty(h->service);
	pb.initial_delay_ms = h->initial_delay_ms;
	pb.interval_ms = h->interval_ms;
	pb.timeout_ms = h->timeout_ms;
	pb.successes = h->successes;
	pb.failures = h->failures;
	if (put_headers(&h->headers, &pb) < 0)
		return -ENOMEM;
	copy = pb_copy(&pb.base);
	free(pb.headers[0]);
	free(pb.headers);
	if (!copy)
		return -ENOMEM;
	*ret_check = copy;
	return 0;
}

/* The policy's own words come first, then those of its WorkloadGroup. */
static int put_health(const struct config_onboarding *p, const struct kube_groups *groups, Outrigger__V1__Policy *pb)
{
	const Outrigger__Health__Check *of_group;
	int r = onboard_health_new(&p->health, &pb->health);

	if (r < 0 || pb->health || !groups || !p->workload_group || !p->namespace)
		return r;
	of_group = kube_groups_check(groups, p->namespace, p->workload_group);
	if (of_group)
		pb->health = pb_copy(&of_group->base);
	return of_group && !pb->health ? -ENOMEM : 0;
}

static int put_policy(const struct config_onboarding *p, const struct kube_groups *groups, Outrigger__V1__Policy *pb)
{
	static const char *const modes[] = { "off", "shadow", "permissive", "strict" };
	static const char *const isolations[] = { "namespace", "vm", "nic" };
	static const char *const failures[] = { "", "open", "closed" };
	static const char *const dns[] = { "observe", "fill", "answer" };
	int r;

	pb->name = p->name;
	pb->nic = or_empty(p->match.nic);
	pb->port = or_empty(p->match.port);
	pb->vlan = p->match.vlan;
	pb->mac = or_empty(p->match.mac);
	pb->guest_name = or_empty(p->match.guest_name);
	pb->mode = word(modes[p->mode]);
	pb->isolation = word(isolations[p->isolation]);
	pb->on_failure = word(failures[p->on_failure]);
	pb->namespace_ = or_empty(p->namespace);
	pb->service_account = or_empty(p->service_account);
	pb->workload_group = or_empty(p->workload_group);
	pb->client = p->client;
	pb->dns = word(dns[p->dns]);
	pb->dns_domains = p->dns_domains.v;
	pb->n_dns_domains = p->dns_domains.n;
	pb->services = p->services.v;
	pb->n_services = p->services.n;
	r = format_prefixes(&p->match.addresses, &pb->addresses, &pb->n_addresses);
	if (r == 0)
		r = format_prefixes(&p->outbound_exclude, &pb->outbound_exclude, &pb->n_outbound_exclude);
	if (r == 0)
		r = put_health(p, groups, pb);
	return r < 0 ? r : put_labels(&p->labels, pb);
}

int onboard_set_new(const struct config *c, const struct kube_groups *groups, uint64_t version, Outrigger__V1__PolicySet **ret_set)
{
	Outrigger__V1__PolicySet *set = malloc(sizeof(*set));

	if (!set)
		return -ENOMEM;
	outrigger__v1__policy_set__init(set);
	set->version = version;
	set->policies = calloc(c->onboarding.n ? c->onboarding.n : 1, sizeof(*set->policies));
	if (!set->policies) {
		free(set);
		return -ENOMEM;
	}
	config_for_each(const struct config_onboarding, p, &c->onboarding) {
		Outrigger__V1__Policy *pb = malloc(sizeof(*pb));

		if (pb) {
			outrigger__v1__policy__init(pb);
			set->policies[set->n_policies++] = pb;
		}
		if (!pb || put_policy(p, groups, pb) < 0) {
			onboard_set_free(set);
			return -ENOMEM;
		}
	}
	*ret_set = set;
	return 0;
}

static void free_texts(char **texts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(texts[i]);
	free(texts);
}

void onboard_set_free(Outrigger__V1__PolicySet *set)
{
	for (size_t i = 0; set && i < set->n_policies; i++) {
		Outrigger__V1__Policy *pb = set->policies[i];

		free_texts(pb->addresses, pb->n_addresses);
		free_texts(pb->outbound_exclude, pb->n_outbound_exclude);
		for (size_t k = 0; k < pb->n_labels; k++)
			free(pb->labels[k]);
		free(pb->labels);
		pb_free(pb->health);
		free(pb);
	}
	if (set)
		free(set->policies);
	free(set);
}

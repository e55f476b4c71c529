/*
 * Onboarding policies: from the controller's message to a checked table, and
 * the match of a guest against it.
 */
#include "agent/policy.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/glob.h"
#include "base/map.h"
#include "mesh/health_check.h"
#include "mesh/names.h"
#include "mesh/pb.h"

static const char *const mode_names[] = {
	[POLICY_OFF] = "off",
	[POLICY_SHADOW] = "shadow",
	[POLICY_PERMISSIVE] = "permissive",
	[POLICY_STRICT] = "strict",
};
_Static_assert(ELEMENTS(mode_names) == _POLICY_MODE_N, "every mode has a name");

static const char *const isolation_names[] = {
	[POLICY_PER_NAMESPACE] = "namespace",
	[POLICY_PER_VM] = "vm",
	[POLICY_PER_NIC] = "nic",
};
_Static_assert(ELEMENTS(isolation_names) == _POLICY_ISOLATION_N, "every isolation has a name");

static const char *const dns_names[] = {
	[POLICY_DNS_OBSERVE] = "observe",
	[POLICY_DNS_FILL] = "fill",
	[POLICY_DNS_ANSWER] = "answer",
};
_Static_assert(ELEMENTS(dns_names) == _POLICY_DNS_N, "every mode has a name");

static char no_name[] = "";
static const struct policy policy_of_nobody = { .name = no_name, .mode = POLICY_SHADOW };

const char *policy_mode_name(enum policy_mode mode)
{
	return mode_names[mode];
}

const char *policy_dns_name(enum policy_dns dns)
{
	return dns_names[dns];
}

/* --- decoding --- */

static void free_texts(char **texts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(texts[i]);
	free(texts);
}

static void policy_clear(struct policy *p)
{
	free(p->name);
	free(p->nic);
	free(p->port);
	free(p->mac);
	free(p->guest_name);
	free(p->addresses);
	free(p->namespace);
	free(p->service_account);
	free(p->workload_group);
	for (size_t i = 0; i < p->n_labels; i++) {
		free(p->labels[i].key);
		free(p->labels[i].value);
	}
	free(p->labels);
	free_texts(p->services, p->n_services);
	free_texts(p->dns_domains, p->n_dns_domains);
	free(p->outbound_exclude);
	pb_free(p->health);
}

struct policy_set *policy_set_free(struct policy_set *s)
{
	for (size_t i = 0; s && i < s->n; i++)
		policy_clear(&s->v[i]);
	if (s)
		free(s->v);
	free(s);
	return NULL;
}

/* Empty means "not said": NULL. */
static int take_text(const char *text, char **ret_text)
{
	char *copy = text[0] ? strdup(text) : NULL;

	if (text[0] && !copy)
		return -ENOMEM;
	*ret_text = copy;
	return 0;
}

static int bad(const struct policy *p, struct diag *d, const char *field, const char *value, const char *wanted)
{
	return diag_set(d, "policy \"%s\": %s \"%s\": %s", p->name, field, value, wanted);
}

static int take_choice(const struct policy *p, const char *field, const char *text, const char *const *names, size_t n_names,
		       const char *wanted, int dflt, int *ret_choice, struct diag *d)
{
	if (!text[0]) {
		*ret_choice = dflt;
		return 0;
	}
	for (size_t i = 0; i < n_names; i++)
		if (!strcmp(names[i], text)) {
			*ret_choice = (int)i;
			return 0;
		}
	return bad(p, d, field, text, wanted);
}

/* The NIC builds SPIFFE IDs and names from these: RFC 1123 labels. */
static bool is_label(const char *text)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (!islower((unsigned char)text[i]) && !isdigit((unsigned char)text[i]) && text[i] != '-')
			return false;
	return len > 0 && len <= 63 && text[0] != '-' && text[len - 1] != '-';
}

/* Service accounts may have dots (Kubernetes: DNS subdomain). */
static bool is_subdomain(const char *text)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (!islower((unsigned char)text[i]) && !isdigit((unsigned char)text[i]) && text[i] != '-' && text[i] != '.')
			return false;
	return len > 0 && len <= 253 && isalnum((unsigned char)text[0]) && isalnum((unsigned char)text[len - 1]);
}

static int take_prefixes(const struct policy *p, const char *field, char **texts, size_t n, struct ip_prefix **ret_v, size_t *ret_n,
			 struct diag *d)
{
	if (n > POLICY_MAX_LIST)
		return bad(p, d, field, "", "too many prefixes");
	*ret_v = calloc(n ? n : 1, sizeof(**ret_v));
	if (!*ret_v)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (ip_prefix_parse(texts[i], &(*ret_v)[i]) < 0)
			return bad(p, d, field, texts[i], "not an address prefix");
	*ret_n = n;
	return 0;
}

static int take_labels(struct policy *p, const Outrigger__V1__Policy *pb, struct diag *d)
{
	if (pb->n_labels > POLICY_MAX_LIST)
		return bad(p, d, "labels", "", "too many");
	p->labels = calloc(pb->n_labels ? pb->n_labels : 1, sizeof(*p->labels));
	if (!p->labels)
		return -ENOMEM;
	for (size_t i = 0; i < pb->n_labels; i++) {
		struct policy_label *l = &p->labels[p->n_labels++];

		l->key = strdup(pb->labels[i]->key);
		l->value = strdup(pb->labels[i]->value);
		if (!l->key || !l->value)
			return -ENOMEM;
	}
	return 0;
}

static int take_texts(const struct policy *p, const char *field, char **texts, size_t n, char ***ret_v, size_t *ret_n, struct diag *d)
{
	if (n > POLICY_MAX_LIST)
		return bad(p, d, field, "", "too many");
	*ret_v = calloc(n ? n : 1, sizeof(**ret_v));
	if (!*ret_v)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (!texts[i][0])
			return bad(p, d, field, "", "an empty name allows nothing; leave it out");
		(*ret_v)[i] = strdup(texts[i]);
		if (!(*ret_v)[i])
			return -ENOMEM;
		++*ret_n;
	}
	return 0;
}

static int take_dns(struct policy *p, const Outrigger__V1__Policy *pb, struct diag *d)
{
	int mode = 0;
	int r = take_choice(p, "dns", pb->dns, dns_names, ELEMENTS(dns_names), "observe, fill or answer", POLICY_DNS_OBSERVE, &mode, d);

	if (r < 0)
		return r;
	p->dns = (enum policy_dns)mode;
	for (size_t i = 0; i < pb->n_dns_domains; i++)
		if (!names_dns_domain_valid(pb->dns_domains[i]))
			return bad(p, d, "dns_domains", pb->dns_domains[i], "a domain, or namespace/domain, is required");
	return take_texts(p, "dns_domains", pb->dns_domains, pb->n_dns_domains, &p->dns_domains, &p->n_dns_domains, d);
}

static int take_health(struct policy *p, const Outrigger__V1__Policy *pb, struct diag *d)
{
	struct diag why = {};

	if (!pb->health)
		return 0;
	if (health_check_valid(pb->health, &why) < 0)
		return diag_set(d, "policy \"%s\": health: %s", p->name, why.msg);
	p->health = pb_copy(&pb->health->base);
	return p->health ? 0 : -ENOMEM;
}

static int take_match(struct policy *p, const Outrigger__V1__Policy *pb, struct diag *d)
{
	if (take_text(pb->nic, &p->nic) < 0 || take_text(pb->port, &p->port) < 0 ||
	    take_text(pb->mac, &p->mac) < 0 || take_text(pb->guest_name, &p->guest_name) < 0)
		return -ENOMEM;
	for (char *c = p->mac; c && *c; c++)
		*c = (char)tolower((unsigned char)*c);
	if (pb->vlan > 4094)
		return diag_set(d, "policy \"%s\": vlan %u: from 1 to 4094, or 0 for any", p->name, pb->vlan);
	p->vlan = (uint16_t)pb->vlan;
	return take_prefixes(p, "addresses", pb->addresses, pb->n_addresses, &p->addresses, &p->n_addresses, d);
}

static int take_outcome(struct policy *p, const Outrigger__V1__Policy *pb, struct diag *d)
{
	static const char *const failures[] = { "open", "closed" };
	int mode = 0, isolation = 0, failure = 0, r;

	r = take_choice(p, "mode", pb->mode, mode_names, ELEMENTS(mode_names), "off, shadow, permissive or strict", POLICY_SHADOW, &mode, d);
	if (r < 0)
		return r;
	r = take_choice(p, "isolation", pb->isolation, isolation_names, ELEMENTS(isolation_names), "vm, namespace or nic",
			POLICY_PER_NAMESPACE, &isolation, d);
	if (r < 0)
		return r;
	/* Strict promises that nothing gets in without TLS: that holds without a proxy, too. */
	r = take_choice(p, "on_failure", pb->on_failure, failures, ELEMENTS(failures), "open or closed", mode == POLICY_STRICT, &failure, d);
	if (r < 0)
		return r;
	p->mode = (enum policy_mode)mode;
	p->isolation = (enum policy_isolation)isolation;
	p->fail_closed = failure == 1;
	p->client = pb->client;
	if (take_text(pb->namespace_, &p->namespace) < 0 || take_text(pb->service_account, &p->service_account) < 0 ||
	    take_text(pb->workload_group, &p->workload_group) < 0)
		return -ENOMEM;
	if (p->workload_group && !is_subdomain(p->workload_group))
		return bad(p, d, "workload_group", pb->workload_group, "a lower-case DNS name is required");
	if (p->namespace ? !is_label(p->namespace) : policy_joins(p))
		return bad(p, d, "namespace", pb->namespace_, "a lower-case DNS label is required");
	if (p->service_account ? !is_subdomain(p->service_account) : policy_joins(p))
		return bad(p, d, "service_account", pb->service_account, "a lower-case DNS name is required");
	return take_prefixes(p, "outbound_exclude", pb->outbound_exclude, pb->n_outbound_exclude, &p->outbound_exclude,
			     &p->n_outbound_exclude, d);
}

static int policy_decode(struct policy *p, const Outrigger__V1__Policy *pb, size_t i, struct diag *d)
{
	int r;

	if (!pb->name[0])
		return diag_set(d, "policy %zu: has no name", i + 1);
	p->name = strdup(pb->name);
	if (!p->name)
		return -ENOMEM;
	r = take_match(p, pb, d);
	if (r < 0)
		return r;
	r = take_outcome(p, pb, d);
	if (r < 0)
		return r;
	r = take_health(p, pb, d);
	if (r < 0)
		return r;
	r = take_labels(p, pb, d);
	if (r < 0)
		return r;
	r = take_dns(p, pb, d);
	if (r < 0)
		return r;
	return take_texts(p, "services", pb->services, pb->n_services, &p->services, &p->n_services, d);
}

int policy_set_decode(const Outrigger__V1__PolicySet *pb, struct policy_set **ret_set, struct diag *reterr_diag)
{
	struct policy_set *s;
	int r = 0;

	if (pb->n_policies > POLICY_MAX_POLICIES)
		return diag_set(reterr_diag, "%zu policies: at most %d", pb->n_policies, POLICY_MAX_POLICIES);
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->version = pb->version;
	s->v = calloc(pb->n_policies ? pb->n_policies : 1, sizeof(*s->v));
	if (!s->v)
		r = -ENOMEM;
	for (size_t i = 0; r == 0 && i < pb->n_policies; i++) {
		s->n++;
		r = policy_decode(&s->v[i], pb->policies[i], i, reterr_diag);
	}
	if (r < 0) {
		policy_set_free(s);
		return r;
	}
	*ret_set = s;
	return 0;
}

/* --- matching --- */

static bool in_any(const struct policy *p, const struct ip *ip)
{
	for (size_t i = 0; i < p->n_addresses; i++)
		if (ip_in_prefix(ip, &p->addresses[i]))
			return true;
	return false;
}

static bool speaks_family(const struct policy *p, const struct ip *ip)
{
	for (size_t i = 0; i < p->n_addresses; i++)
		if (ip_is_v4(&p->addresses[i].ip) == ip_is_v4(ip))
			return true;
	return false;
}

/* One address at least is inside, and none of a family that the policy speaks of is outside. */
static bool addresses_match(const struct policy *p, const struct guest *g)
{
	bool inside = false;

	for (size_t i = 0; i < g->n_addresses; i++) {
		const struct ip *ip = &g->addresses[i]->ip;

		if (in_any(p, ip))
			inside = true;
		else if (!ip_is_link_local(ip) && speaks_family(p, ip))
			return false;
	}
	return inside;
}

static bool matches(const struct policy *p, const char *nic, const struct guest *g)
{
	char mac[GUEST_MAC_TEXT_LEN];

	if (p->nic && !glob_match(p->nic, nic))
		return false;
	if (p->port && !glob_match(p->port, g->link.port))
		return false;
	if (p->vlan && p->vlan != g->link.vlan)
		return false;
	if (p->mac && !glob_match(p->mac, guest_mac_format(g->link.mac, mac)))
		return false;
	if (p->guest_name && !glob_match(p->guest_name, g->name))
		return false;
	return !p->n_addresses || addresses_match(p, g);
}

const struct policy *policy_match(const struct policy_set *set, const char *nic, const struct guest *g)
{
	for (size_t i = 0; set && i < set->n; i++)
		if (matches(&set->v[i], nic, g))
			return &set->v[i];
	return &policy_of_nobody;
}

bool policy_allows_service(const struct policy *p, const char *service)
{
	for (size_t i = 0; i < p->n_services; i++)
		if (glob_match(p->services[i], service))
			return true;
	return false;
}

bool policy_joins(const struct policy *p)
{
	return p->mode == POLICY_PERMISSIVE || p->mode == POLICY_STRICT;
}

/* FNV-1a: the name of a group must be the same after a restart, so the keyed hash of base/map.h will not do. */
static uint32_t name_hash(const char *text)
{
	uint32_t h = 2166136261u;

	for (; *text; text++)
		h = (h ^ (uint8_t)*text) * 16777619u;
	return h;
}

const char *policy_group(const struct policy *p, const struct guest *g, char group[static POLICY_GROUP_LEN])
{
	switch (p->isolation) {
	case POLICY_PER_NIC:
		snprintf(group, POLICY_GROUP_LEN, "nic");
		break;
	case POLICY_PER_VM:
		snprintf(group, POLICY_GROUP_LEN, "vm-%.15s-%08x", g->link.port, name_hash(g->id));
		break;
	default:
		snprintf(group, POLICY_GROUP_LEN, "ns-%.40s-%08x", p->namespace ? p->namespace : "", name_hash(p->namespace ? p->namespace : ""));
	}
	for (char *c = group; *c; c++)
		if (!isalnum((unsigned char)*c) && *c != '.' && *c != '-')
			*c = '_';
	return group;
}

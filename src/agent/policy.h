#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "agent/guest.h"
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"
#include "outrigger/provisioner.pb-c.h"

/*
 * Onboarding policies: which guests may join the mesh, as whom, with which
 * names. They come from the controller, are taken whole or refused whole, and
 * the first that matches a guest counts.
 */
enum policy_mode {
	POLICY_OFF,		/* not even looked at */
	POLICY_SHADOW,		/* the map is drawn, nothing is diverted: the default */
	POLICY_PERMISSIVE,	/* in the mesh; plaintext to the VM's services is let in */
	POLICY_STRICT,		/* in the mesh; only mutual TLS gets in */
	_POLICY_MODE_N
};

enum policy_isolation { POLICY_PER_NAMESPACE, POLICY_PER_VM, POLICY_PER_NIC, _POLICY_ISOLATION_N };

enum policy_dns {
	POLICY_DNS_OBSERVE,	/* the default */
	POLICY_DNS_FILL,	/* the guest's server is asked first */
	POLICY_DNS_ANSWER,
	_POLICY_DNS_N
};

enum {
	POLICY_MAX_POLICIES = 1024,
	POLICY_MAX_LIST = 256,		/* prefixes, names, labels of one policy */
	POLICY_GROUP_LEN = 64,		/* name of an isolation group, with the zero */
};

struct policy_label {
	char *key;
	char *value;
};

struct policy {
	char *name;

	/* What must match. NULL, 0, none: anything. */
	char *nic;
	char *port;
	uint16_t vlan;
	char *mac;
	char *guest_name;
	struct ip_prefix *addresses;
	size_t n_addresses;

	/* What follows. */
	enum policy_mode mode;
	enum policy_isolation isolation;
	char *namespace;
	char *service_account;
	char *workload_group;		/* of Istio; NULL: none */
	struct policy_label *labels;
	size_t n_labels;
	char **services;		/* globs; none: no name at all */
	size_t n_services;
	struct ip_prefix *outbound_exclude;
	size_t n_outbound_exclude;
	enum policy_dns dns;		/* what becomes of queries for names */
	char **dns_domains;		/* "[namespace/]domain"; none: the usual ones */
	size_t n_dns_domains;
	Outrigger__Health__Check *health;	/* how its health is looked at; NULL: not at all */
	bool client;			/* a guest that offers nothing joins as a client */
	bool fail_closed;		/* no proxy: refuse, instead of letting pass */
};

struct policy_set {
	uint64_t version;
	struct policy *v;
	size_t n;
};

/* -EINVAL with @reterr_diag (which names the policy and the field), -ENOMEM; nothing is kept then. */
MUST_CHECK int policy_set_decode(const Outrigger__V1__PolicySet *pb, struct policy_set **ret_set, struct diag *reterr_diag);
struct policy_set *policy_set_free(struct policy_set *s);

/* The policy that counts for @g; one of mode shadow without any name when none matches. @set may be NULL. Never NULL. */
const struct policy *policy_match(const struct policy_set *set, const char *nic, const struct guest *g);

bool policy_allows_service(const struct policy *p, const char *service);
/* Is a guest under it ever in the mesh? */
bool policy_joins(const struct policy *p);

/* The process that hosts the guest's proxy: 1 to 63 of [a-zA-Z0-9._-], different for different groups. */
const char *policy_group(const struct policy *p, const struct guest *g, char group[static POLICY_GROUP_LEN]);

const char *policy_mode_name(enum policy_mode mode);
const char *policy_dns_name(enum policy_dns dns);

#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/bytes.h"
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"

/*
 * What a mesh is made of, as plain C: workloads, services and authorization
 * policies, in the terms of Istio's workload API (istio/workload.proto,
 * istio/authorization.proto).
 *
 * Decoding checks everything that the rest of the program relies on: names that
 * are not empty, addresses of 4 or 16 bytes, ports of 16 bits, enums that are
 * known. What fails is refused with a reason that goes back to the sender
 * (NACK). Strings and arrays of a decoded object belong to it (@owner); the
 * ones of an object that is to be encoded are the caller's.
 */
enum {
	MODEL_NAME_MAX = 512,		/* bytes of any one name, uid or host name */
	MODEL_LIST_MAX = 4096,		/* elements of any one list */
};

#define MODEL_TYPE_ADDRESS		"type.googleapis.com/istio.workload.Address"
#define MODEL_TYPE_AUTHORIZATION	"type.googleapis.com/istio.security.Authorization"

enum tunnel { TUNNEL_NONE, TUNNEL_HBONE, TUNNEL_LEGACY_MTLS, _TUNNEL_N };

enum app_protocol { APP_UNKNOWN, APP_HTTP11, APP_HTTP2, APP_GRPC, APP_TCP, APP_TLS, _APP_PROTOCOL_N };

struct port_map {
	uint16_t service_port;
	uint16_t target_port;		/* 0: as the service port */
	uint8_t app_protocol;		/* enum app_protocol */
};

struct model_locality {			/* any may be "" */
	const char *region;
	const char *zone;
	const char *subzone;
};

struct model_gateway {			/* none when both are unset */
	const char *namespace;
	const char *hostname;		/* with @namespace, or NULL */
	struct ip ip;			/* or none */
	const char *network;		/* of @ip */
	uint16_t hbone_port;		/* 0: the usual one */
};

static inline bool model_gateway_is_set(const struct model_gateway *g)
{
	return g->hostname || !ip_is_none(&g->ip);
}

struct workload_service {		/* membership of a workload in a service */
	const char *key;		/* "namespace/hostname" */
	const struct port_map *ports;
	size_t n_ports;
};

/* Strings are never NULL once decoded; "" where nothing was sent and there is no default. */
struct workload {
	const char *uid;		/* the key */
	const char *name;
	const char *namespace;
	const char *network;
	const char *trust_domain;	/* decoded: "cluster.local" when not sent */
	const char *service_account;	/* decoded: "default" when not sent */
	const char *hostname;		/* to be resolved in place of addresses */
	const char *node;
	const char *canonical_name;
	const char *canonical_revision;
	const char *workload_name;
	const char *cluster_id;
	struct model_locality locality;
	const struct ip *addresses;
	size_t n_addresses;
	enum tunnel tunnel;
	bool native_tunnel;
	bool unhealthy;
	bool host_network;
	uint8_t type;			/* WorkloadType of the protobuf */
	uint32_t capacity;		/* weight; decoded: 1 when not sent */
	struct model_gateway waypoint;
	struct model_gateway network_gateway;
	const struct workload_service *services;
	size_t n_services;
	const char *const *policies;	/* "namespace/name", beside those of wider scope */
	size_t n_policies;
	void *owner;			/* of the memory of a decoded one */
};

enum lb_mode { LB_UNSPECIFIED, LB_STRICT, LB_FAILOVER, LB_PASSTHROUGH, _LB_MODE_N };
enum lb_scope { LB_SCOPE_NONE, LB_REGION, LB_ZONE, LB_SUBZONE, LB_NODE, LB_CLUSTER, LB_NETWORK, _LB_SCOPE_N };
enum { LB_PREFERENCE_MAX = 6 };

struct service_address {
	const char *network;
	struct ip ip;
	uint8_t prefix_len;		/* of the 16-byte form; 128: one address */
};

struct service {
	const char *name;
	const char *namespace;
	const char *hostname;
	const struct service_address *addresses;
	size_t n_addresses;
	const struct port_map *ports;
	size_t n_ports;
	const char *const *sans;	/* further SPIFFE IDs that its endpoints may have */
	size_t n_sans;
	struct model_gateway waypoint;	/* of several by weight, the one with the most */
	enum lb_mode lb_mode;
	uint8_t lb_preference[LB_PREFERENCE_MAX];	/* enum lb_scope */
	uint8_t n_lb_preference;
	bool allow_unhealthy;
	bool canonical;
	bool namespace_only;		/* visibility */
	void *owner;
};

/*
 * Authorization (L4). A rule of a policy matches when each of its clauses has a
 * match that holds. @strange marks what this version does not understand: such
 * a match never allows anything, and as part of a DENY its other conditions
 * alone decide. So a policy from the future is at most stricter than meant.
 */
enum policy_scope { POLICY_GLOBAL, POLICY_NAMESPACE, POLICY_WORKLOAD, _POLICY_SCOPE_N };
enum policy_action { POLICY_ALLOW, POLICY_DENY, _POLICY_ACTION_N };
enum text_match_kind { TEXT_EXACT, TEXT_PREFIX, TEXT_SUFFIX, TEXT_PRESENCE };

struct text_match {
	enum text_match_kind kind;
	const char *text;
};

struct account_match {
	const char *namespace;
	const char *service_account;
};

struct text_matches { const struct text_match *list; size_t n; };
struct account_matches { const struct account_match *list; size_t n; };
struct ip_matches { const struct ip_prefix *list; size_t n; };
struct port_matches { const uint32_t *list; size_t n; };

struct policy_match {
	struct text_matches namespaces, not_namespaces;
	struct text_matches principals, not_principals;		/* without "spiffe://" */
	struct account_matches accounts, not_accounts;
	struct ip_matches source_ips, not_source_ips;
	struct ip_matches destination_ips, not_destination_ips;
	struct port_matches destination_ports, not_destination_ports;
	bool strange;
};

struct policy_clause {			/* any of its matches */
	const struct policy_match *matches;
	size_t n_matches;
	bool strange;
};

struct policy_rule {			/* all of its clauses */
	const struct policy_clause *clauses;
	size_t n_clauses;
	bool strange;
};

struct policy {
	const char *name;
	const char *namespace;
	enum policy_scope scope;
	enum policy_action action;
	const struct policy_rule *rules;	/* any of them */
	size_t n_rules;
	bool dry_run;
	const char *strange;		/* NULL, or what of the whole is not understood: it then denies everything in its scope */
	void *owner;
};

/* --- istio.workload.Address --- */

struct address {
	enum { ADDRESS_WORKLOAD, ADDRESS_SERVICE } type;
	union {
		struct workload workload;
		struct service service;
	};
};

/* -EINVAL with the reason, -ENOMEM. */
MUST_CHECK int address_decode(const void *data, size_t len, struct address *ret_address, struct diag *reterr_diag);
void address_deinit(struct address *a);

/* Appends the bytes of an istio.workload.Address. -EINVAL (an address that is none), -ENOBUFS, -ENOMEM. */
MUST_CHECK int workload_encode(const struct workload *w, struct bytes *out);
MUST_CHECK int service_encode(const struct service *s, struct bytes *out);

/* --- istio.security.Authorization --- */

MUST_CHECK int policy_decode(const void *data, size_t len, struct policy *ret_policy, struct diag *reterr_diag);
void policy_deinit(struct policy *p);
MUST_CHECK int policy_encode(const struct policy *p, struct bytes *out);

/*
 * "spiffe://<trust domain>/ns/<namespace>/sa/<service account>" of a workload.
 * The length without the zero; cut off like snprintf() when @size is too small.
 */
size_t workload_identity(const struct workload *w, char *text, size_t size);

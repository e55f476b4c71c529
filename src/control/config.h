#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/conf.h"
#include "base/defs.h"
#include "base/diag.h"
#include "base/ip.h"

/*
 * controller.yaml as structs. The table in config.c is the only place that
 * knows names, defaults and bounds; docs/config-controller.md is printed from
 * it. A configuration is immutable once it is loaded.
 */
enum config_mode { MODE_OFF, MODE_SHADOW, MODE_PERMISSIVE, MODE_STRICT, _MODE_N };
enum config_mesh_kind { MESH_EMBEDDED, MESH_ISTIO };
enum config_token_algorithm { TOKEN_AUTO, TOKEN_ES256, TOKEN_RS256 };
enum config_token_source { TOKENS_OWN, TOKENS_REQUEST };
enum config_action { ACTION_ALLOW, ACTION_DENY };

struct config_listen {
	struct ip_port provisioner;
	struct ip_port mesh;
	struct ip_port rest;
	char *rest_socket;
	char *rest_token_file;
};

struct config_advertise {		/* what agents are told of the mesh controller */
	char *mesh;			/* host:port; NULL: the own listener */
	struct conf_strings server_names;
};

enum config_health_kind { HEALTH_CHECK_NONE, HEALTH_CHECK_TCP, HEALTH_CHECK_HTTP, HEALTH_CHECK_HTTPS, HEALTH_CHECK_GRPC };

enum config_renewal { RENEWAL_TOKEN, RENEWAL_CERTIFICATE };	/* what proxies show for another certificate */

struct config_mesh {
	int kind;
	char *roots_file;
	char *cluster_id;
	char *network;
	int tokens;			/* enum config_token_source */
	int renewal;			/* enum config_renewal */
	uint32_t certificate_ttl_ms;
};

struct config_kubernetes {		/* the cluster that is watched */
	char *kubeconfig;
	char *context;
	bool in_cluster;		/* by the pod's service account */
	uint32_t timeout_ms;
	char *istio_namespace;
	bool remove_entries;
	bool manage;
	char *manage_as;
	uint32_t dead_nic_ms;
	struct conf_strings namespaces;	/* globs: whose Services and Pods are in the embedded mesh */
	struct conf_strings services;	/* globs of "namespace/name"; none: all of them */
	char *cluster_domain;
};

#define CONFIG_CERT_LIFE_MAX_MS	2592000000	/* 30 days: no certificate that is issued lives longer */

struct config_ca {
	char *dir;			/* NULL: <state_dir>/ca */
	struct conf_strings extra_roots;	/* PEM files: old and coming roots */
	uint32_t root_days;
	uint32_t nic_ttl_ms;
	uint32_t nic_grace_ms;		/* 0: none */
	uint32_t workload_ttl_ms;
	uint32_t max_ttl_ms;
	uint32_t server_ttl_ms;
};

struct config_tokens {
	char *issuer;
	int algorithm;			/* enum config_token_algorithm */
	uint32_t workload_ttl_ms;
	uint32_t container_ttl_ms;
	uint32_t key_rotation_ms;
	struct conf_strings audiences;
	uint32_t join_ttl_ms;
};

struct config_limits {			/* so that one NIC, or one stranger, costs the others nothing */
	uint32_t enrolments_per_minute;	/* of one address */
	uint32_t requests_per_minute;	/* of one NIC */
	uint32_t reports_per_second;	/* of one NIC */
	uint32_t services_per_nic;	/* 0: a share of all (reg_services_share()) */
};

struct config_match {
	char *nic;
	char *port;
	uint32_t vlan;
	char *mac;
	char *guest_name;
	struct conf_prefixes addresses;
};

struct config_health {			/* Check of health.proto */
	int kind;			/* enum config_health_kind */
	uint32_t port;
	char *path;
	char *host;
	struct conf_labels headers;
	char *service;
	uint32_t initial_delay_ms, interval_ms, timeout_ms;
	uint32_t successes, failures;
};

struct config_onboarding {		/* Policy of provisioner.proto */
	unsigned line;
	char *name;
	struct config_match match;
	int mode;
	char *namespace;
	char *service_account;
	char *workload_group;
	struct conf_labels labels;
	struct conf_strings services;
	bool kubernetes_services;
	int isolation;
	bool client;
	struct conf_prefixes outbound_exclude;
	bool kubernetes_node;
	int on_failure;
	int dns;
	struct conf_strings dns_domains;
	struct config_health health;
};

struct config_port {
	unsigned line;
	uint32_t port;
	uint32_t target_port;		/* 0: as @port */
	int protocol;			/* enum app_protocol of mesh/model.h */
};

struct config_service {
	unsigned line;
	char *name;
	char *namespace;
	char *hostname;			/* NULL: by the rule of names.h */
	struct conf_prefixes addresses;	/* virtual; none: one is assigned */
	struct conf_list ports;		/* struct config_port */
};

struct config_workload {		/* containers with sidecars, and anything else that is fixed */
	unsigned line;
	char *name;
	char *namespace;
	char *service_account;
	struct conf_prefixes addresses;
	char *node;
	int tunnel;			/* enum tunnel of mesh/model.h */
	struct conf_strings services;	/* "name" of its own namespace, or "namespace/name" */
	struct conf_labels labels;
	uint32_t weight;
};

struct config_container {		/* container-registered addresses */
	unsigned line;
	struct ip_prefix prefix;
	char *what;
};

struct config_from {
	unsigned line;
	struct conf_strings principals, not_principals;
	struct conf_strings service_accounts, not_service_accounts;	/* "account" or "namespace/account" */
	struct conf_strings namespaces, not_namespaces;
	struct conf_prefixes ip_blocks, not_ip_blocks;
};

struct config_to {
	unsigned line;
	struct conf_uints ports, not_ports;
};

struct config_rule {
	unsigned line;
	struct conf_list from;		/* struct config_from: any of them */
	struct conf_list to;		/* struct config_to: any of them */
};

struct config_authorization {
	unsigned line;
	char *name;
	char *namespace;		/* NULL: the whole mesh */
	struct conf_labels selector;	/* workloads of the namespace with these labels; none: all */
	int action;
	struct conf_list rules;		/* struct config_rule: any of them */
};

struct config {
	struct config *half_taken;	/* one to which parts of the registry still refer, because there was no memory to go back to this one */
	char *trust_domain;
	char *state_dir;
	char *user;
	int log_level;
	bool log_json;
	struct config_listen listen;
	struct conf_strings server_names;
	struct config_advertise advertise;
	struct config_mesh mesh;
	struct config_kubernetes kubernetes;
	struct config_ca ca;
	struct config_tokens tokens;
	struct config_limits limits;
	struct ip_prefix virtual_addresses;
	uint32_t session_grace_ms;
	uint32_t restart_grace_ms;
	struct conf_strings namespaces;
	struct conf_list onboarding;
	struct conf_list services;
	struct conf_list workloads;
	struct conf_list containers;
	struct conf_list authorization;
};

extern const struct conf_table config_table;

/* -EINVAL with @reterr_diag, -ENOMEM. The result is freed with config_free(). */
MUST_CHECK int config_load(const char *path, struct config **ret_config, struct diag *reterr_diag);
MUST_CHECK int config_parse(const char *file, const char *text, size_t len, struct config **ret_config, struct diag *reterr_diag);
struct config *config_free(struct config *c);

const char *config_mode_name(int mode);
/* A cluster is configured. */
bool config_has_kubernetes(const struct config *c);

#define config_for_each(type, item, list) \
	for (type *item = (list)->v, *item##_end = item ? item + (list)->n : item; item < item##_end; item++)

/*
 * The table of controller.yaml, and what one item has to look like. What items say of each other: config_check.c.
 */
#include "control/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/config_check.h"
#include "control/onboard.h"
#include "mesh/health_check.h"
#include "mesh/identity.h"
#include "mesh/names.h"
#include "mesh/pb.h"

/* --- checks of single values --- */

static const char *check_trust_domain(const char *text)
{
	return identity_trust_domain_valid(text) ? NULL : "is not a trust domain: lower-case letters, digits, '.', '-' and '_'";
}

static bool is_label(const char *text)
{
	size_t len = strlen(text);

	return len > 0 && len <= 63 && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == len && text[0] != '-' &&
	       text[len - 1] != '-';
}

static const char *check_label(const char *text)
{
	return is_label(text) ? NULL : "is not a DNS label: lower-case letters, digits and '-'";
}

static const char *check_dns_domain(const char *text)
{
	return names_dns_domain_valid(text) ? NULL : "a lower-case domain, or namespace/domain, is required";
}

static const char *check_account(const char *text)
{
	size_t len = strlen(text);

	if (len > 0 && len <= 253 && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-.") == len && identity_name_valid(text) &&
	    text[0] != '-' && text[0] != '.' && text[len - 1] != '-' && text[len - 1] != '.')
		return NULL;
	return "is not a service account's name: lower-case letters, digits, '-' and '.'";
}

static const char *check_not_empty(const char *text)
{
	return *text ? NULL : "is empty";
}

static const char *check_network(const char *text)
{
	return strlen(text) < NAMES_NETWORK_LEN && strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == strlen(text)
		? NULL : "is not a network's name: at most 63 letters, digits, '-', '_' and '.'";
}

static const char *check_host(const char *text)
{
	size_t len = strlen(text);

	return len > 0 && len < NAMES_HOST_LEN && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-._") == len
		? NULL : "is not a host name in lower case";
}

/* --- the table --- */

static const char *const log_levels[] = { "error", "warn", "info", "debug", NULL };
static const char *const mode_names[] = { "off", "shadow", "permissive", "strict", NULL };
static const char *const mesh_kinds[] = { "embedded", "istio", NULL };
static const char *const token_algorithms[] = { "auto", "ES256", "RS256", NULL };
static const char *const token_sources[] = { "oidc", "token_request", NULL };
static const char *const renewals[] = { "token", "certificate", NULL };
static const char *const isolations[] = { "namespace", "vm", "nic", NULL };
static const char *const failures[] = { "default", "open", "closed", NULL };
static const char *const dns_modes[] = { "observe", "fill", "answer", NULL };
static const char *const actions[] = { "allow", "deny", NULL };
static const char *const tunnels[] = { "none", "hbone", NULL };
static const char *const protocols[] = { "", "http", "http2", "grpc", "tcp", "tls", NULL };

const char *config_mode_name(int mode)
{
	return mode_names[mode];
}

#define OFF(m) offsetof(struct config_listen, m)
static const struct conf_item listen_items[] = {
	{ "provisioner", CONF_IP_PORT, OFF(provisioner), .dflt = "127.0.0.1:15030", .reload = CONF_RESTART,
	  .doc = "Agents enrol and hold their sessions here (gRPC, TLS)." },
	{ "mesh", CONF_IP_PORT, OFF(mesh), .dflt = "127.0.0.1:15012", .reload = CONF_RESTART,
	  .doc = "ADS and certificate signing for proxies (gRPC, TLS)." },
	{ "rest", CONF_IP_PORT, OFF(rest), .dflt = "127.0.0.1:15031", .reload = CONF_RESTART,
	  .doc = "REST and OIDC. Plain HTTP on a loopback address, TLS on any other. Port 0: any free one." },
	{ "rest_socket", CONF_STRING, OFF(rest_socket), .dflt = "/run/outrigger/controller.sock", .reload = CONF_RESTART,
	  .doc = "The same on a unix socket, for root and the controller's own user." },
	{ "rest_token_file", CONF_STRING, OFF(rest_token_file), .reload = CONF_RESTART,
	  .doc = "File with the bearer token that REST over TCP asks for. Without it TCP may only read, and only from a loopback address; the unix socket may do everything." },
};
#undef OFF
static const struct conf_table listen_table = CONF_TABLE_INIT("listen", struct config_listen, listen_items);

#define OFF(m) offsetof(struct config_advertise, m)
static const struct conf_item advertise_items[] = {
	{ "mesh", CONF_STRING, OFF(mesh), .reload = CONF_RESTART, .check = check_not_empty,
	  .doc = "host:port of the mesh controller as the NICs reach it; `listen.mesh` when not given." },
	{ "server_names", CONF_STRINGS, OFF(server_names), .reload = CONF_RESTART, .check = check_not_empty,
	  .doc = "DNS names or addresses, one of which its certificate must have; `outrigger-controller` when not given. The own certificate gets all of them." },
};
#undef OFF
static const struct conf_table advertise_table = CONF_TABLE_INIT("advertise", struct config_advertise, advertise_items);

#define OFF(m) offsetof(struct config_mesh, m)
static const struct conf_item mesh_items[] = {
	{ "kind", CONF_ENUM, OFF(kind), .names = mesh_kinds, .dflt = "embedded", .reload = CONF_RESTART,
	  .doc = "The mesh controller that proxies are sent to: this program, or an Istio control plane at `advertise.mesh`." },
	{ "roots_file", CONF_STRING, OFF(roots_file), .reload = CONF_RESTART,
	  .doc = "Trust roots of Istio (PEM). Not given: the ConfigMap `istio-ca-root-cert` of `kubernetes.istio_namespace`, watched." },
	{ "cluster_id", CONF_STRING, OFF(cluster_id), .dflt = "outrigger", .reload = CONF_RESTART,
	  .doc = "Name of the cluster; with Istio what istiod has as CLUSTER_ID, `Kubernetes` as a rule." },
	{ "network", CONF_STRING, OFF(network), .dflt = "", .reload = CONF_RESTART, .check = check_network,
	  .doc = "Network of the VMs; with Istio what its `topology.istio.io/network` calls it. Workloads on other networks are not reached." },
	{ "tokens", CONF_ENUM, OFF(tokens), .names = token_sources, .dflt = "oidc", .reload = CONF_RESTART,
	  .doc = "What VMs' proxies show to the mesh controller. `oidc`: tokens of this program, which Istio accepts by JWT_RULE. `token_request`: tokens of the VM's ServiceAccount." },
	{ "renewal", CONF_ENUM, OFF(renewal), .names = renewals, .dflt = "token", .reload = CONF_RESTART,
	  .doc = "What VMs' proxies show for another certificate. `token`: a token each time, so that an identity ends with its account. "
		 "`certificate`, with Istio only: the one that they have, and a token where that is refused." },
	{ "certificate_ttl", CONF_DURATION, OFF(certificate_ttl_ms), .min = 10000, .max = 2592000000, .dflt = "24h", .reload = CONF_RESTART,
	  .doc = "Life that the proxies ask for with their certificates; they are renewed at half of it. Istio refuses more than its MAX_WORKLOAD_CERT_TTL." },
};
#undef OFF
static const struct conf_table mesh_table = CONF_TABLE_INIT("mesh", struct config_mesh, mesh_items);

#define OFF(m) offsetof(struct config_kubernetes, m)
static const struct conf_item kubernetes_items[] = {
	{ "kubeconfig", CONF_STRING, OFF(kubeconfig), .reload = CONF_RESTART, .check = check_not_empty,
	  .doc = "File that says where the cluster's API is and who we are there. Read again whenever it is used." },
	{ "context", CONF_STRING, OFF(context), .reload = CONF_RESTART, .check = check_not_empty, .doc = "Its context; the current one when not given." },
	{ "in_cluster", CONF_BOOL, OFF(in_cluster), .dflt = "false", .reload = CONF_RESTART,
	  .doc = "In a pod of the cluster: by the pod's own service account, instead of a kubeconfig." },
	{ "timeout", CONF_DURATION, OFF(timeout_ms), .min = 100, .max = 120000, .dflt = "10s", .reload = CONF_RESTART,
	  .doc = "How long to wait for an answer of the API." },
	{ "istio_namespace", CONF_STRING, OFF(istio_namespace), .dflt = "istio-system", .reload = CONF_RESTART, .check = check_label, .doc = "Istio's root namespace." },
	{ "remove_entries", CONF_BOOL, OFF(remove_entries), .dflt = "true", .reload = CONF_RESTART,
	  .doc = "WorkloadEntries of VMs that are gone are deleted at once, and those that Istio has lost track of, too; else they go when Istio removes them." },
	{ "manage", CONF_BOOL, OFF(manage), .dflt = "false",
	  .doc = "With Istio: make, change and remove the WorkloadGroups and ServiceAccounts that the onboarding policies name. Else it is only said which are missing or do not fit." },
	{ "manage_as", CONF_STRING, OFF(manage_as), .dflt = "outrigger", .check = check_label,
	  .doc = "Value of the label `outrigger.dev/managed-by` on what is made. Only what has it is changed or removed: a different one for each controller of a cluster." },
	{ "dead_nic", CONF_DURATION, OFF(dead_nic_ms), .min = 1000, .max = 604800000, .dflt = "10m",
	  .doc = "A NIC that has not been heard of for so long is taken for dead, and the WorkloadEntries of its VMs are removed. Until then it may serve them as before." },
	{ "namespaces", CONF_STRINGS, OFF(namespaces), .reload = CONF_RESTART, .check = check_not_empty,
	  .doc = "With the embedded mesh: globs of the namespaces whose Services and Pods are members of it; none: no namespace. With Istio they are anyway." },
	{ "services", CONF_STRINGS, OFF(services), .reload = CONF_RESTART, .check = check_not_empty,
	  .doc = "Of those namespaces: globs of the Services, `namespace/name`; none: all of them." },
	{ "cluster_domain", CONF_STRING, OFF(cluster_domain), .dflt = "cluster.local", .reload = CONF_RESTART, .check = check_host,
	  .doc = "The cluster's DNS domain: its Services are called `<name>.<namespace>.svc.<cluster_domain>`." },
};
#undef OFF
static const struct conf_table kubernetes_table = CONF_TABLE_INIT("kubernetes", struct config_kubernetes, kubernetes_items,
	.doc = "A cluster to watch: what its pods, services and nodes have as addresses is containers'. With `namespaces` they are members of the embedded mesh, too.");

#define OFF(m) offsetof(struct config_ca, m)
static const struct conf_item ca_items[] = {
	{ "dir", CONF_STRING, OFF(dir), .reload = CONF_RESTART,
	  .doc = "Directory with ca-cert.pem, ca-key.pem (0600), cert-chain.pem and root-cert.pem. Empty: `<state_dir>/ca`. Where there is none, a root and an intermediate are made." },
	{ "extra_roots", CONF_STRINGS, OFF(extra_roots), .reload = CONF_RESTART,
	  .doc = "Files with further roots that peers shall trust: the old ones and the next one during a rotation." },
	{ "root_days", CONF_UINT, OFF(root_days), .min = 1, .max = 36500, .dflt = "3650", .reload = CONF_RESTART,
	  .doc = "Life of a root that is made here, in days." },
	{ "nic_ttl", CONF_DURATION, OFF(nic_ttl_ms), .min = 1000, .max = CONFIG_CERT_LIFE_MAX_MS, .dflt = "24h", .doc = "Life of a NIC's certificate." },
	{ "nic_grace", CONF_DURATION, OFF(nic_grace_ms), .max = CONFIG_CERT_LIFE_MAX_MS, .dflt = "7d",
	  .doc = "So long after its end a NIC's last certificate, with its key, still gets the NIC another one: an outage that certificates do not survive ends by itself. "
		 "0: never, that takes a join token." },
	{ "workload_ttl", CONF_DURATION, OFF(workload_ttl_ms), .min = 1000, .max = CONFIG_CERT_LIFE_MAX_MS, .dflt = "24h",
	  .doc = "Life of a workload's certificate when it does not ask for one." },
	{ "max_ttl", CONF_DURATION, OFF(max_ttl_ms), .min = 1000, .max = CONFIG_CERT_LIFE_MAX_MS, .dflt = "24h", .doc = "The longest life that it may ask for." },
	{ "server_ttl", CONF_DURATION, OFF(server_ttl_ms), .min = 1000, .max = CONFIG_CERT_LIFE_MAX_MS, .dflt = "30d",
	  .doc = "Life of the listeners' own certificates; they are renewed at half of it, while running." },
};
#undef OFF
static const struct conf_table ca_table = CONF_TABLE_INIT("ca", struct config_ca, ca_items);

#define OFF(m) offsetof(struct config_tokens, m)
static const struct conf_item tokens_items[] = {
	{ "issuer", CONF_STRING, OFF(issuer), .dflt = "https://outrigger.local", .reload = CONF_RESTART, .check = check_not_empty,
	  .doc = "`iss` of workload tokens and base of the OIDC documents." },
	{ "algorithm", CONF_ENUM, OFF(algorithm), .names = token_algorithms, .dflt = "auto", .reload = CONF_RESTART,
	  .doc = "How workload tokens are signed. `auto`: RS256 for Istio, which takes no other where its JWT_RULE has a `jwks_uri`; else ES256. Tokens of the key before stay good." },
	{ "audiences", CONF_STRINGS, OFF(audiences), .dflt = "istio-ca", .doc = "`aud` of workload tokens, always a list." },
	{ "workload_ttl", CONF_DURATION, OFF(workload_ttl_ms), .min = 1000, .max = 86400000, .dflt = "10m", .doc = "Life of a VM workload's token." },
	{ "container_ttl", CONF_DURATION, OFF(container_ttl_ms), .min = 1000, .max = 2592000000, .dflt = "1h",
	  .doc = "Life of a token made by `outrigger token create --workload`, unless it says." },
	{ "join_ttl", CONF_DURATION, OFF(join_ttl_ms), .min = 1000, .max = 2592000000, .dflt = "1h", .doc = "Life of a join token, unless it says." },
	{ "key_rotation", CONF_DURATION, OFF(key_rotation_ms), .min = 3600000, .dflt = "30d",
	  .doc = "A new signing key takes over after this; the one before is still published for as long as its tokens live." },
};
#undef OFF
static const struct conf_table tokens_table = CONF_TABLE_INIT("tokens", struct config_tokens, tokens_items);

#define OFF(m) offsetof(struct config_limits, m)
static const struct conf_item limits_items[] = {
	{ "enrolments_per_minute", CONF_UINT, OFF(enrolments_per_minute), .min = 1, .max = 1000000, .dflt = "120",
	  .doc = "Enrolments that one address may try, good or bad; of IPv6 a /64 counts as one. A sixth of them may come at once." },
	{ "requests_per_minute", CONF_UINT, OFF(requests_per_minute), .min = 1, .max = 1000000, .dflt = "1200",
	  .doc = "What one NIC may ask for: sessions, renewals of its certificate, tokens for its VMs. All of them may come at once." },
	{ "reports_per_second", CONF_UINT, OFF(reports_per_second), .min = 1, .max = 1000000, .dflt = "500",
	  .doc = "What one NIC may report of its guests, services and proxies, after a minute's worth at once (all that it has to say when it connects). "
		 "What is more waits at the NIC, which then reports what is so by that time; each report may be told to all proxies." },
	{ "services_per_nic", CONF_UINT, OFF(services_per_nic), .max = 100000, .dflt = "0",
	  .doc = "Services that are in the mesh because VMs of one NIC were the first to register them; declared ones and those of Kubernetes do not count. "
		 "One counts for ten more minutes when its last instance has gone, since it keeps its address for as long, which clients may still have. "
		 "0: a tenth of what there can be (100,000, or the addresses of `virtual_addresses`), at least 16." },
};
#undef OFF
static const struct conf_table limits_table = CONF_TABLE_INIT("limits", struct config_limits, limits_items);

#define OFF(m) offsetof(struct config_match, m)
static const struct conf_item match_items[] = {
	{ "nic", CONF_STRING, OFF(nic), .check = check_not_empty, .doc = "Glob of the NIC's id." },
	{ "port", CONF_STRING, OFF(port), .check = check_not_empty, .doc = "Glob of the port's name." },
	{ "vlan", CONF_UINT, OFF(vlan), .min = 1, .max = 4094, .doc = "VLAN." },
	{ "mac", CONF_STRING, OFF(mac), .check = check_not_empty, .doc = "Glob of the guest's MAC address, lower case." },
	{ "guest_name", CONF_STRING, OFF(guest_name), .check = check_not_empty, .doc = "Glob of the guest's name." },
	{ "addresses", CONF_PREFIXES, OFF(addresses), .doc = "Prefixes: one address of the guest must be inside, none of the same family outside (link-local ones do not count)." },
};
#undef OFF
static const struct conf_table match_table = CONF_TABLE_INIT("match", struct config_match, match_items,
	.doc = "Every item that is given must match; an empty one matches every guest.");

static const char *const health_kinds[] = { "none", "tcp", "http", "https", "grpc", NULL };

#define OFF(m) offsetof(struct config_health, m)
static const struct conf_item health_items[] = {
	{ "kind", CONF_ENUM, OFF(kind), .names = health_kinds, .dflt = "none",
	  .doc = "`tcp`: a connection is accepted. `http`: GET is answered by 200 to 399. `https`: likewise; the certificate is not looked at. `grpc`: `grpc.health.v1.Health` says SERVING." },
	{ "port", CONF_UINT, OFF(port), .min = 1, .max = 65535, .doc = "The port that speaks for all services of the VM; not given: each service by its own port." },
	{ "path", CONF_STRING, OFF(path), .dflt = "/", .check = check_not_empty, .doc = "What is asked for, with `http`." },
	{ "host", CONF_STRING, OFF(host), .check = check_not_empty, .doc = "The host that is asked for; the address when not given." },
	{ "headers", CONF_LABELS, OFF(headers), .doc = "More headers, with `http`." },
	{ "service", CONF_STRING, OFF(service), .check = check_not_empty, .doc = "The service that is asked for, with `grpc`; not given: the server as a whole." },
	{ "initial_delay", CONF_DURATION, OFF(initial_delay_ms), .max = 3600000, .dflt = "0s", .doc = "Before the first check." },
	{ "interval", CONF_DURATION, OFF(interval_ms), .min = 100, .max = 3600000, .dflt = "10s",
	  .doc = "Between checks; what has never been healthy is checked twice a second." },
	{ "timeout", CONF_DURATION, OFF(timeout_ms), .min = 10, .max = 600000, .dflt = "1s", .doc = "For connection and answer together." },
	{ "successes", CONF_UINT, OFF(successes), .min = 1, .max = 100, .dflt = "1", .doc = "In a row, until it is healthy." },
	{ "failures", CONF_UINT, OFF(failures), .min = 1, .max = 100, .dflt = "3", .doc = "In a row, until it is unhealthy." },
};
#undef OFF
static const struct conf_table health_table = CONF_TABLE_INIT("health", struct config_health, health_items,
	.doc = "How the NIC looks at the health of the VM's services, from outside and by the way that traffic takes. What is unhealthy gets no new connections of the mesh.");

#define OFF(m) offsetof(struct config_onboarding, m)
static const struct conf_item onboarding_items[] = {
	{ .type = CONF_LINE, .offset = OFF(line) },
	{ "name", CONF_STRING, OFF(name), .required = true, .check = check_label, .doc = "What people call it." },
	{ "match", CONF_SUB, OFF(match), .sub = &match_table, .doc = "Which guests." },
	{ "mode", CONF_ENUM, OFF(mode), .names = mode_names, .dflt = "shadow",
	  .doc = "`off`: not even looked at. `shadow`: the map is drawn, nothing is diverted. `permissive`: in the mesh, plaintext is let in, too. `strict`: only mutual TLS gets in." },
	{ "namespace", CONF_STRING, OFF(namespace), .check = check_label, .doc = "Namespace of the workload; required for `permissive` and `strict`." },
	{ "service_account", CONF_STRING, OFF(service_account), .dflt = "default", .check = check_account, .doc = "Service account of the workload." },
	{ "workload_group", CONF_STRING, OFF(workload_group), .check = check_account,
	  .doc = "With Istio: the WorkloadGroup in that namespace, under which the VM is registered." },
	{ "labels", CONF_LABELS, OFF(labels), .doc = "Labels of the workload; `authorization.selector` looks at them." },
	{ "services", CONF_STRINGS, OFF(services), .check = check_not_empty, .doc = "Globs of the service names that the guest may claim; none: no name." },
	{ "kubernetes_services", CONF_BOOL, OFF(kubernetes_services), .dflt = "false",
	  .doc = "Such a name may be that of a Kubernetes Service of the namespace, if the mesh has it: the VM becomes an endpoint of it, beside its pods. Else the VM's service is one of its own." },
	{ "isolation", CONF_ENUM, OFF(isolation), .names = isolations, .dflt = "namespace", .doc = "What shares a proxy process." },
	{ "client", CONF_BOOL, OFF(client), .dflt = "false", .doc = "A guest that offers nothing joins as a client, too." },
	{ "kubernetes_node", CONF_BOOL, OFF(kubernetes_node), .dflt = "true",
	  .doc = "A VM with the address of a node of the cluster is that node: packets with addresses of its pods may come out of its port (also with the port's "
		 "`drop_spoofed`), and what listens at its pods' host ports is a container's." },
	{ "outbound_exclude", CONF_PREFIXES, OFF(outbound_exclude), .doc = "Destinations that are never diverted." },
	{ "on_failure", CONF_ENUM, OFF(on_failure), .names = failures, .dflt = "default",
	  .doc = "What happens to new connections while the proxy is down: `open` lets them pass, `closed` refuses them; by default `closed` with `strict`, else `open`." },
	{ "dns", CONF_ENUM, OFF(dns), .names = dns_modes, .dflt = "observe",
	  .doc = "What becomes of the guest's queries for names. `observe`: they are only watched. `fill`: its own server is asked, and the mesh answers "
		 "for the names of `dns_domains` that this one does not know. `answer`: the mesh answers for its names at once, all others go to the guest's server." },
	{ "dns_domains", CONF_STRINGS, OFF(dns_domains), .check = check_dns_domain,
	  .doc = "Domains in which the mesh is asked for names: `svc.cluster.local`, `mesh.internal` when not given. "
		 "`namespace/domain` for hosts of ServiceEntries in another namespace than the guest's; `.` for names of one and two labels (docs/dns.md)." },
	{ "health", CONF_SUB, OFF(health), .sub = &health_table, .doc = "Checks of health; none by default." },
};
#undef OFF

/* What the NICs would refuse, and all policies with it. */
static int check_health(const struct config_onboarding *p, const char *file, unsigned line, struct diag *d)
{
	Outrigger__Health__Check *check = NULL;
	struct diag why = {};
	int r = onboard_health_new(&p->health, &check);

	if (check && health_check_valid(check, &why) < 0)
		r = diag_at(d, file, line, "onboarding '%s': health: %s", p->name, why.msg);
	pb_free(check);
	return r;
}

static int check_onboarding(const void *obj, const char *file, unsigned line, struct diag *d)
{
	const struct config_onboarding *p = obj;

	if (p->mode >= MODE_PERMISSIVE && !p->namespace)
		return diag_at(d, file, line, "onboarding '%s': mode %s needs a namespace", p->name, mode_names[p->mode]);
	return check_health(p, file, line, d);
}

static const struct conf_table onboarding_table = CONF_TABLE_INIT("onboarding", struct config_onboarding, onboarding_items, .check = check_onboarding,
	.doc = "Which guests join the mesh, and as whom. The first one whose `match` holds counts; a guest that none matches is watched in mode `shadow`.");

#define OFF(m) offsetof(struct config_port, m)
static const struct conf_item port_items[] = {
	{ .type = CONF_LINE, .offset = OFF(line) },
	{ "port", CONF_UINT, OFF(port), .required = true, .min = 1, .max = 65535, .doc = "Port of the service." },
	{ "target_port", CONF_UINT, OFF(target_port), .min = 1, .max = 65535, .doc = "Port of its workloads, if another." },
	{ "protocol", CONF_ENUM, OFF(protocol), .names = protocols, .dflt = "tcp", .doc = "What is spoken there." },
};
#undef OFF
static const struct conf_table port_table = CONF_TABLE_INIT("port", struct config_port, port_items);

#define OFF(m) offsetof(struct config_service, m)
static const struct conf_item service_items[] = {
	{ .type = CONF_LINE, .offset = OFF(line) },
	{ "name", CONF_STRING, OFF(name), .required = true, .check = check_not_empty, .doc = "As VMs register it, too: they become its endpoints." },
	{ "namespace", CONF_STRING, OFF(namespace), .required = true, .check = check_label, .doc = "Its namespace." },
	{ "hostname", CONF_STRING, OFF(hostname), .check = check_host, .doc = "`<name>.<namespace>.mesh.internal` when not given." },
	{ "addresses", CONF_PREFIXES, OFF(addresses), .doc = "Virtual addresses; one of `virtual_addresses` is assigned when there is none." },
	{ "ports", CONF_LIST, OFF(ports), .sub = &port_table, .min = 1, .max = 64, .required = true, .doc = "Its ports." },
};
#undef OFF
static const struct conf_table service_table = CONF_TABLE_INIT("service", struct config_service, service_items);

#define OFF(m) offsetof(struct config_workload, m)
static const struct conf_item workload_items[] = {
	{ .type = CONF_LINE, .offset = OFF(line) },
	{ "name", CONF_STRING, OFF(name), .required = true, .check = check_label, .doc = "Unique in its namespace." },
	{ "namespace", CONF_STRING, OFF(namespace), .required = true, .check = check_label, .doc = "Its namespace." },
	{ "service_account", CONF_STRING, OFF(service_account), .dflt = "default", .check = check_account, .doc = "Its identity in the namespace." },
	{ "addresses", CONF_PREFIXES, OFF(addresses), .required = true, .min = 1, .max = 16, .doc = "Its addresses." },
	{ "node", CONF_STRING, OFF(node), .doc = "The host, for people." },
	{ "tunnel", CONF_ENUM, OFF(tunnel), .names = tunnels, .dflt = "none", .doc = "`hbone`: a proxy of its own takes mutual TLS on port 15008. `none`: it is reached in plaintext." },
	{ "services", CONF_STRINGS, OFF(services), .check = check_not_empty, .doc = "Services of this file that it is an endpoint of: `name` in its own namespace or `namespace/name`." },
	{ "labels", CONF_LABELS, OFF(labels), .doc = "`authorization.selector` looks at them." },
	{ "weight", CONF_UINT, OFF(weight), .min = 1, .max = 1000000, .dflt = "1", .doc = "Its share of the load." },
};
#undef OFF
static const struct conf_table workload_table = CONF_TABLE_INIT("workload", struct config_workload, workload_items,
	.doc = "A fixed member of the mesh: a container with a sidecar, a server. VMs come and go by themselves.");

#define OFF(m) offsetof(struct config_container, m)
static const struct conf_item container_items[] = {
	{ .type = CONF_LINE, .offset = OFF(line) },
	{ "prefix", CONF_PREFIX, OFF(prefix), .required = true, .doc = "Addresses." },
	{ "what", CONF_STRING, OFF(what), .required = true, .doc = "Whose, for people: `pod network of cluster k1`." },
};
#undef OFF
static const struct conf_table container_table =
	CONF_TABLE_INIT("container", struct config_container, container_items,
	.doc = "Container-registered addresses: what lives there is not a VM.");

#define OFF(m) offsetof(struct config_from, m)
static const struct conf_item from_items[] = {
	{ .type = CONF_LINE, .offset = OFF(line) },
	{ "principals", CONF_STRINGS, OFF(principals), .check = check_not_empty,
	  .doc = "`<trust-domain>/ns/<namespace>/sa/<account>`; `*` alone, at the start or at the end." },
	{ "not_principals", CONF_STRINGS, OFF(not_principals), .check = check_not_empty, .doc = "None of them." },
	{ "service_accounts", CONF_STRINGS, OFF(service_accounts), .check = check_not_empty,
	  .doc = "`account` of the policy's own namespace, or `namespace/account`." },
	{ "not_service_accounts", CONF_STRINGS, OFF(not_service_accounts), .check = check_not_empty, .doc = "None of them." },
	{ "namespaces", CONF_STRINGS, OFF(namespaces), .check = check_not_empty, .doc = "Of the client; `*` as above." },
	{ "not_namespaces", CONF_STRINGS, OFF(not_namespaces), .check = check_not_empty, .doc = "None of them." },
	{ "ip_blocks", CONF_PREFIXES, OFF(ip_blocks), .doc = "Of the client." },
	{ "not_ip_blocks", CONF_PREFIXES, OFF(not_ip_blocks), .doc = "None of them." },
};
#undef OFF

static int check_from(const void *obj, const char *file, unsigned line, struct diag *d)
{
	const struct config_from *f = obj;

	if (f->principals.n + f->not_principals.n + f->service_accounts.n + f->not_service_accounts.n + f->namespaces.n + f->not_namespaces.n + f->ip_blocks.n + f->not_ip_blocks.n)
		return 0;
	return diag_at(d, file, line, "an empty 'from' entry would match everybody: leave 'from' out to say so");
}

static const struct conf_table from_table = CONF_TABLE_INIT("from", struct config_from, from_items, .check = check_from,
	.doc = "All items that are given must hold.");

#define OFF(m) offsetof(struct config_to, m)
static const struct conf_item to_items[] = {
	{ .type = CONF_LINE, .offset = OFF(line) },
	{ "ports", CONF_UINTS, OFF(ports), .min = 1, .max = 65535, .doc = "Of the workload." },
	{ "not_ports", CONF_UINTS, OFF(not_ports), .min = 1, .max = 65535, .doc = "None of them." },
};
#undef OFF

static int check_to(const void *obj, const char *file, unsigned line, struct diag *d)
{
	const struct config_to *t = obj;

	return t->ports.n + t->not_ports.n ? 0 : diag_at(d, file, line, "an empty 'to' entry would match every port: leave 'to' out to say so");
}

static const struct conf_table to_table = CONF_TABLE_INIT("to", struct config_to, to_items, .check = check_to);

#define OFF(m) offsetof(struct config_rule, m)
static const struct conf_item rule_items[] = {
	{ .type = CONF_LINE, .offset = OFF(line) },
	{ "from", CONF_LIST, OFF(from), .sub = &from_table, .max = 64, .doc = "Clients: any of these; not given: everybody." },
	{ "to", CONF_LIST, OFF(to), .sub = &to_table, .max = 64, .doc = "Ports: any of these; not given: all." },
};
#undef OFF
static const struct conf_table rule_table = CONF_TABLE_INIT("rule", struct config_rule, rule_items);

#define OFF(m) offsetof(struct config_authorization, m)
static const struct conf_item authorization_items[] = {
	{ .type = CONF_LINE, .offset = OFF(line) },
	{ "name", CONF_STRING, OFF(name), .required = true, .check = check_label, .doc = "Unique in its namespace." },
	{ "namespace", CONF_STRING, OFF(namespace), .check = check_label, .doc = "Whose workloads; not given: those of the whole mesh." },
	{ "selector", CONF_LABELS, OFF(selector), .doc = "Only workloads that have all of these labels." },
	{ "action", CONF_ENUM, OFF(action), .names = actions, .dflt = "allow",
	  .doc = "`deny` wins. Where a workload has any `allow` policy, one of them must match." },
	{ "rules", CONF_LIST, OFF(rules), .sub = &rule_table, .max = 256,
	  .doc = "Any of these. An `allow` policy without rules allows nobody; a `deny` policy without rules denies nobody." },
};
#undef OFF

static int check_authorization(const void *obj, const char *file, unsigned line, struct diag *d)
{
	const struct config_authorization *a = obj;

	if (a->selector.n && !a->namespace)
		return diag_at(d, file, line, "authorization '%s': a selector needs a namespace", a->name);
	return 0;
}

static const struct conf_table authorization_table = CONF_TABLE_INIT("authorization", struct config_authorization,
	authorization_items, .check = check_authorization, .doc = "Who may talk to whom, at the level of connections.");

#define OFF(m) offsetof(struct config, m)
static const struct conf_item config_items[] = {
	{ "trust_domain", CONF_STRING, OFF(trust_domain), .dflt = "cluster.local", .reload = CONF_RESTART, .check = check_trust_domain,
	  .doc = "Of all identities." },
	{ "state_dir", CONF_STRING, OFF(state_dir), .dflt = "/var/lib/outrigger/controller", .reload = CONF_RESTART, .check = check_not_empty,
	  .doc = "Keys, certificates of the CA and the database." },
	{ "user", CONF_STRING, OFF(user), .reload = CONF_RESTART, .check = check_not_empty,
	  .doc = "When started as root: the user to become. systemd starts it as its own user anyway." },
	{ "log_level", CONF_ENUM, OFF(log_level), .names = log_levels, .dflt = "info", .reload = CONF_RESTART, .doc = "How much is logged." },
	{ "log_json", CONF_BOOL, OFF(log_json), .dflt = "false", .reload = CONF_RESTART, .doc = "Log lines as JSON." },
	{ "listen", CONF_SUB, OFF(listen), .sub = &listen_table, .doc = "Where to listen." },
	{ "server_names", CONF_STRINGS, OFF(server_names), .reload = CONF_RESTART, .check = check_not_empty,
	  .doc = "DNS names and addresses in the certificates of the listeners, besides `outrigger-controller`, `localhost`, the host's name, loopback and the listeners' own addresses." },
	{ "advertise", CONF_SUB, OFF(advertise), .sub = &advertise_table, .doc = "What agents are told of the mesh controller." },
	{ "mesh", CONF_SUB, OFF(mesh), .sub = &mesh_table, .doc = "The mesh controller." },
	{ "kubernetes", CONF_SUB, OFF(kubernetes), .sub = &kubernetes_table, .doc = "The cluster that is watched; none by default." },
	{ "ca", CONF_SUB, OFF(ca), .sub = &ca_table, .doc = "The certificate authority." },
	{ "tokens", CONF_SUB, OFF(tokens), .sub = &tokens_table, .doc = "Tokens." },
	{ "limits", CONF_SUB, OFF(limits), .sub = &limits_table, .doc = "What one NIC, or one stranger, may take of the controller." },
	{ "virtual_addresses", CONF_PREFIX, OFF(virtual_addresses), .dflt = "240.240.0.0/16", .reload = CONF_RESTART,
	  .doc = "Where services get their virtual addresses from. A service keeps its address." },
	{ "session_grace", CONF_DURATION, OFF(session_grace_ms), .max = 86400000, .dflt = "10s",
	  .doc = "How long a NIC's VMs stay in the mesh when its session is lost. That a NIC has fallen silent, as without power, is noticed within twenty seconds." },
	{ "restart_grace", CONF_DURATION, OFF(restart_grace_ms), .max = 86400000, .dflt = "60s",
	  .doc = "How long after a start of the controller the VMs that it knew before stay in the mesh without their NICs having come back." },
	{ "namespaces", CONF_STRINGS, OFF(namespaces), .check = check_label,
	  .doc = "Known namespaces. When any is listed, everything else in the file may only name those." },
	{ "onboarding", CONF_LIST, OFF(onboarding), .sub = &onboarding_table, .max = 1024, .doc = "Onboarding policies." },
	{ "services", CONF_LIST, OFF(services), .sub = &service_table, .doc = "Services that are declared." },
	{ "workloads", CONF_LIST, OFF(workloads), .sub = &workload_table, .doc = "Fixed workloads." },
	{ "containers", CONF_LIST, OFF(containers), .sub = &container_table, .doc = "Container-registered addresses, for the verdict." },
	{ "authorization", CONF_LIST, OFF(authorization), .sub = &authorization_table, .doc = "Authorization policies." },
};
#undef OFF
const struct conf_table config_table = CONF_TABLE_INIT("controller.yaml", struct config, config_items,
	.doc = "The configuration of outrigger-controller. It is watched. A file that is wrong is refused whole, and the last good one stays in force. "
	       "A good one is applied at once; when it changes something whose column `change` says `restart`, all of it waits for that.");

/* --- loading --- */

static int finish(int r, struct config *c, const char *file, struct config **ret_config, struct diag *d)
{
	if (r == 0) {
		r = config_check(c, file, d);
		if (r < 0)
			conf_free(&config_table, c);
	}
	if (r < 0)
		free(c);
	else
		*ret_config = c;
	return r;
}

int config_load(const char *path, struct config **ret_config, struct diag *reterr_diag)
{
	struct config *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	return finish(conf_load(&config_table, path, c, reterr_diag), c, path, ret_config, reterr_diag);
}

int config_parse(const char *file, const char *text, size_t len, struct config **ret_config, struct diag *reterr_diag)
{
	struct config *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	return finish(conf_parse(&config_table, file, text, len, c, reterr_diag), c, file, ret_config, reterr_diag);
}

struct config *config_free(struct config *c)
{
	while (c) {
		struct config *half_taken = c->half_taken;

		conf_free(&config_table, c);
		free(c);
		c = half_taken;
	}
	return NULL;
}

bool config_has_kubernetes(const struct config *c)
{
	return c->kubernetes.kubeconfig || c->kubernetes.in_cluster;
}

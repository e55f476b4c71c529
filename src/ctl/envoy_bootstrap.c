/*
 * Envoy's bootstrap, as JSON.
 *
 * json_pack() returns NULL for a NULL part, so a lack of memory anywhere makes
 * the whole NULL.
 */
#include "ctl/envoy_bootstrap.h"

#include <stdio.h>
#include <string.h>
#include "ctl/envoy_json.h"

#define TYPE	"type.googleapis.com/envoy."

/* --- parts --- */

json_t *envoy_address(const struct ip_port *addr)
{
	char ip[IP_TEXT_LEN];

	return json_pack("{s:{s:s, s:i}}", "socket_address", "address", ip_format(&addr->ip, ip), "port_value", addr->port);
}

json_t *envoy_filter(const char *name, const char *type, json_t *config)
{
	char url[160];

	snprintf(url, sizeof(url), TYPE "%s", type);
	if (!config || json_object_set_new(config, "@type", json_string(url)) < 0) {
		json_decref(config);
		return NULL;
	}
	return json_pack("{s:s, s:o}", "name", name, "typed_config", config);
}

/* One JSON object a line on standard output, which Envoy need not open. */
static json_t *access_log(const char *direction, const char *peer, const char *target)
{
	json_t *format = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "time", "%START_TIME%", "direction", direction,
		"peer", peer, "target", target, "from", "%DOWNSTREAM_REMOTE_ADDRESS%", "upstream", "%UPSTREAM_HOST%", "code", "%RESPONSE_CODE%",
		"flags", "%RESPONSE_FLAGS%", "failure", "%UPSTREAM_TRANSPORT_FAILURE_REASON%", "bytes_received", "%BYTES_RECEIVED%",
		"bytes_sent", "%BYTES_SENT%", "duration_ms", "%DURATION%");

	return json_pack("[o]", envoy_filter("envoy.access_loggers.stdout", "extensions.access_loggers.stream.v3.StdoutAccessLog",
					      json_pack("{s:{s:o}}", "log_format", "json_format", format)));
}

json_t *envoy_tcp_proxy(const char *name, const char *cluster)
{
	return envoy_filter("envoy.filters.network.tcp_proxy", "extensions.filters.network.tcp_proxy.v3.TcpProxy",
			    json_pack("{s:s, s:s}", "stat_prefix", name, "cluster", cluster));
}

json_t *envoy_original_dst_filter(void)
{
	return envoy_filter("envoy.filters.listener.original_dst", "extensions.filters.listener.original_dst.v3.OriginalDst", json_object());
}

static json_t *no_limits(void)
{
	return json_pack("{s:[{s:I, s:I, s:I, s:I}]}", "thresholds", "max_connections", (json_int_t)1000000, "max_pending_requests",
			 (json_int_t)1000000, "max_requests", (json_int_t)1000000, "max_retries", (json_int_t)1000000);
}

/* A plain socket under the metadata that the internal listener needs. */
static json_t *internal_upstream(void)
{
	static const char *const passed[] = { "envoy.filters.listener.original_dst", "outrigger" };
	json_t *raw = envoy_filter("envoy.transport_sockets.raw_buffer", "extensions.transport_sockets.raw_buffer.v3.RawBuffer", json_object());
	json_t *list = json_array();

	for (size_t i = 0; i < ELEMENTS(passed); i++)
		json_array_append_new(list, json_pack("{s:s, s:{s:{}}}", "name", passed[i], "kind", "host"));
	return envoy_filter("envoy.transport_sockets.internal_upstream",
			    "extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
			    json_pack("{s:o, s:o}", "passthrough_metadata", list, "transport_socket", raw));
}

/* --- TLS --- */

/* A secret in a file that is replaced by renaming: Envoy watches the folder. */
static json_t *secret(const struct envoy_config *c, const char *name, const char *file)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", c->sds_dir, file);
	return json_pack("{s:s, s:{s:{s:s, s:{s:s}}, s:s}}", "name", name, "sds_config", "path_config_source", "path", path,
			 "watched_directory", "path", c->sds_dir, "resource_api_version", "V3");
}

static json_t *common_tls(const struct envoy_config *c, json_t *names)
{
	return json_pack("{s:{s:s, s:s}, s:[s], s:[o], s:{s:{s:o}, s:o}}", "tls_params", "tls_minimum_protocol_version", "TLSv1_3",
			 "tls_maximum_protocol_version", "TLSv1_3", "alpn_protocols", "h2", "tls_certificate_sds_secret_configs",
			 secret(c, "workload", "workload.json"), "combined_validation_context", "default_validation_context",
			 "match_typed_subject_alt_names", names, "validation_context_sds_secret_config", secret(c, "roots", "roots.json"));
}

/* Peers: any identity of the trust domain. */
static json_t *peer_names(const struct envoy_config *c)
{
	char prefix[300];

	snprintf(prefix, sizeof(prefix), "spiffe://%s/", c->trust_domain);
	return json_pack("[{s:s, s:{s:s}}]", "san_type", "URI", "matcher", "prefix", prefix);
}

/* The controller: one of its names or addresses. */
static json_t *controller_names(const struct envoy_config *c)
{
	json_t *list = json_array();
	struct ip ip;

	for (size_t i = 0; i < c->n_server_names; i++)
		json_array_append_new(list, json_pack("{s:s, s:{s:s}}", "san_type", ip_parse(c->server_names[i], &ip) == 0 ? "IP_ADDRESS" : "DNS",
						      "matcher", "exact", c->server_names[i]));
	return list;
}

static json_t *upstream_tls(json_t *common)
{
	return envoy_filter("envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
			    json_pack("{s:o}", "common_tls_context", common));
}

static json_t *http2_options(json_t *h2)
{
	return json_pack("{s:o}", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			 json_pack("{s:s, s:{s:o}}", "@type", TYPE "extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config",
				   "http2_protocol_options", h2));
}

static json_t *keepalive(const char *interval)
{
	return json_pack("{s:s, s:s}", "interval", interval, "timeout", "20s");
}

/* --- clusters --- */

static json_t *single_endpoint(const char *cluster, json_t *address)
{
	return json_pack("{s:s, s:[{s:[{s:{s:o}}]}]}", "cluster_name", cluster, "endpoints", "lb_endpoints", "endpoint", "address", address);
}

static json_t *controller_cluster(const struct envoy_config *c)
{
	const char *colon = strrchr(c->controller, ':');
	struct ip_port addr;
	bool numeric = ip_port_parse(c->controller, &addr) == 0;
	json_t *address = numeric ? envoy_address(&addr) :
		json_pack("{s:{s:s%, s:i}}", "socket_address", "address", c->controller, (size_t)(colon - c->controller), "port_value",
			  (int)strtol(colon + 1, NULL, 10));

	return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "name", "controller", "type", numeric ? "STATIC" : "STRICT_DNS", "connect_timeout", "5s",
			 "load_assignment", single_endpoint("controller", address), "transport_socket",
			 upstream_tls(common_tls(c, controller_names(c))), "typed_extension_protocol_options",
			 http2_options(json_pack("{s:o}", "connection_keepalive", keepalive("30s"))));
}

static json_t *inbound_cluster(uint16_t port)
{
	struct ip_port addr = { .port = port };
	char name[32];

	if (ip_parse("127.0.0.1", &addr.ip) < 0)
		return NULL;
	snprintf(name, sizeof(name), "inbound|%u||", port);
	return json_pack("{s:s, s:s, s:s, s:o, s:o}", "name", name, "type", "STATIC", "connect_timeout", "5s", "circuit_breakers", no_limits(),
			 "load_assignment", single_endpoint(name, envoy_address(&addr)));
}

static json_t *tunnel_match(void)
{
	json_t *raw = envoy_filter("envoy.transport_sockets.raw_buffer", "extensions.transport_sockets.raw_buffer.v3.RawBuffer", json_object());

	return json_pack("[{s:s, s:{s:s}, s:o}, {s:s, s:{}, s:o}]", "name", "hbone", "match", "tunnel", "http", "transport_socket",
			 internal_upstream(), "name", "plain", "match", "transport_socket", raw);
}

/* Upstream as the client speaks: HTTP/1 or HTTP/2. No effect on TCP. */
static json_t *as_downstream(void)
{
	return json_pack("{s:{s:s, s:{s:{}, s:{}}, s:{s:s}}}", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "@type",
			 TYPE "extensions.upstreams.http.v3.HttpProtocolOptions", "use_downstream_protocol_config", "http_protocol_options",
			 "http2_protocol_options", "common_http_protocol_options", "idle_timeout", "60s");
}

json_t *envoy_service_cluster(const char *host, uint16_t port)
{
	char name[320];

	snprintf(name, sizeof(name), "outbound|%u||%s", port, host);
	return json_pack("{s:o, s:s, s:s, s:s, s:{s:s, s:{s:{}, s:s, s:s}}, s:s, s:o, s:o, s:{s:{s:f}}}", "typed_extension_protocol_options", as_downstream(), "name", name, "type", "EDS",
			 "connect_timeout", "5s", "eds_cluster_config", "service_name", name, "eds_config", "ads", "resource_api_version", "V3",
			 "initial_fetch_timeout", "5s", "lb_policy", "ROUND_ROBIN", "circuit_breakers", no_limits(), "transport_socket_matches",
			 tunnel_match(), "common_lb_config", "healthy_panic_threshold", "value", 0.0);
}

/* HBONE to <original destination's address>:15008 */
static json_t *originate_cluster(const struct envoy_config *c)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:{s:i}, s:o, s:o, s:o}", "name", "connect_originate", "type", "ORIGINAL_DST", "lb_policy",
			 "CLUSTER_PROVIDED", "connect_timeout", "5s", "cleanup_interval", "60s", "original_dst_lb_config", "upstream_port_override",
			 15008, "circuit_breakers", no_limits(), "transport_socket", upstream_tls(common_tls(c, peer_names(c))),
			 "typed_extension_protocol_options",
			 http2_options(json_pack("{s:b, s:o}", "allow_connect", 1, "connection_keepalive", keepalive("10s"))));
}

static json_t *passthrough_cluster(void)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:o}", "name", "passthrough", "type", "ORIGINAL_DST", "lb_policy", "CLUSTER_PROVIDED",
			 "connect_timeout", "5s", "circuit_breakers", no_limits());
}

/* Into the tunnel with the original destination as it is: a workload that is dialled by its own address. */
static json_t *direct_cluster(void)
{
	json_t *address = json_pack("{s:{s:s}}", "envoy_internal_address", "server_listener_name", "connect_originate");

	return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "name", "direct", "type", "STATIC", "connect_timeout", "5s", "circuit_breakers",
			 no_limits(), "load_assignment", single_endpoint("direct", address), "transport_socket", internal_upstream());
}

/* Services that are reached by several listeners are one cluster. */
bool envoy_config_has_cluster(const struct envoy_config *c, size_t n_outbound, const char *host, uint16_t port)
{
	for (size_t i = 0; i < n_outbound; i++)
		if (c->outbound[i].port == port && !strcmp(c->outbound[i].host, host))
			return true;
	return false;
}

static json_t *clusters(const struct envoy_config *c)
{
	json_t *list = json_pack("[o, o]", controller_cluster(c), originate_cluster(c));

	for (size_t i = 0; i < c->n_inbound && list; i++)
		json_array_append_new(list, inbound_cluster(c->inbound[i]));
	for (size_t i = 0; i < c->n_outbound && list; i++)
		if (!envoy_config_has_cluster(c, i, c->outbound[i].host, c->outbound[i].port))
			json_array_append_new(list, envoy_service_cluster(c->outbound[i].host, c->outbound[i].port));
	if (c->capture && list) {
		json_array_append_new(list, passthrough_cluster());
		json_array_append_new(list, direct_cluster());
	}
	return list;
}

/* --- listeners --- */

static json_t *inbound_host(const struct envoy_config *c, uint16_t port)
{
	json_t *domains = json_array();
	char text[IP_PORT_TEXT_LEN], cluster[32];

	snprintf(cluster, sizeof(cluster), "inbound|%u||", port);
	for (size_t i = 0; i < c->n_addresses; i++) {
		struct ip_port addr = { c->addresses[i], port };

		json_array_append_new(domains, json_string(ip_port_format(&addr, text)));
	}
	return json_pack("{s:s, s:o, s:[{s:{s:{}}, s:{s:s, s:s, s:[{s:s, s:{}}]}}]}", "name", cluster, "domains", domains, "routes", "match",
			 "connect_matcher", "route", "cluster", cluster, "timeout", "0s", "upgrade_configs", "upgrade_type", "CONNECT",
			 "connect_config");
}

static json_t *inbound_filter(const struct envoy_config *c)
{
	json_t *hosts = json_array();
	json_t *router = envoy_filter("envoy.filters.http.router", "extensions.filters.http.router.v3.Router", json_object());

	for (size_t i = 0; i < c->n_inbound; i++)
		json_array_append_new(hosts, inbound_host(c, c->inbound[i]));
	json_t *hcm = json_pack("{s:s, s:s, s:{s:s, s:o}, s:[o], s:{s:b, s:i, s:o}, s:[{s:s}], s:s, s:o, s:b}", "stat_prefix", "inbound",
		"codec_type", "HTTP2", "route_config", "name", "inbound", "virtual_hosts", hosts, "http_filters", router,
		"http2_protocol_options", "allow_connect", 1, "max_concurrent_streams", 1000, "connection_keepalive", keepalive("10s"),
		"upgrade_configs", "upgrade_type", "CONNECT", "stream_idle_timeout", "0s", "access_log",
		access_log("inbound", "%DOWNSTREAM_PEER_URI_SAN%", "%REQ(:AUTHORITY)%"), "generate_request_id", 0);
	return envoy_filter("envoy.filters.network.http_connection_manager",
			    "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", hcm);
}

static json_t *inbound_listener(const struct envoy_config *c)
{
	struct ip_port any = { .port = 15008 };
	json_t *tls = envoy_filter("envoy.transport_sockets.tls", "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
				   json_pack("{s:b, s:o}", "require_client_certificate", 1, "common_tls_context", common_tls(c, peer_names(c))));
	bool v6 = false;

	for (size_t i = 0; i < c->n_addresses; i++)
		v6 = v6 || !ip_is_v4(&c->addresses[i]);
	if (ip_parse(v6 ? "::" : "0.0.0.0", &any.ip) < 0)
		return NULL;
	json_t *address = envoy_address(&any);
	if (v6)
		json_object_set_new(json_object_get(address, "socket_address"), "ipv4_compat", json_true());
	return json_pack("{s:s, s:o, s:[{s:[o], s:o}]}", "name", "inbound", "address", address, "filter_chains", "filters", inbound_filter(c),
			 "transport_socket", tls);
}

/* The identity that the endpoint's metadata tells becomes the only one that the TLS connection takes. */
static json_t *expected_identity(void)
{
	json_t *value = json_pack("{s:s, s:{s:{s:s}, s:b}, s:s, s:b}", "object_key", "envoy.network.upstream_subject_alt_names", "format_string",
				  "text_format_source", "inline_string", "%DYNAMIC_METADATA(outrigger:identity)%", "omit_empty_values", 1,
				  "shared_with_upstream", "ONCE", "skip_if_empty", 1);

	return envoy_filter("envoy.filters.network.set_filter_state", "extensions.filters.network.set_filter_state.v3.Config",
			    json_pack("{s:[o]}", "on_new_connection", value));
}

static json_t *originate_listener(void)
{
	json_t *proxy = json_pack("{s:s, s:s, s:{s:s}, s:o}", "stat_prefix", "connect_originate", "cluster", "connect_originate",
				  "tunneling_config", "hostname", "%DOWNSTREAM_LOCAL_ADDRESS%", "access_log",
				  access_log("outbound", "%UPSTREAM_PEER_URI_SAN%", "%DOWNSTREAM_LOCAL_ADDRESS%"));

	return json_pack("{s:s, s:{}, s:[o], s:[{s:[o, o]}]}", "name", "connect_originate", "internal_listener", "listener_filters",
			 envoy_original_dst_filter(), "filter_chains", "filters", expected_identity(),
			 envoy_filter("envoy.filters.network.tcp_proxy", "extensions.filters.network.tcp_proxy.v3.TcpProxy", proxy));
}

static json_t *retry_policy(const char *when)
{
	return json_pack("{s:s, s:i, s:i, s:[{s:s, s:{s:s}}]}", "retry_on", when, "num_retries", 3, "host_selection_retry_max_attempts", 5,
			 "retry_host_predicate", "name", "envoy.retry_host_predicates.previous_hosts", "typed_config", "@type",
			 TYPE "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate");
}

/*
 * Two routes: RFC 9110, section 9.2.1: what is safe may be asked again even
 * when it may have arrived; anything else only when it has not.
 */
static json_t *http_routes(const char *cluster)
{
	json_t *safe = json_pack("{s:{s:s, s:[{s:s, s:{s:{s:s}}}]}, s:{s:s, s:s, s:o}}", "match", "prefix", "/", "headers", "name", ":method",
		"string_match", "safe_regex", "regex", "GET|HEAD|OPTIONS", "route", "cluster", cluster, "timeout", "0s", "retry_policy",
		retry_policy("reset,connect-failure,refused-stream"));
	json_t *other = json_pack("{s:{s:s}, s:{s:s, s:s, s:o}}", "match", "prefix", "/", "route", "cluster", cluster, "timeout", "0s", "retry_policy",
		retry_policy("reset-before-request,connect-failure,refused-stream"));

	return json_pack("[o, o]", safe, other);
}

/* As little of a proxy as it can be: nothing is added that a server or a client could see. */
static json_t *http_filter(const char *name, const char *cluster)
{
	json_t *router = envoy_filter("envoy.filters.http.router", "extensions.filters.http.router.v3.Router",
				      json_pack("{s:b}", "suppress_envoy_headers", 1));
	json_t *hcm = json_pack("{s:s, s:{s:s, s:[{s:s, s:[s], s:o}]}, s:[o], s:[{s:s}], s:s, s:s, s:b, s:b}", "stat_prefix", name, "route_config", "name",
		name, "virtual_hosts", "name", name, "domains", "*", "routes", http_routes(cluster), "http_filters", router, "upgrade_configs",
		"upgrade_type", "websocket", "stream_idle_timeout", "0s", "server_header_transformation", "PASS_THROUGH", "generate_request_id", 0,
		"skip_xff_append", 1);

	return envoy_filter("envoy.filters.network.http_connection_manager",
			    "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", hcm);
}

json_t *envoy_service_filter(const char *host, uint16_t port, bool http)
{
	char cluster[320];

	snprintf(cluster, sizeof(cluster), "outbound|%u||%s", port, host);
	return http ? http_filter(cluster, cluster) : envoy_tcp_proxy(cluster, cluster);
}

static json_t *outbound_listener(const struct envoy_outbound *o)
{
	char text[IP_PORT_TEXT_LEN], name[80];

	snprintf(name, sizeof(name), "outbound_%s", ip_port_format(&o->listen, text));
	return json_pack("{s:s, s:o, s:[{s:[o]}]}", "name", name, "address", envoy_address(&o->listen), "filter_chains", "filters",
			 envoy_service_filter(o->host, o->port, o->http));
}

static json_t *listeners(const struct envoy_config *c)
{
	json_t *list = json_pack("[o]", originate_listener());

	if (c->n_inbound && list)
		json_array_append_new(list, inbound_listener(c));
	for (size_t i = 0; i < c->n_outbound && list; i++)
		json_array_append_new(list, outbound_listener(&c->outbound[i]));
	return list;
}

/* --- the whole --- */

/* Istio's form of a sidecar's node. */
static json_t *node(const struct envoy_config *c)
{
	char ips[ENVOY_ADDRESSES_MAX * IP_TEXT_LEN] = "", text[IP_TEXT_LEN], id[1024];

	for (size_t i = 0; i < c->n_addresses; i++)
		snprintf(ips + strlen(ips), sizeof(ips) - strlen(ips), "%s%s", i ? "," : "", ip_format(&c->addresses[i], text));
	snprintf(id, sizeof(id), "sidecar~%s~%s.%s~%s.svc.cluster.local", ip_format(&c->addresses[0], text), c->name, c->ns, c->ns);
	return json_pack("{s:s, s:s, s:{s:s, s:s, s:s, s:s, s:s}}", "id", id, "cluster", c->name, "metadata", "NAMESPACE", c->ns, "SERVICE_ACCOUNT",
			 c->service_account, "INSTANCE_IPS", ips, "WORKLOAD_NAME", c->name, "ENABLE_HBONE", "true");
}

static json_t *file_source(const struct envoy_config *c, const char *file)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s", c->xds_dir, file);
	return json_pack("{s:{s:s, s:{s:s}}, s:s}", "path_config_source", "path", path, "watched_directory", "path", c->xds_dir,
			 "resource_api_version", "V3");
}

static json_t *dynamic_resources(const struct envoy_config *c)
{
	json_t *o = json_pack("{s:{s:s, s:s, s:b, s:[{s:{s:s}}]}}", "ads_config", "api_type", "DELTA_GRPC", "transport_api_version", "V3",
			      "set_node_on_first_message_only", 1, "grpc_services", "envoy_grpc", "cluster_name", "controller");

	if (c->capture && o) {
		json_object_set_new(o, "lds_config", file_source(c, "lds.json"));
		json_object_set_new(o, "cds_config", file_source(c, "cds.json"));
	}
	return o;
}

json_t *envoy_bootstrap(const struct envoy_config *c)
{
	json_t *internal = envoy_filter("envoy.bootstrap.internal_listener", "extensions.bootstrap.internal_listener.v3.InternalListener",
					json_object());
	json_t *o = json_pack("{s:o, s:o, s:[o], s:{s:o, s:o}}", "node", node(c), "dynamic_resources", dynamic_resources(c),
			      "bootstrap_extensions", internal, "static_resources", "listeners", listeners(c), "clusters", clusters(c));
	struct ip_port admin = { .port = c->admin_port };

	if (o && c->admin_port && ip_parse("127.0.0.1", &admin.ip) == 0)
		json_object_set_new(o, "admin", json_pack("{s:o}", "address", envoy_address(&admin)));
	return o;
}

/* --- secrets --- */

json_t *envoy_sds_certificate(const char *chain_pem, const char *key_pem)
{
	return json_pack("{s:[{s:s, s:s, s:{s:{s:s}, s:{s:s}}}]}", "resources", "@type", TYPE "extensions.transport_sockets.tls.v3.Secret", "name",
			 "workload", "tls_certificate", "certificate_chain", "inline_string", chain_pem, "private_key", "inline_string", key_pem);
}

json_t *envoy_sds_roots(const char *roots_pem)
{
	return json_pack("{s:[{s:s, s:s, s:{s:{s:s}}}]}", "resources", "@type", TYPE "extensions.transport_sockets.tls.v3.Secret", "name", "roots",
			 "validation_context", "trusted_ca", "inline_string", roots_pem);
}

"""Static configurations that make an unmodified Envoy an HBONE peer. @leaf has the paths cert, key and roots."""


def envoy_tls(leaf, upstream):
    kind = "Upstream" if upstream else "Downstream"
    common = {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": {"filename": leaf.cert}, "private_key": {"filename": leaf.key}}],
        "validation_context": {"trusted_ca": {"filename": leaf.roots}},
    }
    c = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.%sTlsContext" % kind, "common_tls_context": common}
    if not upstream:
        c["require_client_certificate"] = True
    return {"name": "tls", "typed_config": c}


def envoy_address(addr, port):
    return {"socket_address": {"address": addr, "port_value": port}}


def envoy_cluster(name, addr, port, **more):
    endpoint = {"endpoint": {"address": envoy_address(addr, port)}}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}, **more}


def envoy_h2_upstream():
    h = {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
         "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}}}
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": h}


def envoy_client(leaf, listen, target, authority):
    t = {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "out",
         "tunneling_config": {"hostname": authority}}
    return {"listeners": [{"name": "out", "address": envoy_address(*listen), "filter_chains": [{"filters": [{"name": "t", "typed_config": t}]}]}],
            "clusters": [envoy_cluster("out", *target, transport_socket=envoy_tls(leaf, True),
                                       typed_extension_protocol_options=envoy_h2_upstream())]}


def envoy_server(leaf, listen, target):
    route = {"match": {"connect_matcher": {}},
             "route": {"cluster": "in", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}
    hcm = {"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
           "stat_prefix": "h", "codec_type": "HTTP2", "http2_protocol_options": {"allow_connect": True},
           "upgrade_configs": [{"upgrade_type": "CONNECT"}],
           "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [route]}]},
           "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
               "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}
    chain = {"filters": [{"name": "h", "typed_config": hcm}], "transport_socket": envoy_tls(leaf, False)}
    return {"listeners": [{"name": "in", "address": envoy_address(*listen), "filter_chains": [chain]}], "clusters": [envoy_cluster("in", *target)]}


def envoy_sidecar(client, server):
    """One Envoy that does both."""
    return {k: client[k] + server[k] for k in ("listeners", "clusters")}

"""An unmodified upstream Envoy as a pod's sidecar or as a waypoint, driven by istiod: what Istio's own image does with its agent, in a namespace.

Istio's Envoy has filters that the upstream one does not. KubeLab.start_istiod() has istiod leave most of them out; the others are in
its HBONE listener and in a waypoint's routes, and ENVOY_FILTER takes their place.
"""

import json
import os
import socket
import subprocess
import threading

import h2.config
import h2.connection
import h2.events

from netlab import wait_until
from pbwire import field, fields
from ztunnel import CAPTURE, USER

ENVOY = os.environ.get("ENVOY_BIN") or os.path.join(os.path.dirname(__file__), "..", "..", "build", "cache", "envoy", "envoy", "_bin", "envoy")
LABELS = {"security.istio.io/tlsMode": "istio", "networking.istio.io/tunnel": "http"}    # what the injector writes at a pod with ENABLE_HBONE

ENVOY_FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: { name: %(name)s, namespace: %(namespace)s }
spec:
%(target)s
  configPatches:
    - applyTo: HTTP_FILTER
      match:
        context: SIDECAR_INBOUND
        listener: { name: connect_terminate, filterChain: { filter: { name: envoy.filters.network.http_connection_manager, subFilter: { name: waypoint_downstream_peer_metadata } } } }
      patch: { operation: REMOVE }
    - applyTo: HTTP_FILTER
      match:
        context: SIDECAR_INBOUND
        listener: { name: main_internal, filterChain: { filter: { name: envoy.filters.network.http_connection_manager, subFilter: { name: waypoint_upstream_peer_metadata } } } }
      patch: { operation: REMOVE }
    - applyTo: HTTP_FILTER
      match:
        context: SIDECAR_INBOUND
        listener: { name: connect_terminate, filterChain: { filter: { name: envoy.filters.network.http_connection_manager, subFilter: { name: connect_authority } } } }
      patch:
        operation: REPLACE
        value:
          name: connect_authority
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config
            on_request_headers:
              - { object_key: envoy.filters.listener.original_dst.local_ip, format_string: { text_format_source: { inline_string: "%%REQ(:AUTHORITY)%%" } }, shared_with_upstream: ONCE }
              - { object_key: envoy.filters.listener.original_dst.remote_ip, format_string: { text_format_source: { inline_string: "%%DOWNSTREAM_REMOTE_ADDRESS%%" } }, shared_with_upstream: ONCE }
              - { object_key: io.istio.connect_authority, factory_key: envoy.hashable_string, format_string: { text_format_source: { inline_string: "%%REQ(:AUTHORITY)%%" } }, shared_with_upstream: ONCE }
              - { object_key: io.istio.peer_principal, factory_key: envoy.hashable_string, format_string: { text_format_source: { inline_string: "%%DOWNSTREAM_PEER_URI_SAN%%" } }, shared_with_upstream: ONCE }
              - { object_key: io.istio.local_principal, factory_key: envoy.hashable_string, format_string: { text_format_source: { inline_string: "%%DOWNSTREAM_LOCAL_URI_SAN%%" } }, shared_with_upstream: ONCE }
"""


def envoy_filter(namespace, gateway=None):
    """For the sidecars of a namespace, or for a waypoint in it, which takes none that does not name it."""
    target = '  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: "%s" }]' % gateway if gateway else ""
    return ENVOY_FILTER % {"namespace": namespace, "name": "upstream-envoy" + ("-" + gateway if gateway else ""), "target": target}


def missing():
    """Why there is none, or None."""
    return None if os.access(ENVOY, os.X_OK) else "no Envoy: ENVOY_BIN, or tools/fetch-envoy"


# --- secrets: Envoy asks Istio's agent for "default" and "ROOTCA" by gRPC on a Unix socket ---

class Secrets:
    """envoy.service.secret.v3.SecretDiscoveryService at @path: certificate and roots as names of files that Envoy reads itself."""

    URL = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

    def __init__(self, path, chain, key, roots):
        self.files = chain, key, roots
        self.refused = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _secret(self, name):
        chain, key, roots = (field(1, f) for f in self.files)     # DataSource.filename
        if name == "ROOTCA":
            return field(1, name) + field(4, field(1, roots))
        return field(1, name) + field(2, field(1, chain) + field(2, key))

    def _accept(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, sock):
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        conn.initiate_connection()
        partial = {}
        try:
            with sock:
                sock.sendall(conn.data_to_send())
                while data := sock.recv(65536):
                    for e in conn.receive_data(data):
                        if isinstance(e, h2.events.RequestReceived):
                            partial[e.stream_id] = b""
                            conn.send_headers(e.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                        elif isinstance(e, h2.events.DataReceived):
                            conn.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
                            partial[e.stream_id] = self._answer(conn, e.stream_id, partial[e.stream_id] + e.data)
                    sock.sendall(conn.data_to_send())
        except (OSError, h2.exceptions.ProtocolError):
            pass

    def _answer(self, conn, stream, data):
        """To each whole DiscoveryRequest that acknowledges nothing. Returns what is not whole yet."""
        while len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[1:5], "big"):
            n = int.from_bytes(data[1:5], "big")
            request, data = list(fields(data[5:5 + n])), data[5 + n:]
            self.refused += [v for k, v in request if k == 6]
            if any(k == 5 for k, _ in request):
                continue
            secrets = [self._secret(v.decode()) for k, v in request if k == 3]
            reply = field(1, "1") + b"".join(field(2, field(1, self.URL) + field(2, s)) for s in secrets) + field(4, self.URL) + field(5, "1")
            conn.send_data(stream, b"\0" + len(reply).to_bytes(4, "big") + reply)
        return data

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


# --- the sidecar ---

def h2_cluster(name, address, **more):
    options = {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", **more,
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}}


def bootstrap(role, namespace, name, account, address, labels, control, secrets, cert, roots):
    node = {
        "id": "%s~%s~%s.%s~%s.svc.cluster.local" % (role, address, name, namespace, namespace), "cluster": account + "." + namespace,
        "metadata": {"NAMESPACE": namespace, "SERVICE_ACCOUNT": account, "INSTANCE_IPS": address, "CLUSTER_ID": "Kubernetes", "ISTIO_VERSION": "1.31.0",
                     "NAME": name, "WORKLOAD_NAME": account, "INTERCEPTION_MODE": "REDIRECT", "ENABLE_HBONE": "true", "LABELS": labels,
                     "PROXY_CONFIG": {"concurrency": 1}}}
    tls = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", "sni": "istiod.istio-system.svc",
           "common_tls_context": {
               "alpn_protocols": ["h2"], "tls_certificates": [{"certificate_chain": {"filename": cert[0]}, "private_key": {"filename": cert[1]}}],
               "validation_context": {"trusted_ca": {"filename": roots},
                                      "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "istiod.istio-system.svc"}}]}}}
    ads = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    at, port = control.rsplit(":", 1)
    return {
        "node": node,
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 15000}}},
        "bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"}}],
        "dynamic_resources": {
            "lds_config": ads, "cds_config": ads,
            "ads_config": {"api_type": "DELTA_GRPC", "set_node_on_first_message_only": True, "transport_api_version": "V3",
                           "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}]}},
        "static_resources": {"clusters": [
            h2_cluster("xds-grpc", {"socket_address": {"address": at, "port_value": int(port)}}, transport_socket={"name": "tls", "typed_config": tls}),
            h2_cluster("sds-grpc", {"pipe": {"path": secrets}})]}}


class Sidecar:
    """@who is namespace/name/account of @pod; @cert and @roots are the paths of its (chain, key) and of the mesh's roots."""

    role = "sidecar"
    capture = CAPTURE % USER.pw_uid

    def __init__(self, pod, folder, who, labels, control, cert, roots):
        self.pod, self.lab, self.log_name = pod, pod.lab, pod.name + ".envoy"
        namespace, name, account = who.split("/")
        path = os.path.join(folder, pod.name + ".sds")
        for f in (*cert, roots):
            os.chmod(f, 0o644)
        self.secrets = Secrets(path, *cert, roots)
        config = os.path.join(folder, pod.name + "-sidecar.json")
        with open(config, "w") as f:
            json.dump(bootstrap(self.role, namespace, name, account, pod.address, labels, control, path, cert, roots), f)
        if self.capture:
            pod.run("nft", "-f", "-", input=self.capture)
        self.process = pod.popen(
            ["setpriv", "--reuid=%d" % USER.pw_uid, "--regid=%d" % USER.pw_gid, "--clear-groups", ENVOY, "-c", config, "--concurrency", "1",
             "--disable-hot-restart", "-l", "warning"], "envoy")

    def admin(self, path):
        return self.pod.run("curl", "-s", "-m", "5", "http://127.0.0.1:15000/" + path, check=False)

    def ready(self):
        def is_ready():
            assert self.process.poll() is None, self.lab.log(self.log_name)[-4000:]
            return self.admin("ready").strip() == "LIVE" and ":15008 " in self.pod.run("ss", "-Hltn")
        try:
            wait_until("the sidecar of " + self.pod.name, is_ready, 60)
        except Exception:
            print(self.lab.log(self.log_name)[-6000:], self.secrets.refused)
            raise
        assert not self.rejected(), self.lab.log(self.log_name)[-4000:]
        return self

    def stats(self, pattern):
        """Counters whose name holds @pattern, as {name: value}."""
        lines = [line.rsplit(": ", 1) for line in self.admin("stats?filter=" + pattern).splitlines()]
        return {name: int(value) for name, value in (parts for parts in lines if len(parts) == 2) if value.isdigit()}

    def rejected(self):
        """Resources of istiod that it did not take."""
        return sum(self.stats("update_rejected").values())

    def tunnelled(self):
        """Streams that it has opened by HBONE."""
        return sum(self.stats("^cluster.connect_originate.*upstream_rq_total$").values())

    def close(self):
        self.lab.stop(self.process, 20)
        self.secrets.close()
        if self.capture:
            subprocess.run(self.pod.argv("nft", "delete", "table", "ip", "ztunnel"), check=False)


class Waypoint(Sidecar):
    """Takes what is addressed to it, by HBONE: nothing is captured."""

    role = "waypoint"
    capture = None

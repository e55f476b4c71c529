"""Pairs of proxies: client -> A (plain in) -> mutual TLS -> B (plain out) -> backend. One worker each, both on one CPU."""

import json
import os
import shutil
import subprocess

from lab import BUILD, PROXY_CPU, cpu_s, family, memory_kb

BACKEND = 9000
P256 = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
IDS = {"a": "spiffe://bench.mesh/ns/bench/sa/a", "b": "spiffe://bench.mesh/ns/bench/sa/b"}


def openssl(folder, *argv):
    subprocess.run(["openssl", *argv], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_certs(folder):
    """One root, two P-256 leaves with SPIFFE names, as short-lived as a run."""
    openssl(folder, "req", "-x509", *P256, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=bench root")
    for name, uri in IDS.items():
        make_cert(folder, name, uri)


def make_cert(folder, name, uri):
    with open(os.path.join(folder, name + ".ext"), "w") as f:
        f.write("subjectAltName=URI:%s,DNS:mesh.local\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=critical,digitalSignature\n" % uri)
    openssl(folder, "req", *P256, "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=" + name)
    openssl(folder, "x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", name + ".pem", "-days", "2", "-extfile", name + ".ext")
    with open(os.path.join(folder, name + ".both"), "w") as out:
        for part in (".pem", ".key"):
            with open(os.path.join(folder, name + part)) as f:
                out.write(f.read())


class Contender:
    name = None
    binary = None
    memory_pairs = 1

    def __init__(self, ns, first_port, pairs=1):
        self.ns = ns
        self.pairs = pairs
        self.ports = [(first_port + 2 * i, first_port + 2 * i + 1) for i in range(pairs)]
        self.spaces = {"a": ns, "b": ns}
        self.hosts = {"a": ("127.0.0.1", "127.0.0.1"), "b": ("127.0.0.1", "127.0.0.1")}     # where each listens, and where it connects to
        self.processes = {"a": [], "b": []}

    @classmethod
    def missing(cls):
        return None if shutil.which(cls.binary) else "%s is not installed" % cls.binary

    def file(self, name, text):
        path = os.path.join(self.ns.dir, "%s-%s" % (self.name, name))
        with open(path, "w") as f:
            f.write(text)
        return path

    def start(self):
        for i, (pa, pb) in enumerate(self.ports):
            for role, listen, to in (("b", pb, BACKEND), ("a", pa, pb)):
                argv = self.command(role, "%s:%d" % (self.hosts[role][0], listen), "%s:%d" % (self.hosts[role][1], to), i)
                self.processes[role].append(self.spaces[role].popen(argv, PROXY_CPU, "%s-%s%d" % (self.name, role, i)))
        for pa, pb in self.ports:
            self.spaces["b"].wait_listening(pb, self.processes["b"][-1])
            self.spaces["a"].wait_listening(pa, self.processes["a"][-1])
        return self

    @property
    def addresses(self):
        return ["127.0.0.1:%d" % pa for pa, _ in self.ports]

    def pids(self, role=None):
        return [q for r in ("a", "b") if role in (None, r) for p in self.processes[r] for q in family(p.pid)]

    def cpu_s(self, role=None):
        return cpu_s(self.pids(role))

    def memory_kb(self, role=None):
        return memory_kb(self.pids(role))

    def stop(self):
        for r in ("a", "b"):
            for p in self.processes[r]:
                self.spaces[r].stop(p)
            self.processes[r] = []


class Direct(Contender):
    name = "direct"

    @classmethod
    def missing(cls):
        return None

    def start(self):
        return self

    @property
    def addresses(self):
        return ["127.0.0.1:%d" % BACKEND] * self.pairs


class HAProxy(Contender):
    name, binary = "haproxy", "haproxy"

    def command(self, role, listen, to, i):
        tls_in = " ssl crt b.both ca-file ca.pem verify required" if role == "b" else ""
        tls_out = " ssl crt a.both ca-file ca.pem verify required verifyhost mesh.local sni str(mesh.local)" if role == "a" else ""
        c = os.path.join(self.ns.dir, "")
        text = """global
  nbthread 1
  maxconn 9900
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-server-options ssl-min-ver TLSv1.3
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
  ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode tcp
  timeout connect 5s
  timeout client 10m
  timeout server 10m
frontend f
  bind %s%s
  default_backend b
backend b
  server s %s%s
""" % (listen, tls_in.replace("b.both", c + "b.both").replace("ca.pem", c + "ca.pem"), to, tls_out.replace("a.both", c + "a.both").replace("ca.pem", c + "ca.pem"))
        return ["haproxy", "-db", "-f", self.file("%s%d.cfg" % (role, i), text)]


class Nginx(Contender):
    name, binary = "nginx", "nginx"
    MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"

    @classmethod
    def missing(cls):
        return super().missing() or (None if os.path.exists(cls.MODULE) else "nginx's stream module (libnginx-mod-stream) is not installed")

    def command(self, role, listen, to, i):
        c = self.ns.dir
        if role == "b":
            tls = "ssl_certificate %s/b.pem; ssl_certificate_key %s/b.key; ssl_client_certificate %s/ca.pem; ssl_verify_client on; ssl_protocols TLSv1.3; ssl_session_cache shared:s:4m;" % (c, c, c)
        else:
            tls = ("proxy_ssl on; proxy_ssl_certificate %s/a.pem; proxy_ssl_certificate_key %s/a.key; proxy_ssl_trusted_certificate %s/ca.pem; proxy_ssl_verify on; "
                   "proxy_ssl_name mesh.local; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on;") % (c, c, c)
        text = """load_module %s;
worker_processes 1; daemon off; error_log /dev/null; pid %s/nginx-%s%d.pid;
events { worker_connections 19900; }
stream { server { listen %s%s backlog=4096; proxy_pass %s; proxy_timeout 10m; tcp_nodelay on; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; %s } }
""" % (self.MODULE, c, role, i, listen, " ssl" if role == "b" else "", to, tls)
        if role == "a":
            text = text.replace("ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ", "")
        return ["nginx", "-p", c, "-c", self.file("%s%d.conf" % (role, i), text)]


class Envoy(Contender):
    name = "envoy"
    hbone = False
    binary = os.path.join(BUILD, "cache", "envoy", "envoy", "_bin", "envoy")

    @classmethod
    def missing(cls):
        return None if os.access(os.environ.get("ENVOY_BIN", cls.binary), os.X_OK) else "no Envoy: run tools/fetch-envoy"

    def tls(self, role):
        c = self.ns.dir
        common = {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3", "ecdh_curves": ["X25519"]},
            "tls_certificates": [{"certificate_chain": {"filename": "%s/%s.pem" % (c, role)}, "private_key": {"filename": "%s/%s.key" % (c, role)}}],
            "validation_context": {"trusted_ca": {"filename": c + "/ca.pem"}},
        }
        if self.hbone:
            common["alpn_protocols"] = ["h2"]
        kind = "Upstream" if role == "a" else "Downstream"
        config = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.%sTlsContext" % kind, "common_tls_context": common}
        if role == "a":
            config["sni"] = "mesh.local"
        else:
            config["require_client_certificate"] = True
        return {"name": "tls", "typed_config": config}

    def filter(self, role):
        tcp = {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "u", "idle_timeout": "0s"}
        if self.hbone and role == "a":
            tcp["tunneling_config"] = {"hostname": "127.0.0.1:%d" % BACKEND}
        if not self.hbone or role == "a":
            return {"name": "t", "typed_config": tcp}
        return {"name": "hcm", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "h", "codec_type": "HTTP2",
            "http2_protocol_options": self.http2(), "generate_request_id": False, "stream_idle_timeout": "0s",
            "route_config": {"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [{"match": {"connect_matcher": {}}, "route": {
                "cluster": "u", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}]}]},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
            "upgrade_configs": [{"upgrade_type": "CONNECT"}]}}

    @staticmethod
    def http2():
        return {"max_concurrent_streams": 1000, "initial_stream_window_size": 1048576, "initial_connection_window_size": 16777216, "allow_connect": True}

    @staticmethod
    def address(where):
        host, port = where.split(":")
        return {"socket_address": {"address": host, "port_value": int(port)}}

    def command(self, role, listen, to, i):
        cluster = {"name": "u", "type": "STATIC", "connect_timeout": "5s",
                   "load_assignment": {"cluster_name": "u", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": self.address(to)}}]}]},
                   "circuit_breakers": {"thresholds": [{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}]}}
        if role == "a":
            cluster["transport_socket"] = self.tls("a")
            if self.hbone:
                cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": self.http2()}}}
        chain = {"filters": [self.filter(role)]}
        if role == "b":
            chain["transport_socket"] = self.tls("b")
        config = {"static_resources": {"listeners": [{"name": "l", "address": self.address(listen),
                                                      "filter_chains": [chain], "enable_reuse_port": True, "tcp_backlog_size": 4096}], "clusters": [cluster]}}
        return [os.environ.get("ENVOY_BIN", self.binary), "--concurrency", "1", "--base-id", str(1000 + int(listen.split(":")[1]) + 20000 * (role == "b")), "--log-level", "error",
                "--disable-hot-restart", "-c", self.file("%s%d.json" % (role, i), json.dumps(config))]


class EnvoyHbone(Envoy):
    name = "envoy-hbone"
    hbone = True


class Outrigger(Contender):
    """Ours, without agent and BPF: the same data path, told by a file what agent and controller would say."""
    name = "outrigger"
    binary = os.path.join(BUILD, "src", "proxy", "outrigger-proxy")
    SERVICE_PORT = 9100
    memory_pairs = 2        # VMs that hold connections between them: none may take more than its share of the descriptors

    @classmethod
    def missing(cls):
        return None if os.access(cls.binary, os.X_OK) else "outrigger-proxy is not built"

    WORLD = """trust_domain: bench.mesh
roots: ca.pem
"""
    # Each VM of A calls a service that one VM of B offers; all have identities of their own.
    WORKLOADS = """  - {uid: vm/%(a)s, name: %(a)s, namespace: bench, service_account: %(a)s, addresses: [127.2.%(i)d.2], hbone: true, services: {}}
  - {uid: vm/%(b)s, name: %(b)s, namespace: bench, service_account: %(b)s, addresses: [127.3.%(i)d.3], hbone: true, services: {bench/api%(i)d: {%(service)d: %(backend)d}}}
"""
    SERVICE = "  - {name: api%(i)d, namespace: bench, hostname: api%(i)d, addresses: [127.1.%(i)d.1], ports: {%(service)d: %(backend)d}}\n"
    VM = {
        "a": "  - {id: %(a)s, uid: vm/%(a)s, namespace: bench, service_account: %(a)s, addresses: [127.2.%(i)d.2], mode: strict, cert: %(a)s.pem, key: %(a)s.key, "
             "outbound: '127.1.%(i)d.1:%(service)d', inbound: '127.2.%(i)d.2:15008'}\n",
        "b": "  - {id: %(b)s, uid: vm/%(b)s, namespace: bench, service_account: %(b)s, addresses: [127.3.%(i)d.3], mode: strict, cert: %(b)s.pem, key: %(b)s.key, "
             "outbound: '127.3.%(i)d.3:15001', inbound: '127.3.%(i)d.3:15008'}\n",
    }

    def names(self, i):
        return {"a": "a%d" % i if i else "a", "b": "b%d" % i if i else "b", "i": i, "service": self.SERVICE_PORT, "backend": BACKEND}

    def yaml(self, role):
        every = [self.names(i) for i in range(self.pairs)]
        parts = [("workloads", self.WORKLOADS), ("services", self.SERVICE), ("vms", self.VM[role])]
        return self.WORLD + "".join("%s:\n%s" % (key, "".join(row % n for n in every)) for key, row in parts)

    def make_identities(self):
        for n in (self.names(i) for i in range(self.pairs)):
            for name in (n["a"], n["b"]):
                if not os.path.exists(os.path.join(self.ns.dir, name + ".pem")):
                    make_cert(self.ns.dir, name, "spiffe://bench.mesh/ns/bench/sa/" + name)

    def command(self, role, listen, to, i):
        return [self.binary, "--workers", "1", "--static", self.file("%s%d.yaml" % (role, i), self.yaml(role))]

    def start(self):
        """However many pairs are wanted: they are VMs, two processes serve them all."""
        self.make_identities()
        for role, port in (("b", 15008), ("a", self.SERVICE_PORT)):
            p = self.ns.popen(self.command(role, 0, 0, 0), PROXY_CPU, "%s-%s" % (self.name, role))
            self.processes[role].append(p)
            self.ns.wait_listening(port, p)
        return self

    @property
    def addresses(self):
        return ["127.1.%d.1:%d" % (i, self.SERVICE_PORT) for i in range(self.pairs)]

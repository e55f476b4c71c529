"""outrigger-proxy by itself: two of them in two namespaces, without BPF; then one with an agent made by hand and a real controller.

The client's host has the service's address on its loopback device, so what dials it reaches the proxy's outbound listener.
"""
import ctypes
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from meshlab import PROXY, ROOT, Agent, Controller, Pki, Proxy, serial_of, unix_get, wait_for  # noqa: E402
from netlab import Lab  # noqa: E402
from pbwire import message  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

A, B, VIP = "10.77.0.1", "10.77.0.2", "10.96.0.1"
LIBC = ctypes.CDLL(None, use_errno=True)


def socket_in(host, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    """A socket of another namespace: a thread goes there, makes it, and ends."""
    made = []

    def make():
        with open("/run/netns/" + host.ns) as ns:
            if LIBC.setns(ns.fileno(), 0x40000000):
                return
        made.append(socket.socket(family, kind))

    t = threading.Thread(target=make)
    t.start()
    t.join()
    return made[0]


def listener_in(host, address, port):
    s = socket_in(host)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port))
    s.listen(100)
    return s


def dial(host, address, port, timeout=5):
    s = socket_in(host)
    s.settimeout(timeout)
    s.connect((address, port))
    return s


class Echo:
    """An application that answers what it is told, with its name before it."""

    def __init__(self, host, address, port, name=b""):
        self.name = name
        self.n = 0
        self.listener = listener_in(host, address, port)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c, _ = self.listener.accept()
            except OSError:
                return
            self.n += 1
            threading.Thread(target=self.talk, args=(c,), daemon=True).start()

    def talk(self, c):
        with c:
            try:
                while data := c.recv(65536):
                    c.sendall(self.name + data)
            except OSError:
                pass

    def close(self):
        # Somebody blocks in accept(): shutdown() wakes him.
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()


def ask(s, data=b"hello"):
    s.sendall(data)
    got = b""
    while len(got) < len(data):
        part = s.recv(65536)
        if not part:
            break
        got += part
    return got


def refused(host, address=VIP, port=9000):
    """The connection does not get through: refused, reset or ended without an answer."""
    try:
        with dial(host, address, port) as s:
            return ask(s) == b""
    except OSError:
        return True


@pytest.fixture
def lab():
    with Lab("px%d" % (os.getpid() % 100000)) as lab:
        lab.a = lab.host("a")
        lab.b = lab.host("b")
        lab.cable(lab.a, "eth0", lab.b, "eth0", A + "/24", B + "/24")
        lab.a.ip("addr", "add", VIP + "/32", "dev", "lo")
        lab.pki = Pki(lab.dir)
        lab.pki.leaf("a", "shop", "web")
        lab.pki.leaf("b", "shop", "api")
        lab.proxies = []
        try:
            yield lab
        finally:
            for p in lab.proxies:
                p.kill()


RESOURCES = """
workloads:
  - {uid: vm/a, name: a, namespace: shop, service_account: web, addresses: [%s], hbone: true}
  - {uid: vm/b, name: b, namespace: shop, service_account: api, addresses: [%s], hbone: true, services: {shop/api: {9000: 8080}}}
services:
  - {name: api, namespace: shop, hostname: api, addresses: [%s], ports: {9000: 8080}}
""" % (A, B, VIP)

VM_A = """
vms:
  - {id: a, uid: vm/a, namespace: shop, service_account: web, addresses: [%s], cert: a.pem, key: a.key, outbound: "%s:9000", inbound: "%s:15008"}
""" % (A, VIP, A)

VM_B = """
vms:
  - {id: b, uid: vm/b, namespace: shop, service_account: api, addresses: [%s], cert: b.pem, key: b.key, inbound: "%s:15008"}
""" % (B, B)


def start(lab, host, name, text, **kw):
    p = Proxy(host, lab.dir, name, text, **kw)
    lab.proxies.append(p)
    return p


@pytest.fixture
def pair(lab):
    lab.pa = start(lab, lab.a, "a", VM_A + RESOURCES)
    lab.pb = start(lab, lab.b, "b", VM_B + RESOURCES)
    lab.app = Echo(lab.b, B, 8080)
    yield lab
    lab.app.close()


def test_two_proxies_carry_a_connection(pair):
    with dial(pair.a, VIP, 9000) as s:
        assert ask(s) == b"hello"
        big = os.urandom(3 << 20)
        got = bytearray()

        def read():
            while len(got) < len(big):
                got.extend(s.recv(1 << 20))

        reader = threading.Thread(target=read)
        reader.start()
        s.sendall(big)
        reader.join(30)
        assert got == big
        wait_for(lambda: pair.pa.connections(), why="the connection in the list")
        c = pair.pa.connections()[0]
        assert c["direction"] == "outbound" and c["hbone"] and c["peer"] == pair.pki.id("shop", "api")

    total = len(big) + 5
    labels = dict(source_principal=pair.pki.id("shop", "web"), destination_principal=pair.pki.id("shop", "api"),
                  connection_security_policy="mutual_tls", destination_workload="b", source_workload="a", response_flags="-")
    for proxy, reporter in ((pair.pa, "source"), (pair.pb, "destination")):
        wait_for(lambda: proxy.metric("istio_tcp_connections_closed_total", reporter=reporter, **labels) == 1, why=reporter)
        assert proxy.metric("istio_tcp_connections_opened_total", reporter=reporter, **labels) == 1
        assert proxy.metric("istio_tcp_sent_bytes_total", reporter=reporter, **labels) == total
        assert proxy.metric("istio_tcp_received_bytes_total", reporter=reporter, **labels) == total
    assert pair.pa.metric("istio_tcp_connections_opened_total", destination_service="api", destination_service_namespace="shop") == 1
    wait_for(lambda: pair.pa.access() and pair.pb.access(), why="the access logs")
    line = pair.pa.access()[0]
    assert line["src.identity"] == pair.pki.id("shop", "web") and line["dst.identity"] == pair.pki.id("shop", "api")
    assert line["dst.hbone_addr"] == B + ":15008" and line["dst.addr"] == B + ":8080" and line["dst.service"] == "api"
    assert line["bytes_sent"] == line["bytes_recv"] == total and "error" not in line
    assert pair.pb.access()[0]["direction"] == "inbound"
    pair.pa.stop()
    pair.pb.stop()


def test_many_connections_over_few_tunnels(pair):
    with dial(pair.a, VIP, 9000) as s:
        ask(s)
    for _ in range(3):
        streams = [dial(pair.a, VIP, 9000) for _ in range(100)]
        for i, s in enumerate(streams):
            assert ask(s, b"%d" % i) == b"%d" % i
        for s in streams:
            s.close()
    assert pair.app.n == 301
    assert pair.pb.metric("outrigger_vm_tunnels_opened_total", direction="inbound") <= 4


def test_connections_and_tunnels_are_spread_over_the_workers(lab):
    """The kernel wakes the same idle worker for each that comes alone."""
    pa = start(lab, lab.a, "a", VM_A + RESOURCES, workers=3)
    pb = start(lab, lab.b, "b", VM_B + RESOURCES, workers=3)
    app = Echo(lab.b, B, 8080)
    held = []
    for _ in range(24):
        held.append(dial(lab.a, VIP, 9000))
        assert ask(held[-1]) == b"hello"
    for p, what, least in ((pa, "connections", 4), (pb, "tunnels", 1), (pb, "connections", 2)):
        loads = [p.metric("outrigger_proxy_worker_" + what, worker=str(w)) for w in range(3)]
        assert min(loads) >= least, (p.name, what, loads)
    for s in held:
        assert ask(s, b"still there") == b"still there"
        s.close()
    wait_for(lambda: not pa.metric("outrigger_proxy_worker_connections") + pb.metric("outrigger_proxy_worker_connections"), why="their ends")
    app.close()


def test_half_close_passes_through(pair):
    with dial(pair.a, VIP, 9000) as s:
        s.sendall(b"bye")
        s.shutdown(socket.SHUT_WR)
        got = b""
        while part := s.recv(100):
            got += part
        assert got == b"bye"


def test_it_runs_without_rights(pair):
    status = pathlib.Path("/proc/%d/status" % pair.pa.process.pid).read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["CapEff"].strip("0") == fields["CapPrm"].strip("0") == fields["CapBnd"].strip("0") == ""
    assert fields["NoNewPrivs"] == "1"
    if "Seccomp" in fields and fields["Seccomp"] == "0":
        pytest.skip("built with a sanitizer")
    maps = pathlib.Path("/proc/%d/maps" % pair.pa.process.pid).read_text()
    assert not [line for line in maps.splitlines() if line.split()[1].startswith("rwx")]


def test_only_root_the_agent_and_itself_may_ask_its_socket(pair):
    asked = ["curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(pair.pa.admin), "http://x/vms"]
    os.chmod(pair.dir, 0o755)
    assert subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout == "200"
    as_nobody = ["setpriv", "--reuid=65534", "--clear-groups", *asked]
    assert subprocess.run(as_nobody, stdout=subprocess.PIPE, text=True, check=True).stdout == "403"
    assert subprocess.run([*as_nobody[:-1], "-X", "PUT", "http://x/log?level=debug"], stdout=subprocess.PIPE, text=True, check=True).stdout == "403"


def test_a_peer_with_another_identity_is_refused(lab):
    lab.pki.leaf("evil", "evil", "evil")
    pa = start(lab, lab.a, "a", VM_A + RESOURCES)
    start(lab, lab.b, "b", VM_B.replace("b.pem", "evil.pem").replace("b.key", "evil.key") + RESOURCES)
    app = Echo(lab.b, B, 8080)
    assert refused(lab.a)
    assert app.n == 0
    line = wait_for(pa.access, why="the access log")[-1]
    assert lab.pki.id("evil", "evil") in line["error"] or "spiffe" in line["error"], line
    assert pa.metric("outrigger_vm_tls_refused_total") >= 1
    app.close()


def test_a_client_of_another_root_is_refused(lab):
    other = pathlib.Path(lab.dir) / "other"
    other.mkdir()
    pki = Pki(other)
    pki.leaf("a", "shop", "web")
    # It trusts the right root, and has a certificate of another.
    shutil.copy(other / "a.pem", pathlib.Path(lab.dir) / "a.pem")
    shutil.copy(other / "a.key", pathlib.Path(lab.dir) / "a.key")
    start(lab, lab.a, "a", VM_A + RESOURCES)
    pb = start(lab, lab.b, "b", VM_B + RESOURCES)
    app = Echo(lab.b, B, 8080)
    assert refused(lab.a)
    assert app.n == 0
    wait_for(lambda: pb.metric("outrigger_vm_tls_refused_total") + pb.metric("outrigger_vm_tunnels_failed_total") >= 1, why="the count")
    app.close()


POLICY = "policies: [{name: no-web, namespace: shop, action: deny, principals: [example.org/ns/shop/sa/web]}]\n"
OTHER_ONLY = "policies: [{name: only-x, namespace: shop, action: allow, principals: [example.org/ns/shop/sa/x]}]\n"


@pytest.mark.parametrize("policy", [POLICY, OTHER_ONLY], ids=["deny", "allow-others"])
def test_a_policy_refuses_and_closes_what_is_open(pair, policy):
    with dial(pair.a, VIP, 9000) as s:
        assert ask(s) == b"hello"
        pair.pb.reload(VM_B + RESOURCES + policy)
        s.settimeout(5)
        try:
            assert s.recv(1) == b""
        except ConnectionResetError:
            pass
    assert refused(pair.a)
    wait_for(lambda: [a for a in pair.pb.access() if "shop/" in a.get("error", "")], why="the reason in the log")
    pair.pb.reload(VM_B + RESOURCES)
    with dial(pair.a, VIP, 9000) as s:
        assert ask(s) == b"hello"


FAR = RESOURCES.replace("services: {shop", "network: far, gateway: \"10.9.0.9:15008\", services: {shop")


def said(proxy, words):
    return wait_for(lambda: [a for a in proxy.access() if words in a.get("error", "")], why="the reason in the log")


def test_a_service_that_is_on_another_network_is_refused_by_name_of_network_and_gateway(pair):
    pair.pa.reload(VM_A.replace("id: a,", "id: a, mode: permissive,") + FAR)
    assert refused(pair.a)
    said(pair.pa, 'network "far" (gateway 10.9.0.9:15008) is not reached: shop/b is there')
    assert pair.app.n == 0


def test_an_address_of_another_network_does_not_go_out_in_plaintext(pair):
    """Even where the VM may dial what the mesh does not know."""
    far = VM_A.replace("id: a,", "id: a, mode: permissive,").replace(VIP + ":9000", VIP + ":8080") + FAR.split("services:\n")[0].replace(B, VIP)
    lone = start(pair, pair.a, "lone", far.replace("id: a,", "id: lone,").replace("%s:15008" % A, "%s:15009" % A))
    assert refused(pair.a, VIP, 8080)
    said(lone, 'network "far" (gateway 10.9.0.9:15008) is not reached: shop/b is there')


def test_plaintext_is_refused_where_the_vm_is_strict(pair):
    """The inbound listener of the HBONE port takes HBONE and nothing else."""
    with dial(pair.a, B, 15008) as s:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n" * 20)
        try:
            got = s.recv(1000)
        except ConnectionResetError:
            got = b""
        assert b"HTTP" not in got


def test_another_certificate_in_mid_traffic(pair):
    """What is open goes on, what is new has the new certificate."""
    stop = threading.Event()
    failed = []
    done = []

    def traffic():
        while not stop.is_set():
            try:
                with dial(pair.a, VIP, 9000) as s:
                    if ask(s) != b"hello":
                        failed.append("short")
                done.append(1)
            except OSError as e:
                failed.append(repr(e))

    with dial(pair.a, VIP, 9000) as held:
        assert ask(held) == b"hello"
        t = threading.Thread(target=traffic)
        t.start()
        wait_for(lambda: len(done) > 20, why="traffic")
        for name, proxy, account in (("a", pair.pa, "web"), ("b", pair.pb, "api")):
            before = proxy.vms()[0]["cert_not_before"], serial_of(pathlib.Path(pair.dir) / (name + ".pem"))
            pair.pki.leaf(name, "shop", account)
            assert serial_of(pathlib.Path(pair.dir) / (name + ".pem")) != before[1]
            proxy.reload()
            n = len(done)
            wait_for(lambda: len(done) > n + 20, why="traffic after the change")
        assert ask(held) == b"hello"
        stop.set()
        t.join()
    assert failed == []


def test_endpoints_share_the_load_and_a_dead_one_is_passed_over(lab):
    resources = RESOURCES.replace("services:\n  - {name", """  - {uid: vm/c, name: c, namespace: shop, service_account: api, addresses: [10.77.0.3], hbone: true, services: {shop/api: {9000: 8080}}}
services:
  - {name""")
    lab.b.ip("addr", "add", "10.77.0.3/24", "dev", "eth0")
    start(lab, lab.a, "a", VM_A + resources)
    start(lab, lab.b, "b", VM_B + resources)
    pc = start(lab, lab.b, "c", VM_B.replace("id: b", "id: c").replace("vm/b", "vm/c").replace(B, "10.77.0.3") + resources)
    apps = [Echo(lab.b, B, 8080), Echo(lab.b, "10.77.0.3", 8080)]
    for _ in range(60):
        with dial(lab.a, VIP, 9000) as s:
            assert ask(s) == b"hello"
    assert apps[0].n > 5 and apps[1].n > 5
    pc.kill()
    for _ in range(30):
        with dial(lab.a, VIP, 9000) as s:
            assert ask(s) == b"hello"
    for app in apps:
        app.close()


# --- with Envoy, unmodified ---

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
NET = "type.googleapis.com/envoy.extensions.filters.network."


def envoy_binary():
    """ENVOY_BIN, what tools/fetch-envoy fetched, or an envoy in the PATH."""
    fetched = ROOT / "build/cache/envoy/envoy/_bin/envoy"
    return os.environ.get("ENVOY_BIN") or (str(fetched) if fetched.exists() else shutil.which("envoy"))


def envoy_tls(lab, name, kind, san):
    d = lab.dir
    context = {"tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}, "alpn_protocols": ["h2"],
               "tls_certificates": [{"certificate_chain": {"filename": "%s/%s.pem" % (d, name)}, "private_key": {"filename": "%s/%s.key" % (d, name)}}],
               "validation_context": {"trusted_ca": {"filename": d + "/roots.pem"},
                                      "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": san}}]}}
    config = {"@type": TLS + kind, "common_tls_context": context}
    if kind == "DownstreamTlsContext":
        config["require_client_certificate"] = True
    return {"name": "tls", "typed_config": config}


def envoy_cluster(address, port, socket=None, h2=False):
    c = {"name": "u", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {"cluster_name": "u", "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}}]}]}}
    if socket:
        c["transport_socket"] = socket
    if h2:
        c["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}}}}
    return c


def start_envoy(lab, host, name, listener, cluster):
    binary = envoy_binary()
    if not binary:
        pytest.skip("no Envoy: run tools/fetch-envoy")
    path = pathlib.Path(lab.dir) / (name + ".json")
    path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    p = lab.popen(host.argv(binary, "-c", path, "--concurrency", 1, "--base-id", os.getpid() % 30000 + (host is lab.b), "-l", "warning"), name)
    port = listener["address"]["socket_address"]
    wait_for(lambda: dial(host, port["address"], port["port_value"]).close() or True, 20, why=name)
    return p


def listener_at(address, port, chain):
    return {"name": "l", "address": {"socket_address": {"address": address, "port_value": port}}, "filter_chains": [chain]}


def test_we_call_an_envoy(lab):
    route = {"match": {"connect_matcher": {}}, "route": {"cluster": "u", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}
    hcm = {"@type": NET + "http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "h", "codec_type": "HTTP2",
           "http2_protocol_options": {"allow_connect": True}, "upgrade_configs": [{"upgrade_type": "CONNECT"}],
           "route_config": {"virtual_hosts": [{"name": "v", "domains": ["%s:8080" % B, "%s:*" % B], "routes": [route]}]},
           "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}
    app = Echo(lab.b, B, 8080)
    start_envoy(lab, lab.b, "envoy-b", listener_at(B, 15008, {
        "filters": [{"name": "hcm", "typed_config": hcm}],
        "transport_socket": envoy_tls(lab, "b", "DownstreamTlsContext", lab.pki.id("shop", "web"))}), envoy_cluster(B, 8080))
    pa = start(lab, lab.a, "a", VM_A + RESOURCES)
    with dial(lab.a, VIP, 9000) as s:
        assert ask(s) == b"hello"
        big = os.urandom(1 << 20)
        t = threading.Thread(target=s.sendall, args=(big,))
        t.start()
        got = b""
        while len(got) < len(big):
            got += s.recv(1 << 20)
        t.join()
        assert got == big
    assert app.n == 1
    assert wait_for(pa.access, why="the access log")[0]["dst.identity"] == lab.pki.id("shop", "api")
    app.close()


def test_an_envoy_calls_us(lab):
    proxy = {"@type": NET + "tcp_proxy.v3.TcpProxy", "stat_prefix": "t", "cluster": "u", "tunneling_config": {"hostname": "%s:8080" % B}}
    app = Echo(lab.b, B, 8080)
    pb = start(lab, lab.b, "b", VM_B + RESOURCES)
    start_envoy(lab, lab.a, "envoy-a", listener_at(VIP, 9000, {"filters": [{"name": "t", "typed_config": proxy}]}),
                envoy_cluster(B, 15008, envoy_tls(lab, "a", "UpstreamTlsContext", lab.pki.id("shop", "api")), h2=True))
    for _ in range(20):
        with dial(lab.a, VIP, 9000) as s:
            assert ask(s) == b"hello"
    line = wait_for(lambda: [x for x in pb.access() if "src.identity" in x], why="the access log")[0]
    assert line["src.identity"] == lab.pki.id("shop", "web") and line["direction"] == "inbound"
    app.close()


# --- with an agent and a controller ---

CONTROLLER = """
namespaces: [shop]
workloads:
  - {name: web-1, namespace: shop, service_account: web, addresses: [%s], tunnel: hbone}
  - {name: api-1, namespace: shop, service_account: api, addresses: [%s], tunnel: hbone, services: [api]}
services:
  - {name: api, namespace: shop, addresses: [%s], ports: [{port: 9000, target_port: 8080}]}
""" % (A, B, VIP)


class Agented:
    """A proxy with its agent, on host a; the controller is on host b."""

    def __init__(self, lab, controller, group="g"):
        self.lab = lab
        self.controller = controller
        self.dir = pathlib.Path(lab.dir)
        self.group = group
        self.process = None

    def start(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for s in (ours, theirs):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        log = open(self.dir / "agented.log", "ab")
        # The shell moves the socket to descriptor 3.
        argv = self.lab.a.argv("bash", "-c", 'n=$1; shift; eval "exec \\"\\$@\\" 3<&$n $n<&-"', "bash", theirs.fileno(), PROXY, "--group", self.group,
                               "--mark-base", 0x4f00, "--workers", 2)
        self.process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], stdout=log, stderr=log)
        theirs.close()
        self.agent = Agent(ours)
        return self.agent

    def log(self):
        return (self.dir / "agented.log").read_text()

    def setup(self):
        mesh = message(f1=B + ":15012", f2=[B], f3=self.controller.roots(), f4="embedded")
        states = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for path in self.states()]
        self.agent.send(2, message(f1="nic-1", f2=mesh, f3="example.org", f5=str(self.dir / "g.admin"), f6=str(self.dir / "g.resume"),
                                   f8=str(self.dir / "g.access"), f9=True, f10="debug"), states)
        for fd in states:
            os.close(fd)

    def states(self):
        """The two files of the last configuration, which are written in turns."""
        return [self.dir / "g.mesh.0", self.dir / "g.mesh.1"]

    def vm_put(self, token, mode=3, fds=True, vm="vm-1"):
        listeners = [listener_in(self.lab.a, VIP, 9000), listener_in(self.lab.a, A, 15008)] if fds else []
        for s in listeners:
            s.setblocking(False)
        self.agent.send(3, message(f1=vm, f2="shop", f3="web", f4="web-1", f5="vm/web-1", f6=[A], f8=mode, f10=token),
                        [s.fileno() for s in listeners])
        for s in listeners:
            s.close()

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def mesh(lab):
    lab.controller = Controller(lab.b, lab.dir, CONTROLLER, address=B)
    lab.proxy = Agented(lab, lab.controller)
    lab.app = Echo(lab.b, B, 8080)
    try:
        yield lab
    finally:
        lab.proxy.kill()
        lab.controller.kill()
        lab.app.close()


def peer_of(lab):
    """The other side: a static proxy with a certificate of the controller's authority."""
    (pathlib.Path(lab.dir) / "b.token").write_text(lab.controller.token("shop", "api"))
    (pathlib.Path(lab.dir) / "roots.pem").write_text(lab.controller.roots())
    text = VM_B.replace("cert: b.pem, key: b.key", "token: b.token").replace("uid: vm/b, ", "")
    return start(lab, lab.b, "b", text + "controller: {address: \"%s:15012\", server_names: [\"%s\"]}\n" % (B, B))


def ready(lab, **kw):
    agent = lab.proxy.start()
    agent.say_hello()
    agent.until(lambda a: a.hello, why="hello")
    assert agent.hello == {"version": 1, "vm_ids": []}
    lab.proxy.setup()
    lab.proxy.vm_put(lab.controller.token("shop", "web"), **kw)
    agent.until_state("vm-1", "ready")
    return agent


def test_from_vm_put_to_ready_and_a_connection(mesh):
    peer_of(mesh)
    agent = ready(mesh)
    assert ("vm-1", "starting") in agent.history
    status = agent.states["vm-1"]
    assert status["identity"] == mesh.pki.id("shop", "web")
    assert status["not_after"] > time.time()
    with dial(mesh.a, VIP, 9000) as s:
        assert ask(s) == b"hello"
    agent.send(7, b"")
    agent.until(lambda a: a.loads and a.loads[-1] and a.loads[-1][0].get(2) == [1], why="a load report")

    # Removal drains and says so; shutdown ends the process in order.
    agent.send(4, message(f1="vm-1", f2=500))
    agent.until_state("vm-1", "stopped")
    agent.send(6, message(f1=0))
    assert mesh.proxy.process.wait(10) == 0, mesh.proxy.log()


def test_a_token_is_asked_for_when_it_is_needed(mesh):
    agent = mesh.proxy.start()
    agent.say_hello()
    mesh.proxy.setup()
    mesh.proxy.vm_put("")
    agent.until(lambda a: ("vm-1", "first") in a.wanted, why="the first token")
    agent.send(5, message(f1="vm-1", f2=mesh.controller.token("shop", "web", ttl=-60)))
    agent.until(lambda a: [w for w in a.wanted if w[1].startswith("refused")], why="another token")
    agent.send(5, message(f1="vm-1", f2=mesh.controller.token("shop", "web")))
    agent.until_state("vm-1", "ready")


def test_a_token_for_somebody_else_gets_no_certificate(mesh):
    agent = mesh.proxy.start()
    agent.say_hello()
    mesh.proxy.setup()
    mesh.proxy.vm_put(mesh.controller.token("shop", "api"))
    agent.until(lambda a: a.states.get("vm-1", {}).get("detail"), why="the reason")
    assert agent.states["vm-1"]["state"] == "starting"


def test_an_unknown_version_is_refused_by_name(mesh):
    agent = mesh.proxy.start()
    agent.say_hello(version=99)
    wait_for(lambda: not agent.read(), why="the end")
    assert mesh.proxy.process.wait(10) == 0
    assert "version 99" in mesh.proxy.log()


def test_without_hello_nothing_is_taken(mesh):
    agent = mesh.proxy.start()
    mesh.proxy.setup()
    wait_for(lambda: not agent.read(), why="the end")
    assert "not Hello" in mesh.proxy.log()


def test_garbage_ends_the_link_and_no_more(mesh):
    peer_of(mesh)
    agent = ready(mesh)
    agent.sock.send(b"\xff" * 100)
    wait_for(lambda: not agent.read(), why="the end")
    with dial(mesh.a, VIP, 9000) as s:
        assert ask(s) == b"hello"


def test_the_agent_goes_and_another_comes(mesh):
    peer_of(mesh)
    agent = ready(mesh)
    with dial(mesh.a, VIP, 9000) as held:
        assert ask(held) == b"hello"
        agent.sock.close()
        for _ in range(5):
            with dial(mesh.a, VIP, 9000) as s:
                assert ask(s) == b"hello"
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(str(mesh.proxy.dir / "g.resume"))
        successor = Agent(s)
        successor.say_hello()
        successor.until(lambda a: a.hello, why="hello")
        assert successor.hello["vm_ids"] == ["vm-1"]
        successor.until_state("vm-1", "ready")
        assert ask(held) == b"hello"
        mesh.proxy.agent = successor
        mesh.proxy.vm_put("", mode=2, fds=False)
        successor.until_state("vm-1", "ready")
    successor.send(6, message(f1=100))
    assert mesh.proxy.process.wait(10) == 0, mesh.proxy.log()


def test_the_controller_goes_and_comes_back(mesh):
    peer_of(mesh)
    agent = ready(mesh)
    with dial(mesh.a, VIP, 9000) as s:
        assert ask(s) == b"hello"
    mesh.controller.kill()
    agent.until_state("vm-1", "degraded")
    assert "mesh controller" in agent.states["vm-1"]["detail"]
    for _ in range(5):
        with dial(mesh.a, VIP, 9000) as s:
            assert ask(s) == b"hello"
    mesh.controller.start()
    agent.until_state("vm-1", "ready", 20)
    with dial(mesh.a, VIP, 9000) as s:
        assert ask(s) == b"hello"


def sockets_of(pid):
    """Copies of a process's TCP connections."""
    pidfd = os.pidfd_open(pid)
    try:
        for name in os.listdir("/proc/%d/fd" % pid):
            try:
                if not os.readlink("/proc/%d/fd/%s" % (pid, name)).startswith("socket:"):
                    continue
            except OSError:
                continue
            fd = LIBC.syscall(438, pidfd, int(name), 0)        # pidfd_getfd()
            if fd < 0:
                continue
            with socket.socket(fileno=fd) as s:
                if s.family == socket.AF_INET and s.type == socket.SOCK_STREAM and s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01":     # established
                    yield s
    finally:
        os.close(pidfd)


def test_what_the_controller_says_does_not_wait_for_longer_than_a_network_is_away(mesh):
    """Both ends send again every 2 s, however long nothing came through."""
    rto_max_ms = 44
    with socket.socket() as s:
        try:
            s.setsockopt(socket.IPPROTO_TCP, rto_max_ms, 2000)
        except OSError:
            pytest.skip("this kernel cannot")
    ready(mesh)
    found = 0
    for pid in (mesh.proxy.process.pid, mesh.controller.process.pid):
        for s in sockets_of(pid):
            if 15012 in (s.getpeername()[1], s.getsockname()[1]):
                found += 1
                assert s.getsockopt(socket.IPPROTO_TCP, rto_max_ms) == 2000
    assert found >= 2


def test_a_restart_has_the_last_configuration(mesh):
    peer_of(mesh)
    agent = ready(mesh)
    with dial(mesh.a, VIP, 9000) as s:
        assert ask(s) == b"hello"

    def state():
        return b"".join(path.read_bytes() for path in mesh.proxy.states())
    wait_for(state, why="the state")
    assert b"PRIVATE KEY" not in state() and b"eyJ" not in state()
    agent.send(6, message(f1=0))
    assert mesh.proxy.process.wait(10) == 0
    agent = mesh.proxy.start()
    agent.say_hello()
    mesh.proxy.setup()
    snapshot = wait_for(lambda: json.loads(unix_get(mesh.proxy.dir / "g.admin", "/snapshot")[1]), why="the snapshot")
    assert snapshot["policies_known"] and {w["address"] for w in snapshot["workloads"]} >= {A, B}

    # Files that are broken are not used, and said so.
    agent.send(6, message(f1=0))
    assert mesh.proxy.process.wait(10) == 0
    for path in mesh.proxy.states():
        path.write_bytes(b"\x12\xff" + os.urandom(200))
    agent = ready(mesh)
    assert "last configuration is not used" in mesh.proxy.log()


def test_renewal_at_half_life_in_mid_traffic(lab):
    controller = Controller(lab.b, lab.dir, CONTROLLER + "ca: {workload_ttl: 4s, max_ttl: 4s}\n", address=B)
    lab.controller = controller
    lab.proxy = Agented(lab, controller)
    app = Echo(lab.b, B, 8080)
    try:
        pb = peer_of(lab)
        agent = ready(lab)
        first = agent.states["vm-1"]["not_after"]
        failed = done = 0
        with dial(lab.a, VIP, 9000) as held:
            assert ask(held) == b"hello"
            end = time.monotonic() + 20
            while agent.states["vm-1"]["not_after"] < first + 6 and time.monotonic() < end:
                try:
                    with dial(lab.a, VIP, 9000) as s:
                        failed += ask(s) != b"hello"
                except OSError:
                    failed += 1
                done += 1
                agent.read()
            assert ask(held) == b"hello"
        assert agent.states["vm-1"]["not_after"] >= first + 6
        assert failed == 0 and done > 100
        assert pb.vms()[0]["state"] == "ready"
    finally:
        lab.proxy.kill()
        controller.kill()
        app.close()

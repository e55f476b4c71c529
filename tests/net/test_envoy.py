"""outrigger envoy: two containers whose sidecars are unmodified Envoys, and the controller, in namespaces.

The containers call each other by HBONE, both ways; what Envoy's own log says of the peer is the proof of who it was.
"""
import json
import os
import pathlib
import re
import subprocess
import time

import pytest

from netlab import Lab, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OUTRIGGER_BUILD", ROOT / "build"))
OUTRIGGER = str(BUILD / "src/ctl/outrigger")
CONTROLLER = str(BUILD / "src/control/outrigger-controller")
ENVOY = BUILD / "cache/envoy/envoy/_bin/envoy"
EDGE = "10.77.0.1"
PODS = {"cart": "10.77.0.2", "orders": "10.77.0.3"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")

CONFIG = """trust_domain: test.mesh
state_dir: %(dir)s/controller
listen: { mesh: "%(edge)s:15012", provisioner: "%(edge)s:15030", rest: "127.0.0.1:0", rest_socket: %(dir)s/controller.sock }
advertise: { mesh: "%(edge)s:15012", server_names: ["%(edge)s"] }
virtual_addresses: 10.99.0.0/16
namespaces: [shop]
workloads:
%(workloads)s
services:
  - { name: cart, namespace: shop, ports: [{ port: 80, target_port: 8080 }] }
  - { name: orders, namespace: shop, ports: [{ port: 80, target_port: 8080 }] }
"""
WORKLOAD = "  - { name: %s, namespace: shop, service_account: %s, addresses: [%s], tunnel: hbone, services: [%s] }"

APP = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    def do_GET(self):
        body = str(self.headers).strip().encode() if self.path == "/headers" else b"hello from %s" % sys.argv[1].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""


class Mesh:
    def __init__(self, lab):
        self.lab = lab
        wire = lab.host("wire")
        wire.bridge("br0")
        self.hosts = {}
        for name, address in [("edge", EDGE), *PODS.items()]:
            self.hosts[name] = lab.host(name)
            lab.cable(self.hosts[name], "eth0", wire, "to-" + name, address + "/24", master_b="br0")
            if name != "edge":
                self.hosts[name].ip("route", "add", "default", "via", EDGE)
        self.envoys = {}

    def path(self, name):
        return os.path.join(self.lab.dir, name)

    def write(self, name, text):
        with open(self.path(name), "w") as f:
            f.write(text)
        return self.path(name)

    def config(self, pods, accounts=None, extra=()):
        rows = [(p + "-1", (accounts or {}).get(p, p), PODS[p], p) for p in pods] + list(extra)
        workloads = "\n".join(WORKLOAD % row for row in rows)
        self.write("controller.yaml", CONFIG % {"dir": self.lab.dir, "edge": EDGE, "workloads": workloads})

    def rest(self, method, path, body=None):
        argv = ["curl", "-sS", "--fail-with-body", "-X", method, "--unix-socket", self.path("controller.sock"), "http://x" + path]
        if body is not None:
            argv += ["-H", "content-type: application/json", "-d", json.dumps(body)]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_controller(self):
        self.config(PODS)
        self.controller = self.hosts["edge"].popen([CONTROLLER, "--config", self.path("controller.yaml")], "controller")

        def answers():
            assert self.controller.poll() is None, self.lab.log("edge.controller")
            return os.path.exists(self.path("controller.sock"))
        wait_until("the controller's socket", answers, 20)
        self.write("roots.pem", json.loads(self.rest("GET", "/v1/roots"))["roots_pem"])

    def token(self, pod):
        reply = json.loads(self.rest("POST", "/v1/tokens", {"workload": "shop/" + pod}))
        return self.write(pod + "-token", reply["token"])

    def argv(self, pod, *more, account=None, token=None, folder=None):
        return [OUTRIGGER, "envoy", "--controller", EDGE + ":15012", "--roots", self.path("roots.pem"), "--token", token or self.token(pod), "--namespace",
                "shop", "--service-account", account or pod, "--name", pod + "-1", "--dir", self.path(folder or pod + "-envoy"), "--envoy", str(ENVOY), *more]

    def start_pod(self, pod, calls):
        host = self.hosts[pod]
        host.popen(["/usr/bin/python3", self.path("app.py"), pod], "app")
        self.envoys[pod] = host.popen(self.argv(pod, "--inbound", "8080", "--outbound", "127.0.0.1:18080=%s.shop.mesh.internal:80" % calls,
                                                 "--outbound", "127.0.0.1:18081=%s.shop.mesh.internal:80/http" % calls, "--capture"), "envoy")

        def ready():
            assert self.envoys[pod].poll() is None, self.lab.log(pod + ".envoy")
            return host.run("curl", "-s", "-m", "2", "http://127.0.0.1:15000/ready", check=False).strip() == "LIVE"
        wait_until("%s's Envoy" % pod, ready, 30)

    def get(self, pod, url="http://127.0.0.1:18080/", *more):
        return self.hosts[pod].run("curl", "-sS", "-m", "10", *more, url, check=False)

    def access(self, pod, direction):
        lines = [json.loads(line) for line in self.lab.log(pod + ".envoy").splitlines() if line.startswith("{")]
        return [line for line in lines if line["direction"] == direction]


@pytest.fixture(scope="module")
def mesh():
    subprocess.run([ROOT / "tools/fetch-envoy"], check=True)
    with Lab("nv") as lab:
        m = Mesh(lab)
        m.write("app.py", APP)
        m.start_controller()
        m.start_pod("cart", "orders")
        m.start_pod("orders", "cart")
        yield m


def run_once(mesh, *argv):
    return subprocess.run(mesh.hosts["cart"].argv(*argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=40)


def identity(pod):
    return "spiffe://test.mesh/ns/shop/sa/" + pod


@pytest.mark.parametrize("caller,called", [("cart", "orders"), ("orders", "cart")])
def test_a_call_goes_by_hbone_and_both_ends_know_each_other(mesh, caller, called):
    assert wait_until("an answer", lambda: re.match("hello", mesh.get(caller)) and mesh.get(caller), 20) == "hello from " + called
    inbound = wait_until("the access log of " + called, lambda: mesh.access(called, "inbound"), 20)[-1]
    assert (inbound["peer"], inbound["target"], inbound["code"]) == (identity(caller), PODS[called] + ":8080", 200)
    outbound = wait_until("the access log of " + caller, lambda: mesh.access(caller, "outbound"), 20)[-1]
    assert (outbound["peer"], outbound["upstream"]) == (identity(called), PODS[called] + ":15008")


def test_many_requests_on_one_connection_and_on_many(mesh):
    wait_until("an answer", lambda: re.match("hello", mesh.get("cart")), 20)
    out = mesh.hosts["cart"].run("curl", "-sS", "-m", "30", *["http://127.0.0.1:18080/"] * 200)
    assert out == "hello from orders" * 200
    for _ in range(30):
        assert mesh.get("cart") == "hello from orders"


CONNECT = """
import socket, ssl, struct, sys
host, cert, key, target = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.load_cert_chain(cert, key)
context.set_alpn_protocols(["h2"])
s = context.wrap_socket(socket.create_connection((host, 15008), timeout=5))
def frame(kind, flags, stream, payload=b""):
    return struct.pack("!IBI", len(payload) << 8 | kind, flags, stream) + payload
def literal(index, value):       # RFC 7541, 6.2.2: without indexing, name from the static table
    return bytes([index, len(value)]) + value
s.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + frame(4, 0, 0) + frame(1, 4, 1, literal(2, b"CONNECT") + literal(1, target.encode())))
data = b""
while True:
    while len(data) < 9 or len(data) < 9 + int.from_bytes(data[:3], "big"):
        more = s.recv(65536)
        if not more:
            sys.exit("closed")
        data += more
    size, kind = int.from_bytes(data[:3], "big"), data[3]
    if kind == 1:
        print({0x88: 200, 0x8d: 404}.get(data[9], data[9:20].hex()))
        sys.exit(0)
    data = data[9 + size:]
"""


def test_http_goes_request_by_request_and_nothing_is_added(mesh):
    wait_until("an answer", lambda: re.match("hello", mesh.get("cart", "http://127.0.0.1:18081/")), 20)
    seen = mesh.get("cart", "http://127.0.0.1:18081/headers", "-H", "X-Mine: 1")
    assert sorted(line.split(":")[0].lower() for line in seen.splitlines()) == ["accept", "host", "user-agent", "x-forwarded-proto", "x-mine"]
    answer = mesh.get("cart", "http://127.0.0.1:18081/", "-i").lower()
    assert "server: basehttp" in answer and "envoy" not in answer


def test_a_request_that_is_lost_with_its_endpoint_is_asked_again(mesh):
    """A second endpoint of orders accepts tunnels and drops what comes out of them, as a VM does that has just died."""
    wait_until("an answer", lambda: re.match("hello", mesh.get("cart", "http://127.0.0.1:18081/")), 20)
    host = mesh.hosts["edge"]
    dropper = host.popen(["/usr/bin/python3", "-c", "import socket\ns = socket.create_server(('127.0.0.1', 8080))\n"
                                                    "while True:\n    c = s.accept()[0]; c.recv(1); c.close()"], "dropper")
    envoy = host.popen(mesh.argv("orders", "--inbound", "8080", "--admin-port", "0", folder="dead-envoy"), "envoy")
    wait_until("the second orders", lambda: ":15008" in host.run("ss", "-ltn"), 20)
    mesh.config(PODS, extra=[("orders-2", "orders", EDGE, "orders")])
    mesh.rest("POST", "/v1/reload")
    wait_until("both to be endpoints", lambda: EDGE + ":8080" in mesh.get("cart", "http://127.0.0.1:15000/clusters"), 10)
    before = len(mesh.access("cart", "outbound"))
    out = mesh.hosts["cart"].run("curl", "-sS", "-m", "30", "-H", "Connection: close", *["http://127.0.0.1:18081/"] * 50)
    assert out == "hello from orders" * 50
    wait_until("calls that were lost there", lambda: any(line["upstream"] == EDGE + ":15008" for line in mesh.access("cart", "outbound")[before:]), 5)
    mesh.config(PODS)
    mesh.rest("POST", "/v1/reload")
    for p in (envoy, dropper):
        Lab.stop(p)


def test_captured_connections_go_where_they_were_going(mesh):
    """nft sends a user's connections to port 15001: to a service's virtual address, to a workload's own, to neither."""
    host = mesh.hosts["cart"]
    vip = next(s["addresses"][0] for s in json.loads(mesh.rest("GET", "/v1/workloads"))["services"] if s["name"] == "orders")
    plain = mesh.hosts["edge"].popen(["/usr/bin/python3", "-m", "http.server", "--bind", EDGE, "--directory", "/usr/share/doc", "8000"], "plain")
    host.run("nft", "-f", "-", input="table ip nat { chain output { type nat hook output priority -100;\n"
             "meta skuid 65534 ip daddr != 127.0.0.0/8 tcp dport 1-65535 redirect to :15001\n}\n}\n")

    def get(url):
        return host.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-sS", "-m", "5", url, check=False)
    wait_until("the answer of a service", lambda: get("http://%s/" % vip) == "hello from orders", 10)
    wait_until("the answer of a workload", lambda: get("http://%s:8080/" % PODS["orders"]) == "hello from orders", 10)
    wait_until("the answer of a stranger", lambda: "Directory listing" in get("http://%s:8000/" % EDGE), 10)
    assert not [line for line in mesh.access("cart", "outbound") if line["target"].startswith(EDGE + ":8000")]
    assert get("http://%s:8081/" % PODS["orders"]) == ""        # not offered: the sidecar there says so, nothing goes past it
    mesh.config(PODS, accounts={"orders": "someone-else"})
    mesh.rest("POST", "/v1/reload")
    wait_until("a workload that is not who it should be", lambda: get("http://%s:8080/" % PODS["orders"]) == "", 5)
    mesh.config(PODS)
    mesh.rest("POST", "/v1/reload")
    wait_until("the right one", lambda: get("http://%s:8080/" % PODS["orders"]) == "hello from orders", 5)
    host.run("nft", "delete", "table", "ip", "nat")
    Lab.stop(plain)


def test_only_the_named_ports_of_the_own_address_can_be_reached(mesh):
    """CONNECT with a valid certificate of the mesh, but to what is not offered."""
    done = run_once(mesh, *mesh.argv("cart", "--bootstrap", folder="client"))
    assert done.returncode == 0, done.stderr
    secret = json.load(open(mesh.path("client/workload.json")))["resources"][0]["tls_certificate"]
    cert = mesh.write("client.pem", secret["certificate_chain"]["inline_string"])
    key = mesh.write("client.key", secret["private_key"]["inline_string"])
    script = mesh.write("connect.py", CONNECT)

    def connect(target):
        return mesh.hosts["cart"].run("/usr/bin/python3", script, PODS["orders"], cert, key, target).strip()
    assert connect(PODS["orders"] + ":8080") == "200"
    for target in (PODS["orders"] + ":15000", PODS["orders"] + ":80", "127.0.0.1:8080", PODS["cart"] + ":8080", "orders:8080"):
        assert connect(target) == "404"


def test_a_stranger_is_refused(mesh):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", mesh.path("forged.key"), "-out",
                    mesh.path("forged.pem"), "-subj", "/CN=forged", "-addext", "subjectAltName=URI:" + identity("cart"), "-days", "1"], check=True,
                   stderr=subprocess.DEVNULL)
    out = mesh.hosts["cart"].run("sh", "-c", "sleep 1 | timeout 5 openssl s_client -connect %s:15008 -alpn h2 -tls1_3 -cert %s -key %s 2>&1" % (
        PODS["orders"], mesh.path("forged.pem"), mesh.path("forged.key")), check=False)
    assert "alert" in out


def test_the_bootstrap_can_be_printed_and_envoy_takes_it(mesh):
    done = run_once(mesh, *mesh.argv("cart", "--bootstrap", "--inbound", "8080", "--outbound", "127.0.0.1:18081=orders.shop.mesh.internal:80",
                                     folder="printed"))
    assert done.returncode == 0, done.stderr
    mesh.write("printed.json", done.stdout)
    check = run_once(mesh, str(ENVOY), "--mode", "validate", "-c", mesh.path("printed.json"))
    assert "OK" in check.stdout, check.stderr
    assert os.stat(mesh.path("printed") + "/workload.json").st_mode & 0o777 == 0o600


def test_a_certificate_for_somebody_else_is_refused(mesh):
    done = run_once(mesh, *mesh.argv("cart", "--bootstrap", account="orders", folder="foreign"))
    assert done.returncode == 1
    assert "no certificate" in done.stderr and "ns/shop/sa/orders" in done.stderr
    assert done.stdout.strip() == ""


def test_a_bad_token_is_refused_with_the_reason(mesh):
    token = mesh.write("bad-token", open(mesh.token("cart")).read()[:-8] + "AAAAAAAA")
    done = run_once(mesh, *mesh.argv("cart", "--bootstrap", token=token, folder="bad"))
    assert done.returncode == 1 and "UNAUTHENTICATED" in done.stderr


@pytest.mark.parametrize("argv,message", [
    (["--controller", "x:1"], "--roots is missing"),
    (["--controller", "x:1", "--roots", "/nowhere", "--namespace", "a", "--service-account", "b", "--token", "/nowhere"], "/nowhere: No such file"),
    (["--controller", "x:1", "--inbound", "99999"], "--inbound"),
    (["--controller", "x:1", "--outbound", "127.0.0.1:1"], "ADDRESS:PORT=SERVICE:PORT"),
    (["--controller", "x:1", "--outbound", "nonsense=a:1"], "'nonsense' is no address with a port"),
])
def test_a_wrong_command_line_is_explained(argv, message):
    done = subprocess.run([OUTRIGGER, "envoy", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.returncode in (1, 2)
    assert message in done.stderr


def test_an_impostor_of_the_same_mesh_is_not_talked_to(mesh):
    """orders' endpoint is said to be somebody else: its certificate is good, but not the right one."""
    wait_until("an answer", lambda: re.match("hello", mesh.get("cart")), 20)
    mesh.config(PODS, accounts={"orders": "someone-else"})
    mesh.rest("POST", "/v1/reload")
    wait_until("cart to refuse orders", lambda: not mesh.get("cart", "http://127.0.0.1:18080/", "--stderr", "/dev/null"), 5)
    assert any("CERTIFICATE_VERIFY_FAILED" in line["failure"] for line in wait_until("a line", lambda: [
        line for line in mesh.access("cart", "outbound") if line["failure"]], 5))
    mesh.config(PODS)
    mesh.rest("POST", "/v1/reload")
    wait_until("orders to be trusted again", lambda: mesh.get("cart") == "hello from orders", 5)


def test_an_endpoint_that_goes_is_not_called_any_more(mesh):
    wait_until("an answer", lambda: re.match("hello", mesh.get("cart")), 20)
    mesh.config(["cart"])
    mesh.rest("POST", "/v1/reload")
    wait_until("orders to be out of cart's endpoints", lambda: not mesh.get("cart", "http://127.0.0.1:18080/", "--stderr", "/dev/null"), 5)
    mesh.config(PODS)
    mesh.rest("POST", "/v1/reload")
    wait_until("orders to be back", lambda: mesh.get("cart") == "hello from orders", 5)


def test_a_dead_controller_disturbs_nothing(mesh):
    wait_until("an answer", lambda: re.match("hello", mesh.get("cart")), 20)
    Lab.stop(mesh.controller)
    for _ in range(10):
        assert mesh.get("cart") == "hello from orders"
        time.sleep(0.05)
    mesh.start_controller()


def test_it_ends_with_its_envoy_and_leaves_no_secret(mesh):
    boot = json.load(open(mesh.path("orders-envoy/bootstrap.json")))
    text = json.dumps(boot)
    secrets = re.search(r'"(/[^"]*outrigger-envoy-[^"/]+)', text).group(1)
    assert os.path.exists(secrets + "/workload.json")
    assert os.stat(secrets).st_mode & 0o777 == 0o700
    Lab.stop(mesh.envoys["orders"], 15)
    assert mesh.envoys["orders"].returncode == 0
    assert not os.path.exists(secrets)
    wait_until("Envoy's port to be closed", lambda: "15008" not in mesh.hosts["orders"].run("ss", "-ltn"), 5)
    # and the other way round: Envoy dies, we die
    pids = mesh.hosts["cart"].run("pgrep", "-P", str(mesh.envoys["cart"].pid), check=False).split()
    os.kill(int(pids[0]), 9)
    assert mesh.envoys["cart"].wait(10) == 1

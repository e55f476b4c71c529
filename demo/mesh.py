"""The mesh's own programs in the demo, and the questions that are asked of them."""

import http.client
import json
import os
import re
import socket
import subprocess
import time

import config
from netlab import wait_until
from topology import ADDRESS, GUESTS

# Where cart's Envoy listens for calls to orders: connection by connection, and request by request with retries.
CART_PORT = 18080
CART_HTTP_PORT = 18081


class Mesh:
    def __init__(self, lab, topo, build):
        self.lab = lab
        self.topo = topo
        self.build = build
        self.outrigger = os.path.join(build, "src", "ctl", "outrigger")
        self.socket = os.path.join(lab.dir, "controller.sock")
        os.chmod(lab.dir, 0o755)

    def write(self, name, text, mode=0o644):
        path = os.path.join(self.lab.dir, name)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as f:
            f.write(text)
        return path

    def og(self, *argv, check=True):
        """outrigger, asking the controller."""
        r = subprocess.run([self.outrigger, *argv, "--controller", "unix:" + self.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if check and r.returncode:
            raise RuntimeError("outrigger %s: %s" % (" ".join(argv), r.stderr.strip()))
        return r.stdout

    def agent_socket(self, name):
        return os.path.join(self.lab.dir, "run-" + name, "agent.sock")

    def og_agent(self, name, *argv):
        r = subprocess.run([self.outrigger, *argv, "--agent", self.agent_socket(name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return r.stdout if r.returncode == 0 else None

    # --- start ---

    def start_controller(self):
        path = self.write("controller.yaml", config.controller(self.lab.dir))
        binary = os.path.join(self.build, "src", "control", "outrigger-controller")
        self.controller = self.topo.hosts["edge"].popen([binary, "--config", path], "controller")
        wait_until("the controller's socket", lambda: self.alive(self.controller) and os.path.exists(self.socket), 20)
        self.write("roots.pem", self.og("roots"))

    def alive(self, process):
        if process.poll() is not None:
            raise RuntimeError("%s ended:\n%s" % (process.name, self.lab.log(process.name)[-3000:]))
        return True

    def join_token(self, nic):
        return json.loads(self.og("token", "create", "--nic", nic, "--json"))

    def start_agent(self, name):
        token = self.join_token("server-" + name)
        self.write("join-" + name, token["token"], 0o600)
        path = self.write("agent-%s.yaml" % name, config.agent(self.lab.dir, self.build, name))
        binary = os.path.join(self.build, "src", "agent", "outrigger-agent")
        setattr(self, "agent_" + name, self.topo.hosts[name].popen([binary, "--config", path], "agent"))

    def wait_agent(self, name):
        process = getattr(self, "agent_" + name)

        def connected():
            self.alive(process)
            out = self.og_agent(name, "status", "--json")
            return out and json.loads(out)["controller"]["state"] == "open"
        wait_until("agent %s enrolled" % name, connected, 20)

    def start_cart(self):
        """A container as people run it: the workload, Envoy as its sidecar, both in the pod's namespace."""
        pod = self.topo.hosts["cart"]
        conf = self.write("cart-nginx.conf", """worker_processes 1; daemon off; error_log /dev/null; pid %(d)s/cart-nginx.pid;
events { worker_connections 512; }
http { access_log off; server { listen 127.0.0.1:8080; location / { default_type text/plain; return 200 "hello from cart-1, secret 7f3a9c51\\n"; } } }
""" % {"d": self.lab.dir})
        pod.popen(["nginx", "-p", self.lab.dir, "-c", conf], "cart-app")
        token = json.loads(self.og("token", "create", "--workload", "shop/cart", "--json"))["token"]
        token_file = self.write("cart-token", token, 0o600)
        envoy = os.path.join(self.build, "cache", "envoy", "envoy", "_bin", "envoy")
        self.envoy = pod.popen([self.outrigger, "envoy", "--controller", "%s:15012" % ADDRESS["edge"], "--roots", os.path.join(self.lab.dir, "roots.pem"),
                                "--token", token_file, "--namespace", "shop", "--service-account", "cart", "--name", "cart-1", "--address", ADDRESS["cart"],
                                "--inbound", "8080", "--outbound", "127.0.0.1:%d=orders.shop.mesh.internal:8080" % CART_PORT,
                                "--outbound", "127.0.0.1:%d=orders.shop.mesh.internal:8080/http" % CART_HTTP_PORT,
                                "--dir", os.path.join(self.lab.dir, "cart-envoy"), "--envoy", envoy], "envoy")

        def listening():
            self.alive(self.envoy)
            return ":15008" in pod.run("sh", "-c", "cat /proc/net/tcp | awk '$4==\"0A\"{print $2}' | sed 's/.*:3AA0$/:15008/'")
        wait_until("cart's Envoy", listening, 30)

    # --- ask ---

    def get(self, path):
        """The controller's REST API, asked directly: a program started for each question would be what is measured."""
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self.socket)
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def services(self):
        return self.get("/v1/services")["services"]

    def wait_service(self, name, condition, instance=None, timeout_s=45):
        def find():
            for e in self.services():
                if e["service"] == name and (instance is None or (e.get("instance") or "").startswith(instance)) and condition(e):
                    return e
            return None
        try:
            return wait_until("service %s" % name, find, timeout_s, 0.05)
        except TimeoutError as e:
            seen = [x for x in self.services() if x["service"] == name]
            raise TimeoutError("%s; seen: %s" % (e, json.dumps(seen)[:1500])) from None

    def wait_proxy(self, guest, state, timeout_s=20):
        def find():
            for server in ("a", "b"):
                out = self.og_agent(server, "guests", "--json")
                ids = [g["id"] for g in json.loads(out)["guests"] if g["name"] == guest] if out else []
                proxies = json.loads(self.og_agent(server, "proxies", "--json") or '{"proxies": []}')["proxies"]
                for p in proxies:
                    if p["guest"] in ids and p["state"] == state:
                        return p
            return None
        return wait_until("%s's proxy %s" % (guest, state), find, timeout_s, 0.05)

    def endpoint_gone(self, service, address):
        """The time at which the mesh no longer lists @address, or None while it does."""
        for e in self.services():
            if e["service"] == service and e["address"] == address and e.get("in_mesh_ms") is not None and e.get("proxy") == "ready":
                return None
        return time.time()

    @staticmethod
    def container_url(retried=False):
        return "http://127.0.0.1:%d/" % (CART_HTTP_PORT if retried else CART_PORT)

    def start_load(self, url, rate, seconds):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load.py")
        return self.topo.hosts["cart"].popen(["/usr/bin/python3", script, url, rate, seconds], "load", stdout=subprocess.PIPE)

    def load(self, url, rate, seconds):
        out, _ = self.start_load(url, rate, seconds).communicate(timeout=60)
        return json.loads(out)

    # --- access logs ---

    def access(self, server):
        """Lines of the proxies' access logs of a server, parsed."""
        lines = []
        for line in self.file_text("run-%s/proxies/access.log" % server).splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                pass            # the last one is being written
        return lines

    def last_peer(self, server, guest):
        """Who the newest connection into @guest was from, by its certificate."""
        def find():
            for line in reversed(self.access(server)):
                if line.get("direction") == "inbound" and str(line.get("dst.addr", "")).startswith(ADDRESS[guest] + ":") and line.get("src.identity"):
                    return line["src.identity"]
            return None
        return wait_until("an access log line of %s" % guest, find, 5)

    def cart_peer(self):
        """The same of cart's Envoy: its own access log."""
        def find():
            found = re.findall(r"spiffe://[\w.-]+/ns/[\w.-]+/sa/[\w.-]+", self.lab.log("cart.envoy") + self.file_text("cart-envoy/access.log"))
            return found[-1] if found else None
        return wait_until("an access log line of cart's Envoy", find, 5)

    def file_text(self, name):
        try:
            with open(os.path.join(self.lab.dir, name), errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def cut_inside(self, server, guest, since):
        """Connections that were open to the application in @guest when it died, by its proxy's access log.

        An upper bound of the requests that were inside: one that was kept alive may have been idle. Those on their way
        are not among them: the proxy answers them with 503 (connect-failed).
        """
        def gone():
            out = self.og_agent(server, "proxies", "--json")
            return out and not any(p["guest"].endswith(GUESTS[guest][2]) for p in json.loads(out)["proxies"])
        wait_until("the end of %s's proxy" % guest, gone, 10)     # its last connections are logged before that
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since))
        return sum(1 for line in self.access(server) if line.get("direction") == "inbound" and line.get("time", "") >= stamp
                   and line.get("result") in ("drained", "reset") and str(line.get("dst.addr", "")).startswith(ADDRESS[guest] + ":"))

    # --- refusals ---

    def refusals(self):
        yield self.revoked_token()
        yield self.forged_identity()
        yield self.plaintext()
        yield self.foreign_csr()

    def revoked_token(self):
        token = self.join_token("server-x")
        self.og("token", "revoke", token["id"])
        self.write("join-x", token["token"], 0o600)
        path = self.write("agent-x.yaml", config.agent(self.lab.dir, self.build, "x"))
        binary = os.path.join(self.build, "src", "agent", "outrigger-agent")
        process = self.topo.hosts["registry"].popen([binary, "--config", path], "agent-x")
        try:
            words = wait_until("a refusal", lambda: re.search(r"[^\n]*revoked[^\n]*", self.lab.log("registry.agent-x")), 10).group(0)
            ok = True
        except TimeoutError:
            words, ok = self.lab.log("registry.agent-x")[-300:], False
        self.lab.stop(process)
        return "a NIC whose join token was revoked", "enrolment with the revoked token", ok, words

    def forged_identity(self):
        """orders' own name, signed by somebody else."""
        d = os.path.join(self.lab.dir, "forged")
        os.makedirs(d, exist_ok=True)
        name = "spiffe://%s/ns/shop/sa/cart" % config.TRUST_DOMAIN
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", d + "/key.pem", "-out", d + "/cert.pem",
                        "-days", "1", "-subj", "/CN=forged", "-addext", "subjectAltName=URI:" + name], check=True, stderr=subprocess.DEVNULL)
        out = self.topo.hosts["registry"].run("sh", "-c", "(sleep 1) | timeout 5 openssl s_client -connect %s:15008 -alpn h2 -tls1_3 -cert %s/cert.pem -key %s/key.pem 2>&1" % (
            ADDRESS["billing-1"], d, d), check=False)
        alert = re.search(r"alert [^:\n]*", out)
        return "a forged identity: %s, signed by another authority" % name, "TLS to billing-1's proxy", bool(alert), alert.group(0) if alert else out[-300:]

    def plaintext(self):
        out = self.topo.hosts["registry"].run("sh", "-c", "curl -s -S -m 5 http://%s:8080/ 2>&1; echo exit $?" % ADDRESS["billing-1"], check=False)
        return "plaintext to billing (strict)", "curl from outside the mesh", "hello" not in out and "exit 0" not in out, out.strip().replace("\n", "; ")

    def foreign_csr(self):
        """cart's token, asking to be orders."""
        out = subprocess.run(self.topo.hosts["cart"].argv(
            self.outrigger, "envoy", "--bootstrap", "--controller", "%s:15012" % ADDRESS["edge"], "--roots", os.path.join(self.lab.dir, "roots.pem"),
            "--token", os.path.join(self.lab.dir, "cart-token"), "--namespace", "shop", "--service-account", "orders", "--name", "x", "--address", ADDRESS["cart"],
            "--dir", os.path.join(self.lab.dir, "foreign")), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
        return "a certificate request for somebody else (cart asks to be orders)", "CreateCertificate", out.returncode != 0, out.stdout.strip().split("\n")[-1][:200]

    def look_around(self, env):
        """Writes what a shell needs to ask this mesh, and says how."""
        d = self.lab.dir
        with open(env, "w") as f:
            f.write("# %s\nexport PATH=%s:$PATH\nexport OUTRIGGER_AGENT=%s\nexport OUTRIGGER_CONTROLLER=unix:%s\n" % (
                d, os.path.dirname(self.outrigger), self.agent_socket("b"), self.socket))
        return "\n".join([
            "  It is still running. Look around:",
            "    . %s" % os.path.relpath(env),
            "    outrigger services -c ''             # the whole mesh; without -c: server b",
            "    outrigger explain orders",
            "    outrigger proxies",
            "    outrigger check",
            "    ip netns exec og-cart curl http://127.0.0.1:%d/   # the container calls the VM" % CART_PORT,
            "  Logs: %s" % d,
            "  To end it: outrigger demo --stop",
        ])

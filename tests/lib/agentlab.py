"""A whole small mesh in namespaces: a controller, a registry, and NICs with the real agent and its proxies.

              10.66.0.0/24, one wire ("net")
    edge .2      outrigger-controller
    reg .1       a registry that speaks enough of Consul, and plain servers
    nic .3       a NIC: a bridge with the ports tap0, tap1, ... and the uplink up0
    vmN .11+N    behind tapN (a namespace that plays a VM: it has never heard of a mesh)
"""

import json
import os
import signal
import subprocess
import time

import meshconf
from netlab import Lab, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("OUTRIGGER_BUILD", os.path.join(HERE, "..", "..", "build"))
AGENT = os.path.abspath(os.path.join(BUILD, "src", "agent", "outrigger-agent"))
OUTRIGGER = os.path.abspath(os.path.join(BUILD, "src", "ctl", "outrigger"))
PROXY = os.path.abspath(os.path.join(BUILD, "src", "proxy", "outrigger-proxy"))
CONTROLLER = os.path.abspath(os.path.join(BUILD, "src", "control", "outrigger-controller"))

REGISTRY, EDGE, NIC = "10.66.0.1", "10.66.0.2", "10.66.0.3"

ONBOARDING = meshconf.policy("orders", "orders-*", services=["orders", "orders-*"]) + meshconf.SHOPPERS
CONTAINERS = """session_grace: 1s
containers:
  - { prefix: 10.66.0.40/32, what: "pod shop/reports-1" }
"""

# HTTPServer asks DNS for its own name, which takes seconds where there is none.
SERVER = """
import http.server, json, socketserver, sys
class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, data, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *args):
        pass
"""
WEB = SERVER + """
import socket
Server.address_family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
class H(Handler):
    def do_GET(self):
        self.answer(("this is " + sys.argv[1]).encode(), "text/plain")
Server((sys.argv[1], int(sys.argv[2])), H).serve_forever()
"""
# /healthz answers as the file says: a status, or "hang". Everything else is always answered. By TLS where there is a file with key and certificate.
SICK_WEB = SERVER + """
import time
class H(Handler):
    def do_GET(self):
        said = open(sys.argv[3]).read().strip()
        if self.path == "/healthz":
            print("agent=%s x=%s" % (self.headers["User-Agent"], self.headers.get("X-Probe")), flush=True)
            if said == "hang":
                time.sleep(60)
            data = said.encode()
            self.send_response(int(said))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        self.answer(("this is " + sys.argv[1]).encode(), "text/plain")
server = Server((sys.argv[1], int(sys.argv[2])), H)
if len(sys.argv) > 4:
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
# Says yes to every registration and remembers it; answers /v1/health/service/NAME from that.
CONSUL = SERVER + """
entries = {}
class H(Handler):
    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/service/register"):
            e = json.loads(body)
            entries[e.get("ID", e["Name"])] = e
        elif "/service/deregister/" in self.path:
            entries.pop(self.path.rsplit("/", 1)[1], None)
        self.answer(b"{}", "application/json")
    def do_GET(self):
        name = self.path.split("?")[0].rsplit("/", 1)[1]
        self.answer(json.dumps([{
            "Node": {"Node": "n", "Address": e.get("Address", "")},
            "Service": {"ID": i, "Service": e["Name"], "Address": e.get("Address", ""), "Port": e["Port"], "Meta": e.get("Meta", {})},
            "Checks": []} for i, e in entries.items() if e["Name"] == name]).encode(), "application/json")
Server((sys.argv[1], 8500), H).serve_forever()
"""


class AgentLab(Lab):
    shown = ("nic.agent", "edge.controller")

    def __init__(self, prefix, vms=2, names=("orders-1", "shopper-1", "orders-2"), onboarding=ONBOARDING, pin=False, more="", drain="200ms"):
        super().__init__(prefix)
        os.chmod(self.dir, 0o755)
        self.bpffs = None
        if pin:     # `ip netns exec` hides /sys
            self.bpffs = os.path.join(self.dir, "bpf")
            os.makedirs(self.bpffs)
            subprocess.run(["mount", "-t", "bpf", "bpf", self.bpffs], check=True)
        self.net = self.host("net")
        self.net.bridge("br0")
        self.reg, self.edge, self.nic = self.host("reg"), self.host("edge"), self.host("nic")
        self.cable(self.reg, "eth0", self.net, "reg", REGISTRY + "/24", master_b="br0")
        self.cable(self.edge, "eth0", self.net, "edge", EDGE + "/24", master_b="br0")
        self.nic.bridge("br0", NIC + "/24")
        self.cable(self.nic, "up0", self.net, "nic", master_a="br0", master_b="br0")
        self.vms = []
        for i in range(vms):
            vm = self.host("vm%d" % i)
            vm.address, vm.mac, vm.port = "10.66.0.%d" % (11 + i), "02:00:00:66:00:%02x" % (0x11 + i), "tap%d" % i
            self.cable(vm, "eth0", self.nic, vm.port, vm.address + "/24", mac_a=vm.mac, master_b="br0")
            vm.ip("route", "add", "default", "via", REGISTRY)
            self.vms.append(vm)
        self.names = {vm.mac: name for vm, name in zip(self.vms, names)}
        self.onboarding = onboarding
        self.more = more
        self.drain = drain
        self.agent = self.controller = None

    # --- configuration ---

    def controller_yaml(self):
        return meshconf.controller(self.dir, EDGE, self.onboarding, more=CONTAINERS)

    def agent_yaml(self):
        d = self.dir
        return meshconf.agent(d, "nic-a", EDGE, self.names, self.bpffs + "/og" if self.bpffs else "", {"path": PROXY, "access_log": "stderr", "drain": self.drain},
                              join=d + "/join", state=d + "/state", run=d + "/run", more="log: { level: debug }\n" + self.more)

    # --- programs ---

    def start_registry(self):
        self.reg.popen(["python3", "-c", CONSUL, REGISTRY], "consul")
        wait_until("the registry", lambda: not subprocess.run(self.reg.argv("curl", "-s", "http://%s:8500/x" % REGISTRY), stdout=subprocess.DEVNULL).returncode)

    def start_controller(self):
        with open(self.dir + "/controller.yaml", "w") as f:
            f.write(self.controller_yaml())
        self.controller = self.edge.popen([CONTROLLER, "-c", self.dir + "/controller.yaml"], "controller")
        roots = wait_until("the controller", lambda: self.controller.poll() is not None or self.roots())
        assert self.controller.poll() is None, self.log("edge.controller")
        with open(self.dir + "/roots.pem", "w") as f:
            f.write(roots)

    def roots(self):
        try:
            return self.ask(self.edge, "controller.sock", "/v1/roots")["roots_pem"]
        except (RuntimeError, ValueError):
            return None

    def write_join_token(self):
        token = self.ask(self.edge, "controller.sock", "/v1/tokens", {"nic": "nic-a"})["token"]
        with open(self.dir + "/join", "w") as f:
            f.write(token + "\n")

    def start_agent(self, wait=True):
        with open(self.dir + "/agent.yaml", "w") as f:
            f.write(self.agent_yaml())
        self.agent = self.nic.popen([AGENT, "-c", self.dir + "/agent.yaml"], "agent")
        if wait:
            wait_until("the agent", lambda: self.agent.poll() is not None or self.is_up())
            assert self.agent.poll() is None, self.log("nic.agent")

    def is_up(self):
        try:
            return self.get("/v1/status")
        except (RuntimeError, ValueError):
            return None

    def stop_agent(self, signo=signal.SIGTERM):
        self.agent.send_signal(signo)
        self.agent.wait(10)

    def start(self):
        self.start_registry()
        self.start_controller()
        self.write_join_token()
        self.start_agent()
        wait_until("the session", lambda: self.get("/v1/status")["controller"]["state"] == "open")
        wait_until("the policies", lambda: self.get("/v1/status")["policy_version"])
        return self

    # --- asking ---

    def ask(self, host, sock, path, body=None):
        argv = ["curl", "-sS", "-m", "10", "--unix-socket", os.path.join(self.dir, sock), "http://x" + path]
        if body is not None:
            argv += ["-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
        return json.loads(host.run(*argv))

    def get(self, path):
        return self.ask(self.nic, "run/agent.sock", path)

    def service(self, name, **want):
        """The claims of that name, or those of them that have the members @want."""
        return [s for s in self.get("/v1/services")["services"] if s["service"] == name and all(s[k] == v for k, v in want.items())]

    def proxy(self, vm, state="ready"):
        return [p for p in self.get("/v1/proxies")["proxies"] if p["guest"].endswith(vm.mac) and p["state"] == state]

    def guest(self, vm):
        found = [g for g in self.get("/v1/guests")["guests"] if g["mac"] == vm.mac]
        return found[0] if found else None

    def workload(self, vm):
        return [w for w in self.ask(self.edge, "controller.sock", "/v1/workloads")["workloads"] if vm.address in w["addresses"]]

    # --- doing ---

    def serve(self, vm, port=8080, address=None):
        """A plain HTTP server in the VM, which answers with its address."""
        p = vm.popen(["python3", "-c", WEB, address or vm.address, str(port)], "http%d" % port)
        wait_until("the VM's server", lambda: ":%d " % port in vm.run("ss", "-Hltn"))
        return p

    def register(self, vm, name="orders", instance="orders-1", port=8080, address=None, meta=None):
        body = {"Name": name, "ID": instance, "Address": address or vm.address, "Port": port, "Meta": meta or {}}
        vm.run("curl", "-sS", "-m", "10", "-X", "PUT", "-d", json.dumps(body), "http://%s:8500/v1/agent/service/register" % REGISTRY)

    def deregister(self, vm, instance="orders-1"):
        vm.run("curl", "-sS", "-m", "10", "-X", "PUT", "http://%s:8500/v1/agent/service/deregister/%s" % (REGISTRY, instance))

    def discover(self, vm, name="orders"):
        vm.run("curl", "-sS", "-m", "10", "http://%s:8500/v1/health/service/%s" % (REGISTRY, name))

    def fetch(self, host, address, port=8080, timeout=5):
        """What an HTTP GET says, or "" when it is refused or not answered."""
        r = subprocess.run(host.argv("curl", "-sS", "-m", timeout, "http://%s:%d/" % ("[%s]" % address if ":" in address else address, port)), stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True)
        return r.stdout

    def join(self, vm, **register):
        """The VM serves, registers and is in the mesh."""
        self.serve(vm, register.get("port", 8080))
        self.register(vm, **register)
        wait_until("the proxy of " + vm.name, lambda: self.proxy(vm), 60)
        wait_until("the workload of " + vm.name, lambda: self.workload(vm), 60)

    def close(self):
        if self.agent and self.agent.poll() is None:
            self.stop_agent()
        if self.bpffs:
            subprocess.run(["umount", "-l", self.bpffs], check=False)
        super().close()


def alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def now_ms():
    return time.monotonic() * 1000

"""outrigger-controller in a folder of its own, and what tests do with it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time

import grpcpeer

ENROLL = "/outrigger.v1.Provisioner/Enroll"
RENEW = "/outrigger.v1.Provisioner/Renew"
SESSION = "/outrigger.v1.Provisioner/Session"
DELTA = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
SOTW = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
CREATE_CERTIFICATE = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"
REVOCATIONS = "type.googleapis.com/outrigger.v1.Revocations"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
TRUST_DOMAIN = "test.mesh"


def wait_until(what, condition, timeout_s=10):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise TimeoutError("not within %s s: %s" % (timeout_s, what))


def free_ports(n):
    socks = [socket.socket() for _ in range(n)]
    for s in socks:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


class UnixHTTP(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self.path)


class Controller:
    """The program, its configuration file and its REST API."""

    def __init__(self, build, folder):
        self.binary = os.path.join(build, "src", "control", "outrigger-controller")
        self.dir = str(folder)
        self.path = os.path.join(self.dir, "controller.yaml")
        self.socket = os.path.join(self.dir, "c.sock")
        self.log_path = os.path.join(self.dir, "log")
        self.provisioner, self.mesh, self.rest = free_ports(3)
        self.process = None

    def base(self):
        return ("trust_domain: %s\nstate_dir: %s/state\nlisten:\n  provisioner: 127.0.0.1:%d\n  mesh: 127.0.0.1:%d\n  rest: 127.0.0.1:%d\n"
                "  rest_socket: %s\nvirtual_addresses: 10.99.0.0/16\nsession_grace: 1s\nlog_level: debug\n" % (
                    TRUST_DOMAIN, self.dir, self.provisioner, self.mesh, self.rest, self.socket))

    def write(self, more="", base=None):
        tmp = self.path + ".new"
        with open(tmp, "w") as f:
            f.write((self.base() if base is None else base) + more)
        os.rename(tmp, self.path)

    def start(self, more=None, wait=True, prefix=()):
        if more is not None:
            self.write(more)
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen([*prefix, self.binary, "--config", self.path], stdout=log, stderr=log)
        log.close()
        if wait:
            wait_until("controller ready: " + self.log()[-500:], lambda: self.process.poll() is None and self.alive())
            self.roots = os.path.join(self.dir, "roots.pem")
            with open(self.roots, "w") as f:
                f.write(self.get("/v1/roots")["roots_pem"])
        return self

    def alive(self):
        try:
            return self.get("/v1/status")
        except OSError:
            return None

    def log(self):
        try:
            with open(self.log_path) as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def stop(self, sig=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(sig)
        if self.process:
            self.process.wait(10)
            code, self.process = self.process.returncode, None
            return code
        return None

    def call(self, method, path, body=None):
        conn = UnixHTTP(self.socket)
        conn.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
        answer = conn.getresponse()
        data = answer.read()
        conn.close()
        kind = answer.getheader("Content-Type") or ""
        return answer.status, json.loads(data) if "json" in kind else data.decode()

    def get(self, path):
        status, body = self.call("GET", path)
        assert status == 200, (path, status, body)
        return body

    def post(self, path, body):
        status, answer = self.call("POST", path, body)
        assert status < 300, (path, status, answer)
        return answer

    # --- as a NIC, as a workload ---

    def key_and_csr(self, name, uri=None):
        """A key and a request for @uri, made by the openssl program. Returns (key's path, request's text)."""
        key, csr = os.path.join(self.dir, name + ".key"), os.path.join(self.dir, name + ".csr")
        argv = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", csr, "-subj", "/"]
        if uri:
            argv += ["-addext", "subjectAltName=critical,URI:" + uri]
        subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)
        with open(csr) as f:
            return key, f.read()

    def connect(self, port, cert=None):
        return grpcpeer.Connection(("127.0.0.1", port), self.roots, cert)

    def join_token(self, nic="", ttl_s=None):
        return self.post("/v1/tokens", {"nic": nic, **({"ttl_s": ttl_s} if ttl_s else {})})

    def enroll(self, nic, token=None, uri=None):
        """Enrols; returns (certificate's path, key's path)."""
        token = self.join_token(nic)["token"] if token is None else token
        key, csr = self.key_and_csr(nic, uri or "spiffe://%s/nic/%s" % (TRUST_DOMAIN, nic))
        conn = self.connect(self.provisioner)
        try:
            reply = conn.unary(ENROLL, grpcpeer.encode("outrigger.v1.EnrollRequest", {
                "join_token": token, "nic_id": nic, "csr_pem": csr, "version": "test"}))
        finally:
            conn.close()
        return self.save_chain(nic, grpcpeer.decode("outrigger.v1.EnrollResponse", reply)["cert_chain"]), key

    def save_chain(self, name, chain):
        path = os.path.join(self.dir, name + ".crt")
        with open(path, "w") as f:
            f.write("".join(chain[:-1]))
        return path

    def workload_token(self, workload, ttl_s=None):
        return self.post("/v1/tokens", {"workload": workload, **({"ttl_s": ttl_s} if ttl_s else {})})["token"]

    def certify(self, csr, token=None, cert=None, validity_s=3600):
        conn = self.connect(self.mesh, cert)
        try:
            reply = conn.unary(CREATE_CERTIFICATE, grpcpeer.encode("istio.v1.auth.IstioCertificateRequest", {
                "csr": csr, "validity_duration": validity_s}), {"authorization": "Bearer " + token} if token else {})
        finally:
            conn.close()
        return grpcpeer.decode("istio.v1.auth.IstioCertificateResponse", reply)["cert_chain"]


class Nic:
    """A NIC's session: reports and directives as dicts."""

    def __init__(self, controller, nic, cert, hello=True):
        self.id = nic
        self.conn = controller.connect(controller.provisioner, cert)
        self.call = self.conn.stream(SESSION)
        self.seq = 0
        self.policies = self.containers = self.welcome = None
        if hello:
            self.say(hello={"version": 1, "software": "test 1", "nic_id": nic, "hostname": "host", "boot_id": 1})
            self.welcome = self.hear("welcome")
            self.policies = self.hear("policies")
            self.containers = self.hear("containers")

    def say(self, **report):
        self.seq += 1
        self.call.send(grpcpeer.encode("outrigger.v1.Report", {"seq": self.seq, **report}))

    def hear(self, kind, timeout_s=10):
        """The next directive. Which guests are nodes is passed over: it comes whenever the controller has worked it out."""
        while True:
            directive = grpcpeer.decode("outrigger.v1.Directive", self.call.receive(timeout_s))
            if kind in directive:
                return directive[kind][0]
            assert "nodes" in directive, (kind, directive)

    def hear_any(self, kind, timeout_s=10):
        """The next directive of that kind; what comes before it is passed over."""
        while True:
            directive = grpcpeer.decode("outrigger.v1.Directive", self.call.receive(timeout_s))
            if kind in directive:
                return directive[kind][0]

    def guest_id(self, port="tap0", mac="52:54:00:00:00:01"):
        return "%s/%s/%s" % (self.id, port, mac)

    def guest(self, name="orders-1", port="tap0", mac="52:54:00:00:00:01", addresses=("10.0.0.1",)):
        gid = self.guest_id(port, mac)
        self.say(guest={"guest_id": gid, "port": port, "mac": mac, "addresses": list(addresses), "name": name})
        return gid

    def claim(self, gid, service="orders", instance="orders-1", address="10.0.0.1", port=8080, **more):
        self.say(claim={"guest_id": gid, "service": service, "instance": instance, "address": address, "port": port, "transport": "tcp",
                        "app_protocol": "http", "source": "zookeeper", "registry": "10.9.9.9:2181", "health": "passing", "ttl_s": 30,
                        "admitted": True, "first_seen_ms": int(time.time() * 1000), **more})

    def verdict(self, gid, service="orders", instance="orders-1", verdict="vm"):
        self.say(verdict={"guest_id": gid, "service": service, "instance": instance, "verdict": verdict, "evidence": [
            {"method": "port", "finding": verdict, "detail": "it is behind tap0", "at_ms": int(time.time() * 1000)}]})

    def proxy(self, gid, state="ready", **more):
        self.say(proxy={"guest_id": gid, "state": state, "process": "shop/1", "found_ms": 1, "decided_ms": 2, "ready_ms": 3, **more})

    def synced(self):
        self.say(synced={})

    def vm(self, name="orders-1", service="orders", address="10.0.0.1", port="tap0", mac="52:54:00:00:00:01", service_port=8080):
        """All that it takes for a VM to be in the mesh."""
        gid = self.guest(name, port, mac, (address,))
        self.claim(gid, service, name, address, service_port)
        self.verdict(gid, service, name)
        self.proxy(gid)
        return gid

    def close(self):
        self.conn.close()


class Discovery:
    """A discovery stream, delta or state of the world."""

    def __init__(self, controller, token=None, cert=None, delta=True, ip="10.9.0.1", metadata=None):
        self.delta = delta
        self.conn = controller.connect(controller.mesh, cert)
        self.call = self.conn.stream(DELTA if delta else SOTW, {"authorization": "Bearer " + token} if token else {})
        fields = [{"key": k, "value": {"string_value": v}} for k, v in (metadata or {}).items()]
        self.node = {"id": "ztunnel~%s~t.shop~shop.svc.cluster.local" % ip, "metadata": {"fields": fields}}

    def ask(self, kind, subscribe=(), unsubscribe=(), initial=None, nonce="", error=None, names=None, version=""):
        q = {"type_url": kind, "response_nonce": nonce}
        if self.node:
            q["node"], self.node = self.node, None
        if error:
            q["error_detail"] = {"code": 3, "message": error}
        if self.delta:
            q["resource_names_subscribe"] = list(subscribe)
            q["resource_names_unsubscribe"] = list(unsubscribe)
            q["initial_resource_versions"] = [{"key": k, "value": v} for k, v in (initial or {}).items()]
            self.call.send(grpcpeer.encode("envoy.service.discovery.v3.DeltaDiscoveryRequest", q))
        else:
            q["resource_names"] = list(names or ())
            q["version_info"] = version
            self.call.send(grpcpeer.encode("envoy.service.discovery.v3.DiscoveryRequest", q))

    def hear(self, kind, ack=True, timeout_s=10):
        """The next answer: {"resources": {name: decoded}, "removed": [...], "nonce", "versions", "aliases"}."""
        word = "DeltaDiscoveryResponse" if self.delta else "DiscoveryResponse"
        a = grpcpeer.decode("envoy.service.discovery.v3." + word, self.call.receive(timeout_s))
        assert a["type_url"] == [kind], a
        message = kind.split("/")[1]
        out = {"resources": {}, "versions": {}, "aliases": {}, "removed": a.get("removed_resources", []), "nonce": a["nonce"][0],
               "version": a.get("version_info", [""])[0]}
        for n, r in enumerate(a.get("resources", [])):
            any_ = r["resource"][0] if self.delta else r
            value = any_.get("value", [b""])[0]
            body = grpcpeer.decode(message, value.encode() if isinstance(value, str) else value)
            name = r["name"][0] if self.delta else n
            out["resources"][name] = body
            out["versions"][name] = r.get("version", [""])[0] if self.delta else ""
            out["aliases"][name] = r.get("aliases", []) if self.delta else []
        if ack:
            self.ask(kind, nonce=out["nonce"], version=out["version"], names=getattr(self, "names", None))
        return out

    def close(self):
        self.conn.close()

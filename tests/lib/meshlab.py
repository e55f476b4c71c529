"""Parts of a mesh for tests: certificates, workload tokens, our programs, and an agent that speaks IPC by hand."""

import base64
import glob
import json
import os
import pathlib
import re
import secrets
import socket
import subprocess
import time

from pbwire import field, message, parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OUTRIGGER_BUILD", ROOT / "build"))
PROXY = BUILD / "src/proxy/outrigger-proxy"
CONTROLLER = BUILD / "src/control/outrigger-controller"

def wait_for(what, seconds=10.0, step=0.02, why="it"):
    """Calls @what until it returns something true; exceptions count as not yet."""
    end = time.monotonic() + seconds
    last = None
    while True:
        try:
            got = what()
            if got:
                return got
        except (OSError, ValueError, KeyError, AssertionError) as e:
            last = e
        assert time.monotonic() < end, "waited %g s for %s (%s)" % (seconds, why, last)
        time.sleep(step)

class Pki:
    """A root and leaves with SPIFFE IDs, by the openssl command."""

    def __init__(self, folder, trust_domain="example.org"):
        self.dir = pathlib.Path(folder)
        self.td = trust_domain
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "ca.key")
        self.openssl("req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=test root", "-days", "2", "-out", "roots.pem")

    def openssl(self, *args):
        subprocess.run(["openssl", *args], cwd=self.dir, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def id(self, namespace, account):
        return "spiffe://%s/ns/%s/sa/%s" % (self.td, namespace, account)

    def leaf(self, name, namespace, account, ca="ca.key", roots="roots.pem"):
        (self.dir / (name + ".ext")).write_text(
            "subjectAltName=critical,URI:%s\nextendedKeyUsage=serverAuth,clientAuth\nkeyUsage=digitalSignature\n"
            "basicConstraints=CA:FALSE\n" % self.id(namespace, account))
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", name + ".key")
        self.openssl("req", "-new", "-key", name + ".key", "-subj", "/", "-out", name + ".csr")
        self.openssl("x509", "-req", "-in", name + ".csr", "-CA", roots, "-CAkey", ca, "-CAcreateserial", "-days", "1",
                     "-extfile", name + ".ext", "-out", name + ".pem")

def serial_of(pem_path):
    out = subprocess.run(["openssl", "x509", "-in", pem_path, "-noout", "-serial"], check=True, capture_output=True, text=True)
    return out.stdout.strip()

def unix_get(path, url, method="GET", timeout=5):
    """One HTTP request on a unix socket: status and body."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout)
        s.connect(str(path))
        s.sendall(("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % (method, url)).encode())
        data = b""
        while chunk := s.recv(65536):
            data += chunk
    head, body = data.split(b"\r\n\r\n", 1)
    return int(head.split()[1]), body

class Proxy:
    """An outrigger-proxy in the static mode."""

    def __init__(self, host, folder, name, text, workers=1):
        self.dir = pathlib.Path(folder)
        self.admin = self.dir / (name + ".sock")
        self.file = self.dir / (name + ".yaml")
        self.log = self.dir / (name + ".log")
        self.name = name
        self.host = host
        self.text = text
        self.workers = workers
        self.write(text)
        self.start()

    def write(self, text):
        self.text = text
        self.file.write_text("trust_domain: example.org\nroots: roots.pem\nadmin: %s\naccess_log: %s\naccess_log_json: true\n%s" %
                             (self.admin, self.dir / (self.name + ".access"), text))

    def start(self):
        out = open(self.log, "ab")
        argv = [PROXY, "--static", self.file, "-w", self.workers, "--log-level", "debug"]
        self.process = subprocess.Popen(self.host.argv(*argv) if self.host else [str(a) for a in argv], stdout=out, stderr=out)
        try:
            wait_for(lambda: all(v["state"] in ("ready", "degraded") for v in self.vms()) and self.vms(), why=self.name)
        except AssertionError as e:
            self.kill()
            raise AssertionError("%s: %s" % (e, self.log.read_text()[-2000:]))

    def vms(self):
        return json.loads(unix_get(self.admin, "/vms")[1])

    def snapshot(self):
        return json.loads(unix_get(self.admin, "/snapshot")[1])

    def connections(self):
        return json.loads(unix_get(self.admin, "/connections")[1])

    def metrics(self):
        """{(name, frozenset of labels): value}"""
        got = {}
        for line in unix_get(self.admin, "/metrics")[1].decode().splitlines():
            m = re.match(r'^([a-z0-9_]+)(?:\{(.*)\})? (\d+)$', line)
            if m:
                labels = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', m[2] or ""))
                got[(m[1], frozenset(labels.items()))] = int(m[3])
        return got

    def metric(self, name, **labels):
        """The sum over all series with these labels."""
        return sum(v for (n, have), v in self.metrics().items() if n == name and set(labels.items()) <= have)

    def access(self):
        path = self.dir / (self.name + ".access")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def reload(self, text=None):
        if text is not None:
            self.write(text)
        before = self.log.read_text().count("file was read again")
        self.process.send_signal(1)
        wait_for(lambda: self.log.read_text().count("file was read again") > before, why="reload")

    def stop(self):
        self.process.terminate()
        assert self.process.wait(20) == 0, self.log.read_text()[-2000:]

    def kill(self):
        self.process.kill()
        self.process.wait()

class Controller:
    """An outrigger-controller with static workloads, and tokens signed with its key."""

    def __init__(self, host, folder, text, address="127.0.0.1"):
        self.dir = pathlib.Path(folder)
        self.state = self.dir / "controller"
        self.state.mkdir(exist_ok=True)
        self.rest = self.dir / "rest.sock"
        self.file = self.dir / "controller.yaml"
        self.log = self.dir / "controller.log"
        self.host = host
        self.address = address
        self.write(text)
        self.start()

    def write(self, text):
        self.file.write_text(
            "trust_domain: example.org\nstate_dir: %s\nlisten: {mesh: \"%s:15012\", provisioner: \"%s:15030\", rest: \"127.0.0.1:15031\", "
            "rest_socket: %s}\nadvertise: {mesh: \"%s:15012\", server_names: [\"%s\"]}\n%s" %
            (self.state, self.address, self.address, self.rest, self.address, self.address, text))

    def start(self):
        out = open(self.log, "ab")
        argv = [CONTROLLER, "--config", self.file]
        self.process = subprocess.Popen(self.host.argv(*argv) if self.host else [str(a) for a in argv], stdout=out, stderr=out)
        wait_for(lambda: self.process.poll() is not None or unix_get(self.rest, "/v1/status")[0] == 200, why="controller")
        assert self.process.poll() is None, self.log.read_text()

    def roots(self):
        return self.get("/v1/roots")["roots_pem"]

    def get(self, url):
        return json.loads(unix_get(self.rest, url)[1])

    def token(self, namespace, account, ttl=600, guest=None, **claims):
        """A workload token, as the controller would sign it."""
        key = sorted(glob.glob(str(self.state / "oidc/key-*.pem")))[-1]
        kid = self.get("/jwks.json")["keys"][-1]["kid"]
        now = int(time.time())
        issuer = self.get("/.well-known/openid-configuration")["issuer"]
        body = {"iss": issuer, "aud": ["istio-ca"], "sub": "system:serviceaccount:%s:%s" % (namespace, account),
                "iat": now, "nbf": now, "exp": now + ttl, "jti": ("guest:%s:" % guest if guest else "") + secrets.token_hex(8)}
        body.update(claims)
        text = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": "ES256", "kid": kid, "typ": "JWT"}, body))
        der = subprocess.run(["openssl", "dgst", "-sha256", "-sign", key], input=text.encode(), check=True, capture_output=True).stdout
        return text + "." + b64(raw_signature(der))

    def stop(self):
        self.process.terminate()
        self.process.wait(20)

    def kill(self):
        self.process.kill()
        self.process.wait()

def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

def raw_signature(der):
    """ECDSA-Sig-Value to r || s."""
    assert der[0] == 0x30
    at, out = 2, b""
    for _ in range(2):
        assert der[at] == 2
        n = der[at + 1]
        out += der[at + 2:at + 2 + n].lstrip(b"\0").rjust(32, b"\0")
        at += 2 + n
    return out

STATES = ["starting", "certificate", "ready", "degraded", "draining", "stopped", "failed"]

class Agent:
    """The agent's end of a proxy's socket. Keeps what the proxy says."""

    def __init__(self, sock):
        self.sock = sock
        self.hello = None
        self.states = {}
        self.history = []
        self.wanted = []
        self.tees = []
        self.loads = []

    def send(self, number, body, fds=()):
        socket.send_fds(self.sock, [field(number, body)], list(fds))

    def say_hello(self, version=1):
        self.send(1, message(f1=version, f2="test", f3=os.getpid(), f4="g"))

    def read(self, timeout=0.0):
        """Takes what there is; False when the proxy has gone."""
        self.sock.settimeout(timeout or 0.001)
        try:
            while True:
                data = self.sock.recv(1 << 18)
                if not data:
                    return False
                self.take(parse(data))
        except (TimeoutError, BlockingIOError):
            return True
        except ConnectionResetError:
            return False

    def take(self, m):
        (number, (body,)), = m.items()
        m = parse(body)
        text = lambda n: m.get(n, [b""])[0].decode()
        if number == 1:
            self.hello = {"version": m[1][0], "vm_ids": [v.decode() for v in m.get(5, [])]}
        elif number == 2:
            state = {"state": STATES[m.get(2, [0])[0]], "detail": text(3), "identity": text(4), "not_after": m.get(5, [0])[0]}
            self.states[text(1)] = state
            self.history.append((text(1), state["state"]))
        elif number == 3:
            self.wanted.append((text(1), text(2)))
        elif number == 4:
            self.tees.append({"vm": text(1), "from_server": bool(m.get(3, [0])[0]), "data": m.get(6, [b""])[0], "open": bool(m.get(7, [0])[0]),
                              "fin": bool(m.get(8, [0])[0]), "lost": m.get(9, [0])[0], "server": text(5)})
        elif number == 5:
            self.loads.append([parse(v) for v in m.get(1, [])])

    def until(self, what, seconds=10.0, why="the proxy"):
        def look():
            self.read()
            return what(self)
        return wait_for(look, seconds, why=why)

    def until_state(self, vm, state, seconds=10.0):
        self.until(lambda a: a.states.get(vm, {}).get("state") == state, seconds, "%s %s: %s" % (vm, state, self.states.get(vm)))

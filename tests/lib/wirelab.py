"""For tests of TLS and HBONE on loopback: certificates, addresses of one's own, wire-peer as a process."""
import contextlib
import json
import os
import pathlib
import queue
import socket
import ssl
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OUTRIGGER_BUILD", ROOT / "build"))
PEER = BUILD / "tests/lib/wire-peer"
WAIT_S = 20


def address(n):
    """An address of 127/8 that no other test process uses."""
    pid = os.getpid()
    return "127.%d.%d.%d" % (128 + (pid >> 8 & 0x3f), pid & 0xff, n)


class Pki:
    """An authority and its leaves, as files in a folder."""

    def __init__(self, path, name="ca"):
        self.path = pathlib.Path(path)
        self.roots = self.path / (name + ".pem")
        self.key = self.path / (name + ".key")
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key)
        self._openssl("req", "-x509", "-new", "-key", self.key, "-sha256", "-days", "2", "-subj", "/CN=" + name, "-out", self.roots)

    @staticmethod
    def _openssl(*args):
        subprocess.run(["openssl", *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def issue(self, name, san):
        cert, key = self.path / (name + ".pem"), self.path / (name + ".key")
        csr, ext = self.path / (name + ".csr"), self.path / (name + ".ext")
        ext.write_text("basicConstraints=critical,CA:FALSE\nsubjectAltName=%s\n" % san)
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        self._openssl("req", "-new", "-key", key, "-subj", "/CN=" + name, "-out", csr)
        self._openssl("x509", "-req", "-in", csr, "-CA", self.roots, "-CAkey", self.key, "-CAcreateserial", "-days", "1",
                      "-sha256", "-extfile", ext, "-out", cert)
        return Leaf(cert, key, self.roots)


class Leaf:
    def __init__(self, cert, key, roots):
        self.cert, self.key, self.roots = str(cert), str(key), str(roots)

    def args(self):
        return ["cert=" + self.cert, "key=" + self.key, "roots=" + self.roots]

    def context(self, server, alpn=("h2",)):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        c.check_hostname = False
        c.verify_mode = ssl.CERT_REQUIRED
        c.minimum_version = ssl.TLSVersion.TLSv1_3
        c.load_cert_chain(self.cert, self.key)
        c.load_verify_locations(self.roots)
        if alpn:
            c.set_alpn_protocols(list(alpn))
        return c


def wait_port(addr, port, process=None):
    """Until somebody listens there."""
    end = time.monotonic() + WAIT_S
    while True:
        with contextlib.closing(socket.socket()) as s:
            if s.connect_ex((addr, port)) == 0:
                return
        assert time.monotonic() < end, "nobody listens at %s:%d" % (addr, port)
        assert process is None or process.poll() is None, "the process has ended: %s" % process.args
        time.sleep(0.02)


class Hbone:
    """wire-peer with one VM. Reports are collected."""

    def __init__(self, leaf, own, vm, outbound=None, inbound=None, services=(), host=None, workers=1):
        args = [PEER, "hbone", *leaf.args(), "own=" + own, "vm=" + vm, "workers=%d" % workers]
        args += ["outbound=" + outbound] if outbound else []
        args += ["inbound=" + inbound] if inbound else []
        args += ["host=" + host] if host else []
        args += ["service=" + s for s in services]
        self.process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.reports = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        assert self.reports.get(timeout=WAIT_S)["event"] == "ready"

    def _read(self):
        for line in self.process.stdout:
            self.reports.put(json.loads(line))

    def report(self, **want):
        """The next report that has these fields."""
        while True:
            r = self.reports.get(timeout=WAIT_S)
            if all(r[k] == v for k, v in want.items()):
                return r

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.stdin.close()
        assert self.process.wait(timeout=WAIT_S) == 0


class Listener:
    """Has serve(connection) of a subclass deal with each connection, in a thread; it is closed behind that."""

    def __init__(self, addr, port=0):
        self.listener = socket.create_server((addr, port), backlog=2000)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                c, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(c,), daemon=True).start()

    def _serve(self, c):
        with contextlib.suppress(OSError), c:
            self.serve(c)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)        # close() alone leaves it to the thread that accepts
        self.listener.close()


class Echo(Listener):
    """An application: echoes, and ends its side when the other has."""

    def serve(self, c):
        while data := c.recv(65536):
            c.sendall(data)


def echoed(addr, port, data):
    """What comes back for @data, when the sender ends its side behind it."""
    with socket.create_connection((addr, port), timeout=WAIT_S) as s:
        t = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)), daemon=True)
        t.start()
        out = bytearray()
        while part := s.recv(1 << 16):
            out += part
        t.join(WAIT_S)
        return bytes(out)

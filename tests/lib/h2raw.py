"""HTTP/2 frames by hand, over mutual TLS, to a listener of ours; and a forwarder for clients that speak no TLS."""
import contextlib
import itertools
import os
import pathlib
import socket
import ssl
import struct
import threading

import hpack

from meshlab import Pki, Proxy
from wirelab import Echo, Listener

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY_FLAG = 1, 1, 4, 8, 0x20
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0, 1, 3, 5, 6, 8, 9, 11
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WAIT_S = 60
SERVED = itertools.count(10)


def address(n):
    """An address of 127/8 that no other test process uses."""
    pid = os.getpid()
    return "127.%d.%d.%d" % (192 + (pid >> 8 & 0x3f), pid & 0xff, n)


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def context(folder, name, server=False):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_REQUIRED
    c.minimum_version = ssl.TLSVersion.TLSv1_3
    folder = pathlib.Path(folder)
    c.load_cert_chain(folder / (name + ".pem"), folder / (name + ".key"))
    c.load_verify_locations(folder / "roots.pem")
    c.set_alpn_protocols(["h2"])
    return c


class Served:
    """An outrigger-proxy with one VM, on loopback, and certificates of its mesh: "a" is a client's."""

    def __init__(self, folder):
        self.dir = pathlib.Path(folder)
        self.address = address(next(SERVED))
        self.pki = Pki(self.dir)
        self.pki.leaf("a", "shop", "web")
        self.pki.leaf("b", "shop", "api")
        self.proxy = Proxy(None, self.dir, "b", """
vms:
  - {id: b, uid: vm/b, namespace: shop, service_account: api, addresses: [%s], cert: b.pem, key: b.key, inbound: "%s:15008"}
workloads:
  - {uid: vm/b, name: b, namespace: shop, service_account: api, addresses: [%s], hbone: true}
""" % ((self.address,) * 3))

    def connect(self):
        raw = socket.create_connection((self.address, 15008), timeout=WAIT_S)
        return context(self.dir, "a").wrap_socket(raw)

    def rss_kb(self):
        with open("/proc/%d/status" % self.proxy.process.pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

    def close(self):
        self.proxy.kill()


@contextlib.contextmanager
def served_echo(folder):
    """A Served with an application that echoes: at "authority"."""
    s = Served(folder)
    s.app = Echo(s.address)
    s.authority = "%s:%d" % (s.address, s.app.port)
    try:
        yield s
    finally:
        s.app.close()
        s.close()


class Raw:
    """One connection: preface and SETTINGS are sent, the rest is up to the test."""

    def __init__(self, served, settings=()):
        self.sock = served.connect()
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self.buffer = b""
        self.send(PREFACE + frame(SETTINGS, payload=b"".join(struct.pack(">HI", *s) for s in settings)))

    def send(self, data):
        self.sock.sendall(data)

    def connect_headers(self, authority, *more):
        return self.encoder.encode([(":method", "CONNECT"), (":authority", authority), *more])

    def open(self, stream, authority, *more):
        self.send(frame(HEADERS, END_HEADERS, stream, self.connect_headers(authority, *more)))

    def read(self):
        """The next frame: kind, flags, stream, payload. EOFError when there is none any more."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            try:
                part = self.sock.recv(65536)
            except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
                part = b""
            if not part:
                raise EOFError
            self.buffer += part
        n = int.from_bytes(self.buffer[:3], "big")
        kind, flags, stream = struct.unpack(">BBI", self.buffer[3:9])
        payload, self.buffer = self.buffer[9:9 + n], self.buffer[9 + n:]
        return kind, flags, stream, payload

    def until(self, kind, stream=None):
        while True:
            f = self.read()
            if f[0] == kind and stream in (None, f[2]):
                return f

    def status(self, stream):
        while True:
            kind, _, s, payload = self.read()
            if kind == HEADERS:
                fields = dict(self.decoder.decode(payload))
                if s == stream:
                    return fields[":status"]

    def goaway(self):
        """The code of the last GOAWAY, once the connection has ended; None when it ended without."""
        code = None
        try:
            while True:
                kind, _, _, payload = self.read()
                if kind == GOAWAY:
                    code = int.from_bytes(payload[4:8], "big")
        except EOFError:
            return code

    def ping(self, data=b"12345678"):
        """After its answer all that was sent before has been dealt with. No data may come before it."""
        self.send(frame(PING, payload=data))
        while True:
            kind, flags, _, payload = self.read()
            assert kind != DATA
            if kind == PING and flags & ACK and payload == data:
                return

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Forwarder(Listener):
    """Plain TCP in, mutual TLS to the listener out, for programs that cannot present a certificate."""

    def __init__(self, served):
        self.served, self.address = served, address(3)
        super().__init__(self.address)

    def serve(self, client):
        """TLS by a BIO and not by a wrapped socket: one of those must not be read and written by two threads."""
        raw = socket.create_connection((self.served.address, 15008), timeout=WAIT_S)
        inward, outward, lock = ssl.MemoryBIO(), ssl.MemoryBIO(), threading.Lock()
        tls = context(self.served.dir, "a").wrap_bio(inward, outward)
        with raw:
            while True:
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.do_handshake()
                    raw.sendall(outward.read())
                    break
                raw.sendall(outward.read())
                inward.write(raw.recv(65536))
            t = threading.Thread(target=self._back, args=(client, raw, tls, inward, lock), daemon=True)
            t.start()
            with contextlib.suppress(OSError):
                while data := client.recv(65536):
                    with lock:
                        tls.write(data)
                        data = outward.read()
                    raw.sendall(data)
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_WR)
            t.join(WAIT_S)

    @staticmethod
    def _back(client, raw, tls, inward, lock):
        with contextlib.suppress(OSError):
            while data := raw.recv(65536):
                plain = b""
                with lock:
                    inward.write(data)
                    with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                        while part := tls.read(65536):
                            plain += part
                client.sendall(plain)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)

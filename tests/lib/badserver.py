"""An HBONE server whose frames are made by hand, one script a connection; and a proxy whose VM calls it, beside one that has no part in it."""
import contextlib
import pathlib
import socket
import struct
import threading

import hpack

from h2raw import (ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, address, context, frame)
from meshlab import Pki, Proxy, wait_for
from wirelab import WAIT_S, Echo, Listener

FRONT, BAD, WELL, VIP, VIP_WELL, OTHER = (address(n) for n in (101, 102, 103, 104, 105, 106))


class Peer:
    """One connection of a proxy of ours to a BadServer, TLS done. "seen" are the codes by which it was told what is wrong."""

    def __init__(self, sock):
        self.sock = sock
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.buffer = b""
        self.authority = None
        self.requests = []              # streams whose CONNECT has come, and that nobody has asked for yet

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))

    def headers(self, stream, *fields, flags=END_HEADERS):
        return frame(HEADERS, flags, stream, self.encoder.encode(list(fields)))

    def status(self, stream, status="200", *more, end=False):
        return self.headers(stream, (":status", status), *more, flags=END_HEADERS | (END_STREAM if end else 0))

    def _bytes(self, n):
        while len(self.buffer) < n:
            part = self.sock.recv(65536)
            if not part:
                raise EOFError
            self.buffer += part
        got, self.buffer = self.buffer[:n], self.buffer[n:]
        return got

    def read(self):
        """The next frame: kind, flags, stream, payload. EOFError when there is none any more. PINGs are answered."""
        while True:
            head = self._bytes(9)
            payload = self._bytes(int.from_bytes(head[:3], "big"))
            kind, flags, stream = struct.unpack(">BBI", head[3:9])
            if kind == HEADERS:
                self.authority = dict(self.decoder.decode(payload)).get(":authority")
                self.requests.append(stream)
            if kind != PING or flags & ACK:
                return kind, flags, stream, payload
            self.send(frame(PING, ACK, 0, payload))

    def begin(self, *settings, said=None):
        """The client's preface is read, ours is sent, or @said instead of it."""
        assert self._bytes(len(PREFACE)) == PREFACE
        self.send(frame(SETTINGS, payload=b"".join(struct.pack(">HI", *s) for s in settings)) if said is None else said)

    def request(self):
        """The stream of the next CONNECT."""
        while not self.requests:
            self.read()
        return self.requests.pop(0)

    def echo(self, stream):
        """Until its end, and ends it then."""
        while True:
            kind, flags, s, payload = self.read()
            if s == stream and kind == RST_STREAM:
                return
            if s == stream and kind == DATA:
                end = flags & END_STREAM
                self.send(*[frame(DATA, 0, s, payload[i:i + 16384]) for i in range(0, len(payload), 16384)], frame(DATA, end, s) if end else b"")
                if payload:
                    self.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload))), frame(WINDOW_UPDATE, 0, s, struct.pack(">I", len(payload))))
                if end:
                    return

    def told(self, stream=None):
        """What it is told until it is hung up on or the stream is reset: ("goaway" or "reset", code), None: nothing."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, _, s, payload = self.read()
                if kind == GOAWAY and int.from_bytes(payload[4:8], "big"):
                    return "goaway", int.from_bytes(payload[4:8], "big")
                if kind == RST_STREAM and stream in (None, s):
                    return "reset", int.from_bytes(payload, "big")
        return None


class BadServer(Listener):
    """@script(peer) deals with a connection, whose end is the script's; what it returns is kept in "results". @raw(socket, wrap) has TLS not yet."""

    def __init__(self, addr, folder, name, script=None, raw=None):
        folder = pathlib.Path(folder)
        self.context = context(folder, name, server=True)
        self.script, self.raw = script, raw
        self.results, self.n, self.open = [], 0, []
        self.heard = threading.Condition()
        super().__init__(addr, 15008)

    def serve(self, raw):
        self.n += 1
        raw.settimeout(WAIT_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        result = None
        self.open.append(raw)
        try:
            if self.raw:
                result = self.raw(raw, self._wrap)
            else:
                with self._wrap(raw) as sock:
                    result = self.script(Peer(sock))
        except (OSError, EOFError) as e:
            result = e
        finally:
            with self.heard:
                self.results.append(result)
                self.heard.notify_all()

    def _wrap(self, raw):
        sock = self.context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        self.open.append(sock)
        sock.do_handshake()
        return sock

    def result(self, n=0):
        """Of the n-th connection, once it has one."""
        with self.heard:
            assert self.heard.wait_for(lambda: len(self.results) > n, WAIT_S), "connection %d has not come to its end" % n
            return self.results[n]

    def close(self):
        super().close()
        for s in self.open:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)


class Mesh:
    """VM a calls the bad server by VIP:9000, its neighbour, of the same process, calls a well one by VIP_WELL:9000, which has a neighbour, too."""

    def __init__(self, folder):
        self.dir = pathlib.Path(folder)
        self.pki = Pki(self.dir)
        for name, account in ("a", "web"), ("n", "other"), ("b", "api"), ("w", "well"):
            self.pki.leaf(name, "shop", account)
        self.app = Echo(WELL)
        resources = """
workloads:
  - {uid: vm/a, name: a, namespace: shop, service_account: web, addresses: [%s], hbone: true}
  - {uid: vm/b, name: b, namespace: shop, service_account: api, addresses: [%s], hbone: true, services: {shop/api: {9000: 8080}}}
  - {uid: vm/w, name: w, namespace: shop, service_account: well, addresses: [%s], hbone: true, services: {shop/well: {9000: %d}}}
  - {uid: vm/o, name: o, namespace: shop, service_account: other, addresses: [%s], hbone: true, services: {shop/other: {9000: %d}}}
services:
  - {name: other, namespace: shop, hostname: other, ports: {9000: %d}}
  - {name: api, namespace: shop, hostname: api, addresses: [%s], ports: {9000: 8080}}
  - {name: well, namespace: shop, hostname: well, addresses: [%s], ports: {9000: %d}}
""" % (FRONT, BAD, WELL, self.app.port, OTHER, self.app.port, self.app.port, VIP, VIP_WELL, self.app.port)
        vm = "  - {id: %s, uid: vm/%s, namespace: shop, service_account: %s, addresses: [%s], cert: %s.pem, key: %s.key, %s}\n"
        self.proxies = []
        try:
            self.well = self.start("well", "vms:\n" + vm % ("w", "w", "well", WELL, "w", "w", 'inbound: "%s:15008"' % WELL) +
                                   vm % ("o", "o", "other", OTHER, "n", "n", 'inbound: "%s:15008"' % OTHER) + resources)
            self.proxy = self.start("front", "vms:\n" + vm % ("a", "a", "web", FRONT, "a", "a", 'outbound: "%s:9000"' % VIP) +
                                    vm % ("n", "n", "other", FRONT, "n", "n", 'outbound: "%s:9000"' % VIP_WELL) + resources)
        except BaseException:
            self.close()
            raise

    def start(self, name, text):
        p = Proxy(None, self.dir, name, text)
        self.proxies.append(p)
        return p

    def dial(self, vip=VIP):
        return socket.create_connection((vip, 9000), timeout=WAIT_S)

    def neighbour_works(self):
        with self.dial(VIP_WELL) as s:
            s.sendall(b"neighbour")
            got = b""
            while len(got) < 9 and (part := s.recv(100)):
                got += part
            return got == b"neighbour"

    @staticmethod
    def wait_access(proxy, n):
        """The lines of its access log behind the first @n, once there are any."""
        return wait_for(lambda: proxy.access()[n:], WAIT_S, why="the access log")

    def heard(self, data=b"hello", n=None):
        """What the VM's application hears when it says @data: all of it, or @n bytes. A reset is the end, too."""
        got = b""
        with contextlib.suppress(ConnectionError), self.dial() as s:
            s.sendall(data)
            if n is None:
                with contextlib.suppress(OSError):      # it may have been reset by then
                    s.shutdown(socket.SHUT_WR)
            while (n is None or len(got) < n) and (part := s.recv(65536)):
                got += part
        return got

    def rss_kb(self):
        with open("/proc/%d/status" % self.proxy.process.pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

    def stop(self):
        """In order: they are well."""
        for p in self.proxies:
            p.stop()
        self.close()

    def close(self):
        for p in self.proxies:
            p.kill()
        self.app.close()

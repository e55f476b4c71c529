"""Peers that mean harm, against the real programs: strangers at the controller's ports, and TLS records by hand at a proxy's listener.

HTTP/2 frames by hand are in test_h2_frames.py.
"""

import contextlib
import hashlib
import hmac
import os
import socket
import ssl
import struct
import sys

import hpack
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import flavour  # noqa: E402
from controller import CREATE_CERTIFICATE, ENROLL, Controller  # noqa: E402
from h2raw import DATA, END_HEADERS, HEADERS, PREFACE, SETTINGS, WAIT_S, Raw, context, frame, served_echo  # noqa: E402
from wirelab import BUILD  # noqa: E402

HANDSHAKE, ALERT, APPLICATION = 22, 21, 23
KEY_UPDATE, NEW_SESSION_TICKET, CERTIFICATE_REQUEST, FINISHED, CLIENT_HELLO = 24, 4, 13, 20, 1


def resident_kb(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


# --- strangers at the controller ---

@pytest.fixture(scope="module")
def controller(tmp_path_factory):
    c = Controller(str(BUILD), tmp_path_factory.mktemp("controller"))
    c.start("")
    yield c
    assert c.stop() == 0, c.log()[-3000:]


def opened(stack, address, data=b""):
    s = stack.enter_context(socket.create_connection(address, timeout=WAIT_S))
    s.sendall(data)
    return s


def test_silent_clients_keep_nobody_from_the_rest_api(controller):
    """More than it has connections for, each with half a request. The admin socket is none of theirs."""
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            opened(stack, ("127.0.0.1", controller.rest), b"GET /v1/st")
        assert controller.get("/v1/status")
        s = opened(stack, ("127.0.0.1", controller.rest), b"GET /jwks.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert s.recv(15) == b"HTTP/1.1 200 OK"


def test_a_body_is_read_only_from_who_may_send_one(controller):
    with contextlib.ExitStack() as stack:
        s = opened(stack, ("127.0.0.1", controller.rest), b"POST /v1/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
        assert s.recv(12) == b"HTTP/1.1 403"


class Stranger:
    """HTTP/2 to a gRPC port, without a certificate."""

    def __init__(self, controller, port):
        self.encoder = hpack.Encoder()
        c = ssl.create_default_context(cafile=controller.roots)
        c.check_hostname = False
        c.set_alpn_protocols(["h2"])
        self.sock = c.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=WAIT_S))
        self.sock.sendall(PREFACE + frame(SETTINGS))

    def begin(self, stream, path, length):
        """A call with a message of @length bytes, of which none comes yet."""
        head = self.encoder.encode([(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "x"),
                                    ("content-type", "application/grpc"), ("te", "trailers"), ("pad", "x" * 4000)])
        self.sock.sendall(frame(HEADERS, END_HEADERS, stream, head) + frame(DATA, 0, stream, struct.pack(">BI", 0, length)))


@pytest.mark.parametrize("port, path", [("provisioner", ENROLL), ("mesh", CREATE_CERTIFICATE)])
def test_strangers_may_leave_little_at_the_controller(controller, port, path):
    """Requests that do not end, 3 MB on each of 40 connections: those that wait for longest go, and who has a request is served."""
    before = resident_kb(controller.process.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            s = Stranger(controller, getattr(controller, port))
            stack.callback(s.sock.close)
            with contextlib.suppress(OSError):
                for stream in range(1, 25, 2):
                    s.begin(stream, path, 1 << 20)
                for _ in range(16):
                    s.sock.sendall(b"".join(frame(DATA, 0, stream, bytes(16000)) for stream in range(1, 25, 2)))
        if port == "provisioner":
            controller.enroll("nic-strangers")
        if not flavour.sanitizer():             # which keep what was freed
            assert resident_kb(controller.process.pid) < before + 110 * 1024        # 64 MiB of theirs, and what malloc keeps
    assert controller.get("/v1/status")


# --- TLS records by hand ---

@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with served_echo(tmp_path_factory.mktemp("tls")) as s:
        yield s


def expand(secret, label, length):
    label = b"tls13 " + label
    return hmac.new(secret, struct.pack(">HB", length, len(label)) + label + b"\0\1", hashlib.sha256).digest()[:length]


class Records:
    """Python's ssl shakes hands; from then on each record of the client's is made here, from the secret that it logs."""

    def __init__(self, served, log, cut=None):
        """@cut: how many bytes of a handshake message a record has at most."""
        c = context(served.dir, "a")
        c.keylog_filename = str(log)
        self.sock = socket.create_connection((served.address, 15008), timeout=WAIT_S)
        inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = c.wrap_bio(inward, outward)
        while True:
            try:
                tls.do_handshake()
                self.sock.sendall(outward.read())
                break
            except ssl.SSLWantReadError:
                data = outward.read()
                self.sock.sendall(fragmented(data, cut) if cut else data)
                inward.write(self.sock.recv(65536))
        assert tls.cipher()[0] == "TLS_AES_128_GCM_SHA256"
        line = [text for text in log.read_text().splitlines() if text.startswith("CLIENT_TRAFFIC_SECRET_0 ")][-1]
        self.secret = bytes.fromhex(line.split()[2])
        self.seq = 0
        self.tls, self.inward = tls, inward         # it still reads

    def read(self):
        """What the server has said, as far as it is there; waits for some."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                data = self.sock.recv(65536)
                assert data, "the server has ended the connection"
                self.inward.write(data)

    def record(self, kind, data, pad=0, length=None):
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        inner = data + bytes([kind]) + bytes(pad)
        head = struct.pack(">BHH", APPLICATION, 0x303, len(inner) + 16 if length is None else length)
        nonce = (int.from_bytes(expand(self.secret, b"iv", 12), "big") ^ self.seq).to_bytes(12, "big")
        self.seq += 1
        return head + AESGCM(expand(self.secret, b"key", 16)).encrypt(nonce, inner, head)

    def update(self, requested=False):
        r = self.record(HANDSHAKE, message(KEY_UPDATE, bytes([requested])))
        self.secret, self.seq = expand(self.secret, b"traffic upd", 32), 0
        return r

    def has_ended(self):
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(65536):
                pass
        return True                     # else the time of the socket is over, which fails the test


def fragmented(data, cut):
    """The handshake records of @data with @cut bytes each. What is no handshake stays as it is."""
    out = b""
    while data:
        kind, version, n = struct.unpack(">BHH", data[:5])
        body, data = data[5:5 + n], data[5 + n:]
        pieces = [body[i:i + cut] for i in range(0, n, cut)] if kind == HANDSHAKE else [body]
        out += b"".join(struct.pack(">BHH", kind, version, len(p)) + p for p in pieces)
    return out


def message(kind, body):
    return bytes([kind]) + struct.pack(">I", len(body))[1:] + body


WRONG = {
    "many-key-updates": lambda r: b"".join(r.update(requested=True) for _ in range(200)),
    "a-key-update-of-3-bytes": lambda r: r.record(HANDSHAKE, message(KEY_UPDATE, bytes(3))),
    "a-key-update-of-no-kind": lambda r: r.record(HANDSHAKE, message(KEY_UPDATE, b"\2")),
    "a-message-behind-a-key-update": lambda r: r.record(HANDSHAKE, message(KEY_UPDATE, b"\0") * 2),
    "a-ticket-of-a-client": lambda r: r.record(HANDSHAKE, message(NEW_SESSION_TICKET, bytes(40))),
    "a-certificate-request": lambda r: r.record(HANDSHAKE, message(CERTIFICATE_REQUEST, bytes(3))),
    "a-second-finished": lambda r: r.record(HANDSHAKE, message(FINISHED, bytes(32))),
    "a-new-client-hello": lambda r: r.record(HANDSHAKE, message(CLIENT_HELLO, bytes(300))),
    "an-endless-message": lambda r: b"".join(r.record(HANDSHAKE, b"\x18\xff\xff\xff" if not i else bytes(16384)) for i in range(100)),
    "an-empty-handshake-record": lambda r: r.record(HANDSHAKE, b""),
    "data-inside-a-message": lambda r: r.record(HANDSHAKE, b"\x18\0") + r.record(APPLICATION, b"x"),
    "half-an-alert": lambda r: r.record(ALERT, b"\1"),
    "two-alerts-in-one": lambda r: r.record(ALERT, b"\1\x5a\1\x5a"),
    "many-warnings": lambda r: b"".join(r.record(ALERT, b"\1\x5a") for _ in range(200)),
    "an-unknown-alert": lambda r: r.record(ALERT, b"\1\xee"),
    "many-empty-records": lambda r: b"".join(r.record(APPLICATION, b"") for _ in range(200)),
    "padding-only": lambda r: r.record(0, b"", pad=100),
    "of-no-content": lambda r: r.record(99, b"x"),
    "change-cipher-spec": lambda r: b"\x14\3\3\0\1\1",
    "change-cipher-spec-inside": lambda r: r.record(20, b"\1"),
    "in-plain": lambda r: struct.pack(">BHH", APPLICATION, 0x303, 20) + bytes(20),
    "a-handshake-in-plain": lambda r: struct.pack(">BHH", HANDSHAKE, 0x303, 5) + message(KEY_UPDATE, b"\0"),
    "of-no-length": lambda r: b"\x17\3\3\0\0",
    "too-long": lambda r: r.record(APPLICATION, bytes(16385)),
    "too-long-by-its-padding": lambda r: r.record(APPLICATION, bytes(16380), pad=100),
    "as-long-as-can-be-said": lambda r: b"\x17\3\3\xff\xff" + bytes(70000),
    "of-another-version": lambda r: b"\x17\2\0" + r.record(APPLICATION, b"x")[3:],
    "played-back": lambda r: r.record(APPLICATION, PREFACE) * 2,
    "shorter-than-said": lambda r: r.record(APPLICATION, b"x" * 50, length=40),
}


def test_a_tunnel_of_one_byte_a_record_and_many_keys(served, tmp_path):
    """Odd, and allowed: what is said so goes through. (How much of it is work to others' shares: test-tls13_record.c.)"""
    r = Records(served, tmp_path / "keys")
    request = hpack.Encoder().encode([(":method", "CONNECT"), (":authority", served.authority)])
    said = PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, request) + frame(DATA, 0, 1, b"hello" * 20)
    out = b"".join((r.update() if i % 3 == 0 else b"") + r.record(APPLICATION, said[i:i + 1], pad=i % 250) for i in range(len(said)))
    heard = b""
    with r.sock:
        for i in range(0, len(out), 1000):
            r.sock.sendall(out[i:i + 1000])
        while heard.count(b"hello") < 20:
            heard += r.read()


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_record_ends_its_connection_and_nothing_else(served, tmp_path, name):
    with Raw(served) as neighbour:
        neighbour.open(1, served.authority)
        assert neighbour.status(1) == "200"
        r = Records(served, tmp_path / "keys")
        with r.sock, contextlib.suppress(ConnectionError):
            r.sock.sendall(WRONG[name](r))
            assert r.has_ended()
        neighbour.send(frame(DATA, 0, 1, b"hello"))
        assert neighbour.until(DATA, 1)[3] == b"hello"


def test_odd_records_that_are_right(served, tmp_path):
    """Handshake messages in pieces of a byte, data by the byte, padded, between KeyUpdates in pieces and empty records."""
    r = Records(served, tmp_path / "keys", cut=1)
    with r.sock, socket.create_server((served.address, 0)) as app:
        head = hpack.Encoder().encode([(":method", "CONNECT"), (":authority", "%s:%d" % app.getsockname())])
        for b in PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, head) + frame(DATA, 0, 1, b"hello"):
            update = message(KEY_UPDATE, b"\0")
            parts = b"".join(r.record(HANDSHAKE, update[i:i + 1], pad=i) for i in range(5))
            r.secret, r.seq = expand(r.secret, b"traffic upd", 32), 0
            r.sock.sendall(parts + r.record(APPLICATION, b"") + r.record(APPLICATION, bytes([b]), pad=b))
        app.settimeout(WAIT_S)
        tunnel, _ = app.accept()
        with tunnel:
            tunnel.settimeout(WAIT_S)
            assert tunnel.recv(5, socket.MSG_WAITALL) == b"hello"


HELLOS = {
    "nothing": b"",
    "an-empty-record": b"\x16\3\1\0\0" * 100,
    "empty-change-cipher-specs": b"\x14\3\1\0\0" * 100,
    "change-cipher-specs": b"\x14\3\3\0\1\1" * 1000,
    "of-ssl-2": b"\x80\x2e\1\0\2\0\x15\0\0\0\x10" + bytes(100),
    "of-tls-1.0": b"\x16\3\1\0\x2d\1\0\0\x29\3\1" + bytes(32) + b"\0\0\2\0\x2f\1\0",
    "too-long": b"\x16\3\1\xff\xff" + bytes(70000),
    "endless": b"\x16\3\1\x40\0\1\xff\xff\xff" + bytes(16380) + (b"\x16\3\1\x40\0" + bytes(16384)) * 40,
    "a-finished": b"\x16\3\3\0\x24" + message(FINISHED, bytes(32)),
    "data": b"\x17\3\3\0\x20" + bytes(32),
    "an-alert": b"\x15\3\3\0\2\2\x28",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "http-2": PREFACE + frame(SETTINGS),
}


@pytest.mark.parametrize("port", ["proxy", "provisioner", "mesh"])
def test_what_is_no_hello_ends_its_connection(served, controller, port):
    address = (served.address, 15008) if port == "proxy" else ("127.0.0.1", getattr(controller, port))
    for name, data in HELLOS.items():
        with socket.create_connection(address, timeout=WAIT_S) as s:
            with contextlib.suppress(OSError):          # it may have been ended before all is said
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while s.recv(65536):
                    pass
    with Raw(served) as raw:
        raw.open(1, served.authority)
        assert raw.status(1) == "200"
    assert controller.get("/v1/status")

"""The data path against other implementations of HBONE's parts: python-h2 on both sides, an unmodified Envoy on both sides,
and against itself through two processes.
"""
import contextlib
import json
import os
import pathlib
import queue
import socket
import subprocess
import sys
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib.envoyhbone import envoy_client, envoy_server  # noqa: E402
from lib.wirelab import ROOT, WAIT_S, Echo, Hbone, Listener, Pki, address, echoed, wait_port  # noqa: E402

SERVER_VM, CLIENT_VM, VIP, VIP_2 = (address(n) for n in (2, 3, 10, 11))
ENVOY = os.environ.get("ENVOY_BIN") or str(ROOT / "build/cache/envoy/envoy/_bin/envoy")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    p = Pki(tmp_path_factory.mktemp("pki"))
    p.server = p.issue("server", "URI:spiffe://td/ns/shop/sa/server")
    p.client = p.issue("client", "URI:spiffe://td/ns/shop/sa/client")
    p.other_domain = p.issue("other", "URI:spiffe://elsewhere/ns/shop/sa/client")
    p.nameless = p.issue("nameless", "DNS:client.example")
    return p


@pytest.fixture
def app():
    e = Echo(SERVER_VM)
    yield e
    e.close()


@pytest.fixture
def server(pki, app):
    with Hbone(pki.server, "shop/server", SERVER_VM, inbound=SERVER_VM + ":15008", host="web.example:80,%d" % app.port) as h:
        yield h


@pytest.fixture
def client(pki, app):
    """Its VM dials VIP:7000."""
    with Hbone(pki.client, "shop/client", CLIENT_VM, outbound=VIP + ":7000",
               services=["%s:7000,shop/server,%s:%d" % (VIP, SERVER_VM, app.port)]) as h:
        yield h


DATA = bytes(i * 7 % 251 for i in range(3_000_000))


def test_two_processes_of_ours(server, client):
    assert echoed(VIP, 7000, b"hello") == b"hello"
    assert echoed(VIP, 7000, DATA) == DATA
    r = client.report(event="closed", direction="outbound")
    assert r["result"] == "ok" and r["identity"] == "spiffe://td/ns/shop/sa/server" and r["status"] == 200
    r = server.report(event="closed", direction="inbound")
    assert r["result"] == "ok" and r["identity"] == "spiffe://td/ns/shop/sa/client" and r["sent"] == 5


def test_two_processes_with_several_workers(pki, app):
    with Hbone(pki.server, "shop/server", SERVER_VM, inbound=SERVER_VM + ":15008", workers=3), \
         Hbone(pki.client, "shop/client", CLIENT_VM, outbound=VIP + ":7000", workers=3,
               services=["%s:7000,shop/server,%s:%d" % (VIP, SERVER_VM, app.port)]):
        results = queue.Queue()
        threads = [threading.Thread(target=lambda: results.put(echoed(VIP, 7000, DATA[:200_000]) == DATA[:200_000])) for _ in range(24)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(WAIT_S * 2)
        assert [results.get(timeout=1) for _ in threads] == [True] * len(threads)


# --- python-h2 as the client ---

class H2Client:
    """One HBONE connection to our server."""

    def __init__(self, leaf, addr=SERVER_VM):
        raw = socket.create_connection((addr, 15008), timeout=WAIT_S)
        self.sock = leaf.context(False).wrap_socket(raw)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False))
        self.h2.initiate_connection()
        self.flush()
        self.events = []

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def request(self, *headers, end=False):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, list(headers), end_stream=end)
        self.flush()
        return stream

    def connect(self, authority, *more):
        return self.request((":method", "CONNECT"), (":authority", authority), *more)

    def read(self):
        data = self.sock.recv(65536)
        assert data, "the server closed"
        self.events += self.h2.receive_data(data)
        self.flush()

    def until(self, kind, stream=None):
        while True:
            for i, e in enumerate(self.events):
                if isinstance(e, kind) and (stream is None or e.stream_id == stream):
                    return self.events.pop(i)
            self.read()

    def status(self, stream):
        return dict(self.until(h2.events.ResponseReceived, stream).headers)[":status"]

    def body(self, stream, n):
        out = b""
        while len(out) < n:
            e = self.until(h2.events.DataReceived, stream)
            self.h2.acknowledge_received_data(e.flow_controlled_length, stream)
            self.flush()
            out += e.data
        return out

    def send(self, stream, data, end=False):
        while data:
            n = min(len(data), self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if not n:
                self.read()
                continue
            self.h2.send_data(stream, data[:n])
            self.flush()
            data = data[n:]
        if end:
            self.h2.end_stream(stream)
            self.flush()

    def close(self):
        self.sock.close()


@pytest.fixture
def h2client(server, pki):
    c = H2Client(pki.client)
    yield c
    c.close()


def test_python_h2_opens_a_tunnel(h2client, app, server):
    s = h2client.connect("%s:%d" % (SERVER_VM, app.port), ("forwarded", 'for="10.9.9.9:1234"'), ("baggage", "k8s.namespace.name=shop"))
    assert h2client.status(s) == "200"
    h2client.send(s, b"ping", end=True)
    assert h2client.body(s, 4) == b"ping"
    h2client.until(h2.events.StreamEnded, s)
    r = server.report(event="closed")
    assert r["result"] == "ok" and r["sent"] == 4
    assert not r["source"].startswith("10.9.9.9")       # nobody of that identity lives there: not believed


def test_python_h2_uses_a_host_name(h2client):
    s = h2client.connect("web.example:80")
    assert h2client.status(s) == "200"
    h2client.send(s, b"by name", end=True)
    assert h2client.body(s, 7) == b"by name"


def test_python_h2_moves_much_through_its_small_windows(h2client, app):
    s = h2client.connect("%s:%d" % (SERVER_VM, app.port))
    assert h2client.status(s) == "200"
    got = b""
    for at in range(0, len(DATA), 50_000):
        h2client.send(s, DATA[at:at + 50_000])
        got += h2client.body(s, len(DATA[at:at + 50_000]))
    assert got == DATA


@pytest.mark.parametrize("headers, status", [
    ([(":method", "CONNECT"), (":authority", address(77) + ":80")], "400"),        # not the address that was dialled
    ([(":method", "CONNECT"), (":authority", "nobody.example:80")], "400"),
    ([(":method", "CONNECT"), (":authority", "web.example:81")], "400"),           # no such port
    ([(":method", "CONNECT"), (":authority", "what?")], "400"),
    ([(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", SERVER_VM)], "400"),
    ([(":method", "CONNECT"), (":authority", SERVER_VM + ":1")], "503"),           # nobody listens
])
def test_refusals_have_their_status(h2client, headers, status):
    s = h2client.request(*headers)
    assert h2client.status(s) == status


def test_a_reset_reaches_the_application(h2client, app, server):
    s = h2client.connect("%s:%d" % (SERVER_VM, app.port))
    assert h2client.status(s) == "200"
    h2client.h2.reset_stream(s, h2.errors.ErrorCodes.CANCEL)
    h2client.flush()
    assert server.report(event="closed")["result"] == "reset"
    s = h2client.connect("%s:%d" % (SERVER_VM, app.port))       # the tunnel lives
    assert h2client.status(s) == "200"


def test_pings_are_answered(h2client):
    h2client.h2.ping(b"12345678")
    h2client.flush()
    assert h2client.until(h2.events.PingAckReceived).ping_data == b"12345678"


@pytest.mark.parametrize("who", ["other_domain", "nameless"])
def test_identities_that_do_not_belong_here_are_refused(server, pki, who):
    with pytest.raises((OSError, AssertionError)):
        c = H2Client(getattr(pki, who))
        c.read()
        c.read()


def test_a_client_that_floods_is_told_to_calm_down(h2client):
    with pytest.raises((OSError, AssertionError)):
        for _ in range(2500):
            h2client.sock.sendall(b"\0\0\x08\6\0\0\0\0\0" + b"12345678")
        while True:
            h2client.read()
    assert any(isinstance(e, h2.events.ConnectionTerminated) and e.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
               for e in h2client.events)


# --- python-h2 as the server ---

class H2Server(Listener):
    """Accepts one HBONE connection; @answer says the status of a CONNECT, then it echoes."""

    def __init__(self, leaf, addr, answer=lambda authority: "200", settings=None):
        self.context, self.answer, self.settings = leaf.context(True), answer, settings or {}
        self.seen = queue.Queue()
        self.n = 0
        super().__init__(addr, 15008)

    def serve(self, raw):
        self.n += 1
        with contextlib.suppress(h2.exceptions.ProtocolError):
            sock = self.context.wrap_socket(raw, server_side=True)
            # Its checks do not know that a CONNECT has no :path.
            conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8",
                                                                        validate_inbound_headers=False))
            conn.local_settings = h2.settings.Settings(client=False, initial_values=self.settings)
            conn.initiate_connection()
            sock.sendall(conn.data_to_send())
            pending = {}
            while data := sock.recv(65536):
                for e in conn.receive_data(data):
                    self._event(conn, e, pending)
                for stream, (out, end) in list(pending.items()):
                    self._send(conn, stream, out, end, pending)
                sock.sendall(conn.data_to_send())

    def _event(self, conn, e, pending):
        if isinstance(e, h2.events.RequestReceived):
            headers = dict(e.headers)
            self.seen.put(headers)
            status = self.answer(headers[":authority"])
            conn.send_headers(e.stream_id, [(":status", status)], end_stream=status != "200")
        elif isinstance(e, h2.events.DataReceived):
            conn.acknowledge_received_data(e.flow_controlled_length, e.stream_id)
            out, end = pending.get(e.stream_id, (b"", False))
            pending[e.stream_id] = (out + e.data, end)
        elif isinstance(e, h2.events.StreamEnded):
            out, _ = pending.get(e.stream_id, (b"", False))
            pending[e.stream_id] = (out, True)
        elif isinstance(e, h2.events.StreamReset):
            pending.pop(e.stream_id, None)

    @staticmethod
    def _send(conn, stream, out, end, pending):
        while out:
            n = min(len(out), conn.local_flow_control_window(stream), conn.max_outbound_frame_size)
            if not n:
                break
            conn.send_data(stream, out[:n])
            out = out[n:]
        pending[stream] = (out, end)
        if end and not out:
            conn.end_stream(stream)
            del pending[stream]


@pytest.fixture
def h2server(pki):
    servers = []

    def start(**kw):
        servers.append(H2Server(pki.server, SERVER_VM, **kw))
        return servers[-1]

    yield start
    for s in servers:
        s.close()


def test_our_client_with_a_python_h2_server(h2server, client, app):
    s = h2server()
    assert echoed(VIP, 7000, b"hello") == b"hello"
    assert echoed(VIP, 7000, DATA[:500_000]) == DATA[:500_000]
    seen = s.seen.get(timeout=1)
    assert seen[":method"] == "CONNECT" and seen[":authority"] == "%s:%d" % (SERVER_VM, app.port)
    assert ":scheme" not in seen and ":path" not in seen
    assert seen["forwarded"].startswith('for="127.0.0.1:')
    assert s.n == 1


def test_our_client_keeps_small_limits(h2server, client):
    h2server(settings={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1, h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    results = queue.Queue()
    threads = [threading.Thread(target=lambda: results.put(echoed(VIP, 7000, DATA[:20_000]) == DATA[:20_000])) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(WAIT_S)
    assert [results.get(timeout=1) for _ in threads] == [True] * 4


@pytest.mark.parametrize("status, result", [("503", "connect-failed"), ("401", "denied"), ("404", "connect-failed")])
def test_our_client_takes_no_for_an_answer(h2server, client, status, result):
    h2server(answer=lambda authority: status)
    with pytest.raises(ConnectionResetError):
        echoed(VIP, 7000, b"hello")
    r = client.report(event="closed")
    assert r["result"] == result and r["status"] == int(status)


# --- an unmodified Envoy ---

@pytest.fixture
def envoy(tmp_path):
    if not os.access(ENVOY, os.X_OK):
        pytest.skip("no Envoy: ENVOY_BIN, or make deps")
    processes = []

    def start(resources, listen):
        path = tmp_path / "envoy.json"
        path.write_text(json.dumps({"static_resources": resources}))
        log = open(tmp_path / "envoy.log", "w")
        p = subprocess.Popen([ENVOY, "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"], stdout=log, stderr=log)
        processes.append(p)
        wait_port(*listen, p)

    yield start
    for p in processes:
        p.terminate()
        p.wait(WAIT_S)


def test_envoy_calls_us(envoy, server, pki, app):
    envoy(envoy_client(pki.client, (VIP_2, 7001), (SERVER_VM, 15008), "%s:%d" % (SERVER_VM, app.port)), (VIP_2, 7001))
    assert echoed(VIP_2, 7001, b"hello") == b"hello"
    assert echoed(VIP_2, 7001, DATA) == DATA
    while (r := server.report(event="closed"))["sent"] != len(DATA):
        pass                    # the probe of its port was one, too
    assert r["result"] == "ok" and r["identity"] == "spiffe://td/ns/shop/sa/client"


def test_we_call_envoy(envoy, client, pki, app):
    envoy(envoy_server(pki.server, (SERVER_VM, 15008), (SERVER_VM, app.port)), (SERVER_VM, 15008))
    assert echoed(VIP, 7000, b"hello") == b"hello"
    assert echoed(VIP, 7000, DATA) == DATA
    r = client.report(event="closed")
    assert r["result"] == "ok" and r["identity"] == "spiffe://td/ns/shop/sa/server"

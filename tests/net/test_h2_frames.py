"""Frames by hand against the HBONE listener of a proxy: floods are cut, and cost nobody else anything; what a tunnel may do is done."""
import contextlib
import pathlib
import re
import socket
import struct
import subprocess
import sys
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from h2raw import (ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, GOAWAY, HEADERS,  # noqa: E402
                   COMPRESSION_ERROR, FRAME_SIZE_ERROR, NO_ERROR, PADDED, PING, PRIORITY, PRIORITY_FLAG, PROTOCOL_ERROR, PUSH_PROMISE, RST_STREAM, SETTINGS,
                   STREAM_CLOSED, WAIT_S, WINDOW_UPDATE, Forwarder, Raw, frame, served_echo)
from meshlab import wait_for  # noqa: E402

GROWTH_KB = 24 * 1024           # of the proxy, whatever a client sends


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with served_echo(tmp_path_factory.mktemp("h2")) as s:
        yield s


class Tunnel:
    """A connection with an open stream that echoes."""

    def __init__(self, served):
        self.raw = Raw(served)
        self.raw.open(1, served.authority)
        assert self.raw.status(1) == "200"

    def works(self):
        self.raw.send(frame(DATA, 0, 1, b"hello"))
        return self.raw.until(DATA, 1)[3] == b"hello"

    def close(self):
        self.raw.close()


@pytest.fixture
def neighbour(served):
    t = Tunnel(served)
    assert t.works()
    yield t
    t.close()


def errors(served):
    return served.proxy.metric("outrigger_vm_h2_errors_total")


def n_requests(n, then):
    """Streams 1, 3, ...: each is opened, then()."""
    def make(raw, served):
        return b"".join(frame(HEADERS, END_HEADERS, s, raw.connect_headers(served.authority)) + then(s) for s in range(1, 2 * n, 2))
    return make


def on_one_stream(one, n):
    def make(raw, served):
        return frame(HEADERS, END_HEADERS, 1, raw.connect_headers(served.authority)) + one * n
    return make


FLOODS = {
    "settings": on_one_stream(frame(SETTINGS, payload=struct.pack(">HI", 4, 65535)), 2500),
    "settings-in-a-frame": on_one_stream(frame(SETTINGS, payload=struct.pack(">HI", 4, 65535) * 33), 1),
    "settings-ack": on_one_stream(frame(SETTINGS, ACK), 2500),
    "ping": on_one_stream(frame(PING, payload=bytes(8)), 2500),
    "priority": on_one_stream(frame(PRIORITY, 0, 3, struct.pack(">IB", 1, 7)), 2500),
    "goaway": on_one_stream(frame(GOAWAY, payload=bytes(8)), 2500),
    "unknown": on_one_stream(frame(99, 0, 1, b"x"), 2500),
    "empty-data": on_one_stream(frame(DATA, 0, 1), 2500),
    "padding": on_one_stream(frame(DATA, PADDED, 1, b"\3\0\0\0"), 2500),
    "window-of-1": on_one_stream(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)) + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)), 1500),
    "rapid-reset": n_requests(1500, lambda s: frame(RST_STREAM, 0, s, struct.pack(">I", CANCEL))),
    "made-to-reset": n_requests(1500, lambda s: frame(WINDOW_UPDATE, 0, s, bytes(4))),
    "depends-on-itself": n_requests(1500, lambda s: frame(PRIORITY, 0, s, struct.pack(">IB", s, 7))),
    "continuation": lambda raw, served: frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1, b"") * 1000,
    "large-continuation": lambda raw, served: frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1, bytes(60000)) * 4,
    "too-many-streams": lambda raw, served: b"".join(
        frame(HEADERS, END_HEADERS, s, raw.encoder.encode([(":method", "CONNECT")])) for s in range(1, 5001, 2)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_cut(served, neighbour, name):
    before, rss, at = errors(served), served.rss_kb(), len(served.proxy.log.read_text())
    with Raw(served) as raw:
        peer = "%s:%d" % raw.sock.getsockname()
        with contextlib.suppress(ConnectionError):
            raw.send(FLOODS[name](raw, served))
        assert raw.goaway() == ENHANCE_YOUR_CALM
    wait_for(lambda: errors(served) == before + 1, WAIT_S, why="the count")
    lines = [line for line in served.proxy.log.read_text()[at:].splitlines() if "tunnel ended by a fault of the peer" in line]
    if lines:                   # such lines are limited: a test of many floods does not get all
        assert peer in lines[0] and served.pki.id("shop", "web") in lines[0] and "vm=b" in lines[0]
    assert neighbour.works()
    assert served.rss_kb() < rss + GROWTH_KB


def test_the_log_names_who_flooded(served):
    assert re.search(r'tunnel ended by a fault of the peer.* vm=b .*peer=127\.\S+:\d+ .*identity=spiffe://example.org/ns/shop/sa/web', served.proxy.log.read_text())


def u32(*values):
    return struct.pack(">%dI" % len(values), *values)


def closed(raw, served):
    """A stream that has had its request, its answer and both ends."""
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, raw.connect_headers(served.authority)))
    assert raw.until(DATA, 1)[1] & END_STREAM
    return b""


def opening(raw, served, flags=END_HEADERS, stream=1, before=b"", after=b""):
    return frame(HEADERS, flags, stream, before + raw.connect_headers(served.authority) + after)


# What the connection does not survive, and the code by which it is told so.
FATAL = {
    "data-on-a-closed-stream": (lambda r, s: closed(r, s) + frame(DATA, 0, 1, b"x") * 2500, ENHANCE_YOUR_CALM),
    "ends-of-a-closed-stream": (lambda r, s: closed(r, s) + frame(DATA, END_STREAM, 1) * 2500, ENHANCE_YOUR_CALM),
    "windows-of-a-closed-stream": (lambda r, s: closed(r, s) + frame(WINDOW_UPDATE, 0, 1, u32(1)) * 4000, ENHANCE_YOUR_CALM),
    "headers-on-a-closed-stream": (lambda r, s: closed(r, s) + opening(r, s), STREAM_CLOSED),
    "padding-longer-than-data": (lambda r, s: opening(r, s) + frame(DATA, PADDED, 1, b"\5abcd"), PROTOCOL_ERROR),
    "padding-longer-than-headers": (lambda r, s: frame(HEADERS, PADDED | END_HEADERS, 1, b"\5abcd"), PROTOCOL_ERROR),
    "the-connections-window-overflows": (lambda r, s: frame(WINDOW_UPDATE, 0, 0, u32(0x3fffffff)) * 3, FLOW_CONTROL_ERROR),
    "settings-overflow-a-window": (lambda r, s: opening(r, s) + frame(WINDOW_UPDATE, 0, 1, u32(0x7fff0000)) + frame(SETTINGS, 0, 0, b"\0\4" + u32(0x7fffffff)), FLOW_CONTROL_ERROR),
    "a-thousand-continuations": (lambda r, s: opening(r, s, 0) + frame(CONTINUATION, 0, 1, b" ") * 1000, ENHANCE_YOUR_CALM),
    "a-ping-inside-a-block": (lambda r, s: opening(r, s, 0) + frame(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    "another-stream-inside-a-block": (lambda r, s: opening(r, s, 0) + frame(CONTINUATION, END_HEADERS, 3), PROTOCOL_ERROR),
    "a-table-that-is-too-large": (lambda r, s: opening(r, s, before=b"\x3f\xff\xff\xff\x0f"), COMPRESSION_ERROR),
    "a-table-size-behind-a-field": (lambda r, s: opening(r, s, after=b" "), COMPRESSION_ERROR),
    "the-fields-index-0": (lambda r, s: frame(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION_ERROR),
    "an-index-without-end": (lambda r, s: frame(HEADERS, END_HEADERS, 1, b"\xff" + b"\x80" * 20 + b"\1"), COMPRESSION_ERROR),
    "huffman-that-ends-wrong": (lambda r, s: frame(HEADERS, END_HEADERS, 1, b"\0\x81\xff\x81\xff"), COMPRESSION_ERROR),
    "an-even-stream": (lambda r, s: opening(r, s, stream=2), PROTOCOL_ERROR),
    "a-stream-below-the-last": (lambda r, s: opening(r, s, stream=7) + opening(r, s, stream=5), STREAM_CLOSED),
    "a-reset-of-nothing": (lambda r, s: frame(RST_STREAM, 0, 9, bytes(4)), PROTOCOL_ERROR),
    "a-window-of-nothing": (lambda r, s: frame(WINDOW_UPDATE, 0, 9, u32(1)), PROTOCOL_ERROR),
    "a-promise": (lambda r, s: frame(PUSH_PROMISE, END_HEADERS, 1, u32(2) + r.connect_headers(s.authority)), PROTOCOL_ERROR),
    "a-frame-of-16-mb": (lambda r, s: b"\xff\xff\xff\0\0" + u32(1) + bytes(1000), FRAME_SIZE_ERROR),
    "no-frames": (lambda r, s: bytes(100000), PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", FATAL)
def test_what_breaks_the_protocol_ends_the_connection(served, neighbour, name):
    make, code = FATAL[name]
    with Raw(served) as raw:
        with contextlib.suppress(ConnectionError):
            raw.send(make(raw, served))
        assert raw.goaway() == code
    assert neighbour.works()


def fields(raw, *more):
    return frame(HEADERS, END_HEADERS, 1, raw.encoder.encode(list(more)))


# What a stream does not survive; the connection goes on.
SPOILT = {
    "data-behind-its-end": (lambda r, s: opening(r, s, END_HEADERS | END_STREAM) + frame(DATA, 0, 1, b"x"), STREAM_CLOSED),
    "trailers-behind-its-end": (lambda r, s: opening(r, s, END_HEADERS | END_STREAM) + frame(HEADERS, END_HEADERS | END_STREAM, 1), STREAM_CLOSED),
    "trailers-that-are-no-end": (lambda r, s: opening(r, s) + fields(r, ("a", "b")), PROTOCOL_ERROR),
    "trailers-that-ask": (lambda r, s: opening(r, s) + frame(HEADERS, END_HEADERS | END_STREAM, 1, r.encoder.encode([(":method", "GET")])), PROTOCOL_ERROR),
    "its-window-overflows-by-and-by": (lambda r, s: opening(r, s) + frame(WINDOW_UPDATE, 0, 1, u32(0x3fffffff)) * 3, FLOW_CONTROL_ERROR),
    "two-authorities": (lambda r, s: fields(r, (":method", "CONNECT"), (":authority", s.authority), (":authority", "127.0.0.1:1")), PROTOCOL_ERROR),
    "a-pseudo-field-late": (lambda r, s: fields(r, (":method", "CONNECT"), ("a", "b"), (":authority", s.authority)), PROTOCOL_ERROR),
    "a-connect-with-a-path": (lambda r, s: fields(r, (":method", "CONNECT"), (":authority", s.authority), (":path", "/"), (":scheme", "https")), PROTOCOL_ERROR),
    "an-upper-case-field": (lambda r, s: opening(r, s, after=b"\0\1A\1b"), PROTOCOL_ERROR),
    "a-field-of-the-connection": (lambda r, s: fields(r, (":method", "CONNECT"), (":authority", s.authority), ("transfer-encoding", "chunked")), PROTOCOL_ERROR),
    "a-length-without-a-body": (lambda r, s: frame(HEADERS, END_HEADERS | END_STREAM, 1, r.encoder.encode([(":method", "CONNECT"), (":authority", s.authority), ("content-length", "5")])),
                                PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_with_a_stream_ends_that_one(served, neighbour, name):
    make, code = SPOILT[name]
    with Raw(served) as raw:
        raw.send(make(raw, served))
        assert rst_code(raw, 1) == code
        raw.open(3, served.authority)
        raw.send(frame(DATA, 0, 3, b"hello"))
        assert echoed(raw, 3)
    assert neighbour.works()


def rst_code(raw, stream):
    return int.from_bytes(raw.until(RST_STREAM, stream)[3], "big")


def test_a_header_bomb_costs_little(served, neighbour):
    """A table entry of 4,000 bytes, named 3,000 times: each block would be a header list of 12 MB, were it made."""
    rss = served.rss_kb()
    with Raw(served) as raw:
        for s in range(1, 101, 2):
            block = raw.connect_headers(served.authority) + raw.encoder.encode([("a", "x" * 4000)]) + b"\xbe" * 3000
            raw.send(frame(HEADERS, END_HEADERS, s, block))
            assert rst_code(raw, s) == ENHANCE_YOUR_CALM
        raw.open(101, served.authority)
        assert raw.status(101) == "200"
    assert neighbour.works()
    assert served.rss_kb() < rss + GROWTH_KB


def test_streams_that_stall_cost_little(served, neighbour):
    """Windows of 0, and an application that has much to say on each of 1,000 streams."""
    talker = socket.create_server((served.address, 0), backlog=2000)
    talkers = []

    def talk():
        with contextlib.suppress(OSError):
            while True:
                c, _ = talker.accept()
                talkers.append(c)
                c.setblocking(False)
                c.send(bytes(1 << 16))

    t = threading.Thread(target=talk, daemon=True)
    t.start()
    rss = served.rss_kb()
    with Raw(served, [(4, 0)]) as raw:
        authority = "%s:%d" % talker.getsockname()
        raw.send(b"".join(frame(HEADERS, END_HEADERS, s, raw.connect_headers(authority)) for s in range(1, 2001, 2)))
        answered = 0
        while answered < 1000:
            answered += raw.read()[0] == HEADERS
        raw.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 1000)
        raw.ping()
        assert neighbour.works()
        assert served.rss_kb() < rss + GROWTH_KB
        raw.send(frame(SETTINGS, payload=struct.pack(">HI", 4, 10)))        # and they go on
        for _ in range(1000):
            assert raw.until(DATA)[3] == bytes(10)
    talker.shutdown(socket.SHUT_RDWR)
    talker.close()
    t.join(WAIT_S)
    for c in talkers:
        c.close()
    assert neighbour.works()


def test_who_minds_no_window_is_cut(served, neighbour):
    rss = served.rss_kb()
    with Raw(served) as raw:
        raw.open(1, served.authority)
        assert raw.status(1) == "200"
        with contextlib.suppress(OSError):
            for _ in range(2000):       # 32 MB; the application's echo is not read, so that it stops
                raw.send(frame(DATA, 0, 1, bytes(16000)))
        assert rst_code(raw, 1) == FLOW_CONTROL_ERROR
    assert neighbour.works()
    assert served.rss_kb() < rss + GROWTH_KB


# --- what a tunnel may do ---

@pytest.fixture
def raw(served):
    with Raw(served) as r:
        yield r


def echoed(raw, stream, data=b"hello"):
    got = b""
    while len(got) < len(data):
        got += raw.until(DATA, stream)[3]
    return got == data


def test_frames_in_any_pieces(served, raw):
    block = raw.connect_headers(served.authority, ("x", "y" * 200))
    data = frame(HEADERS, PADDED | PRIORITY_FLAG, 1, bytes([9]) + struct.pack(">IB", 0, 15) + block[:1] + bytes(9))
    data += b"".join(frame(CONTINUATION, 0, 1, block[i:i + 40]) for i in range(1, len(block), 40)) + frame(CONTINUATION, END_HEADERS, 1)
    data += frame(77, 255, 1, b"unknown") + frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 1))
    data += frame(DATA, PADDED, 1, bytes([255]) + b"hello" + bytes(255)) + frame(DATA, 0, 1) + frame(DATA, END_STREAM, 1, b" again")
    for i in range(0, len(data), 7):
        raw.send(data[i:i + 7])
    assert raw.status(1) == "200"
    assert echoed(raw, 1, b"hello again")
    while not raw.until(DATA, 1)[1] & END_STREAM:
        pass


def test_trailers_end_a_tunnel(served, raw):
    raw.open(1, served.authority)
    raw.send(frame(DATA, 0, 1, b"hello") + frame(HEADERS, END_HEADERS | END_STREAM, 1, raw.encoder.encode([("grpc-status", "0")])))
    assert raw.status(1) == "200"
    assert echoed(raw, 1)
    while not raw.until(DATA, 1)[1] & END_STREAM:
        pass


def test_a_connect_that_says_nothing_more(served, raw):
    """END_STREAM with the request: the application sees the end, and what it says then still comes."""
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, raw.connect_headers(served.authority)))
    assert raw.status(1) == "200"
    assert raw.until(DATA, 1)[1:] == (END_STREAM, 1, b"")
    raw.ping()


def test_many_streams_by_turns(served, raw):
    ids = range(1, 1001, 2)
    raw.send(b"".join(frame(HEADERS, END_HEADERS, s, raw.connect_headers(served.authority)) for s in ids))
    raw.send(b"".join(frame(DATA, 0, s, b"%04d" % s) for s in ids))
    raw.send(b"".join(frame(DATA, END_STREAM, s, b"!") for s in ids))
    got = {s: b"" for s in ids}
    ended = set()
    while len(ended) < len(ids):
        kind, flags, s, payload = raw.read()
        if kind == DATA:
            got[s] += payload
            if flags & END_STREAM:
                ended.add(s)
    assert got == {s: b"%04d!" % s for s in ids}


def test_windows_are_kept(served, raw):
    raw.send(frame(SETTINGS, payload=struct.pack(">HI", 4, 3)))
    raw.open(1, served.authority)
    raw.send(frame(DATA, 0, 1, b"0123456789"))
    assert raw.until(DATA)[3] == b"012"
    raw.send(frame(SETTINGS, payload=struct.pack(">HI", 4, 1)))         # the window is -2 now
    raw.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 2)))
    raw.ping()                                                          # and 0: nothing came before the answer
    raw.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))
    assert raw.until(DATA)[3] == b"3"
    raw.send(frame(WINDOW_UPDATE, 0, 1, struct.pack(">I", 100)))
    assert raw.until(DATA)[3] == b"456789"


@pytest.mark.parametrize("payload, code", [
    (struct.pack(">I", 0), PROTOCOL_ERROR),
    (struct.pack(">I", 0x7fffffff), FLOW_CONTROL_ERROR),
])
def test_a_wrong_window_ends_one_stream(served, raw, payload, code):
    raw.open(1, served.authority)
    raw.open(3, served.authority)
    raw.send(frame(WINDOW_UPDATE, 0, 1, payload))
    assert rst_code(raw, 1) == code
    raw.send(frame(DATA, 0, 3, b"hello"))
    assert echoed(raw, 3)


def test_a_client_that_goes_away_may_finish(served, raw):
    raw.open(1, served.authority)
    assert raw.status(1) == "200"
    raw.send(frame(GOAWAY, payload=struct.pack(">II", 0, NO_ERROR)) + frame(DATA, END_STREAM, 1, b"hello"))
    assert echoed(raw, 1)


@pytest.mark.parametrize("args", [
    ("-n", "3000", "-c", "5", "-m", "100"),
    ("-n", "200", "-c", "2", "-m", "10", "-w", "16", "-W", "16", "--data=" + __file__),
    ("-n", "500", "-c", "1", "-m", "1000", "-H", "x: " + "y" * 3000),
])
def test_h2load_is_answered_each_time(served, args):
    """nghttp2's client knows no CONNECT: each of its requests is refused with a status, and none is lost."""
    f = Forwarder(served)
    try:
        r = subprocess.run(["h2load", *args, "http://%s:%d/" % (f.address, f.port)], capture_output=True, text=True, timeout=WAIT_S * 3, check=True)
    finally:
        f.close()
    n = int(args[1])
    assert "status codes: 0 2xx, 0 3xx, %d 4xx, 0 5xx" % n in r.stdout, r.stdout
    assert re.search(r"requests: %d total, %d started, %d done, 0 succeeded, %d failed, 0 errored, 0 timeout" % (n, n, n, n), r.stdout), r.stdout


def test_a_drained_vm_lets_streams_finish(tmp_path):
    with served_echo(tmp_path) as s:
        with Raw(s) as raw:
            raw.open(1, s.authority)
            assert raw.status(1) == "200"
            s.proxy.process.terminate()
            assert raw.until(GOAWAY)[3] == struct.pack(">II", 0x7fffffff, NO_ERROR)      # those on their way still get in
            raw.send(frame(DATA, 0, 1, b"hello"))
            while True:
                kind, flags, stream, payload = raw.read()
                if kind == PING:                # whose answer says that we have seen the GOAWAY
                    raw.send(frame(PING, ACK, 0, payload))
                elif kind == DATA:
                    assert (stream, payload) == (1, b"hello")
                    break
            raw.send(frame(DATA, END_STREAM, 1, b""))
            assert raw.goaway() == NO_ERROR
        assert s.proxy.process.wait(WAIT_S) == 0

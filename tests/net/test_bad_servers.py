"""Destinations that mean harm: HBONE servers with a certificate of the mesh, and every frame of theirs made by hand.

What they do costs the connections to themselves, nothing else; no byte of theirs reaches an application before a 200.
"""
import contextlib
import pathlib
import socket
import struct
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import flavour  # noqa: E402
from badserver import BAD, BadServer, Mesh, Peer  # noqa: E402
from h2raw import (ACK, CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR,  # noqa: E402
                   FRAME_SIZE_ERROR, GOAWAY, HEADERS, NO_ERROR, PADDED, PING, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, RST_STREAM, SETTINGS, STREAM_CLOSED,
                   WINDOW_UPDATE, frame)
from meshlab import wait_for  # noqa: E402
from wirelab import WAIT_S  # noqa: E402

GROWTH_KB = 32 * 1024           # of the proxy, whatever a server sends
REFUSED_STREAM = 7
MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, TABLE, PUSH = 3, 4, 5, 1, 2


def u32(*values):
    return struct.pack(">%dI" % len(values), *values)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    m = Mesh(tmp_path_factory.mktemp("bad"))
    yield m
    m.stop()


@contextlib.contextmanager
def serving(mesh, script=None, raw=None, name="b"):
    """A server that does so, when the proxy has forgotten what it thought of the last one; everybody else is served as ever."""
    rss = mesh.rss_kb()
    server = BadServer(BAD, mesh.dir, name, script, raw)
    try:
        yield server
        assert mesh.neighbour_works()
        assert flavour.sanitizer() or mesh.rss_kb() < rss + GROWTH_KB
    finally:
        server.close()


def first_heard(mesh, server, **kw):
    """What an application hears of the first connection that the server has: others may be told that it was not there a moment ago."""
    return wait_for(lambda: [h for h in [mesh.heard(**kw)] if server.n], WAIT_S, why="a connection to the bad server")[0]


def on_request(*make, settings=()):
    """The script that answers the first CONNECT with what each make(peer, stream) gives, and hears what is said about it."""
    def script(peer):
        peer.begin(*settings)
        stream = peer.request()
        with contextlib.suppress(OSError):
            for m in make:
                peer.send(m(peer, stream))
        return peer.told()
    return script


def ok(p, s):
    return p.status(s)


def field(*fields, flags=END_HEADERS):
    return lambda p, s: p.headers(s, *fields, flags=flags)


def raw_block(block, flags=END_HEADERS):
    return lambda p, s: frame(HEADERS, flags, s, block)


EVIL = b"a byte of this in an application is a failure"


def data(p, s):
    return frame(DATA, 0, s, EVIL)


# What ends one stream, and the code for it. The application hears nothing.
SPOILT = {
    "data-before-headers": ([data, ok, data], PROTOCOL_ERROR),
    "an-end-before-headers": ([lambda p, s: frame(DATA, END_STREAM, s), ok, data], PROTOCOL_ERROR),
    "data-between-interim-and-final": ([lambda p, s: p.status(s, "103"), data, ok], PROTOCOL_ERROR),
    "an-interim-that-ends": ([lambda p, s: p.status(s, "100", end=True)], PROTOCOL_ERROR),
    "other-protocols": ([lambda p, s: p.status(s, "101"), ok, data], PROTOCOL_ERROR),
    "no-status": ([field(("server", "x")), data], PROTOCOL_ERROR),
    "two-statuses": ([field((":status", "200"), (":status", "200")), data], PROTOCOL_ERROR),
    "a-status-of-two-digits": ([field((":status", "20")), data], PROTOCOL_ERROR),
    "a-status-with-words": ([field((":status", "200 OK")), data], PROTOCOL_ERROR),
    "a-status-of-0": ([field((":status", "000")), data], PROTOCOL_ERROR),
    "a-late-status": ([field(("a", "b"), (":status", "200")), data], PROTOCOL_ERROR),
    "a-request-as-answer": ([field((":status", "200"), (":method", "CONNECT")), data], PROTOCOL_ERROR),
    "an-upper-case-field": ([lambda p, s: frame(HEADERS, END_HEADERS, s, p.encoder.encode([(":status", "200")]) + b"\0\1A\1b"), data], PROTOCOL_ERROR),
    "chunked": ([field((":status", "200"), ("transfer-encoding", "chunked")), data], PROTOCOL_ERROR),
    "a-line-feed-in-a-value": ([field((":status", "200"), ("a", "b\nc")), data], PROTOCOL_ERROR),
    "a-window-of-0": ([lambda p, s: frame(WINDOW_UPDATE, 0, s, u32(0))], PROTOCOL_ERROR),
    "its-window-overflows": ([lambda p, s: frame(WINDOW_UPDATE, 0, s, u32(0x7fffffff)) * 2], FLOW_CONTROL_ERROR),
    "an-endless-list-of-fields": ([field((":status", "200"), *[("a%d" % i, "x" * 100) for i in range(500)]), data], PROTOCOL_ERROR),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_wrong_with_an_answer_ends_its_stream(mesh, name):
    makes, code = SPOILT[name]
    with serving(mesh, on_request(*makes)) as server:
        assert first_heard(mesh, server) == b""
        assert server.result() == ("reset", code)


def first_bytes(said):
    """Instead of SETTINGS."""
    def script(peer):
        peer.begin(said=said)
        return peer.told()
    return script


def flood(what, n, settings=()):
    return on_request(lambda p, s: what(s) * n, settings=settings)


# What ends the connection, and the code for it.
FATAL = {
    "a-promise": (on_request(lambda p, s: frame(PUSH_PROMISE, END_HEADERS, s, u32(2) + p.encoder.encode([(":method", "GET")]))), PROTOCOL_ERROR),
    "pushes-allowed": (on_request(settings=[(PUSH, 1)]), PROTOCOL_ERROR),
    "frames-of-no-size": (on_request(settings=[(MAX_FRAME, 16383)]), PROTOCOL_ERROR),
    "a-window-of-2-gib": (on_request(settings=[(INITIAL_WINDOW, 1 << 31)]), FLOW_CONTROL_ERROR),
    "the-connections-window-overflows": (on_request(lambda p, s: frame(WINDOW_UPDATE, 0, 0, u32(0x7fffffff)) * 2), FLOW_CONTROL_ERROR),
    "the-connections-window-of-0": (on_request(lambda p, s: frame(WINDOW_UPDATE, 0, 0, u32(0))), PROTOCOL_ERROR),
    "settings-overflow-a-window": (on_request(ok, lambda p, s: frame(WINDOW_UPDATE, 0, s, u32(0x7fff0000)) + frame(SETTINGS, 0, 0, b"\0\4" + u32(0x7fffffff))),
                                   FLOW_CONTROL_ERROR),
    "too-many-settings": (on_request(settings=[(99, 0)] * 40), ENHANCE_YOUR_CALM),
    "no-settings": (first_bytes(frame(PING, 0, 0, bytes(8))), PROTOCOL_ERROR),
    "an-acknowledgement-first": (first_bytes(frame(SETTINGS, ACK)), PROTOCOL_ERROR),
    "another-protocol": (first_bytes(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"), FRAME_SIZE_ERROR),
    "zeros": (first_bytes(bytes(100000)), PROTOCOL_ERROR),
    "an-answer-on-no-stream": (on_request(lambda p, s: p.status(0)), PROTOCOL_ERROR),
    "an-answer-to-nothing": (on_request(lambda p, s: p.status(s + 100)), PROTOCOL_ERROR),
    "an-answer-on-an-even-stream": (on_request(lambda p, s: p.status(2)), PROTOCOL_ERROR),
    "data-of-nothing": (on_request(lambda p, s: frame(DATA, 0, s + 100, EVIL)), PROTOCOL_ERROR),
    "a-reset-of-nothing": (on_request(lambda p, s: frame(RST_STREAM, 0, s + 100, u32(0))), PROTOCOL_ERROR),
    "continuations-without-end": (on_request(lambda p, s: frame(HEADERS, 0, s) + frame(CONTINUATION, 0, s) * 1000), ENHANCE_YOUR_CALM),
    "large-continuations": (on_request(lambda p, s: frame(HEADERS, 0, s) + frame(CONTINUATION, 0, s, bytes(60000)) * 4), ENHANCE_YOUR_CALM),
    "a-goaway-inside-a-block": (on_request(lambda p, s: frame(HEADERS, 0, s) + frame(GOAWAY, 0, 0, bytes(8))), PROTOCOL_ERROR),
    "a-block-that-does-not-decode": (on_request(raw_block(b"\xff\xff\xff\xff\xff\xff")), COMPRESSION_ERROR),
    "a-table-that-is-too-large": (on_request(raw_block(b"\x3f\xff\xff\xff\x0f\x88")), COMPRESSION_ERROR),
    "a-frame-of-16-mb": (on_request(lambda p, s: b"\xff\xff\xff\0\0" + u32(s) + bytes(1000)), FRAME_SIZE_ERROR),
    "padding-longer-than-data": (on_request(ok, lambda p, s: frame(DATA, PADDED, s, b"\xffabc")), PROTOCOL_ERROR),
    "interim-answers": (flood(lambda s: frame(HEADERS, END_HEADERS, s, b"\x08\x03100"), 3000), ENHANCE_YOUR_CALM),
    "pings": (flood(lambda s: frame(PING, 0, 0, bytes(8)), 3000), ENHANCE_YOUR_CALM),
    "settings": (flood(lambda s: frame(SETTINGS, 0, 0, b"\0\4" + u32(65535)), 3000), ENHANCE_YOUR_CALM),
    "priorities": (flood(lambda s: frame(PRIORITY, 0, s + 2, u32(0) + b"\1"), 3000), ENHANCE_YOUR_CALM),
    "unknown-frames": (flood(lambda s: frame(200, 255, s, b"x"), 3000), ENHANCE_YOUR_CALM),
    "windows-of-1": (flood(lambda s: frame(WINDOW_UPDATE, 0, s, u32(1)), 3000), ENHANCE_YOUR_CALM),
    "empty-data": (on_request(ok, lambda p, s: frame(DATA, 0, s) * 3000), ENHANCE_YOUR_CALM),
    "data-of-padding": (on_request(ok, lambda p, s: frame(DATA, PADDED, s, b"\3\0\0\0") * 3000), ENHANCE_YOUR_CALM),
    "goaways": (on_request(ok, lambda p, s: frame(GOAWAY, 0, 0, u32(0x7fffffff, 0)) * 3000), ENHANCE_YOUR_CALM),
    "answers-to-what-was-reset": (on_request(lambda p, s: frame(RST_STREAM, 0, s, u32(CANCEL)), lambda p, s: frame(HEADERS, END_HEADERS, s, b"\x88") * 9000), ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("name", FATAL)
def test_what_breaks_the_protocol_ends_the_connection(mesh, name):
    script, code = FATAL[name]
    with serving(mesh, script) as server:
        assert EVIL not in first_heard(mesh, server)
        assert server.result() == ("goaway", code)


# --- what is odd, and right ---

def tunnel(*before, settings=(), after_settings=b""):
    def script(peer):
        peer.begin(*settings)
        stream = peer.request()
        for make in before:
            peer.send(make(peer, stream))
        peer.echo(stream)
    return script


def pause(p, s):
    time.sleep(0.3)             # the proxy has acted upon what came before; if not, the test is only weaker
    return b""


RIGHT = {
    "interim-answers": tunnel(lambda p, s: p.status(s, "100") + p.status(s, "103"), ok),
    "a-length": tunnel(lambda p, s: p.status(s, "200", ("content-length", "3"))),
    "another-2xx": tunnel(lambda p, s: p.status(s, "299")),
    "many-fields": tunnel(lambda p, s: p.status(s, "200", *[("a%d" % i, "b" * 20) for i in range(50)])),
    "no-table": tunnel(ok, settings=[(TABLE, 0)]),
    "a-table-of-4-gib": tunnel(ok, settings=[(TABLE, 0xffffffff)]),
    "frames-of-16-mb": tunnel(ok, settings=[(MAX_FRAME, (1 << 24) - 1), (INITIAL_WINDOW, 0x7fffffff)]),
    "no-window-and-then-one": tunnel(ok, pause, lambda p, s: frame(SETTINGS, 0, 0, b"\0\4" + u32(70000)), settings=[(INITIAL_WINDOW, 0)]),
    "a-window-by-single-bytes": tunnel(ok, lambda p, s: frame(WINDOW_UPDATE, 0, s, u32(1)) * 500 + frame(WINDOW_UPDATE, 0, s, u32(5000)), settings=[(INITIAL_WINDOW, 0)]),
    "a-window-that-shrinks-below-0": tunnel(ok, pause, lambda p, s: frame(SETTINGS, 0, 0, b"\0\4" + u32(0)), pause,
                                            lambda p, s: frame(SETTINGS, 0, 0, b"\0\4" + u32(70000)), settings=[(INITIAL_WINDOW, 3000)]),
    "a-goaway-that-lets-it-be": tunnel(ok, lambda p, s: frame(GOAWAY, 0, 0, u32(s, 0))),
    "two-goaways": tunnel(ok, lambda p, s: frame(GOAWAY, 0, 0, u32(0x7fffffff, 0)) + frame(GOAWAY, 0, 0, u32(s, 0))),
    "unknown-settings-and-frames": tunnel(ok, lambda p, s: frame(77, 0, s, b"x") + frame(SETTINGS, 0, 0, b"\0\x99" + u32(7))),
    "padding": tunnel(lambda p, s: frame(HEADERS, END_HEADERS | PADDED, s, b"\7\x88" + bytes(7)), lambda p, s: frame(DATA, PADDED, s, b"\xff" + bytes(255))),
}


@pytest.mark.parametrize("name", RIGHT)
def test_odd_answers_that_are_right(mesh, name):
    said = bytes(i % 251 for i in range(5000))
    with serving(mesh, RIGHT[name]) as server:
        assert first_heard(mesh, server, data=said) == said
        assert server.result() is None


def test_an_answer_that_ends_at_once(mesh):
    with serving(mesh, lambda p: (p.begin(), p.send(p.status(p.request(), end=True)), p.told())[2]) as server:
        assert first_heard(mesh, server) == b""


def test_a_server_that_takes_no_streams_yet(mesh):
    """Until it has said so, one is on its way; the others wait for their turn."""
    def script(peer):
        peer.begin((MAX_STREAMS, 0))
        s = peer.request()
        peer.send(peer.status(s))
        peer.echo(s)
        peer.send(frame(SETTINGS, 0, 0, b"\0\3" + u32(1)))
        for _ in range(2):
            s = peer.request()
            peer.send(peer.status(s))
            peer.echo(s)

    with serving(mesh, script) as server:
        heard = []
        threads = [threading.Thread(target=lambda: heard.append(mesh.heard())) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(WAIT_S)
        assert heard == [b"hello"] * 3 and server.n == 1


# --- ends, in each state ---

def finished(mesh, n_threads=1, **kw):
    """What so many applications hear that dial at once."""
    heard = []
    threads = [threading.Thread(target=lambda: heard.append(mesh.heard(**kw))) for _ in range(n_threads)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(WAIT_S)
    assert len(heard) == n_threads, "an application still waits"
    return heard


def hang_up(sock, how):
    """Without a close_notify: by a FIN, or by a RST."""
    if how == "rst":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def end_before_hello(raw, wrap, how):
    hang_up(raw, how)


def end_in_hello(raw, wrap, how):
    raw.recv(100)
    raw.sendall(b"\x16\3\3\0\x7a\2\0\0\x76\3\3")
    hang_up(raw, how)


def end_after(step):
    def end(raw, wrap, how):
        sock = wrap(raw)
        peer = Peer(sock)
        try:
            step(peer)
        finally:
            hang_up(sock, how)
    return end


def settings_only(peer):
    peer.begin()


def half_a_frame(peer):
    peer.begin()
    s = peer.request()
    peer.send(peer.status(s), frame(DATA, 0, s, b"x" * 1000)[:500])


ENDS = {
    "before-the-handshake": end_before_hello,
    "inside-the-handshake": end_in_hello,
    "behind-the-handshake": end_after(lambda p: None),
    "behind-settings": end_after(settings_only),
    "behind-the-request": end_after(lambda p: (p.begin(), p.request())),
    "behind-an-interim-answer": end_after(lambda p: (p.begin(), p.send(p.status(p.request(), "100")))),
    "inside-a-header": end_after(lambda p: (p.begin(), p.send(frame(HEADERS, 0, p.request(), b"\x88")))),
    "behind-the-answer": end_after(lambda p: (p.begin(), p.send(p.status(p.request())))),
    "inside-a-frame": end_after(half_a_frame),
    "behind-a-goaway": end_after(lambda p: (p.begin(), p.request(), p.send(frame(GOAWAY, 0, 0, u32(0, 0))))),
}
FEW = 12        # connections to the server for 4 of applications, of which each may try three times


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("name", ENDS)
def test_an_end_in_any_state_is_an_end_soon(mesh, name, how):
    with serving(mesh, raw=lambda raw, wrap: ENDS[name](raw, wrap, how)) as server:
        first_heard(mesh, server)
        before = server.n
        assert all(len(h) <= 500 and not h.strip(b"x") for h in finished(mesh, 4))
        assert server.n - before <= FEW


def reset(code):
    return lambda p, s: frame(RST_STREAM, 0, s, u32(code))


@pytest.mark.parametrize("code", [NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM, 0xffffffff])
@pytest.mark.parametrize("makes", [[], [ok], [ok, data], [ok, lambda p, s: frame(DATA, END_STREAM, s, b"the end")]], ids=["request", "answer", "data", "end"])
def test_resets_in_any_state(mesh, makes, code):
    """What the server has not looked at may be asked for again, three times; the tunnel goes on."""
    def script(peer):
        peer.begin()
        n = 0
        while True:
            s = peer.request()
            n += 1
            peer.send(*[m(peer, s) for m in makes], reset(code)(peer, s))

    with serving(mesh, script) as server:
        assert first_heard(mesh, server) in ([b""] if not makes[1:] else [b"", EVIL, b"the end"])
        finished(mesh, 8)
        assert server.n <= 3


def test_refusals_without_end_are_asked_again_three_times(mesh):
    asked = []

    def script(peer):
        peer.begin()
        while True:
            s = peer.request()
            asked.append(peer.authority)
            peer.send(reset(REFUSED_STREAM)(peer, s))

    with serving(mesh, script) as server:
        first_heard(mesh, server)
        before = len(asked)
        assert finished(mesh, 5) == [b""] * 5
        assert len(asked) - before <= 15


def test_goaways_without_end_are_not_dialled_for_without_end(mesh):
    """Each connection is told to go away, before or behind its request."""
    for makes in ([], [lambda p, s: frame(GOAWAY, 0, 0, u32(0, 0))]):
        def script(peer):
            peer.begin()
            if makes:
                s = peer.request()
                peer.send(makes[0](peer, s))
            else:
                peer.send(frame(GOAWAY, 0, 0, u32(0, 0)))
            with contextlib.suppress(EOFError):
                while True:
                    peer.read()

        with serving(mesh, script) as server:
            first_heard(mesh, server)
            before = server.n
            assert finished(mesh, 6) == [b""] * 6
            assert server.n - before <= 24


def test_handshakes_that_fail_are_not_made_without_end(mesh):
    with serving(mesh, raw=lambda raw, wrap: (raw.recv(10000), raw.sendall(b"\x15\3\3\0\2\2\x28"))) as server:
        first_heard(mesh, server)
        before, end = server.n, time.monotonic() + 1.5
        while time.monotonic() < end:
            assert finished(mesh, 8) == [b""] * 8
        assert server.n - before <= 30


# --- late, and too much ---

def test_answers_behind_a_reset_are_dropped(mesh):
    """The application has gone; the server goes on as if it had not, for as long as there are windows."""
    late = []

    def script(peer):
        peer.begin()
        with contextlib.suppress(EOFError, OSError):
            while True:
                kind, flags, s, payload = peer.read()
                if kind == HEADERS:
                    peer.send(peer.status(s))
                elif kind == RST_STREAM:
                    late.append(s)
                    peer.send(*[frame(DATA, 0, s, bytes(16384)) for _ in range(60)], peer.headers(s, ("grpc-status", "0"), flags=END_HEADERS | END_STREAM))
                elif kind == DATA:
                    peer.send(frame(DATA, flags & END_STREAM, s, payload))

    with serving(mesh, script) as server:
        assert first_heard(mesh, server) == b"hello"
        for _ in range(3):
            with mesh.dial() as s:
                s.sendall(b"hello")
                assert s.recv(100) == b"hello"
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: len(late) == 3, WAIT_S, why="the resets")
        assert mesh.heard() == b"hello" and server.n == 1


def test_a_server_that_minds_no_window_is_cut(mesh):
    def script(peer):
        peer.begin()
        s = peer.request()
        peer.send(peer.status(s))
        with contextlib.suppress(OSError):
            for _ in range(4000):           # 64 MB, of which the application reads nothing
                peer.send(frame(DATA, 0, s, bytes(16000)))
        return peer.told()

    with serving(mesh, script) as server:
        conns = []
        try:
            wait_for(lambda: conns.append(mesh.dial()) or server.n, WAIT_S, why="a connection to the bad server")
            assert server.result() in [("reset", FLOW_CONTROL_ERROR), ("goaway", FLOW_CONTROL_ERROR)]
        finally:
            for c in conns:
                c.close()


def test_a_header_bomb_in_answers_costs_little(mesh):
    """A table entry of 4,000 bytes, named 3,000 times in each answer."""
    def script(peer):
        peer.begin()
        told = []
        for _ in range(30):
            s = peer.request()
            block = b"\x88" + peer.encoder.encode([("a", "x" * 4000)]) + b"\xbe" * 3000
            peer.send(frame(HEADERS, END_HEADERS, s, block))
            told.append(peer.told(s))
        return told

    with serving(mesh, script) as server:
        first_heard(mesh, server)
        while not server.results:
            assert finished(mesh, 4) == [b""] * 4
        assert server.result() == [("reset", PROTOCOL_ERROR)] * 30

"""TLS against other implementations: OpenSSL's and GnuTLS's programs, KeyUpdate in mid-stream."""
import os
import pathlib
import select
import socket
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from lib.wirelab import PEER, WAIT_S, Pki, address, wait_port  # noqa: E402

NAME = "server.example"


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    p = Pki(tmp_path_factory.mktemp("pki"))
    p.server = p.issue("server", "URI:spiffe://td/ns/a/sa/server,DNS:%s" % NAME)
    p.client = p.issue("client", "URI:spiffe://td/ns/a/sa/client")
    p.stranger = Pki(tmp_path_factory.mktemp("other"), "other").issue("stranger", "URI:spiffe://td/ns/a/sa/client")
    return p


def free_port(addr):
    with socket.create_server((addr, 0)) as s:
        return s.getsockname()[1]


class Program:
    """A process with pipes; what it says is read until it has said a thing."""

    def __init__(self, *args):
        self.p = subprocess.Popen([str(a) for a in args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        self.seen = b""

    def say(self, data):
        self.p.stdin.write(data)
        self.p.stdin.flush()

    def until(self, what, wait_s=WAIT_S):
        """Reads on until @what has come; forgets all up to it."""
        end = time.monotonic() + wait_s
        while what not in self.seen:
            ready, _, _ = select.select([self.p.stdout], [], [], max(0, end - time.monotonic()))
            assert ready, "no %r in %r" % (what, self.seen[-2000:])
            part = os.read(self.p.stdout.fileno(), 65536)
            assert part, "ended before %r: %r" % (what, self.seen[-2000:])
            self.seen += part
        before, _, self.seen = self.seen.partition(what)
        return before

    def end(self):
        self.p.stdin.close()
        self.p.terminate()
        try:
            self.p.wait(5)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        self.p.stdout.close()


@pytest.fixture
def run():
    programs = []

    def start(*args):
        programs.append(Program(*args))
        return programs[-1]

    yield start
    for p in reversed(programs):
        p.end()


@pytest.fixture
def our_server(run, pki):
    def start(*extra):
        port = free_port(address(1))
        p = run(PEER, "tls-server", "%s:%d" % (address(1), port), *pki.server.args(), *extra)
        p.until(b"ready")
        return p, port

    return start


def s_client(run, pki, port, *extra):
    return run("openssl", "s_client", "-connect", "%s:%d" % (address(1), port), "-CAfile", pki.server.roots,
               "-cert", pki.client.cert, "-key", pki.client.key, *extra)


@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"])
def test_openssl_client_with_key_updates(our_server, run, pki, suite):
    server, port = our_server()
    c = s_client(run, pki, port, "-tls1_3", "-ciphersuites", suite)
    server.until(b"opened: peer spiffe://td/ns/a/sa/client")
    c.say(b"one\n")
    c.until(b"one\n")
    c.say(b"k\n")               # KeyUpdate; what follows in the same read is dropped by s_client
    c.until(b"KEYUPDATE\n")
    c.say(b"two\n")
    c.until(b"two\n")
    for i in range(5):
        c.say(b"K\n")           # KeyUpdate that asks for one in return
        c.until(b"KEYUPDATE\n")
        c.say(b"three %d\n" % i)
        c.until(b"three %d\n" % i)
    c.say(b"Q\n")
    server.until(b"closed: 0")


def test_openssl_client_sends_much(our_server, run, pki):
    server, port = our_server()
    c = s_client(run, pki, port, "-quiet", "-no_ign_eof")
    data = b"".join(b"%08d " % i + b"x" * (i % 97) + b"\n" for i in range(40000))
    import threading
    t = threading.Thread(target=lambda: (c.say(data), c.say(b"the end\n")), daemon=True)
    t.start()
    out = c.until(b"the end\n")
    t.join(WAIT_S)
    assert out[out.index(b"00000000 "):] == data


@pytest.mark.parametrize("extra", [
    ("-record_padding", "512"),
    ("-max_send_frag", "512", "-record_padding", "100"),
    ("-groups", "P-521:P-256"),         # a HelloRetryRequest
    ("-no_middlebox",),
])
def test_openssl_client_of_other_habits(our_server, run, pki, extra):
    server, port = our_server()
    c = s_client(run, pki, port, "-tls1_3", "-quiet", "-no_ign_eof", *extra)
    data = b"".join(b"%06d " % i for i in range(9000)) + b"the end\n"
    c.say(data)
    assert c.until(b"the end\n").endswith(data[:-8])
    server.until(b"opened: peer spiffe://td/ns/a/sa/client")


def test_openssl_server_pads(run, pki):
    port = free_port(address(1))
    s = run("openssl", "s_server", "-accept", "%s:%d" % (address(1), port), "-tls1_3", "-cert", pki.server.cert, "-key", pki.server.key,
            "-CAfile", pki.server.roots, "-Verify", "1", "-record_padding", "4096", "-num_tickets", "3", "-quiet")
    wait_port(address(1), port, s.p)
    c = run(PEER, "tls-client", "%s:%d" % (address(1), port), *pki.client.args(), "name=" + NAME)
    c.until(b"opened: peer spiffe://td/ns/a/sa/server")
    text = b"x" * 30000 + b"\n"
    s.say(text)
    c.until(text)


def tls_socket(pki, port):
    return pki.client.context(False, ()).wrap_socket(socket.create_connection((address(1), port), timeout=WAIT_S))


def test_close_notify_is_answered_and_a_cut_is_told_from_it(our_server, pki):
    server, port = our_server()
    s = tls_socket(pki, port)
    s.sendall(b"hello")
    assert s.recv(5) == b"hello"
    s.unwrap().close()          # fails without a close_notify of theirs
    server.until(b"closed: 0")
    s = tls_socket(pki, port)
    s.sendall(b"hello")
    assert s.recv(5) == b"hello"
    s.shutdown(socket.SHUT_WR)  # a FIN, and nothing before it
    server.until(b"closed: -104 the peer closed the connection without close_notify")
    s.close()


@pytest.mark.parametrize("extra, alert", [
    (("-ciphersuites", "TLS_AES_128_CCM_SHA256"), b"alert handshake failure"),
    (("-groups", "P-521"), b"alert handshake failure"),
    (("-sigalgs", "RSA-PSS+SHA256"), b"alert handshake failure"),       # our certificate is ECDSA
    (("-tls1_2",), b"alert protocol version"),
])
def test_nothing_in_common(our_server, run, pki, extra, alert):
    server, port = our_server()
    s_client(run, pki, port, *([] if "-tls1_2" in extra else ["-tls1_3"]), *extra).until(alert)
    server.until(b"closed: 4 TLS handshake failed")


def said_and_heard(s, c, text):
    """s_server drops what comes in one read with a command, and does not tell when it has read that."""
    for _ in range(WAIT_S):
        s.say(text)
        try:
            c.until(text, 1)
            return
        except AssertionError:
            pass
    assert False, "not heard: %r" % text


def test_openssl_server_updates_its_keys(run, pki):
    port = free_port(address(1))
    s = run("openssl", "s_server", "-accept", "%s:%d" % (address(1), port), "-tls1_3", "-cert", pki.server.cert, "-key", pki.server.key,
            "-CAfile", pki.server.roots, "-Verify", "1")
    s.until(b"ACCEPT")
    c = run(PEER, "tls-client", "%s:%d" % (address(1), port), *pki.client.args(), "name=" + NAME)
    c.until(b"opened: peer spiffe://td/ns/a/sa/server")
    s.say(b"hello\n")
    c.until(b"hello\n")
    for i in range(5):
        s.say(b"K\n" if i % 2 else b"k\n")
        said_and_heard(s, c, b"after %d\n" % i)
        c.say(b"answer %d\n" % i)
        s.until(b"answer %d\n" % i)


def test_tickets_of_a_server_are_passed_over(run, pki):
    port = free_port(address(1))
    s = run("openssl", "s_server", "-accept", "%s:%d" % (address(1), port), "-tls1_3", "-num_tickets", "9", "-cert", pki.server.cert,
            "-key", pki.server.key)
    s.until(b"ACCEPT")
    c = run(PEER, "tls-client", "%s:%d" % (address(1), port), *pki.client.args())
    c.until(b"opened")
    s.say(b"hello\n")
    c.until(b"hello\n")


def test_tls_1_2_is_refused_unless_allowed(our_server, run, pki):
    server, port = our_server()
    c = s_client(run, pki, port, "-tls1_2")
    c.until(b"alert protocol version")
    server.until(b"closed: 4 TLS handshake failed: unsupported protocol")

    server, port = our_server("tls12")
    c = s_client(run, pki, port, "-tls1_2")
    server.until(b"opened: peer spiffe://td/ns/a/sa/client")
    c.say(b"old but fine\n")
    c.until(b"old but fine\n")


def test_clients_are_refused_with_a_reason(our_server, run, pki):
    server, port = our_server()
    c = run("openssl", "s_client", "-connect", "%s:%d" % (address(1), port), "-tls1_3", "-CAfile", pki.server.roots)
    server.until(b"closed: 3 the peer presented no certificate")
    c.until(b"alert certificate required")
    run("openssl", "s_client", "-connect", "%s:%d" % (address(1), port), "-tls1_3", "-CAfile", pki.server.roots,
        "-cert", pki.stranger.cert, "-key", pki.stranger.key).until(b"alert unknown ca")
    server.until(b"closed: 3 unknown CA")


def test_the_server_name_must_fit(run, pki, our_server):
    _, port = our_server()
    c = run(PEER, "tls-client", "%s:%d" % (address(1), port), *pki.client.args(), "name=other.example")
    c.until(b"closed: 3 the certificate is not for other.example")


def test_gnutls_client(our_server, run, pki):
    server, port = our_server()
    c = run("gnutls-cli", "--port", port, address(1), "--x509cafile", pki.server.roots, "--x509certfile", pki.client.cert,
            "--x509keyfile", pki.client.key, "--verify-hostname", NAME, "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3",
            "--inline-commands")
    server.until(b"opened: peer spiffe://td/ns/a/sa/client")
    c.say(b"hello\n")
    c.until(b"hello\n")
    c.say(b"^rekey^\n")         # KeyUpdate
    c.say(b"again\n")
    c.until(b"again\n")


def test_gnutls_server(run, pki):
    port = free_port(address(1))
    s = run("gnutls-serv", "--echo", "--port", port, "--x509cafile", pki.server.roots, "--x509certfile", pki.server.cert,
            "--x509keyfile", pki.server.key, "--require-client-cert", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3")
    wait_port("127.0.0.1", port, s.p)
    c = run(PEER, "tls-client", "127.0.0.1:%d" % port, *pki.client.args(), "name=" + NAME)
    c.until(b"opened: peer spiffe://td/ns/a/sa/server")
    c.say(b"hello\n")
    c.until(b"hello\n")

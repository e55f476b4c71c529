"""Our gRPC against Google's (grpcio from PyPI), each as client and as server, in the clear and over TLS."""
import json
import os
import subprocess

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("OUTRIGGER_BUILD", os.path.join(TOP, "build"))
PEER = os.path.join(BUILD, "tests", "lib", "grpc-peer")
THEIRS = ["/usr/bin/python3", os.path.join(HERE, "grpc_python.py")]


@pytest.fixture(scope="session", autouse=True)
def grpcio():
    """What grpc_python.py imports: fetched once, kept in the build folder."""
    subprocess.run([os.path.join(TOP, "tools", "fetch-grpcio")], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.path.join(TOP, "build", "cache", "grpcio"))
        yield


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """root.pem and a certificate for a server (peer.test, 127.0.0.1) and a client with a SPIFFE ID, all P-256."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "root.key", "-out", "root.pem", "-subj",
            "/CN=root", "-days", "2")
    for name, san in (("server", "DNS:peer.test,IP:127.0.0.1"), ("client", "URI:spiffe://td/ns/a/sa/b")):
        (folder / "ext").write_text("subjectAltName=%s\n" % san)
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj",
                "/CN=" + name)
        openssl("x509", "-req", "-in", name + ".csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-extfile", "ext", "-out",
                name + ".pem", "-days", "2")
    return lambda name: str(folder / name)


class Server:
    def __init__(self, argv):
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("listening "), self.process.stderr.read()
        self.address = line.split()[1]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait(timeout=30)


def run(argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


EXPECTED = {
    "unary": "hello", "empty": 0, "fail": ["PERMISSION_DENIED", "100% no,\n\u00e4h"], "unknown": "UNIMPLEMENTED", "big": 4 << 20,
    "too_large": "RESOURCE_EXHAUSTED", "compressed": "UNIMPLEMENTED", "stream": [2000, 2000000], "bulk": [40, 40 << 20],
    "deadline": "DEADLINE_EXCEEDED", "cancelled": "CANCELLED", "parallel": 20000,
}


def test_their_client_talks_to_our_server():
    with Server([PEER, "serve", "127.0.0.1:0"]) as server:
        assert json.loads(run([*THEIRS, "call", server.address]).stdout) == dict(EXPECTED, metadata="Bearer abc nobody")


def test_their_client_talks_to_our_server_over_tls(pki):
    with Server([PEER, "serve", "127.0.0.1:0", pki("server.pem"), pki("server.key"), pki("root.pem")]) as server:
        argv = [*THEIRS, "call", server.address, pki("root.pem"), pki("client.key"), pki("client.pem")]
        assert json.loads(run(argv).stdout) == dict(EXPECTED, metadata="Bearer abc spiffe://td/ns/a/sa/b")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_our_client_talks_to_their_server(pki, tls):
    serve = [pki("server.pem"), pki("server.key"), pki("root.pem")] if tls else []
    trust = [pki("root.pem"), pki("client.pem"), pki("client.key")] if tls else []
    with Server([*THEIRS, "serve", *serve]) as server:
        def call(mode, n, size):
            done = run([PEER, mode, server.address, str(n), str(size), *trust])
            assert "echo is not" not in done.stderr
            return done.stdout.rstrip("\n").split(" ", 3)

        assert call("unary", 500, 100) == ["OK", "500", str(500 * 102), ""]
        assert call("stream", 2000, 1000) == ["OK", "2000", "2000000", ""]
        assert call("stream", 40, 1 << 20) == ["OK", "40", str(40 << 20), ""]
        assert call("stream", 0, 1) == ["OK", "0", "0", ""]
        assert call("fail", 1, 1)[0] == "PERMISSION_DENIED"
        assert call("fail", 0, 1)[3] == "100% no,\n\u00e4h"


def test_our_client_refuses_a_server_it_does_not_trust(pki, tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null", "-out",
                    str(tmp_path / "other.pem"), "-subj", "/CN=other", "-days", "2"], check=True, stderr=subprocess.DEVNULL)
    with Server([*THEIRS, "serve", pki("server.pem"), pki("server.key"), pki("root.pem")]) as server:
        done = run([PEER, "unary", server.address, "1", "1", str(tmp_path / "other.pem")])
        assert done.stdout.startswith("UNAVAILABLE ")

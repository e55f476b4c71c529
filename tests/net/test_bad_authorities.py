"""A peer with a certificate of the mesh that asks for what is not the VM's: each CONNECT leads to the VM that was dialled, or nowhere."""
import pathlib
import socket
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from badserver import BAD, OTHER, WELL, Mesh  # noqa: E402
from h2raw import ENHANCE_YOUR_CALM, HEADERS, PROTOCOL_ERROR, RST_STREAM, Raw, context  # noqa: E402
from wirelab import WAIT_S, Echo  # noqa: E402


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    m = Mesh(tmp_path_factory.mktemp("authorities"))
    m.connect = lambda: context(m.dir, "a").wrap_socket(socket.create_connection((WELL, 15008), timeout=WAIT_S))
    m.port = m.app.port
    traps = [Trap(OTHER, m.port), Trap("127.0.0.1", m.port), Trap(BAD, m.port)]
    yield m
    for t in traps:
        t.close()
        assert not t.n, t.listener
    m.stop()


class Trap(Echo):
    """Where nobody may come."""
    n = 0

    def serve(self, c):
        self.n += 1
        super().serve(c)


def answer(mesh, authority, *more):
    """Its status, or the code of a reset."""
    with Raw(mesh) as raw:
        raw.open(1, authority, *more)
        while True:
            kind, _, stream, payload = raw.read()
            if stream == 1 and kind == HEADERS:
                return dict(raw.decoder.decode(payload))[":status"]
            if stream == 1 and kind == RST_STREAM:
                return int.from_bytes(payload, "big")


LED = ["{vm}:{port}", "{vm}:00{port}", "[::ffff:{vm}]:{port}", "well:9000", "WeLL:9000"]
REFUSED = ["{vm}:0", "{vm}:65536", "{vm}:+{port}", "{vm}:-{port}", "{vm}: {port}", "{vm}:{port}x", "{vm}:", "{vm}", ":{port}", ":", "[{vm}]:{port}", "[{vm}:{port}", "{vm}.:{port}",
           "{vm}:18446744073709551617", "well:0", "well:65536", "well:+9000", "well: 9000", "well:-18446744073709542616", "well:9000:9000", "well", "well.:9000", ".well:9000",
           "%77ell:9000", "api:9000", "other:9000", "well:9001", "{other}:{port}", "{bad}:{port}", "127.0.0.1:{port}", "[::1]:{port}", "[::]:{port}", "[fe80::1%lo]:{port}",
           "[fe80::1%25lo]:{port}", "0.0.0.0:{port}", "169.254.169.254:80", "192.0.0.8:15008", "255.255.255.255:{port}", "224.0.0.1:{port}", "localhost:{port}",
           "user@{vm}:{port}", "http://{vm}:{port}", "{vm}:{port}/", "{vm}:{port}?", "{vm}:{port},{other}:{port}", "2130706433:{port}", "0x7f000001:{port}", "127.1:{port}",
           "0{vm}:{port}", "\u00e9:{port}", "[" * 3000, "x" * 6000 + ":{port}"]


def made(mesh, text):
    return text.format(vm=WELL, other=OTHER, bad=BAD, port=mesh.port)


@pytest.mark.parametrize("text", LED)
def test_it_leads_to_the_vm(mesh, text):
    assert answer(mesh, made(mesh, text)) == "200"


@pytest.mark.parametrize("text", REFUSED, ids=lambda t: t[:30])
def test_it_leads_nowhere(mesh, text):
    assert answer(mesh, made(mesh, text)) == "400"


@pytest.mark.parametrize("text, code", [("", PROTOCOL_ERROR), (" {vm}:{port}", PROTOCOL_ERROR), ("{vm}:{port} ", PROTOCOL_ERROR), ("{vm}:{port}\t", PROTOCOL_ERROR),
                                        ("{vm}:{port}\r\nx: y", PROTOCOL_ERROR), ("{vm}:{port}\0", PROTOCOL_ERROR), ("x" * 60000, ENHANCE_YOUR_CALM)],
                         ids=range(7))
def test_it_is_no_authority(mesh, text, code):
    assert answer(mesh, made(mesh, text)) == code


CLAIMS = ["for={other}", 'for="{other}:1"', "for=127.0.0.1", 'for="[::1]:1"', "for=", 'for="', "for=unknown", "for=_hidden", "by=x;for={other};for={other}", "xfor={other}",
          "for={other}" + ", for=1.2.3.4" * 300, "for=" + "x" * 5000, 'for="[' + ":" * 200, "\u00ff" * 100]


@pytest.mark.parametrize("text", CLAIMS, ids=range(len(CLAIMS)))
def test_whom_it_claims_to_speak_for_is_not_believed(mesh, text):
    """The access log has who it is, not who it says; the addresses are others' of the mesh."""
    before = len(mesh.well.access())
    assert answer(mesh, made(mesh, "{vm}:{port}"), ("forwarded", made(mesh, text)), ("baggage", "x=" + "y" * 6000)) == "200"
    lines = mesh.wait_access(mesh.well, before)
    assert lines[0]["src.addr"].startswith("127.0.0.1:") and lines[0]["src.identity"].endswith("/sa/web")

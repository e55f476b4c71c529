"""The conformance suite h2spec against the HBONE listener, through a forwarder, as h2spec presents no certificate.

Its requests are GETs, which the listener refuses with a status: all that concerns the connection, header blocks and HPACK
is judged so. What needs a stream that stays open, is judged by a build of h2spec whose requests are CONNECTs of a tunnel to
an application that says something at once. Every case of the suite has to pass in one of the two; exceptions have a reason.
"""
import pathlib
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

from h2raw import Forwarder, Served
from wirelab import Listener

TOP = pathlib.Path(__file__).resolve().parents[2]
SUITES = TOP / "build/cache/interop"
CASES = 146             # of h2spec 2.2.1, with -S
# What the index of the header list is used for, is not there in a CONNECT: these are judged with GET alone.
OF_TUNNELS = ["generic", "http2/3", "http2/4", "http2/5", "http2/6", "http2/7", "http2/8.1/1", "http2/8.1.2.1", "http2/8.1.2.2",
              "http2/8.1.2.6", "http2/8.2", "hpack"]
ANSWERED = "the answer to a GET, 400, ends the stream before the suite's next frame"
NO_BODY = "the answer to a GET has no body"
LARGER = "the suite sends 20,000 bytes, and our SETTINGS_MAX_FRAME_SIZE is 262,144: judged by test_a_frame_over_the_maximum"
TUNNEL = "the bytes of a tunnel are no content, so content-length does not count them (RFC 9110, 9.3.6)"

NOT_WITH_GET = {
    ("generic/2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream"): NO_BODY,
    ("generic/2", "Sends a PRIORITY frame on half-closed (remote) stream"): NO_BODY,
    ("http2/4.2", "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE"): LARGER,
    ("http2/5.1", "closed: Sends a DATA frame after sending RST_STREAM frame"): ANSWERED,
    ("http2/5.1", "closed: Sends a HEADERS frame after sending RST_STREAM frame"): ANSWERED,
    ("http2/5.1.2", "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded"): ANSWERED,
    ("http2/6.5.3", "Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE"): NO_BODY,
    ("http2/6.9", "Sends a WINDOW_UPDATE frame with a flow control window increment of 0 on a stream"): ANSWERED,
    ("http2/6.9.1", "Sends SETTINGS frame to set the initial window size to 1 and sends HEADERS frame"): NO_BODY,
    ("http2/6.9.1", "Sends multiple WINDOW_UPDATE frames increasing the flow control window to above 2^31-1 on a stream"): ANSWERED,
    ("http2/6.9.2", "Changes SETTINGS_INITIAL_WINDOW_SIZE after sending HEADERS frame"): NO_BODY,
    ("http2/6.9.2", "Sends a SETTINGS frame for window size to be negative"): NO_BODY,
    ("http2/8.1", "Sends a second HEADERS frame without the END_STREAM flag"): ANSWERED,
    ("http2/8.1.2.1", "Sends a HEADERS frame that contains a pseudo-header field as trailers"): ANSWERED,
    ("http2/8.1.2.6", 'Sends a HEADERS frame with the "content-length" header field which does not equal the DATA frame payload length'): ANSWERED,
    ("http2/8.1.2.6", 'Sends a HEADERS frame with the "content-length" header field which does not equal the sum of the multiple DATA frames payload length'): ANSWERED,
}
NOT_IN_A_TUNNEL = {
    ("generic/4", "Sends a HEAD request"): "is no CONNECT",
    ("http2/4.2", "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE"): LARGER,
    ("http2/8.1.2.6", 'Sends a HEADERS frame with the "content-length" header field which does not equal the DATA frame payload length'): TUNNEL,
    ("http2/8.1.2.6", 'Sends a HEADERS frame with the "content-length" header field which does not equal the sum of the multiple DATA frames payload length'): TUNNEL,
}

pytestmark = pytest.mark.skipif(not shutil.which("go"), reason="no Go, which builds h2spec")


class Speaker(Listener):
    """An application that speaks first, and ends when the other side has."""

    def serve(self, c):
        c.sendall(b"hello")
        while c.recv(65536):
            pass


@pytest.fixture
def served(tmp_path):
    s = Served(tmp_path)
    f = Forwarder(s)
    s.forwarder, s.app = f, Speaker(s.address)
    yield s
    f.close()
    s.app.close()
    s.close()


def h2spec(served, program, *args):
    """{(section, title): "passed", "skipped" or what was wrong}"""
    subprocess.run([TOP / "tests/interop/build-server", program], check=True, timeout=600)
    report = served.dir / "report.xml"
    subprocess.run([SUITES / program, "-h", served.forwarder.address, "-p", str(served.forwarder.port), "-o", "5", "-S", "-j", report, *args],
                   stdout=subprocess.DEVNULL, timeout=900, check=False)
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        bad = case.find("error") if case.find("error") is not None else case.find("failure")
        state = "skipped" if case.find("skipped") is not None else "passed" if bad is None else bad.text or "failed"
        found[case.get("package"), case.get("classname")] = state
    return found


def not_passed(found, excused):
    return {k: v for k, v in found.items() if v != "passed" and k not in excused}


def test_h2spec(served):
    with_get = h2spec(served, "h2spec")
    in_tunnels = h2spec(served, "h2spec-connect", "-P", "%s:%d" % (served.address, served.app.port), *OF_TUNNELS)
    assert len(with_get) == CASES
    assert not_passed(with_get, NOT_WITH_GET) == {}
    assert not_passed(in_tunnels, NOT_IN_A_TUNNEL) == {}
    never = {k for k, v in with_get.items() if v != "passed" and in_tunnels.get(k) != "passed"}
    assert {NOT_IN_A_TUNNEL.get(k) for k in never} == {LARGER, TUNNEL}
    served.proxy.stop()         # and it is well


def test_a_frame_over_the_maximum(served):
    found = h2spec(served, "h2spec", "http2/4.2", "--max-header-length", "60000")
    assert len(found) == 3 and not_passed(found, {}) == {}

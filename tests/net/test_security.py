"""The threat model's lines that take a whole mesh: see SECURITY.md, which names each test."""

import os
import signal
import socket
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

from faultlab import FaultLab, children  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

# A server and a client on one NIC, another client on the other: that one's NIC is stolen.
VMS = {"orders-1": "a", "shopper-1": "a", "shopper-2": "b"}


@pytest.fixture
def mesh():
    lab = FaultLab("ogs", VMS)
    try:
        yield lab.start()
    finally:
        for name in ("a.agent", "b.agent", "edge.controller"):  # pytest shows it when the test fails
            print("--- %s\n%s" % (name, lab.log(name)[-4000:]))
        lab.close()


def served(mesh):
    mesh.join("orders-1")
    for name in ("shopper-1", "shopper-2"):
        mesh.join_client(name)
    vip = wait_until("orders' address", lambda: mesh.virtual_address("orders"))
    for name in ("shopper-1", "shopper-2"):
        wait_until("an answer to " + name, lambda: mesh.fetch(mesh.vms[name], vip))
    return vip


HOLD = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), 30)
s.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
print(s.recv(65536).decode().split()[1], flush=True)
s.settimeout(600)
try:
    data = s.recv(1)
except OSError as e:
    data = repr(e)
print("ended", data, flush=True)
"""


def test_a_stolen_nics_certificates_are_refused_within_seconds(mesh):
    vip = served(mesh)
    thief, honest = mesh.vms["shopper-2"], mesh.vms["shopper-1"]
    held = thief.popen(["python3", "-c", HOLD, vip], "hold")
    wait_until("a connection that stays", lambda: "200" in mesh.log(thief.name + ".hold"))

    # Who has the NIC does not obey: its agent is frozen, its proxies go on with the certificates that they have.
    stolen = mesh.nics["b"]
    for pid in (stolen.worker_pid(), stolen.process.pid):
        os.kill(pid, signal.SIGSTOP)
    try:
        assert mesh.fetch(thief, vip)
        mesh.ask("controller.sock", "/v1/nics/nic-b/revoke", {"reason": "stolen"})
        wait_until("the open connection ends", lambda: "ended" in mesh.log(thief.name + ".hold"))
        assert held.wait(30) == 0
        for _ in range(3):
            assert mesh.fetch(thief, vip) == ""
            assert mesh.fetch(honest, vip) == "hello from orders-1"
        wait_until("it is counted", lambda: mesh.nics["a"].metric("outrigger_vm_tls_refused_total"))
    finally:
        for pid in (stolen.process.pid, stolen.worker_pid()):
            os.kill(pid, signal.SIGCONT)

"""A VM that floods the NIC itself: the sniffer, the catalog, the diverted connections. Its neighbour's requests are counted meanwhile."""

import os
import socket
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

from faultlab import REGISTRY, FaultLab, rss_kib  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

HOSTILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib", "hostile.py")


@pytest.fixture
def mesh():
    with FaultLab("ogd%d" % (os.getpid() % 10000), vms={"orders-1": "a", "shopper-1": "a", "billing-1": "a"}) as lab:
        yield lab.start()


class Scene:
    """orders-1 serves shopper-1 under load; billing-1 is the bad one. All of them behind one NIC."""

    def __init__(self, mesh):
        self.mesh, self.nic = mesh, mesh.nics["a"]
        mesh.join("billing-1")
        self.shopper, self.vip = mesh.meet()
        self.victim, self.bad = mesh.vms["orders-1"], mesh.vms["billing-1"]
        self.worker = self.nic.worker_pid()
        self.before = rss_kib(self.worker)
        self.load = mesh.load(self.shopper, self.vip).goes_on()

    def over(self, budget, port=None):
        labels = {"port": port} if port else {}
        return self.nic.metric("outrigger_guest_over_budget_total", budget=budget, **labels)

    def says(self, budget):
        """The log names the guest and the budget."""
        def line():
            return [x for x in self.nic.log().splitlines() if "a guest is over its budget" in x and "budget=" + budget in x]
        lines = wait_until("a message about " + budget, line, 30)
        assert all(self.bad.mac in x for x in lines), lines
        assert len(lines) < 20

    def neighbours_are_heard(self):
        self.mesh.serve(self.victim, 9090)
        self.mesh.register(self.victim, "orders", 9090, "orders-1-b")
        wait_until("the neighbour's registration", lambda: self.victim.address + ":9090" in self.mesh.endpoints("orders"), 30)

    def end(self):
        assert self.nic.worker_pid() == self.worker
        assert rss_kib(self.worker) - self.before < 32 * 1024
        got = self.load.goes_on().end()
        assert got["failed"] == 0, got


def test_who_babbles_is_heard_so_much_and_his_neighbours_all_the_same(mesh):
    s = Scene(mesh)
    babble = [s.bad.popen([sys.executable, HOSTILE, "babble", REGISTRY], "babble") for _ in range(2)]
    wait_until("bytes over the budget", lambda: s.over("sniffed_bytes") > 0, 60)
    s.load.goes_on()
    s.neighbours_are_heard()
    s.says("sniffed_bytes")
    assert s.nic.metric("outrigger_steering_total", what="sniff_budget") > 0
    for p in babble:
        mesh.stop(p)
    s.end()


def test_who_registers_without_end_has_so_many_claims(mesh):
    mesh.reg.popen([sys.executable, HOSTILE, "zookeeper", REGISTRY], "zookeeper")
    wait_until("ZooKeeper", lambda: ":2181 " in mesh.reg.run("ss", "-Hltn"))
    s = Scene(mesh)
    s.bad.run(sys.executable, HOSTILE, "create", REGISTRY, 5000, s.bad.address)
    wait_until("claims over the budget", lambda: s.over("claims") > 0, 60)
    s.says("claims")
    assert len([x for x in s.nic.get("/v1/services")["services"] if x["guest"].endswith(s.bad.mac)]) <= 64
    s.neighbours_are_heard()
    s.end()


def test_a_flood_of_syns_keeps_nobody_out(mesh):
    s = Scene(mesh)
    # The VM's kernel would reset what its flood is answered with: half-open connections are to stay.
    s.bad.ip("rule", "add", "pref", "10", "ipproto", "tcp", "sport", "32768-65534", "blackhole")
    before = s.nic.metric("outrigger_steering_total", what="divert_new")
    s.bad.run(sys.executable, HOSTILE, "syn", "eth0", s.vip, 8080, 20000)
    wait_until("the flood arrives", lambda: s.nic.metric("outrigger_steering_total", what="divert_new") - before > 1000, 60)
    s.load.goes_on()
    # And the flooding VM itself gets through: its listener's queue is full, SYN cookies go around it.
    with s.bad.inside():
        with socket.socket() as c:
            c.settimeout(60)
            c.bind(("", 20001))
            c.connect((s.vip, 8080))
            wait_until("its cookie", lambda: s.nic.metric("outrigger_steering_total", what="divert_cookie") > 0, 30)
    s.end()

"""An installation is upgraded a program at a time, and rolled back, under load: neither version minds the other, nor what it left on disk.

Needs another version: OUTRIGGER_OTHER_BUILD names its build folder (`git worktree add DIR COMMIT`, and `make` there).
"""

import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import faultlab  # noqa: E402
from agentlab import BUILD  # noqa: E402
from netlab import wait_until  # noqa: E402

OTHER = os.environ.get("OUTRIGGER_OTHER_BUILD")

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
              pytest.mark.skipif(not OTHER, reason="OUTRIGGER_OTHER_BUILD does not name another version's build")]

VMS = {"orders-1": "a", "shopper-1": "a", "orders-2": "b"}


def program(build, name):
    return os.path.join(build, "src", name, "outrigger-" + {"control": "controller"}.get(name, name))


class SkewLab(faultlab.FaultLab):
    """Its programs are those of @first's build, until they are replaced."""

    def __init__(self, first, monkeypatch):
        self.monkeypatch = monkeypatch
        self.use(first, "agent", "proxy", "control")
        super().__init__("ogz", vms=VMS)

    def use(self, build, *names):
        for name in names:
            self.monkeypatch.setattr(faultlab, {"control": "CONTROLLER"}.get(name, name.upper()), program(build, name))

    def replace_controller(self, build):
        self.use(build, "control")
        self.kill_controller()
        self.start_controller()
        for nic in self.nics.values():
            wait_until("the session of " + nic.name, nic.connected, 60)
        wait_until("all are in", lambda: len(self.endpoints("orders")) == 2, 60)

    def replace_agents(self, build):
        """And with each its proxies, which hand over to the new agent's."""
        self.use(build, "agent", "proxy")
        os.unlink(self.proxy_path)
        self.link_proxy()
        for nic in self.nics.values():
            vms = [vm for vm in self.vms.values() if vm.nic is nic]
            old = {nic.pid(vm) for vm in vms}
            nic.process.terminate()
            nic.process.wait(30)
            nic.start()
            wait_until("the session of " + nic.name, nic.connected, 60)
            wait_until("other proxies on " + nic.name, lambda: all(nic.proxy(vm) and nic.proxy(vm)["pid"] not in old for vm in vms), 120)


@pytest.mark.parametrize("first_of_all", ["controller", "agents"])
@pytest.mark.parametrize("way", ["upgrade", "rollback"])
def test_versions_follow_each_other_under_load(way, first_of_all, monkeypatch):
    first, then = (OTHER, BUILD) if way == "upgrade" else (BUILD, OTHER)
    with SkewLab(first, monkeypatch) as mesh:
        mesh.start()
        mesh.join("orders-1", "orders-2")
        mesh.join_client("shopper-1")
        shopper = mesh.vms["shopper-1"]
        vip = wait_until("orders' address", lambda: mesh.virtual_address("orders"))
        wait_until("both answer", lambda: len({mesh.fetch(shopper, vip) for _ in range(4)} - {""}) == 2)
        load = mesh.load(shopper, vip, seconds=600).goes_on()
        steps = [mesh.replace_controller, mesh.replace_agents]
        for step in steps if first_of_all == "controller" else reversed(steps):
            step(then)
            load.goes_on(who="orders-1").goes_on(who="orders-2")
        mesh.add_vm("orders-4", "b")
        mesh.join("orders-4")
        load.goes_on(who="orders-4")
        got = load.end()
        assert got["failed"] == 0, got

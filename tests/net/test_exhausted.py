"""No memory, no disk: what cannot be had is refused, counted and said; what is open goes on; and when there is enough again, all is as before."""

import os
import signal
import socket
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import meshconf  # noqa: E402
from faultlab import REGISTRY, STREAM, FaultLab, Stream, alive, limit  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

VMS = {"orders-1": "a", "shopper-1": "b"}
ONBOARDING = meshconf.policy("orders", "orders-*", services=["orders", "echo"]) + meshconf.SHOPPERS
WEB, ECHO = 8080, 7000
LIMITS = {"as": "VmSize", "data": "VmData"}


@pytest.fixture
def mesh(request):
    lab = FaultLab("ogm", **{"vms": VMS, "onboarding": ONBOARDING, **getattr(request, "param", {})})
    try:
        yield lab.start()
    finally:
        for name in ("a.agent", "b.agent", "edge.controller"):  # pytest shows it when the test fails
            print("--- %s\n%s" % (name, lab.log(name)[-4000:]))
        lab.close()


def both_services(mesh):
    """A web server and an echo behind orders-1; returns their virtual addresses."""
    vm = mesh.vms["orders-1"]
    mesh.serve(vm)
    vm.popen([sys.executable, STREAM, "serve", vm.address, ECHO, vm.title], "echo")
    wait_until("the VM's echo", lambda: ":%d " % ECHO in vm.run("ss", "-Hltn"))
    for service, port in (("orders", WEB), ("echo", ECHO)):
        mesh.register(vm, service, port, instance=service)
    mesh.join_client("shopper-1")
    for service, port in (("orders", WEB), ("echo", ECHO)):
        wait_until(service, lambda: mesh.offers(vm, service, port))
    return mesh.virtual_address("orders"), mesh.virtual_address("echo")


def size_of(pid, limit_name):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(LIMITS[limit_name] + ":"))


def starve(pid, what):
    """From now on it gets next to nothing; returns the limit that it had."""
    return limit(pid, what, size_of(pid, what) + 4096)


def as_before(mesh, load, talk):
    load.goes_on(40)
    talk.goes_on(6)
    cut = [r for r in talk.failed() if r["who"]]
    print("open connections that were cut: %s" % cut)
    assert not [r for r in cut + load.failed() if r["error"].startswith("corrupt")]
    assert {r["who"] for r in load.done() if not r["error"]} == {"orders-1"}


@pytest.mark.parametrize("role", ["client's", "server's"])
@pytest.mark.parametrize("what", sorted(LIMITS))
def test_a_proxy_without_memory_sheds_what_is_new_and_keeps_what_is_open(mesh, what, role):
    orders, echo = both_services(mesh)
    shopper, nic = mesh.vms["shopper-1"], mesh.nics["b" if role == "client's" else "a"]
    vm = shopper if role == "client's" else mesh.vms["orders-1"]
    pid = nic.proxy(vm)["pid"]
    talk = Stream(shopper, echo, ECHO, 3).goes_on(6)
    load = mesh.load(shopper, orders).goes_on()
    old = starve(pid, what)
    hogs = []
    try:
        def felt():
            """More connections than what is left can carry."""
            with shopper.inside():
                for _ in range(50):
                    s = socket.socket()
                    s.setblocking(False)
                    s.connect_ex((orders, WEB))
                    hogs.append(s)
            return len(hogs) >= 1500 or nic.metric("outrigger_vm_over_budget_total", budget="memory")
        wait_until("that it is felt", felt)
        load.answered_or_not(20)
    finally:
        for s in hogs:
            s.close()
        limit(pid, what, old)
    print("%d connections until it was felt; refused for want of memory: %d" % (len(hogs), nic.metric("outrigger_vm_over_budget_total", budget="memory")))
    as_before(mesh, load, talk)
    assert nic.proxy(vm)["pid"] == pid and alive(pid)
    if what == "data":      # address space is had by the 64 MiB, and threads have theirs
        assert nic.metric("outrigger_vm_over_budget_total", budget="memory")
        wait_until("a message", lambda: "budget=memory" in nic.log())
        assert nic.log().count("budget=memory") < 20

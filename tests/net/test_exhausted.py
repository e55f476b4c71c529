"""No memory, no disk: what cannot be had is refused, counted and said; what is open goes on; and when there is enough again, all is as before."""

import os
import signal
import socket
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import meshconf  # noqa: E402
from faultlab import STREAM, FaultLab, Stream, alive, limit  # noqa: E402
from flavour import sanitizer  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

VMS = {"orders-1": "a", "shopper-1": "b"}
ONBOARDING = meshconf.policy("orders", "orders-*", services=["orders", "echo"]) + meshconf.SHOPPERS
WEB, ECHO = 8080, 7000
LIMITS = {"as": "VmSize", "data": "VmData"}


@pytest.fixture
def mesh(request):
    with FaultLab("ogm", **{"vms": VMS, "onboarding": ONBOARDING, **getattr(request, "param", {})}) as lab:
        yield lab.start()


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
    assert not talk.failed()        # they were open before
    assert not [r for r in load.failed() if r["error"].startswith("corrupt")]
    assert {r["who"] for r in load.done() if not r["error"]} == {"orders-1"}


@pytest.mark.skipif(sanitizer() is not None, reason="a sanitizer's own memory cannot be told from the program's")
@pytest.mark.parametrize("role", ["client's", "server's"])
@pytest.mark.parametrize("what", sorted(LIMITS))
def test_a_proxy_without_memory_sheds_what_is_new_and_keeps_what_is_open(mesh, what, role):
    orders, echo = both_services(mesh)
    shopper, nic = mesh.vms["shopper-1"], mesh.nics["b" if role == "client's" else "a"]
    vm = shopper if role == "client's" else mesh.vms["orders-1"]
    pid = nic.proxy(vm)["pid"]
    talk = Stream(shopper, echo, ECHO, 3, seconds=600).goes_on(6)
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


DISKS = {"vms": {"orders-1": "a", "shopper-1": "b", "orders-2": "a"}, "full": {"state-a": "1m", "logs-a": "1m"}}


@pytest.mark.parametrize("mesh", [DISKS], indirect=True)
def test_full_disks_of_an_agent_stop_it_from_nothing_but_writing(mesh):
    orders, echo = both_services(mesh)
    a, shopper, second = mesh.nics["a"], mesh.vms["shopper-1"], mesh.vms["orders-2"]
    talk = Stream(shopper, echo, ECHO, 3, seconds=600).goes_on(6)
    load = mesh.load(shopper, orders).goes_on()
    wait_until("the access log", lambda: mesh.access(a))
    for disk in mesh.disks.values():
        disk.fill()

    # Somebody comes, and the controller says something new: what the agent, its proxies and the log have to write does not fit.
    mesh.join("orders-2")
    mesh.onboarding += meshconf.BILLING
    mesh.write_controller()
    assert "error" not in mesh.ask("controller.sock", "/v1/reload", {})
    load.goes_on(who="orders-2")    # orders-1 has the streams
    for words in ("state file cannot be written", "file=memory", "file=policies", "configuration is not kept", "lines of the access log are lost"):
        wait_until(words, lambda: words in a.log())
        assert a.log().count(words) <= 8, a.log()
    wait_until("that it is counted", lambda: a.metric("outrigger_proxy_access_log_dropped_total"))
    load.goes_on(40)
    said = a.log().count("cannot be written")

    for disk in mesh.disks.values():
        disk.free()
    for words in ("state file is written again file=memory", "state file is written again file=policies", "configuration is kept again"):
        wait_until(words, lambda: words in a.log())
    assert a.log().count("cannot be written") == said
    lines = len(mesh.access(a))
    wait_until("lines in the access log", lambda: len(mesh.access(a)) > lines)
    with open(a.access_log()) as f:
        torn = [x for x in f.read().split("\n")[:-1] if x and not (x.startswith("{") and x.endswith("}"))]
    assert len(torn) <= 2, torn         # where the disk was full in the middle of a line
    got = load.goes_on(40).end()
    assert got["failed"] == 0 and set(got["who"]) == {"orders-1", "orders-2"}, got
    talk.goes_on(6)
    assert not talk.failed()
    talk.end()

    # And what is on the disk is whole: without a controller the next agent and proxy begin with it, and know who came.
    pid = a.proxy(second)["pid"]
    mesh.kill_controller()
    a.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until("its end", lambda: not alive(pid))
    a.start()
    known = wait_until("who came", lambda: [s for s in a.get("/v1/services")["services"] if s["guest"].endswith(second.mac)])
    assert known[0]["service"] == "orders" and "state file cannot be used" not in a.log()
    wait_until("the proxies' last configuration", lambda: "last configuration is in force" in a.log())
    mesh.start_controller()
    mesh.wait_joined("orders-2")
    wait_until("answers", lambda: mesh.fetch(shopper, orders))


@pytest.mark.parametrize("what", sorted(LIMITS))
def test_an_agent_without_memory_leaves_what_is_there_alone_and_comes_back(mesh, what):
    orders, echo = both_services(mesh)
    shopper, b = mesh.vms["shopper-1"], mesh.nics["b"]
    pids = (b.proxy(shopper)["pid"], b.worker_pid(), b.process.pid)
    talk = Stream(shopper, echo, ECHO, 3, seconds=600).goes_on(6)
    load = mesh.load(shopper, orders).goes_on()
    late = mesh.add_vm("orders-2", "b")
    mesh.serve(late)
    old = starve(b.worker_pid(), what)
    try:
        for i in range(200):
            mesh.register(late, "orders", 9000 + i % 50, "orders-%d" % i)
        load.goes_on(40)
        talk.goes_on(6)
    finally:
        limit(b.worker_pid(), what, old)
    mesh.register(late)
    mesh.wait_joined("orders-2")
    load.goes_on(who="orders-2")
    got = load.end()
    assert got["failed"] == 0, got
    assert not talk.failed()
    assert (b.proxy(shopper)["pid"], b.worker_pid(), b.process.pid) == pids

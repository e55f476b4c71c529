"""A limit on memory (a control group's, as a service manager or an orchestrator sets it) around the agent and its proxies.

While budgets hold, whatever a guest does, the limit is not reached and the kernel kills nobody. Where it is too tight, the kernel kills a proxy;
then that proxy's VMs lose what was inside it, and nobody else anything.
"""

import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import meshconf  # noqa: E402
from faultlab import REGISTRY, STREAM, FaultLab, Stream, alive  # noqa: E402
from memgroup import MemoryGroup, Unavailable  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

HERE = os.path.dirname(os.path.abspath(__file__))
FLOOD, HOSTILE = (os.path.join(HERE, "..", "lib", name) for name in ("flood.py", "hostile.py"))
WEB, ECHO, POUR = 8080, 7000, 9000
MIB = 1 << 20
BUFFERS = 8 * MIB           # that one VM's connections may hold
ROOM = 64 * MIB             # for all that two VMs may have, and what the kernel keeps for it

# Sends without end once it is asked.
POURER = """
import asyncio, sys
async def pour(r, w):
    try:
        if await r.read(4):
            while True:
                w.write(bytes(65536))
                await w.drain()
    except OSError:
        pass
    w.close()
async def main():
    s = await asyncio.start_server(pour, sys.argv[1], int(sys.argv[2]), backlog=4096)
    await s.serve_forever()
asyncio.run(main())
"""


class BudgetLab(FaultLab):
    def proxy_items(self):
        return {"buffered_bytes": BUFFERS, "connections": 1000}


@pytest.fixture
def group():
    try:
        g = MemoryGroup("ogc-%d" % os.getpid())
    except Unavailable as e:
        pytest.skip(str(e))
    try:
        yield g
    finally:
        g.close()


@pytest.fixture
def mesh(group, request):
    """NIC a's agent is in the group, and so are its proxies; the test sets the limit."""
    with BudgetLab("ogc", **request.param) as lab:
        a = lab.start().nics["a"]
        for pid in (a.process.pid, a.worker_pid()):
            group.take(pid)
        yield lab
        print("killed for want of memory: %d" % group.killed())


def serve(vm, port, argv, name):
    vm.popen([sys.executable, *argv], name)
    wait_until(name, lambda: ":%d " % port in vm.run("ss", "-Hltn"))


def offer(mesh, vm, service, port):
    mesh.register(vm, service, port, instance=service)
    wait_until(service, lambda: mesh.offers(vm, service, port))
    return mesh.virtual_address(service)


def flood(vm, what, address, port, count):
    p = vm.popen([sys.executable, FLOOD, what, address, port, count], what, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    return p


def over(p):
    p.stdin.close()
    p.wait(60)


# The victim and the hostile guest behind the same NIC and in the same process; the others behind the other.
NEIGHBOURS = {"vms": {"orders-1": "a", "billing-1": "a", "shopper-1": "b", "orders-2": "b"},
              "onboarding": meshconf.policy("orders", "orders-*", services=["orders", "echo", "pour"]) + meshconf.SHOPPERS +
              meshconf.policy("billing", "billing-*", services=["billing"], client=True)}


@pytest.mark.parametrize("mesh", [NEIGHBOURS], indirect=True)
def test_nobody_is_killed_while_budgets_hold(mesh, group):
    a, victim, bad, shopper, pourer = mesh.nics["a"], *(mesh.vms[n] for n in ("orders-1", "billing-1", "shopper-1", "orders-2"))
    mesh.serve(victim)
    serve(victim, ECHO, [STREAM, "serve", victim.address, ECHO, victim.title], "echo")
    serve(pourer, POUR, ["-c", POURER, pourer.address, POUR], "pour")
    orders, echo, pour = offer(mesh, victim, "orders", WEB), offer(mesh, victim, "echo", ECHO), offer(mesh, pourer, "pour", POUR)
    for name in ("shopper-1", "billing-1"):
        mesh.join_client(name)
    mesh.reg.popen([sys.executable, HOSTILE, "zookeeper", REGISTRY], "zookeeper")
    wait_until("ZooKeeper", lambda: ":2181 " in mesh.reg.run("ss", "-Hltn"))
    wait_until("an answer", lambda: mesh.fetch(shopper, orders))
    pids = (a.process.pid, a.worker_pid(), a.proxy(victim)["pid"])
    assert a.proxy(bad)["pid"] == pids[2]
    talk = Stream(shopper, echo, ECHO, 3, seconds=600).goes_on(6)
    load = mesh.load(shopper, orders).goes_on()

    before = group.used()
    group.limit(before + ROOM)
    # What it asks for is many times as much as there is: 3000 connections that are sent bytes without end, and read none.
    slow = flood(bad, "slow", pour, POUR, 3000)
    wait_until("that it has all that it may", lambda: a.metric("outrigger_vm_over_budget_total", budget="connections") +
               a.metric("outrigger_vm_over_budget_total", budget="buffered_bytes"), 90)
    load.goes_on()
    bad.run(sys.executable, HOSTILE, "create", REGISTRY, 20000, bad.address)
    bad.run(sys.executable, HOSTILE, "noise", REGISTRY, 2000)
    load.goes_on(40)
    talk.goes_on(6)
    print("it took %d KiB of %d" % ((group.used() - before) // 1024, ROOM // 1024))
    over(slow)
    got = load.end()
    assert group.killed() == 0
    assert (a.process.pid, a.worker_pid(), a.proxy(victim)["pid"]) == pids
    assert got["failed"] == 0, got
    talk.goes_on(6)
    assert not [r for r in talk.end() if r["error"]]


# A process each, since the tenants share none.
TENANTS = {"namespaces": "shop, bank", "vms": {"orders-1": "a", "billing-1": "a", "shopper-1": "b"},
           "onboarding": meshconf.policy("orders", "orders-*", services=["orders"]) + meshconf.SHOPPERS +
           meshconf.policy("billing", "billing-*", namespace="bank", services=["billing", "echo"])}


@pytest.mark.parametrize("mesh", [TENANTS], indirect=True)
def test_who_is_killed_for_want_of_memory_comes_back_and_costs_neighbours_nothing(mesh, group):
    a, killed, neighbour, shopper = mesh.nics["a"], *(mesh.vms[n] for n in ("orders-1", "billing-1", "shopper-1"))
    for vm in (killed, neighbour):
        mesh.serve(vm)
    serve(neighbour, ECHO, [STREAM, "serve", neighbour.address, ECHO, neighbour.title], "echo")
    orders, billing, echo = offer(mesh, killed, "orders", WEB), offer(mesh, neighbour, "billing", WEB), offer(mesh, neighbour, "echo", ECHO)
    mesh.join_client("shopper-1")
    wait_until("answers", lambda: mesh.fetch(shopper, orders) and mesh.fetch(shopper, billing))
    pid, other, worker = a.proxy(killed)["pid"], a.proxy(neighbour)["pid"], a.worker_pid()
    assert pid != other
    talk = Stream(shopper, echo, ECHO, 3, seconds=600).goes_on(6)
    load = [mesh.load(shopper, address).goes_on() for address in (orders, billing)]

    # Only that process is in the group, and has next to nothing there when handshakes begin that take megabytes.
    group.release(but=pid)
    group.tighten()
    strangers = flood(mesh.reg, "strangers", killed.address, 15008, 2000)
    wait_until("the kernel's word", lambda: group.killed() or group.tighten(), 90)
    wait_until("its end", lambda: not alive(pid))
    over(strangers)
    wait_until("another process", lambda: a.proxy(killed) and a.proxy(killed)["pid"] != pid, 60)
    load[0].goes_on(40, who="orders-1")
    load[1].goes_on(40)
    talk.goes_on(6)
    load[0].end()
    got = load[1].end()
    assert group.killed() == 1
    assert a.proxy(neighbour)["pid"] == other and a.worker_pid() == worker
    assert got["failed"] == 0, got
    assert not [r for r in talk.end() if r["error"]]

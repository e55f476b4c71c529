"""How much memory the programs take that is theirs alone: what the kernel books (smaps_rollup), not what was asked for."""

import os
import subprocess
import sys

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "bench"))
sys.path.insert(0, os.path.join(TOP, "tests", "lib"))

import contenders  # noqa: E402
from agentlab import AgentLab  # noqa: E402
from lab import LOAD, Namespace, family, memory_kb  # noqa: E402
from meshlab import Controller  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

# Gratuitous ARP in the name of COUNT guests behind one port.
ARP = """
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
for i in range(int(sys.argv[1])):
    mac, ip = bytes((2, 1, 0, 0, 0, i)), bytes((10, 66, 0, 100 + i))
    s.send(b"\\xff" * 6 + mac + b"\\x08\\x06" + b"\\0\\1\\x08\\0\\6\\4\\0\\1" + mac + ip + b"\\0" * 6 + ip)
"""


def private_kib(pid):
    return memory_kb(family(pid))[0]


def idle_kib(n_vms):
    """Of A and of B, with so many VMs each: certificate, listeners, limits, counters."""
    ns = Namespace("og-sizes%d" % (os.getpid() % 10000))
    try:
        contenders.make_certs(ns.dir)
        c = contenders.Outrigger(ns, 0, n_vms).start()
        found = [c.memory_kb(role)[0] for role in ("a", "b")]
        c.stop()
        return found
    finally:
        ns.close()


def test_an_idle_proxy_is_below_3_mib_and_a_further_vm_below_70_kb():
    few, many = 1, 41
    one, all_of_them = idle_kib(few), idle_kib(many)
    print("with one VM %s KiB, with %d %s" % (one, many, all_of_them))
    assert max(one) < 3 * 1024
    for before, after in zip(one, all_of_them):
        assert (after - before) * 1024 / (many - few) < 70000


def test_1000_idle_connections_are_below_1400_bytes_each():
    """A and B together, the tunnels that carry them counted in, once what opening them took has gone back."""
    count, most = 1000, 1400
    ns = Namespace("og-held%d" % (os.getpid() % 10000))
    try:
        contenders.make_certs(ns.dir)
        backend = os.path.join(TOP, "tests", "net", "test_budgets.py")
        ns.wait_listening(contenders.BACKEND, ns.popen([sys.executable, backend, "backend"], name="backend"))
        c = contenders.Outrigger(ns, 0).start()
        idle = c.memory_kb()[0]
        holder = ns.popen([LOAD, "hold", c.addresses[0], count], name="hold", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout.readline() == b"held %d\n" % count
        wait_until("connections at rest to be small", lambda: (c.memory_kb()[0] - idle) * 1024 / count < most, 60)
        c.stop()
    finally:
        ns.close()


def test_an_agent_with_100_guests_is_below_20_mib():
    with AgentLab("ogz%d" % (os.getpid() % 10000), vms=1, more="limits: { guests_per_port: 128 }\n") as lab:
        lab.start()
        vm = lab.vms[0]
        wait_until("the first guest", lambda: vm.run("ping", "-c", "1", "-W", "1", "10.66.0.1", check=False) and lab.guest(vm), 30)
        vm.run("/usr/bin/python3", "-c", ARP, 100)
        wait_until("100 guests", lambda: lab.get("/v1/status")["guests"] >= 100, 60)
        pids = [p for p in family(lab.agent.pid) if "outrigger-agent" in os.readlink("/proc/%d/exe" % p)]
        kib = memory_kb(pids)[0]
        print("%d processes of the agent: %d KiB" % (len(pids), kib))
        assert len(pids) >= 2
        assert kib < 20 * 1024


def test_a_controller_with_1000_workloads_is_below_64_mib(tmp_path):
    rows = "".join("  - {name: w-%d, namespace: shop, service_account: sa-%d, addresses: [10.%d.%d.1], tunnel: hbone, services: [s-%d]}\n" %
                   (i, i, 100 + i // 250, i % 250, i % 100) for i in range(1000))
    services = "".join("  - {name: s-%d, namespace: shop, ports: [{port: 80, target_port: 8080}]}\n" % i for i in range(100))
    c = Controller(None, tmp_path, "namespaces: [shop]\nworkloads:\n%sservices:\n%s" % (rows, services))
    try:
        assert len(c.get("/v1/workloads")["workloads"]) == 1000
        kib = private_kib(c.process.pid)
        print("the controller: %d KiB" % kib)
        assert kib < 64 * 1024
    finally:
        c.kill()

"""What a VM that floods costs its neighbour in the same proxy process: no request, none of its accounts, and no memory without end.

Two proxy processes in two namespaces, without BPF: A has a quiet client and a hostile one, B a server of each. The quiet one's requests go on
all the time and are counted. How long they take is not asked here: bench/isolation.py measures that.
"""

import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from meshlab import Pki, Proxy, wait_for  # noqa: E402
from netlab import Lab  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces")

FLOOD = str(pathlib.Path(__file__).resolve().parents[1] / "lib" / "flood.py")
QUIET, HOSTILE, SERVER_Q, SERVER_H = "10.77.0.11", "10.77.0.12", "10.77.0.21", "10.77.0.22"
VIP_Q, VIP_H = "10.96.0.1", "10.96.0.2"
BUFFERS = 16 << 20

WORLD = """
workloads:
  - {uid: vm/quiet, name: quiet, namespace: shop, service_account: quiet, addresses: [%s], hbone: true}
  - {uid: vm/hostile, name: hostile, namespace: shop, service_account: hostile, addresses: [%s], hbone: true}
  - {uid: vm/server-q, name: server-q, namespace: shop, service_account: server-q, addresses: [%s], hbone: true, services: {shop/q: {9000: 8080}}}
  - {uid: vm/server-h, name: server-h, namespace: shop, service_account: server-h, addresses: [%s], hbone: true, services: {shop/h: {9000: 8080}}}
services:
  - {name: q, namespace: shop, hostname: q, addresses: [%s], ports: {9000: 8080}}
  - {name: h, namespace: shop, hostname: h, addresses: [%s], ports: {9000: 8080}}
vms:
""" % (QUIET, HOSTILE, SERVER_Q, SERVER_H, VIP_Q, VIP_H)

VM = '  - {id: %(id)s, uid: vm/%(id)s, namespace: shop, service_account: %(id)s, addresses: [%(ip)s], cert: %(id)s.pem, key: %(id)s.key, ' \
     'inbound: "%(ip)s:15008"%(more)s}\n'

# An application for each server: the quiet one's echoes, the other's sends and sends once it is asked.
APP = """
import asyncio, sys
async def echo(r, w):
    try:
        while data := await r.read(65536):
            w.write(data)
            await w.drain()
    except OSError:
        pass
    w.close()
async def pour(r, w):
    try:
        if await r.read(4) == b"more":
            while True:
                w.write(bytes(65536))
                await w.drain()
        else:
            await r.read(1)
    except OSError:
        pass
    w.close()
async def main():
    a = await asyncio.start_server(echo, sys.argv[1], 8080, backlog=4096)
    b = await asyncio.start_server(pour, sys.argv[2], 8080, backlog=4096)
    print("ready", flush=True)
    await asyncio.gather(a.serve_forever(), b.serve_forever())
import resource
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
asyncio.run(main())
"""


class Neighbour:
    """Requests of the quiet VM: on a connection that stays, and each fifth on a new one."""

    def __init__(self, host):
        self.host = host
        self.done = self.failed = 0
        self.last = None
        self.stopping = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def request(self, s):
        s.sendall(b"hello")
        got = b""
        while len(got) < 5:
            part = s.recv(5 - len(got))
            if not part:
                raise OSError("ended")
            got += part
        assert got == b"hello"

    def dial(self):
        return socket.create_connection((VIP_Q, 9000), timeout=60)

    def run(self):
        with self.host.inside():        # this thread stays there
            kept = None
            while not self.stopping:
                try:
                    if not kept:
                        kept = self.dial()
                    self.request(kept)
                    if self.done % 5 == 0:
                        with self.dial() as s:
                            self.request(s)
                    self.done += 1
                except (OSError, AssertionError) as e:
                    self.failed += 1
                    self.last = e
                    kept = None

    def goes_on(self, n=100):
        target = self.done + n
        wait_for(lambda: self.done >= target or self.failed, 120, why="the neighbour's requests")
        assert not self.failed, self.last

    def end(self):
        self.stopping = True
        self.thread.join(60)
        assert not self.failed and self.done, self.last


class Isolation:
    def __init__(self, lab):
        self.lab = lab
        self.floods = []
        lab.a, lab.b = lab.host("a"), lab.host("b")
        lab.cable(lab.a, "eth0", lab.b, "eth0", ["10.77.0.1/24", QUIET + "/24", HOSTILE + "/24"], [SERVER_Q + "/24", SERVER_H + "/24"])
        for vip in (VIP_Q, VIP_H):
            lab.a.ip("addr", "add", vip + "/32", "dev", "lo")
        for host in (lab.a, lab.b):
            host.sysctl("net.ipv4.ip_local_port_range", '"2000 65000"')
            host.sysctl("net.ipv4.ip_local_reserved_ports", "8080,9000,15008")
            host.sysctl("net.core.somaxconn", 4096)
        pki = Pki(lab.dir)
        for name in ("quiet", "hostile", "server-q", "server-h"):
            pki.leaf(name, "shop", name)
        self.app = lab.b.popen([sys.executable, "-c", APP, SERVER_Q, SERVER_H], "app", stdout=subprocess.PIPE)
        assert self.app.stdout.readline() == b"ready\n"
        limits = ", limits: {buffered_bytes: %d}" % BUFFERS
        self.proxies = []
        self.b = self.proxy(lab.b, "b", ("server-q", SERVER_Q, ""), ("server-h", SERVER_H, limits))
        self.a = self.proxy(lab.a, "a", ("quiet", QUIET, ', outbound: "%s:9000"' % VIP_Q), ("hostile", HOSTILE, limits + ', outbound: "%s:9000"' % VIP_H))
        self.neighbour = Neighbour(lab.a)
        self.neighbour.goes_on(50)

    def proxy(self, host, name, *vms):
        p = Proxy(host, self.lab.dir, name, WORLD + "".join(VM % dict(id=i, ip=ip, more=more) for i, ip, more in vms))
        self.proxies.append(p)
        return p

    def flood(self, what, address, port, count, host=None):
        p = (host or self.lab.a).popen([sys.executable, FLOOD, what, address, str(port), str(count)], what, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.floods.append(p)
        assert p.stdout.readline() == b"ready\n"
        return p

    def over(self, p):
        p.stdin.close()
        p.wait(60)
        self.floods.remove(p)

    def close(self):
        for p in list(self.floods):
            self.over(p)
        for p in self.proxies:
            p.kill()

    def rss(self, proxy):
        """Resident KiB of the proxy itself: "ip netns exec" becomes it."""
        with open("/proc/%d/status" % proxy.process.pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))

    def over_budget(self, proxy, vm, budget):
        return proxy.metric("outrigger_vm_over_budget_total", vm=vm, budget=budget)

    def says(self, proxy, vm, budget):
        """A line that names both; and how many there are."""
        def lines():
            return [x for x in proxy.log.read_text().splitlines() if "over its budget" in x and "vm=%s" % vm in x and "budget=%s" % budget in x]
        wait_for(lines, 30, why="a message about %s of %s" % (budget, vm))
        return len(lines())

    def untouched(self):
        """Nothing was refused to the quiet VMs, and nothing of the flood is on their accounts."""
        for proxy, vm in ((self.a, "quiet"), (self.b, "server-q")):
            for budget in ("connections", "buffered_bytes", "handshakes", "tunnels", "descriptors"):
                assert self.over_budget(proxy, vm, budget) == 0, (vm, budget)
            assert proxy.metric("outrigger_vm_connections", vm=vm) <= 4
            assert proxy.metric("outrigger_vm_buffered_bytes", vm=vm) <= 65536
            assert proxy.metric("outrigger_vm_connections_failed_total", vm=vm) == 0


@pytest.fixture
def rig():
    with Lab("iso%d" % (os.getpid() % 100000)) as lab:
        rig = None
        try:
            rig = Isolation(lab)
            yield rig
            rig.neighbour.end()
        finally:
            if rig:
                rig.neighbour.stopping = True
                rig.close()


def test_ten_thousand_idle_connections_of_a_vm_are_its_own(rig):
    before = rig.rss(rig.a)
    flood = rig.flood("idle", VIP_H, 9000, 12500)
    ends = ((rig.a, "hostile"), (rig.b, "server-h"))        # the server's keeps some for others than this client
    wait_for(lambda: sum(rig.over_budget(p, vm, "connections") for p, vm in ends) >= 400, 60, why="refused connections")
    assert rig.a.metric("outrigger_vm_connections", vm="hostile") <= 12000
    rig.neighbour.goes_on()
    grown = rig.rss(rig.a) - before
    print("the proxy grew by %d KiB" % grown)
    assert grown < 64 * 1024
    assert all(rig.says(p, vm, "connections") <= 6 for p, vm in ends if rig.over_budget(p, vm, "connections") >= 400)
    rig.untouched()
    rig.over(flood)
    wait_for(lambda: rig.a.metric("outrigger_vm_connections", vm="hostile") == 0, 60, why="they are gone")
    again = rig.flood("idle", VIP_H, 9000, 10)
    wait_for(lambda: rig.a.metric("outrigger_vm_connections", vm="hostile") == 10, 30, why="and others may come")
    rig.over(again)
    rig.neighbour.goes_on(20)


def test_connections_that_never_read_have_so_many_bytes_and_no_more(rig):
    before = {p: rig.rss(p) for p in rig.proxies}
    flood = rig.flood("slow", VIP_H, 9000, 3000)

    def cut():
        return rig.over_budget(rig.a, "hostile", "buffered_bytes") + rig.over_budget(rig.b, "server-h", "buffered_bytes") > 0
    # Where the proxies are not short of time, they read less and less before any has to be cut.
    wait_for(lambda: cut() or rig.a.metric("outrigger_vm_connections", vm="hostile") >= 2000, 90, why="so many connections")
    rig.neighbour.goes_on()
    for proxy, vm in ((rig.a, "hostile"), (rig.b, "server-h")):
        held = proxy.metric("outrigger_vm_buffered_bytes", vm=vm)
        print("%s holds %d bytes, its process grew by %d KiB" % (vm, held, rig.rss(proxy) - before[proxy]))
        assert held <= BUFFERS + (1 << 20)
        assert rig.rss(proxy) - before[proxy] < 64 * 1024 + 2 * BUFFERS // 1024
    assert not cut() or any(rig.over_budget(p, vm, "buffered_bytes") and rig.says(p, vm, "buffered_bytes") for p, vm in ((rig.a, "hostile"), (rig.b, "server-h")))
    rig.untouched()
    rig.over(flood)
    for proxy, vm in ((rig.a, "hostile"), (rig.b, "server-h")):
        wait_for(lambda: proxy.metric("outrigger_vm_connections", vm=vm) == 0, 60, why="they are gone")
        wait_for(lambda: proxy.metric("outrigger_vm_buffered_bytes", vm=vm) == 0, 30, why="their bytes too")


def test_strangers_that_say_nothing_stand_at_one_door_only(rig):
    flood = rig.flood("strangers", SERVER_H, 15008, 2000)
    wait_for(lambda: rig.over_budget(rig.b, "server-h", "handshakes") > 0, 60, why="strangers that were sent away")
    assert rig.b.metric("outrigger_vm_handshakes", vm="server-h") <= 512
    rig.neighbour.goes_on()
    rig.says(rig.b, "server-h", "handshakes")
    rig.untouched()
    rig.over(flood)
    wait_for(lambda: rig.b.metric("outrigger_vm_handshakes", vm="server-h") == 0, 60, why="the door is free")


def test_senseless_bytes_at_line_rate_end_where_they_arrive(rig):
    before = rig.rss(rig.b)
    flood = rig.flood("garbage", SERVER_H, 15008, 100)
    wait_for(lambda: rig.b.metric("outrigger_vm_tunnels_failed_total", vm="server-h", direction="inbound") > 1000, 90, why="failed handshakes")
    rig.neighbour.goes_on()
    assert rig.rss(rig.b) - before < 64 * 1024
    rig.untouched()
    rig.over(flood)


def test_new_connections_without_end_take_their_turns(rig):
    flood = rig.flood("dials", VIP_H, 9000, 400)
    wait_for(lambda: rig.over_budget(rig.a, "hostile", "turn") > 0, 90, why="work that was put off")
    rig.neighbour.goes_on()
    rig.untouched()
    rig.over(flood)
    wait_for(lambda: rig.a.metric("outrigger_vm_connections", vm="hostile") == 0, 60, why="they are gone")

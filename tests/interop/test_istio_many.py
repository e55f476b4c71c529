"""200 VMs that register at once, with istiod's rate limit as it is by default."""
import json
import os
import socket
import subprocess
import time

import pytest

from agentlab import REGISTRY
from istiolab import IstioLab
from netlab import Host, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")
N = 200


class Vm(Host):
    """As cheap as it gets: a namespace with one address, and a port that somebody listens on."""

    def __init__(self, lab, i):
        self.lab, self.name = lab, "m%d" % i
        self.ns = "%s-%s" % (lab.prefix, self.name)
        self.address, self.mac, self.port = "10.66.1.%d" % (i + 1), "02:00:00:66:01:%02x" % (i + 1), "tap%d" % i

    def serve(self):
        with self.inside():
            self.listener = socket.create_server((self.address, 8080))

    def call_registry(self):
        with self.inside():
            self.registry = socket.create_connection((REGISTRY, 8500), 60)

    def register(self):
        body = json.dumps({"Name": "orders", "ID": self.name, "Address": self.address, "Port": 8080}).encode()
        self.registry.sendall(b"PUT /v1/agent/service/register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" %
                              len(body) + body)


def batch(lines, *where):
    subprocess.run(["ip", *where, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


def make_vms(mesh):
    vms = [Vm(mesh, i) for i in range(N)]
    batch(["netns add " + vm.ns for vm in vms])
    mesh.hosts += vms           # they go with the lab
    batch(["link add eth0 netns %s address %s type veth peer name %s netns %s" % (vm.ns, vm.mac, vm.port, mesh.nic.ns) for vm in vms])
    for vm in vms:
        batch(["link set lo up", "link set eth0 up", "addr add %s/16 dev eth0" % vm.address], "-n", vm.ns)
    batch(["link set %s master br0 up" % vm.port for vm in vms], "-n", mesh.nic.ns)
    for host, dev in ((mesh.reg, "eth0"), (mesh.client, "eth0"), (mesh.nic, "br0")):
        host.ip("route", "add", "10.66.1.0/24", "dev", dev)
    return vms


def rss_mib(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(next(line for line in f if line.startswith("VmRSS")).split()[1]) // 1024


def streams(mesh):
    """Discovery streams that the proxy has begun; what is more than one a VM was refused."""
    text = mesh.nic.run("curl", "-s", "-m", "20", "http://127.0.0.1:15020/metrics")
    return sum(int(line.split()[-1]) for line in text.splitlines() if line.startswith("outrigger_xds_streams_total"))


def proxies(mesh):
    return [p for p in mesh.get("/v1/proxies")["proxies"] if p["state"] == "ready"]


def test_two_hundred_vms_register_at_once(kube):
    kube.ensure_istiod()
    with IstioLab(kube, vms=0) as mesh:
        mesh.names = {"02:00:00:66:01:%02x" % (i + 1): "orders-%d" % i for i in range(N)}
        mesh.start()
        vms = make_vms(mesh)
        for vm in vms:
            vm.serve()
            vm.call_registry()
        begin = time.monotonic()
        for vm in vms:
            vm.register()
        wait_until("all entries", lambda: len(mesh.entries()) == N, 300, 0.5)
        print("%d WorkloadEntries after %.1f s" % (N, time.monotonic() - begin))
        wait_until("all proxies", lambda: len(proxies(mesh)) == N, 300, 0.5)
        assert {e["spec"]["address"] for e in mesh.entries()} == {vm.address for vm in vms}
        pids = {p["pid"] for p in proxies(mesh)}
        assert len(pids) == 1       # one process, and all its streams on one connection
        to_istiod = mesh.nic.run("ss", "-Htn", "state", "established", "dport = :15012").splitlines()
        assert len(to_istiod) == 1, to_istiod
        print("MiB: proxy %d, istiod %d" % (rss_mib(pids.pop()), rss_mib(istiod_pid(kube))))
        assert mesh.tunnel(mesh.client, vms[-1]).open(vms[-1].address + ":8080") == "200"

        so_far = streams(mesh)
        print("%d attempts" % so_far)
        assert so_far < 20 * N      # they do not hammer at it
        kube.stop(kube.istiod)
        kube.start_istiod(crds=False)
        begin = time.monotonic()
        wait_until("all streams again", lambda: len(proxies(mesh)) == N, 300, 0.5)
        print("all streams again after %.1f s, %d attempts" % (time.monotonic() - begin, streams(mesh) - so_far))
        assert streams(mesh) < so_far + 20 * N
        assert len(mesh.entries()) == N

        batch(["link del " + vm.port for vm in vms[:N // 2]], "-n", mesh.nic.ns)
        begin = time.monotonic()
        wait_until("half of them gone", lambda: len(mesh.entries()) == N // 2, 120, 0.2)
        print("%d entries gone after %.1f s" % (N // 2, time.monotonic() - begin))
        assert {e["spec"]["address"] for e in mesh.entries()} == {vm.address for vm in vms[N // 2:]}


def istiod_pid(kube):
    return next(p for p in kube.cp.pids() if "istiod" in os.readlink("/proc/%d/exe" % p))

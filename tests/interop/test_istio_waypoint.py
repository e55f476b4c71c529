"""Waypoints: where Istio wants connections to go through one, policies of HTTP are enforced there, and nothing of a VM goes past it."""
import os

import pytest

import ztunnel
from istiolab import CONTROL, SERVER_VIP, IstioLab, get
from netlab import wait_until
from ztunnel import Ztunnel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

ADDRESS = "10.66.0.54"
VM_ID = "spiffe://cluster.local/ns/shop/sa/orders"
USE = "istio.io/use-waypoint"
WAYPOINT = """
apiVersion: v1
kind: ServiceAccount
metadata: { name: waypoint, namespace: demo }
---
apiVersion: v1
kind: Service
metadata: { name: waypoint, namespace: demo }
spec: { clusterIP: 10.96.0.54, selector: { app: waypoint }, ports: [{ name: mesh, port: 15008, targetPort: 15008 }] }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: waypoint, namespace: demo, labels: { istio.io/waypoint-for: all } }
spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE }] }
"""


class WaypointLab(IstioLab):
    """The pod "waypoint" answers what is sent through it by itself, as python-h2 does: who hears its answer has come by it."""

    def __init__(self, kube):
        super().__init__(kube)
        kube.apply_gateway_crds()
        kube.apply(WAYPOINT)
        self.waypoint = self.host("waypoint")
        self.waypoint.address = ADDRESS
        self.cable(self.waypoint, "eth0", self.net, "waypoint", ADDRESS + "/24", master_b="br0")
        kube.pod("demo", "waypoint-1", "waypoint", ADDRESS, "node-a", {"app": "waypoint"}, hbone=False)
        self.servers = []

    def reached_by(self, **address):
        """What a deployed waypoint's Service makes istiod write, for which there is nobody here."""
        self.kube.status("gateway", "waypoint", {"addresses": [address]}, "demo")

    def use(self, kind, name, on=True):
        self.kube.kubectl("-n", "demo", "label", "--overwrite", kind, name, USE + ("=waypoint" if on else "-"))

    def serve_hbone(self, pod):
        self.servers.append(self.hbone_server(pod))
        return self.servers[-1]

    def close(self):
        for s in self.servers:
            s.close()
        super().close()
        self.kube.end_pod("demo", "waypoint-1")
        self.kube.kubectl("-n", "demo", "delete", "gateway", "waypoint", "--ignore-not-found")
        self.kube.kubectl("-n", "demo", "delete", "service", "waypoint", "--ignore-not-found")
        self.use("service", "server", False)


@pytest.fixture
def mesh(kube):
    kube.ensure_istiod()
    m = WaypointLab(kube)
    try:
        yield m.start()
        print(m.log("nic.agent")[-9000:])
    finally:
        m.close()


def answer(vm, address, port=80):
    try:
        return get(vm, address, port)
    except OSError as e:
        return type(e).__name__


@pytest.mark.parametrize("how", [{"type": "IPAddress", "value": ADDRESS}, {"type": "Hostname", "value": "waypoint.demo.svc.cluster.local"}], ids=["address", "hostname"])
def test_a_vm_calls_through_the_waypoint_and_never_past_it(mesh, how):
    vm = mesh.vms[0]
    mesh.join(vm)
    server, waypoint = mesh.serve_hbone(mesh.server), mesh.serve_hbone(mesh.waypoint)
    wait_until("the server itself", lambda: answer(vm, SERVER_VIP) == "this is server")
    mesh.reached_by(**how)
    mesh.use("service", "server")
    wait_until("the waypoint", lambda: answer(vm, SERVER_VIP) == "this is waypoint", 30)
    assert set(waypoint.seen) == {(VM_ID, SERVER_VIP + ":80")}      # it decides what the virtual address stands for
    assert answer(vm, mesh.server.address, 8080) == "this is server"    # the service has a waypoint, the workload has none

    # By its own address, where the pod has a waypoint too.
    mesh.use("pod", "server-1")
    wait_until("the waypoint", lambda: answer(vm, mesh.server.address, 8080) == "this is waypoint", 30)
    assert (VM_ID, mesh.server.address + ":8080") in waypoint.seen

    # While it is away, nobody answers.
    seen = len(server.seen)
    mesh.servers.remove(waypoint)
    waypoint.close()
    mesh.kube.end_pod("demo", "waypoint-1")
    wait_until("no answer", lambda: answer(vm, SERVER_VIP) != "this is waypoint", 30)
    assert all("this is" not in answer(vm, *to) for to in ((SERVER_VIP, 80), (mesh.server.address, 8080)))
    assert len(server.seen) == seen

    # Without a waypoint, as before.
    mesh.use("service", "server", False)
    wait_until("the server itself", lambda: answer(vm, SERVER_VIP) == "this is server", 30)


@pytest.mark.skipif(bool(ztunnel.missing()), reason=str(ztunnel.missing()))
def test_a_ztunnel_makes_the_same_of_the_same_data(mesh):
    vm, pod = mesh.vms[0], mesh.client
    mesh.join(vm)
    mesh.serve_hbone(mesh.server)
    waypoint = mesh.serve_hbone(mesh.waypoint)
    mesh.reached_by(type="IPAddress", value=ADDRESS)
    mesh.use("service", "server")
    mesh.use("pod", "server-1")
    pod.ip("route", "replace", "default", "via", "10.66.0.1")       # for virtual addresses; the capture is before the wire
    Ztunnel(pod, mesh.dir, "demo/client-1/client", CONTROL + ":15012", mesh.kube.roots, mesh.kube.token("demo", "client", "istio-ca"), {"NODE_NAME": "node-a"}).ready()
    destinations = ((SERVER_VIP, 80), (mesh.server.address, 8080))
    for to in destinations:
        for host in (vm, pod):
            wait_until("the waypoint's answer to " + host.name, lambda: answer(host, *to) == "this is waypoint", 30)
    asked = {who: {authority for client, authority in waypoint.seen if client == who} for who in (VM_ID, "spiffe://cluster.local/ns/demo/sa/client")}
    assert all(authorities == {"%s:%d" % to for to in destinations} for authorities in asked.values())
    mesh.servers.remove(waypoint)
    waypoint.close()
    mesh.kube.end_pod("demo", "waypoint-1")
    for host in (vm, pod):
        wait_until("no answer to " + host.name, lambda: answer(host, SERVER_VIP) != "this is waypoint", 30)
        assert all("this is" not in answer(host, *to) for to in destinations)

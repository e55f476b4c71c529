"""Waypoints: where Istio wants connections to go through one, policies of HTTP are enforced there, and nothing of a VM goes past it."""
import os
import subprocess

import pytest

import sidecar
import ztunnel
from istiolab import CONTROL, SERVER_VIP, IstioLab, get
from netlab import wait_until
from sidecar import Waypoint
from ztunnel import Ztunnel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

ADDRESS = "10.66.0.54"
VM_ID = "spiffe://cluster.local/ns/shop/sa/orders"
WAYPOINT_LABELS = {"app": "waypoint", "gateway.networking.k8s.io/gateway-name": "waypoint", "gateway.istio.io/managed": "istio.io-mesh-controller"}
WAYPOINT_ID = "spiffe://cluster.local/ns/demo/sa/waypoint"
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
spec: { gatewayClassName: istio-waypoint, listeners: [{ name: mesh, port: 15008, protocol: HBONE, allowedRoutes: { namespaces: { from: All } } }] }
"""

# What only HTTP can tell: the path and the method of a request, at a service's waypoint.
PATHS = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: paths, namespace: %s }
spec:
  targetRefs: [{ group: "", kind: Service, name: %s }]
  action: %s
  rules: [{ from: [{ source: { principals: ["%s"] } }], to: [{ operation: { methods: ["%s"], paths: ["%s"] } }] }]
"""
ONLY_THE_WAYPOINT = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: only-the-waypoint, namespace: shop }
spec: { selector: { matchLabels: { app: orders } }, action: ALLOW, rules: [{ from: [{ source: { principals: ["cluster.local/ns/demo/sa/waypoint"] } }] }] }
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
        kube.pod("demo", "waypoint-1", "waypoint", ADDRESS, "node-a", WAYPOINT_LABELS, hbone=False)
        self.servers = []
        self.envoy = None

    def reached_by(self, **address):
        """What a deployed waypoint's Service makes istiod write, for which there is nobody here."""
        self.kube.status("gateways.gateway.networking.k8s.io", "waypoint", {"addresses": [address]}, "demo")

    def use(self, kind, name, on=True, namespace="demo"):
        self.kube.kubectl("-n", namespace, "label", "--overwrite", kind, name, *(label + ("=" + value if on else "-") for label, value in ((USE, "waypoint"), (USE + "-namespace", "demo"))))

    def start_envoy(self):
        """A waypoint as it is deployed: an Envoy that istiod drives, known by the labels of its pod."""
        self.kube.apply(sidecar.envoy_filter("demo", "waypoint"))
        self.waypoint.ip("route", "replace", "default", "via", "10.66.0.1")
        self.envoy = Waypoint(self.waypoint, self.dir, "demo/waypoint-1/waypoint", WAYPOINT_LABELS, CONTROL + ":15012", self.certificate(self.waypoint), self.kube.roots)
        self.envoy.ready()
        self.reached_by(type="Hostname", value="waypoint.demo.svc.cluster.local")

    def serve_hbone(self, pod):
        self.servers.append(self.hbone_server(pod))
        return self.servers[-1]

    def close(self):
        for s in self.servers:
            s.close()
        if self.envoy:
            self.envoy.secrets.close()
        super().close()
        self.kube.end_pod("demo", "waypoint-1")
        self.kube.kubectl("-n", "demo", "delete", "gateways.gateway.networking.k8s.io", "waypoint", "--ignore-not-found")
        self.kube.kubectl("-n", "demo", "delete", "service", "waypoint", "--ignore-not-found")
        self.use("service", "server", False)
        self.use("service", "orders", False, "shop")
        for namespace, kind, name in (("demo", "envoyfilter", "upstream-envoy-waypoint"), ("shop", "authorizationpolicy", "paths"), ("shop", "authorizationpolicy", "only-the-waypoint")):
            self.kube.kubectl("-n", namespace, "delete", kind, name, "--ignore-not-found")


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


# --- Envoy as the waypoint ---

def status(host, address, path="/", method="GET"):
    """Of the answer to a request; "000" when there is none."""
    argv = ["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "http://%s:80%s" % (address, path)]
    return subprocess.run(host.argv(*argv), stdout=subprocess.PIPE, text=True).stdout


def obeys_policies_of_http(mesh, client, principal, namespace, service, vip):
    """@client calls @service through the waypoint, which lets in and refuses by path and method."""
    kube = mesh.kube
    wait_until("an answer through the waypoint", lambda: status(client, vip) == "200", 60)
    kube.apply(PATHS % (namespace, service, "DENY", principal, "GET", "/secret*"))
    wait_until("the path to be refused", lambda: status(client, vip, "/secret/1") == "403", 60)
    assert status(client, vip, "/open") == "200"
    kube.apply(PATHS % (namespace, service, "ALLOW", principal, "GET", "/open*"))
    wait_until("everything else to be refused", lambda: status(client, vip, "/") == "403" and status(client, vip, "/open") == "200", 60)
    assert status(client, vip, "/open", "PUT") == "403"
    kube.apply(PATHS % (namespace, service, "ALLOW", "cluster.local/ns/demo/sa/somebody", "GET", "/open*"))
    wait_until("whom the policy does not name to be refused", lambda: status(client, vip, "/open") == "403", 60)
    kube.kubectl("-n", namespace, "delete", "authorizationpolicy", "paths")
    wait_until("an answer again", lambda: status(client, vip) == "200", 60)


@pytest.mark.skipif(bool(sidecar.missing()), reason=str(sidecar.missing()))
def test_an_envoy_as_waypoint_enforces_policies_of_http_between_a_vm_and_a_pod(mesh):
    vm = mesh.vms[0]
    mesh.join(vm)
    server = mesh.serve_hbone(mesh.server)
    mesh.start_envoy()
    mesh.use("service", "server")
    wait_until("the waypoint", lambda: status(vm, SERVER_VIP) == "200" and server.seen[-1][0] == WAYPOINT_ID, 60)
    obeys_policies_of_http(mesh, vm, VM_ID[len("spiffe://"):], "demo", "server", SERVER_VIP)
    assert not mesh.envoy.rejected()


@pytest.mark.skipif(bool(sidecar.missing()), reason=str(sidecar.missing()))
def test_an_envoy_as_waypoint_enforces_policies_of_http_between_vms(mesh):
    """And what the VM's own policy names is its waypoint: nobody comes past it."""
    vm, shopper = mesh.vms
    mesh.join(vm)
    mesh.serve(shopper)         # it is of the same WorkloadGroup, and so of the service
    mesh.discover(shopper)
    wait_until("the client VM's proxy", lambda: mesh.proxy(shopper))
    vip = wait_until("the service", lambda: mesh.kube.get("-n", "shop", "service", "orders"))["spec"]["clusterIP"]
    mesh.start_envoy()
    mesh.use("service", "orders", namespace="shop")
    mesh.kube.apply(ONLY_THE_WAYPOINT)
    wait_until("past the waypoint nobody", lambda: mesh.call(mesh.client, vm)[0] == "401", 60)
    obeys_policies_of_http(mesh, shopper, VM_ID[len("spiffe://"):], "shop", "orders", vip)
    assert mesh.call(mesh.client, vm)[0] == "401"
    assert not mesh.envoy.rejected()
    mesh.stop(mesh.envoy.process, 20)       # what it keeps open is logged when it ends
    wait_until("the access log of the VM's proxy", lambda: "src.identity=" + WAYPOINT_ID in mesh.log("nic.agent"))

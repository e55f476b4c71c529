"""Unmodified ztunnels as the pods' proxies, driven by istiod and by our own controller: VMs call them and are called. ZTUNNEL_BIN names the program."""
import os

import pytest

import ztunnel
from agentlab import EDGE, WEB, AgentLab
from istiolab import CONTROL, PODS, SERVER_VIP, IstioLab
from netlab import wait_until
from ztunnel import Ztunnel

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"), pytest.mark.skipif(bool(ztunnel.missing()), reason=str(ztunnel.missing()))]

POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: who, namespace: %s }
spec: { selector: { matchLabels: { app: %s } }, action: %s, rules: [{ from: [{ source: { principals: ["%s"] } }], to: [{ operation: { ports: ["%d"] } }] }] }
"""


class Common:
    """What both meshes offer: pods with a ztunnel each, one of them with a server."""

    vip = SERVER_VIP

    def serve_pod(self):
        self.server.popen(["python3", "-c", WEB, self.server.address, "8080"], "app")
        wait_until("the pod's server", lambda: ":8080 " in self.server.run("ss", "-Hltn"))

    def start_ztunnels(self, **env):
        for pod in (self.client, self.server):
            pod.ip("route", "replace", "default", "via", "10.66.0.1")   # for virtual addresses; the capture is before the wire
        self.serve_pod()
        self.ztunnels = {pod.name: self.ztunnel(pod, env) for pod in (self.client, self.server)}
        for z in self.ztunnels.values():
            z.ready()

    def logs(self):
        for z in getattr(self, "ztunnels", {}).values():
            print(z.log()[-3000:])
        print(self.log("nic.agent")[-6000:])
        print(self.log("edge.controller")[-3000:])


class WithIstiod(IstioLab, Common):
    trust_domain = "cluster.local"
    pod_namespace = "demo"

    def ztunnel(self, pod, env):
        who = "demo/%s-1/%s" % (pod.name, pod.name)
        return Ztunnel(pod, self.dir, who, CONTROL + ":15012", self.kube.roots, self.kube.token("demo", pod.name, "istio-ca"), {"NODE_NAME": "node-a", **env})

    def policy(self, namespace, app, action, principal, port=8080):
        self.kube.apply(POLICY % (namespace, app, action, principal, port))

    def vm_service(self):
        spec = self.kube.get("-n", "shop", "service", "orders")["spec"]
        return spec["clusterIP"], spec["ports"][0]["port"]

    def stop_control_plane(self):
        self.kube.stop(self.kube.istiod)

    def start_control_plane(self):
        self.kube.start_istiod(crds=False)

    def no_policy(self, namespace):
        self.kube.kubectl("-n", namespace, "delete", "authorizationpolicy", "who", "--ignore-not-found")

    def close(self):
        super().close()
        self.no_policy("shop")


ONBOARDING = """  - { name: orders, match: { guest_name: "orders-*" }, mode: strict, namespace: shop, service_account: orders, services: [orders], labels: { app: orders } }
  - { name: shoppers, match: { guest_name: "shopper-*" }, mode: permissive, namespace: shop, service_account: orders, client: true }
"""
STATIC = """
services:
  - { name: server, namespace: shop, addresses: [%(vip)s/32], ports: [{ port: 80, target_port: 8080 }] }
workloads:
  - { name: client-1, namespace: shop, service_account: client, addresses: [%(client)s/32], tunnel: hbone, labels: { app: client } }
  - { name: server-1, namespace: shop, service_account: server, addresses: [%(server)s/32], tunnel: hbone, services: [server], labels: { app: server } }
"""


class WithOurController(AgentLab, Common):
    trust_domain = "test.mesh"
    pod_namespace = "shop"
    policies = ""

    def __init__(self, prefix="ogzc"):
        super().__init__(prefix, vms=3, names=("orders-1", "orders-2", "shopper-1"), onboarding=ONBOARDING)
        for name, address in PODS.items():
            pod = self.host(name)
            pod.address = address
            self.cable(pod, "eth0", self.net, name, address + "/24", master_b="br0")
            setattr(self, name, pod)

    def ztunnel(self, pod, env):
        token = self.ask(self.edge, "controller.sock", "/v1/tokens", {"workload": "shop/" + pod.name})["token"]
        return Ztunnel(pod, self.dir, "shop/%s-1/%s" % (pod.name, pod.name), EDGE + ":15012", self.dir + "/roots.pem", token, env)

    def policy(self, namespace, app, action, principal, port=8080):
        self.policies = """
authorization:
  - { name: who, namespace: %s, selector: { app: %s }, action: %s, rules: [{ from: [{ principals: ["%s"] }], to: [{ ports: [%d] }] }] }
""" % (namespace, app, action.lower(), principal, port)
        self.reload()

    def no_policy(self, _):
        self.policies = ""
        self.reload()

    def vm_service(self):
        (service,) = [s for s in self.ask(self.edge, "controller.sock", "/v1/workloads")["services"] if s["name"] == "orders"]
        return service["addresses"][0], service["ports"][0]["port"]

    def stop_control_plane(self):
        self.stop(self.controller)

    def start_control_plane(self):
        self.start_controller()

    def controller_yaml(self):
        return super().controller_yaml() + STATIC % dict(PODS, vip=self.vip) + self.policies

    def reload(self):
        with open(self.dir + "/controller.yaml", "w") as f:
            f.write(self.controller_yaml())
        self.ask(self.edge, "controller.sock", "/v1/reload", {})


@pytest.fixture(params=["istiod", "our controller"])
def mesh(request):
    if request.param == "istiod":
        kube = request.getfixturevalue("kube")
        kube.ensure_istiod()
        lab = WithIstiod(kube, "ogzi", vms=3, names=("orders-1", "orders-2", "shopper-1"))
    else:
        lab = WithOurController()
    try:
        lab.start()
        lab.start_ztunnels()
        yield lab
    finally:
        lab.logs()
        lab.close()


def join(mesh, vm, instance="orders-1"):
    mesh.serve(vm)
    mesh.register(vm, instance=instance)
    wait_until("the proxy of " + vm.name, lambda: mesh.proxy(vm))


def identity(mesh, account, namespace="shop"):
    return "%s/ns/%s/sa/%s" % (mesh.trust_domain, namespace, account)


def answers(mesh, host, address, port=8080):
    return lambda: mesh.fetch(host, address, port).startswith("this is ")


def refused(mesh, host, address, port=8080):
    return lambda: mesh.fetch(host, address, port) == ""


def test_pods_and_vms_call_each_other(mesh):
    vm, _, shopper = mesh.vms
    join(mesh, vm)
    assert wait_until("the pod to be answered by the VM", answers(mesh, mesh.client, vm.address))
    assert mesh.ztunnels["client"].tunnelled(vm.address)
    wait_until("the VM's proxy to tell of it", lambda: "src.identity=spiffe://" + identity(mesh, "client", mesh.pod_namespace) in mesh.log("nic.agent"))
    for address, port in ((mesh.server.address, 8080), (mesh.vip, 80)):
        assert wait_until("the VM to be answered by " + address, answers(mesh, vm, address, port))
    wait_until("the pod's ztunnel to tell of it", lambda: "spiffe://" + identity(mesh, "orders") in mesh.ztunnels["server"].log())
    mesh.discover(shopper)
    wait_until("the client VM's proxy", lambda: mesh.proxy(shopper))
    assert wait_until("the client VM to be answered", answers(mesh, shopper, mesh.vip, 80))


def test_a_policy_at_either_end_is_obeyed_and_lifted(mesh):
    vm = mesh.vms[0]
    join(mesh, vm)
    wait_until("the pod to be answered", answers(mesh, mesh.client, vm.address))
    mesh.policy("shop", "orders", "DENY", identity(mesh, "client", mesh.pod_namespace))
    wait_until("the VM's proxy to refuse the pod", refused(mesh, mesh.client, vm.address))
    mesh.policy("shop", "orders", "ALLOW", identity(mesh, "client", mesh.pod_namespace))
    wait_until("the pod to be answered again", answers(mesh, mesh.client, vm.address))
    mesh.no_policy("shop")
    wait_until("the VM to be answered", answers(mesh, vm, mesh.vip, 80))
    mesh.policy(mesh.pod_namespace, "server", "DENY", identity(mesh, "orders"))
    wait_until("the pod's ztunnel to refuse the VM", refused(mesh, vm, mesh.vip, 80))
    mesh.no_policy(mesh.pod_namespace)
    wait_until("the VM to be answered again", answers(mesh, vm, mesh.vip, 80))


def test_a_service_of_vms_follows_them(mesh):
    """By the service's virtual address: with one VM, with two, and with the one that is left."""
    one, two, _ = mesh.vms
    join(mesh, one)
    vip, port = mesh.vm_service()
    assert wait_until("an answer by the service", answers(mesh, mesh.client, vip, port))
    join(mesh, two, "orders-2")
    wait_until("both to be asked", lambda: {mesh.fetch(mesh.client, vip, port) for _ in range(8)} == {"this is " + vm.address for vm in (one, two)})
    mesh.nic.ip("link", "del", one.port)
    wait_until("only the one that is left to be asked", lambda: {mesh.fetch(mesh.client, vip, port, 2) for _ in range(8)} == {"this is " + two.address})


def test_the_mesh_controller_restarts_and_the_ztunnels_come_back(mesh):
    vm, other, _ = mesh.vms
    join(mesh, vm)
    join(mesh, other, "orders-2")
    for v in (vm, other):
        wait_until("an answer", answers(mesh, mesh.client, v.address))
    mesh.stop_control_plane()
    assert answers(mesh, mesh.client, vm.address)()
    mesh.nic.ip("link", "del", other.port)      # news that the ztunnels miss
    mesh.start_control_plane()
    vip, port = mesh.vm_service()
    wait_until("the one that is gone to be forgotten", lambda: {mesh.fetch(mesh.client, vip, port, 2) for _ in range(8)} == {"this is " + vm.address}, 60)
    mesh.policy("shop", "orders", "DENY", identity(mesh, "client", mesh.pod_namespace))
    wait_until("a policy that came after", refused(mesh, mesh.client, vm.address), 60)


def test_a_ztunnel_that_asks_on_demand_is_served_by_our_controller():
    mesh = WithOurController("ogzd")
    try:
        mesh.start()
        mesh.start_ztunnels(XDS_ON_DEMAND="true")
        one, two, _ = mesh.vms
        join(mesh, one)
        wait_until("the pod to be answered by the VM", answers(mesh, mesh.client, one.address))
        assert mesh.ztunnels["client"].tunnelled(one.address)
        vip, port = mesh.vm_service()
        wait_until("an answer by the service", answers(mesh, mesh.client, vip, port))
        wait_until("the VM to be answered by the pod", answers(mesh, one, mesh.vip, 80))
        join(mesh, two, "orders-2")
        mesh.nic.ip("link", "del", one.port)
        wait_until("the other one to be asked", lambda: mesh.fetch(mesh.client, vip, port, 2) == "this is " + two.address)
    finally:
        mesh.logs()
        mesh.close()

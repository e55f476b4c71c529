"""Pods whose sidecars are Envoys that istiod drives, and VMs: both ways by HBONE, under STRICT."""
import os

import pytest

import sidecar
from agentlab import WEB
from istiolab import CONTROL, SERVER_VIP, IstioLab, Load, get
from netlab import wait_until
from sidecar import LABELS, Sidecar

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"), pytest.mark.skipif(bool(sidecar.missing()), reason=str(sidecar.missing()))]

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: who, namespace: %s }
spec: { selector: { matchLabels: { app: %s } }, action: DENY, rules: [{ from: [{ source: { principals: ["%s"] } }] }] }
"""
TUNNEL, NO_LEGACY = "networking.istio.io/tunnel", "security.istio.io/tlsMode"


class SidecarLab(IstioLab):
    """The pods "client" and "server", each with a sidecar; "server" has a server."""

    def __init__(self, kube, **how):
        super().__init__(kube, **how)
        self.sidecars = {}
        kube.apply(sidecar.envoy_filter("demo"))
        kube.apply(STRICT)
        self.vip = wait_until("the service", lambda: kube.get("-n", "shop", "service", "orders"))["spec"]["clusterIP"]

    def start_sidecars(self):
        self.server.popen(["python3", "-c", WEB, self.server.address, "8080"], "app")
        for pod in (self.client, self.server):
            pod.ip("route", "replace", "default", "via", "10.66.0.1")       # for virtual addresses; the capture is before the wire
            labels = {"app": pod.name, **LABELS}
            self.kube.end_pod("demo", pod.name + "-1")
            self.kube.pod("demo", pod.name + "-1", pod.name, pod.address, "node-a", labels, hbone=False)
            who = "demo/%s-1/%s" % (pod.name, pod.name)
            self.sidecars[pod.name] = Sidecar(pod, self.dir, who, labels, CONTROL + ":15012", self.certificate(pod), self.kube.roots)
        for s in self.sidecars.values():
            s.ready()

    def label_group(self, **labels):
        """The labels of the WorkloadGroup "orders", which its WorkloadEntries get."""
        self.kube.kubectl("-n", "shop", "patch", "workloadgroup", "orders", "--type=merge", "-p",
                          '{"spec": {"metadata": {"labels": {%s}}}}' % ", ".join('"%s": %s' % (k, '"%s"' % v if v else "null") for k, v in labels.items()))

    def call(self, source, address, port=80):
        try:
            return get(source, address, port)
        except OSError as e:
            return type(e).__name__

    def close(self):
        for s in self.sidecars.values():
            s.secrets.close()
        super().close()
        self.label_group(**{TUNNEL: None, NO_LEGACY: None})
        self.kube.kubectl("-n", "demo", "delete", "envoyfilter", "upstream-envoy", "--ignore-not-found")
        for namespace, kind, name in (("shop", "peerauthentication", "default"), ("shop", "authorizationpolicy", "who"), ("demo", "authorizationpolicy", "who")):
            self.kube.kubectl("-n", namespace, "delete", kind, name, "--ignore-not-found")


@pytest.fixture
def lab(kube):
    kube.ensure_istiod()
    made = []

    def make(**how):
        made.append(SidecarLab(kube, **how))
        return made[0].start()

    yield make
    for mesh in made:
        for name in mesh.sidecars:
            print(mesh.log(name + ".envoy")[-3000:])
        print(mesh.log("nic.agent")[-6000:])
        mesh.close()


def test_a_pod_with_a_sidecar_and_a_vm_call_each_other(lab):
    mesh = lab(vms=1)
    vm = mesh.vms[0]
    mesh.label_group(**{NO_LEGACY: "disabled"})
    mesh.join(vm)
    mesh.start_sidecars()
    client, server = mesh.sidecars["client"], mesh.sidecars["server"]
    wait_until("the VM's answer", lambda: mesh.call(mesh.client, mesh.vip) == "this is " + vm.address, 60)
    assert client.tunnelled() > 0

    # To the pod, by its service and by its own address.
    assert wait_until("the pod's answer", lambda: mesh.call(vm, SERVER_VIP) == "this is " + mesh.server.address, 60)
    assert mesh.call(vm, mesh.server.address, 8080) == "this is " + mesh.server.address
    assert server.stats("http.connect_terminate.downstream_cx_total")

    # Policies at both ends.
    mesh.kube.apply(POLICY % ("shop", "orders", "cluster.local/ns/demo/sa/client"))
    wait_until("the VM's refusal", lambda: "this is" not in mesh.call(mesh.client, mesh.vip), 30)
    wait_until("the access log", lambda: "src.identity=spiffe://cluster.local/ns/demo/sa/client" in mesh.log("nic.agent"))
    mesh.kube.apply(POLICY % ("demo", "server", "cluster.local/ns/shop/sa/orders"))
    wait_until("the pod's refusal", lambda: "this is" not in mesh.call(vm, SERVER_VIP), 30)
    for namespace in ("shop", "demo"):
        mesh.kube.kubectl("-n", namespace, "delete", "authorizationpolicy", "who")
    wait_until("the VM's answer again", lambda: mesh.call(mesh.client, mesh.vip) == "this is " + vm.address, 30)
    wait_until("the pod's answer again", lambda: mesh.call(vm, SERVER_VIP) == "this is " + mesh.server.address, 30)
    assert not client.rejected() + server.rejected()


def test_a_sidecar_s_requests_go_to_all_vms_and_none_is_lost_when_one_goes(lab):
    mesh = lab(vms=2, names=("orders-1", "orders-2"), drain="10s")
    one, two = mesh.vms
    mesh.label_group(**{NO_LEGACY: "disabled"})
    mesh.join(one)
    mesh.join(two, instance="orders-2")
    mesh.start_sidecars()
    answers = ["this is " + vm.address for vm in mesh.vms]
    for answer in answers:
        wait_until(answer, lambda: mesh.call(mesh.client, mesh.vip) == answer, 60, 0.05)
    heard = []

    def request():
        heard.append(mesh.call(mesh.client, mesh.vip))
        return heard[-1]

    def has_left():
        return mesh.entry(two) is None and set(heard[-20:]) == {answers[0]}

    with Load(request, answers) as load:
        load.more(20)
        assert set(heard) == set(answers)
        mesh.deregister(two, "orders-2")
        wait_until("the other VM takes it all", has_left, 60)
        load.more(20)


def start_without_the_label(mesh):
    """A VM that sidecars do not reach."""
    vm = mesh.vms[0]
    mesh.label_group(**{NO_LEGACY: None})
    mesh.join(vm)
    wait_until("the entry", lambda: mesh.entry(vm))
    assert mesh.entry(vm)["spec"]["labels"][TUNNEL] == "http"       # istiod adds it by itself
    mesh.start_sidecars()
    client = mesh.sidecars["client"]
    wait_until("the endpoint", lambda: vm.address + ":8080::" in client.admin("clusters"), 60)
    assert "this is" not in mesh.call(mesh.client, mesh.vip) and not client.tunnelled()
    return vm, client


def test_a_group_without_the_label_is_named_and_its_vms_take_it_when_they_register_anew(lab):
    mesh = lab(vms=1)
    vm, client = start_without_the_label(mesh)

    def named():
        return [c for c in mesh.checks("Kubernetes") if not c["ok"] and "2 pods have a sidecar or are gateways" in c["found"] and "shop/orders" in c["what"]]

    wait_until("the check", named)
    mesh.label_group(**{NO_LEGACY: "disabled"})
    wait_until("no check", lambda: not named())
    mesh.kube.kubectl("-n", "shop", "delete", "workloadentries.networking.istio.io", "--all")
    wait_until("the VM's answer", lambda: mesh.call(mesh.client, mesh.vip) == "this is " + vm.address, 90)
    assert client.tunnelled() and mesh.entry(vm)["spec"]["labels"][NO_LEGACY] == "disabled"


def test_without_the_label_sidecars_reach_vms_where_istiod_prefers_hbone(lab):
    mesh = lab(vms=1)
    vm, client = start_without_the_label(mesh)
    kube = mesh.kube
    kube.stop(kube.istiod)
    kube.start_istiod(crds=False, PILOT_PREFER_SENDING_HBONE="true")
    try:
        wait_until("the VM's answer", lambda: mesh.call(mesh.client, mesh.vip) == "this is " + vm.address, 60)
        assert client.tunnelled()
    finally:
        kube.stop(kube.istiod)
        kube.start_istiod(crds=False)

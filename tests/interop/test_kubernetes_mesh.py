"""The embedded mesh with a real Kubernetes API beside it: Services and Pods are members, VMs call them, and become endpoints of Services."""
import os
import re
import signal
import subprocess

import pytest

import meshconf
import ztunnel
from agentlab import BUILD, CONTAINERS, EDGE, WEB, AgentLab
from istiolab import CONTROL, Load, get
from kubelab import TOP, wait_for_account
from netlab import wait_until

VIP = "10.96.0.61"
PODS = {"cart-1": "10.66.0.61", "cart-2": "10.66.0.62"}
with open(os.path.join(TOP, "docs", "kubernetes.md")) as f:
    BLOCKS = re.findall(r"^```(\w+ \w+)\n(.*?)^```$", f.read(), re.M | re.S)     # the page's own words are what is tested
ONBOARDING = dict(BLOCKS)["yaml onboarding"]
CLUSTER = dict(BLOCKS)["yaml cluster"].replace("$ETC/kubeconfig", "%s")
OBJECTS = """
apiVersion: v1
kind: Namespace
metadata: { name: mix }
---
apiVersion: v1
kind: Service
metadata: { name: cart, namespace: mix }
spec: { clusterIP: %s, selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: all-carts, namespace: mix }
spec: { clusterIP: None, selector: { app: cart }, ports: [{ name: http, port: 8080 }] }
""" % VIP


class MixedLab(AgentLab):
    policies = ""

    def __init__(self, kube, prefix="ogkm"):
        super().__init__(prefix, vms=2, names=("cart-vm", "shopper-1"), onboarding=ONBOARDING)
        self.kube = kube
        self.cable(kube.cp, "mix", self.net, "cp", CONTROL + "/24", master_b="br0")
        token = kube.write("mix-token", kube.token("outrigger-system", "outrigger-controller"))
        self.kubeconfig = kube.write_kubeconfig("mix", "https://%s:6443" % CONTROL, tokenFile=token)
        kube.apply(OBJECTS)
        wait_for_account(kube, "mix")
        self.pods = {}
        for name, address in PODS.items():
            pod = self.pods[name] = self.host(name)
            pod.address = address
            self.cable(pod, "eth0", self.net, name, address + "/24", master_b="br0")
            pod.popen(["python3", "-c", WEB, address, "8080"], "app")
            wait_until("the pod's server", lambda pod=pod: ":8080 " in pod.run("ss", "-Hltn"))
        for vm in self.vms:
            vm.ip("route", "replace", "default", "via", CONTROL)

    def controller_yaml(self):
        return meshconf.controller(self.dir, EDGE, self.onboarding, namespace="mix", more=CONTAINERS + CLUSTER % self.kubeconfig + self.policies)

    def reload(self, policies):
        self.policies = policies
        with open(self.dir + "/controller.yaml", "w") as f:
            f.write(self.controller_yaml())
        self.ask(self.edge, "controller.sock", "/v1/reload", {})

    def pod(self, name, hbone=False):
        self.kube.pod("mix", name, "default", PODS[name], "node-m", {"app": "cart", "version": "v7"}, hbone=hbone)

    def mesh(self):
        return self.ask(self.edge, "controller.sock", "/v1/workloads")

    def pods_in_mesh(self):
        return {w["name"]: w for w in self.mesh()["workloads"] if w["source"] == "kubernetes"}

    def endpoints(self, name="cart"):
        (service,) = [s for s in self.mesh()["services"] if s["name"] == name]
        return {e["address"] for e in service["endpoints"]}

    def hears(self, *addresses):
        """Requests to the Service are answered by just these."""
        want = {"this is " + a for a in addresses}
        shopper = self.vms[1]
        wait_until("answers of " + ", ".join(addresses), lambda: {self.fetch(shopper, VIP, 80, 3) for _ in range(8)} == want, 60)

    def start_shopper(self):
        self.discover(self.vms[1], "cart")
        wait_until("the client VM's proxy", lambda: self.proxy(self.vms[1]), 60)

    def close(self):
        print(self.log("nic.agent")[-6000:])
        print(self.log("edge.controller")[-6000:])
        super().close()
        for name in PODS:
            self.kube.end_pod("mix", name)
        self.kube.cp.run("ip", "link", "del", "mix", check=False)


@pytest.fixture
def lab(kube):
    mixed = MixedLab(kube)
    try:
        yield mixed
    finally:
        mixed.close()


def test_a_service_moves_from_vm_to_pods_under_load(lab):
    """The chief use: the name stays, the VM is one endpoint among pods, then pods are all of them."""
    vm, shopper = lab.vms
    lab.start()
    lab.join(vm, name="cart", instance="vm-1")
    lab.start_shopper()
    lab.hears(vm.address)
    served = {"this is " + a for a in (vm.address, *PODS.values())}
    with Load(lambda: get(shopper, VIP), served) as load:
        lab.pod("cart-1")
        lab.hears(vm.address, PODS["cart-1"])
        lab.pod("cart-2")
        lab.hears(vm.address, *PODS.values())
        assert lab.endpoints() == {a + ":8080" for a in (vm.address, *PODS.values())}
        assert lab.endpoints("all-carts") == {a + ":8080" for a in PODS.values()}      # the VM claims the other name
        lab.kube.status("pod", "cart-1", {"conditions": [{"type": "Ready", "status": "False"}]}, "mix")
        lab.hears(vm.address, PODS["cart-2"])
        lab.kube.status("pod", "cart-1", {"conditions": [{"type": "Ready", "status": "True"}]}, "mix")
        lab.hears(vm.address, *PODS.values())
        lab.deregister(vm, "vm-1")
        lab.hears(*PODS.values())
        lab.register(vm, name="cart", instance="vm-1")
        lab.hears(vm.address, *PODS.values())
        lab.kube.end_pod("mix", "cart-2")
        lab.hears(vm.address, PODS["cart-1"])
        load.more(20)


def test_pods_have_names_and_identity_and_what_may_not_join_stays_apart(lab):
    lab.start()
    lab.pod("cart-1", hbone=True)
    wait_until("the pod", lambda: "cart-1" in lab.pods_in_mesh(), 30)
    pod = lab.pods_in_mesh()["cart-1"]
    assert pod["uid"] == "k1//Pod/mix/cart-1" and pod["tunnel"] == "hbone" and pod["node"] == "node-m" and pod["addresses"] == [PODS["cart-1"]]
    assert (pod["canonical_name"], pod["canonical_revision"], pod["service_account"]) == ("cart", "v7", "default")
    assert all(w["namespace"] == "mix" for w in lab.pods_in_mesh().values())
    rows = [s for s in lab.ask(lab.edge, "controller.sock", "/v1/services")["services"] if s["source"] == "kubernetes"]
    assert {(s["kind"], s["service"], s["instance"], s["address"], s["port"]) for s in rows} == {
        ("service", "cart", None, VIP, 80), ("service", "all-carts", None, None, 8080),
        ("pod", "cart", "cart-1", PODS["cart-1"], 8080), ("pod", "all-carts", "cart-1", PODS["cart-1"], 8080)}
    assert {s["identity"] for s in rows if s["kind"] == "pod"} == {"spiffe://test.mesh/ns/mix/sa/default"}
    lab.onboarding = lab.onboarding.replace(", kubernetes_services: true", "")
    lab.reload("")
    lab.join(lab.vms[0], name="cart", instance="vm-1")
    assert {s["hostname"]: len(s["endpoints"]) for s in lab.mesh()["services"] if s["name"] == "cart"} == {
        "cart.mix.svc.cluster.local": 1, "cart.mix.mesh.internal": 1}


def test_the_commands_of_the_page(lab):
    lab.start()
    lab.pod("cart-1")
    wait_until("the pod", lambda: "cart-1" in lab.pods_in_mesh(), 30)
    env = dict(os.environ, RUN=lab.dir, PATH=os.path.abspath(os.path.join(BUILD, "src", "ctl")) + ":" + os.environ["PATH"])
    scripts = [text for kind, text in BLOCKS if kind == "sh controller"]
    assert scripts and "outrigger services" in scripts[0]
    for script in scripts:
        r = subprocess.run(lab.edge.argv("sh", "-euc", script), cwd=TOP, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert r.returncode == 0 and "Services and Pods are in the mesh" in r.stdout and "k1//Pod/mix/cart-1" in r.stdout, r.stdout
        assert re.search(r"^cart +pod +cart-1 +%s +8080 " % re.escape(PODS["cart-1"]), r.stdout, re.M) and re.search(r"^cart +service +- +%s +80 " % re.escape(VIP), r.stdout, re.M)


def test_an_api_server_that_hangs_or_restarts_takes_no_endpoint(lab):
    shopper = lab.vms[1]
    lab.start()
    lab.pod("cart-1")
    lab.start_shopper()
    lab.hears(PODS["cart-1"])
    with Load(lambda: get(shopper, VIP), "this is " + PODS["cart-1"]) as load:
        os.killpg(lab.kube.apiserver.pid, signal.SIGSTOP)
        try:
            load.more(20)
        finally:
            os.killpg(lab.kube.apiserver.pid, signal.SIGCONT)
        lab.kube.restart_apiserver()
        load.more(20)
    lab.pod("cart-2")       # and news come again
    lab.hears(*PODS.values())


def test_a_controller_that_starts_without_the_api_server_takes_nothing_away(lab):
    """What was not listed yet is not gone; when it has been listed, what went meanwhile is."""
    shopper = lab.vms[1]
    lab.start()
    for name in PODS:
        lab.pod(name)
    lab.start_shopper()
    lab.hears(*PODS.values())
    lab.kube.stop(lab.kube.apiserver)
    try:
        with Load(lambda: get(shopper, VIP), {"this is " + a for a in PODS.values()}) as load:
            lab.stop(lab.controller)
            lab.start_controller()
            wait_until("the proxies to be back", lambda: lab.ask(lab.edge, "controller.sock", "/v1/streams")["streams"], 60)
            load.more(30)
            assert not lab.pods_in_mesh()
    finally:
        lab.kube.start_apiserver()
    wait_until("the pods to be listed", lambda: len(lab.pods_in_mesh()) == 2, 60)
    lab.kube.end_pod("mix", "cart-2")
    lab.hears(PODS["cart-1"])


@pytest.mark.skipif(bool(ztunnel.missing()), reason=str(ztunnel.missing()))
def test_a_pod_with_a_ztunnel_is_called_and_calls_as_whom_kubernetes_says(lab):
    vm, shopper = lab.vms
    pod = lab.pods["cart-1"]
    lab.start()
    lab.pod("cart-1", hbone=True)
    wait_until("the pod", lambda: "cart-1" in lab.pods_in_mesh(), 30)
    token = lab.ask(lab.edge, "controller.sock", "/v1/tokens", {"workload": "mix/default"})["token"]
    z = ztunnel.Ztunnel(pod, lab.dir, "mix/cart-1/default", EDGE + ":15012", lab.dir + "/roots.pem", token, {"CLUSTER_ID": "k1"})
    try:
        z.ready(60)
        lab.start_shopper()
        lab.hears(PODS["cart-1"])
        wait_until("the pod's ztunnel to tell of it", lambda: "spiffe://test.mesh/ns/mix/sa/shopper" in z.log(), 30)
        lab.join(vm, name="cart", instance="vm-1")
        wait_until("the VM to answer the pod", lambda: lab.fetch(pod, vm.address) == "this is " + vm.address, 60)
        assert z.tunnelled(vm.address)
        lab.reload('authorization:\n  - { name: who, namespace: mix, selector: { app: cart }, action: deny, rules: [{ from: [{ principals: ["test.mesh/ns/mix/sa/shopper"] }] }] }\n')
        wait_until("the pod's ztunnel to refuse by the pod's labels", lambda: lab.fetch(shopper, PODS["cart-1"]) == "", 60)
    finally:
        print(z.log()[-3000:])

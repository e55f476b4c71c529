"""What goes wrong between Istio and us is named, in `outrigger check` and the log, and none of it disturbs what runs."""
import json
import os
import signal

import pytest

import grpcpeer
from agentlab import EDGE
from controller import Controller, Nic
from istiolab import SERVER_VIP, IstioLab, Load, get
from netlab import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture
def mesh(kube):
    """A VM in the mesh; a second one that is not yet."""
    kube.ensure_istiod()
    with IstioLab(kube, names=("orders-1", "orders-2"), kubernetes=", dead_nic: 3s") as lab:
        lab.start()
        lab.join(lab.vms[0])
        wait_until("the WorkloadEntry", lambda: lab.entry(lab.vms[0]))
        yield lab


@pytest.fixture
def traffic(mesh):
    """From a pod to the VM and from the VM to pods, with no failure allowed until the end of the test."""
    vm = mesh.vms[0]
    server = mesh.hbone_server(mesh.server)
    assert wait_until("an answer of the pods", lambda: mesh.fetch(vm, SERVER_VIP, 80)) == "this is server"
    assert mesh.call(mesh.client, vm)[0] == "200"
    with Load(lambda: mesh.call(mesh.client, vm)[1], "this is " + vm.address) as a, Load(lambda: get(vm, SERVER_VIP), "this is server") as b:
        yield
        a.more()
        b.more()
    server.close()


def named(mesh, section, words, timeout_s=60):
    """A check that is not fine and says @words."""
    return wait_until("the check says " + words, lambda: [c for c in mesh.checks(section) if not c["ok"] and words in c["found"]], timeout_s, 0.2)[0]


def fine_again(mesh, section, words):
    wait_until("no check says " + words, lambda: not [c for c in mesh.checks(section) if words in c["found"]], 60, 0.2)


def logged(mesh, words):
    wait_until("the log says " + words, lambda: words in mesh.log("edge.controller") + mesh.log("nic.agent"), 60, 0.2)


def second_joins(mesh):
    second = mesh.vms[1]
    wait_until("the second VM's entry", lambda: mesh.entry(second), 60, 0.2)
    wait_until("its proxy", lambda: mesh.proxy(second), 60)


def test_no_right_to_ask_for_tokens(mesh, traffic):
    kube, second = mesh.kube, mesh.vms[1]
    kube.kubectl("-n", "shop", "delete", "rolebinding", "--all")
    try:
        mesh.serve(second)
        mesh.register(second, instance="orders-2")
        assert "serviceaccounts/token" in named(mesh, "mesh", "create serviceaccounts/token of shop/orders: not permitted")["hint"]
        named(mesh, "guests", "not permitted")
        logged(mesh, "not permitted")
    finally:
        kube.kubectl("apply", "-f", kube.packaging("outrigger-vm.yaml"))
    second_joins(mesh)


def test_an_audience_that_istiod_does_not_take(mesh, traffic):
    """The configuration is read again by itself, and tokens are of the new audience at once."""
    second, path = mesh.vms[1], mesh.dir + "/controller.yaml"
    with open(path) as f:
        good = f.read()

    def configure(text):
        with open(path + ".new", "w") as f:
            f.write(text)
        os.rename(path + ".new", path)

    configure(good + "tokens: { audiences: [somebody] }\n")
    logged(mesh, "the configuration was taken")
    mesh.serve(second)
    mesh.register(second, instance="orders-2")
    assert "tokens.audiences must have istio-ca" in named(mesh, "guests", "UNAUTHENTICATED")["hint"]
    logged(mesh, "UNAUTHENTICATED")
    configure(good)
    second_joins(mesh)


def test_credentials_that_have_expired(mesh, traffic):
    kube = mesh.kube
    good = kube.token("outrigger-system", "outrigger-controller")
    kube.write("controller-token", good[:-6] + "AAAAAA")
    try:
        assert "renew" in named(mesh, "Kubernetes", "our credentials are refused")["hint"]
        logged(mesh, "the Kubernetes API does not serve us")
    finally:
        kube.write("controller-token", good)
    fine_again(mesh, "Kubernetes", "our credentials are refused")
    logged(mesh, "the Kubernetes API serves us again")


def test_an_api_server_that_hangs(mesh, traffic):
    kube, second = mesh.kube, mesh.vms[1]
    os.killpg(kube.apiserver.pid, signal.SIGSTOP)
    try:
        named(mesh, "Kubernetes", "no answer in time")
        logged(mesh, "the Kubernetes API does not serve us")
        mesh.serve(second)
        mesh.register(second, instance="orders-2")
        named(mesh, "mesh", "no answer in time")
    finally:
        os.killpg(kube.apiserver.pid, signal.SIGCONT)
    second_joins(mesh)
    fine_again(mesh, "Kubernetes", "no answer in time")


def group(kube):
    value = kube.get("-n", "shop", "workloadgroup.networking.istio.io", "orders")
    return json.dumps({k: v for k, v in value.items() if k != "status"} | {"metadata": {"name": "orders", "namespace": "shop"}})


def test_a_group_that_is_deleted_while_it_is_used(mesh, traffic):
    kube, vm = mesh.kube, mesh.vms[0]
    saved = group(kube)
    kube.kubectl("-n", "shop", "delete", "workloadgroup", "orders")
    try:
        wait_until("istiod collects the entry", lambda: not mesh.entry(vm), 60, 0.2)
        assert "WorkloadGroup" in named(mesh, "guests", "it has no WorkloadEntry of WorkloadGroup shop/orders")["hint"]
        logged(mesh, "the WorkloadEntry of a VM that is there was removed")
        logged(mesh, "cannot find WorkloadGroup")       # it was tried anew
        wait_until("it listens all the same", lambda: mesh.proxy(vm))
    finally:
        kube.apply(saved)
    wait_until("the entry is there again", lambda: mesh.entry(vm), 120, 0.2)
    fine_again(mesh, "guests", "no WorkloadEntry")


def test_an_entry_that_somebody_deletes_is_made_anew(mesh, traffic):
    kube, vm = mesh.kube, mesh.vms[0]
    uid = mesh.entry(vm)["metadata"]["uid"]
    kube.kubectl("-n", "shop", "delete", "workloadentries.networking.istio.io", "--all")
    logged(mesh, "the WorkloadEntry of a VM that is there was removed")
    wait_until("another entry", lambda: (mesh.entry(vm) or {"metadata": {"uid": uid}})["metadata"]["uid"] != uid, 60, 0.2)


class Edge(Controller):
    """The lab's controller, for a NIC that a test plays."""

    def __init__(self, mesh):
        self.mesh, self.dir, self.socket, self.provisioner = mesh, mesh.dir, mesh.dir + "/controller.sock", 15030
        self.roots = mesh.dir + "/roots-of-nics.pem"
        with open(mesh.dir + "/controller/ca/root-cert.pem") as f, open(self.roots, "w") as to:
            to.write(f.read())

    def connect(self, port, cert=None):
        with self.mesh.edge.inside():
            return grpcpeer.Connection((EDGE, port), self.roots, cert)


def test_two_agents_that_claim_one_vm(mesh, traffic):
    """The one that has it keeps it, the other is refused the token by which it could take the entry."""
    vm, edge = mesh.vms[0], Edge(mesh)
    entry = mesh.entry(vm)["metadata"]
    other = Nic(edge, "nic-b", edge.enroll("nic-b", uri="spiffe://cluster.local/nic/nic-b"))
    try:
        gid = other.vm(name="orders-9", address=vm.address)
        other.synced()
        other.say(token_request={"guest_id": gid})
        refused = other.hear_any("token")["refused"][0]
        assert "has an address of workload vm/nic-a/tap0" in refused
        assert gid in named(mesh, "guests", "vm/nic-a/tap0")["what"]
        logged(mesh, "a token was refused nic=nic-b")
        assert mesh.entry(vm)["metadata"]["uid"] == entry["uid"]
    finally:
        other.close()
    fine_again(mesh, "guests", "vm/nic-a/tap0")


def gone(mesh, vm):
    wait_until("the entry is gone", lambda: not mesh.entry(vm), 60, 0.2)


def test_a_vm_that_dies_while_its_agent_is_away_leaves_no_entry_behind(mesh):
    vm = mesh.vms[0]
    mesh.stop_agent(signal.SIGKILL)
    mesh.kill_vm(vm)
    mesh.start_agent()
    gone(mesh, vm)


def test_a_vm_that_dies_while_the_controller_is_away_leaves_no_entry_behind(mesh):
    vm = mesh.vms[0]
    mesh.controller.send_signal(signal.SIGKILL)
    mesh.controller.wait(10)
    mesh.kube.stop(mesh.kube.istiod)
    mesh.kill_vm(vm)
    mesh.start_controller()
    gone(mesh, vm)


def test_a_nic_that_never_comes_back_leaves_no_entries_behind(mesh):
    """All of it dies while istiod is away, so that nobody sees it go."""
    kube, vm = mesh.kube, mesh.vms[0]
    kube.stop(kube.istiod)
    for pid in mesh.nic.pids():
        os.kill(pid, signal.SIGKILL)
    kube.start_istiod(crds=False)
    gone(mesh, vm)

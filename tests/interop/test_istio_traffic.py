"""What must not be felt: Istio's control plane goes and comes, certificates change, VMs leave, while requests are under way."""
import os
import signal

import pytest

from istiolab import PODS, SERVER_VIP, IstioLab, Load, get
from netlab import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture
def lab(kube):
    """Makes a lab, at most one a test."""
    kube.ensure_istiod()
    made = []

    def make(**how):
        made.append(IstioLab(kube, **how))
        return made[0].start()

    yield make
    for mesh in made:
        print(mesh.log("nic.agent")[-9000:])
        print(mesh.log("edge.controller")[-3000:])
        mesh.close()


def joined(mesh, vm, **register):
    mesh.join(vm, **register)
    return wait_until("the WorkloadEntry", lambda: mesh.entry(vm))


POD = """
apiVersion: v1
kind: ServiceAccount
metadata: { name: late, namespace: demo }
"""


def test_a_pod_that_comes_to_an_address_that_was_dialled_before_is_reached_through_the_mesh(lab):
    """istiod does not tell of it: the proxy asks again."""
    mesh = lab()
    kube, vm = mesh.kube, mesh.vms[0]
    joined(mesh, vm)
    late = mesh.host("late")
    late.address = "10.66.0.53"
    mesh.cable(late, "eth0", mesh.net, "late", late.address + "/24", master_b="br0")
    mesh.serve(late)
    assert mesh.fetch(vm, late.address) == "this is " + late.address      # no member of the mesh: as it is
    kube.apply(POD)
    kube.pod("demo", "late-1", "late", late.address, "node-a", {"app": "late"})
    server = mesh.hbone_server(late)
    try:
        wait_until("an answer through the mesh", lambda: mesh.fetch(vm, late.address) == "this is late", 60, 0.2)
        assert set(server.seen) == {("spiffe://cluster.local/ns/shop/sa/orders", late.address + ":8080")}
        kube.end_pod("demo", "late-1")
        wait_until("the old way again", lambda: mesh.fetch(vm, late.address) == "this is " + late.address, 60, 0.2)
        kube.pod("demo", "late-2", "late", late.address, "node-a", {"app": "late"})
        wait_until("the next pod of this address", lambda: mesh.fetch(vm, late.address) == "this is late", 60, 0.2)
    finally:
        server.close()
        kube.end_pod("demo", "late-1")
        kube.end_pod("demo", "late-2")


def test_scaling_in_loses_nothing(lab):
    """One VM of two is taken out while a pod calls both by HBONE. It learns of it late, from the WorkloadEntries; a stream is open when it happens."""
    mesh = lab(vms=2, names=("orders-1", "orders-2"), drain="24s")
    one, two = mesh.vms
    joined(mesh, one)
    joined(mesh, two, instance="orders-2")
    known, asked = [one, two], []

    def request():
        vm = known[len(asked) % len(known)]
        asked.append(vm)
        return mesh.call(mesh.client, vm)[:2] == ("200", "this is " + vm.address)

    with Load(request, True, 0.005) as load:
        load.more(20)
        slow = mesh.tunnel(mesh.client, two)
        slow.open(two.address + ":8080")
        mesh.deregister(two, instance="orders-2")
        wait_until("the entry is gone", lambda: not mesh.entry(two), 30, 0.1)
        load.more(5)                # they do not know yet
        known.remove(two)
        load.more(2)
        assert slow.get() == "this is " + two.address
        slow.close()
        wait_until("the proxy is gone", lambda: not [p for p in mesh.get("/v1/proxies")["proxies"] if p["guest"].endswith(two.mac)], 60)
        mesh.kill_vm(two)
        load.more(20)
    print("%d requests" % load.answers)


def three_ways(mesh):
    """Load on a joined VM: a pod calls it, it calls a service of pods, another VM calls it."""
    vm, shopper = mesh.vms
    server = mesh.hbone_server(mesh.server)
    joined(mesh, vm)
    mesh.discover(shopper)
    wait_until("the client's proxy", lambda: mesh.proxy(shopper))
    assert wait_until("an answer of the pods", lambda: mesh.fetch(vm, SERVER_VIP, 80)) == "this is server"
    assert mesh.call(mesh.client, vm)[0] == "200"
    this = "this is " + vm.address
    return server, [Load(lambda: mesh.call(mesh.client, vm)[:2] == ("200", this), True), Load(lambda: get(vm, SERVER_VIP), "this is server"),
                    Load(lambda: get(shopper, vm.address, 8080), this)]


DENY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: closed, namespace: shop }
spec: { selector: { matchLabels: { app: orders } }, action: DENY, rules: [{ from: [{ source: { namespaces: [demo] } }] }] }
"""


@pytest.fixture
def no_policies(kube):
    yield
    kube.kubectl("-n", "shop", "delete", "authorizationpolicies.security.istio.io", "--all")


def test_istiod_and_the_api_server_die_hang_and_come_back_under_load(lab, no_policies):
    mesh = lab()
    kube, vm = mesh.kube, mesh.vms[0]
    server, loads = three_ways(mesh)
    uid = mesh.entry(vm)["metadata"]["uid"]

    def all_go_on():
        for load in loads:
            load.more()

    with loads[0], loads[1], loads[2]:
        os.killpg(kube.istiod.pid, signal.SIGKILL)
        kube.istiod.wait(20)
        all_go_on()
        kube.start_istiod(crds=False)
        all_go_on()
        os.killpg(kube.apiserver.pid, signal.SIGKILL)
        kube.apiserver.wait(20)
        all_go_on()
        kube.start_apiserver()
        all_go_on()
        for program in (kube.istiod, kube.apiserver):
            os.killpg(program.pid, signal.SIGSTOP)
            try:
                all_go_on()
                all_go_on()
            finally:
                os.killpg(program.pid, signal.SIGCONT)
            all_go_on()
        wait_until("the streams are there again", lambda: mesh.proxy(vm), 60)
    assert mesh.entry(vm)["metadata"]["uid"] == uid
    kube.apply(DENY)        # and news arrive
    wait_until("the policy", lambda: mesh.call(mesh.client, vm)[0] == "401", 60, 0.1)
    print("requests:", [load.answers for load in loads])
    server.close()


@pytest.mark.parametrize("renewal", ["token", "certificate"])
def test_certificates_change_in_mid_traffic(lab, renewal):
    mesh = lab(mesh=", certificate_ttl: 20s, renewal: " + renewal)
    vm = mesh.vms[0]
    server, loads = three_ways(mesh)
    long_lived = mesh.tunnel(mesh.client, vm)
    assert long_lived.open(vm.address + ":8080") == "200"
    shown = []

    def shows():
        """Whether the VM's certificate is another one than before."""
        t = mesh.tunnel(mesh.client, vm)
        serial = t.sock.getpeercert()["serialNumber"]
        t.close()
        if serial not in shown:
            shown.append(serial)
        return len(shown)

    with loads[0], loads[1], loads[2]:
        wait_until("the third certificate", lambda: shows() >= 3, 90, 0.2)
        assert long_lived.get() == "this is " + vm.address
    long_lived.close()
    log = mesh.log("nic.agent")
    assert "certificate was not issued" not in log and "could not renew itself" not in log
    issued = [line for line in log.splitlines() if "outrigger-proxy info certificate" in line and "vm=nic-a/tap0/" in line]
    by = [line.rsplit("by=", 1)[1] for line in issued]
    assert by[0] == "token" and by[1:] == [renewal] * (len(by) - 1) and len(by) >= 3      # istiod takes what it has signed
    server.close()


def test_a_new_policy_ends_the_connections_that_it_denies_and_no_others(lab, no_policies):
    mesh = lab()
    kube, vm = mesh.kube, mesh.vms[0]
    joined(mesh, vm)
    this = "this is " + vm.address
    denied, allowed = mesh.tunnel(mesh.client, vm), mesh.tunnel(mesh.server, vm)
    for t in (denied, allowed):
        assert t.open(vm.address + ":8080") == "200"
        assert t.get(keep=True) == this
    policy = DENY.replace("namespaces: [demo]", "principals: [cluster.local/ns/demo/sa/client]")
    # istiod names a new policy before it says it: who is allowed notices nothing of that.
    with Load(lambda: mesh.call(mesh.server, vm)[0], "200", 0):
        kube.apply(policy)
        wait_until("the connection ends", lambda: denied.get(keep=True) is None, 30)
        for i in range(3):
            assert allowed.get(keep=True) == this
            kube.kubectl("delete", "-f", "-", input=policy)
            wait_until("everybody may", lambda: mesh.call(mesh.client, vm)[0] == "200", 30)
            kube.apply(policy)
            wait_until("the refusal", lambda: mesh.call(mesh.client, vm)[0] == "401", 30)
    assert allowed.get(keep=True) == this
    wait_until("the access log", lambda: "policy-changed" in mesh.log("nic.agent"))
    allowed.close()
    denied.close()


def test_a_rule_that_istiod_cannot_express_denies(lab, no_policies):
    """It sends the HTTP part of a DENY as an empty match, which ztunnel never matches."""
    mesh = lab()
    vm = mesh.vms[0]
    joined(mesh, vm)
    assert mesh.call(mesh.client, vm)[0] == "200"
    mesh.kube.apply(DENY.replace("rules: [{", 'rules: [{ to: [{ operation: { methods: ["DELETE"] } }],'))
    wait_until("the refusal", lambda: mesh.call(mesh.client, vm)[0] == "401", 30)
    assert mesh.call(mesh.server, vm)[0] == "401"


def test_a_network_with_a_name(lab, kube):
    """VMs and pods on a network that Istio knows by name: registered there, and asked for by it."""
    kube.kubectl("label", "namespace", "istio-system", "topology.istio.io/network=vpc-1")
    try:
        mesh = lab(mesh=", network: vpc-1")
        one, server = mesh.vms[0], mesh.hbone_server(mesh.server)
        try:
            entry = joined(mesh, one)
            assert entry["spec"]["network"] == "vpc-1" and entry["metadata"]["name"] == "orders-%s-vpc-1" % one.address
            wait_until("the pod through the mesh", lambda: mesh.fetch(one, PODS["server"]) == "this is server", 60, 0.2)
            assert get(one, SERVER_VIP) == "this is server"
            assert mesh.call(mesh.client, one)[:2] == ("200", "this is " + one.address)
        finally:
            server.close()
    finally:
        kube.kubectl("label", "namespace", "istio-system", "topology.istio.io/network-")

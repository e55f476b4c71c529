"""VMs in a real Istio ambient mesh: an unmodified istiod and Kubernetes API, VMs that know of neither."""
import json
import os
import time

import pytest

from agentlab import EDGE
from istiolab import SERVER_VIP, IstioLab
from netlab import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture
def mesh(kube):
    kube.ensure_istiod()        # a test that failed may have left it stopped
    with IstioLab(kube) as lab:
        yield lab.start()


def joined(mesh, vm):
    mesh.join(vm)
    return wait_until("the WorkloadEntry", lambda: mesh.entry(vm))


def test_a_registration_becomes_a_workload_entry_and_pods_reach_the_vm(mesh):
    vm, _ = mesh.vms
    entry = joined(mesh, vm)
    assert entry["metadata"]["name"] == "orders-" + vm.address
    assert entry["spec"]["serviceAccount"] == "orders"
    labels = entry["metadata"]["labels"]
    assert labels["app"] == "orders" and labels["networking.istio.io/tunnel"] == "http" and labels["outrigger.dev/nic"] == "nic-a"
    (p,) = mesh.proxy(vm)
    assert p["identity"] == "spiffe://cluster.local/ns/shop/sa/orders"
    assert mesh.call(mesh.client, vm) == ("200", "this is " + vm.address, "spiffe://cluster.local/ns/shop/sa/orders")
    wait_until("the access log", lambda: "src.identity=spiffe://cluster.local/ns/demo/sa/client" in mesh.log("nic.agent"))
    assert mesh.fetch(mesh.reg, vm.address) == ""      # strict: no way in without TLS
    (service,) = wait_until("the controller has seen the entry", lambda: in_mesh(mesh))
    print("WorkloadEntry %d ms after the first registration packet" % service["in_mesh_ms"])


def in_mesh(mesh):
    services = mesh.ask(mesh.edge, "controller.sock", "/v1/services")["services"]
    return [s for s in services if s["service"] == "orders" and s["in_mesh_ms"] is not None]


ENVOY = os.environ.get("ENVOY_BIN") or os.path.join(os.path.dirname(__file__), "..", "..", "build", "cache", "envoy", "envoy", "_bin", "envoy")


POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: who, namespace: shop }
spec: { selector: { matchLabels: { app: orders } }, action: %s, rules: [{ from: [{ source: { %s } }], to: [{ operation: { ports: ["%d"] } }] }] }
"""


STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
"""


@pytest.mark.skipif(not os.access(ENVOY, os.X_OK), reason="no Envoy: ENVOY_BIN, or tools/fetch-envoy")
def test_an_unmodified_envoy_as_a_pods_sidecar_calls_the_vm_and_is_called(mesh):
    """With mutual TLS demanded on both sides, and policies that are obeyed."""
    kube, (vm, _) = mesh.kube, mesh.vms
    joined(mesh, vm)
    mesh.envoy(mesh.server, ENVOY, vm)
    kube.apply(STRICT)

    def from_pod():
        return mesh.fetch(mesh.server, "127.0.0.1", 15001)

    try:
        wait_until("the VM's answer", lambda: from_pod() == "this is " + vm.address)
        assert wait_until("the pod's answer", lambda: mesh.fetch(vm, SERVER_VIP, 80)) == "this is 127.0.0.1"
        wait_until("the access log", lambda: "dst.identity=spiffe://cluster.local/ns/demo/sa/server" in mesh.log("nic.agent"))
        kube.apply(POLICY % ("DENY", "principals: [cluster.local/ns/demo/sa/server]", 8080))
        wait_until("the refusal", lambda: not from_pod())
        kube.apply(POLICY % ("ALLOW", "namespaces: [demo]", 8080))
        wait_until("the VM's answer again", lambda: from_pod() == "this is " + vm.address)
        kube.apply(POLICY % ("ALLOW", "principals: [cluster.local/ns/demo/sa/client]", 8080))
        wait_until("the refusal of who is not named", lambda: not from_pod())
    finally:
        kube.kubectl("-n", "shop", "delete", "authorizationpolicy", "who", "--ignore-not-found")
        kube.kubectl("-n", "shop", "delete", "peerauthentication", "default", "--ignore-not-found")


def test_a_vm_calls_pods_by_service_and_by_address_under_strict_mutual_tls(mesh):
    vm, shopper = mesh.vms
    server = mesh.hbone_server(mesh.server)
    joined(mesh, vm)
    assert wait_until("an answer by the service's address", lambda: mesh.fetch(vm, SERVER_VIP, 80)) == "this is server"
    assert mesh.fetch(vm, mesh.server.address) == "this is server"
    assert set(server.seen) == {("spiffe://cluster.local/ns/shop/sa/orders", mesh.server.address + ":8080")}
    # A VM that offers nothing and only asks is a member, too.
    mesh.discover(shopper, "orders")
    wait_until("the client's proxy", lambda: mesh.proxy(shopper), 60)
    assert wait_until("an answer to the client", lambda: mesh.fetch(shopper, SERVER_VIP, 80)) == "this is server"
    # From VM to VM, through the mesh.
    assert wait_until("an answer of the other VM", lambda: mesh.fetch(shopper, vm.address)) == "this is " + vm.address
    server.close()


def test_authorization_policies_are_obeyed_when_they_change(mesh):
    vm, _ = mesh.vms
    joined(mesh, vm)
    assert mesh.call(mesh.client, vm)[0] == "200"

    def status_becomes(status, action, source, port=8080):
        mesh.kube.apply(POLICY % (action, source, port))
        wait_until("%s of %s: %s" % (action, source, status), lambda: mesh.call(mesh.client, vm)[0] == status, 60)

    status_becomes("401", "DENY", "namespaces: [demo]")
    status_becomes("200", "DENY", "namespaces: [elsewhere]")
    status_becomes("401", "DENY", "principals: [cluster.local/ns/demo/sa/client]")
    status_becomes("200", "DENY", "principals: [cluster.local/ns/demo/sa/client]", 9999)
    status_becomes("401", "ALLOW", "principals: [cluster.local/ns/demo/sa/server]")
    status_becomes("200", "ALLOW", "namespaces: [demo]")
    mesh.kube.kubectl("-n", "shop", "delete", "authorizationpolicy", "who")


def test_a_vm_that_dies_leaves_no_entry_behind(mesh):
    vm, _ = mesh.vms
    joined(mesh, vm)
    begin = time.monotonic()
    mesh.kill_vm(vm)
    wait_until("the entry is gone", lambda: not mesh.entry(vm), 60)
    wait_until("who did it", lambda: "a WorkloadEntry without its VM was removed" in mesh.log("edge.controller"))     # istiod itself would have taken 10 s
    print("gone %.0f ms after the VM, with the time to look" % ((time.monotonic() - begin) * 1000))


def test_a_vm_that_dies_while_istiod_is_away_leaves_no_entry_behind(mesh):
    kube = mesh.kube
    vm, _ = mesh.vms
    joined(mesh, vm)
    kube.stop(kube.istiod)
    mesh.kill_vm(vm)
    wait_until("the entry is gone", lambda: not mesh.entry(vm), 60)
    kube.start_istiod(crds=False)


def test_istiod_and_the_api_server_restart_and_the_mesh_goes_on(mesh):
    kube = mesh.kube
    vm, _ = mesh.vms
    server = mesh.hbone_server(mesh.server)
    uid = joined(mesh, vm)["metadata"]["uid"]
    assert mesh.call(mesh.client, vm)[0] == "200"
    assert wait_until("an answer", lambda: mesh.fetch(vm, SERVER_VIP, 80)) == "this is server"

    def works():
        return mesh.fetch(vm, SERVER_VIP, 80) == "this is server" and mesh.call(mesh.client, vm)[0] == "200"

    kube.stop(kube.istiod)
    assert works()
    kube.start_istiod(crds=False)
    assert works()
    kube.restart_apiserver()
    assert works()
    wait_until("the proxy is ready again", lambda: mesh.proxy(vm), 60)
    kube.apply(POLICY % ("DENY", "namespaces: [demo]", 8080))      # the stream is there again: news arrive
    wait_until("the policy", lambda: mesh.call(mesh.client, vm)[0] == "401", 60)
    kube.kubectl("-n", "shop", "delete", "authorizationpolicy", "who")
    assert mesh.entry(vm)["metadata"]["uid"] == uid
    server.close()


GROUP = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: { name: late, namespace: shop }
spec: { metadata: { labels: { app: orders } }, template: { serviceAccount: orders, ports: { http: 8080 } } }
"""
LATE = ("  - { name: late, match: { guest_name: 'orders-*' }, mode: strict, namespace: shop, service_account: orders, workload_group: late, "
        "services: [orders] }\n")


def test_a_group_that_is_missing_is_named_and_the_vm_joins_when_it_comes(kube):
    kube.ensure_istiod()
    mesh = IstioLab(kube, onboarding=LATE)
    try:
        mesh.start()
        vm, _ = mesh.vms
        mesh.serve(vm)
        mesh.register(vm)
        found = wait_until("the check", lambda: [c for c in mesh.checks("guests") if "cannot find WorkloadGroup shop/late" in c["found"]], 60)
        assert "create the WorkloadGroup" in found[0]["hint"]
        kube.apply(GROUP)
        wait_until("the proxy", lambda: mesh.proxy(vm), 30)
        wait_until("the WorkloadEntry", lambda: mesh.entry(vm))
    finally:
        print(mesh.log("nic.agent")[-9000:])
        mesh.close()
        kube.kubectl("-n", "shop", "delete", "workloadgroup", "late", check=False)


@pytest.mark.parametrize("by", ["discovery", "jwks_uri"])
def test_tokens_of_our_own_issuer_that_istiod_looks_up_itself(kube, by):
    """Without jwks_uri istiod takes the algorithms from the discovery document; with it, only RS256."""
    kube.ensure_istiod()
    issuer = "https://%s:15031" % EDGE
    mesh = IstioLab(kube, tokens="oidc", controller="tokens: { issuer: '%s' }" % issuer, rest=EDGE + ":15031")
    rule = {"issuer": issuer, "audiences": ["istio-ca"]}
    if by == "jwks_uri":
        rule["jwks_uri"] = issuer + "/jwks.json"
    try:
        mesh.start()
        kube.stop(kube.istiod)
        kube.start_istiod(crds=False, JWT_RULE=json.dumps(rule), SSL_CERT_FILE=mesh.dir + "/controller/ca/root-cert.pem")
        vm, _ = mesh.vms
        joined(mesh, vm)
        assert mesh.call(mesh.client, vm) == ("200", "this is " + vm.address, "spiffe://cluster.local/ns/shop/sa/orders")
    finally:
        print(mesh.log("nic.agent")[-6000:])
        print(kube.lab.log("cp.istiod")[-2500:])
        mesh.close()
        kube.stop(kube.istiod)
        kube.start_istiod(crds=False)


@pytest.mark.parametrize("wrong", [{"cluster_id": "elsewhere"}, {"tokens": "oidc"}])
def test_a_token_that_istiod_refuses_is_named_and_traffic_goes_its_old_way(kube, wrong):
    kube.ensure_istiod()
    with IstioLab(kube, **wrong) as mesh:
        mesh.start()
        vm, _ = mesh.vms
        mesh.serve(vm)
        mesh.register(vm)
        found = wait_until("the check", lambda: [c for c in mesh.checks("guests") if "UNAUTHENTICATED" in c["found"]], 60)
        assert "mesh.cluster_id must be istiod's CLUSTER_ID" in found[0]["hint"]
        wait_until("the log", lambda: "certificate was not issued" in mesh.log("nic.agent") and "UNAUTHENTICATED" in mesh.log("nic.agent"))
        assert mesh.fetch(mesh.reg, vm.address) == "this is " + vm.address


def test_an_istiod_that_cannot_be_reached_is_named(kube):
    kube.ensure_istiod()
    with IstioLab(kube) as mesh:
        mesh.start()
        kube.stop(kube.istiod)
        vm, _ = mesh.vms
        mesh.serve(vm)
        mesh.register(vm)
        wait_until("the check", lambda: [c for c in mesh.checks("guests") if "10.66.0.9:15012 cannot be reached" in c["found"]], 60)
        wait_until("the log", lambda: "no connection to the mesh controller" in mesh.log("nic.agent"))
        kube.start_istiod(crds=False)
        wait_until("the WorkloadEntry", lambda: mesh.entry(vm), 30)

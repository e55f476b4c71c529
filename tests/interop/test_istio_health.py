"""Health of VMs in a real Istio mesh: from the WorkloadGroup's probe to the WorkloadEntry's condition and istiod's endpoints."""
import json
import os

import pytest

from agentlab import SICK_WEB
from istiolab import IstioLab
from netlab import wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

GROUP = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: { name: probed, namespace: shop }
spec:
  metadata: { labels: { app: orders } }
  template: { serviceAccount: orders, ports: { http: 8080 } }
  probe: %s
"""
HTTP = "{ httpGet: { path: /healthz, port: 8080, httpHeaders: [{ name: X-Probe, value: us }] }, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 2 }"
PROBED = ("  - { name: probed, match: { guest_name: 'orders-*' }, mode: strict, namespace: shop, service_account: orders, workload_group: probed, "
          "services: [orders] }\n")


@pytest.fixture
def mesh(kube, request):
    kube.ensure_istiod()
    kube.apply(GROUP % request.param)
    try:
        with IstioLab(kube, onboarding=PROBED) as lab:
            yield lab.start()
    finally:
        kube.kubectl("-n", "shop", "delete", "workloadgroup", "probed", check=False)


def healthy(mesh, vm):
    """The condition of its WorkloadEntry: "True", "False", or None."""
    entry = mesh.entry(vm)
    found = [c for c in (entry or {}).get("status", {}).get("conditions", []) if c["type"] == "Healthy"]
    return found[0] if found else None


def has_endpoint(mesh, vm):
    """Whether istiod tells sidecars of it: it leaves out what is unhealthy, or has not reported yet."""
    shards = json.loads(mesh.kube.cp.run("curl", "-sS", "-m", "10", "http://127.0.0.1:15014/debug/endpointShardz"))
    clusters = shards.get("orders.shop.svc.cluster.local", {}).get("shop", {}).get("Shards", {})
    return any(vm.address in e["Addresses"] for c in clusters.values() for e in c)


def answer(mesh, vm, status):
    with open("%s/health.%s" % (mesh.dir, vm.name), "w") as f:
        f.write(str(status))


@pytest.mark.parametrize("mesh", [HTTP], indirect=True)
def test_a_workload_groups_probe_is_made_and_reported(mesh):
    vm, _ = mesh.vms
    answer(mesh, vm, 200)
    vm.popen(["python3", "-c", SICK_WEB, vm.address, "8080", "%s/health.%s" % (mesh.dir, vm.name)], "web")
    mesh.register(vm)
    wait_until("the WorkloadEntry is healthy", lambda: (healthy(mesh, vm) or {}).get("status") == "True", 60)
    assert mesh.entry(vm)["metadata"]["annotations"]["proxy.istio.io/health-checks-enabled"] == "true"
    assert mesh.service("orders", health="passing")
    wait_until("istiod has its endpoint", lambda: has_endpoint(mesh, vm), 30)

    answer(mesh, vm, 500)
    wait_until("the WorkloadEntry is unhealthy", lambda: (healthy(mesh, vm) or {}).get("status") == "False", 60)
    assert "HTTP status 500" in healthy(mesh, vm)["message"]
    wait_until("istiod leaves it out", lambda: not has_endpoint(mesh, vm), 30)
    (s,) = mesh.service("orders")
    assert s["health"] == "critical" and "HTTP status 500" in s["health_reason"]

    # istiod forgets nothing: its successor is told again.
    mesh.kube.stop(mesh.kube.istiod)
    answer(mesh, vm, 204)
    wait_until("the proxy knows", lambda: mesh.service("orders", health="passing"), 30)
    mesh.kube.start_istiod(crds=False)
    wait_until("the WorkloadEntry is healthy again", lambda: (healthy(mesh, vm) or {}).get("status") == "True", 60)
    wait_until("istiod has its endpoint again", lambda: has_endpoint(mesh, vm), 30)

    # Without a probe nobody looks.
    mesh.kube.kubectl("-n", "shop", "patch", "workloadgroup", "probed", "--type=json", "-p", '[{"op": "remove", "path": "/spec/probe"}]')
    answer(mesh, vm, 500)
    wait_until("no check", lambda: mesh.service("orders", health=None), 30)


@pytest.mark.parametrize("mesh", ["{ exec: { command: [/bin/true] } }"], indirect=True)
def test_a_probe_that_cannot_be_made_from_outside_is_named(mesh):
    (c,) = wait_until("the check", lambda: [c for c in mesh.checks("Kubernetes") if "WorkloadGroup shop/probed" in c["what"]], 30)
    assert not c["ok"] and "exec probes run inside of the guest" in c["found"]
    vm, _ = mesh.vms
    mesh.join(vm)                # it is a member as before
    assert mesh.service("orders", health=None)

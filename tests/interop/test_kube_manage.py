"""kubernetes.manage: WorkloadGroups and ServiceAccounts of the policies, by a real API server."""
import json
import os
import signal
import subprocess

import pytest

from controller import Controller
from netlab import wait_until

BUILD = os.environ.get("OUTRIGGER_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))
ACCOUNT = ("outrigger-system", "outrigger-controller")
LABEL = "outrigger.dev/managed-by"
FOR_SIDECARS = {"security.istio.io/tlsMode": "disabled"}       # without it Istio's Envoys do not speak HBONE to the VMs
MESH = """mesh: { kind: istio, cluster_id: Kubernetes, tokens: token_request }
advertise: { mesh: "10.210.0.1:15012", server_names: ["10.210.0.1"] }
kubernetes: { kubeconfig: %s, timeout: 1s, manage: %s }
onboarding:
%s"""
ORDERS = """  - { name: orders, match: { guest_name: "orders-*" }, mode: strict, namespace: depot, service_account: orders, workload_group: orders, services: [orders]%s }
"""
NOTHING = "  - { name: rest, match: { guest_name: nobody }, mode: shadow }\n"


@pytest.fixture
def depot(kube):
    """A namespace, without any right of ours in it."""
    kube.kubectl("create", "namespace", "depot")
    yield kube
    for kind in ("workloadentries.networking.istio.io", "workloadgroups.networking.istio.io", "roles", "rolebindings", "serviceaccounts"):
        kube.kubectl("-n", "depot", "delete", kind, "--all")
    kube.kubectl("delete", "namespace", "depot", "--wait=true", "--timeout=60s")


@pytest.fixture
def controller(depot, tmp_path):
    token_file = depot.write("manage-token", depot.token(*ACCOUNT))
    with depot.cp.inside():
        c = Controller(BUILD, tmp_path)
        c.kubeconfig = depot.write_kubeconfig("manage", tokenFile=token_file)
        yield c
        c.stop()
    problems = [line for line in c.log().splitlines() if "Sanitizer" in line or "runtime error" in line]
    assert not problems, problems


def text(c, manage="true", policies=ORDERS % ""):
    return MESH % (c.kubeconfig, manage, policies)


def printed(c, option="--kubernetes"):
    r = subprocess.run([c.binary, "--config", c.path, option], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert r.returncode == 0, r.stderr
    return r.stdout


def grant(kube, c):
    """What is the user's to apply: the Roles of what --kubernetes prints."""
    documents = printed(c).split("---\n")
    kube.apply("---\n".join(d for d in documents if 'kind: "Role"' in d or 'kind: "RoleBinding"' in d))


def problem(c, words):
    return [x for x in c.get("/v1/check")["checks"] if x["section"] == "Kubernetes" and words in x["what"] and not x["ok"]]


def group(kube, name="orders"):
    return kube.get("-n", "depot", "workloadgroups.networking.istio.io", name)


def account(kube, name="orders"):
    return kube.get("-n", "depot", "serviceaccount", name)


def fits(c):
    return "create" not in printed(c, "--kubernetes-plan") and not problem(c, "depot/")


def test_without_being_told_it_only_says_what_is_missing(depot, controller):
    controller.start(text(controller, "false"))
    [found] = wait_until("the check", lambda: problem(controller, "WorkloadGroup depot/orders"), 30)
    assert found["found"] == "it is missing"
    assert problem(controller, "ServiceAccount depot/orders")
    assert "create   WorkloadGroup depot/orders" in printed(controller, "--kubernetes-plan")
    depot.apply(printed(controller))        # all of it is the user's
    wait_until("nothing is missing", lambda: not problem(controller, "depot/"), 30)
    assert LABEL not in group(depot)["metadata"].get("labels", {})
    depot.kubectl("-n", "depot", "patch", "workloadgroup", "orders", "--type=merge", "-p", json.dumps({"spec": {"template": {"serviceAccount": "default"}}}))
    [found] = wait_until("the check", lambda: problem(controller, "WorkloadGroup depot/orders"), 30)
    assert found["found"] == 'spec.template.serviceAccount is "default", not "orders"'


def test_a_missing_right_is_named_and_when_it_is_granted_all_is_made(depot, controller):
    controller.start(text(controller))
    [found] = wait_until("the check", lambda: problem(controller, "WorkloadGroup depot/orders"), 30)
    assert "not permitted" in found["found"]
    assert '{ apiGroups: ["networking.istio.io"], resources: [workloadgroups], verbs: [create, patch, delete] }' in found["hint"]
    assert not group(depot)
    grant(depot, controller)
    wait_until("group and account", lambda: group(depot) and account(depot), 90)
    assert group(depot)["metadata"]["labels"][LABEL] == "outrigger"
    assert group(depot)["spec"] == {"metadata": {"labels": {"app": "orders", **FOR_SIDECARS}}, "template": {"serviceAccount": "orders"}}
    assert account(depot)["metadata"]["labels"][LABEL] == "outrigger"
    wait_until("all is well", lambda: fits(controller), 30)


def test_reloads_are_followed_and_what_nobody_wants_is_removed(depot, controller):
    labels = ", labels: { app: orders, tier: back }, health: { kind: https, port: 8443, path: /ready }"
    controller.write(text(controller, policies=ORDERS % labels))
    grant(depot, controller)
    controller.start(text(controller, policies=ORDERS % labels))
    spec = wait_until("the group", lambda: group(depot), 60)["spec"]
    assert spec["metadata"]["labels"] == {"app": "orders", "tier": "back", **FOR_SIDECARS}
    assert spec["probe"]["httpGet"] == {"scheme": "HTTPS", "port": 8443, "path": "/ready"}
    controller.write(text(controller))      # neither label nor probe
    wait_until("the change", lambda: "probe" not in group(depot)["spec"], 60)
    assert group(depot)["spec"]["metadata"]["labels"] == {"app": "orders", **FOR_SIDECARS}
    depot.kubectl("-n", "depot", "delete", "workloadgroup", "orders")
    wait_until("made again", lambda: group(depot), 60)
    controller.write(text(controller, policies=NOTHING))
    wait_until("removed", lambda: not group(depot) and not account(depot), 60)
    assert account(depot, "default")


def entry(name, group):
    return json.dumps({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry", "spec": {"address": "10.210.0.200", "serviceAccount": "orders"},
                       "metadata": {"name": name, "namespace": "depot", "annotations": {"istio.io/autoRegistrationGroup": group}}})


def test_what_is_in_use_is_not_removed(depot, controller):
    controller.write(text(controller))
    grant(depot, controller)
    controller.start(text(controller))
    wait_until("the group", lambda: group(depot), 60)
    depot.apply(entry("vm-1", "orders"))
    controller.write(text(controller, policies=NOTHING))
    [found] = wait_until("the check", lambda: problem(controller, "WorkloadGroup depot/orders is removed"), 60)
    assert found["found"] == "it waits: WorkloadEntry vm-1 uses it"
    assert wait_until("the check", lambda: problem(controller, "ServiceAccount depot/orders is removed"), 60)
    assert group(depot) and account(depot)
    depot.kubectl("-n", "depot", "delete", "workloadentries.networking.istio.io", "vm-1")
    wait_until("removed", lambda: not group(depot) and not account(depot), 60)


def test_what_is_somebody_elses_is_named_and_left_alone(depot, controller):
    controller.write(text(controller))
    grant(depot, controller)
    depot.apply(json.dumps({"apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup", "metadata": {"name": "orders", "namespace": "depot"},
                            "spec": {"template": {"serviceAccount": "mine"}}}))
    controller.start(text(controller))
    [found] = wait_until("the check", lambda: problem(controller, "WorkloadGroup depot/orders"), 60)
    assert found["found"] == 'spec.template.serviceAccount is "mine", not "orders"'
    assert "somebody else's" in found["hint"]
    wait_until("the account", lambda: account(depot), 60)
    assert group(depot)["spec"] == {"template": {"serviceAccount": "mine"}}
    assert "clash    WorkloadGroup depot/orders" in printed(controller, "--kubernetes-plan")
    controller.write(text(controller, policies=NOTHING))
    wait_until("the account is removed", lambda: not account(depot), 60)
    assert group(depot)
    # Given away by its label, it is ours: as the hint says.
    controller.write(text(controller))
    depot.kubectl("-n", "depot", "label", "workloadgroup", "orders", LABEL + "=outrigger")
    wait_until("it is changed", lambda: group(depot)["spec"]["template"]["serviceAccount"] == "orders", 60)


def test_an_api_server_that_hangs_is_tried_again(depot, controller):
    controller.write(text(controller))
    grant(depot, controller)
    controller.start(text(controller, policies=NOTHING))
    wait_until("the cluster is known", lambda: not [x for x in controller.get("/v1/check")["checks"] if x["found"] == "not listed yet"], 30)
    os.killpg(depot.apiserver.pid, signal.SIGSTOP)
    try:
        controller.write(text(controller))
        [found] = wait_until("the check", lambda: problem(controller, "WorkloadGroup depot/orders"), 30)
        assert "no answer in time" in found["found"]
        assert controller.get("/v1/status")
    finally:
        os.killpg(depot.apiserver.pid, signal.SIGCONT)
    wait_until("the group", lambda: group(depot), 90)
    wait_until("all is well", lambda: fits(controller), 60)


def test_a_namespace_that_is_missing_is_named(depot, controller):
    controller.start(text(controller, policies=ORDERS.replace("depot", "nowhere") % ""))
    [found] = wait_until("the check", lambda: problem(controller, "ServiceAccount nowhere/orders"), 30)
    assert "not permitted" in found["found"]
    depot.kubectl("create", "clusterrolebinding", "outrigger-test-admin", "--clusterrole=cluster-admin", "--serviceaccount=outrigger-system:outrigger-controller")
    try:
        wait_until("the hint", lambda: any("kubectl create namespace nowhere" in x["hint"] for x in problem(controller, "ServiceAccount nowhere/orders")), 90)
    finally:
        depot.kubectl("delete", "clusterrolebinding", "outrigger-test-admin")

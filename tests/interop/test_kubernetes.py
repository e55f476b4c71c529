"""outrigger-controller and a real Kubernetes API: addresses, tokens, and what goes wrong."""
import base64
import concurrent.futures
import json
import os
import signal
import subprocess

import pytest

from controller import Controller, Nic
from netlab import wait_until

BUILD = os.environ.get("OUTRIGGER_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))
ACCOUNT = ("outrigger-system", "outrigger-controller")

MESH = """trust_domain: test.mesh
mesh: { kind: istio, cluster_id: Kubernetes, tokens: token_request }
advertise: { mesh: "10.210.0.1:15012", server_names: ["10.210.0.1"] }
kubernetes: { kubeconfig: %s, timeout: 1s }
onboarding:
  - { name: orders, match: { guest_name: "orders-*" }, mode: strict, namespace: shop, service_account: orders, workload_group: orders, services: [orders] }
  - { name: other, match: { guest_name: "other-*" }, mode: strict, namespace: shop, service_account: default, workload_group: orders, services: [other] }
"""


@pytest.fixture
def inside(kube):
    with kube.cp.inside():
        yield kube


@pytest.fixture
def kubeconfig(kube):
    token_file = kube.write("controller-token", kube.token(*ACCOUNT))
    return kube.write_kubeconfig("controller", "https://localhost:6443", tokenFile=token_file)     # by name: it has to be looked up


@pytest.fixture
def controller(inside, kubeconfig, tmp_path):
    c = Controller(BUILD, tmp_path)
    c.start(MESH.split("\n", 1)[1] % kubeconfig)
    yield c
    c.stop()
    problems = [line for line in c.log().splitlines() if "Sanitizer" in line or "runtime error" in line]
    assert not problems, problems


@pytest.fixture
def nic(controller):
    n = Nic(controller, "nic-1", controller.enroll("nic-1"))
    yield n
    n.close()


def prefixes(directive):
    return {a["prefix"][0]: a["what"][0] for a in directive.get("addresses", [])}


def hear_containers(nic, condition):
    """The next set of container addresses that fulfils @condition."""
    seen = prefixes(nic.containers)
    while not condition(seen):
        seen = prefixes(nic.hear("containers", 20))
    nic.containers = {}
    return seen


def find_check(controller, section, words):
    return [c for c in controller.get("/v1/check")["checks"] if c["section"] == section and words in c["what"]]


def test_pods_services_and_nodes_are_container_addresses_as_they_come_and_go(kube, nic):
    kube.node("node-k", "10.210.0.50", "10.44.0.0/24")
    kube.pod("shop", "cart-1", "default", "10.210.0.77", "node-k")
    kube.pod("shop", "host-1", "default", "10.210.0.50", "node-k", host_network=True)
    seen = hear_containers(nic, lambda s: "10.210.0.77/32" in s and "10.44.0.0/24" in s)
    assert seen["10.210.0.77/32"] == "pod shop/cart-1 on node node-k"
    assert seen["10.44.0.0/24"] == "pod network of node node-k"
    assert "10.210.0.50/32" not in seen     # the node's own address, and that of the pod which shares it
    assert any(what == "address of the Kubernetes service shop/orders" for what in seen.values())
    kube.end_pod("shop", "cart-1")
    hear_containers(nic, lambda s: "10.210.0.77/32" not in s)


def test_the_api_server_restarts_and_the_watch_goes_on(kube, nic):
    hear_containers(nic, lambda s: s)
    with concurrent.futures.ThreadPoolExecutor(1) as other:     # it takes longer than the controller waits for a NIC that is silent
        restart = other.submit(kube.restart_apiserver)
        while not restart.done():
            nic.conn.pump(0.2)
        restart.result()
    kube.pod("shop", "late-1", "default", "10.210.0.78", "node-k")
    hear_containers(nic, lambda s: "10.210.0.78/32" in s)
    kube.end_pod("shop", "late-1")


def claims(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def ask_token(nic, gid):
    nic.say(token_request={"guest_id": gid})
    while True:
        token = nic.hear_any("token")
        if token["guest_id"] == [gid]:
            return token


def test_a_vm_gets_a_token_of_its_service_account(nic):
    token = ask_token(nic, nic.guest("orders-1"))
    seen = claims(token["token"][0])
    assert seen["sub"] == "system:serviceaccount:shop:orders"
    assert seen["aud"] == ["istio-ca"]
    assert token["expires_at"][0] == seen["exp"]


def test_without_the_right_the_refusal_names_verb_and_account(controller, nic):
    refused = ask_token(nic, nic.guest("other-1"))["refused"][0]
    assert refused.startswith("create serviceaccounts/token of shop/default: not permitted: ")
    [check] = find_check(controller, "mesh", "workload tokens")
    assert not check["ok"] and "not permitted" in check["found"]


def test_what_the_policies_need_is_printed_and_the_cluster_takes_it(kube, controller, nic):
    """Also: with it the refused account gets its token."""
    argv = [controller.binary, "--config", controller.path, "--kubernetes"]
    kube.apply(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)
    assert kube.get("-n", "shop", "workloadgroup", "orders")["spec"]["template"]["serviceAccount"] == "orders"
    gid = nic.guest("other-1")
    wait_until("the token", lambda: "token" in ask_token(nic, gid), 60)
    kube.kubectl("-n", "shop", "delete", "role", "outrigger-token-default")
    kube.kubectl("apply", "-f", kube.packaging("outrigger-vm.yaml"))


def test_a_hanging_api_server_is_named_and_hinders_nobody(kube, controller, nic):
    gid = nic.guest("orders-1")
    ask_token(nic, gid)
    os.killpg(kube.apiserver.pid, signal.SIGSTOP)
    try:
        refused = ask_token(nic, gid)["refused"][0]
        assert refused.endswith("no answer in time"), refused
        assert controller.get("/v1/status")
    finally:
        os.killpg(kube.apiserver.pid, signal.SIGCONT)
    wait_until("tokens again", lambda: "token" in ask_token(nic, gid), 60)


def test_a_token_file_that_is_replaced_is_used_and_a_bad_one_is_named(kube, controller, nic):
    gid = nic.guest("orders-1")
    good = kube.token(*ACCOUNT)
    kube.write("controller-token", good[:-4] + "AAAA")
    assert "our credentials are refused" in ask_token(nic, gid)["refused"][0]
    kube.write("controller-token", good + "\n")
    assert "token" in ask_token(nic, gid)


def test_what_may_not_be_watched_is_named(kube, inside, tmp_path):
    config = kube.write_kubeconfig("poor", token=kube.token("shop", "orders"))
    roots = "mesh: { kind: istio, roots_file: %s, tokens: token_request }" % kube.roots
    c = Controller(BUILD, tmp_path)
    c.start(MESH.split("\n", 2)[2] % config + roots + "\n")
    try:
        found = wait_until("the checks", lambda: [x for x in find_check(c, "Kubernetes", "pods are watched") if "not permitted" in x["found"]])
        assert found[0]["found"].startswith("list pods: not permitted: ")
        assert "outrigger-controller.yaml" in found[0]["hint"]
    finally:
        c.stop()

"""The agent with its real monitor, proxies, controller and a registry: from a registration to a mesh, and back."""

import os
import re
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

from agentlab import AGENT, ONBOARDING, REGISTRY, AgentLab, alive, now_ms  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture
def mesh(request):
    with AgentLab("oga", **getattr(request, "param", {})) as lab:
        yield lab.start()


def evidence(service):
    return {e["method"]: e["finding"] for e in service["evidence"]}


def test_a_registration_becomes_a_proxied_service(mesh):
    a, b = mesh.vms
    mesh.join(a)
    (s,) = mesh.service("orders")
    assert s["verdict"] == "vm" and s["admitted"] and s["instance"] == "orders-1" and s["address"] == a.address
    assert s["found_ms"] >= 0 and s["ready_ms"] >= s["decided_ms"] >= 0 and s["in_mesh_ms"] is not None
    (p,) = mesh.proxy(a)
    assert p["identity"] == "spiffe://test.mesh/ns/shop/sa/orders" and p["services"] == ["orders"]
    wait_until("all methods have spoken", lambda: evidence(mesh.service("orders")[0]) ==
               {"port": "vm", "containers": "vm", "registry": "vm", "probe": "vm"})

    # A client that only asks joins too, in the process that is there; both talk by mutual TLS.
    mesh.discover(b)
    wait_until("the client's proxy", lambda: mesh.proxy(b), 10)
    assert mesh.proxy(b)[0]["pid"] == p["pid"]
    wait_until("the client's workload", lambda: mesh.workload(b), 10)
    assert wait_until("an answer over the mesh", lambda: mesh.fetch(b, a.address)) == "this is " + a.address
    wait_until("the access log", lambda: "src.identity=spiffe://test.mesh/ns/shop/sa/shopper" in mesh.log("nic.agent"))
    # Strict: without TLS there is no way in.
    assert mesh.fetch(mesh.reg, a.address) == ""

    chain = mesh.get("/v1/explain/orders")["instances"][0]["chain"]
    steps = list(dict.fromkeys(c["step"] for c in chain if "said in packet" not in c["text"]))
    assert steps == ["packet", "claim", "port", "containers", "registry", "probe", "verdict", "policy", "token", "proxy", "mesh"]
    check = mesh.get("/v1/check")
    assert check["ok"], [c for c in check["checks"] if not c["ok"]]
    # A warning: neither agent.yaml nor the policy says which addresses these may have.
    (limit,) = [c for c in check["checks"] if c["what"] == ADDRESSES_WRITTEN_DOWN]
    assert not limit["ok"] and not limit["fatal"] and "2 may have any" in limit["found"] and "may_have" in limit["hint"]
    with open(mesh.dir + "/agent.yaml", "w") as f:
        f.write(re.sub("(mac: .*) }", r"\1, may_have: [10.66.0.0/16, 'fe80::/10'] }", mesh.agent_yaml()))
    mesh.ask(mesh.nic, "run/agent.sock", "/v1/reload", {})
    wait_until("it is", lambda: [c for c in mesh.get("/v1/check")["checks"] if c["what"] == ADDRESSES_WRITTEN_DOWN and c["ok"]])


ADDRESSES_WRITTEN_DOWN = "which addresses a VM of the mesh may have is written down"


def fetched_over_the_mesh(lab):
    """The second VM becomes a client of the first one, which has joined; what it fetches comes by the mesh."""
    orders, shopper = lab.vms
    lab.discover(shopper)
    wait_until("the client's proxy", lambda: lab.proxy(shopper))
    assert wait_until("an answer over the mesh", lambda: lab.fetch(shopper, orders.address)) == "this is " + orders.address
    wait_until("the access log", lambda: "src.identity=spiffe://test.mesh/ns/shop/sa/shopper" in lab.log("nic.agent"))


def test_vms_of_two_processes_on_one_nic_call_each_other():
    """Each VM has a proxy process of its own; what one dials at the other stays on the NIC, and goes through TLS."""
    with AgentLab("oga2", onboarding=ONBOARDING.replace("    namespace: shop\n", "    namespace: shop\n    isolation: vm\n")) as lab:
        lab.start()
        orders, shopper = lab.vms
        lab.join(orders)
        fetched_over_the_mesh(lab)
        assert lab.proxy(orders)[0]["process"] != lab.proxy(shopper)[0]["process"]


def test_a_service_at_an_ipv6_address(mesh):
    """Registered by IPv4 before anybody has seen the address: it waits until the guest is seen with it, which the agent sees to."""
    orders, shopper = mesh.vms
    for i, host in enumerate((mesh.nic, mesh.reg, orders, shopper)):
        host.v6 = "fd66::%d" % (i + 1)
        host.ip("addr", "add", host.v6 + "/64", "dev", "br0" if host is mesh.nic else "eth0")
    mesh.serve(orders, address=orders.v6)
    mesh.register(orders, address=orders.v6)
    wait_until("the proxy", lambda: mesh.proxy(orders))
    (s,) = mesh.service("orders")
    assert s["address"] == orders.v6 and s["verdict"] == "vm"
    mesh.discover(shopper)
    wait_until("the client's proxy", lambda: mesh.proxy(shopper))
    # The client has not spoken by IPv6 yet. That its address is not known is no way around the proxy.
    assert wait_until("an answer over the mesh", lambda: mesh.fetch(shopper, orders.v6)) == "this is " + orders.v6
    wait_until("the access log", lambda: "src.addr=[%s]" % shopper.v6 in mesh.log("nic.agent"))
    assert mesh.fetch(mesh.reg, orders.v6) == ""    # strict


def test_vms_behind_routed_ports():
    """No bridge: the NIC routes to each VM and answers ARP for the others, as Calico and bare servers do."""
    with AgentLab("oga3") as lab:
        for key in ("net.ipv4.ip_forward", "net.ipv4.conf.all.proxy_arp", "net.ipv4.neigh.default.proxy_delay"):
            lab.nic.sysctl(key, 0 if key.endswith("delay") else 1)
        for vm in lab.vms:
            lab.nic.ip("link", "set", vm.port, "nomaster")
            lab.nic.ip("route", "add", vm.address + "/32", "dev", vm.port)
            lab.nic.sysctl("net.ipv4.conf.%s.proxy_arp" % vm.port, 1)
            lab.nic.sysctl("net.ipv4.neigh.%s.proxy_delay" % vm.port, 0)
        lab.nic.sysctl("net.ipv4.neigh.br0.proxy_delay", 0)
        lab.start()
        orders, shopper = lab.vms
        lab.join(orders)
        assert evidence(lab.service("orders")[0])["port"] == "vm"
        fetched_over_the_mesh(lab)
        assert lab.fetch(lab.reg, orders.address) == ""     # strict
        wait_until("the probe", lambda: evidence(lab.service("orders")[0]).get("probe") == "vm")
        check = lab.get("/v1/check")
        assert check["ok"], [c for c in check["checks"] if not c["ok"]]


class TaggedLab(AgentLab):
    """VMs and registry are on VLAN 10, the NIC and the controller on none."""

    def agent_yaml(self):
        return super().agent_yaml().replace('  - match: "tap*"', '  - { match: "tap*", vlans: [10], out_vlan: 10 }')


def test_vms_behind_a_vlan():
    with TaggedLab("oga4") as lab:
        for host in [lab.reg, *lab.vms]:
            host.tag("eth0")
        lab.start()
        orders, shopper = lab.vms
        lab.join(orders)
        (s,) = lab.service("orders")
        assert s["verdict"] == "vm" and lab.guest(orders)["vlan"] == 10
        fetched_over_the_mesh(lab)
        assert lab.fetch(lab.reg, orders.address) == ""     # strict
        wait_until("the probe", lambda: evidence(lab.service("orders")[0]).get("probe") == "vm")


def test_a_later_service_joins_the_same_proxy_and_one_that_ends_leaves(mesh):
    a, _ = mesh.vms
    mesh.join(a)
    pid = mesh.proxy(a)[0]["pid"]
    mesh.serve(a, 9090)
    mesh.register(a, "orders-admin", "orders-admin-1", 9090)
    wait_until("the second service", lambda: sorted(mesh.proxy(a)[0]["services"]) == ["orders", "orders-admin"])
    assert mesh.proxy(a)[0]["pid"] == pid
    mesh.deregister(a, "orders-admin-1")
    wait_until("the second service is gone", lambda: [p for p in mesh.proxy(a) if p["services"] == ["orders"]])
    mesh.deregister(a)
    wait_until("the proxy is gone", lambda: not mesh.get("/v1/proxies")["proxies"])
    wait_until("the workload is gone", lambda: not mesh.workload(a))
    assert mesh.fetch(mesh.reg, a.address) == "this is " + a.address  # nothing is diverted any more


@pytest.mark.parametrize("mesh", [{"names": ()}], indirect=True)
def test_without_a_policy_nothing_is_diverted(mesh):
    a, _ = mesh.vms
    mesh.serve(a)
    mesh.register(a)
    wait_until("the claim", lambda: mesh.service("orders", verdict="vm"))
    (s,) = mesh.service("orders")
    assert not s["admitted"] and s["refusal"] == "no onboarding policy matches this guest" and s["proxy"] is None
    assert mesh.guest(a)["mode"] == "shadow"
    assert mesh.get("/v1/proxies")["proxies"] == []
    assert mesh.fetch(mesh.reg, a.address) == "this is " + a.address


def test_what_is_not_the_guests_is_refused(mesh):
    a, b = mesh.vms
    mesh.serve(a)
    mesh.discover(a, "nothing")
    wait_until("the guest", lambda: mesh.guest(a))
    mesh.register(b, "orders", "thief", address=a.address)  # another's address
    mesh.register(a, "billing", "billing-1")  # a name that it may not have
    wait_until("the name", lambda: mesh.service("billing"))
    (s,) = mesh.service("billing")
    assert not s["admitted"] and "does not let this guest claim" in s["refusal"]
    assert mesh.service("orders") == []
    (i,) = mesh.get("/v1/explain/orders")["instances"]
    assert i["instance"] == "(refused)" and "another guest's" in i["chain"][1]["text"]
    assert mesh.get("/v1/proxies")["proxies"] == []
    assert not mesh.workload(a) and not mesh.workload(b)


def test_a_container_is_judged_one_and_left_alone(mesh):
    a, _ = mesh.vms
    a.ip("addr", "add", "10.66.0.40/24", "dev", "eth0")
    a.run("arping", "-c", "1", "-U", "-I", "eth0", "10.66.0.40", check=False)
    a.run("ping", "-c", "1", "-W", "1", "-I", "10.66.0.40", REGISTRY, check=False)
    wait_until("the address", lambda: "10.66.0.40" in (mesh.guest(a) or {}).get("addresses", []))
    mesh.register(a, "orders", "listed", address="10.66.0.40")
    wait_until("the verdict by address", lambda: mesh.service("orders", instance="listed", verdict="container"))
    mesh.register(a, "orders", "signed", 8081, meta={"external-source": "kubernetes"})
    wait_until("the verdict by sign", lambda: mesh.service("orders", instance="signed", verdict="container"))
    assert mesh.get("/v1/proxies")["proxies"] == []


def test_a_dead_proxy_is_back_at_once(mesh):
    a, b = mesh.vms
    mesh.join(a)
    fetched_over_the_mesh(mesh)
    pid = mesh.proxy(a)[0]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until("another process", lambda: [p for p in mesh.proxy(a) if p["pid"] != pid], 10)
    wait_until("all of its VMs", lambda: mesh.proxy(b), 10)
    wait_until("it works again", lambda: mesh.fetch(b, a.address), 10)


def test_a_port_that_goes_down_takes_its_guest_out_of_the_mesh(mesh):
    a, _ = mesh.vms
    mesh.join(a)
    a.ip("link", "set", "eth0", "down")  # as of a VM that was killed: no carrier at the port
    started = now_ms()
    wait_until("the workload is gone", lambda: not mesh.workload(a), 5, 0.005)
    print("gone after %d ms" % (now_ms() - started))
    assert mesh.guest(a) is None and mesh.service("orders") == []
    a.ip("link", "set", "eth0", "up")
    a.ip("route", "add", "default", "via", REGISTRY)
    mesh.register(a)
    wait_until("it is back", lambda: mesh.workload(a), 10)


def test_a_silent_vm_is_taken_out_and_comes_back(mesh):
    a, _ = mesh.vms
    mesh.join(a)
    wait_until("it was probed", lambda: evidence(mesh.service("orders")[0]).get("probe") == "vm")
    a.run("nft", "add table inet t; add chain inet t i { type filter hook input priority 0; policy drop; }")
    wait_until("it is critical", lambda: mesh.service("orders", health="critical"), 10)
    a.run("nft", "delete table inet t")
    wait_until("it answers again", lambda: mesh.service("orders", health=None), 10)


def test_the_agent_decides_without_the_controller(mesh):
    a, b = mesh.vms
    mesh.join(a)
    mesh.stop(mesh.controller)
    wait_until("the session is lost", lambda: mesh.get("/v1/status")["controller"]["state"] != "open", 10)
    mesh.stop_agent()
    mesh.start_agent()
    mesh.register(b, "orders-b", "b-1")
    wait_until("the policies of before", lambda: mesh.get("/v1/status")["policy_version"])
    wait_until("the verdict", lambda: mesh.service("orders-b", verdict="vm"))
    checks = {c["what"]: c["ok"] for c in mesh.get("/v1/check")["checks"]}
    assert not checks["the controller is reached"] and checks["this NIC is enrolled"]
    # It comes back by itself, with the certificate that it has: the token was used up.
    mesh.start_controller()
    wait_until("the session", lambda: mesh.get("/v1/status")["controller"]["state"] == "open", 30)


@pytest.mark.parametrize("mesh", [{"pin": True}], indirect=True)
def test_a_new_agent_adopts_the_proxies_of_the_old_one(mesh):
    a, b = mesh.vms
    mesh.join(a)
    fetched_over_the_mesh(mesh)
    pid = mesh.proxy(a)[0]["pid"]
    mesh.stop_agent(signal.SIGKILL)
    wait_until("the worker is gone", lambda: not mesh.is_up())
    assert alive(pid)
    assert mesh.fetch(b, a.address) == "this is " + a.address  # nobody is at the wheel, and it goes on
    mesh.start_agent()
    mesh.register(a)
    mesh.discover(b)
    wait_until("both are adopted", lambda: mesh.proxy(a) and mesh.proxy(b), 10)
    assert mesh.proxy(a)[0]["pid"] == pid
    assert mesh.fetch(b, a.address) == "this is " + a.address


# Connects, and registers on that connection when it is told to.
PATIENT = """
import json, socket, sys
s = socket.create_connection((sys.argv[1], 8500))
def say(text):
    s.sendall(text)
    s.recv(65536)
say(b"GET /v1/health/service/nobody HTTP/1.1\\r\\nHost: c\\r\\n\\r\\n")
print("on", flush=True)
sys.stdin.readline()
body = json.dumps({"Name": "orders", "ID": "orders-7", "Address": sys.argv[2], "Port": 8087}).encode()
say(b"PUT /v1/agent/service/register HTTP/1.1\\r\\nHost: c\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
sys.stdin.readline()
"""


@pytest.mark.parametrize("mesh", [{"pin": True}], indirect=True)
def test_a_new_agent_hears_what_is_said_on_an_old_connection(mesh):
    """The proxy told its predecessor that the connection was opened."""
    a, _ = mesh.vms
    mesh.join(a)
    p = a.popen(["python3", "-c", PATIENT, REGISTRY, a.address], "patient", stdin=subprocess.PIPE)
    wait_until("the connection", lambda: "on" in mesh.log("vm0.patient"))
    wait_until("the proxy has it", lambda: [c for c in mesh.get("/v1/proxies")["proxies"] if c["connections"]], 30)
    mesh.stop_agent(signal.SIGKILL)
    wait_until("the worker is gone", lambda: not mesh.is_up())
    mesh.start_agent()
    wait_until("it is adopted", lambda: mesh.proxy(a), 30)
    p.stdin.write(b"\n")
    p.stdin.flush()
    wait_until("the claim", lambda: mesh.service("orders", port=8087), 30)
    p.stdin.close()
    p.wait(10)


def test_a_revoked_nic_stops(mesh):
    a, _ = mesh.vms
    mesh.join(a)
    mesh.ask(mesh.edge, "controller.sock", "/v1/nics/nic-a/revoke", {"reason": "stolen"})
    wait_until("it is off", lambda: mesh.get("/v1/status")["controller"]["state"] == "off", 10)
    wait_until("its proxies are gone", lambda: not mesh.get("/v1/proxies")["proxies"], 10)


def test_a_revoked_nic_comes_back_by_a_new_join_token(mesh):
    """Its certificate has not expired for long, and is refused; a token that is used up does not bring it back."""
    a, _ = mesh.vms
    mesh.join(a)
    mesh.ask(mesh.edge, "controller.sock", "/v1/nics/nic-a/revoke", {"reason": "stolen"})
    wait_until("it is off", lambda: mesh.get("/v1/status")["controller"]["state"] == "off")
    mesh.stop_agent()
    mesh.start_agent()
    wait_until("the old token is refused", lambda: "the controller refuses the enrolment" in mesh.log("nic.agent"))
    assert mesh.get("/v1/status")["controller"]["state"] != "open"
    mesh.stop_agent()
    mesh.write_join_token()
    mesh.start_agent()
    wait_until("the session", lambda: mesh.get("/v1/status")["controller"]["state"] == "open")
    mesh.join(a)


def test_a_registry_that_never_answers_holds_nothing_up(mesh):
    a, _ = mesh.vms
    # What the guest says to it passes; our own question gets no answer.
    mesh.nic.run("nft", "add table inet t; add chain inet t o { type filter hook output priority 0; tcp dport 8500 drop; }")
    mesh.join(a)
    (s,) = mesh.service("orders")
    assert s["verdict"] == "vm" and s["in_mesh_ms"] is not None
    wait_until("it is said", lambda: evidence(mesh.service("orders")[0]).get("registry") == "unknown", 10)


def test_a_bad_token_and_a_bad_file_say_what_is_wrong(tmp_path):
    with AgentLab("oga", vms=0) as lab:
        lab.start_controller()
        with open(lab.dir + "/join", "w") as f:
            f.write("nonsense\n")
        lab.start_agent()
        wait_until("it is refused", lambda: "enrolment was refused" in (lab.get("/v1/status")["controller"]["detail"] or ""), 10)
    path = tmp_path / "agent.yaml"
    path.write_text("nic: a\nports:\n  - mach: tap0\n")
    r = subprocess.run([AGENT, "-c", str(path)], stderr=subprocess.PIPE, text=True)
    assert r.returncode and "%s:3" % path in r.stderr and "mach" in r.stderr

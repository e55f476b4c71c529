"""What a guest may use of the agent, by the second: new claims, observations, decisions. Each has a counter and a message, and who stops is heard again."""

import os
import re
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

from agentlab import AGENT, REGISTRY, AgentLab  # noqa: E402
from faultlab import children  # noqa: E402
from netlab import wait_until  # noqa: E402

LIAR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib", "liar.py")
HOSTILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib", "hostile.py")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

# One request after the other at Consul: registers COUNT names and withdraws each again ("churn"), or renews one registration COUNT times (a large one: "fat").
FLOOD = """
import json, socket, sys
registry, address, count, what = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
s = socket.create_connection((registry, 8500))
f = s.makefile("rb")
def put(path, body=b""):
    s.sendall(b"PUT %s HTTP/1.1\\r\\nHost: c\\r\\nContent-Length: %d\\r\\n\\r\\n" % (path, len(body)) + body)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)        # or each answer waits for what delays acknowledgements
    n = 0
    while (line := f.readline()) != b"\\r\\n":
        if line.lower().startswith(b"content-length:"):
            n = int(line.split(b":")[1])
    f.read(n)
for i in range(count):
    name = "flood-%d" % (i if what == "churn" else 0)
    put(b"/v1/agent/service/register", json.dumps({"Name": name, "ID": name, "Address": address, "Port": 9999, "Meta": {"pad": "x" * (30000 if what == "fat" else 0)}}).encode())
    if what == "churn":
        put(b"/v1/agent/service/deregister/" + name.encode())
"""


@pytest.fixture(name="mesh")
def _mesh(request):
    lab = AgentLab("obu", more=getattr(request, "param", ""))
    try:
        yield lab.start()
    finally:
        print(lab.log("nic.agent")[-8000:])
        lab.close()


def over(mesh, vm, budget):
    """How often the guest was over its budget; 0 while it is not known."""
    text = mesh.nic.run("curl", "-s", "http://127.0.0.1:15020/metrics")
    return sum(int(n) for guest, n in re.findall(r'outrigger_guest_over_budget_total{guest="([^"]*)",port="[^"]*",budget="%s"} (\d+)' % budget, text) if guest.endswith(vm.mac))


def over_at_proxy(mesh, vm, budget):
    text = mesh.nic.run("curl", "-s", "http://127.0.0.1:15020/metrics")
    return sum(int(n) for guest, n in re.findall(r'outrigger_vm_over_budget_total{vm="([^"]*)",budget="%s"} (\d+)' % budget, text) if guest.endswith(vm.mac))


def said(mesh, vm, budget):
    return re.search("a guest is over its budget guest=[^ ]*%s budget=%s " % (vm.mac, budget), mesh.log("nic.agent"))


@pytest.mark.parametrize("mesh", ["limits: { claims_per_second: 5 }\n"], indirect=True)
def test_who_registers_ever_new_services_waits_and_nobody_else(mesh):
    bad, honest = mesh.vms
    bad.run("python3", "-c", FLOOD, REGISTRY, bad.address, "300", "churn", timeout=120)
    mesh.register(bad, instance="last", port=8085)           # once: what is said last becomes true
    mesh.register(honest, instance="honest", port=8086)
    wait_until("the neighbour's claim", lambda: mesh.service("orders", port=8086), 60)
    wait_until("what came last", lambda: mesh.service("orders", port=8085), 60)
    wait_until("the message", lambda: said(mesh, bad, "claim_rate"), 60)
    assert over(mesh, bad, "claim_rate") > 0
    for budget in ("claims", "claim_rate", "observations", "decisions", "sniffed_bytes"):
        assert over(mesh, honest, budget) == 0, budget


@pytest.mark.parametrize("mesh", ["limits: { observations_per_second: 20 }\n"], indirect=True)
def test_who_repeats_himself_without_end_is_not_listened_to_meanwhile(mesh):
    bad, honest = mesh.vms
    bad.run("python3", "-c", FLOOD, REGISTRY, bad.address, "1000", "renew", timeout=120)
    wait_until("the counter", lambda: over(mesh, bad, "observations") > 0, 60)
    wait_until("the message", lambda: said(mesh, bad, "observations"), 60)

    def again():
        mesh.register(bad, instance="later", port=8085)       # as its client does, now and then
        return mesh.service("orders", port=8085)
    wait_until("a registration when it has become quiet", again, 60)
    mesh.register(honest, instance="honest", port=8086)
    wait_until("the neighbour's claim", lambda: mesh.service("orders", port=8086), 60)
    assert over(mesh, honest, "observations") == 0


@pytest.mark.parametrize("mesh", ["limits: { sniffed_per_second: 64KiB }\n"], indirect=True)
def test_what_a_proxy_copies_for_the_agent_has_a_budget(mesh):
    bad, honest = mesh.vms
    mesh.join(bad)
    mesh.discover(honest)
    wait_until("the neighbour's proxy", lambda: mesh.proxy(honest), 30)
    bad.run("python3", "-c", FLOOD, REGISTRY, bad.address, "50", "fat", timeout=120)
    wait_until("the counter", lambda: over_at_proxy(mesh, bad, "sniffed_bytes") > 0, 60)
    wait_until("the message", lambda: re.search("a VM is over its budget.*%s.*sniffed_bytes" % bad.mac, mesh.log("nic.agent")), 60)

    def again():
        mesh.register(bad, instance="later", port=8085)
        return mesh.service("orders", port=8085)
    wait_until("a registration when it has become quiet", again, 60)
    assert over_at_proxy(mesh, honest, "sniffed_bytes") == 0


@pytest.mark.parametrize("mesh", ["limits: { sniffed_per_second: 64KiB }\n"], indirect=True)
def test_who_sends_a_vm_what_it_did_not_ask_for_does_not_use_up_what_it_may_say(mesh):
    vm = mesh.vms[0]
    wait_until("the guest", lambda: mesh.register(vm, instance="early", port=8084) or mesh.guest(vm), 60)
    flood = mesh.edge.popen([sys.executable, HOSTILE, "babble", vm.address], "flood")
    wait_until("the counter", lambda: over(mesh, vm, "stranger_bytes") > 1000, 60)
    mesh.register(vm, instance="late", port=8085)           # once, in the middle of it
    wait_until("the claim", lambda: mesh.service("orders", port=8085), 60)
    wait_until("the message", lambda: said(mesh, vm, "stranger_bytes"), 60)
    assert flood.poll() is None
    assert over(mesh, vm, "sniffed_bytes") == 0
    flood.terminate()
    flood.wait(10)


def nice(pid):
    return os.getpriority(os.PRIO_PROCESS, pid)


def test_the_agents_worker_gives_way_to_the_proxies(mesh):
    vm = mesh.vms[0]
    mesh.serve(vm)
    mesh.register(vm)
    proxy = wait_until("the proxy", lambda: mesh.proxy(vm))[0]["pid"]
    worker, = [p for p in children(mesh.agent.pid) if os.readlink("/proc/%d/exe" % p) == AGENT]
    assert nice(proxy) == nice(mesh.agent.pid)
    assert nice(worker) == nice(mesh.agent.pid) + 5


def rss_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS"))


@pytest.mark.parametrize("joined", (False, True), ids=("sniffed", "proxied"))
def test_lies_to_a_registry_that_believes_all_of_them(mesh, joined):
    """Odd framing, bodies, names, addresses, ports, compression and nesting, by HTTP, ZooKeeper, DNS and mDNS: nobody else is touched, and nothing of it is in the mesh."""
    bad, honest = mesh.vms
    gullible = "10.66.0.9"
    mesh.reg.ip("addr", "add", gullible + "/24", "dev", "eth0")
    mesh.reg.popen(["python3", LIAR, "serve", gullible], "gullible")
    wait_until("both ports", lambda: all(":%d " % p in mesh.reg.run("ss", "-Hltn", "src", gullible) for p in (8500, 2181)))
    if joined:
        mesh.join(bad)
    pids = [mesh.agent.pid] + children(mesh.agent.pid)
    before = {pid: rss_kib(pid) for pid in pids}
    services = {s["hostname"] for s in mesh.ask(mesh.edge, "controller.sock", "/v1/workloads")["services"]}
    bad.run("python3", LIAR, "lie", gullible, bad.address, honest.address, timeout=200)
    wait_until("the truth, which he says last", lambda: mesh.service("orders", port=9990), 60)
    mesh.register(honest, instance="honest", port=8086)
    wait_until("the neighbour's claim", lambda: mesh.service("orders", port=8086), 60)
    assert all(os.path.exists("/proc/%d" % pid) for pid in pids)
    assert all(rss_kib(pid) - before[pid] < 96 * 1024 for pid in pids), (before, [rss_kib(p) for p in pids])
    for s in mesh.get("/v1/services")["services"]:
        if s["guest"].endswith(bad.mac):
            assert s["address"] == bad.address and 0 < s["port"] < 65536 and s["service"].isprintable() and len(s["service"]) <= 255, s
            assert s["service"] == "orders" or s["refusal"], s
    assert int(re.search(r"^outrigger_claims_refused_total (\d+)", mesh.nic.run("curl", "-s", "http://127.0.0.1:15020/metrics"), re.M).group(1)) >= 9
    assert not mesh.service("orders", port=9998)                 # at addresses that are not his
    listed = mesh.ask(mesh.edge, "controller.sock", "/v1/workloads")
    assert {s["hostname"] for s in listed["services"]} - services <= {"orders.shop.mesh.internal"}
    assert {a for w in listed["workloads"] for a in w["addresses"]} <= {bad.address, honest.address}

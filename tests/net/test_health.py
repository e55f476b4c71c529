"""Checks of health from outside: a VM whose service hangs, refuses or answers 500 gets no requests, until it is well again."""

import glob
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

from agentlab import ONBOARDING, REGISTRY, SICK_WEB, AgentLab  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

CHECK = "    health: { kind: %s, interval: 200ms, timeout: 300ms, failures: 2, successes: 2 }\n"

def onboarding(check):
    first, rest = ONBOARDING.split("  - name: shoppers", 1)
    return first + check + "  - name: shoppers" + rest


@pytest.fixture
def mesh(request):
    with AgentLab("ogh", vms=3, onboarding=onboarding(request.param)) as lab:
        yield lab.start()


def say(mesh, vm, what):
    with open("%s/health.%s" % (mesh.dir, vm.name), "w") as f:
        f.write(what)


def serve(mesh, vm):
    p = vm.popen(["python3", "-c", SICK_WEB, vm.address, "8080", "%s/health.%s" % (mesh.dir, vm.name)], "web")
    wait_until("the VM's server", lambda: ":8080 " in vm.run("ss", "-Hltn"))
    return p


def healthy(mesh, vm):
    found = mesh.workload(vm)
    return bool(found) and found[0]["healthy"]


def known_healthy(mesh, vm):
    """To the proxy process, which is one for the whole namespace."""
    (sock,) = glob.glob(mesh.dir + "/run/**/*.admin", recursive=True)
    (w,) = [w for w in mesh.ask(mesh.nic, os.path.relpath(sock, mesh.dir), "/snapshot")["workloads"] if w["address"] == vm.address]
    return w["healthy"]


def vip(mesh):
    (s,) = [s for s in mesh.ask(mesh.edge, "controller.sock", "/v1/workloads")["services"] if s["name"] == "orders"]
    return s["addresses"][0].split("/")[0]


def start(mesh):
    """Two instances of one service, and a client, which has talked to both."""
    a, client, b = mesh.vms
    for n, vm in enumerate((a, b)):
        say(mesh, vm, "200")
        vm.server = serve(mesh, vm)
        mesh.register(vm, instance="orders-%d" % n)
    for vm in (a, b):
        wait_until("healthy: " + vm.name, lambda: healthy(mesh, vm), 30)
    mesh.discover(client)
    wait_until("the client's proxy", lambda: mesh.proxy(client), 30)
    address = vip(mesh)
    wait_until("both answer", lambda: {mesh.fetch(client, address) for _ in range(8)} == {"this is " + a.address, "this is " + b.address}, 30)
    return a, client, b, address


def leaves(mesh, client, address, a, b, *reasons):
    """For one of @reasons: that of the check, or what others saw of the same before."""
    wait_until("unhealthy", lambda: not healthy(mesh, a), 30)
    (s,) = mesh.service("orders", address=a.address)
    assert s["health"] == "critical" and any(r in s["health_reason"] for r in reasons) and s["health_since_s"] is not None
    others = "this is " + b.address
    # The client's proxy hears of it a moment later; then not one request goes there, and none fails.
    wait_until("the proxies know", lambda: not known_healthy(mesh, a), 30)
    assert {mesh.fetch(client, address) for _ in range(20)} == {others}


def comes_back(mesh, client, address, a):
    wait_until("healthy again", lambda: healthy(mesh, a), 30)
    wait_until("the client uses it again", lambda: mesh.fetch(client, address) == "this is " + a.address, 30)


@pytest.mark.parametrize("mesh", [CHECK.replace("kind: %s", "kind: http, path: /healthz, headers: { X-Probe: us }")], indirect=True)
def test_a_service_that_is_not_well_gets_no_requests_until_it_is_well(mesh):
    a, client, b, address = start(mesh)
    (s,) = mesh.service("orders", address=a.address)
    assert s["health"] == "passing" and s["health_reason"] is None
    assert "agent=outrigger/" in mesh.log("%s.web" % a.name) and "x=us" in mesh.log("%s.web" % a.name)

    say(mesh, a, "500")
    leaves(mesh, client, address, a, b, "http check of port 8080: HTTP status 500")
    (i,) = [i for i in mesh.get("/v1/explain/orders")["instances"] if i["guest"].endswith(a.mac)]
    assert [c["text"] for c in i["chain"] if c["step"] == "health"] == ["critical: http check of port 8080: HTTP status 500"]
    say(mesh, a, "204")
    comes_back(mesh, client, address, a)

    say(mesh, a, "hang")
    leaves(mesh, client, address, a, b, "no answer within 300 ms")
    say(mesh, a, "200")
    comes_back(mesh, client, address, a)

    a.server.kill()
    a.server.wait(10)
    leaves(mesh, client, address, a, b, "refused", "it does not answer any more")
    a.server = serve(mesh, a)
    comes_back(mesh, client, address, a)

    log = mesh.log("nic.agent")
    assert log.count('state=unhealthy') >= 3
    metrics = mesh.nic.run("curl", "-sS", "-m", "10", "http://127.0.0.1:15020/metrics")
    assert 'outrigger_vm_healthy{' in metrics and 'outrigger_vm_checks_total{' in metrics

    # All of them: a clear no, instead of a request to one that is not well.
    say(mesh, a, "500")
    say(mesh, b, "500")
    wait_until("nobody is left", lambda: not healthy(mesh, a) and not healthy(mesh, b), 30)
    wait_until("the client is refused", lambda: mesh.fetch(client, address) == "", 30)
    say(mesh, b, "200")
    wait_until("one is back", lambda: mesh.fetch(client, address) == "this is " + b.address, 30)


@pytest.mark.parametrize("mesh", [CHECK % "https, path: /healthz"], indirect=True)
def test_a_service_behind_tls_is_as_well_as_it_answers_whatever_its_certificate(mesh):
    a, _, _ = mesh.vms
    pem = mesh.dir + "/web.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", pem, "-out", pem + ".crt", "-subj", "/CN=nobody"],
                   check=True, stderr=subprocess.DEVNULL)
    with open(pem, "a") as to, open(pem + ".crt") as crt:
        to.write(crt.read())
    say(mesh, a, "200")
    a.popen(["python3", "-c", SICK_WEB, a.address, "8080", "%s/health.%s" % (mesh.dir, a.name), pem], "web")
    mesh.register(a)
    wait_until("healthy", lambda: healthy(mesh, a), 30)
    say(mesh, a, "503")
    wait_until("unhealthy", lambda: not healthy(mesh, a), 30)
    assert "https check of port 8080: HTTP status 503" in mesh.service("orders")[0]["health_reason"]
    say(mesh, a, "200")
    wait_until("healthy again", lambda: healthy(mesh, a), 30)


@pytest.mark.parametrize("mesh", [CHECK % "tcp"], indirect=True)
def test_a_service_is_checked_at_the_address_that_it_is_registered_with(mesh):
    """Its VM has another one, which comes first, and where nobody listens."""
    a, _, _ = mesh.vms
    second = "10.66.0.31"
    mesh.discover(a, "nothing")     # the first address is seen first
    a.ip("addr", "add", second + "/24", "dev", "eth0")
    a.run("curl", "-s", "-m", "10", "--interface", second, "http://%s:8500/v1/health/service/nothing" % REGISTRY)
    wait_until("the second address", lambda: any(second in g["addresses"] for g in mesh.get("/v1/guests")["guests"]))
    mesh.serve(a, address=second)
    mesh.register(a, address=second)
    wait_until("healthy", lambda: mesh.service("orders", address=second, health="passing"), 30)
    metrics = mesh.nic.run("curl", "-sS", "-m", "10", "http://127.0.0.1:15020/metrics")
    assert 'address="%s",port="8080"} 1' % second in metrics


@pytest.mark.parametrize("mesh", [CHECK % "tcp"], indirect=True)
def test_what_does_not_listen_yet_joins_when_it_does_and_a_new_proxy_asks_anew(mesh):
    a, _, _ = mesh.vms
    mesh.register(a)
    wait_until("it waits", lambda: mesh.service("orders", health="waiting"), 30)
    wait_until("why", lambda: "refused" in (mesh.service("orders")[0]["health_reason"] or ""), 30)
    wait_until("a member, not a healthy one", lambda: mesh.workload(a) and not healthy(mesh, a), 30)
    mesh.serve(a)
    wait_until("healthy", lambda: healthy(mesh, a), 30)
    changes = mesh.log("edge.controller").count("service's health")
    pid = mesh.proxy(a)[0]["pid"]
    os.kill(pid, 9)
    wait_until("another process", lambda: [p for p in mesh.proxy(a) if p["pid"] != pid], 30)
    wait_until("healthy still", lambda: healthy(mesh, a), 30)
    # What the process that died has seen counts until the new one has looked itself.
    assert mesh.log("edge.controller").count("service's health") == changes


def test_a_new_agent_makes_no_healthy_service_unhealthy():
    with AgentLab("ogh", vms=3, onboarding=onboarding(CHECK % "tcp"), pin=True) as lab:
        lab.start()
        a, _, _ = lab.vms
        lab.serve(a)
        lab.register(a)
        wait_until("healthy", lambda: healthy(lab, a), 30)
        before = lab.log("edge.controller").count("service's health")
        pid = lab.proxy(a)[0]["pid"]
        lab.stop_agent(9)
        lab.start_agent()
        lab.register(a)
        wait_until("it is adopted", lambda: [p for p in lab.proxy(a) if p["pid"] == pid], 30)
        wait_until("the session", lambda: lab.get("/v1/status")["controller"]["state"] == "open", 30)
        wait_until("the agent knows", lambda: lab.service("orders", health="passing"), 30)
        wait_until("the controller has it", lambda: healthy(lab, a), 30)
        assert lab.log("edge.controller").count("service's health") == before      # each change is said there

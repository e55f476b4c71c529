"""What must hold when things go wrong: a fault is put into a small mesh under load, and every request is counted."""

import contextlib
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

import meshconf  # noqa: E402
from agentlab import OUTRIGGER, PROXY  # noqa: E402
from faultlab import NIC_ADDRESS, REGISTRY, STREAM, FaultLab, Stream, Watcher, alive, rss_kib  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

# The client and one server of orders on one NIC, the other on the other: the load goes both ways.
VMS = {"orders-1": "a", "shopper-1": "a", "orders-2": "b"}
HOSTILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib", "hostile.py")


@pytest.fixture
def mesh(request):
    with FaultLab("ogf", **dict({"vms": VMS}, **getattr(request, "param", {}))) as lab:
        yield lab.start()
        for nic in lab.nics.values():
            print("--- %s: last access log lines that say an error" % nic.name, *[x for x in lab.access(nic) if x.get("error")][-5:], sep="\n")


def served(mesh):
    """orders on both NICs and a client; returns the client and the service's virtual address, which answers with both."""
    mesh.join("orders-1", "orders-2")
    mesh.join_client("shopper-1")
    shopper = mesh.vms["shopper-1"]
    vip = wait_until("orders' address", lambda: mesh.virtual_address("orders"))
    wait_until("both answer", lambda: len({mesh.fetch(shopper, vip) for _ in range(4)} - {""}) == 2)
    return shopper, vip


def join_echo(mesh):
    """orders-1 echoes and joins, and shopper-1 becomes a client; returns the service's virtual address."""
    vm = mesh.vms["orders-1"]
    vm.popen([sys.executable, STREAM, "serve", vm.address, 8080, vm.title], "echo")
    wait_until("the VM's server", lambda: ":8080 " in vm.run("ss", "-Hltn"))
    mesh.register(vm)
    mesh.wait_joined("orders-1")
    mesh.join_client("shopper-1")
    return wait_until("orders' address", lambda: mesh.virtual_address("orders"))


def test_nothing_is_lost_when_an_agent_is_killed_and_another_takes_over(mesh):
    shopper, vip = served(mesh)
    a = mesh.nics["a"]
    load = mesh.load(shopper, vip)
    load.goes_on()
    pid = a.pid(shopper)
    a.kill()
    load.goes_on()
    assert alive(pid)
    a.start()
    wait_until("both are adopted", lambda: a.proxy(shopper) and a.proxy(mesh.vms["orders-1"]))
    assert a.pid(shopper) == pid and a.pid(mesh.vms["orders-1"]) == pid
    load.goes_on()
    # Steering is there: without it the plain request would reach the strict VM's server.
    assert mesh.fetch(mesh.reg, mesh.vms["orders-1"].address) == ""
    late = mesh.add_vm("orders-4", "a")
    mesh.join("orders-4")
    assert late.nic.proxy(late)["pid"] == pid
    assert mesh.fetch(mesh.reg, late.address) == ""
    wait_until("it takes its share", lambda: mesh.fetch(shopper, vip) == "hello from orders-4")
    got = load.end()
    assert got["failed"] == 0, got
    assert {"orders-1", "orders-2"} <= set(got["who"]), got


def test_a_strict_vm_that_nobody_remembers_can_register_again(mesh):
    mesh.join("orders-1", "orders-2")
    a, vm = mesh.nics["a"], mesh.vms["orders-1"]
    pid = a.pid(vm)
    a.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until("the proxy's end", lambda: not alive(pid))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(mesh.dir + "/state-a/memory")     # as if they had died before it was written, if they have not
    assert mesh.fetch(vm, REGISTRY, 8500) == ""
    a.start()
    registry = "http://%s:8500/v1/health/service/orders" % REGISTRY
    wait_until("its own flows pass", lambda: vm.run("curl", "-sS", "-m", "1", registry, check=False), 45)     # sooner than all that is left over goes
    assert mesh.fetch(mesh.reg, vm.address) == ""       # but not what comes to it
    mesh.register(vm)
    mesh.wait_joined("orders-1")
    assert mesh.fetch(mesh.reg, vm.address) == ""
    names = glob.glob(mesh.dir + "/run-a/proxies/*/*")
    assert names and not [n for n in names if os.path.basename(n).startswith("%d." % pid)], names     # what the dead one had


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "b", "orders-2": "b"}}], indirect=True)
def test_a_killed_proxy_is_back_and_a_strict_vm_stays_shut_meanwhile(mesh):
    shopper, vip = served(mesh)
    a, vm = mesh.nics["a"], mesh.vms["orders-1"]
    load = mesh.load(shopper, vip)
    outsider = mesh.load(mesh.reg, vm.address)
    load.goes_on()
    pid = a.pid(vm)
    os.kill(pid, signal.SIGKILL)
    wait_until("another process", lambda: a.pid(vm) != pid)
    load.goes_on(who="orders-1").goes_on(who="orders-2")
    # And with no proxy to be had for as long as it takes to look.
    os.rename(mesh.proxy_path, mesh.proxy_path + ".away")
    os.kill(a.pid(vm), signal.SIGKILL)
    wait_until("no proxy", lambda: not a.proxy(vm))
    tries = len(outsider.done())
    wait_until("plain requests meanwhile", lambda: len(outsider.done()) >= tries + 10)
    load.goes_on(who="orders-2")
    os.rename(mesh.proxy_path + ".away", mesh.proxy_path)
    wait_until("a proxy again", lambda: a.proxy(vm))
    load.goes_on(who="orders-1")
    plain, got = outsider.end(), load.end()
    assert plain["requests"] and plain["failed"] == plain["requests"], plain
    # What was inside a process when it was killed is lost; a request is inside for some milliseconds of its 25.
    assert got["failed"] <= 4, got


@pytest.mark.parametrize("mesh", [{"vms": {**VMS, "billing-1": "b"}}], indirect=True)
def test_nothing_is_lost_while_the_controller_is_away(mesh):
    shopper, vip = served(mesh)
    mesh.join("billing-1")
    before, billing = mesh.endpoints("orders"), mesh.vms["billing-1"]
    assert len(before) == 2 and mesh.endpoints("billing")
    load = mesh.load(shopper, vip)
    load.goes_on()
    mesh.kill_controller()
    load.goes_on(60)
    billing.ip("link", "set", "eth0", "down")
    load.goes_on()
    mesh.start_controller()
    for nic in mesh.nics.values():
        wait_until("the session of " + nic.name, nic.connected)
    wait_until("the endpoints of before", lambda: mesh.endpoints("orders") == before)
    assert mesh.virtual_address("orders") == vip
    load.goes_on(who="orders-1").goes_on(who="orders-2")
    wait_until("the dead VM is gone", lambda: not mesh.workload(billing) and not mesh.endpoints("billing"))
    got = load.end()
    assert got["failed"] == 0, got


@pytest.mark.parametrize("mesh", [{"vms": {}, "more": "ca: { nic_ttl: 20s, workload_ttl: 20s, max_ttl: 20s, nic_grace: 0s }\n"}], indirect=True)
def test_a_nic_renews_a_certificate_that_lives_short_in_time(mesh):
    """It joined by a token that serves once: with an expired certificate it stays outside here."""
    begin = time.time()
    mesh.kill_controller()
    wait_until("the time for renewal", lambda: time.time() > begin + 11)
    mesh.start_controller()
    for nic in mesh.nics.values():
        wait_until("the session of " + nic.name, nic.connected)
    wait_until("the end of the first certificates", lambda: time.time() > begin + 21)
    mesh.kill_controller()
    mesh.start_controller()
    for nic in mesh.nics.values():
        wait_until("the session of " + nic.name, nic.connected)


def test_a_port_that_goes_down_costs_nothing_but_what_was_inside(mesh):
    shopper, vip = served(mesh)
    vm = mesh.vms["orders-1"]
    load = mesh.load(shopper, vip)
    load.goes_on(who="orders-1")
    vm.ip("link", "set", "eth0", "down")
    wait_until("one endpoint", lambda: len(mesh.endpoints("orders")) == 1)
    load.goes_on(60, who="orders-2")
    got = load.end()
    inside = [x for x in mesh.access(vm.nic) if x.get("direction") == "inbound" and x.get("error") and x.get("connected")
              and str(x.get("dst.addr", "")).startswith(vm.address + ":")]
    assert got["failed"] <= len(inside), (got, inside)


def test_a_vm_that_moves_takes_its_identity_along(mesh):
    shopper, vip = served(mesh)
    vm = mesh.vms["orders-1"]
    identity = vm.nic.proxy(vm)["identity"]
    load = mesh.load(shopper, vip)
    load.goes_on(who="orders-1")
    watcher = Watcher(lambda: [e for e in mesh.endpoints("orders") if e.startswith(vm.address + ":")])
    uids = Watcher(lambda: [w["uid"] for w in mesh.workload(vm)])
    wait_until("both watch", lambda: watcher.seen and uids.seen)
    mesh.unplug(vm)
    load.goes_on(who="orders-2")
    mesh.plug(vm, "b")
    mesh.register(vm)
    mesh.wait_joined("orders-1")
    assert vm.nic.name == "b" and vm.nic.proxy(vm)["identity"] == identity
    load.goes_on(who="orders-1")
    got = load.end()
    endpoints, seen = watcher.end(), uids.end()
    assert all(len(e) <= 1 for e in endpoints)
    assert all(len(u) <= 1 for u in seen) and len({u for us in seen for u in us}) == 2, seen
    wait_until("the old NIC has forgotten it", lambda: not [g for g in mesh.nics["a"].get("/v1/guests")["guests"] if g["mac"] == vm.mac])
    assert got["failed"] <= 2, got  # what was inside the VM when it left


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "a", "orders-2": "b", "shopper-2": "b"}}], indirect=True)
def test_a_vm_that_migrates_is_taken_over_while_its_old_port_is_up(mesh):
    """There and back, without a registration: the new NIC is told what it offered, and finds it answering."""
    shopper, vip = served(mesh)
    other, vm = mesh.vms["shopper-2"], mesh.vms["orders-1"]
    mesh.join_client("shopper-2")
    wait_until("an answer", lambda: mesh.fetch(other, vip))
    identity = vm.nic.proxy(vm)["identity"]
    load = [mesh.load(v, vip).goes_on(who="orders-1") for v in (shopper, other)]
    watcher = Watcher(lambda: [e for e in mesh.endpoints("orders") if e.startswith(vm.address + ":")])
    uids = Watcher(lambda: [w["uid"] for w in mesh.workload(vm)])
    wait_until("both watch", lambda: watcher.seen and uids.seen)
    for there in ("b", "a"):
        left, port = vm.nic, vm.port
        vm = mesh.migrate("orders-1", there)
        mesh.wait_joined("orders-1")
        assert vm.nic.name == there and vm.nic.proxy(vm)["identity"] == identity
        wait_until("the NIC that it has left lets go", lambda: not [g for g in left.get("/v1/guests")["guests"] if g["mac"] == vm.mac])
        assert "state UP" in left.host.run("ip", "link", "show", port)
        for x in load:
            x.goes_on(who="orders-1").goes_on(who="orders-2")
        assert "/nic-%s/" % there in mesh.workload(vm)[0]["uid"]
    ended = [load[0]]
    load[0].end()
    # A client is one behind the other NIC, too.
    shopper = mesh.migrate("shopper-1", "b", serves=False)
    mesh.wait_joined("shopper-1")
    ended.append(mesh.load(shopper, vip).goes_on(who="orders-1").goes_on(who="orders-2"))
    ended[1].end()
    ended.append(load[1].goes_on())
    ended[2].end()
    endpoints, seen = watcher.end(), uids.end()
    assert all(len(e) <= 1 for e in endpoints)
    assert all(len(u) <= 1 for u in seen) and len({u for us in seen for u in us}) == 3, seen
    for x in ended:
        assert len(x.failed()) <= 4, x.failed()  # what was inside the machine when it left, twice


def test_a_vm_whose_old_port_goes_first_is_known_where_it_turns_up(mesh):
    """It registers nothing. What it offered is remembered, and is no endpoint meanwhile, nor where nobody listens any more."""
    shopper, vip = served(mesh)
    vm, b = mesh.vms["orders-1"], mesh.nics["b"]
    server = [p for p in mesh.processes if p.name == vm.name + ".http8080"][0]
    identity = vm.nic.proxy(vm)["identity"]
    load = mesh.load(shopper, vip).goes_on(who="orders-1")
    mesh.unplug(vm)
    wait_until("it is out", lambda: len(mesh.endpoints("orders")) == 1 and not mesh.workload(vm))
    load.goes_on(who="orders-2")
    mesh.plug(vm, "b")
    talk = vm.popen(["ping", "-q", "-i", "0.3", REGISTRY], "talk")
    mesh.wait_joined("orders-1")
    assert vm.nic is b and b.proxy(vm)["identity"] == identity
    load.goes_on(who="orders-1").goes_on(who="orders-2")
    assert load.end()["failed"] <= 2, load.failed()     # what was inside the VM when it left

    # Back to where it was, but for its server: who turns up may have been started anew.
    mesh.unplug(vm)
    mesh.stop(talk)
    mesh.stop(server)
    load = mesh.load(shopper, vip).goes_on(who="orders-2")
    mesh.plug(vm, "a")
    vm.popen(["ping", "-q", "-i", "0.3", REGISTRY], "talk")
    mesh.wait_joined("orders-1")
    wait_until("it is not well", lambda: not any(w["healthy"] for w in mesh.workload(vm)))
    load.goes_on(60, who="orders-2")
    assert {r["who"] for r in load.done()} == {"orders-2"}
    mesh.serve(vm)
    load.goes_on(who="orders-1")
    assert load.end()["failed"] == 0, load.failed()


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "a"}}], indirect=True)
def test_a_connection_between_neighbours_ends_with_the_vm_and_with_the_permission(mesh):
    """Both are in one process, and no tunnel's end ends it."""
    vm, shopper = mesh.vms["orders-1"], mesh.vms["shopper-1"]
    vip = join_echo(mesh)
    talk = Stream(shopper, vip, 8080, 1).goes_on(2)
    assert not talk.failed()

    forbid = "authorization:\n  - { name: nobody, namespace: shop, selector: { service_account: orders }, rules: [] }\n"
    mesh.write_controller(forbid)
    assert "error" not in mesh.ask("controller.sock", "/v1/reload", {})
    wait_until("its end", lambda: any(x["who"] and x["error"].startswith("data:") for x in talk.failed()))
    mesh.write_controller()
    assert "error" not in mesh.ask("controller.sock", "/v1/reload", {})
    talk.goes_on(2)

    broken = len([x for x in talk.failed() if x["who"]])
    mesh.unplug(vm)
    wait_until("its end", lambda: len([x for x in talk.failed() if x["who"]]) > broken)
    assert mesh.nics["a"].proxy(shopper)["pid"]


def test_a_registration_is_taken_while_the_processors_are_full(mesh):
    """The agent's worker gives way to the proxies, and to whatever else is there; it does not starve."""
    shopper, vip = served(mesh)
    load = mesh.load(shopper, vip, rate=10, seconds=600).goes_on()
    burners = [mesh.net.popen([sys.executable, "-c", "while True: pass"], "burner-%d" % i) for i in range(2 * os.cpu_count())]
    vm = mesh.add_vm("orders-4", "b")
    mesh.serve(vm)
    mesh.register(vm)
    wait_until("it is in the mesh", lambda: mesh.offers(vm, "orders", 8080), 30)
    load.goes_on(who="orders-4")
    assert all(p.poll() is None for p in burners)
    for p in burners:
        p.kill()
    got = load.end()
    assert got["failed"] == 0, got


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "a", "billing-1": "a"}}], indirect=True)
def test_a_hostile_guest_costs_its_neighbours_nothing(mesh):
    mesh.reg.popen([sys.executable, HOSTILE, "zookeeper", REGISTRY], "zookeeper")
    wait_until("ZooKeeper", lambda: ":2181 " in mesh.reg.run("ss", "-Hltn"))
    mesh.join("billing-1")
    shopper, vip = mesh.meet()
    victim, bad, a = mesh.vms["orders-1"], mesh.vms["billing-1"], mesh.nics["a"]
    before, worker, endpoints = rss_kib(a.worker_pid()), a.worker_pid(), mesh.endpoints("orders")
    load = mesh.load(shopper, vip).goes_on()

    # Another's address; a name that is not its own.
    mesh.register(bad, "billing", 8080, "thief", victim.address)
    mesh.register(bad, "orders", 8080, "impostor")
    wait_until("the address is refused", lambda: a.metric("outrigger_claims_refused_total") >= 1)
    (impostor,) = wait_until("the name", lambda: [s for s in a.get("/v1/services")["services"] if s["instance"] == "impostor"])
    assert not impostor["admitted"] and "does not let this guest claim" in impostor["refusal"]
    # Another's address as source.
    bad.run(sys.executable, HOSTILE, "spoof", "eth0", victim.address, REGISTRY, 8500, 2000)
    wait_until("spoofed packets are counted", lambda: a.metric("outrigger_steering_total", what="spoofed") >= 1000)
    # More than anybody has to register, and what nobody can read.
    bad.run(sys.executable, HOSTILE, "create", REGISTRY, 20000, bad.address)
    bad.run(sys.executable, HOSTILE, "noise", REGISTRY, 2000)
    for what in ("senseless", "streams_slept"):
        wait_until(what + " is counted", lambda: a.metric("outrigger_discovery_total", what=what) >= 1)
    load.goes_on()

    assert a.worker_pid() == worker
    grown = rss_kib(worker) - before
    print("the agent grew by %d KiB" % grown)
    assert grown < 32 * 1024
    assert len([s for s in a.get("/v1/services")["services"] if s["guest"].endswith(bad.mac)]) <= 64
    assert mesh.endpoints("orders") == endpoints
    assert all(not s["name"].startswith("flood") for s in mesh.workloads()["services"])
    got = load.end()
    assert got["failed"] == 0, got
    # What a neighbour registers now is still found.
    mesh.serve(victim, 9090)
    mesh.register(victim, "orders", 9090, "orders-1-b")
    wait_until("the neighbour's", lambda: victim.address + ":9090" in mesh.endpoints("orders"))


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "b"}}], indirect=True)
def test_a_bad_configuration_is_refused_and_the_last_one_stays(mesh):
    shopper, vip = mesh.meet()
    load = mesh.load(shopper, vip).goes_on()
    path = mesh.dir + "/controller.yaml"
    with open(path) as f:
        good = f.read()
    for text, line in ((good + "nonsense: 1\n", good.count("\n") + 1),
                       (good.replace("mode: strict", "mode: strickt", 1), good[:good.index("mode: strict")].count("\n") + 1),
                       (good + "authorization: [ {\n", good.count("\n") + 2)):
        mesh.replace("controller.yaml", text)
        r = mesh.ask("controller.sock", "/v1/reload", {})
        assert "%s:%d: " % (path, line) in r["error"], (r, line)
        assert [p["name"] for p in mesh.ask("controller.sock", "/v1/policies")["onboarding"]] == ["orders", "billing", "shoppers"]
        load.goes_on(5)
    mesh.replace("controller.yaml", good.replace("name: billing\n", "name: accounts\n", 1))
    assert "error" not in mesh.ask("controller.sock", "/v1/reload", {})
    assert [p["name"] for p in mesh.ask("controller.sock", "/v1/policies")["onboarding"]] == ["orders", "accounts", "shoppers"]
    load.goes_on()
    assert mesh.endpoints("orders") and load.end()["failed"] == 0


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "b"}, "nofile": {"b": 560}}], indirect=True)
def test_without_descriptors_load_is_shed_and_comes_back(mesh):
    shopper, vip = mesh.meet()
    b = mesh.nics["b"]
    pids = (b.proxy(shopper)["pid"], b.worker_pid(), b.process.pid)
    load = mesh.load(shopper, vip, rate=50).goes_on()
    hogs = []
    with shopper.inside():
        for _ in range(600):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex((vip, 8080))
            hogs.append(s)
    for _ in range(300):
        s = socket.socket(socket.AF_UNIX)
        s.setblocking(False)
        s.connect_ex(mesh.dir + "/run-b/agent.sock")
        hogs.append(s)
    wait_until("requests that found no descriptor", load.failed)
    late = mesh.add_vm("orders-3", "b")
    mesh.serve(late)
    mesh.register(late)
    load.answered_or_not(20)
    for s in hogs:
        s.close()
    load.goes_on(50)
    mesh.register(late)
    mesh.wait_joined("orders-3")
    load.goes_on(who="orders-3").end()
    assert (b.proxy(shopper)["pid"], b.worker_pid(), b.process.pid) == pids


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "b"}, "nofile": {"a": 192, "b": 192}}], indirect=True)
def test_a_proxy_with_few_descriptors_serves_with_fewer(mesh):
    shopper, vip = mesh.meet()
    load = mesh.load(shopper, vip).goes_on(60)
    got = load.end()
    assert got["failed"] == 0, got


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a"}, "nofile": {"a": 80}}], indirect=True)
def test_a_proxy_that_cannot_have_the_descriptors_that_it_needs_says_so(mesh):
    mesh.serve(mesh.vms["orders-1"])
    mesh.register(mesh.vms["orders-1"])
    wait_until("its refusal", lambda: "80 descriptors are too few" in mesh.nics["a"].log())
    assert not mesh.nics["a"].proxy(mesh.vms["orders-1"])


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "b", "orders-2": "b"}, "disk": "2m"}], indirect=True)
def test_a_full_disk_stops_the_controller_from_nothing_but_writing(mesh):
    shopper, vip = mesh.meet()
    load = mesh.load(shopper, vip).goes_on()
    with open(mesh.state + "/ballast", "wb", buffering=0) as f:
        with pytest.raises(OSError):
            while True:
                f.write(bytes(1024))
    answers = [mesh.ask("controller.sock", "/v1/tokens", {"nic": "nic-%d" % i}) for i in range(200)]
    assert any("cannot be written" in r.get("error", "") for r in answers), answers[-1]
    mesh.serve(mesh.vms["orders-2"])
    mesh.register(mesh.vms["orders-2"])
    load.goes_on()
    assert mesh.controller.poll() is None
    os.unlink(mesh.state + "/ballast")
    wait_until("it can write again", lambda: "token" in mesh.ask("controller.sock", "/v1/tokens", {"nic": "nic-after"}))
    mesh.wait_joined("orders-2")
    load.goes_on(who="orders-2")
    # And what is on the disk is whole.
    mesh.kill_controller()
    mesh.start_controller()
    for nic in mesh.nics.values():
        wait_until("the session of " + nic.name, nic.connected)
    assert mesh.virtual_address("orders") == vip
    got = load.goes_on().end()
    assert got["failed"] == 0, got


def newer_proxy(mesh, title="outrigger-proxy.2"):
    """Another build of the program takes the place of the installed one, as a package manager does it."""
    path = os.path.join(mesh.dir, title)
    shutil.copy(PROXY, path)
    os.chmod(path, 0o755)
    os.symlink(path, mesh.proxy_path + ".new")
    os.rename(mesh.proxy_path + ".new", mesh.proxy_path)


def upgrade(mesh, nic):
    return subprocess.run([OUTRIGGER, "proxies", "--agent", mesh.dir + "/run-%s/agent.sock" % nic, "upgrade"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)


def test_nothing_is_lost_when_a_proxy_is_replaced(mesh):
    shopper, vip = served(mesh)
    a, vm = mesh.nics["a"], mesh.vms["orders-1"]
    uid = Watcher(lambda: [w["uid"] for w in mesh.workload(vm)])
    endpoints = Watcher(lambda: mesh.endpoints("orders"))
    load = mesh.load(shopper, vip, rate=100)
    outsider = mesh.load(mesh.reg, vm.address)
    load.goes_on(who="orders-1").goes_on(who="orders-2")
    for i in range(3):
        pid = a.pid(vm)
        newer_proxy(mesh, "outrigger-proxy.%d" % i)
        assert [p["outdated"] for p in a.get("/v1/processes")["processes"] if p["state"] == "running"] == [True]
        r = upgrade(mesh, "a")
        assert r.returncode == 0, (r.stdout, a.log()[-3000:])
        assert a.pid(vm) != pid and a.pid(shopper) != pid
        assert [p["outdated"] for p in a.get("/v1/processes")["processes"] if p["state"] == "running"] == [False]
        load.goes_on(40, who="orders-1").goes_on(40, who="orders-2")
        wait_until("the old one's end", lambda: not alive(pid))
        load.goes_on(who="orders-1").goes_on(who="orders-2")
    plain, got = outsider.end(), load.end()
    assert got["failed"] == 0, (got, [r for r in load.done() if r["error"]][:5])
    assert plain["requests"] and plain["failed"] == plain["requests"], plain
    # The mesh has not noticed.
    assert len({str(u) for u in uid.end()}) == 1
    assert len({str(e) for e in endpoints.end()}) == 1


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "b"}, "upgrade_drain": "300s"}], indirect=True)
def test_a_replaced_proxy_lets_go_of_a_vm_that_is_gone(mesh):
    vm, shopper, a = mesh.vms["orders-1"], mesh.vms["shopper-1"], mesh.nics["a"]
    talk = Stream(shopper, join_echo(mesh), 8080, 1).goes_on(2)
    old = a.pid(vm)
    r = upgrade(mesh, "a")
    assert r.returncode == 0, r.stdout
    assert a.pid(vm) != old
    talk.goes_on(2)

    def spoken_for():
        return a.host.run("ss", "-Hnt", "state", "connected", "exclude", "time-wait", "src", vm.address)
    assert spoken_for() and alive(old)
    mesh.unplug(vm)         # it may be elsewhere in a moment: nobody is to send anything with its MAC address any more
    wait_until("nobody speaks in its name", lambda: not spoken_for())
    talk.process.kill()


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "a"}, "upgrade_drain": "600s"}], indirect=True)
def test_a_proxy_that_drains_is_seen_until_it_ends(mesh):
    """By the agent that has replaced it, and by the next one."""
    a, vm = mesh.nics["a"], mesh.vms["orders-1"]
    talk = Stream(mesh.vms["shopper-1"], join_echo(mesh), 8080, 3).goes_on(6)
    old = a.pid(vm)
    newer_proxy(mesh)
    assert upgrade(mesh, "a").returncode == 0, a.log()[-3000:]

    def drains():
        found = [p for p in a.get("/v1/processes")["processes"] if p["pid"] == old]
        return found and found[0]["state"] == "draining" and found[0]["connections"] and found[0]

    def seen():
        """It drains, and of both processes there are metrics; nothing is in them twice."""
        wait_until("it drains", drains)
        assert a.pid(vm) != old
        wait_until("its metrics", lambda: a.metric("outrigger_vm_connections", draining=str(old)) >= 3)
        text = a.host.run("curl", "-sS", "-m", "10", "http://127.0.0.1:15020/metrics").splitlines()
        series = [line.rsplit(" ", 1)[0] for line in text if not line.startswith("#")]
        assert len(series) == len(set(series)), [x for x in series if series.count(x) > 1][:5]
        assert len([x for x in series if x.startswith("outrigger_proxy_vms")]) == 2
        listed = subprocess.run([OUTRIGGER, "proxies", "--agent", mesh.dir + "/run-a/agent.sock", "processes"], stdout=subprocess.PIPE, text=True, timeout=60).stdout
        assert [line for line in listed.splitlines() if str(old) in line and "draining" in line], listed
        vms = json.loads(subprocess.run(["curl", "-sS", "-m", "10", "--unix-socket", glob.glob(mesh.dir + "/run-a/proxies/*/%d.admin" % old)[0], "http://x/vms"],
                                        stdout=subprocess.PIPE, text=True).stdout)
        assert sum(v["connections"] for v in vms) >= 3, vms
    talk.goes_on(6)
    seen()
    a.kill()
    a.start()
    wait_until("the other one is adopted", lambda: a.proxy(vm))
    seen()
    talk.goes_on(6)
    assert not talk.failed()
    talk.end()
    wait_until("its end", lambda: not alive(old))
    wait_until("it is not shown", lambda: old not in [p["pid"] for p in a.get("/v1/processes")["processes"]])
    assert not glob.glob(mesh.dir + "/run-a/proxies/*/%d.*" % old)


def test_a_proxy_that_cannot_be_replaced_serves_on(mesh):
    shopper, vip = served(mesh)
    a, vm = mesh.nics["a"], mesh.vms["orders-1"]
    load = mesh.load(shopper, vip).goes_on()
    pid = a.pid(vm)
    broken = os.path.join(mesh.dir, "broken")
    with open(broken, "w") as f:
        f.write("#!/bin/sh\nexit 1\n")
    os.chmod(broken, 0o755)
    os.symlink(broken, mesh.proxy_path + ".new")
    os.rename(mesh.proxy_path + ".new", mesh.proxy_path)
    r = upgrade(mesh, "a")
    assert r.returncode == 1 and "given up" in r.stdout, r.stdout
    load.goes_on()
    assert a.pid(vm) == pid
    newer_proxy(mesh)
    assert upgrade(mesh, "a").returncode == 0
    got = load.goes_on().end()
    assert got["failed"] == 0, got


def test_an_agent_that_is_upgraded_replaces_the_proxies_it_adopts(mesh):
    shopper, vip = served(mesh)
    a = mesh.nics["a"]
    load = mesh.load(shopper, vip).goes_on()
    pid = a.pid(shopper)
    newer_proxy(mesh)
    a.process.terminate()
    a.process.wait(30)
    load.goes_on()
    assert alive(pid)
    a.start()
    wait_until("another process", lambda: a.pid(shopper) != pid)
    wait_until("the old one's end", lambda: not alive(pid))
    load.goes_on(who="orders-1").goes_on(who="orders-2")
    # And the one after that finds nothing to do.
    pid = a.pid(shopper)
    a.kill()
    a.start()
    wait_until("it is adopted", lambda: a.proxy(shopper))
    load.goes_on(60)
    assert a.pid(shopper) == pid
    got = load.end()
    assert got["failed"] == 0, got


def test_without_a_controller_a_killed_or_replaced_proxy_serves_with_the_last_configuration(mesh):
    shopper, vip = served(mesh)
    a, vm = mesh.nics["a"], mesh.vms["orders-1"]
    identity = a.proxy(vm)["identity"]
    kept = mesh.dir + "/state-a/proxies"
    wait_until("the configuration is on the disk", lambda: any(os.path.getsize(os.path.join(kept, f)) for f in os.listdir(kept)))
    load = mesh.load(shopper, vip).goes_on()
    # Until what it knows of the destination is on the disk, too.
    wait_until("with the service", lambda: any(b"orders" in open(os.path.join(kept, f), "rb").read() for f in os.listdir(kept)))
    mesh.kill_controller()
    load.goes_on()
    a.process.terminate()       # another agent has their certificates from the proxies that it adopts
    a.process.wait(60)
    a.start()
    wait_until("they are adopted", lambda: a.proxy_of(vm) and a.proxy_of(shopper))
    assert upgrade(mesh, "a").returncode == 0, a.log()[-3000:]
    load.goes_on(who="orders-1").goes_on(who="orders-2")
    before = len(load.failed())
    assert before == 0, load.failed()[:5]
    pid = a.proxy_of(vm)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until("another process", lambda: [p for p in [a.proxy_of(vm)] if p and p["pid"] != pid and p["state"] == "degraded"])
    assert a.proxy_of(vm)["identity"] == identity
    load.goes_on(60, who="orders-1").goes_on(60, who="orders-2")
    # No key on the disk.
    for root, _, files in os.walk(mesh.dir + "/state-a/proxies"):
        for f in files:
            with open(os.path.join(root, f), "rb") as g:
                assert b"PRIVATE KEY" not in g.read()
    mesh.start_controller()
    wait_until("ready again", lambda: a.proxy(vm) and a.proxy(shopper))
    load.goes_on()
    got = load.end()
    assert got["failed"] <= 4, got  # what was inside the killed process


TWO_CLIENTS = {"vms": {"shopper-1": "a", "shopper-2": "a", "orders-1": "b"}}


def two_clients(mesh):
    """Behind one NIC, in one process: both are in the mesh, only the first has asked for orders."""
    mesh.join("orders-1")
    for name in ("shopper-1", "shopper-2"):
        mesh.join_client(name)
    vip = wait_until("orders' address", lambda: mesh.virtual_address("orders"))
    wait_until("an answer", lambda: mesh.fetch(mesh.vms["shopper-1"], vip))
    return vip


@pytest.mark.parametrize("mesh", [TWO_CLIENTS], indirect=True)
def test_what_a_vm_uses_stays_when_who_asked_for_it_goes(mesh):
    vip, a, (first, second) = two_clients(mesh), mesh.nics["a"], [mesh.vms[name] for name in ("shopper-1", "shopper-2")]
    assert mesh.fetch(second, vip)
    mesh.unplug(first)
    wait_until("the first is gone", lambda: not mesh.workload(first) and not a.proxy_of(first))
    mesh.kill_controller()
    assert mesh.fetch(second, vip, timeout=30)


@pytest.mark.parametrize("mesh", [TWO_CLIENTS], indirect=True)
def test_what_a_killed_proxy_knew_is_known_when_the_controller_goes_later(mesh):
    vip, a = two_clients(mesh), mesh.nics["a"]
    kept = mesh.dir + "/state-a/proxies"
    wait_until("it is on the disk", lambda: any(b"orders" in open(os.path.join(kept, f), "rb").read() for f in os.listdir(kept)))
    os.kill(a.pid(mesh.vms["shopper-1"]), signal.SIGKILL)
    wait_until("the controller's word is in force again", lambda: "the last configuration has had its time" in a.log())
    mesh.kill_controller()
    for name in ("shopper-1", "shopper-2"):
        assert mesh.fetch(mesh.vms[name], vip, timeout=30), name


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "b"}}], indirect=True)
def test_an_agents_configuration_is_read_again_whole_or_not_at_all(mesh):
    shopper, vip = mesh.meet()
    vm, a = mesh.vms["orders-1"], mesh.nics["a"]
    load = mesh.load(shopper, vip).goes_on()
    pids = (a.worker_pid(), a.pid(vm))
    path = mesh.dir + "/agent-a.yaml"
    with open(path) as f:
        good = f.read()

    def name():
        (g,) = [g for g in a.get("/v1/guests")["guests"] if g["mac"] == vm.mac]
        return g["name"]

    def reload(text):
        mesh.replace("agent-a.yaml", text)
        return mesh.ask("run-a/agent.sock", "/v1/reload", {})

    other = good.replace("name: orders-1 }", "name: orders-one }")
    assert other != good
    for bad, line in ((other + "nonsense: 1\n", other.count("\n") + 1), (other.replace("level: info", "level: loud"), None),
                      (other + "guests: [ {\n", None), ("", None), (other.replace("nic: nic-a\n", ""), None)):
        error = reload(bad)["error"]
        assert error.startswith(path) and (not line or "%s:%d: " % (path, line) in error), error
        assert name() == "orders-1"
        assert [c for c in a.get("/v1/check")["checks"] if not c["ok"] and c["what"] == "the configuration file is taken"]
    os.unlink(path)
    assert "No such file" in mesh.ask("run-a/agent.sock", "/v1/reload", {})["error"]
    load.goes_on()
    assert reload(other.replace("uplinks: [up0]", "uplinks: [up0, up9]").replace("nic: nic-a", "nic: nic-z"))["restart_needed_for"] == ["nic", "uplinks"]
    wait_until("another name", lambda: name() == "orders-one")
    assert a.get("/v1/status")["nic_id"] == "nic-a"
    load.goes_on()
    mesh.replace("agent-a.yaml", good)
    os.kill(a.process.pid, signal.SIGHUP)
    wait_until("the name of before", lambda: name() == "orders-1")
    assert not [c for c in a.get("/v1/check")["checks"] if not c["ok"] and c["what"] == "the configuration file is taken"]
    got = load.goes_on().end()
    assert got["failed"] == 0, got
    assert (a.worker_pid(), a.pid(vm)) == pids


@pytest.mark.parametrize("mesh", [{"vms": {"orders-1": "a", "shopper-1": "b"}}], indirect=True)
def two_tenants(mesh):
    """billing is another tenant's: a proxy process, and so a user, of its own on a. Both are in the mesh."""
    mesh.join("orders-1", "billing-1")
    mesh.join_client("shopper-1")
    shopper = mesh.vms["shopper-1"]
    vips = [wait_until("the address of " + s, lambda: mesh.virtual_address(s)) for s in ("orders", "billing")]
    for vip in vips:
        wait_until("an answer", lambda: mesh.fetch(shopper, vip))
    return shopper, vips


TENANTS = {"namespaces": "shop, bank", "vms": {"orders-1": "a", "billing-1": "a", "shopper-1": "b"},
           "onboarding": meshconf.ORDERS + meshconf.SHOPPERS + meshconf.policy("billing", "billing-*", namespace="bank", services=["billing"])}


@pytest.mark.parametrize("mesh", [TENANTS], indirect=True)
def test_tenants_write_to_one_access_log_and_to_the_next_one(mesh):
    shopper, vips = two_tenants(mesh)
    a = mesh.nics["a"]
    log = mesh.dir + "/run-a/proxies/access.log"
    processes = {p["group"]: p["pid"] for p in a.get("/v1/processes")["processes"]}
    uids = {open("/proc/%d/status" % p).read().split("Uid:")[1].split()[0] for p in processes.values()}
    assert len(processes) == len(uids) == 2, uids
    assert os.stat(log).st_uid == 0  # of the monitor: no proxy has a name for it

    def names():
        return {x["dst.workload"] for x in mesh.access(a) if x.get("direction") == "inbound"}
    wait_until("lines of both", lambda: {"orders-1", "billing-1"} <= names())

    load = [mesh.load(shopper, vip) for vip in vips]
    for x in load:
        x.goes_on()
    os.rename(log, log + ".1")  # as logrotate does, and then its postrotate:
    a.process.send_signal(signal.SIGHUP)
    wait_until("a new file", lambda: os.path.exists(log))
    for x in load:
        x.goes_on()
    wait_until("lines of both in the new file", lambda: {"orders-1", "billing-1"} <= names())
    size = os.stat(log + ".1").st_size
    for x in load:
        x.goes_on()
        result = x.end()
        assert not x.failed(), result
    assert os.stat(log + ".1").st_size == size  # nobody writes to the old one any more
    for name in (log, log + ".1"):
        with open(name) as f:
            lines = f.read().splitlines()
        assert len([json.loads(x) for x in lines]) == len(lines) > 0
    assert {p["group"]: p["pid"] for p in a.get("/v1/processes")["processes"]} == processes


# What a tenant's proxy that was taken over could try with the sockets of another group: take its names, or take them away.
GRABBER = """
import json, os, socket, sys
proxies, group = sys.argv[1:3]
folder = os.path.join(proxies, group)
names = [os.path.join(folder, n) for n in os.listdir(folder) + ["1.resume", "1.admin", "1.draining", "x"]] + [folder + "~", os.path.join(proxies, "ns-another")]

def bind(path):
    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(path)

tries = [(what.__name__, path) for path in names for what in (bind, os.unlink, os.mkdir)]
tries += [("rmdir", folder), ("chmod", folder), ("rename", folder), ("rename", proxies)]
done = {"bind": bind, "chmod": lambda p: os.chmod(p, 0o777), "rename": lambda p: os.rename(p, p + ".away")}
for what, path in tries:
    try:
        done.get(what, getattr(os, what, None))(path)
        print("did", what, path)
    except PermissionError:
        pass
    except OSError as e:
        if what == "unlink" and isinstance(e, FileNotFoundError) or what in ("bind", "mkdir") and os.path.exists(path):
            continue
        print("could", what, path, e)
print("%d tries" % len(tries), flush=True)
"""

# And should it get that far: answer in a neighbour's name when a new agent looks for its predecessor's proxies.
IMPOSTOR = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
s.listen()
print("listens", flush=True)
c, _ = s.accept()
print("got %d bytes" % len(c.recv(65536)), flush=True)
"""


def as_tenant(uid, gid, folder, *argv):
    return ["setpriv", "--reuid", uid, "--regid", gid, "--groups", os.stat(folder).st_gid, sys.executable, "-c", *argv]


@pytest.mark.parametrize("mesh", [{**TENANTS, "grace": "60s"}], indirect=True)
def test_a_proxy_cannot_pose_as_another_groups(mesh):
    shopper, vips = two_tenants(mesh)
    a = mesh.nics["a"]
    pids = {p["group"].split("-")[1]: (p["group"], p["pid"]) for p in a.get("/v1/processes")["processes"]}
    uids = {n: int(open("/proc/%d/status" % pid).read().split("Uid:")[1].split()[0]) for n, (_, pid) in pids.items()}
    folder = mesh.dir + "/run-a/proxies"
    grab = as_tenant(uids["shop"], uids["shop"], folder, GRABBER, folder, pids["bank"][0])

    def grabs_nothing():
        out = a.host.run(*grab).splitlines()
        assert len(out) == 1 and int(out[0].split()[0]) > 20, out
    load = [mesh.load(shopper, vip).goes_on() for vip in vips]
    grabs_nothing()
    a.kill()
    grabs_nothing()
    os.kill(pids["bank"][1], signal.SIGKILL)
    wait_until("its end", lambda: not alive(pids["bank"][1]))
    grabs_nothing()
    load[0].goes_on()
    impostor = a.host.popen(as_tenant(uids["shop"], uids["bank"], folder, IMPOSTOR, "%s/%s/1.resume" % (folder, pids["bank"][0])), "impostor")
    wait_until("the impostor", lambda: "listens" in mesh.log("a.impostor"))
    a.start()
    wait_until("its answer", lambda: " bytes" in mesh.log("a.impostor"))
    assert "got 0 bytes" in mesh.log("a.impostor")              # it is not even told hello
    assert "a stranger listens on a resume socket" in a.log()
    billing, orders = mesh.vms["billing-1"], mesh.vms["orders-1"]
    mesh.register(billing)      # in case that the agent was killed before it wrote the first one down
    wait_until("proxies", lambda: a.proxy(billing) and a.proxy(orders))
    assert a.pid(orders) == pids["shop"][1]            # adopted
    assert a.pid(billing) not in (impostor.pid, pids["bank"][1])
    for x in load:
        x.goes_on()
    grabs_nothing()
    assert load[0].end()["failed"] == 0
    load[1].end()


@pytest.mark.parametrize("mesh", [TENANTS], indirect=True)
def test_an_access_log_that_cannot_be_had_costs_nothing_else(mesh):
    """A name that leads elsewhere, as whoever may write to the folder could make one, is not followed."""
    a = mesh.nics["a"]
    log, secret = mesh.dir + "/run-a/proxies/access.log", mesh.dir + "/secret"
    with open(secret, "w") as f:
        f.write("nothing is appended here\n")
    shopper, vips = two_tenants(mesh)
    os.unlink(log)
    os.symlink(secret, log)
    a.process.send_signal(signal.SIGHUP)
    wait_until("it is said", lambda: "the access log cannot be opened" in a.log())
    os.unlink(log)
    os.link(secret, log)
    n = a.log().count("the access log cannot be opened")
    a.process.send_signal(signal.SIGHUP)
    wait_until("it is said again", lambda: a.log().count("the access log cannot be opened") > n)
    for vip in vips:
        assert mesh.fetch(shopper, vip)
    with open(secret) as f:
        assert f.read() == "nothing is appended here\n"
    os.unlink(log)
    a.process.send_signal(signal.SIGHUP)
    wait_until("the file", lambda: os.path.exists(log))
    wait_until("a line", lambda: [mesh.fetch(shopper, vip) for vip in vips] and mesh.access(a))


def test_certificates_ride_out_a_controller_that_is_away_and_are_renewed_when_it_is_back(mesh):
    """An hour of a day's certificate, 1000 times as fast: tokens end meanwhile, certificates do not."""
    mesh.kill_controller()
    mesh.start_controller("ca: { nic_ttl: 90s, workload_ttl: 90s, max_ttl: 90s }\ntokens: { workload_ttl: 3s }\n")
    for nic in mesh.nics.values():
        wait_until("the session of " + nic.name, nic.connected)
    shopper, vip = mesh.meet()
    vm = mesh.vms["orders-1"]

    def ends(v):
        p = v.nic.proxy_of(v)
        return p and p["cert_expires_in_s"] is not None and time.time() + p["cert_expires_in_s"]

    before = {v.title: ends(v) for v in (vm, shopper)}
    assert all(0 < e - time.time() <= 91 for e in before.values()), before
    load = mesh.load(shopper, vip).goes_on()
    mesh.kill_controller()
    load.goes_on(400)       # ten seconds of them
    mesh.start_controller("ca: { nic_ttl: 90s, workload_ttl: 90s, max_ttl: 90s }\ntokens: { workload_ttl: 3s }\n")
    for v in (vm, shopper):
        wait_until("another certificate of " + v.title, lambda: v.nic.proxy(v) and ends(v) > before[v.title] + 5, 90)
        wait_until("in the mesh", lambda: mesh.workload(v))
    load.goes_on()
    got = load.end()
    assert got["failed"] == 0, got


SHORT_LIVES = "ca: { nic_ttl: 20s, workload_ttl: 20s, max_ttl: 20s }\n"


def expired(mesh):
    """All certificates of NICs and VMs are over."""
    for nic in mesh.nics.values():
        wait_until("the end of the certificate of " + nic.name, lambda: nic.metric("outrigger_nic_certificate_expiry_seconds") <= time.time(), 60)
        wait_until("the end of those of its VMs", lambda: all((p["cert_expires_in_s"] or 0) <= 0 for p in nic.get("/v1/proxies")["proxies"]), 60)


def came_back(mesh, n):
    """@n certificates were given for expired ones, and nobody has made a join token."""
    metrics = mesh.ask_text("controller.sock", "/metrics")
    assert re.search(r"^outrigger_nic_recovered_total %d$" % n, metrics, re.M), metrics
    assert {t["state"] for t in mesh.ask("controller.sock", "/v1/tokens")["tokens"]} == {"used"}


@pytest.mark.parametrize("mesh", [{"vms": {**VMS, "billing-1": "b"}, "more": SHORT_LIVES}], indirect=True)
def test_an_outage_that_outlives_all_certificates_ends_by_itself(mesh):
    """The controller is away for longer than any certificate lives: then there is traffic again, and nobody has done anything."""
    shopper, vip = served(mesh)
    echo = mesh.vms["billing-1"]
    echo.popen([sys.executable, STREAM, "serve", echo.address, 8080, echo.title], "echo")
    wait_until("the echo", lambda: ":8080 " in echo.run("ss", "-Hltn"))
    mesh.register(echo)
    mesh.wait_joined("billing-1")
    talk = Stream(shopper, wait_until("billing's address", lambda: mesh.virtual_address("billing")), 8080, 1, seconds=600).goes_on(2)
    mesh.kill_controller()
    expired(mesh)
    wait_until("no more connections", lambda: not mesh.fetch(shopper, vip))
    talk.goes_on(2)         # but what is open goes on
    mesh.start_controller()
    for nic in mesh.nics.values():
        wait_until("the session of " + nic.name, nic.connected, 60)
    wait_until("both answer", lambda: len({mesh.fetch(shopper, vip) for _ in range(4)} - {""}) == 2, 60)
    load = mesh.load(shopper, vip)
    load.goes_on(200, who="orders-1").goes_on(who="orders-2")
    got = load.end()
    assert got["failed"] == 0, got
    talk.goes_on(2)
    assert not [x for x in talk.end() if x["error"]]
    came_back(mesh, 2)


@pytest.mark.parametrize("mesh", [{"vms": VMS, "more": SHORT_LIVES}], indirect=True)
def test_a_nic_that_was_away_for_longer_than_its_certificate_lives_comes_back(mesh):
    """Its server was off: agent and proxies are gone, and with them all keys but the NIC's."""
    shopper, vip = served(mesh)
    b, vm = mesh.nics["b"], mesh.vms["orders-2"]
    begin, proxy = time.time(), b.proxy(vm)["pid"]
    b.kill()
    os.kill(proxy, signal.SIGKILL)
    load = mesh.load(shopper, vip).goes_on(who="orders-1")
    wait_until("the end of its certificate", lambda: time.time() > begin + 21, 60)
    b.start()
    wait_until("its session", b.connected, 60)
    mesh.register(vm)
    mesh.wait_joined("orders-2")
    load.goes_on(who="orders-1").goes_on(who="orders-2")
    load.end()
    came_back(mesh, 1)


def test_a_server_without_power_leaves_no_endpoints(mesh):
    """Nobody says good-bye for it: neither its VMs, nor agent and proxies, nor its kernel, which would reset connections."""
    shopper, vip = served(mesh)
    b, vm = mesh.nics["b"], mesh.vms["orders-2"]
    mesh.power_off(b, [vm])
    # By gRPC's defaults a silent peer is noticed after 80 s.
    wait_until("its VM is out", lambda: not mesh.workload(vm) and mesh.endpoints("orders") == [mesh.vms["orders-1"].address + ":8080"], 60)
    mesh.load(shopper, vip).goes_on(who="orders-1").end()


def test_what_goes_to_a_proxy_that_hangs_goes_elsewhere(mesh):
    """Its kernel answers for it, so that nothing but time tells."""
    shopper, vip = served(mesh)
    load = mesh.load(shopper, vip, seconds=600).goes_on(who="orders-2")
    pid = mesh.nics["b"].proxy(mesh.vms["orders-2"])["pid"]
    begin = len(load.done())
    os.kill(pid, signal.SIGSTOP)
    wait_until("one was tried there first", lambda: [r for r in load.done()[begin:] if r["ms"] > 4000 and r["who"] == "orders-1"], 60)
    load.goes_on(100, who="orders-1")
    os.kill(pid, signal.SIGCONT)
    load.goes_on(20, who="orders-2")
    load.end()
    assert not load.failed()


def test_one_port_of_a_client_leads_to_a_vm_by_two_addresses(mesh):
    """What a client's kernel tells apart by where it goes arrives at one place: there one of both has another port."""
    mesh.join("orders-1")
    mesh.join_client("shopper-1")
    vip = wait_until("orders' address", lambda: mesh.virtual_address("orders"))
    shopper = mesh.vms["shopper-1"]
    wait_until("it answers", lambda: mesh.fetch(shopper, vip))
    opened = []
    with shopper.inside():
        for to in (mesh.vms["orders-1"].address, vip):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((shopper.address, opened[0].getsockname()[1] if opened else 0))
            s.connect((to, 8080))
            s.settimeout(30)
            opened.append(s)
    for s in reversed(opened):
        s.sendall(b"GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")
        assert b"orders-1" in b"".join(iter(lambda: s.recv(65536), b""))
        s.close()


@pytest.mark.parametrize("mesh", [{"grace": "1s"}], indirect=True)
def test_what_goes_to_a_server_without_power_goes_elsewhere(mesh):
    """Its peers' kernels have no answer: what they have not handed over yet goes to others, and what is open ends when the mesh has lost it, too."""
    shopper, vip = served(mesh)
    b, vm = mesh.nics["b"], mesh.vms["orders-2"]
    held = []

    def hold(to, n):
        with shopper.inside():
            held.extend(socket.create_connection((to, 8080), 30) for _ in range(n))     # they say nothing

    def goes_to(who):
        hold(mesh.vms["orders-1"].address, 1)       # until the other one is the less busy, for every worker that has load
        return sum(r["who"] == who for r in load.done()[-8:]) >= 4

    hold(vip, 8)
    load = mesh.load(shopper, vip, seconds=600)
    wait_until("new ones go to it", lambda: goes_to("orders-2"))
    mesh.power_off(b, [vm])
    dead = time.time()
    load.goes_on(100)
    mesh.edge.run("ss", "-tK", "dst", NIC_ADDRESS["b"])     # the controller need not wait: peers ask for half a minute whether it is there
    wait_until("its VM is out", lambda: not mesh.workload(vm), 60)
    wait_until("those that it had are ended", lambda: [x for x in mesh.access(mesh.nics["a"]) if "has left the mesh" in (x.get("error") or "")], 60)
    load.goes_on(200)
    load.end()
    assert not [r for r in load.failed() if r["at"] > dead], load.failed()
    for c in held:
        c.close()

"""The faults: one function each, and what it may cost. Whatever it does is undone when it returns, and healed when the traffic goes on."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

from faultlab import EDGE, NIC_ADDRESS, REGISTRY, alive, limit
from flavour import sanitizer
from netlab import wait_until
from soak import CART, ECHO, LOSS, OUTRIGGER, PATIENCE_S, SPARE, VMS, WEB, Failed

HOSTILE, FLOOD = (os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib", name) for name in ("hostile.py", "flood.py"))
CHURN = """
import http.client, json, random, sys
registry, address, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng, on = random.Random(seed), set()
c = http.client.HTTPConnection(registry, 8500, timeout=30)
def put(path, body=""):
    c.request("PUT", path, body)
    c.getresponse().read()
for n in range(count):
    i = rng.randrange(12)
    if i in on and rng.random() < 0.5:
        on.remove(i)
        put("/v1/agent/service/deregister/churn-%d" % i)
    else:
        on.add(i)
        put("/v1/agent/service/register", json.dumps({"Name": "churn-%d" % (i % 4), "ID": "churn-%d" % i, "Address": address, "Port": 9000 + i}))
for i in on:
    put("/v1/agent/service/deregister/churn-%d" % i)
"""


class Fault:
    """@kills: beginnings of the roles whose processes it replaces; %s is the younger NIC."""

    def __init__(self, name, run, kills=(), needs=lambda: True):
        self.name = name
        self.run = run
        self.killed = kills
        self.needs = needs

    def kills(self, soak):
        return [k.replace("%s", soak.younger) for k in self.killed]


def until(what, condition):
    return wait_until(what, condition, PATIENCE_S, 0.05)


def somebody_else(s, nic):
    """Somebody has to be left to ask when what is behind @nic cannot be reached: a strict VM is refused to all while its proxy is away."""
    if all(s.lab.vms[title].nic is nic for title in ("orders-1", "orders-2")):
        move(s, orders(s))


# --- the mesh's own programs ---

def take_over(s, nic, pids):
    """Another agent starts, and keeps the proxies."""
    s.goes_on(2)
    nic.start()
    until("the session of the new agent", nic.connected)
    vms = [vm for vm in s.lab.vms.values() if vm.nic is nic and vm.title in pids]
    for vm in vms:
        if until("the proxy of " + vm.title, lambda: proxy_pid(nic, vm)) != pids[vm.title]:
            raise Failed("the proxy of %s was not adopted" % vm.title)


def proxy_pid(nic, vm):
    """Of the process that serves it; None: none does now."""
    p = nic.proxy(vm)
    return p and p["pid"]


def ready(vm):
    """Its proxy, as soon as it says so."""
    return until("the proxy of " + vm.title, lambda: vm.nic.proxy(vm))


def proxy_pids(s, nic):
    found = {vm.title: proxy_pid(nic, vm) for vm in s.lab.vms.values() if vm.nic is nic}
    return {title: pid for title, pid in found.items() if pid}


def agent_killed(s):
    """Nothing may fail."""
    nic = s.lab.nics[s.younger]
    pids = proxy_pids(s, nic)
    nic.kill()
    take_over(s, nic, pids)


def agent_upgraded(s):
    """Nothing may fail."""
    nic = s.lab.nics[s.younger]
    pids = proxy_pids(s, nic)
    nic.process.terminate()
    nic.process.wait(PATIENCE_S)
    take_over(s, nic, pids)


def upgraded_alone(s):
    """An agent is replaced while the controller is away, and then its proxies: nothing may fail."""
    nic = s.lab.nics[s.younger]
    vms = [vm for vm in s.lab.vms.values() if vm.nic is nic and proxy_pid(nic, vm)]

    def pids():
        """Whatever their state: without a controller it is a lesser one."""
        return {vm.title: (nic.proxy_of(vm) or {}).get("pid") for vm in vms}
    before = pids()
    s.lab.kill_controller()
    nic.process.terminate()
    nic.process.wait(PATIENCE_S)
    nic.start()
    until("they are adopted", lambda: None not in pids().values())
    if pids() != before:
        raise Failed("the proxies were not adopted: %s, %s" % (before, pids()))
    s.goes_on(2)
    upgrade_proxies(s, nic)
    until("others have taken over", lambda: None not in pids().values() and not set(pids().values()) & set(before.values()))
    s.lab.start_controller()
    sessions(s)
    for vm in vms:
        ready(vm)


def agent_hangs(s):
    """Nobody waits for it; nothing may fail."""
    nic = s.lab.nics[s.rng.choice("ab")]
    somebody_else(s, nic)       # it may take longer than the controller waits for it
    pids = [nic.process.pid, nic.worker_pid()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        s.goes_on(12)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    sessions(s)


def proxy_killed(s):
    """What was inside may fail; what comes while there is none waits or goes elsewhere."""
    nic = s.lab.nics[s.younger]
    somebody_else(s, nic)
    pids = proxy_pids(s, nic)
    pid = s.rng.choice(sorted(set(pids.values())))
    vms = [s.lab.vms[title] for title, p in pids.items() if p == pid]
    envoy = s.excuse_envoy()
    e = s.excuse_inside(vms)    # it is killed
    os.kill(pid, signal.SIGKILL)
    until("its end", lambda: not alive(pid))    # with a sanitizer's memory that takes the kernel some time, and it takes connections until then
    e.end = time.time()
    until("another proxy", lambda: all(proxy_pid(nic, vm) not in (None, pid) for vm in vms))
    for vm in vms:
        if vm.title.startswith("orders"):
            s.goes_on(1, s.asking("orders")[:2], vm.title)      # Envoy has its own opinion of who is well, for half a minute
    envoy.end = time.time()


def upgrade_proxies(s, nic):
    r = subprocess.run([OUTRIGGER, "proxies", "--agent", "%s/run-%s/agent.sock" % (s.lab.dir, nic.name), "upgrade"], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S, check=False)
    if r.returncode:
        raise Failed("the proxies were not replaced: " + r.stdout)


def proxy_upgraded(s):
    """Nothing may fail: connections that there are go on where they are, new ones go to the new process."""
    nic = s.lab.nics[s.younger]
    pids = proxy_pids(s, nic)
    upgrade_proxies(s, nic)
    for vm in [vm for vm in s.lab.vms.values() if vm.title in pids]:
        until("another process serves " + vm.title, lambda: proxy_pid(nic, vm) not in (None, pids[vm.title]))


def agent_reloaded(s):
    """A bad configuration is refused, a good one is in force; nothing may fail."""
    nic = s.lab.nics[s.rng.choice("ab")]
    name = "agent-%s.yaml" % nic.name
    sock = "run-%s/agent.sock" % nic.name
    good = nic.configuration()
    other = good.replace("\nproxy:\n", '\n  - { mac: "02:00:00:67:ff:ff", name: nobody }\nproxy:\n', 1)
    for text in (good + "nonsense: 1\n", good.replace("drain: " + s.lab.drain, "drain: soon", 1), good + "policies: [ {\n"):
        s.lab.replace(name, text)
        if name not in s.lab.ask(sock, "/v1/reload", {}).get("error", ""):
            raise Failed("a bad configuration was taken: " + text[-60:])
    for text in (other, good):
        s.lab.replace(name, text)
        answer = s.lab.ask(sock, "/v1/reload", {})
        if answer.get("error") or answer["restart_needed_for"]:
            raise Failed("a good configuration was not taken: %s" % answer)
        s.goes_on(1)


def sessions(s):
    for nic in s.lab.nics.values():
        until("the session of " + nic.name, nic.connected)


def controller_killed(s):
    """Nothing may fail."""
    before = s.lab.endpoints("orders")
    s.lab.kill_controller()
    s.lab.start_controller()
    sessions(s)
    until("the endpoints of before", lambda: s.lab.endpoints("orders") == before)


def controller_away(s):
    """Nothing may fail, and what happened meanwhile is made up for."""
    billing = s.lab.vms["billing-1"]
    until("billing", lambda: s.lab.endpoints("billing"))
    s.lab.kill_controller()
    billing.nic.host.ip("link", "set", billing.port, "down")
    s.goes_on(12)
    s.lab.start_controller()
    sessions(s)
    until("billing is gone", lambda: not s.lab.endpoints("billing"))
    billing.nic.host.ip("link", "set", billing.port, "up")
    until("its MAC is known again", lambda: s.lab.register(billing) or s.lab.endpoints("billing"))


def controller_hangs(s):
    """It keeps its connections and says nothing; nothing may fail."""
    os.kill(s.lab.controller.pid, signal.SIGSTOP)
    try:
        s.goes_on(24)
    finally:
        os.kill(s.lab.controller.pid, signal.SIGCONT)
    sessions(s)


def controller_cut_off(s):
    """A NIC and the controller hear nothing of each other, and are not told so; nothing may fail."""
    nic = s.rng.choice("ab")
    somebody_else(s, s.lab.nics[nic])       # it may take longer than the controller waits for it
    edge = s.lab.edge
    edge.run("nft", "add table netdev cut; add chain netdev cut in { type filter hook ingress device eth0 priority 0; }; add rule netdev cut in ip saddr %s drop" % NIC_ADDRESS[nic])
    s.goes_on(24)
    edge.run("nft", "delete table netdev cut")
    sessions(s)
    until("all are in", lambda: all(s.lab.offers(s.lab.vms[title], "orders", WEB) for title in ("orders-1", "orders-2")))
    until("its proxies have heard it", lambda: not unheard(s.lab, nic))


def cut_off_for_long(s):
    """A NIC and the controller know that they have lost each other, and its VMs are given up: nothing may fail, and they are taken back."""
    edge = s.lab.edge

    def cut(nic):
        edge.run("nft", "add table inet cut; add chain inet cut in { type filter hook input priority 0; }; add rule inet cut in ip saddr %s drop" % NIC_ADDRESS[nic])
        edge.run("ss", "-tK", "dst", NIC_ADDRESS[nic])      # which resets them
    give_up(s, cut, lambda nic: edge.run("nft", "delete table inet cut"))


def cut_off_silently(s):
    """As long, both ways, and nobody is told: who still reaches its VMs by a tunnel that is there goes on, and nothing may fail."""
    edge, nics = s.lab.edge, s.lab.nics
    rule = "add table netdev cut; add chain netdev cut in { type filter hook ingress device %s priority 0; }; add rule netdev cut in ip saddr %s drop"

    def cut(nic):
        edge.run("nft", rule % ("eth0", NIC_ADDRESS[nic]))
        nics[nic].host.run("nft", rule % ("up0", EDGE))

    def mend(nic):
        for host in (edge, nics[nic].host):
            host.run("nft", "delete table netdev cut")
    give_up(s, cut, mend)


def give_up(s, cut, mend):
    """cut() parts a NIC and the controller for longer than it is waited for."""
    lab = s.lab
    nic = s.rng.choice("ab")
    somebody_else(s, lab.nics[nic])
    vms = [lab.vms[title] for title in VMS if lab.vms[title].nic.name == nic]
    with open(lab.dir + "/controller.yaml") as f:
        good = f.read()
    lab.replace("controller.yaml", good.replace("session_grace: " + lab.grace, "session_grace: 1s", 1))
    reload(lab)
    cut(nic)
    until("they are given up", lambda: not any(lab.workload(vm) for vm in vms))
    s.goes_on(12)
    mend(nic)
    sessions(s)
    until("all are in again", lambda: all(lab.workload(vm) for vm in vms))
    until("all are offered", lambda: all(lab.offers(vm, "orders", WEB) for vm in vms if vm.title.startswith("orders")))
    until("its proxies have heard it", lambda: not unheard(lab, nic))      # that they had left is on its way, too, and arrives alone if the next fault is in between
    lab.replace("controller.yaml", good)
    reload(lab)


def unheard(lab, nic):
    """Bytes that the controller has said and this NIC's kernel has not acknowledged."""
    rows = lab.edge.run("ss", "-Htn", "state", "established", "dst", NIC_ADDRESS[nic]).splitlines()
    return sum(int(row.split()[1]) for row in rows)


def disk_full(s):
    """Nothing may fail; what cannot be written is said, and nothing else stops."""
    lab = s.lab
    made = []
    with open(lab.state + "/ballast", "wb", buffering=0) as f:
        try:
            while True:
                f.write(bytes(4096))
        except OSError:
            pass
    for _ in range(100):    # until something cannot be written; what fits into the store's files as they are may pass
        answer = lab.ask("controller.sock", "/v1/tokens", {"nic": "nic-full"})
        if "error" in answer:
            break
        made.append(answer["id"])
    s.goes_on()
    os.unlink(lab.state + "/ballast")
    until("it can write again", lambda: made.append(lab.ask("controller.sock", "/v1/tokens", {"nic": "nic-full"}).get("id")) or made[-1])
    for token in filter(None, made):
        lab.ask("controller.sock", "/v1/tokens/%s/revoke" % token, {})


UNWRITTEN = "cannot be written, which is tried again"


def nic_disk_full(s):
    """Nothing may fail; what cannot be written is said, and is written later."""
    vm = orders(s)
    nic, disk = vm.nic, s.lab.disks["state-" + vm.nic.name]

    def said(words):
        return nic.log().count("state file %s file=memory" % words)
    before = said(UNWRITTEN), said("is written again")
    disk.fill()
    try:
        for i in range(4):
            s.lab.register(vm, "churn-%d" % i, 9000 + i, "full-%d" % i)     # more to remember
        until("it is felt", lambda: said(UNWRITTEN) > before[0])
        s.goes_on()
    finally:
        disk.free()
    until("it is written again", lambda: said("is written again") > before[1])
    for i in range(4):
        deregister(vm, "full-%d" % i)
    until("all are gone", lambda: not any(s.lab.endpoints("churn-%d" % i) for i in range(4)))


def bad_configuration(s):
    """Refused whole; the last good one stays."""
    lab = s.lab
    path = lab.dir + "/controller.yaml"
    with open(path) as f:
        good = f.read()
    for text in (good + "nonsense: 1\n", good.replace("mode: strict", "mode: strickt", 1), good + "authorization: [ {\n"):
        lab.replace("controller.yaml", text)
        if path not in lab.ask("controller.sock", "/v1/reload", {}).get("error", ""):
            raise Failed("a bad configuration was taken: " + text[-60:])
    lab.replace("controller.yaml", good)
    if "error" in lab.ask("controller.sock", "/v1/reload", {}):
        raise Failed("the good configuration was refused")


def policy_flips(s):
    """Who may talk goes on talking; who may not is refused as long as that holds."""
    lab = s.lab
    billing = lab.vms["billing-1"]
    orders = lab.virtual_address("orders")
    until("billing may ask", lambda: lab.fetch(billing, orders))
    with open(lab.dir + "/controller.yaml") as f:
        good = f.read()
    lab.replace("controller.yaml", good + "authorization:\n  - { name: callers, namespace: shop, selector: { service_account: orders },"
                " rules: [ { from: [ { service_accounts: [shopper, cart] } ] } ] }\n")
    reload(lab)
    until("billing may no longer", lambda: not lab.fetch(billing, orders))
    s.goes_on()
    lab.replace("controller.yaml", good)
    reload(lab)
    until("billing may again", lambda: lab.fetch(billing, orders))


def reload(lab):
    answer = lab.ask("controller.sock", "/v1/reload", {})
    if "error" in answer:
        raise Failed("the configuration was refused: %s" % answer)


def certificates_rotate(s):
    """Nothing may fail."""
    vm = s.lab.vms[s.rng.choice(["orders-1", "orders-2", "shopper-1", "shopper-2"])]
    last = [ready(vm)["cert_expires_in_s"]]

    def renewed():
        now = ready(vm)["cert_expires_in_s"]
        last.append(now)
        return now > last[-2]
    until("a new certificate of " + vm.title, renewed)


# --- a server ---

def server_lost(s):
    """Agent, proxies and VMs at once, and nobody is told; then it is back. What was inside may fail, and what asks those of whom there are no others."""
    lab = s.lab
    nic = lab.nics[s.younger]
    somebody_else(s, nic)
    vms = [lab.vms[title] for title in VMS if lab.vms[title].nic is nic]
    titles = [vm.title for vm in vms]
    inside = s.clients_in(vms)
    alone = [t for t in s.traffic if set(t.servers) <= set(titles)]
    envoy = s.excuse_envoy()
    e = s.excuse(alone)             # these clients have nobody else to ask
    e.end = float("inf")
    killed = s.excuse(inside, titles)
    lab.power_off(nic, vms)
    killed.end = time.time()        # they were at some moment up to here
    for vm in vms:
        s.servers.pop(vm.title, None)
    s.goes_on(24, [t for t in s.traffic if t not in inside + alone])
    nic.boot()
    nic.start()
    for vm in vms:
        lab.plug(vm, nic.name)
    until("the session of " + nic.name, nic.connected)
    for vm in vms:
        s.join(vm)
    s.judge()
    for t in inside:
        t.start()
    s.goes_on(1, alone)
    e.end = envoy.end = time.time()


def nic_revoked(s):
    """Its VMs are out of the mesh, and their connections end, until it has enrolled anew; nothing of the others may fail."""
    lab = s.lab
    nic = lab.nics[s.younger]
    somebody_else(s, nic)
    vms = [lab.vms[title] for title in VMS if lab.vms[title].nic is nic]
    titles = [vm.title for vm in vms]
    inside = s.clients_in(vms)
    alone = [t for t in s.traffic if set(t.servers) <= set(titles)]
    envoy = s.excuse_envoy()
    e = s.excuse(inside + alone)    # these are refused, or have nobody else to ask
    e.end = float("inf")
    cut = s.excuse(who=titles)      # their proxies are told to end, and peers to let go of them
    cut.end = float("inf")
    answer = lab.ask("controller.sock", "/v1/nics/nic-%s/revoke" % nic.name, {"reason": "a soak"})
    if answer.get("state") != "revoked":
        raise Failed("the NIC was not revoked: %s" % answer)
    until("it has stopped", lambda: nic.status()["controller"]["state"] == "off" and not nic.get("/v1/proxies")["proxies"])
    until("its VMs are out", lambda: not any(lab.workload(vm) for vm in vms))
    cut.end = time.time()
    s.goes_on(12, [t for t in s.traffic if t not in inside + alone])
    lab.replace("join-" + nic.name, lab.ask("controller.sock", "/v1/tokens", {"nic": "nic-" + nic.name})["token"] + "\n")
    nic.process.terminate()
    nic.process.wait(PATIENCE_S)
    nic.start()
    until("the session of " + nic.name, nic.connected)
    for vm in vms:
        if vm.title.startswith("orders"):
            s.register(vm)
            s.wait_in(vm)
        elif vm.title.startswith("shopper"):
            lab.join_client(vm.title)
        else:
            lab.register(vm)
            lab.wait_joined(vm.title)
    s.goes_on(1, inside + alone)
    e.end = envoy.end = time.time()


# --- the VMs ---

def orders(s):
    return s.lab.vms[s.rng.choice(["orders-1", "orders-2"])]


def deregister(vm, instance):
    vm.run("curl", "-sS", "-m", "30", "-X", "PUT", "http://%s:8500/v1/agent/service/deregister/%s" % (REGISTRY, instance))


def gone(s, vm):
    until("%s is out" % vm.title, lambda: not any(s.lab.offers(vm, service, port) for service, port in (("orders", WEB), ("echo", ECHO))))


def dies(s, vm, how):
    """At once, by @how. What was inside may fail; what comes before it is found out goes elsewhere."""
    envoy = s.excuse_envoy()
    inside = s.excuse(who=[vm.title])
    how()
    inside.end = time.time()    # it was at some moment up to here
    gone(s, vm)
    s.goes_on(1, s.asking("orders"))
    envoy.end = time.time()


def vm_killed(s):
    """What was inside may fail."""
    vm = orders(s)

    def kill():
        vm.ip("link", "set", "eth0", "down")
        s.stop_servers(vm)
    dies(s, vm, kill)
    s.goes_on()
    vm.ip("link", "set", "eth0", "up")
    vm.ip("route", "replace", "default", "via", REGISTRY)
    s.open_for_business(vm)


def vm_silent(s):
    """It hangs: its port stays up. What was inside may fail; what comes before it is found out goes elsewhere."""
    vm = orders(s)
    dies(s, vm, lambda: vm.run("nft", "add table netdev hang; add chain netdev hang in { type filter hook ingress device eth0 priority 0; policy drop; }"))
    s.goes_on(4, s.asking("orders"))    # connections that were there wait for it
    vm.run("nft", "delete table netdev hang")
    s.register(vm)
    s.wait_in(vm)


def port_down(s):
    """What was inside may fail."""
    vm = orders(s)
    dies(s, vm, lambda: vm.nic.host.ip("link", "set", vm.port, "down"))
    s.goes_on()
    vm.nic.host.ip("link", "set", vm.port, "up")
    s.register(vm)
    s.wait_in(vm)


def vm_moved(s):
    """To the other server, with its identity, and at times without another registration. What was inside may fail."""
    move(s, orders(s), registers=s.rng.random() < 0.5)


def move(s, vm, registers=True):
    old = vm.nic
    identity = ready(vm)["identity"]
    dies(s, vm, lambda: s.lab.unplug(vm))       # its connections are cut with the port, as those of a VM that is killed
    s.lab.plug(vm, "b" if old.name == "a" else "a")
    if registers:
        s.register(vm)
    talk = vm.popen(["ping", "-q", "-i", "0.3", REGISTRY], "talk")
    s.wait_in(vm)
    s.lab.stop(talk)
    if ready(vm)["identity"] != identity:
        raise Failed("%s has another identity now" % vm.title)
    until("the old NIC has forgotten it", lambda: not [g for g in old.get("/v1/guests")["guests"] if g["mac"] == vm.mac])


def vm_migrated(s):
    """Live: it runs on behind the other NIC, the port that it has left stays up, and it registers nothing. What was inside may fail."""
    old = orders(s)
    identity = ready(old)["identity"]
    envoy = s.excuse_envoy()
    inside = s.excuse(who=[old.title])  # here its connections do not go with it: they are cut, as those of a VM that is killed
    vm = s.lab.migrate(old.title, "b" if old.nic.name == "a" else "a", serves=False)
    s.stop_servers(old)
    inside.end = time.time()    # ... at some moment up to here
    s.serve(vm)
    s.wait_in(vm)
    envoy.end = time.time()
    if ready(vm)["identity"] != identity:
        raise Failed("%s has another identity now" % vm.title)
    until("the old NIC has forgotten it", lambda: not [g for g in old.nic.get("/v1/guests")["guests"] if g["mac"] == vm.mac])
    s.goes_on(1, s.asking("orders")[:2], vm.title)
    s.lab.unplug(old)
    s.lab.remove(old)


def scaled(s):
    """A VM joins, takes its share, leaves: nothing may fail."""
    lab = s.lab
    nic = s.rng.choice("ab")
    if SPARE in lab.vms:
        lab.plug(lab.vms[SPARE], nic)
    vm = lab.vms.get(SPARE) or lab.add_vm(SPARE, nic)
    lab.serve(vm, WEB)
    lab.register(vm, "orders", WEB)
    until("it is in the mesh", lambda: lab.offers(vm, "orders", WEB))
    s.goes_on(1, s.asking("orders"), vm.title)
    deregister(vm, vm.title)
    gone(s, vm)
    s.goes_on(6)        # whatever was sent to it has been answered
    until("nobody is inside", lambda: not vm.run("ss", "-Hnt", "sport = :%d" % WEB))
    lab.unplug(vm)
    until("the NIC has forgotten it", lambda: not [g for g in vm.nic.get("/v1/guests")["guests"] if g["mac"] == vm.mac])
    for p in [p for p in lab.processes if p.name == "%s.http%d" % (vm.name, WEB) and p.poll() is None]:
        p.kill()
        p.wait(30)


def churn(s):
    """Services come and go as fast as they can be announced; nobody else notices."""
    vm = orders(s)
    before = s.lab.endpoints("orders")
    vm.run(sys.executable, "-c", CHURN, REGISTRY, vm.address, 100, s.rng.randrange(1 << 30), timeout=PATIENCE_S)
    until("all are gone", lambda: not any(s.lab.endpoints("churn-%d" % i) for i in range(4)))
    until("orders is as before", lambda: s.lab.endpoints("orders") == before)


def hostile_guest(s):
    """Refused, counted, bounded; nothing may fail."""
    lab = s.lab
    bad, victim = lab.vms["billing-1"], lab.vms["orders-1"]
    lab.register(bad, "billing", WEB, "thief", victim.address)
    lab.register(bad, "orders", WEB, "impostor")
    before = lab.endpoints("orders")
    for argv in (("spoof", "eth0", victim.address, REGISTRY, 8500, 1000), ("spoof", "eth0", bad.address, lab.virtual_address("orders"), WEB, 1000),
                 ("create", REGISTRY, 3000, bad.address), ("noise", REGISTRY, 300)):
        bad.run(sys.executable, HOSTILE, *argv, timeout=PATIENCE_S)
    if lab.endpoints("orders") != before:
        raise Failed("a guest changed another's endpoints: %s, %s" % (before, lab.endpoints("orders")))
    names = [x["name"] for x in lab.workloads()["services"] if x["name"].startswith("flood")]
    if names:
        raise Failed("services that nobody may claim: %s" % names[:5])


def guest_floods(s):
    """Connections that say nothing, and such that read nothing of what they asked for, and half-open ones; nothing of the others may fail."""
    lab = s.lab
    bad = lab.vms["billing-1"]
    orders_at, echo_at = lab.virtual_address("orders"), lab.virtual_address("echo")
    floods = [bad.popen([sys.executable, FLOOD, *map(str, argv)], "flood", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
              for argv in (("idle", orders_at, WEB, 200), ("slow", echo_at, ECHO, 50, "x" * 60000))]
    try:
        for p in floods:
            p.stdout.readline()     # it is at it
        bad.run(sys.executable, HOSTILE, "syn", "eth0", orders_at, WEB, 5000, timeout=PATIENCE_S)
        s.goes_on(8)
    finally:
        for p in floods:
            p.stdin.close()
            p.wait(PATIENCE_S)


# --- what a process has to live on ---

def starve(s, what, value_of, felt=lambda: True):
    """A proxy lacks something for a while, and more connections come than it can take: load is shed, and comes back. So do the worker and the controller.

    Nobody is killed; but a process that has nothing left to live on has no way to take what is new. It may cost new connections of the VM
    that uses it up, and only until there is enough again. What is open goes on, and others find who answers. felt() says that it was too little.
    """
    name = s.rng.choice("ab")
    nic = s.lab.nics[name]
    shopper = s.lab.vms["shopper-1" if name == "a" else "shopper-2"]
    somebody_else(s, nic)
    pids = sorted(set(proxy_pids(s, nic).values())) + [nic.worker_pid(), s.lab.controller.pid]
    e = s.excuse(s.clients_in([shopper]), fresh=True)   # they come new to a proxy from the VM that leaves it nothing
    e.end = float("inf")
    old = [(pid, limit(pid, what, value_of(pid))) for pid in pids]
    hogs = []
    try:
        vip = s.lab.virtual_address("orders")
    except (RuntimeError, ValueError):
        vip = None
    with shopper.inside():
        for _ in range(200):
            c = socket.socket()
            c.setblocking(False)
            c.connect_ex((vip or CART, WEB))
            hogs.append(c)
    time.sleep(2)       # so long it lasts, or until it is felt
    try:
        wait_until("that the limit of %s is felt" % what, felt, PATIENCE_S)
    finally:
        for c in hogs:
            c.close()
        for pid, value in old:
            limit(pid, what, value)
    e.end = time.time()
    s.goes_on(8)
    sessions(s)


def descriptors_exhausted(s):
    def shed():
        return sum(nic.metric("outrigger_vm_over_budget_total", budget="descriptors") for nic in s.lab.nics.values())
    before = shed()

    def more():
        """What the worker cannot answer now, for it has no descriptors either, is asked again."""
        try:
            return shed() > before
        except RuntimeError:
            return False
    starve(s, "nofile", lambda pid: len(os.listdir("/proc/%d/fd" % pid)) + 8, more)


def data_bytes(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmData:"))


def memory_exhausted(s):
    starve(s, "data", lambda pid: data_bytes(pid) + 65536)


# --- the world around ---

def peer_killed(s):
    """A container's sidecar dies: it costs that container."""
    e = s.excuse(s.cart_clients(), ["cart-1"])  # its only way in and out is killed, and is not there until another is
    e.end = float("inf")
    os.killpg(s.envoy.pid, signal.SIGKILL)
    s.envoy.wait(30)
    s.goes_on(4, [t for t in s.traffic if t not in s.cart_clients()])
    s.start_cart()
    s.goes_on(1, s.cart_clients())
    e.end = time.time()
    s.goes_on()


def wire_loses(s):
    """One packet of 32 is lost each way between a server and the rest: nothing may fail."""
    device = "to-" + s.rng.choice("ab")
    net = s.lab.net
    net.run("tc", "qdisc", "add", "dev", device, "clsact")
    for way in ("ingress", "egress"):
        net.run("tc", "filter", "add", "dev", device, way, "bpf", "da", "obj", LOSS, "sec", "tc/loss")
    s.goes_on(12)
    net.run("tc", "qdisc", "del", "dev", device, "clsact")


FAULTS = [
    Fault("agent killed", agent_killed, ["monitor %s", "worker %s"]),
    Fault("agent upgraded", agent_upgraded, ["monitor %s", "worker %s"]),
    Fault("upgraded alone", upgraded_alone, ["monitor %s", "worker %s", "proxy %s", "controller"]),
    Fault("agent hangs", agent_hangs),
    Fault("proxy killed", proxy_killed, ["proxy %s"]),
    Fault("proxy upgraded", proxy_upgraded, ["proxy %s"]),
    Fault("agent reloaded", agent_reloaded),
    Fault("controller killed", controller_killed, ["controller"]),
    Fault("controller away", controller_away, ["controller"]),
    Fault("controller hangs", controller_hangs),
    Fault("controller cut off", controller_cut_off),
    Fault("cut off for long", cut_off_for_long),
    Fault("cut off silently", cut_off_silently),
    Fault("controller's disk full", disk_full),
    Fault("NIC's disk full", nic_disk_full),
    Fault("bad configuration", bad_configuration),
    Fault("policy flips", policy_flips),
    Fault("certificates rotate", certificates_rotate),
    Fault("server lost", server_lost, ["monitor %s", "worker %s", "proxy %s"]),
    Fault("NIC revoked", nic_revoked, ["monitor %s", "worker %s", "proxy %s"]),
    Fault("VM killed", vm_killed),
    Fault("VM silent", vm_silent),
    Fault("port down", port_down),
    Fault("VM moved", vm_moved),
    Fault("VM migrated", vm_migrated),
    Fault("scaled out and in", scaled),
    Fault("registrations churn", churn),
    Fault("hostile guest", hostile_guest),
    Fault("guest floods", guest_floods),
    Fault("descriptors exhausted", descriptors_exhausted),
    # A sanitizer's own memory cannot be told from the program's.
    Fault("memory exhausted", memory_exhausted, needs=lambda: not sanitizer()),
    Fault("peer's Envoy killed", peer_killed),
    Fault("wire loses packets", wire_loses),
]


def order(rng, spared=None):
    """A pass: each fault once, but for those that would kill who is @spared: who never gets old does not grow."""
    faults = [f for f in FAULTS if f.needs() and spared not in f.killed]
    random.Random(rng.random()).shuffle(faults)
    return faults

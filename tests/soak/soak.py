"""The mesh that faults are put into, the traffic that goes on meanwhile, and the judge of what failed.

    NIC a: orders-1, shopper-1, billing-1        NIC b: orders-2, shopper-2, and a VM that comes and goes
    a container, cart, with an unmodified Envoy as its sidecar

Of the two NICs one, the elder, keeps its agent and its proxy for the whole run, so that growth would be seen; which one is drawn.
"""

import json
import os
import subprocess
import sys
import time

import meshconf
from agentlab import BUILD
from faultlab import EDGE, REGISTRY, STREAM, FaultLab, Load, Stream, alive
from flavour import Reports, sanitizer
from growth import Growth, processes
from netlab import wait_until

ENVOY = os.path.join(os.path.dirname(STREAM), "..", "..", "build", "cache", "envoy", "envoy", "_bin", "envoy")
OUTRIGGER = os.path.join(BUILD, "src", "ctl", "outrigger")
LOSS = os.path.join(BUILD, "tests", "bpf", "loss.bpf.o")
PATIENCE_S = float(os.environ.get("PATIENCE", 120))     # until something is healed: no measure, only an end
ANSWER_S = 30           # a request that has no answer by then has failed
LEGACY = "legacy-1"     # permissive: who is not in the mesh asks it in plaintext
VMS = {"orders-1": "a", "shopper-1": "a", "billing-1": "a", "orders-2": "b", "shopper-2": "b", LEGACY: "b"}
SPARE = "orders-3"
CART = "10.67.0.30"
WEB, ECHO = 8080, 7000
CART_HTTP, CART_ECHO = 18080, 17000
ONBOARDING = meshconf.policy("orders", "orders-*", services=["orders", "echo", "churn-*"]) + meshconf.BILLING + meshconf.SHOPPERS + \
    meshconf.policy("legacy", "legacy-*", mode="permissive", services=["legacy"])
# Certificates live so short that they are renewed under every fault, and are good, when half of it is over, for longer than a fault
# keeps the controller away, on a slow machine, too.
MORE = """ca: { nic_ttl: 90s, workload_ttl: 90s, max_ttl: 90s }
containers: [ { prefix: %(cart)s/32, what: "pod shop/cart-1" } ]
workloads:
  - { name: cart-1, namespace: shop, service_account: cart, addresses: [%(cart)s], tunnel: hbone, services: [cart] }
services:
  - name: cart
    namespace: shop
    ports: [ { port: 8080, target_port: 8080 }, { port: 7000, target_port: 7000 } ]
""" % {"cart": CART}


class Failed(Exception):
    """The soak has found something."""


LATE_S = 60             # so long after a connection's other end has died at the latest it is found out, and has failed (stream.py waits for 45)


class Excuse:
    """What may fail: what was under way at @begin (or began until @end when that is later), of these clients or answered by these.

    The only excuse is to have been inside a process or VM that was killed, or behind a NIC that was revoked, or (@fresh) to come new to a proxy from the VM that leaves it
    nothing to live on, or by way of an Envoy that has not been told yet: a connection that was open before has none. Whoever makes one says which.
    """

    def __init__(self, begin, end, clients=(), who=(), fresh=False):
        self.begin, self.end, self.clients, self.who, self.fresh = begin, end, clients, who, fresh

    def covers(self, client, result):
        over = result["at"] + result["ms"] / 1000
        if over < self.begin or result["at"] > self.end or over > self.end + LATE_S:
            return False
        if self.fresh and result.get("open") and result["open"] < self.begin:
            return False
        return client in self.clients or result["who"] in self.who or (result["who"] is None and bool(set(client.servers) & set(self.who)))


class Traffic:
    """One client: what it asks, by whom it may be answered."""

    def __init__(self, name, make, servers):
        self.name = name
        self.make = make
        self.servers = servers
        self.load = None
        self.judged = 0
        self.good = self.bad = 0

    def __repr__(self):
        return self.name

    def start(self):
        self.load = self.make()
        self.judged = 0

    def fresh(self):
        """What ended since it was looked at last."""
        new = self.load.done()[self.judged:]
        self.judged += len(new)
        return new


class SoakLab(FaultLab):
    drain = "4s"                # half of it is for peers to learn that a VM leaves, on a machine that is slow and busy
    upgrade_drain = "90s"       # longer than any connection of the traffic lasts


class Soak:
    def __init__(self, prefix, rng, say, rate=8):
        self.rng = rng
        self.say = say
        self.rate = rate
        self.excuses = []
        self.fault = "before any fault"
        self.elder, self.younger = rng.sample(["a", "b"], 2)
        self.lab = SoakLab(prefix, VMS, grace="20s", disk="3m", spare=[SPARE], full={"state-a": "4m", "state-b": "4m"}, onboarding=ONBOARDING,
                           more=MORE)
        try:
            self.reports = Reports(self.lab.dir)
            self.growth = Growth(self.lab, sanitizer())
            self.servers = {}
            self.machines()
            self.traffic = self.clients()
        except BaseException:
            for name in ("a.agent", "b.agent", "edge.controller"):
                say("--- %s\n%s" % (name, self.lab.log(name)[-3000:]))
            self.lab.close()
            raise

    # --- the machines ---

    def machines(self):
        lab = self.lab
        self.cart = lab.host("cart")
        lab.cable(self.cart, "eth0", lab.net, "cart", CART + "/24", master_b="br0")
        self.cart.ip("route", "add", "default", "via", REGISTRY)
        self.cart.title, self.cart.address = "cart-1", "127.0.0.1"
        lab.start()
        lab.reg.popen([sys.executable, os.path.join(os.path.dirname(STREAM), "hostile.py"), "zookeeper", REGISTRY], "zookeeper")
        for name in VMS:
            self.join(lab.vms[name])
        self.serve(self.cart)
        self.start_cart()
        self.expected = processes(lab)

    def serve(self, vm):
        web = self.lab.serve(vm, WEB)
        self.servers[vm.title] = [web, vm.popen([sys.executable, STREAM, "serve", vm.address, ECHO, vm.title], "echo")]
        wait_until("the VM's echo", lambda: ":%d " % ECHO in vm.run("ss", "-Hltn"), PATIENCE_S)

    def join(self, vm):
        """It does what it is for, and is in the mesh."""
        if vm.title.startswith("orders"):
            self.open_for_business(vm)
        elif vm.title.startswith("shopper"):
            self.lab.join_client(vm.title)
        else:
            self.serve(vm)
            self.lab.register(vm)
            self.lab.wait_joined(vm.title)

    def open_for_business(self, vm):
        """Servers, registrations, and in the mesh with both."""
        self.serve(vm)
        self.register(vm)
        self.wait_in(vm)

    def register(self, vm):
        self.lab.register(vm, "orders", WEB)
        self.lab.register(vm, "echo", ECHO, instance="echo-" + vm.title)

    def wait_in(self, vm):
        lab = self.lab
        wait_until("the proxy of " + vm.title, lambda: vm.nic.proxy(vm), PATIENCE_S)
        for service, port in (("orders", WEB), ("echo", ECHO)):
            wait_until("%s in %s" % (vm.title, service), lambda: lab.offers(vm, service, port), PATIENCE_S)

    def stop_servers(self, vm):
        for p in self.servers.pop(vm.title, []):
            p.kill()
            p.wait(30)

    def start_cart(self):
        lab = self.lab
        token = os.path.join(lab.dir, "cart-token")
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
            f.write(json.loads(subprocess.run([OUTRIGGER, "token", "create", "--workload", "shop/cart", "--json", "--controller", "unix:%s/controller.sock" % lab.dir],
                                              stdout=subprocess.PIPE, check=True, text=True).stdout)["token"])
        self.envoy = self.cart.popen([OUTRIGGER, "envoy", "--controller", EDGE + ":15012", "--roots", lab.dir + "/roots.pem", "--token", token, "--namespace", "shop",
                                      "--service-account", "cart", "--name", "cart-1", "--address", CART, "--inbound", WEB, "--inbound", ECHO,
                                      "--outbound", "127.0.0.1:%d=orders.shop.mesh.internal:%d/http" % (CART_HTTP, WEB),
                                      "--outbound", "127.0.0.1:%d=echo.shop.mesh.internal:%d" % (CART_ECHO, ECHO), "--dir", lab.dir + "/cart-envoy",
                                      "--envoy", ENVOY, "--admin-port", 0], "envoy")
        ports = (15008, CART_HTTP, CART_ECHO)
        wait_until("cart's Envoy", lambda: self.envoy.poll() is not None or all(":%d " % p in self.cart.run("ss", "-Hltn") for p in ports), PATIENCE_S)
        if self.envoy.poll() is not None:
            raise Failed("cart's Envoy ended: " + lab.log("cart.envoy")[-2000:])

    # --- the traffic ---

    def clients(self):
        lab = self.lab
        orders, echo, cart = (wait_until("the address of " + s, lambda: lab.virtual_address(s), PATIENCE_S) for s in ("orders", "echo", "cart"))
        shopper1, shopper2 = lab.vms["shopper-1"], lab.vms["shopper-2"]
        legacy = lab.vms[LEGACY].address
        vms, forever, rate = ("orders-1", "orders-2", SPARE), 1e6, self.rate
        return [
            Traffic("shopper-1 asks orders", lambda: Load(shopper1, "http://%s:%d/" % (orders, WEB), rate, forever, ANSWER_S), vms),
            Traffic("shopper-2 asks orders", lambda: Load(shopper2, "http://%s:%d/" % (orders, WEB), rate, forever, ANSWER_S), vms),
            Traffic("cart asks orders", lambda: Load(self.cart, "http://127.0.0.1:%d/" % CART_HTTP, rate / 2, forever, ANSWER_S), vms),
            Traffic("shopper-1 asks cart", lambda: Load(shopper1, "http://%s:%d/" % (cart, WEB), rate / 2, forever, ANSWER_S), ("cart-1",)),
            Traffic("shopper-1 talks to echo", lambda: Stream(shopper1, echo, ECHO, 3), vms),
            Traffic("shopper-2 talks to echo", lambda: Stream(shopper2, echo, ECHO, 3), vms),
            Traffic("cart talks to echo", lambda: Stream(self.cart, "127.0.0.1", CART_ECHO, 2), vms),
            Traffic("shopper-2 talks to cart", lambda: Stream(shopper2, cart, ECHO, 2), ("cart-1",)),
            Traffic("outside asks legacy", lambda: Load(lab.reg, "http://%s:%d/" % (legacy, WEB), rate / 2, forever, ANSWER_S), (LEGACY,)),
            Traffic("outside talks to legacy", lambda: Stream(lab.reg, legacy, ECHO, 2), (LEGACY,)),
        ]

    def cart_clients(self):
        return [t for t in self.traffic if "cart" in t.name]

    def asking(self, service):
        return [t for t in self.traffic if t.name.endswith("asks " + service)]

    def start_traffic(self):
        for t in self.traffic:
            t.start()
        self.goes_on()

    def stop_traffic(self):
        for t in self.traffic:
            t.load.process.terminate()
        for t in self.traffic:
            t.load.process.communicate(timeout=PATIENCE_S)
        self.judge()

    def goes_on(self, n=4, clients=None, who=None):
        """Waits until each client has had @n more good answers (of @who)."""
        since = time.time()
        for t in clients or self.traffic:
            def enough():
                if t.load.process.poll() is not None:
                    raise Failed("the client of \"%s\" ended" % t)
                return sum(r["at"] >= since and not r["error"] and who in (None, r["who"]) for r in reversed(t.load.done()[-400:])) >= n
            try:
                wait_until("good answers for \"%s\"%s" % (t, " from " + who if who else ""), enough, PATIENCE_S, 0.1)
            except TimeoutError as e:
                raise Failed("%s; the last: %s" % (e, t.load.done()[-5:])) from None

    # --- the judge ---

    def excuse(self, clients=(), who=(), fresh=False):
        """What is under way now may fail; more of it while the excuse's @end is put off. Returns it."""
        now = time.time()
        e = Excuse(now, now, list(clients), list(who), fresh)
        self.excuses.append(e)
        return e

    def clients_in(self, vms):
        return [t for t in self.traffic if t.name.split()[0] in [vm.title for vm in vms]]

    def excuse_envoy(self):
        """An Envoy sends a connection once, and nobody can do it again: new ones fail that go where nobody is, until @end, when it has been told."""
        e = self.excuse([t for t in self.traffic if t.name == "cart talks to echo"], fresh=True)
        e.end = float("inf")
        return e

    def excuse_inside(self, vms):
        """What is under way from or to these."""
        return self.excuse(self.clients_in(vms), [vm.title for vm in vms])

    def judge(self):
        for t in self.traffic:
            for r in t.fresh():
                if not r["error"]:
                    t.good += 1
                    continue
                t.bad += 1
                if r["error"].startswith("corrupt") or not any(e.covers(t, r) for e in self.excuses):
                    raise Failed("\"%s\": a request failed that had no excuse: %s; excuses: %s" % (t, r, [(vars(e)) for e in self.excuses[-3:]]))
        for report in self.reports.read():
            raise Failed("a sanitizer's report: " + report)

    def check_processes(self, changed=()):
        """Nobody died who was not killed."""
        now = processes(self.lab)
        for role, pid in self.expected.items():
            if not any(role.startswith(c) for c in changed) and not (alive(pid) and now.get(role) == pid):
                raise Failed("%s was process %d and is %s" % (role, pid, now.get(role)))
        self.expected = now

    # --- one fault, a quiet point ---

    def put(self, fault):
        self.fault = fault.name
        begin = time.monotonic()
        fault.run(self)
        for e in self.excuses:
            e.end = min(e.end, time.time())
        self.goes_on()
        self.judge()
        self.check_processes(fault.kills(self))
        self.say("%-28s %5.1f s   %s" % (fault.name, time.monotonic() - begin, self.counts()))

    def counts(self):
        return "%d answers, %d excused" % (sum(t.good for t in self.traffic), sum(t.bad for t in self.traffic))

    def quiet(self):
        """The traffic ends, what it used is given back, and what is left is measured."""
        self.fault = "the quiet point after: " + self.fault
        self.stop_traffic()
        wait_until("no connection in any proxy", lambda: not any(p["connections"] for nic in self.lab.nics.values() for p in nic.get("/v1/proxies")["proxies"]), PATIENCE_S, 0.2)
        try:
            wait_until("the end of predecessors", lambda: not self.predecessors(), PATIENCE_S, 0.2)
        except TimeoutError:
            raise Failed("processes that nobody needs are there: %s" % self.predecessors()) from None
        time.sleep(2)       # pools and sweeps have periods of their own; nothing is decided by this
        self.growth.sample()
        grown = self.growth.found()
        if grown:
            raise Failed("growth: " + "; ".join(grown))

    def predecessors(self):
        """Processes on the NICs that are not in service any more: replaced ones, which end with the last connection."""
        now = set(processes(self.lab).values())
        return sorted({pid for nic in self.lab.nics.values() for pid in nic.host.pids() if alive(pid)} - now)

    def too_young(self):
        """Programs whose growth cannot be told yet."""
        return self.growth.too_young(["controller"] + ["%s %s" % (what, self.elder) for what in ("monitor", "worker", "proxy")])

    def last_words(self):
        """What the logs say at the end."""
        for name, nic in self.lab.nics.items():
            yield "--- the last errors in the access log of %s" % name
            yield from [json.dumps(x) for x in self.lab.access(nic) if x.get("error") and x.get("result") != "reset"][-8:]
        for name in ("a.agent", "b.agent", "edge.controller"):
            yield "--- %s\n%s" % (name, self.lab.log(name)[-2500:])

    def close(self):
        """Ends all programs in order, so that they look for what leaked; then the rest."""
        for t in self.traffic:
            if t.load and t.load.process.poll() is None:
                t.load.process.kill()
        try:
            self.fault = "the end"
            for nic in self.lab.nics.values():
                self.lab.stop(nic.process, PATIENCE_S)
                for pid in nic.host.pids():     # its proxies, and such as still drain
                    self.end(pid)
            self.lab.stop(self.lab.controller, PATIENCE_S)
            for report in self.reports.read(whole_lines=False):
                raise Failed("a sanitizer's report: " + report)
        finally:
            self.lab.close()

    @staticmethod
    def end(pid):
        try:
            os.kill(pid, 15)
        except ProcessLookupError:
            return
        wait_until("the end of proxy %d" % pid, lambda: not alive(pid), PATIENCE_S)

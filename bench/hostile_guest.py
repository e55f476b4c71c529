"""What a guest that floods its NIC costs a VM beside it, as deployed: SYNs, senseless datagrams, malformed messages and registrations without end
(tests/lib/hostile.py) reach tc, the agent and the proxy of both. The floods run as those of isolation.py do.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time

import contenders as known
from installation import REGISTRY, Installation, policy, wait_until
from isolation import CONNECTIONS, PAIRS_A_SECOND, REST_S, SETTLE_S, WHEN_NOTHING_ELSE, Comparison, NoGroups, Windows
from lab import LOAD, LOAD_CPU, PROXY_CPU, TOP, Namespace, cpu_s, family
from two_hop import TwoHop

import agentlab

HOSTILE = os.path.join(TOP, "tests", "lib", "hostile.py")
ENDLESS = 1000000000
ONBOARDING = policy("callers", "caller", account="caller", client=True) + policy("hostile", "hostile", client=True, services=["*"]) + policy("api", "api", services=["api"])
GUESTS = {"02:00:77:00:01:01": "caller", "02:00:77:00:01:02": "api", "02:00:77:00:01:03": "hostile"}
FLOODS = {
    "none": None,
    "SYNs": ("syn", "eth0", "10.77.1.2", known.BACKEND, ENDLESS),
    "senseless datagrams": ("babble", REGISTRY),
    "malformed messages": ("noise", REGISTRY, ENDLESS),
    "registrations": ("create", REGISTRY, ENDLESS, "10.77.1.3"),
}


class HostileGuest(Installation):
    def __init__(self, report, rounds, seconds, seed):
        super().__init__("ogbhost", ONBOARDING, GUESTS, agent="discovery: { zookeeper: [2181] }\n", workers=1)
        self.report, self.rounds, self.seconds, self.seed = report, rounds, seconds, seed
        self.groups = NoGroups()
        self.spaces = []
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def space(self, host):
        self.spaces.append(Namespace(host.ns, borrowed=True))
        return self.spaces[-1]

    def start(self):
        caller, api, hostile = (self.vm(server, tap, "10.77.1.%d" % i, "02:00:77:00:01:%02x" % i) for server, tap, i in (("a", "tap0", 1), ("b", "tap1", 2), ("a", "tap2", 3)))
        self.caller, self.api, self.hostile = map(self.space, (caller, api, hostile))
        self.space(self.registry).popen(WHEN_NOTHING_ELSE + ["python3", "-c", agentlab.CONSUL, REGISTRY], LOAD_CPU, "consul")
        self.spaces[-1].popen(WHEN_NOTHING_ELSE + ["python3", HOSTILE, "zookeeper", REGISTRY], LOAD_CPU, "zookeeper")
        for port in ("2134", "0885"):
            wait_until("the registries", lambda: ":%s " % port in self.registry.run("cat", "/proc/net/tcp"))
        TwoHop.make_pages(self.api)
        self.api.wait_listening(known.BACKEND, self.api.popen(TwoHop.backend_argv(self.api), LOAD_CPU, "backend"))
        self.agents = [self.start_agent(name) for name in self.servers]
        for pid in self.pids():
            subprocess.run(["taskset", "-acp", PROXY_CPU, str(pid)], stdout=subprocess.DEVNULL, check=True)
        body = json.dumps({"Name": "api", "ID": "api-1", "Address": api.address, "Port": known.BACKEND})
        self.api.run(["curl", "-sS", "-m", "10", "-X", "PUT", "-d", body, "http://%s:8500/v1/agent/service/register" % REGISTRY])
        hostile.ip("route", "add", "224.0.0.0/4", "dev", "eth0")
        for space in (self.caller, self.hostile):
            space.run(["curl", "-sS", "-m", "10", "http://%s:8500/v1/health/service/api" % REGISTRY])
        wait_until("the three proxies", lambda: self.og("proxies").count("ready") == 3, 20)
        self.address = "%s:%d" % (api.address, known.BACKEND)
        self.load("rounds", CONNECTIONS, 2)

    def pids(self):
        return [q for agent in self.agents for q in family(agent.pid)]

    def load(self, how, *argv):
        r = json.loads(self.caller.run([LOAD, how, self.address, *argv], LOAD_CPU))
        if r["errors"] or not r["requests"]:
            self.report.fail("isolation-guest", "outrigger", "%d errors, %d requests" % (r["errors"], r["requests"]))
        return r

    def compare(self, name, flood, order):
        p = flood and self.hostile.popen([*WHEN_NOTHING_ELSE, sys.executable, HOSTILE, *flood], LOAD_CPU, "flood")
        time.sleep(REST_S)
        load = Windows(self.caller, [self.address])
        found = Comparison(self.report, "isolation-guest", name, order)

        def window(on):
            if p:
                os.killpg(p.pid, signal.SIGCONT if on else signal.SIGSTOP)
            time.sleep(SETTLE_S)
            before, begin = cpu_s(self.pids()), time.monotonic()
            r = load.once(0)
            if on:
                self.report.add("isolation-guest", "outrigger", "cpu of agents and proxies, " + name, "s per s", (cpu_s(self.pids()) - before) / (time.monotonic() - begin))
            return r
        for _ in range(PAIRS_A_SECOND * self.rounds * self.seconds):
            found.pair(window)
        found.end()
        load.close()
        if p and p.poll() is not None:
            with open(p.log) as f:
                raise RuntimeError("the flood ended: " + f.read()[-2000:])
        if p:
            os.killpg(p.pid, signal.SIGCONT)
            self.hostile.stop(p)
            time.sleep(REST_S)

    def run(self):
        order = random.Random(self.seed)
        for name, flood in FLOODS.items():
            self.compare(name, flood, order)

    def close(self):
        self.groups.close()
        for space in self.spaces:
            space.close()
        super().close()

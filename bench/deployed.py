"""The path as deployed: application, interception, proxy, wire, proxy, application, each host a namespace.

Ours: VMs behind ports of two servers with a NIC's agent each; tc takes their connections from outside. A rival: a client and
a server on the same wire, the proxy in the client's own namespace, where nft redirects what it dials; that is how a sidecar's
users do it. ztunnel (ZTUNNEL_BIN) is driven by our controller. All connect to the server's own address.
"""

import json
import os
import subprocess

import contenders as known
from installation import EDGE, REGISTRY, Installation, policy, wait_until
from lab import LOAD, LOAD_CPU, PROXY_CPU, SYSCTLS, Namespace, cpu_s, family, interleaved, machine_s, memory_kb
from two_hop import TwoHop

import agentlab
import ztunnel

PORT = 15001
ONBOARDING = policy("callers", "caller", account="caller", client=True) + policy("api", "api", services=["api"])
GUESTS = {"02:00:77:00:01:01": "caller", "02:00:77:00:01:02": "api"}
WORKLOADS = """workloads:
  - { name: zt-client, namespace: bench, service_account: zt-client, addresses: [10.77.9.1/32], tunnel: hbone }
  - { name: zt-server, namespace: bench, service_account: zt-server, addresses: [10.77.9.2/32], tunnel: hbone }
"""
REDIRECT = """
table ip bench {
  chain output { type nat hook output priority -100; tcp dport %d redirect to :%d; }
}
""" % (known.BACKEND, PORT)


class Ours:
    """Found by a registration, steered by tc, configured by the controller: nothing is told by hand."""
    name = "outrigger"

    def __init__(self, bench):
        self.bench = bench
        self.client = bench.vm("a", "tap0", "10.77.1.1", "02:00:77:00:01:01")
        self.server = bench.vm("b", "tap1", "10.77.1.2", "02:00:77:00:01:02")
        self.agents = {}

    def start(self):
        for role in ("a", "b"):
            self.agents[role] = self.bench.start_agent(role)
            subprocess.run(["taskset", "-acp", PROXY_CPU, str(self.agents[role].pid)], stdout=subprocess.DEVNULL, check=True)
            for pid in self.pids(role):
                subprocess.run(["taskset", "-acp", PROXY_CPU, str(pid)], stdout=subprocess.DEVNULL, check=True)
        wait_until("the registry", lambda: ":2134 " in self.bench.registry.run("cat", "/proc/net/tcp"))
        body = json.dumps({"Name": "api", "ID": "api-1", "Address": self.server.address, "Port": known.BACKEND})
        self.server.run("curl", "-sS", "-m", "10", "-X", "PUT", "-d", body, "http://%s:8500/v1/agent/service/register" % REGISTRY)
        self.client.run("curl", "-sS", "-m", "10", "http://%s:8500/v1/health/service/api" % REGISTRY)
        wait_until("both proxies", lambda: self.bench.og("proxies").count("ready") == 2, 20)
        return self

    def pids(self, role=None):
        """Agent and proxies: finding and watching is part of the price."""
        return [q for r, p in self.agents.items() if role in (None, r) for q in family(p.pid)]

    def stop(self):
        for p in self.agents.values():
            self.bench.lab.stop(p)


class Rival:
    """One of contenders.py between a client and a server of its own."""

    def __init__(self, bench, cls, number):
        self.name = cls.name
        self.client, self.server = (bench.plain_host("%s%d" % (what, number), "10.77.%d.%d" % (number, i)) for what, i in (("client", 1), ("server", 2)))
        self.spaces = [Namespace(h.ns, borrowed=True) for h in (self.client, self.server)]
        self.proxies = cls(self.spaces[0], PORT)
        self.proxies.spaces = dict(zip("ab", self.spaces))
        self.proxies.hosts = {"a": ("127.0.0.1", self.server.address), "b": (self.server.address, "127.0.0.1")}

    def start(self):
        if self.proxies.binary:
            os.chmod(self.spaces[0].dir, 0o755)
            known.make_certs(self.spaces[0].dir)
            self.client.run("nft", "-f", "-", input=REDIRECT)
        self.proxies.start()
        return self

    def pids(self, role=None):
        return self.proxies.pids(role)

    def stop(self):
        self.proxies.stop()
        for s in self.spaces:
            s.close()


class Ztunnels:
    """Two, each in its pod's namespace as istio-cni would have it, one worker each."""
    name = "ztunnel"

    def __init__(self, bench):
        self.bench = bench
        self.client, self.server = (bench.plain_host("zt-" + what, "10.77.9.%d" % i) for what, i in (("client", 1), ("server", 2)))
        self.each = {}

    def start(self):
        for role, pod in (("b", self.server), ("a", self.client)):
            token = self.bench.og("token", "create", "--workload", "bench/" + pod.name).strip()
            self.each[role] = ztunnel.Ztunnel(pod, self.bench.lab.dir, "bench/%s/%s" % (pod.name, pod.name), EDGE + ":15012", self.bench.lab.dir + "/roots.pem", token,
                                              {"ZTUNNEL_WORKER_THREADS": "1"}).ready()
            for pid in self.pids(role):
                subprocess.run(["taskset", "-acp", PROXY_CPU, str(pid)], stdout=subprocess.DEVNULL, check=True)
        return self

    def pids(self, role=None):
        return [q for r, z in self.each.items() if role in (None, r) for q in family(z.process.pid)]

    def stop(self):
        for z in self.each.values():
            self.bench.lab.stop(z.process)


class Deployed(Installation):
    def __init__(self, report, names, rounds, seconds, seed):
        super().__init__("ogbdep", ONBOARDING, GUESTS, controller=WORKLOADS, workers=1)
        self.report, self.rounds, self.seconds, self.seed = report, rounds, seconds, seed
        self.contenders = []
        try:
            self.registry.popen(["python3", "-c", agentlab.CONSUL, REGISTRY], "consul")
            for i, cls in enumerate(names):
                why = cls.missing()
                if why:
                    print("not measured: %s: %s" % (cls.name, why), flush=True)
                    continue
                self.contenders.append(Ours(self) if cls is known.Outrigger else Rival(self, cls, 20 + i))
            if ztunnel.missing():
                print("not measured: ztunnel: " + ztunnel.missing(), flush=True)
            else:
                self.contenders.append(Ztunnels(self))
            for host in self.lab.hosts:
                for key, value in SYSCTLS.items():
                    host.sysctl(key, "'%s'" % value)
            for c in self.contenders:
                self.backend(c)
                c.start()
        except BaseException:
            self.close()
            raise

    def backend(self, c):
        c.ns, c.inside = Namespace(c.server.ns, borrowed=True), Namespace(c.client.ns, borrowed=True)
        c.address = "%s:%d" % (c.server.address, known.BACKEND)
        TwoHop.make_pages(c.ns)
        c.ns.wait_listening(known.BACKEND, c.ns.popen(TwoHop.backend_argv(c.ns), LOAD_CPU, "backend"))

    def close(self):
        for c in self.contenders:
            c.stop()
            for space in (getattr(c, "ns", None), getattr(c, "inside", None)):
                if space:
                    space.close()
        super().close()

    # --- the parts ---

    def measured(self, scenario, c, argv):
        """(standard output, CPU seconds of both ends' parts of ours or the rival, of the machine)"""
        before, machine = cpu_s(c.pids()), machine_s()
        out = c.inside.run(argv, LOAD_CPU)
        return out, cpu_s(c.pids()) - before, machine_s() - machine

    def book(self, scenario, c, n, cpu, machine, unit, factor):
        if c.name != "direct":
            self.report.add(scenario, c.name, "cpu", unit, cpu / n * factor)
        self.report.add(scenario, c.name, "cpu of the machine", unit, machine / n * factor)

    def wrk(self, scenario, path, connections):
        for n, c in interleaved(self.contenders, self.rounds, self.seed):
            if n == 0:
                self.same_bytes(scenario, c, path)
            argv = ["wrk", "-t1", "-c%d" % connections, "-d%ds" % self.seconds, "http://%s%s" % (c.address, path)]
            out, cpu, machine = self.measured(scenario, c, argv)
            requests, rate, bad = TwoHop.read_wrk(out)
            if bad or not requests:
                self.report.fail(scenario, c.name, bad or "no request was answered")
                continue
            self.report.add(scenario, c.name, "rate", "requests/s", rate, cost=False)
            self.book(scenario, c, requests, cpu, machine, "s per 100k requests", 1e5)

    def same_bytes(self, scenario, c, path):
        got = [subprocess.run(space.argv(["curl", "-s", "-m", "20", "http://%s%s" % (where, path)]), stdout=subprocess.PIPE, check=False).stdout
               for space, where in ((c.inside, c.address), (c.ns, "127.0.0.1:%d" % known.BACKEND))]
        if got[0] != got[1]:
            self.report.fail(scenario, c.name, "other bytes than the backend's")

    def load(self, scenario, c, argv):
        out, cpu, machine = self.measured(scenario, c, [LOAD, *argv])
        result = json.loads(out)
        if result["errors"] or not result["requests"]:
            self.report.fail(scenario, c.name, "%d errors, %d requests" % (result["errors"], result["requests"]))
        return result, cpu, machine

    def run(self):
        self.wrk("deployed-small", "/", 64)
        self.wrk("deployed-64k", "/64k", 8)
        self.wrk("deployed-1m", "/1m", 8)
        for _, c in interleaved(self.contenders, self.rounds, self.seed):
            r, cpu, machine = self.load("deployed-connections", c, ["conn", c.address, 16, self.seconds])
            self.report.add("deployed-connections", c.name, "rate", "connections/s", r["rate"], cost=False)
            self.book("deployed-connections", c, max(r["requests"], 1), cpu, machine, "us per connection", 1e6)
        for _, c in interleaved(self.contenders, self.rounds, self.seed):
            r, cpu, machine = self.load("deployed-rate-4000", c, ["rate", c.address, 64, 4000, self.seconds])
            for q in ("p50", "p99"):
                self.report.add("deployed-rate-4000", c.name, q, "us", r[q + "_us"])
            self.book("deployed-rate-4000", c, max(r["requests"], 1), cpu, machine, "s per 100k requests", 1e5)
        for c in self.contenders:
            if c.name != "direct":
                self.report.add("deployed", c.name, "memory after all of it, both ends", "KiB private", memory_kb(c.pids())[0])

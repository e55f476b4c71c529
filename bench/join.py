"""From the first registration packet to reachable from a peer: 200 registrations by real ZooKeeper clients.

Servers A and B, each with an agent on its NIC; VMs are namespaces (what is measured is on the NIC, not in the guest). A peer behind
server B dials each service's virtual address, over and over, from before it registers: the clock stops at the first answer.
"""

import json
import os
import subprocess
import time

from lab import TOP
from installation import Installation, policy, wait_until

NET = "10.77"
ONBOARDING = (policy("warm", 'port: "warm*"', mode="permissive", services=["*"]) +
              policy("cold", 'port: "cold*"', mode="permissive", services=["*"], more="    isolation: vm\n") +
              policy("peer", 'port: "peer*"', mode="permissive", client=True))


class Vm:
    """A namespace behind a port, with a helper inside."""

    def __init__(self, bench, server, port, number):
        self.bench = bench
        self.server = bench.servers[server]
        self.port = port
        self.address = "%s.%d.%d" % (NET, 1 + number // 200, 1 + number % 200)
        self.host = bench.vm(server, port, self.address, "02:00:77:%02x:%02x:01" % (number >> 8, number & 255))
        self.process = None

    def start_with_input(self, script, *argv):
        path = os.path.join(TOP, "bench", script)
        log = open(os.path.join(self.bench.lab.dir, self.port + ".helper.log"), "ab")
        self.process = subprocess.Popen(self.host.argv("/usr/bin/python3", path, *argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1,
                                        start_new_session=True)
        self.process.name = self.port
        self.bench.lab.processes.append(self.process)
        return self

    def say(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def hear(self):
        line = self.process.stdout.readline().strip()
        if not line:
            raise RuntimeError("%s ended: see its log in %s" % (self.port, self.bench.lab.dir))
        return line

    def ask(self, text):
        self.say(text)
        return self.hear()


class Join(Installation):
    def __init__(self, report, warm_vms=20, services_each=10, cold_vms=30):
        super().__init__("ogj", ONBOARDING, ports=("warm*", "cold*", "peer*"), agent="discovery: { zookeeper: [2181] }\n")
        self.report = report
        self.services_each = services_each
        try:
            self.start(warm_vms, cold_vms)
        except BaseException:
            self.close()
            raise

    def start(self, n_warm, n_cold):
        self.start_zookeeper(self.registry)
        for name in self.servers:
            self.start_agent(name)
        ports = [str(8000 + i) for i in range(self.services_each)]
        self.warm = [Vm(self, "a", "warm%d" % i, 10 + i).start_with_input("join_vm.py", "10.77.0.1:2181", "%s.1.%d" % (NET, 11 + i), *ports) for i in range(n_warm)]
        self.cold = [Vm(self, "a", "cold%d" % i, 100 + i).start_with_input("join_vm.py", "10.77.0.1:2181", "%s.1.%d" % (NET, 101 + i), "8000") for i in range(n_cold)]
        self.peer = Vm(self, "b", "peer0", 200)
        self.peer.host.ip("route", "add", "10.99.0.0/16", "via", "10.77.0.1")
        self.peer.start_with_input("join_peer.py", "10.77.0.1:2181")
        for vm in self.warm + self.cold + [self.peer]:
            vm.hear()
        wait_until("the peer's proxy", lambda: "ready" in self.og("proxies"), 20)

    def start_zookeeper(self, host):
        d = os.path.join(self.lab.dir, "zk")
        os.makedirs(d)
        with open(os.path.join(d, "zoo.cfg"), "w") as f:
            f.write("tickTime=1000\ndataDir=%s\nclientPort=2181\nmaxClientCnxns=0\nadmin.enableServer=false\n" % d)
        host.popen(["java", "-Xmx128m", "-XX:+UseSerialGC", "-cp", "/etc/zookeeper/conf:/usr/share/java/*", "-Dzookeeper.log.dir=" + d, "-Dzookeeper.forceSync=no",
                    "org.apache.zookeeper.server.quorum.QuorumPeerMain", os.path.join(d, "zoo.cfg")], "zookeeper")
        wait_until("ZooKeeper", lambda: ":0885 " in host.run("cat", "/proc/net/tcp", "/proc/net/tcp6"), 30)

    # --- what is measured ---

    def vips(self):
        """Virtual address by service name, of the services that are in the mesh."""
        services = json.loads(self.og_get("/v1/workloads"))["services"]
        return {s["name"]: s["addresses"][0] for s in services if s.get("addresses") and s.get("endpoints")}

    def acquaint(self, items):
        """Registers all once, so that each has its virtual address, and takes them back."""
        for name, vm, port in items:
            vm.ask("register %s %s" % (name, port))
        names = {name for name, _, _ in items}
        vips = wait_until("virtual addresses of %d services" % len(items), lambda: (lambda v: v if names <= set(v) else None)(self.vips()), 60)
        for name, vm, port in items:
            vm.ask("deregister %s %s" % (name, port))
        wait_until("all gone", lambda: not names & set(self.vips()), 60)
        return vips

    def measure(self, scenario, items, vips):
        for name, vm, port in items:
            self.peer.say("%s %s" % (vips[name], port))
            if self.peer.hear() != "dialling":
                self.report.fail(scenario, "outrigger", "%s answered before it registered" % name)
            begin = int(vm.ask("register %s %s" % (name, port)))
            end = int(self.peer.hear())
            if not end:
                self.report.fail(scenario, "outrigger", "%s was never reachable" % name)
                return
            self.report.add(scenario, "outrigger", "registration to reachable", "ms", (end - begin) / 1e6)

    def run(self):
        warm = [("w%d-%d" % (i, k), vm, 8000 + k) for i, vm in enumerate(self.warm) for k in range(self.services_each)]
        cold = [("c%d" % i, vm, 8000) for i, vm in enumerate(self.cold)]
        keep = [("keep%d" % i, vm, 8000) for i, vm in enumerate(self.warm)]
        for name, vm, port in keep:     # a service that stays, so that the VM's proxy is there
            vm.ask("register %s %s" % (name, port))
        self.measure("join", warm, self.acquaint(warm))
        vips = self.acquaint(cold)
        for _, vm, _ in cold:           # the port goes and comes: the VM's process is gone
            vm.server.ip("link", "set", vm.port, "down")
        time.sleep(3)
        for _, vm, _ in cold:
            vm.server.ip("link", "set", vm.port, "up")
        time.sleep(2)
        self.measure("join-process-start", cold, vips)
        self.percentiles()

    def percentiles(self):
        for scenario in ("join", "join-process-start"):
            values = sorted(v for (s, m, _, _), by in self.report.samples.items() if s == scenario and m == "registration to reachable" for v in by["outrigger"])
            for q in (50, 90, 99):
                if values:
                    self.report.add(scenario, "outrigger", "p%d" % q, "ms", values[min(len(values) - 1, int(len(values) * q / 100))])

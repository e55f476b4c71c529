"""From the first registration packet to reachable from a peer: 200 registrations by real ZooKeeper clients.

Servers A and B, each with an agent on its NIC; VMs are namespaces (what is measured is on the NIC, not in the guest). A peer behind
server B dials each service's virtual address, over and over, from before it registers: the clock stops at the first answer.
"""

import json
import os
import subprocess
import sys
import time

from lab import BUILD, TOP

sys.path.insert(0, os.path.join(TOP, "tests", "lib"))

from netlab import Lab, wait_until  # noqa: E402

OUTRIGGER = os.path.join(BUILD, "src", "ctl", "outrigger")
NET = "10.77"
CONTROLLER = """trust_domain: bench.mesh
state_dir: %(dir)s/controller
listen: { mesh: "10.77.0.2:15012", provisioner: "10.77.0.2:15030", rest: "127.0.0.1:15031", rest_socket: %(dir)s/controller.sock }
advertise: { mesh: "10.77.0.2:15012", server_names: [10.77.0.2] }
virtual_addresses: 10.99.0.0/16
namespaces: [bench]
onboarding:
  - { name: warm, match: { port: "warm*" }, mode: permissive, namespace: bench, service_account: warm, services: ["*"] }
  - { name: cold, match: { port: "cold*" }, mode: permissive, namespace: bench, service_account: cold, services: ["*"], isolation: vm }
  - { name: peer, match: { port: "peer*" }, mode: permissive, namespace: bench, service_account: peer, client: true }
"""
AGENT = """nic: %(name)s
controller: { address: "10.77.0.2:15030", roots: %(dir)s/roots.pem, join_token_file: %(dir)s/join-%(name)s }
ports: [ { match: "warm*" }, { match: "cold*" }, { match: "peer*" } ]
uplinks: [up0]
discovery: { zookeeper: [2181] }
proxy: { path: %(build)s/src/proxy/outrigger-proxy, drain: 0s }
steering: { pin_dir: /sys/fs/bpf/%(lab)s-%(name)s }
state_dir: %(dir)s/agent-%(name)s
run_dir: %(dir)s/run-%(name)s
"""


class Vm:
    """A namespace behind a port, with a helper inside."""

    def __init__(self, bench, server, port, number):
        self.bench = bench
        self.server = server
        self.port = port
        self.address = "%s.%d.%d" % (NET, 1 + number // 200, 1 + number % 200)
        self.host = bench.lab.host(port)
        bench.lab.cable(self.host, "eth0", server, port, self.address + "/16", mac_a="02:00:77:%02x:%02x:01" % (number >> 8, number & 255), master_b="br0")
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


class Join:
    def __init__(self, report, warm_vms=20, services_each=10, cold_vms=30):
        self.report = report
        self.lab = Lab("ogj")
        os.chmod(self.lab.dir, 0o755)
        self.services_each = services_each
        try:
            self.hosts(warm_vms, cold_vms)
        except BaseException:
            self.lab.close()
            raise

    def hosts(self, n_warm, n_cold):
        lab = self.lab
        net = lab.host("net")
        net.bridge("br0")
        registry, edge = lab.host("registry"), lab.host("edge")
        lab.cable(registry, "eth0", net, "to-reg", "10.77.0.1/16", master_b="br0")
        lab.cable(edge, "eth0", net, "to-edge", "10.77.0.2/16", master_b="br0")
        servers = {}
        for name, address in (("a", "10.77.0.3/16"), ("b", "10.77.0.4/16")):
            h = servers[name] = lab.host(name)
            h.bridge("br0", address)
            lab.cable(h, "up0", net, "to-" + name, master_a="br0", master_b="br0")
            h.ip("route", "add", "default", "via", "10.77.0.1")
        self.start_zookeeper(registry)
        self.start_controller(edge)
        for name, h in servers.items():
            self.start_agent(name, h)
        ports = [str(8000 + i) for i in range(self.services_each)]
        self.warm = [Vm(self, servers["a"], "warm%d" % i, 10 + i).start_with_input("join_vm.py", "10.77.0.1:2181", "%s.1.%d" % (NET, 11 + i), *ports) for i in range(n_warm)]
        self.cold = [Vm(self, servers["a"], "cold%d" % i, 100 + i).start_with_input("join_vm.py", "10.77.0.1:2181", "%s.1.%d" % (NET, 101 + i), "8000") for i in range(n_cold)]
        self.peer = Vm(self, servers["b"], "peer0", 200)
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

    def write(self, name, text, mode=0o644):
        with open(os.open(os.path.join(self.lab.dir, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as f:
            f.write(text)
        return os.path.join(self.lab.dir, name)

    def og(self, *argv):
        return subprocess.run([OUTRIGGER, *argv, "--controller", "unix:%s/controller.sock" % self.lab.dir], stdout=subprocess.PIPE, check=True, text=True).stdout

    def start_controller(self, host):
        host.popen([os.path.join(BUILD, "src", "control", "outrigger-controller"), "--config", self.write("controller.yaml", CONTROLLER % {"dir": self.lab.dir})], "controller")
        wait_until("the controller", lambda: os.path.exists(self.lab.dir + "/controller.sock"), 20)
        self.write("roots.pem", self.og("roots"))

    def start_agent(self, name, host):
        self.write("join-" + name, self.og("token", "create", "--nic", name).strip(), 0o600)
        text = AGENT % {"dir": self.lab.dir, "name": name, "build": BUILD, "lab": os.path.basename(self.lab.dir)}
        host.popen([os.path.join(BUILD, "src", "agent", "outrigger-agent"), "--config", self.write("agent-%s.yaml" % name, text)], "agent")
        wait_until("agent " + name, lambda: os.path.exists("%s/run-%s/agent.sock" % (self.lab.dir, name)), 20)

    # --- what is measured ---

    def vips(self):
        """Virtual address by service name, of the services that are in the mesh."""
        services = json.loads(self.og_get("/v1/workloads"))["services"]
        return {s["name"]: s["addresses"][0] for s in services if s.get("addresses") and s.get("endpoints")}

    def og_get(self, path):
        return subprocess.run(["curl", "-s", "--unix-socket", self.lab.dir + "/controller.sock", "http://x" + path], stdout=subprocess.PIPE, check=True, text=True).stdout

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

    def close(self):
        self.lab.close()

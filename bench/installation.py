"""Two servers with an agent each, a controller, and what else a whole installation has, in namespaces."""

import functools
import os
import subprocess
import sys

from lab import BUILD, TOP

sys.path.insert(0, os.path.join(TOP, "tests", "lib"))

import meshconf  # noqa: E402
from netlab import Lab, wait_until  # noqa: E402

OUTRIGGER = os.path.join(BUILD, "src", "ctl", "outrigger")
REGISTRY, EDGE = "10.77.0.1", "10.77.0.2"
SERVERS = {"a": "10.77.0.3", "b": "10.77.0.4"}
NAMESPACE = "bench"
policy = functools.partial(meshconf.policy, namespace=NAMESPACE)


class Installation:
    """Hosts on one wire, 10.77.0.0/16.

    @onboarding: rows of policy(). @guests: {MAC: name}. @ports: the agents'. @controller, @agent: further sections of the files.
    """

    def __init__(self, prefix, onboarding, guests=(), ports=("tap*",), controller="", agent="", workers=0):
        self.lab = Lab(prefix)
        os.chmod(self.lab.dir, 0o755)
        self.guests, self.ports, self.more, self.workers = dict(guests), ports, agent, workers
        try:
            self.net = self.lab.host("net")
            self.net.bridge("br0")
            self.registry, self.edge = (self.plain_host(*h) for h in (("registry", REGISTRY), ("edge", EDGE)))
            self.servers = {name: self.server(name, address) for name, address in SERVERS.items()}
            self.start_controller(meshconf.controller(self.lab.dir, EDGE, onboarding, "bench.mesh", namespace=NAMESPACE, more=controller))
        except BaseException:
            self.lab.close()
            raise

    def plain_host(self, name, address):
        """A host on the wire, without a NIC of ours."""
        host = self.lab.host(name)
        host.address = address
        self.lab.cable(host, "eth0", self.net, "to-" + name, address + "/16", master_b="br0")
        return host

    def server(self, name, address):
        host = self.lab.host(name)
        host.bridge("br0", address + "/16")
        self.lab.cable(host, "up0", self.net, "to-" + name, master_a="br0", master_b="br0")
        host.ip("route", "add", "default", "via", REGISTRY)
        return host

    def vm(self, server, port, address, mac):
        """A namespace behind a port of a server."""
        host = self.lab.host(port)
        host.address = address
        self.lab.cable(host, "eth0", self.servers[server], port, address + "/16", mac_a=mac, master_b="br0")
        return host

    def write(self, name, text, mode=0o644):
        with open(os.open(os.path.join(self.lab.dir, name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as f:
            f.write(text)
        return os.path.join(self.lab.dir, name)

    def og(self, *argv):
        return subprocess.run([OUTRIGGER, *argv, "--controller", "unix:%s/controller.sock" % self.lab.dir], stdout=subprocess.PIPE, check=True, text=True).stdout

    def og_get(self, path):
        return subprocess.run(["curl", "-s", "--unix-socket", self.lab.dir + "/controller.sock", "http://x" + path], stdout=subprocess.PIPE, check=True, text=True).stdout

    def start_controller(self, text):
        path = self.write("controller.yaml", text)
        self.edge.popen([os.path.join(BUILD, "src", "control", "outrigger-controller"), "--config", path], "controller")
        wait_until("the controller", lambda: os.path.exists(self.lab.dir + "/controller.sock"), 20)
        self.write("roots.pem", self.og("roots"))

    def start_agent(self, name):
        """The agent of a server; returns its process."""
        self.write("join-" + name, self.og("token", "create", "--nic", name).strip(), 0o600)
        proxy = {"path": os.path.join(BUILD, "src", "proxy", "outrigger-proxy"), "drain": "0s", "workers": self.workers}
        pin = "/sys/fs/bpf/%s-%s" % (os.path.basename(self.lab.dir), name)
        text = meshconf.agent(self.lab.dir, name, EDGE, self.guests, pin, proxy, ports=self.ports, more=self.more)
        process = self.servers[name].popen([os.path.join(BUILD, "src", "agent", "outrigger-agent"), "--config", self.write("agent-%s.yaml" % name, text)], "agent")
        wait_until("agent " + name, lambda: os.path.exists("%s/run-%s/agent.sock" % (self.lab.dir, name)), 20)
        return process

    def close(self):
        self.lab.close()

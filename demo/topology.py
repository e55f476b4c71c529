"""The demo's machines: namespaces as servers, real guests on the NICs' ports.

              10.88.0.0/24, one wire ("net")
    edge .2      controller
    registry .1  ZooKeeper, BIND (zone shop.example)
    a .3         server A's NIC: orders-1 .11 (tap0), shopper-1 .13 (tap1), a container .40 (vethc0)
    b .4         server B's NIC: billing-1 .12 (tap0), orders-2 .14 (tap1)
    cart .30     container host: the workload cart, an unmodified Envoy as its sidecar
"""

import os
import re

from guest import Guest
from netlab import wait_until

SECRET = b"secret 7f3a9c51"
ADDRESS = {
    "registry": "10.88.0.1", "edge": "10.88.0.2", "a": "10.88.0.3", "b": "10.88.0.4", "cart": "10.88.0.30", "container": "10.88.0.40",
    "orders-1": "10.88.0.11", "billing-1": "10.88.0.12", "shopper-1": "10.88.0.13", "orders-2": "10.88.0.14",
}
GUESTS = {
    "orders-1": ("a", "tap0", "02:00:00:88:00:11", "role=orders service=orders"),
    "shopper-1": ("a", "tap1", "02:00:00:88:00:13", "role=shopper"),
    "billing-1": ("b", "tap0", "02:00:00:88:00:12", "role=billing"),
    "orders-2": ("b", "tap1", "02:00:00:88:00:14", "role=orders service=orders"),
}
NAMED_CONF = """options { directory "%(dir)s"; listen-on port 53 { %(ip)s; }; listen-on-v6 { none; }; recursion no; pid-file none; session-keyfile none; };
zone "shop.example" { type master; file "%(dir)s/shop.zone"; };
"""
ZONE = """$TTL 5
@ IN SOA ns.shop.example. root.shop.example. 1 60 60 60 5
@ IN NS ns
ns IN A %(registry)s
cart IN A %(cart)s
billing IN A %(billing-1)s
orders IN A %(orders-1)s
"""


class Topology:
    def __init__(self, lab, image):
        self.lab = lab
        self.image = image
        self.net = lab.host("net")
        self.net.bridge("br0")
        self.hosts = {}
        self.guests = {}
        for name in ("registry", "edge", "cart"):
            self.plain_host(name)
        for name, taps in (("a", ("tap0", "tap1")), ("b", ("tap0", "tap1"))):
            self.server(name, taps)
        self.container()

    def plain_host(self, name):
        h = self.hosts[name] = self.lab.host(name)
        self.lab.cable(h, "eth0", self.net, "to-" + name, ADDRESS[name] + "/24", master_b="br0")
        h.ip("route", "add", "default", "via", ADDRESS["registry"]) if name != "registry" else None
        return h

    def server(self, name, taps):
        """A server with a NIC: a bridge with the VMs' ports and an uplink."""
        h = self.hosts[name] = self.lab.host(name)
        h.bridge("br0", ADDRESS[name] + "/24")
        self.lab.cable(h, "up0", self.net, "to-" + name, master_a="br0", master_b="br0")
        for t in taps:
            h.tap(t, "br0")
        h.ip("route", "add", "default", "via", ADDRESS["registry"])

    def container(self):
        """A container beside the VMs on server A, behind a port that looks like theirs."""
        h = self.hosts["container"] = self.lab.host("container")
        self.lab.cable(h, "eth0", self.hosts["a"], "vethc0", ADDRESS["container"] + "/24", master_b="br0")
        h.ip("route", "add", "default", "via", ADDRESS["registry"])

    def boot(self, name):
        """Starts a guest; does not wait for it."""
        server, tap, mac, words = GUESTS[name]
        cmdline = "vmip=%s/24 gw=%s dns=%s zk=%s:2181 %s" % (ADDRESS[name], ADDRESS["registry"], ADDRESS["registry"], ADDRESS["registry"], words)
        g = Guest(self.image, name, netns=self.hosts[server].ns, tap=tap, mac=mac, cmdline=cmdline, memory_mb=112, run_dir=self.lab.dir)
        self.guests[name] = self.lab.guest(g)
        return g.start()

    def start_registry(self):
        h = self.hosts["registry"]
        zk = os.path.join(self.lab.dir, "zookeeper")
        os.makedirs(zk)
        with open(os.path.join(zk, "zoo.cfg"), "w") as f:
            f.write("tickTime=500\ndataDir=%s\nclientPort=2181\nclientPortAddress=%s\nadmin.enableServer=false\n" % (zk, ADDRESS["registry"]))
        zookeeper = h.popen(["java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", "/etc/zookeeper/conf:/usr/share/java/*", "-Dzookeeper.log.dir=" + zk,
                 "org.apache.zookeeper.server.quorum.QuorumPeerMain", os.path.join(zk, "zoo.cfg")], "zookeeper")
        bind = os.path.join(self.lab.dir, "bind")
        os.makedirs(bind)
        with open(os.path.join(bind, "named.conf"), "w") as f:
            f.write(NAMED_CONF % {"dir": bind, "ip": ADDRESS["registry"]})
        with open(os.path.join(bind, "shop.zone"), "w") as f:
            f.write(ZONE % ADDRESS)
        named = h.popen(["named", "-g", "-n", "1", "-c", os.path.join(bind, "named.conf")], "named")
        for what, port, process in (("ZooKeeper", 2181, zookeeper), ("BIND", 53, named)):
            wait_until(what, lambda: self.listens(h, port, process), 30)

    @staticmethod
    def listens(host, port, process):
        if process.poll() is not None:
            raise RuntimeError("%s ended: see its log" % process.name)
        return re.search(r":%04X [0-9A-F]+:0000 0A" % port, host.run("cat", "/proc/net/tcp", "/proc/net/tcp6"))

    def register_container(self):
        """The container registers as the VMs do: with ZooKeeper's C client."""
        script = ("( echo 'create /services'; echo 'create /services/reports'; echo 'create +e /services/reports/reports-1'; "
                  "echo 'set /services/reports/reports-1 {\"name\":\"reports\",\"id\":\"reports-1\",\"address\":\"%s\",\"port\":8080}'; sleep 1000000 ) "
                  "| /usr/lib/zookeeper/bin/cli_mt %s:2181" % (ADDRESS["container"], ADDRESS["registry"]))
        return self.hosts["container"].popen(["sh", "-c", script], "zkcli")

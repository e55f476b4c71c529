"""AgentLab with a server of names that VMs ask, and resolvers made by hand."""

import os
import socket
import struct
import subprocess
import time

from agentlab import REGISTRY, AgentLab
from netlab import wait_until

ONBOARDING = """  - name: orders
    match: { guest_name: "orders-*" }
    mode: permissive
    namespace: shop
    service_account: orders
    services: [orders]
  - name: shoppers
    match: { guest_name: "shopper-*" }
    mode: permissive
    namespace: shop
    service_account: shopper
    client: true
    dns: %s
"""
NAMED_CONF = """options { directory "%(dir)s"; listen-on { any; }; listen-on-v6 { any; }; recursion no; pid-file none; allow-query { any; };
  session-keyfile none; minimal-responses yes; max-udp-size 4096; };
controls { };
zone "." { type primary; file "root.zone"; };
"""
NUMBERS = ["n%d 60 IN A 192.0.2.%d" % (i, i % 250 + 1) for i in range(1000)]
ROOT_ZONE = "\n".join(["$ORIGIN .", "@ 60 IN SOA ns. root. 1 60 60 60 60", "@ 60 IN NS ns.", "ns. 60 IN A 10.66.0.1",
                       "$ORIGIN outside.example.", "www 60 IN A 192.0.2.80", "www 60 IN AAAA 2001:db8::80"] + NUMBERS +
                      ["many 60 IN A 198.51.%d.%d" % (i // 250, i % 250 + 1) for i in range(40)] + [""])


class DnsLab(AgentLab):
    """vm0 offers "orders"; vm1 asks for names, by the mode that it is made with."""

    def __init__(self, prefix="ogn", mode="fill", **more):
        super().__init__(prefix, onboarding=ONBOARDING % mode, **more)
        self.server = None
        self.ns = REGISTRY

    def start_named(self):
        folder = os.path.join(self.dir, "named")
        os.makedirs(folder, exist_ok=True)
        with open(folder + "/named.conf", "w") as f:
            f.write(NAMED_CONF % {"dir": folder})
        with open(folder + "/root.zone", "w") as f:
            f.write(ROOT_ZONE)
        self.server = self.reg.popen(["named", "-g", "-n", "1", "-c", folder + "/named.conf"], "named")
        self.wait_for_server("named")

    def start_dnsmasq(self):
        self.server = self.reg.popen(["dnsmasq", "-k", "-h", "-R", "--no-hosts", "-u", "root", "-x", self.dir + "/dnsmasq.pid", "-C", "/dev/null",
                                      "--address=/outside.example/192.0.2.80", "--local=/mesh.internal/"], "dnsmasq")
        self.wait_for_server("dnsmasq")

    def wait_for_server(self, what):
        """Until it has answered: what dig says of a server that does not is no address."""
        dig = ["dig", "+time=1", "+tries=1", "+short", "@" + REGISTRY, "www.outside.example"]
        wait_until(what, lambda: self.reg.run(*dig, check=False).split() == ["192.0.2.80"])

    def start(self, server="named"):
        getattr(self, "start_" + server)()
        super().start()
        self.join(self.vms[0])
        self.discover(self.vms[1])
        wait_until("the client's proxy", lambda: self.proxy(self.vms[1]), 30)
        return self

    def stop_server(self):
        self.stop(self.server)

    def dig(self, name, *more, vm=1, server=None, short=True):
        """What `dig` prints; with @short its answers, one a line."""
        argv = self.vms[vm].argv("dig", "@" + (server or self.ns), "+time=4", "+tries=2", *(["+short"] if short else []), name, *more)
        return subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, text=True, timeout=60).stdout

    def status(self, name, *more, **kw):
        for line in self.dig(name, *more, short=False, **kw).splitlines():
            if "status: " in line:
                return line.split("status: ")[1].split(",")[0]
        return None

    def vip(self, hostname="orders.shop.mesh.internal"):
        services = self.ask(self.edge, "controller.sock", "/v1/workloads")["services"]
        return next(s["addresses"][0] for s in services if s["hostname"] == hostname)

    def dns_metrics(self, vm=1):
        """What the VM's proxy has counted."""
        found = {}
        for line in self.nic.run("curl", "-sS", "-m", "10", "http://127.0.0.1:15020/metrics").splitlines():
            if line.startswith(("istio_dns", "outrigger_dns")) and self.vms[vm].mac in line:
                found[line.split("{")[0]] = int(float(line.rsplit(" ", 1)[1]))
        return found


def dropped(lab):
    """How many datagrams the kernel has dropped for want of room, in the queues of sockets and of processors: who was not given the time to read them."""
    n = 0
    for host in lab.hosts:
        udp = [line.split() for line in host.run("grep", "^Udp: ", "/proc/net/snmp").splitlines()]
        n += int(udp[1][udp[0].index("RcvbufErrors")])
        n += sum(int(line.split()[1]) for line in host.run("grep", "-s", "^Udp6RcvbufErrors", "/proc/net/snmp6", check=False).splitlines())
    with open("/proc/net/softnet_stat") as f:
        return n + sum(int(line.split()[1], 16) for line in f)


def query(name, qid=0x1234, qtype=1, edns=None):
    """A query's bytes."""
    q = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0" + struct.pack("!HH", qtype, 1)
    extra = b"" if edns is None else b"\0" + struct.pack("!HHIH", 41, edns, 0, 0)
    return struct.pack("!HHHHHH", qid, 0x0100, 1, 0, 0, 1 if extra else 0) + q + extra


class Asker:
    """A resolver in a VM with one connected socket, as many have it."""

    def __init__(self, vm, server=REGISTRY, timeout=8):
        with vm.inside():
            self.sock = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect((server, 53))
        self.sock.settimeout(timeout)

    def ask(self, *what, **kw):
        self.sock.send(query(*what, **kw))
        return self.sock.recv(65535)

    def close(self):
        self.sock.close()


class Stream:
    """The same over TCP: as many queries as one likes, whose answers come in any order."""

    def __init__(self, vm, server=REGISTRY, timeout=30, port=0):
        with vm.inside():
            self.sock = socket.create_connection((server, 53), timeout, (vm.address, port) if port else None)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, *messages):
        self.sock.sendall(b"".join(struct.pack("!H", len(m)) + m for m in messages))

    def read(self, n):
        while len(self.buffer) < n:
            got = self.sock.recv(65536)
            if not got:
                raise EOFError
            self.buffer += got
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def receive(self):
        return self.read(struct.unpack("!H", self.read(2))[0])

    def ask(self, *what, **kw):
        self.send(query(*what, **kw))
        return self.receive()

    def close(self):
        self.sock.close()


def burst(vm, names, seconds, server=REGISTRY):
    """Sends a query for each name, evenly in so many seconds; the ids of those that were answered."""
    a = Asker(vm, server)
    a.sock.settimeout(0)
    seen, start = {}, time.monotonic()

    def drain():
        try:
            while True:
                m = a.sock.recv(65535)
                seen[struct.unpack("!H", m[:2])[0]] = m
        except (BlockingIOError, ConnectionRefusedError):
            pass

    for i, name in enumerate(names):
        while time.monotonic() - start < seconds * i / len(names):
            drain()
            time.sleep(0.0005)
        a.sock.send(query(name, qid=i))
    end = time.monotonic() + 30
    while len(seen) < len(names) and time.monotonic() < end:
        drain()
        time.sleep(0.005)
    a.close()
    return seen

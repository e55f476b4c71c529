"""A NIC with VMs on it, in namespaces, and the real root monitor driven by steer-driver.

Ports are veth devices (this needs no KVM and no tap), VMs are namespaces. Sockets of any namespace are made here in the
test's own process, so a test reads like a conversation.
"""

import ctypes
import json
import os
import queue
import signal
import socket
import subprocess
import threading

from netlab import wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("OUTRIGGER_BUILD", os.path.join(HERE, "..", "..", "build"))
DRIVER = os.path.join(BUILD, "tests", "lib", "steer-driver")

ROUTED, BRIDGE, OVS = 0, 1, 2
OUT, IN, DNS, BEHIND = 0, 1, 2, 3
DROP_SPOOFED, LEARN = 1, 2
FAIL_CLOSED, SAME_NIC = 1, 2
UNVERIFIED, CUT = 1, 2

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def in_netns(host, fn):
    """Calls @fn in a thread that is in @host's namespace; what it opens stays there."""
    result = []

    def work():
        fd = os.open("/var/run/netns/" + host.ns, os.O_RDONLY)
        try:
            if _libc.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            result.append((fn(), None))
        except BaseException as e:  # pylint: disable=broad-except
            result.append((None, e))
        finally:
            os.close(fd)

    t = threading.Thread(target=work)
    t.start()
    t.join()
    value, error = result[0]
    if error:
        raise error
    return value


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp_connect(host, address, port, source=None, timeout=3, options=()):
    def make():
        s = socket.socket(family_of(address), socket.SOCK_STREAM)
        s.settimeout(timeout)
        for o in options:
            s.setsockopt(*o)
        if source:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(source)
        s.connect((address, port))
        return s
    return in_netns(host, make)


def udp_socket(host, family=socket.AF_INET, bind=None):
    def make():
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.settimeout(3)
        if bind:
            s.bind(bind)
        return s
    return in_netns(host, make)


def raw_socket(host, device):
    def make():
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        s.bind((device, 0))
        return s
    return in_netns(host, make)


def read_line(s):
    line = b""
    while not line.endswith(b"\n"):
        part = s.recv(1)
        if not part:
            break
        line += part
    return line.decode()


class Server:
    """Listens in a namespace; says who came ("real PEER at ADDRESS\\n"), then echoes."""

    def __init__(self, host, port, family=socket.AF_INET6, greet=True):
        self.received = b""
        self.peers = []

        def make():
            s = socket.socket(family, socket.SOCK_STREAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
            s.listen(64)
            return s
        self.sock = in_netns(host, make)
        self.greet = greet
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                c, peer = self.sock.accept()
            except OSError:
                return
            self.peers.append("[%s]:%d" % peer[:2] if not peer[0].startswith("::ffff:") else "%s:%d" % (peer[0][7:], peer[1]))
            threading.Thread(target=self._serve, args=(c,), daemon=True).start()

    def _serve(self, c):
        try:
            if self.greet:
                c.sendall(("real %s\n" % self.peers[-1]).encode())
            while True:
                data = c.recv(65536)
                if not data:
                    break
                self.received += data
                c.sendall(data)
        except OSError:
            pass
        c.close()

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


class DriverError(Exception):
    def __init__(self, command, result):
        super().__init__("%s: %s" % (command, os.strerror(-result) if result < 0 else result))
        self.errno = -result


class Driver:
    """steer-driver in a namespace. Methods are its commands: d.port(dev="tap0", vm=1)."""

    def __init__(self, host, *options):
        self.answers = queue.Queue()
        self.events = []
        self.errors = ""
        self.process = subprocess.Popen(host.argv(DRIVER, *options), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        threading.Thread(target=self._read_errors, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            o = json.loads(line)
            if "ev" in o:
                self.events.append(o)
            else:
                self.answers.put(o)

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors += line

    def command(self, name, **args):
        self.process.stdin.write(json.dumps(dict(args, cmd=name)) + "\n")
        self.process.stdin.flush()
        answer = self.answers.get(timeout=20)
        if answer["r"] < 0:
            raise DriverError("%s %s" % (name, args), answer["r"])
        return answer

    def __getattr__(self, name):
        return lambda **args: self.command(name, **args)

    def records(self, **match):
        return [e for e in list(self.events) if e["ev"] == "record" and all(e[k] == v for k, v in match.items())]

    def wait_record(self, **match):
        return wait_until("record %s in %s" % (match, self.events[-5:]), lambda: self.records(**match), 5)

    def kill(self):
        """As a crash of both processes would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(10)		# the last of them has closed its output, and its listeners with it

    def close(self):
        """The worker ends, and the monitor cleans up."""
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


class Nic:
    """Two VMs and an uplink on a NIC, routed or bridged, untagged or behind VLAN tags; both families."""

    def __init__(self, lab, topology):
        self.lab = lab
        self.topology = topology
        self.nic = lab.host("nic")
        self.vm = [None, lab.host("vm1"), lab.host("vm2")]
        self.peer = lab.host("peer")
        self.drivers = []
        self.nic.run("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
        if topology == ROUTED:
            self._routed()
        else:
            self._bridged()

    def _mac(self, i):
        return "02:00:00:00:00:%02x" % i

    def _routed(self):
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            self.nic.sysctl(key, 1)
        for i in (1, 2):
            self.lab.cable(self.vm[i], "eth0", self.nic, "tap%d" % i, ["10.61.%d.2/24" % i, "fd61:%d::2/64" % i],
                           ["10.61.%d.1/24" % i, "fd61:%d::1/64" % i], mac_a=self._mac(i))
            self._default(self.vm[i], "10.61.%d.1" % i, "fd61:%d::1" % i)
        self.lab.cable(self.peer, "eth0", self.nic, "up0", ["10.62.0.2/24", "fd62::2/64"], ["10.62.0.1/24", "fd62::1/64"],
                       mac_a=self._mac(9))
        self._default(self.peer, "10.62.0.1", "fd62::1")
        self.addresses = [None, ("10.61.1.2", "fd61:1::2"), ("10.61.2.2", "fd61:2::2")]
        self.peer_addresses = ("10.62.0.2", "fd62::2")

    def _bridged(self):
        self.nic.bridge("br0")
        for i in (1, 2):
            self.lab.cable(self.vm[i], "eth0", self.nic, "tap%d" % i, ["10.63.0.1%d/24" % i, "fd63::1%d/64" % i],
                           mac_a=self._mac(i), master_b="br0")
            self._default(self.vm[i], "10.63.0.1", "fd63::1")
        self.lab.cable(self.peer, "eth0", self.nic, "up0", ["10.63.0.1/24", "fd63::1/64"], mac_a=self._mac(9), master_b="br0")
        # somebody who is not on the VMs' link
        for a in ("10.99.0.1/32", "fd99::1/128"):
            self.peer.ip("addr", "add", a, "dev", "lo")
        self.addresses = [None, ("10.63.0.11", "fd63::11"), ("10.63.0.12", "fd63::12")]
        self.peer_addresses = ("10.63.0.1", "fd63::1")

    @staticmethod
    def _default(host, v4, v6):
        host.ip("route", "add", "default", "via", v4)
        host.ip("-6", "route", "add", "default", "via", v6)

    def tag(self, *hosts):
        for h in hosts:
            h.tag("eth0")

    def driver(self, *options, vms=(1, 2), flags=0, vlan=0):
        d = Driver(self.nic, *options)
        self.drivers.append(d)
        d.loaded = d.load()
        out = {} if self.topology == ROUTED else {"out": "br0" if self.topology == BRIDGE else "up0", "out_vlan": vlan}
        for i in vms:
            d.port(dev="tap%d" % i, vm=i, topology=self.topology, flags=flags, vlan=vlan, **out)
            if not flags & LEARN:
                for a in self.addresses[i]:
                    d.addr(vm=i, addr=a, mac=self._mac(i))
        d.port(dev="up0", topology=self.topology, vlan=vlan)
        return d

    def close(self):
        for d in self.drivers:
            d.close()


def everywhere(driver, vm, port, direction=OUT, **more):
    """Diverts a port to everybody, in both families."""
    for dst in ("0.0.0.0/0", "::/0"):
        driver.divert(vm=vm, direction=direction, dst=dst, port=port, **more)

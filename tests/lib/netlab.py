"""Namespaces as hosts, for tests and the demo: everything that is made is undone.

    with Lab("og") as lab:
        net = lab.bridge("net")                       # a namespace with a bridge: the wire between hosts
        a = lab.host("a")
        lab.cable(a, "eth0", net, "to-a", "10.0.0.1/24")
        p = a.popen(["sleep", "10"], "sleeper")
        a.run("ip", "addr")
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time

CLONE_NEWNET = 0x40000000


class Host:
    """A network namespace."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.ns = "%s-%s" % (lab.prefix, name)
        subprocess.run(["ip", "netns", "del", self.ns], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["ip", "netns", "add", self.ns], check=True)
        self.run("ip", "link", "set", "lo", "up")
        self.sysctl("net.ipv6.conf.all.accept_dad", 0)
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)

    def argv(self, *argv):
        return ["ip", "netns", "exec", self.ns, *map(str, argv)]

    def run(self, *argv, check=True, input=None, timeout=60):
        """Runs a command to its end; returns its standard output."""
        r = subprocess.run(self.argv(*argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, input=input, timeout=timeout)
        if check and r.returncode:
            raise RuntimeError("%s: %s: exit %d: %s%s" % (self.ns, " ".join(map(str, argv)), r.returncode, r.stderr, r.stdout))
        return r.stdout

    def pids(self):
        return [int(pid) for pid in subprocess.run(["ip", "netns", "pids", self.ns], stdout=subprocess.PIPE, text=True, check=True).stdout.split()]

    def popen(self, argv, name, env=None, **kw):
        """Starts a command that lasts; its output goes to a log in the lab's folder."""
        return self.lab.popen(self.argv(*argv), "%s.%s" % (self.name, name), env=env, **kw)

    @contextlib.contextmanager
    def inside(self):
        """This thread's sockets, and the processes that it starts, are in the namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as before, open("/run/netns/" + self.ns) as there:
            if libc.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns " + self.ns)
            try:
                yield self
            finally:
                libc.setns(before.fileno(), CLONE_NEWNET)

    def sysctl(self, key, value):
        path = "/proc/sys/" + key.replace(".", "/")
        subprocess.run(self.argv("sh", "-c", "echo %s > %s" % (value, path)), check=False, stderr=subprocess.DEVNULL)

    def ip(self, *argv):
        subprocess.run(["ip", "-n", self.ns, *map(str, argv)], check=True)

    def tag(self, dev):
        """It is behind VLAN 10 from now on; by BPF, since not every kernel has VLAN devices."""
        program = os.path.join(os.environ.get("OUTRIGGER_BUILD", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "build")),
                               "tests", "bpf", "vtag.bpf.o")
        self.run("tc", "qdisc", "add", "dev", dev, "clsact")
        self.run("tc", "filter", "add", "dev", dev, "egress", "bpf", "da", "obj", program, "sec", "tc/push")
        self.run("tc", "filter", "add", "dev", dev, "ingress", "bpf", "da", "obj", program, "sec", "tc/pop")

    def tap(self, name, master=None):
        """A port for a guest; it has carrier while a process holds it."""
        self.ip("tuntap", "add", name, "mode", "tap")
        if master:
            self.ip("link", "set", name, "master", master)
        self.ip("link", "set", name, "up")

    def bridge(self, name, address=None):
        self.ip("link", "add", name, "type", "bridge")
        self.ip("link", "set", name, "up")
        if address:
            self.ip("addr", "add", address, "dev", name)


SHOWN_CHARS = 8000


class Lab:
    shown = ()          # logs whose ends are printed when the lab is left: pytest shows them when the test has failed

    def __init__(self, prefix, keep=False, folder=None):
        self.prefix = os.environ.get("OUTRIGGER_LAB", "") + prefix      # who runs two at a time gives each a name
        self.keep = keep
        self.dir = folder or tempfile.mkdtemp(prefix=self.prefix + "-")
        os.makedirs(self.dir, exist_ok=True)
        self.hosts = []
        self.processes = []
        self.guests = []

    def host(self, name):
        h = Host(self, name)
        self.hosts.append(h)
        return h

    def remove(self, host):
        """And the processes that were started in it."""
        for p in [p for p in self.processes if p.name.startswith(host.name + ".")]:
            self.stop(p)
            self.processes.remove(p)
        self.hosts.remove(host)
        subprocess.run(["ip", "netns", "del", host.ns], check=True)

    def cable(self, host_a, dev_a, host_b, dev_b, address_a=None, address_b=None, mac_a=None, master_a=None, master_b=None):
        """A veth pair between two hosts."""
        subprocess.run(["ip", "link", "add", dev_a, "netns", host_a.ns, "type", "veth", "peer", "name", dev_b, "netns", host_b.ns], check=True)
        if mac_a:
            host_a.ip("link", "set", dev_a, "address", mac_a)
        for host, dev, address, master in ((host_a, dev_a, address_a, master_a), (host_b, dev_b, address_b, master_b)):
            if master:
                host.ip("link", "set", dev, "master", master)
            host.ip("link", "set", dev, "up")
            for a in ([address] if isinstance(address, str) else address or []):
                host.ip("addr", "add", a, "dev", dev)

    def popen(self, argv, name, env=None, **kw):
        log = open(os.path.join(self.dir, name + ".log"), "ab")
        p = subprocess.Popen(argv, stdin=kw.pop("stdin", subprocess.DEVNULL), stdout=kw.pop("stdout", log), stderr=log, start_new_session=True,
                             env=dict(os.environ, **(env or {})), **kw)
        log.close()
        p.name = name
        self.processes.append(p)
        return p

    def log(self, name):
        try:
            with open(os.path.join(self.dir, name + ".log"), errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def guest(self, guest):
        self.guests.append(guest)
        return guest

    @staticmethod
    def stop(p, timeout=5):
        """Ends a process that we started: gently, then not."""
        if p.poll() is not None:
            return
        for signo in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(p.pid, signo)
            except ProcessLookupError:
                return
            try:
                p.wait(timeout)
                return
            except subprocess.TimeoutExpired:
                continue

    def close(self):
        for g in self.guests:
            g.kill()
        for p in reversed(self.processes):
            self.stop(p)
        for h in self.hosts:
            left = subprocess.run(["ip", "netns", "pids", h.ns], stdout=subprocess.PIPE, text=True, check=False).stdout.split()
            for pid in left:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            subprocess.run(["ip", "netns", "del", h.ns], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for name in self.shown:
            print("--- %s\n%s" % (name, self.log(name)[-SHOWN_CHARS:]))
        if not self.keep:
            self.close()


def wait_until(what, condition, timeout_s=30, interval_s=0.02):
    """Polls until @condition() is true; returns its value. The message says what never came."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError("never came: " + what)
        time.sleep(interval_s)

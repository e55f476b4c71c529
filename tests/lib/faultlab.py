"""Two servers with a NIC each, one controller, a registry and VMs under steady load: what a fault is put into.

              10.67.0.0/24, one wire ("net")
    reg .1       a registry (agentlab's), the VMs' gateway; a client outside of the mesh
    edge .2      outrigger-controller
    a .3, b .4   NICs: a bridge, ports tap0, tap1, ..., uplink up0
    VMs          a namespace each, behind a port of a or b; their server says "hello from NAME"
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import flavour
import meshconf
from agentlab import AGENT, CONSUL, CONTROLLER, PROXY, SERVER
from netlab import Lab, wait_until

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
LOAD = os.path.join(ROOT, "demo", "load.py")
STREAM = os.path.join(ROOT, "tests", "lib", "stream.py")
REGISTRY, EDGE = "10.67.0.1", "10.67.0.2"
NIC_ADDRESS = {"a": "10.67.0.3", "b": "10.67.0.4"}

WEB = SERVER + """
Server.request_queue_size = 1024
class H(Handler):
    def end_headers(self):
        self.send_header("Connection", "close")     # a connection each, also by way of a peer that would keep them
        super().end_headers()
    def do_GET(self):
        self.answer(("hello from " + sys.argv[3]).encode(), "text/plain")
Server((sys.argv[1], int(sys.argv[2])), H).serve_forever()
"""


class Nic:
    """A server's NIC: its namespace, its agent, and what the agent says."""

    def __init__(self, lab, name):
        self.lab = lab
        self.name = name
        self.process = None
        self.boot()

    def boot(self):
        self.host = self.lab.host(self.name)
        self.host.bridge("br0", NIC_ADDRESS[self.name] + "/24")
        self.lab.cable(self.host, "up0", self.lab.net, "to-" + self.name, master_a="br0", master_b="br0")

    def start(self, wait=True):
        path = os.path.join(self.lab.dir, "agent-%s.yaml" % self.name)
        with open(path, "w") as f:
            f.write(self.configuration())
        limit = ["prlimit", "--nofile=%d" % self.lab.nofile[self.name]] if self.name in self.lab.nofile else []
        self.process = self.host.popen([*limit, AGENT, "-c", path], "agent", env=self.lab.env)
        if wait:
            wait_until("agent " + self.name, lambda: self.process.poll() is not None or self.status())
            assert self.process.poll() is None, self.log()

    def configuration(self):
        d, run = self.lab.dir, "%s/run-%s" % (self.lab.dir, self.name)
        proxy = {"path": self.lab.proxy_path, "access_log": self.access_log(), "access_log_json": "true", "drain": self.lab.drain, "upgrade_drain": self.lab.upgrade_drain, **self.lab.proxy_items()}
        return meshconf.agent(d, "nic-" + self.name, EDGE, self.lab.guest_names(), "%s/bpf/%s" % (d, self.name), proxy, join="%s/join-%s" % (d, self.name),
                              state="%s/state-%s" % (d, self.name), run=run, more="log: { level: %s }\n" % self.lab.log_level)

    def access_log(self):
        folder = "logs-" + self.name
        return os.path.join(self.lab.dir, folder if folder in self.lab.disks else "run-%s/proxies" % self.name, "access.log")

    def log(self):
        return self.lab.log(self.name + ".agent")

    def get(self, path):
        return self.lab.ask("run-%s/agent.sock" % self.name, path)

    def status(self):
        try:
            return self.get("/v1/status")
        except (RuntimeError, ValueError):
            return None

    def connected(self):
        s = self.status()
        return s and s["controller"]["state"] == "open" and s["policy_version"]

    def worker_pid(self):
        """The agent's worker: the monitor's child that is the same program."""
        (pid,) = [p for p in children(self.process.pid) if os.path.basename(os.readlink("/proc/%d/exe" % p)).startswith("outrigger-agent")]
        return pid

    def kill(self):
        """kill -9, as the kernel's memory killer would: monitor and worker at once, and nothing is undone."""
        pids = [self.worker_pid(), self.process.pid]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        wait_until("the agent's end", lambda: not any(alive(p) for p in pids))

    def proxy_of(self, vm):
        """The proxy of @vm, whatever its state."""
        found = [p for p in self.get("/v1/proxies")["proxies"] if p["guest"].endswith(vm.mac)]
        return found[0] if found else None

    def proxy(self, vm):
        """The proxy of @vm when it is ready."""
        p = self.proxy_of(vm)
        return p if p and p["state"] == "ready" else None

    def pid(self, vm):
        """Of the process that serves @vm, as soon as one does: while a session or a certificate is renewed its proxy is not ready for a moment."""
        return wait_until("the proxy of " + vm.title, lambda: self.proxy(vm))["pid"]

    def metric(self, name, **labels):
        """The sum of all series of that name that have these labels."""
        total = 0
        for line in self.host.run("curl", "-sS", "-m", "10", "http://127.0.0.1:15020/metrics").splitlines():
            m = re.match(r"^([a-z_]+)(?:\{(.*)\})? ([0-9.e+-]+)$", line)
            if m and m[1] == name and set(labels.items()) <= set(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', m[2] or "")):
                total += float(m[3])
        return total


class FaultLab(Lab):
    """@vms: {name: server}; the order gives ports and addresses. @spare: names of VMs that may come later. @onboarding, @more: the controller's.

    @full: {folder: size}: each a disk of its own, which Disk may fill.
    """

    shown = ("a.agent", "b.agent", "edge.controller")
    log_level = "info"
    drain = "200ms"
    upgrade_drain = "60s"       # longer than a request takes on a machine that is busy; it ends with the last

    def __init__(self, prefix, vms, grace="1s", disk=None, nofile=None, spare=None, full=None, onboarding=meshconf.ORDERS + meshconf.BILLING + meshconf.SHOPPERS,
                 namespaces="shop", more="", upgrade_drain=None):
        super().__init__(prefix)
        os.chmod(self.dir, 0o755)
        self.grace = grace
        self.onboarding = onboarding
        self.namespaces = namespaces
        self.more = more
        self.upgrade_drain = upgrade_drain or self.upgrade_drain
        self.heaps = os.path.join(self.dir, "heaps")
        os.mkdir(self.heaps)
        os.chmod(self.heaps, 0o1777)        # proxies have users of their own
        self.env = flavour.environment(self.heaps)
        self.spare = spare or ["orders-%d" % (len(vms) + i) for i in (1, 2)]
        self.state = os.path.join(self.dir, "controller")
        self.disks = {name: Disk(os.path.join(self.dir, name), size) for name, size in {**({"controller": disk} if disk else {}), **(full or {})}.items()}
        bpffs = os.path.join(self.dir, "bpf")
        os.makedirs(bpffs)
        subprocess.run(["mount", "-t", "bpf", "bpf", bpffs], check=True)  # `ip netns exec` hides /sys
        self.proxy_path = os.path.join(self.dir, "outrigger-proxy")     # so that it can be missing for a while
        self.link_proxy()
        self.controller = None
        self.loads = []
        self.nofile = nofile or {}
        self.net = self.host("net")
        self.net.bridge("br0")
        self.reg, self.edge = self.host("reg"), self.host("edge")
        self.cable(self.reg, "eth0", self.net, "reg", REGISTRY + "/24", master_b="br0")
        self.cable(self.edge, "eth0", self.net, "edge", EDGE + "/24", master_b="br0")
        self.vms = {}
        self.n_moves = 0
        self.nics = {n: Nic(self, n) for n in NIC_ADDRESS}
        for name, nic in vms.items():
            self.add_vm(name, nic)

    def proxy_items(self):
        """More of the agents' section `proxy`."""
        return {}

    def link_proxy(self):
        os.symlink(PROXY, self.proxy_path)

    def add_vm(self, name, nic):
        i = len(self.vms)
        vm = self.host("v%d" % i)
        vm.title, vm.address, vm.mac, vm.port = name, "10.67.0.%d" % (11 + i), "02:00:00:67:00:%02x" % (0x11 + i), "tap%d" % i
        self.vms[name] = vm
        self.plug(vm, nic)
        return vm

    def plug(self, vm, nic):
        vm.nic = self.nics[nic]
        self.cable(vm, "eth0", vm.nic.host, vm.port, vm.address + "/24", mac_a=vm.mac, master_b="br0")
        vm.ip("route", "add", "default", "via", REGISTRY)

    def unplug(self, vm):
        """Its port is gone, as when a hypervisor moves it away."""
        vm.nic.host.ip("link", "del", vm.port)

    def migrate(self, name, nic, serves=True):
        """A live migration: the machine runs on behind another NIC, and the port that it has left stays up with nobody behind it."""
        old, self.n_moves = self.vms[name], self.n_moves + 1
        vm = self.host("m%d" % self.n_moves)
        vm.title, vm.address, vm.mac, vm.port = name, old.address, old.mac, "tap%d" % (100 + self.n_moves)
        self.vms[name] = vm
        old.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")   # it says nothing any more
        old.ip("addr", "flush", "dev", "eth0")
        self.plug(vm, nic)
        if serves:
            self.serve(vm)
        # Its first packet is an ARP request. As hypervisors' announcements do, what follows tells switches that have heard of the old place last.
        vm.popen(["ping", "-q", "-i", "0.3", REGISTRY], "talk")
        return vm

    def power_off(self, nic, vms):
        """A server with its @vms at once, as when its power fails: nobody says good-bye, and its disk is what is left. nic.boot() is its next start."""
        self.net.ip("link", "set", "to-" + nic.name, "down")
        dead = [pid for host in [*vms, nic.host] for pid in host.pids()]
        for pid in dead:
            os.kill(pid, signal.SIGKILL)
        wait_until("their end", lambda: not any(alive(p) for p in dead), 60)
        for vm in vms:
            vm.ip("link", "del", "eth0")
        self.net.ip("link", "del", "to-" + nic.name)
        self.remove(nic.host)
        shutil.rmtree(os.path.join(self.dir, "bpf", nic.name))
        shutil.rmtree(os.path.join(self.dir, "run-" + nic.name))

    def guest_names(self):
        """MAC addresses that may turn up later are named beforehand, as a hypervisor would."""
        names = {vm.mac: n for n, vm in self.vms.items()}
        for i, name in enumerate(n for n in self.spare if n not in self.vms):
            names["02:00:00:67:00:%02x" % (0x11 + len(self.vms) + i)] = name
        return names

    # --- programs ---

    def start(self):
        self.reg.popen(["python3", "-c", CONSUL, REGISTRY], "consul")
        wait_until("the registry", lambda: not subprocess.run(self.reg.argv("curl", "-s", "http://%s:8500/x" % REGISTRY), stdout=subprocess.DEVNULL).returncode)
        self.start_controller()
        for nic in self.nics.values():
            with open(os.path.join(self.dir, "join-" + nic.name), "w") as f:
                f.write(self.ask("controller.sock", "/v1/tokens", {"nic": "nic-" + nic.name})["token"] + "\n")
            nic.start()
        for nic in self.nics.values():
            wait_until("the session of " + nic.name, nic.connected)
        return self

    def start_controller(self, text=""):
        self.write_controller(text)
        self.controller = self.edge.popen([CONTROLLER, "-c", self.dir + "/controller.yaml"], "controller", env=self.env)
        roots = wait_until("the controller", lambda: self.controller.poll() is not None or self.roots())
        assert self.controller.poll() is None, self.log("edge.controller")
        with open(self.dir + "/roots.pem", "w") as f:
            f.write(roots)

    def write_controller(self, more=""):
        with open(self.dir + "/controller.yaml", "w") as f:
            f.write(meshconf.controller(self.dir, EDGE, self.onboarding, state=self.state, namespace=self.namespaces, more="session_grace: %s\nlog_level: %s\n%s" % (self.grace, self.log_level, self.more + more)))

    def replace(self, name, text):
        """A file as editors write it: whole, or not at all."""
        path = os.path.join(self.dir, name)
        with open(path + ".new", "w") as f:
            f.write(text)
        os.rename(path + ".new", path)

    def roots(self):
        try:
            return self.ask("controller.sock", "/v1/roots")["roots_pem"]
        except (RuntimeError, ValueError):
            return None

    def kill_controller(self):
        self.controller.kill()
        self.controller.wait(10)

    # --- asking ---

    def ask(self, sock, path, body=None):
        return json.loads(self.ask_text(sock, path, body))

    def ask_text(self, sock, path, body=None):
        argv = ["curl", "-sS", "-m", "10", "--unix-socket", os.path.join(self.dir, sock), "http://x" + path]
        if body is not None:
            argv += ["-X", "POST", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
        r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if r.returncode:
            raise RuntimeError("%s: %s" % (path, r.stderr))
        return r.stdout

    def workloads(self):
        return self.ask("controller.sock", "/v1/workloads")

    def workload(self, vm):
        return [w for w in self.workloads()["workloads"] if vm.address in w["addresses"]]

    def endpoints(self, service):
        """Where peers are told to find it: address:port."""
        return sorted(e["address"] for s in self.workloads()["services"] if s["name"] == service for e in s["endpoints"])

    def offers(self, vm, service, port):
        """Whether peers are told to go there: it is an endpoint, and well."""
        return "%s:%d" % (vm.address, port) in self.endpoints(service) and any(w["healthy"] for w in self.workload(vm))

    def virtual_address(self, service):
        for s in self.workloads()["services"]:
            if s["name"] == service:
                return s["addresses"][0]
        return None

    # --- doing ---

    def serve(self, vm, port=8080):
        p = vm.popen(["python3", "-c", WEB, vm.address, str(port), vm.title], "http%d" % port)
        wait_until("the VM's server", lambda: ":%d " % port in vm.run("ss", "-Hltn"))
        return p

    def register(self, vm, service=None, port=8080, instance=None, address=None):
        service = service or vm.title.rsplit("-", 1)[0]
        body = {"Name": service, "ID": instance or vm.title, "Address": address or vm.address, "Port": port}
        # Again, as clients do: a link that has just come up may have no neighbours yet.
        vm.run("curl", "-sS", "-m", "10", "--retry", "3", "--retry-all-errors", "-X", "PUT", "-d", json.dumps(body), "http://%s:8500/v1/agent/service/register" % REGISTRY)

    def join(self, *names):
        """These VMs serve, register, and are in the mesh."""
        for n in names:
            self.serve(self.vms[n])
            self.register(self.vms[n])
        self.wait_joined(*names)

    def wait_joined(self, *names):
        for n in names:
            vm = self.vms[n]
            wait_until("the proxy of " + n, lambda: vm.nic.proxy(vm))
            wait_until("the workload of " + n, lambda: self.workload(vm))

    def join_client(self, name):
        """This VM only asks the registry."""
        vm = self.vms[name]
        vm.run("curl", "-sS", "-m", "10", "http://%s:8500/v1/health/service/orders" % REGISTRY)
        self.wait_joined(name)

    def meet(self):
        """orders-1 and shopper-1 join; returns the latter and orders' virtual address, which answers it."""
        self.join("orders-1")
        self.join_client("shopper-1")
        shopper = self.vms["shopper-1"]
        vip = wait_until("orders' address", lambda: self.virtual_address("orders"))
        wait_until("an answer", lambda: self.fetch(shopper, vip))
        return shopper, vip

    def fetch(self, host, address, port=8080, timeout=5):
        """What an HTTP GET says, or "" when it is refused or not answered."""
        return subprocess.run(host.argv("curl", "-sS", "-m", timeout, "http://%s:%d/" % (address, port)), stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True).stdout

    def load(self, vm, address, rate=40, port=8080, seconds=120):
        """Open-loop load from @vm until it is told to end."""
        return Load(vm, "http://%s:%d/" % (address, port), rate, seconds)

    def access(self, nic):
        """The access log of a NIC's proxies."""
        lines = []
        try:
            with open(nic.access_log()) as f:
                for line in f:
                    try:
                        lines.append(json.loads(line))
                    except ValueError:
                        pass  # the last one is being written
        except FileNotFoundError:
            pass
        return lines

    def close(self):
        for nic in self.nics.values():
            if nic.process and nic.process.poll() is None:
                nic.process.terminate()
                try:
                    nic.process.wait(10)
                except subprocess.TimeoutExpired:
                    pass
        subprocess.run(["umount", "-l", os.path.join(self.dir, "bpf")], check=False)
        for disk in self.disks.values():
            disk.close()
        super().close()


class Disk:
    """A small file system for one folder."""

    def __init__(self, folder, size):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + size, "tmpfs", folder], check=True)

    def fill(self):
        """To the last byte that can be had."""
        with open(self.folder + "/ballast", "ab", buffering=0) as f:
            for part in (4096, 1):
                try:
                    while True:
                        f.write(bytes(part))
                except OSError as e:
                    assert e.errno == errno.ENOSPC, e
        return self

    def free(self):
        os.unlink(self.folder + "/ballast")

    def close(self):
        subprocess.run(["umount", "-l", self.folder], check=False, stderr=subprocess.DEVNULL)


class Watcher(threading.Thread):
    """Asks @what all the time, and keeps the answers; nobody there is none."""

    def __init__(self, what):
        super().__init__(daemon=True)
        self.what = what
        self.seen = []
        self.over = threading.Event()
        self.start()

    def run(self):
        while not self.over.is_set():
            try:
                self.seen.append(self.what())
            except (RuntimeError, ValueError):
                pass
            self.over.wait(0.02)

    def end(self):
        self.over.set()
        self.join(30)
        return self.seen


class Load:
    """demo/load.py in a VM: so many requests a second whatever becomes of them, and each is counted."""

    def __init__(self, vm, url, rate, seconds, timeout=10):
        self.start(vm, [LOAD, url, rate, seconds, "--timeout", timeout], "--each")

    def start(self, vm, argv, *before_file):
        self.vm = vm
        self.offset = 0
        self.results = []
        name = "load-%d" % len(vm.lab.loads)
        self.file = os.path.join(vm.lab.dir, name)
        vm.lab.loads.append(self)
        # `ip netns exec` execs: the process is the client.
        self.process = vm.popen([sys.executable, *argv, *before_file, self.file], name, stdout=subprocess.PIPE)

    def done(self):
        """The requests that have ended."""
        try:
            with open(self.file, "rb") as f:
                f.seek(self.offset)
                text = f.read()
        except FileNotFoundError:
            return self.results
        whole = text[:text.rfind(b"\n") + 1]
        self.offset += len(whole)
        self.results += [json.loads(line) for line in whole.splitlines()]
        return self.results

    def goes_on(self, n=20, who=None):
        """Waits for @n more good answers (of @who) to requests that begin from now on."""
        now = time.time()

        def answers():
            assert self.process.poll() is None
            return sum(r["at"] >= now and not r["error"] and who in (None, r["who"]) for r in self.done()) >= n
        try:
            wait_until("%d more answers%s" % (n, " of " + who if who else ""), answers)
        except TimeoutError as e:
            raise TimeoutError("%s; the last requests: %s" % (e, self.done()[-8:])) from None
        return self

    def answered_or_not(self, n):
        want = len(self.done()) + n
        wait_until("%d more requests" % n, lambda: len(self.done()) >= want)

    def failed(self):
        return [r for r in self.done() if r["error"]]

    def end(self):
        self.process.terminate()
        out, _ = self.process.communicate(timeout=60)
        return json.loads(out)


class Stream(Load):
    """stream.py in a VM: @n connections that last (@seconds, or some time), one after the other; a result is a part of one."""

    def __init__(self, vm, address, port, n, seconds=None):
        self.start(vm, [STREAM, "talk", address, port, n, *([seconds] if seconds else [])])

    def end(self):
        self.process.terminate()
        self.process.wait(60)
        return self.done()


def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return [int(p) for p in f.read().split()]


def alive(pid):
    """A zombie is not: its parent may be dead as well, and nobody hurries to bury it.

    The main thread of a killed process is one at once, though, while others have its memory to give back, and then its listeners to close.
    """
    try:
        threads = os.listdir("/proc/%d/task" % pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(thread_runs(pid, t) for t in threads)


def thread_runs(pid, thread):
    try:
        with open("/proc/%d/task/%s/stat" % (pid, thread)) as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def limit(pid, what, value):
    """Sets a process's soft limit, as its own user, for which it takes no privilege; returns what it was."""
    with open("/proc/%d/status" % pid) as f:
        ids = {line.split()[0]: int(line.split()[1]) for line in f if line.startswith(("Uid:", "Gid:"))}
    who = {"user": ids["Uid:"], "group": ids["Gid:"], "extra_groups": []}
    old = subprocess.run(["prlimit", "--pid", str(pid), "--" + what, "--raw", "--noheadings", "-o", "SOFT"], stdout=subprocess.PIPE, check=True, text=True, **who).stdout.strip()
    subprocess.run(["prlimit", "--pid", str(pid), "--%s=%s:" % (what, value)], check=True, **who)
    return old


def rss_kib(pid):
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))

"""Real guests for tests: QEMU, Debian's cloud kernel, an initramfs of unmodified Debian programs.

    image = GuestImage(cache_dir, name="zk", programs=[...], modules=[...], files={...}, init=SCRIPT)
    image.build()                       # cached: the second time costs nothing
    vm = Guest(image, "vm1", netns="srv-a", tap="tap0", mac="02:..", cmdline="vmip=10.0.0.2/24")
    vm.start(); vm.wait_for("vm up"); vm.run("hostname"); vm.kill()

Nothing here needs KVM: it is used when a guest really starts with it, and not assumed.
"""

import gzip
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time

KERNEL_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX = "/usr/bin/busybox"

# What every guest needs to boot and to have a network.
BASE_MODULES = [
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
    "failover", "net_failover", "virtio_net", "button", "evdev",
]

# Debian keeps the name service switch's parts out of ldd's sight.
NSS_LIBRARIES = [
    "/lib/x86_64-linux-gnu/libnss_files.so.2", "/lib/x86_64-linux-gnu/libnss_dns.so.2",
    "/lib/x86_64-linux-gnu/libresolv.so.2",
]

INIT_HEAD = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmpfs /run
mkdir -p /run/lock /tmp /dev/pts
for m in $(cat /mod/order); do insmod /mod/$m.ko; done
arg() { sed -n "s/.*\\b$1=\\([^ ]*\\).*/\\1/p" /proc/cmdline; }
hostname "$(arg vmname)"; ip link set lo up
if [ -n "$(arg vmip)" ]; then
  echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
  ip link set eth0 up; ip addr add "$(arg vmip)" dev eth0
  [ -n "$(arg vmip6)" ] && ip -6 addr add "$(arg vmip6)" dev eth0
  [ -n "$(arg gw)" ] && ip route add default via "$(arg gw)"
fi
[ -n "$(arg dns)" ] && echo "nameserver $(arg dns)" > /etc/resolv.conf
"""

# A shell for the test on the second serial line: the guest's network is not involved.
# It is open before the guest says that it is up.
INIT_TAIL = """
exec 3<>/dev/ttyS1
stty raw -echo <&3
(while IFS= read -r line <&3; do sh -c "$line" </dev/null >&3 2>&3; done) &
echo "vm up $(hostname) after $(cut -d' ' -f1 /proc/uptime)s"
while :; do sleep 3600; done
"""


def _run(*argv, **kw):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw).stdout


def _download_kernel(folder):
    r = subprocess.run(["apt-cache", "depends", KERNEL_PACKAGE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    match = re.search(r"Depends: (linux-image-\S+)", r.stdout)
    if not match:
        raise RuntimeError("apt knows no %s" % KERNEL_PACKAGE)
    _run("apt-get", "download", "-q", match.group(1), cwd=folder)
    return match.group(1)


def unpack_kernel(cache_dir):
    """Downloads (once) and unpacks Debian's cloud kernel; returns (vmlinuz, module folder, version)."""
    top = os.path.join(cache_dir, "kernel")
    os.makedirs(top, exist_ok=True)
    done = os.path.join(top, "version")
    if not os.path.exists(done):
        try:
            package = _download_kernel(top)
        except (RuntimeError, subprocess.CalledProcessError):
            _run("apt-get", "update", "-q")         # lists that are missing, or older than the archive
            package = _download_kernel(top)
        deb = [f for f in os.listdir(top) if f.startswith(package + "_") and f.endswith(".deb")][0]
        _run("dpkg-deb", "-x", os.path.join(top, deb), os.path.join(top, "x"))
        os.unlink(os.path.join(top, deb))
        with open(done + ".new", "w") as f:
            f.write(package[len("linux-image-"):])
        os.rename(done + ".new", done)
    with open(done) as f:
        version = f.read().strip()
    modules = os.path.join(top, "x", "lib", "modules", version, "kernel")
    return os.path.join(top, "x", "boot", "vmlinuz-" + version), modules, version


def _libraries(program):
    try:
        out = _run("ldd", program)
    except subprocess.CalledProcessError:
        return []
    return re.findall(r"(/\S+) \(0x", out)


class GuestImage:
    def __init__(self, cache_dir, name, init, programs=(), modules=(), files=None, trees=()):
        self.cache_dir = os.path.abspath(cache_dir)
        self.name = name
        self.init = INIT_HEAD + init + INIT_TAIL
        self.programs = list(programs)
        self.modules = BASE_MODULES + [m for m in modules if m not in BASE_MODULES]
        self.files = dict(files or {})
        self.trees = list(trees)
        self.initrd = os.path.join(self.cache_dir, name + ".initrd.gz")
        self.kernel = None

    def _stamp(self, version):
        h = hashlib.sha256()
        for part in [version, self.init, repr(self.programs), repr(self.modules), repr(sorted(self.files.items())), repr(self.trees)]:
            h.update(part.encode())
        for p in self.programs:
            st = os.stat(p)
            h.update(("%s %d %d" % (p, st.st_size, int(st.st_mtime))).encode())
        return h.hexdigest()

    def build(self):
        os.makedirs(self.cache_dir, exist_ok=True)
        self.kernel, modules, version = unpack_kernel(self.cache_dir)
        stamp = self._stamp(version)
        try:
            with open(self.initrd + ".stamp") as f:
                if f.read() == stamp and os.path.exists(self.initrd):
                    return self
        except FileNotFoundError:
            pass
        root = os.path.join(self.cache_dir, self.name + ".root")
        shutil.rmtree(root, ignore_errors=True)
        self._populate(root, modules)
        cpio = subprocess.run("find . | cpio -o -H newc --quiet", shell=True, cwd=root, check=True, stdout=subprocess.PIPE).stdout
        with gzip.open(self.initrd + ".new", "wb", compresslevel=4) as f:
            f.write(cpio)
        os.rename(self.initrd + ".new", self.initrd)
        with open(self.initrd + ".stamp", "w") as f:
            f.write(stamp)
        shutil.rmtree(root)
        return self

    def _populate(self, root, modules):
        for d in ("bin", "sbin", "mod", "proc", "sys", "dev", "run", "tmp", "etc", "var/lib", "var/log", "usr/bin", "usr/sbin", "lib64", "www"):
            os.makedirs(os.path.join(root, d), exist_ok=True)
        os.symlink("/run", os.path.join(root, "var/run"))
        shutil.copy(BUSYBOX, os.path.join(root, "bin/busybox"))
        wanted = set()
        for p in self.programs:
            wanted.add(p)
            wanted.update(_libraries(p))
        wanted.update(l for l in NSS_LIBRARIES if os.path.exists(l) and self.programs)
        for path in sorted(wanted):
            to = root + path
            os.makedirs(os.path.dirname(to), exist_ok=True)
            if not os.path.exists(to):
                shutil.copy(os.path.realpath(path), to)
        for tree in self.trees:
            shutil.copytree(tree, root + tree, symlinks=True, dirs_exist_ok=True)
        self._put_modules(root, modules)
        files = {
            "/etc/passwd": "root:x:0:0::/:/bin/sh\nmessagebus:x:100:101::/:/bin/false\navahi:x:101:102::/:/bin/false\n"
                           "www-data:x:33:33::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n",
            "/etc/group": "root:x:0:\nwww-data:x:33:\nadm:x:4:\nmessagebus:x:101:\navahi:x:102:\nnetdev:x:103:\nnogroup:x:65534:\n",
            "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
            "/etc/hosts": "127.0.0.1 localhost\n",
        }
        files.update(self.files)
        for path, text in files.items():
            to = root + path
            os.makedirs(os.path.dirname(to), exist_ok=True)
            with open(to, "w") as f:
                f.write(text)
        with open(os.path.join(root, "init"), "w") as f:
            f.write(self.init)
        os.chmod(os.path.join(root, "init"), 0o755)

    def _put_modules(self, root, modules):
        """Copies the modules, what they depend on before them, and the order to load them in."""
        depends = {}
        paths = {}
        for folder, _, names in os.walk(modules):
            for n in names:
                if n.endswith(".ko"):
                    paths[n[:-3].replace("-", "_")] = os.path.join(folder, n)
        order = []

        def add(name):
            name = name.replace("-", "_")
            if name in order or name not in paths:
                return
            if name not in depends:
                out = _run("modinfo", "-F", "depends", paths[name]).strip()
                depends[name] = [d for d in out.split(",") if d]
            for d in depends[name]:
                add(d)
            order.append(name)
            shutil.copy(paths[name], os.path.join(root, "mod", name + ".ko"))

        for m in self.modules:
            add(m)
        with open(os.path.join(root, "mod/order"), "w") as f:
            f.write("\n".join(order) + "\n")


class Guest:
    """A running guest. Its port is @tap in @netns, which must exist."""

    def __init__(self, image, name, netns=None, tap=None, mac=None, cmdline="", memory_mb=160, smp=1, run_dir="/tmp", extra=()):
        self.image = image
        self.name = name
        self.netns = netns
        self.tap = tap
        self.mac = mac
        self.cmdline = cmdline
        self.memory_mb = memory_mb
        self.smp = smp
        self.extra = list(extra)
        self.console = os.path.join(run_dir, name + ".console")
        self.control = os.path.join(run_dir, name + ".ctl")
        self.process = None
        self._sock = None

    def start(self):
        argv = []
        if self.netns:
            argv += ["ip", "netns", "exec", self.netns]
        argv += ["qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi,tb-size=16", "-m", str(self.memory_mb), "-smp", str(self.smp),
                 "-nodefaults", "-display", "none", "-no-reboot", "-kernel", self.image.kernel, "-initrd", self.image.initrd,
                 "-serial", "file:" + self.console, "-serial", "unix:%s,server=on,wait=off" % self.control,
                 "-append", "console=ttyS0 quiet panic=-1 mitigations=off vmname=%s %s" % (self.name, self.cmdline)]
        if self.tap:
            argv += ["-netdev", "tap,id=n,ifname=%s,script=no,downscript=no" % self.tap,
                     "-device", "virtio-net-pci,netdev=n,romfile=,mac=%s" % self.mac]
        argv += self.extra
        open(self.console, "w").close()
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(self.console + ".err", "w"))
        return self

    @property
    def pid(self):
        return self.process.pid

    def output(self):
        with open(self.console, errors="replace") as f:
            return f.read()

    def wait_for(self, text, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if text in self.output():
                return self
            if self.process.poll() is not None:
                with open(self.console + ".err") as f:
                    raise RuntimeError("guest %s ended: %s%s" % (self.name, f.read(), self.output()[-2000:]))
            time.sleep(0.02)
        raise TimeoutError("guest %s never said %r:\n%s" % (self.name, text, self.output()[-2000:]))

    def run(self, command, timeout_s=30):
        """Runs a shell command in the guest over its second serial line; returns (exit status, output)."""
        if not self._sock:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._sock.connect(self.control)
        mark = "done-%d" % time.monotonic_ns()
        self._sock.sendall(("{ %s; } 2>&1; r=$?; echo; echo %s $r\n" % (command.replace("\n", "; "), mark)).encode())
        self._sock.settimeout(timeout_s)
        out = b""
        while True:
            part = self._sock.recv(65536)
            if not part:
                raise RuntimeError("guest %s closed its control line" % self.name)
            out += part
            match = re.search(rb"(?:^|\n)\r?" + mark.encode() + rb" (\d+)\r?\n", out)
            if match:
                return int(match.group(1)), out[:match.start()].decode(errors="replace").replace("\r", "").rstrip("\n")

    def kill(self, signo=signal.SIGKILL):
        if self._sock:
            self._sock.close()
            self._sock = None
        if self.process and self.process.poll() is None:
            self.process.send_signal(signo)
            self.process.wait(timeout=10)
        for path in (self.control,):
            if os.path.exists(path):
                os.unlink(path)

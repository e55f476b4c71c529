"""The threat model's lines that take a whole mesh: see SECURITY.md, which names each test."""

import os
import re
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "lib"))

from agentlab import AgentLab  # noqa: E402
from faultlab import FaultLab, children  # noqa: E402
from netlab import wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

# A server and a client on one NIC, another client on the other: that one's NIC is stolen.
VMS = {"orders-1": "a", "shopper-1": "a", "shopper-2": "b"}


@pytest.fixture
def mesh(request, monkeypatch):
    more = getattr(request, "param", {})
    if more.get("debug"):
        monkeypatch.setattr(FaultLab, "log_level", "debug")
    with FaultLab("ogs", VMS) as lab:
        yield lab.start()


def served(mesh):
    mesh.join("orders-1")
    for name in ("shopper-1", "shopper-2"):
        mesh.join_client(name)
    vip = wait_until("orders' address", lambda: mesh.virtual_address("orders"))
    for name in ("shopper-1", "shopper-2"):
        wait_until("an answer to " + name, lambda: mesh.fetch(mesh.vms[name], vip))
    return vip


def test_others_of_the_nic_cannot_reach_sockets_or_keys(mesh):
    served(mesh)
    run, state = os.path.join(mesh.dir, "run-a"), os.path.join(mesh.dir, "state-a")
    as_somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

    def fails(*argv):
        r = subprocess.run([*as_somebody, *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30)
        assert r.returncode and b"denied" in r.stdout, (argv, r.stdout)

    (folder,) = [f for f in os.listdir(run + "/proxies") if os.path.isdir(os.path.join(run, "proxies", f))]
    fails("touch", "%s/proxies/%s/1.admin" % (run, folder))     # to be in the way of a proxy, or to pose as one
    fails("touch", run + "/proxies/x")
    fails("ls", run + "/proxies")
    fails("ls", state)
    fails("touch", run + "/x")
    fails("cat", state + "/nic.pem")
    assert os.stat(state + "/nic.pem").st_mode & 0o777 == 0o600
    for sock in (run + "/agent.sock", mesh.dir + "/controller.sock"):
        assert os.stat(sock).st_mode & 0o007 == 0, sock
        r = subprocess.run([*as_somebody, "curl", "-sS", "--unix-socket", sock, "http://x/v1/status"], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, timeout=30)
        assert r.returncode == 7, (sock, r)                # could not connect
    for root, folders, files in os.walk(mesh.state):       # the controller's: CA, token signing keys, database
        for name in files:
            path = os.path.join(root, name)
            assert os.stat(path).st_mode & 0o077 == 0 or "PRIVATE" not in open(path, errors="replace").read(), path
    fails("ls", mesh.state)


# --- secrets ---

JWT = re.compile(rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}")
KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
KEYS_BELONG = re.compile(r"controller/(ca/(root/)?ca-key\.pem|oidc/key-\d+\.pem)$|state-[ab]/nic\.pem$")


@pytest.mark.parametrize("mesh", [{"debug": True}], indirect=True)
def test_secrets_are_in_no_file_log_or_argument(mesh):
    vip = served(mesh)
    assert mesh.fetch(mesh.vms["shopper-2"], vip)
    joins = [open(os.path.join(mesh.dir, "join-" + n)).read().strip().encode() for n in "ab"]
    seen = 0
    for root, folders, names in os.walk(mesh.dir):
        folders[:] = [f for f in folders if f != "bpf"]    # maps, not files
        for name in names:
            path = os.path.join(root, name)
            if not os.path.isfile(path):
                continue                                   # sockets, pinned maps
            with open(path, "rb") as f:
                data = f.read()
            seen += 1
            short = os.path.relpath(path, mesh.dir)
            assert not JWT.search(data), short
            assert not KEY.search(data) or KEYS_BELONG.match(short), short
            if not re.match("join-[ab]$", name):
                assert not any(t in data or t.split(b".")[1] in data for t in joins), short
    assert seen > 10 and "DEBUG" in mesh.log("a.agent").upper() and "DEBUG" in mesh.log("edge.controller").upper()
    for pid in [*processes(mesh, mesh.nics["a"]).values(), *processes(mesh, mesh.nics["b"]).values()]:
        for name in ("cmdline", "environ"):
            text = read(pid, name).encode()
            assert not JWT.search(text) and not any(t in text for t in joins), (pid, name)


def memory(pid):
    """What is writable in a process, piece by piece."""
    with open("/proc/%d/maps" % pid) as maps, open("/proc/%d/mem" % pid, "rb", 0) as mem:
        for line in maps:
            span, mode = line.split()[:2]
            if mode[1] != "w" or "[v" in line:
                continue
            start, end = (int(x, 16) for x in span.split("-"))
            mem.seek(start)
            try:
                yield mem.read(end - start)
            except OSError:
                pass                                       # gone meanwhile, or not ours to read


def test_tokens_are_gone_from_memory_when_they_have_been_used(mesh):
    """A join token is good once. A VM's has one place in the worker, for the proxy's successor, and none in the controller's streams."""
    served(mesh)
    joins = [open(os.path.join(mesh.dir, "join-" + n)).read().strip().split(".")[1].encode() for n in "ab"]
    for name, nic in mesh.nics.items():
        for role, pid in processes(mesh, nic).items():
            found = []
            for piece in memory(pid):
                assert not any(t in piece for t in joins), (name, role)
                assert role == "proxy" or not re.search(rb"Bearer " + JWT.pattern, piece), (name, role)
                found += JWT.findall(piece)
            if role in ("monitor", "sockd"):
                assert not found, (name, role)
            elif role == "worker":
                assert found and len(found) == len(set(found)), (name, role)     # they are there: the search works


def private_keys(pid, public):
    """The one number d in the process's memory that has the public point, as it lies there. Words of OpenSSL are little-endian."""
    from cryptography.hazmat.primitives.asymmetric import ec
    tried = set()
    for piece in memory(pid):
        for at in range(0, len(piece) - 31, 8):
            word = piece[at:at + 32]
            if len(set(word)) < 20 or word in tried:
                continue
            tried.add(word)
            d = int.from_bytes(word, "little")
            if 0 < d < ORDER and ec.derive_private_key(d, ec.SECP256R1()).public_key().public_numbers() == public:
                return word
    return None


ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551


def public_key(mesh, vm):
    """Of the certificate that the VM's proxy shows."""
    from cryptography import x509
    r = subprocess.run(mesh.reg.argv("openssl", "s_client", "-connect", vm.address + ":15008", "-alpn", "h2", "-showcerts"),
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30)
    return x509.load_pem_x509_certificate(r.stdout[r.stdout.index(b"-----BEGIN CERT"):]).public_key().public_numbers()


def test_a_vms_key_is_gone_from_memory_with_the_vm(mesh):
    vip = served(mesh)
    gone = mesh.vms["orders-1"]
    assert mesh.fetch(mesh.vms["shopper-1"], vip)
    pid = mesh.nics["a"].proxy(gone)["pid"]
    assert pid == mesh.nics["a"].proxy(mesh.vms["shopper-1"])["pid"]         # the process goes on
    key = private_keys(pid, public_key(mesh, gone))
    assert key                                             # it is there while it is needed: the search works
    mesh.unplug(gone)
    wait_until("the VM is out", lambda: not [p for p in mesh.nics["a"].get("/v1/proxies")["proxies"] if p["guest"].endswith(gone.mac)])
    wait_until("its key is wiped", lambda: not any(key in piece or key[::-1] in piece for piece in memory(pid)))


# --- what each process may ---

NET_ADMIN, NET_RAW = 1 << 12, 1 << 13
KILL, SETGID, SETUID, SETPCAP, SYS_RESOURCE, PERFMON, BPF = 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 24, 1 << 38, 1 << 39
MONITOR = NET_ADMIN | NET_RAW | KILL | SETGID | SETUID | SETPCAP | SYS_RESOURCE | PERFMON | BPF


def read(pid, name):
    with open("/proc/%d/%s" % (pid, name)) as f:
        return f.read()


def status(pid):
    return dict(line.split(":\t", 1) for line in read(pid, "status").splitlines() if ":\t" in line)


def processes(mesh, nic):
    """{role: pid} of one NIC and of the controller."""
    found = {"monitor": nic.process.pid, "worker": nic.worker_pid(), "controller": mesh.controller.pid}
    for pid in children(nic.process.pid):
        if os.path.basename(os.readlink("/proc/%d/exe" % pid)).startswith("outrigger-proxy"):
            found["proxy"] = pid
            found["sockd"], = children(pid)
    return found


def is_sanitized(pid):
    return b"__asan_init" in open("/proc/%d/exe" % pid, "rb").read() or b"__tsan_init" in open("/proc/%d/exe" % pid, "rb").read()


def test_every_process_has_the_least_of_rights(mesh):
    served(mesh)
    found = processes(mesh, mesh.nics["a"])
    assert sorted(found) == ["controller", "monitor", "proxy", "sockd", "worker"]
    rights = {"monitor": MONITOR, "worker": 0, "proxy": 0, "sockd": NET_ADMIN | NET_RAW, "controller": 0}
    for role, pid in found.items():
        s = status(pid)
        for kind in ("CapEff", "CapPrm"):
            assert int(s[kind], 16) & ~rights[role] == 0, (role, kind, s[kind])
        # What it could have at most. A proxy has given up what its helper needed, and cannot shrink this set any more.
        assert int(s["CapBnd"], 16) & ~(NET_ADMIN | NET_RAW if role == "proxy" else rights[role]) == 0, (role, s["CapBnd"])
        if role in ("worker", "proxy", "controller", "monitor"):
            assert int(s["CapAmb"], 16) == int(s["CapInh"], 16) == 0, role
        assert s["NoNewPrivs"] == "1", role
        assert is_sanitized(pid) or s["Seccomp"] == "2", role
        if role in ("worker", "proxy", "sockd"):
            assert "0" not in s["Uid"].split() and "0" not in s["Gid"].split(), role
            assert s["Groups"].split() in ([], ["65095"]), role   # that may put sockets where proxies have theirs


def test_no_memory_is_writable_and_executable(mesh):
    served(mesh)
    for role, pid in processes(mesh, mesh.nics["a"]).items():
        lines = read(pid, "maps").splitlines()
        assert len(lines) > 10, role
        assert [line for line in lines if re.match(r"\S+ .w.?x|\S+ .wx", line)] == [], role


def test_nobody_can_look_into_a_process_or_have_its_core(mesh):
    served(mesh)
    for role, pid in processes(mesh, mesh.nics["a"]).items():
        assert re.search(r"^Max core file size +0 +0 ", read(pid, "limits"), re.M), role
        # A process that is not dumpable belongs to root in /proc: its own user may not trace it, nor read its memory.
        assert os.stat("/proc/%d/mem" % pid).st_uid == 0, role
        uid = int(status(pid)["Uid"].split()[0])
        if uid:
            r = subprocess.run(["setpriv", "--reuid=%d" % uid, "--clear-groups", "cat", "/proc/%d/environ" % pid], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, timeout=30)
            assert r.returncode and b"Permission denied" in r.stderr, role


def test_an_agent_tells_its_join_token_only_to_its_controller():
    with AgentLab("ogs", vms=0) as lab:
        lab.start_controller()
        lab.write_join_token()
        good = open(lab.dir + "/roots.pem").read()
        # To this agent the real controller is the impostor: its roots are somebody else's.
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "/dev/null",
                        "-subj", "/CN=other root", "-days", "2", "-out", lab.dir + "/roots.pem"], check=True, stderr=subprocess.DEVNULL)
        lab.start_agent()
        wait_until("it says why", lambda: "unknown CA" in lab.get("/v1/status")["controller"]["detail"])
        (token,) = lab.ask(lab.edge, "controller.sock", "/v1/tokens")["tokens"]
        assert token["state"] == "valid" and "NIC enrolled" not in lab.log("edge.controller")
        lab.stop_agent()
        with open(lab.dir + "/roots.pem", "w") as f:
            f.write(good)
        lab.start_agent()
        wait_until("the session", lambda: lab.get("/v1/status")["controller"]["state"] == "open")


HOLD = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), 30)
s.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
print(s.recv(65536).decode().split()[1], flush=True)
s.settimeout(600)
try:
    data = s.recv(1)
except OSError as e:
    data = repr(e)
print("ended", data, flush=True)
"""


def test_a_stolen_nics_certificates_are_refused_within_seconds(mesh):
    vip = served(mesh)
    thief, honest = mesh.vms["shopper-2"], mesh.vms["shopper-1"]
    held = thief.popen(["python3", "-c", HOLD, vip], "hold")
    wait_until("a connection that stays", lambda: "200" in mesh.log(thief.name + ".hold"))

    # Who has the NIC does not obey: its agent is frozen, its proxies go on with the certificates that they have.
    stolen = mesh.nics["b"]
    for pid in (stolen.worker_pid(), stolen.process.pid):
        os.kill(pid, signal.SIGSTOP)
    try:
        assert mesh.fetch(thief, vip)
        mesh.ask("controller.sock", "/v1/nics/nic-b/revoke", {"reason": "stolen"})
        wait_until("the open connection ends", lambda: "ended" in mesh.log(thief.name + ".hold"))
        assert held.wait(30) == 0
        for _ in range(3):
            assert mesh.fetch(thief, vip) == ""
            assert mesh.fetch(honest, vip) == "hello from orders-1"
        wait_until("it is counted", lambda: mesh.nics["a"].metric("outrigger_vm_tls_refused_total"))
    finally:
        for pid in (stolen.process.pid, stolen.worker_pid()):
            os.kill(pid, signal.SIGCONT)
